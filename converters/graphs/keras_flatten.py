"""Which dense layers of a Keras config read what was flattened.

What a layer reads is in `inbound_nodes` of a functional model, and in the order of a sequential
one. Both Keras generations nest the names of layers in lists of their own; every text in them that
is the name of a layer is taken for one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .keras_config import Layer, children, is_model

__all__ = ["flattened_layers"]

# These keep the order of what they read, so that one has to look behind them.
_THROUGH = frozenset({
    "Dropout", "GaussianDropout", "GaussianNoise", "AlphaDropout", "Activation", "ReLU",
    "LeakyReLU", "ELU", "PReLU", "Softmax", "BatchNormalization", "LayerNormalization", "Identity",
    "ActivityRegularization", "Masking",
})  # fmt: skip
# What has a weight for each number that it reads.
_WITH_WEIGHTS = frozenset({"Dense", "BatchNormalization", "LayerNormalization", "PReLU"})
_FLATTENING = frozenset({"Flatten", "Reshape"})
MAX_LENGTH = 1 << 31  # of an axis
MAX_NODES = 1 << 20  # of the texts in one model's list of nodes


Path = tuple[str, ...]
Axes = tuple[int, ...]


def flattened_layers(model: Layer) -> dict[Path, Axes]:
    """Return the layers that read what was flattened from more than one axis, by path.

    With them the lengths of the axes, channels last; none where they are not known.

    A flattened input of one channel, or of a single axis, keeps its order everywhere; where that
    is not known it counts as flattened.

    Args:
        model: from the config.
    """
    return dict(_in_model(model, ()))


def _in_model(model: Layer, above: Path) -> Iterator[tuple[Path, Axes]]:
    layers = {layer.name: layer for layer in children(model).values()}
    before = _predecessors(model, list(layers))
    for name, layer in layers.items():
        if is_model(layer):
            yield from _in_model(layer, (*above, name))
        elif layer.kind in _WITH_WEIGHTS:
            flatten = _flattening_before(name, layers, before)
            if flatten is not None and not _keeps_order(flatten):
                yield (*above, name), _axes(flatten)


def _flattening_before(
    name: str, layers: Mapping[str, Layer], before: Mapping[str, tuple[str, ...]]
) -> Layer | None:
    todo, seen = [*before.get(name, ())], {name}
    while todo:
        current = todo.pop()
        layer = layers.get(current)
        if layer is None or current in seen:
            continue
        seen.add(current)
        if layer.kind in _FLATTENING:
            return layer
        if layer.kind in _THROUGH:
            todo += before.get(current, ())
    return None


def _axes(layer: Layer) -> Axes:
    """Return the lengths of the axes that a layer flattens, none where they are not known."""
    lengths = _shape(layer)[1:] if layer.kind == "Flatten" else []
    known = all(type(each) is int and 0 < each < MAX_LENGTH for each in lengths)
    return tuple(lengths) if known else ()


def _keeps_order(layer: Layer) -> bool:
    """Tell whether flattening cannot depend on where the channels are."""
    shape = _shape(layer)
    if not all(each is None or type(each) is int for each in shape or [""]):
        return False
    return len(shape) < 3 or shape[-1] == 1 or shape[1:-1].count(1) == len(shape) - 2


def _shape(layer: Layer) -> list[Any]:
    """Return the shape of what a layer reads, channels last; empty where it is not known.

    Keras puts channels last before it flattens, whatever `data_format` says, so that the order is
    the same (keras/src/layers/reshaping/flatten.py, v3.15).
    """
    shape = layer.build.get("input_shape")
    if not isinstance(shape, list):
        return []
    if layer.config.get("data_format") == "channels_first" and len(shape) > 2:
        return [shape[0], *shape[2:], shape[1]]
    return shape


def _predecessors(model: Layer, names: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the layers that each layer of a model reads from, by name."""
    items = model.config.get("layers")
    if model.kind == "Sequential" or not isinstance(items, list):
        return {name: tuple(names[at - 1 : at]) for at, name in enumerate(names)}
    known = frozenset(names)
    found: dict[str, tuple[str, ...]] = {}
    for item in items:
        if not isinstance(item, dict):
            continue
        config = item.get("config")
        name = item.get("name") or (config.get("name") if isinstance(config, dict) else None)
        if isinstance(name, str):
            texts = _texts(item.get("inbound_nodes"))
            found[name] = tuple(dict.fromkeys(text for text in texts if text in known))
    return found


def _texts(value: Any) -> Iterator[str]:
    """Yield all texts in nested lists and objects."""
    todo = [value]
    for _ in range(MAX_NODES):
        if not todo:
            return
        current = todo.pop()
        if isinstance(current, str):
            yield current
        elif isinstance(current, list):
            todo += current
        elif isinstance(current, dict):
            todo += current.values()
