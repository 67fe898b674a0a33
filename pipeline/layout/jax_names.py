"""JAX as Flax has it: Keras's axes, `scale` and `embedding`, a kernel for each gate.

Names begin with the collection that Flax keeps a weight in: `params`, `batch_stats`. Checked
against flax 0.12 (linen; nnx has the same leaves). The kernel of a transposed convolution is that
of `ConvTranspose` as it is by default, without `transpose_kernel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...converters.tensors import Tensor
from ...converters.uses import LayerKind
from ..transforms import divided, permuted, reordered, reshaped, summed
from .layers import Layer, Made, Undecided
from .pieces import (
    biased,
    channels,
    einsum_axes,
    flat,
    gru_bias,
    kernels,
    lstm_gates,
    matrix,
    resets_after,
)

__all__ = ["to_jax"]


def to_jax(layer: Layer) -> list[Made]:
    """Return what Flax makes of a layer.

    Raises:
        Undecided: that cannot be told, or Flax has no such layer.
        UsageError: shapes are not those of such a layer.
    """
    if layer.kind in _LEAVES:
        leaves = _LEAVES[layer.kind]
        return [Made(leaves[part], tensor, (part,)) for part, tensor in layer.some(*leaves)]
    return list(_CONVENTIONS[layer.kind](layer))


_KERNEL_AND_BIAS = {"kernel": "params/kernel", "bias": "params/bias"}
_SCALE_AND_SHIFT = {"gamma": "params/scale", "beta": "params/bias"}
_MOMENTS = {"moving_mean": "batch_stats/mean", "moving_variance": "batch_stats/var"}
# Where only names differ.
_LEAVES = {
    LayerKind.CONV: _KERNEL_AND_BIAS,
    LayerKind.EMBEDDING: {"embeddings": "params/embedding"},
    LayerKind.BATCH_NORM: _SCALE_AND_SHIFT | _MOMENTS,
    LayerKind.LAYER_NORM: _SCALE_AND_SHIFT,
    LayerKind.GROUP_NORM: _SCALE_AND_SHIFT,
    LayerKind.RMS_NORM: {"scale": "params/scale"},
    LayerKind.ATTENTION: {
        f"{part}/{leaf}": f"params/{'out' if part == 'output' else part}/{leaf}"
        for part in ("query", "key", "value", "output")
        for leaf in ("kernel", "bias")
    },
}


def _dense(layer: Layer) -> Iterator[Made]:
    if "kernel" in layer.parts:
        yield Made("params/kernel", permuted(matrix(layer), (1, 0)), ("kernel",))
    yield from _bias(layer)


def _einsum(layer: Layer) -> Iterator[Made]:
    if "kernel" in layer.parts:
        axes, _ = einsum_axes(layer)
        yield Made("params/kernel", permuted(layer.parts["kernel"], axes), ("kernel",))
    yield from _bias(layer)


def _transposed(layer: Layer) -> Iterator[Made]:
    """A kernel of (*spatial, out, in), mirrored, as (*spatial, in, out)."""
    for part, kernel in layer.some("kernel"):
        rank = len(kernel.spec.shape)
        turned = permuted(kernel, (*range(rank - 2), rank - 1, rank - 2))
        for axis in range(rank - 2):
            turned = reordered(turned, axis, range(turned.spec.shape[axis])[::-1])
        yield Made("params/kernel", turned, (part,))
    yield from _bias(layer)


def _depthwise(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("kernel"):
        yield Made("params/kernel", _grouped(kernel), (part,))
    yield from _bias(layer)


def _grouped(kernel: Tensor) -> Tensor:
    *spatial, inputs, multiplier = kernel.spec.shape
    return reshaped(kernel, (*spatial, 1, inputs * multiplier))


def _separable(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("depthwise_kernel"):
        yield Made("params/depthwise/kernel", _grouped(kernel), (part,))
    for part, tensor in layer.some("pointwise_kernel", "bias"):
        leaf = "kernel" if part == "pointwise_kernel" else "bias"
        yield Made(f"params/pointwise/{leaf}", tensor, (part,))


def _bias(layer: Layer) -> Iterator[Made]:
    for part, bias in layer.some("bias"):
        yield Made("params/bias", bias, (part,))


def _prelu(layer: Layer) -> Iterator[Made]:
    for part, alpha in layer.some("alpha"):
        slopes = channels(alpha)
        if slopes.spec.size != 1:
            raise Undecided("Flax has one slope for all channels")
        yield Made("params/negative_slope", reshaped(slopes, ()), (part,))


def _lstm(layer: Layer) -> Iterator[Made]:
    """Cells `ii`, `if`, `ig`, `io` of the input, `hi`, … of the state, which have the biases."""
    for which, part, kernel in kernels(layer, 4):
        ordered = lstm_gates(kernel, 1, layer)
        for gate, each in zip("ifgo", _gates(ordered, 1, 4), strict=True):
            yield Made(_cell(layer, f"{which[0].replace('r', 'h')}{gate}/kernel"), each, (part,))
    for part, bias in layer.some("bias"):
        for gate, each in zip("ifgo", _gates(biased(bias, layer), 0, 4), strict=True):
            yield Made(_cell(layer, f"h{gate}/bias"), each, (part,))


def _gru(layer: Layer) -> Iterator[Made]:
    resets_after(layer, "which Flax does not")
    for which, part, kernel in kernels(layer, 3):
        ordered = reordered(kernel, 1, (1, 0, 2))
        for gate, each in zip("rzn", _gates(ordered, 1, 3), strict=True):
            yield Made(_cell(layer, f"{which[0].replace('r', 'h')}{gate}/kernel"), each, (part,))
    for part, bias in layer.some("bias"):
        of_input, of_state = gru_bias(bias)
        for gate, each, other in zip("rz", of_input[:2], of_state[:2], strict=True):
            yield Made(_cell(layer, f"i{gate}/bias"), summed([each, other]), (part,))
        yield Made(_cell(layer, "in/bias"), of_input[2], (part,))
        yield Made(_cell(layer, "hn/bias"), of_state[2], (part,))


def _rnn(layer: Layer) -> Iterator[Made]:
    for which, part, kernel in kernels(layer, 1):
        yield Made(_cell(layer, f"{'i' if which == 'input' else 'h'}/kernel"), kernel, (part,))
    for part, bias in layer.some("bias"):
        yield Made(_cell(layer, "i/bias"), flat(bias), (part,))


def _gates(tensor: Tensor, axis: int, count: int) -> list[Tensor]:
    return divided(tensor, axis, [tensor.spec.shape[axis] // count] * count)


def _cell(layer: Layer, leaf: str) -> str:
    """Return the name of a leaf in a cell; directions are cells of their own."""
    return "/".join(filter(None, ("params", layer.direction, "cell", leaf)))


_CONVENTIONS: dict[LayerKind, Callable[[Layer], Iterator[Made]]] = {
    LayerKind.DENSE: _dense,
    LayerKind.EINSUM_DENSE: _einsum,
    LayerKind.CONV_TRANSPOSE: _transposed,
    LayerKind.DEPTHWISE: _depthwise,
    LayerKind.SEPARABLE: _separable,
    LayerKind.PRELU: _prelu,
    LayerKind.LSTM: _lstm,
    LayerKind.GRU: _gru,
    LayerKind.RNN: _rnn,
}
