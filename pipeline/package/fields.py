"""What the owner of a model says about it: a TOML file for card and BOM.

    title = "Digits"                       [metrics]
    description = "Reads digits."          accuracy = 0.93
    tags = ["image-classification"]
    datasets = ["mnist"]                   [own]
    authors = ["A. Author"]                team = "vision"

The keys are those of a card's front matter where the Hub has such a key. `[own]` is for templates
of one's own: texts, numbers, booleans and lists of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .strict_toml import Check, checked, flag, number, read_toml, text, texts

__all__ = ["LISTS", "TEXTS", "read_fields"]

TEXTS = (
    "title", "description", "intended_use", "limitations", "training", "citation", "contact",
    "library_name", "pipeline_tag",
)  # fmt: skip
LISTS = ("authors", "tags", "datasets", "language", "base_model")


def read_fields(path: Path) -> dict[str, Any]:
    """Read what the owner says; only JSON values.

    Raises:
        NotRecognisedError: the file is not there.
        UsageError: it is no TOML, a key is unknown, or a value is not of its type.
    """
    checks: dict[str, Check] = {
        **dict.fromkeys(TEXTS, text),
        **dict.fromkeys(LISTS, _list),
        "metrics": lambda value: value,
        "own": lambda value: value,
    }
    fields = checked(read_toml(path), checks, path)
    for key, check in (("metrics", number), ("own", _plain)):
        if key in fields:
            table = fields[key]
            names = table if isinstance(table, dict) else ()
            fields[key] = checked(table, dict.fromkeys(names, check), path, key)
    return fields


def _list(value: Any) -> list[str]:
    return list(texts(value))


def _plain(value: Any) -> Any:
    """Take what templates can show and JSON can hold."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    for check in (text, flag, number):
        try:
            return check(value)
        except ValueError:
            continue
    raise ValueError("a text, a number, true or false, or a list of these")
