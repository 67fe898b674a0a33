"""Old-style groups and the heaps of HDF5: names of links, and text of variable length.

    group       "TREE": B-tree of "SNOD" (symbol nodes), 40 bytes a link; names in a "HEAP"
    text        4 bytes length, 8 bytes address of a collection, 4 bytes index in it
    collection  "GCOL", version 1, 3 reserved, 8 bytes size; then objects
    object      2 bytes index (0: the rest is free), 2 count, 4 reserved, 8 bytes size, the bytes,
                padded to a multiple of 8

Specified by the HDF5 File Format Specification 3.0, sections III.A.1, III.B to III.E. Two flipped
bytes in a collection make libhdf5 crash or loop; here every object must lie behind the last, and
all collections together within the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from ..errors import CorruptFileError
from .h5_blocks import SLACK_BYTES, Blocks
from .h5_messages import HARD, MAX_NAME_BYTES, SOFT

__all__ = ["GlobalHeap", "read_symbols"]

_TREE = Struct("<4sBBH16x")
_HEAP = Struct("<4sB3xQ8xQ")
_NODE = Struct("<4sBxH")
_SYMBOL = Struct("<QQI20x")
_CHILD = Struct("<8xQ")
_REFERENCE = Struct("<IQI")
_COLLECTION = Struct("<4sB3xQ")
_HEAP_OBJECT = Struct("<HH4xQ")
_SOFT_LINK = 2  # type of what a symbol caches
KEPT_BYTES = 256  # names are kept, configs are read anew


# Groups


def read_symbols(blocks: Blocks, tree: int, heap: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, header's address and kind (`HARD`, `SOFT`) of every link in an old-style group.

    Raises:
        CorruptFileError: tree, nodes and names contradict each other.
    """
    magic, version, size, start = _HEAP.unpack(blocks.take(heap, _HEAP.size))
    if (magic, version) != (b"HEAP", 0):
        raise CorruptFileError("names of a group", expected=b"HEAP\0", got=magic)
    names = blocks.take(start, size)
    left = size + MAX_NAME_BYTES
    for node in _symbol_nodes(blocks, tree):
        for at, address, kind in _symbols(blocks, node):
            end = names.find(b"\0", at)
            # No two links share the bytes of their names.
            left -= end - at
            if end < 0 or end - at > MAX_NAME_BYTES or left < 0:
                raise CorruptFileError("name of a link", expected=f"in {size} bytes", got=at)
            yield names[at:end], address, SOFT if kind == _SOFT_LINK else HARD


def _symbol_nodes(blocks: Blocks, tree: int) -> Iterator[int]:
    """Yield the leaves of a B-tree, each of whose levels is one below the other."""
    waiting: list[tuple[int, int | None]] = [(tree, None)]
    seen = {tree}
    while waiting:
        address, expected = waiting.pop()
        magic, kind, level, count = _TREE.unpack(blocks.take(address, _TREE.size))
        if (magic, kind) != (b"TREE", 0) or level != (level if expected is None else expected):
            raise CorruptFileError(
                "B-tree of a group", expected=(b"TREE", 0, expected), got=(magic, kind, level)
            )
        children = [child for (child,) in _CHILD.iter_unpack(blocks.take(address + 24, 16 * count))]
        if len(seen) + count != len(seen.union(children)):
            raise CorruptFileError("B-tree of a group", expected="a tree", got="a loop")
        seen.update(children)
        if level:
            waiting.extend((child, level - 1) for child in reversed(children))
        else:
            yield from children


def _symbols(blocks: Blocks, address: int) -> Iterator[tuple[int, int, int]]:
    magic, version, count = _NODE.unpack(blocks.take(address, _NODE.size))
    if (magic, version) != (b"SNOD", 1):
        raise CorruptFileError("links of a group", expected=(b"SNOD", 1), got=(magic, version))
    return _SYMBOL.iter_unpack(blocks.take(address + _NODE.size, _SYMBOL.size * count))


# Text


class _Object(NamedTuple):
    """An object of a collection: address and size in bytes, and its bytes if they are few."""

    address: int
    size: int
    data: bytes | None = None


_NOTHING = _Object(0, 0)


class GlobalHeap:
    """Text of variable length, by reference; collections are indexed once.

    Attributes:
        source: the file.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.source = blocks.source
        self._collections: dict[int, dict[int, _Object]] = {}
        # No honest attributes hold more text than the file has bytes.
        self._left = 2 * blocks.size + SLACK_BYTES

    def texts(self, references: bytes) -> list[bytes]:
        """Return the texts that references stand for.

        Raises:
            CorruptFileError: one leads nowhere.
        """
        return [self._text(*each) for each in _REFERENCE.iter_unpack(references)]

    def _text(self, length: int, address: int, index: int) -> bytes:
        if not length:  # an empty one is kept nowhere
            return b""
        if address not in self._collections:
            self._collections[address] = self._index(address)
        start, size, data = self._collections[address].get(index, _NOTHING)
        self._left -= length
        if size < length or self._left < 0:
            raise CorruptFileError(
                f"text {index} of the global heap at {address}",
                expected=f"{length} bytes",
                got=f"{size} bytes",
            )
        if data is not None:
            return data[:length]
        return self.source.read(self._blocks.base + start, length)

    def _index(self, address: int) -> dict[int, _Object]:
        """Return the objects of a collection by number."""
        magic, version, size = _COLLECTION.unpack(self._blocks.take(address, _COLLECTION.size))
        if (magic, version) != (b"GCOL", 1):
            raise CorruptFileError("global heap", expected=(b"GCOL", 1), got=(magic, version))
        found: dict[int, _Object] = {}
        data = self._blocks.take(address + _COLLECTION.size, max(size - _COLLECTION.size, 0))
        at = 0
        while at + _HEAP_OBJECT.size <= len(data):
            index, _, length = _HEAP_OBJECT.unpack_from(data, at)
            at += _HEAP_OBJECT.size
            if index == 0:
                break
            if index in found or at + length > len(data):
                raise CorruptFileError(
                    f"object {index} of the global heap",
                    expected=f"one, of at most {len(data) - at} bytes",
                    got=f"{length} bytes",
                )
            kept = data[at : at + length] if length <= KEPT_BYTES else None
            found[index] = _Object(address + _COLLECTION.size + at, length, kept)
            at += length + -length % 8
        return found
