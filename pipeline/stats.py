"""What the values of a tensor are like, from one pass over its chunks.

Every value is counted by its bit pattern. Of types of one or two bytes, and of tensors of at most
65,536 numbers, all patterns are counted whole, and everything is exact, but for percentiles of
integers beyond 2^53, which are counted as the float64 nearest to them. Of larger tensors of wider
types the patterns are cut: sign, exponent and 7 bits of the mantissa of float32; 6 bits of float64
and of integers. Extremes, mean, deviation, norm and all counts come from the values themselves
there, but a percentile is the middle of the pattern that it falls into. It differs from the value
of the tensor by at most 1/256 of that for float32, 1/128 for float64 and integers (0.4 and 0.8 %);
of denormals, those that begin like zero count as zero. A value this close to an edge of the
histogram may be counted on its other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ..converters.errors import ConvertError
from ..converters.tensors import CHUNK_BYTES, Tensor, TensorDict
from ..converters.threads import run_all
from .tally import SMALL, Moments, Summary, Tally, joined, small_summary

__all__ = ["PERCENTILES", "Stats", "stats_all", "stats_of"]

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
BINS = 32  # of the histogram
# From this many bytes on, one tensor is worth all threads. Each counts copies of some chunks then,
# which pays where counting takes long: copying takes a tenth of it.
SHARED_BYTES = 16 << 20

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Stats:
    """Statistics of a tensor; NaN and infinities are counted and are part of nothing else.

    Attributes:
        size: how many numbers there are; a complex one counts as two.
        finite: how many are neither NaN nor infinite.
        minimum: of the finite ones, as all that follows; NaN where there is none. An int, exact
            however large, where the tensor holds integers; so are maximum and percentiles.
        std: with the count, not the count less one, below the fraction.
        norm: root of the sum of squares (L2); infinite where no float64 is as large.
        denormals: None where nobody counted them.
        distinct: how many different values, all NaN being one; None for types of over two bytes.
        percentiles: by percent the largest value that is at or below its place.
        edges: of the histogram, one more than its counts; a bar holds its lower edge.
        counts: of the histogram.
    """

    size: int
    finite: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    mean: float = math.nan
    std: float = math.nan
    norm: float = math.nan
    zeros: int = 0
    nans: int = 0
    infinities: int = 0
    denormals: int | None = 0
    distinct: int | None = None
    percentiles: dict[int, float] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    def json(self) -> dict[str, Any]:
        """Return JSON values; what is not known, or beyond JSON, is null."""
        plain = {
            "size": self.size, "finite": self.finite, "zeros": self.zeros, "nan": self.nans,
            "inf": self.infinities, "denormals": self.denormals, "distinct": self.distinct,
        }  # fmt: skip
        measured = {
            "min": self.minimum, "max": self.maximum, "mean": self.mean, "std": self.std,
            "norm": self.norm,
            **{f"p{each}": self.percentiles.get(each, math.nan) for each in PERCENTILES},
        }  # fmt: skip
        shown = {name: value if math.isfinite(value) else None for name, value in measured.items()}
        return {**plain, **shown, "histogram": {"edges": self.edges, "counts": self.counts}}


def stats_all(
    tensors: TensorDict,
    jobs: int,
    advance: Advance | None = None,
    *,
    brief: bool = False,
    unreadable: MutableMapping[str, ConvertError] | None = None,
) -> dict[str, Stats]:
    """Return the statistics of every tensor of numbers that can be read.

    Args:
        tensors: what there is.
        jobs: number of threads.
        advance: called with the number of bytes just read.
        brief: leave out what takes long: mean, deviation, norm, percentiles and histogram. Types
            of one or two bytes and small tensors have them all the same.
        unreadable: gets the tensors that cannot be read, which are left out then.

    Raises:
        ConvertError: a tensor cannot be read, and there is no `unreadable`; the error names it.
    """
    names = [
        name
        for name, tensor in tensors.items()
        if not tensor.spec.dtype.variable and name not in tensors.broken
    ]
    found: dict[str, Stats] = {}

    def measure(name: str, jobs: int = 1) -> None:
        try:
            found[name] = stats_of(tensors[name], advance, jobs=jobs, brief=brief)
        except ConvertError as error:
            within = error.within(f"tensor `{name}`")
            if unreadable is None:
                raise within from error
            unreadable[name] = within

    # The largest first, so that no thread is left with it at the end.
    names_by_size = sorted(names, key=lambda name: -tensors[name].nbytes)
    shared = sum(tensors[name].nbytes >= SHARED_BYTES and not brief for name in names)
    for name in names_by_size[:shared]:
        measure(name, jobs)
    run_all(lambda: measure, names_by_size[shared:], jobs)
    return {name: found[name] for name in names if name in found}


def stats_of(
    tensor: Tensor, advance: Advance | None = None, *, jobs: int = 1, brief: bool = False
) -> Stats:
    """Return the statistics of a tensor of numbers; reads it once.

    Args:
        tensor: of any type but strings and variants.
        advance: called with the number of bytes just read.
        jobs: number of threads.
        brief: leave out what takes long, as `stats_all` does.

    Raises:
        ConvertError: the tensor cannot be read.
    """
    if tensor.spec.size <= SMALL:
        data = bytearray()
        for chunk in tensor.chunks():
            data += chunk
            if advance:
                advance(len(chunk))
        return _stats(small_summary(tensor.spec.dtype, data))
    tallies: list[Tally] = []
    # A view is valid until the next step, which another thread may take: each has a copy then.
    idle = [bytearray(CHUNK_BYTES) for _ in range(jobs)] if jobs > 1 else []

    def make_work() -> Callable[[_Task], None]:
        tally = Tally(tensor.spec.dtype, brief=brief)
        tallies.append(tally)

        def work(task: _Task) -> None:
            tally.add(task.place, task.chunk)
            if task.buffer is not None:
                idle.append(task.buffer)

        return work

    run_all(make_work, _tasks(tensor, idle, advance), jobs)
    return _stats(joined(tallies))


class _Task(NamedTuple):
    place: int
    chunk: memoryview
    buffer: bytearray | None  # that the chunk was copied to


def _tasks(tensor: Tensor, idle: list[bytearray], advance: Advance | None) -> Iterator[_Task]:
    """Yield the chunks of a tensor, copied to idle buffers where there were any at the start."""
    copies = bool(idle)
    for place, chunk in enumerate(tensor.chunks()):
        if advance:
            advance(len(chunk))
        if not copies:
            yield _Task(place, chunk, None)
            continue
        buffer = idle.pop()
        copy = memoryview(buffer)[: len(chunk)]
        copy[:] = chunk
        yield _Task(place, copy, buffer)


def _stats(found: Summary) -> Stats:
    finite = found.size - found.nans - found.infinities
    stats = Stats(
        found.size, finite, _number(found, found.low), _number(found, found.high),
        zeros=found.zeros, nans=found.nans, infinities=found.infinities,
        denormals=found.denormals, distinct=found.distinct,
    )  # fmt: skip
    if not found.moments:
        return stats
    edges, counts = _histogram(found)
    mean, std, norm = _measures(found, finite)
    return replace(
        stats, mean=mean, std=std, norm=norm, percentiles=_percentiles(found),
        edges=edges, counts=counts,
    )  # fmt: skip


def _number(found: Summary, value: float) -> float:
    """Return a number of the tensor as JSON should have it: an int or a float, and no -0.0."""
    return int(value) if found.integers and math.isfinite(value) else value + 0.0


def _measures(found: Summary, finite: int) -> tuple[float, float, float]:
    """Return mean, standard deviation and norm."""
    low, high = float(found.low), float(found.high)
    if low == high:  # not spoilt by rounding
        return low, 0.0, abs(low) * math.sqrt(finite)
    _, mean, squares, exponent = found.moments or Moments(0, 0.0, 0.0, 0)
    std, norm = math.sqrt(squares / finite), math.sqrt(squares + finite * mean * mean)
    mean, std, norm = (_scaled(each, exponent) for each in (mean, std, norm))
    return min(max(mean, low), high), std, norm


def _scaled(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _percentiles(found: Summary) -> dict[int, float]:
    """Return of each percentile the value at or below its place (method `lower` of numpy)."""
    import numpy as np

    total = np.cumsum(found.counts)
    places = [math.floor(percent / 100 * (int(total[-1]) - 1)) for percent in PERCENTILES]
    values = found.values[np.searchsorted(total, places, side="right")].tolist()
    return {
        percent: _number(found, min(max(value, found.low), found.high))
        for percent, value in zip(PERCENTILES, values, strict=True)
    }


def _histogram(found: Summary) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return edges and counts of equally wide bars from the least to the largest number."""
    import numpy as np

    low, high = float(found.low), float(found.high)
    if low == high:
        return (low, high), (int(found.counts.sum()),)
    steps = np.arange(BINS + 1) / BINS
    # Not low plus steps of the difference, which may be more than float64 holds.
    edges = np.maximum.accumulate(low * (1 - steps) + high * steps)
    places = np.searchsorted(np.clip(found.values, low, high), edges[1:-1])
    total = np.concatenate([[0], np.cumsum(found.counts)])
    bars = np.diff(total[np.concatenate([[0], places, [len(found.values)]])])
    return tuple(edges.tolist()), tuple(bars.tolist())
