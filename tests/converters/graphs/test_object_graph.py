from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.graphs.object_graph import GRAPH_KEY, ObjectGraph, describe
from tensorferry.converters.tensors import Evidence, Origin, Role, TensorDict

END = "/.ATTRIBUTES/VARIABLE_VALUE"


# Building graphs


def _child(node: int, name: str) -> tuple[int, bytes]:
    return 1, message((1, node or None), (2, name.encode()))


def _value(key: str, full_name: str = "", name: str = "VARIABLE_VALUE") -> tuple[int, bytes]:
    return 2, message((1, name.encode()), (2, full_name.encode() or None), (3, key.encode()))


def _slot(variable: int, name: str, slot: int) -> tuple[int, bytes]:
    return 3, message((1, variable or None), (2, name.encode()), (3, slot or None))


def _graph(*nodes: Sequence[tuple[int, bytes]]) -> ObjectGraph:
    return ObjectGraph.parse(message(*((1, message(*node)) for node in nodes)))


def _names(graph: ObjectGraph, *keys: str) -> dict[str, str]:
    """Return the readable name by key."""
    return {origin.key: name for name, origin in describe(graph, keys).items()}


def _roles(graph: ObjectGraph, *keys: str) -> dict[str, Role]:
    return {origin.key: origin.role for origin in describe(graph, keys).values()}


# The samples


def _sample(samples: Path, folder: str) -> TensorDict:
    tensors = open_tensors(samples / folder)
    tensors.close()
    return tensors


def _by_role(tensors: TensorDict, role: Role) -> set[str]:
    return {name for name in tensors if tensors.origin(name).role is role}


def test_tf_keras_names_its_variables_and_slots(samples: Path) -> None:
    tensors = _sample(samples, "tf_keras_object")
    weights = _by_role(tensors, Role.WEIGHT) | _by_role(tensors, Role.STATE)
    assert weights == {
        "d1/kernel", "d1/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance",
        "d2/kernel", "d2/bias",
    }  # fmt: skip
    assert _by_role(tensors, Role.STATE) == {"bn/moving_mean", "bn/moving_variance"}
    trained = _by_role(tensors, Role.WEIGHT)
    assert _by_role(tensors, Role.SLOT) == {f"Adam/{name}/{s}" for name in trained for s in "mv"}
    assert _by_role(tensors, Role.COUNTER) == {"save_counter", "Adam/iter"}
    assert _by_role(tensors, Role.OPTIMIZER) == {
        f"Adam/{name}" for name in ("learning_rate", "beta_1", "beta_2", "decay")
    }


def test_slots_know_their_variable(samples: Path) -> None:
    tensors = _sample(samples, "tf_keras_object")
    for name in _by_role(tensors, Role.SLOT):
        origin = tensors.origin(name)
        assert name == f"Adam/{origin.owner}/{origin.slot}"


def test_slots_of_the_new_tf_keras_optimizer_know_their_variable(samples: Path) -> None:
    tensors = _sample(samples, "tf_keras_weights")
    assert _by_role(tensors, Role.WEIGHT) == {
        "conv/kernel", "conv/bias", "bn/gamma", "bn/beta", "head/kernel", "head/bias",
    }  # fmt: skip
    assert _by_role(tensors, Role.STATE) == {"bn/moving_mean", "bn/moving_variance"}
    assert _by_role(tensors, Role.OPTIMIZER) == {"learning_rate"}
    assert _by_role(tensors, Role.COUNTER) == {"iteration", "save_counter"} & set(tensors)
    owners = {name: tensors.origin(name).owner for name in _by_role(tensors, Role.SLOT)}
    assert len(owners) == 12
    assert all(name[2:] == owner for name, owner in owners.items())
    assert len(tensors) == 22


def test_keras3_weights_that_are_keyed_under_the_optimizer_are_weights(samples: Path) -> None:
    tensors = _sample(samples, "keras3_object")
    keys = {name: tensors.origin(name).key for name in _by_role(tensors, Role.WEIGHT)}
    assert keys["d1/kernel"] == f"optimizer/_trainable_variables/0{END}"
    assert set(keys) == {
        "d1/kernel", "d1/bias", "bn/gamma", "bn/beta", "d2/kernel", "d2/bias",
    }  # fmt: skip
    assert _by_role(tensors, Role.STATE) == {"bn/moving_mean", "bn/moving_variance"}
    assert _by_role(tensors, Role.OPTIMIZER) == {"adam/learning_rate"}
    assert _by_role(tensors, Role.COUNTER) == {"adam/iteration", "save_counter"}
    slot = tensors.origin("adam/d2_bias_velocity")
    assert (slot.role, slot.owner, slot.slot) == (Role.SLOT, "d2/bias", "velocity")


def test_ambiguous_full_names_give_way_to_paths(samples: Path) -> None:
    tensors = _sample(samples, "tf_module_object")
    assert {f"module/blocks/{n}/w" for n in range(1, 11)} <= set(tensors)
    assert {"module/first/w", "module/by_name/a.b/w", "module/by_name/c/d/b"} <= set(tensors)
    assert "module/by_name/./e..f/w" in tensors
    assert not any("Variable" in name for name in tensors)
    assert tensors.origin("module/by_name/c/d/b").key == f"module/by_name/c.Sd/b{END}"


def test_tables_are_tables_and_strings_are_text(samples: Path) -> None:
    tensors = _sample(samples, "tf_module_object")
    assert _by_role(tensors, Role.TABLE) == {"module/table/keys", "module/table/values"}
    assert tensors.origin("module/table/keys").key == "module/table/.ATTRIBUTES/table-keys"
    assert _by_role(tensors, Role.TEXT) == {"module/words"}


def test_the_graph_itself_is_no_tensor(samples: Path) -> None:
    for folder in ("tf_keras_object", "keras3_object", "tf_module_object", "max_shard_slices"):
        assert GRAPH_KEY not in _sample(samples, folder)


@pytest.mark.parametrize("folder", ["tf_keras_object", "keras3_object", "tf_module_object"])
def test_keys_have_the_same_roles_as_readable_names(samples: Path, folder: str) -> None:
    named = _sample(samples, folder)
    keyed = open_tensors(samples / folder, ReadOptions(names="key"))
    keyed.close()
    assert [named.origin(name)[:2] for name in named] == [keyed.origin(key)[:2] for key in keyed]


# Names


def test_a_unique_full_name_is_the_name() -> None:
    graph = _graph([_child(1, "v")], [_value(f"v{END}", "dense/kernel")])
    assert _names(graph, f"v{END}") == {f"v{END}": "dense/kernel"}


def test_without_full_names_the_path_is_the_name() -> None:
    graph = _graph([_child(1, "a")], [_child(2, "w")], [_value(f"a/w{END}")])
    assert _names(graph, f"a/w{END}") == {f"a/w{END}": "a/w"}


def test_keys_can_stay_as_they_are() -> None:
    graph = _graph([_child(1, "v")], [_value(f"v{END}", "dense/kernel")])
    origins = describe(graph, [f"v{END}", "other"], readable=False)
    weight = Origin(f"v{END}", Role.WEIGHT, evidence=Evidence.GRAPH)
    assert origins == {f"v{END}": weight, "other": Origin("other")}


def test_the_shortest_path_wins_and_layer_goes_before_layer_with_weights() -> None:
    graph = _graph(
        [_child(1, "layer_with_weights-0"), _child(1, "layer-1"), _child(2, "deep")],
        [_child(3, "kernel")],
        [_child(1, "same"), _child(3, "k")],
        [_value(f"layer_with_weights-0/kernel{END}")],
    )
    assert list(_names(graph, f"layer_with_weights-0/kernel{END}").values()) == ["layer-1/kernel"]


def test_equal_full_names_and_equal_paths_leave_the_keys() -> None:
    # `a/b` as one child and as two: the joined paths are the same.
    graph = _graph(
        [_child(1, "a/b"), _child(2, "a")],
        [_value(f"a.Sb{END}", "Variable")],
        [_child(3, "b")],
        [_value(f"a/b{END}", "Variable")],
    )
    keys = (f"a.Sb{END}", f"a/b{END}")
    assert _names(graph, *keys) == {key: key for key in keys}


def test_a_full_name_that_is_the_key_of_another_is_not_taken() -> None:
    graph = _graph(
        [_child(1, "a"), _child(2, "b")], [_value(f"a{END}", f"b{END}")], [_value(f"b{END}")]
    )
    assert _names(graph, f"a{END}", f"b{END}") == {f"a{END}": "a", f"b{END}": "b"}


def test_keys_that_the_graph_does_not_know_stay() -> None:
    graph = _graph([_child(1, "v")], [_value(f"v{END}", "q")])
    assert _names(graph, f"v{END}", "q") == {f"v{END}": "v", "q": "q"}


@pytest.mark.parametrize("full_name", ["", GRAPH_KEY])
def test_names_that_checkpoints_keep_for_themselves_are_not_given(full_name: str) -> None:
    graph = _graph([_child(1, full_name)], [_value(f"k{END}", full_name)])
    assert _names(graph, f"k{END}") == {f"k{END}": f"k{END}"}


def test_keys_of_the_graph_that_the_bundle_lacks_are_not_given() -> None:
    graph = _graph([_child(1, "v")], [_value(f"v{END}", "dense/kernel")])
    assert describe(graph, []) == {}


# Roles


def test_a_counter_of_the_user_called_iter_is_a_weight() -> None:
    graph = _graph([_child(1, "iter"), _child(2, "w")], [_value(f"iter{END}")], [_value(f"w{END}")])
    roles = _roles(graph, f"iter{END}", f"w{END}")
    assert set(roles.values()) == {Role.WEIGHT}


@pytest.mark.parametrize("beside", ["learning_rate", "decay", "momentum", "beta_1", "rho"])
def test_iter_beside_a_hyper_parameter_is_an_optimizer(beside: str) -> None:
    graph = _graph(
        [_child(1, "opt"), _child(2, "w")],
        [_child(3, "iter"), _child(4, beside)],
        [_value(f"w{END}")],
        [_value(f"opt/iter{END}")],
        [_value(f"opt/{beside}{END}")],
    )
    keys = (f"w{END}", f"opt/iter{END}", f"opt/{beside}{END}")
    assert list(_roles(graph, *keys).values()) == [Role.WEIGHT, Role.COUNTER, Role.OPTIMIZER]


def test_what_is_reached_beside_the_optimizer_too_is_a_weight() -> None:
    graph = _graph(
        [_child(1, "optimizer"), _child(2, "model")],
        [_child(4, "_iterations"), _child(3, "w"), _child(5, "m")],
        [_child(6, "layer")],
        [_value(f"optimizer/w{END}")],
        [_value(f"optimizer/_iterations{END}")],
        [_value(f"optimizer/m{END}")],
        [_child(3, "kernel")],
    )
    keys = [f"optimizer/{name}{END}" for name in ("w", "_iterations", "m")]
    assert list(_roles(graph, *keys).values()) == [Role.WEIGHT, Role.COUNTER, Role.OPTIMIZER]
    assert _names(graph, *keys)[keys[0]] == "model/layer/kernel"


def test_slots_have_an_owner() -> None:
    graph = _graph(
        [_child(1, "o"), _child(2, "w")],
        [_child(4, "_iterations"), _slot(2, "m", 3)],
        [_value(f"w{END}", "kernel")],
        [_value(f"w/.OPTIMIZER_SLOT/o/m{END}")],
        [],
    )
    origins = describe(graph, [f"w{END}", f"w/.OPTIMIZER_SLOT/o/m{END}"])
    slot = f"w/.OPTIMIZER_SLOT/o/m{END}"
    assert origins[slot] == Origin(slot, Role.SLOT, "kernel", False, Evidence.GRAPH, "m")
    assert origins["kernel"].trainable is True


def test_only_the_save_counter_of_the_root_is_a_counter() -> None:
    graph = _graph(
        [_child(1, "save_counter"), _child(2, "sub")],
        [_value(f"save_counter{END}")],
        [_child(3, "save_counter")],
        [_value(f"sub/save_counter{END}")],
    )
    roles = _roles(graph, f"save_counter{END}", f"sub/save_counter{END}")
    assert list(roles.values()) == [Role.COUNTER, Role.WEIGHT]


# Odd graphs


def test_cycles_and_shared_nodes_end() -> None:
    graph = _graph(
        [_child(0, "itself"), _child(1, "a"), _child(2, "b")],
        [_child(0, "up"), _child(2, "twin")],
        [_child(1, "back"), _child(3, "w")],
        [_value(f"b/w{END}")],
    )
    assert _names(graph, f"b/w{END}") == {f"b/w{END}": "b/w"}


def test_a_graph_without_nodes_names_nothing() -> None:
    assert describe(_graph(), ["a"]) == {"a": Origin("a")}


@pytest.mark.parametrize(
    "data",
    [
        message((1, message((1, message((1, 1)))))),
        message((1, message((1, message((1, -1)))))),
        message((1, message((3, message((1, 7)))))),
        message((1, message((3, message((3, 7)))))),
        b"\x0a\x7f",
        b"\x0a\x02\x0a\x7f",
        b"\x0b",
    ],
)
def test_a_bad_graph_is_refused_under_its_name(data: bytes) -> None:
    with pytest.raises(CorruptFileError) as caught:
        ObjectGraph.parse(data)
    assert (caught.value.where or "").startswith(f"tensor `{GRAPH_KEY}`")


def test_names_that_are_not_utf8_are_carried() -> None:
    node = message((1, b"VARIABLE_VALUE"), (2, b"\xff"), (3, b"k"))
    graph = ObjectGraph.parse(message((1, message((2, node)))))
    assert list(describe(graph, ["k"])) == ["\udcff"]


# Any graph

_TEXTS = st.sampled_from(["", "a", "b", "a/b", "x", "y", "iter", "_iterations", "decay", GRAPH_KEY])
_KEYS = st.sampled_from(["a", "b", "x", "y", "a/b", f"a{END}", f"b{END}", "unknown"])


@st.composite
def _graphs(draw: st.DrawFn) -> ObjectGraph:
    count = draw(st.integers(1, 6))
    ids = st.integers(0, count - 1)
    children = st.builds(_child, ids, _TEXTS)
    slots = st.builds(_slot, ids, _TEXTS, ids)
    values = st.builds(_value, _KEYS, _TEXTS)
    parts = st.lists(st.one_of(children, values, slots), max_size=5)
    return _graph(*draw(st.lists(parts, min_size=count, max_size=count)))


@given(_graphs(), st.lists(_KEYS, unique=True))
def test_every_key_gets_one_name_and_no_name_two_keys(graph: ObjectGraph, keys: list[str]) -> None:
    for readable in (True, False):
        origins = describe(graph, keys, readable=readable)
        assert [origin.key for origin in origins.values()] == keys
        assert all(name not in ("", GRAPH_KEY) for name in origins)
        assert {origin.owner for origin in origins.values()} <= {None, *origins}
