"""Zip archives, built: stored members whose data can be mapped into memory.

The data of every member starts at a multiple of 64 bytes, so that it can be mapped
into memory as it lies. The room is made by an extra field of the local header, with the id and
the layout of Android's zipalign: the alignment as uint16, then zeros. Dates are the first that zip
can express, so the same members give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .zip_archive import (
    CENTRAL,
    CENTRAL_MAGIC,
    END,
    END64,
    END64_MAGIC,
    END_MAGIC,
    EXTRA,
    LOCAL,
    LOCAL_MAGIC,
    LOCATOR,
    LOCATOR_MAGIC,
    MAX16,
    MAX32,
    STORED,
    UTF8,
    ZIP64_EXTRA,
)

__all__ = ["PERMISSIONS", "NewMember", "build_directory", "build_local_header"]

PADDING_EXTRA = 0xD935  # zipalign, ZipEntry.cpp, ALIGNMENT_HEADER_ID
ALIGNMENT = 64


class NewMember(NamedTuple):
    """A stored member to be built.

    Attributes:
        name: its name; text that UTF-8 can encode.
        size: length of the contents in bytes.
        start: byte offset of the local header.
        crc: CRC-32 of the contents; no length depends on it.
    """

    name: str
    size: int
    start: int
    crc: int = 0


FIRST_DATE = 1 << 5 | 1  # 1 January 1980
UNIX, PERMISSIONS = 3 << 8, 0o100644 << 16  # so that unpacked files can be read


def build_local_header(member: NewMember) -> bytes:
    """Return the local header of a member, up to its data at a multiple of 64 bytes."""
    name, flags = _encode(member.name)
    wide = member.size >= MAX32
    extra = EXTRA.pack(ZIP64_EXTRA, 16) + 2 * _uint64(member.size) if wide else b""
    extra += _padding(member.start + LOCAL.size + len(name) + len(extra))
    size = min(member.size, MAX32)
    return (
        LOCAL.pack(
            LOCAL_MAGIC, 45 if wide else 20, flags, STORED, 0, FIRST_DATE, member.crc, size, size,
            len(name), len(extra),
        )
        + name
        + extra
    )  # fmt: skip


def build_directory(members: Iterable[NewMember], start: int) -> bytes:
    """Return all that follows the data: the central directory and the end records.

    Args:
        members: in the order in which they are to be listed.
        start: byte offset of what is returned.
    """
    records = [_build_record(member) for member in members]
    directory = b"".join(records)
    return directory + _build_end(len(records), len(directory), start)


def _build_record(member: NewMember) -> bytes:
    name, flags = _encode(member.name)
    wide = [value for value in (member.size, member.size, member.start) if value >= MAX32]
    extra = b"".join(map(_uint64, wide))
    if wide:
        extra = EXTRA.pack(ZIP64_EXTRA, len(extra)) + extra
    version = 45 if wide else 20
    size, start = min(member.size, MAX32), min(member.start, MAX32)
    return (
        CENTRAL.pack(
            CENTRAL_MAGIC, UNIX | version, version, flags, STORED, 0, FIRST_DATE, member.crc,
            size, size, len(name), len(extra), 0, 0, 0, PERMISSIONS, start,
        )
        + name
        + extra
    )  # fmt: skip


def _build_end(count: int, length: int, start: int) -> bytes:
    wide = b""
    if count >= MAX16 or length >= MAX32 or start >= MAX32:
        wide = END64.pack(
            END64_MAGIC, END64.size - 12, UNIX | 45, 45, 0, 0, count, count, length, start
        ) + LOCATOR.pack(LOCATOR_MAGIC, 0, start + length, 1)
    count, length, start = min(count, MAX16), min(length, MAX32), min(start, MAX32)
    return wide + END.pack(END_MAGIC, 0, 0, count, count, length, start, 0)


def _encode(name: str) -> tuple[bytes, int]:
    return name.encode("utf-8"), 0 if name.isascii() else UTF8


def _uint64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _padding(at: int) -> bytes:
    """Return an extra field that ends at a multiple of the alignment, for byte offset `at`."""
    if at % ALIGNMENT == 0:
        return b""
    least = EXTRA.size + 2
    length = least + -(at + least) % ALIGNMENT - EXTRA.size
    return EXTRA.pack(PADDING_EXTRA, length) + ALIGNMENT.to_bytes(length, "little")
