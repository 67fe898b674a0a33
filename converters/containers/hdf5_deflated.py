"""An HDF5 file whose datasets are deflated in chunks of about 1 MiB, written by libhdf5.

Bytes are shuffled first (all first bytes of the elements, then all second ones, …), which lets
deflate find the exponents of floats. Datasets below 4 KiB stay contiguous: a chunk index costs
more than deflate gains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CorruptFileError
from ..names import encode
from ..tensors import Tensor
from .hdf5_attributes import attach
from .hdf5_skeleton import Member, write_strings
from .hdf5_slices import slabs
from .hdf5_types import file_type

if TYPE_CHECKING:
    import h5py

__all__ = ["write_deflated"]

CHUNK_BYTES = 1 << 20
LEAST_BYTES = 4096
LEVEL = 4  # h5py's default


def write_deflated(
    path: Path,
    members: Iterable[tuple[str, Member, Tensor | bytes | None]],
    advance: Callable[[int], None],
) -> None:
    """Write a file.

    Args:
        path: of the file; there is none yet.
        members: name of the tensor, the dataset, and what gives its bytes: None where the member
            holds strings.
        advance: called with the number of bytes just written.
    """
    import h5py
    from h5py import h5f, h5p

    access, creation = h5p.create(h5p.FILE_ACCESS), h5p.create(h5p.FILE_CREATE)
    access.set_libver_bounds(h5f.LIBVER_V18, h5f.LIBVER_V18)
    creation.set_obj_track_times(False)
    with h5py.File(h5f.create(bytes(path), h5f.ACC_TRUNC, creation, access)) as file:
        for name, member, content in members:
            try:
                _add(file.id, member, content, advance)
            except CorruptFileError as error:
                raise error.within(f"tensor `{name}`") from error


def _add(
    file: h5py.h5f.FileID,
    member: Member,
    content: Tensor | bytes | None,
    advance: Callable[[int], None],
) -> None:
    from h5py import h5d, h5p, h5s, h5t

    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    links.set_char_encoding(h5t.CSET_UTF8)
    creation = h5p.create(h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    size = prod(member.shape) * member.dtype.itemsize
    chunk = _chunk(member.shape, member.dtype.itemsize)
    if content is not None and size >= LEAST_BYTES:
        creation.set_chunk(chunk)
        creation.set_shuffle()
        creation.set_deflate(LEVEL)
    space = h5s.create_simple(member.shape) if member.shape else h5s.create(h5s.SCALAR)
    kind = file_type(member.dtype)
    dataset = h5d.create(file, encode(member.path), kind, space, creation, links)
    for name, value in member.attributes.items():
        attach(dataset, name, value)
    if content is None:
        write_strings(dataset, member)
    elif size:
        _fill(dataset, member, chunk, content, advance)


def _fill(
    dataset: h5py.h5d.DatasetID,
    member: Member,
    chunk: tuple[int, ...],
    content: Tensor | bytes,
    advance: Callable[[int], None],
) -> None:
    import numpy as np
    from h5py import h5s

    chunks = iter([memoryview(content)]) if isinstance(content, bytes) else content.chunks()
    left = memoryview(b"")
    width, kind = member.dtype.itemsize, dataset.get_type()
    for start, count in slabs(member.shape, chunk, width):
        buffer = np.empty(prod(count) * width, np.uint8)
        at = 0
        while at < len(buffer):
            left = left or next(chunks)
            taken = min(len(left), len(buffer) - at)
            buffer[at : at + taken] = left[:taken]
            left, at = left[taken:], at + taken
        space = dataset.get_space()
        if member.shape:
            space.select_hyperslab(start, count)
        # The file's own type in memory: libhdf5 converts nothing.
        dataset.write(h5s.create_simple((prod(count),)), space, buffer, kind)
        advance(len(buffer))


def _chunk(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """Return the largest chunk of whole rows of some axis that is at most 1 MiB."""
    chunk, inner = list(shape), prod(shape) * width
    for axis, dim in enumerate(shape):
        if inner <= CHUNK_BYTES:
            break
        inner //= dim
        chunk[axis] = max(min(CHUNK_BYTES // max(inner, 1), dim), 1)
        inner *= chunk[axis]
    return tuple(chunk)
