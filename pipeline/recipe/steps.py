"""What may be done to a tensor: how each step is written, and what is checked of it.

| step | value, once it is checked |
| --- | --- |
| `cast` | the dtype |
| `transpose` | True: the two axes change places |
| `permute` | the axes |
| `reshape` | the lengths |
| `squeeze` | the axes, or None for all of length 1 |
| `expand` | the axes, as they are called in the result |
| `slice` | for each axis its start, stop and step, None where nothing is said |
| `fit` | `Fit` |
| `scale` | the factor |
| `constant` | `Constant` |
| `gates` | `Gates` |
| `split` | `Split` |
| `concat`, `stack` | the axis |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from ...converters.dtypes import DType
from ...converters.errors import UsageError
from ..casts import type_named
from .model import Step
from .nodes import Node
from .templates import Template, parse_template

__all__ = [
    "STEPS",
    "Constant",
    "Fit",
    "Gates",
    "Length",
    "Split",
    "step_of",
    "template_of",
    "templates_in",
]

Length: TypeAlias = "int | Template"  # of an axis

MOST_AXES = 64
_WHOLE = re.compile(r"\d{1,18}")


class Fit(NamedTuple):
    """Pad or crop to a shape; -1 leaves an axis as it is."""

    shape: tuple[Length, ...]
    fill: float


class Constant(NamedTuple):
    """One number everywhere; of the shape and type of what was there, where None is said."""

    value: float
    shape: tuple[Length, ...] | None
    dtype: DType | None


class Gates(NamedTuple):
    """Equal blocks along an axis; `order` tells for each of the result which one it was."""

    axis: int
    order: tuple[int, ...]


class Split(NamedTuple):
    """Cut along an axis into tensors of these names, of equal lengths where none are given."""

    axis: int
    into: tuple[Template, ...]
    sizes: tuple[Length, ...] | None


def step_of(node: Node) -> Step:
    """Check a step, under its name as its key.

    Raises:
        UsageError: its value is none that it may have.
    """
    return Step(node.key, STEPS[node.key](node))


def template_of(node: Node) -> Template:
    """Parse a text with placeholders.

    Raises:
        UsageError: it is none.
    """
    try:
        return parse_template(node.text())
    except ValueError as error:
        node.fail(str(error))


def templates_in(value: object) -> Iterator[Template]:
    """Yield the texts with placeholders in the value of a step."""
    if isinstance(value, Template):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from templates_in(each)


def _cast(node: Node) -> DType:
    try:
        return type_named(node.text())
    except UsageError as error:
        node.fail(error.what, hint=error.hint)


def _true(node: Node) -> bool:
    return node.true()


def _permute(node: Node) -> tuple[int, ...]:
    axes = _axes(node)
    if sorted(axes) != list(range(len(axes))):
        node.wrong(f"each of 0 to {len(axes) - 1} once")
    return axes


def _squeeze(node: Node) -> tuple[int, ...] | None:
    return None if node.value is True else _axes(node)


def _axes(node: Node) -> tuple[int, ...]:
    axes = tuple(each.typed(int) for each in node.items())
    if len(axes) > MOST_AXES or len(set(axes)) < len(axes):
        node.wrong("different axes")
    return axes


def _reshape(node: Node) -> tuple[Length, ...]:
    shape = _lengths(node, least=-1)
    if shape.count(-1) > 1:
        node.wrong("at most one -1")
    return shape


def _lengths(node: Node, *, least: int = 0) -> tuple[Length, ...]:
    if len(node.typed(list)) > MOST_AXES:
        node.wrong(f"at most {MOST_AXES} axes")
    return tuple(_length(node.at(number), least) for number in range(len(node.value)))


def _length(node: Node, least: int) -> Length:
    value: int | str = node.typed(int, str)
    if isinstance(value, str):
        return template_of(node)
    return value if least <= value < 1 << 63 else node.wrong(f"{least} or more")


def _slice(node: Node) -> tuple[tuple[Template | None, ...], ...]:
    return tuple(map(_range, node.items()))


def _range(node: Node) -> tuple[Template | None, ...]:
    template_of(node)  # braces are checked before colons divide
    parts = node.text().split(":")
    if not 2 <= len(parts) <= 3:
        node.wrong('"start:stop" or "start:stop:step", of which all may be left out')
    for part in parts:
        if part and not (_WHOLE.fullmatch(part.removeprefix("-")) or "{" in part):
            node.wrong("whole numbers between the colons")
    if len(parts) > 2 and (parts[2] == "0" or parts[2].startswith("-")):
        node.wrong("a step of 1 or more")
    return tuple(parse_template(part) if part else None for part in (*parts, "")[:3])


def _fit(node: Node) -> Fit:
    found = node.table(("shape", "fill"))
    if "shape" not in found:
        node.fail("has no `shape`")
    fill = found["fill"].typed(int, float) if "fill" in found else 0.0
    return Fit(_lengths(found["shape"], least=-1), fill)


def _scale(node: Node) -> float:
    factor = float(node.typed(int, float))
    return factor if math.isfinite(factor) else node.wrong("a finite number")


def _constant(node: Node) -> Constant:
    found = node.table(("value", "shape", "dtype"))
    value = found["value"].typed(int, float) if "value" in found else 0
    shape = _lengths(found["shape"]) if "shape" in found else None
    return Constant(value, shape, _cast(found["dtype"]) if "dtype" in found else None)


def _gates(node: Node) -> Gates:
    found = node.table(("axis", "from", "to", "order"))
    axis = found["axis"].typed(int) if "axis" in found else -1
    if "order" in found:
        if found.keys() & {"from", "to"}:
            node.fail("has `order` and letters too: one of both says it")
        return Gates(axis, _permute(found["order"]))
    if not {"from", "to"} <= found.keys():
        node.fail("has no `order`, and not both `from` and `to`")
    old, new = found["from"].text(), found["to"].text()
    if len(set(old)) < len(old):
        found["from"].wrong("a letter for each gate, no two alike")
    if sorted(old) != sorted(new):
        found["to"].wrong(f"the letters of {old!r} in another order")
    return Gates(axis, tuple(map(old.index, new)))


def _split(node: Node) -> Split:
    found = node.table(("axis", "into", "sizes"))
    if "into" not in found:
        node.fail("has no `into`: the names of the parts")
    into = tuple(map(template_of, found["into"].items()))
    if len({each.text for each in into}) < len(into):
        found["into"].wrong("names of which no two are alike")
    sizes = _lengths(found["sizes"]) if "sizes" in found else None
    if sizes is not None and len(sizes) != len(into):
        found["sizes"].wrong(f"as many as there are names: {len(into)}")
    return Split(found["axis"].typed(int) if "axis" in found else 0, into, sizes)


def _axis(node: Node) -> int:
    found = node.table(("axis",))
    axis: int = found["axis"].typed(int) if "axis" in found else 0
    return axis


STEPS: Mapping[str, Callable[[Node], Any]] = {
    "cast": _cast,
    "transpose": _true,
    "permute": _permute,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand": _axes,
    "slice": _slice,
    "fit": _fit,
    "scale": _scale,
    "constant": _constant,
    "gates": _gates,
    "split": _split,
    "concat": _axis,
    "stack": _axis,
}
