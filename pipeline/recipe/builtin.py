"""The recipes that come with Tensorferry: files beside this package."""

from __future__ import annotations

import re
from pathlib import Path

from ...converters.errors import UsageError
from ...converters.names import near

__all__ = ["BUILTIN", "FOLDER", "builtin_names", "builtin_path"]

BUILTIN = "builtin:"
FOLDER = Path(__file__).parent.parent / "recipes"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


def builtin_names() -> list[str]:
    """Return the names of all built-in recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def builtin_path(name: str) -> Path:
    """Return the file of a built-in recipe.

    Raises:
        UsageError: there is none of this name.
    """
    path = FOLDER / f"{name}.toml"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise UsageError(
            f"no built-in recipe is called `{name}`",
            hint=near(name, builtin_names()) or "`convert recipes` lists them",
        )
    return path
