r"""Tar archives, read as a stream: folders and regular files, of any dialect in use.

    header of 512 bytes    name, size (octal, or binary from 8 GiB on), checksum, kind, prefix
    data                   padded to a multiple of 512
    512 zero bytes         the end, usually twice

Specified by POSIX.1-2001 (pax Interchange Format, ustar) and tar.h of GNU tar 1.35. Of pax
headers, `path` and `size` are used; of GNU's, long names. Around it there may be gzip (RFC 1952),
in one part or several.

Not read: links, devices, pipes, sparse files. Nothing a weight needs is kept as one, and each has
been used to write outside of the folder that an archive is unpacked to.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import CorruptFileError, UnsafeFileError
from ..names import decode
from ..sources import Source

__all__ = [
    "GZIP_MAGIC",
    "Entry",
    "FileStream",
    "GzipStream",
    "Stream",
    "is_tar_header",
    "read_tar",
]

BLOCK = 512
GZIP_MAGIC = b"\x1f\x8b"
INPUT_BYTES = 1 << 18
CHUNK_BYTES = 1 << 20
# Padding behind the end: tar writes whole records, of 10 KiB unless told otherwise.
MAX_PADDING_BYTES = 16 << 20
MAX_EXTENSION_BYTES = 1 << 20  # of a long name, or of a pax header
MAX_EXTENSIONS = 16  # that stand before one member

_FILES, _FOLDER = b"\x000" + b"7", b"5"
_UNSAFE = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device",
    b"4": "a block device", b"6": "a pipe", b"S": "a sparse file",
}  # fmt: skip
_CUT_SHORT = "the archive is cut short; copy it again"


class Entry(NamedTuple):
    """A member: its name as the archive has it, its length in bytes, and whether it is a folder."""

    name: str
    size: int
    folder: bool


class Stream(ABC):
    """Bytes that come in order."""

    @abstractmethod
    def read(self, length: int) -> bytes:
        """Return the next `length` bytes, fewer only at the end."""

    def skip(self, length: int) -> None:
        """Leave out bytes; those behind the end are missed at the next read."""
        while length and (data := self.read(min(length, CHUNK_BYTES))):
            length -= len(data)


class FileStream(Stream):
    """A source from its start to its end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    @property
    def at(self) -> int:
        """Offset of the next byte in the source."""
        return self._at

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes, fewer only at the end."""
        length = min(length, max(self._source.size - self._at, 0))
        data = self._source.read(self._at, length)
        self._at += length
        return data

    def skip(self, length: int) -> None:
        """Leave out bytes without reading them."""
        self._at += length


class GzipStream(Stream):
    """What a gzip file holds; its checksums are verified.

    Raises:
        CorruptFileError: when reading, if it is damaged or ends within the packed data.
    """

    def __init__(self, source: Source) -> None:
        self._packed = FileStream(source)
        self._pending = self._packed.read(INPUT_BYTES)
        self._codec = zlib.decompressobj(zlib.MAX_WBITS | 16)  # with gzip's header and trailer

    def read(self, length: int) -> bytes:
        """Return the next `length` bytes, fewer only at the end."""
        data = bytearray()
        while len(data) < length and (part := self._inflate(length - len(data))):
            data += part
        return bytes(data)

    def _inflate(self, limit: int) -> bytes:
        """Return at least one byte, none only at the end."""
        while True:
            if self._codec.eof and not self._next_part():
                return b""
            try:
                data = self._codec.decompress(self._pending, limit)
            except zlib.error as error:
                raise CorruptFileError(f"gzip: {error}", hint="copy the file again") from error
            self._pending = self._codec.unused_data or self._codec.unconsumed_tail
            if data:
                return data
            if not self._codec.eof and not self._pending:
                self._pending = self._packed.read(INPUT_BYTES)
                if not self._pending:
                    raise CorruptFileError("gzip: ends within packed data", hint=_CUT_SHORT)

    def _next_part(self) -> bool:
        """Begin the next part; zeros behind the last are padding."""
        self._pending = self._pending.lstrip(b"\0")
        while not self._pending:
            more = self._packed.read(INPUT_BYTES)
            if not more:
                return False
            self._pending = more.lstrip(b"\0")
        self._codec = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True


def is_tar_header(block: bytes) -> bool:
    """Tell whether a tar archive begins with these 512 bytes; old ones have no magic number."""
    return len(block) == BLOCK and any(block[:100]) and _checksum_fits(block)


def read_tar(stream: Stream) -> Iterator[tuple[Entry, Iterator[bytes]]]:
    """Yield every folder and file with its data, which must be taken before the next is asked for.

    Data that is not taken is skipped.

    Raises:
        CorruptFileError: a header is damaged, or the archive ends early.
        UnsafeFileError: a member is a link, a device, a pipe or a sparse file.
    """
    while (header := _next_header(stream)) is not None:
        entry = header
        data = _Data(stream, entry)
        yield entry, data
        data.finish()
    # To the end, where gzip has its checksum.
    if len(stream.read(MAX_PADDING_BYTES)) == MAX_PADDING_BYTES:
        raise CorruptFileError(
            "data behind the end of a tar archive", expected=f"at most {MAX_PADDING_BYTES} bytes",
            got="more",
        )  # fmt: skip


class _Data(Iterator[bytes]):
    """The data of one member, in chunks."""

    def __init__(self, stream: Stream, entry: Entry) -> None:
        self._stream = stream
        self._entry = entry
        self._left = entry.size

    def __next__(self) -> bytes:
        if not self._left:
            raise StopIteration
        length = min(self._left, CHUNK_BYTES)
        data = self._stream.read(length)
        if len(data) < length:
            raise CorruptFileError(
                "ends early", where=f"member `{self._entry.name}`",
                expected=f"{self._entry.size} bytes",
                got=f"{self._entry.size - self._left + len(data)} bytes", hint=_CUT_SHORT,
            )  # fmt: skip
        self._left -= length
        return data

    def finish(self) -> None:
        """Move behind the data and its padding."""
        self._stream.skip(self._left + -self._entry.size % BLOCK)
        self._left = 0


def _next_header(stream: Stream) -> Entry | None:
    """Return the next member, with the names and sizes of the extensions before it."""
    extended: dict[str, str] = {}
    for _ in range(MAX_EXTENSIONS):
        block = stream.read(BLOCK)
        if len(block) < BLOCK:
            raise CorruptFileError("no end of a tar archive", hint=_CUT_SHORT)
        if not any(block):
            return None
        if not _checksum_fits(block):
            raise CorruptFileError("checksum of a tar header differs", hint="copy the file again")
        kind = block[156:157]
        entry = Entry(_name(block), _number(block[124:136]), kind == _FOLDER)
        if kind in (b"x", b"g", b"L", b"K"):
            extended |= _extension(stream, entry, kind)
            continue
        return _completed(entry, kind, extended)
    raise UnsafeFileError("headers before one member", expected=f"at most {MAX_EXTENSIONS}")


def _completed(entry: Entry, kind: bytes, extended: dict[str, str]) -> Entry:
    entry = entry._replace(name=extended.get("path", entry.name))
    where = f"member `{entry.name}`"
    if kind in _UNSAFE or any(key.startswith("GNU.sparse") for key in extended):
        what = _UNSAFE.get(kind, "a sparse file")
        raise UnsafeFileError(
            f"is {what}, which no model needs", where=where,
            hint="if you trust the archive, unpack it and point at the model inside",
        )  # fmt: skip
    if entry.folder:
        return entry._replace(size=0)
    if kind not in (_FILES[0:1], _FILES[1:2], _FILES[2:3]):
        raise CorruptFileError("kind of a tar member", where=where, got=repr(kind))
    size = extended.get("size")
    if size is not None:
        if not size.isdecimal() or len(size) > 19:
            raise CorruptFileError("size in a pax header", where=where, got=size[:40])
        entry = entry._replace(size=int(size))
    if entry.name.endswith("/"):  # how archives older than 1988 mark folders
        return entry._replace(folder=True, size=0)
    return entry


def _extension(stream: Stream, entry: Entry, kind: bytes) -> dict[str, str]:
    """Return what a header says about the member that follows, by pax's names."""
    if entry.size > MAX_EXTENSION_BYTES:
        raise UnsafeFileError(
            "length of a tar extension", expected=f"at most {MAX_EXTENSION_BYTES} bytes",
            got=f"{entry.size} bytes",
        )  # fmt: skip
    data = _Data(stream, entry)
    text = b"".join(data)
    data.finish()
    if kind == b"L":
        return {"path": decode(text.rstrip(b"\0"))}
    if kind == b"K":  # the target of a link, which is refused with the link
        return {}
    return dict(_pax_records(text))


def _pax_records(text: bytes) -> Iterator[tuple[str, str]]:
    r"""Yield key and value of `<length> <key>=<value>\n` records."""
    at = 0
    while at < len(text):
        length, blank, _ = text[at : at + 20].partition(b" ")
        end = at + int(length) if blank and length.isdigit() else -1
        key, equals, value = text[at + len(length) + 1 : end - 1].partition(b"=")
        if not at < end <= len(text) or text[end - 1 : end] != b"\n" or not equals:
            raise CorruptFileError("record of a pax header", got=repr(text[at : at + 40]))
        yield decode(key), decode(value)
        at = end


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return decode(prefix + b"/" + name if prefix else name)


def _number(field: bytes) -> int:
    """Return a number in octal digits, or, where the first bit is set, big endian binary."""
    if field[0] & 0x80:
        value = int.from_bytes(field[1:], "big")
        if field[0] == 0x80 and value < 1 << 63:
            return value
    else:
        digits = field.partition(b"\0")[0].strip() or b"0"
        if digits.isdigit() and not set(digits) & set(b"89"):
            return int(digits, 8)
    raise CorruptFileError("number in a tar header", got=repr(field))


def _checksum_fits(block: bytes) -> bool:
    """Compare the sum of the header's bytes, its own field taken as blanks."""
    try:
        expected = _number(block[148:156])
    except CorruptFileError:
        return False
    rest = block[:148] + block[156:]
    # Some old tars summed signed bytes.
    sums = (sum(rest), sum(byte - 256 * (byte > 127) for byte in rest))
    return expected in (each + 8 * ord(" ") for each in sums)
