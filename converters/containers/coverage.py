"""Which bytes of a file nothing lists: where something hides, or was lost or added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..findings import Finding, Level

__all__ = ["coverage"]


def coverage(
    path: Path, ranges: Iterable[tuple[int, int]], size: int, slack: int = 0
) -> Iterator[Finding]:
    """Yield findings on the bytes of a file that no range covers, and on those of several.

    Args:
        path: the file.
        ranges: first byte and end of each thing in it; empty ones do not count.
        size: bytes of the file.
        slack: a gap of so many bytes between two things is usual.
    """
    gaps: list[tuple[int, int]] = []
    shared: list[tuple[int, int]] = []
    at = 0
    for start, end in sorted((start, end) for start, end in ranges if start < end):
        if start - at > (slack if at else 0):
            gaps.append((at, start))
        if start < at:
            shared.append((start, min(at, end)))
        at = max(at, end)
    if at < size:
        gaps.append((at, size))
    if gaps:
        yield _finding("integrity/unlisted-bytes", path, gaps, "that nothing in it lists")
    if shared:
        yield _finding("integrity/shared-bytes", path, shared, "that belong to several entries")


def _finding(rule: str, path: Path, places: list[tuple[int, int]], what: str) -> Finding:
    total = sum(end - start for start, end in places)
    text = f"{total:,} byte{'' if total == 1 else 's'} {what}"
    if len(places) > 1:
        text += f", in {len(places)} places"
    start, end = places[0]
    return Finding(rule, Level.WARNING, text, path=str(path), where=f"byte {start} to {end}")
