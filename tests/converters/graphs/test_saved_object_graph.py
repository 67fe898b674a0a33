from __future__ import annotations

from pathlib import Path

import pytest
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.graphs.object_graph import ObjectGraph, describe
from tensorferry.converters.graphs.saved_object_graph import (
    SavedObjectGraph,
    duplicates,
    with_metrics,
    with_saved_names,
)
from tensorferry.converters.tensors import Evidence, Role

END = "/.ATTRIBUTES/VARIABLE_VALUE"


def _child(number: int, name: str = "") -> tuple[int, bytes]:
    return 1, message((1, number or None), (2, name.encode()))


def _variable(name: str, *, trainable: bool = True) -> tuple[int, bytes]:
    return 7, message((1, 1), (3, int(trainable) or None), (6, name.encode()))


def _user(identifier: str, metadata: str = "") -> tuple[int, bytes]:
    return 4, message((1, identifier.encode()), (3, metadata.encode()))


def _saved(*nodes: tuple[tuple[int, bytes], ...]) -> SavedObjectGraph:
    data = message(*((1, message(*node)) for node in nodes))
    return SavedObjectGraph.parse(Body.whole(MemorySource(Path("saved_model.pb"), data)))


def _bundled(*nodes: tuple[tuple[int, bytes], ...]) -> ObjectGraph:
    return ObjectGraph.parse(message(*((1, message(*node)) for node in nodes)))


def _value(key: str, full_name: str = "") -> tuple[int, bytes]:
    name = full_name.encode() or None
    return 2, message((1, b"VARIABLE_VALUE"), (2, name), (3, f"{key}{END}".encode()))


# One object


def test_objects_of_every_kind_are_decoded() -> None:
    saved = _saved(
        (_child(1, "v"), _child(2, "c"), _user("_tf_keras_layer", '{"name": "d"}')),
        (_variable("d/kernel"),),
        ((9, message((1, b"Const_1"))),),
        (_variable("d/mean", trainable=False),),
        ((10, message((1, b"/cpu:0"))),),
    )
    root, kernel, constant, mean, table = saved.nodes
    assert (root.children, root.identifier, root.metadata) == (
        (1, 2),
        "_tf_keras_layer",
        '{"name": "d"}',
    )
    assert (kernel.variable, kernel.trainable) == ("d/kernel", True)
    assert (mean.variable, mean.trainable) == ("d/mean", False)
    assert constant.constant == "Const_1"
    assert (table.variable, table.trainable, table.constant) == (None, None, "")
    assert saved.trainable() == {1: True, 3: False}


def test_an_object_that_is_not_there_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="node id, expected below 1, got 5"):
        _saved((_child(5),))


# Beside the bundle's graph


def test_objects_behind_those_of_the_bundle_are_no_contradiction() -> None:
    saved = _saved((_child(1), _child(2)), (_variable("v"),), ())
    assert saved.fits(_bundled((_child(1, "v"),), (_value("v"),)))


@pytest.mark.parametrize(
    "bundled",
    [
        _bundled((_child(1, "v"),), (), (), ()),
        _bundled((_child(2, "v"),), (), (_value("v"),)),
        _bundled((_child(2, "v"),), (), ()),
    ],
    ids=["more of them", "another is the variable", "other children"],
)
def test_objects_that_are_not_those_of_the_bundle_do_not_fit(bundled: ObjectGraph) -> None:
    assert not _saved((_child(1),), (_variable("v"),), ()).fits(bundled)


def test_a_variable_without_a_full_name_takes_that_of_the_model() -> None:
    saved = _saved((_child(1), _child(2)), (_variable("d/kernel"),), (_variable("other"),))
    bundled = _bundled((_child(1, "a"), _child(2, "b")), (_value("a"),), (_value("b", "own"),))
    named = with_saved_names(bundled, saved)
    assert [node.attributes[0].full_name for node in named.nodes[1:]] == ["d/kernel", "own"]
    assert list(describe(named, [f"a{END}", f"b{END}"])) == ["d/kernel", "own"]


def test_variables_of_metrics_are_counters() -> None:
    saved = _saved(
        (_child(1), _child(3)),
        (_child(2), _user("_tf_keras_metric")),
        (_variable("total"),),
        (_variable("kernel"),),
    )
    bundled = _bundled(
        (_child(1, "loss_tracker"), _child(3, "w")),
        (_child(2, "total"),),
        (_value("loss_tracker/total", "total"),),
        (_value("w", "kernel"),),
    )
    keys = [f"loss_tracker/total{END}", f"w{END}"]
    origins = with_metrics(bundled, saved, describe(bundled, keys))
    assert origins["total"].role is Role.COUNTER
    assert origins["total"].trainable is False
    assert origins["total"].evidence is Evidence.GRAPH
    assert origins["kernel"].role is Role.WEIGHT


# Keras 3's exports


def _export(*names: str) -> tuple[ObjectGraph, SavedObjectGraph, list[str]]:
    """Return both graphs of an export with these variables in each of its two lists."""
    keys = [f"{each}/{i}" for each in ("variables", "_all_variables") for i in range(len(names))]
    bundled = _bundled((), *((_value(key),) for key in keys))
    saved = _saved((), *((_variable(name),) for name in (*names, *names)))
    return bundled, saved, [f"{key}{END}" for key in keys]


def test_a_weight_stored_twice_is_found_by_name_and_content() -> None:
    bundled, saved, keys = _export("a", "b")
    content = dict(zip(keys, ("one", "two", "one", "two"), strict=True))
    found = duplicates(bundled, saved, keys, content.get)
    assert found == {keys[2]: keys[0], keys[3]: keys[1]}


def test_equal_weights_of_one_name_are_paired_one_to_one() -> None:
    bundled, saved, keys = _export("sub/bias", "sub/bias")
    assert duplicates(bundled, saved, keys, lambda _: "zeros") == dict(
        zip(keys[2:], keys[:2], strict=True)
    )
    assert duplicates(bundled, saved, keys[1:], lambda _: "zeros") == {keys[2]: keys[1]}


@pytest.mark.parametrize("values", [("one", "other"), (None, None)])
def test_other_or_unknown_content_is_no_second_copy(values: tuple[str | None, ...]) -> None:
    bundled, saved, keys = _export("a")
    content = dict(zip(keys, values, strict=True))
    assert duplicates(bundled, saved, keys, content.get) == {}


def test_lists_of_other_names_are_left_alone() -> None:
    bundled = _bundled((), (_value("layers/0"),), (_value("_all_variables/0"),))
    saved = _saved((), (_variable("a"),), (_variable("a"),))
    keys = [f"layers/0{END}", f"_all_variables/0{END}"]
    assert duplicates(bundled, saved, keys, lambda _: "same") == {}
