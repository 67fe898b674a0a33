"""Which tensors to keep: shell patterns over their names."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from ..converters.errors import UsageError
from ..converters.names import near
from ..converters.notes import Kind, Note
from ..converters.tensors import TensorDict

__all__ = ["select"]


def select(tensors: TensorDict, include: Iterable[str], exclude: Iterable[str]) -> TensorDict:
    """Return the tensors that match an include pattern, if there are any, and no exclude one.

    `*` stands for any characters, slashes too; `?` for one; `[ab]` for one of a few. A pattern
    without any of these is a name.

    Raises:
        UsageError: a pattern matches nothing.
    """
    include, exclude = tuple(include), tuple(exclude)
    if not include and not exclude:
        return tensors
    wanted = _matching(tensors, include) if include else set(tensors)
    unwanted = _matching(tensors, exclude)
    left_out = [name for name in tensors if name in unwanted or name not in wanted]
    notes = [
        Note(Kind.EXCLUDED, "excluded" if name in unwanted else "not included", name)
        for name in left_out
    ]
    dropped = set(left_out)
    return tensors.select((name for name in tensors if name not in dropped), *notes)


def _matching(tensors: TensorDict, patterns: tuple[str, ...]) -> set[str]:
    matching: set[str] = set()
    for pattern in patterns:
        found = {name for name in tensors if name == pattern or fnmatchcase(name, pattern)}
        if not found:
            raise UsageError(
                f"no tensor is called `{pattern}`",
                hint=near(pattern, tensors) or "list the names with `convert inspect`",
            )
        matching |= found
    return matching
