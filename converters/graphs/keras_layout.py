"""What a Keras weights file has to hold: the places of all variables, as a config or a file tells.

    layers/dense/vars/0      key: where the variable goes
    inner/d_in/kernel        name: what a person calls it
    d_in/kernel              another spelling: some files leave the model inside of a model out

The config is walked as Keras walks the live model (`keras_config.py`), so that a tensor dictionary
from anywhere can be put into the places. An object of a class that is not Keras's own is open:
nobody knows its variables, and what bears its name goes there by number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import NamedTuple

from ..tensors import Origin, Role, TensorSpec
from .keras_config import Layer, children, inner, is_model
from .keras_optimizers import WRAPPED, expected_variables
from .keras_shapes import Shape, shape_of
from .keras_variables import Expected, variables_expected

__all__ = [
    "BESIDE",
    "KERAS_3",
    "METRICS",
    "OPTIMIZER",
    "VARS",
    "Layout",
    "Place",
    "layout_of_config",
    "modern_key",
    "optimizer_places",
    "with_file",
]

KERAS_3 = "keras-v3"  # the format whose keys are the places themselves
VARS = "vars"
# Groups of the root that hold no part of the model; metrics are written by 2.12 to 2.15 only.
OPTIMIZER = "optimizer"
METRICS = ("metrics", "_metrics", "compile_metrics", "_compile_metrics", "_loss_tracker")
LISTS = {"_layer_checkpoint_dependencies": "layers"}  # 2.12 to 2.14
MAX_LOOSE = 4  # parts of a name that may each be left out; all spellings are made
DEPTHWISE = {"kernel": "depthwise_kernel", "depthwise_kernel": "kernel"}
# Roles of what training keeps beside a model.
BESIDE = (Role.SLOT, Role.AVERAGE, Role.OPTIMIZER, Role.COUNTER)


class Place(NamedTuple):
    """Where a variable goes.

    Attributes:
        key: path of the dataset.
        name: what a person calls it.
        shape: what the config tells of it.
        needed: whether the model cannot be loaded without it.
        trained: whether training changes it, as the config says.
        alias: whether it is another object's variable, stored once more.
        others: other spellings of the name.
    """

    key: str
    name: str
    shape: Shape | None = None
    needed: bool = True
    trained: bool = True
    alias: bool = False
    others: tuple[str, ...] = ()


@dataclass
class Layout:
    """All places of a model.

    Attributes:
        places: in the order of the model.
        labels: paths of the groups called `vars`, each with the name of its object.
        open: objects whose variables are not known: the group of each by its readable name.
        layers: the model's own layers in order: group of each by its name.
    """

    places: list[Place] = field(default_factory=list)
    labels: dict[str, str | None] = field(default_factory=dict)
    open: dict[str, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)


def modern_key(key: str) -> str:
    """Return a key as Keras 3 spells it, whichever Keras wrote it."""
    if "/" not in key.partition("\\")[0]:
        key = key.replace("\\", "/")
    return "/".join(LISTS.get(part, part) for part in key.split("/"))


# From a config


def layout_of_config(model: Layer, names: Collection[str]) -> Layout:
    """Return the places of a model.

    Args:
        model: from the config.
        names: of the tensors that there are, which may tell how a layer is quantised.
    """
    walk = _Walk(model, names)
    walk.run()
    return walk.layout


class _Part(NamedTuple):
    """A part of a name, and whether some files leave it out."""

    text: str
    loose: bool


_Prefix = tuple[_Part, ...]


class _Walk:
    def __init__(self, model: Layer, names: Iterable[str]) -> None:
        self.layout = Layout()
        self._model = model
        self._leaves: dict[str, set[str]] = {}
        for name in names:
            above, _, leaf = name.rpartition("/")
            self._leaves.setdefault(above, set()).add(leaf)

    def run(self) -> None:
        self.layout.labels[VARS] = self._model.name or None
        below = children(self._model)
        if not below and not is_model(self._model):
            self.layout.open[""] = ""
        for path, layer in below.items():
            self.layout.layers[layer.name] = path
            self._object(path, layer, (), loose=is_model(layer))

    def _object(self, group: str, layer: Layer, above: _Prefix, *, loose: bool) -> None:
        prefix = (*above, _Part(layer.name, loose)) if layer.name else above
        self.layout.labels[f"{group}/{VARS}"] = layer.name or None
        self._own(group, layer, prefix)
        for path, child in children(layer).items():
            left_out = is_model(child) or path == "cell" or layer.kind == "TimeDistributed"
            self._object(f"{group}/{path}", child, prefix, loose=left_out)

    def _own(self, group: str, layer: Layer, prefix: _Prefix) -> None:
        name = "/".join(part.text for part in prefix)
        expected = variables_expected(layer, self._leaves.get(name, ()))
        if expected is None:
            if name and not is_model(layer):
                self.layout.open[name] = group
            return
        for index, each in enumerate(expected):
            key = f"{group}/{VARS}/{index}"
            self.layout.places.append(self._place(key, layer, prefix, each))

    def _place(self, key: str, layer: Layer, prefix: _Prefix, expected: Expected) -> Place:
        variable, rank = expected
        shape = shape_of(layer, variable.name)
        if shape is None and rank is not None:
            shape = (None,) * rank
        leaves = [variable.name]
        if layer.kind.startswith("DepthwiseConv") and variable.name in DEPTHWISE:
            leaves.append(DEPTHWISE[variable.name])
        # The model's own name is no part of its variables' names, and stands before some.
        whole = (_Part(self._model.name, loose=True), *prefix) if self._model.name else prefix
        first, *others = (f"{path}/{leaf}" for leaf in leaves for path in _spellings(whole))
        name = "/".join((*(part.text for part in prefix), variable.name))
        return Place(
            key,
            name,
            shape,
            trained=variable.trained and layer.trainable is not False,
            alias=variable.alias,
            others=tuple(other for other in (first, *others) if other != name),
        )


def _spellings(parts: _Prefix) -> list[str]:
    """Return a path with every choice of its loose parts left out, the longest first."""
    loose = [index for index, part in enumerate(parts) if part.loose]
    counts = range(len(loose) + 1) if len(loose) <= MAX_LOOSE else (0, len(loose))
    return [
        "/".join(part.text for index, part in enumerate(parts) if index not in gone)
        for count in counts
        for gone in map(set, combinations(loose, count))
    ]


def optimizer_places(
    optimizer: Layer, trained: list[tuple[str, TensorSpec]]
) -> tuple[list[Place], dict[str, str | None]]:
    """Return the places of an optimizer's variables, and the labels of its groups.

    Args:
        optimizer: from the config.
        trained: name and spec of every variable that is trained, in the model's order.
    """
    places: list[Place] = []
    labels: dict[str, str | None] = {}
    group = OPTIMIZER
    current: Layer | None = optimizer
    while current is not None:  # one that wraps another stores its variables, and that one does
        labels[f"{group}/{VARS}"] = current.name or None
        places += [
            Place(f"{group}/{VARS}/{index}", each.name, each.shape, needed=False)
            for index, each in enumerate(expected_variables(current, trained))
        ]
        current, group = inner(current, WRAPPED), f"{group}/{WRAPPED}"
    return places, labels


# From a file


def with_file(
    layout: Layout,
    origins: Mapping[str, Origin],
    specs: Mapping[str, TensorSpec],
    labels: Mapping[str, str | None],
) -> Layout:
    """Return a layout with the places that the model's own weights have, and their exact shapes.

    So the places of custom layers, which no config tells, are known as well.

    Args:
        layout: from its config.
        origins: of its tensors, by name.
        specs: of its tensors, by name.
        labels: names of its objects, by their groups.
    """
    places = {place.key: place for place in layout.places}
    for name, origin in origins.items():
        key = modern_key(origin.key)
        needed = origin.role not in BESIDE
        trained = needed and origin.trainable is not False
        place = places.get(key, Place(key, name, needed=needed, trained=trained))
        places[key] = place._replace(shape=specs[name].shape)
    merged = layout.labels | {modern_key(group): label for group, label in labels.items() if label}
    for group in labels:
        merged.setdefault(modern_key(group), None)
    return Layout(list(places.values()), merged, {}, layout.layers)
