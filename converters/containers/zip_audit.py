"""What is odd about a zip archive, beyond what reading its tensors shows."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..errors import CorruptFileError
from ..findings import Finding, Level
from ..sources import Source
from .coverage import coverage
from .zip_archive import Member, MemberStream, find_directory, read_members

__all__ = ["audit_zip"]

# A data descriptor stands behind a member that was written before its length was known:
# APPNOTE 4.3.9, at most 24 bytes.
DESCRIPTOR_BYTES = 24
PIECE_BYTES = 1 << 20


def audit_zip(source: Source, checked: Collection[str], *, verify: bool) -> Iterator[Finding]:
    """Yield findings on an archive that was opened.

    Args:
        source: the archive.
        checked: names of members whose CRC-32 was checked already.
        verify: whether the others' is.
    """
    members = read_members(source)
    # From the directory on everything is known: `read_members` compares it with the end.
    directory = (find_directory(source)[0], source.size)
    ranges = [(member.start, member.end) for member in members]
    yield from coverage(source.path, [*ranges, directory], source.size, DESCRIPTOR_BYTES)
    for member in members if verify else ():
        if member.name not in checked:
            yield from _read_through(source, member)


def _read_through(source: Source, member: Member) -> Iterator[Finding]:
    stream = MemberStream(source, member, verify=True)
    try:
        for at in range(0, member.size, PIECE_BYTES):
            stream.read(min(PIECE_BYTES, member.size - at))
        stream.finish()
    except CorruptFileError as error:
        yield Finding(
            "integrity/damaged", Level.ERROR, error.what, path=error.path, where=error.where
        )
