r"""Zip archives, read: members that are stored or deflated.

    local header, data            once for each member
    central directory             one record for each member: sizes, CRC-32, place of local header
    zip64 end record, locator     where a count, a size or an offset exceeds 16 or 32 bits
    end record, comment

Specified by PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 to 4.5. Sizes and places are taken from the
central directory: local headers may lack them (data descriptors; numpy writes them as zip64
always). Members must not share bytes, and their two headers must agree on name and method.

Not read: encryption, several disks, other methods (bzip2 reaches ratios of 900,000 to 1), bytes
put before or after the archive.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from struct import Struct, unpack_from
from typing import NamedTuple

from ..checksums import Algorithm
from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source

__all__ = [
    "DEFLATED",
    "STORED",
    "Member",
    "MemberStream",
    "find_directory",
    "read_members",
]

STORED, DEFLATED = 0, 8

# APPNOTE 4.3.7, 4.3.12, 4.3.16, 4.3.15, 4.3.14.
LOCAL, LOCAL_MAGIC = Struct("<4s5H3L2H"), b"PK\x03\x04"
CENTRAL, CENTRAL_MAGIC = Struct("<4s6H3L5H2L"), b"PK\x01\x02"
END, END_MAGIC = Struct("<4s4H2LH"), b"PK\x05\x06"
LOCATOR, LOCATOR_MAGIC = Struct("<4sLQL"), b"PK\x06\x07"
END64, END64_MAGIC = Struct("<4sQ2H2L4Q"), b"PK\x06\x06"
EXTRA = Struct("<2H")

MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
ZIP64_EXTRA = 0x0001  # APPNOTE 4.5.3

# General purpose flags, APPNOTE 4.4.4: encryption, strong encryption, masked headers …
ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
UTF8 = 1 << 11
# … and those that ask for nothing: how hard deflate tried (1, 2), a data descriptor (3).
HARMLESS = 1 << 1 | 1 << 2 | 1 << 3 | UTF8

MAX_RATIO = 1100  # deflate reaches 1,032 to 1; what claims more is an attack
MAX_DIRECTORY_BYTES = 1 << 28  # two million members; it is held in memory
INPUT_BYTES = 1 << 18

_SHORT_HINT = "the file is cut short, or something was added to it; copy it again"


class Member(NamedTuple):
    """A file inside a zip; all lengths and offsets in bytes.

    Attributes:
        name: its name, decoded as zip says: UTF-8 where it is flagged, else code page 437.
        method: `STORED` or `DEFLATED`.
        crc: CRC-32 of the contents.
        packed: length as it lies in the archive.
        size: length of the contents.
        start: offset of the local header.
        data: offset of the data.
        mode: kind and permissions as Unix has them, 0 where the archive does not say.
    """

    name: str
    method: int
    crc: int
    packed: int
    size: int
    start: int
    data: int
    mode: int = 0

    @property
    def end(self) -> int:
        """Byte offset after the data."""
        return self.data + self.packed


# Reading


def read_members(source: Source) -> list[Member]:
    """Return the members in the order of the central directory; reads all headers, no data.

    Raises:
        CorruptFileError: the archive contradicts itself, or uses what is not read here.
        UnsafeFileError: a name leads out of a folder, or a size is not credible.
    """
    start, length, count = find_directory(source)
    data = source.read(start, length)
    members: dict[str, Member] = {}
    for raw, member in _records(data, start):
        where = f"member `{member.name}`"
        if member.name in members:
            raise CorruptFileError("occurs twice in the central directory", where=where)
        try:
            place = _data_offset(source, member, raw, start)
        except CorruptFileError as error:
            raise error.within(where) from None
        members[member.name] = member._replace(data=place)
    if len(members) != count:
        raise CorruptFileError("members in the central directory", expected=count, got=len(members))
    _check_overlap(members.values())
    return list(members.values())


def find_directory(source: Source) -> tuple[int, int, int]:
    """Return offset and length in bytes of the central directory and its number of records."""
    end, fields = _end_record(source)
    wide = _zip64_end_record(source, end)
    if wide:
        end, full = wide
        limits = (MAX16, MAX16, MAX16, MAX16, MAX32, MAX32)
        if any(a not in (b, limit) for a, b, limit in zip(fields, full, limits, strict=True)):
            raise CorruptFileError("the two end records differ", expected=full, got=fields)
        fields = full
    disk, first_disk, here, count, length, start = fields
    if disk or first_disk or here != count:
        raise CorruptFileError("a part of an archive on several disks, which is not read")
    if start + length != end:
        raise CorruptFileError(
            "end of the central directory", expected=f"byte {end}", got=start + length,
            hint=_SHORT_HINT,
        )  # fmt: skip
    if length > MAX_DIRECTORY_BYTES:
        raise UnsafeFileError(
            "length of the central directory",
            expected=f"at most {MAX_DIRECTORY_BYTES} bytes",
            got=f"{length} bytes",
        )
    return start, length, count


def _end_record(source: Source) -> tuple[int, tuple[int, ...]]:
    """Return the offset of the end record, and its fields without the comment's length.

    It is searched backwards since a comment may follow, whose length must then fit; at first
    where it is if there is none.
    """
    for longest in (END.size, END.size + MAX16):
        length = min(source.size, longest)
        tail = source.read(source.size - length, length)
        at = tail.rfind(END_MAGIC)
        while at >= 0:
            if at + END.size <= length:
                _, *fields, comment = END.unpack_from(tail, at)
                if at + END.size + comment == length:
                    return source.size - length + at, tuple(fields)
            at = tail.rfind(END_MAGIC, 0, at + len(END_MAGIC) - 1)
    raise CorruptFileError("no end record of a zip archive", hint=_SHORT_HINT)


def _zip64_end_record(source: Source, end: int) -> tuple[int, tuple[int, ...]] | None:
    """Return the offset and the same fields of the zip64 end record, if there is one."""
    at = end - LOCATOR.size
    if at < END64.size:
        return None
    magic, _, start, _ = LOCATOR.unpack(source.read(at, LOCATOR.size))
    if magic != LOCATOR_MAGIC:
        return None
    if start + END64.size <= at:
        magic, length, _, _, *fields = END64.unpack(source.read(start, END64.size))
        # The length does not count itself and the signature.
        if magic == END64_MAGIC and start + length + 12 == at:
            return start, tuple(fields)
    raise CorruptFileError("zip64 end record", where=f"byte {start}", expected=f"one up to {at}")


def _records(data: bytes, base: int) -> Iterator[tuple[bytes, Member]]:
    """Yield the raw names and the members of a central directory; `data` offsets are not set.

    Args:
        data: the central directory.
        base: its byte offset, for messages.
    """
    at = 0
    while at < len(data):
        name = at + CENTRAL.size
        if name <= len(data):
            magic, *fields = CENTRAL.unpack_from(data, at)
            extra = name + fields[9]
            comment = extra + fields[10]
            at = comment + fields[11]
        if name > len(data) or magic != CENTRAL_MAGIC or at > len(data):
            where = f"byte {base + name - CENTRAL.size}"
            raise CorruptFileError("no whole record of the central directory", where=where)
        yield data[name:extra], _member(fields, data[name:extra], data[extra:comment])


def _member(fields: list[int], raw: bytes, extra: bytes) -> Member:
    _, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, start = fields
    name = _decode(raw, flags)
    try:
        size, packed, start = _widen(extra, (size, packed, start))
        _check_kind(flags, method, disk)
        _check_sizes(method, packed, size)
        _check_name(name)
    except CorruptFileError as error:
        raise error.within(f"member `{name}`") from None
    # Info-ZIP keeps the mode of Unix in the upper half of the external attributes.
    return Member(name, method, crc, packed, size, start, 0, attributes >> 16)


def _decode(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & UTF8 else "cp437")
    except UnicodeDecodeError as error:
        raise CorruptFileError("name is not the UTF-8 it is said to be", where=repr(raw)) from error


def _widen(extra: bytes, values: tuple[int, int, int]) -> Iterable[int]:
    """Return the values, those that are all ones replaced from the zip64 extra field."""
    missing = values.count(MAX32)
    if not missing:
        return values
    field = _extra(extra, ZIP64_EXTRA)
    if len(field) < 8 * missing:
        raise CorruptFileError(
            "zip64 extra field", expected=f"{8 * missing} bytes", got=f"{len(field)} bytes"
        )
    wide = iter(unpack_from(f"<{missing}Q", field))
    return [next(wide) if value == MAX32 else value for value in values]


def _extra(extra: bytes, wanted: int) -> bytes:
    """Return an extra field's contents, empty where there is none."""
    at = 0
    while at + EXTRA.size <= len(extra):
        number, length = EXTRA.unpack_from(extra, at)
        at += EXTRA.size
        if number == wanted:
            return extra[at : at + length]
        at += length
    return b""


def _check_kind(flags: int, method: int, disk: int) -> None:
    if flags & ENCRYPTED:
        raise CorruptFileError(
            "is encrypted, which is not read", hint="unpack it, and pack it anew"
        )
    if flags & ~HARMLESS:
        raise CorruptFileError("flags", expected="none but those of deflate", got=f"0x{flags:04x}")
    if method not in (STORED, DEFLATED):
        raise CorruptFileError(
            "compression method", expected="0 (stored) or 8 (deflated)", got=method,
            hint="unpack it, and pack it anew",
        )  # fmt: skip
    if disk:
        raise CorruptFileError("lies on another disk, which is not read", got=disk)


def _check_sizes(method: int, packed: int, size: int) -> None:
    if method == STORED and packed != size:
        raise CorruptFileError(
            "length of a stored member", expected=f"{size} bytes", got=f"{packed} bytes"
        )
    if size > packed * MAX_RATIO:
        raise UnsafeFileError(
            "size once inflated", expected=f"at most {packed * MAX_RATIO} bytes",
            got=f"{size} bytes",
        )  # fmt: skip


def _check_name(name: str) -> None:
    """Refuse what other programs would unpack to another place or under another name."""
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (len(parts) > 1 and not parts[0]):
        raise UnsafeFileError("the name leads out of the folder it would be unpacked to")
    if "\0" in name:
        raise UnsafeFileError("the name holds a NUL, at which other programs cut it")


def _data_offset(source: Source, member: Member, raw: bytes, limit: int) -> int:
    """Return where the data starts; it and its local header must end before byte `limit`."""
    least = LOCAL.size + len(raw)
    if member.start + least + member.packed > limit:
        raise _past_end(member.start + least + member.packed, limit)
    head = source.read(member.start, least)
    magic, _, _, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack_from(head)
    where = f"local header at byte {member.start}"
    if magic != LOCAL_MAGIC:
        raise CorruptFileError("signature", where=where, expected=LOCAL_MAGIC, got=magic)
    if head[LOCAL.size :] != raw or name_length != len(raw):
        raise CorruptFileError("another name than in the central directory", where=where)
    if method != member.method:
        raise CorruptFileError("method", where=where, expected=member.method, got=method)
    data = member.start + least + int(extra_length)
    if data + member.packed > limit:
        raise _past_end(data + member.packed, limit)
    return data


def _past_end(got: int, limit: int) -> CorruptFileError:
    return CorruptFileError(
        "runs into the central directory", expected=f"end by byte {limit}", got=f"byte {got}"
    )


def _check_overlap(members: Iterable[Member]) -> None:
    end, before = 0, ""
    for member in sorted(members, key=lambda member: member.start):
        if member.start < end:
            raise UnsafeFileError(
                f"shares bytes with `{before}`", where=f"member `{member.name}`",
                expected=f"start at byte {end} or later", got=f"byte {member.start}",
            )  # fmt: skip
        end, before = member.end, member.name


class MemberStream:
    """The contents of a member in order, inflated where they are packed.

    Args:
        source: the archive.
        member: one of `read_members`.
        verify: whether `finish` checks the CRC-32.
    """

    def __init__(self, source: Source, member: Member, *, verify: bool) -> None:
        self._source = source
        self._member = member
        self._verify = verify
        self._codec = zlib.decompressobj(-zlib.MAX_WBITS)
        self._pending = b""  # packed, read, not inflated yet
        self._at = member.data
        self._left = member.size
        self._crc = 0

    def read(self, length: int) -> bytes:
        """Return exactly the next `length` bytes.

        Raises:
            CorruptFileError: the member is shorter, or what is packed cannot be inflated.
        """
        if length > self._left:
            raise self._error("ends early", f"{length} more bytes", f"{self._left} bytes")
        if self._member.method == STORED:
            data = self._source.read(self._at, length)
            self._at += length
        else:
            data = self._inflate(length)
        self._left -= length
        if self._verify:
            self._crc = Algorithm.CRC32.update(data, self._crc)
        return data

    def finish(self) -> None:
        """Check that all has been read, that nothing follows, and the CRC-32.

        Raises:
            CorruptFileError: there is more than the directory says, or the CRC-32 differs.
        """
        if self._left:
            raise self._error("is longer than what it holds", "0 more bytes", f"{self._left} bytes")
        if self._member.method == DEFLATED and (self._inflate_some(1) or not self._at_end()):
            raise self._error("packed data", f"an end after {self._member.size} bytes", "more")
        if self._verify and self._crc != self._member.crc:
            raise self._error(
                "crc32 of the contents differs", f"0x{self._member.crc:08x}", f"0x{self._crc:08x}"
            )

    def _inflate(self, length: int) -> bytes:
        data = self._inflate_some(length)
        while len(data) < length:
            more = self._inflate_some(length - len(data))
            if not more:
                raise self._error("packed data ends early", f"{self._member.size} bytes", None)
            data += more
        return data

    def _inflate_some(self, limit: int) -> bytes:
        """Return at least one byte and at most `limit`, none only at the end."""
        while not self._codec.eof:
            if not self._pending:
                self._pending = self._source.read(
                    self._at, min(INPUT_BYTES, self._member.end - self._at)
                )
                self._at += len(self._pending)
            exhausted = not self._pending
            try:
                data = self._codec.decompress(self._pending, limit)
            except zlib.error as error:
                raise self._error(f"packed data: {error}", None, None) from error
            self._pending = self._codec.unconsumed_tail
            if data or exhausted:
                return data
        return b""

    def _at_end(self) -> bool:
        """Whether the packed data ended exactly where the member does."""
        return self._codec.eof and not self._codec.unused_data and self._at == self._member.end

    def _error(self, what: str, expected: str | None, got: str | None) -> CorruptFileError:
        return CorruptFileError(
            what,
            path=self._source.path,
            where=f"member `{self._member.name}`",
            expected=expected,
            got=got,
        )
