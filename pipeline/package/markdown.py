"""Texts as parts of Markdown, so that no name of a tensor is markup.

A card is read by programs that differ in what they take for markup, so whatever might be is
written as a character reference: it is shown as the character, and structures nothing. Code spans
know no references. In them a name stands as it is, if it cannot end span or table cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...converters.errors import printable

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["code", "escaped", "phrase", "yaml"]

# GitHub's tables end a cell at a pipe even in a code span; `_` within a word is no emphasis.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~#$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")
_NO_SPAN = re.compile(r"[`|]|^\s|\s$|^$")


def escaped(value: Any) -> Markup:
    """Return a text as Markdown that shows just that; markup stays what it is."""
    from markupsafe import Markup

    if isinstance(value, Markup):
        return value
    return Markup(_MARKUP.sub(lambda match: f"&#{ord(match[0])};", printable(str(value))))


def code(value: str | Iterable[str]) -> Markup:
    """Return a name as code, or several, after each other."""
    from markupsafe import Markup

    if not isinstance(value, str):
        return Markup(", ").join(code(each) for each in value)
    name = printable(value)
    if _NO_SPAN.search(name):
        return Markup("<code>{}</code>").format(escaped(value))
    return Markup(f"`{name}`")


def phrase(text: str) -> Markup:
    """Return one of our own sentences, in which names stand between backticks, as Markdown.

    A name that has backticks itself may end up the wrong way round, but never as markup.
    """
    from markupsafe import Markup

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escaped(text)
    shown = (code(part) if place % 2 else escaped(part) for place, part in enumerate(parts))
    return Markup("").join(shown)


# What YAML 1.1 or 1.2 would take for something else than a text.
_NO_TEXT = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*")


def yaml(content: Mapping[str, Any]) -> str:
    """Return a mapping of texts, numbers and lists of texts as lines of YAML."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list):
            lines += [f"{key}:", *(f"- {_scalar(each)}" for each in value)]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return "".join(f"{line}\n" for line in lines)


def _scalar(value: Any) -> str:
    if not isinstance(value, str):
        return str(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _NO_TEXT:
        return value
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{"".join(_quoted(char) for char in quoted)}"'


def _quoted(char: str) -> str:
    """Return a character within double quotes (YAML 1.2.2, 5.7)."""
    if char.isprintable():
        return char
    code = ord(char)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )
