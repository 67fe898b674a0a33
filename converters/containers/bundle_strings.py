"""String and variant tensors of a tensor bundle, with their odd checksums.

    strings   varint length of each element, 4-byte masked CRC of the lengths, then all bytes
    variants  for each element: varint length, bytes, 4-byte masked CRC

The CRC of strings runs over each length as a uint32 (uint64 if it does not fit) and not as the
varint that is stored; the entry's CRC continues it over the 4 stored checksum bytes and all bytes.
That of variants runs over each length as a uint64, the bytes and the stored checksum, and is
never reset. Source: tensorflow/core/util/tensor_bundle/tensor_bundle.cc, WriteStringTensor,
ReadStringTensor, WriteVariantTensor (v2.21.0).
"""

from __future__ import annotations

from typing import Literal

from ..checksums import Algorithm
from ..errors import CorruptFileError
from .sstable import mask
from .wire import read_varint, varint

__all__ = ["decode_strings", "decode_variants", "encode_strings", "encode_variants"]

ByteOrder = Literal["little", "big"]
_update = Algorithm.CRC32C.update


def decode_strings(
    data: bytes, count: int, crc: int | None = None, *, big_endian: bool = False
) -> list[bytes]:
    """Return the elements of a string tensor.

    Args:
        data: the whole range of the entry.
        count: number of elements.
        crc: the entry's masked CRC, or None to check none.
        big_endian: byte order of the bundle.

    Raises:
        CorruptFileError: lengths and size contradict each other, or a checksum differs.
    """
    if count > len(data):  # a length takes a byte at least
        raise CorruptFileError("elements", expected=f"at most {len(data)}", got=count)
    order: ByteOrder = "big" if big_endian else "little"
    lengths, at = [], 0
    for _ in range(count):
        length, at = read_varint(data, at)
        lengths.append(length)
    stored, at = data[at : at + 4], at + 4
    if at + sum(lengths) != len(data):
        raise CorruptFileError(
            "length of a string tensor",
            expected=f"{at + sum(lengths)} bytes",
            got=f"{len(data)} bytes",
        )
    if crc is not None:
        running = _lengths_crc(lengths, order)
        _compare("lengths", int.from_bytes(stored, order), mask(running))
        _compare("bytes", crc, mask(_update(data[at:], _update(stored, running))))
    elements = []
    for length in lengths:
        elements.append(data[at : at + length])
        at += length
    return elements


def encode_strings(elements: list[bytes]) -> tuple[bytes, int]:
    """Return the bytes of a string tensor and the masked CRC of its entry."""
    lengths = [len(element) for element in elements]
    running = _lengths_crc(lengths, "little")
    stored, payload = mask(running).to_bytes(4, "little"), b"".join(elements)
    data = b"".join(map(varint, lengths)) + stored + payload
    return data, mask(_update(payload, _update(stored, running)))


def _lengths_crc(lengths: list[int], order: ByteOrder) -> int:
    return _update(b"".join(n.to_bytes(4 if n < 1 << 32 else 8, order) for n in lengths))


def decode_variants(data: bytes, count: int, crc: int | None = None) -> list[bytes]:
    """Return the elements of a variant tensor: serialised VariantTensorDataProto, left as they are.

    Raises:
        CorruptFileError: lengths and size contradict each other, or a checksum differs.
    """
    elements, at, running = [], 0, 0
    for _ in range(count):
        length, at = read_varint(data, at)
        element, stored = data[at : at + length], data[at + length : at + length + 4]
        if len(stored) < 4:
            raise CorruptFileError("length of a variant", expected=len(data) - at - 4, got=length)
        running = _update(element, _update(length.to_bytes(8, "little"), running))
        if crc is not None:
            _compare("variant", int.from_bytes(stored, "little"), mask(running))
        running = _update(stored, running)
        elements.append(element)
        at += length + 4
    if at != len(data):
        raise CorruptFileError("length of a variant tensor", expected=at, got=len(data))
    if crc is not None:
        _compare("variant tensor", crc, mask(running))
    return elements


def encode_variants(elements: list[bytes]) -> tuple[bytes, int]:
    """Return the bytes of a variant tensor and the masked CRC of its entry."""
    data, running = bytearray(), 0
    for element in elements:
        running = _update(element, _update(len(element).to_bytes(8, "little"), running))
        stored = mask(running).to_bytes(4, "little")
        running = _update(stored, running)
        data += varint(len(element)) + element + stored
    return bytes(data), mask(running)


def _compare(what: str, expected: int, got: int) -> None:
    if expected != got:
        raise CorruptFileError(
            f"masked crc32c of the {what} differs",
            expected=f"0x{expected:08x}",
            got=f"0x{got:08x}",
            hint="copy the file again, or read what is there with --no-checksum",
        )
