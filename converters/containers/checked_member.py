"""A zip archive of which one member is checked once all of it has been read.

A zip keeps one CRC-32 of a member, and tensors are parts of it. What is read is summed up on the
way, whatever the order; when little is left, that is read too, and the whole is compared. So a
conversion checks the member at the price of the checksum alone, and reading a few tensors of a
large one checks nothing.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from pathlib import Path
from typing import NamedTuple

from ..checksums import Algorithm
from ..errors import CorruptFileError
from ..sources import Source
from .zip_archive import Member

__all__ = ["CheckedMember", "is_enough"]

# What may be left unread when the whole is compared: all that is no tensor, and small tensors.
LEFT_BYTES, LEFT_PART = 1 << 20, 32
PIECE_BYTES = 1 << 20


def is_enough(size: int, read: int) -> bool:
    """Tell whether a member of `size` bytes is compared once `read` bytes of it were read."""
    return read > 0 and size - read <= max(LEFT_BYTES, size // LEFT_PART)


class _Part(NamedTuple):
    start: int
    end: int
    crc: int


class CheckedMember(Source):
    """An archive; reading the last of a stored member raises where its CRC-32 differs.

    Closing it closes nothing, since others share what is below.

    Args:
        archive: the archive; offsets are those in it.
        member: one of `read_members` that is stored. Nothing else is read.
    """

    def __init__(self, archive: Source, member: Member) -> None:
        self._archive = archive
        self._member = member
        self._parts: list[_Part] = []  # by place, without overlaps
        self._left = member.size
        self._compared = False
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:  # type: ignore[override]
        """What messages call the archive."""
        return self._archive.path

    @property
    def size(self) -> int:
        """Length of the archive in bytes."""
        return self._archive.size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` on.

        Raises:
            CorruptFileError: the archive ends early, or all was read and the CRC-32 differs.
        """
        self._archive.read_into(offset, target)
        if not self._compared:
            self._take(offset, target)

    def close(self) -> None:
        """Close nothing."""

    def _take(self, start: int, view: memoryview) -> None:
        """Sum up what was not read before, and compare the whole if this was the last of it."""
        # Before the lock, so that threads do it side by side.
        whole = _Part(start, start + len(view), Algorithm.CRC32.update(view))
        with self._lock:
            for low, high in self._missing(start, whole.end):
                part = whole
                if (low, high) != (start, whole.end):
                    crc = Algorithm.CRC32.update(view[low - start : high - start])
                    part = _Part(low, high, crc)
                self._parts.insert(bisect_left(self._parts, (low,)), part)
                self._left -= high - low
            size = self._member.size
            if self._compared or not is_enough(size, size - self._left):
                return
            self._compared = True
            self._compare()

    def _missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges between two bytes that no part covers."""
        missing = []
        at = bisect_left(self._parts, (start,))
        if at and self._parts[at - 1].end > start:
            start = self._parts[at - 1].end
        while start < end:
            following = self._parts[at] if at < len(self._parts) else None
            stop = min(end, following.start) if following else end
            if start < stop:
                missing.append((start, stop))
            start = following.end if following else end
            at += 1
        return missing

    def _compare(self) -> None:
        whole, end = 0, self._member.data
        for part in (*self._parts, _Part(self._member.end, self._member.end, 0)):
            while end < part.start:
                data = self._archive.read(end, min(PIECE_BYTES, part.start - end))
                whole = Algorithm.CRC32.update(data, whole)
                end += len(data)
            whole = Algorithm.CRC32.combine(whole, part.crc, part.end - part.start)
            end = part.end
        if whole != self._member.crc:
            raise CorruptFileError(
                "crc32 of the contents differs",
                path=self.path,
                where=f"member `{self._member.name}`",
                expected=f"0x{self._member.crc:08x}",
                got=f"0x{whole:08x}",
                hint="copy the file again, or read what is there with --no-checksum",
            )
