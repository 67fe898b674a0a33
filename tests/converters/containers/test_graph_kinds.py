from __future__ import annotations

from pathlib import Path

import pytest
from tensorferry.converters.containers import graph_kinds
from tensorferry.converters.containers.graph_kinds import (
    binary_source,
    is_foreign_graph,
    is_graph,
    is_graph_text,
    is_saved_model,
    is_saved_model_text,
)
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import CorruptFileError, UnsafeFileError

ATTRIBUTE = message((1, b"dtype"), (2, message((6, 1))))
NODE = message((1, b"x"), (2, b"Placeholder"), (5, ATTRIBUTE))


def _source(*nodes: bytes) -> MemorySource:
    return MemorySource(Path("graph.pb"), message(*((1, node) for node in nodes)))


@pytest.mark.parametrize(
    "nodes",
    [
        (NODE,),
        (NODE, message((1, b"a/b_1"), (2, b"Addons>Fused"), (3, b"^x"), (4, b"/cpu:0"))),
        (message((1, b"call"), (2, b"__inference_f_12"), (5, ATTRIBUTE)),),
        (NODE,) * 40,
    ],
)
def test_nodes_of_tensorflow_are_known(nodes: tuple[bytes, ...]) -> None:
    assert is_graph(_source(*nodes))
    assert not is_foreign_graph(_source(*nodes))


@pytest.mark.parametrize(
    "node",
    [
        message((1, b"x")),
        message((2, b"Op")),
        message((1, b"x"), (2, b"Op")),  # no attribute in the whole file
        message((1, b"not a name"), (2, b"Op"), (5, ATTRIBUTE)),
        message((1, b"x"), (2, b"not an op"), (5, ATTRIBUTE)),
        message((1, b"x"), (2, b"Op"), (5, message((1, b"k"), (2, message((11, 1)))))),
        message((1, b"x"), (2, b"Op"), (5, 7)),
        message((1, b"x"), (2, b"Op"), (9, b""), (5, ATTRIBUTE)),
        message((1, b"x" * 20_000), (2, b"Op"), (5, ATTRIBUTE)),
        b"\xff",
    ],
)
def test_other_messages_are_not(node: bytes) -> None:
    assert not is_graph(_source(node))


def test_a_graph_cut_short_is_still_one() -> None:
    whole = message((1, NODE), (1, NODE))
    assert is_graph(MemorySource(Path("graph.pb"), whole[:-3]))


def test_a_graph_whose_nodes_have_attributes_as_device_is_foreign() -> None:
    node = message((1, b"gru_1"), (2, b"GRU"), (3, b"x"), (4, message((1, b"units"))))
    assert is_foreign_graph(_source(node))
    assert not is_graph(_source(node))


META = message((1, message((4, b"serve"))), (2, message((1, NODE))))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (message((1, 1), (2, META)), True),
        (message((1, 1)), False),
        (message((1, 2), (2, META)), False),
        (message((1, 1), (3, META)), False),
        (message((1, 1), (2, b"pytorch")), False),
        (message((1, 1), (2, message((1, message((9, 1)))))), False),
        (b"\x08\x01\x12\xff\xff\xff", False),
        (b"", False),
    ],
)
def test_a_saved_model_begins_with_its_version_and_a_meta_graph(
    data: bytes, expected: bool
) -> None:
    assert is_saved_model(MemorySource(Path("m.pb"), data)) is expected


@pytest.mark.parametrize(
    ("head", "graph", "model"),
    [
        (b'node { name: "x" op: "Const" }', True, False),
        (b"# made by\n#\n node <\n name: 'x'\n op: 'Const'", True, False),
        (b'node { name: "x" }', False, False),
        (b"saved_model_schema_version: 1", False, True),
        (b"\n meta_graphs {", False, True),
        (b'model_checkpoint_path: "m"', False, False),
    ],
)
def test_texts_are_told_by_their_first_field(head: bytes, graph: bool, model: bool) -> None:
    assert is_graph_text(head) is graph
    assert is_saved_model_text(head) is model


def test_a_text_becomes_the_message_it_stands_for() -> None:
    text = MemorySource(Path("graph.pbtxt"), b'node { name: "x" op: "NoOp" }')
    ((number, node),) = Body.whole(binary_source(text, "GraphDef")).bodies()
    assert (number, node.load()) == (1, message((1, b"x"), (2, b"NoOp")))


def test_a_text_that_is_none_or_too_long_names_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    text = MemorySource(Path("graph.pbtxt"), b"node {")
    with pytest.raises(CorruptFileError, match=r"^graph\.pbtxt: byte"):
        binary_source(text, "GraphDef")
    monkeypatch.setattr(graph_kinds, "MAX_TEXT_BYTES", 3)
    with pytest.raises(UnsafeFileError, match=r"graph\.pbtxt: text too long, expected at most 3"):
        binary_source(text, "GraphDef")
