"""Object headers of HDF5, and the messages in them that matter to us.

    header 1   version, message count, references, bytes; 8-aligned messages (type, size, flags)
    header 2   "OHDR", version 2, flags, bytes; packed messages; lookup3 of the whole
    both       go on elsewhere where a continuation message (0x10) says so

Specified by the HDF5 File Format Specification 3.0, section IV.A. A message that lies in another
object (a shared one) is refused: Keras writes none, and committed types are one kind of it.
"""

from __future__ import annotations

from struct import Struct, error, unpack_from
from typing import NamedTuple, TypeAlias

from ..errors import CorruptFileError, UnsafeFileError
from .h5_blocks import UNDEFINED, Blocks, OutsideSubset

__all__ = [
    "ATTRIBUTE",
    "ATTRIBUTE_INFO",
    "DATASPACE",
    "DATATYPE",
    "EXTERNAL",
    "HARD",
    "LAYOUT",
    "LINK",
    "LINK_INFO",
    "SOFT",
    "SYMBOL_TABLE",
    "Layout",
    "Message",
    "attribute_name",
    "attribute_parts",
    "heap_of_info",
    "layout",
    "link",
    "read_header",
]

# Message types, section IV.A.2.
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0C, 0x10, 0x11, 0x15

MAX_BLOCKS = 4096  # that a header goes on in; attributes added one by one make a few
SHARED = 2  # flag of a message
HARD, SOFT = 0, 1  # kinds of links; external ones are 64
# What tells nothing of interest: padding, fill values, times, comments, allocation, K values.
IGNORED = frozenset({0x00, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16})
MAX_NAME_BYTES = 4096

_PREFIX_1 = Struct("<BxHII4x")
_MESSAGE_1 = Struct("<HHB3x")
_MESSAGE_2 = Struct("<BHB")
_PLACE = Struct("<QQ")
_ATTRIBUTE = Struct("<BBHHH")


# A message of an object header: its type and its bytes. Plain tuples: there are 100,000s of them.
Message: TypeAlias = tuple[int, bytes]


# Headers


def read_header(blocks: Blocks, address: int) -> list[Message]:
    """Return the messages of an object, from all blocks of its header.

    Raises:
        CorruptFileError: there is no header, or it contradicts itself.
        UnsafeFileError: a message lies in another object.
    """
    head = blocks.take(address, _PREFIX_1.size)
    if head[:4] == b"OHDR":
        return _read_2(blocks, address, head)
    version, _, _, size = _PREFIX_1.unpack(head)
    if version != 1:
        raise CorruptFileError("no object header", expected="version 1, or OHDR", got=head.hex())
    places = [(address + _PREFIX_1.size, size)]
    messages: list[Message] = []
    for place in places:  # which grows on the way
        data = blocks.take(*place)
        for each in _split(_MESSAGE_1, 8, data, messages):
            _go_on(places, each)
    return messages


def _split(form: Struct, head: int, data: bytes, messages: list[Message]) -> list[bytes]:
    """Append the messages of a block; return those that say where the header goes on.

    Args:
        form: type, size and flags of a message.
        head: bytes before those of the message itself; more than `form` where they are numbered.
        data: the block.
        messages: those of the blocks before.
    """
    at, size, further = 0, len(data), []
    unpack = form.unpack_from
    while at + head <= size:
        kind, length, flags = unpack(data, at)
        at += head
        end = at + length
        if end > size:
            raise _overlong(kind, size - at, length)
        if kind == CONTINUATION:
            further.append(data[at:end])
        elif kind not in IGNORED:
            if flags & SHARED:
                raise _shared(kind)
            messages.append((kind, data[at:end]))
        at = end
    return further


def _read_2(blocks: Blocks, address: int, head: bytes) -> list[Message]:
    version, flags = head[4], head[5]
    if version != 2:
        raise CorruptFileError("version of an object header", expected=2, got=version)
    at = 6 + 16 * (flags >> 5 & 1) + 4 * (flags >> 4 & 1)  # times; limits of attributes
    width = 1 << (flags & 3)
    size = int.from_bytes(blocks.take(address + at, width), "little")
    places = [(address, at + width + size + 4)]
    start = at + width
    head_bytes = 6 if flags & 4 else 4
    messages: list[Message] = []
    for place in places:
        data = blocks.take(*place)
        if start == 4 and data[:4] != b"OCHK":
            raise CorruptFileError("no part of an object header", expected=b"OCHK", got=data[:4])
        blocks.check(data[:-4], int.from_bytes(data[-4:], "little"), "an object header")
        for each in _split(_MESSAGE_2, head_bytes, data[start:-4], messages):
            _go_on(places, each)
        start = 4
    return messages


def _go_on(places: list[tuple[int, int]], data: bytes) -> None:
    if len(data) < _PLACE.size:
        raise CorruptFileError("continuation", expected="16 bytes", got=f"{len(data)} bytes")
    place = _PLACE.unpack_from(data)
    if place in places or len(places) > MAX_BLOCKS:
        raise CorruptFileError("continuation", expected="an end", got="a loop")
    if place[1] < 8:
        raise CorruptFileError("continuation", expected="at least 8 bytes", got=place[1])
    places.append(place)


def _overlong(kind: int, left: int, length: int) -> CorruptFileError:
    return CorruptFileError(f"message 0x{kind:02x}", expected=f"at most {left} bytes", got=length)


def _shared(kind: int) -> UnsafeFileError:
    return UnsafeFileError(
        f"a committed type, or another message that lies elsewhere (0x{kind:02x})",
        expected="one of its own",
        hint="no weight file needs this; write it anew with h5py",
    )


# Messages


class Layout(NamedTuple):
    """Where a dataset's bytes are: at an address, or in the header itself.

    Attributes:
        address: of the first byte; None where none were ever stored, or `inline` holds them.
        size: bytes stored; None where the message does not say.
        inline: the bytes of a compact dataset.
    """

    address: int | None
    size: int | None
    inline: bytes | None = None


_COMPACT, _CONTIGUOUS, _CHUNKED, _VIRTUAL = range(4)


def layout(raw: bytes) -> Layout:
    """Return where a layout message says that the bytes are.

    Raises:
        CorruptFileError: it is no such message.
        UnsafeFileError: a virtual dataset, which reads other files.
        OutsideSubset: chunks.
    """
    try:
        return _layout_1(raw) if raw[0] in (1, 2) else _layout_3(raw)
    except (error, IndexError) as fault:
        raise CorruptFileError("layout", expected="a whole message", got=raw.hex()) from fault


def _layout_1(raw: bytes) -> Layout:
    rank, kind = raw[1], raw[2]
    _check_layout(kind)
    if kind == _CONTIGUOUS:
        (address,) = unpack_from("<Q", raw, 8)
        return Layout(None if address == UNDEFINED else address, None)
    (size,) = unpack_from("<I", raw, 8 + 4 * rank)
    return _compact(raw, 12 + 4 * rank, size)


def _layout_3(raw: bytes) -> Layout:
    version, kind = raw[0], raw[1]
    if version == 5:  # HDF5 2.0
        raise OutsideSubset("version of a layout", expected="1 to 4", got=version)
    if version not in (3, 4):
        raise CorruptFileError("version of a layout", expected="1 to 5", got=version)
    _check_layout(kind)
    if kind == _CONTIGUOUS:
        address, size = _PLACE.unpack_from(raw, 2)
        return Layout(None if address == UNDEFINED else address, size)
    return _compact(raw, 4, *unpack_from("<H", raw, 2))


def _compact(raw: bytes, at: int, size: int) -> Layout:
    if at + size > len(raw):
        raise CorruptFileError("compact dataset", expected=f"{size} bytes", got=len(raw) - at)
    return Layout(None, size, raw[at : at + size])


def _check_layout(kind: int) -> None:
    if kind == _CHUNKED:
        raise OutsideSubset("layout", expected="contiguous or compact", got="chunked")
    if kind == _VIRTUAL:
        raise UnsafeFileError("a virtual dataset, which reads other files")
    if kind > _VIRTUAL:
        raise CorruptFileError("class of a layout", expected="0 to 3", got=kind)


def heap_of_info(kind: int, raw: bytes) -> int:
    """Return the address of the heap of many links or attributes; UNDEFINED where there is none."""
    try:
        flags = raw[1]
        # Before it: the largest creation index, of 8 bytes for links and 2 for attributes.
        at = 2 + (8 if kind == LINK_INFO else 2) * (flags & 1)
        return int(unpack_from("<Q", raw, at)[0])
    except (error, IndexError) as fault:
        raise CorruptFileError("link or attribute info", got=raw.hex()) from fault


def link(raw: bytes) -> tuple[bytes, int, int]:
    """Return name, address and kind of a link in a message; only hard ones have an address.

    Raises:
        CorruptFileError: it is no such message.
    """
    try:
        return _link(raw)
    except (error, IndexError) as fault:
        raise CorruptFileError("link", expected="a whole message", got=raw.hex()[:80]) from fault


def _link(raw: bytes) -> tuple[bytes, int, int]:
    version, flags = raw[0], raw[1]
    if version != 1 or flags & 0xE0:
        raise CorruptFileError("link", expected="version 1", got=raw[:2].hex())
    at, kind = 2, HARD
    if flags & 8:
        kind = raw[at]
        at += 1
    at += 8 * (flags >> 2 & 1) + (flags >> 4 & 1)  # creation order; character set
    width = 1 << (flags & 3)
    length = int.from_bytes(raw[at : at + width], "little")
    at += width
    name, address = raw[at : at + length], UNDEFINED
    if kind == HARD:
        (address,) = unpack_from("<Q", raw, at + length)
    return name, address, kind


def refuse_link(kind: int) -> None:
    """Refuse what is no hard link; soft links and external ones lead anywhere."""
    if kind != HARD:
        got = "a soft link" if kind == SOFT else "an external or user-defined link"
        raise UnsafeFileError("kind of link", expected="a hard link", got=got)


# Attributes


def attribute_name(raw: bytes) -> bytes:
    """Return the name of an attribute message.

    Raises:
        CorruptFileError: it is no such message.
    """
    try:
        version, _, length, _, _ = _ATTRIBUTE.unpack_from(raw)
    except error as fault:
        raise CorruptFileError("attribute", expected="a whole message", got=raw.hex()) from fault
    if version not in (1, 2, 3):
        raise CorruptFileError("version of an attribute", expected="1 to 3", got=version)
    at = _ATTRIBUTE.size + (version == 3)  # the character set of the name
    return raw[at : at + length].partition(b"\0")[0]


def attribute_parts(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return datatype, dataspace and values of an attribute message.

    Raises:
        CorruptFileError: it is shorter than it says.
        UnsafeFileError: its type lies in another object.
    """
    version, flags, *sizes = _ATTRIBUTE.unpack_from(raw)
    if version > 1 and flags & 3:
        raise _shared(ATTRIBUTE)
    at = _ATTRIBUTE.size + (version == 3)
    parts = []
    for size in sizes:
        parts.append(raw[at : at + size])
        at += size + (-size % 8 if version == 1 else 0)
    if at > len(raw):
        raise CorruptFileError("attribute", expected=f"{at} bytes", got=f"{len(raw)} bytes")
    return parts[1], parts[2], raw[at:]
