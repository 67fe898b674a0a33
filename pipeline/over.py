"""How far the layers of a model moved from checkpoint to checkpoint of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..converters.errors import UsageError, printable
from ..converters.tensors import Role, TensorDict
from ..converters.threads import run_all
from .diff_output import finite, layer_of, layer_title, separator_of
from .diff_values import Gap, PlacedTensor, Tolerance, gap
from .tables import Column, Line, Row, Table

__all__ = ["ALL", "Course", "parse_steps"]

ALL = "all"


def parse_steps(words: Iterable[str]) -> list[int] | None:
    """Return steps: `10,20`, or one by one; None for all of them.

    Raises:
        UsageError: something is no number, or there is one alone.
    """
    texts = [text.strip() for word in words for text in word.split(",")]
    if texts == [ALL]:
        return None
    for text in texts:
        if not text.isascii() or not text.isdigit():
            raise UsageError(f"`{text}` is no step", hint="--over takes 10,20,30 or all")
    if len(texts) < 2:
        raise UsageError("one step alone has not moved", hint="--over takes 10,20,30 or all")
    return [int(text) for text in texts]


Gaps = dict[str, Gap]


@dataclass
class Course:
    """What moved between consecutive steps.

    Attributes:
        steps: in the order in which they are compared.
        spans: how far each tensor moved, from each step to the next.
        apart: tensors that one of two steps lacks, or has in another type or shape.
    """

    steps: Sequence[int]
    spans: list[Gaps] = field(default_factory=list)
    apart: list[list[str]] = field(default_factory=list)

    def add(
        self,
        before: TensorDict,
        after: TensorDict,
        jobs: int,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Take in the way from one step to the next.

        Texts are left out, and counters, whose numbers would be most of what moved.

        Args:
            before: the earlier one.
            after: the later one.
            jobs: number of threads.
            advance: called with the number of bytes just read of the earlier one.

        Raises:
            ConvertError: a tensor cannot be read; the error names it.
        """
        both = [name for name in before if name in after]
        alike = {name for name in both if before[name].spec == after[name].spec}
        moving = [name for name in both if name in alike and _moves(before, name)]
        found: Gaps = {}

        def work(name: str) -> None:
            pair = PlacedTensor(before, name, "before"), PlacedTensor(after, name, "after")
            found[name] = gap(*pair, Tolerance(), advance)

        run_all(lambda: work, sorted(moving, key=lambda name: -before[name].nbytes), jobs)
        self.spans.append({name: found[name] for name in moving})
        self.apart.append([name for name in dict.fromkeys([*before, *after]) if name not in alike])

    @property
    def same(self) -> bool:
        """Whether nothing moved, and nothing came or went."""
        moved = any(each.changed for gaps in self.spans for each in gaps.values())
        return not moved and not any(self.apart)

    def table(self, *, every: bool) -> Table:
        """Return a row for each layer, with `every` for each tensor, and one for all."""
        titles = [f"{a} to {b}" for a, b in pairwise(self.steps)]
        columns = (Column("layer"), *(Column(title, right=True) for title in titles))
        rows: list[Row] = []
        for layer, names in self._layers().items():
            line = Line.LAYER if every else Line.TENSOR
            rows.append((line, layer_title(layer), self._cells(names)))
            tensors = names if every else ()
            rows += [(Line.TENSOR, f"  {printable(each)}", self._cells([each])) for each in tensors]
        return Table(columns, [*rows, (Line.TOTAL, "all layers", self._cells(self._names()))])

    def json(self) -> dict[str, Any]:
        """Return JSON values; null where there was nothing to compare, or no number."""
        return {
            "same": self.same,
            "steps": list(self.steps),
            "apart": self.apart,
            "layers": [self._row(layer, names) for layer, names in self._layers().items()],
            "tensors": [self._row(name, [name]) for name in self._names()],
        }

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for gaps in self.spans for name in gaps))

    def _layers(self) -> dict[str, list[str]]:
        names = self._names()
        separator = separator_of(names)
        layers: dict[str, list[str]] = {}
        for name in names:
            layers.setdefault(layer_of(name, separator), []).append(name)
        return layers

    def _cells(self, names: Sequence[str]) -> tuple[str, ...]:
        moved = (_moved(gaps, names) for gaps in self.spans)
        return tuple("-" if each is None else f"{each:.3g}" for each in moved)

    def _row(self, name: str, names: Sequence[str]) -> dict[str, Any]:
        moved = [_moved(gaps, names) for gaps in self.spans]
        odd = [sum(gaps[each].odd for each in names if each in gaps) for gaps in self.spans]
        return {"name": name, "relative": [finite(each) for each in moved], "odd": odd}


def _moves(tensors: TensorDict, name: str) -> bool:
    counts = tensors.origin(name).role is Role.COUNTER
    return not counts and not tensors[name].spec.dtype.variable


def _moved(gaps: Gaps, names: Sequence[str]) -> float | None:
    """Return the L2 norm of what changed over that of what was; NaN where something became one."""
    found = [gaps[name] for name in names if name in gaps]
    if not found:
        return None
    if any(each.odd for each in found):
        return math.nan
    squares, lefts = sum(each.squares for each in found), sum(each.lefts for each in found)
    return Gap(0, squares=squares, lefts=lefts).relative
