"""The trackable object graph of an object-based checkpoint, as it is stored.

The bundle's string scalar `_CHECKPOINTABLE_OBJECT_GRAPH` holds a TrackableObjectGraph
(tensorflow/core/protobuf/trackable_object_graph.proto, v2.21.0): nodes, the first of which is the
root; a node has children (node id, local name), attributes (name, full name, checkpoint key) and
slot variables (variable's node, slot name, slot's node). It is a graph: nodes are shared, and
cycles are normal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..containers.wire import BYTES, fields
from ..errors import CorruptFileError
from ..names import decode

__all__ = ["GRAPH_KEY", "KEY_ENDINGS", "VALUE", "Attribute", "Node", "ObjectGraph"]

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"
VALUE = "VARIABLE_VALUE"  # the attribute that holds a variable's value
# Of tables and iterators the graph has no keys but what keys begin with: `…table` has
# `…table-keys` and `…table-values`, `…ITERATOR` has `…ITERATOR_STATE`. What the key then holds.
KEY_ENDINGS = {"-keys": "keys", "-values": "values", "_STATE": "state"}


@dataclass
class Attribute:
    """A SerializedTensor: what it is to its node, the variable's name, the checkpoint key."""

    name: str = ""
    full_name: str = ""
    key: str = ""


@dataclass
class Node:
    """A TrackableObject: children (node, local name) and slots (variable, slot's name, slot)."""

    children: list[tuple[int, str]] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)
    slots: list[tuple[int, str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class ObjectGraph:
    """The decoded graph; node 0 is the root."""

    nodes: tuple[Node, ...]

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


def _node(data: bytes) -> Node:
    node = Node()
    for number, body in _messages(data):
        if number == 1:
            child, name = _reference(body)
            node.children.append((child, name))
        elif number == 2:
            texts = {n: decode(v) for n, v in _messages(body)}
            node.attributes.append(Attribute(texts.get(1, ""), texts.get(2, ""), texts.get(3, "")))
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


def _check(nodes: tuple[Node, ...]) -> None:
    for node in nodes:
        ids = [child for child, _ in node.children]
        ids += [number for slot in node.slots for number in (slot[0], slot[2])]
        if any(number >= len(nodes) for number in ids):
            raise CorruptFileError(
                "node id", expected=f"below {len(nodes)}", got=max(ids, default=0)
            )
