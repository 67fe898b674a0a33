"""Axes in another order, at the speed of the memory: copied in tiles that fit the cache.

numpy's own copy of a transposed array walks along the target and takes one element of each cache
line at a time: 0.5 GiB/s for float32 of (4096, 1024). In tiles that are as wide as a cache line
where the target is contiguous, and 1 KiB where the source is, it is 2 to 5 GiB/s
(docs/adr/0026-tiles.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING

from ..converters.tensors import CHUNK_BYTES, Tensor, TensorSpec
from .blocks import blocks, unit

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PermutedTensor", "merged", "tiled_copy"]

LINE_BYTES = 64  # a cache line
RUN_BYTES = 1024  # of the source, read in one go
ROWS = 4  # of all other axes together
# Below this all of it is in the cache anyway, and one call is faster than many.
SMALL_BYTES = 128 << 10
# Made at once: in 1 MiB of (1024, 4096) there are but 64 rows, and so a quarter of a run.
BLOCK_BYTES = 4 << 20


class PermutedTensor(Tensor):
    """A tensor with its axes in another order; holds the whole tensor while it is read.

    Args:
        inner: of elements of fixed size.
        axes: for each axis of the result, which one of `inner` it is.
    """

    __slots__ = ("_axes", "_inner")

    def __init__(self, inner: Tensor, axes: Sequence[int]) -> None:
        shape = inner.spec.shape
        self.spec = TensorSpec(inner.spec.dtype, tuple(shape[axis] for axis in axes))
        self._inner = inner
        self._axes = tuple(axes)

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes in the new order."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        if not self.nbytes:
            return
        shape, axes = merged(self._inner.spec.shape, self._axes)
        held = np.frombuffer(_bytes(self._inner), unit(itemsize)).reshape(shape)
        turned = held.transpose(axes)
        size = max(max_bytes, BLOCK_BYTES)
        piece = max(max_bytes // itemsize, 1) * itemsize
        buffer = np.empty(min(size // itemsize, held.size), unit(itemsize))
        for block in blocks(turned.shape, itemsize, size):
            source = turned[block.prefix][block.start : block.stop]
            target = buffer[: source.size].reshape(block.shape)
            tiled_copy(target, source)
            made = target.reshape(-1).view(np.uint8).data
            yield from (made[at : at + piece] for at in range(0, len(made), piece))


def _bytes(tensor: Tensor) -> bytearray:
    whole = bytearray(tensor.nbytes)
    at = 0
    for chunk in tensor.chunks():
        whole[at : at + len(chunk)] = chunk
        at += len(chunk)
    return whole


def merged(shape: Sequence[int], axes: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the same permutation with as few axes as possible.

    Axes of length 1 do not count, and those that stay neighbours are one. A permutation that moves
    no element has one axis.

    Returns:
        The shape to see the source in, and its axes in their new order.
    """
    runs: list[list[int]] = []
    kept = [axis for axis in axes if shape[axis] != 1]
    position = {axis: number for number, axis in enumerate(sorted(kept))}
    for axis in kept:
        if runs and position[axis] == position[runs[-1][-1]] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    order = sorted(range(len(runs)), key=lambda run: runs[run][0])
    lengths = [1] * len(runs)
    for number, run in enumerate(runs):
        for axis in run:
            lengths[number] *= shape[axis]
    places = {run: place for place, run in enumerate(order)}
    if not runs:
        return (1,), (0,)
    return tuple(lengths[run] for run in order), tuple(places[run] for run in range(len(runs)))


def tiled_copy(target: np.ndarray, source: np.ndarray) -> None:
    """Copy an array into a contiguous one of the same shape, whatever the order of its axes."""
    steps = _steps(source)
    if source.nbytes <= SMALL_BYTES or steps is None:
        target[...] = source
        return
    ranges = [
        [slice(at, at + step) for at in range(0, length, step)]
        for length, step in zip(source.shape, steps, strict=True)
    ]
    for tile in product(*ranges):
        target[tile] = source[tile]


def _steps(source: np.ndarray) -> list[int] | None:
    """Return the lengths of a tile, or None where the last axis is contiguous in the source too."""
    last = source.ndim - 1
    fastest = min(range(source.ndim), key=lambda axis: source.strides[axis])
    if fastest == last:
        return None
    steps = [1] * source.ndim
    steps[last] = max(LINE_BYTES // source.itemsize, 1)
    steps[fastest] = max(RUN_BYTES // source.itemsize, 1)
    others = [axis for axis in range(last) if axis != fastest]
    if others:
        steps[others[-1]] = ROWS
    return steps
