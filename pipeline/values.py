"""Values of tensors, whole or in part: as numpy prints them, or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from ..converters.errors import ConvertError, UsageError, printable
from ..converters.names import near
from ..converters.tensors import Tensor, TensorDict
from .indexing import Axis, parse_index, whole
from .parts import read_part
from .tables import shape_text

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Wanted", "value_json", "value_lines"]

# numpy prints more than THRESHOLD values as the EDGE first and last along each axis.
THRESHOLD, EDGE = 1000, 3
MOST_VALUES = 1_000_000  # in JSON, and in the corners of a tensor of very many axes


@dataclass(frozen=True)
class Wanted:
    """A tensor, or a part of it.

    Attributes:
        name: of the tensor.
        tensor: itself.
        index: what stands in brackets behind the name; None without any.
        axes: what that takes.
    """

    name: str
    tensor: Tensor
    index: str | None
    axes: tuple[Axis, ...]

    @classmethod
    def find(cls, tensors: TensorDict, word: str) -> Wanted:
        """Return what a word such as `dense/kernel[0:4, :8]` means.

        A tensor of which this is the whole name comes first.

        Raises:
            UsageError: there is no such tensor, or the index does not fit it.
        """
        name, index = word, None
        if name not in tensors and word.endswith("]") and "[" in word:
            name, _, index = word[:-1].rpartition("[")
        if name not in tensors:
            hint = near(name, tensors) or "list the names with `convert inspect`"
            raise UsageError(f"no tensor is called `{name}`", hint=hint)
        shape = tensors[name].spec.shape
        if index is None:
            return cls(name, tensors[name], None, whole(shape))
        try:
            return cls(name, tensors[name], index, parse_index(index, shape))
        except UsageError as error:
            raise error.within(f"tensor `{name}`") from error

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is taken."""
        return tuple(len(axis.taken) for axis in self.axes if axis.kept)

    @property
    def partial(self) -> bool:
        """Whether less than the whole tensor is read to print it: then no checksum is verified."""
        return self._summarised or not (self._all or self.tensor.spec.dtype.variable)

    @property
    def _all(self) -> bool:
        sizes = zip(self.axes, self.tensor.spec.shape, strict=True)
        return all(len(axis.taken) == length for axis, length in sizes)

    @property
    def _summarised(self) -> bool:
        return prod(self.shape) > THRESHOLD and not self.tensor.spec.dtype.variable

    def read(self) -> np.ndarray:
        """Return the values.

        Raises:
            ConvertError: they cannot be read.
        """
        with self._named():
            if self._all or self.tensor.spec.dtype.variable:
                return self._taken(self.tensor.read())
            return read_part(self.tensor, [[axis.taken] for axis in self.axes]).reshape(self.shape)

    def text(self) -> str:
        """Return the values as numpy prints them; of many, only those that it shows are read.

        Raises:
            ConvertError: they cannot be read.
        """
        if not self._summarised:
            return str(self.read())
        import numpy as np

        with self._named():
            corners = self._corners()
        with np.printoptions(threshold=0, edgeitems=EDGE):
            return str(corners)

    def _corners(self) -> np.ndarray:
        """Return the corners, with one value between them that stands for all that are left out."""
        import numpy as np

        grid = [_edges(axis.taken) for axis in self.axes]
        if prod(sum(map(len, ranges)) for ranges in grid) > MOST_VALUES:
            what = f"tensor `{self.name}`: too many corners to print"
            hint = f"take a part of it: '{self.name}[0]'"
            raise UsageError(what, got=f"{len(grid)} axes", hint=hint)
        corners = read_part(self.tensor, grid)
        for number, ranges in enumerate(grid):
            if len(ranges) > 1:
                # The one that is never shown: numpy puts `...` in its place.
                corners = np.insert(corners, EDGE, corners.dtype.type(0), axis=number)
        kept = [slice(None) if axis.kept else 0 for axis in self.axes]
        shown: np.ndarray = corners[tuple(kept)]
        return shown

    def _taken(self, array: np.ndarray) -> np.ndarray:
        """Return what is taken of the whole array."""
        index = tuple(
            slice(axis.taken.start, axis.taken.stop, axis.taken.step) for axis in self.axes
        )
        return array[index].reshape(self.shape)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except UsageError:
            raise
        except ConvertError as error:
            raise error.within(f"tensor `{self.name}`") from error


def _edges(taken: range) -> list[range]:
    if len(taken) <= 2 * EDGE:
        return [taken]
    return [taken[:EDGE], taken[-EDGE:]]


def value_lines(wanted: Wanted) -> Iterator[str]:
    """Yield lines for people: name, dtype and shape, then the values as numpy prints them.

    Raises:
        ConvertError: the values cannot be read.
    """
    text = wanted.text()
    title = wanted.name if wanted.index is None else f"{wanted.name}[{wanted.index}]"
    dtype, shape = wanted.tensor.spec.dtype.label, shape_text(wanted.shape)
    yield f"{printable(title)}  {dtype}  {shape}"
    yield from text.splitlines()


def value_json(wanted: Wanted) -> str:
    """Return one line of JSON with all values, nested as the shape says.

    Raises:
        UsageError: they are too many for a text.
        ConvertError: they cannot be read.
    """
    count = prod(wanted.shape)
    if count > MOST_VALUES:
        raise UsageError(
            f"tensor `{wanted.name}`: too many values for JSON",
            expected=f"at most {MOST_VALUES:,}",
            got=f"{count:,}",
            hint=f"take a part, such as '{wanted.name}[0]', or convert it: "
            f"convert SRC part.npz --include '{wanted.name}'",
        )
    content = {
        "name": wanted.name,
        "dtype": wanted.tensor.spec.dtype.label,
        "shape": wanted.shape,
        "slice": wanted.index,
        "values": _plain(wanted.read()),
    }
    return json.dumps(content, separators=(",", ":"))


def _plain(array: np.ndarray) -> Any:
    """Return nested lists of what JSON has; a complex number is a pair."""
    import numpy as np

    kind = array.dtype.kind
    if kind == "O":
        return _mapped(array.tolist(), _text)
    if kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    elif kind not in "fiub":  # ml_dtypes: small floats and integers
        array = array.astype("f8" if "float" in array.dtype.name else "i8")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _mapped(array.tolist(), _number)
    return array.tolist()


def _mapped(value: Any, change: Callable[[Any], object]) -> Any:
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    return change(value)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _number(value: float) -> float | str:
    """Return what JSON has no number for as `nan`, `inf` or `-inf`."""
    return value if math.isfinite(value) else str(value)
