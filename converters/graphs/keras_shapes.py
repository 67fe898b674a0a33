"""Shapes that Keras's own layers give their variables, as far as a config tells.

A dimension is None where the config does not tell it; all of them where it tells nothing. Input
widths are in `build_config`, which layers inside of others do not have.

Verified against live models of keras 3.15 and tf_keras 2.21, whose every variable has the shape
that is told here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from .keras_config import Layer

__all__ = ["Shape", "fits", "shape_of"]

Shape: TypeAlias = tuple[int | None, ...]

_GATES = {"LSTMCell": 4, "GRUCell": 3, "SimpleRNNCell": 1}
_NORMALIZATIONS = ("BatchNormalization", "SyncBatchNormalization", "LayerNormalization",
                   "GroupNormalization", "RMSNormalization")  # fmt: skip


def shape_of(layer: Layer, variable: str) -> Shape | None:
    """Return the shape of a variable of a layer, or None where nothing is known of it.

    Args:
        layer: one of Keras's own classes.
        variable: its own name, such as `kernel`.
    """
    kind = layer.kind
    if layer.mode is not None:  # integers are packed in many ways
        return None
    if kind == "Dense":
        return _dense(layer).get(variable)
    if kind == "Embedding":
        config = layer.config
        return (_number(config, "input_dim"), _number(config, "output_dim"))
    if kind in _GATES:
        return _cell(layer, _GATES[kind]).get(variable)
    if kind in _NORMALIZATIONS:
        return _normalized(layer)
    if kind.startswith("ConvLSTM"):
        return _convolutional_cell(layer).get(variable)
    if kind.startswith(("Conv", "DepthwiseConv", "SeparableConv")):
        return _convolution(layer).get(variable)
    return None


def fits(shape: Shape | None, found: tuple[int, ...]) -> bool:
    """Tell whether a shape is one that the config allows."""
    if shape is None:
        return True
    return len(shape) == len(found) and all(
        dim is None or dim == size for dim, size in zip(shape, found, strict=True)
    )


def _number(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _times(*factors: int | None) -> int | None:
    """Return a product, None where a factor is not known."""
    product = 1
    for factor in factors:
        if factor is None:
            return None
        product *= factor
    return product


def _input(layer: Layer) -> Shape:
    """Return the input shape that a layer was built with, the batch included; () if unknown."""
    shape = layer.build.get("input_shape")
    if not isinstance(shape, list) or not all(dim is None or isinstance(dim, int) for dim in shape):
        return ()
    return tuple(shape)


def _channels(layer: Layer) -> int | None:
    shape = _input(layer)
    first = layer.config.get("data_format") == "channels_first"
    return None if len(shape) < 2 else shape[1] if first else shape[-1]


def _dense(layer: Layer) -> dict[str, Shape]:
    units, shape = _number(layer.config, "units"), _input(layer)
    return {"kernel": (shape[-1] if shape else None, units), "bias": (units,)}


def _cell(layer: Layer, gates: int) -> dict[str, Shape]:
    units, shape = _number(layer.config, "units"), _input(layer)
    width = _times(gates, units)
    # tf_keras and Keras 3 both make a second bias for the recurrent part.
    two = layer.kind == "GRUCell" and bool(layer.config.get("reset_after", True))
    return {
        "kernel": (shape[-1] if shape else None, width),
        "recurrent_kernel": (units, width),
        "bias": (2, width) if two else (width,),
    }


def _normalized(layer: Layer) -> Shape | None:
    axis, shape = layer.config.get("axis", -1), _input(layer)
    axes = axis if isinstance(axis, list) else [axis]
    if not shape or not all(isinstance(each, int) for each in axes):
        return None
    if any(not -len(shape) <= each < len(shape) for each in axes):
        return None
    return tuple(shape[each] for each in axes)


def _window(layer: Layer) -> Shape | None:
    """Return the spatial part of a kernel; its rank is in the name of the class."""
    size = layer.config.get("kernel_size")
    rank = next(int(char) for char in f"{layer.kind}0" if char.isdecimal())
    if isinstance(size, int):
        return (size,) * rank
    if not isinstance(size, list) or len(size) != rank:
        return None
    return tuple(each if isinstance(each, int) else None for each in size)


def _convolution(layer: Layer) -> dict[str, Shape]:
    window, inputs, filters = _window(layer), _channels(layer), _number(layer.config, "filters")
    if window is None:
        return {}
    if layer.kind.startswith("Separable"):
        middle = _times(inputs, _number(layer.config, "depth_multiplier"))
        return {
            "depthwise_kernel": (*window, inputs, _number(layer.config, "depth_multiplier")),
            "pointwise_kernel": (*(1 for _ in window), middle, filters),
            "bias": (filters,),
        }
    if layer.kind.startswith("Depthwise"):
        multiplier = _number(layer.config, "depth_multiplier")
        kernel = (*window, inputs, multiplier)
        bias = (_times(inputs, multiplier),)
        return {"kernel": kernel, "depthwise_kernel": kernel, "bias": bias}
    if layer.kind.endswith("Transpose"):
        return {"kernel": (*window, filters, inputs), "bias": (filters,)}
    groups = layer.config.get("groups") or 1
    inputs = inputs // groups if inputs is not None and isinstance(groups, int) else None
    return {"kernel": (*window, inputs, filters), "bias": (filters,)}


def _convolutional_cell(layer: Layer) -> dict[str, Shape]:
    window, filters = _window(layer), _number(layer.config, "filters")
    if window is None:
        return {}
    wide = _times(4, filters)
    return {
        "kernel": (*window, _channels(layer), wide),
        "recurrent_kernel": (*window, filters, wide),
        "bias": (wide,),
    }
