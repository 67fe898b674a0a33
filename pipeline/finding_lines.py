"""Findings as lines for people: `warning  value/nan  tensor `w`: 3 values are NaN`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..converters.errors import printable
from ..converters.findings import Finding

__all__ = ["finding_lines"]


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each finding: level, rule, place, text."""
    width = max((len(each.rule) for each in findings), default=0)
    for each in findings:
        tensor = None if each.tensor is None else f"tensor `{each.tensor}`"
        place = ": ".join(filter(None, (each.path, each.where, tensor, each.text)))
        yield f"{each.level.value:<7}  {each.rule:<{width}}  {printable(place)}"
