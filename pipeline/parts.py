"""Reading parts of a tensor: of those that lie in byte ranges, only the bytes that are needed.

A part is a grid: for each axis one range of positions or several. It is read in runs. Gaps that
are smaller than a page are read through, since a disk hands out no less; others are skipped.
Whatever is stored in another way, compressed for example, is streamed as far as the last value
that is needed. Checksums are over whole ranges, so those of parts cannot be verified.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import TYPE_CHECKING

from ..converters.errors import ConvertError, CorruptFileError
from ..converters.sources import Extent
from ..converters.tensors import CHUNK_BYTES, Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Grid", "read_part"]

Grid = Sequence[Sequence[range]]

PAGE = 4096
PIECE = CHUNK_BYTES  # the most that is read at a time


@dataclass(frozen=True, slots=True)
class _Run:
    """Bytes that are read at once, and where the values in them go.

    Attributes:
        offset: of the first byte in the tensor.
        length: in bytes.
        counts: values along each of the last axes.
        steps: bytes from one value to the next along each of these.
        target: place in the result.
    """

    offset: int
    length: int
    counts: tuple[int, ...]
    steps: tuple[int, ...]
    target: tuple[int | slice, ...]


def read_part(tensor: Tensor, grid: Grid) -> np.ndarray:
    """Return the values at the positions of a grid, an axis for each of its axes.

    The result is held in memory, and nothing else but one piece at a time.

    Args:
        tensor: of elements of fixed size.
        grid: for each axis ranges of ascending positions within the shape.

    Raises:
        ConvertError: the bytes cannot be read.
    """
    import numpy as np

    dtype = tensor.spec.dtype.numpy()
    try:
        result = np.zeros([sum(map(len, ranges)) for ranges in grid], dtype)
    except ValueError as error:  # more dimensions than numpy has
        shape = tensor.spec.shape
        raise ConvertError(f"no array can have this shape: {error}", got=shape) from error
    extents = tensor.extents
    gap = 1 if extents is None else PAGE
    strides = _strides(tensor.spec.shape, dtype.itemsize)
    runs = [run for block in _blocks(grid) for run in _runs(*block, strides, dtype.itemsize, gap)]
    runs.sort(key=lambda run: run.offset)
    pieces = _streamed(tensor, runs) if extents is None else _ranged(extents, runs)
    for run, piece in zip(runs, pieces, strict=True):
        result[run.target] = np.ndarray(run.counts, dtype, piece, 0, run.steps)
    return result


def _strides(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """Return the bytes from one position to the next along each axis."""
    return list(accumulate(reversed(shape[1:]), int.__mul__, initial=itemsize))[::-1][: len(shape)]


def _blocks(grid: Grid) -> Iterator[tuple[tuple[range, ...], tuple[int, ...]]]:
    """Yield every combination of one range for each axis, with where it begins in the result."""
    placed = [
        list(zip(ranges, accumulate(map(len, ranges), initial=0), strict=False)) for ranges in grid
    ]
    for block in product(*placed):
        if all(len(taken) for taken, _ in block):
            yield tuple(taken for taken, _ in block), tuple(start for _, start in block)


def _runs(
    taken: tuple[range, ...], starts: tuple[int, ...], strides: list[int], itemsize: int, gap: int
) -> Iterator[_Run]:
    """Yield the runs of a block; the axes from `first` on are read together.

    Args:
        taken: positions along each axis.
        starts: place of the first of them in the result.
        strides: bytes from one position to the next.
        itemsize: bytes of a value.
        gap: number of bytes that is worth skipping.
    """
    pitches = [each.step * stride for each, stride in zip(taken, strides, strict=True)]
    counts = [len(each) for each in taken]
    # Bytes from the first to the last value, for all axes from the nth on.
    spans = [itemsize]
    for count, pitch in zip(reversed(counts), reversed(pitches), strict=True):
        spans.append(spans[-1] + (count - 1) * pitch)
    spans.reverse()
    first = len(taken)
    while first and spans[first] <= PIECE:
        if counts[first - 1] > 1 and pitches[first - 1] - spans[first] >= gap:
            break
        first -= 1
    outer = [enumerate(each, start) for each, start in zip(taken[:first], starts, strict=False)]
    steps, inner = tuple(pitches[first:]), tuple(counts[first:])
    rest = tuple(
        slice(start, start + count)
        for start, count in zip(starts[first + 1 :], inner[1:], strict=True)
    )
    begin = sum(each[0] * stride for each, stride in zip(taken, strides, strict=True))
    for places in product(*outer):
        offset = begin + sum(
            (at - each[0]) * stride
            for (_, at), each, stride in zip(places, taken, strides, strict=False)
        )
        target = tuple(place for place, _ in places)
        if not inner:
            yield _Run(offset, itemsize, (), (), target)
            continue
        most = (PIECE - spans[first + 1]) // steps[0] + 1
        for at in range(0, inner[0], most):
            count = min(most, inner[0] - at)
            start = starts[first] + at
            yield _Run(
                offset + at * steps[0],
                spans[first + 1] + (count - 1) * steps[0],
                (count, *inner[1:]),
                steps,
                (*target, slice(start, start + count), *rest),
            )


def _ranged(extents: Sequence[Extent], runs: Iterable[_Run]) -> Iterator[bytearray]:
    """Yield the bytes of each run, read from where they lie."""
    begins = list(accumulate((each.length for each in extents), initial=0))
    for run in runs:
        piece = bytearray(run.length)
        target = memoryview(piece)
        number = bisect_right(begins, run.offset) - 1
        inside = run.offset - begins[number]
        while target:
            extent = extents[number]
            part = target[: extent.length - inside]
            extent.source.read_into(extent.offset + inside, part)
            target, number, inside = target[len(part) :], number + 1, 0
        yield piece


def _streamed(tensor: Tensor, runs: Iterable[_Run]) -> Iterator[bytearray]:
    """Yield the bytes of each run, which ascend and do not overlap, out of one pass."""
    chunks = tensor.chunks()
    at, chunk = 0, memoryview(b"")
    for run in runs:
        piece = bytearray(run.length)
        filled = 0
        while filled < run.length:
            inside = run.offset + filled - at
            if inside >= len(chunk):
                at += len(chunk)
                following = next(chunks, None)
                if following is None:
                    raise CorruptFileError(
                        "the data ends early", expected=f"{tensor.nbytes} bytes", got=at
                    )
                chunk = following
                continue
            part = chunk[inside : inside + run.length - filled]
            piece[filled : filled + len(part)] = part
            filled += len(part)
        yield piece
