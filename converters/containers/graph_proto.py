"""Graphs as TensorFlow stores them: nodes, meta graphs, signatures, collections.

Field numbers from tensorflow/core/framework/{graph,node_def,attr_value,function,op_def}.proto and
tensorflow/core/protobuf/{meta_graph,saved_model}.proto (v2.21.0). Nothing is executed; what is
not asked for is not decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .bundle_messages import DTYPES, parse_shape
from .messages import Body
from .wire import signed

__all__ = [
    "Function",
    "MetaGraph",
    "Node",
    "Signature",
    "TensorInfo",
    "asset_collection",
    "functions",
    "map_entries",
    "meta_graph",
    "meta_graphs",
    "nodes",
]


class Node(NamedTuple):
    """A NodeDef; `attrs` holds AttrValue messages by name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Body]

    def attr(self, name: str, number: int) -> int | Body | None:
        """Return field `number` of attribute `name`, None where there is none.

        AttrValue's fields: 1 list, 2 s, 3 i, 4 f, 5 b, 6 type, 7 shape, 8 tensor, 10 func.
        """
        body = self.attrs.get(name)
        found = [value for n, value in body.fields() if n == number] if body else []
        return found[-1] if found else None

    def text(self, name: str) -> str:
        """Return a string attribute, empty where there is none."""
        value = self.attr(name, 2)
        return value.text() if isinstance(value, Body) else ""

    def function(self, name: str) -> str:
        """Return the name of the function that attribute `name` calls, empty if none."""
        value = self.attr(name, 10)
        names = (
            [body.text() for n, body in value.bodies() if n == 1] if isinstance(value, Body) else []
        )
        return names[-1] if names else ""


class Function(NamedTuple):
    """A FunctionDef: argument names in order, the body's nodes, and what each output returns."""

    name: str
    arguments: tuple[str, ...]
    nodes: tuple[Node, ...]
    returns: Mapping[str, str]


class TensorInfo(NamedTuple):
    """An input or output of a signature; `shape` has -1 for unknown, or is None."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    def json(self) -> dict[str, object]:
        """Return JSON values."""
        shape = None if self.shape is None else list(self.shape)
        return {"tensor": self.name, "dtype": self.dtype, "shape": shape}


class Signature(NamedTuple):
    """A SignatureDef."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    method: str = ""

    def json(self) -> dict[str, object]:
        """Return JSON values; inputs and outputs by name."""
        return {
            "method": self.method,
            "inputs": {name: each.json() for name, each in sorted(self.inputs.items())},
            "outputs": {name: each.json() for name, each in sorted(self.outputs.items())},
        }


@dataclass(frozen=True)
class MetaGraph:
    """What a MetaGraphDef says that matters for weights.

    Attributes:
        tags: `serve`, `train`, …; empty for a TF-Hub default.
        producer: version of TensorFlow, as it wrote it.
        graph: the GraphDef, undecoded.
        collections: CollectionDef messages by name.
        signatures: by name.
        assets: file names below `assets/`.
        object_graph: the SavedObjectGraph, undecoded, for TF2.
    """

    tags: frozenset[str] = frozenset()
    producer: str = ""
    graph: Body | None = None
    collections: Mapping[str, Body] = field(default_factory=dict)
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    assets: tuple[str, ...] = ()
    object_graph: Body | None = None

    def bytes_list(self, collection: str) -> list[Body]:
        """Return the messages of a collection of bytes, such as `trainable_variables`."""
        body = self.collections.get(collection)
        lists = [each for n, each in body.bodies() if n == 2] if body else []
        return [value for each in lists for n, value in each.bodies() if n == 1]


def nodes(graph: Body, number: int = 1) -> Iterator[Node]:
    """Yield the nodes of a GraphDef, or of field `number` of another message."""
    for n, body in graph.bodies():
        if n == number:
            yield _node(body)


def _node(body: Body) -> Node:
    name = op = ""
    inputs: list[str] = []
    attrs: dict[str, Body] = {}
    for n, value in body.bodies():
        if n == 1:
            name = value.text()
        elif n == 2:
            op = value.text()
        elif n == 3:
            inputs.append(value.text())
        elif n == 5:
            attrs.update(map_entries(value))
    return Node(name, op, tuple(inputs), attrs)


def map_entries(body: Body) -> Iterator[tuple[str, Body]]:
    """Yield key and value of one entry of a map from text to a message; none if a part lacks."""
    parts = dict(body.bodies())
    if 1 in parts:
        yield parts[1].text(), parts.get(2) or Body(body.source, body.start, 0, b"")


def functions(graph: Body) -> Iterator[Function]:
    """Yield the functions of a GraphDef's library."""
    for n, library in graph.bodies():
        if n == 2:
            yield from (_function(body) for m, body in library.bodies() if m == 1)


def _function(body: Body) -> Function:
    name, arguments = "", []
    returns: dict[str, str] = {}
    for n, value in body.bodies():
        if n == 1:
            for m, part in value.bodies():
                if m == 1:
                    name = part.text()
                elif m == 2:
                    arguments.append(_first_text(part, 1))
        elif n == 4:
            returns.update((key, each.text()) for key, each in map_entries(value))
    return Function(name, tuple(arguments), tuple(nodes(body, 3)), returns)


def meta_graphs(saved_model: Body) -> list[MetaGraph]:
    """Return the meta graphs of a SavedModel message."""
    return [meta_graph(body) for n, body in saved_model.bodies() if n == 2]


def meta_graph(body: Body) -> MetaGraph:
    """Decode a MetaGraphDef, the content of a `.meta` file."""
    tags: frozenset[str] = frozenset()
    producer = ""
    graph = object_graph = None
    collections: dict[str, Body] = {}
    signatures: dict[str, Signature] = {}
    assets = []
    for n, value in body.bodies():
        if n == 1:
            info = list(value.bodies())
            tags = frozenset(each.text() for m, each in info if m == 4)
            producer = "".join(each.text() for m, each in info if m == 5)
        elif n == 2:
            graph = value
        elif n == 4:
            collections.update(map_entries(value))
        elif n == 5:
            signatures.update((key, _signature(each)) for key, each in map_entries(value))
        elif n == 6:
            assets.append(_first_text(value, 2))
        elif n == 7:
            object_graph = value
    return MetaGraph(
        tags, producer, graph, collections, signatures, tuple(dict.fromkeys(assets)), object_graph
    )


def asset_collection(meta: MetaGraph) -> tuple[str, ...]:
    """Return the assets as TensorFlow 1 lists them: a collection of AssetFileDef, each an Any."""
    body = meta.collections.get("saved_model_assets")
    lists = [each for n, each in body.bodies() if n == 5] if body else []
    packed = [value for each in lists for n, value in each.bodies() if n == 1]
    files = [value for each in packed for n, value in each.bodies() if n == 2]
    return tuple(dict.fromkeys(_first_text(value, 2) for value in files))


def _signature(body: Body) -> Signature:
    inputs: dict[str, TensorInfo] = {}
    outputs: dict[str, TensorInfo] = {}
    for n, value in body.bodies():
        if n in (1, 2):
            target = inputs if n == 1 else outputs
            target.update((key, _tensor_info(each)) for key, each in map_entries(value))
    return Signature(inputs, outputs, _first_text(body, 3))


def _tensor_info(body: Body) -> TensorInfo:
    dtype, shape = "", None
    for n, value in body.fields():
        if n == 2 and isinstance(value, int):
            known = DTYPES.get(value)
            dtype = known.label if known else f"type {signed(value)}"
        elif n == 3 and isinstance(value, Body):
            unknown = any(m == 3 and each for m, each in value.fields())
            shape = None if unknown else parse_shape(value.load())
    return TensorInfo(_first_text(body, 1), dtype, shape)


def _first_text(body: Body, number: int) -> str:
    return next((value.text() for n, value in body.bodies() if n == number), "")
