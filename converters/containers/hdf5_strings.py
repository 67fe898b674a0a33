"""Strings that HDF5 cannot hold as text (NUL, bytes that are not UTF-8, variants), packed.

A dataset of uint8 has, for each element, its length as 8 bytes little endian and its bytes; the
attributes `dtype` and `tensorferry_shape` say what it is.
"""

from __future__ import annotations

from struct import Struct, error

from ..errors import CorruptFileError
from ..tensors import Tensor

__all__ = ["is_text", "pack", "unpack"]

_LENGTH = Struct("<Q")


def is_text(element: bytes) -> bool:
    """Tell whether a variable-length string of HDF5 can hold these bytes."""
    if b"\0" in element:
        return False
    try:
        element.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def pack(elements: list[bytes]) -> bytes:
    """Return elements of any bytes in one piece."""
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)


def unpack(content: Tensor, count: int) -> list[bytes]:
    """Return the elements of a packed dataset.

    Raises:
        CorruptFileError: lengths, count and size contradict each other.
    """
    raw = b"".join(content.chunks())
    elements, at = [], 0
    try:
        while at < len(raw):
            (length,) = _LENGTH.unpack_from(raw, at)
            elements.append(raw[at + 8 : at + 8 + length])
            at += 8 + length
    except error:
        at = -1
    if at != len(raw) or len(elements) != count:
        raise CorruptFileError(
            "packed elements", expected=f"{count} in {len(raw)} bytes", got=len(elements)
        )
    return elements
