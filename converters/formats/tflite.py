"""TensorFlow Lite (LiteRT): a flatbuffer with the identifier `TFL3`. Read only.

    00 00 00 1c 'T' 'F' 'L' '3'    place of the root table, identifier
    tables, texts, and the bytes of all constant tensors

Listed by `containers/tflite_model.py`. Tensors with a non-empty buffer are read, as they are
stored; the others are activations. With `dequantize`, integers with a scale become float32:
(q - zero point) * scale, computed in float64 and rounded once, as the reference kernels do
(tensorflow/lite/kernels/internal/reference/dequantize.h, v2.21.0).

    string   int32 n, int32 offsets[n + 1], then the texts (tensorflow/lite/string_util.h)
    int4     two to a byte, the first in the low bits; one byte each here

Not read: sparse tensors, whose values are listed as broken; blockwise scales are not applied.

Producers and their quirks: names of fused layers are joined with `;` and batch normalisation is
folded into the weights, so this is no checkpoint of the model that was trained; dense kernels are
(out, in), convolutions (out, h, w, in), depthwise ones (1, h, w, out). Names need not be unique.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..containers.computed import ComputedTensor
from ..containers.graph_proto import Signature, TensorInfo
from ..containers.packed_integers import PACKED_BITS, UnpackedTensor, packed_bytes
from ..containers.tflite_model import (
    IDENTIFIER,
    Arguments,
    Listed,
    Model,
    Quantization,
    read_model,
)
from ..dtypes import DType
from ..errors import CorruptFileError
from ..names import decode
from ..notes import Kind, Note
from ..registry import Format, Location, ReadOptions
from ..sources import Extent, FileSource, Source
from ..tensors import (
    ElementTensor,
    Evidence,
    ExtentTensor,
    Origin,
    Role,
    Tensor,
    TensorDict,
    TensorSpec,
)

if TYPE_CHECKING:
    import numpy as np

    from ..findings import Finding

__all__ = ["FORMAT"]

# schema.fbs, enum TensorType.
DTYPES = {
    0: DType.FLOAT32, 1: DType.FLOAT16, 2: DType.INT32, 3: DType.UINT8, 4: DType.INT64,
    5: DType.STRING, 6: DType.BOOL, 7: DType.INT16, 8: DType.COMPLEX64, 9: DType.INT8,
    10: DType.FLOAT64, 11: DType.COMPLEX128, 12: DType.UINT64, 15: DType.UINT32,
    16: DType.UINT16, 17: DType.INT4, 18: DType.BFLOAT16, 19: DType.INT2, 20: DType.UINT4,
}  # fmt: skip
_FLOATS = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64)
_INTEGERS = (
    DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32, DType.INT64, DType.INT4,
    DType.UINT4, DType.INT2,
)  # fmt: skip


def _sniff(location: Location) -> bool:
    return location.head[4:8] == IDENTIFIER


def _open(location: Location, options: ReadOptions) -> TensorDict:
    source = FileSource(location.path)
    try:
        model = read_model(source)
        opened = _Opened(source, options.dequantize)
        for listed in model.tensors:
            opened.add(listed)
    except BaseException as error:
        source.close()
        if isinstance(error, CorruptFileError) and error.path is None:
            error.path = str(location.path)
            error.args = (error.message,)
        raise
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} model" + (", quantised" if opened.quantized else ""),
        tensors=opened.tensors,
        origins=opened.origins,
        notes=tuple(opened.notes()),
        broken=opened.broken,
        details=dict(_details(model, opened.quantized)),
        sources=(source,),
    )


class _Opened:
    """The tensors of a file as they are gathered."""

    def __init__(self, source: Source, dequantize: bool) -> None:
        self._source = source
        self._dequantize = dequantize
        self._computed = 0
        self._unknown_rules = 0
        self.tensors: dict[str, Tensor] = {}
        self.origins: dict[str, Origin] = {}
        self.broken: dict[str, CorruptFileError] = {}
        self.quantized: dict[str, Quantization] = {}

    def add(self, listed: Listed) -> None:
        name = self._unique(listed)
        try:
            tensor = self._tensor(name, listed)
        except CorruptFileError as error:
            raise error.within(f"tensor `{name}`") from None
        self.tensors[name] = tensor
        real = tensor.spec.dtype in _FLOATS or listed.quantization is not None
        role = Role.WEIGHT if listed.weight and real else Role.CONSTANT
        if tensor.spec.dtype is DType.STRING:
            role = Role.TEXT
        evidence = Evidence.GRAPH if role is Role.WEIGHT else Evidence.NONE
        self.origins[name] = Origin(name, role, evidence=evidence)
        if listed.quantization:
            self.quantized[name] = listed.quantization

    def _unique(self, listed: Listed) -> str:
        """Return the tensor's name; where it is taken, with its place behind it."""
        name = decode(listed.name)
        place = f"{listed.subgraph}.{listed.number}" if listed.subgraph else f"{listed.number}"
        while not name or name in self.tensors:
            name += f"#{place}"
        return name

    def _tensor(self, name: str, listed: Listed) -> Tensor:
        dtype = DTYPES.get(listed.type)
        if dtype is None or listed.sparse:
            what = "is sparse" if listed.sparse else f"has the type {listed.type}"
            self.broken[name] = CorruptFileError(
                f"{what}, which is not read", path=self._source.path, where=f"tensor `{name}`"
            )
            raw = TensorSpec(DType.UINT8, (listed.length,))
            return ExtentTensor(raw, (self._extent(listed),))
        spec = TensorSpec(dtype, listed.shape)
        if min(spec.shape, default=0) < 0 or not spec.addressable:
            raise CorruptFileError("shape", expected="known, below 2^63 bytes", got=spec.shape)
        stored = self._stored(spec, listed)
        if self._dequantize and listed.quantization and dtype in _INTEGERS:
            return self._real(stored, listed.quantization)
        return stored

    def _stored(self, spec: TensorSpec, listed: Listed) -> Tensor:
        extent = self._extent(listed)
        if spec.dtype.variable:
            return ElementTensor(spec, partial(_strings, extent, spec.size), listed.length)
        packed = spec.dtype in PACKED_BITS
        nbytes = packed_bytes(spec) if packed else spec.nbytes
        if nbytes != listed.length:
            raise CorruptFileError(
                f"buffer of {spec.dtype} {spec.shape}",
                expected=f"{nbytes} bytes", got=f"{listed.length} bytes",
            )  # fmt: skip
        if packed:
            raw = ExtentTensor(TensorSpec(DType.UINT8, (nbytes,)), (extent,))
            return UnpackedTensor(spec, raw)
        return ExtentTensor(spec, (extent,))

    def _extent(self, listed: Listed) -> Extent:
        return Extent(self._source, listed.offset, listed.length)

    def _real(self, stored: Tensor, rule: Quantization) -> Tensor:
        """Return the real values, the stored ones where the rule is not known."""
        if not rule.known:
            self._unknown_rules += 1
            return stored
        shape, count = stored.spec.shape, len(rule.scale)
        inner = 1
        if count > 1:
            if rule.axis not in range(len(shape)) or shape[rule.axis] != count:
                raise CorruptFileError(
                    "number of scales", expected=f"length of axis {rule.axis} of {shape}", got=count
                )
            for length in shape[rule.axis + 1 :]:
                inner *= length
        self._computed += 1
        spec = TensorSpec(DType.FLOAT32, shape)
        return ComputedTensor(spec, stored, partial(_dequantized, rule, inner))

    def notes(self) -> Iterator[Note]:
        """Yield what is worth knowing about how they were read."""
        if self._computed:
            text = f"the real values of {self._computed} quantised tensors are computed, as float32"
            yield Note(Kind.SOURCE, text)
        elif self.quantized and not self._dequantize:
            text = (
                f"{len(self.quantized)} tensors are quantised and read as they are stored; "
                "--dequantize computes their real values"
            )
            yield Note(Kind.SOURCE, text)
        if self._unknown_rules:
            text = f"{self._unknown_rules} tensors have scales of another kind and stay as stored"
            yield Note(Kind.SOURCE, text)


def _dequantized(rule: Quantization, inner: int, values: np.ndarray, first: int) -> np.ndarray:
    """Return (q - zero point) * scale of elements from number `first` on.

    Args:
        rule: the scales along an axis.
        inner: elements that follow one another and share a scale.
        values: the stored ones.
        first: number of the first of them in the tensor.
    """
    import numpy as np

    scale = np.array(rule.scale, np.float64)
    points = np.array(rule.zero_point, np.float64)
    if len(scale) > 1:
        index = np.arange(first, first + len(values)) // inner % len(scale)
        scale, points = scale[index], points[index]
    with np.errstate(over="ignore", invalid="ignore"):
        real: np.ndarray = ((values.astype(np.float64) - points) * scale).astype(np.float32)
    return real


def _strings(extent: Extent, count: int) -> list[bytes]:
    """Return the elements of a string tensor."""
    from struct import unpack_from

    data = extent.source.read(extent.offset, extent.length)
    head = 4 * (count + 2)
    if len(data) < head:
        raise _bad_strings(extent, f"at least {head} bytes", len(data))
    (stored, *offsets) = unpack_from(f"<{count + 2}i", data)
    ends = [head, *offsets]
    if stored != count or offsets[-1] > len(data) or any(a > b for a, b in pairwise(ends)):
        raise _bad_strings(extent, f"{count} of them, one after the other", stored)
    return [data[start:end] for start, end in pairwise(offsets)]


def _bad_strings(extent: Extent, expected: str, got: object) -> CorruptFileError:
    where = f"texts at byte {extent.offset}"
    return CorruptFileError(
        "table of texts", path=extent.source.path, where=where, expected=expected, got=got
    )


def _details(model: Model, quantized: dict[str, Quantization]) -> Iterator[tuple[str, Any]]:
    yield "schema_version", model.version
    if model.description:
        yield "producer", model.description
    yield "subgraphs", model.subgraphs
    yield "operators", model.operators
    if model.custom:
        yield "custom_operators", model.custom
    if model.signatures:
        yield "signatures", {name: _signature(*each) for name, each in model.signatures.items()}
    if model.metadata:
        yield "metadata", model.metadata
    if quantized:
        yield (
            "quantization",
            {
                name: {"scale": each.scale, "zero_point": each.zero_point, "axis": each.axis}
                for name, each in quantized.items()
            },
        )


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.risky_ops import custom_operators

    del options
    custom: Any = tensors.details.get("custom_operators", ())
    yield from custom_operators(custom, str(location.path))


def _signature(inputs: Arguments, outputs: Arguments) -> dict[str, object]:
    return Signature(_infos(inputs), _infos(outputs)).json()


def _infos(arguments: Arguments) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(decode(each.tensor), _label(each.type), each.shape)
        for name, each in arguments.items()
    }


def _label(number: int) -> str:
    dtype = DTYPES.get(number)
    return f"type {number}" if dtype is None else dtype.label


FORMAT = Format(
    name="tflite",
    title="TensorFlow Lite",
    extensions=(".tflite",),
    sniff=_sniff,
    open=_open,
    scan=_scan,
)
