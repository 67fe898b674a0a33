from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.containers.wire import message
from tensorferry.converters.graphs import object_aliases
from tensorferry.converters.graphs.object_aliases import aliases
from tensorferry.converters.graphs.object_graph import ObjectGraph, describe

END = "/.ATTRIBUTES/VARIABLE_VALUE"
Child = tuple[int, str]


def _node(children: Sequence[Child] = (), key: str = "", full_name: str = "") -> bytes:
    rows = [(1, message((1, node or None), (2, name.encode()))) for node, name in children]
    value = ((1, b"VARIABLE_VALUE"), (2, full_name.encode() or None), (3, key.encode()))
    return message(*rows, *([(2, message(*value))] if key else []))


def _aliases(*nodes: bytes, readable: bool = True) -> dict[str, list[str]]:
    graph = ObjectGraph.parse(message(*((1, node) for node in nodes)))
    keys = [each.key for node in graph.nodes for each in node.attributes]
    return aliases(graph, describe(graph, keys, readable=readable))


def test_a_variable_that_two_objects_hold_has_two_names() -> None:
    nodes = [_node([(1, "w"), (2, "sub")]), _node(key=f"w{END}"), _node([(1, "tied")])]
    assert _aliases(*nodes) == {"w": ["sub/tied"]}
    assert _aliases(*nodes, readable=False) == {f"w{END}": ["w", "sub/tied"]}


def test_what_a_shared_object_holds_has_the_names_of_both() -> None:
    nodes = [_node([(1, "enc"), (1, "dec")]), _node([(2, "w")]), _node(key="k", full_name="n/w")]
    assert _aliases(*nodes) == {"n/w": ["enc/w", "dec/w"]}


def test_lists_that_keras_keeps_for_itself_give_no_names() -> None:
    nodes = [
        _node([(1, "variables"), (2, "layer-0"), (2, "layer_with_weights-0"), (2, "dense")]),
        _node([(3, "0")]), _node([(3, "kernel")]), _node(key="k", full_name="dense/kernel"),
    ]  # fmt: skip
    assert _aliases(*nodes) == {}


def test_ways_back_up_are_no_names() -> None:
    nodes = [_node([(1, "sub")]), _node([(2, "w"), (0, "parent"), (1, "self")]), _node(key="k")]
    assert _aliases(*nodes) == {}


def test_the_slots_of_an_optimizer_that_two_objects_hold_are_not_listed() -> None:
    nodes = [_node([(1, "a"), (1, "b")]), _node([(2, "_iterations")]), _node(key="k")]
    assert _aliases(*nodes) == {}


def test_many_names_and_deep_ones_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_aliases, "MAX_NAMES", 3)
    nodes = [_node([(1, f"w{n}") for n in range(1000)]), _node(key="k")]
    assert _aliases(*nodes) == {"w0": ["w1", "w2"]}
    count = 5_000
    chain = [_node([(n + 1, "a"), (n + 1, "b")]) for n in range(count)]
    assert _aliases(*chain, _node(key="k")) == {}


def test_an_empty_graph_has_none() -> None:
    assert _aliases() == {}


def test_a_checkpoint_lists_them(samples: Path) -> None:
    with open_tensors(samples / "tf_module_object") as tensors:
        assert tensors.details["aliases"] == {
            "module/first/b": ["module/blocks/0/b"], "module/first/w": ["module/blocks/0/w"],
        }  # fmt: skip


@pytest.mark.oracle
def test_a_saved_model_lists_them(tensorflow: Any, tmp_path: Path) -> None:
    module = tensorflow.Module()
    module.w = module.tied = tensorflow.Variable([1.0])
    tensorflow.saved_model.save(module, str(tmp_path))
    with open_tensors(tmp_path) as tensors:
        assert tensors.details["aliases"] == {"Variable": ["w", "tied"]}
