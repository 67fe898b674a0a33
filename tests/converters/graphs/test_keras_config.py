"""Names from configs and groups, without any file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.graphs.keras_config import (
    Layer,
    children,
    class_of_group,
    optimizer,
    parse,
    snake_case,
)
from tensorferry.converters.graphs.keras_names import describe
from tensorferry.converters.graphs.keras_optimizers import optimizer_variables
from tensorferry.converters.graphs.keras_quantisation import dequantise
from tensorferry.converters.graphs.keras_variables import variables_of_class, variables_of_layer
from tensorferry.converters.tensors import Evidence, MemoryTensor, Role, Tensor, TensorSpec


def item(kind: str, name: str | None = None, module: str = "keras.layers", **config: Any) -> Any:
    if name is not None:
        config["name"] = name
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def layer(kind: str, name: str | None = None, keras: int = 3, **config: Any) -> Layer:
    found = parse(item(kind, name, **config), keras)
    assert found is not None
    return found


def spec(*shape: int, dtype: DType = DType.FLOAT32) -> TensorSpec:
    return TensorSpec(dtype, shape)


def names(found: object) -> list[str] | None:
    return None if found is None else [each.name for each in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("Conv2DTranspose", "conv2d_transpose"),
        ("PReLU", "p_re_lu"),
        ("LSTMCell", "lstm_cell"),
        ("Functional", "functional"),
        ("TFOpLambda", "tf_op_lambda"),
        ("SimpleRNN", "simple_rnn"),
        ("A<B>", "ab"),
    ],
)
def test_groups_are_called_after_classes(name: str, group: str) -> None:
    assert snake_case(name) == group


def test_counters_of_groups_are_no_part_of_the_class() -> None:
    assert class_of_group("conv2d_12") == "conv2d"
    assert class_of_group("conv2d") == "conv2d"


def test_layers_are_counted_by_class_and_operations_are_none() -> None:
    model = layer(
        "Functional",
        "m",
        layers=[
            item("InputLayer", "x"),
            item("Dense", "a"),
            item("Add", "plus", module="keras.src.ops.numpy"),
            item("Dense", "b"),
            item("Add", "add"),
            "nonsense",
            {"class_name": 3},
        ],
    )
    found = children(model)
    assert {path: child.name for path, child in found.items()} == {
        "layers/input_layer": "x",
        "layers/dense": "a",
        "layers/dense_1": "b",
        "layers/add": "add",
    }


def test_a_sequential_model_does_not_list_its_input() -> None:
    model = layer("Sequential", "m", layers=[item("InputLayer", "x"), item("Dense", "a")])
    assert list(children(model)) == ["layers/dense"]


def test_a_subclass_of_functional_is_known_by_its_config() -> None:
    data = item("Mine", "m", "mine", layers=[item("Dense", "a")], input_layers=[])
    model = parse(data | {"registered_name": "mine>Mine"}, 3)
    assert model is not None
    assert not model.library
    assert list(children(model)) == ["layers/dense"]


def test_frozen_models_hold_frozen_layers() -> None:
    inner = item("Sequential", "i", layers=[item("Dense", "a", trainable=True)], trainable=False)
    model = layer("Functional", "m", trainable=True, layers=[inner, item("Dense", "b")])
    below = children(model)
    assert below["layers/dense"].trainable is True
    assert children(below["layers/sequential"])["layers/dense"].trainable is False


@pytest.mark.parametrize(
    ("keras", "expected"),
    [
        (3, {"forward_layer": "forward_l", "backward_layer": "backward_l"}),
        (2, {"forward_layer": "forward_forward_l", "backward_layer": "backward_forward_l"}),
    ],
)
def test_directions_are_part_of_names(keras: int, expected: dict[str, str]) -> None:
    both = layer("Bidirectional", "b", keras, layer=item("LSTM", "forward_l"))
    assert {path: child.name for path, child in children(both).items()} == expected


def test_cells_have_their_own_level() -> None:
    (cell,) = children(layer("GRU", "g", units=3)).values()
    assert (cell.kind, cell.name) == ("GRUCell", "gru_cell")
    stacked = item("StackedRNNCells", "s", cells=[item("LSTMCell", "x"), item("LSTMCell", "y")])
    rnn = layer("RNN", "r", cell=stacked)
    cells = children(children(rnn)["cell"])
    assert {path: child.name for path, child in cells.items()} == {
        "cells/lstm_cell": "x",
        "cells/lstm_cell_1": "y",
    }


@pytest.mark.parametrize("data", [None, 3, [], {}, {"class_name": "A"}, {"class_name": 1}])
def test_what_is_no_config_gives_no_model(data: object) -> None:
    assert parse(data, 3) is None


def test_odd_values_in_a_config_do_no_harm() -> None:
    model = layer("Functional", None, layers={"a": 1})
    assert model.name == ""
    assert children(model) == {}
    assert children(layer("Bidirectional", "b", layer=7)) == {}
    assert children(layer("RNN", "r", cell=None)) == {}
    assert layer("Dense", dtype="float32").mode is None


# Variables


@pytest.mark.parametrize(
    ("made", "stored", "expected"),
    [
        (layer("Dense", use_bias=False), [spec(2, 3)], ["kernel"]),
        (layer("Dense"), [spec(2, 3)], None),
        (layer("Dense"), [spec(3), spec(2, 3)], None),
        (layer("DepthwiseConv2D"), [spec(1, 1, 1, 1), spec(1)], ["kernel", "bias"]),
        (
            layer("BatchNormalization", scale=False),
            [spec(1), spec(1), spec(1)],
            ["beta", "moving_mean", "moving_variance"],
        ),
        (layer("Embedding"), [spec(9, 2)], ["embeddings"]),
        (
            layer("ReversibleEmbedding", tie_weights=False),
            [spec(9, 2), spec(2, 9)],
            ["embeddings", "reverse_embeddings"],
        ),
        (layer("Attention"), [], []),
        (layer("Normalization", mean=0.0), [], []),
        (layer("Unheard", use_bias=True), [spec(2, 3)], None),
    ],
)
def test_variables_follow_from_class_and_config(
    made: Layer, stored: list[TensorSpec], expected: list[str] | None
) -> None:
    assert names(variables_of_layer(made, stored)) == expected


def quantised(mode: str, kind: str = "Dense", **config: Any) -> Layer:
    policy = {"class_name": "QuantizedDTypePolicy", "config": {"mode": mode}}
    return layer(kind, "d", dtype=policy, **config)


INT8 = DType.INT8


@pytest.mark.parametrize(
    ("made", "stored", "expected"),
    [
        (
            quantised("int8"),
            [spec(2, 3, dtype=INT8), spec(3), spec(3)],
            ["kernel", "bias", "kernel_scale"],
        ),
        (
            quantised("int4/128", use_bias=False),
            [spec(2, 2, dtype=INT8), spec(1, 3), spec(1, 3, dtype=INT8), spec(2)],
            ["kernel", "kernel_scale", "kernel_zero", "g_idx"],
        ),
        (
            quantised("gptq/4/128"),
            [spec(3), spec(2, 2, dtype=DType.UINT8), spec(1, 3), spec(1, 3), spec(2)],
            ["bias", "quantized_kernel", "kernel_scale", "kernel_zero", "g_idx"],
        ),
        (
            quantised("awq/4/128", use_bias=False),
            [spec(2, 2, dtype=DType.UINT8), spec(1, 3), spec(1, 3), spec(2), spec(2)],
            ["quantized_kernel", "kernel_scale", "kernel_zero", "awq_scales", "g_idx"],
        ),
        (
            quantised("int4/64", "Embedding"),
            [spec(9, 2, dtype=INT8), spec(9, 1), spec(9, 1, dtype=INT8), spec(4)],
            ["embeddings", "embeddings_scale", "embeddings_zero", "g_idx"],
        ),
        (quantised("int8"), [spec(2, 3, dtype=INT8)], None),
        (quantised("int8", "PReLU"), [spec(2, 3, dtype=INT8)], None),
    ],
)
def test_variables_of_quantised_layers_follow_from_mode_and_types(
    made: Layer, stored: list[TensorSpec], expected: list[str] | None
) -> None:
    if expected and "quantized_kernel" in expected and "bias" not in expected:
        made = made._replace(config={**made.config, "use_bias": False})
    assert names(variables_of_layer(made, stored)) == expected


def test_a_class_alone_names_what_is_not_ambiguous() -> None:
    assert names(variables_of_class("dense", None, [spec(2, 3), spec(3)], 3)) == ["kernel", "bias"]
    assert variables_of_class("layer_normalization", None, [spec(3)], 3) is None
    assert variables_of_class("gru", "cell", [spec(2, 3)] * 4, 3) is None
    assert variables_of_class("unheard", None, [spec(3)], 3) is None


# Optimizers

TRAINED = [("a/kernel", spec(2, 3)), ("a/bias", spec(3))]


def test_an_optimizer_of_other_shapes_names_nothing() -> None:
    adam = layer("Adam", "adam")
    scalar = [spec(), spec()]
    good = [*scalar, spec(2, 3), spec(2, 3), spec(3), spec(3)]
    assert names(optimizer_variables(adam, TRAINED, good)) == [
        "adam/iteration",
        "adam/learning_rate",
        "adam/a_kernel_momentum",
        "adam/a_kernel_velocity",
        "adam/a_bias_momentum",
        "adam/a_bias_velocity",
    ]
    assert optimizer_variables(adam, TRAINED, good[:-1]) is None
    assert optimizer_variables(adam, TRAINED, [*good[:-1], spec(4)]) is None


def test_a_schedule_takes_the_place_of_the_learning_rate() -> None:
    adam = layer("SGD", "sgd", learning_rate={"class_name": "ExponentialDecay"})
    assert names(optimizer_variables(adam, TRAINED, [spec()])) == ["sgd/iteration"]


def test_tf_keras_may_keep_no_more_than_the_class_of_an_optimizer() -> None:
    found = optimizer({"compile_config": {"optimizer": "adagrad"}}, 2)
    assert found is not None
    stored = [spec(), spec(2, 3), spec(3)]
    assert names(optimizer_variables(found, TRAINED, stored)) == [
        "iteration",
        "Adagrad/accumulator/a/kernel",
        "Adagrad/accumulator/a/bias",
    ]


def test_a_model_that_was_not_compiled_has_no_optimizer() -> None:
    for data in ({}, {"compile_config": None}, {"compile_config": {"optimizer": 5}}, None):
        assert optimizer(data, 3) is None


def test_owners_are_unknown_where_a_custom_layer_is_trained() -> None:
    model = layer("Sequential", "m", layers=[item("Dense", "a"), item("Odd", "o", module="mine")])
    specs = {
        "layers/dense/vars/0": spec(2, 3),
        "layers/dense/vars/1": spec(3),
        "layers/odd/vars/0": spec(3),
        **{f"optimizer/vars/{i}": s for i, s in enumerate([spec(), spec()])},
    }
    labels = {path.rpartition("/")[0]: None for path in specs}
    found = describe(specs, labels, model, layer("SGD", "sgd")).origins
    assert list(found) == [
        "a/kernel",
        "a/bias",
        "o/vars/0",
        "optimizer/vars/0",
        "optimizer/vars/1",
    ]
    assert found["optimizer/vars/0"].role is Role.OPTIMIZER
    assert found["a/kernel"].evidence is Evidence.CONFIG


@pytest.mark.parametrize("readable", [True, False])
def test_owners_are_called_as_they_are_in_the_dictionary(readable: bool) -> None:
    model = layer("Sequential", "m", layers=[item("Dense", "a"), item("Dense", "b")])
    variables = {
        f"layers/{group}/vars/{i}": s
        for group in ("dense", "dense_1")
        for i, s in enumerate([spec(2, 3), spec(3)])
    }
    stored = [spec(), spec(), *variables.values()]
    specs = variables | {f"optimizer/vars/{i}": s for i, s in enumerate(stored)}
    sgd = layer("SGD", "sgd", momentum=0.9)
    found = describe(specs, {}, model, sgd, readable=readable).origins
    slots = {origin.key: origin.owner for origin in found.values() if origin.role is Role.SLOT}
    first = "a/kernel" if readable else "layers/dense/vars/0"
    assert slots["optimizer/vars/2"] == first
    assert len(slots) == 4
    assert set(slots.values()) <= set(found)


def test_slots_of_variables_with_the_same_name_have_no_owners() -> None:
    model = layer("Sequential", "m", layers=[item("Dense", "a"), item("Dense", "a")])
    variables = {
        f"layers/{group}/vars/{i}": s
        for group in ("dense", "dense_1")
        for i, s in enumerate([spec(2, 3), spec(3)])
    }
    stored = [spec(), spec(), *variables.values()]
    specs = variables | {f"optimizer/vars/{i}": s for i, s in enumerate(stored)}
    found = describe(specs, {}, model, layer("SGD", "sgd", momentum=0.9)).origins
    assert {origin.owner for origin in found.values()} == {None}
    assert [origin.role for origin in found.values()].count(Role.SLOT) == 4


def test_every_key_gets_a_name_of_its_own_whatever_it_looks_like() -> None:
    keys = ["vars/0", "0", "a", "x/vars/vars/1", "vars/vars/vars/7", "a b/vars/00", "x\\y/vars/0"]
    keys += ["layers/dense/vars/0", "layers/dense/vars/2", "metrics/vars/0", "optimizer", "/vars/1"]
    specs = {key: spec(2, 3) for key in keys}
    found = describe(specs, {"layers/dense/vars": "0"}, None, None).origins
    assert sorted(origin.key for origin in found.values()) == sorted(keys)
    keyed = describe(specs, {}, None, None, readable=False).origins
    assert {name: origin.key for name, origin in keyed.items()} == {key: key for key in keys}


# Real values


def tensor(values: np.ndarray) -> Tensor:
    dtype = DType.named(values.dtype.name)
    assert dtype is not None
    return MemoryTensor(TensorSpec(dtype, values.shape), values.tobytes)


def pack(values: np.ndarray, axis: int) -> np.ndarray:
    """Put two values into a byte along an axis, as keras.quantizers.pack_int4 does."""
    values = np.moveaxis(values, axis, 0)
    if len(values) % 2:
        values = np.concatenate([values, np.zeros_like(values[:1])])
    packed = (values[0::2] & 15) | (values[1::2] << 4)
    return np.ascontiguousarray(np.moveaxis(packed.astype(np.int8), 0, axis))


def real(made: Layer, **stored: np.ndarray) -> np.ndarray | None:
    done = dequantise(made, {name: tensor(values) for name, values in stored.items()})
    if done is None:
        return None
    (found,) = done.tensors.values()
    pieces = b"".join(map(bytes, found.chunks(8)))
    assert pieces == found.read().tobytes()
    return found.read()


RANDOM = np.random.default_rng(3)


def test_int8_is_divided_by_the_scale_of_each_output() -> None:
    q = RANDOM.integers(-127, 128, (5, 3)).astype(np.int8)
    scale = np.array([2, 4, 8], np.float32)
    got = real(quantised("int8"), kernel=q, kernel_scale=scale)
    assert np.array_equal(got, q.astype("f4") / scale)


@pytest.mark.parametrize("columns", [4, 5])
def test_int4_is_unpacked_along_the_last_axis(columns: int) -> None:
    q = RANDOM.integers(-8, 8, (6, columns)).astype(np.int8)
    scale = RANDOM.random(columns).astype("f4")
    got = real(quantised("int4/-1"), kernel=pack(q, 1), kernel_scale=scale)
    assert np.array_equal(got, q.astype("f4") / scale)


@pytest.mark.parametrize("rows", [6, 7])
def test_int4_of_older_versions_is_unpacked_along_the_first(rows: int) -> None:
    q = RANDOM.integers(-8, 8, (rows, 3)).astype(np.int8)
    scale = RANDOM.random(3).astype("f4")
    made = quantised("int4")._replace(build={"input_shape": [None, rows]})
    got = real(made, kernel=pack(q, 0), kernel_scale=scale)
    assert np.array_equal(got, q.astype("f4") / scale)
    assert real(quantised("int4"), kernel=pack(q, 0), kernel_scale=scale) is None


def test_blocks_are_multiplied_after_their_zero_is_taken_off() -> None:
    q = RANDOM.integers(-8, 8, (6, 3)).astype(np.int8)
    scale, zero = RANDOM.random((2, 3)).astype("f4"), RANDOM.integers(-8, 8, (2, 3)).astype("i1")
    groups = np.array([0, 0, 0, 0, 1, 1], np.float32)
    stored = {"kernel": pack(q, 1), "kernel_scale": scale, "kernel_zero": zero, "g_idx": groups}
    got = real(quantised("int4/4"), **stored)
    at = groups.astype(int)
    assert np.array_equal(got, (q.astype("f4") - zero[at]) * scale[at])
    with pytest.raises(CorruptFileError, match="g_idx"):
        real(quantised("int4/4"), **{**stored, "g_idx": groups + 1})
    assert real(quantised("int4/4"), **{**stored, "g_idx": groups[:-1]}) is None


def test_rows_of_an_embedding_have_scales_of_their_own() -> None:
    q = RANDOM.integers(-127, 128, (5, 3)).astype(np.int8)
    scale = RANDOM.random(5).astype("f4")
    got = real(quantised("int8", "Embedding"), embeddings=q, embeddings_scale=scale)
    assert np.array_equal(got, q.astype("f4") / scale[:, None])


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        (quantised("int8"), {"kernel": np.zeros((2, 3), "i1")}),
        (quantised("int8"), {"kernel": np.zeros((2, 3), "i1"), "kernel_scale": np.ones(2, "f4")}),
        (quantised("int8"), {"kernel": np.zeros(3, "i1"), "kernel_scale": np.ones(3, "f4")}),
        (quantised("int8"), {"kernel": np.zeros((2, 3), "f4"), "kernel_scale": np.ones(3, "f4")}),
        (quantised("int8"), {"kernel": np.zeros((2, 3), "i1"), "kernel_scale": np.ones(3, "i1")}),
        (quantised("odd"), {"kernel": np.zeros((2, 3), "i1"), "kernel_scale": np.ones(3, "f4")}),
        (
            quantised("int8", "EinsumDense", equation="ab,bc,cd->ad"),
            {"kernel": np.zeros((2, 3), "i1"), "kernel_scale": np.ones(3, "f4")},
        ),
        (
            quantised("int8", "EinsumDense", equation="ab,cb->ac"),
            {"kernel": np.zeros((2, 3), "i1"), "kernel_scale": np.ones(2, "f4")},
        ),
    ],
)
def test_what_is_not_certain_is_not_computed(made: Layer, stored: dict[str, np.ndarray]) -> None:
    assert real(made, **stored) is None
