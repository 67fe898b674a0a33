"""Indices as numpy writes them, such as `[0:4, ..., -1]`: parsed against a shape."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..converters.errors import UsageError

__all__ = ["Axis", "parse_index", "whole"]

ELLIPSIS = "..."
EXPECTED = "integers, start:stop:step, and ... once, with commas between"
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


@dataclass(frozen=True)
class Axis:
    """What is taken of one axis.

    Attributes:
        taken: positions, none of them negative, with a positive step.
        kept: whether the axis is one of the result; a single integer takes it away.
    """

    taken: range
    kept: bool = True

    @property
    def edges(self) -> int:
        """Distance in elements of the axis from the first to the last one taken."""
        return self.taken[-1] - self.taken[0] if self.taken else 0


def whole(shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return what takes everything."""
    return tuple(Axis(range(length)) for length in shape)


def parse_index(text: str, shape: tuple[int, ...]) -> tuple[Axis, ...]:
    """Return what is taken of each axis.

    Args:
        text: what stands between the brackets.
        shape: of the tensor that is indexed.

    Raises:
        UsageError: it is no index, or does not fit the shape; says at which character.
    """
    words = list(_words(text))
    given = sum(word != ELLIPSIS for _, word in words)
    if given > len(shape):
        got = f"{given} indices for a shape of {len(shape)} axes"
        raise _error(text, words[len(shape)][0], "too many indices", f"at most {len(shape)}", got)
    axes: list[Axis] = []
    seen = False
    for at, word in words:
        if word != ELLIPSIS:
            axes.append(_axis(text, at, word, shape[len(axes)], len(axes)))
            continue
        if seen:
            raise _error(text, at, "a second ellipsis", EXPECTED, word)
        seen = True
        filled = shape[len(axes) : len(axes) + len(shape) - given]
        axes += whole(filled)
    return (*axes, *whole(shape[len(axes) :]))


def _words(text: str) -> Iterator[tuple[int, str]]:
    """Yield each part with the place of its first character, counted from 0."""
    at = 0
    parts = text.split(",")
    if len(parts) > 1 and not parts[-1].strip():  # numpy takes a comma at the end
        parts.pop()
    for part in parts:
        word = part.strip()
        start = at + len(part) - len(part.lstrip())
        if not word:
            raise _error(text, start, "no index", EXPECTED, "nothing")
        yield start, word
        at += len(part) + 1


def _axis(text: str, at: int, word: str, length: int, number: int) -> Axis:
    parts = word.split(":")
    if len(parts) > 3:
        raise _error(text, at, "no index", EXPECTED, f"`{word}`")
    values: list[int | None] = []
    for part in parts:
        values.append(_integer(text, at, part))
        at += len(part) + 1
    if len(parts) > 1:
        if values[2:] and values[2] is not None and values[2] < 1:
            step = at - len(parts[2]) - 1
            raise _error(text, step, "a step", "1 or more", str(values[2]))
        return Axis(range(*slice(*values).indices(length)))
    [value] = values
    if value is None or not -length <= value < length:
        what = f"an index of axis {number}"
        expected = f"{-length} to {length - 1}" if length else "none: the axis is empty"
        raise _error(text, at - len(parts[0]) - 1, what, expected, word)
    position = value % length
    return Axis(range(position, position + 1), kept=False)


def _integer(text: str, at: int, part: str) -> int | None:
    word = part.strip()
    if not word:
        return None
    if not _INTEGER.fullmatch(word):
        start = at + len(part) - len(part.lstrip())
        raise _error(text, start, "no index", EXPECTED, f"`{word}`")
    return int(word)


def _error(text: str, at: int, what: str, expected: str, got: str) -> UsageError:
    return UsageError(what, where=f"[{text}] at character {at + 1}", expected=expected, got=got)
