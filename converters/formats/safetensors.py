r"""safetensors: a JSON header of names, types, shapes and places, then the bytes.

    n       uint64, little endian: length of the header, at most 100,000,000
    header  JSON object, padded with blanks so that the data starts at a multiple of 8
            {"<name>": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …,
             "__metadata__": {"<text>": "<text>", …}}
    data    the tensors, without gap or overlap; offsets count from here

Specified by the README of huggingface/safetensors (v0.8.0) and `validate` in its `tensor.rs`. We
order tensors as its library does (wider types first, then by name), which keeps every tensor
aligned and gives the same bytes as `safetensors.numpy.save_file`.

Not read: the packed 4- and 6-bit types F4, F6_E2M3 and F6_E3M2.

Strings, variants and types without a code are kept in `__metadata__["tensorferry"]`
(`converters/record.py`); files that need none have no metadata, since loaders of transformers
refuse metadata without a `format`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

from ..dtypes import DType
from ..errors import CorruptFileError, TargetError
from ..names import assign, escape
from ..notes import Kind, Note
from ..output import Placement, Plan, PlannedFile
from ..record import Record
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import Extent, FileSource
from ..tensors import ExtentTensor, Tensor, TensorDict, TensorSpec

__all__ = ["FORMAT"]

METADATA = "__metadata__"
RECORD = "tensorferry"
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


# Reading


def _sniff(location: Location) -> bool:
    head = location.head
    if len(head) < 10:
        return False
    length = int.from_bytes(head[:8], "little")
    return 2 <= length <= MAX_HEADER_BYTES and head[8:].lstrip(b" \t\r\n").startswith(b"{")


def _open(location: Location, options: ReadOptions) -> TensorDict:
    source = FileSource(location.path)
    try:
        header, start = _read_header(source)
        metadata = _metadata(header.pop(METADATA, None))
        record = Record.parse(metadata[RECORD]) if RECORD in metadata else Record()
        tensors, origins = record.apply(
            dict(_tensors(header, source, start)), readable=options.names == "readable"
        )
    except CorruptFileError as error:
        source.close()
        if error.path is None:
            error.path = str(location.path)
        raise error.within("header") from None
    except BaseException:
        source.close()
        raise
    shown = {key: value for key, value in metadata.items() if key != RECORD}
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} file",
        tensors=tensors,
        origins=origins,
        metadata=shown,
        sources=(source,),
    )


def _read_header(source: FileSource) -> tuple[dict[str, Any], int]:
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
    return value


def _tensors(
    header: dict[str, Any], source: FileSource, start: int
) -> Iterator[tuple[str, Tensor]]:
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


def _plan(tensors: TensorDict, target: Path, _options: WriteOptions) -> Plan:
    names = assign(tensors, _stored_name, target)
    record, notes = Record(), []
    rows: list[tuple[DType, str, str]] = []
    for (name, tensor), stored in zip(tensors.tensors.items(), names.values(), strict=True):
        dtype = tensor.spec.dtype
        if stored != name:
            record.names[stored] = name
            notes.append(Note(Kind.RENAMED, f"stored as `{stored}`", name))
        if dtype.variable:
            record.elements[stored] = tensor
            notes.append(Note(Kind.ENCODED, f"{dtype}s kept as text in the metadata", name))
            continue
        carrier = _carrier(name, dtype, target)
        if carrier is not dtype:
            record.dtypes[stored] = dtype
            notes.append(Note(Kind.ENCODED, f"kept as {carrier} with a record", name))
        rows.append((carrier, stored, name))
    rows.sort(key=lambda row: (RANKS[row[0]], row[1]))
    metadata = dict(tensors.metadata)
    if metadata.pop(RECORD, None) is not None:  # it would pass for a record of ours
        notes.append(Note(Kind.METADATA_LOST, f"the text `{RECORD}`: our own is kept there"))
    if record:
        metadata[RECORD] = record.build()
    header = _header(rows, tensors, metadata)
    if len(header) - 8 > MAX_HEADER_BYTES:
        raise TargetError(
            "header too long",
            path=target,
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            got=f"{len(header) - 8} bytes",
            hint="leave some tensors out with --exclude",
        )
    placements, at = [], len(header)
    for _, _, name in rows:
        placements.append(Placement(name, tensors[name], at))
        at += tensors[name].nbytes
    file = PlannedFile(target, at, ((0, header),), tuple(placements))
    return Plan(FORMAT.name, (file,), {n: s for n, s in names.items() if n != s}, tuple(notes))


def _stored_name(name: str) -> str:
    return "%5F_metadata__" if name == METADATA else escape(name)


def _carrier(name: str, dtype: DType, target: Path) -> DType:
    """Return the type under which `dtype` is stored."""
    if dtype in CODES:
        return dtype
    carrier = DType.named(dtype.carrier)
    if carrier in CODES:
        return carrier
    raise TargetError(
        f"safetensors has no {dtype}",
        path=target,
        where=f"tensor `{name}`",
        hint=f"leave it out with --exclude {name!r}, or choose .npz or .h5",
    )


def _header(
    rows: list[tuple[DType, str, str]], tensors: TensorDict, metadata: dict[str, str]
) -> bytes:
    """Return length and header, padded so that the data starts at a multiple of 8."""
    content: dict[str, Any] = {METADATA: metadata} if metadata else {}
    at = 0
    for carrier, stored, name in rows:
        spec = tensors[name].spec
        end = at + spec.nbytes
        content[stored] = {
            "dtype": CODES[carrier], "shape": spec.shape, "data_offsets": (at, end)
        }  # fmt: skip
        at = end
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


FORMAT = Format(
    name="safetensors",
    title="safetensors",
    extensions=(".safetensors",),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    metadata=True,
    limits="packed 4- and 6-bit types; complex128 is not written",
)
