"""Roles of the tensors of a name-based checkpoint: by the graph beside it, else by their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConvertError
from ..notes import Kind, Note
from ..tensors import Evidence, Origin, Role
from .meta_graph import GraphFacts, graph_facts, read_meta
from .name_patterns import AVERAGE_SUFFIX, WEIGHT_LEAVES, Shapes, describe_by_name, leaf_of

__all__ = ["DescribedNames", "describe_names", "describe_variables", "find_meta"]

# As Saver writes it, binary or text, and as people call a text.
_META_ENDINGS = (".meta", ".meta.pbtxt", ".pbtxt")


def find_meta(prefix: Path) -> Path | None:
    """Return the meta graph beside a checkpoint, None if there is none."""
    places = (prefix.with_name(prefix.name + ending) for ending in _META_ENDINGS)
    return next((place for place in places if place.is_file()), None)


class DescribedNames(NamedTuple):
    """What is known of each tensor by key, what was unusual, and what optimizers there are."""

    origins: dict[str, Origin]
    notes: list[Note]
    optimizers: tuple[dict[str, Any], ...] = ()


def describe_names(
    keys: Iterable[str], meta_path: Path | None = None, *, shapes: Shapes | None = None
) -> DescribedNames:
    """Return what is known of each tensor of a name-based checkpoint, by key in their order.

    Never raises for the sake of a graph: one that cannot be read is a note.

    Args:
        keys: the checkpoint's keys, which are the names too.
        meta_path: the meta graph beside it, see `find_meta`.
        shapes: of the tensors by key; some names tell more with them.
    """
    keys = list(keys)
    facts, notes = GraphFacts(), []
    if meta_path is not None:
        try:
            facts = graph_facts(read_meta(meta_path), keys)
        except ConvertError as error:
            text = f"`{meta_path.name}` tells nothing, so roles are read off names: {error.what}"
            notes.append(Note(Kind.SOURCE, text))
        else:
            missing = [key for key in keys if key not in facts.saved and key not in facts.tables]
            notes += _missing(meta_path, missing, len(keys))
    return DescribedNames(describe_variables(keys, facts, shapes), notes, facts.optimizers)


def _missing(meta_path: Path, missing: list[str], total: int) -> list[Note]:
    if not missing:
        return []
    text = (
        f"`{meta_path.name}` does not save {len(missing)} of {total} tensors, such as "
        f"`{missing[0]}`; their roles are read off names"
    )
    return [Note(Kind.SOURCE, text)]


def describe_variables(
    keys: Iterable[str], facts: GraphFacts, shapes: Shapes | None = None
) -> dict[str, Origin]:
    """Return what is known of each tensor, by key in their order.

    Args:
        keys: the checkpoint's keys.
        facts: what the graph says; empty without one.
        shapes: of the tensors by key.
    """
    if not facts.saved and not facts.tables:
        return describe_by_name(keys, shapes)
    return _Description(list(keys), facts, shapes or {}).origins()


class _Description:
    """Everything about one checkpoint that the role of a tensor depends on.

    Variables go by the names of their nodes, since a Saver may store them under others. A
    partitioned variable has a node per part and goes by its key.
    """

    def __init__(self, keys: list[str], facts: GraphFacts, shapes: Shapes) -> None:
        self._facts = facts
        self._nodes = {key: facts.saved.get(key, ()) for key in keys}
        names = {key: nodes[0] if len(nodes) == 1 else key for key, nodes in self._nodes.items()}
        # Backwards, so that the first of two keys of one variable counts.
        self._keys = {name: key for key, name in reversed(names.items())}
        self._keys |= {node: key for key in reversed(keys) for node in self._nodes[key]}
        by_name = {name: shapes[key] for key, name in names.items() if key in shapes}
        described = describe_by_name(names.values(), by_name)
        self._named = {key: described[name] for key, name in names.items()}

    def origins(self) -> dict[str, Origin]:
        return {key: self._origin(key, nodes) for key, nodes in self._nodes.items()}

    def _origin(self, key: str, nodes: tuple[str, ...]) -> Origin:
        if key in self._facts.tables:
            return Origin(key, Role.TABLE, None, False, Evidence.GRAPH)
        found = self._by_graph(key, nodes[0]) if nodes else None
        if found is not None:
            return found
        named = self._named[key]
        owner = None if named.owner is None else self._keys.get(named.owner, named.owner)
        named = named._replace(key=key, owner=owner)
        trainable = self._facts.trainable(nodes[0]) if nodes else None
        return named if trainable is None else _untrained(named)

    def _by_graph(self, key: str, node: str) -> Origin | None:
        """Return what the graph alone tells about a variable, None if it leaves it open."""
        facts = self._facts
        if node in facts.steps:
            return Origin(key, Role.COUNTER, None, False, Evidence.GRAPH)
        if node in facts.slots:
            slot = facts.slots[node]
            owner = self._keys.get(slot.owner)
            return Origin(key, Role.SLOT, owner, False, Evidence.GRAPH, slot.name)
        if facts.trainable(node):
            return Origin(key, Role.WEIGHT, None, True, Evidence.GRAPH)
        named = self._named[key].role
        if named in (Role.COUNTER, Role.STATE) and leaf_of(node) in ("biased", "local_step"):
            return None
        source = self._averaged(node)
        if source is not None:
            owner = self._keys.get(source, source)
            return Origin(key, Role.AVERAGE, owner, False, Evidence.GRAPH)
        if node in facts.statistics:
            return Origin(key, Role.STATE, None, False, Evidence.GRAPH)
        if node in facts.hyper and named is not Role.COUNTER:
            return Origin(key, Role.OPTIMIZER, None, False, Evidence.GRAPH)
        return None

    def _averaged(self, node: str) -> str | None:
        """Return the variable that `node` is the moving average of."""
        source = self._facts.averages.get(node)
        if source is None and node.endswith(AVERAGE_SUFFIX):
            base = node[: -len(AVERAGE_SUFFIX)]
            source = base if base in self._facts.averaged else None
        return source


def _untrained(named: Origin) -> Origin:
    """Return the origin of a variable that the graph says is not trained.

    What its name does not explain belongs to the model's state, save for what layers call their
    weights: those are frozen.
    """
    if named.role is Role.WEIGHT or leaf_of(named.key) in WEIGHT_LEAVES:
        return named._replace(role=Role.WEIGHT, trainable=False)
    if named.role is Role.UNKNOWN:
        return named._replace(role=Role.STATE, trainable=False, evidence=Evidence.GRAPH)
    return named._replace(trainable=False)
