"""Roles of weights from a GraphDef in JSON, as TensorFlow.js stores graphs.

The nodes are written down as the protobuf message they came from, without values and functions,
and what is known about frozen graphs (`constants.py`) is asked. Nothing in the graph is executed.

Field numbers: tensorflow/core/framework/{node_def,tensor}.proto (v2.21.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..containers.messages import Body, MemorySource
from ..containers.wire import message
from ..errors import CorruptFileError
from ..names import encode
from ..tensors import Role
from .constants import read_constants

__all__ = ["roles_in_graph"]

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
    nodes = topology.get("node") if isinstance(topology, dict) else None
    try:
        data = message(*((1, _node(each)) for each in nodes or () if isinstance(each, dict)))
        origins = read_constants(Body.whole(MemorySource(path, data))).origins
    except (CorruptFileError, UnicodeEncodeError, TypeError):
        return {}  # it only tells roles; the weights are read without
    return {name: origin.role for name, origin in origins.items()}


def _node(entry: dict[str, Any]) -> bytes:
    name, op = str(entry.get("name")), str(entry.get("op"))
    inputs = [(3, encode(str(each))) for each in entry.get("input") or ()]
    value = _VALUE if op == "Const" else None
    return message((1, encode(name)), (2, encode(_ALIKE.get(op, op))), *inputs, (5, value))
