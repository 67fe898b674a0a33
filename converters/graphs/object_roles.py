"""What the objects of a trackable object graph are for, as far as the graph says.

Optimizers are known by their children or by their slot variables, and what is reached through an
optimizer alone is its state. Exceptions are what the lists of an optimizer are about:

- Legacy optimizers name slots and their variables (`slot_variables`).
- Keras 3 lists the model's own weights in `_trainable_variables`, and often they have no other
  key. Its lists `_momentums`, `_velocities` and the like have a slot for each of them, at the
  same index; `_model_variables_moving_average` has averages.
- tf_keras (2.11 to 2.21) has such lists too, but none of the weights; a slot's full name
  ends in its variable's: `Adam/m/dense/kernel`.

Seen in files of TensorFlow 2.2 to 2.21, Keras 3.15 and Sonnet 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from ..tensors import Role
from .name_patterns import STATISTICS, WEIGHT_LEAVES, leaf_of
from .trackables import VALUE, Attribute, Node, ObjectGraph

__all__ = ["Known", "ObjectRoles"]

MAX_DEPTH = 100  # children on a path; a chain of all nodes would take memory by their square
MAX_SCOPES = 32  # of an optimizer, before the name of its variable
# Children by which an optimizer is known: later ones have `_iterations`, legacy tf_keras ones
# `iter` beside a hyper-parameter (TensorFlow 2.2 to 2.21, Keras 3.15); `iter` alone may be a
# user's own counter.
_HYPER_PARAMETERS = frozenset({"learning_rate", "decay", "momentum", "beta_1", "rho"})
_STEPS = frozenset({"iter", "_iterations", "step_counter"})
_WRAPPED = frozenset({"base_optimizer", "inner_optimizer", "_optimizer"})
_TRAINED = "_trainable_variables"
_AVERAGES = "_model_variables_moving_average"
# Lists of an optimizer that hold no slots.
_NO_SLOTS = frozenset({"_variables", _TRAINED, "_trainable_variables_indices"})
# What each variable of a list is called, where the list's name is a plural.
_SINGULAR = {
    "momentums": "momentum",
    "velocities": "velocity",
    "velocity_hats": "velocity_hat",
    "accumulators": "accumulator",
    "linears": "linear",
    "accumulated_grads": "accumulated_grad",
    "accumulated_delta_vars": "accumulated_delta_var",
    "average_gradients": "average_gradient",
    "accumulated_gradients": "accumulated_gradient",
}
# Slots that wrappers such as tfa.optimizers.MovingAverage keep a variable's average in.
_AVERAGE_SLOTS = frozenset({"average", "ema"})
_SONNET_AVERAGE = frozenset({"_hidden", "average", "_counter"})
_GENERATOR_STATES = frozenset({"_state_var", "seed_generator_state"})
_ATTRIBUTE_ROLES = {"py_state": Role.TEXT, "OBJECT_CONFIG_JSON": Role.TEXT, "table": Role.TABLE}
_ITERATORS = frozenset({"ITERATOR", "ITERATOR_STATE"})


class Known(NamedTuple):
    """What is known of a node; `owner` is a node too."""

    role: Role = Role.UNKNOWN
    owner: int | None = None
    trainable: bool | None = None
    slot: str | None = None


class ObjectRoles:
    """The roles of the nodes of one graph.

    Args:
        graph: the graph.
        trainable: by node, where a container says so beside the graph.

    Attributes:
        paths: the shortest path from the root to every node that is reached without an
            optimizer, None if it is too long for a name. Of two equally short ones that through
            `layer-N` wins over `layer_with_weights-N`: it counts all layers, as people do.
        listed: slots and averages in lists of optimizers.
    """

    def __init__(self, graph: ObjectGraph, trainable: Mapping[int, bool]) -> None:
        self._graph = graph
        self._said = trainable
        self._optimizers = _optimizers(graph)
        self.paths = _paths(graph, self._optimizers)
        self._slots = dict(_slot_variables(graph))
        self._trained = {node for each in self._optimizers for node in _list(graph, each, _TRAINED)}
        self.listed = dict(self._listed())
        owners = (known.owner for known in (*self._slots.values(), *self.listed.values()))
        self._trained |= {owner for owner in owners if owner is not None}

    def of(self, number: int, attribute: Attribute) -> Known:
        """Return what is known of a node's attribute."""
        if attribute.name in _ITERATORS:
            return Known(Role.COUNTER, trainable=False)
        if attribute.name in _ATTRIBUTE_ROLES:
            return Known(_ATTRIBUTE_ROLES[attribute.name], trainable=False)
        if number in self._slots:
            return self._slots[number]
        if number in self._trained:
            return Known(Role.WEIGHT, trainable=True)
        if number in self.listed:
            return self.listed[number]
        if number not in self.paths:
            return self._of_optimizer(number)
        return self._of_model(number, attribute)

    def _of_optimizer(self, number: int) -> Known:
        """Return what is known of a variable that is reached through an optimizer or not at all."""
        if number in self._steps:
            return Known(Role.COUNTER, trainable=False)
        if number in self._behind:
            return Known(Role.OPTIMIZER, trainable=False)
        return Known()

    def _of_model(self, number: int, attribute: Attribute) -> Known:
        """Return what is known of a variable that is reached without an optimizer."""
        path = self.paths[number] or ()
        leaf = path[-1] if path else ""
        if path == ("save_counter",) or "/keras_api/metrics/" in f"/{'/'.join(path)}/":
            return Known(Role.COUNTER, trainable=False)
        if number in self._sonnet:
            role = Role.COUNTER if leaf == "_counter" else Role.STATE
            return Known(role, trainable=False)
        names = {leaf, leaf_of(attribute.full_name)}
        if names & STATISTICS or names & _GENERATOR_STATES:
            return Known(Role.STATE, trainable=False)
        said = self._said.get(number)
        if said is False and not names & WEIGHT_LEAVES:
            return Known(Role.STATE, trainable=False)
        return Known(Role.WEIGHT, trainable=said)

    @cached_property
    def _steps(self) -> frozenset[int]:
        """Return what optimizers count their steps in."""
        nodes = (self._graph.nodes[number] for number in self._optimizers)
        return frozenset(child for node in nodes for child, name in node.children if name in _STEPS)

    @cached_property
    def _behind(self) -> frozenset[int]:
        """Return the nodes that are reached through an optimizer."""
        waiting = list(self._optimizers)
        seen = set(waiting)
        while waiting:
            new = {child for child, _ in self._graph.nodes[waiting.pop()].children} - seen
            seen |= new
            waiting.extend(new)
        return frozenset(seen)

    @cached_property
    def _sonnet(self) -> frozenset[int]:
        """Return the variables of Sonnet's moving averages."""
        nodes = (node for node in self._graph.nodes if _child_names(node) >= _SONNET_AVERAGE)
        return frozenset(
            child for node in nodes for child, name in node.children if name in _SONNET_AVERAGE
        )

    def _listed(self) -> Iterator[tuple[int, Known]]:
        """Yield the slots and averages in lists of optimizers, with their variables."""
        by_name = self._by_full_name()
        for optimizer in self._optimizers:
            trained = _list(self._graph, optimizer, _TRAINED)
            by_index = dict(zip(trained.values(), trained, strict=True))
            for child, name in self._graph.nodes[optimizer].children:
                if name in _NO_SLOTS:
                    continue
                for slot, index in _numbered(self._graph.nodes[child]).items():
                    owner = by_index.get(index) if trained else self._named(slot, by_name)
                    if owner is not None and slot not in self.paths and slot not in self._trained:
                        yield slot, _listed_as(name, owner)

    def _by_full_name(self) -> dict[str, int | None]:
        """Return the model's variables by full name, None where several have it."""
        names: dict[str, int | None] = {}
        for number in self.paths:
            for attribute in self._graph.nodes[number].attributes:
                if attribute.name == VALUE and attribute.full_name:
                    unique = attribute.full_name not in names
                    names[attribute.full_name] = number if unique else None
        return names

    def _named(self, slot: int, variables: Mapping[str, int | None]) -> int | None:
        """Return the variable whose full name ends a slot's."""
        for attribute in self._graph.nodes[slot].attributes:
            name = attribute.full_name
            for _ in range(MAX_SCOPES):
                name = name.partition("/")[2]
                if name in variables:
                    return variables[name]
        return None


def _listed_as(name: str, owner: int) -> Known:
    if name == _AVERAGES:
        return Known(Role.AVERAGE, owner, False)
    plain = name.lstrip("_")
    return Known(Role.SLOT, owner, False, _SINGULAR.get(plain, plain))


def _child_names(node: Node) -> frozenset[str]:
    return frozenset(name for _, name in node.children)


def _numbered(node: Node) -> dict[int, str]:
    """Return the items of a list with their indices; nothing if it is none."""
    if all(name.isdecimal() for _, name in node.children):
        return dict(node.children)
    return {}


def _list(graph: ObjectGraph, number: int, name: str) -> dict[int, str]:
    """Return the items of a node's list with their indices."""
    return {
        item: index
        for child, own in graph.nodes[number].children
        if own == name
        for item, index in _numbered(graph.nodes[child]).items()
    }


def _optimizers(graph: ObjectGraph) -> frozenset[int]:
    found = {number for number, node in enumerate(graph.nodes) if _is_optimizer(node)}
    wrappers = {
        number: {child for child, name in node.children if name in _WRAPPED}
        for number, node in enumerate(graph.nodes)
        if _WRAPPED & _child_names(node)
    }
    while True:  # a wrapper may wrap a wrapper
        new = {number for number, inner in wrappers.items() if inner & found} - found
        if not new:
            return frozenset(found)
        found |= new


def _is_optimizer(node: Node) -> bool:
    names = _child_names(node)
    if node.slots or "_iterations" in names:
        return True
    return "iter" in names and bool(names & _HYPER_PARAMETERS)


def _paths(graph: ObjectGraph, optimizers: frozenset[int]) -> dict[int, tuple[str, ...] | None]:
    if not graph.nodes:
        return {}
    paths: dict[int, tuple[str, ...] | None] = {0: ()}
    waiting = deque([0])
    while waiting:
        number = waiting.popleft()
        if number in optimizers:
            continue
        for child, name in sorted(graph.nodes[number].children, key=_preference):
            if child not in paths:
                above = paths[number]
                deep = above is None or len(above) == MAX_DEPTH
                paths[child] = None if above is None or deep else (*above, name)
                waiting.append(child)
    return paths


def _preference(child: tuple[int, str]) -> bool:
    return not child[1].startswith("layer-")


def _slot_variables(graph: ObjectGraph) -> Iterator[tuple[int, Known]]:
    for node in graph.nodes:
        for variable, name, slot in node.slots:
            if name in _AVERAGE_SLOTS:
                yield slot, Known(Role.AVERAGE, variable, False)
            else:
                yield slot, Known(Role.SLOT, variable, False, name)
