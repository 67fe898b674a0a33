"""HDF5 datasets whose bytes do not lie in one piece: chunked, compressed, compact.

They are read through h5py, slice by slice, each time from a file that is opened for it and closed
again: an `h5py.File` left open is not safe to share or to forget.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from ..errors import CorruptFileError
from ..names import encode
from ..sources import Source
from ..tensors import CHUNK_BYTES, Tensor, TensorSpec
from .hdf5_guard import opened

if TYPE_CHECKING:
    import h5py

__all__ = ["SliceTensor", "slabs"]

SLAB_BYTES = 16 << 20

_Slab = tuple[tuple[int, ...], tuple[int, ...]]


class SliceTensor(Tensor):
    """A tensor that libhdf5 has to put together; gives the bytes as the file's type has them.

    Args:
        spec: dtype and shape; `nbytes` is what the dataset declares.
        source: the HDF5 file.
        key: path of the dataset.
    """

    __slots__ = ("_key", "_source")

    def __init__(self, spec: TensorSpec, source: Source, key: str) -> None:
        self.spec = spec
        self._source = source
        self._key = key

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes, read in slabs of at most 16 MiB (one element if that is larger)."""
        step = max(max_bytes // self.spec.dtype.itemsize, 1) * self.spec.dtype.itemsize
        with opened(self._source, f"dataset `{self._key}`") as file:
            for slab in self._slabs(file):
                for at in range(0, len(slab), step):
                    yield slab[at : at + step]

    def _slabs(self, file: h5py.File) -> Iterator[memoryview]:
        import numpy as np
        from h5py import h5d, h5o, h5s

        dataset = h5o.open(file.id, encode(self._key))
        kind = dataset.get_type()
        width, shape = kind.get_size(), dataset.shape
        if prod(shape) * width != self.nbytes:
            raise CorruptFileError(
                "changed since it was opened",
                path=self._source.path,
                where=f"dataset `{self._key}`",
                expected=f"{self.nbytes} bytes",
                got=f"{prod(shape) * width} bytes",
            )
        properties = dataset.get_create_plist()
        chunk = properties.get_chunk() if properties.get_layout() == h5d.CHUNKED else None
        for start, count in slabs(shape, chunk, width):
            buffer = np.empty(prod(count) * width, np.uint8)
            space = dataset.get_space()
            if shape:
                space.select_hyperslab(start, count)
            # The file's own type in memory: libhdf5 converts nothing.
            dataset.read(h5s.create_simple((prod(count),)), space, buffer, kind)
            yield buffer.data


def slabs(shape: tuple[int, ...], chunk: tuple[int, ...] | None, width: int) -> Iterator[_Slab]:
    """Cut an array into pieces that follow each other in C order, as (start, count).

    Pieces end where chunks do if they can, so that a chunk is unpacked once.

    Args:
        shape: of the array, which has elements.
        chunk: shape of a chunk, if it is stored in such.
        width: bytes of an element.
    """
    if not shape:
        yield (), ()
        return
    axis, inner = 0, prod(shape[1:]) * width
    while inner > SLAB_BYTES and axis + 1 < len(shape):
        axis += 1
        inner = prod(shape[axis + 1 :]) * width
    rows = max(SLAB_BYTES // inner, 1)
    if chunk and rows > chunk[axis]:
        rows -= rows % chunk[axis]
    for outer in product(*(range(dim) for dim in shape[:axis])):
        for first in range(0, shape[axis], rows):
            count = min(rows, shape[axis] - first)
            yield (
                (*outer, first, *[0] * (len(shape) - axis - 1)),
                (*[1] * axis, count, *shape[axis + 1 :]),
            )
