"""Element types of HDF5 and ours.

    bool           enum {FALSE, TRUE} of one byte, as h5py writes it
    complex        compound {r, i} of two floats
    bfloat16       a float of 16 bits described bit by bit, so that every libhdf5 converts it:
                   sign 15, exponent 7 to 14 with bias 127, mantissa 0 to 6
    float8_e5m2    read where it is described in the same manner; see below
    string         of fixed or variable length

A type that HDF5 cannot describe is held as its carrier, with our name for it in the attribute
`dtype`. float8_e5m2 is written so as well, for one rule for all float8: the others have no
infinities, which HDF5 would read into them. Files of Keras hold bfloat16 as opaque bytes with the
same attribute.

Specified by the HDF5 File Format Specification 3.0, section IV.A.2.d (datatype message).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError

if TYPE_CHECKING:
    import h5py

__all__ = ["Element", "describes", "file_type", "recognise", "stored_width"]


REFERENCE_BYTES = 16  # length, address and index, with addresses of 8 bytes


class Element(NamedTuple):
    """What an element of a dataset is.

    Attributes:
        dtype: None for opaque bytes, which only an attribute can name.
        width: bytes of an element in the file.
        big_endian: whether its bytes are in that order.
        variable: whether it is a reference to a string in the heap.
        padding: what fills up a string of fixed length, or None where a NUL ends it.
    """

    dtype: DType | None
    width: int
    big_endian: bool = False
    variable: bool = False
    padding: bytes | None = None


class _Bits(NamedTuple):
    """A float bit by bit: H5Tget_fields, size in bytes, H5Tget_ebias."""

    sign: int
    exponent: int
    exponent_bits: int
    mantissa: int
    mantissa_bits: int
    size: int
    bias: int


_BFLOAT16 = _Bits(15, 7, 8, 0, 7, 2, 127)
_FLOATS = {
    _Bits(15, 10, 5, 0, 10, 2, 15): DType.FLOAT16,
    _Bits(31, 23, 8, 0, 23, 4, 127): DType.FLOAT32,
    _Bits(63, 52, 11, 0, 52, 8, 1023): DType.FLOAT64,
    _BFLOAT16: DType.BFLOAT16,
    _Bits(7, 2, 5, 0, 2, 1, 15): DType.FLOAT8_E5M2,
}


def describes(dtype: DType) -> bool:
    """Tell whether HDF5 can say what this type is."""
    return dtype.native or dtype in (DType.BFLOAT16, DType.STRING)


def file_type(dtype: DType, *, opaque: bool = False) -> h5py.h5t.TypeID:
    """Return the type of a dataset that holds `dtype`, little endian.

    Args:
        dtype: one that HDF5 can say.
        opaque: as bytes of which HDF5 knows no more than how many make an element.
    """
    import h5py
    import numpy as np
    from h5py import h5t

    if opaque:
        return h5t.py_create(np.dtype(f"V{dtype.itemsize}"), logical=True)
    if dtype is DType.STRING:
        return h5t.py_create(h5py.string_dtype(), logical=True)
    if dtype is DType.BFLOAT16:
        kind = h5t.IEEE_F32LE.copy()
        kind.set_fields(*_BFLOAT16[:5])
        kind.set_size(_BFLOAT16.size)
        kind.set_ebias(_BFLOAT16.bias)
        return kind
    return h5t.py_create(np.dtype(dtype.label).newbyteorder("<"), logical=True)


def stored_width(kind: h5py.h5t.TypeID) -> int:
    """Return the bytes an element takes in the dataset."""
    from h5py import h5t

    # libhdf5 tells the size of its own pointer, and not of the reference in the file.
    if kind.get_class() == h5t.STRING and kind.is_variable_str():
        return REFERENCE_BYTES
    return int(kind.get_size())


def recognise(kind: h5py.h5t.TypeID) -> Element:
    """Return what an HDF5 type is.

    Raises:
        CorruptFileError: it is nothing that we have a type for.
    """
    from h5py import h5t

    readers = {
        h5t.INTEGER: _integer,
        h5t.FLOAT: _float,
        h5t.ENUM: _enum,
        h5t.COMPOUND: _compound,
        h5t.OPAQUE: lambda kind: Element(None, kind.get_size()),
        h5t.STRING: _string,
    }
    reader = readers.get(kind.get_class())
    if reader is None:
        raise _unknown("class of type", kind.get_class())
    return reader(kind)


def _integer(kind: h5py.h5t.TypeID) -> Element:
    from h5py import h5t

    size = kind.get_size()
    sign = "int" if kind.get_sign() == h5t.SGN_2 else "uint"
    dtype = DType.named(f"{sign}{8 * size}")
    if dtype is None or kind.get_precision() != 8 * size:
        raise _unknown("integer", f"{kind.get_precision()} bits in {size} bytes")
    return Element(dtype, size, _big_endian(kind))


def _float(kind: h5py.h5t.TypeID) -> Element:
    from h5py import h5t

    bits = _Bits._make((*kind.get_fields(), kind.get_size(), kind.get_ebias()))
    dtype = _FLOATS.get(bits)
    if dtype is None or kind.get_offset() or kind.get_norm() != h5t.NORM_IMPLIED:
        raise _unknown("float", f"{bits.size} bytes, {bits.exponent_bits} bits of exponent")
    return Element(dtype, bits.size, _big_endian(kind))


def _big_endian(kind: h5py.h5t.TypeID) -> bool:
    from h5py import h5t

    order = kind.get_order()
    if order not in (h5t.ORDER_LE, h5t.ORDER_BE):
        raise _unknown("byte order", order)
    return bool(order == h5t.ORDER_BE)


def _enum(kind: h5py.h5t.TypeID) -> Element:
    members = {
        bytes(kind.get_member_name(index)): int(kind.get_member_value(index))
        for index in range(min(kind.get_nmembers(), 3))
    }
    if kind.get_size() != 1 or members != {b"FALSE": 0, b"TRUE": 1}:
        raise _unknown("enum", f"of {kind.get_nmembers()} in {kind.get_size()} bytes")
    return Element(DType.BOOL, 1)


def _compound(kind: h5py.h5t.TypeID) -> Element:
    count = kind.get_nmembers()
    names = [bytes(kind.get_member_name(index)) for index in range(min(count, 3))]
    if names != [b"r", b"i"]:
        raise _unknown("compound", f"of {count}")
    size = kind.get_size()
    members = [recognise(kind.get_member_type(index)) for index in range(2)]
    offsets = [kind.get_member_offset(index) for index in range(2)]
    dtype = {8: DType.COMPLEX64, 16: DType.COMPLEX128}.get(size)
    half = DType.FLOAT32 if size == 8 else DType.FLOAT64
    if dtype is None or members[0] != members[1] or members[0].dtype is not half:
        raise _unknown("compound", f"{size} bytes")
    if offsets != [0, size // 2]:
        raise _unknown("compound", f"members at {offsets}")
    return Element(dtype, size, members[0].big_endian)


def _string(kind: h5py.h5t.TypeID) -> Element:
    from h5py import h5t

    padding = {h5t.STR_SPACEPAD: b" ", h5t.STR_NULLPAD: b"\0"}.get(kind.get_strpad())
    variable = bool(kind.is_variable_str())
    return Element(DType.STRING, stored_width(kind), variable=variable, padding=padding)


def _unknown(what: str, got: object) -> CorruptFileError:
    return CorruptFileError(
        f"a type that is not read: {what}",
        expected="integers, floats, bool, complex, strings",
        got=got,
        hint="write the file anew without this dataset",
    )
