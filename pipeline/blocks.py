"""Reading a tensor in blocks: parts that follow each other in C order, of a limited size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..converters.errors import CorruptFileError
from ..converters.tensors import CHUNK_BYTES, Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Block", "Feed", "blocks", "unit"]


class Block(NamedTuple):
    """Indices that belong together: `array[*prefix, start:stop]`.

    Attributes:
        prefix: one index for each of the first axes.
        start: first index along the next axis.
        stop: the index behind the last one.
        shape: lengths from that axis on.
    """

    prefix: tuple[int, ...]
    start: int
    stop: int
    shape: tuple[int, ...]


def blocks(shape: Sequence[int], itemsize: int, max_bytes: int) -> Iterator[Block]:
    """Yield all blocks of an array in C order; a scalar is an array of one element.

    Args:
        shape: of the array.
        itemsize: bytes of an element.
        max_bytes: the most that a block may take; it has one element at least.
    """
    shape = tuple(shape) or (1,)
    if not prod(shape):
        return
    axis = next(
        k for k in range(len(shape)) if _row(shape, k, itemsize) <= max_bytes or _last(shape, k)
    )
    step = max(max_bytes // _row(shape, axis, itemsize), 1)
    for prefix in product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], step):
            stop = min(start + step, shape[axis])
            yield Block(prefix, start, stop, (stop - start, *shape[axis + 1 :]))


def _row(shape: tuple[int, ...], axis: int, itemsize: int) -> int:
    """Return the bytes of one index along an axis."""
    return prod(shape[axis + 1 :]) * itemsize


def _last(shape: tuple[int, ...], axis: int) -> bool:
    return axis == len(shape) - 1


def unit(itemsize: int) -> np.dtype[np.generic]:
    """Return a type that carries elements of so many bytes, 1 to 16, as they are."""
    import numpy as np

    return np.dtype({1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "c16"}[itemsize])


class Feed:
    """The bytes of a tensor, so many at a time.

    Args:
        tensor: of elements of fixed size.
        max_bytes: the most to read at once.
    """

    def __init__(self, tensor: Tensor, max_bytes: int = CHUNK_BYTES) -> None:
        self._chunks = tensor.chunks(max_bytes)
        self._rest = memoryview(b"")

    def take(self, count: int) -> memoryview:
        """Return the next bytes; the view is valid until the next call.

        Raises:
            CorruptFileError: there are not so many; or as `Tensor.chunks`.
        """
        if not self._rest:
            self._rest = next(self._chunks, self._rest)
        if len(self._rest) >= count:
            view, self._rest = self._rest[:count], self._rest[count:]
            return view
        whole = bytearray(count)
        at = 0
        while at < count:
            part = self._some(count - at)
            whole[at : at + len(part)] = part
            at += len(part)
        return memoryview(whole)

    def skip(self, count: int) -> None:
        """Pass over bytes; they are read, so that checksums are verified."""
        while count:
            count -= len(self._some(count))

    def finish(self) -> None:
        """Read what is left, so that checksums are verified."""
        for _ in self._chunks:
            pass

    def _some(self, most: int) -> memoryview:
        if not self._rest:
            self._rest = next(self._chunks, self._rest)
            if not self._rest:
                raise CorruptFileError("ends early", expected=f"{most} bytes more", got="none")
        view, self._rest = self._rest[:most], self._rest[most:]
        return view
