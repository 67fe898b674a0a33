"""Trackable object graphs as bytes: built from nodes, or an existing one without some tensors.

What is stored: `trackables.py`. `has_checkpoint_values` of a node says whether it or anything
below it is stored; restoring does not use it, but it has to be true.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from ..containers.wire import BYTES, FIXED64, VARINT, fields, message, varint
from ..names import decode, encode
from .trackables import KEY_ENDINGS, Attribute, Node, ObjectGraph

__all__ = ["build_graph", "prune_graph"]

CHILD, ATTRIBUTE, SLOT, SAVER, HAS_VALUES = 1, 2, 3, 4, 5  # fields of a TrackableObject
FULL_NAME = 2  # field of a SerializedTensor

Field = tuple[int, int, int | bytes]  # number, wire type, value


def build_graph(graph: ObjectGraph) -> bytes:
    """Return the serialised TrackableObjectGraph of these nodes, as TensorFlow writes it."""
    own = [bool(node.attributes or node.slots) for node in graph.nodes]
    children = [[child for child, _ in node.children] for node in graph.nodes]
    valued = _with_ancestors(own, children)
    nodes = [_node(node, number in valued) for number, node in enumerate(graph.nodes)]
    return message(*((1, node) for node in nodes))


def _node(node: Node, has_values: bool) -> bytes:
    children = [(CHILD, message((1, n or None), (2, _text(name)))) for n, name in node.children]
    attributes = [(ATTRIBUTE, _attribute(each)) for each in node.attributes]
    slots = [
        (SLOT, message((1, variable or None), (2, _text(name)), (3, slot or None)))
        for variable, name, slot in node.slots
    ]
    return message(*children, *attributes, *slots, _flag(has_values))


def _attribute(attribute: Attribute) -> bytes:
    texts = (attribute.name, attribute.full_name, attribute.key)
    return message(*((number, _text(text)) for number, text in enumerate(texts, 1)))


def _text(text: str) -> bytes | None:
    return encode(text) or None  # proto3 leaves default values out


def _flag(has_values: bool) -> tuple[int, bytes]:
    return HAS_VALUES, message((1, int(has_values) or None))


def _with_ancestors(own: Iterable[bool], children: Iterable[Iterable[int]]) -> set[int]:
    """Return the nodes that hold something, themselves or below; cycles are normal."""
    parents: dict[int, list[int]] = defaultdict(list)
    for number, below in enumerate(children):
        for child in below:
            parents[child].append(number)
    found = {number for number, holds in enumerate(own) if holds}
    waiting = list(found)
    while waiting:
        new = set(parents[waiting.pop()]) - found
        found |= new
        waiting.extend(new)
    return found


# Changing an existing one


class _Stored(NamedTuple):
    """A node as it is stored: its fields, and the numbers of those it refers to."""

    fields: list[Field]
    children: list[int]
    lost: bool  # it had attributes, and has none now


def prune_graph(data: bytes, gone: Set[str], full_names: Mapping[str, str]) -> bytes:
    """Return a graph whose nodes no longer say that they have certain tensors.

    Nodes and their children stay, so numbers stay too, which other files may know. References to
    slot variables that are gone are left out. All other fields are kept, known here or not.

    Args:
        data: a serialised TrackableObjectGraph that `ObjectGraph.parse` takes.
        gone: keys of tensors that are no longer there.
        full_names: other full names of variables, by key.
    """
    keys = gone | {
        key.removesuffix(ending) for key in gone for ending in KEY_ENDINGS if key.endswith(ending)
    }
    top = list(fields(data))
    bodies = [value for number, _, value in top if number == 1 and isinstance(value, bytes)]
    nodes = [_stored(body, keys, full_names) for body in bodies]
    kept = [_without_slots(node.fields, nodes) for node in nodes]
    own = [any(number in (ATTRIBUTE, SLOT, SAVER) for number, _, _ in each) for each in kept]
    valued = _with_ancestors(own, [node.children for node in nodes])
    built = (_rebuilt(each, number in valued) for number, each in enumerate(kept))
    others = (_raw(each) for each in top if each[0] != 1)
    return message(*((1, body) for body in built)) + b"".join(others)


def _stored(body: bytes, gone: Set[str], full_names: Mapping[str, str]) -> _Stored:
    kept: list[Field] = []
    children, had, has = [], False, False
    for number, kind, value in fields(body):
        if number == ATTRIBUTE and isinstance(value, bytes):
            had = True
            texts = {n: v for n, _, v in fields(value) if isinstance(v, bytes)}
            key = decode(texts.get(3, b""))
            if key in gone:
                continue
            has = True
            kept.append((number, kind, _renamed(value, full_names.get(key))))
            continue
        if number == CHILD and isinstance(value, bytes):
            children.append(_number(value, 1))
        kept.append((number, kind, value))
    return _Stored(kept, children, had and not has)


def _renamed(attribute: bytes, full_name: str | None) -> bytes:
    if full_name is None:
        return attribute
    others = [each for each in fields(attribute) if each[0] != FULL_NAME]
    named = (FULL_NAME, BYTES, encode(full_name))
    return b"".join(map(_raw, sorted([*others, named], key=lambda each: each[0])))


def _without_slots(stored: list[Field], nodes: list[_Stored]) -> list[Field]:
    return [
        (number, kind, value)
        for number, kind, value in stored
        if number != SLOT or not isinstance(value, bytes) or not nodes[_number(value, 3)].lost
    ]


def _number(body: bytes, field: int) -> int:
    return next((v for n, _, v in fields(body) if n == field and isinstance(v, int)), 0)


def _rebuilt(stored: list[Field], has_values: bool) -> bytes:
    """Return a node's message; files before TensorFlow 2.5 have no flag, and get none."""
    flag = HAS_VALUES, BYTES, _flag(has_values)[1]
    return b"".join(_raw(flag if each[0] == HAS_VALUES else each) for each in stored)


def _raw(field: Field) -> bytes:
    number, kind, value = field
    if isinstance(value, bytes) or kind == VARINT:
        return message((number, value))
    return varint(number << 3 | kind) + value.to_bytes(8 if kind == FIXED64 else 4, "little")
