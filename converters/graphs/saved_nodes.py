"""Which variables of a graph are stored under which keys, as its save nodes say.

A save node has the keys as a constant and the values as inputs; each value is followed back to its
variable, out of the function it is in if need be (facts checked on SavedModels and meta graphs of
TensorFlow 1.15 to 2.21: every key is found).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..containers.graph_proto import Node
from ..containers.messages import Body
from ..containers.tensor_proto import parse_tensor
from ..names import decode
from .flow import Flow, Port

__all__ = ["VARIABLES", "saved_variables"]

VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
# Number of the first input that is stored; the keys are input 1.
_SAVES = {"SaveV2": 3, "SaveSlices": 3, "Save": 2}
_TENSOR = 8  # AttrValue.tensor
MAX_STEPS = 64  # from a save node back to its variable


def saved_variables(flow: Flow) -> dict[str, list[Port]]:
    """Return the nodes of variables by key; a partitioned variable has one for each part.

    Raises:
        CorruptFileError: a constant is damaged.
    """
    found: dict[str, dict[Port, None]] = {}
    for scope, nodes in flow.scopes.items():
        for node in nodes.values():
            if node.op in _SAVES:
                for key, port in _rows(flow, scope, node):
                    variable = _variable(flow, port)
                    if variable is not None:
                        found.setdefault(key, {})[variable] = None
    return {key: list(ports) for key, ports in found.items()}


def _rows(flow: Flow, scope: str, node: Node) -> Iterator[tuple[str, Port]]:
    inputs = flow.inputs(scope, node)
    first = _SAVES[node.op]
    names = flow.node(inputs[1]) if len(inputs) > first else None
    body = names.attr("value", _TENSOR) if names is not None else None
    if not isinstance(body, Body):
        return
    tensor = parse_tensor(body)
    if tensor.spec.dtype.variable and tensor.spec.size == len(inputs) - first:
        for key, port in zip(tensor.elements(), inputs[first:], strict=True):
            yield decode(key), port


def _variable(flow: Flow, port: Port) -> Port | None:
    """Follow a value back to its variable."""
    for _ in range(MAX_STEPS):
        node = flow.node(port)
        if node is None:
            outside = flow.given(port)
            if outside is None:
                return None
            port = outside
        elif node.op in VARIABLES:
            return Port(port.scope, node.name)
        else:
            inputs = flow.inputs(port.scope, node)
            if not inputs:
                return None
            port = inputs[0]
    return None
