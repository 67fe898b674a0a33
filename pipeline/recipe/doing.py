"""Steps done to tensors; nothing is read here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from ...converters.casting import CastTensor, castable
from ...converters.dtypes import DType
from ...converters.errors import UsageError
from ...converters.tensors import Tensor, TensorSpec
from ..transforms import (
    Range,
    divided,
    filled,
    fitted,
    joined,
    permuted,
    reordered,
    reshaped,
    scaled,
    sliced,
    stacked,
)
from .expressions import Value, whole
from .model import Step
from .steps import Constant, Fit, Gates, Length, Split
from .templates import Template

__all__ = ["Lookup", "done", "joined_by", "parts_of"]

Lookup: TypeAlias = Callable[[str], Value]


def done(tensor: Tensor, step: Step, lookup: Lookup) -> Tensor:
    """Return a tensor with one step done to it.

    Raises:
        UsageError: that cannot be done to this tensor.
        ValueError: a placeholder cannot be filled.
    """
    made = _STEPS[step.name](tensor, step.value, lookup)
    if not made.spec.addressable:
        raise UsageError("becomes larger than any array", got=made.spec.shape)
    return made


def joined_by(step: Step, tensors: Sequence[Tensor]) -> Tensor:
    """Return what the first step of a rule makes of a group.

    Raises:
        UsageError: they do not fit together.
    """
    return (joined if step.name == "concat" else stacked)(tensors, step.value)


def parts_of(tensor: Tensor, split: Split, lookup: Lookup) -> list[Tensor]:
    """Return the parts that a tensor is cut into.

    Raises:
        UsageError: it cannot be cut so.
        ValueError: a placeholder cannot be filled.
    """
    if split.sizes is not None:
        return divided(tensor, split.axis, _lengths(split.sizes, lookup))
    shape, count = tensor.spec.shape, len(split.into)
    if -len(shape) <= split.axis < len(shape) and shape[split.axis] % count:
        raise UsageError(
            "is not split", expected=f"{count} equal parts", got=f"an axis of {shape[split.axis]}",
            hint="give the lengths with `sizes`",
        )  # fmt: skip
    length = shape[split.axis] if -len(shape) <= split.axis < len(shape) else 0
    return divided(tensor, split.axis, [length // count] * count)


def _lengths(lengths: Sequence[Length], lookup: Lookup) -> list[int]:
    return [_length(each, lookup) for each in lengths]


def _length(length: Length, lookup: Lookup) -> int:
    return whole(length.value(lookup), length.text) if isinstance(length, Template) else length


def _cast(tensor: Tensor, dtype: DType, lookup: Lookup) -> Tensor:
    del lookup
    if dtype is tensor.spec.dtype:
        return tensor
    if not castable(tensor.spec.dtype, dtype):
        raise UsageError(f"{tensor.spec.dtype} is not cast to {dtype}")
    return CastTensor(tensor, dtype)


def _transpose(tensor: Tensor, value: bool, lookup: Lookup) -> Tensor:
    del value, lookup
    if len(tensor.spec.shape) != 2:
        raise UsageError(
            "is not transposed", expected="2 axes", got=tensor.spec.shape,
            hint="permute = […] says the order of the axes",
        )  # fmt: skip
    return permuted(tensor, (1, 0))


def _permute(tensor: Tensor, axes: tuple[int, ...], lookup: Lookup) -> Tensor:
    del lookup
    return permuted(tensor, axes)


def _reshape(tensor: Tensor, shape: tuple[Length, ...], lookup: Lookup) -> Tensor:
    return reshaped(tensor, _lengths(shape, lookup))


def _squeeze(tensor: Tensor, axes: tuple[int, ...] | None, lookup: Lookup) -> Tensor:
    del lookup
    shape = tensor.spec.shape
    if axes is None:
        return reshaped(tensor, [length for length in shape if length != 1])
    places = _places(axes, len(shape))
    if any(shape[place] != 1 for place in places):
        raise UsageError("is not squeezed", expected=f"length 1 of {axes}", got=shape)
    return reshaped(tensor, [each for place, each in enumerate(shape) if place not in places])


def _expand(tensor: Tensor, axes: tuple[int, ...], lookup: Lookup) -> Tensor:
    del lookup
    rank = len(tensor.spec.shape) + len(axes)
    places, lengths = _places(axes, rank), iter(tensor.spec.shape)
    return reshaped(tensor, [1 if place in places else next(lengths) for place in range(rank)])


def _places(axes: Sequence[int], rank: int) -> set[int]:
    places = {axis + rank if axis < 0 else axis for axis in axes}
    if len(places) < len(axes) or not all(0 <= place < rank for place in places):
        raise UsageError("has no such axes", expected=f"different ones of {rank}", got=tuple(axes))
    return places


def _slice(
    tensor: Tensor, ranges: tuple[tuple[Template | None, ...], ...], lookup: Lookup
) -> Tensor:
    shape = tensor.spec.shape
    if len(ranges) > len(shape):
        raise UsageError("is not sliced", expected=f"at most {len(shape)} axes", got=len(ranges))
    found = [
        _range(each, length, lookup) for each, length in zip(ranges, shape, strict=False)
    ]  # fmt: skip
    return sliced(tensor, [*found, *((0, length, 1) for length in shape[len(ranges) :])])


def _range(parts: tuple[Template | None, ...], length: int, lookup: Lookup) -> Range:
    """Return a range within an axis; what reaches beyond it is an error and not cut short."""
    start, stop, step = (None if part is None else _signed(part, lookup) for part in parts)
    start, stop = _within(start, 0, length), _within(stop, length, length)
    if not 0 <= start <= stop <= length or (step is not None and step < 1):
        raise UsageError("is not sliced", expected=f"a part of 0:{length}", got=f"{start}:{stop}")
    return start, stop, 1 if step is None else step


def _within(place: int | None, usual: int, length: int) -> int:
    if place is None:
        return usual
    return place + length if place < 0 else place


def _signed(part: Template, lookup: Lookup) -> int:
    text = str(part.value(lookup))
    number = whole(text.removeprefix("-"), part.text)
    return -number if text.startswith("-") else number


def _fit(tensor: Tensor, fit: Fit, lookup: Lookup) -> Tensor:
    shape = tensor.spec.shape
    wanted = _lengths(fit.shape, lookup)
    if len(wanted) == len(shape):
        wanted = [old if new == -1 else new for old, new in zip(shape, wanted, strict=True)]
    return fitted(tensor, wanted, fit.fill)


def _scale(tensor: Tensor, factor: float, lookup: Lookup) -> Tensor:
    del lookup
    return scaled(tensor, factor)


def _constant(tensor: Tensor, constant: Constant, lookup: Lookup) -> Tensor:
    now, shape = tensor.spec, constant.shape
    lengths = now.shape if shape is None else tuple(_lengths(shape, lookup))
    return filled(TensorSpec(constant.dtype or now.dtype, lengths), constant.value)


def _gates(tensor: Tensor, gates: Gates, lookup: Lookup) -> Tensor:
    del lookup
    return reordered(tensor, gates.axis, gates.order)


_STEPS: Mapping[str, Callable[[Tensor, Any, Lookup], Tensor]] = {
    "cast": _cast,
    "transpose": _transpose,
    "permute": _permute,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand": _expand,
    "slice": _slice,
    "fit": _fit,
    "scale": _scale,
    "constant": _constant,
    "gates": _gates,
}
