"""What PyTorch and MLX have in common: `weight` and `bias`, and `(out, in)`.

Where a normalization does without a scale or a shift, both frameworks still have a tensor for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ...converters.uses import LayerKind
from ..transforms import filled
from .layers import Layer, Made
from .pieces import channels, einsum_kernel, flat, matrix

__all__ = ["COMMON", "bias_of", "moments"]

_MOMENTS = {"moving_mean": "running_mean", "moving_variance": "running_var"}


def bias_of(layer: Layer) -> Iterator[Made]:
    """Yield the bias of a layer, if it has one."""
    for part, bias in layer.some("bias"):
        yield Made("bias", flat(bias), (part,))


def moments(layer: Layer) -> Iterator[Made]:
    """Yield what a normalization of batches has collected."""
    for part, tensor in layer.some(*_MOMENTS):
        yield Made(_MOMENTS[part], tensor, (part,))


def _dense(layer: Layer) -> Iterator[Made]:
    if "kernel" in layer.parts:
        yield Made("weight", matrix(layer), ("kernel",))
    yield from bias_of(layer)


def _einsum(layer: Layer) -> Iterator[Made]:
    if "kernel" in layer.parts:
        yield Made("weight", einsum_kernel(layer), ("kernel",))
    yield from bias_of(layer)


def _embedding(layer: Layer) -> Iterator[Made]:
    for part, table in layer.some("embeddings"):
        yield Made("weight", table, (part,))


def _normalization(layer: Layer) -> Iterator[Made]:
    """Scale and shift; where there is one of them alone, the other as if it were not there."""
    leaves = {"gamma": ("weight", 1), "beta": ("bias", 0)}
    given = dict(layer.some(*leaves))
    for part, (leaf, nothing) in leaves.items():
        if part in given:
            yield Made(leaf, given[part], (part,))
        elif given:
            [other] = given.values()
            yield Made(leaf, filled(other.spec, nothing), ())


def _batch_norm(layer: Layer) -> Iterator[Made]:
    yield from _normalization(layer)
    yield from moments(layer)


def _rms_norm(layer: Layer) -> Iterator[Made]:
    for part, scale in layer.some("scale"):
        yield Made("weight", scale, (part,))


def _prelu(layer: Layer) -> Iterator[Made]:
    for part, alpha in layer.some("alpha"):
        yield Made("weight", channels(alpha), (part,))


COMMON: Mapping[LayerKind, Callable[[Layer], Iterator[Made]]] = {
    LayerKind.DENSE: _dense,
    LayerKind.EINSUM_DENSE: _einsum,
    LayerKind.EMBEDDING: _embedding,
    LayerKind.BATCH_NORM: _batch_norm,
    LayerKind.LAYER_NORM: _normalization,
    LayerKind.GROUP_NORM: _normalization,
    LayerKind.RMS_NORM: _rms_norm,
    LayerKind.PRELU: _prelu,
}
