"""What is shown of differences: tables for people, JSON values for machines."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..converters.errors import printable
from ..converters.tensors import Tensor, TensorDict, TensorSpec
from .diff import Difference, Verdict
from .tables import Column, Line, Row, Table, shape_text

__all__ = [
    "Layer",
    "differences_json",
    "differences_table",
    "finite",
    "layer_of",
    "layer_title",
    "layers_of",
    "layers_table",
    "separator_of",
    "summary",
]

# The values of these were found to be those of their counterparts, or were compared with them.
_COMPARED = frozenset(Verdict) - {Verdict.SHAPE, Verdict.MISSING, Verdict.ADDED}


# By layer


@dataclass
class Layer:
    """The tensors whose names have the same parts but for the last.

    Attributes:
        tensors: how many there are in A or B.
        differ: how many of them are neither same nor close.
        size: number of elements of those that have a counterpart to compare.
        changed: number of elements that differ.
        most: the largest absolute difference; None where nothing was measured.
    """

    tensors: int = 0
    differ: int = 0
    size: int = 0
    changed: float = 0.0
    most: float | None = None

    @property
    def share(self) -> float | None:
        """Of the elements that differ; None where nothing was compared."""
        return self.changed / self.size if self.size else None

    def add(self, other: Layer) -> None:
        """Take in another."""
        self.tensors += other.tensors
        self.differ += other.differ
        self.size += other.size
        self.changed += other.changed
        self.most = max(
            (each for each in (self.most, other.most) if each is not None), default=None
        )


def separator_of(names: Iterable[str]) -> str:
    """Return what stands between layers: a slash, or a dot where no name has one."""
    return "/" if any("/" in name for name in names) else "."


def layer_of(name: str, separator: str) -> str:
    """Return the name up to the last separator; empty where there is none."""
    return name.rpartition(separator)[0]


def layer_title(layer: str) -> str:
    """Return what to call a layer."""
    return printable(layer) if layer else "(no layer)"


def layers_of(
    differences: Sequence[Difference],
    first: TensorDict,
    second: TensorDict,
    *,
    structure_only: bool = False,
) -> dict[str, Layer]:
    """Return the layers by name, in the order of the differences.

    Args:
        differences: what became of every tensor.
        first: A.
        second: B.
        structure_only: whether no values were compared.
    """
    compared = frozenset() if structure_only else _COMPARED
    separator = separator_of(each.name for each in differences)
    layers: dict[str, Layer] = {}
    for each in differences:
        size = _spec(each, first, second).size if each.verdict in compared else 0
        changed = (each.share or 0.0) * size
        alone = Layer(1, int(not each.verdict.same), size, changed, each.most)
        layers.setdefault(layer_of(each.name, separator), Layer()).add(alone)
    return layers


def _spec(each: Difference, first: TensorDict, second: TensorDict) -> TensorSpec:
    """Return what a tensor is in A, or in B where A has none."""
    tensors = second if each.verdict is Verdict.ADDED else first
    return _tensor(tensors, each.name).spec


def _tensor(tensors: TensorDict, name: str) -> Tensor:
    return tensors[tensors.aliases.get(name, name)]


# For people


def differences_table(
    differences: Iterable[Difference], first: TensorDict, second: TensorDict
) -> Table:
    """Return a row for each of these differences."""
    columns = (
        Column("name"), Column("verdict"), Column("max abs", right=True),
        Column("rel. L2", right=True), Column("cosine", right=True),
        Column("changed", right=True), Column(""),
    )  # fmt: skip
    rows: list[Row] = [
        (
            Line.TENSOR,
            _name(each),
            (each.verdict.value, *_measures(each), _text(each, first, second)),
        )
        for each in differences
    ]
    return _filled(Table(columns, rows))


def _name(each: Difference) -> str:
    name = printable(each.name)
    return name if each.other is None else f"{name} -> {printable(each.other)}"


def _measures(each: Difference) -> tuple[str, str, str, str]:
    cosine = "" if each.cosine is None else f"{each.cosine:.6f}"
    return _number(each.most), _number(each.relative), cosine, _percent(each.share)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    """Return a share; all and none are said of nothing else."""
    if share is None:
        return ""
    if 0 < share < 1e-4:
        return "<0.01 %"
    text = f"{100 * share:.3g}"
    return ">99.9 %" if text == "100" and share < 1 else f"{text} %"


def _text(each: Difference, first: TensorDict, second: TensorDict) -> str:
    parts = [printable(each.text)]
    if each.verdict in (Verdict.MISSING, Verdict.ADDED):
        spec = _spec(each, first, second)
        parts.insert(0, f"{spec.dtype} {shape_text(spec.shape)}")
    if each.axes is not None:
        parts.insert(0, f"axes {', '.join(map(str, each.axes))}")
    return "; ".join(filter(None, parts))


def layers_table(layers: Mapping[str, Layer], *, every: bool) -> Table:
    """Return a row for each layer in which something differs, or for each."""
    columns = (
        Column("layer"), Column("tensors", right=True), Column("differ", right=True),
        Column("elements", right=True), Column("changed", right=True),
        Column("max abs", right=True),
    )  # fmt: skip
    rows: list[Row] = [
        (Line.TENSOR, layer_title(name), _cells(layer))
        for name, layer in layers.items()
        if every or layer.differ
    ]
    whole = Layer()
    for layer in layers.values():
        whole.add(layer)
    return _filled(Table(columns, [*rows, (Line.TOTAL, "all layers", _cells(whole))]))


def _cells(layer: Layer) -> tuple[str, ...]:
    size = f"{layer.size:,}" if layer.size else ""
    counts = f"{layer.tensors:,}", f"{layer.differ:,}", size
    return *counts, _percent(layer.share), _number(layer.most)


def _filled(table: Table) -> Table:
    """Return a table without the columns that say nothing; the first two always do."""
    name, *others = table.columns
    kept = [
        at for at in range(len(others)) if not at or any(cells[at] for _, _, cells in table.rows)
    ]
    rows = [(line, name, tuple(cells[at] for at in kept)) for line, name, cells in table.rows]
    return Table((name, *(others[at] for at in kept)), rows)


def summary(differences: Sequence[Difference]) -> str:
    """Return how many tensors have which verdict."""
    counts = Counter(each.verdict for each in differences)
    parts = [f"{counts[verdict]:,} {verdict.value}" for verdict in Verdict if counts[verdict]]
    plural = "" if len(differences) == 1 else "s"
    return f"{len(differences):,} tensor{plural}: {', '.join(parts) or 'nothing to compare'}"


# For machines


def differences_json(
    differences: Sequence[Difference],
    first: TensorDict,
    second: TensorDict,
    *,
    structure_only: bool = False,
) -> dict[str, Any]:
    """Return JSON values; a number that is none is null.

    Args:
        differences: what became of every tensor.
        first: A.
        second: B.
        structure_only: whether no values were compared.
    """
    layers = layers_of(differences, first, second, structure_only=structure_only)
    counts = Counter(each.verdict for each in differences)
    return {
        "same": all(each.verdict.same for each in differences),
        "counts": {verdict.value: counts[verdict] for verdict in Verdict if counts[verdict]},
        "layers": [
            {
                "name": name,
                "tensors": layer.tensors,
                "differ": layer.differ,
                "elements": layer.size,
                "share": layer.share,
                "most": finite(layer.most),
            }
            for name, layer in layers.items()
        ],
        "tensors": [_row(each, first, second) for each in differences],
    }


def _row(each: Difference, first: TensorDict, second: TensorDict) -> dict[str, Any]:
    spec = _spec(each, first, second)
    row: dict[str, Any] = {
        "name": each.name,
        "verdict": each.verdict.value,
        "dtype": spec.dtype.label,
        "shape": spec.shape,
    }
    optional = {
        "other": each.other,
        "axes": each.axes,
        "text": each.text or None,
    }
    row |= {name: value for name, value in optional.items() if value is not None}
    if each.share is not None:
        row |= {
            "most": finite(each.most),
            "relative": finite(each.relative),
            "cosine": finite(each.cosine),
            "share": each.share,
        }
    return row


def finite(value: float | None) -> float | None:
    """Return a number that JSON has, or None."""
    return value if value is not None and math.isfinite(value) else None
