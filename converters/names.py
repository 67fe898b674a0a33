"""Tensor names: any bytes in, and what containers that are more particular can hold.

Names are `str`; bytes that are not UTF-8 are carried as PEP 383 does (surrogateescape), so that
every name of every checkpoint survives. A container that cannot hold a name gets an escaped one
and keeps the exact name in its own record; two names are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from .errors import TargetError

__all__ = ["assign", "decode", "encode", "escape", "near"]


def decode(raw: bytes) -> str:
    """Return the name of a key given as bytes."""
    return raw.decode("utf-8", "surrogateescape")


def encode(name: str) -> bytes:
    """Return the bytes of a name."""
    return name.encode("utf-8", "surrogateescape")


def escape(name: str, unsafe: str = "") -> str:
    """Return `name` with unsafe characters, and bytes that are no UTF-8, as `%XX`."""
    if name.isascii() and not any(char in name for char in unsafe):
        return name
    return "".join(
        "".join(f"%{byte:02X}" for byte in encode(char)) if _lone(char) or char in unsafe else char
        for char in name
    )


def _lone(char: str) -> bool:
    return 0xD800 <= ord(char) <= 0xDFFF


def assign(
    names: Iterable[str], suggest: Callable[[str], str], target: Path, hint: str | None = None
) -> dict[str, str]:
    """Give every name the one it has in the target; refuse where two would be the same.

    Args:
        names: the names in the source.
        suggest: returns a name that the target can hold, the same where it can hold it.
        target: the output, for the message.
        hint: what a user may do about a collision.

    Raises:
        TargetError: two names would become one.
    """
    stored: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        other = suggest(name)
        if other in taken:
            raise TargetError(
                f"two names become `{other}` in the target",
                path=target,
                where=f"tensors `{taken[other]}` and `{name}`",
                hint=hint or "leave one out with --exclude",
            )
        taken[other] = name
        stored[name] = other
    return stored


def near(name: str, names: Iterable[str]) -> str | None:
    """Return a hint that lists the closest names, or None."""
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(name, list(names)[:20_000], n=3, cutoff=0.5)
    return f"did you mean {' or '.join(f'`{match}`' for match in close)}?" if close else None
