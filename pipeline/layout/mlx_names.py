"""MLX: names as in PyTorch, channels last, `(out, *spatial, in)`; checked against mlx 0.32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...converters.tensors import Tensor
from ...converters.uses import LayerKind
from ..transforms import joined, permuted, reordered, reshaped, summed
from .layers import Layer, Made
from .pieces import (
    biased,
    depth_rows,
    flat,
    gru_bias,
    heads_in,
    heads_out,
    kernels,
    lstm_gates,
    resets_after,
)
from .shared_names import COMMON, bias_of

__all__ = ["to_mlx"]


def to_mlx(layer: Layer) -> list[Made]:
    """Return what MLX makes of a layer.

    Raises:
        Undecided: that cannot be told, or MLX has no such layer.
        UsageError: shapes are not those of such a layer.
    """
    return list(_CONVENTIONS[layer.kind](layer))


def _convolution(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("kernel"):
        yield Made("weight", _out_first(kernel, len(kernel.spec.shape) - 1), (part,))
    yield from bias_of(layer)


def _transposed(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("kernel"):
        yield Made("weight", _out_first(kernel, len(kernel.spec.shape) - 2), (part,))
    yield from bias_of(layer)


def _out_first(kernel: Tensor, axis: int) -> Tensor:
    rest = [each for each in range(len(kernel.spec.shape)) if each != axis]
    return permuted(kernel, (axis, *rest))


def _depthwise(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("kernel"):
        yield Made("weight", _depth_kernel(kernel), (part,))
    yield from bias_of(layer)


def _depth_kernel(kernel: Tensor) -> Tensor:
    rows = depth_rows(kernel)
    return reshaped(rows, (*rows.spec.shape, 1))


def _separable(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("depthwise_kernel"):
        yield Made("depthwise.weight", _depth_kernel(kernel), (part,))
    for part, kernel in layer.some("pointwise_kernel"):
        yield Made("pointwise.weight", _out_first(kernel, len(kernel.spec.shape) - 1), (part,))
    for part, bias in layer.some("bias"):
        yield Made("pointwise.bias", bias, (part,))


def _lstm(layer: Layer) -> Iterator[Made]:
    for which, part, kernel in kernels(layer, 4):
        rows = permuted(lstm_gates(kernel, 1, layer), (1, 0))
        yield Made(_half(layer, "Wx" if which == "input" else "Wh"), rows, (part,))
    for part, bias in layer.some("bias"):
        yield Made(_half(layer, "bias"), biased(bias, layer), (part,))


def _gru(layer: Layer) -> Iterator[Made]:
    resets_after(layer, "which MLX does not")
    for which, part, kernel in kernels(layer, 3):
        rows = permuted(reordered(kernel, 1, (1, 0, 2)), (1, 0))
        yield Made(_half(layer, "Wx" if which == "input" else "Wh"), rows, (part,))
    for part, bias in layer.some("bias"):
        of_input, of_state = gru_bias(bias)
        both = [summed(pair) for pair in zip(of_input[:2], of_state[:2], strict=True)]
        yield Made(_half(layer, "b"), joined([*both, of_input[2]], 0), (part,))
        yield Made(_half(layer, "bhn"), of_state[2], (part,))


def _rnn(layer: Layer) -> Iterator[Made]:
    for which, part, kernel in kernels(layer, 1):
        leaf = _half(layer, "Wxh" if which == "input" else "Whh")
        yield Made(leaf, permuted(kernel, (1, 0)), (part,))
    for part, bias in layer.some("bias"):
        yield Made(_half(layer, "bias"), bias, (part,))


def _half(layer: Layer, leaf: str) -> str:
    """Return a name in a half of a bidirectional layer, for which MLX has no layer of its own."""
    return f"{layer.direction}.{leaf}" if layer.direction else leaf


def _attention(layer: Layer) -> Iterator[Made]:
    for name in ("query", "key", "value"):
        for part, kernel in layer.some(f"{name}/kernel"):
            yield Made(f"{name}_proj.weight", heads_in(kernel), (part,))
        for part, bias in layer.some(f"{name}/bias"):
            yield Made(f"{name}_proj.bias", flat(bias), (part,))
    for part, kernel in layer.some("output/kernel"):
        yield Made("out_proj.weight", heads_out(kernel), (part,))
    for part, bias in layer.some("output/bias"):
        yield Made("out_proj.bias", bias, (part,))


_CONVENTIONS: dict[LayerKind, Callable[[Layer], Iterator[Made]]] = {
    **COMMON,
    LayerKind.CONV: _convolution,
    LayerKind.CONV_TRANSPOSE: _transposed,
    LayerKind.DEPTHWISE: _depthwise,
    LayerKind.SEPARABLE: _separable,
    LayerKind.LSTM: _lstm,
    LayerKind.GRU: _gru,
    LayerKind.RNN: _rnn,
    LayerKind.ATTENTION: _attention,
}
