"""What can be done to a tensor without reading it: each gives a tensor that changes when read.

Bytes stream through in chunks. Only a tensor of which the axes or the outermost blocks change
their order is held whole, as long as it is read. Where bytes stay as they are, their extents do
too. Checksums of the source are verified as always: what is cut off is read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from math import prod

from ..converters.casting import FLOATS, CastTensor
from ..converters.dtypes import DType
from ..converters.errors import UsageError
from ..converters.tensors import ChunkTensor, ElementTensor, ExtentTensor, Tensor, TensorSpec
from .permuting import PermutedTensor, merged
from .transformed import (
    JoinedTensor,
    PaddedTensor,
    ReorderedTensor,
    SeenTensor,
    SlicedTensor,
    SumTensor,
)

__all__ = [
    "Range", "divided", "filled", "fitted", "joined", "permuted", "reordered", "reshaped", "scaled",
    "sliced", "stacked", "summed", "weighted_sum",
]  # fmt: skip

_WIDE = {DType.COMPLEX64: DType.COMPLEX128, DType.COMPLEX128: DType.COMPLEX128}

Range = tuple[int, int, int]  # start, stop and step along an axis, as of Python's `range`


def permuted(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """Return a tensor with its axes in another order, as `numpy.transpose` does it.

    Args:
        tensor: of elements of fixed size.
        axes: for each axis of the result, which one it was; negative ones count from the end.

    Raises:
        UsageError: these are not all axes, or elements vary in length.
    """
    _refuse_variable(tensor, "permuted")
    shape = tensor.spec.shape
    rank = len(shape)
    places = tuple(axis + rank if -rank <= axis < 0 else axis for axis in axes)
    if sorted(places) != list(range(rank)):
        raise UsageError("is not permuted", expected=f"each of {rank} axes once", got=_list(axes))
    if len(merged(shape, places)[0]) == 1:  # no byte moves
        return _seen_as(tensor, tuple(shape[axis] for axis in places))
    return PermutedTensor(tensor, places)


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the same elements in another shape.

    Args:
        tensor: any.
        shape: its lengths; one may be -1, which stands for what is left.

    Raises:
        UsageError: there are more or fewer elements.
    """
    size = tensor.spec.size
    known = prod(length for length in shape if length != -1)
    open_lengths = list(shape).count(-1)
    fits = known == size if not open_lengths else bool(known) and size % known == 0
    if open_lengths > 1 or any(length < -1 for length in shape) or not fits:
        raise UsageError(
            "is not reshaped", expected=f"a shape of {size} elements", got=_list(shape)
        )
    rest = size // known if open_lengths else 0
    return _seen_as(tensor, tuple(rest if length == -1 else length for length in shape))


def sliced(tensor: Tensor, ranges: Sequence[Range]) -> Tensor:
    """Return a part of a tensor.

    Args:
        tensor: of elements of fixed size.
        ranges: for each axis, within its length; steps are positive.

    Raises:
        UsageError: there is no such part.
    """
    _refuse_variable(tensor, "sliced")
    shape = tensor.spec.shape
    within = len(ranges) == len(shape) and all(
        0 <= start <= stop <= length and step > 0
        for (start, stop, step), length in zip(ranges, shape, strict=True)
    )
    if not within:
        raise UsageError("is not sliced", expected=f"a part of {_list(shape)}", got=_list(ranges))
    if all(each == (0, length, 1) for each, length in zip(ranges, shape, strict=True)):
        return tensor
    return SlicedTensor(tensor, tuple(range(*each) for each in ranges))


def fitted(tensor: Tensor, shape: Sequence[int], fill: float = 0.0) -> Tensor:
    """Return a tensor cropped and padded to a shape, both at the end of each axis.

    Args:
        tensor: of elements of fixed size.
        shape: as many axes as it has.
        fill: what to pad with.

    Raises:
        UsageError: the number of axes differs, or the type cannot hold `fill`.
    """
    _refuse_variable(tensor, "padded")
    now = tensor.spec.shape
    if len(shape) != len(now) or any(length < 0 for length in shape):
        raise UsageError(
            "is not padded or cropped",
            expected=f"{len(now)} axes, as {_list(now)}",
            got=_list(shape),
        )
    cropped = sliced(tensor, [(0, min(old, new), 1) for old, new in zip(now, shape, strict=True)])
    if cropped.spec.shape == tuple(shape):
        return cropped
    return PaddedTensor(cropped, tuple(shape), _element(tensor.spec.dtype, fill))


def scaled(tensor: Tensor, factor: float) -> Tensor:
    """Return floats times a number: computed in float64, rounded once.

    Raises:
        UsageError: elements are no floats.
    """
    dtype = tensor.spec.dtype
    if dtype not in FLOATS:
        raise UsageError("is not scaled", expected="floats", got=dtype)
    wide = tensor if dtype is DType.FLOAT64 else CastTensor(tensor, DType.FLOAT64)
    product = ChunkTensor(wide.spec, wide, partial(_times, factor))
    return product if dtype is DType.FLOAT64 else CastTensor(product, dtype)


def summed(tensors: Sequence[Tensor]) -> Tensor:
    """Return the sum of float tensors: computed in float64, rounded once.

    Args:
        tensors: at least one; of the same dtype and shape.

    Raises:
        UsageError: they are not, or no floats.
    """
    spec = tensors[0].spec
    for tensor in tensors:
        if tensor.spec != spec or spec.dtype not in FLOATS:
            raise UsageError(
                "is not added to the others", expected=f"floats of {_list(spec.shape)}",
                got=f"{tensor.spec.dtype} {_list(tensor.spec.shape)}",
            )  # fmt: skip
    if len(tensors) == 1:
        return tensors[0]
    return weighted_sum(tensors, [1.0] * len(tensors))


def weighted_sum(
    tensors: Sequence[Tensor], weights: Sequence[float], divisor: float = 1.0
) -> Tensor:
    """Return a weighted sum of floats or complex numbers: computed wide, rounded once.

    Args:
        tensors: at least one; of the same dtype and shape.
        weights: what each is multiplied with.
        divisor: what the sum is divided by.
    """
    dtype = tensors[0].spec.dtype
    wide = _WIDE.get(dtype, DType.FLOAT64)
    total = SumTensor([_as(tensor, wide) for tensor in tensors], weights, divisor)
    return _as(total, dtype)


def _as(tensor: Tensor, dtype: DType) -> Tensor:
    return tensor if tensor.spec.dtype is dtype else CastTensor(tensor, dtype)


def joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors one after the other along an axis.

    Args:
        tensors: at least one; of the same dtype, and the same lengths along all other axes.
        axis: negative ones count from the end.

    Raises:
        UsageError: they do not fit together.
    """
    first = tensors[0]
    _refuse_variable(first, "joined")
    axis = _axis(first, axis)
    for tensor in tensors[1:]:
        if tensor.spec.dtype is not first.spec.dtype or not _alike(tensor, first, axis):
            raise UsageError(
                "does not fit to the others it is joined with",
                expected=f"{first.spec.dtype} {_list(first.spec.shape)} but for axis {axis}",
                got=f"{tensor.spec.dtype} {_list(tensor.spec.shape)}",
            )
    return first if len(tensors) == 1 else JoinedTensor(tuple(tensors), axis)


def stacked(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors one after the other along a new axis.

    Raises:
        UsageError: dtypes or shapes differ.
    """
    rank = len(tensors[0].spec.shape)
    place = axis + rank + 1 if axis < 0 else axis
    if not 0 <= place <= rank:
        raise UsageError("is not stacked", expected=f"an axis of {rank + 1}", got=axis)
    for tensor in tensors[1:]:
        if tensor.spec.shape != tensors[0].spec.shape:
            raise UsageError(
                "does not fit to the others it is stacked with",
                expected=_list(tensors[0].spec.shape), got=_list(tensor.spec.shape),
            )  # fmt: skip
    shape = tensors[0].spec.shape
    shape = (*shape[:place], 1, *shape[place:])
    return joined([reshaped(tensor, shape) for tensor in tensors], place)


def divided(tensor: Tensor, axis: int, sizes: Sequence[int]) -> list[Tensor]:
    """Return the parts of a tensor along an axis.

    Args:
        tensor: of elements of fixed size.
        axis: negative ones count from the end.
        sizes: lengths of the parts, together that of the axis.

    Raises:
        UsageError: they are not.
    """
    _refuse_variable(tensor, "split")
    axis = _axis(tensor, axis)
    shape = tensor.spec.shape
    if sum(sizes) != shape[axis] or any(size < 0 for size in sizes):
        raise UsageError(
            "is not split", expected=f"lengths that add up to {shape[axis]}", got=_list(sizes)
        )
    whole = [(0, length, 1) for length in shape]
    ends = accumulate(sizes)
    return [
        sliced(tensor, [*whole[:axis], (end - size, end, 1), *whole[axis + 1 :]])
        for size, end in zip(sizes, ends, strict=True)
    ]


def reordered(tensor: Tensor, axis: int, order: Sequence[int]) -> Tensor:
    """Return a tensor with equal blocks along an axis in another order, such as gates.

    Args:
        tensor: of elements of fixed size.
        axis: negative ones count from the end.
        order: for each block of the result, which one it was.

    Raises:
        UsageError: the axis does not consist of so many equal blocks.
    """
    _refuse_variable(tensor, "reordered")
    axis = _axis(tensor, axis)
    length = tensor.spec.shape[axis]
    if sorted(order) != list(range(len(order))) or not order or length % len(order):
        raise UsageError(
            "is not reordered", expected=f"equal blocks of an axis of {length}", got=_list(order)
        )
    if list(order) == list(range(len(order))):
        return tensor
    return ReorderedTensor(tensor, axis, tuple(order))


def filled(spec: TensorSpec, value: float) -> Tensor:
    """Return a tensor with the same number everywhere.

    Raises:
        UsageError: the type cannot hold it.
    """
    shape = spec.shape or (1,)
    nothing = ExtentTensor(TensorSpec(spec.dtype, (0,) * len(shape)), ())
    made = PaddedTensor(nothing, shape, _element(spec.dtype, value))
    return _seen_as(made, spec.shape)


def _seen_as(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if shape == tensor.spec.shape:
        return tensor
    spec = TensorSpec(tensor.spec.dtype, shape)
    if tensor.spec.dtype.variable:
        return ElementTensor(spec, tensor.elements, tensor.nbytes)
    if tensor.extents is not None:
        return ExtentTensor(spec, tensor.extents)
    return SeenTensor(tensor, shape)


def _times(factor: float, chunk: memoryview) -> bytes:
    import numpy as np

    with np.errstate(all="ignore"):  # an infinity is what the product is
        return (np.frombuffer(chunk, np.float64) * factor).tobytes()


def _element(dtype: DType, value: float) -> bytes:
    """Return the bytes of one element.

    Raises:
        UsageError: it is an integer type that has no such number.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        made = np.asarray([value]).astype(dtype.numpy())
    if dtype not in FLOATS and made[0] != value:
        raise UsageError("is not filled", expected=f"a number that {dtype} holds", got=value)
    return made.tobytes()


def _alike(tensor: Tensor, other: Tensor, axis: int) -> bool:
    """Tell whether two shapes are the same but for an axis."""
    mine, theirs = tensor.spec.shape, other.spec.shape
    without = (mine[:axis], mine[axis + 1 :]) == (theirs[:axis], theirs[axis + 1 :])
    return len(mine) == len(theirs) and without


def _axis(tensor: Tensor, axis: int) -> int:
    rank = len(tensor.spec.shape)
    place = axis + rank if axis < 0 else axis
    if not 0 <= place < rank:
        raise UsageError("has no such axis", expected=f"one of {rank}", got=axis)
    return place


def _refuse_variable(tensor: Tensor, what: str) -> None:
    if tensor.spec.dtype.variable:
        raise UsageError(f"is not {what}", expected="elements of fixed size", got=tensor.spec.dtype)


def _list(values: Sequence[object]) -> str:
    return f"({', '.join(map(str, values))})"
