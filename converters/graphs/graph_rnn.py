"""Recurrent cells in a graph, and the order of their gates.

    Keras          kernel (in, 4 u), recurrent_kernel (u, 4 u)     split: i f c o
    TF1 cells      kernel (in + u, 4 u) of the concatenated inputs  split: i j f o

What is done to each part of the split tells the order: the candidate goes through tanh, the gates
through sigmoid. A TF1 cell adds its forget bias, a constant, to the third part when it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from ..uses import LayerKind
from .flow import Flow, Port, Reader
from .graph_constants import constant
from .weight_readers import Reading

__all__ = ["RecurrentCell", "cell_of", "gru_of", "is_of_a_cell"]

_JOINS = ("BiasAdd", "AddV2", "Add", "Identity", "Reshape")
MAX_JOINS = 6  # between the product and the split
MAX_READERS = 64  # of one value


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
    if not _is_joined(flow, kernel):
        return None
    split = _split(flow, kernel.reader, 4)
    parts = {"kernel": "joined_kernel", **({"bias": "bias"} if "bias" in shapes else {})}
    if split is None:
        if not _goes_to(flow, kernel.reader, ("Tanh",)) or not _has_state(flow, inputs[0]):
            return None
        return RecurrentCell(LayerKind.RNN, parts, {}, kernel.label)
    facts: dict[str, Any] = {"gates": _order_of(flow, split)}
    if not _in_loop(kernel.reader) and not facts["gates"]:
        return None
    bias = _forget_bias(flow, split)
    if bias:
        facts["forget_bias"] = bias
    return RecurrentCell(LayerKind.LSTM, parts, facts, kernel.label)


def gru_of(
    flow: Flow, gates: Mapping[str, Sequence[Reading]], candidate: Mapping[str, Sequence[Reading]]
) -> RecurrentCell | None:
    """Return the GRU of TF1 that two layers of it make up, or None if they make up none.

    Args:
        flow: the graph.
        gates: what reads the weights below `gates`, by leaf.
        candidate: the same below `candidate`.
    """
    products = [_product(each.get("kernel", ())) for each in (gates, candidate)]
    if not all(each is not None and _is_joined(flow, each) for each in products):
        return None
    parts = {
        f"{last}/{leaf}": f"{last}_{leaf}"
        for last, leaves in (("gates", gates), ("candidate", candidate))
        for leaf in ("kernel", "bias")
        if leaf in leaves
    }
    facts = {"gates": "rz", "reset_after": False}
    return RecurrentCell(LayerKind.GRU, parts, facts, products[0].label if products[0] else "")


def is_of_a_cell(flow: Flow, reading: Reading) -> bool:
    """Tell whether a product is one of a recurrent cell: what comes out is divided into gates."""
    if _in_loop(reading.reader) and _is_joined(flow, reading):
        splits = [_split(flow, reading.reader, count) for count in (2, 3, 4)]
        return any(splits) or _has_state(
            flow, flow.inputs(reading.reader.scope, reading.reader.node)[0]
        )
    split = _split(flow, reading.reader, 4) or _split(flow, reading.reader, 3)
    return split is not None and (
        _in_loop(reading.reader) or any("Sigmoid" in _ops(flow, split, each) for each in range(4))
    )


def _is_joined(flow: Flow, kernel: Reading) -> bool:
    """Tell whether a kernel multiplies several values that were joined."""
    inputs = flow.inputs(kernel.reader.scope, kernel.reader.node)
    joined = flow.node(inputs[0]) if inputs else None
    return joined is not None and joined.op == "ConcatV2"


def _has_state(flow: Flow, joined: Port) -> bool:
    """Tell whether the last of the joined values comes from the step before."""
    node = flow.node(joined)
    values = flow.inputs(joined.scope, node)[:-1] if node is not None else []  # the last is an axis
    port = values[-1] if values else None
    for _ in range(MAX_JOINS):
        node = flow.node(port) if port is not None else None
        if port is None or node is None:
            return port is not None and "while" in port.scope
        if node.op in ("Merge", "RefMerge"):
            return True
        inputs = flow.inputs(port.scope, node)
        port = inputs[0] if inputs and node.op in ("Identity", "Switch", "RefSwitch") else None
    return False


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
        following = {
            (each.scope, each.node.name): each
            for one in current
            for each in flow.readers(one.result)[:MAX_READERS]
        }
        yield from following.values()
        joins = (each for each in following.values() if each.node.op in _JOINS)
        current = list(islice(joins, MAX_READERS))


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
            return _constant(flow, inputs[1 - reader.index]) if len(inputs) == 2 else None
    return None


def _constant(flow: Flow, port: Port) -> float | None:
    tensor = constant(flow, port)
    return float(tensor.read().reshape(-1)[0]) if tensor and tensor.spec.size == 1 else None
