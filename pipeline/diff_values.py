"""How far the values of two tensors are apart.

Both sides are streamed, a chunk of each at a time. Numbers are compared as float64, integers of
8 bytes exactly. Blocks are short so that what is made of them stays in the cache, and products
are sums of numpy's own: those of BLAS would start threads of their own below ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from ..converters.casting import FLOATS
from ..converters.dtypes import DType
from ..converters.errors import ConvertError
from ..converters.tensors import Tensor, TensorDict

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "COMPLEX",
    "STEP",
    "Gap",
    "PlacedTensor",
    "Tolerance",
    "equal_bytes",
    "equal_values",
    "gap",
    "numbers_of",
    "pairs",
    "words_of",
]

STEP = 1 << 19  # bytes of a chunk: two of them stay in the cache of a core
BLOCK = 1 << 15  # elements that are turned into float64 at a time
_WORD = 8  # numpy has no integers of 16 bytes
COMPLEX = frozenset({DType.COMPLEX64, DType.COMPLEX128})
_LONG = frozenset({DType.INT64, DType.UINT64})

Advance: TypeAlias = Callable[[int], None]


@dataclass(frozen=True)
class Tolerance:
    """How far values may be apart: |a - b| <= absolute + relative * |b|."""

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether values have to be equal."""
        return not self.absolute and not self.relative


class PlacedTensor(Tensor):
    """A tensor whose errors say of which model and of which name it is.

    Args:
        tensors: the model.
        name: of the tensor in it, or an alias.
        side: what to call the model, such as `A`.
    """

    __slots__ = ("_broken", "_inner", "_name", "_path", "_side")

    def __init__(self, tensors: TensorDict, name: str, side: str) -> None:
        self._inner = tensors[tensors.aliases.get(name, name)]
        self.spec = self._inner.spec
        self._name = f"tensor `{name}`"
        self._side = side
        self._broken = name in tensors.broken
        self._path = tensors.sources[0].path if tensors.sources else None

    @property
    def nbytes(self) -> int:
        """Length in bytes; for variable elements, of what the container holds."""
        return self._inner.nbytes

    def chunks(self, max_bytes: int = STEP) -> Iterator[memoryview]:
        """Yield the bytes in order."""
        try:
            yield from self._inner.chunks(max_bytes)
        except ConvertError as error:
            raise self._placed(error) from error

    def elements(self) -> list[bytes]:
        """Return the elements in C order."""
        try:
            return self._inner.elements()
        except ConvertError as error:
            raise self._placed(error) from error

    def _placed(self, error: ConvertError) -> ConvertError:
        if error.path is None and self._path is not None:
            error.path = str(self._path)
        if self._broken:
            error.hint = "--exclude leaves it out"
        return error.within(self._name).within(self._side)


def pairs(first: Tensor, second: Tensor) -> Iterator[tuple[memoryview, memoryview]]:
    """Yield the bytes of both in pieces of as many elements; a view is valid until the next step.

    Both are read to their ends, where checksums are checked.
    """
    a, b = first.spec.dtype.itemsize, second.spec.dtype.itemsize
    step = STEP // max(a, b)
    rights = second.chunks(step * b)
    right = memoryview(b"")
    for chunk in first.chunks(step * a):
        left = chunk
        while len(left):
            while not len(right):
                right = next(rights)
            count = min(len(left) // a, len(right) // b)
            yield left[: count * a], right[: count * b]
            left, right = left[count * a :], right[count * b :]
    for _ in rights:
        pass


def equal_values(first: Tensor, second: Tensor) -> bool:
    """Tell whether the bytes of two tensors of as many elements are equal; stops where not."""
    return all(equal_bytes(left, right) for left, right in pairs(first, second))


def equal_bytes(left: memoryview, right: memoryview) -> bool:
    """Compare bytes; 30 times as fast as views themselves do it, and other threads go on."""
    import numpy as np

    kind = "u1" if len(left) % _WORD or len(right) % _WORD else "u8"
    return np.array_equal(np.frombuffer(left, kind), np.frombuffer(right, kind))


# How far apart


@dataclass
class Gap:
    """How far two tensors are apart. Numbers are over pairs of finite values.

    Attributes:
        size: number of elements.
        changed: of elements whose values differ; zeros of two signs have the same value.
        beyond: of those that differ by more than the tolerance.
        odd: of pairs that differ where one is NaN or infinite; they count as changed and beyond.
        most: the largest absolute difference.
        squares: sum of squared differences.
        lefts: sum of squares of the first.
        rights: of the second.
        products: sum of products of the two.
    """

    size: int
    changed: int = 0
    beyond: int = 0
    odd: int = 0
    most: float = 0.0
    squares: float = 0.0
    lefts: float = 0.0
    rights: float = 0.0
    products: float = 0.0

    @property
    def relative(self) -> float:
        """Length of the difference over that of the first; infinite where that is zero.

        NaN where squares are beyond float64, which takes numbers of 1e154.
        """
        if not self.squares:
            return 0.0
        return math.sqrt(self.squares / self.lefts) if self.lefts else math.inf

    @property
    def cosine(self) -> float | None:
        """Of the angle between the two as vectors; None where one is zero, or has no length."""
        if not self.lefts or not self.rights:
            return None
        cosine = self.products / math.sqrt(self.lefts) / math.sqrt(self.rights)
        return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None

    @property
    def share(self) -> float:
        """Of the elements that are changed."""
        return self.changed / self.size if self.size else 0.0

    @property
    def permutable(self) -> bool:
        """Whether the elements may be the same in another order."""
        # Blocks are summed in another order then.
        return bool(self.odd) or math.isclose(self.lefts, self.rights, rel_tol=1e-9)


def gap(first: Tensor, second: Tensor, tolerance: Tolerance, advance: Advance | None = None) -> Gap:
    """Measure two tensors of one shape; their types may differ, and have elements of fixed size.

    Args:
        first: A.
        second: B.
        tolerance: how far values may be apart.
        advance: called with the number of bytes just read of A.

    Raises:
        ConvertError: one cannot be read.
    """
    import numpy as np

    measure = _Measure(first.spec.dtype, second.spec.dtype, tolerance, Gap(first.spec.size))
    a, b = (BLOCK * each.spec.dtype.itemsize for each in (first, second))
    with np.errstate(all="ignore"):  # sums of huge numbers are infinite, and no warning
        for left, right in pairs(first, second):
            for number in range(math.ceil(len(left) / a)):
                measure.add(
                    left[number * a : (number + 1) * a], right[number * b : (number + 1) * b]
                )
            if advance:
                advance(len(left))
    return measure.gap


@dataclass(frozen=True)
class _Measure:
    """Adds up the gap between two tensors, block by block."""

    first: DType
    second: DType
    tolerance: Tolerance
    gap: Gap

    def add(self, left: memoryview, right: memoryview) -> None:
        """Take in a pair of blocks."""
        if self.first is self.second and equal_bytes(left, right):
            self._add_equal(left)
        else:
            self._add_different(left, right)

    def _add_equal(self, left: memoryview) -> None:
        import numpy as np

        a = numbers_of(self.first, left)
        total = _product(a, a)
        if not math.isfinite(total):
            a = a[np.isfinite(a)]
            total = _product(a, a)
        self.gap.lefts += total
        self.gap.rights += total
        self.gap.products += total

    def _add_different(self, left: memoryview, right: memoryview) -> None:
        import numpy as np

        a, b = numbers_of(self.first, left), numbers_of(self.second, right)
        if a.dtype != b.dtype:  # one of them is complex
            a, b = a.astype("c16"), b.astype("c16")
        apart = self._apart(left, right, a, b)
        sums = _product(a, a), _product(b, b)
        if not math.isfinite(sum(sums)):
            finite = np.isfinite(a) & np.isfinite(b)
            self._add_odd(self._unlike(left, right, a, b, ~finite))
            a, b, apart = a[finite], b[finite], apart[finite]
            sums = _product(a, a), _product(b, b)
        gap = self.gap
        changed = int(np.count_nonzero(apart != 0))  # 4 times as fast as to count numbers
        gap.changed += changed
        gap.beyond += changed if self.tolerance.exact else self._beyond(apart, b)
        gap.most = max(gap.most, float(apart.max(initial=0.0)))
        gap.squares += _product(apart, apart)
        gap.lefts += sums[0]
        gap.rights += sums[1]
        gap.products += _product(a, b)

    def _apart(
        self, left: memoryview, right: memoryview, a: np.ndarray, b: np.ndarray
    ) -> np.ndarray:
        """Return absolute differences."""
        import numpy as np

        if self.first is not self.second or self.first not in _LONG:
            apart: np.ndarray = np.abs(a - b)
            return apart
        # float64 has no room for them; differences wrap around into what is right without a sign.
        x, y = (np.frombuffer(each, self.first.label) for each in (left, right))
        wrapped: np.ndarray = np.maximum(x, y) - np.minimum(x, y)
        return wrapped.view("u8").astype("f8")

    def _beyond(self, apart: np.ndarray, b: np.ndarray) -> int:
        import numpy as np

        bound = self.tolerance.absolute + self.tolerance.relative * np.abs(b)
        return int(np.count_nonzero(apart > bound))

    def _unlike(
        self, left: memoryview, right: memoryview, a: np.ndarray, b: np.ndarray, where: np.ndarray
    ) -> int:
        """Count pairs that differ: in bits, or of two types, in value or in being NaN."""
        import numpy as np

        if self.first is not self.second:
            nans = np.isnan(a) & np.isnan(b)
            return int(np.count_nonzero((a != b) & ~nans & where))
        x, y = (words_of(self.first, each)[where] for each in (left, right))
        return int(np.count_nonzero((x != y).any(axis=1)))

    def _add_odd(self, count: int) -> None:
        self.gap.odd += count
        self.gap.changed += count
        self.gap.beyond += count


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of products; of complex numbers, with the conjugate, its real part."""
    import numpy as np

    return float(np.einsum("i,i->", a.view("f8"), b.view("f8")))


def words_of(dtype: DType, view: memoryview) -> np.ndarray:
    """Return the bits of elements as unsigned integers, a row for each element."""
    import numpy as np

    width = min(dtype.itemsize, _WORD)
    return np.frombuffer(view, f"u{width}").reshape(-1, dtype.itemsize // width)


def numbers_of(dtype: DType, view: memoryview) -> np.ndarray:
    """Return elements as float64, or as complex128."""
    import numpy as np

    if dtype is DType.BFLOAT16:
        wide: np.ndarray = np.frombuffer(view, "u2").astype("u4") << 16
        return wide.view(np.float32).astype(np.float64)
    if dtype in FLOATS and dtype.itemsize == 1:
        return np.take(_table(dtype), np.frombuffer(view, "u1"))
    kind = "u1" if dtype is DType.BOOL else dtype.carrier
    return np.frombuffer(view, kind).astype("c16" if dtype in COMPLEX else "f8")


@cache
def _table(dtype: DType) -> np.ndarray:
    """Return the value of each byte of a float of one byte."""
    import numpy as np

    values: np.ndarray = np.arange(256, dtype="u1").view(dtype.numpy()).astype("f4").astype("f8")
    return values
