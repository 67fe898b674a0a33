"""Whether a tensor is another one turned, or cast to another type.

Both sides are streamed; only `axes_of` holds a tensor, one of the two.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

from ..converters.casting import FLOATS, CastTensor, castable
from ..converters.dtypes import DType
from ..converters.tensors import Tensor
from .diff_values import COMPLEX, STEP, equal_bytes, numbers_of, pairs, words_of

if TYPE_CHECKING:
    import numpy as np

__all__ = ["axes_of", "cast_remark", "fingerprint"]

MAX_RANK = 5  # of which all orders of axes are tried: 120


def fingerprint(tensor: Tensor) -> tuple[int, int]:
    """Return numbers that are equal where two tensors have the same elements in any order."""
    total = squares = 0
    for chunk in tensor.chunks(STEP):
        words = words_of(tensor.spec.dtype, chunk).astype("u8")
        total += int(words.sum())
        squares += int((words * words).sum())
    return total % (1 << 64), squares % (1 << 64)


def axes_of(first: Tensor, second: Tensor) -> tuple[int, ...] | None:
    """Return the order of A's axes that gives B; None if none does, or too many may.

    Holds the first tensor, so ask only where there is evidence. Of more than five axes the orders
    are not tried.
    """
    shape, wanted = first.spec.shape, second.spec.shape
    if len(shape) > MAX_RANK or sorted(shape) != sorted(wanted):
        return None
    orders = [
        axes
        for axes in permutations(range(len(shape)))
        if list(axes) != sorted(axes) and tuple(shape[axis] for axis in axes) == wanted
    ]
    if not orders:
        return None
    raw = bytearray()
    for chunk in first.chunks(STEP):
        raw += chunk
    held = words_of(first.spec.dtype, memoryview(raw))
    whole = held.reshape(*shape, held.shape[1])
    for axes in orders:
        if _streams_as(second, whole.transpose(*axes, len(shape))):
            return axes
    return None


def _streams_as(tensor: Tensor, whole: np.ndarray) -> bool:
    """Tell whether a tensor has the elements of an array in its order; stops where not."""
    import numpy as np

    at = 0
    for chunk in tensor.chunks(STEP):
        words = words_of(tensor.spec.dtype, chunk).reshape(-1)
        if not np.array_equal(whole.flat[at : at + len(words)], words):
            return False
        at += len(words)
    return True


def cast_remark(first: Tensor, second: Tensor) -> str | None:
    """Return how one is the other in a narrower type, within one unit in its last place.

    Returns:
        What was lost, or an empty text where nothing was; None if it is no such cast.
    """
    wide, narrow = sorted((first, second), key=lambda each: -each.spec.dtype.itemsize)
    for source, target in ((wide, narrow), (narrow, wide)):
        dtype = target.spec.dtype
        if not castable(source.spec.dtype, dtype):
            continue
        cast = CastTensor(source, dtype)
        if all(_near(left, right, dtype) for left, right in pairs(cast, target)):
            overflow = cast.losses.overflow if cast.losses else 0
            return f"{overflow:,} beyond its range" if overflow else ""
    return None


def _near(left: memoryview, right: memoryview, dtype: DType) -> bool:
    """Tell whether values are equal or neighbours; NaN and infinities must be the same."""
    if equal_bytes(left, right):
        return True
    if dtype not in FLOATS and dtype not in COMPLEX:
        return False
    import numpy as np

    a, b = (numbers_of(dtype, each).view("f8") for each in (left, right))
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    x, y = (_ordered(each, dtype.swap_unit) for each in (left, right))
    return bool((same | (finite & (np.abs(x - y) <= 1))).all())


def _ordered(view: memoryview, width: int) -> np.ndarray:
    """Return floats as integers in their order; negative ones count downwards."""
    import numpy as np

    bits = np.frombuffer(view, f"i{width}").astype("i8")
    return np.where(bits < 0, -(1 << (8 * width - 1)) - bits, bits)
