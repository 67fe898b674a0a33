"""How tensors flow through a graph and the functions that it calls; nothing is executed.

    main graph      VarHandleOp ──► StatefulPartitionedCall(f = body)
    function body   argument ──► ReadVariableOp ──► MatMul

A scope is the main graph (its name is empty) or a function. A function is seen once, however many
places call it: what an argument is used for does not depend on that. Inputs are spelled `node`,
`node:1` and `^node` in a graph, `argument` and `node:output:1` in a function (graph.proto and
function.proto of TensorFlow v2.21.0).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..containers.graph_proto import Node, functions, nodes
from ..containers.messages import Body

__all__ = ["Flow", "Port", "Reader"]

# Functions that nodes call, by attribute; the number of inputs before the arguments.
_CALLS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
    "While": (("body",), 0),
    "StatelessWhile": (("body",), 0),
    "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1),
    "Case": (("branches",), 1),
    "StatelessCase": (("branches",), 1),
}


class Port(NamedTuple):
    """An output of a node, or an argument of a function.

    Attributes:
        scope: name of the function, empty for the graph itself.
        node: name of the node or the argument.
        output: number of the output.
    """

    scope: str
    node: str
    output: int = 0


@dataclass(frozen=True)
class Reader:
    """A node that reads a port.

    Attributes:
        scope: where it is.
        node: the node.
        index: number of the input.
    """

    scope: str
    node: Node
    index: int

    @property
    def result(self) -> Port:
        """Its first output."""
        return Port(self.scope, self.node.name)


class Flow:
    """The nodes of a graph with their connections.

    Args:
        graph: a GraphDef.

    Attributes:
        scopes: nodes by name, by scope.
    """

    def __init__(self, graph: Body) -> None:
        self.scopes: dict[str, dict[str, Node]] = {"": {each.name: each for each in nodes(graph)}}
        self._arguments: dict[str, tuple[str, ...]] = {}
        for function in functions(graph):
            self.scopes[function.name] = {each.name: each for each in function.nodes}
            self._arguments[function.name] = function.arguments
        self._readers: dict[str, dict[Port, list[Reader]]] = {}
        self._inputs: dict[tuple[str, str], list[Port]] = {}
        self._callers: dict[Port, Port] | None = None

    def node(self, port: Port) -> Node | None:
        """Return the node a port belongs to, None for an argument."""
        return self.scopes[port.scope].get(port.node)

    def inputs(self, scope: str, node: Node) -> list[Port]:
        """Return what a node reads, without what it only waits for."""
        known = self._inputs.get((scope, node.name))
        if known is None:
            known = [_port(scope, text) for text in node.inputs if not text.startswith("^")]
            self._inputs[scope, node.name] = known
        return known

    def readers(self, port: Port) -> list[Reader]:
        """Return what reads a port in its own scope."""
        return self._in_scope(port.scope).get(port, [])

    def arguments(self, reader: Reader) -> list[Port]:
        """Return the arguments that a reader hands its input to, where it is a call."""
        return list(self._inner(reader))

    def given(self, argument: Port) -> Port | None:
        """Return what the first call of a function hands over as an argument."""
        if self._callers is None:
            self._callers = self._calls()
        return self._callers.get(argument)

    def _calls(self) -> dict[Port, Port]:
        found: dict[Port, Port] = {}
        for scope, inner in self.scopes.items():
            for node in inner.values():
                if node.op in _CALLS or node.op in self._arguments:
                    for number, port in enumerate(self.inputs(scope, node)):
                        for argument in self._inner(Reader(scope, node, number)):
                            found.setdefault(argument, port)
        return found

    def _in_scope(self, scope: str) -> dict[Port, list[Reader]]:
        if scope not in self._readers:
            index: dict[Port, list[Reader]] = defaultdict(list)
            for node in self.scopes.get(scope, {}).values():
                for number, port in enumerate(self.inputs(scope, node)):
                    index[port].append(Reader(scope, node, number))
            self._readers[scope] = index
        return self._readers[scope]

    def _inner(self, reader: Reader) -> Iterator[Port]:
        for name, skipped in self._called(reader.node):
            arguments = self._arguments.get(name, ())
            place = reader.index - skipped
            if 0 <= place < len(arguments):
                yield Port(name, arguments[place])

    def _called(self, node: Node) -> Iterator[tuple[str, int]]:
        if node.op in self._arguments:  # TF1 calls functions as operations of their name
            yield node.op, 0
        attributes, skipped = _CALLS.get(node.op, ((), 0))
        for attribute in attributes:
            for name in _functions(node, attribute):
                yield name, skipped


def _functions(node: Node, attribute: str) -> Iterator[str]:
    single = node.function(attribute)
    if single:
        yield single
        return
    listed = node.attr(attribute, 1)
    if isinstance(listed, Body):  # AttrValue.ListValue: 9 func
        for number, body in listed.bodies():
            if number == 9:
                yield from (each.text() for n, each in body.bodies() if n == 1)


def _port(scope: str, text: str) -> Port:
    name, _, rest = text.partition(":")
    number = rest.rpartition(":")[2]
    return Port(scope, name, int(number) if number.isdecimal() and len(number) < 6 else 0)
