"""What recipes are going to do, tensor by tensor, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...converters.errors import printable

__all__ = ["plan_lines"]

HEADERS = ("source", "target", "before", "after", "rule")
NOTHING = "-"


def plan_lines(changes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a table of changes, a line for each; none without them.

    Args:
        changes: as a report has them.
    """
    rows = [tuple(map(printable, _cells(each))) for each in changes]
    if not rows:
        return
    widths = [max(map(len, column)) for column in zip(HEADERS, *rows, strict=True)]
    for row in (HEADERS, *rows):
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _cells(change: Mapping[str, Any]) -> tuple[str, ...]:
    before = list(dict.fromkeys(map(_spec, change["before"])))
    after = change["after"]
    return (
        " + ".join(change["sources"]) or NOTHING,
        NOTHING if change["target"] is None else change["target"],
        " + ".join(before) or NOTHING,
        _spec(after) if after else NOTHING,
        ", ".join(change["rules"]) or NOTHING,
    )


def _spec(spec: Mapping[str, Any]) -> str:
    return f"{spec['dtype']} {'x'.join(map(str, spec['shape'])) or 'scalar'}"
