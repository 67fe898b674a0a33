"""The tree of an HDF5 file outside the locator's subset, read by libhdf5 behind the guard.

Attributes are read while the file is open, and only those that are asked for by a pattern.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

from ..errors import CorruptFileError
from ..names import decode
from ..sources import Source
from .h5_tree import OTHER, Stored, Tree, Value, pieces
from .hdf5_guard import Found, opened, translated, walk
from .hdf5_types import recognise, stored_width

if TYPE_CHECKING:
    import h5py

__all__ = ["read_guarded"]

MAX_ATTRIBUTE_BYTES = 1 << 20  # of references or of text of fixed length


class _GuardedTree(Tree):
    """A tree whose attributes were read when it was."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, dict[str, Value | None]] = {}

    def names(self, path: str) -> Collection[str]:
        return self.values.get(path, ())

    def value(self, path: str, name: str) -> Value | None:
        return self.values.get(path, {}).get(name)


def read_guarded(source: Source, attributes: re.Pattern[str]) -> Tree:
    """Return the groups, attributes and datasets of a file; reads no data.

    Args:
        source: the file.
        attributes: matches the names of the attributes that are wanted.

    Raises:
        UnsafeFileError: it asks for something that no weight file needs.
        CorruptFileError: libhdf5 cannot make sense of it.
    """
    tree = _GuardedTree()
    with opened(source) as file:
        for found in walk(file, source.path, source.size):
            with translated(source.path, f"dataset `{found.path}`"):
                tree.datasets[found.path] = _stored(found)
                _attributes(tree, found.path, found.dataset, attributes)
        # The walk has shown that the groups are a tree of hard links.
        with translated(source.path, None):
            for path, group in _groups(file.id, ""):
                tree.groups.append(path)
                _attributes(tree, path, group, attributes)
    return tree


def _stored(found: Found) -> Stored:
    return Stored(recognise(found.kind), found.shape, found.place)


def _groups(group: h5py.h5g.GroupID, path: str) -> Iterator[tuple[str, h5py.h5g.GroupID]]:
    from h5py import h5g, h5o

    yield path, group
    names: list[bytes] = []
    group.links.iterate(names.append)  # returns None, which means: go on
    for name in names:
        entry = h5o.open(group, name)
        if isinstance(entry, h5g.GroupID):
            yield from _groups(entry, f"{path}/{decode(name)}" if path else decode(name))


def _attributes(tree: _GuardedTree, path: str, entry: Any, wanted: re.Pattern[str]) -> None:
    from h5py import h5a

    names: list[bytes] = []
    h5a.iterate(entry, names.append)
    if names:
        values = tree.values.setdefault(path, {})
        for raw in names:
            name = decode(raw)
            values[name] = _value(h5a.open(entry, raw), name) if wanted.fullmatch(name) else None


def _value(attribute: h5py.h5a.AttrID, name: str) -> Value:
    import h5py
    import numpy as np
    from h5py import h5t

    kind = attribute.get_type()
    size = 0 if attribute.shape is None else prod(attribute.shape) * stored_width(kind)
    if size > MAX_ATTRIBUTE_BYTES:
        limit = f"at most {MAX_ATTRIBUTE_BYTES} bytes"
        raise CorruptFileError(f"attribute `{name}`", expected=limit, got=size)
    if not size:
        return ()
    if kind.get_class() == h5t.INTEGER:
        numbers = np.zeros(attribute.shape, np.int64)
        attribute.read(numbers, h5t.STD_I64LE)
        return tuple(numbers.ravel().tolist())
    if kind.get_class() != h5t.STRING:
        return OTHER
    if not kind.is_variable_str():
        fixed = np.zeros(attribute.shape, f"S{kind.get_size()}")
        attribute.read(fixed, kind)
        return pieces(fixed.tobytes(), kind.get_size())
    texts = np.empty(attribute.shape, object)
    attribute.read(texts, h5t.py_create(h5py.string_dtype()))
    return [each if isinstance(each, bytes) else str(each).encode() for each in texts.reshape(-1)]
