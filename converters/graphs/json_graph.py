"""Roles of weights from a GraphDef in JSON, as TensorFlow.js stores graphs.

The nodes are written down as the protobuf message they came from, without values and functions,
and what is known about frozen graphs (`constants.py`) is asked. Nothing in the graph is executed.

Field numbers: tensorflow/core/framework/{node_def,tensor}.proto (v2.21.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..containers.graph_proto import Signature, TensorInfo
from ..containers.messages import Body, MemorySource
from ..containers.wire import message
from ..errors import CorruptFileError
from ..names import encode
from ..tensors import Role
from .constants import read_constants

__all__ = ["graph_of_json", "roles_in_graph", "signature_of"]

_DT_FLOAT = 1
# The only weights whose values matter here are float, and a scalar is quick to make.
_VALUE = message((1, b"value"), (2, message((8, message((1, _DT_FLOAT))))))
# What the converter fuses, by an op that takes its weights at the same inputs.
_ALIKE = {"FusedDepthwiseConv2dNative": "_FusedConv2D"}


def roles_in_graph(topology: object, path: Path) -> dict[str, Role]:
    """Return the roles of Const nodes that the graph proves; empty if the graph is damaged.

    Args:
        topology: the parsed `modelTopology`.
        path: where it came from, for messages.
    """
    try:
        origins = read_constants(graph_of_json(topology, path)).origins
    except CorruptFileError:
        return {}  # it only tells roles; the weights are read without
    return {name: origin.role for name, origin in origins.items()}


def graph_of_json(topology: object, path: Path) -> Body:
    """Return the GraphDef that a topology was, without values and functions.

    Args:
        topology: the parsed `modelTopology`.
        path: where it came from, for messages.

    Raises:
        CorruptFileError: it is none.
    """
    nodes = topology.get("node") if isinstance(topology, dict) else None
    try:
        data = message(*((1, _node(each)) for each in nodes or () if isinstance(each, dict)))
    except (UnicodeEncodeError, TypeError) as error:
        raise CorruptFileError(f"no graph: {error}", path=path) from error
    return Body.whole(MemorySource(path, data))


def _node(entry: dict[str, Any]) -> bytes:
    name, op = str(entry.get("name")), str(entry.get("op"))
    inputs = [(3, encode(str(each))) for each in entry.get("input") or ()]
    value = _VALUE if op == "Const" else None
    return message((1, encode(name)), (2, encode(_ALIKE.get(op, op))), *inputs, (5, value))


_LABELS = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}


def signature_of(content: object) -> Signature:
    """Return a SignatureDef in JSON; what is not written as it should be is left out."""
    return Signature(_infos(content, "inputs"), _infos(content, "outputs"))


def _infos(content: object, key: str) -> dict[str, TensorInfo]:
    return {name: _info(each) for name, each in _mapping(_mapping(content).get(key)).items()}


def _info(content: object) -> TensorInfo:
    name, dtype = (str(_mapping(content).get(key, "")) for key in ("name", "dtype"))
    label = _LABELS.get(dtype, dtype.removeprefix("DT_").lower())
    shape = _mapping(_mapping(content).get("tensorShape"))
    if not shape or shape.get("unknownRank"):
        return TensorInfo(name, label, None)
    dims = shape.get("dim", ())
    sizes = (_mapping(each).get("size") for each in (dims if isinstance(dims, list) else ()))
    return TensorInfo(name, label, tuple(_size(each) for each in sizes))


def _size(value: object) -> int:
    """Return a dimension, which protobuf's JSON holds as text; -1 for any."""
    text = str(value)
    return int(text) if len(text) < 20 and text.isascii() and text.isdecimal() else -1


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
