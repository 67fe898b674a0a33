r"""The table: sorted keys and values in blocks, as LevelDB lays them out.

    [data block][trailer] … [metaindex block][trailer] [index block][trailer] [footer, 48 bytes]

    block    entries, then restart offsets (uint32 each), then their number (uint32)
    entry    varint shared, varint unshared, varint value length, key suffix, value
    trailer  compression (1 byte: 0 none, 1 snappy), masked CRC-32C of block and that byte
    footer   varint offset and size of metaindex and index, zeros up to byte 40, magic number

The index block has an entry for each data block: a key not below its last one, and its handle.
Specified by xla/tsl/lib/io/{format,block,table}.h (TensorFlow v2.21.0) and LevelDB's
doc/table_format.md. Both checkpoint formats are such tables; TensorFlow writes neither filters nor
compressed blocks, but other builds of it wrote snappy ones, and they are common.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..checksums import Algorithm
from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source
from .wire import read_varint, varint

__all__ = [
    "FOOTER_BYTES",
    "MAGIC",
    "Handle",
    "Table",
    "Trailer",
    "block_entries",
    "build_table",
    "entries_end",
    "mask",
    "unmask",
]

FOOTER_BYTES = 48
TRAILER_BYTES = 5
MAGIC = bytes.fromhex("57fb808b247547db")  # kTableMagicNumber, format.h
BLOCK_BYTES = 262_144  # table_options.h, Options::block_size
RESTART_INTERVAL = 16  # table_options.h, Options::block_restart_interval
MASK_DELTA = 0xA282EAD8  # xla/tsl/lib/hash/crc32c.h, kMaskDelta
# A snappy copy of 64 bytes takes 3, so no honest block grows further than this.
SNAPPY_RATIO = 24
CHECK_BYTES = 1 << 20  # of a block that is checked without being held in memory


def mask(crc: int) -> int:
    """Rotate and offset a CRC, so that one stored inside checked data stays meaningful."""
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Undo `mask`."""
    rotated = (masked - MASK_DELTA) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


class Handle(NamedTuple):
    """Where a block lies: byte offset in the table, length in bytes without its trailer."""

    offset: int
    length: int


class Trailer(NamedTuple):
    """What stands behind a block: how it is compressed, and the CRC-32C of it and that byte."""

    compression: int
    crc: int


class Table:
    """A table that is read block by block.

    Args:
        source: the file.
        verify: whether to check the checksum of each block.

    Raises:
        CorruptFileError: the footer is not one.
    """

    def __init__(self, source: Source, *, verify: bool = True) -> None:
        self._source = source
        self._verify = verify
        self.out_of_order = False
        self.compressed = False
        self._meta, self._index = self._footer()

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values in the order of the file.

        Raises:
            CorruptFileError: a block is damaged; the error names its byte offset.
        """
        last: bytes | None = None
        for handle in self.blocks():
            for key, content, _ in self._block(handle):
                if last is not None and key <= last:
                    self.out_of_order = True
                last = key
                yield key, content

    def blocks(self) -> Iterator[Handle]:
        """Yield where the data blocks lie, in the order of the file; reads the index alone.

        Raises:
            CorruptFileError: the index is damaged.
        """
        for _, value, _ in self._block(self._index):
            with self.naming(self._index):
                handle = _read_handle(value, 0)[0]
            yield handle

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield first byte and end of all that the table consists of; reads the index alone.

        Raises:
            CorruptFileError: the index is damaged.
        """
        for offset, length in (*self.blocks(), self._meta, self._index):
            yield offset, offset + length + TRAILER_BYTES
        yield self._source.size - FOOTER_BYTES, self._source.size

    def body(self, block: Handle) -> bytes:
        """Return what a block holds, verified and unpacked.

        Raises:
            CorruptFileError: it is damaged; the error names its byte offset.
        """
        with self.naming(block):
            return self._body(block)

    def trailer(self, block: Handle) -> Trailer:
        """Read what stands behind a block, and nothing of the block itself.

        Raises:
            CorruptFileError: the block runs past the end of the table.
        """
        with self.naming(block):
            self._check_place(block)
            stored = self._source.read(block.offset + block.length, TRAILER_BYTES)
            return Trailer(stored[0], unmask(int.from_bytes(stored[1:], "little")))

    def check(self, block: Handle) -> None:
        """Verify the checksum of a block of any size, a piece at a time.

        Raises:
            CorruptFileError: it differs.
        """
        crc, end = 0, block.offset + block.length + 1  # with the byte for the compression
        expected = self.trailer(block).crc
        for at in range(block.offset, end, CHECK_BYTES):
            piece = self._source.read(at, min(CHECK_BYTES, end - at))
            crc = Algorithm.CRC32C.update(piece, crc)
        with self.naming(block):
            _compare(mask(expected), mask(crc))

    def _footer(self) -> tuple[Handle, Handle]:
        size = self._source.size
        if size < FOOTER_BYTES:
            raise CorruptFileError(
                "too short for a table",
                path=self._source.path,
                expected=f"at least {FOOTER_BYTES} bytes",
                got=f"{size} bytes",
            )
        footer = self._source.read(size - FOOTER_BYTES, FOOTER_BYTES)
        if not footer.endswith(MAGIC):
            raise CorruptFileError(
                "no table magic number at the end",
                path=self._source.path,
                where=f"byte {size - len(MAGIC)}",
                expected=MAGIC.hex(),
                got=footer[-len(MAGIC) :].hex(),
                hint="the file is cut short, or something was added to it; copy it again",
            )
        with self.naming(Handle(size - FOOTER_BYTES, FOOTER_BYTES)):
            meta, at = _read_handle(footer, 0)
            return meta, _read_handle(footer, at)[0]

    def _block(self, handle: Handle) -> Iterator[tuple[bytes, bytes, int]]:
        with self.naming(handle):
            yield from block_entries(self._body(handle))

    def _check_place(self, handle: Handle) -> None:
        limit = self._source.size - FOOTER_BYTES - TRAILER_BYTES
        if handle.offset + handle.length > limit:
            raise CorruptFileError(
                "block runs past the end of the table",
                expected=f"at most byte {limit}",
                got=f"byte {handle.offset + handle.length}",
            )

    def _body(self, handle: Handle) -> bytes:
        self._check_place(handle)
        stored = self._source.read(handle.offset, handle.length + TRAILER_BYTES)
        self._check(stored)
        body, compression = stored[: handle.length], stored[handle.length]
        if compression == 1:
            self.compressed = True
            return _unsnappy(body)
        if compression != 0:
            raise CorruptFileError(
                "block compression", expected="0 (none) or 1 (snappy)", got=compression
            )
        return body

    def _check(self, stored: bytes) -> None:
        if self._verify:
            got = mask(Algorithm.CRC32C.update(stored[:-4]))
            _compare(int.from_bytes(stored[-4:], "little"), got)

    @contextmanager
    def naming(self, handle: Handle) -> Iterator[None]:
        """Put file and block into an error on its way out."""
        try:
            yield
        except CorruptFileError as error:
            if error.path is None:
                error.path = os.fspath(self._source.path)
            raise error.within(f"block at byte {handle.offset}") from error


def _compare(expected: int, got: int) -> None:
    if expected != got:
        raise CorruptFileError(
            "masked crc32c of the block differs",
            expected=f"0x{expected:08x}",
            got=f"0x{got:08x}",
            hint="copy the file again, or read what is there with --no-checksum",
        )


def _read_handle(data: bytes, at: int) -> tuple[Handle, int]:
    """Decode an offset and a length, both in bytes; source: format.h, BlockHandle::DecodeFrom."""
    offset, at = read_varint(data, at)
    length, at = read_varint(data, at)
    return Handle(offset, length), at


def _unsnappy(body: bytes) -> bytes:
    declared, _ = read_varint(body, 0)
    if declared > len(body) * SNAPPY_RATIO:
        raise UnsafeFileError(
            "snappy block claims more than snappy can pack",
            expected=f"at most {len(body) * SNAPPY_RATIO} bytes",
            got=f"{declared} bytes",
        )
    from cramjam import DecompressionError, snappy

    try:
        plain = bytes(snappy.decompress_raw(body))
    except DecompressionError as error:
        raise CorruptFileError(f"snappy block: {error}") from error
    if len(plain) != declared:
        raise CorruptFileError(
            "snappy block length", expected=f"{declared} bytes", got=f"{len(plain)} bytes"
        )
    return plain


def block_entries(body: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield key and value of the entries of a block, and at which byte the value starts.

    Restart points only serve searches and are not needed.

    Raises:
        CorruptFileError: an entry is no entry, or runs past the end of the block.
    """
    end = entries_end(len(body), body[-4:])
    at, key = 0, b""
    while at < end:
        # Nearly every length is below 128; the restart count behind the entries makes it safe
        # to look three bytes ahead.
        shared, unshared, size = body[at], body[at + 1], body[at + 2]
        if (shared | unshared | size) < 0x80:
            at += 3
        else:
            shared, at = read_varint(body, at)
            unshared, at = read_varint(body, at)
            size, at = read_varint(body, at)
        if shared > len(key) or unshared + size > end - at:
            raise CorruptFileError(
                "entry runs past the end of its block",
                where=f"entry before byte {at}",
                expected=f"at most {end - at} bytes",
                got=f"{unshared + size} bytes, {shared} shared of {len(key)}",
            )
        key = key[:shared] + body[at : at + unshared]
        at += unshared
        yield key, body[at : at + size], at
        at += size


def entries_end(length: int, tail: bytes) -> int:
    """Return where in a block the entries end and the restart offsets begin.

    Args:
        length: of the block, in bytes.
        tail: its last four bytes, the number of restart offsets.

    Raises:
        CorruptFileError: there is no room for so many.
    """
    if length < 4:
        raise CorruptFileError("block too short", expected="at least 4 bytes", got=length)
    restarts = int.from_bytes(tail, "little")
    end = length - 4 * (restarts + 1)
    if end < 0:
        raise CorruptFileError(
            "restart points", expected=f"at most {length // 4 - 1}", got=restarts
        )
    return end


def build_table(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a table of `entries`, whose keys must rise strictly.

    Blocks, restart points and separators are chosen as TensorFlow does, so that the same entries
    give the same bytes; source: xla/tsl/lib/io/table_builder.cc.
    """
    table = bytearray()
    index = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder(RESTART_INTERVAL)
    pending: Handle | None = None  # of the last block, until the next key is known
    for key, value in entries:
        if block.data and len(key) + len(value) >= 2 * BLOCK_BYTES:
            pending = _append_block(table, block)
        if pending:
            index.add(_separator(block.last_key, key), _handle_bytes(pending))
            block, pending = _BlockBuilder(RESTART_INTERVAL), None
        block.add(key, value)
        if block.size >= BLOCK_BYTES:
            pending = _append_block(table, block)
    if pending is None and block.data:
        pending = _append_block(table, block)
    metaindex = _append_block(table, _BlockBuilder(RESTART_INTERVAL))
    if pending:
        index.add(_successor(block.last_key), _handle_bytes(pending))
    footer = _handle_bytes(metaindex) + _handle_bytes(_append_block(table, index))
    return bytes(table) + footer.ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC


class _BlockBuilder:
    """A block in the making; keys share what they have in common with the one before."""

    def __init__(self, restart_interval: int) -> None:
        self._interval = restart_interval
        self._restarts = [0]
        self._count = 0
        self.data = bytearray()
        self.last_key = b""

    @property
    def size(self) -> int:
        """Bytes of the finished block."""
        return len(self.data) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        """Append an entry."""
        shared = 0
        if self._count == self._interval:
            self._restarts.append(len(self.data))
            self._count = 0
        elif self._count:
            shared = _common(self.last_key, key)
        self.data += varint(shared) + varint(len(key) - shared) + varint(len(value))
        self.data += key[shared:] + value
        self.last_key = key
        self._count += 1

    def finish(self) -> bytes:
        """Return the block without its trailer."""
        numbers = (*self._restarts, len(self._restarts))
        return bytes(self.data) + b"".join(n.to_bytes(4, "little") for n in numbers)


def _append_block(table: bytearray, block: _BlockBuilder) -> Handle:
    body = block.finish() + b"\0"
    handle = Handle(len(table), len(body) - 1)
    table += body + mask(Algorithm.CRC32C.update(body)).to_bytes(4, "little")
    return handle


def _handle_bytes(handle: Handle) -> bytes:
    return varint(handle.offset) + varint(handle.length)


def _common(first: bytes, second: bytes) -> int:
    """Return how many bytes two keys have in common at their beginning."""
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return at
    return min(len(first), len(second))


def _separator(last: bytes, following: bytes) -> bytes:
    """Return a short key not below `last` and below `following`."""
    at = _common(last, following)
    if at < min(len(last), len(following)) and last[at] + 1 < following[at]:
        return last[:at] + bytes((last[at] + 1,))
    return last


def _successor(last: bytes) -> bytes:
    """Return a short key not below `last`."""
    for at, byte in enumerate(last):
        if byte != 0xFF:
            return last[:at] + bytes((byte + 1,))
    return last
