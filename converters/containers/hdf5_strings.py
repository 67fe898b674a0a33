"""Strings in HDF5 files: references into the global heap, fixed lengths, and our packed form.

    reference   4 bytes length, 8 bytes address of a collection, 4 bytes index in it
    collection  "GCOL", version 1, 3 reserved, 8 bytes size; then objects
    object      2 bytes index (0: the rest is free), 2 count, 4 reserved, 8 bytes size, the bytes,
                padded to a multiple of 8

All little endian; addresses count from the end of the user block. Specified by the HDF5 File
Format Specification 3.0, sections III.E (global heap) and IV.B (variable-length data). The heap
is read here and not by libhdf5, which crashes or loops on damaged ones, and which ends a string
at the first NUL.

What HDF5 cannot hold as text (NUL, bytes that are not UTF-8, variants) is packed: a dataset of
uint8 with, for each element, its length as 8 bytes and its bytes; the attributes `dtype` and
`tensorferry_shape` say what it is.
"""

from __future__ import annotations

from struct import Struct, error

from ..errors import CorruptFileError
from ..sources import Source
from ..tensors import Tensor

__all__ = ["fixed", "from_heap", "is_text", "pack", "unpack"]

_REFERENCE = Struct("<IQI")
_COLLECTION = Struct("<4sB3xQ")
_OBJECT = Struct("<HH4xQ")
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


def from_heap(references: Tensor, source: Source, base: int) -> list[bytes]:
    """Return the strings that references stand for.

    Args:
        references: the bytes of the dataset.
        source: the file.
        base: bytes of the user block.

    Raises:
        CorruptFileError: a reference leads nowhere.
    """
    raw = b"".join(references.chunks())
    entries = list(_REFERENCE.iter_unpack(raw))
    total = sum(length for length, _, _ in entries)
    if total > source.size:  # many references to one long string: a bomb
        raise CorruptFileError("bytes of all strings", expected=f"at most {source.size}", got=total)
    heap = _Heap(source, base)
    elements = []
    for length, address, index in entries:
        if not length:  # an empty string is kept nowhere
            elements.append(b"")
            continue
        data = heap.collection(address).get(index, b"")
        if len(data) < length:
            raise CorruptFileError(
                f"string {len(elements)}", expected=f"{length} bytes", got=f"{len(data)} bytes"
            )
        elements.append(data[:length])
    return elements


class _Heap:
    """The collections met so far; together no longer than the file, since they do not overlap."""

    def __init__(self, source: Source, base: int) -> None:
        self._source = source
        self._base = base
        self._left = source.size
        self._collections: dict[int, dict[int, bytes]] = {}

    def collection(self, address: int) -> dict[int, bytes]:
        """Return the objects of a collection by index."""
        if address not in self._collections:
            start = self._base + address
            try:
                self._collections[address] = self._read(start)
            except CorruptFileError as error:
                raise error.within(f"global heap at byte {start}") from None
        return self._collections[address]

    def _read(self, start: int) -> dict[int, bytes]:
        size = self._source.size
        if start + _COLLECTION.size > size:
            raise CorruptFileError("start", expected=f"before byte {size}", got=start)
        head = self._source.read(start, _COLLECTION.size)
        magic, version, length = _COLLECTION.unpack(head)
        if (magic, version) != (b"GCOL", 1):
            raise CorruptFileError("signature", expected=b"GCOL\1", got=head[:5])
        self._left -= length
        if start + length > size or self._left < 0:
            raise CorruptFileError("size of a collection", expected="within the file", got=length)
        return _objects(self._source.read(start, length))


def _objects(data: bytes) -> dict[int, bytes]:
    objects: dict[int, bytes] = {}
    at = _COLLECTION.size
    while at + _OBJECT.size <= len(data):
        index, _, length = _OBJECT.unpack_from(data, at)
        at += _OBJECT.size
        if index == 0:
            break
        if at + length > len(data):
            expected = f"at most {len(data) - at} bytes"
            raise CorruptFileError(f"object {index}", expected=expected, got=length)
        objects[index] = data[at : at + length]
        at += length + -length % 8
    return objects


def fixed(content: Tensor, width: int, padding: bytes | None) -> list[bytes]:
    """Return strings of fixed length without what fills them up.

    Args:
        content: the bytes of the dataset.
        width: bytes of an element.
        padding: what fills them up, or None where the first NUL ends them.
    """
    raw = b"".join(content.chunks())
    padded = [raw[at : at + width] for at in range(0, len(raw), width)]
    if padding is None:
        return [element.partition(b"\0")[0] for element in padded]
    return [element.rstrip(padding) for element in padded]


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
