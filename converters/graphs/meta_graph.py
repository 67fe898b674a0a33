"""What the graph beside a name-based checkpoint says about its variables.

`<prefix>.meta` is a MetaGraphDef (tensorflow/core/protobuf/meta_graph.proto, v2.21.0). It holds
no weights, and nothing of it is needed for values. Read from it, and nothing is executed:

- The save nodes name every checkpoint key and the variable that is stored under it. A Saver may
  store a variable under any name, so the variable's own name counts, not the key.
- Collections of VariableDef: what exists, what is trained, what has a moving average.
- `Apply…` nodes take a variable, its slots and the hyper-parameters as inputs.
- `v -= (v - x) * rate` is a moving average: of the variable `x`, or else of a batch statistic.
- FusedBatchNorm takes moving mean and variance as its fourth and fifth input.

What the graph leaves open is read off the names (`name_patterns.py`). Only names and operations
of the nodes are decoded, the rest of a node when it is asked for: a graph has thousands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..containers.graph_proto import MetaGraph, meta_graph
from ..containers.messages import Body, MemorySource
from ..containers.tensor_proto import parse_tensor
from ..containers.text_proto import to_binary
from ..containers.wire import fields
from ..errors import UnsafeFileError
from ..names import decode
from ..sources import FileSource
from .graph_nodes import Nodes, base_name
from .graph_optimizers import optimizers_of

__all__ = ["GraphFacts", "Slot", "graph_facts", "read_meta"]

META_BYTES = 64 << 20  # read whole; a graph of this size holds weights itself
TEXT_BYTES = 16 << 20  # the text form takes seconds beyond

# Save nodes: the input that holds the keys is 1; the first that holds data is this one.
_SAVE_OPS = {b"SaveV2": 3, b"SaveSlices": 3, b"Save": 2}
_TABLES = b"LookupTableExport"
# Slots that an operation updates, by the names `Optimizer.get_slot` has for them, and its
# further inputs; from tensorflow/core/ops/training_ops.cc. Sparse ones have indices after grad.
_APPLY_OPS = {
    b"ApplyGradientDescent": ((), "alpha grad"),
    b"ApplyProximalGradientDescent": ((), "alpha l1 l2 grad"),
    b"ApplyMomentum": (("momentum",), "lr grad momentum"),
    b"ApplyKerasMomentum": (("momentum",), "lr grad momentum"),
    b"ApplyAdam": (("m", "v"), "beta1_power beta2_power lr beta1 beta2 epsilon grad"),
    b"ApplyAdamWithAmsgrad": (
        ("m", "v", "vhat"), "beta1_power beta2_power lr beta1 beta2 epsilon grad",
    ),
    b"ApplyAdaMax": (("m", "v"), "beta1_power lr beta1 beta2 epsilon grad"),
    b"ApplyRMSProp": (("rms", "momentum"), "lr rho momentum epsilon grad"),
    b"ApplyCenteredRMSProp": (("mg", "rms", "momentum"), "lr rho momentum epsilon grad"),
    b"ApplyAdagrad": (("accumulator",), "lr grad"),
    b"ApplyAdagradV2": (("accumulator",), "lr epsilon grad"),
    b"ApplyAdagradDA": (
        ("gradient_accumulator", "gradient_squared_accumulator"), "grad lr l1 l2 global_step",
    ),
    b"ApplyProximalAdagrad": (("accumulator",), "lr l1 l2 grad"),
    b"ApplyAdadelta": (("accum", "accum_update"), "lr rho epsilon grad"),
    b"ApplyFtrl": (("accum", "linear"), "grad lr l1 l2 lr_power"),
    b"ApplyFtrlV2": (("accum", "linear"), "grad lr l1 l2 l2_shrinkage lr_power"),
    b"ApplyAddSign": (("m",), "lr alpha sign_decay beta grad"),
    b"ApplyPowerSign": (("m",), "lr logbase sign_decay beta grad"),
}  # fmt: skip


class Slot(NamedTuple):
    """An optimizer slot: of which variable, and what its optimizer calls it."""

    owner: str
    name: str


@dataclass(frozen=True)
class GraphFacts:
    """What a graph says about variables, which go by the names of their nodes.

    Attributes:
        saved: variables by checkpoint key; a partitioned one has a node per part.
        tables: keys of the contents of lookup tables.
        listed: variables in any collection.
        trained: those that are trained, None where the graph does not tell trained from others.
        slots: optimizer slots.
        averages: the variable that each moving average follows.
        averaged: variables that are said to have a moving average.
        statistics: moving averages of batch statistics.
        hyper: what optimizers keep for themselves, such as powers of beta.
        steps: global steps.
        optimizers: kind and parameters of each.
    """

    saved: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tables: frozenset[str] = frozenset()
    listed: frozenset[str] = frozenset()
    trained: frozenset[str] | None = None
    slots: Mapping[str, Slot] = field(default_factory=dict)
    averages: Mapping[str, str] = field(default_factory=dict)
    averaged: frozenset[str] = frozenset()
    statistics: frozenset[str] = frozenset()
    hyper: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    optimizers: tuple[dict[str, Any], ...] = ()

    def trainable(self, variable: str) -> bool | None:
        """Tell whether a variable is trained; None where the graph does not say."""
        if self.trained is None or variable not in self.listed:
            return None
        return variable in self.trained


def read_meta(path: Path) -> MetaGraph:
    """Read a `.meta` file, binary or text.

    Raises:
        ConvertError: it cannot be read, is no such file, or is too large to be looked into.
    """
    source = FileSource(path)
    try:
        size = source.size
        if size > META_BYTES:
            raise UnsafeFileError(
                "too large to be looked into", path=path, expected=META_BYTES, got=size
            )
        data = source.read(0, size)
    finally:
        source.close()
    if _is_text(data):
        if len(data) > TEXT_BYTES:
            raise UnsafeFileError(
                "too long a text to be looked into", path=path, expected=TEXT_BYTES, got=size
            )
        data = to_binary(data, "MetaGraphDef")
    return meta_graph(Body(MemorySource(path, data), 0, len(data), data))


def _is_text(data: bytes) -> bool:
    """Tell text from binary: a binary message soon holds a control character, as a tag."""
    return all(byte >= 0x20 or byte in b"\t\n\r" for byte in data[:64])


def graph_facts(meta: MetaGraph, keys: Iterable[str]) -> GraphFacts:
    """Collect what a meta graph says about the variables that are stored under `keys`.

    Args:
        meta: the meta graph.
        keys: those of the checkpoint: of several savers in a graph, the one that wrote it counts.

    Raises:
        CorruptFileError: the graph is damaged.
    """
    data = meta.graph.load() if meta.graph else b""
    nodes = Nodes(data, meta.graph.source.path if meta.graph else Path())
    saved, tables = _saved(nodes, frozenset(keys))
    variables = _collection(meta, "variables")
    trained = _collection(meta, "trainable_variables")
    listed = variables | trained
    for name in ("model_variables", "local_variables", "moving_average_variables", "global_step"):
        listed |= _collection(meta, name)
    flagged = {name for name, flag in listed.items() if flag}
    followed = _followed(nodes)
    return GraphFacts(
        saved=saved,
        tables=tables,
        listed=frozenset(listed),
        trained=frozenset(trained) | flagged if trained or flagged else None,
        slots=_slots(nodes),
        averages={name: source for name, source in followed.items() if source},
        averaged=frozenset(_collection(meta, "moving_average_variables")),
        statistics=_statistics(nodes) | {name for name, source in followed.items() if not source},
        hyper=_hyper(nodes),
        steps=frozenset(_collection(meta, "global_step")),
        optimizers=tuple(
            optimizers_of(
                nodes, ((each.kind, each.inputs, each.places) for each in _applies(nodes))
            )
        ),
    )


# Collections


def _collection(meta: MetaGraph, name: str) -> dict[str, bool]:
    """Return the variables of a collection, with the flag that they are trained.

    Releases before 1.13 write no such flag, and releases before 1.4 list the global step by the
    name of its output alone.
    """
    body = meta.collections.get(name)
    lists = [each for number, each in body.bodies() if number == 1] if body else []
    found = {
        decode(base_name(value.load())): False
        for each in lists
        for number, value in each.bodies()
        if number == 1
    }
    for body in meta.bytes_list(name):
        values = {number: value for number, _, value in fields(body.load())}
        variable = values.get(1)
        if isinstance(variable, bytes):
            found[decode(base_name(variable))] = bool(values.get(7))
    return found


# Savers


def _saved(nodes: Nodes, keys: frozenset[str]) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Return the variables by key, and the keys of tables.

    The nodes of one saver lie in one scope, and a sharded one has several. Of several savers
    the one that knows most of the checkpoint's keys wrote it.
    """
    scopes: dict[bytes, dict[str, list[bytes]]] = defaultdict(dict)
    for op, first in _SAVE_OPS.items():
        for node in nodes.ops().get(op, ()):
            rows = scopes[node.rpartition(b"/")[0]]
            for key, tensor in _rows(nodes, node, first):
                rows.setdefault(key, []).append(tensor)
    saved: dict[str, tuple[str, ...]] = {}
    tables: set[str] = set()
    for rows in sorted(scopes.values(), key=lambda rows: -len(keys & rows.keys())):
        for key in rows.keys() & keys - saved.keys() - tables:
            found = [nodes.variable(tensor) for tensor in rows[key]]
            if None not in found:
                saved[key] = tuple(decode(name) for name in found if name is not None)
            elif nodes.op(nodes.source(rows[key][0])).startswith(_TABLES):
                tables.add(key)
    return saved, frozenset(tables)


def _rows(nodes: Nodes, node: bytes, first: int) -> Iterator[tuple[str, bytes]]:
    """Yield each key of a save node with the input that is stored under it."""
    inputs = nodes.inputs(node)
    body = nodes.tensor(nodes.source(inputs[1])) if len(inputs) > first else None
    if body is None:
        return
    tensor = parse_tensor(body)
    # A constant may say that its last string repeats; no two keys are the same.
    if tensor.spec.dtype.variable and tensor.spec.size == len(inputs) - first:
        for key, data in zip(tensor.elements(), inputs[first:], strict=True):
            yield decode(key), data


# Optimizers


class _Apply(NamedTuple):
    """An update of a variable: its inputs, slots, and where each parameter stands in them."""

    kind: str
    inputs: tuple[bytes, ...]
    slots: tuple[str, ...]
    places: Mapping[str, int]


def _applies(nodes: Nodes) -> Iterator[_Apply]:
    """Yield every update of a variable."""
    for op, names in nodes.ops().items():
        base = op.removeprefix(b"Resource")
        sparse = base.startswith(b"SparseApply")
        dense = base.removeprefix(b"Sparse")
        slots, others = _APPLY_OPS.get(dense, (None, ""))
        if slots is None:
            continue
        words = others.replace("grad", "grad indices" if sparse else "grad").split()
        places = {
            word: number
            for number, word in enumerate(words, 1 + len(slots))
            if word not in ("grad", "indices")
        }
        kind = dense.removeprefix(b"Apply").decode("ascii")
        for name in names:
            yield _Apply(kind, nodes.inputs(name), slots, places)


def _slots(nodes: Nodes) -> dict[str, Slot]:
    slots = {}
    for _, inputs, names, _ in _applies(nodes):
        found = [nodes.variable(tensor) for tensor in inputs[: 1 + len(names)]]
        owner = found[0] if found else None
        for slot, name in zip(found[1:], names, strict=False):
            if owner is not None and slot is not None:
                slots[decode(slot)] = Slot(decode(owner), name)
    return slots


def _hyper(nodes: Nodes) -> frozenset[str]:
    tensors = {
        each.inputs[number]
        for each in _applies(nodes)
        for number in each.places.values()
        if number < len(each.inputs)
    }
    return frozenset(decode(name) for each in tensors for name in nodes.variables_in(each))


# Moving averages


def _followed(nodes: Nodes) -> dict[str, str]:
    """Return what each moving average follows; empty for something that is computed.

    Looks for `v -= (v - x) * rate`; tensorflow/python/training/moving_averages.py,
    assign_moving_average (v1.0 to v2.21).
    """
    followed = {}
    for op in (b"AssignSub", b"AssignSubVariableOp"):
        for node in nodes.ops().get(op, ()):
            inputs = nodes.inputs(node)
            average = nodes.variable(inputs[0]) if len(inputs) == 2 else None
            source = None if average is None else _source(nodes, average, inputs[1])
            if average is not None and source is not None:
                followed[decode(average)] = decode(source)
    return followed


def _source(nodes: Nodes, average: bytes, change: bytes) -> bytes | None:
    """Return x of `(average - x) * rate`, empty if x is no variable; None for another change."""
    product = nodes.source(change)
    if nodes.op(product) != b"Mul":
        return None
    for factor in nodes.inputs(product):
        difference = nodes.source(factor)
        inputs = nodes.inputs(difference) if nodes.op(difference) == b"Sub" else ()
        if len(inputs) == 2 and nodes.variable(inputs[0]) == average:
            return nodes.variable(inputs[1]) or b""
    return None


def _statistics(nodes: Nodes) -> frozenset[str]:
    """Return what FusedBatchNorm takes as mean and variance."""
    found: set[bytes | None] = set()
    for op in (b"FusedBatchNorm", b"FusedBatchNormV2", b"FusedBatchNormV3"):
        for node in nodes.ops().get(op, ()):
            found.update(nodes.variable(tensor) for tensor in nodes.inputs(node)[3:5])
    return frozenset(decode(name) for name in found if name is not None)
