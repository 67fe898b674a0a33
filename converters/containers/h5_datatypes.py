"""Datatype and dataspace messages of HDF5, decoded into our element types.

    datatype   class and version (4 bits each), 3 bytes of flags, 4 bytes size, properties
    dataspace  version, rank, flags, (version 2: kind), dimensions, maximal dimensions

Specified by the HDF5 File Format Specification 3.0, sections IV.A.2.b and IV.A.2.d. What counts as
which type is the same as in `hdf5_types.py`, which asks libhdf5.
"""

from __future__ import annotations

from math import prod
from struct import Struct, error, unpack_from

from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, UnsafeFileError
from .h5_blocks import OutsideSubset
from .hdf5_types import REFERENCE_BYTES, Element

__all__ = ["dataspace", "datatype", "declared_bytes"]

MAX_RANK = 32  # H5S_MAX_RANK
MAX_DEPTH = 4  # a complex number needs 2

_HEAD = Struct("<BBBBI")
# Bit offset, precision; where exponent and mantissa are and how wide; bias.
_FLOAT = Struct("<HHBBBBI")
_MEMBER_1 = Struct("<IB3xII4I")  # offset, rank, permutation, dimensions

_REFUSED = {2: "time", 4: "bit field", 7: "reference", 10: "array"}
_PADDING = {0: None, 1: b"\0", 2: b" "}
# Sign, exponent, mantissa (place and bits each), bytes, bias.
_FLOATS = {
    (15, 10, 5, 0, 10, 2, 15): DType.FLOAT16,
    (31, 23, 8, 0, 23, 4, 127): DType.FLOAT32,
    (63, 52, 11, 0, 52, 8, 1023): DType.FLOAT64,
    (15, 7, 8, 0, 7, 2, 127): DType.BFLOAT16,
    (7, 2, 5, 0, 2, 1, 15): DType.FLOAT8_E5M2,
}


def dataspace(raw: bytes) -> tuple[int, ...] | None:
    """Return the shape that a dataspace message gives, in elements; None for a null one.

    Raises:
        CorruptFileError: it is no such message.
    """
    version, rank = raw[0:1], raw[1] if len(raw) > 3 else 0
    if version not in (b"\1", b"\2") or rank > MAX_RANK:
        raise CorruptFileError("dataspace", expected="version 1 or 2", got=raw[:4].hex())
    at = 8 if version == b"\1" else 4
    if version == b"\2" and raw[3] == 2:
        return None
    if at + 8 * rank > len(raw):
        raise CorruptFileError("dataspace", expected=f"{rank} dimensions", got=f"{len(raw)} bytes")
    return unpack_from(f"<{rank}Q", raw, at)


def declared_bytes(element: Element, shape: tuple[int, ...] | None) -> int:
    """Return how many bytes the elements take; exact, however large they claim to be."""
    return 0 if shape is None else prod(shape) * element.width


def datatype(raw: bytes) -> Element:
    """Return what the elements of a dataset or an attribute are.

    Raises:
        CorruptFileError: it is no such message, or a type that we have no name for.
        UnsafeFileError: a class that no weight file needs, such as references.
        OutsideSubset: a class that libhdf5 2.0 brought.
    """
    try:
        return _element(raw, 0, 0)[0]
    except (error, IndexError) as fault:
        raise CorruptFileError(
            "datatype", expected="a whole message", got=raw.hex()[:80]
        ) from fault


def _element(raw: bytes, at: int, depth: int) -> tuple[Element, int]:
    """Return a type and where it ends."""
    if depth > MAX_DEPTH:
        raise _unknown("datatype", f"{depth} levels")
    first, low, middle, _, size = _HEAD.unpack_from(raw, at)
    version, kind = first >> 4, first & 15
    at += _HEAD.size
    if not 1 <= version <= 5:
        raise CorruptFileError("version of a datatype", expected="1 to 5", got=version)
    if not size:
        raise CorruptFileError("size of a datatype", expected="at least 1 byte", got=0)
    plain = _plain(raw, at, kind, low, middle, size)
    if plain is not None:
        return plain
    if kind == 6:
        return _complex(raw, at, low + 256 * middle, size, version, depth)
    if kind == 8:
        return _bool(raw, at, low + 256 * middle, size, version, depth)
    if kind == 9:
        return _variable(raw, at, low, depth)
    raise _refused(kind)


def _plain(
    raw: bytes, at: int, kind: int, low: int, middle: int, size: int
) -> tuple[Element, int] | None:
    """Return a type that holds no other, and where it ends."""
    if kind == 0:
        return _integer(raw, at, low, size), at + 4
    if kind == 1:
        return _float(raw, at, low, middle, size), at + _FLOAT.size
    if kind == 3:
        return _text(low, size), at
    if kind == 5:  # the flags' first byte is the length of the tag
        return Element(None, size), at + low
    return None


def _refused(kind: int) -> ConvertError:
    if kind == 11:  # complex numbers of their own, from HDF5 2.0 on
        return OutsideSubset("class of type", got="complex")
    if kind in _REFUSED:
        expected = "integer, float, enum, compound, opaque or string"
        return UnsafeFileError("class of type", expected=expected, got=_REFUSED[kind])
    return CorruptFileError("class of type", expected="0 to 11", got=kind)


def _integer(raw: bytes, at: int, flags: int, size: int) -> Element:
    offset, precision = unpack_from("<HH", raw, at)
    dtype = DType.named(f"{'int' if flags & 8 else 'uint'}{8 * size}")
    if dtype is None or offset or precision != 8 * size or flags & 0xF0:
        raise _unknown("integer", f"{precision} bits in {size} bytes")
    return Element(dtype, size, bool(flags & 1))


def _float(raw: bytes, at: int, flags: int, sign: int, size: int) -> Element:
    offset, precision, *fields, bias = _FLOAT.unpack_from(raw, at)
    dtype = _FLOATS.get((sign, *fields, size, bias))
    # Order little or big (not VAX), nothing padded with ones, a leading bit that is implied.
    if dtype is None or offset or precision != 8 * size or flags & 0xFE != 0x20:
        raise _unknown("float", f"{size} bytes, {fields[1]} bits of exponent")
    return Element(dtype, size, bool(flags & 1))


def _text(flags: int, size: int) -> Element:
    if flags & 15 not in _PADDING:
        raise CorruptFileError("padding of strings", expected="0 to 2", got=flags & 15)
    return Element(DType.STRING, size, padding=_PADDING[flags & 15])


def _variable(raw: bytes, at: int, flags: int, depth: int) -> tuple[Element, int]:
    _, end = _element(raw, at, depth + 1)
    if flags & 15 != 1:
        raise UnsafeFileError("class of type", expected="text", got="sequence of variable length")
    return Element(DType.STRING, REFERENCE_BYTES, variable=True, padding=b"\0"), end


def _bool(
    raw: bytes, at: int, count: int, size: int, version: int, depth: int
) -> tuple[Element, int]:
    """h5py's bool: FALSE and TRUE in a byte."""
    base, at = _element(raw, at, depth + 1)
    if count != 2 or size != 1 or base.width != 1:
        raise _unknown("enum", f"of {count} in {size} bytes")
    names = []
    for _ in range(count):
        name, at = _name(raw, at, version)
        names.append(name)
    values = raw[at : at + count]
    if dict(zip(names, values, strict=False)) != {b"FALSE": 0, b"TRUE": 1}:
        raise _unknown("enum", names)
    return Element(DType.BOOL, 1), at + count


def _complex(
    raw: bytes, at: int, count: int, size: int, version: int, depth: int
) -> tuple[Element, int]:
    """h5py's complex: r and i."""
    dtype = {8: DType.COMPLEX64, 16: DType.COMPLEX128}.get(size)
    if count != 2 or dtype is None:
        raise _unknown("compound", f"of {count} in {size} bytes")
    found = []
    for _ in range(count):
        name, at = _name(raw, at, version)
        offset, at = _member_offset(raw, at, size, version)
        member, at = _element(raw, at, depth + 1)
        found.append((name, offset, member))
    half = DType.FLOAT32 if size == 8 else DType.FLOAT64
    member = found[0][2]
    if found != [(b"r", 0, member), (b"i", size // 2, member)] or member.dtype is not half:
        raise _unknown("compound", [name for name, _, _ in found])
    return Element(dtype, size, member.big_endian), at


def _member_offset(raw: bytes, at: int, size: int, version: int) -> tuple[int, int]:
    if version == 1:
        offset, rank, *_ = _MEMBER_1.unpack_from(raw, at)
        if rank:
            raise _unknown("compound", "arrays in it")
        return offset, at + _MEMBER_1.size
    width = 4 if version == 2 else (size.bit_length() + 7) // 8
    return int.from_bytes(raw[at : at + width], "little"), at + width


def _name(raw: bytes, at: int, version: int) -> tuple[bytes, int]:
    end = raw.find(b"\0", at)
    if end < 0:
        raise CorruptFileError("datatype", expected="a name that ends", got=raw[at : at + 40])
    # Before version 3 names are padded to multiples of 8 with their NUL.
    taken = end + 1 - at if version >= 3 else (end - at) // 8 * 8 + 8
    return raw[at:end], at + taken


def _unknown(what: str, got: object) -> CorruptFileError:
    return CorruptFileError(
        f"a type that is not read: {what}",
        expected="integers, floats, bool, complex, strings",
        got=got,
        hint="write the file anew without this dataset",
    )
