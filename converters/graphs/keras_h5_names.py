"""Names and roles of what a legacy Keras `.h5` lists, beside the config where there is one.

    conv/kernel             entry of layer `conv`, without `:0`: the name
    d_in/kernel             entry of the nested model `inner`: inner/d_in/kernel
    kernel                  entry of Keras 3.0: the layer's name goes before it
    sequential/conv/kernel  entry of Keras 3: the model's own name is no part of it
    conv_1/kernel           TensorFlow 1 numbered the scope of a layer made twice

An optimizer's variables are told by names that its config would give them (tf_keras, Keras 3), by
names that hold their variable's (OptimizerV2 of TF 2.0 to 2.10), or, where Keras 1 to 2.3 called
them `Variable_3` or `m_0`, by their place if every shape agrees (keras/optimizers.py, v2.3.1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..tensors import Evidence, Origin, Role, Tensor, TensorSpec
from .keras_config import Layer, children, inner, parse
from .keras_optimizers import optimizer_variables
from .keras_variables import variables_of_layer
from .name_patterns import STATISTICS, describe_by_name, leaf_of

__all__ = ["Entry", "LayerFinder", "Slot", "describe", "live_name", "model_of", "optimizer_of"]

_MODELS = frozenset({"Functional", "Model", "Sequential"})
_COUNTER = re.compile(r"iter(ations?)?(_\d+)?")
_STATE = re.compile(r".*_running_(mean|std)|seed_generator_state", re.DOTALL)
# What Keras 1 to 2.3 called slots: no word of whose they are.
_ANONYMOUS = re.compile(
    r"(param|[Vv]ariable|m|v|u|vhat|moment|accumulator|delta_accumulator)(_\d+){0,2}"
)
# Slots in groups, each of every trained variable in turn (keras/optimizers.py, v1.2.2 and v2.3.1).
_OLD_SLOTS: Mapping[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "rmsprop": ("accumulator",),
    "adagrad": ("accumulator",),
    "adadelta": ("accumulator", "delta_accumulator"),
    "adam": ("m", "v"),
    "adamax": ("m", "u"),
    "nadam": ("m", "v"),
}


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


class Slot(NamedTuple):
    """A variable of the optimizer: path of the dataset, what the list calls it, and its spec."""

    key: str
    text: str
    spec: TensorSpec


class _Found(NamedTuple):
    name: str
    role: Role
    trainable: bool | None = None
    evidence: Evidence = Evidence.NAME
    owner: str | None = None  # a key
    slot: str | None = None


def live_name(text: str) -> str:
    """Return what a list calls a variable without the number of the output, `:0`."""
    return text.removesuffix(":0")


# The config


def model_of(config: Mapping[str, Any] | None, keras: int) -> Layer | None:
    """Return the model of an attribute `model_config`, or None if it is none.

    Args:
        config: its JSON.
        keras: major version of the Keras that wrote it.
    """
    return parse(_with_layers(config), keras)


def _with_layers(value: object) -> object:
    """Give a Sequential whose config is the list of its layers (to Keras 2.2.2) a config."""
    if isinstance(value, list):
        return [_with_layers(item) for item in value]
    if not isinstance(value, dict):
        return value
    content = {key: _with_layers(item) for key, item in value.items()}
    if content.get("class_name") == "Sequential" and isinstance(content.get("config"), list):
        content["config"] = {"name": content.get("name"), "layers": content["config"]}
    return content


def optimizer_of(config: object, keras: int) -> Layer | None:
    """Return the optimizer of a `training_config`, or None if it is none."""
    found = inner(Layer("", "", {"optimizer": config}, keras=keras), "optimizer")
    # tf_keras registers its own ones as custom objects.
    return found and found._replace(kind=found.kind.removeprefix("Custom>"))


class LayerFinder:
    """Layers of a config by name.

    Args:
        model: from the config, where there is one.
    """

    def __init__(self, model: Layer | None) -> None:
        self._model = model
        self._top = {child.name: child for child in children(model).values()} if model else {}
        self._known: dict[int, tuple[Layer, dict[str, list[Layer]]]] = {}

    def candidates(self, layer: str, path: Sequence[str]) -> list[Layer]:
        """Return the layers at a path of names below a layer of the model, and what those wrap."""
        found = [self._top[layer]] if layer in self._top else []
        for part in path:
            found = [below for each in found for below in self._below(each).get(part, ())]
        return [each for layer in found for each in (layer, *_wrapped(layer))]

    def parts(self, entry: Entry) -> list[str]:
        """Return the name of a variable below the name of its layer, in parts."""
        text, layer = entry.text, entry.layer
        if not layer:
            return text.split("/")
        if text.startswith(f"{layer}/"):
            return text[len(layer) + 1 :].split("/")
        if self._model and text.startswith(f"{self._model.name}/{layer}/"):
            return text[len(self._model.name) + len(layer) + 2 :].split("/")
        numbered = re.match(rf"{re.escape(layer)}_\d+/", text)
        if numbered and layer in self._top:
            scope = numbered[0][:-1]
            if scope not in self._below(self._top[layer]):
                return text[len(numbered[0]) :].split("/")
        return text.split("/")

    def _below(self, layer: Layer) -> dict[str, list[Layer]]:
        """Return the layers below one by name; models in models leave no name of their own."""
        known = self._known.get(id(layer))
        if known is None:
            found: dict[str, list[Layer]] = {}
            for child in children(layer).values():
                for name in {child.name, _own_name(child)}:
                    found.setdefault(name, []).append(child)
                if child.kind in _MODELS or not child.name:
                    for name, layers in self._below(child).items():
                        found.setdefault(name, []).extend(layers)
            known = self._known[id(layer)] = layer, found
        return known[1]


def _own_name(layer: Layer) -> str:
    """Return what a layer was called before a wrapper gave it another name."""
    name = layer.config.get("name")
    return name if isinstance(name, str) else layer.name


def _wrapped(layer: Layer) -> Iterator[Layer]:
    """Yield cells and wrapped layers, whose variables may bear the name of the outer one alone."""
    if layer.kind not in _MODELS:
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
        (entry, entry.tensor.spec) for entry in entries if found[entry.key].trainable is not False
    ]
    found |= _optimizer_variables(slots, trained, optimizer)
    found |= {key: _Found(key, Role.UNKNOWN, None, Evidence.NONE) for key in others}
    names = _unique(found) if readable else {key: key for key in found}
    return {
        names[key]: Origin(
            key, each.role, names[each.owner] if each.owner else None, each.trainable,
            each.evidence, each.slot,
        )
        for key, each in found.items()
    }  # fmt: skip


def _unique(found: Mapping[str, _Found]) -> dict[str, str]:
    """Give each key its name where no other has it and no key is called so; else the key."""
    counts = Counter(each.name for each in found.values())
    return {
        key: each.name
        if counts[each.name] == 1 and (each.name == key or each.name not in found)
        else key
        for key, each in found.items()
    }


def _model_variables(entries: Iterable[Entry], finder: LayerFinder) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    objects: dict[tuple[str, ...], list[tuple[Entry, str]]] = {}
    for entry in entries:
        *path, leaf = finder.parts(entry)
        objects.setdefault((entry.layer, *path), []).append((entry, leaf))
        found[entry.key] = _by_name("/".join(filter(None, (entry.layer, *path, leaf))))
    for (layer, *path), variables in objects.items():
        known = _by_config(finder.candidates(layer, path), variables)
        for (entry, _), (role, trainable) in zip(variables, known, strict=False):
            found[entry.key] = _Found(found[entry.key].name, role, trainable, Evidence.CONFIG)
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


def _by_name(name: str) -> _Found:
    leaf = leaf_of(name)
    if leaf in STATISTICS or _STATE.fullmatch(leaf):
        return _Found(name, Role.STATE, trainable=False)
    return _Found(name, Role.WEIGHT)


# The optimizer

Trained = Sequence[tuple[Entry, TensorSpec]]


def _optimizer_variables(
    slots: Sequence[Slot], trained: Trained, optimizer: Layer | None
) -> dict[str, _Found]:
    found = {slot.key: _unowned(slot.text) for slot in slots}
    if optimizer is not None:
        known = _by_expected_names(slots, trained, optimizer) or _by_scoped_names(slots, trained)
        found |= known or _by_place(slots, trained, optimizer)
    return found


def _unowned(text: str) -> _Found:
    is_counter = _COUNTER.fullmatch(leaf_of(text)) is not None
    return _Found(text, Role.COUNTER if is_counter else Role.OPTIMIZER, trainable=False)


def _by_expected_names(
    slots: Sequence[Slot], trained: Trained, optimizer: Layer
) -> dict[str, _Found]:
    """Tell slots by the names that today's optimizers give them, if all agree."""
    owners = _owners(trained)
    specs = [slot.spec for slot in slots]
    pairs = [(entry.text, spec) for entry, spec in trained]
    known = optimizer_variables(optimizer, pairs, specs) or []
    if [each.name for each in known] != [slot.text for slot in slots]:
        return {}
    return {
        slot.key: _Found(
            slot.text, each.role, False, Evidence.CONFIG, owners.get(each.owner or ""), each.slot
        )
        for slot, each in zip(slots, known, strict=True)
    }


def _by_scoped_names(slots: Sequence[Slot], trained: Trained) -> dict[str, _Found]:
    """Tell slots whose names hold the name of their variable."""
    owners = _owners(trained)
    shapes = {entry.text: spec.shape for entry, spec in trained}
    shapes |= {slot.text: slot.spec.shape for slot in slots}
    origins = describe_by_name(shapes, shapes)
    found = {}
    for slot in slots:
        origin = origins[slot.text]
        owner = owners.get(origin.owner or "")
        if origin.role is Role.SLOT and owner:
            found[slot.key] = _Found(slot.text, Role.SLOT, False, Evidence.NAME, owner, origin.slot)
    return found


def _owners(trained: Trained) -> dict[str, str]:
    """Return the key of each trained variable by what its list calls it, where that is one."""
    counts = Counter(entry.text for entry, _ in trained)
    return {entry.text: entry.key for entry, _ in trained if counts[entry.text] == 1}


def _by_place(slots: Sequence[Slot], trained: Trained, optimizer: Layer) -> dict[str, _Found]:
    """Tell slots that bear numbers for names, if every shape is that of the variable."""
    names = _OLD_SLOTS.get(optimizer.kind.lower(), ())
    counters = 0
    while counters < len(slots) and _COUNTER.fullmatch(leaf_of(slots[counters].text)):
        counters += 1
    rest = slots[counters:]
    count = len(names) * len(trained)
    if not count or len(rest) < count:
        return {}
    if not all(_ANONYMOUS.fullmatch(leaf_of(slot.text)) for slot in rest):
        return {}
    # Adam has a third group, of single zeros unless it is asked for.
    if len(rest) == count + len(trained) and optimizer.config.get("amsgrad"):
        names = (*names, "vhat")
    elif len(rest) > count and (len(rest) != count + len(trained) or names != ("m", "v")):
        return {}
    expected = [(name, entry, spec) for name in names for entry, spec in trained]
    if any(
        slot.spec.shape != spec.shape for slot, (_, _, spec) in zip(rest, expected, strict=False)
    ):
        return {}
    return {
        slot.key: _Found(slot.text, Role.SLOT, False, Evidence.CONFIG, entry.key, name)
        for slot, (name, entry, _) in zip(rest, expected, strict=False)
    }
