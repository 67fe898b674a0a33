"""Tensors brought to another type, a chunk at a time.

Floats are rounded to nearest, ties to even, and once only. numpy does that. ml_dtypes (0.6.0) takes
the way over float32 from float64 to bfloat16 and all float8 kinds, and two roundings in a row can
end one off. There the first step rounds to odd: it cuts off, and sets the last bit if anything
was cut. What is left of it can no longer be taken for a tie, so the second rounding is right as
long as it drops two bits or more.

A NaN stays one, an infinity stays one where the type has it, and both keep their sign where the
type has signed ones. What is beyond the largest number becomes what ml_dtypes makes of it:
infinity, or NaN where there is none. Integers that do not fit become the nearest that does. How
often a value got lost like that is counted on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from .dtypes import DType
from .tensors import CHUNK_BYTES, Tensor, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    # Gets values and where to put the results; tells how many were lost.
    Cast: TypeAlias = Callable[[np.ndarray, np.ndarray], "Losses"]

__all__ = ["FLOATS", "INTEGERS", "TARGETS", "CastTensor", "Losses", "castable"]

# The order of a message: usual ones first.
_ROUNDED = (
    DType.FLOAT16,
    DType.BFLOAT16,
    DType.FLOAT32,
    DType.FLOAT64,
    DType.FLOAT8_E4M3FN,
    DType.FLOAT8_E5M2,
    DType.FLOAT8_E4M3FNUZ,
    DType.FLOAT8_E5M2FNUZ,
    DType.FLOAT8_E4M3B11FNUZ,
)
_COMPLEX = {DType.COMPLEX64: DType.FLOAT32, DType.COMPLEX128: DType.FLOAT64}
_WIDE = (DType.FLOAT32, DType.FLOAT64)
# What would be -0 in these is their NaN.
_WITHOUT_NEGATIVE_ZERO = frozenset(
    {DType.FLOAT8_E4M3FNUZ, DType.FLOAT8_E5M2FNUZ, DType.FLOAT8_E4M3B11FNUZ}
)

# Nothing becomes one of the last two: the one has neither zero nor sign, the other no NaN.
FLOATS = frozenset({*_ROUNDED, DType.FLOAT8_E8M0FNU, DType.FLOAT4_E2M1FN})
INTEGERS = frozenset(
    {
        DType.INT2,
        DType.INT4,
        DType.INT8,
        DType.INT16,
        DType.INT32,
        DType.INT64,
        DType.UINT2,
        DType.UINT4,
        DType.UINT8,
        DType.UINT16,
        DType.UINT32,
        DType.UINT64,
    }
)
TARGETS = (*_ROUNDED, *(dtype for dtype in DType if dtype in INTEGERS), *_COMPLEX)


class Losses(NamedTuple):
    """How many values did not survive.

    Attributes:
        overflow: numbers that became infinite or NaN, or an integer other than they were.
        zero: numbers that became zero.
    """

    overflow: int = 0
    zero: int = 0


def castable(source: DType, target: DType) -> bool:
    """Tell whether values of one type are cast to another.

    Floats become floats, integers (and bool) integers, float32 or float64, complex numbers
    complex ones. A float that became an integer would be cut; scaling it is another matter.
    """
    if source in FLOATS:
        return target in _ROUNDED
    if source in INTEGERS or source is DType.BOOL:
        return target in INTEGERS or target in _WIDE
    return source in _COMPLEX and target in _COMPLEX


class CastTensor(Tensor):
    """A tensor in another type.

    Args:
        inner: what goes in.
        dtype: the type to come out; one that `castable` allows.

    Attributes:
        losses: what was lost, None until all of it was read once. Parts of complex numbers count
            each.
    """

    __slots__ = ("inner", "losses")

    def __init__(self, inner: Tensor, dtype: DType) -> None:
        self.spec = TensorSpec(dtype, inner.spec.shape)
        self.inner = inner
        self.losses: Losses | None = None

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes of the results; a view is valid until the next step."""
        import numpy as np

        stored, made = self.inner.spec.dtype, self.spec.dtype
        count = max(max_bytes // max(stored.itemsize, made.itemsize), 1)
        chunks = self.inner.chunks(count * stored.itemsize)
        count = min(count, self.spec.size)
        if made in _COMPLEX:
            stored, made, count = _COMPLEX[stored], _COMPLEX[made], 2 * count
        cast = _floats(stored, made) if stored in FLOATS else _integers(stored, made)
        buffer = np.empty(count, _array_type(made))
        overflow = zero = 0
        for chunk in chunks:
            values = np.frombuffer(chunk, _array_type(stored))
            results = buffer[: len(values)]
            with np.errstate(all="ignore"):  # what overflows is counted, and not warned of
                lost = cast(values, results)
            overflow, zero = overflow + lost.overflow, zero + lost.zero
            yield results.view(np.uint8).data
        self.losses = Losses(overflow, zero)


@cache  # as `_largest`: a model may have 100,000 tensors of four numbers
def _array_type(dtype: DType) -> np.dtype[np.generic]:
    """Return the type of an array of these bytes; small integers lie in whole bytes."""
    import numpy as np

    if dtype in INTEGERS:
        return np.dtype(dtype.carrier)
    return np.dtype("uint8") if dtype is DType.BOOL else dtype.numpy()


# Floats


def _floats(source: DType, target: DType) -> Cast:
    """Return what casts floats to floats."""
    import numpy as np

    exact = target in _WIDE and target.itemsize > source.itemsize
    small = target.itemsize == 1

    def cast(values: np.ndarray, results: np.ndarray) -> Losses:
        if exact:
            np.copyto(results, values, casting="unsafe")
            return Losses()
        if source.itemsize < 4:
            values = values.astype(np.float32)
        if source is DType.FLOAT64 and not target.native:
            single = _singles_to_odd(values)
        else:
            single = values
        if small:
            np.take(_codes(target), _upper_half_to_odd(single), out=results.view("u1"), mode="clip")
        else:
            np.copyto(results, single, casting="unsafe")
        return _lost(values, results, target)

    return cast


def _singles_to_odd(values: np.ndarray) -> np.ndarray:
    """Return float64 as float32, rounded to odd."""
    import numpy as np

    nearest = values.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    bits -= np.abs(back) > np.abs(values)
    bits |= back != values  # true for NaN, which stays one
    return nearest


def _upper_half_to_odd(values: np.ndarray) -> np.ndarray:
    """Return float32 as the bits of bfloat16, rounded to odd."""
    import numpy as np

    bits = values.view(np.uint32)
    upper = bits >> 16
    upper |= (bits & 0xFFFF) != 0
    return upper


@cache
def _codes(target: DType) -> np.ndarray:
    """Return the byte of each bfloat16 in a type of one byte.

    bfloat16 has at least three bits more than each of them, and four times their range. A look
    into a table is five times as fast as ml_dtypes, and other threads go on meanwhile.
    """
    import ml_dtypes
    import numpy as np

    every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    codes: np.ndarray = every.astype(target.numpy()).view(np.uint8)
    return codes


@cache
def _largest(target: DType) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(target.numpy()).max)  # type: ignore[no-untyped-call]


def _lost(values: np.ndarray, results: np.ndarray, target: DType) -> Losses:
    """Count what became infinite, NaN or zero; cheap where nothing did."""
    import numpy as np

    overflow = zero = 0
    largest = _largest(target)
    # A NaN is not within anything.
    if not (values.max() <= largest and values.min() >= -largest):
        gone = ~np.isfinite(results.astype(np.float32))
        overflow = int(np.count_nonzero(gone & np.isfinite(values)))
    bits = results.view(f"u{target.itemsize}")
    sign = 1 << (8 * target.itemsize - 1)
    signed = target not in _WITHOUT_NEGATIVE_ZERO
    if bits.min() == 0 or (signed and bits.view(f"i{target.itemsize}").min() == -sign):
        kept = np.count_nonzero(bits & (sign - 1)) if signed else np.count_nonzero(bits)
        zero = int(np.count_nonzero(values) - kept)
    return Losses(overflow, zero)


# Integers


def _integers(source: DType, target: DType) -> Cast:
    """Return what casts integers to integers or wide floats."""
    import numpy as np

    def to_float(values: np.ndarray, results: np.ndarray) -> Losses:
        np.copyto(results, values, casting="unsafe")
        return Losses()

    if target in _WIDE:
        return to_float
    bounds = [_bounds(source), _bounds(target)]
    low, high = max(low for low, _ in bounds), min(high for _, high in bounds)

    def to_integer(values: np.ndarray, results: np.ndarray) -> Losses:
        fitting = np.clip(values, low, high)
        np.copyto(results, fitting, casting="unsafe")
        return Losses(overflow=int(np.count_nonzero(fitting != values)))

    return to_integer


def _bounds(dtype: DType) -> tuple[int, int]:
    """Return the least and the largest integer of a type."""
    if dtype is DType.BOOL:
        return 0, 1
    kind, _, bits = dtype.label.partition("int")
    count = int(bits)
    return (0, (1 << count) - 1) if kind else (-1 << (count - 1), (1 << (count - 1)) - 1)
