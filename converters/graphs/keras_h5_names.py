"""Names and roles of what a legacy Keras `.h5` lists, beside the config where there is one.

    conv/kernel             entry of layer `conv`, without `:0`: the name
    d_in/kernel             entry of the nested model `inner`: inner/d_in/kernel
    d_deep/kernel           of a model `deep` in it, by the config: inner/deep/d_deep/kernel
    kernel                  entry of Keras 3.0: the layer's name goes before it
    sequential/conv/kernel  entry of Keras 3: the model's own name is no part of it
    mine/conv/kernel        entry of a subclassed model, whose name stands before several layers'
    conv_1/kernel           TensorFlow 1 numbered the scope of a layer made twice

Variables of the optimizer: `keras_h5_slots.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..tensors import Evidence, Origin, Role, Tensor
from .keras_config import Layer, children, inner, parse
from .keras_h5_slots import Found, Slot, Trained, optimizer_slots
from .keras_variables import variables_of_layer
from .name_patterns import STATISTICS, leaf_of

__all__ = ["Entry", "LayerFinder", "describe", "live_name", "model_of", "optimizer_of"]

# What configs here call a class otherwise than `config.json` does: Keras 1, and keras 3.15.
_CLASSES = {
    "AtrousConvolution1D": "Conv1D",
    "AtrousConvolution2D": "Conv2D",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Deconvolution2D": "Conv2DTranspose",
    "GroupedQueryAttention": "GroupQueryAttention",
    "SeparableConvolution2D": "SeparableConv2D",
}
_STATE = re.compile(r".*_running_(mean|std)|seed_generator_state", re.DOTALL)


class Entry(NamedTuple):
    """A variable of the model.

    Attributes:
        key: path of the dataset.
        layer: that lists it; empty for the model's own.
        text: what the list calls it, without `:0`.
        tensor: its values.
    """

    key: str
    layer: str
    text: str
    tensor: Tensor


def live_name(text: str) -> str:
    """Return what a list calls a variable without the number of the output, `:0`."""
    return text.removesuffix(":0").lstrip("/")


# The config


def model_of(config: Mapping[str, Any] | None, keras: int) -> Layer | None:
    """Return the model of an attribute `model_config`, or None if it is none.

    Args:
        config: its JSON.
        keras: major version of the Keras that wrote it.
    """
    return parse(_as_today(config), keras)


def _as_today(value: object) -> object:
    """Name classes as today; give a Sequential whose config is its layers (to 2.2.2) a config."""
    if isinstance(value, list):
        return [_as_today(item) for item in value]
    if not isinstance(value, dict):
        return value
    content = {key: _as_today(item) for key, item in value.items()}
    kind, inside = content.get("class_name"), content.get("config")
    if isinstance(kind, str):
        content["class_name"] = _CLASSES.get(kind, kind)
    if kind == "Sequential" and isinstance(inside, list):
        content["config"] = {"name": content.get("name"), "layers": inside}
    if kind in _CLASSES and isinstance(inside, dict) and "bias" in inside:
        content["config"] = {"use_bias": inside["bias"], **inside}
    return content


def optimizer_of(config: object, keras: int) -> Layer | None:
    """Return the optimizer of a `training_config`, or None if it is none."""
    found = inner(Layer("", "", {"optimizer": config}, keras=keras), "optimizer")
    # tf_keras registers its own ones as custom objects.
    return found and found._replace(kind=found.kind.removeprefix("Custom>"))


class _Place(NamedTuple):
    """A layer, and the models on the way to it that Keras may leave out of its path."""

    models: tuple[str, ...]
    layer: Layer


class LayerFinder:
    """Layers of a config by name.

    Args:
        model: from the config, where there is one.
        entries: all variables of the model.
    """

    def __init__(self, model: Layer | None, entries: Sequence[Entry]) -> None:
        self._top = {child.name: child for child in children(model).values()} if model else {}
        self._known: dict[int, tuple[Layer, dict[str, list[_Place]]]] = {}
        # A functional model never puts its own name before the names of its layers.
        named = model is not None and not _is_functional(model)
        scopes = (model.name if model and named else None, _common_scope(entries))
        self._scopes = list(filter(None, scopes))
        self._first: dict[str, set[str]] = {}
        for entry in entries:
            self._first.setdefault(entry.layer, set()).add(entry.text.partition("/")[0])

    def candidates(self, layer: str, path: Sequence[str]) -> list[Layer]:
        """Return the layers at a path of names below a layer of the model, and what those wrap."""
        found = [self._top[layer]] if layer in self._top else []
        for part in path:
            found = [place.layer for each in found for place in self._below(each).get(part, ())]
        return [each for layer in found for each in (layer, *_wrapped(layer))]

    def parts(self, entry: Entry) -> list[str]:
        """Return the name of a variable below the name of its layer, in parts."""
        text, layer = entry.text, entry.layer
        for scope in self._scopes:
            if text.startswith(f"{scope}/{layer}/" if layer else f"{scope}/"):
                return text[len(scope) + 1 :].removeprefix(f"{layer}/").split("/")
        if not layer:
            return text.split("/")
        if text.startswith(f"{layer}/") and not self._is_namesake(layer):
            return text[len(layer) + 1 :].split("/")
        first, _, rest = text.partition("/")
        return (rest if rest and self._is_numbered(layer, first) else text).split("/")

    def _is_namesake(self, layer: str) -> bool:
        """Whether a functional model has a layer that is called as itself."""
        found = self._top.get(layer)
        return found is not None and _is_functional(found) and layer in self._below(found)

    def _is_numbered(self, layer: str, scope: str) -> bool:
        """Whether a scope is a layer's, with a number that TensorFlow 1 has added."""
        if layer not in self._top or self._first[layer] != {scope}:
            return False
        numbered = re.fullmatch(rf"{re.escape(layer)}_\d+", scope) is not None
        return numbered and scope not in self._below(self._top[layer])

    def whole(self, layer: str, path: Sequence[str]) -> list[str]:
        """Return a path below a layer with all models on the way, if the config has one such."""
        found = self._whole(self._top[layer], tuple(path)) if layer in self._top else set()
        return list(found.pop() if len(found) == 1 else path)

    def _whole(self, above: Layer, path: tuple[str, ...]) -> set[tuple[str, ...]]:
        if not path:
            return {()}
        places = self._below(above).get(path[0], ())
        if not places and not _is_model(above):  # a custom layer: nobody knows what it holds
            return {path}
        return {
            (*filter(None, place.models), path[0], *rest)
            for place in places
            for rest in self._whole(place.layer, path[1:])
        }

    def _below(self, layer: Layer) -> dict[str, list[_Place]]:
        """Return the layers below one by name; models in models may leave no name of their own."""
        known = self._known.get(id(layer))
        if known is None:
            found: dict[str, list[_Place]] = {}
            for child in children(layer).values():
                for name in {child.name, _own_name(child)}:
                    found.setdefault(name, []).append(_Place((), child))
                if _is_model(child) or not child.name:
                    for name, places in self._below(child).items():
                        found.setdefault(name, []).extend(
                            _Place((child.name, *place.models), place.layer) for place in places
                        )
            known = self._known[id(layer)] = layer, found
        return known[1]


def _is_model(layer: Layer) -> bool:
    return layer.kind == "Sequential" or _is_functional(layer)


def _is_functional(layer: Layer) -> bool:
    return layer.kind in ("Functional", "Model") or "input_layers" in layer.config  # a subclass


def _common_scope(entries: Iterable[Entry]) -> str | None:
    """Return what stands before the names of two layers or more, if it is one and no layer's name.

    A subclassed model has no config that would tell its name.
    """
    found: dict[str, set[str]] = {}
    layers = set()
    for entry in entries:
        layers.add(entry.layer)
        scope, _, rest = entry.text.partition("/")
        if entry.layer and scope != entry.layer and rest.startswith(f"{entry.layer}/"):
            found.setdefault(scope, set()).add(entry.layer)
    scopes = [scope for scope, below in found.items() if len(below) > 1 and scope not in layers]
    return scopes[0] if len(scopes) == 1 else None


def _own_name(layer: Layer) -> str:
    """Return what a layer was called before a wrapper gave it another name."""
    name = layer.config.get("name")
    return name if isinstance(name, str) else layer.name


def _wrapped(layer: Layer) -> Iterator[Layer]:
    """Yield cells and wrapped layers, whose variables may bear the name of the outer one alone."""
    if not _is_model(layer):
        for child in children(layer).values():
            yield child
            yield from _wrapped(child)


# Origins


def describe(
    entries: Sequence[Entry],
    slots: Sequence[Slot],
    others: Iterable[str],
    finder: LayerFinder,
    optimizer: Layer | None,
    *,
    readable: bool = True,
) -> dict[str, Origin]:
    """Return the origin of every tensor by name; no two names are the same.

    Args:
        entries: variables of the model, in the order of the lists.
        slots: variables of the optimizer, in the order of their list.
        others: keys of what no list names.
        finder: of the config.
        optimizer: from the config.
        readable: whether names are readable ones or the keys themselves.
    """
    found = _model_variables(entries, finder)
    trained = [
        Trained(entry.key, _full(entry), entry.tensor.spec)
        for entry in entries
        if found[entry.key].trainable is not False
    ]
    found |= optimizer_slots(slots, trained, optimizer)
    for key in {each.owner for each in found.values() if each.role is Role.SLOT}:
        if key is not None:  # what has a slot is trained
            found[key] = found[key]._replace(trainable=True)
    found |= {key: Found(key, Role.UNKNOWN, None, Evidence.NONE) for key in others}
    names = _unique(found) if readable else {key: key for key in found}
    return {
        names[key]: Origin(
            key, each.role, names[each.owner] if each.owner else None, each.trainable,
            each.evidence, each.slot,
        )
        for key, each in found.items()
    }  # fmt: skip


def _full(entry: Entry) -> str:
    """Return what a list calls a variable, with the layer's name where Keras 3.0 leaves it out."""
    return entry.text if "/" in entry.text or not entry.layer else f"{entry.layer}/{entry.text}"


def _unique(found: Mapping[str, Found]) -> dict[str, str]:
    """Give each key its name where no other has it and no key is called so; else the key."""
    counts = Counter(each.name for each in found.values())
    return {
        key: each.name
        if counts[each.name] == 1 and (each.name == key or each.name not in found)
        else key
        for key, each in found.items()
    }


def _model_variables(entries: Iterable[Entry], finder: LayerFinder) -> dict[str, Found]:
    found: dict[str, Found] = {}
    objects: dict[tuple[str, ...], list[tuple[Entry, str]]] = {}
    for entry in entries:
        *path, leaf = finder.parts(entry)
        objects.setdefault((entry.layer, *path), []).append((entry, leaf))
        parts = (entry.layer, *finder.whole(entry.layer, path), leaf)
        found[entry.key] = _by_name("/".join(filter(None, parts)))
    for (layer, *path), variables in objects.items():
        known = _by_config(finder.candidates(layer, path), variables)
        for (entry, _), (role, trainable) in zip(variables, known, strict=False):
            found[entry.key] = Found(found[entry.key].name, role, trainable, Evidence.CONFIG)
    return found


def _by_config(
    candidates: Iterable[Layer], variables: Sequence[tuple[Entry, str]]
) -> list[tuple[Role, bool | None]]:
    """Return role and trainable of an object's variables; nothing unless one answer fits."""
    specs = [entry.tensor.spec for entry, _ in variables]
    leaves = [leaf for _, leaf in variables]
    answers = []
    for layer in candidates:
        known = variables_of_layer(layer, specs)
        if known is None or [each.name for each in known] != leaves:
            continue
        answer = [(each.role, layer.trainable if each.trained else False) for each in known]
        if answer not in answers:
            answers.append(answer)
    return answers[0] if len(answers) == 1 else []


def _by_name(name: str) -> Found:
    leaf = leaf_of(name)
    if leaf in STATISTICS or _STATE.fullmatch(leaf):
        return Found(name, Role.STATE, trainable=False)
    return Found(name, Role.WEIGHT)
