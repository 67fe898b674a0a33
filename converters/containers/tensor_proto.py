"""TensorProto: the values of Const nodes and of V1 checkpoints, as lazy tensors.

Values stand in `tensor_content` (raw, little endian) or, where that is empty, in the field of
their type. There, fewer values than elements mean that the last one repeats, and none mean zeros.
One byte per element for int4, float8 and their like. Field numbers and rules from
tensorflow/core/framework/tensor.proto and tensor.cc, Tensor::FromProto (v2.21.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Extent, Source
from ..tensors import (
    CHUNK_BYTES,
    ChunkTensor,
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
)
from .bundle_messages import check_spec, parse_shape
from .messages import Body
from .tensor_bundle import LOW_BITS
from .wire import read_varint

__all__ = ["parse_tensor", "parse_values", "stored_bytes"]

_DTYPE, _SHAPE, _VERSION, _CONTENT, _INT_VAL, _STRING_VAL, _VARIANT_VAL = 1, 2, 3, 4, 7, 8, 15
# A message holds less than 2 GiB, so TensorFlow cannot have meant more by repeating a value.
REPEATED_BYTES = 1 << 31
# Below this, decoding varints in Python is faster than importing numpy.
NUMPY_BYTES = 1 << 16


class _Field(NamedTuple):
    """Where values of a type stand: the field, and the bytes of a fixed-width one, or 0."""

    number: int
    width: int


_INTEGERS = (
    DType.INT32, DType.INT16, DType.INT8, DType.UINT16, DType.UINT8, DType.QINT8, DType.QUINT8,
    DType.QINT16, DType.QUINT16, DType.QINT32, DType.INT4, DType.UINT4, DType.INT2, DType.UINT2,
)  # fmt: skip
_BYTE_FLOATS = (
    DType.FLOAT8_E5M2, DType.FLOAT8_E4M3FN, DType.FLOAT8_E4M3FNUZ, DType.FLOAT8_E4M3B11FNUZ,
    DType.FLOAT8_E5M2FNUZ, DType.FLOAT4_E2M1FN,
)  # fmt: skip
_FIELDS = {
    DType.FLOAT32: _Field(5, 4),
    DType.FLOAT64: _Field(6, 8),
    DType.COMPLEX64: _Field(9, 4),
    DType.INT64: _Field(10, 0),
    DType.BOOL: _Field(11, 0),
    DType.COMPLEX128: _Field(12, 8),
    DType.FLOAT16: _Field(13, 0),
    DType.BFLOAT16: _Field(13, 0),
    DType.UINT32: _Field(16, 0),
    DType.UINT64: _Field(17, 0),
    **dict.fromkeys(_INTEGERS, _Field(_INT_VAL, 0)),
    **dict.fromkeys(_BYTE_FLOATS, _Field(18, 1)),
}

Values = list[int | Body]


def parse_tensor(body: Body) -> Tensor:
    """Return the tensor of a whole TensorProto, as a Const node holds it.

    Raises:
        CorruptFileError: unknown dtype, impossible shape, or content of another length.
    """
    values = _gather(body)
    [number] = [each for each in values.get(_DTYPE, [0]) if isinstance(each, int)][-1:] or [0]
    shapes = [each.load() for each in values.get(_SHAPE, []) if isinstance(each, Body)]
    spec = check_spec(number, parse_shape(shapes[-1]) if shapes else ())
    content = [each for each in values.get(_CONTENT, []) if isinstance(each, Body) and each.length]
    if spec.dtype.variable:
        return _elements(spec, values, content)
    if content:
        return _raw(spec, content[-1])
    return _typed(spec, values)


def parse_values(body: Body, spec: TensorSpec) -> Tensor:
    """Return the tensor of a TensorProto that holds nothing but values, one per element.

    Raises:
        CorruptFileError: more or fewer values; for packed varints perhaps only when they are read.
    """
    values = _gather(body)
    if not spec.dtype.variable:
        return _typed(spec, values, exact=body.source)
    number = _VARIANT_VAL if spec.dtype is DType.VARIANT else _STRING_VAL
    if len(values.get(number, [])) != spec.size:
        raise CorruptFileError(
            f"values of {spec.dtype} {spec.shape}",
            expected=f"{spec.size} elements",
            got=f"{len(values.get(number, []))} elements",
        )
    return _elements(spec, values, [])


def stored_bytes(body: Body) -> int:
    """Return about how many bytes of values a TensorProto stores, 0 only where it stores none."""
    return sum(
        1 if isinstance(value, int) else value.length + (number == _STRING_VAL)
        for number, value in body.fields()
        if number not in (_DTYPE, _SHAPE, _VERSION)
    )


def _gather(body: Body) -> dict[int, Values]:
    gathered: dict[int, Values] = {}
    for number, value in body.fields():
        gathered.setdefault(number, []).append(value)
    return gathered


def _raw(spec: TensorSpec, content: Body) -> Tensor:
    if content.length != spec.nbytes:
        raise _wrong_length(spec, content.length)
    return _masked(spec, _extent(spec, content))


def _typed(spec: TensorSpec, values: dict[int, Values], exact: Source | None = None) -> Tensor:
    """Return the tensor of a typed field; `exact` is the file, if no value may be missing."""
    field = _FIELDS.get(spec.dtype)
    if field is None:
        raise CorruptFileError(f"no field of a TensorProto holds {spec.dtype}")
    found = values.get(field.number, [])
    only = found[0] if field.width and len(found) == 1 else None
    if isinstance(only, Body) and only.length == spec.nbytes:
        return _masked(spec, _extent(spec, only))
    load = partial(_load, spec, field, found)
    if exact:
        _check_amount(spec, field, found)
        return MemoryTensor(spec, partial(_exactly, spec, load, exact))
    return _Repeated(spec, load)


def _check_amount(spec: TensorSpec, field: _Field, values: Values) -> None:
    """Refuse a shape that the stored bytes cannot fill, before anything is allocated for it."""
    stored = sum(value.length if isinstance(value, Body) else field.width or 1 for value in values)
    if (stored != spec.nbytes) if field.width else (stored < spec.size):
        raise _wrong_length(spec, stored)


def _extent(spec: TensorSpec, body: Body) -> Tensor:
    return ExtentTensor(spec, (Extent(body.source, body.start, body.length),))


def _masked(spec: TensorSpec, tensor: Tensor) -> Tensor:
    if spec.dtype not in LOW_BITS:
        return tensor
    return ChunkTensor(spec, tensor, partial(_translate, LOW_BITS[spec.dtype]))


def _translate(table: bytes, chunk: memoryview) -> bytes:
    return bytes(chunk).translate(table)


def _load(spec: TensorSpec, field: _Field, values: Values) -> bytes:
    """Return the bytes of the values there are, packed or not."""
    parts = []
    for value in values:
        if field.width:
            part = (
                value.load() if isinstance(value, Body) else value.to_bytes(field.width, "little")
            )
        elif isinstance(value, Body):
            part = _unpack(value.load(), spec.dtype.itemsize)
        else:
            part = _low_bytes([value], spec.dtype.itemsize)
        parts.append(part)
    data = b"".join(parts)
    if spec.dtype in LOW_BITS:
        data = data.translate(LOW_BITS[spec.dtype])
    if len(data) % spec.dtype.itemsize:
        raise _wrong_length(spec, len(data))
    return data


def _exactly(spec: TensorSpec, load: Callable[[], bytes], source: Source) -> bytes:
    try:
        data = load()
        if len(data) == spec.nbytes:
            return data
    except CorruptFileError as error:
        error.path = error.path or str(source.path)
        raise
    raise _wrong_length(spec, len(data), source.path)


def _unpack(data: bytes, itemsize: int) -> bytes:
    """Decode packed varints; each keeps its low `itemsize` bytes."""
    if len(data) >= NUMPY_BYTES:
        return _unpack_many(data, itemsize)
    numbers, at = [], 0
    while at < len(data):
        number, at = read_varint(data, at)
        numbers.append(number)
    return _low_bytes(numbers, itemsize)


def _unpack_many(data: bytes, itemsize: int) -> bytes:
    """Do the same for many: every varint's k-th byte at once."""
    import numpy as np

    stored = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(stored < 0x80)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if not len(ends) or ends[-1] != len(stored) - 1 or lengths.max() > 10:
        raise CorruptFileError("varint does not end", where="packed values")
    numbers = np.zeros(len(ends), np.uint64)
    for k in range(int(lengths.max())):
        longer = lengths > k
        part = (stored[starts[longer] + k] & 0x7F).astype(np.uint64)
        numbers[longer] |= part << np.uint64(7 * k)
    return numbers.astype(f"<u{itemsize}").tobytes()


def _low_bytes(numbers: list[int], itemsize: int) -> bytes:
    low = (1 << 8 * itemsize) - 1
    return b"".join((number & low).to_bytes(itemsize, "little") for number in numbers)


class _Repeated(Tensor):
    """Some values, the last of which stands for all that follow; zeros where there is none."""

    __slots__ = ("_load_values",)

    def __init__(self, spec: TensorSpec, load: Callable[[], bytes]) -> None:
        if spec.nbytes > REPEATED_BYTES:
            raise UnsafeFileError(
                "claims more than a message can hold",
                expected=f"at most {REPEATED_BYTES} bytes",
                got=f"{spec.nbytes} bytes",
            )
        self.spec = spec
        self._load_values = load

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the values, then the last one as often as is missing."""
        itemsize = self.spec.dtype.itemsize
        step = max(max_bytes // itemsize, 1) * itemsize
        values = self._load_values()[: self.spec.nbytes]
        for at in range(0, len(values), step):
            yield memoryview(values)[at : at + step]
        missing = self.spec.nbytes - len(values)
        last = values[-itemsize:] or bytes(itemsize)
        filler = memoryview(last * (min(step, missing) // itemsize))
        for at in range(0, missing, step):
            yield filler[: min(step, missing - at)]


# Strings and variants


def _elements(spec: TensorSpec, values: dict[int, Values], content: list[Body]) -> Tensor:
    if content:
        load = partial(_split, content[-1], spec.size)
        return ElementTensor(spec, load, content[-1].length)
    number = _VARIANT_VAL if spec.dtype is DType.VARIANT else _STRING_VAL
    bodies = [each for each in values.get(number, []) if isinstance(each, Body)][: spec.size]
    return ElementTensor(
        spec, partial(_element_values, bodies, spec.size), sum(each.length for each in bodies)
    )


def _element_values(bodies: list[Body], size: int) -> list[bytes]:
    elements = [body.load() for body in bodies]
    last = elements[-1] if elements else b""
    if (size - len(elements)) * (len(last) + 8) > REPEATED_BYTES:
        raise UnsafeFileError("claims more strings than a message can hold", got=size)
    return elements + [last] * (size - len(elements))


def _split(content: Body, size: int) -> list[bytes]:
    """Split the content of a string tensor: all lengths as varints, then all bytes."""
    data = content.load()
    if size > len(data):
        raise CorruptFileError("elements", expected=f"at most {len(data)}", got=size)
    lengths, at = [], 0
    for _ in range(size):
        length, at = read_varint(data, at)
        lengths.append(length)
    if at + sum(lengths) != len(data):
        raise CorruptFileError("length of strings", expected=at + sum(lengths), got=len(data))
    elements = []
    for length in lengths:
        elements.append(data[at : at + length])
        at += length
    return elements


def _wrong_length(spec: TensorSpec, got: int, path: Path | None = None) -> CorruptFileError:
    return CorruptFileError(
        f"values of {spec.dtype} {spec.shape}",
        path=path,
        expected=f"{spec.nbytes} bytes",
        got=f"{got} bytes",
    )
