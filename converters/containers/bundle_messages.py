"""The messages of a tensor bundle's index: header, entry, shape, slice; and slice keys.

Field numbers from tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/framework/
{tensor_shape,tensor_slice,types}.proto (v2.21.0). Default values are absent on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError
from ..tensors import TensorSpec
from .wire import BYTES, FIXED32, VARINT, fields, message, signed

__all__ = [
    "DTYPES",
    "TYPE_NUMBERS",
    "Entry",
    "Header",
    "Range",
    "build_entry",
    "build_header",
    "check_spec",
    "is_v1_header",
    "parse_entry",
    "parse_header",
    "parse_shape",
    "parse_slice",
    "slice_key",
]

# types.proto, enum DataType; 20 (resource) is never stored and references are those + 100.
DTYPES: dict[int, DType] = {
    1: DType.FLOAT32,
    2: DType.FLOAT64,
    3: DType.INT32,
    4: DType.UINT8,
    5: DType.INT16,
    6: DType.INT8,
    7: DType.STRING,
    8: DType.COMPLEX64,
    9: DType.INT64,
    10: DType.BOOL,
    11: DType.QINT8,
    12: DType.QUINT8,
    13: DType.QINT32,
    14: DType.BFLOAT16,
    15: DType.QINT16,
    16: DType.QUINT16,
    17: DType.UINT16,
    18: DType.COMPLEX128,
    19: DType.FLOAT16,
    21: DType.VARIANT,
    22: DType.UINT32,
    23: DType.UINT64,
    24: DType.FLOAT8_E5M2,
    25: DType.FLOAT8_E4M3FN,
    26: DType.FLOAT8_E4M3FNUZ,
    27: DType.FLOAT8_E4M3B11FNUZ,
    28: DType.FLOAT8_E5M2FNUZ,
    29: DType.INT4,
    30: DType.UINT4,
    31: DType.INT2,
    32: DType.UINT2,
    33: DType.FLOAT4_E2M1FN,
}
TYPE_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
MAX_DIMENSIONS = 254  # tensor_shape.h, TensorShapeRep::MaxDimensions

# Bounds of one dimension of a slice: first element and number of elements; None is all of it.
Range = tuple[int, int | None]


class Header(NamedTuple):
    """What the entry under the empty key says."""

    shards: int
    big_endian: bool
    producer: int


class Entry(NamedTuple):
    """Where a tensor lies: offset and size in bytes in shard `shard`; `crc` is masked.

    `dtype` is the number in the file. A partitioned tensor has `slices` and lies nowhere itself.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[tuple[Range, ...], ...] = ()


def is_v1_header(data: bytes) -> bool:
    """Tell a V1 checkpoint's first value (field 1 is a message) from a bundle header."""
    return data[:1] == bytes([1 << 3 | BYTES])


def parse_header(data: bytes) -> Header:
    """Decode a BundleHeaderProto.

    Raises:
        CorruptFileError: no shards, or made for readers newer than this format.
    """
    shards = endianness = producer = min_consumer = 0
    for number, kind, value in fields(data):
        if number == 1 and isinstance(value, int) and kind == VARINT:
            shards = signed(value)
        elif number == 2 and isinstance(value, int):
            endianness = value
        elif number == 3 and isinstance(value, bytes):
            versions = {n: v for n, _, v in fields(value) if isinstance(v, int)}
            producer, min_consumer = versions.get(1, 0), versions.get(2, 0)
    if not 1 <= shards < 100_000:  # five digits in a shard's name
        raise CorruptFileError("number of shards", expected="1 to 99999", got=shards)
    if endianness not in (0, 1):
        raise CorruptFileError("endianness", expected="0 or 1", got=endianness)
    if min_consumer > 1:
        raise CorruptFileError("needs a newer reader", expected="version 1", got=min_consumer)
    return Header(shards, endianness == 1, producer)


def build_header(shards: int) -> bytes:
    """Encode a BundleHeaderProto as TensorFlow does: little endian, producer 1."""
    return message((1, shards), (3, message((1, 1))))


def parse_entry(data: bytes) -> Entry:
    """Decode a BundleEntryProto; fields that are not known are passed over.

    Raises:
        CorruptFileError: the bytes are no such message.
    """
    try:
        return _parse_usual_entry(data) or _parse_any_entry(data)
    except IndexError:
        return _parse_any_entry(data)


def _parse_usual_entry(data: bytes) -> Entry | None:
    """Decode an entry as TensorFlow writes it: dtype, shape, some numbers, checksum; else None.

    An index may hold 100,000 of them, and the general decoder takes four times as long.
    """
    if data[0] != 0x08 or data[2] != 0x12 or (data[1] | data[3]) > 0x7F or data[-5] != 0x35:
        return None
    at, end = 4 + data[3], len(data) - 5
    shape = parse_shape(data[4:at])
    numbers = {0x18: 0, 0x20: 0, 0x28: 0}  # shard_id, offset, size by tag
    while at < end:
        tag, byte = data[at], data[at + 1]
        at += 2
        value, shift = byte & 0x7F, 7
        while byte > 0x7F:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
        if tag not in numbers or value >> 63:
            return None
        numbers[tag] = value
    if at != end:
        return None
    shard, offset, size = numbers.values()
    return Entry(data[1], shape, shard, offset, size, int.from_bytes(data[-4:], "little"))


def _parse_any_entry(data: bytes) -> Entry:
    numbers = dict.fromkeys(range(1, 7), 0)
    shape: tuple[int, ...] = ()
    slices: list[tuple[Range, ...]] = []
    for number, kind, value in fields(data):
        if isinstance(value, bytes):
            if number == 2:
                shape = parse_shape(value)
            elif number == 7:
                slices.append(parse_slice(value))
        elif kind == (FIXED32 if number == 6 else VARINT):
            numbers[number] = signed(value)
    return Entry(numbers[1], shape, numbers[3], numbers[4], numbers[5], numbers[6], tuple(slices))


@lru_cache(maxsize=4096)
def parse_shape(data: bytes) -> tuple[int, ...]:
    """Decode a TensorShapeProto; a model has many tensors and few shapes."""
    shape = []
    for number, _, value in fields(data):
        if number == 2 and isinstance(value, bytes):
            sizes = [v for n, _, v in fields(value) if n == 1 and isinstance(v, int)]
            shape.append(signed(sizes[-1]) if sizes else 0)
        elif number == 3 and value:
            raise CorruptFileError("shape of unknown rank")
    return tuple(shape)


def parse_slice(data: bytes) -> tuple[Range, ...]:
    """Decode a TensorSliceProto: per dimension an Extent, whose length may be absent."""
    ranges: list[Range] = []
    for number, _, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            found = {n: signed(v) for n, _, v in fields(value) if isinstance(v, int)}
            ranges.append((found.get(1, 0), found.get(2)))
    return tuple(ranges)


@lru_cache(maxsize=4096)
def check_spec(number: int, shape: tuple[int, ...]) -> TensorSpec:
    """Return dtype and shape of an entry, or refuse what TensorFlow itself aborts on.

    A model has many tensors and few specs.

    Args:
        number: the dtype's number.
        shape: the dimensions, in elements.

    Raises:
        CorruptFileError: unknown dtype, negative or too many dimensions, more than 2^63 bytes.
    """
    dtype = DTYPES.get(number)
    if dtype is None:
        raise CorruptFileError("dtype number", expected="one that is stored", got=number)
    if len(shape) > MAX_DIMENSIONS or any(dim < 0 for dim in shape):
        raise CorruptFileError(
            "shape", expected=f"at most {MAX_DIMENSIONS} dimensions of 0 or more", got=shape
        )
    spec = TensorSpec(dtype, shape)
    if not spec.addressable:
        raise CorruptFileError("shape", expected="less than 2^63 bytes", got=shape)
    return spec


def build_entry(
    dtype: DType, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: int
) -> bytes:
    """Encode a BundleEntryProto; `crc` is masked, and written even where it is 0.

    So the length does not depend on the checksum, and the size of an index is known before.
    """
    dims = b"".join(message((2, message((1, dim or None)))) for dim in shape)
    head = message(
        (1, TYPE_NUMBERS[dtype]), (2, dims), (3, shard or None), (4, offset or None),
        (5, size or None),
    )  # fmt: skip
    return head + b"\x35" + crc.to_bytes(4, "little")


def slice_key(name: bytes, ranges: Iterable[Range]) -> bytes:
    """Return the key under which a slice of tensor `name` has its own entry.

    Source: tensorflow/core/util/saved_tensor_slice_util.cc, EncodeTensorNameSlice, over
    tensorflow/core/lib/strings/ordered_code.cc.
    """
    ranges = tuple(ranges)
    key = _ordered_number(0) + _ordered_string(name) + _ordered_number(len(ranges))
    for start, length in ranges:
        key += _ordered_signed(start) + _ordered_signed(-1 if length is None else length)
    return key


def _ordered_number(value: int) -> bytes:
    body = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(body)]) + body


def _ordered_string(text: bytes) -> bytes:
    escaped = b"".join(_ESCAPES.get(byte) or bytes([byte]) for byte in text)
    return escaped + b"\0\1"


_ESCAPES = {0x00: b"\0\xff", 0xFF: b"\xff\0"}


def _ordered_signed(value: int) -> bytes:
    """Encode so that bytes sort as numbers do: n bytes hold 7n - 1 bits, the sign leads."""
    size = 1
    while not -(1 << (7 * size - 1)) <= value < 1 << (7 * size - 1):
        size += 1
    head = ((1 << size) - 1) << (7 * size) if size <= 8 else _LONG_HEADS[size]
    return ((value & (1 << 8 * size) - 1) ^ head).to_bytes(size, "big")


# Nine and ten leading bits spill into the second byte.
_LONG_HEADS = {9: 0xFF80 << 56, 10: 0xFFC0 << 64}
