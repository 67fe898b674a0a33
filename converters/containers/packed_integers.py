"""Integers of 4 and 2 bits, several to a byte, as one byte each.

The first element is in the lowest bits of a byte; bits behind the last element are padding.
Source: tensorflow/lite/kernels/internal/portable_tensor_utils.h, UnpackPackedIntToInt8 (v2.21.0).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..dtypes import DType
from ..tensors import CHUNK_BYTES, Tensor, TensorSpec

__all__ = ["PACKED_BITS", "UnpackedTensor", "packed_bytes"]

PACKED_BITS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2, DType.UINT2: 2}
_SIGNED = (DType.INT4, DType.INT2)


def packed_bytes(spec: TensorSpec) -> int:
    """Return how many bytes the elements of a packed type take."""
    return -(-spec.size * PACKED_BITS[spec.dtype] // 8)


class UnpackedTensor(Tensor):
    """A tensor of 4- or 2-bit integers that lie packed.

    Args:
        spec: of a packed type.
        packed: its bytes, as many as `packed_bytes` says.
    """

    __slots__ = ("_packed",)

    def __init__(self, spec: TensorSpec, packed: Tensor) -> None:
        self.spec = spec
        self._packed = packed

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield one byte per element, sign-extended where the type is signed."""
        tables = _tables(self.spec.dtype)
        per_byte, left = len(tables), self.spec.size
        for chunk in self._packed.chunks(max(max_bytes // per_byte, 1)):
            data = bytes(chunk)
            made = bytearray(len(data) * per_byte)
            for position, table in enumerate(tables):
                made[position::per_byte] = data.translate(table)
            view = memoryview(made)[:left]
            left -= len(view)
            for at in range(0, len(view), max_bytes):
                yield view[at : at + max_bytes]


def _tables(dtype: DType) -> list[bytes]:
    """Return, for each element in a byte, what it is by the value of the byte."""
    bits = PACKED_BITS[dtype]
    return [
        bytes(_value(byte >> shift, bits, dtype in _SIGNED) for byte in range(256))
        for shift in range(0, 8, bits)
    ]


def _value(packed: int, bits: int, signed: bool) -> int:
    value = packed & ((1 << bits) - 1)
    return (value - (1 << bits)) & 0xFF if signed and value >> (bits - 1) else value
