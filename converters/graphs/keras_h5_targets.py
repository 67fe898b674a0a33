"""Tensors from anywhere as the layers of a legacy Keras `.h5`.

    conv/kernel          entry of layer `conv`: the first part of a name is the layer
    inner/d_in/kernel    entry of the nested model `inner`
    step                 a variable of the model itself

With a config its layers are the layers, in its order. Keras reads by position: the variables of a
layer are those that are trained, then the others, each in the order of creation. Without a config
that order is known of Keras's own classes, by the names of their variables.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..containers.keras_h5_writer import OPTIMIZER_GROUP, LegacyLayer, LegacyModel, Listed
from ..dtypes import DType
from ..errors import TargetError
from ..tensors import Role, TensorDict
from .keras_config import children, is_model
from .keras_given import LAYERS, Given
from .keras_h5_names import Entry, LayerFinder, describe, live_name
from .keras_layout import BESIDE, METRICS, OPTIMIZER, Layout, Place
from .keras_targets import Fit, fit, looks_like_key
from .name_patterns import STATISTICS

__all__ = [
    "KERAS_H5", "Split", "by_config", "by_names", "fit_layers", "read_names", "split", "unordered",
]  # fmt: skip

KERAS_H5 = "keras-h5"
# The layout is that of Keras 2, of which this is the last release. Without any version tf_keras
# takes the weights for those of Keras 1 and turns them round.
VERSION = "2.15.0"
_METRICS = tuple(f"{group}/" for group in METRICS)
# Names of variables in the order in which Keras's own layers make them.
_ORDER = (
    "embeddings", "reverse_embeddings", "depthwise_kernel", "pointwise_kernel", "kernel",
    "recurrent_kernel", "bias", "scale", "concat_score_weight", "gamma", "beta", "moving_mean",
    "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev", "alpha", "mean",
    "variance", "count",
)  # fmt: skip
# Objects inside of attention, and of Bidirectional.
_ATTENTION = ("query", "key", "value", "attention_output")
_SIDES = ("forward", "backward")


class Split(NamedTuple):
    """Tensors of a model, names of those of its optimizer, and names of what has no place."""

    weights: TensorDict
    optimizer: list[str]
    dropped: list[str]


def split(tensors: TensorDict, config: Given | None) -> Split:
    """Return what is the model's and what is not, as far as that is known without its layers."""
    known = config.beside if config else set()
    optimizer, dropped = [], []
    for name in tensors:
        origin = tensors.origin(name)
        if origin.key.startswith(_METRICS) or (name.startswith(_METRICS) and looks_like_key(name)):
            dropped.append(name)
        elif origin.role in BESIDE or name in known:
            optimizer.append(name)
    gone = {*optimizer, *dropped}
    return Split(tensors.select(name for name in tensors if name not in gone), optimizer, dropped)


def fit_layers(weights: TensorDict, config: Given, target: Path) -> tuple[Layout, Fit]:
    """Return the places of a config's model, and which tensor goes where.

    Raises:
        TargetError: some tensors do not fit.
    """
    layout = config.layout(weights)
    fitting = fit(layout, weights, config.optimizer, own=False)
    if fitting.problem:
        hint = fitting.hint
        if not layout.layers:
            hint = "this format has the layers of Keras's own models; write .keras or .weights.h5"
        what = f"does not fit the config of {config.path}: {fitting.problem}"
        raise TargetError(what, path=target, hint=hint)
    return layout, fitting


# With a config


def by_config(
    tensors: TensorDict,
    beside: Iterable[str],
    config: Given,
    layout: Layout,
    fitting: Fit,
    target: Path,
) -> LegacyModel:
    """Return a model with the layers of its config.

    Args:
        tensors: what there is.
        beside: names of those that an optimizer keeps.
        config: of the model.
        layout: the places that it tells.
        fitting: which tensor goes where, all others.
        target: the output, for messages.

    Raises:
        TargetError: a tensor belongs to none of the layers.
    """
    places = {place.key: place for place in layout.places if not place.alias}
    aliases = {place.key for place in layout.places if place.alias}
    keys = {key: name for key, name in fitting.keys.items() if key not in aliases}
    model = config.model
    nested = {each.name for each in children(model).values() if is_model(each)} if model else set()
    below: dict[str, dict[str, str]] = {}
    for key, name in keys.items():
        below.setdefault(_group(key), {})[key] = name
    layers = []
    for layer, group in layout.layers.items():
        own = below.pop(group, {})
        texts = _texts(layer, group, own, places, nested=layer in nested)
        ordered = sorted(own, key=lambda key: not _is_trained(tensors, own[key], places.get(key)))
        variables = [_listed(tensors, texts[key], own[key]) for key in ordered]
        layers.append(LegacyLayer(layer, variables))
    keys = {key: name for own in below.values() for key, name in own.items()}
    state = [keys.pop(key) for key in list(keys) if key.startswith(f"{OPTIMIZER}/")]
    top = [_listed(tensors, key, keys.pop(key)) for key in list(keys) if key.startswith("vars/")]
    if keys:
        raise TargetError(
            f"belongs to none of the layers in the config of {config.path}",
            path=target,
            where=f"tensor `{next(iter(keys.values()))}`",
            hint="a legacy .h5 holds models of Keras's own classes; write .keras or .weights.h5",
        )
    optimizer = _optimizer(tensors, [*beside, *state])
    return LegacyModel(layers, top, optimizer, config.version or VERSION, config.texts)


def _group(key: str) -> str:
    """Return the group of a layer of the model itself, `layers/dense`, from a key below it."""
    return "/".join(key.split("/", 2)[:2])


def _texts(
    layer: str, group: str, keys: Mapping[str, str], places: Mapping[str, Place], *, nested: bool
) -> dict[str, str]:
    """Return the entry of each key in the list of a layer; no two are the same."""
    texts = {
        key: places[key].name if key in places else f"{layer}/{key[len(group) + 1 :]}"
        for key in keys
    }
    if nested:  # the layers of a model inside are the entries, without its own name
        texts = {key: text.removeprefix(f"{layer}/") for key, text in texts.items()}
    counts = Counter(texts.values())
    return {
        key: text if counts[text] == 1 else f"{layer}/{key[len(group) + 1 :]}"
        for key, text in texts.items()
    }


def _is_trained(tensors: TensorDict, name: str, place: Place | None) -> bool:
    if tensors[name].spec.dtype is DType.INT8:  # quantised
        return False
    origin = tensors.origin(name)
    if place is None:
        return origin.trainable is not False and origin.role is not Role.STATE
    return place.trained


# By names alone


def by_names(tensors: TensorDict, beside: Iterable[str]) -> LegacyModel:
    """Return weights alone, the layers by the names of the tensors, in the source's order.

    Args:
        tensors: what there is.
        beside: names of those that an optimizer keeps.
    """
    gone = set(beside)
    known = _layers_of(tensors)
    layers: dict[str, list[str]] = {layer: [] for layer in known}
    top = []
    for name in tensors:
        if name in gone:
            continue
        layer = _layer(name, known)
        if layer is None:
            top.append(name)
        else:
            layers.setdefault(layer, []).append(name)
    listed = [
        LegacyLayer(
            layer,
            [_listed(tensors, name, name) for name in (names if known else _order(tensors, names))],
        )
        for layer, names in layers.items()
    ]
    version = tensors.details.get("producer_version") if tensors.format == KERAS_H5 else None
    return LegacyModel(
        listed,
        [_listed(tensors, name, name) for name in top],
        _optimizer(tensors, beside),
        version if isinstance(version, str) else VERSION,
        {},
    )


def _layers_of(tensors: TensorDict) -> dict[str, None]:
    """Return the layers that a legacy file lists itself, in order."""
    source = tensors.attachments.get(LAYERS)
    return {} if source is None else dict.fromkeys(json.loads(source.read(0, source.size)))


def _layer(name: str, known: Mapping[str, None]) -> str | None:
    """Return the layer of a variable: the longest known that its name begins with."""
    at = name.rfind("/")
    while at >= 0:
        if name[:at] in known:
            return name[:at]
        at = name.rfind("/", 0, at)
    first, slash, _ = name.partition("/")
    return first if slash else None


def unordered(model: LegacyModel) -> list[str]:
    """Return the layers with variables of which nobody knows the order."""
    return [layer.name for layer in model.layers if not _has_order(layer)]


def _has_order(layer: LegacyLayer) -> bool:
    objects: dict[str, list[str]] = {}
    for variable in layer.variables:
        above, _, leaf = variable.text.rpartition("/")
        objects.setdefault(above, []).append(leaf)
    known = (len(leaves) < 2 or set(leaves) <= set(_ORDER) for leaves in objects.values())
    return all(known) and (len(objects) < 2 or _rank(objects) is not None)


def _order(tensors: TensorDict, names: list[str]) -> list[str]:
    """Return the variables of a layer in the order in which Keras makes them."""
    objects: dict[str, list[str]] = {}
    for name in names:
        objects.setdefault(name.rpartition("/")[0], []).append(name)
    rank = _rank(objects)
    ordered: list[str] = []
    for each in sorted(objects, key=rank) if rank else objects:
        own = objects[each]
        if all(_leaf(name) in _ORDER for name in own):
            own.sort(key=lambda name: _ORDER.index(_leaf(name)))
        ordered += own
    return sorted(ordered, key=lambda name: _is_state(tensors, name))


def _rank(objects: Iterable[str]) -> Callable[[str], int] | None:
    """Return the order of the objects inside a layer, if it is one of two that are known."""
    parts = {each: each.split("/") for each in objects}
    if all(part[-1] in _ATTENTION for part in parts.values()):
        return lambda each: _ATTENTION.index(parts[each][-1])
    sides = {each: (part[1:] or [""])[0].partition("_")[0] for each, part in parts.items()}
    if set(sides.values()) == set(_SIDES) and len(sides) == len(_SIDES):
        return lambda each: _SIDES.index(sides[each])
    return None


def _leaf(name: str) -> str:
    return name.rpartition("/")[2]


def _is_state(tensors: TensorDict, name: str) -> bool:
    origin = tensors.origin(name)
    state = origin.role is Role.STATE or origin.trainable is False
    return state or _leaf(name) in STATISTICS


# Lists


def _optimizer(tensors: TensorDict, names: Iterable[str]) -> list[Listed]:
    """Return an optimizer's variables under the names that its list has for them."""
    found = []
    for name in names:
        group, _, entry = tensors.origin(name).key.partition("/")
        own = tensors.format == KERAS_H5 and group == OPTIMIZER_GROUP
        found.append(_listed(tensors, entry.removesuffix(":0") if own else name, name))
    return found


def _listed(tensors: TensorDict, text: str, name: str) -> Listed:
    if text.endswith("/"):  # it would be read without the slash
        raise TargetError(
            "a name that ends with a slash is none of a variable of Keras",
            where=f"tensor `{name}`",
            hint="leave it out with --exclude, or choose .safetensors",
        )
    return Listed(text, name, tensors[name])


def read_names(model: LegacyModel, keys: Mapping[str, str], config: Given | None) -> dict[str, str]:
    """Return the tensors that get another name when the file is read, and which.

    Args:
        model: what is written.
        keys: name of the tensor at each path.
        config: of the model.
    """
    entries = [
        Entry(path, layer, live_name(f"{variable.text}:0"), variable.tensor)
        for path, (layer, variable) in zip(keys, model.entries(), strict=False)  # optimizer: last
    ]
    finder = LayerFinder(config.model if config and model.whole else None, entries)
    origins = describe(entries, (), (), finder, None)
    return {keys[origin.key]: name for name, origin in origins.items() if keys[origin.key] != name}
