"""Checksums of byte ranges: computed in pieces by several threads, combined afterwards.

Both polynomials are the reflected forms with all-ones initial value and final xor: CRC-32C
(Castagnoli, RFC 3720 B.4) as TensorFlow stores it, CRC-32 (ISO-HDLC) as zip stores it.
`combine` follows from the linearity of a CRC: appending n bytes multiplies by x^(8n) modulo P.
P has a constant term, so x has an inverse and what was appended can be taken off again.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from fastcrc import crc32 as _crc32

__all__ = ["Algorithm", "Checksum"]


class Algorithm(Enum):
    """A checksum by name; `polynomial` is in reflected bit order."""

    CRC32C = ("crc32c", 0x82F63B78)
    CRC32 = ("crc32", 0xEDB88320)

    def __init__(self, label: str, polynomial: int) -> None:
        self.label = label
        self.polynomial = polynomial

    def update(self, data: bytes | bytearray | memoryview, value: int = 0) -> int:
        """Return the checksum of what `value` covers followed by `data`; releases the GIL."""
        return _FUNCTIONS[self](data, value)

    def combine(self, first: int, second: int, second_length: int) -> int:
        """Return the checksum of A + B from those of A and of B and the bytes in B."""
        return _multiply(_power(second_length, self.polynomial), first, self.polynomial) ^ second

    def split_off(self, whole: int, first: int, second_length: int) -> int:
        """Return the checksum of B from those of A + B and of A and the bytes in B."""
        return self.combine(first, whole, second_length)

    def cut_off(self, whole: int, second: int, second_length: int) -> int:
        """Return the checksum of A from those of A + B and of B and the bytes in B."""
        power = _power(second_length, self.polynomial, inverse=True)
        return _multiply(power, whole ^ second, self.polynomial)


_FUNCTIONS = {Algorithm.CRC32C: _crc32.iscsi, Algorithm.CRC32: _crc32.iso_hdlc}


class Checksum(NamedTuple):
    """An expected value, unmasked."""

    algorithm: Algorithm
    value: int


def _multiply(a: int, b: int, polynomial: int) -> int:
    """Multiply two polynomials over GF(2), bit 31 being x^0, modulo `polynomial`."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (polynomial if b & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _power(length: int, polynomial: int, *, inverse: bool = False) -> int:
    """Return x^(8 * length) modulo `polynomial`, or x^(-8 * length)."""
    result, square = 1 << 31, 1 << 23  # x^0 and x^8
    if inverse:
        square = _divided_by_x8(1 << 31, polynomial)
    while length:
        if length & 1:
            result = _multiply(square, result, polynomial)
        square = _multiply(square, square, polynomial)
        length >>= 1
    return result


def _divided_by_x8(value: int, polynomial: int) -> int:
    """Return the polynomial that x^8 makes `value` of, modulo `polynomial`."""
    for _ in range(8):
        # A multiplication by x shifts right; it left bit 31 set only by adding `polynomial`.
        value = (value ^ polynomial) << 1 | 1 if value >> 31 else value << 1
    return value
