"""The header of a safetensors file: what is in it and where, checked when read.

Specified by the README of huggingface/safetensors (v0.8.0) and `validate` in its `tensor.rs`.
The layout is drawn in `formats/safetensors.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from ..dtypes import DType
from ..errors import CorruptFileError
from ..sources import Extent, Source
from ..tensors import ExtentTensor, Tensor, TensorSpec

__all__ = [
    "CODES", "MAX_HEADER_BYTES", "METADATA", "Row", "build_header", "carrier_of", "data_bytes",
    "looks_like_file", "read_header", "row",
]  # fmt: skip

METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000  # tensor.rs, MAX_HEADER_SIZE

# Code by type, in the order in which the library lays tensors out: tensor.rs, enum Dtype,
# backwards.
CODES = {
    DType.UINT64: "U64",
    DType.INT64: "I64",
    DType.FLOAT64: "F64",
    DType.COMPLEX64: "C64",
    DType.FLOAT32: "F32",
    DType.UINT32: "U32",
    DType.INT32: "I32",
    DType.BFLOAT16: "BF16",
    DType.FLOAT16: "F16",
    DType.UINT16: "U16",
    DType.INT16: "I16",
    DType.FLOAT8_E5M2FNUZ: "F8_E5M2FNUZ",
    DType.FLOAT8_E4M3FNUZ: "F8_E4M3FNUZ",
    DType.FLOAT8_E8M0FNU: "F8_E8M0",
    DType.FLOAT8_E4M3FN: "F8_E4M3",
    DType.FLOAT8_E5M2: "F8_E5M2",
    DType.INT8: "I8",
    DType.UINT8: "U8",
    DType.BOOL: "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}
RANKS = {dtype: rank for rank, dtype in enumerate(CODES)}
RANKED = tuple(CODES.values())


# Reading


def looks_like_file(head: bytes) -> bool:
    """Tell whether the first bytes of a file may be length and header."""
    if len(head) < 10:
        return False
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= MAX_HEADER_BYTES and head[8:].lstrip(b" \t\r\n").startswith(b"{")


def data_bytes(source: Source) -> int:
    """Return the bytes behind the header of a file that was opened."""
    return source.size - 8 - int.from_bytes(source.read(0, 8), "little")


def read_header(source: Source) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, in the order of the header, and its metadata.

    Raises:
        CorruptFileError: it is no such file, or the tensors do not tile the data.
    """
    try:
        header, start = _parse(source)
        metadata = _metadata(header.pop(METADATA, None))
        return dict(_tensors(header, source, start)), metadata
    except CorruptFileError as error:
        if error.path is None:
            error.path = str(source.path)
        raise error.within("header") from None


def _parse(source: Source) -> tuple[dict[str, Any], int]:
    """Return the header's object and the byte offset at which the data starts."""
    if source.size < 8:
        raise CorruptFileError("file too short", expected="at least 8 bytes", got=source.size)
    length = int.from_bytes(source.read(0, 8), "little")
    if length > min(MAX_HEADER_BYTES, source.size - 8):
        limit = min(MAX_HEADER_BYTES, source.size - 8)
        raise CorruptFileError("length", expected=f"at most {limit} bytes", got=f"{length} bytes")
    text = source.read(8, length)
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_no_repeats, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"no JSON that is allowed here: {error}") from error
    if not isinstance(header, dict):
        raise CorruptFileError("JSON", expected="an object", got=type(header).__name__)
    return header, 8 + length


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number here")


def _metadata(value: object) -> dict[str, str]:
    if value is None:  # absent, or null as MLX writes it
        return {}
    if not isinstance(value, dict) or any(not isinstance(each, str) for each in value.values()):
        raise CorruptFileError("of text to text", where=METADATA, expected="an object")
    try:
        "".join((*value, *value.values())).encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorruptFileError("half a surrogate pair", where=METADATA) from error
    return value


def _tensors(header: dict[str, Any], source: Source, start: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in the order of the header; checks that they tile the data."""
    places = []
    for name, value in header.items():
        try:
            spec, begin, end = _entry(name, value)
        except CorruptFileError as error:
            raise error.within(f"tensor `{name}`") from None
        places.append((begin, end, name))
        yield name, ExtentTensor(spec, (Extent(source, start + begin, end - begin),))
    _check_tiles(places, source.size - start)


def _entry(name: str, value: object) -> tuple[TensorSpec, int, int]:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorruptFileError("name is no Unicode text") from error
    if not isinstance(value, dict):
        raise CorruptFileError("entry", expected="an object", got=type(value).__name__)
    code, shape, offsets = (value.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or code not in DTYPES:
        raise CorruptFileError(
            "dtype", expected=f"one of {', '.join(DTYPES)}", got=repr(code),
            hint="packed 4- and 6-bit types are not read",
        )  # fmt: skip
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise CorruptFileError(
            "shape and data_offsets", expected="lists of numbers", got=f"{shape}, {offsets}"
        )
    spec, (begin, end) = TensorSpec(DTYPES[code], tuple(shape)), offsets
    if not spec.addressable:
        raise CorruptFileError("shape", expected="less than 2^63 bytes", got=shape)
    if end - begin != spec.nbytes:
        raise CorruptFileError(
            f"length of {spec.dtype} {spec.shape}",
            expected=f"{spec.nbytes} bytes",
            got=f"{end - begin} bytes",
        )
    return spec, begin, end


def _naturals(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)


def _check_tiles(places: Iterable[tuple[int, int, str]], length: int) -> None:
    """Check that the tensors cover the data exactly: nothing hides, nothing is shared."""
    at = 0
    for begin, end, name in sorted(places):
        if begin != at:
            raise CorruptFileError(
                "data leaves a gap or overlaps",
                where=f"tensor `{name}`",
                expected=f"begin at byte {at}",
                got=f"byte {begin}",
            )
        at = end
    if at != length:
        raise CorruptFileError(
            "data length", expected=f"{at} bytes", got=f"{length} bytes",
            hint="the file is cut short, or something was added to it; copy it again",
        )  # fmt: skip


# Writing


class Row(NamedTuple):
    """A tensor to write; rows sort as the library lays tensors out.

    Attributes:
        rank: place of the stored type in that order.
        stored: the name in the file.
        nbytes: length in bytes.
        name: the name in the dictionary.
        tensor: what gives the bytes.
    """

    rank: int
    stored: str
    nbytes: int
    name: str
    tensor: Tensor


def carrier_of(dtype: DType) -> DType | None:
    """Return the type under which a type is stored; None where there is none."""
    if dtype in CODES:
        return dtype
    carrier = DType.named(dtype.carrier)
    return carrier if carrier in CODES else None


def row(carrier: DType, stored: str, name: str, tensor: Tensor) -> Row:
    """Return the row of a tensor that is stored as `carrier`."""
    return Row(RANKS[carrier], stored, tensor.spec.nbytes, name, tensor)


def build_header(rows: Iterable[Row], metadata: Mapping[str, str]) -> bytes:
    """Return length and header, padded so that the data starts at a multiple of 8.

    Args:
        rows: the tensors in the order of their bytes.
        metadata: texts by name; nothing is written of none.
    """
    content: dict[str, Any] = {METADATA: metadata} if metadata else {}
    at = 0
    for rank, stored, nbytes, _, tensor in rows:
        end = at + nbytes
        content[stored] = {
            "dtype": RANKED[rank], "shape": tensor.spec.shape, "data_offsets": (at, end)
        }  # fmt: skip
        at = end
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
