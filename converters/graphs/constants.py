"""Const nodes: the tensors of a frozen graph, and what else a graph carries in itself.

A Const is a weight where the graph proves it: an Identity `<name>/read` or a `ReadVariableOp` that
freezing left behind, or a consumer that takes a weight at this input. Data flows through ops that
change no value, and through calls: of functions, of loop bodies, of branches. Whatever is not
proven stays a constant.

Ops and inputs from tensorflow/core/ops/{math,nn,array,functional}_ops.cc (v2.21.0); what freezing
leaves from tensorflow/python/framework/{graph_util_impl,convert_to_constants}.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..containers.graph_proto import Function, Node, functions, nodes
from ..containers.messages import Body
from ..containers.tensor_proto import parse_tensor, stored_bytes
from ..dtypes import DType
from ..errors import CorruptFileError
from ..tensors import Evidence, Origin, Role, Tensor

__all__ = ["Constants", "read_constants"]

_CONST = ("Const", "HostConst")
_VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable"})
# Ops whose input 0 comes out with the same values; what else they take is a shape or an axis.
_PASSING = frozenset({
    "Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch",
    "StopGradient", "Reshape", "Transpose", "ExpandDims", "Squeeze", "Snapshot",
})  # fmt: skip
# Op -> inputs that are weights.
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "MatMul": (0, 1), "BatchMatMul": (0, 1), "BatchMatMulV2": (0, 1), "BatchMatMulV3": (0, 1),
    "_FusedMatMul": (1, 2), "_FusedConv2D": (1, 2), "BiasAdd": (1,), "BiasAddV1": (1,),
    "Conv2D": (1,), "Conv3D": (1,), "DepthwiseConv2dNative": (1,), "Conv2DBackpropInput": (1,),
    "Conv3DBackpropInput": (1,), "Conv3DBackpropInputV2": (1,), "Dilation2D": (1,),
    "Gather": (0,), "GatherV2": (0,), "ResourceGather": (0,),
    "FusedBatchNorm": (1, 2), "FusedBatchNormV2": (1, 2), "FusedBatchNormV3": (1, 2),
}  # fmt: skip
_STATISTICS: Mapping[str, tuple[int, ...]] = dict.fromkeys(
    ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), (3, 4)
)
_VALUE_BYTES = 16  # of complex128, the largest
_MAX_STEPS = 10_000  # of following one constant; a graph may call itself

Place = tuple[str, str]  # function, empty for the graph itself; node or argument in it


class _Use(NamedTuple):
    node: Node
    input: int


@dataclass
class _Scope:
    """The graph itself or a function: who takes what."""

    name: str
    arguments: tuple[str, ...] = ()
    uses: dict[str, list[_Use]] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        data = (name for name in node.inputs if not name.startswith("^"))
        for index, name in enumerate(data):
            self.uses.setdefault(name.partition(":")[0], []).append(_Use(node, index))


@dataclass(frozen=True)
class Constants:
    """The Const nodes of a graph and of its functions.

    Attributes:
        tensors: by node name; inside functions by `<function>/<node>`.
        origins: by the same names.
        plumbing: names of those that only serve saving and restoring.
        variables: number of variables in the graph itself, whose values are elsewhere.
        hollow: whether constants of several elements store no value, and none more than one.
    """

    tensors: Mapping[str, Tensor]
    origins: Mapping[str, Origin]
    plumbing: frozenset[str]
    variables: int
    hollow: bool


def read_constants(graph: Body) -> Constants:
    """Return the constants of a GraphDef; reads no tensor data that is not small.

    Raises:
        CorruptFileError: a node is damaged, or two have the same name.
    """
    return _Reader().read(graph)


class _Reader:
    """One pass over a graph's nodes; of those with values only place and type are kept."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}
        self._places: dict[str, Place] = {}
        self._scopes: dict[str, _Scope] = {"": _Scope("")}
        self._saving: set[str] = set()
        self._variables = 0
        self._empty = self._filled = False  # seen: no value for several elements, several values

    def read(self, graph: Body) -> Constants:
        for node in nodes(graph):
            self._variables += node.op in _VARIABLES
            self._node(self._scopes[""], node)
        for function in functions(graph):
            self._function(function)
        origins = {name: self._origin(name) for name in self._tensors}
        plumbing = frozenset(name for name in self._tensors if self._is_plumbing(name))
        hollow = self._empty and not self._filled
        return Constants(self._tensors, origins, plumbing, self._variables, hollow)

    def _function(self, function: Function) -> None:
        scope = _Scope(function.name, function.arguments)
        self._scopes[function.name] = scope
        for node in function.nodes:
            if node.op in ("SaveV2", "RestoreV2"):
                self._saving.add(function.name)
            self._node(scope, node)

    def _node(self, scope: _Scope, node: Node) -> None:
        if node.op not in _CONST:
            scope.add(node)
            return
        name = f"{scope.name}/{node.name}" if scope.name else node.name
        if name in self._tensors:
            raise CorruptFileError("two nodes have this name", where=f"node `{name}`")
        self._tensors[name] = self._value(name, node)
        self._places[name] = (scope.name, node.name)

    def _value(self, name: str, node: Node) -> Tensor:
        try:
            value = _tensor_proto(node)
            tensor = parse_tensor(value)
            if not self._filled:  # most are, so one look will do
                stored = stored_bytes(value)
                self._filled = stored > _VALUE_BYTES
                self._empty |= not stored and tensor.spec.size > 1
        except CorruptFileError as error:
            raise error.within(f"node `{name}`") from None
        return tensor

    # What each is for

    def _origin(self, name: str) -> Origin:
        role = Role.CONSTANT
        if self._tensors[name].spec.dtype.label.startswith(("float", "bfloat")):
            role = self._role(self._places[name])
        return Origin(name, role, evidence=Evidence.GRAPH)

    def _role(self, place: Place) -> Role:
        """Return what the graph proves; statistics win, as they are read like weights too."""
        found = {_proof(place[1], use) for use in self._uses(place)}
        for role in (Role.STATE, Role.WEIGHT):
            if role in found:
                return role
        return Role.CONSTANT

    def _is_plumbing(self, name: str) -> bool:
        scope, node = self._places[name]
        if scope:
            return scope in self._saving
        uses = self._scopes[""].uses.get(node, [])
        if not uses:  # TensorFlow 2.0 leaves behind texts that it has saved as others
            return self._tensors[name].spec.dtype is DType.STRING
        return all(set(_called(use.node)) & self._saving for use in uses)

    def _uses(self, start: Place) -> Iterator[_Use]:
        """Yield whoever takes the values of `start`, at this place or further down."""
        seen, waiting = {start}, [start]
        while waiting and len(seen) < _MAX_STEPS:
            scope = self._scopes[waiting[-1][0]]
            for use in scope.uses.get(waiting.pop()[1], []):
                yield use
                for place in self._further(scope, use):
                    if place not in seen:
                        seen.add(place)
                        waiting.append(place)

    def _further(self, scope: _Scope, use: _Use) -> Iterator[Place]:
        if use.node.op in _PASSING and use.input == 0:
            yield scope.name, use.node.name
        index = use.input - (use.node.op in _BRANCHING)
        for name in _called(use.node):
            called = self._scopes.get(name)
            if called and 0 <= index < len(called.arguments):
                yield name, called.arguments[index]


_BRANCHING = frozenset({"If", "StatelessIf"})  # input 0 is the condition
_CALLS: Mapping[str, tuple[str, ...]] = {
    "PartitionedCall": ("f",), "StatefulPartitionedCall": ("f",),
    "While": ("body",), "StatelessWhile": ("body",),
    "If": ("then_branch", "else_branch"), "StatelessIf": ("then_branch", "else_branch"),
}  # fmt: skip


def _called(node: Node) -> Iterable[str]:
    """Return the functions a node calls; TF1's functions are called as ops of their name."""
    attributes = _CALLS.get(node.op)
    return [node.function(name) for name in attributes] if attributes else [node.op]


def _proof(constant: str, use: _Use) -> Role:
    op = use.node.op
    if use.input in _STATISTICS.get(op, ()):
        return Role.STATE
    if use.input in _WEIGHTS.get(op, ()):
        return Role.WEIGHT
    reads = op == "Identity" and _is_read(constant, use.node.name)
    return Role.WEIGHT if reads else Role.CONSTANT


def _is_read(constant: str, identity: str) -> bool:
    """Tell whether an Identity is what freezing made of reading a variable."""
    if identity == f"{constant}/read":  # TF1, reference variables
        return True
    return "ReadVariableOp" in identity.rpartition("/")[2] and constant == f"{identity}/resource"


def _tensor_proto(node: Node) -> Body:
    value = node.attr("value", 8)
    if not isinstance(value, Body):
        raise CorruptFileError("a Const without a value")
    return value
