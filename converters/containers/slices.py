"""Stitching: a partitioned tensor from its slices, with nothing missing and nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..errors import CorruptFileError
from ..tensors import ElementTensor, ExtentTensor, MemoryTensor, Tensor, TensorSpec

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Part", "stitch"]


class Part(NamedTuple):
    """A slice: its first element and number of elements per dimension, and its values."""

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    tensor: Tensor


def stitch(spec: TensorSpec, parts: Sequence[Part]) -> Tensor:
    """Return the whole tensor of its parts, in any order.

    Parts along the first axis lie one behind the other in the whole, so their byte ranges are
    those of the whole; any other partition is put together in memory when it is read.

    Raises:
        CorruptFileError: a part lies outside, two overlap, or something is not covered.
    """
    _check(spec, parts)
    ordered = sorted(parts, key=lambda part: part.starts)
    extents = [part.tensor.extents for part in ordered]
    in_order = all(part.lengths[1:] == spec.shape[1:] for part in ordered)
    if in_order and all(extents):
        joined = tuple(extent for some in extents if some for extent in some)
        return ExtentTensor(spec, joined)
    if spec.dtype.variable:
        nbytes = sum(part.tensor.nbytes for part in parts)
        return ElementTensor(spec, lambda: list(_assemble(spec, ordered).ravel()), nbytes)
    return MemoryTensor(spec, lambda: _assemble(spec, ordered).tobytes())


def _assemble(spec: TensorSpec, parts: Sequence[Part]) -> np.ndarray:
    import numpy as np  # only here: whole tensors that are contiguous need none

    dtype = object if spec.dtype.variable else f"V{spec.dtype.itemsize}"
    whole = np.empty(spec.shape, dtype)
    for part in parts:
        place = tuple(
            slice(start, start + length)
            for start, length in zip(part.starts, part.lengths, strict=True)
        )
        values = part.tensor.read()
        whole[place] = values if spec.dtype.variable else values.view(dtype)
    return whole


def _check(spec: TensorSpec, parts: Sequence[Part]) -> None:
    for part in parts:
        bounds = zip(part.starts, part.lengths, spec.shape, strict=True)
        if any(start < 0 or length < 1 or start + length > dim for start, length, dim in bounds):
            raise CorruptFileError(
                "slice lies outside the tensor",
                expected=f"within {spec.shape}",
                got=f"{part.lengths} at {part.starts}",
            )
    covered = sum(prod(part.lengths) for part in parts)
    _check_overlap(spec, parts)
    if covered != spec.size:
        raise CorruptFileError(
            "slices leave a hole", expected=f"{spec.size} elements", got=f"{covered} covered"
        )


def _check_overlap(spec: TensorSpec, parts: Sequence[Part]) -> None:
    """Sweep along the axis that is cut most; only parts that reach past a start can overlap it."""
    cuts = [len({part.starts[axis] for part in parts}) for axis in range(len(spec.shape))]
    axis = cuts.index(max(cuts)) if cuts else None
    active: list[Part] = []
    for part in parts if axis is None else sorted(parts, key=lambda part: part.starts[axis]):
        if axis is not None:
            first = part.starts[axis]
            active = [other for other in active if other.starts[axis] + other.lengths[axis] > first]
        for other in active:
            if _overlap(part, other):
                raise CorruptFileError(
                    "slices overlap",
                    got=f"{part.lengths} at {part.starts} and {other.lengths} at {other.starts}",
                )
        active.append(part)


def _overlap(a: Part, b: Part) -> bool:
    return all(
        x < y + n and y < x + m
        for x, m, y, n in zip(a.starts, a.lengths, b.starts, b.lengths, strict=True)
    )
