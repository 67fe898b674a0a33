"""The trackable object graph of an object-based checkpoint: names and roles of its keys.

The bundle's string scalar `_CHECKPOINTABLE_OBJECT_GRAPH` holds a TrackableObjectGraph
(tensorflow/core/protobuf/trackable_object_graph.proto, v2.21.0): nodes, the first of which is the
root; a node has children (node id, local name), attributes (name, full name, checkpoint key) and
slot variables (variable's node, slot name, slot's node). It is a graph: nodes are shared, and
cycles are normal.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..containers.wire import BYTES, fields
from ..errors import CorruptFileError
from ..names import decode
from ..tensors import Origin, Role

__all__ = ["GRAPH_KEY", "ObjectGraph", "describe"]

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
# Children by which an optimizer is known: later ones have `_iterations`, legacy tf_keras ones
# `iter` beside a hyper-parameter (TensorFlow 2.2 to 2.21, Keras 3.15); `iter` alone may be a
# user's own counter.
_HYPER_PARAMETERS = frozenset({"learning_rate", "decay", "momentum", "beta_1", "rho"})


@dataclass
class _Attribute:
    name: str = ""
    full_name: str = ""
    key: str = ""


@dataclass
class _Node:
    children: list[tuple[int, str]] = field(default_factory=list)
    attributes: list[_Attribute] = field(default_factory=list)
    slots: list[tuple[int, str, int]] = field(default_factory=list)

    @property
    def is_optimizer(self) -> bool:
        names = {name for _, name in self.children}
        return "_iterations" in names or ("iter" in names and bool(names & _HYPER_PARAMETERS))


@dataclass(frozen=True)
class ObjectGraph:
    """The decoded graph; node 0 is the root."""

    nodes: tuple[_Node, ...]

    @classmethod
    def parse(cls, data: bytes) -> ObjectGraph:
        """Decode a serialised TrackableObjectGraph.

        Raises:
            CorruptFileError: it is none, or a node refers to one that is not there.
        """
        try:
            nodes = tuple(_node(body) for number, body in _messages(data) if number == 1)
            _check(nodes)
        except CorruptFileError as error:
            raise error.within(f"tensor `{GRAPH_KEY}`") from None
        return cls(nodes)


def _messages(data: bytes) -> Iterable[tuple[int, bytes]]:
    return [(n, v) for n, kind, v in fields(data) if kind == BYTES and isinstance(v, bytes)]


def _node(data: bytes) -> _Node:
    node = _Node()
    for number, body in _messages(data):
        if number == 1:
            child, name = _reference(body)
            node.children.append((child, name))
        elif number == 2:
            texts = {n: decode(v) for n, v in _messages(body)}
            node.attributes.append(_Attribute(texts.get(1, ""), texts.get(2, ""), texts.get(3, "")))
        elif number == 3:
            ids = {n: v for n, _, v in fields(body) if isinstance(v, int)}
            names = dict(_messages(body))
            node.slots.append((ids.get(1, 0), decode(names.get(2, b"")), ids.get(3, 0)))
    return node


def _reference(data: bytes) -> tuple[int, str]:
    child, name = 0, ""
    for number, _, value in fields(data):
        if number == 1 and isinstance(value, int):
            child = value
        elif number == 2 and isinstance(value, bytes):
            name = decode(value)
    return child, name


def _check(nodes: tuple[_Node, ...]) -> None:
    for node in nodes:
        ids = [child for child, _ in node.children]
        ids += [number for slot in node.slots for number in (slot[0], slot[2])]
        if any(number >= len(nodes) for number in ids):
            raise CorruptFileError(
                "node id", expected=f"below {len(nodes)}", got=max(ids, default=0)
            )


def describe(
    graph: ObjectGraph, keys: Iterable[str], *, readable: bool = True
) -> dict[str, Origin]:
    """Return, by name, where each tensor of the bundle comes from.

    A readable name is, in this order, the variable's full name where no other has it; the
    shortest path to it that avoids optimizers; the checkpoint key. No two are the same.

    Args:
        graph: the object graph.
        keys: the keys of the bundle, in order; those that the graph does not know keep theirs.
        readable: whether names are readable ones or the keys themselves.
    """
    keys = list(keys)
    known = set(keys)
    nodes = {
        attribute.key: (number, attribute)
        for number, node in enumerate(graph.nodes)
        for attribute in node.attributes
        if attribute.key in known
    }
    paths = _paths(graph)
    choices = (_full_names(nodes), _path_names(nodes, paths)) if readable else ()
    names = _unique(keys, *choices)
    slots = _slots(graph)
    owners = {number: names[key] for key, (number, _) in nodes.items()}
    origins = {}
    for key in keys:
        number = nodes[key][0] if key in nodes else None
        owner = owners.get(slots[number]) if number in slots else None
        origins[names[key]] = Origin(key, _role(number, slots, paths), owner)
    return origins


def _full_names(nodes: Mapping[str, tuple[int, _Attribute]]) -> dict[str, str]:
    counts = Counter(attribute.full_name for _, attribute in nodes.values())
    return {
        key: attribute.full_name
        for key, (_, attribute) in nodes.items()
        if attribute.full_name and counts[attribute.full_name] == 1
    }


def _path_names(
    nodes: Mapping[str, tuple[int, _Attribute]], paths: Mapping[int, tuple[str, ...]]
) -> dict[str, str]:
    return {
        key: "/".join(paths[number])
        for key, (number, attribute) in nodes.items()
        if attribute.name == _VALUE and paths.get(number)
    }


def _unique(keys: list[str], *choices: Mapping[str, str]) -> dict[str, str]:
    """Give each key the first choice that no other key's choice is; the key itself at last.

    A name that is also the key of another tensor is no choice either, nor one that a checkpoint
    keeps for itself.
    """
    names: dict[str, str] = {}
    taken = {*keys, "", GRAPH_KEY}
    for choice in choices:
        open_keys = [key for key in keys if key not in names and key in choice]
        counts = Counter(choice[key] for key in open_keys)
        for key in open_keys:
            name = choice[key]
            if counts[name] == 1 and (name not in taken or name == key):
                names[key] = name
                taken.add(name)
    return {key: names.get(key, key) for key in keys}


def _paths(graph: ObjectGraph) -> dict[int, tuple[str, ...]]:
    """Return the shortest path from the root to every node that is reached without an optimizer.

    Of two equally short paths the one through `layer-N` wins over `layer_with_weights-N`: it
    counts all layers, as people do.
    """
    if not graph.nodes:
        return {}
    paths: dict[int, tuple[str, ...]] = {0: ()}
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        node = graph.nodes[number]
        if node.is_optimizer:
            continue
        for child, name in sorted(node.children, key=_preference):
            if child not in paths:
                paths[child] = (*paths[number], name)
                waiting.append(child)
    return paths


def _preference(child: tuple[int, str]) -> bool:
    return not child[1].startswith("layer-")


def _slots(graph: ObjectGraph) -> dict[int, int]:
    """Return the variable's node by the slot variable's."""
    return {slot: variable for node in graph.nodes for variable, _, slot in node.slots}


def _role(
    number: int | None, slots: Mapping[int, int], paths: Mapping[int, tuple[str, ...]]
) -> Role:
    if number is None:
        return Role.UNKNOWN
    if number in slots:
        return Role.SLOT
    if number not in paths:
        return Role.OPTIMIZER
    if paths[number] == ("save_counter",):
        return Role.COUNTER
    return Role.WEIGHT
