"""Real values of the integers that Keras quantises weights to.

    int8             q / scale                     one scale for each output, row or column
    int4             q / scale                     two values in a byte, the low half first
    int4 in blocks   (q - zero[g]) * scale[g]      g: the block of a row, in `g_idx`

Specified by keras/src/quantizers/quantizers.py (v3.15.0: abs_max_quantize, unpack_int4,
dequantize_with_sz_map) and `_int4_call` of the layers. Keras 3.14 and later pack the last axis;
3.11 to 3.13 pack axis 0 of the kernel of Dense. Which it was is told by the shapes. An embedding
has a scale for each row, and its blocks run along the row.

Left as they are: float8 (whose kernels are float32 already), gptq and awq, EinsumDense in int4
where its shape cannot be known, tables for the reverse of an embedding in int4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError
from ..tensors import CHUNK_BYTES, Tensor, TensorSpec
from .keras_config import Layer

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Dequantised", "dequantise"]

# A block of rows is computed at a time; one row alone may be longer.
BLOCK_BYTES = 1 << 20
FLOATS = (DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.BFLOAT16)


class Dequantised(NamedTuple):
    """What takes the place of a layer's arrays: real weights, and arrays that are used up."""

    tensors: dict[str, Tensor]
    used: list[str]


class _Plan(NamedTuple):
    """How to compute a matrix of real values.

    Attributes:
        shape: of the result; the matrix has its last axes in one.
        columns: of the matrix.
        packed: axis of the matrix along which two values share a byte.
        by_row: whether scales belong to rows and not to columns.
        blocks: whether scales come in blocks with zero points.
    """

    shape: tuple[int, ...]
    columns: int
    packed: int | None = None
    by_row: bool = False
    blocks: bool = False


def dequantise(layer: Layer, stored: Mapping[str, Tensor]) -> Dequantised | None:
    """Return the real weights of a quantised layer, or None where it cannot be done with certainty.

    Args:
        layer: from the config.
        stored: its arrays by the variable's own name.
    """
    name = "embeddings" if "embeddings" in stored else "kernel"
    parts = {key: stored.get(f"{name}_{key}") for key in ("scale", "zero")}
    weight, scale, zero, groups = (
        stored.get(name), parts["scale"], parts["zero"], stored.get("g_idx"),
    )  # fmt: skip
    if weight is None or scale is None or weight.spec.dtype is not DType.INT8:
        return None
    if scale.spec.dtype not in FLOATS or "reverse_embeddings" in stored:
        return None
    plan = _plan(layer, weight.spec, scale.spec, stored)
    if plan is None or not _blocks_fit(plan, scale, zero, groups):
        return None
    tensor = _RealTensor(plan, weight, scale, zero, groups)
    used = [f"{name}_scale", *([f"{name}_zero", "g_idx"] if plan.blocks else [])]
    return Dequantised({name: tensor}, used)


def _blocks_fit(plan: _Plan, scale: Tensor, zero: Tensor | None, groups: Tensor | None) -> bool:
    if not plan.blocks:
        return zero is None and groups is None
    if zero is None or groups is None or zero.spec.shape != scale.spec.shape:
        return False
    length = plan.columns if plan.by_row else prod(plan.shape) // max(plan.columns, 1)
    return groups.spec.shape == (length,) and groups.spec.dtype in (*FLOATS, DType.INT32)


def _plan(
    layer: Layer, weight: TensorSpec, scale: TensorSpec, stored: Mapping[str, Tensor]
) -> _Plan | None:
    mode = (layer.mode or "").partition("/")[0]
    if layer.kind == "Embedding":
        return _plan_embedding(layer, mode, weight, scale)
    if layer.kind == "Dense":
        return _plan_dense(layer, mode, weight, scale)
    if layer.kind == "EinsumDense":
        return _plan_einsum(layer, weight, scale, stored)
    return None


def _plan_embedding(layer: Layer, mode: str, weight: TensorSpec, scale: TensorSpec) -> _Plan | None:
    if len(weight.shape) != 2 or scale.shape[:1] != weight.shape[:1]:
        return None
    rows, width = weight.shape
    if mode == "int8" and len(scale.shape) == 1:
        return _Plan(weight.shape, width, by_row=True)
    columns = layer.config.get("output_dim")
    if mode != "int4" or not isinstance(columns, int) or (columns + 1) // 2 != width:
        return None
    return _Plan((rows, columns), columns, packed=1, by_row=True, blocks=len(scale.shape) == 2)


def _plan_dense(layer: Layer, mode: str, weight: TensorSpec, scale: TensorSpec) -> _Plan | None:
    if len(weight.shape) != 2 or not scale.shape:
        return None
    rows, width = weight.shape
    columns = scale.shape[-1]
    if mode == "int8" and scale.shape == (width,):
        return _Plan(weight.shape, columns)
    if mode != "int4":
        return None
    blocks = len(scale.shape) == 2
    if width == (columns + 1) // 2 and columns > 1:
        return _Plan((rows, columns), columns, packed=1, blocks=blocks)
    inputs = layer.build.get("input_shape")
    length = inputs[-1] if isinstance(inputs, list) and inputs else None
    if width == columns > 1 and isinstance(length, int) and (length + 1) // 2 == rows:
        return _Plan((length, columns), columns, packed=0)
    return None


def _plan_einsum(
    layer: Layer, weight: TensorSpec, scale: TensorSpec, stored: Mapping[str, Tensor]
) -> _Plan | None:
    """Plan the kernel of EinsumDense, whose axes that are summed over come first.

    In int8 the kernel has its own shape and the scale that of the output, with ones. In int4 the
    kernel is a matrix, whose columns have the shape of the bias.
    """
    summed = _summed(layer)
    if summed is None or not scale.shape or len(weight.shape) < 2:
        return None
    # Attention does not tell the mode of its parts; a kernel of int8 has more axes than two there.
    mode = layer.mode or ("int8" if len(weight.shape) > 2 else "int4")
    if mode == "int8":
        fits = scale.size == prod(weight.shape[summed:])
        return _Plan(weight.shape, scale.size) if fits else None
    columns = scale.shape[-1]
    if not mode.startswith("int4") or len(weight.shape) != 2 or columns < 2:
        return None
    shape = _einsum_shape(layer, summed, weight.shape[0], columns, stored.get("bias"))
    if shape is None or weight.shape[1] != (columns + 1) // 2:
        return None
    return _Plan(shape, columns, packed=1, blocks=len(scale.shape) == 2)


def _summed(layer: Layer) -> int | None:
    """Return how many axes of a kernel are summed over, if these come first; else None."""
    if "summed" in layer.config:
        return int(layer.config["summed"])
    _, kernel, output = _letters(layer)
    free = [letter for letter in output if letter in kernel]
    count = len(kernel) - len(free)
    return count if kernel and list(kernel[count:]) == free else None


def _letters(layer: Layer) -> tuple[str, str, str]:
    """Return the letters of inputs, kernel and output of `abc,cd->abd`."""
    equation = layer.config.get("equation")
    if not isinstance(equation, str) or equation.count(",") != 1 or equation.count("->") != 1:
        return "", "", ""
    left, _, output = equation.replace("...", "").replace(" ", "").partition("->")
    inputs, _, kernel = left.partition(",")
    return inputs, kernel, output


def _einsum_shape(
    layer: Layer, summed: int, rows: int, columns: int, bias: Tensor | None
) -> tuple[int, ...] | None:
    """Return the shape of a kernel that is stored as a matrix."""
    heads = layer.config.get("heads")
    first = _first_axes(layer, summed, rows, heads)
    last: tuple[int, ...] | None = None
    if bias is not None and prod(bias.spec.shape) == columns:
        last = bias.spec.shape
    elif summed == 1 and isinstance(heads, int) and heads > 0:
        last = (heads, columns // heads)
    elif len(_letters(layer)[1]) - summed == 1:
        last = (columns,)
    if first is None or last is None or prod(last) != columns or prod(first) != rows:
        return None
    return (*first, *last)


def _first_axes(layer: Layer, summed: int, rows: int, heads: object) -> tuple[int, ...] | None:
    if summed == 1:
        return (rows,)
    if isinstance(heads, int):
        return (heads, rows // heads) if summed == 2 and heads > 0 else None
    inputs, kernel, _ = _letters(layer)
    shape = layer.build.get("input_shape")
    if not isinstance(shape, list) or len(shape) != len(inputs):
        return None
    sizes = dict(zip(inputs, shape, strict=True))
    axes = tuple(sizes.get(letter) for letter in kernel[:summed])
    known = tuple(axis for axis in axes if isinstance(axis, int))
    return known if len(known) == summed else None


class _RealTensor(Tensor):
    """The real values of a quantised matrix, computed a block of rows at a time."""

    __slots__ = ("_groups", "_plan", "_scale", "_weight", "_zero")

    def __init__(
        self,
        plan: _Plan,
        weight: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        groups: Tensor | None,
    ) -> None:
        self.spec = TensorSpec(scale.spec.dtype, plan.shape)
        self._plan = plan
        self._weight = weight
        self._scale = scale
        self._zero = zero
        self._groups = groups

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the real values."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        step = max(max_bytes // itemsize, 1) * itemsize
        compute = self._arithmetic()
        at = 0
        for values in self._integers():
            with np.errstate(all="ignore"):  # a scale of 0 is the file's own affair
                real = compute(values, slice(at, at + len(values)))
            at += len(values)
            raw = np.ascontiguousarray(real).view(np.uint8).reshape(-1).data
            for start in range(0, len(raw), step):
                yield raw[start : start + step]

    def _integers(self) -> Iterator[np.ndarray]:
        """Yield the matrix in blocks of whole rows, unpacked."""
        import numpy as np

        columns, packed = self._plan.columns, self._plan.packed
        if not self.spec.size:
            return
        width = (columns + 1) // 2 if packed == 1 else columns
        block = max(BLOCK_BYTES // (columns * self.spec.dtype.itemsize), 1) * width
        rows = self.spec.size // columns
        pending = bytearray()
        for chunk in self._weight.chunks(block):
            pending += chunk
            whole = len(pending) - len(pending) % width
            stored = np.frombuffer(bytes(pending[:whole]), np.int8).reshape(-1, width)
            del pending[:whole]
            values = stored if packed is None else _unpacked(stored, packed)[:rows, :columns]
            rows -= len(values)
            if len(values):
                yield values

    def _arithmetic(self) -> Callable[[np.ndarray, slice], np.ndarray]:
        """Return the function of a block of rows, and which they are, that computes them."""
        scale = self._scale.read()
        kind = scale.dtype
        if self._zero is None or self._groups is None:
            if self._plan.by_row:
                return lambda values, rows: values.astype(kind) / scale[rows, None]
            flat = scale.reshape(-1)
            return lambda values, _rows: values.astype(kind) / flat
        zero = self._zero.read().astype(kind)
        groups = self._block_numbers(scale.shape[1 if self._plan.by_row else 0])
        if self._plan.by_row:
            return lambda values, rows: (
                (values.astype(kind) - zero[rows][:, groups]) * scale[rows][:, groups]
            )
        return lambda values, rows: (values.astype(kind) - zero[groups[rows]]) * scale[groups[rows]]

    def _block_numbers(self, count: int) -> np.ndarray:
        import numpy as np

        if self._groups is None:
            return np.zeros(0, np.int64)
        numbers = self._groups.read()
        if not bool(np.all((numbers >= 0) & (numbers < count))):
            raise CorruptFileError(
                "numbers of blocks in `g_idx`",
                expected=f"0 to {count - 1}",
                got=f"{numbers.min()} to {numbers.max()}",
            )
        return numbers.astype(np.int64)


def _unpacked(stored: np.ndarray, axis: int) -> np.ndarray:
    """Return two values for each byte, side by side along an axis; the low half comes first."""
    import numpy as np

    low = (stored << 4).astype(np.int8) >> 4
    shape = list(stored.shape)
    shape[axis] *= 2
    return np.stack((low, stored >> 4), axis=axis + 1).reshape(shape)
