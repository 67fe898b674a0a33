"""Which operations read a weight, through everything that hands it on unchanged in kind."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..containers.graph_proto import Node
from .flow import Flow, Port, Reader

__all__ = ["THROUGH", "Reading", "Walk", "back"]

# Operations that pass a weight on; facts checked on graphs of TensorFlow 1.15 to 2.21.
THROUGH = frozenset({
    "Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch", "Merge",
    "StopGradient", "Reshape", "Transpose", "ExpandDims", "Squeeze", "Pack", "Unpack", "Split",
    "SplitV", "ConcatV2", "DisableCopyOnRead", "StridedSlice", "NextIteration", "Exit",
})  # fmt: skip
_ANY_INPUT = ("Merge", "Pack", "ConcatV2")  # of the others the first, or that behind an axis
_OF_TWO = ("MatMul", "BatchMatMul", "BiasAdd", "Add", "Mul", "Sub")
# What reads a variable and computes nothing with it.
_ASIDE = (
    "Assign", "VarIsInitialized", "IsVariableInitialized", "Save", "Restore", "Shape", "NoOp",
    "Apply", "ResourceApply", "SparseApply", "ResourceSparseApply", "ScalarSummary",
    "HistogramSummary",
)  # fmt: skip
OUTPUTS = 4  # of a Split or an Unpack; no weight is divided into more
# Scopes of training, whose nodes read a weight in other ways than the model does.
_TRAINING = ("gradients/", "gradient_tape/", "__backward_", "Optimizer", "train_step")
MAX_STEPS = 500  # of following one weight
MAX_TOTAL = 1_000_000  # of following all weights of a graph
MAX_TRAIL = 32
MAX_READINGS = 24  # of one weight; the nearest tell what it is


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


class Walk:
    """Follows weights to what reads them; a graph that leads everywhere is not followed for ever.

    Args:
        flow: the graph.
    """

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._left = MAX_TOTAL

    def readings(self, variables: Sequence[Port]) -> list[Reading]:
        """Return what reads a weight, without what trains it; nearest first.

        Args:
            variables: nodes of the variable, its parts or its copies.
        """
        todo: deque[tuple[Port, tuple[str, ...]]] = deque((port, ()) for port in variables)
        seen: set[Port] = set()
        found: list[Reading] = []
        most = min(MAX_STEPS, self._left)
        steps = 0
        while todo and steps < most and len(found) < MAX_READINGS:
            port, trail = todo.popleft()
            if port in seen:
                continue
            seen.add(port)
            readers = self._flow.readers(port)[:MAX_STEPS]
            steps += 1 + len(readers)
            for reader in readers:
                further = self._further(reader, trail)
                todo += further
                if not further and not _is_aside(reader) and self._is_sound(reader):
                    found.append(Reading(reader, trail))
        self._left -= steps
        return found

    def _is_sound(self, reader: Reader) -> bool:
        """Tell whether a node has as many inputs as its operation takes; damaged ones have not."""
        if not reader.node.op.startswith(_OF_TWO):
            return True
        return len(self._flow.inputs(reader.scope, reader.node)) == 2

    def _further(
        self, reader: Reader, trail: tuple[str, ...]
    ) -> list[tuple[Port, tuple[str, ...]]]:
        """Return where a reader hands on what it reads."""
        if _is_aside(reader):
            return []
        inner = self._flow.arguments(reader)
        if inner or not _hands_on(reader):
            return [(argument, trail) for argument in inner]
        trail = (*trail, reader.node.op)[:MAX_TRAIL]
        scope, name = reader.scope, reader.node.name
        return [(Port(scope, name, number), trail) for number in range(OUTPUTS)]


def _hands_on(reader: Reader) -> bool:
    """Tell whether a reader passes on this very input, and not, say, a shape."""
    op = reader.node.op
    return op in THROUGH and (op in _ANY_INPUT or reader.index == (op == "Split"))


def _is_aside(reader: Reader) -> bool:
    return reader.node.op.startswith(_ASIDE) or _trains(reader)


def _trains(reader: Reader) -> bool:
    return any(word in reader.node.name or word in reader.scope for word in _TRAINING)


def back(flow: Flow, port: Port, most: int = 24) -> Iterator[tuple[Port, Node]]:
    """Yield the nodes that a value is made of, nearest first, into callers but not into calls."""
    todo, seen = deque([port]), set[Port]()
    while todo and len(seen) < most:
        current = todo.popleft()
        if current in seen:
            continue
        seen.add(current)
        node = flow.node(current)
        if node is None:
            outside = flow.given(current)
            todo += [outside] if outside else []
            continue
        yield current, node
        todo += flow.inputs(current.scope, node)[:most]
