"""Which tensors of both sides hold the same values, perhaps with axes in another order.

Each tensor that the other side may hold is streamed once for a number that no order of axes
changes. Where those are equal, the orders are tried; only then one tensor is held. What is zero or
one throughout is no evidence: every model has such biases.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ...converters.casting import INTEGERS, CastTensor, castable
from ...converters.dtypes import DType
from ...converters.errors import ConvertError
from ...converters.tensors import Tensor
from ...converters.threads import run_all
from ..diff_forms import axes_of, fingerprint
from ..diff_values import equal_values
from ..transforms import reshaped
from .ways import Way

__all__ = ["Same", "Values", "values_of"]

_ONES = {
    "float16": 0x3C00,
    "bfloat16": 0x3F80,
    "float32": 0x3F800000,
    "float64": 0x3FF0000000000000,
}

_Classes: TypeAlias = "dict[Hashable, tuple[list[str], list[str]]]"


class Same(NamedTuple):
    """A source and the targets that hold its values, and the ways from one to the other."""

    source: str
    targets: tuple[str, ...]
    ways: tuple[Way, ...]


@dataclass(frozen=True)
class Values:
    """What values say.

    Attributes:
        same: sources with all targets that hold their values.
        classes: by name of a source, the targets that hold the same elements; for a veto.
    """

    same: tuple[Same, ...] = ()
    classes: Mapping[str, frozenset[str]] = field(default_factory=dict)


def values_of(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    jobs: int,
    advance: Callable[[int], None] | None = None,
) -> Values:
    """Return which tensors hold the same values.

    Args:
        first: tensors of the source.
        second: tensors of the target.
        jobs: number of threads.
        advance: called with the number of bytes just read of the source.

    Raises:
        ConvertError: a tensor cannot be read.
    """
    strong, weak = _keyed(first, second, jobs, advance)
    same = list(_same(strong, first, second))
    if same:  # the models are akin, so that one bias of zeros is the other
        single = {key: each for key, each in weak.items() if len(each[0]) == len(each[1]) == 1}
        same += _same(single, first, second)
    classes = {
        name: frozenset(others) for names, others in strong.values() if others for name in names
    }
    return Values(tuple(same), classes)


def _same(
    classes: _Classes, first: Mapping[str, Tensor], second: Mapping[str, Tensor]
) -> Iterable[Same]:
    for names, others in classes.values():
        if len(names) == 1 and others:
            ways = _ways(first[names[0]], second[others[0]])
            fitting = [each for each in others[1:] if _ways(first[names[0]], second[each]) == ways]
            if ways:
                yield Same(names[0], (others[0], *fitting), ways)


# Classes of equal elements


def _kind(tensor: Tensor) -> tuple[int, ...] | None:
    """Return what is the same for all that one tensor may be: lengths of its axes."""
    if tensor.spec.dtype.variable or not tensor.spec.size:
        return None
    return tuple(sorted(each for each in tensor.spec.shape if each != 1))


def _keyed(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    jobs: int,
    advance: Callable[[int], None] | None,
) -> tuple[_Classes, _Classes]:
    """Return names of both sides with equal elements: those that are evidence, and the others."""
    sides = (first, second)
    types = [_types(side) for side in sides]
    tasks = [
        (side, name, seen)
        for side in (0, 1)
        for name, tensor in sides[side].items()
        for seen in _seen_as(tensor, types[1 - side].get(_kind(tensor), frozenset()))
    ]
    found: dict[tuple[int, str, DType], tuple[int, int]] = {}

    def work(task: tuple[int, str, DType]) -> None:
        side, name, seen = task
        tensor = sides[side][name]
        try:
            same = seen is tensor.spec.dtype
            found[task] = fingerprint(tensor if same else CastTensor(tensor, seen))
        except ConvertError as error:
            raise error.within(f"tensor `{name}`") from error
        if advance and not side:
            advance(tensor.nbytes)

    run_all(lambda: work, tasks, jobs)
    strong: _Classes = {}
    weak: _Classes = {}
    for task in tasks:
        side, name, seen = task
        kind = _kind(sides[side][name])
        classes = weak if _is_plain(found[task], sides[side][name].spec.size, seen) else strong
        classes.setdefault((kind, seen, found[task]), ([], []))[side].append(name)
    return _shared(strong), _shared(weak)


def _shared(classes: _Classes) -> _Classes:
    return {key: each for key, each in classes.items() if each[0] and each[1]}


def _types(side: Mapping[str, Tensor]) -> dict[tuple[int, ...] | None, frozenset[DType]]:
    found: dict[tuple[int, ...] | None, set[DType]] = {}
    for tensor in side.values():
        found.setdefault(_kind(tensor), set()).add(tensor.spec.dtype)
    return {kind: frozenset(each) for kind, each in found.items() if kind is not None}


def _seen_as(tensor: Tensor, others: frozenset[DType]) -> Iterable[DType]:
    """Yield the types to compare a tensor in: its own, or the narrower of its own and another's."""
    own = tensor.spec.dtype
    if own in others:
        yield own
        return
    narrow = {
        min((own, other), key=lambda each: each.itemsize)
        for other in others
        if (own in INTEGERS) == (other in INTEGERS)
    }
    yield from (each for each in sorted(narrow, key=str) if each is own or castable(own, each))


def _is_plain(found: tuple[int, int], size: int, dtype: DType) -> bool:
    """Tell whether all elements are zero, or all are one."""
    one = _ONES.get(dtype.label, 1)
    return found in ((0, 0), (size * one % (1 << 64), size * one * one % (1 << 64)))


# Orders of axes


def _ways(source: Tensor, target: Tensor) -> tuple[Way, ...]:
    """Return orders of axes that make one the other; may hold the source."""
    narrow = min((source.spec.dtype, target.spec.dtype), key=lambda each: each.itemsize)
    ours, theirs = (_as(narrow, each) for each in (source, target))
    way = Way()
    shape, wanted = ours.spec.shape, theirs.spec.shape
    if sorted(shape) != sorted(wanted):
        expand = tuple(place for place, each in enumerate(wanted) if each == 1)
        way = Way(1 in shape, (), expand)
        ours, theirs = (reshaped(each, _long(each.spec.shape)) for each in (ours, theirs))
        shape = ours.spec.shape
    found = []
    if ours.spec.shape == theirs.spec.shape and equal_values(ours, theirs):
        found.append(way)
    axes = axes_of(ours, theirs)
    if axes is not None and (ours.spec.shape != theirs.spec.shape or _moves(axes, shape)):
        found.append(way._replace(axes=axes))
    return tuple(found)


def _as(dtype: DType, tensor: Tensor) -> Tensor:
    return tensor if tensor.spec.dtype is dtype else CastTensor(tensor, dtype)


def _long(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _moves(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether an order moves any byte."""
    long = [axis for axis in axes if shape[axis] != 1]
    return long != sorted(long)
