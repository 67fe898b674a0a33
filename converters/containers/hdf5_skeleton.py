"""An HDF5 file without its values: exact size, and where every dataset's bytes will lie.

libhdf5 builds the whole file, groups, types and attributes, on a file object that keeps in memory
only what is written to it. Datasets are contiguous, allocated at once and never filled, so
libhdf5 gives them their place and writes nothing there: measured 0.5 kB and 40 µs a dataset,
however large it is. What lies between those places is the literal part of the plan.

The layout is that of HDF5 1.8 (2008): a third of the size of the oldest one, which Keras writes and
which files for it have, too (`old`). Without times, so the same tensors give the same bytes. Data
of 4 KiB and more starts at multiples of 64 bytes, to be mapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..dtypes import DType
from ..names import encode
from .hdf5_attributes import Attribute, attach
from .hdf5_types import file_type

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined,unused-ignore]

    import h5py

__all__ = ["Group", "Member", "Skeleton", "build", "write_strings"]

ALIGNMENT = 64
# Aligning everything made libhdf5 quadratic in the number of datasets: 85 s for 100,000.
ALIGNED_BYTES = 4096
# Small, since data begins and ends inside pages that are kept.
PAGE_BYTES = 512
# Of metadata that libhdf5 keeps beside what it writes. With its own limit of 32 MiB the process
# took 70 MB more for 10,000 datasets in 5,000 groups, and was no faster.
CACHE_BYTES = 1 << 20


class Member(NamedTuple):
    """A dataset to be.

    Attributes:
        path: its path without a leading slash; no component is empty or `.`.
        dtype: a type that HDF5 can say.
        shape: at most 32 dimensions.
        attributes: text or lists of integers.
        strings: the elements, where `dtype` is string; any other type has its bytes put into
            the file later.
        opaque: whether HDF5 is told the width of its elements alone, as Keras does of bfloat16.
    """

    path: str
    dtype: DType
    shape: tuple[int, ...]
    attributes: Mapping[str, Attribute]
    strings: list[bytes] | None = None
    opaque: bool = False


class Group(NamedTuple):
    """A group to be, for its attributes or though nothing is in it; the root has an empty path."""

    path: str
    attributes: Mapping[str, Attribute]


@dataclass
class Skeleton:
    """What libhdf5 made of the members.

    Attributes:
        size: bytes of the whole file.
        offsets: byte offset of each member's bytes, or None where it has none of its own.
    """

    store: Store
    size: int = 0
    offsets: list[int | None] = field(default_factory=list)

    def gaps(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        """Yield all bytes of the file but those at `places`, given as (offset, length)."""
        at = 0
        for offset, length in [*sorted(place for place in places if place[1]), (self.size, 0)]:
            if offset > at:
                yield at, self.store.content(at, offset - at)
            at = offset + length


class Store:
    """A file in memory that keeps only the pages that were written to."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._size = 0
        self._at = 0

    def content(self, start: int, length: int) -> bytes:
        """Return a range; what was never written is zeros."""
        data = bytearray(length)
        for page, first, at, count in _cut(start, length):
            if page in self._pages:
                data[at : at + count] = self._pages[page][first : first + count]
        return bytes(data)

    # What h5py's file object driver asks for

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place from the start, from here or from the end."""
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def truncate(self, size: int) -> int:
        """Set the length."""
        self._size = size
        return size

    def flush(self) -> None:
        """Do nothing: there is no disk."""

    def read(self, length: int) -> bytes:
        """Return bytes from the place on."""
        data = self.content(self._at, min(length, max(self._size - self._at, 0)))
        self._at += len(data)
        return data

    def readinto(self, target: Buffer) -> int:
        """Fill a buffer from the place on."""
        view = memoryview(target).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def write(self, data: Buffer) -> int:
        """Keep bytes at the place."""
        view = memoryview(data).cast("B")
        for page, first, at, count in _cut(self._at, len(view)):
            if page not in self._pages:
                self._pages[page] = bytearray(PAGE_BYTES)
            self._pages[page][first : first + count] = view[at : at + count]
        self._at += len(view)
        self._size = max(self._size, self._at)
        return len(view)


def _cut(start: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield page, first byte in it, first byte of the range, and count."""
    at = 0
    while at < length:
        page, first = divmod(start + at, PAGE_BYTES)
        count = min(PAGE_BYTES - first, length - at)
        yield page, first, at, count
        at += count


def build(
    members: Iterable[Member], groups: Iterable[Group] = (), *, old: bool = False
) -> Skeleton:
    """Lay out a file.

    Args:
        members: its datasets; the groups above them are made.
        groups: those that have attributes, or that may hold nothing.
        old: whether in the oldest layout of all, which every reader of HDF5 knows.

    Raises:
        ValueError, RuntimeError, OSError, TypeError: libhdf5 refuses a name or a shape.
    """
    import h5py

    skeleton = Skeleton(Store())
    # Closed whatever happens: an h5py.File over a Python object that is open when the
    # interpreter ends crashes it.
    with h5py.File(_create(skeleton.store, old=old)) as file:
        builder = _Builder(file.id, old=old)
        for group in groups:
            builder.add_group(group)
        skeleton.offsets = [builder.add(member) for member in members]
    skeleton.size = skeleton.store.seek(0, 2)
    return skeleton


def _create(store: Store, *, old: bool) -> h5py.h5f.FileID:
    from h5py import h5f, h5fd, h5p

    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5f.LIBVER_EARLIEST if old else h5f.LIBVER_V18, h5f.LIBVER_V18)
    access.set_alignment(ALIGNED_BYTES, ALIGNMENT)
    access.set_fileobj_driver(h5fd.fileobj_driver, store)
    cache = access.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = CACHE_BYTES
    access.set_mdc_config(cache)
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_obj_track_times(False)
    return h5f.create(b"skeleton", h5f.ACC_TRUNC, creation, access)


class _Builder:
    """Adds datasets, and the groups above them, to an open file."""

    def __init__(self, file: h5py.h5f.FileID, *, old: bool) -> None:
        from h5py import h5d, h5p, h5t

        self._file = file
        self._groups: set[bytes] = set()
        self._types: dict[tuple[DType, bool], h5py.h5t.TypeID] = {}
        self._utf8 = h5p.create(h5p.LINK_CREATE)
        self._utf8.set_char_encoding(h5t.CSET_UTF8)
        # The oldest groups cannot say in which encoding a name is.
        self._ascii = h5p.create(h5p.LINK_CREATE) if old else self._utf8
        self._group = h5p.create(h5p.GROUP_CREATE)
        self._group.set_obj_track_times(False)
        self._plain = h5p.create(h5p.DATASET_CREATE)
        self._plain.set_obj_track_times(False)
        self._plain.set_layout(h5d.CONTIGUOUS)
        self._plain.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        self._strings = self._plain.copy()  # libhdf5 wants the references filled
        self._plain.set_fill_time(h5d.FILL_TIME_NEVER)

    def add(self, member: Member) -> int | None:
        """Create a dataset; return where its bytes go."""
        from h5py import h5d, h5s

        path = encode(member.path)
        self._make_groups(path)
        form = member.dtype, member.opaque
        kind = self._types.get(form) or file_type(member.dtype, opaque=member.opaque)
        self._types[form] = kind
        space = h5s.create_simple(member.shape) if member.shape else h5s.create(h5s.SCALAR)
        creation = self._plain if member.strings is None else self._strings
        dataset = h5d.create(self._file, path, kind, space, creation, self._links(path))
        for name, value in member.attributes.items():
            attach(dataset, name, value)
        if member.strings is not None:
            write_strings(dataset, member)
            return None
        if not prod(member.shape):
            return None
        return int(dataset.get_offset())

    def add_group(self, group: Group) -> None:
        """Create a group, and those above it, and give it its attributes."""
        from h5py import h5g

        path = encode(group.path)
        self._make_groups(path + b"/")
        made = h5g.open(self._file, path or b"/")
        for name, value in group.attributes.items():
            attach(made, name, value)

    def _links(self, path: bytes) -> h5py.h5p.PropLCID:
        return self._ascii if path.isascii() else self._utf8

    def _make_groups(self, path: bytes) -> None:
        """Create the groups that a path goes through."""
        from h5py import h5g

        at = path.find(b"/")
        while at >= 0:
            group = path[:at]
            if group and group not in self._groups:
                self._groups.add(group)
                h5g.create(self._file, group, self._links(group), self._group)
            at = path.find(b"/", at + 1)


def write_strings(dataset: h5py.h5d.DatasetID, member: Member) -> None:
    """Fill a dataset of text of variable length."""
    import h5py
    import numpy as np
    from h5py import h5s, h5t

    if member.strings:
        array = np.empty(len(member.strings), object)
        array[:] = member.strings
        objects = h5t.py_create(h5py.string_dtype())  # as Python holds them, not as the file does
        dataset.write(h5s.ALL, h5s.ALL, array.reshape(member.shape), objects)
