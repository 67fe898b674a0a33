"""Names and roles of what a Keras 3 weights file holds: its groups walked beside the config.

    layers/functional/layers/dense/vars/0    key: attributes and classes, then a number
    inner/d_in/kernel                        name: names of the layers, then of the variable

An object's part of the name is in the config, and since Keras 3.6 in the attribute `name` of its
group `vars`; where both are there they must agree, else the config is not believed below it. The
variable's own name follows from the class: of the config (Evidence.CONFIG), or of the group, which
inside a list bears the snake-case class (Evidence.NAME). What neither tells keeps
`vars/<number>` below the part that is known, or the key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..dtypes import DType
from ..tensors import Evidence, Origin, Role, TensorSpec
from .keras_config import Layer, children, class_of_group, inner
from .keras_optimizers import WRAPPED, optimizer_variables
from .keras_variables import Variable, variables_of_class, variables_of_layer

__all__ = ["Described", "QuantisedLayer", "describe"]

OLD_LIST = "_layer_checkpoint_dependencies"  # `layers`, as 2.12 to 2.14 spell it
_METRICS = ("metrics", "_metrics", "compile_metrics", "_compile_metrics", "_loss_tracker")


class QuantisedLayer(NamedTuple):
    """A layer with integers for weights: its name, the layer, its keys by variable's name."""

    name: str
    layer: Layer
    keys: Mapping[str, str]


@dataclass
class Described:
    """What became known of a file.

    Attributes:
        origins: by name, in the order of the model.
        quantised: layers whose weights are integers.
        lora: rank of the low-rank changes that were merged into a layer's weights, by its name.
        mismatched: how many objects bear other names in the file than in the config.
    """

    origins: dict[str, Origin] = field(default_factory=dict)
    quantised: list[QuantisedLayer] = field(default_factory=list)
    lora: dict[str, int] = field(default_factory=dict)
    mismatched: int = 0


@dataclass
class _Node:
    """A group; `variables` are its own, by what follows `vars/`."""

    label: str | None = None
    is_object: bool = False
    groups: dict[str, _Node] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


class _Found(NamedTuple):
    name: str | None
    role: Role
    trainable: bool | None = None
    evidence: Evidence = Evidence.NAME
    owner: str | None = None
    slot: str | None = None


def describe(
    specs: Mapping[str, TensorSpec],
    labels: Mapping[str, str | None],
    model: Layer | None,
    optimizer: Layer | None,
    *,
    readable: bool = True,
) -> Described:
    """Return the origin of every dataset, by name; no two names are the same.

    Args:
        specs: dtype and shape of each dataset, by its path, which is its key.
        labels: the groups called `vars`, each with its attribute `name`, if it has one.
        model: from the config, where there is one.
        optimizer: from the config, where there is one.
        readable: whether names are readable ones or the keys themselves.
    """
    walk = _Walk(specs, optimizer)
    walk.run(_tree(specs, labels), model)
    names = _unique(walk.found) if readable else {key: key for key in walk.found}
    counts = Counter(found.name for found in walk.found.values())
    # Two variables of one name: a slot cannot be told whose it is.
    owners = {
        found.name: names[key] for key, found in walk.found.items() if counts[found.name] == 1
    }
    described = Described({}, walk.quantised, walk.lora, walk.mismatched)
    for key, found in walk.found.items():
        owner = owners.get(found.owner) if found.owner else None
        described.origins[names[key]] = Origin(
            key, found.role, owner, found.trainable, found.evidence, found.slot
        )
    return described


def _unique(found: Mapping[str, _Found]) -> dict[str, str]:
    """Give each key its name where no other has it and no key is called so; else the key."""
    counts = Counter(each.name for each in found.values() if each.name)
    return {
        key: each.name
        if each.name and counts[each.name] == 1 and (each.name == key or each.name not in found)
        else key
        for key, each in found.items()
    }


def _tree(specs: Mapping[str, TensorSpec], labels: Mapping[str, str | None]) -> _Node:
    root = _Node(is_object=True)
    # Writers on Windows joined names with backslashes before 2.16: one group `layers\dense`.
    slashes = any(path.startswith(("layers/", OLD_LIST + "/")) for path in (*specs, *labels))
    for path, label in labels.items():
        parts = _parts(path, slashes=slashes)
        if parts[-1:] == ["vars"]:
            node = _node(root, parts[:-1])
            node.is_object, node.label = True, label
    for path in specs:
        parts = _parts(path, slashes=slashes)
        at = _position_of_vars(parts)
        if at < len(parts):
            node = _node(root, parts[:at])
            node.is_object = True
            node.variables["/".join(parts[at + 1 :])] = path
    return root


def _parts(path: str, *, slashes: bool) -> list[str]:
    path = path if slashes else path.replace("\\", "/")
    return ["layers" if part == OLD_LIST else part for part in path.split("/")]


def _position_of_vars(parts: list[str]) -> int:
    """Return where the last `vars` stands, the length where there is none."""
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "vars":
            return at
    return len(parts)


def _node(root: _Node, parts: list[str]) -> _Node:
    node = root
    for part in parts:
        node = node.groups.setdefault(part, _Node())
    return node


class _Walk:
    """One pass over groups and config side by side, depth first, in the order of the model."""

    def __init__(self, specs: Mapping[str, TensorSpec], optimizer: Layer | None) -> None:
        self.found: dict[str, _Found] = {}
        self.quantised: list[QuantisedLayer] = []
        self.lora: dict[str, int] = {}
        self.mismatched = 0
        self._specs = specs
        self._optimizer = optimizer
        self._trained: list[tuple[str, TensorSpec]] = []
        self._certain = True  # whether all that is trained is known by now

    def run(self, root: _Node, model: Layer | None) -> None:
        others = {group: node for group, node in root.groups.items() if _side_role(group)}
        root.groups = {group: root.groups[group] for group in root.groups if group not in others}
        # The model's own name is no part of its variables' names.
        self._own(root, model, (), _Kind())
        self._below(root, model, (), _Kind())
        for group, node in others.items():
            if group == "optimizer":
                self._optimizer_below(node, self._optimizer)
            else:
                self._keep(node, _side_role(group) or Role.OPTIMIZER)
        for key in self._specs:  # what lies in no group `vars` is nobody's variable
            self.found.setdefault(key, _Found(None, Role.UNKNOWN, None, Evidence.NONE))

    def _object(self, node: _Node, layer: Layer | None, prefix: _Prefix, kind: _Kind) -> None:
        if layer and layer.name and node.label and node.label != layer.name:
            self.mismatched += 1
            layer = None
        if prefix is not None:
            # A custom class may leave its name out of its config, and the file has it.
            part = layer.name or node.label or "" if layer else node.label
            prefix = None if part is None else (*prefix, part) if part else prefix
        rank = layer.config.get("lora_rank") if layer else None
        if prefix and isinstance(rank, int):
            self.lora["/".join(prefix)] = rank
        self._own(node, layer, prefix, kind)
        self._below(node, layer, prefix, kind)

    def _below(self, node: _Node, layer: Layer | None, prefix: _Prefix, kind: _Kind) -> None:
        for path, child in children(layer).items() if layer else ():
            found = _take(node, path)
            if found is not None:
                self._object(found, child, prefix, _kind_at(path, kind))
        for group, rest in node.groups.items():
            if rest.is_object:
                self._object(rest, None, prefix, _Kind(kind.group, group))
            else:
                self._list(rest, prefix)

    def _list(self, node: _Node, prefix: _Prefix) -> None:
        """Visit the objects of a list, whose groups are called after their classes."""
        for group, child in node.groups.items():
            if child.is_object:
                self._object(child, None, prefix, _Kind(class_of_group(group)))
            else:
                self._list(child, prefix)

    def _own(self, node: _Node, layer: Layer | None, prefix: _Prefix, kind: _Kind) -> None:
        """Name an object's own variables."""
        numbered = sorted((key for key in node.variables if _is_number(key)), key=int)
        keys = [node.variables[key] for key in numbered]
        known = None
        if numbered == [str(index) for index in range(len(keys))] and prefix is not None:
            known = self._variables(keys, layer, kind)
        if known is None and keys:
            self._certain = False
        evidence = Evidence.CONFIG if layer else Evidence.NAME
        for index, key in enumerate(keys):
            if known is None:
                self._fall_back(key, prefix, f"vars/{numbered[index]}")
            else:
                self._add(key, known[index], prefix or (), layer, evidence)
        for name in sorted(set(node.variables) - set(numbered)):
            self._fall_back(node.variables[name], prefix, name)
        if layer and prefix and known and self._is_quantised(keys):
            names = {variable.name: key for variable, key in zip(known, keys, strict=True)}
            self.quantised.append(QuantisedLayer("/".join(prefix), layer, names))

    def _variables(
        self, keys: list[str], layer: Layer | None, kind: _Kind
    ) -> tuple[Variable, ...] | None:
        specs = [self._specs[key] for key in keys]
        if layer is not None:
            return variables_of_layer(layer, specs)
        if kind.group is None:
            return None
        # Without a config the names come from Keras 3.6 and later.
        return variables_of_class(kind.group, kind.attribute, specs, 3)

    def _add(
        self,
        key: str,
        variable: Variable,
        prefix: tuple[str, ...],
        layer: Layer | None,
        evidence: Evidence,
    ) -> None:
        name = "/".join((*prefix, variable.name))
        trainable = layer.trainable if layer else None
        if not variable.trained:
            trainable = False
        if trainable is not False and not variable.alias:
            self._trained.append((name, self._specs[key]))
        self.found[key] = _Found(name, variable.role, trainable, evidence)

    def _fall_back(self, key: str, prefix: _Prefix, rest: str) -> None:
        name = "/".join((*prefix, rest)) if prefix else None
        role = Role.STATE if "seed_generator" in key else Role.WEIGHT
        self.found[key] = _Found(name, role, None, Evidence.NAME)

    def _is_quantised(self, keys: list[str]) -> bool:
        return any(self._specs[key].dtype in (DType.INT8, DType.UINT8) for key in keys)

    # What lies beside the model

    def _optimizer_below(self, node: _Node, optimizer: Layer | None) -> None:
        """Name an optimizer's variables, and those of one that it wraps and stores once more."""
        if optimizer is None or not self._name_slots(node, optimizer):
            self._keep_own(node, Role.OPTIMIZER)
        for group, child in node.groups.items():
            wraps = optimizer is not None and group == WRAPPED
            self._optimizer_below(child, inner(optimizer, group) if optimizer and wraps else None)

    def _name_slots(self, node: _Node, optimizer: Layer) -> bool:
        """Name an optimizer's own variables, if all of them are certain."""
        numbers = sorted(filter(_is_number, node.variables), key=int)
        if not self._certain or numbers != [str(index) for index in range(len(node.variables))]:
            return False
        if node.label and optimizer.name and node.label != optimizer.name:
            return False
        keys = [node.variables[number] for number in numbers]
        known = optimizer_variables(optimizer, self._trained, [self._specs[key] for key in keys])
        for key, each in zip(keys, known or (), strict=known is not None):
            self.found[key] = _Found(each.name, each.role, None, Evidence.CONFIG, *each[3:])
        return known is not None

    def _keep_own(self, node: _Node, role: Role) -> None:
        for name in sorted(node.variables, key=_order):
            self.found[node.variables[name]] = _Found(None, role)

    def _keep(self, node: _Node, role: Role) -> None:
        self._keep_own(node, role)
        for child in node.groups.values():
            self._keep(child, role)


class _Kind(NamedTuple):
    """What the groups alone tell: the class, or the class above and the attribute."""

    group: str | None = None
    attribute: str | None = None


_Prefix = tuple[str, ...] | None


def _kind_at(path: str, above: _Kind) -> _Kind:
    """Return what the groups tell of an object at a path below another."""
    listed, _, group = path.rpartition("/")
    return _Kind(class_of_group(group)) if listed else _Kind(above.group, group)


def _side_role(group: str) -> Role | None:
    if group in _METRICS:
        return Role.COUNTER  # sums and counts since the last epoch began; no part of the model
    return Role.OPTIMIZER if group.endswith("optimizer") else None


def _take(node: _Node, path: str) -> _Node | None:
    """Return the node at a path and take it out of the group that holds it."""
    *above, last = path.split("/")
    for part in above:
        if part not in node.groups:
            return None
        node = node.groups[part]
    return node.groups.pop(last, None)


def _is_number(key: str) -> bool:
    return key.isdecimal() and key.isascii() and len(key) < 10


def _order(key: str) -> tuple[bool, int, str]:
    """Sort numbers as numbers and before other keys."""
    return not _is_number(key), int(key) if _is_number(key) else 0, key
