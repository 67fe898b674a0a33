"""Which operations read a weight, through everything that hands it on unchanged in kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..containers.graph_proto import Node
from .flow import Flow, Port, Reader

__all__ = ["THROUGH", "Reading", "back", "readings"]

# Operations that pass a weight on; facts checked on graphs of TensorFlow 1.15 to 2.21.
THROUGH = frozenset({
    "Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch", "Merge",
    "StopGradient", "Reshape", "Transpose", "ExpandDims", "Squeeze", "Pack", "Unpack", "Split",
    "SplitV", "ConcatV2", "DisableCopyOnRead", "StridedSlice", "NextIteration", "Exit",
})  # fmt: skip
# What reads a variable and computes nothing with it.
_ASIDE = ("Assign", "VarIsInitialized", "IsVariableInitialized", "Save", "Restore", "Shape", "NoOp")
OUTPUTS = 4  # of a Split or an Unpack; no weight is divided into more
# Scopes of training, whose nodes read a weight in other ways than the model does.
_TRAINING = ("gradients/", "gradient_tape/", "__backward_", "Optimizer", "train_step")
MAX_STEPS = 2000


@dataclass(frozen=True)
class Reading:
    """An operation that reads a weight.

    Attributes:
        reader: node and input.
        trail: operations on the way.
    """

    reader: Reader
    trail: tuple[str, ...]

    @property
    def op(self) -> str:
        """What it does."""
        return self.reader.node.op

    @property
    def index(self) -> int:
        """Which input of it the weight is."""
        return self.reader.index

    @property
    def label(self) -> str:
        """What people are told: the operation and its node."""
        return f"{self.op} `{self.reader.node.name}`"


def readings(flow: Flow, variables: Sequence[Port]) -> Iterator[Reading]:
    """Yield what reads a weight, without what trains it; nearest first.

    Args:
        flow: the graph.
        variables: nodes of the variable, its parts or its copies.
    """
    todo: list[tuple[Port, tuple[str, ...]]] = [(port, ()) for port in variables]
    seen: set[Port] = set()
    while todo and len(seen) < MAX_STEPS:
        port, trail = todo.pop(0)
        if port in seen:
            continue
        seen.add(port)
        for reader in flow.readers(port):
            if reader.node.op.startswith(_ASIDE) or _trains(reader):
                continue
            inner = flow.arguments(reader)
            if inner:
                todo += [(argument, trail) for argument in inner]
            elif reader.node.op in THROUGH:
                further = (*trail, reader.node.op)
                scope, name = reader.scope, reader.node.name
                todo += [(Port(scope, name, number), further) for number in range(OUTPUTS)]
            else:
                yield Reading(reader, trail)


def _trains(reader: Reader) -> bool:
    return any(word in reader.node.name or word in reader.scope for word in _TRAINING)


def back(flow: Flow, port: Port, most: int = 24) -> Iterator[tuple[Port, Node]]:
    """Yield the nodes that a value is made of, nearest first, into callers but not into calls."""
    todo, seen = [port], set[Port]()
    while todo and len(seen) < most:
        current = todo.pop(0)
        if current in seen:
            continue
        seen.add(current)
        node = flow.node(current)
        if node is None:
            outside = flow.given(current)
            todo += [outside] if outside else []
            continue
        yield current, node
        todo += flow.inputs(current.scope, node)
