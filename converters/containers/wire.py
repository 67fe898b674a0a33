"""Protobuf wire format: just enough to read and build the few messages we know.

A message is a row of fields; a field is a varint tag (field number << 3 | wire type) and a value:
type 0 a varint, 1 eight bytes, 2 a varint length and that many bytes, 5 four bytes. Types 3 and 4
(groups) occur in none of our messages. Specified by the encoding page of the Protocol Buffers
guide.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import CorruptFileError

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "fields",
    "message",
    "read_varint",
    "signed",
    "varint",
]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Value = int | bytes


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the varint at byte `at`.

    Returns:
        The value, below 2^64, and the position after it.

    Raises:
        CorruptFileError: it is longer than 10 bytes, exceeds 64 bits, or runs past the end.
    """
    result = shift = 0
    end = len(data)
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >> 64:
                raise CorruptFileError("varint exceeds 64 bits", where=f"byte {at - 10}")
            return result, at
        shift += 7
    raise CorruptFileError("varint does not end", where=f"byte {at - shift // 7}")


def fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    """Yield (field number, wire type, value) in the order of the message.

    Fixed-width values come as unsigned little-endian integers.

    Raises:
        CorruptFileError: the bytes are no message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: Value
        if kind == VARINT:
            value, at = read_varint(data, at)
        elif kind == BYTES:
            length, at = read_varint(data, at)
            value, at = _slice(data, at, length), at + length
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
            value, at = int.from_bytes(_slice(data, at, length), "little"), at + length
        else:
            raise CorruptFileError(
                "wire type", where=f"byte {at}", expected="0, 1, 2 or 5", got=kind
            )
        if number == 0:
            raise CorruptFileError("field number 0", where=f"byte {at}")
        yield number, kind, value


def _slice(data: bytes, at: int, length: int) -> bytes:
    if length > len(data) - at:
        raise CorruptFileError(
            "field runs past the end of its message",
            where=f"byte {at}",
            expected=f"at most {len(data) - at} bytes",
            got=f"{length} bytes",
        )
    return data[at : at + length]


def signed(value: int) -> int:
    """Return a 64-bit varint read as two's complement, as int32 and int64 fields are."""
    return value - (1 << 64) if value >> 63 else value


def varint(value: int) -> bytes:
    """Encode an unsigned integer below 2^64; negative ones as two's complement."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(*parts: tuple[int, int | bytes | None]) -> bytes:
    """Build a message from (field number, value): integers as varints, bytes with their length.

    A value of None is left out.
    """
    out = bytearray()
    for number, value in parts:
        if value is None:
            continue
        if isinstance(value, int):
            out += varint(number << 3 | VARINT) + varint(value)
        else:
            out += varint(number << 3 | BYTES) + varint(len(value)) + value
    return bytes(out)
