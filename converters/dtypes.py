"""Our own element types: numpy alone cannot name bfloat16, float8, int4 or the quantised ints."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DType"]


class DType(Enum):
    """An element type: its name (as numpy or ml_dtypes print it) and how its bytes lie.

    In memory an element is little endian and takes whole bytes; int4 and its like take one byte
    each, sign-extended where they are signed.

    Attributes:
        label: the name shown to people.
        itemsize: bytes an element takes; 0 where elements vary in length.
        carrier: the numpy type with the same bytes, where numpy has no such type itself.
    """

    BOOL = ("bool", 1)
    INT8 = ("int8", 1)
    INT16 = ("int16", 2)
    INT32 = ("int32", 4)
    INT64 = ("int64", 8)
    UINT8 = ("uint8", 1)
    UINT16 = ("uint16", 2)
    UINT32 = ("uint32", 4)
    UINT64 = ("uint64", 8)
    FLOAT16 = ("float16", 2)
    FLOAT32 = ("float32", 4)
    FLOAT64 = ("float64", 8)
    COMPLEX64 = ("complex64", 8)
    COMPLEX128 = ("complex128", 16)
    BFLOAT16 = ("bfloat16", 2, "uint16")
    FLOAT8_E4M3FN = ("float8_e4m3fn", 1, "uint8")
    FLOAT8_E4M3FNUZ = ("float8_e4m3fnuz", 1, "uint8")
    FLOAT8_E4M3B11FNUZ = ("float8_e4m3b11fnuz", 1, "uint8")
    FLOAT8_E5M2 = ("float8_e5m2", 1, "uint8")
    FLOAT8_E5M2FNUZ = ("float8_e5m2fnuz", 1, "uint8")
    FLOAT8_E8M0FNU = ("float8_e8m0fnu", 1, "uint8")
    FLOAT4_E2M1FN = ("float4_e2m1fn", 1, "uint8")
    INT4 = ("int4", 1, "int8")
    UINT4 = ("uint4", 1, "uint8")
    INT2 = ("int2", 1, "int8")
    UINT2 = ("uint2", 1, "uint8")
    QINT8 = ("qint8", 1, "int8")
    QUINT8 = ("quint8", 1, "uint8")
    QINT16 = ("qint16", 2, "int16")
    QUINT16 = ("quint16", 2, "uint16")
    QINT32 = ("qint32", 4, "int32")
    STRING = ("string", 0)
    VARIANT = ("variant", 0)

    def __init__(self, label: str, itemsize: int, carrier: str | None = None) -> None:
        self.label = label
        self.itemsize = itemsize
        self.carrier = label if carrier is None else carrier

    def __str__(self) -> str:
        return self.label

    # Enum hashes by name through Python code; members are singletons, so identity serves and a
    # dictionary of 100,000 specs is built three times as fast.
    __hash__ = object.__hash__

    @property
    def variable(self) -> bool:
        """Whether elements are byte strings of any length (text, serialised variants)."""
        return self.itemsize == 0

    @property
    def native(self) -> bool:
        """Whether plain numpy has this very type."""
        return self.carrier == self.label and not self.variable

    @property
    def swap_unit(self) -> int:
        """Bytes that turn around when the byte order changes; a complex has two such units."""
        return self.itemsize // 2 if self.label.startswith("complex") else self.itemsize

    @classmethod
    def named(cls, label: str) -> DType | None:
        """Return the type called `label`, or None."""
        return _BY_LABEL.get(label)

    def numpy(self) -> np.dtype[np.generic]:
        """Return the numpy type an array of this gets: ml_dtypes' own where it has one."""
        import numpy as np  # numpy costs 0.1 s of start-up; copying bytes needs none

        if self.variable:
            return np.dtype(object)
        if self.native:
            return np.dtype(self.label)
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, self.label, self.carrier))


_BY_LABEL = {dtype.label: dtype for dtype in DType}
