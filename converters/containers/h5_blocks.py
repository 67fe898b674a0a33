r"""Blocks of HDF5 metadata, read by address under bounds that damage and malice cannot stretch.

    signature  "\x89HDF\r\n\x1a\n" at byte 0, 512, 1024, 2048, …; every address counts from it
    superblock version 0 or 1: sizes of an address and a length, K values, base, end, root entry
               version 2 or 3: the same without K values and entry, with the root's address

Specified by the HDF5 File Format Specification 3.0, section II.A (superblock) and VII.A (checksum).

Blocks of an honest file do not overlap, so all that are read together are no longer than the
file; whoever runs in circles soon has read more. What lies outside of the subset that Keras and
h5py write raises `OutsideSubset`, so that libhdf5 can be asked instead; damage does not, since
libhdf5 can crash on it.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from ..errors import ConvertError, CorruptFileError
from ..sources import Source

__all__ = [
    "SIGNATURE",
    "UNDEFINED",
    "Blocks",
    "OutsideSubset",
    "Superblock",
    "find_signature",
    "lookup3",
    "open_blocks",
]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF
PAGE_BYTES = 4096
MAX_PAGES = 1024
SLACK_BYTES = 1 << 16  # a block or two may be looked at twice

# Signature, version, 4 versions and a reserved byte, sizes of address and length, K values, flags.
_SUPERBLOCK_0 = Struct("<8sB4xBBxHHI")
# Base, free space, end of file, driver; then of the root's entry: name, header.
_ADDRESSES_0 = Struct("<QQQQQQ")
# Signature, version, sizes, flags; base, extension, end of file, root header, checksum.
_SUPERBLOCK_2 = Struct("<8sBBBBQQQQI")
_WRITTEN = 0x01  # of its flags: opened to be written, and not closed


class OutsideSubset(ConvertError):  # noqa: N818 - a fact about the file, not a fault in it
    """An honest HDF5 file may have this, and Keras never writes it: libhdf5 must read it."""

    exit_code = 4


class Superblock(NamedTuple):
    """Where a file's metadata starts, and where the file says that it ends.

    Attributes:
        base: the byte of the source that addresses count from.
        root: address of the root group.
        end: the byte of the source after the last that the file uses.
        is_open: whether it says that a program still writes it.
    """

    base: int
    root: int
    end: int
    is_open: bool = False


def find_signature(source: Source) -> int | None:
    """Return the byte at which HDF5 begins, or None; before it lies a user block."""
    at = 0
    while at + len(SIGNATURE) <= source.size:
        if source.read(at, len(SIGNATURE)) == SIGNATURE:
            return at
        at = at * 2 or 512
    return None


def open_blocks(source: Source, *, verify: bool = True) -> tuple[Blocks, Superblock]:
    """Return what reads the blocks of a file, and its superblock.

    Args:
        source: the file.
        verify: whether the checksums that newer blocks have are checked.

    Raises:
        CorruptFileError: it is no HDF5, cut short, or damaged.
        OutsideSubset: addresses or lengths do not take 8 bytes.
    """
    base = find_signature(source)
    if base is None:
        raise CorruptFileError("no HDF5 file: no signature")
    blocks = Blocks(source, base, verify=verify)
    version = blocks.take(8, 1)[0]
    if version in (0, 1):
        return blocks, _superblock_0(blocks, version)
    if version in (2, 3):
        return blocks, _superblock_2(blocks)
    raise CorruptFileError("superblock: version", expected="0 to 3", got=version)


def _superblock_0(blocks: Blocks, version: int) -> Superblock:
    head = _SUPERBLOCK_0.unpack(blocks.take(0, _SUPERBLOCK_0.size))
    _check_sizes(head[2], head[3])
    at = _SUPERBLOCK_0.size + 4 * version  # version 1 adds a K value
    raw = blocks.take(at, _ADDRESSES_0.size)
    base, _, end, _, _, root = _ADDRESSES_0.unpack(raw)
    _check_end(blocks, base, end)
    return Superblock(blocks.base, root, blocks.base - base + end)


def _superblock_2(blocks: Blocks) -> Superblock:
    raw = blocks.take(0, _SUPERBLOCK_2.size)
    _, version, offsets, lengths, flags, base, _, end, root, checksum = _SUPERBLOCK_2.unpack(raw)
    blocks.check(raw[:-4], checksum, "superblock")
    _check_sizes(offsets, lengths)
    _check_end(blocks, base, end)
    is_open = version > 2 and bool(flags & _WRITTEN)  # version 2 gives them no meaning
    return Superblock(blocks.base, root, blocks.base - base + end, is_open)


def _check_sizes(offsets: int, lengths: int) -> None:
    if (offsets, lengths) == (8, 8):
        return
    if offsets in (2, 4, 16) or lengths in (2, 4, 16):
        raise OutsideSubset(
            "size of addresses and lengths", expected=(8, 8), got=(offsets, lengths)
        )
    raise CorruptFileError("superblock: sizes", expected=(8, 8), got=(offsets, lengths))


def _check_end(blocks: Blocks, base: int, end: int) -> None:
    """Compare the stored end with the file's, as libhdf5 does: what follows it does not matter."""
    # A user block that was put before a finished file moves everything.
    size = blocks.size - blocks.base + base
    if end > size:
        raise CorruptFileError(
            "the file ends early",
            expected=f"{end} bytes",
            got=f"{size} bytes",
            hint="copy the file again; it is shorter than it says",
        )


class Blocks:
    """Reads blocks by address, in pages of the size that the operating system reads anyway.

    Attributes:
        source: the file.
        base: the byte from which addresses count.
        size: bytes of the file.
        verify: whether checksums are checked.
    """

    def __init__(self, source: Source, base: int, *, verify: bool) -> None:
        self.source = source
        self.base = base
        self.size = source.size
        self.verify = verify
        self._left = self.size + SLACK_BYTES
        self._pages: dict[int, bytes] = {}

    def take(self, address: int, length: int) -> bytes:
        """Return a block.

        Raises:
            CorruptFileError: it is not within the file, or overlaps others.
        """
        start = self.base + address
        self._left -= length
        if start + length > self.size or self._left < 0:
            raise self._misplaced(start, length)
        at = start % PAGE_BYTES
        if at + length > PAGE_BYTES:
            return self._across(start, length)
        number = start // PAGE_BYTES
        page = self._pages.get(number) or self._load(number)
        return page[at : at + length]

    def check(self, data: bytes, expected: int, what: str) -> None:
        """Compare the checksum of a block with the one that follows it.

        Raises:
            CorruptFileError: they differ.
        """
        if self.verify and lookup3(data) != expected:
            raise CorruptFileError(
                f"checksum of {what}",
                expected=f"0x{expected:08x}",
                got=f"0x{lookup3(data):08x}",
                hint="copy the file again, or read what is there with --no-checksum",
            )

    def _across(self, start: int, length: int) -> bytes:
        if length > PAGE_BYTES:
            return self.source.read(start, length)
        number, at = divmod(start, PAGE_BYTES)
        first = self._pages.get(number) or self._load(number)
        second = self._pages.get(number + 1) or self._load(number + 1)
        return first[at:] + second[: at + length - PAGE_BYTES]

    def _load(self, number: int) -> bytes:
        if len(self._pages) >= MAX_PAGES:
            self._pages.clear()
        start = number * PAGE_BYTES
        page = self.source.read(start, min(PAGE_BYTES, self.size - start))
        self._pages[number] = page
        return page

    def _misplaced(self, start: int, length: int) -> CorruptFileError:
        if start + length > self.size:
            return CorruptFileError(
                "a block of metadata",
                expected=f"within {self.size} bytes",
                got=f"bytes {start} to {start + length}",
            )
        return CorruptFileError("blocks of metadata overlap", expected=f"{self.size} bytes in all")


_MASK = 0xFFFF_FFFF


def lookup3(data: bytes) -> int:
    """Return the checksum of HDF5: Bob Jenkins' lookup3, `hashlittle` with 0 to start from."""
    length = len(data)
    a = b = c = (0xDEADBEEF + length) & _MASK
    if not length:
        return c
    words = memoryview(data.ljust(length + -length % 12, b"\0")).cast("I")
    for at in range(0, len(words) - 3, 3):
        a, b, c = _mix(a + words[at], b + words[at + 1], c + words[at + 2])
    a, b, c = a + words[-3], b + words[-2], c + words[-1]
    return _final(a & _MASK, b & _MASK, c & _MASK)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    mask = _MASK
    b, c = b & mask, c & mask
    a = (a - c) & mask ^ (c << 4 & mask | c >> 28)
    c = c + b & mask
    b = (b - a) & mask ^ (a << 6 & mask | a >> 26)
    a = a + c & mask
    c = (c - b) & mask ^ (b << 8 & mask | b >> 24)
    b = b + a & mask
    a = (a - c) & mask ^ (c << 16 & mask | c >> 16)
    c = c + b & mask
    b = (b - a) & mask ^ (a << 19 & mask | a >> 13)
    a = a + c & mask
    c = (c - b) & mask ^ (b << 4 & mask | b >> 28)
    return a, b + a & mask, c


def _final(a: int, b: int, c: int) -> int:
    mask = _MASK
    c = ((c ^ b) - (b << 14 & mask | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 & mask | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 & mask | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 & mask | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 & mask | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 & mask | a >> 18)) & mask
    return ((c ^ b) - (b << 24 & mask | b >> 8)) & mask
