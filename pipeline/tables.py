"""Tables for people: of all tensors, by layer, and of statistics; plain text or for a terminal.

Plain text is made here and is fast; what a terminal shows is laid out by rich.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..converters.dtypes import DType
from ..converters.errors import printable
from ..converters.tensors import Role, Tensor, TensorDict

if TYPE_CHECKING:
    from .stats import Stats

__all__ = [
    "Column",
    "Line",
    "Size",
    "Sort",
    "Table",
    "counted",
    "exact",
    "plain",
    "shape_text",
    "sort",
    "stats_table",
    "table",
    "tree",
]

Sort = Literal["size", "name"]
Size = Callable[[int], str]  # how a number of bytes is shown

MAX_DEPTH = 64  # layers of a tree; what is deeper stays in one piece


class Line(Enum):
    """What a row is about."""

    TENSOR = "tensor"
    BROKEN = "tensor that cannot be read"
    LAYER = "layer"
    TOTAL = "total"


class Column(NamedTuple):
    """A column: its title, and whether it holds numbers, which stand at its right."""

    title: str
    right: bool = False


Cells = tuple[str, ...]
Row = tuple[Line, str, Cells]  # the name, and what stands behind it
# All that the cells of a tensor depend on: role, bytes, type, shape, slot, whether it is trained,
# and whether it cannot be read. No class: 100,000 of them are made.
_Like = tuple[Role, int, DType, tuple[int, ...], str | None, bool | None, bool]


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first column holds names."""

    columns: tuple[Column, ...]
    rows: list[Row]


_COLUMNS = (Column("name"), Column("role"), Column("dtype"), Column("shape"))
_MEASURED = ("min", "max", "mean", "std", "norm", "zeros", "nan", "inf")


def exact(nbytes: int) -> str:
    """Return a number of bytes to the last one."""
    return f"{nbytes:,}"


def _columns(size: Size) -> tuple[Column, ...]:
    return (*_COLUMNS, Column("bytes" if size is exact else "size", right=True))


def sort(tensors: TensorDict, by: Sort | None) -> TensorDict:
    """Return the tensors with the largest first, or by name with numbers in their order."""
    if by is None:
        return tensors
    if by == "size":
        return tensors.select(sorted(tensors, key=lambda name: -tensors[name].nbytes))
    return tensors.select(sorted(tensors, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a key that puts `layer_2` before `layer_10`."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(int(part), part) if at % 2 else (0, part) for at, part in enumerate(parts)]


# Every tensor


def table(tensors: TensorDict, size: Size = exact) -> Table:
    """Return a row for each tensor, with totals at the end."""
    cells = _Cells(tensors, size)
    rows = [cells.row(printable(name), name, tensor) for name, tensor in tensors.tensors.items()]
    return Table(_columns(size), rows + cells.totals())


class _Cells:
    """The cells behind a name, made once for all tensors that are alike, and counted."""

    def __init__(self, tensors: TensorDict, size: Size) -> None:
        self._tensors = tensors
        self._size = size
        self._known: dict[_Like, Cells] = {}
        self._counts: dict[_Like, int] = {}

    def row(self, title: str, name: str, tensor: Tensor) -> Row:
        """Return the row of a tensor; to be asked for once."""
        origin, spec = self._tensors.origin(name), tensor.spec
        broken = name in self._tensors.broken
        like = (
            origin.role, tensor.nbytes, spec.dtype, spec.shape, origin.slot, origin.trainable,
            broken,
        )  # fmt: skip
        cells = self._known.get(like)
        if cells is None:
            cells = self._known[like] = self._made(name, tensor)
            self._counts[like] = 0
        self._counts[like] += 1
        return Line.BROKEN if broken else Line.TENSOR, title, cells

    def _made(self, name: str, tensor: Tensor) -> Cells:
        origin = self._tensors.origin(name)
        role = origin.role.value
        if origin.slot:
            role += f" {printable(origin.slot)}"
        elif origin.role is Role.WEIGHT and origin.trainable is False:
            role += ", not trained"
        if name in self._tensors.broken:
            role += ", not readable"
        shape = shape_text(tensor.spec.shape)
        return role, tensor.spec.dtype.label, shape, self._size(tensor.nbytes)

    def totals(self) -> list[Row]:
        """Return the closing rows: one for each role, where there are several, and one for all."""
        counts: Counter[Role] = Counter()
        sizes: Counter[Role] = Counter()
        for (role, nbytes, *_), count in self._counts.items():
            counts[role] += count
            sizes[role] += count * nbytes
        rows: list[Row] = [
            (Line.TOTAL, counted(count), (role.value, "", "", self._size(sizes[role])))
            for role, count in counts.items()
        ]
        every = ("", "", "", self._size(sizes.total()))
        return [
            *(rows if len(rows) > 1 else ()), (Line.TOTAL, counted(counts.total()), every),
        ]  # fmt: skip


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a shape as `4x8`, or `scalar`."""
    return "x".join(map(str, shape)) if shape else "scalar"


def counted(number: int) -> str:
    """Return `1 tensor`, `2 tensors`."""
    return f"{number} tensor{'' if number == 1 else 's'}"


# By layer


@dataclass
class _Layer:
    """What stands below a name; `count` and `nbytes` are of all tensors in it."""

    layers: dict[str, _Layer] = field(default_factory=dict)
    tensors: list[tuple[str, str]] = field(default_factory=list)
    count: int = 0
    nbytes: int = 0


def tree(tensors: TensorDict, size: Size = exact, by: Sort | None = None) -> Table:
    """Return the same table grouped by layer, with number and bytes of the tensors in each.

    A layer is what stands before a slash; where no name has one, before a dot. Tensors come in
    the order that they have, and before the layers beside them; layers by size, if so wanted.
    """
    separator = "/" if any("/" in name for name in tensors) else "."
    root = _Layer()
    for name, tensor in tensors.tensors.items():
        *path, leaf = name.split(separator, MAX_DEPTH)
        layer = root
        for step in path:
            below = layer.layers.get(step)
            if below is None:
                below = layer.layers[step] = _Layer()
            layer = below
            layer.count += 1
            layer.nbytes += tensor.nbytes
        layer.tensors.append((leaf, name))
    branches = _Branches(tensors, size, separator, by)
    rows = list(branches.below(root, 0))
    return Table(_columns(size), rows + branches.cells.totals())


class _Branches:
    def __init__(self, tensors: TensorDict, size: Size, separator: str, by: Sort | None) -> None:
        self._tensors = tensors
        self._size = size
        self._separator = separator
        self._by = by
        self.cells = _Cells(tensors, size)

    def below(self, layer: _Layer, depth: int) -> Iterator[Row]:
        """Yield the rows below a layer; one that holds nothing but another is one with it."""
        margin = "  " * depth
        for leaf, name in layer.tensors:
            yield self.cells.row(margin + printable(leaf), name, self._tensors[name])
        layers: Iterable[tuple[str, _Layer]] = layer.layers.items()
        if self._by == "size":
            layers = sorted(layers, key=lambda item: -item[1].nbytes)
        for step, below in layers:
            label, inner = step, below
            while not inner.tensors and len(inner.layers) == 1:
                [(more, inner)] = inner.layers.items()
                label += self._separator + more
            title = f"{margin}{printable(label)}{self._separator}"
            yield Line.LAYER, title, (counted(inner.count), "", "", self._size(inner.nbytes))
            yield from self.below(inner, depth + 1)


# Statistics


def stats_table(tensors: TensorDict, stats: Mapping[str, Stats]) -> Table:
    """Return a row of statistics for each tensor; empty for those that hold no numbers."""
    measured_columns = (Column(title, right=True) for title in _MEASURED)
    columns = (Column("name"), Column("dtype"), Column("shape"), *measured_columns)
    rows: list[Row] = []
    for name, tensor in tensors.tensors.items():
        found = stats.get(name)
        measured = _measured(found) if found else ("",) * len(_MEASURED)
        about = (tensor.spec.dtype.label, shape_text(tensor.spec.shape))
        rows.append((Line.TENSOR, printable(name), (*about, *measured)))
    closing = (Line.TOTAL, counted(len(tensors)), ("",) * (len(columns) - 1))
    return Table(columns, [*rows, closing])


def _measured(stats: Stats) -> Cells:
    values = (stats.minimum, stats.maximum, stats.mean, stats.std, stats.norm)
    shown = [_number(value) for value in values] if stats.finite else [""] * len(values)
    counts = (stats.zeros, stats.nans, stats.infinities)
    return *shown, *(f"{count:,}" for count in counts)


def _number(value: float) -> str:
    """Return an integer as it is, and of another number four digits."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


# Plain text


def plain(shown: Table) -> Iterator[str]:
    """Yield the lines of a table, columns aligned, nothing cut off."""
    header = tuple(column.title for column in shown.columns)
    # What stands behind a name is the same for many.
    tails = dict.fromkeys(cells for _, _, cells in shown.rows)
    every = [header[1:], *tails]
    template = "  ".join(
        f"{{:{'>' if column.right else '<'}{max(len(cells[at]) for cells in every)}}}"
        for at, column in enumerate(shown.columns[1:])
    )
    width = max(len(header[0]), max(len(name) for _, name, _ in shown.rows))
    texts = {cells: template.format(*cells) for cells in every}
    yield f"{header[0]:<{width}}  {texts[header[1:]]}".rstrip()
    for _, name, cells in shown.rows:
        yield f"{name:<{width}}  {texts[cells]}".rstrip()
