"""PyTorch: `weight` and `bias`, `(out, in)`, channels first.

Every row was run on both sides (tests/pipeline/layout). PyTorch adds what TensorFlow has not: a
counter of batches, a second bias of recurrent layers, ones and zeros for a scale or shift that a
normalization does without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...converters.dtypes import DType
from ...converters.tensors import Tensor, TensorSpec
from ...converters.uses import LayerKind
from ..transforms import filled, joined, permuted, reordered, reshaped
from .layers import Layer, Made, Undecided
from .pieces import (
    biased,
    depth_rows,
    flat,
    gru_bias,
    heads_in,
    heads_out,
    kernels,
    lstm_gates,
    refuse_flattened,
    resets_after,
    spatial_last,
)
from .shared_names import COMMON, bias_of, moments

__all__ = ["to_torch"]


def to_torch(layer: Layer) -> list[Made]:
    """Return what PyTorch makes of a layer.

    Raises:
        Undecided: that cannot be told, or PyTorch has no such layer.
        UsageError: shapes are not those of such a layer.
    """
    refuse_flattened(layer)
    return list(_CONVENTIONS[layer.kind](layer))


def _convolution(layer: Layer) -> Iterator[Made]:
    # A transposed one is (*spatial, out, in) there and (in, out, *spatial) here: the same turn.
    for part, kernel in layer.some("kernel"):
        yield Made("weight", spatial_last(kernel), (part,))
    yield from bias_of(layer)


def _depthwise(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("kernel"):
        yield Made("weight", _depth_kernel(kernel), (part,))
    yield from bias_of(layer)


def _depth_kernel(kernel: Tensor) -> Tensor:
    rows, *spatial = depth_rows(kernel).spec.shape
    return reshaped(depth_rows(kernel), (rows, 1, *spatial))


def _separable(layer: Layer) -> Iterator[Made]:
    for part, kernel in layer.some("depthwise_kernel"):
        yield Made("depthwise.weight", _depth_kernel(kernel), (part,))
    for part, kernel in layer.some("pointwise_kernel"):
        yield Made("pointwise.weight", spatial_last(kernel), (part,))
    for part, bias in layer.some("bias"):
        yield Made("pointwise.bias", bias, (part,))


def _batch_norm(layer: Layer) -> Iterator[Made]:
    yield from COMMON[LayerKind.BATCH_NORM](layer)
    if any(moments(layer)):
        yield Made("num_batches_tracked", filled(TensorSpec(DType.INT64, ()), 0), ())


# Recurrent layers


def _lstm(layer: Layer) -> Iterator[Made]:
    """Gates are i, f, g, o, where g is what TensorFlow calls c or j."""

    def rows(kernel: Tensor) -> Tensor:
        return permuted(lstm_gates(kernel, 1, layer), (1, 0))

    yield from _recurrent(layer, rows, gates=4)
    for part, bias in layer.some("bias"):
        yield from _biases(layer, biased(bias, layer), part)


def _gru(layer: Layer) -> Iterator[Made]:
    """Gates are r, z, n, where n is what TensorFlow calls h."""
    resets_after(layer, "which PyTorch cannot")
    if layer.facts.get("gates") != "zrh":
        raise Undecided("the order of its gates is not known")

    def rows(kernel: Tensor) -> Tensor:
        return permuted(reordered(kernel, 1, (1, 0, 2)), (1, 0))

    yield from _recurrent(layer, rows, gates=3)
    for part, bias in layer.some("bias"):
        for which, parts in zip(("ih", "hh"), gru_bias(bias), strict=True):
            yield Made(f"bias_{which}_l0{_suffix(layer)}", joined(parts, 0), (part,))


def _rnn(layer: Layer) -> Iterator[Made]:
    yield from _recurrent(layer, lambda kernel: permuted(kernel, (1, 0)), gates=1)
    for part, bias in layer.some("bias"):
        yield from _biases(layer, bias, part)


def _recurrent(layer: Layer, rows: Callable[[Tensor], Tensor], gates: int) -> Iterator[Made]:
    for which, part, kernel in kernels(layer, gates):
        short = "ih" if which == "input" else "hh"
        yield Made(f"weight_{short}_l0{_suffix(layer)}", rows(kernel), (part,))


def _biases(layer: Layer, bias: Tensor, part: str) -> Iterator[Made]:
    yield Made(f"bias_ih_l0{_suffix(layer)}", bias, (part,))
    yield Made(f"bias_hh_l0{_suffix(layer)}", filled(bias.spec, 0), ())


def _suffix(layer: Layer) -> str:
    return "_reverse" if layer.direction == "backward" else ""


# Attention

_INPUTS = ("query", "key", "value")


def _attention(layer: Layer) -> Iterator[Made]:
    """Three projections in one tensor, if all read as many numbers as they give."""
    kernels = [f"{each}/kernel" for each in _INPUTS]
    biases = [f"{each}/bias" for each in _INPUTS]
    missing = [part for part in (*kernels, "output/kernel") if part not in layer.parts]
    if missing:
        raise Undecided(f"has no {missing[0]}")
    rows = [heads_in(layer.parts[part]) for part in kernels]
    width = rows[0].spec.shape[1]
    out = heads_out(layer.parts["output/kernel"])
    if {each.spec.shape[0] for each in rows} != {width} or out.spec.shape != (width, width):
        raise Undecided("PyTorch has attention only where heads times size is the width")
    if {each.spec.shape[1] for each in rows} == {width}:
        yield Made("in_proj_weight", joined(rows, 0), tuple(kernels))
    else:
        for letter, part, each in zip("qkv", kernels, rows, strict=True):
            yield Made(f"{letter}_proj_weight", each, (part,))
    if all(part in layer.parts for part in biases):
        flats = [flat(layer.parts[part]) for part in biases]
        yield Made("in_proj_bias", joined(flats, 0), tuple(biases))
    yield Made("out_proj.weight", out, ("output/kernel",))
    for part, bias in layer.some("output/bias"):
        yield Made("out_proj.bias", bias, (part,))


_CONVENTIONS: dict[LayerKind, Callable[[Layer], Iterator[Made]]] = {
    **COMMON,
    LayerKind.CONV: _convolution,
    LayerKind.CONV_TRANSPOSE: _convolution,
    LayerKind.DEPTHWISE: _depthwise,
    LayerKind.SEPARABLE: _separable,
    LayerKind.BATCH_NORM: _batch_norm,
    LayerKind.LSTM: _lstm,
    LayerKind.GRU: _gru,
    LayerKind.RNN: _rnn,
    LayerKind.ATTENTION: _attention,
}
