"""Recurrent cells in a graph, and the order of their gates.

    Keras          kernel (in, 4 u), recurrent_kernel (u, 4 u)     split: i f c o
    TF1 cells      kernel (in + u, 4 u) of the concatenated inputs  split: i j f o

What is done to each part of the split tells the order: the candidate goes through tanh, the gates
through sigmoid. A TF1 cell adds its forget bias, a constant, to the third part when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..uses import LayerKind
from .flow import Flow, Port, Reader
from .graph_constants import constant
from .weight_readers import Reading

__all__ = ["RecurrentCell", "cell_of"]

_JOINS = ("BiasAdd", "AddV2", "Add", "Identity", "Reshape")
MAX_JOINS = 6  # between the product and the split


class RecurrentCell(NamedTuple):
    """A recurrent cell.

    Attributes:
        kind: what it is.
        parts: what each of its weights is, by leaf.
        facts: see `uses.py`.
        why: for people.
    """

    kind: LayerKind
    parts: Mapping[str, str]
    facts: Mapping[str, Any]
    why: str


def cell_of(
    flow: Flow,
    read: Mapping[str, Sequence[Reading]],
    shapes: Mapping[str, tuple[int, ...]],
) -> RecurrentCell | None:
    """Return the cell that weights with one path make up, or None if they make up none.

    Args:
        flow: the graph.
        read: what reads each weight, by leaf.
        shapes: by leaf.
    """
    kernel = _product(read.get("kernel", ()))
    if kernel is None or len(shapes["kernel"]) != 2:
        return None
    if "recurrent_kernel" in read:
        if _product(read["recurrent_kernel"]) is None or len(shapes["recurrent_kernel"]) != 2:
            return None
        return _keras_cell(flow, kernel, shapes)
    return _joined_cell(flow, kernel, shapes)


def _product(found: Sequence[Reading]) -> Reading | None:
    return next((each for each in found if each.op == "MatMul" and each.index == 1), None)


def _keras_cell(
    flow: Flow, kernel: Reading, shapes: Mapping[str, tuple[int, ...]]
) -> RecurrentCell | None:
    units = shapes["recurrent_kernel"][0]
    gates, rest = divmod(shapes["kernel"][1], units) if units else (0, 1)
    kinds = {1: LayerKind.RNN, 3: LayerKind.GRU, 4: LayerKind.LSTM}
    if rest or gates not in kinds:
        return None
    parts = {leaf: leaf for leaf in ("kernel", "recurrent_kernel", "bias") if leaf in shapes}
    facts: dict[str, Any] = {}
    if gates == 4:
        facts["gates"] = _lstm_order(flow, kernel)
    if gates == 3:
        facts["gates"] = "zrh"
        if "bias" in shapes:
            facts["reset_after"] = len(shapes["bias"]) == 2
    return RecurrentCell(kinds[gates], parts, facts, kernel.label)


def _joined_cell(
    flow: Flow, kernel: Reading, shapes: Mapping[str, tuple[int, ...]]
) -> RecurrentCell | None:
    """Return a cell of TF1, which multiplies input and state in one."""
    inputs = flow.inputs(kernel.reader.scope, kernel.reader.node)
    joined = flow.node(inputs[0])
    if joined is None or joined.op != "ConcatV2" or not _in_loop(kernel.reader):
        return None
    split = _split(flow, kernel.reader, 4)
    parts = {"kernel": "joined_kernel", **({"bias": "bias"} if "bias" in shapes else {})}
    if split is None:
        if not _goes_to(flow, kernel.reader, ("Tanh",)):
            return None
        return RecurrentCell(LayerKind.RNN, parts, {}, kernel.label)
    facts: dict[str, Any] = {"gates": _order_of(flow, split)}
    bias = _forget_bias(flow, split)
    if bias:
        facts["forget_bias"] = bias
    return RecurrentCell(LayerKind.LSTM, parts, facts, kernel.label)


def _in_loop(reader: Reader) -> bool:
    return "while" in f"{reader.scope}/{reader.node.name}"


def _lstm_order(flow: Flow, kernel: Reading) -> str:
    split = _split(flow, kernel.reader, 4)
    return _order_of(flow, split) if split else ""


def _split(flow: Flow, reader: Reader, count: int) -> Port | None:
    """Return the node that splits a product into so many parts, after what is added to it."""
    for each in _onward(flow, reader):
        node = each.node
        if node.op == "Split" and node.attr("num_split", 3) == count:
            return each.result
    return None


def _goes_to(flow: Flow, reader: Reader, ops: Sequence[str]) -> bool:
    return any(each.node.op in ops for each in _onward(flow, reader))


def _onward(flow: Flow, reader: Reader) -> Iterator[Reader]:
    """Yield what reads a product, and what reads that after an addition."""
    current = [reader]
    for _ in range(MAX_JOINS):
        following = [each for one in current for each in flow.readers(one.result)]
        yield from following
        current = [each for each in following if each.node.op in _JOINS]


def _order_of(flow: Flow, split: Port) -> str:
    """Return the order of the four gates; empty where it is none that is known."""
    tanh = [number for number in range(4) if "Tanh" in _ops(flow, split, number)]
    if tanh == [2]:
        return "ifco"
    return "ijfo" if tanh == [1] else ""


def _ops(flow: Flow, split: Port, number: int) -> list[str]:
    return [each.node.op for each in flow.readers(split._replace(output=number))]


def _forget_bias(flow: Flow, split: Port) -> float | None:
    for reader in flow.readers(split._replace(output=2)):
        if reader.node.op in ("Add", "AddV2"):
            inputs = flow.inputs(reader.scope, reader.node)
            return _constant(flow, inputs[1 - reader.index])
    return None


def _constant(flow: Flow, port: Port) -> float | None:
    tensor = constant(flow, port)
    return float(tensor.read().reshape(-1)[0]) if tensor and tensor.spec.size == 1 else None
