"""What every sample tensor holds: element k of a tensor is a fixed function of (name, k).

`name` is what the file calls it: of a checkpoint the key, exactly as `tf.train.load_checkpoint`
lists it, of an HDF5 file the path of the dataset, of a graph the name of the node. Tests compute
the truth from this rule, so no arrays are stored beside the samples. Needs numpy and ml_dtypes
only.

    seed = crc32(name in UTF-8)
    x_k  = (seed + k * 2654435761) mod 2**32

| dtype                     | element k                                                       |
| ------------------------- | --------------------------------------------------------------- |
| float32, float64          | ((x mod 2001) - 1000) / 8                                       |
| float16, bfloat16         | ((x mod 257) - 128) / 8                                         |
| float8 kinds, float4      | (x mod 5) - 2                                                   |
| complex64, complex128     | the float32 rule, real from the low 16 bits, imaginary from the |
|                           | high 16                                                         |
| bool                      | x & 1                                                           |
| (u)int, q(u)int, b bits   | low b bits of (x * 2**32 + x), two's complement where signed    |
| string                    | b"<name>:<k>", but b"" where k mod 7 is 3                       |

Every value is exact in its dtype.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import ml_dtypes
import numpy as np

# Entries that follow the save and not the rule: the object graph, and the number of the save.
BOOKKEEPING = frozenset({"_CHECKPOINTABLE_OBJECT_GRAPH", "save_counter/.ATTRIBUTES/VARIABLE_VALUE"})

_STEP = np.uint64(2654435761)  # floor(2**32 / golden ratio), Knuth's multiplicative hash constant
_LOW_32 = np.uint64(0xFFFFFFFF)

# TensorFlow's quantised dtypes are plain integers in a file; numpy knows them only as integers.
_PLAIN = {
    "qint8": "int8",
    "quint8": "uint8",
    "qint16": "int16",
    "quint16": "uint16",
    "qint32": "int32",
}
_SUB_BYTE_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4}


def expected(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Compute what the sample tensor `name` holds.

    Args:
        name: What the file calls it.
        dtype: Name as numpy prints it (`float32`, `bfloat16`, `int4`), or a quantised one
            (`qint8`), or `string`.
        shape: Full shape, also for a tensor that is stored in slices.

    Returns:
        A C-order array. Quantised dtypes come as their plain integers, strings as an object array
        of bytes.

    Raises:
        TypeError: numpy and ml_dtypes know no such dtype, or the rule does not cover it.
    """
    count = math.prod(shape)
    if dtype == "string":
        return _strings(name, count).reshape(shape)
    seed = np.uint64(zlib.crc32(name.encode()))
    x = (seed + np.arange(count, dtype=np.uint64) * _STEP) & _LOW_32
    return _rule(dtype)(x, numpy_dtype(dtype)).reshape(shape)


def numpy_dtype(dtype: str) -> np.dtype:
    """Return the numpy dtype that holds `dtype`: numpy's own, ml_dtypes' or a plain integer."""
    plain = _PLAIN.get(dtype, dtype)
    return np.dtype(getattr(ml_dtypes, plain, plain))


def _rule(dtype: str) -> Callable[[np.ndarray, np.dtype], np.ndarray]:
    if dtype in ("float32", "float64"):
        return _floats
    if dtype in ("float16", "bfloat16"):
        return _half_floats
    if dtype.startswith(("float8_", "float4_")):
        return _tiny_floats
    if dtype.startswith("complex"):
        return _complex
    if dtype == "bool":
        return _bools
    if dtype in _SUB_BYTE_BITS:
        return _sub_byte_ints
    if numpy_dtype(dtype).kind in "iu":
        return _ints
    raise TypeError(f"dtype `{dtype}`: no rule")


def _floats(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (((x % np.uint64(2001)).astype(np.float64) - 1000) / 8).astype(dtype)


def _half_floats(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    # Numerators up to 128 need 8 significant bits, which is all that bfloat16 has.
    return (((x % np.uint64(257)).astype(np.float32) - 128) / 8).astype(dtype)


def _tiny_floats(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return ((x % np.uint64(5)).astype(np.float32) - 2).astype(dtype)


def _complex(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    real = _floats(x & np.uint64(0xFFFF), np.dtype(np.float64))
    imaginary = _floats(x >> np.uint64(16), np.dtype(np.float64))
    return (real + 1j * imaginary).astype(dtype)


def _bools(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return (x & np.uint64(1)).astype(dtype)


def _ints(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    both_halves = (x << np.uint64(32)) | x
    return both_halves.astype(f"u{dtype.itemsize}").view(dtype)


def _sub_byte_ints(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    bits = _SUB_BYTE_BITS[dtype.name]
    low = (x & np.uint64((1 << bits) - 1)).astype(np.int8)
    if dtype.name.startswith("int"):
        low = np.where(low >= 1 << (bits - 1), low - (1 << bits), low)
    return low.astype(dtype)


def _strings(name: str, count: int) -> np.ndarray:
    values = np.empty(count, dtype=object)
    for k in range(count):
        values[k] = b"" if k % 7 == 3 else f"{name}:{k}".encode()
    return values
