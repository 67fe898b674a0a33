from __future__ import annotations

from pathlib import Path

import pytest
from tensorferry.converters.containers.tensor_bundle import Bundle
from tensorferry.converters.containers.wire import FIXED32, FIXED64, fields, message, varint
from tensorferry.converters.graphs.object_graph_writer import build_graph, prune_graph
from tensorferry.converters.graphs.trackables import (
    GRAPH_KEY,
    VALUE,
    Attribute,
    Node,
    ObjectGraph,
)

SAMPLES = {
    "tf_module_object": "ckpt-1",
    "max_shard_slices": "ckpt-1",
    "tf_keras_object": "ckpt-1",
    "tf_keras_weights": "weights",
    "keras3_object": "ckpt-1",
}


@pytest.fixture(params=SAMPLES)
def stored(request: pytest.FixtureRequest, samples: Path) -> bytes:
    bundle = Bundle.open(samples / request.param / SAMPLES[request.param])
    return b"".join(bundle.tensors[GRAPH_KEY].elements())


def keys(graph: ObjectGraph) -> set[str]:
    return {attribute.key for node in graph.nodes for attribute in node.attributes}


def flags(data: bytes) -> list[bool | None]:
    """Return what each node says about whether it holds something; None if it says nothing."""
    found = []
    for _, _, body in fields(data):
        assert isinstance(body, bytes)
        values = [value for number, _, value in fields(body) if number == 5]
        found.append(values[0] == b"\x08\1" if values else None)
    return found


def test_graphs_are_the_bytes_that_tensorflow_writes(stored: bytes) -> None:
    assert build_graph(ObjectGraph.parse(stored)) == stored


def test_a_graph_that_loses_nothing_stays_as_it_is(stored: bytes) -> None:
    assert prune_graph(stored, set(), {}) == stored


def test_a_graph_without_any_tensor_has_its_nodes_and_names_left(stored: bytes) -> None:
    whole = ObjectGraph.parse(stored)
    gone = keys(whole) | {f"{key}{end}" for key in keys(whole) for end in ("-keys", "_STATE")}
    pruned = prune_graph(stored, gone, {})
    graph = ObjectGraph.parse(pruned)
    assert [node.children for node in graph.nodes] == [node.children for node in whole.nodes]
    assert not keys(graph)
    assert not any(node.slots for node in graph.nodes)
    assert set(flags(pruned)) == {False}


def test_a_slot_that_goes_takes_its_reference_along(samples: Path) -> None:
    bundle = Bundle.open(samples / "tf_keras_object" / "ckpt-1")
    data = b"".join(bundle.tensors[GRAPH_KEY].elements())
    gone = {key for key in bundle.tensors if key.endswith(f"/m/.ATTRIBUTES/{VALUE}")}
    before, after = ObjectGraph.parse(data), ObjectGraph.parse(prune_graph(data, gone, {}))
    slots = [
        {name for node in graph.nodes for _, name, _ in node.slots} for graph in (before, after)
    ]
    assert slots == [{"m", "v"}, {"v"}]
    assert keys(before) - keys(after) == gone


def test_a_table_goes_with_its_keys(samples: Path) -> None:
    bundle = Bundle.open(samples / "tf_module_object" / "ckpt-1")
    data = b"".join(bundle.tensors[GRAPH_KEY].elements())
    (gone,) = (key for key in bundle.tensors if key.endswith("table-keys"))
    lost = keys(ObjectGraph.parse(data)) - keys(ObjectGraph.parse(prune_graph(data, {gone}, {})))
    assert lost == {gone.removesuffix("-keys")}


def test_full_names_can_be_others(stored: bytes) -> None:
    key = min(key for key in keys(ObjectGraph.parse(stored)) if key.endswith(VALUE))
    changed = prune_graph(stored, set(), {key: "größe"})
    nodes = ObjectGraph.parse(changed).nodes
    found = {each.key: each.full_name for node in nodes for each in node.attributes}
    assert found[key] == "größe"
    assert prune_graph(changed, set(), {key: "größe"}) == changed


def test_what_is_not_known_is_kept() -> None:
    strange = message((9, b"x"), (10, 7)) + varint(11 << 3 | FIXED32) + b"\1\2\3\4"
    strange += varint(12 << 3 | FIXED64) + bytes(range(8))
    attribute = message((1, VALUE.encode()), (3, b"k")) + strange
    data = message((1, message((2, attribute)) + strange)) + strange
    pruned = prune_graph(data, set(), {})
    assert pruned == data
    assert prune_graph(data, {"k"}, {}) == message((1, strange)) + strange


def test_nodes_above_what_is_stored_say_so_even_in_circles() -> None:
    nodes = [
        Node(children=[(1, "a"), (3, "b"), (0, "self")]),
        Node(children=[(2, "w"), (0, "back")]),
        Node(attributes=[Attribute(VALUE, "w", "w")]),
        Node(children=[(4, "empty")]),
        Node(),
    ]
    data = build_graph(ObjectGraph(tuple(nodes)))
    assert flags(data) == [True, True, True, False, False]
    assert flags(prune_graph(data, {"w"}, {})) == [False] * 5
    assert ObjectGraph.parse(data).nodes == tuple(nodes)
