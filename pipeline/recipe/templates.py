"""Texts with placeholders: `encoder.layer.{n+1}.{part|upper}`; `{{` and `}}` stand for braces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ...converters.names import near
from .expressions import Expression, Value, parse_expression

__all__ = ["CHANGES", "Template", "parse_template", "split_braces"]

MAX_CHARACTERS = 4096
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def _snake(text: str) -> str:
    return _WORD.sub("_", text).lower()


def _camel(text: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in text.split("_"))


CHANGES: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "snake": _snake,  # LayerNorm -> layer_norm
    "camel": _camel,  # layer_norm -> LayerNorm
    "dots": lambda text: text.replace("/", "."),
    "slashes": lambda text: text.replace(".", "/"),
    "underscores": lambda text: text.replace("/", "_").replace(".", "_"),
}


class _Hole(NamedTuple):
    """A placeholder: what to compute, and how its text changes."""

    expression: Expression
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A text with placeholders.

    Attributes:
        text: as it was written.
        parts: texts and placeholders in turn.
    """

    text: str
    parts: tuple[str | _Hole, ...]

    @property
    def names(self) -> frozenset[str]:
        """What the placeholders need."""
        holes = (part.expression.names for part in self.parts if isinstance(part, _Hole))
        return frozenset().union(*holes)

    def fill(self, lookup: Callable[[str], Value]) -> str:
        """Return the text with all placeholders filled.

        Raises:
            ValueError: one cannot be computed.
        """
        return "".join(
            part if isinstance(part, str) else _filled(part, lookup) for part in self.parts
        )

    def value(self, lookup: Callable[[str], Value]) -> Value:
        """Return the value of the placeholder that is all there is, or else the text.

        Raises:
            ValueError: one cannot be computed.
        """
        first = self.parts[0] if len(self.parts) == 1 else ""
        if isinstance(first, _Hole) and not first.changes:
            return first.expression.value(lookup)
        return self.fill(lookup)


def _filled(hole: _Hole, lookup: Callable[[str], Value]) -> str:
    value = hole.expression.value(lookup)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    for change in hole.changes:
        text = CHANGES[change](text)
    return text


def parse_template(text: str) -> Template:
    """Parse a text with placeholders.

    Raises:
        ValueError: a brace stands alone, or a placeholder is none.
    """
    parts = tuple(
        part if not is_hole else _hole(part) for part, is_hole in split_braces(text)
    )  # fmt: skip
    return Template(text, parts)


def _hole(text: str) -> _Hole:
    body, *changes = (part.strip() for part in text.split("|"))
    for change in changes:
        if change not in CHANGES:
            hint = near(change, CHANGES) or f"there are {', '.join(CHANGES)}"
            raise ValueError(f"no change of a text is called `{change}`; {hint}")
    return _Hole(parse_expression(body), tuple(changes))


def split_braces(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text in turn, each with whether it stood between braces.

    Raises:
        ValueError: a brace has no other, or the text is too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    parts: list[tuple[str, bool]] = []
    plain, at = "", 0
    while at < len(text):
        if text[at : at + 2] in ("{{", "}}"):
            plain, at = plain + text[at], at + 2
            continue
        if text[at] not in "{}":
            plain, at = plain + text[at], at + 1
            continue
        end = text.find("}", at)
        if text[at] == "}" or end < 0 or "{" in text[at + 1 : end]:
            raise ValueError(f"a brace stands alone at character {at + 1} of `{text[:80]}`")
        if plain:
            parts.append((plain, False))
        parts.append((text[at + 1 : end], True))
        plain, at = "", end + 1
    return [*parts, (plain, False)] if plain else parts
