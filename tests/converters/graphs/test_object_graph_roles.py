from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.containers.wire import message
from tensorferry.converters.graphs.object_graph import ObjectGraph, describe
from tensorferry.converters.tensors import Evidence, Origin, Role, TensorDict

END = "/.ATTRIBUTES/VARIABLE_VALUE"
Part = tuple[int, bytes]


def _child(node: int, name: str) -> Part:
    return 1, message((1, node or None), (2, name.encode()))


def _children(**nodes: int) -> list[Part]:
    return [_child(node, name) for name, node in nodes.items()]


def _items(*nodes: int) -> list[Part]:
    return [_child(node, str(index)) for index, node in enumerate(nodes)]


def _value(key: str, full_name: str = "", name: str = "VARIABLE_VALUE") -> Part:
    return 2, message((1, name.encode()), (2, full_name.encode() or None), (3, key.encode()))


def _slot(variable: int, name: str, slot: int) -> Part:
    return 3, message((1, variable or None), (2, name.encode()), (3, slot or None))


def _graph(*nodes: Sequence[Part]) -> ObjectGraph:
    return ObjectGraph.parse(message(*((1, message(*node)) for node in nodes)))


def _keyed(graph: ObjectGraph, *keys: str, **options: Any) -> dict[str, Origin]:
    return {origin.key: origin for origin in describe(graph, keys, **options).values()}


# Optimizers


def _keras3(*, hidden: bool) -> ObjectGraph:
    """Return a model with two weights of one full name; hidden ones have no path of their own."""
    model = [] if hidden else _children(a=3, b=4)
    return _graph(
        [*model, _child(1, "optimizer")],
        [
            _child(2, "_iterations"),
            _child(5, "_trainable_variables"),
            _child(6, "_momentums"),
            _child(7, "_model_variables_moving_average"),
            _child(5, "_variables"),
        ],
        [_value("n", "adam/iteration")],
        [_value("a", "sub/kernel")],
        [_value("b", "sub/kernel")],
        _items(3, 4),
        _items(8, 9),
        [_child(10, "1")],
        [_value("ma", "adam/sub_dense_kernel_momentum")],
        [_value("mb", "adam/sub_dense_1_kernel_momentum")],
        [_value("eb", "adam/sub_dense_1_kernel_average")],
    )


@pytest.mark.parametrize("hidden", [False, True])
def test_lists_of_an_optimizer_pair_with_its_variables(hidden: bool) -> None:
    origins = _keyed(_keras3(hidden=hidden), "n", "a", "b", "ma", "mb", "eb")
    for key in "ab":
        assert origins[key] == Origin(key, Role.WEIGHT, None, True, Evidence.GRAPH)
    assert origins["n"].role is Role.COUNTER
    owner = "sub/dense_1/kernel"
    assert origins["mb"] == Origin("mb", Role.SLOT, owner, False, Evidence.GRAPH, "momentum")
    assert origins["eb"] == Origin("eb", Role.AVERAGE, owner, False, Evidence.GRAPH)


@pytest.mark.parametrize("hidden", [False, True])
def test_an_optimizer_spells_names_that_are_not_unique(hidden: bool) -> None:
    names = describe(_keras3(hidden=hidden), ["a", "b", "ma", "mb"])
    assert {origin.key: name for name, origin in names.items()} == {
        "a": "sub/dense/kernel",
        "b": "sub/dense_1/kernel",
        "ma": "adam/sub_dense_kernel_momentum",
        "mb": "adam/sub_dense_1_kernel_momentum",
    }


@pytest.mark.parametrize("full_name", ["other_dense_kernel_momentum", "sub_kernel_m", "x", ""])
def test_a_spelling_that_does_not_fit_is_not_taken(full_name: str) -> None:
    graph = _graph(
        [*_children(a=2, b=3), _child(1, "optimizer")],
        _children(_iterations=6, _trainable_variables=4, _momentums=5),
        [_value("a", "sub/kernel")],
        [_value("b", "sub/kernel")],
        _items(2, 3),
        _items(7, 8),
        [],
        [_value("ma", full_name)],
        [_value("mb", full_name)],
    )
    names = {origin.key: name for name, origin in describe(graph, ["a", "b", "ma", "mb"]).items()}
    assert (names["a"], names["b"]) == ("a", "b")


def test_full_names_pair_slots_where_the_variables_are_not_listed() -> None:
    graph = _graph(
        _children(model=1, optimizer=2),
        _children(kernel=3, twin=7, other=8),
        _children(_iterations=4, _velocities=5),
        [_value("k", "dense/kernel")],
        [],
        _items(6, 9),
        [_value("v", "Adam/v/dense/kernel")],
        [_value("t", "twins")],
        [_value("u", "twins")],
        [_value("w", "Adam/v/twins")],
    )
    origins = _keyed(graph, "k", "v", "t", "u", "w")
    assert origins["v"] == Origin("v", Role.SLOT, "dense/kernel", False, Evidence.GRAPH, "velocity")
    assert origins["k"].trainable is True
    assert origins["w"].role is Role.OPTIMIZER
    assert origins["t"].trainable is None


def test_a_list_with_gaps_pairs_by_index() -> None:
    graph = _graph(
        [_child(1, "optimizer")],
        _children(_iterations=2, _trainable_variables=3, _c=4, names=5),
        [],
        _items(6, 7),
        [_child(8, "1")],
        [_child(9, "0"), _child(10, "x")],
        [_value("a")],
        [_value("b")],
        [_value("c")],
        [_value("d")],
        [],
    )
    origins = _keyed(graph, "a", "b", "c", "d")
    assert origins["c"] == Origin("c", Role.SLOT, "b", False, Evidence.GRAPH, "c")
    assert origins["d"].role is Role.OPTIMIZER


@pytest.mark.parametrize("name", ["base_optimizer", "inner_optimizer", "_optimizer"])
def test_what_wraps_an_optimizer_is_one(name: str) -> None:
    graph = _graph(
        [_child(1, "optimizer")],
        [_child(2, name), _child(3, "loss_scale")],
        [_child(4, "_iterations")],
        [_value("s")],
        [_value("i")],
    )
    origins = _keyed(graph, "s", "i")
    assert (origins["s"].role, origins["i"].role) == (Role.OPTIMIZER, Role.COUNTER)


@pytest.mark.parametrize("name", ["average", "ema"])
def test_slots_that_average_are_averages(name: str) -> None:
    graph = _graph(_children(o=1, w=2), [_slot(2, name, 3)], [_value("w")], [_value("e")])
    assert _keyed(graph, "w", "e")["e"] == Origin("e", Role.AVERAGE, "w", False, Evidence.GRAPH)


def test_what_nothing_reaches_is_unknown() -> None:
    assert _keyed(_graph([], [_value("q")]), "q")["q"] == Origin("q")


def test_a_long_chain_of_objects_has_keys_for_names() -> None:
    count = 20_000
    nodes = [[_child(number + 1, "n"), _value(f"k{number}")] for number in range(count)]
    origins = describe(_graph(*nodes, []), ["k2", "k100", "k101", f"k{count - 1}"])
    names = {origin.key: name for name, origin in origins.items()}
    assert names["k2"] == "n/n"
    assert names["k100"].count("n") == 100
    assert names["k101"] == "k101"
    assert names[f"k{count - 1}"] == f"k{count - 1}"
    assert {origin.role for origin in origins.values()} == {Role.WEIGHT}


# State and other things


@pytest.mark.parametrize("name", ["moving_mean", "moving_variance", "renorm_mean", "_state_var"])
def test_statistics_are_state(name: str) -> None:
    graph = _graph([_child(1, "layer")], [_child(2, name)], [_value("m")])
    assert _keyed(graph, "m")["m"] == Origin("m", Role.STATE, None, False, Evidence.GRAPH)


def test_what_the_container_says_is_not_trained_is_state_unless_it_is_a_weight() -> None:
    graph = _graph(
        _children(count=1, kernel=2, free=3), [_value("c")], [_value("k")], [_value("f")]
    )
    origins = _keyed(graph, "c", "k", "f", trainable={1: False, 2: False, 3: True})
    assert origins["c"][1:4] == (Role.STATE, None, False)
    assert origins["k"][1:4] == (Role.WEIGHT, None, False)
    assert origins["f"][1:4] == (Role.WEIGHT, None, True)


def test_metrics_count() -> None:
    graph = _graph(
        [_child(1, "keras_api")], [_child(2, "metrics")], [_child(3, "0")], [_child(4, "total")],
        [_value("t")],
    )  # fmt: skip
    assert _keyed(graph, "t")["t"].role is Role.COUNTER


@pytest.mark.parametrize(
    ("attribute", "key", "role", "name"),
    [
        ("table", "t-keys", Role.TABLE, "x/keys"),
        ("table", "t-values", Role.TABLE, "x/values"),
        ("ITERATOR", "t_STATE", Role.COUNTER, "x/state"),
        ("py_state", "t", Role.TEXT, "x/py_state"),
        ("OBJECT_CONFIG_JSON", "t", Role.TEXT, "x/OBJECT_CONFIG_JSON"),
    ],
)
def test_attributes_that_are_no_variables(attribute: str, key: str, role: Role, name: str) -> None:
    graph = _graph([_child(1, "x")], [_value("t", "", attribute)])
    assert describe(graph, [key]) == {name: Origin(key, role, None, False, Evidence.GRAPH)}


# Real files


def _opened(path: Path) -> TensorDict:
    tensors = open_tensors(path)
    tensors.close()
    return tensors


def _roles(tensors: TensorDict) -> dict[str, Role]:
    return {name: tensors.origin(name).role for name in tensors}


def test_sonnets_averages_are_state(corpus: Path) -> None:
    folder = corpus / "files/ckpt_object/google-deepmind__sonnet"
    tensors = _opened(folder / "obj-sonnet-ema-2")
    roles = {name.rpartition("/")[2]: role for name, role in _roles(tensors).items()}
    assert roles == {
        "counter": Role.COUNTER, "hidden": Role.STATE, "average": Role.STATE,
        "save_counter": Role.COUNTER,
    }  # fmt: skip


def test_the_optimizer_inside_a_loss_scale_is_known(corpus: Path) -> None:
    tensors = _opened(corpus / "files/ckpt_object/keras-team__keras/obj-keras-lso-tf22")
    roles = list(_roles(tensors).values())
    assert roles.count(Role.SLOT) == 2
    assert roles.count(Role.WEIGHT) == 2
    assert roles.count(Role.OPTIMIZER) == 5
    owners = {tensors.origin(name).owner for name in tensors}
    assert owners == {
        None,
        *(name for name, role in _roles(tensors).items() if role is Role.WEIGHT),
    }


# Live models


def _built(model: Any, optimizer: Any) -> Any:
    """Return a compiled model whose weights and slots exist; training makes no others."""
    import numpy as np

    model(np.ones((4, 4), "float32"))
    model.compile(optimizer, "mse")
    build = getattr(optimizer, "_create_all_weights", None) or optimizer.build
    build(model.trainable_variables)
    return model


def _functional(keras: Any) -> Any:
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3)(inputs)
    x = keras.layers.BatchNormalization()(x)
    inner = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(3)], name="inner")
    return keras.Model(inputs, keras.layers.Dense(2)(inner(x)))


def _sequential(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)]
    )


def _subclassed(keras: Any) -> Any:
    class Sub(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a = keras.layers.Dense(3)
            self.b = keras.layers.Dense(3)
            self.norm = keras.layers.BatchNormalization()
            self.blocks = [keras.layers.Dense(3), keras.layers.Dense(2)]

        def call(self, x: Any) -> Any:
            x = self.norm(self.b(self.a(x)))
            for block in self.blocks:
                x = block(x)
            return x

    return Sub()


MODELS = [_functional, _sequential, _subclassed]
OPTIMIZERS = [
    ("Adam", {}, ["_momentums", "_velocities"]),
    ("Adam", {"amsgrad": True}, ["_momentums", "_velocities", "_velocity_hats"]),
    ("SGD", {"momentum": 0.9}, ["momentums"]),
    ("RMSprop", {"momentum": 0.9, "centered": True},
     ["_velocities", "_momentums", "_average_gradients"]),
    ("Adagrad", {}, ["_accumulators"]),
    ("Adadelta", {}, ["_accumulated_grads", "_accumulated_delta_vars"]),
    ("Ftrl", {}, ["_accumulators", "_linears"]),
    ("Lion", {}, ["_momentums"]),
]  # fmt: skip


def _of(tensors: TensorDict, role: Role) -> list[str]:
    return [name for name in tensors if tensors.origin(name).role is role]


def _written(tensorflow: Any, folder: Path, model: Any, *, beside: bool) -> TensorDict:
    """Write a compiled model, its optimizer beside it or only inside it, and open what there is."""
    objects = {"model": model, "optimizer": model.optimizer} if beside else {"root": model}
    tensorflow.train.Checkpoint(**objects).write(str(folder / "m"))
    return _opened(folder / "m")


def _flat(name: str) -> str:
    """Return a name without the slashes that Keras 3 loses on the way."""
    return name.replace("/", "_")


@pytest.mark.oracle
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("name", "arguments", "lists"), OPTIMIZERS)
def test_keras3_models_agree_with_the_live_ones(
    tensorflow: Any,
    tmp_path: Path,
    make: Callable[[Any], Any],
    beside: bool,
    name: str,
    arguments: dict[str, Any],
    lists: list[str],
) -> None:
    import keras

    optimizer = getattr(keras.optimizers, name)(**arguments, use_ema=True)
    model = _built(make(keras), optimizer)
    tensors = _written(tensorflow, tmp_path, model, beside=beside)
    weights = _of(tensors, Role.WEIGHT)
    assert {_flat(each) for each in weights} == {
        _keras3_name(model, each) for each in model.trainable_variables
    }
    assert all(tensors.origin(each).trainable for each in weights)
    assert len(_of(tensors, Role.STATE)) == len(model.non_trainable_variables)
    assert _owners(tensors, Role.SLOT) == _pairs(model, optimizer, lists)
    averages = _pairs(model, optimizer, ["_model_variables_moving_average"])
    assert _owners(tensors, Role.AVERAGE) == averages
    assert len(_of(tensors, Role.OPTIMIZER)) == len(_of(tensors, Role.COUNTER)) == 1


def _owners(tensors: TensorDict, role: Role) -> dict[str, str]:
    return {_flat(name): _flat(tensors.origin(name).owner or "") for name in _of(tensors, role)}


def _keras3_name(model: Any, variable: Any) -> str:
    """Return a variable's name, flat and without the model's own, which a Sequential puts there."""
    is_sequential = type(model).__name__ == "Sequential"
    return _flat(variable.path.removeprefix(f"{model.name}/" if is_sequential else ""))


def _pairs(model: Any, optimizer: Any, lists: list[str]) -> dict[str, str]:
    return {
        _flat(slot.path): _keras3_name(model, variable)
        for each in lists
        for slot, variable in zip(
            getattr(optimizer, each), optimizer._trainable_variables, strict=True
        )
    }


@pytest.mark.oracle
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(("name", "arguments", "lists"), OPTIMIZERS)
def test_tf_keras_models_agree_with_the_live_ones(
    tensorflow: Any,
    tmp_path: Path,
    make: Callable[[Any], Any],
    beside: bool,
    name: str,
    arguments: dict[str, Any],
    lists: list[str],
) -> None:
    import tf_keras

    optimizer = getattr(tf_keras.optimizers, name)(**arguments, use_ema=True)
    model = _built(make(tf_keras), optimizer)
    tensors = _written(tensorflow, tmp_path, model, beside=beside)
    assert set(_of(tensors, Role.WEIGHT)) == {_name(each) for each in model.trainable_variables}
    assert len(_of(tensors, Role.STATE)) == len(model.non_trainable_variables)
    for role, names in (
        (Role.SLOT, lists), (Role.AVERAGE, ["_model_variables_moving_average"]),
    ):  # fmt: skip
        pairs = {slot: tensors.origin(slot).owner for slot in _of(tensors, role)}
        live = [
            _name(each)
            for own in names
            for each in getattr(optimizer, own, None) or getattr(optimizer, own[1:])
        ]
        assert set(pairs) == set(live)
        assert all(owner and slot.endswith(f"/{owner}") for slot, owner in pairs.items())


@pytest.mark.oracle
@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("Adam", {"amsgrad": True}), ("SGD", {"momentum": 0.9}), ("RMSprop", {"momentum": 0.9})],
)
def test_legacy_slots_agree_with_the_live_ones(
    tensorflow: Any,
    tmp_path: Path,
    make: Callable[[Any], Any],
    name: str,
    arguments: dict[str, Any],
) -> None:
    import tf_keras

    optimizer = getattr(tf_keras.optimizers.legacy, name)(**arguments)
    model = _built(make(tf_keras), optimizer)
    tensors = _written(tensorflow, tmp_path, model, beside=False)
    truth = {
        (_name(variable), slot)
        for variable in model.trainable_variables
        for slot in optimizer.get_slot_names()
    }
    origins = [tensors.origin(each) for each in _of(tensors, Role.SLOT)]
    assert {(origin.owner, origin.slot) for origin in origins} == truth
    assert {n for n in tensors if tensors.origin(n).trainable} == {owner for owner, _ in truth}


@pytest.mark.oracle
def test_the_loss_scale_of_keras3_is_optimizer_state(tensorflow: Any, tmp_path: Path) -> None:
    import keras

    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(momentum=0.9))
    model = _built(_sequential(keras), optimizer)
    tensors = _written(tensorflow, tmp_path, model, beside=False)
    weights = {_keras3_name(model, each) for each in model.trainable_variables}
    assert {_flat(name) for name in _of(tensors, Role.WEIGHT)} == weights
    assert set(_owners(tensors, Role.SLOT).values()) == weights
    assert len(_of(tensors, Role.OPTIMIZER)) == 3
    assert len(_of(tensors, Role.COUNTER)) == 3


def _name(variable: Any) -> str:
    name: str = variable.name.partition(":")[0]
    return name
