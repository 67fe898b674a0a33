"""The nodes of a GraphDef by name, found fast and decoded when asked for.

A graph has thousands of nodes of which a few dozen say something about variables. Name and
operation stand first in a NodeDef as every protobuf library writes it; they alone are read of all
nodes. Field numbers: tensorflow/core/framework/{graph,node_def}.proto (v2.21.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from ..containers.messages import Body, MemorySource
from ..containers.wire import BYTES, fields, read_varint
from ..errors import CorruptFileError

__all__ = ["VARIABLES", "Nodes", "base_name"]

VARIABLES = frozenset({b"Variable", b"VariableV2", b"VarHandleOp", b"AutoReloadVariable"})
# What passes a variable's value, or its handle, on to who reads it.
_PASSING = frozenset({
    b"Identity", b"ReadVariableOp", b"Cast", b"Enter", b"RefEnter", b"Switch", b"RefSwitch",
    b"DisableCopyOnRead", b"StopGradient", b"Snapshot", b"Squeeze",
})  # fmt: skip
PASSED_NODES = 32  # a value is not handed on more often
# An expression with more nodes than this is no hyper-parameter: it has reached the loss.
EXPRESSION_NODES = 100
_NAME_TAG, _OP_TAG = 0x0A, 0x12


def base_name(tensor: bytes) -> bytes:
    """Return the node of an input: `^node`, `node` or `node:output`."""
    name = tensor[1:] if tensor[:1] == b"^" else tensor
    return name.partition(b":")[0]


class Nodes:
    """The nodes of one graph.

    Args:
        graph: a serialised GraphDef.
        path: where it came from, for messages.

    Raises:
        CorruptFileError: it is none.
    """

    def __init__(self, graph: bytes, path: Path) -> None:
        self._data = graph
        self._path = path
        self._places: dict[bytes, tuple[bytes, int, int]] = {}
        self._by_op: dict[bytes, list[bytes]] = {}
        for start, end in _bodies(graph):
            name, op = _head(graph, start, end)
            self._places[name] = (op, start, end)
            self._by_op.setdefault(op, []).append(name)
        self._decoded: dict[bytes, tuple[tuple[bytes, ...], Mapping[bytes, bytes]]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def ops(self) -> Mapping[bytes, list[bytes]]:
        """Return the names of the nodes by operation."""
        return self._by_op

    def op(self, name: bytes) -> bytes:
        """Return the operation of a node, empty if there is none of that name."""
        place = self._places.get(name)
        return place[0] if place else b""

    def inputs(self, name: bytes) -> tuple[bytes, ...]:
        """Return the inputs of a node that carry data, as they are written."""
        return self._decode(name)[0]

    def tensor(self, name: bytes) -> Body | None:
        """Return the TensorProto of a Const node, None if it is no such node."""
        value = self._decode(name)[1].get(b"value", b"")
        found = [body for n, kind, body in fields(value) if n == 8 and kind == BYTES]
        if not found or not isinstance(found[-1], bytes):
            return None
        body = found[-1]
        return Body(MemorySource(self._path, body), 0, len(body), body)

    def variable(self, tensor: bytes) -> bytes | None:
        """Return the variable whose value or handle an input is, None if it is computed."""
        name = base_name(tensor)
        for _ in range(PASSED_NODES):
            op = self.op(name)
            if op in VARIABLES:
                return name
            inputs = self.inputs(name) if op in _PASSING else ()
            if not inputs:
                return None
            name = base_name(inputs[0])
        return None

    def source(self, tensor: bytes) -> bytes:
        """Return the node that computes an input, behind all that only pass it on."""
        name = base_name(tensor)
        for _ in range(PASSED_NODES):
            inputs = self.inputs(name) if self.op(name) in _PASSING else ()
            if not inputs:
                break
            name = base_name(inputs[0])
        return name

    def variables_in(self, tensor: bytes) -> frozenset[bytes]:
        """Return the variables that a small expression is made of; none if it is a large one."""
        waiting = [base_name(tensor)]
        seen = set(waiting)
        found = set()
        while waiting:
            name = waiting.pop()
            if self.op(name) in VARIABLES:
                found.add(name)
                continue
            new = {base_name(each) for each in self.inputs(name)} - seen
            seen |= new
            waiting.extend(new)
            if len(seen) > EXPRESSION_NODES:
                return frozenset()
        return frozenset(found)

    def _decode(self, name: bytes) -> tuple[tuple[bytes, ...], Mapping[bytes, bytes]]:
        known = self._decoded.get(name)
        if known is None:
            known = self._decoded[name] = self._read(name)
        return known

    def _read(self, name: bytes) -> tuple[tuple[bytes, ...], Mapping[bytes, bytes]]:
        place = self._places.get(name)
        if place is None:
            return (), {}
        inputs, attrs = [], {}
        for number, _, value in fields(self._data[place[1] : place[2]]):
            if not isinstance(value, bytes):
                continue
            if number == 3 and value[:1] != b"^":
                inputs.append(value)
            elif number == 5:
                entry = {n: v for n, _, v in fields(value) if isinstance(v, bytes)}
                attrs[entry.get(1, b"")] = entry.get(2, b"")
        return tuple(inputs), attrs


def _bodies(graph: bytes) -> Iterator[tuple[int, int]]:
    """Yield start and end of every node, field 1 of a GraphDef."""
    at, end = 0, len(graph)
    while at < end:
        if graph[at] != _NAME_TAG:  # tag of field 1 here too: number 1, length-delimited
            at = _skip(graph, at, end)
            continue
        length, at = _length(graph, at + 1, end)
        yield at, at + length
        at += length


def _skip(graph: bytes, at: int, end: int) -> int:
    """Return the position after a field that is no node: library or versions."""
    tag, at = _varint(graph, at, end)
    kind = tag & 7
    if kind == 0:
        return _varint(graph, at, end)[1]
    if kind == BYTES:
        length, at = _length(graph, at, end)
        return at + length
    if kind not in (1, 5):
        raise CorruptFileError("wire type", where=f"byte {at} of the graph", got=kind)
    return at + (8 if kind == 1 else 4)


def _length(data: bytes, at: int, end: int) -> tuple[int, int]:
    length, at = _varint(data, at, end)
    if length > end - at:
        raise CorruptFileError(
            "field runs past its message",
            where=f"byte {at} of the graph",
            expected=f"at most {end - at} bytes",
            got=f"{length} bytes",
        )
    return length, at


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at < end and data[at] < 0x80:  # one byte in nine cases of ten
        return data[at], at + 1
    return read_varint(data, at)


def _head(graph: bytes, start: int, end: int) -> tuple[bytes, bytes]:
    """Return name and operation of a node; its first two fields, if it was written as usual."""
    if end - start > 4 and graph[start] == _NAME_TAG and graph[start + 1] < 0x80:
        at = start + 2 + graph[start + 1]
        if at + 1 < end and graph[at] == _OP_TAG and graph[at + 1] <= min(end - at - 2, 0x7F):
            return graph[start + 2 : at], graph[at + 2 : at + 2 + graph[at + 1]]
    parts = {n: v for n, _, v in fields(graph[start:end]) if isinstance(v, bytes)}
    return parts.get(1, b""), parts.get(2, b"")
