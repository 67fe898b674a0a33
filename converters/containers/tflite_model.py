r"""The model inside a `.tflite` file: a flatbuffer, of which the tensors with values are listed.

    uint32   place of the root table        "TFL3" at byte 4
    Model    {version, operator_codes, subgraphs, description, buffers, …}
    SubGraph {tensors, inputs, outputs, operators, name}
    Tensor   {shape, type, buffer, name, quantization, is_variable, sparsity, …}
    Buffer   {data, offset, size}     bytes in the flatbuffer, or, in a model of more than 2 GB,
                                      behind it: offset from the start of the file

Specified by tensorflow/compiler/mlir/lite/schema/schema.fbs (v2.21.0). Tables are decoded by the
PyPI package `tflite`, which is generated from that schema. It checks nothing: what it is given
here refuses to hand out more than it has, whatever it raises becomes an error about the file, and
all that is taken from a file together is bounded.

The file is mapped into memory while it is listed and at no other time; only the tables are
touched, not the weights.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CorruptFileError, NotRecognisedError, UnsafeFileError, UsageError

__all__ = ["IDENTIFIER", "Listed", "Model", "Quantization", "read_model"]

IDENTIFIER = b"TFL3"  # schema.fbs, file_identifier
MAX_TENSORS = 1_000_000
MAX_NAME_BYTES = 1 << 20  # fused layers have all their names in one
# All numbers and names that are taken out of a file. Scales of a large model are 24 MB.
BUDGET_BYTES = 64 << 20
# Offsets 0 and 1 mean that the bytes are in the flatbuffer; schema.fbs, table Buffer.
_LEAST_OFFSET = 2

# Inputs that hold weights, by operator; tensorflow/lite/kernels/*.cc (v2.21.0).
_WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "CONV_3D": (1, 2), "TRANSPOSE_CONV": (1, 3),
    "CONV_3D_TRANSPOSE": (1, 3), "FULLY_CONNECTED": (1, 2), "BATCH_MATMUL": (0, 1),
    "EMBEDDING_LOOKUP": (1,), "GATHER": (0,), "PRELU": (1,), "SVDF": (1, 2, 3),
    "RNN": (1, 2, 3), "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2, 3),
    "LSTM": (*range(1, 18), *range(20, 24)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (*range(1, 18), *range(20, 24)),
    "BIDIRECTIONAL_SEQUENCE_LSTM": tuple(range(1, 35)),
    "BIDIRECTIONAL_SEQUENCE_RNN": (1, 2, 3, 5, 6, 7),
}  # fmt: skip
# Operators whose output 0 has the values of input 0.
_PASSING = ("DEQUANTIZE", "QUANTIZE", "CAST", "RESHAPE", "TRANSPOSE", "EXPAND_DIMS", "SQUEEZE")
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


@dataclass
class Model:
    """What a file holds."""

    version: int = 0
    description: str = ""
    subgraphs: int = 0
    operators: int = 0
    signatures: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    tensors: list[Listed] = field(default_factory=list)


def read_model(path: Path) -> Model:
    """Return what a `.tflite` file holds; reads no values.

    Raises:
        UsageError: the package `tflite` is not installed.
        NotRecognisedError: it cannot be opened.
        CorruptFileError: the tables contradict themselves or the length of the file.
    """
    package = _package(path)
    with _mapped(path) as data, _explained():
        root = package.Model.GetRootAs(data, 0)
        return _Reader(package, data, root).read()


def _package(path: Path) -> Any:
    try:
        import tflite
    except ImportError as error:
        raise UsageError(
            "reading TensorFlow Lite needs the package `tflite`",
            path=path,
            hint="install it: pip install 'tensorferry[tflite]'",
        ) from error
    return tflite


class _Bytes(mmap.mmap):
    """A mapped file that hands out no more than it has, and not without end."""

    spent = 0

    def charge(self, nbytes: int) -> None:
        """Count bytes that are taken out of the file.

        Raises:
            UnsafeFileError: they are more than any honest file has.
        """
        self.spent += nbytes
        if nbytes < 0 or self.spent > BUDGET_BYTES:
            raise UnsafeFileError(
                "names and numbers beside the weights",
                expected=f"at most {BUDGET_BYTES} bytes",
                got="more",
            )

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):  # flatbuffers takes texts so, and cuts those that are too long
            start, stop = key.start, key.stop
            if not 0 <= start <= stop <= len(self):
                raise CorruptFileError("a text runs past the end", where=f"byte {start}")
            if stop - start > MAX_NAME_BYTES:
                limit = f"at most {MAX_NAME_BYTES} bytes"
                raise UnsafeFileError("length of a text", expected=limit, got=stop - start)
            self.charge(stop - start)
        return super().__getitem__(key)


@contextmanager
def _mapped(path: Path) -> Iterator[_Bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            if size < 8:
                raise CorruptFileError("file too short", expected="at least 8 bytes", got=size)
            data = _Bytes(descriptor, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise NotRecognisedError(f"cannot be opened: {error.strerror}", path=path) from error
    try:
        yield data
    finally:
        # An error on its way out may still hold a view; the mapping then goes with it.
        with suppress(BufferError):
            data.close()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn whatever decoding nonsense raises into an error about the file."""
    try:
        yield
    except (struct.error, ValueError, IndexError, TypeError, OverflowError) as error:
        raise CorruptFileError(
            f"the flatbuffer leads outside of the file: {error}",
            hint="the file is cut short or damaged; copy it again",
        ) from error


class _Reader:
    def __init__(self, package: Any, data: _Bytes, root: Any) -> None:
        self._package = package
        self._data = data
        self._root = root
        self._model = Model()
        operators = package.BuiltinOperator
        self._weights = {
            getattr(operators, name): slots
            for name, slots in _WEIGHTS.items()
            if hasattr(operators, name)
        }
        self._passing = {getattr(operators, name) for name in _PASSING}
        self._codes: list[int] = []

    def read(self) -> Model:
        root, model = self._root, self._model
        model.version = root.Version()
        model.description = _text(root.Description())
        model.subgraphs = self._count(root.SubgraphsLength())
        self._codes = [self._code(root.OperatorCodes(i)) for i in self._each("OperatorCodes")]
        model.signatures = [
            _text(root.SignatureDefs(i).SignatureKey()) for i in self._each("SignatureDefs")
        ]
        model.metadata = [_text(root.Metadata(i).Name()) for i in self._each("Metadata")]
        for number in range(model.subgraphs):
            self._subgraph(number, root.Subgraphs(number))
        return model

    def _each(self, vector: str) -> range:
        return range(self._count(getattr(self._root, f"{vector}Length")()))

    def _count(self, length: int) -> int:
        """Return the number of tables in a vector, which has 4 bytes for each."""
        if length * 4 > len(self._data):
            raise CorruptFileError(
                "length of a vector", expected=f"at most {len(self._data) // 4}", got=length
            )
        self._data.charge(4 * length)
        return length

    def _numbers(self, length: int, array: Callable[[], Any]) -> list[Any]:
        """Return the numbers in a vector; `length` is looked at first."""
        if not length:
            return []
        self._data.charge(8 * length)
        return list(array().tolist())

    @staticmethod
    def _code(entry: Any) -> int:
        # Until version 3a the number had one byte; the larger of the two counts.
        return max(int(entry.DeprecatedBuiltinCode()), int(entry.BuiltinCode()))

    # Tensors

    def _subgraph(self, number: int, graph: Any) -> None:
        count = self._count(graph.TensorsLength())
        weights = self._weight_inputs(graph, count)
        for index in range(count):
            tensor = graph.Tensors(index)
            place = self._place(tensor.Buffer())
            if place is None:
                continue
            if len(self._model.tensors) >= MAX_TENSORS:
                raise UnsafeFileError("tensors", expected=f"at most {MAX_TENSORS}", got="more")
            name = tensor.Name() or b""
            try:
                shape = tuple(self._numbers(tensor.ShapeLength(), tensor.ShapeAsNumpy))
                quantization = self._quantization(tensor.Quantization())
            except CorruptFileError as error:
                text = name.decode("utf-8", "replace")
                raise error.within(f"tensor `{text}`") from None
            self._model.tensors.append(
                Listed(
                    number, index, name, tensor.Type(), shape, *place, quantization,
                    tensor.Sparsity() is not None, index in weights,
                )
            )  # fmt: skip

    def _place(self, number: int) -> tuple[int, int] | None:
        """Return offset and length of a buffer in the file, None if it is empty."""
        if number >= self._root.BuffersLength():
            raise CorruptFileError(
                "number of a buffer", expected=f"below {self._root.BuffersLength()}", got=number
            )
        buffer = self._root.Buffers(number)
        if buffer.Offset() >= _LEAST_OFFSET:
            start, length = buffer.Offset(), buffer.Size()
        else:
            length = buffer.DataLength()
            table = buffer._tab  # no method tells where the bytes are
            start = table.Vector(table.Offset(4)) if length else 0
        if start + length > len(self._data):
            raise CorruptFileError(
                "runs past the end of the file", where=f"buffer {number}",
                expected=f"end by byte {len(self._data)}", got=f"byte {start + length}",
                hint="the file is cut short; copy it again",
            )  # fmt: skip
        return (start, length) if length else None

    def _quantization(self, table: Any) -> Quantization | None:
        if table is None:
            return None
        known = table.DetailsType() == self._package.QuantizationDetails.NONE
        scale = self._numbers(table.ScaleLength(), table.ScaleAsNumpy)
        points = self._numbers(table.ZeroPointLength(), table.ZeroPointAsNumpy)
        if not scale and known:  # minimum and maximum alone, seen while training
            return None
        if known and len(points) not in (0, 1, len(scale)):
            raise CorruptFileError("zero points", expected=f"{len(scale)}", got=len(points))
        if len(points) < len(scale):
            points = (points or [0]) * len(scale)
        return Quantization(tuple(scale), tuple(points), table.QuantizedDimension(), known)

    # What the operators say

    def _weight_inputs(self, graph: Any, tensors: int) -> set[int]:
        """Return the numbers of tensors that operators take as weights, directly or passed on."""
        found: set[int] = set()
        passed: dict[int, int] = {}
        for number in range(self._count(graph.OperatorsLength())):
            operator = graph.Operators(number)
            self._model.operators += 1
            code = self._codes[operator.OpcodeIndex()]
            slots = self._weights.get(code, ())
            if not slots and code not in self._passing:
                continue
            inputs = self._numbers(operator.InputsLength(), operator.InputsAsNumpy)
            found.update(inputs[slot] for slot in slots if slot < len(inputs))
            if code in self._passing and inputs and operator.OutputsLength():
                passed[operator.Outputs(0)] = inputs[0]
        for start in list(found):
            at: int | None = start
            for _ in range(_MAX_PASSED):
                at = passed.get(at) if at is not None else None
                found.update(() if at is None else (at,))
        return {number for number in found if 0 <= number < tensors}


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")
