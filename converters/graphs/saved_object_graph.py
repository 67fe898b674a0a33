"""The object graph of a SavedModel: what the variables below `variables/` are.

A SavedObjectGraph (tensorflow/core/protobuf/saved_object_graph.proto, v2.21.0) has the same nodes
as the trackable object graph inside the variables' bundle, under the same numbers, and may have
functions behind them; so a variable's checkpoint key is found by its node. A node is of one kind:

    4 user object   1 identifier (`_tf_keras_layer`, `optimizer`, …), 3 metadata (Keras, as JSON)
    7 variable      1 dtype, 2 shape, 3 trainable, 6 name
    9 constant      1 name of a Const node of the graph
    10 resource     such as a hash table

Keras 3's `export` lists every weight twice, as `variables/<i>` and as `_all_variables/<j>`, and
so it is stored twice; `duplicates` finds the second ones.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..containers.messages import Body
from ..errors import CorruptFileError
from ..tensors import Evidence, Origin, Role
from .trackables import VALUE, Node, ObjectGraph

__all__ = ["SavedNode", "SavedObjectGraph", "duplicates", "with_metrics", "with_saved_names"]

_USER_OBJECT, _VARIABLE, _CONSTANT = 4, 7, 9
_METRIC = "_tf_keras_metric"
_EXPORTED = re.compile(r"(variables|_all_variables)/\d+/\.ATTRIBUTES/VARIABLE_VALUE")


class SavedNode(NamedTuple):
    """One object.

    Attributes:
        children: ids of the objects it holds.
        identifier: class of a user object, as it was registered.
        metadata: what a user object says about itself; JSON, where Keras wrote it.
        variable: name of a variable; None for any other kind.
        trainable: whether a variable is trained; None for any other kind.
        constant: name of the Const node that holds a captured constant, else empty.
    """

    children: tuple[int, ...] = ()
    identifier: str = ""
    metadata: str = ""
    variable: str | None = None
    trainable: bool | None = None
    constant: str = ""


@dataclass(frozen=True)
class SavedObjectGraph:
    """The decoded graph; node 0 is the root."""

    nodes: tuple[SavedNode, ...]

    @classmethod
    def parse(cls, body: Body) -> SavedObjectGraph:
        """Decode a SavedObjectGraph.

        Raises:
            CorruptFileError: it is none, or an object refers to one that is not there.
        """
        nodes = tuple(_node(each) for number, each in body.bodies() if number == 1)
        for node in nodes:
            if any(child >= len(nodes) for child in node.children):
                raise CorruptFileError(
                    "node id", expected=f"below {len(nodes)}", got=max(node.children)
                )
        return cls(nodes)

    def fits(self, graph: ObjectGraph) -> bool:
        """Tell whether the objects of a bundle's graph are the first of these."""
        if len(graph.nodes) > len(self.nodes):
            return False
        pairs = zip(graph.nodes, self.nodes, strict=False)
        return all(
            {child for child, _ in node.children} <= set(other.children)
            and (other.variable is not None or all(a.name != VALUE for a in node.attributes))
            for node, other in pairs
        )

    def trainable(self) -> dict[int, bool]:
        """Return which variables are trained, by their numbers."""
        flags = ((number, node.trainable) for number, node in enumerate(self.nodes))
        return {number: flag for number, flag in flags if flag is not None}

    def below(self, identifier: str) -> set[int]:
        """Return the objects that user objects of a class hold directly."""
        holders = (node for node in self.nodes if node.identifier == identifier)
        return {child for node in holders for child in node.children}


def _node(body: Body) -> SavedNode:
    children = []
    node = SavedNode()
    for number, value in body.bodies():
        if number == 1:
            children.append(next((v for n, v in value.fields() if n == 1 and type(v) is int), 0))
        elif number == _USER_OBJECT:
            texts = {n: each for n, each in value.bodies() if n in (1, 3)}
            identifier, metadata = (texts[n].text() if n in texts else "" for n in (1, 3))
            node = node._replace(identifier=identifier, metadata=metadata)
        elif number == _VARIABLE:
            fields = dict(value.fields())
            name, trainable = fields.get(6), bool(fields.get(3, 0))
            text = name.text() if isinstance(name, Body) else ""
            node = node._replace(variable=text, trainable=trainable)
        elif number == _CONSTANT:
            names = [each.text() for n, each in value.bodies() if n == 1]
            node = node._replace(constant=names[-1] if names else "")
    return node._replace(children=tuple(children))


# Together with the bundle's own graph


def with_saved_names(graph: ObjectGraph, saved: SavedObjectGraph) -> ObjectGraph:
    """Return the bundle's graph with the names that the SavedModel has for its variables.

    They are the same in all that was seen; older writers leave the bundle's empty.
    """
    nodes = zip(graph.nodes, saved.nodes, strict=False)
    return ObjectGraph(tuple(_named(node, other.variable or "") for node, other in nodes))


def _named(node: Node, name: str) -> Node:
    attributes = [
        replace(each, full_name=each.full_name or name) if each.name == VALUE else each
        for each in node.attributes
    ]
    return replace(node, attributes=attributes)


def with_metrics(
    graph: ObjectGraph, saved: SavedObjectGraph, origins: Mapping[str, Origin]
) -> dict[str, Origin]:
    """Return the origins with the variables of metrics as counters, wherever a model keeps them."""
    numbers = _numbers(graph)
    counted = saved.below(_METRIC) & {
        number for number, node in enumerate(saved.nodes) if node.variable is not None
    }
    return {
        name: _counter(origin) if numbers.get(origin.key) in counted else origin
        for name, origin in origins.items()
    }


def _counter(origin: Origin) -> Origin:
    return origin._replace(role=Role.COUNTER, trainable=False, evidence=Evidence.GRAPH)


def duplicates(
    graph: ObjectGraph,
    saved: SavedObjectGraph,
    keys: Iterable[str],
    content: Callable[[str], Hashable | None],
) -> dict[str, str]:
    """Return the keys that store a weight for the second time, with the key that is kept.

    Args:
        graph: the bundle's object graph.
        saved: the SavedModel's.
        keys: the bundle's keys.
        content: returns type, shape and checksum of a key's values; None if it is not known.
    """
    numbers = _numbers(graph)
    groups: dict[Hashable, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        match = _EXPORTED.fullmatch(key)
        name = saved.nodes[numbers[key]].variable if match and key in numbers else None
        values = content(key) if name else None
        if match and values is not None:
            groups[name, values][match[1]].append(key)
    return {
        second: first
        for group in groups.values()
        for first, second in zip(group["variables"], group["_all_variables"], strict=False)
    }


def _numbers(graph: ObjectGraph) -> dict[str, int]:
    return {
        attribute.key: number
        for number, node in enumerate(graph.nodes)
        for attribute in node.attributes
    }
