"""What tensors are used for, as `inspect --layout` shows it; no framework is needed for that."""

from __future__ import annotations

from typing import Any

from ...converters.errors import printable
from ...converters.tensors import TensorDict
from ...converters.uses import Uses
from ..tables import Column, Line, Row, Table, counted
from .known import known_uses

__all__ = ["layout_json", "layout_table"]

NOTHING = "-"
_COLUMNS = tuple(map(Column, ("name", "layer", "kind", "part", "evidence", "why")))


def layout_table(tensors: TensorDict) -> Table:
    """Return a row for each tensor: the layer it is a part of, or why that is not known.

    Raises:
        ConvertError: the graph or the config is damaged.
    """
    uses = known_uses(tensors)
    rows = [(Line.TENSOR, printable(name), _cells(tensors, name, uses)) for name in tensors]
    known = sum(name in uses.known for name in tensors)
    unknown = sum(name in uses.undecided for name in tensors)
    total = ("", "", "", "", f"{known} known, {unknown} not decided")
    closing: Row = (Line.TOTAL, counted(len(tensors)), total)
    return Table(_COLUMNS, [*rows, closing])


def _cells(tensors: TensorDict, name: str, uses: Uses) -> tuple[str, ...]:
    use = uses.known.get(name)
    if use is not None:
        facts = [f"{fact} {use.facts[fact]}" for fact in _TELLING if use.facts.get(fact)]
        why = ", ".join((use.why, *facts))
        cells = (use.layer or NOTHING, use.kind.value, use.part, use.evidence.value, why)
    elif name in uses.undecided:
        cells = (NOTHING, "not decided", NOTHING, NOTHING, uses.undecided[name])
    else:
        cells = (NOTHING, tensors.origin(name).role.value, NOTHING, NOTHING, NOTHING)
    return tuple(map(printable, cells))


# Facts without which a layout would be another one.
_TELLING = ("transposed", "flattened", "gates", "forget_bias", "direction", "equation")


def layout_json(tensors: TensorDict) -> dict[str, dict[str, Any]]:
    """Return the same as JSON values by name; nothing of what is no part of the model.

    Raises:
        ConvertError: the graph or the config is damaged.
    """
    uses = known_uses(tensors)
    return {
        **{name: use.json() for name, use in uses.known.items()},
        **{name: {"undecided": why} for name, why in uses.undecided.items()},
    }
