"""TOML that people write for us: no key that nobody knows, and every value of its type."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...converters.errors import NotRecognisedError, UsageError
from ...converters.names import near

__all__ = [
    "Check", "checked", "flag", "number", "quantity", "read_toml", "text", "texts",
]  # fmt: skip

MAX_BYTES = 16 << 20
LIMIT = 1 << 63  # of numbers; TOML 1.0 promises no more either

# Returns a value as it is meant, or raises a ValueError that says what was expected.
Check = Callable[[Any], Any]


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises:
        NotRecognisedError: it is not there, or cannot be read.
        UsageError: it is no TOML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError("longer than any settings", path=path)
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotRecognisedError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"is no UTF-8: {error.reason}", path=path) from error
    except (ValueError, RecursionError) as error:  # also of a number with 5,000 digits
        raise UsageError(f"TOML: {error}", path=path) from error


def checked(
    content: Any, checks: Mapping[str, Check], path: Path, where: str = ""
) -> dict[str, Any]:
    """Return the values of a table as they are meant.

    Args:
        content: the table.
        checks: by key; no other key may be there.
        path: the file, for messages.
        where: the key of the table, empty for the whole file.

    Raises:
        UsageError: a key is unknown, or a value is not of its type; names file and key.
    """
    if not isinstance(content, dict):
        raise UsageError(
            "wrong type", path=path, where=f"`{where}`", expected="a table", got=_kind(content)
        )
    values = {}
    for key, value in content.items():
        place = f"{where}.{key}" if where else key
        if key not in checks:
            hint = near(key, checks) or f"known here: {', '.join(checks)}"
            raise UsageError("is no known key", path=path, where=f"`{place}`", hint=hint)
        try:
            values[key] = checks[key](value)
        except ValueError as error:
            raise UsageError(
                "wrong value", path=path, where=f"`{place}`", expected=error, got=_shown(value)
            ) from error
        except UsageError as error:
            raise UsageError(error.what, path=path, where=f"`{place}`", hint=error.hint) from error
    return values


def _kind(value: Any) -> str:
    return type(value).__name__


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= LIMIT:  # Python may refuse to print it
        return "a number beyond 2^63"
    return f"`{value}`"[:80] if isinstance(value, str | int | float) else _kind(value)


# Checks


def text(value: Any) -> str:
    """Take a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Take a list of texts, none of them empty."""
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError("a list of texts")
    return tuple(value)


def flag(value: Any) -> bool:
    """Take true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - one error for all checks
    return value


def quantity(value: Any) -> int:
    """Take a whole number that is not negative."""
    if type(value) is not int or not 0 <= value < LIMIT:
        raise ValueError("a whole number, not negative")
    return value


def number(value: Any) -> float | int:
    """Take a number; neither NaN nor infinity, which JSON does not know."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LIMIT:
        raise ValueError("a finite number")
    return value
