"""The counting below `stats`: by bit pattern, chunk by chunk, in several threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..converters.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SMALL", "Moments", "Summary", "Tally", "joined", "small_summary"]

SMALL = 1 << 16  # elements; up to here sorting is faster than a table of all patterns
STEP = 1 << 18  # elements that are looked at together
# How far down a pattern is shifted, and how many patterns that leaves, by bytes of the type.
_PATTERNS = {1: (0, 1 << 8), 2: (0, 1 << 16), 4: (16, 1 << 16), 8: (46, 1 << 18)}
# If the largest magnitude is 2 to more than this, or to less than minus this, squares leave
# float64: the numbers are divided by that power first.
_SAFE_EXPONENT = 400
_NO_EXPONENT = -10_000  # of zeros, whose moments are zeros by any power


class Moments(NamedTuple):
    """Number, mean and sum of squared distances from it, of numbers divided by 2**exponent."""

    size: int
    mean: float
    squares: float
    exponent: int


class Summary(NamedTuple):
    """What the numbers of a tensor come to.

    Attributes:
        integers: whether the type holds nothing else.
        size: how many there are.
        values: one for each pattern that occurs, finite and ascending, as float64.
        counts: how often each of them occurs.
        low: the least finite number, an int where they are integers.
        denormals: None where nobody counted.
        moments: None where nobody measured, and where no number is finite.
    """

    integers: bool
    size: int
    values: np.ndarray
    counts: np.ndarray
    low: float = math.nan
    high: float = math.nan
    zeros: int = 0
    nans: int = 0
    infinities: int = 0
    denormals: int | None = 0
    distinct: int | None = None
    moments: Moments | None = None


def small_summary(dtype: DType, data: bytes | bytearray) -> Summary:
    """Sum up numbers that are all in memory."""
    import numpy as np

    kind = _part_kind(dtype)
    patterns, counts = np.unique(np.frombuffer(data, _bits(kind)), return_counts=True)
    return _exact(kind, patterns.view(kind), counts)


def joined(tallies: Sequence[Tally]) -> Summary:
    """Sum up a tensor of which each tally counted some chunks; at least one tally."""
    import numpy as np

    first = tallies[0]
    counts = np.sum([each.counts for each in tallies], axis=0)
    patterns = np.flatnonzero(counts)
    counts = counts[patterns]
    if not first.wide:
        return _exact(first.kind, patterns.astype(_bits(first.kind)).view(first.kind), counts)
    values = first.values(patterns)
    zeros = sum(each.zeros for each in tallies)
    small = int(counts[_is_denormal(values, first.kind) | (values == 0)].sum()) - zeros
    usual, order = _ascending(values)
    found = Summary(
        integers=_is_integer(first.kind),
        size=sum(each.size for each in tallies),
        values=values[usual][order],
        counts=counts[usual][order],
        low=min(each.low for each in tallies),
        high=max(each.high for each in tallies),
        zeros=zeros,
        nans=sum(each.nans for each in tallies),
        infinities=sum(each.infinities for each in tallies),
        denormals=None if first.brief else 0 if _is_integer(first.kind) else small,
        moments=_merged(dict(sorted(pair for each in tallies for pair in each.moments.items()))),
    )
    return found if found.low <= found.high else found._replace(low=math.nan, high=math.nan)


class Tally:
    """What one thread counts of a tensor.

    Args:
        dtype: of the tensor.
        brief: leave out patterns and moments of a wide type.
    """

    def __init__(self, dtype: DType, *, brief: bool = False) -> None:
        import numpy as np

        self.kind = _part_kind(dtype)
        self.wide = self.kind.itemsize > 2
        self.brief = brief and self.wide
        # Wide integers are looked at as the floats nearest to them.
        self._float = np.dtype("f8") if self.wide and _is_integer(self.kind) else self.kind
        self._shift, length = _PATTERNS[self._float.itemsize]
        self.counts = np.zeros(0 if self.brief else length, np.int64)
        self.moments: dict[tuple[int, int], Moments] = {}
        self.size = self.zeros = self.nans = self.infinities = 0
        self.low, self.high = math.inf, -math.inf
        # Patterns first, then doubles. Memory that comes and goes costs more than the counting:
        # the system takes it back each time.
        self._scratch = np.empty(0 if self.brief else STEP, np.int64)

    def add(self, place: int, chunk: memoryview) -> None:
        """Take in a chunk of whole elements, and its place among all."""
        import numpy as np

        values = np.frombuffer(chunk, self.kind)
        self.size += len(values)
        for at in range(0, len(values), STEP):
            part = values[at : at + STEP]
            if not self.brief:
                self._count(part)
            if self.wide:
                self._measure((place, at), part)

    def _count(self, values: np.ndarray) -> None:
        import numpy as np

        patterns = self._scratch[: len(values)]
        if self.kind != self._float:
            np.copyto(patterns.view("f8"), values, casting="unsafe")
            patterns >>= self._shift
            patterns &= len(self.counts) - 1
        elif self._shift == 16:  # the upper half as it lies: faster than shifting
            np.copyto(patterns, values.view("u2")[1::2])
        else:
            bits = values.view(_bits(self.kind))
            np.right_shift(bits, self._shift, out=patterns, casting="unsafe")
        self.counts += np.bincount(patterns, minlength=len(self.counts))

    def _measure(self, place: tuple[int, int], values: np.ndarray) -> None:
        """Take from wide values what their patterns do not tell."""
        import numpy as np

        low, high = values.min().item(), values.max().item()  # NaN if there is one
        if not (math.isfinite(low) and math.isfinite(high)):
            nans = int(np.count_nonzero(np.isnan(values)))
            usual = values[np.isfinite(values)]
            self.nans += nans
            self.infinities += len(values) - len(usual) - nans
            if not len(usual):
                return
            values, low, high = usual, usual.min().item(), usual.max().item()
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low <= 0 <= high:
            self.zeros += int(np.count_nonzero(values == 0))
        if not self.brief:
            doubles = self._scratch.view("f8")[: len(values)]
            np.copyto(doubles, values, casting="unsafe")
            self.moments[place] = _moments(doubles, None, float(max(-low, high)))

    def values(self, patterns: np.ndarray) -> np.ndarray:
        """Return as float64 the middle of all values that begin with each pattern.

        The patterns of zero stand for zero: all else that begins with them is denormal.
        """
        import numpy as np

        bits = patterns.astype(_bits(self._float)) << self._shift
        zero = bits << 1 == 0
        middle = bits | (1 << self._shift - 1)
        with np.errstate(invalid="ignore"):
            found = middle.view(self._float).astype("f8")
        found[zero] = 0.0
        return np.trunc(found) if _is_integer(self.kind) else found


def _distinct(values: np.ndarray) -> int:
    import numpy as np

    # Without the counts numpy imports its masked arrays, which takes longer than a small model.
    return len(np.unique(values, return_counts=True)[0])


def _exact(kind: np.dtype[Any], each: np.ndarray, counts: np.ndarray) -> Summary:
    """Sum up numbers that are given as their different ones, and how often each occurs."""
    import numpy as np

    with np.errstate(invalid="ignore"):  # a signalling NaN
        values = each.astype("f8")
    nan, infinite = np.isnan(values), np.isinf(values)
    usual, order = _ascending(values)
    odd = int(nan.any()) + _distinct(values[infinite])
    whole = each[usual][order]
    values, finite = values[usual][order], counts[usual][order]
    found = Summary(
        integers=_is_integer(kind),
        size=int(counts.sum()),
        values=values,
        counts=finite,
        zeros=int(finite[values == 0].sum()),
        nans=int(counts[nan].sum()),
        infinities=int(counts[infinite].sum()),
        denormals=int(finite[_is_denormal(values, kind)].sum()),
        distinct=None if kind.itemsize > 2 else _distinct(values) + odd,
    )
    if not len(values):
        return found
    low, high = float(values[0]), float(values[-1])
    moments = _moments(values.copy(), finite, max(-low, high))
    if found.integers and kind.itemsize > 2:  # float64 may round them
        low, high = int(whole.min()), int(whole.max())
    return found._replace(low=low, high=high, moments=moments)


def _ascending(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask of the finite values, and the order that sorts those."""
    import numpy as np

    usual = np.isfinite(values)
    return usual, np.argsort(values[usual], kind="stable")


def _moments(values: np.ndarray, counts: np.ndarray | None, magnitude: float) -> Moments:
    """Measure finite float64, at least one, which are overwritten.

    Args:
        values: the numbers.
        counts: how often each occurs, if not once.
        magnitude: of the number that is farthest from zero.
    """
    import numpy as np

    exponent = math.frexp(magnitude)[1] if magnitude else _NO_EXPONENT
    if -_SAFE_EXPONENT <= exponent <= _SAFE_EXPONENT:
        exponent = 0
    elif magnitude:
        values = np.ldexp(values, -exponent)
    # Sums and no dot products: those start threads of their own, which then stand in our way.
    size = len(values) if counts is None else int(counts.sum())
    mean = float((values if counts is None else values * counts).sum()) / size
    values -= mean
    values *= values
    squares = float((values if counts is None else values * counts).sum())
    return Moments(size, mean, squares, exponent)


def _merged(parts: dict[tuple[int, int], Moments]) -> Moments | None:
    """Put moments of chunks together; the same however many threads there were."""
    if not parts:
        return None
    exponent = max(each.exponent for each in parts.values())
    moments = [_at_exponent(each, exponent) for each in parts.values()]
    size = sum(each.size for each in moments)
    mean = math.fsum(each.mean * each.size for each in moments) / size
    apart = (each.size * (each.mean - mean) ** 2 for each in moments)
    squares = math.fsum([*apart, *(each.squares for each in moments)])
    return Moments(size, mean, squares, exponent)


def _at_exponent(part: Moments, exponent: int) -> Moments:
    less = part.exponent - exponent
    mean, squares = math.ldexp(part.mean, less), math.ldexp(part.squares, 2 * less)
    return Moments(part.size, mean, squares, exponent)


def _part_kind(dtype: DType) -> np.dtype[Any]:
    """Return the numpy type of a number; of a complex one that of its parts."""
    import numpy as np

    kind = dtype.numpy()
    return np.dtype(f"f{kind.itemsize // 2}") if kind.kind == "c" else kind


def _bits(kind: np.dtype[Any]) -> str:
    return f"u{kind.itemsize}"


def _is_integer(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iub" or kind.name.startswith(("int", "uint"))


def _is_denormal(values: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    import numpy as np

    if _is_integer(kind):
        return np.zeros(len(values), bool)
    import ml_dtypes

    least = float(ml_dtypes.finfo(kind).smallest_normal)  # type: ignore[no-untyped-call]
    found: np.ndarray = (values != 0) & (np.abs(values) < least)
    return found
