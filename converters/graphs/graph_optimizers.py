"""What the nodes that update variables say about optimizers: their kind, and constant parameters.

A parameter that is computed, such as a learning rate by a schedule, is not told. Names are those
of Keras, as in the configs of other formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from typing import Any

from ..containers.messages import Body
from ..containers.tensor_proto import parse_tensor
from ..dtypes import DType
from ..errors import ConvertError
from .graph_nodes import Nodes

__all__ = ["Update", "optimizers_of"]

# Kind, inputs of the node, and where each parameter stands in them.
Update = tuple[str, tuple[bytes, ...], Mapping[str, int]]

MOST_VALUES = 8  # of one parameter: layers may have learning rates of their own
_CODES = {DType.FLOAT32: "<f", DType.FLOAT64: "<d", DType.INT32: "<i", DType.INT64: "<q"}
_KERAS = {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2"}
_STATE = frozenset({"beta1_power", "beta2_power", "global_step"})


def optimizers_of(nodes: Nodes, updates: Iterable[Update]) -> list[dict[str, Any]]:
    """Return kind and parameters of every optimizer; several values of a parameter as a list."""
    found: dict[str, dict[str, list[float | int]]] = {}
    known: dict[bytes, float | int | None] = {}
    for kind, inputs, places in updates:
        parameters = found.setdefault(kind, {})
        for name, place in _named(kind, places):
            tensor = inputs[place] if place < len(inputs) else b""
            if tensor not in known:
                known[tensor] = _constant(nodes.tensor(nodes.source(tensor)))
            value = known[tensor]
            values = parameters.setdefault(name, [])
            if value is not None and value not in values and len(values) < MOST_VALUES:
                values.append(value)
    return [
        {"kind": kind, "parameters": {name: _one(each) for name, each in values.items() if each}}
        for kind, values in found.items()
    ]


def _named(kind: str, places: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for word, place in places.items():
        if word == "alpha" and kind.endswith("GradientDescent"):
            yield "learning_rate", place
        elif word not in _STATE:
            yield _KERAS.get(word, word), place


def _one(values: list[float | int]) -> object:
    return values[0] if len(values) == 1 else values


def _constant(body: Body | None) -> float | int | None:
    """Return the number in a TensorProto; None if it is none, or not finite."""
    try:
        tensor = None if body is None else parse_tensor(body)
        if tensor is None or tensor.spec.size != 1 or tensor.spec.dtype not in _CODES:
            return None
        data = b"".join(tensor.chunks())
    except ConvertError:
        return None
    code = _CODES[tensor.spec.dtype]
    value: float | int = struct.unpack(code, data)[0]
    if not isfinite(value):
        return None
    return _short(value, data) if code == "<f" else value


def _short(value: float, data: bytes) -> float:
    """Return a float32 in as few digits as tell it from others: 0.001 and not 0.00100000005."""
    texts = (f"{value:.{digits}g}" for digits in range(6, 9))
    return next((float(each) for each in texts if struct.pack("<f", float(each)) == data), value)
