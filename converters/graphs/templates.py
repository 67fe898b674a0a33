"""Object graphs that are taken over: attached by who reads them, kept by who writes them.

A reader attaches the graph to the tensors it opens, together with what it has called them. A
writer gives tensors that still are those of the graph their keys back. What the graph says and
nothing is stored for is taken out of it: it never claims more than the bundle holds. Tensors of
other sources: `template_fit.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

from ..containers.bundle_writer import Row
from ..containers.messages import MemorySource
from ..dtypes import DType
from ..notes import Kind, Note
from ..sources import Source
from ..tensors import ElementTensor, Origin, TensorDict, TensorSpec
from .object_graph import describe
from .object_graph_writer import prune_graph
from .trackables import GRAPH_KEY, VALUE, ObjectGraph

__all__ = [
    "SAVE_COUNTER",
    "Arrangement",
    "AttachedGraph",
    "attach",
    "attached",
    "graph_row",
    "keep_graph",
    "keys_of",
    "rows_of",
    "value_key",
]


class AttachedGraph(MemorySource):
    """The object graph of tensors that were opened, attached to them.

    Attributes:
        data: a serialised TrackableObjectGraph.
        origins: of all its tensors, by the name that each was opened under.
        copies: keys that store a tensor for the second time, with the key that was read.
    """

    def __init__(
        self, path: Path, data: bytes, origins: Mapping[str, Origin], copies: Mapping[str, str]
    ) -> None:
        super().__init__(path, data)
        self.data = data
        self.origins = origins
        self.copies = copies


def attach(
    path: Path,
    data: bytes,
    origins: Mapping[str, Origin],
    copies: Mapping[str, str] | None = None,
) -> dict[str, Source]:
    """Return the attachments of a dictionary whose source has an object graph."""
    return {GRAPH_KEY: AttachedGraph(path, data, origins, copies or {})}


def attached(tensors: TensorDict) -> AttachedGraph | None:
    """Return the object graph of a dictionary's source, if it has one."""
    found = tensors.attachments.get(GRAPH_KEY)
    return found if isinstance(found, AttachedGraph) else None


class Arrangement(NamedTuple):
    """What goes into a bundle.

    Attributes:
        rows: the tensors, object graph and all.
        keys: by key the name of the tensor there; None for what the source does not have.
        notes: what became of the graph.
        sources: what was opened for it.
    """

    rows: list[Row]
    keys: dict[str, str | None]
    notes: tuple[Note, ...] = ()
    sources: tuple[Source, ...] = ()

    def stored_names(self) -> dict[str, str]:
        """Return the keys of tensors that are called otherwise, by name; the first of several."""
        first: dict[str, str] = {}
        for key, name in self.keys.items():
            if name is not None:
                first.setdefault(name, key)
        return {name: key for name, key in first.items() if name != key}


def value_key(path: str) -> str:
    """Return the key of a variable's value, from the path to it."""
    return f"{path}/.ATTRIBUTES/{VALUE}"


SAVE_COUNTER = value_key("save_counter")


def graph_row(data: bytes, kept: Iterable[str] = (), gone: Set[str] = frozenset()) -> Row:
    """Return the row of an object graph without some tensors, in which the others keep their names.

    A readable name depends on what else there is: on other variables of the same full name, and on
    optimizers that spell it out. A name that would change becomes the variable's full name.

    Args:
        data: the graph.
        kept: keys that are stored.
        gone: keys that are not stored any more.
    """
    if gone:
        kept = list(kept)
        before = _names(data, [*kept, *gone])
        data = prune_graph(data, gone, {})
        after = _names(data, kept)
        changed = {key: before[key] for key in kept if before[key] not in (after[key], key)}
        data = prune_graph(data, frozenset(), changed) if changed else data
    spec = TensorSpec(DType.STRING, ())
    return Row(GRAPH_KEY, GRAPH_KEY, ElementTensor(spec, lambda: [data], len(data)))


def _names(data: bytes, keys: Iterable[str]) -> dict[str, str]:
    return {each.key: name for name, each in describe(ObjectGraph.parse(data), keys).items()}


# The tensors of a graph


def keep_graph(tensors: TensorDict) -> Arrangement | None:
    """Return the tensors under the keys of their own source's object graph.

    None if there is no such graph, or one of the tensors is none of its.
    """
    graph = attached(tensors)
    if graph is None:
        return None
    keys = keys_of(tensors, graph.origins)
    if len(keys) < len(tensors):
        return None
    rows = rows_of(tensors, keys, graph.copies)
    stored = [row.key for row in rows]
    gone = {origin.key for origin in graph.origins.values()} | set(graph.copies)
    gone.difference_update(stored)
    notes: tuple[Note, ...] = ()
    if gone:
        count = f"{len(gone)} tensor{' is' if len(gone) == 1 else 's are'}"
        notes = (Note(Kind.TARGET, f"{count} left out of the object graph too"),)
    found: dict[str, str | None] = {row.key: row.name for row in rows}
    return Arrangement([*rows, graph_row(graph.data, stored, gone)], found, notes)


def keys_of(names: Iterable[str], origins: Mapping[str, Origin]) -> dict[str, str]:
    """Return the keys of names that stand in `origins`, or are keys themselves."""
    known = {origin.key for origin in origins.values()}
    found = {}
    for name in names:
        if name in origins:
            found[name] = origins[name].key
        elif name in known:
            found[name] = name
    return found


def rows_of(tensors: TensorDict, keys: Mapping[str, str], copies: Mapping[str, str]) -> list[Row]:
    """Return a row for each tensor, and one for each key that stores it a second time."""
    rows = [Row(key, name, tensors[name]) for name, key in keys.items()]
    names = {row.key: row.name for row in rows}
    seconds = {key: names[first] for key, first in copies.items() if first in names}
    return [
        *rows,
        *(Row(key, name, tensors[name]) for key, name in seconds.items() if key not in names),
    ]
