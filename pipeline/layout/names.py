"""What names say about weights, where neither a graph nor a config does.

Only what leaves no choice counts: a leaf that one kind of layer has, the number of axes, and the
name of the layer where Keras or TensorFlow gave it. A square kernel may be stored either way, so
its name alone decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from ...converters.uses import Evidence, LayerKind, Use, Uses

__all__ = ["uses_of_names"]


class _Rule(NamedTuple):
    """Names of layers, and what their leaves are by number of axes."""

    layer: re.Pattern[str]
    kind: LayerKind
    leaves: Mapping[str, tuple[str, frozenset[int]]]  # part and numbers of axes, by leaf


def _rule(layer: str, kind: LayerKind, **leaves: tuple[str, set[int]]) -> _Rule:
    found = {leaf: (part, frozenset(ranks)) for leaf, (part, ranks) in leaves.items()}
    return _Rule(re.compile(rf"(?:.*_)?(?:{layer})(?:_\d+)?"), kind, found)


_FILTERS = (LayerKind.CONV, LayerKind.CONV_TRANSPOSE, LayerKind.DEPTHWISE, LayerKind.SEPARABLE)
_BIAS = ("bias", {1})
_SCALE_AND_SHIFT = {"gamma": ("gamma", {1}), "beta": ("beta", {1})}
_MOMENTS = {
    "moving_mean": ("moving_mean", {1}),
    "moving_variance": ("moving_variance", {1}),
}
# Keras's and TF-slim's names of layers; the first that matches the last part before the leaf.
_RULES = (
    _rule("separable_conv[123]d", LayerKind.SEPARABLE,
          depthwise_kernel=("depthwise_kernel", {3, 4}),
          pointwise_kernel=("pointwise_kernel", {3, 4}), bias=_BIAS),
    _rule("depthwise_conv[12]d", LayerKind.DEPTHWISE,
          depthwise_kernel=("kernel", {3, 4}), kernel=("kernel", {3, 4}), bias=_BIAS),
    *(_rule(f"conv{dims}d_transpose", LayerKind.CONV_TRANSPOSE,
            kernel=("kernel", {dims + 2}), bias=_BIAS) for dims in (1, 2, 3)),
    *(_rule(f"conv{dims}d", LayerKind.CONV, kernel=("kernel", {dims + 2}), bias=_BIAS)
      for dims in (1, 2, 3)),
    _rule("dense", LayerKind.DENSE, kernel=("kernel", {2}), bias=_BIAS),
    _rule("embedding", LayerKind.EMBEDDING, embeddings=("embeddings", {2})),
    _rule("(?:sync_)?batch_normalization(?:_v[12])?|BatchNorm", LayerKind.BATCH_NORM,
          **_SCALE_AND_SHIFT, **_MOMENTS),
    _rule("layer_normalization|LayerNorm", LayerKind.LAYER_NORM, **_SCALE_AND_SHIFT),
    _rule("group_normalization", LayerKind.GROUP_NORM, **_SCALE_AND_SHIFT),
)  # fmt: skip


def uses_of_names(shapes: Mapping[str, tuple[int, ...]]) -> Uses:
    """Return what names and shapes say.

    Args:
        shapes: of the tensors of a model, by name.
    """
    known: dict[str, Use] = {}
    undecided: dict[str, str] = {}
    for name, shape in shapes.items():
        found = _use(name, shape)
        if isinstance(found, Use):
            known[name] = found
        else:
            undecided[name] = found
    for name in _of_batch_norms(shapes, undecided):
        path, _, leaf = name.rpartition("/")
        known[name] = Use(path, LayerKind.BATCH_NORM, leaf, Evidence.NAME, "moving_variance")
        del undecided[name]
    unsure = {known[name].layer for name, shape in shapes.items() if _is_square(known, name, shape)}
    for name in [name for name, use in known.items() if use.layer in unsure]:
        del known[name]
        undecided[name] = "a square kernel, and nothing but its name tells which way it lies"
    channels = {
        length for name, use in known.items() if _is_filter(use) for length in shapes[name][-2:]
    } - {0}
    for name, use in known.items():
        dense = use.kind is LayerKind.DENSE and use.part == "kernel"
        if dense and _may_be_flattened(shapes[name], channels):
            known[name] = replace(use, facts={"flattened": "perhaps"})
    return Uses(known, undecided)


def _is_filter(use: Use) -> bool:
    return use.part.endswith("kernel") and use.kind in _FILTERS


def _use(name: str, shape: tuple[int, ...]) -> Use | str:
    path, _, leaf = name.rpartition("/")
    last = path.rpartition("/")[2]
    for rule in _RULES:
        if not rule.layer.fullmatch(last):
            continue
        part, ranks = rule.leaves.get(leaf, ("", frozenset()))
        if len(shape) in ranks:
            return Use(path, rule.kind, part, Evidence.NAME, f"{last}/{leaf}")
        return f"no {rule.kind.value} has a `{leaf}` of {len(shape)} axes"
    return "neither a graph nor its name tells what it is"


def _of_batch_norms(shapes: Mapping[str, tuple[int, ...]], names: Iterable[str]) -> list[str]:
    """Return what lies beside a moving mean and variance, whatever the layer is called."""
    beside: dict[str, set[str]] = {}
    for name in names:
        path, _, leaf = name.rpartition("/")
        beside.setdefault(path, set()).add(leaf)
    whole = {path for path, leaves in beside.items() if path and _MOMENTS.keys() <= leaves}
    parts = _MOMENTS.keys() | _SCALE_AND_SHIFT.keys()
    found = []
    for name in names:
        path, _, leaf = name.rpartition("/")
        if path in whole and leaf in parts and len(shapes[name]) == 1:
            found.append(name)
    return found


def _may_be_flattened(shape: tuple[int, ...], channels: set[int]) -> bool:
    """Tell whether the rows of a dense kernel may be places times channels of a convolution."""
    return any(shape[0] > each and shape[0] % each == 0 for each in channels)


def _is_square(known: Mapping[str, Use], name: str, shape: tuple[int, ...]) -> bool:
    use = known.get(name)
    return bool(use and use.kind is LayerKind.DENSE and len(shape) == 2 and shape[0] == shape[1])
