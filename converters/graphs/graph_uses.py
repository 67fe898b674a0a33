"""What a graph says about each weight: the operation that reads it is what it is used for.

A weight is followed from its node to what computes with it, through functions and loops. Most
operations leave no choice: a filter is input 1 of a convolution, a table input 0 of a gather. Gates
of recurrent cells are told apart by what is done to the parts of a split. What several operations
share, such as an addition, is told by where its other input comes from.

Table of operations: tensorflow/core/ops (v2.21.0); each row is run in tests/pipeline/layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from ..containers.graph_proto import Node
from ..containers.messages import Body
from ..uses import Evidence, LayerKind, Use, Uses
from .flow import Flow, Port
from .frozen_names import path_and_leaf
from .graph_constants import first_integer
from .graph_rnn import RecurrentCell, cell_of, gru_of, is_of_a_cell
from .saved_nodes import VARIABLES, saved_variables
from .weight_readers import THROUGH, Reading, Walk, back

__all__ = ["uses_of_graph"]

_FILTERS = {
    ("Conv2D", 1): LayerKind.CONV,
    ("Conv3D", 1): LayerKind.CONV,
    ("Conv2DBackpropInput", 1): LayerKind.CONV_TRANSPOSE,
    ("Conv3DBackpropInputV2", 1): LayerKind.CONV_TRANSPOSE,
    ("DepthwiseConv2dNative", 1): LayerKind.DEPTHWISE,
}
_OPS = (*(op for op, _ in _FILTERS), "GatherV2", "Gather", "ResourceGather")
_ENDS = ("Placeholder", "Einsum", "Mean", "Max")  # beyond them nothing that was flattened counts
_TABLES = {("GatherV2", 0), ("Gather", 0), ("ResourceGather", 0)}
_FUSED = {1: "gamma", 2: "beta", 3: "moving_mean", 4: "moving_variance"}
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
_ADDS = ("BiasAdd", "AddV2", "Add", "BiasAddV1")
# What divides by a standard deviation.
_ROOTS = ("Rsqrt", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_CONSTANTS = ("Const", "HostConst")  # where a graph was frozen
MAX_INPUTS = 16  # that are looked at for a weight
_NORMS = (LayerKind.BATCH_NORM, LayerKind.LAYER_NORM, LayerKind.RMS_NORM)
_ATTENTION = {"query": "query", "key": "key", "value": "value", "attention_output": "output"}


def uses_of_graph(
    graph: Body,
    keys: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Uses:
    """Return what a graph says of the weights that are stored.

    Args:
        graph: a GraphDef.
        keys: the keys of each tensor by its name; several where it is stored more than once.
        shapes: by name.

    Raises:
        CorruptFileError: the graph is damaged.
    """
    flow = Flow(graph)
    saved = saved_variables(flow)
    nodes: dict[str, list[Port]] = {}
    for name, own in keys.items():
        found = [port for key in own for port in saved.get(key, ())]
        nodes[name] = found or [port for key in own for port in _node_called(flow, key)]
    return _Model(flow, nodes, shapes).uses()


def _node_called(flow: Flow, key: str) -> Iterator[Port]:
    """Yield the node of that name, in the graph itself or behind the name of its function."""
    if key in flow.scopes[""]:
        yield Port("", key)
    function, _, node = key.partition("/")
    if function and node in flow.scopes.get(function, ()):
        yield Port(function, node)


@dataclass
class _Model:
    """A graph with the weights in it.

    Attributes:
        flow: the graph.
        nodes: nodes of each weight, by name.
        shapes: by name.
        read: what reads each weight.
        owners: name of the weight by its nodes.
        known: what is known by now.
        kernels: the first kernel right below a path, whose layer the path is.
        flattened: weights between what was flattened and the product that reads it.
    """

    flow: Flow
    nodes: Mapping[str, Sequence[Port]]
    shapes: Mapping[str, tuple[int, ...]]
    read: dict[str, list[Reading]] = field(default_factory=dict)
    owners: dict[Port, str] = field(default_factory=dict)
    known: dict[str, Use] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    flattened: dict[str, bool | str] = field(default_factory=dict)

    def uses(self) -> Uses:
        """Return what is known of all weights."""
        walk = Walk(self.flow)
        for name, ports in self.nodes.items():
            self.read[name] = walk.readings(ports)
            self.owners |= dict.fromkeys(ports, name)
        self._recurrent()
        self._attention()
        for name in self.nodes:
            if name not in self.known:
                self._kernel(name)
        self._separable()
        for name in self.nodes:
            if name not in self.known:
                self._other(name)
        self._norms()
        for name, flattened in self.flattened.items():
            if name in self.known:
                use = self.known[name]
                self.known[name] = replace(use, facts={**use.facts, "flattened": flattened})
        undecided = {name: self._why_not(name) for name in self.nodes if name not in self.known}
        return Uses(self.known, undecided)

    def _why_not(self, name: str) -> str:
        if not self.nodes[name]:
            return "the graph does not store it"
        seen = dict.fromkeys(each.op for each in self.read[name])
        if not seen:
            return "nothing in the graph reads it"
        return f"read by {', '.join(list(seen)[:4])}, which does not tell its layout"

    # Layers of several weights that belong together

    def _recurrent(self) -> None:
        paths = self._by_path()
        for path, leaves in paths.items():
            candidate = paths.get(f"{path.removesuffix('gates')}candidate", {})
            if candidate and (path == "gates" or path.endswith("/gates")):
                self._gru(path.removesuffix("gates").rstrip("/"), leaves, candidate)
        for path, leaves in paths.items():
            if any(name in self.known for name in leaves.values()):
                continue
            cell = cell_of(self.flow, {leaf: self.read[name] for leaf, name in leaves.items()},
                           {leaf: self.shapes[name] for leaf, name in leaves.items()})  # fmt: skip
            if cell is not None:
                self._cell(path, leaves, cell)

    def _gru(self, path: str, gates: Mapping[str, str], candidate: Mapping[str, str]) -> None:
        read = [
            {leaf: self.read[name] for leaf, name in leaves.items()}
            for leaves in (gates, candidate)
        ]
        cell = gru_of(self.flow, *read)
        if cell is not None:
            names = {f"gates/{leaf}": name for leaf, name in gates.items()}
            names |= {f"candidate/{leaf}": name for leaf, name in candidate.items()}
            self._cell(path, names, cell)

    def _cell(self, path: str, leaves: Mapping[str, str], cell: RecurrentCell) -> None:
        facts = dict(cell.facts)
        layer, direction = _owner_of_cell(path)
        if direction:
            facts["direction"] = direction
        for leaf, part in cell.parts.items():
            use = Use(layer, cell.kind, part, Evidence.GRAPH, cell.why, facts)
            self.known[leaves[leaf]] = use

    def _attention(self) -> None:
        """Four projections below one path, each of them read by a product."""
        paths = self._by_path()
        for path, leaves in paths.items():
            above, _, last = path.rpartition("/")
            whole = [f"{above}/{each}".lstrip("/") for each in _ATTENTION]
            projections = [paths.get(each, {}).get("kernel") for each in whole]
            if last != "query" or not all(projections):
                continue
            ranks = [len(self.shapes[name]) for name in projections if name]
            if ranks == [3, 3, 3, 3] and "kernel" in leaves:
                self._projections(above, paths)

    def _projections(self, above: str, paths: Mapping[str, Mapping[str, str]]) -> None:
        for last, part in _ATTENTION.items():
            for leaf, name in paths[f"{above}/{last}".lstrip("/")].items():
                if leaf in ("kernel", "bias") and self.read[name]:
                    why = self.read[name][0].label
                    whole = f"{part}/{leaf}"
                    self.known[name] = Use(above, LayerKind.ATTENTION, whole, Evidence.GRAPH, why)

    def _by_path(self) -> dict[str, dict[str, str]]:
        """Return the names of weights by leaf, by what stands before it."""
        found: dict[str, dict[str, str]] = {}
        for name in self.nodes:
            path, leaf = path_and_leaf(name)
            found.setdefault(path, {})[leaf] = name
        return found

    # Kernels, which the operation tells

    def _kernel(self, name: str) -> None:
        for reading in self.read[name]:
            found = self._as_kernel(name, reading)
            if found is not None:
                kind, part, facts = found
                why = reading.label
                layer = self._layer(name)
                self.known[name] = Use(layer, kind, part, Evidence.GRAPH, why, facts)
                return

    def _as_kernel(
        self, name: str, reading: Reading
    ) -> tuple[LayerKind, str, dict[str, Any]] | None:
        place = (reading.op, reading.index)
        rank = len(self.shapes[name])
        if place in _FILTERS:
            return _FILTERS[place], "kernel", {}
        if place in _TABLES and rank == 2:
            return LayerKind.EMBEDDING, "embeddings", {}
        if reading.op.startswith("FusedBatchNorm") and reading.index in _FUSED:
            return LayerKind.BATCH_NORM, _FUSED[reading.index], {}
        if reading.op in _PRODUCTS and is_of_a_cell(self.flow, reading):
            return None
        if reading.op in _PRODUCTS and rank == 2:
            return LayerKind.DENSE, "kernel", self._dense_facts(name, reading)
        if reading.op in _PRODUCTS and rank > 2 and reading.index == 1:
            count = self._rows(name, reading)
            return (LayerKind.EINSUM_DENSE, "kernel", {"summed": count}) if count else None
        if reading.op == "Einsum" and rank > 1:
            equation = reading.reader.node.text("equation")
            return (
                LayerKind.EINSUM_DENSE,
                "kernel",
                {"equation": _weight_second(equation, reading.index)},
            )
        return None

    def _rows(self, name: str, reading: Reading) -> int | None:
        """Return how many axes of a kernel a product sums over, once it is reshaped to a matrix."""
        port = self.flow.inputs(reading.reader.scope, reading.reader.node)[1]
        node = self.flow.node(port)
        if node is None or node.op != "Reshape" or "Transpose" in reading.trail:
            return None
        inputs = self.flow.inputs(port.scope, node)
        rows = first_integer(self.flow, inputs[1]) if len(inputs) == 2 else None
        shape = self.shapes[name]
        counts = [count for count in range(1, len(shape)) if prod(shape[:count]) == rows]
        return counts[0] if len(counts) == 1 else None

    def _dense_facts(self, name: str, reading: Reading) -> dict[str, Any]:
        node = reading.reader.node
        names = ("adj_x", "adj_y") if reading.op != "MatMul" else ("transpose_a", "transpose_b")
        turned = bool(node.attr(names[reading.index], 5))
        transposed = turned if reading.index == 1 else not turned
        facts: dict[str, Any] = {"transposed": True} if transposed else {}
        rows = self.shapes[name][1 if transposed else 0]
        inputs = self.flow.inputs(reading.reader.scope, node)
        flattened = self._flattened(inputs[1 - reading.index], rows)
        return {**facts, "flattened": flattened} if flattened else facts

    def _flattened(self, port: Port, rows: int) -> bool | str:
        """Tell whether a value was flattened from more channels than one axis has, or may be."""
        passed: list[str] = []
        for at, node in back(self.flow, port, 48):
            inputs = self.flow.inputs(at.scope, node)
            if node.op == "Reshape" and inputs and self._owner(inputs[0]) is None:
                found = self._is_flattened(inputs[0], rows, node)
                self.flattened |= dict.fromkeys(passed, found) if found else {}
                if found is not None:
                    return found
            if node.op in _ENDS and not node.attr("keep_dims", 5):
                return False
            weights = self._weights(at, node)
            if weights and node.op in (*_PRODUCTS, *_OPS):
                return False
            passed += weights
        return False

    def _is_flattened(self, source: Port, rows: int, node: Node) -> bool | str | None:
        """Tell whether a reshape flattens; None where it is one of the product itself."""
        width = self._width(source)
        if width is not None and width != rows:
            return True
        if "Tensordot" in node.name:
            return None
        return "perhaps" if width is None else False

    def _width(self, port: Port) -> int | None:
        """Return the length of the last axis of a value, as the nearest weight tells it."""
        for at, node in back(self.flow, port, 40):
            if node.op == "Placeholder":
                return _last_length(node.attr("shape", 7))
            for weight in self._weights(at, node):
                shape = self.shapes[weight]
                if len(shape) < 2 and (node.op in _PRODUCTS or (node.op, 1) in _FILTERS):
                    return None
                if node.op in _ADDS or node.op.startswith(("Fused", "Mul")):
                    return shape[-1] if shape else None
                if node.op in _PRODUCTS or node.op in ("Conv2D", "Conv3D"):
                    return shape[-1]
                if node.op == "DepthwiseConv2dNative":
                    return shape[-1] * shape[-2]
                if (node.op, 1) in _FILTERS:
                    return shape[-2]
        return None

    def _weights(self, at: Port, node: Node) -> list[str]:
        """Return the weights that a node reads, through what passes them on."""
        found = []
        for port in self.flow.inputs(at.scope, node)[:MAX_INPUTS]:
            owner = self._owner(port)
            if owner is not None:
                found.append(owner)
        return found

    def _owner(self, port: Port) -> str | None:
        for _ in range(16):
            node = self.flow.node(port)
            if node is None:
                outside = self.flow.given(port)
                if outside is None:
                    return None
                port = outside
            elif node.op in VARIABLES or node.op in _CONSTANTS:
                return self.owners.get(Port(port.scope, node.name))
            elif node.op in THROUGH and self.flow.inputs(port.scope, node):
                port = self.flow.inputs(port.scope, node)[0]
            else:
                return None
        return None

    def _layer(self, name: str) -> str:
        """Return the layer of a kernel: what it lies in, if it is the only one there."""
        path, leaf = path_and_leaf(name)
        if leaf in _LEAVES:
            return path
        first = self.kernels.setdefault(path, name)
        return path if path and first == name else name

    def _separable(self) -> None:
        """A depthwise and a pointwise convolution are one layer where Keras made them."""
        for path, leaves in self._by_path().items():
            if "depthwise_kernel" in leaves and "pointwise_kernel" in leaves:
                for part in ("depthwise_kernel", "pointwise_kernel"):
                    use = self.known.get(leaves[part])
                    if use is not None:
                        self.known[leaves[part]] = Use(
                            path, LayerKind.SEPARABLE, part, Evidence.GRAPH, use.why
                        )

    # What is added and multiplied

    def _other(self, name: str) -> None:
        for reading in self.read[name]:
            use = self._as_bias(reading) or self._as_norm(name, reading)
            use = use or self._as_slope(name, reading)
            if use is not None:
                self.known[name] = use
                return

    def _as_bias(self, reading: Reading) -> Use | None:
        """Return the use of what is added to the result of a kernel."""
        if reading.op not in _ADDS:
            return None
        inputs = self.flow.inputs(reading.reader.scope, reading.reader.node)
        for at, node in back(self.flow, inputs[1 - reading.index], 6):
            for weight in self._weights(at, node):
                use = self.known.get(weight)
                if use is not None and use.part.endswith("kernel"):
                    facts = {key: use.facts[key] for key in ("flattened",) if key in use.facts}
                    return Use(use.layer, use.kind, "bias", Evidence.GRAPH, reading.label, facts)
            if node.op not in THROUGH and node.op not in (
                *_PRODUCTS,
                "Einsum",
                "SpaceToBatchND",
                "BatchToSpaceND",
            ):
                break
        return None

    def _as_norm(self, name: str, reading: Reading) -> Use | None:
        """Return the use of a part of a normalization that is spelled out in operations."""
        part = self._norm_part(reading)
        if part is None:
            return None
        inputs = self.flow.inputs(reading.reader.scope, reading.reader.node)
        others = {node.op for _, node in back(self.flow, inputs[1 - reading.index], 24)}
        centred = others & {"SquaredDifference", "Sub", *_ROOTS[1:]}
        kind = LayerKind.LAYER_NORM if centred or part != "gamma" else LayerKind.RMS_NORM
        return Use(path_and_leaf(name)[0], kind, part, Evidence.GRAPH, reading.label)

    def _norms(self) -> None:
        """Parts of one normalization agree about its kind: moments tell one of batches."""
        for path, leaves in self._by_path().items():
            uses = {name: self.known[name] for name in leaves.values() if name in self.known}
            norms = {name: use for name, use in uses.items() if use.kind in _NORMS}
            parts = {use.part for use in norms.values()}
            if parts & {"moving_mean", "moving_variance"}:
                kind = LayerKind.BATCH_NORM
            else:
                centred = any(use.kind is LayerKind.LAYER_NORM for use in norms.values())
                kind = LayerKind.LAYER_NORM if centred else LayerKind.RMS_NORM
            for name, use in norms.items():
                part = "scale" if kind is LayerKind.RMS_NORM else use.part
                self.known[name] = replace(use, layer=path, kind=kind, part=part)

    def _norm_part(self, reading: Reading) -> str | None:
        results = self.flow.readers(reading.reader.result)
        if reading.op in ("AddV2", "Add") and any(each.node.op in _ROOTS for each in results):
            return "moving_variance"
        inputs = self.flow.inputs(reading.reader.scope, reading.reader.node)
        if len(inputs) != 2:
            return None
        other = list(back(self.flow, inputs[1 - reading.index], 24))
        rooted = any(node.op in _ROOTS for _, node in other)
        if not rooted:
            return None
        if reading.op == "Mul":
            subtracted = any(each.node.op in ("Sub", "Neg") for each in results)
            return "moving_mean" if subtracted else "gamma"
        if reading.op == "Sub":
            return "beta" if reading.index == 0 else "moving_mean"
        return "beta" if reading.op in ("AddV2", "Add") else None

    def _as_slope(self, name: str, reading: Reading) -> Use | None:
        """Return the use of the slopes of a PReLU: they multiply the negative part of a value."""
        results = [reading]
        if reading.op == "Neg":
            results = [
                Reading(each, reading.trail) for each in self.flow.readers(reading.reader.result)
            ]
        for each in results:
            if each.op != "Mul":
                continue
            inputs = self.flow.inputs(each.reader.scope, each.reader.node)
            if len(inputs) != 2:
                continue
            ops = [node.op for _, node in back(self.flow, inputs[1 - each.index], 4)]
            if ops[:1] == ["Minimum"] or ops[:2] == ["Relu", "Neg"] or ops[:2] == ["Sub", "Abs"]:
                path, leaf = path_and_leaf(name)
                return Use(path or leaf, LayerKind.PRELU, "alpha", Evidence.GRAPH, each.label)
        return None


_LEAVES = frozenset({
    "kernel", "bias", "embeddings", "gamma", "beta", "moving_mean", "moving_variance", "alpha",
    "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "weights", "biases",
})  # fmt: skip


def _owner_of_cell(path: str) -> tuple[str, str]:
    """Return the layer of a recurrent cell, and its direction in a bidirectional one."""
    parts = path.split("/")
    if len(parts) > 1 and parts[-1].rstrip("_0123456789").endswith("cell"):
        parts.pop()
    for direction in ("forward", "backward"):
        if len(parts) > 1 and parts[-1].startswith(f"{direction}_"):
            return "/".join(parts[:-1]), direction
    return "/".join(parts), ""


def _weight_second(equation: str, index: int) -> str:
    """Return an equation with the weight as its second input."""
    if index == 1 or equation.count(",") != 1 or equation.count("->") != 1:
        return equation
    inputs, result = equation.split("->")
    first, second = inputs.split(",")
    return f"{second},{first}->{result}"


def _last_length(shape: object) -> int | None:
    """Return the last length of a TensorShapeProto, None where it is not known."""
    if not isinstance(shape, Body):
        return None
    lengths = [value for number, value in shape.bodies() if number == 2]
    if not lengths:
        return None
    found = [value for number, value in lengths[-1].fields() if number == 1]
    length = found[-1] if found else 0
    return length if isinstance(length, int) and 0 <= length < 1 << 62 else None
