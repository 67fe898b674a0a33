r"""The model inside a `.tflite` file: a flatbuffer, of which the tensors with values are listed.

    uint32   place of the root table        "TFL3" at byte 4
    Model    {version, operator_codes, subgraphs, description, buffers, …}
    SubGraph {tensors, inputs, outputs, operators, name}
    Tensor   {shape, type, buffer, name, quantization, is_variable, sparsity, …}
    Buffer   {data, offset, size}     bytes in the flatbuffer, or, in a model of more than 2 GB,
                                      behind it: offset from the start of the file

Specified by tensorflow/compiler/mlir/lite/schema/schema.fbs (v2.21.0), whose fields have the
numbers of their order here. All that is taken from a file together is bounded; the weights are not
read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source
from .flatbuffer import Flatbuffer, Table

__all__ = ["IDENTIFIER", "Arguments", "Listed", "Model", "Quantization", "read_model"]

IDENTIFIER = b"TFL3"  # schema.fbs, file_identifier
MAX_TENSORS = 1_000_000
MAX_NAME_BYTES = 1 << 20  # fused layers have all their names in one
# All numbers and names that are taken out of a file. Scales of a large model are 24 MB.
BUDGET_BYTES = 64 << 20
# Offsets 0 and 1 mean that the bytes are in the flatbuffer; schema.fbs, table Buffer.
_LEAST_OFFSET = 2
_PLAIN = 0  # QuantizationDetails.NONE: nothing but scales and zero points

_LSTM = (*range(1, 18), *range(20, 24))
# Inputs that hold weights, by operator; tensorflow/lite/kernels/*.cc (v2.21.0).
_WEIGHTS: Mapping[int, tuple[int, ...]] = {
    3: (1, 2),  # CONV_2D
    4: (1, 2),  # DEPTHWISE_CONV_2D
    7: (1,),  # EMBEDDING_LOOKUP
    9: (1, 2),  # FULLY_CONNECTED
    16: _LSTM,  # LSTM
    24: (1, 2, 3),  # RNN
    27: (1, 2, 3),  # SVDF
    35: (1, 2, 3),  # UNIDIRECTIONAL_SEQUENCE_RNN
    36: (0,),  # GATHER
    44: _LSTM,  # UNIDIRECTIONAL_SEQUENCE_LSTM
    46: (1, 2, 3, 5, 6, 7),  # BIDIRECTIONAL_SEQUENCE_RNN
    52: tuple(range(1, 35)),  # BIDIRECTIONAL_SEQUENCE_LSTM
    54: (1,),  # PRELU
    67: (1, 3),  # TRANSPOSE_CONV
    126: (0, 1),  # BATCH_MATMUL
    132: (1, 2),  # CONV_3D
    141: (1, 3),  # CONV_3D_TRANSPOSE
}
# Operators whose output 0 has the values of input 0: DEQUANTIZE, RESHAPE, TRANSPOSE, SQUEEZE, CAST,
# EXPAND_DIMS, QUANTIZE.
_PASSING = frozenset({6, 22, 39, 43, 53, 70, 114})
_MAX_PASSED = 8


class Quantization(NamedTuple):
    """How stored integers stand for real values: (q - zero point) * scale, along one axis.

    Attributes:
        scale: one for all, or one for each index of the axis.
        zero_point: the same number of them.
        axis: the dimension they belong to.
        known: whether the rule is this one, and not a custom or blockwise one.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int
    known: bool


class Listed(NamedTuple):
    """A tensor that has values.

    Attributes:
        subgraph: number of its subgraph.
        number: its own there.
        name: as the file has it.
        type: its TensorType.
        shape: as the file has it.
        offset: byte offset of its buffer in the file.
        length: of its buffer, in bytes.
        quantization: None where it has no scale.
        sparse: whether only some of its values are stored.
        weight: whether an operator takes it as its weights.
    """

    subgraph: int
    number: int
    name: bytes
    type: int
    shape: tuple[int, ...]
    offset: int
    length: int
    quantization: Quantization | None
    sparse: bool
    weight: bool


class Argument(NamedTuple):
    """An input or output of a signature; dimensions of any size are -1."""

    tensor: bytes
    type: int
    shape: tuple[int, ...]


Arguments = dict[str, Argument]


@dataclass
class Model:
    """What a file holds."""

    version: int = 0
    description: str = ""
    subgraphs: int = 0
    operators: int = 0
    custom: list[str] = field(default_factory=list)
    signatures: dict[str, tuple[Arguments, Arguments]] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    tensors: list[Listed] = field(default_factory=list)


def read_model(source: Source) -> Model:
    """Return what a `.tflite` file holds; reads no values.

    Raises:
        NotRecognisedError: it cannot be opened.
        CorruptFileError: the tables contradict themselves or the length of the file.
    """
    data = Flatbuffer(source, budget=BUDGET_BYTES, longest=MAX_NAME_BYTES)
    return _Reader(data).read()


class _Reader:
    def __init__(self, data: Flatbuffer) -> None:
        self._data = data
        self._root = data.root()
        self._model = Model()
        self._buffers = range(0)
        self._codes: list[int] = []

    def read(self) -> Model:
        root, model = self._root, self._model
        model.version = root.number(0, "I")
        model.description = _text(root.text(3))
        self._buffers = root.places(4)
        codes = list(self._tables(root, 1))
        self._codes = [_code(each) for each in codes]
        model.custom = [_text(each.text(1)) for each in codes if each.has(1)]
        model.metadata = [_text(each.text(0)) for each in self._tables(root, 6)]
        for number, graph in enumerate(self._tables(root, 2)):
            model.subgraphs += 1
            self._subgraph(number, graph)
        graphs = root.places(2)
        for each in self._tables(root, 7):
            graph = self._data.table_at(_at(graphs, each.number(4, "I"), "subgraph"))
            found = self._arguments(each, 0, graph), self._arguments(each, 1, graph)
            model.signatures[_text(each.text(2))] = found
        return model

    def _tables(self, table: Table, field: int) -> Iterator[Table]:
        return map(self._data.table_at, table.places(field))

    # Tensors

    def _subgraph(self, number: int, graph: Table) -> None:
        weights = self._weight_inputs(graph)
        for index, tensor in enumerate(self._tables(graph, 0)):
            place = self._place(tensor.number(2, "I"))
            if place is None:
                continue
            if len(self._model.tensors) >= MAX_TENSORS:
                raise UnsafeFileError("tensors", expected=f"at most {MAX_TENSORS}", got="more")
            name = tensor.text(3)
            try:
                shape = tuple(map(int, tensor.numbers(0, "i")))
                quantization = _quantization(tensor.table(4))
            except CorruptFileError as error:
                text = name.decode("utf-8", "replace")
                raise error.within(f"tensor `{text}`") from None
            self._model.tensors.append(
                Listed(
                    number, index, name, tensor.number(1, "b"), shape, *place, quantization,
                    tensor.has(6), index in weights,
                )
            )  # fmt: skip

    def _place(self, number: int) -> tuple[int, int] | None:
        """Return offset and length of a buffer in the file, None if it is empty."""
        if number >= len(self._buffers):
            raise CorruptFileError(
                "number of a buffer", expected=f"below {len(self._buffers)}", got=number
            )
        buffer = self._data.table_at(self._buffers[number])
        start, length = buffer.number(1, "Q"), buffer.number(2, "Q")
        if start < _LEAST_OFFSET:
            start, length = buffer.span(0)
        if start + length > self._data.size:
            raise CorruptFileError(
                "runs past the end of the file", where=f"buffer {number}",
                expected=f"end by byte {self._data.size}", got=f"byte {start + length}",
                hint="the file is cut short; copy it again",
            )  # fmt: skip
        return (start, length) if length else None

    # Signatures

    def _arguments(self, signature: Table, field: int, graph: Table) -> Arguments:
        """Return the inputs, field 0, or the outputs, field 1, by name."""
        places = graph.places(0)
        found = {}
        for each in self._tables(signature, field):
            tensor = self._data.table_at(_at(places, each.number(1, "I"), "tensor"))
            # The second of the two lists says which dimensions may change.
            shape = tensor.numbers(7, "i") or tensor.numbers(0, "i")
            argument = Argument(tensor.text(3), tensor.number(1, "b"), tuple(map(int, shape)))
            found[_text(each.text(0))] = argument
        return found

    # What the operators say

    def _weight_inputs(self, graph: Table) -> set[int]:
        """Return the numbers of tensors that operators take as weights, directly or passed on."""
        found: set[int] = set()
        passed: dict[int, int] = {}
        for operator in self._tables(graph, 3):
            self._model.operators += 1
            code = self._codes_at(operator.number(0, "I"))
            slots = _WEIGHTS.get(code, ())
            if not slots and code not in _PASSING:
                continue
            inputs = [int(each) for each in operator.numbers(1, "i")]
            found.update(inputs[slot] for slot in slots if slot < len(inputs))
            outputs = operator.numbers(2, "i") if code in _PASSING and inputs else ()
            if outputs:
                passed[int(outputs[0])] = inputs[0]
        for start in list(found):
            at: int | None = start
            for _ in range(_MAX_PASSED):
                at = passed.get(at) if at is not None else None
                found.update(() if at is None else (at,))
        return found

    def _codes_at(self, number: int) -> int:
        if number >= len(self._codes):
            raise CorruptFileError(
                "number of an operator", expected=f"below {len(self._codes)}", got=number
            )
        return self._codes[number]


def _at(places: range, number: int, what: str) -> int:
    if number >= len(places):
        raise CorruptFileError(
            f"number of a {what}", where="signature", expected=f"below {len(places)}", got=number
        )
    return places[number]


def _code(entry: Table) -> int:
    # Until version 3a the number had one byte; the larger of the two counts.
    return max(entry.number(0, "b"), entry.number(3, "i"))


def _quantization(table: Table | None) -> Quantization | None:
    if table is None:
        return None
    known = table.number(4, "B") == _PLAIN
    scale = table.numbers(2, "f")
    points = tuple(map(int, table.numbers(3, "q")))
    if not scale and known:  # minimum and maximum alone, seen while training
        return None
    if known and len(points) not in (0, 1, len(scale)):
        raise CorruptFileError("zero points", expected=f"{len(scale)}", got=len(points))
    if len(points) < len(scale):
        points = (points or (0,)) * len(scale)
    return Quantization(scale, points, table.number(6, "i"), known)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
