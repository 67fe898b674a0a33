"""What takes a second look at the values: slices that are zero, and tensors that are the same."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..converters.digests import digest_all
from ..converters.errors import ConvertError
from ..converters.tensors import Tensor, TensorDict
from ..converters.threads import run_all
from .stats import Stats

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Dead", "dead_slices", "duplicates"]

Advance = Callable[[int], None]

# A longer axis is not looked at: it takes a byte for each slice.
MAX_SLICES = 1 << 24


class Dead(NamedTuple):
    """Slices along an axis of which all values are zero.

    Attributes:
        is_first: whether it is the first axis; else the last.
        dead: how many slices are zero.
        length: how many there are.
        example: the index of one that is zero.
    """

    is_first: bool
    dead: int
    length: int
    example: int

    @property
    def text(self) -> str:
        """What a person should know."""
        axis, index = ("first", "[{}]") if self.is_first else ("last", "[..., {}]")
        verb = "is" if self.dead == 1 else "are"
        what = f"{self.dead:,} of {self.length:,} slices along the {axis} axis {verb} zero"
        return f"{what}, such as {index.format(self.example)}"


def dead_slices(
    tensors: TensorDict, zeros: Mapping[str, int], jobs: int, advance: Advance | None
) -> dict[str, list[Dead]]:
    """Return the slices that are zero; reads only tensors with zeros enough for one.

    Args:
        tensors: the model.
        zeros: how many zeros are in each tensor that matters, of two dimensions and more.
        jobs: number of threads.
        advance: called with the number of bytes just read.

    Raises:
        ConvertError: a tensor cannot be read; the error names it.
    """
    found: dict[str, list[Dead]] = {}

    def work(name: str) -> None:
        tensor = tensors[name]
        periods = [each for each in _axes(tensor) if each.slice_size <= zeros[name]]
        try:
            dead = _scan(tensor, periods, advance)
        except ConvertError as error:
            raise error.within(f"tensor `{name}`") from error
        if dead:
            found[name] = dead

    names = [
        name
        for name, count in zeros.items()
        if any(each.slice_size <= count for each in _axes(tensors[name]))
    ]
    run_all(lambda: work, names, jobs)
    return found


class _Axis(NamedTuple):
    is_first: bool
    length: int
    slice_size: int


def _axes(tensor: Tensor) -> list[_Axis]:
    """Return the first and the last axis, where slices along them are more than one number."""
    size, shape = tensor.spec.size, tensor.spec.shape
    axes = [_Axis(True, shape[0], size // shape[0]), _Axis(False, shape[-1], size // shape[-1])]
    return [each for each in axes if 1 < each.length <= MAX_SLICES and each.slice_size > 1]


def _scan(tensor: Tensor, axes: list[_Axis], advance: Advance | None) -> list[Dead]:
    """Read a tensor and return its dead slices along some axes."""
    import numpy as np

    kind = tensor.spec.dtype.numpy()
    alive = [np.zeros(each.length, bool) for each in axes]
    at = 0
    for chunk in tensor.chunks():
        with np.errstate(invalid="ignore"):  # a signalling NaN is not zero either
            mask = np.frombuffer(chunk, kind) != 0
        for axis, seen in zip(axes, alive, strict=True):
            if axis.is_first:
                _mark_blocks(seen, mask, at, axis.slice_size)
            else:
                _mark_columns(seen, mask, at)
        at += len(mask)
        if advance:
            advance(len(chunk))
    found = zip(axes, (np.flatnonzero(~seen) for seen in alive), strict=True)
    return [
        Dead(axis.is_first, len(dead), axis.length, int(dead[0]))
        for axis, dead in found
        if len(dead)
    ]


def _mark_blocks(seen: np.ndarray, mask: np.ndarray, at: int, size: int) -> None:
    """Mark each block of `size` values, of which all lie together, that is not zero.

    Args:
        seen: by number of the block.
        mask: where values are not zero.
        at: place of the first of these values in the tensor.
        size: of a block.
    """
    import numpy as np

    first, last = at // size, (at + len(mask) - 1) // size
    starts = np.arange(first, last + 1) * size - at
    starts[0] = 0
    seen[first : last + 1] |= np.logical_or.reduceat(mask, starts)


def _mark_columns(seen: np.ndarray, mask: np.ndarray, at: int) -> None:
    """Mark each column that is not zero; rows are as long as `seen`."""
    width = len(seen)
    head = min(-at % width, len(mask))  # up to the end of a row that began before
    column = at % width
    seen[column : column + head] |= mask[:head]
    rows = (len(mask) - head) // width
    body, tail = mask[head : head + rows * width], mask[head + rows * width :]
    seen |= body.reshape(rows, width).any(axis=0)
    seen[: len(tail)] |= tail


def duplicates(
    tensors: TensorDict, stats: Mapping[str, Stats], jobs: int, advance: Advance | None
) -> dict[str, str]:
    """Return the tensors that are an earlier one once more, each with the name of that one.

    Only tensors with shape, dtype and statistics in common are read.

    Args:
        tensors: the model.
        stats: of those that matter.
        jobs: number of threads.
        advance: called with the number of bytes just read.

    Raises:
        ConvertError: a tensor cannot be read; the error names it.
    """
    alike: dict[Hashable, list[str]] = {}
    for name, each in stats.items():
        facts = (each.minimum, each.maximum, each.zeros, each.nans, each.infinities)
        alike.setdefault((tensors[name].spec, facts), []).append(name)
    several = [name for names in alike.values() if len(names) > 1 for name in names]
    digests = digest_all(tensors, several, jobs, advance)
    firsts: dict[str, str] = {}
    for name in several:
        firsts.setdefault(digests[name], name)
    return {name: firsts[digests[name]] for name in several if firsts[digests[name]] != name}
