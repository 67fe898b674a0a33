"""Constants that operations read, such as the shape of a reshape."""

from __future__ import annotations

from ..containers.messages import Body
from ..containers.tensor_proto import parse_tensor
from ..tensors import Tensor
from .flow import Flow, Port
from .weight_readers import back

__all__ = ["constant", "first_integer"]


def constant(flow: Flow, port: Port) -> Tensor | None:
    """Return the nearest constant that a value is made of, None where there is no number."""
    for _, node in back(flow, port, 6):
        if node.op == "Const":
            body = node.attr("value", 8)
            tensor = parse_tensor(body) if isinstance(body, Body) else None
            return None if tensor is None or tensor.spec.dtype.variable else tensor
    return None


def first_integer(flow: Flow, port: Port) -> int | None:
    """Return the first number of a constant, None where there is none."""
    tensor = constant(flow, port)
    if tensor is None or not tensor.spec.size:
        return None
    return int(tensor.read().reshape(-1)[0])
