from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tensorferry.converters.containers.keras_metadata import KerasObject
from tensorferry.converters.graphs.keras_object_names import names_in_models
from tensorferry.converters.graphs.object_graph import describe
from tensorferry.converters.graphs.trackables import VALUE, Attribute, Node, ObjectGraph

Tree = Mapping[str, Any]


class Builder:
    """Makes the graph of nested mappings: objects by attribute; a text is a variable's name."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.paths: dict[str, int] = {}

    def add(self, tree: Tree | str, path: str = "") -> int:
        number = len(self.nodes)
        node = Node()
        self.nodes.append(node)
        self.paths[path] = number
        if isinstance(tree, str):
            node.attributes.append(Attribute(VALUE, tree, path))
            return number
        for name, below in tree.items():
            node.children.append((self.add(below, f"{path}/{name}".lstrip("/")), name))
        return number

    def link(self, path: str, name: str, target: str) -> None:
        """Hold an object once more."""
        self.nodes[self.paths[path]].children.append((self.paths[target], name))

    @property
    def graph(self) -> ObjectGraph:
        return ObjectGraph(tuple(self.nodes))


def built(tree: Tree) -> Builder:
    builder = Builder()
    builder.add(tree)
    return builder


def names(builder: Builder) -> list[str]:
    keys = [a.key for node in builder.nodes for a in node.attributes]
    return list(describe(builder.graph, keys))


# The name of a Sequential


def sequential(layers: list[Tree]) -> Tree:
    return {"_functional": {"_operations": {str(n): each for n, each in enumerate(layers)}}}


def dense(scope: str) -> Tree:
    return {"_kernel": f"{scope}/kernel", "bias": f"{scope}/bias"}


def lstm(scope: str) -> Tree:
    return {"cell": {"kernel": f"{scope}/lstm_cell/kernel"}}


SEQUENTIAL = sequential([{}, dense("sq/a"), lstm("sq/lstm")])
SHORT = ["a/kernel", "a/bias", "lstm/lstm_cell/kernel"]


@pytest.mark.parametrize(
    "tree",
    [
        SEQUENTIAL,
        {"model": SEQUENTIAL},
        {"_functional": {}, "_layers": SEQUENTIAL["_functional"]["_operations"]},
    ],
    ids=["root", "below the root", "in its own list"],
)
def test_the_own_name_of_a_sequential_is_left_out(tree: Tree) -> None:
    assert names(built(tree)) == SHORT


def test_counters_of_a_checkpoint_are_no_part_of_the_model() -> None:
    tree = {"model": SEQUENTIAL, "step": "Variable", "save_counter": "save_counter"}
    assert names(built(tree)) == [*SHORT, "Variable", "save_counter"]


def test_a_name_that_is_not_longer_than_its_objects_is_the_layers() -> None:
    tree = sequential([dense("a"), lstm("lstm")])
    assert names(built(tree)) == SHORT


def test_only_layers_made_inside_have_its_name() -> None:
    tree = sequential([dense("before"), dense("sq/after")])
    assert names(built(tree)) == ["before/kernel", "before/bias", "after/kernel", "after/bias"]


def test_a_variable_that_a_wrapper_holds_too_tells_nothing() -> None:
    builder = built(sequential([{"layer": dense("sn/d"), "vector_u": "sn/vector_u"}]))
    layer = "_functional/_operations/0"
    builder.link(layer, "kernel", f"{layer}/layer/_kernel")
    assert names(builder) == ["sn/d/kernel", "sn/d/bias", "sn/vector_u"]


def test_models_within_lists_of_cells_and_within_one_another() -> None:
    cells = {"cells": {"0": {"kernel": "sq/rnn/stack/gru/kernel"}}}
    inner = sequential([dense("sq/in/a")])
    tree = sequential([{"cell": cells}, inner])
    assert names(built(tree)) == ["rnn/stack/gru/kernel", "in/a/kernel", "in/a/bias"]


@pytest.mark.parametrize(
    "tree",
    [
        {"generator": SEQUENTIAL, "critic": sequential([dense("critic/b")])},
        {"model": SEQUENTIAL, "scale": "scale"},
        {"nets": {"one": SEQUENTIAL}},
        {"_operations": SEQUENTIAL["_functional"]["_operations"]},
    ],
    ids=["two models", "a variable beside", "further down", "a functional model"],
)
def test_other_roots_leave_full_names_as_they_are(tree: Tree) -> None:
    assert {"sq/a/kernel", "sq/a/bias", "sq/lstm/lstm_cell/kernel"} <= set(names(built(tree)))


def test_a_name_that_another_has_is_not_taken() -> None:
    tree = sequential([dense("sq/a"), {"kernel": "a/kernel"}])
    assert names(built(tree)) == ["sq/a/kernel", "a/bias", "a/kernel"]


# Models in models


MODEL: Tree = {
    "layer-0": dense("c"),
    "layer-1": {"layer-0": dense("c_in"), "layer-1": {"layer-0": dense("d_deep")}},
    "keras_api": {"layers": {}},
}
OBJECTS = {
    "": ("network", "top"),
    "layer-0": ("layer", "c"),
    "layer-1": ("network", "inner"),
    "layer-1/layer-0": ("layer", "c_in"),
    "layer-1/layer-1": ("sequential", "deep"),
    "layer-1/layer-1/layer-0": ("layer", "d_deep"),
}


def objects(builder: Builder, known: Mapping[str, tuple[str, str]]) -> list[KerasObject]:
    return [
        KerasObject(builder.paths[path], "", kind, "", name) for path, (kind, name) in known.items()
    ]


def test_models_are_named_before_their_layers() -> None:
    builder = built(MODEL)
    builder.link("keras_api/layers", "0", "layer-0")
    builder.link("", "variables", "layer-1/layer-0/bias")
    assert set(names_in_models(builder.graph, objects(builder, OBJECTS)).values()) == {
        "c/kernel", "c/bias", "inner/c_in/kernel", "inner/c_in/bias",
        "inner/deep/d_deep/kernel", "inner/deep/d_deep/bias",
    }  # fmt: skip


def test_the_models_own_name_and_missing_names_of_layers() -> None:
    tree = {"one": {"w": "mine/first/w"}, "more": {"0": {"v": "Variable"}}, "own": "mine/own"}
    builder = built(tree)
    known = {"": ("model", "mine"), "one": ("layer", "first"), "more/0": ("layer", "second")}
    found = names_in_models(builder.graph, objects(builder, known))
    assert found == {"one/w": "first/w", "more/0/v": "second/Variable"}


def test_what_several_layers_hold_has_no_such_name() -> None:
    builder = built(MODEL)
    builder.link("layer-0", "borrowed", "layer-1/layer-0/bias")
    found = names_in_models(builder.graph, objects(builder, OBJECTS))
    assert "layer-1/layer-0/bias" not in found
    assert found["layer-1/layer-0/_kernel"] == "inner/c_in/kernel"


@pytest.mark.parametrize(
    "change",
    [{"": ("layer", "top")}, {"": ("network", "")}, {"": ("network", "x" * 200)}],
    ids=["no model", "no name", "a name that was cut off"],
)
def test_without_a_model_at_the_root_there_are_no_names(change: Any) -> None:
    builder = built(MODEL)
    assert names_in_models(builder.graph, objects(builder, OBJECTS | change)) == {}


def test_models_that_hold_each_other_end() -> None:
    builder = built(MODEL)
    builder.link("layer-1", "back", "")
    found = names_in_models(builder.graph, objects(builder, OBJECTS))
    assert found["layer-0/_kernel"] == "c/kernel"
