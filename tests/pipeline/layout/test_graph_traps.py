"""What is easily told wrong of a graph: parts, copies, ties, cells, flattened, frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.uses import LayerKind, Use
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.layout.apply import apply_layout
from tensorferry.pipeline.layout.known import known_uses

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Build = Callable[[Any, Any], Any]  # given TensorFlow and a placeholder


def saved(folder: Path, shape: tuple[int | None, ...], build: Build, **more: Any) -> Path:
    """Save a TF1 graph with its variables, and return the prefix."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with tf.compat.v1.variable_scope("", use_resource=more.get("resource", False)):
            x = tf.compat.v1.placeholder(more.get("dtype", tf.float32), shape, name="x")
            y = build(tf, x)
            if more.get("train"):
                loss = tf.reduce_sum(y)
                step = tf.compat.v1.train.AdamOptimizer().minimize(loss)
                average = tf.train.ExponentialMovingAverage(0.9)
                with tf.control_dependencies([step]):
                    average.apply(tf.compat.v1.trainable_variables())
        session.run(tf.compat.v1.initialize_variables(tf.compat.v1.trainable_variables()))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "m.ckpt"))
    return folder / "m.ckpt"


def uses(path: Path) -> dict[str, Use]:
    with open_tensors(path) as tensors:
        return dict(known_uses(tensors).known)


def parts(path: Path) -> dict[str, tuple[str, str]]:
    return {name: (use.kind.value, use.part) for name, use in uses(path).items()}


def _var(tf: Any, name: str, shape: tuple[int, ...], **more: Any) -> Any:
    initial = np.random.default_rng(len(name)).uniform(0.1, 0.9, shape).astype(np.float32)
    if more.get("partitioner"):
        return tf.compat.v1.get_variable(name, shape, **more)
    return tf.compat.v1.get_variable(name, initializer=initial)


def _dense(tf: Any, x: Any, name: str, inner: int, outer: int) -> Any:
    with tf.compat.v1.variable_scope(name):
        return tf.nn.bias_add(
            tf.matmul(x, _var(tf, "kernel", (inner, outer))), _var(tf, "bias", (outer,))
        )


@pytest.mark.parametrize("resource", [False, True])
def test_a_training_graph_with_its_averages(tmp_path: Path, resource: bool) -> None:
    path = saved(tmp_path, (2, 4), lambda tf, x: tf.nn.relu(_dense(tf, x, "d", 4, 4)),
                 resource=resource, train=True)  # fmt: skip
    assert parts(path) == {"d/kernel": ("dense", "kernel"), "d/bias": ("dense", "bias")}
    options = ConvertOptions(layout="torch", weights_only=True, ema="only", strict=True)
    report = convert(path, tmp_path / "m.safetensors", options)
    assert set(report.kept) == {"d.weight", "d.bias"}
    [row] = [row for row in report.rows() if row["name"] == "d/kernel/ExponentialMovingAverage"]
    assert row["layout"]["evidence"] == "graph"
    with open_tensors(path) as source, open_tensors(tmp_path / "m.safetensors") as copy:
        average = source["d/kernel/ExponentialMovingAverage"].read()
        np.testing.assert_array_equal(copy["d.weight"].read(), average.T)


def test_averages_that_stand_alone(tmp_path: Path) -> None:
    """An evaluation graph reads variables that are saved under the names of their averages."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (2, 4))
        _dense(tf, x, "d", 4, 3)
        average = tf.train.ExponentialMovingAverage(0.9)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(average.variables_to_restore()).save(
            session, str(tmp_path / "m.ckpt")
        )
    options = ConvertOptions(layout="torch", strict=True)
    report = convert(tmp_path / "m.ckpt", tmp_path / "m.safetensors", options)
    assert {name: report.kept[name].spec.shape for name in report.kept} == {
        "d.weight": (3, 4), "d.bias": (3,),
    }  # fmt: skip


@pytest.mark.parametrize("resource", [False, True])
def test_partitioned_variables(tmp_path: Path, resource: bool) -> None:
    def build(tf: Any, x: Any) -> Any:
        two = tf.compat.v1.fixed_size_partitioner(2)
        with tf.compat.v1.variable_scope("d"):
            kernel = _var(tf, "kernel", (4, 4), partitioner=two)
            y = tf.matmul(x, tf.convert_to_tensor(kernel))
        with tf.compat.v1.variable_scope("e"):
            table = _var(tf, "table", (6, 3), partitioner=two)
        ids = tf.cast(x[:, 0], tf.int32)
        return tf.reduce_sum(y) + tf.reduce_sum(tf.nn.embedding_lookup(table, ids))

    path = saved(tmp_path, (2, 4), build, resource=resource)
    assert parts(path) == {"d/kernel": ("dense", "kernel"), "e/table": ("embedding", "embeddings")}


def test_a_tied_table_is_an_embedding(tmp_path: Path) -> None:
    """Its layout is the same in all frameworks; the product that reads it has no say."""

    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("e"):
            table = _var(tf, "table", (6, 4))
        hidden = _dense(tf, tf.nn.embedding_lookup(table, x), "d", 4, 4)
        with tf.compat.v1.variable_scope("out"):
            bias = _var(tf, "bias", (6,))
        return tf.nn.bias_add(tf.matmul(hidden, table, transpose_b=True), bias)

    import tensorflow as tf

    path = saved(tmp_path, (2,), build, dtype=tf.int32)
    found = parts(path)
    assert found["e/table"] == ("embedding", "embeddings")
    with open_tensors(path) as tensors:
        laid = apply_layout(tensors, "torch")
        np.testing.assert_array_equal(laid["e.weight"].read(), tensors["e/table"].read())
    assert laid["e.weight"].spec.shape == (6, 4)


def test_a_gru_of_tf1_is_none_of_torch(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("rnn/gru_cell/gates"):
            gates = _var(tf, "kernel", (7, 6)), _var(tf, "bias", (6,))
        with tf.compat.v1.variable_scope("rnn/gru_cell/candidate"):
            candidate = _var(tf, "kernel", (7, 3)), _var(tf, "bias", (3,))

        def body(at: Any, h: Any) -> Any:
            both = tf.sigmoid(
                tf.nn.bias_add(tf.matmul(tf.concat([x[:, at], h], 1), gates[0]), gates[1])
            )
            r, z = tf.split(both, 2, axis=1)
            joined = tf.concat([x[:, at], r * h], 1)
            new = tf.tanh(tf.nn.bias_add(tf.matmul(joined, candidate[0]), candidate[1]))
            return at + 1, z * h + (1 - z) * new

        return tf.while_loop(lambda at, _: at < 6, body, (0, tf.zeros((2, 3))), name="while")[1]

    path = saved(tmp_path, (2, 6, 4), build)
    assert {use.kind for use in uses(path).values()} == {LayerKind.GRU}
    with open_tensors(path) as tensors:
        laid = apply_layout(tensors, "torch")
    assert len(laid.told.undecided) == 4
    assert all("resets before" in why for why in laid.told.undecided.values())


def test_gates_that_are_not_known_are_no_dense_layer(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("own"):
            kernel = _var(tf, "w", (7, 9))

        def body(at: Any, h: Any) -> Any:
            a, b, c = tf.split(tf.matmul(tf.concat([x[:, at], h], 1), kernel), 3, axis=1)
            return at + 1, tf.sigmoid(a) * tf.tanh(b) + c * h

        return tf.while_loop(lambda at, _: at < 6, body, (0, tf.zeros((2, 3))), name="while")[1]

    assert uses(saved(tmp_path, (2, 6, 4), build)) == {}


def test_a_dense_layer_of_joined_values_in_a_loop(tmp_path: Path) -> None:
    """As attention has it: nothing of what is joined comes from the step before."""

    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("mix"):
            kernel = _var(tf, "kernel", (8, 3))

        def body(at: Any, out: Any) -> Any:
            joined = tf.concat([x[:, at], tf.sin(x[:, at])], 1)
            return at + 1, out + tf.tanh(tf.matmul(joined, kernel))

        return tf.while_loop(lambda at, _: at < 6, body, (0, tf.zeros((2, 3))), name="while")[1]

    assert parts(saved(tmp_path, (2, 6, 4), build)) == {"mix/kernel": ("dense", "kernel")}


def test_an_unrolled_lstm(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("rnn/basic_lstm_cell"):
            kernel, bias = _var(tf, "kernel", (7, 12)), _var(tf, "bias", (12,))
        c = h = tf.zeros((2, 3))
        for at in range(3):
            gates = tf.nn.bias_add(tf.matmul(tf.concat([x[:, at], h], 1), kernel), bias)
            i, j, f, o = tf.split(gates, 4, axis=1)
            c = c * tf.sigmoid(f + 1.0) + tf.sigmoid(i) * tf.tanh(j)
            h = tf.tanh(c) * tf.sigmoid(o)
        return h

    found = uses(saved(tmp_path, (2, 3, 4), build))
    assert {use.kind for use in found.values()} == {LayerKind.LSTM}
    assert found["rnn/basic_lstm_cell/kernel"].facts == {"gates": "ijfo", "forget_bias": 1.0}


def _conv(tf: Any, x: Any) -> Any:
    with tf.compat.v1.variable_scope("c"):
        return tf.nn.relu(tf.nn.conv2d(x, _var(tf, "kernel", (3, 3, 2, 3)), 1, "VALID"))


def _flat(tf: Any, x: Any) -> Any:
    return _dense(tf, tf.reshape(_conv(tf, x), (-1, 48)), "d", 48, 2)


def _flat_behind_norm(tf: Any, x: Any) -> Any:
    y = tf.reshape(_conv(tf, x), (-1, 48))
    with tf.compat.v1.variable_scope("n"):
        values = [_var(tf, leaf, (48,)) for leaf in ("mean", "variance", "offset", "scale")]
    y = tf.nn.relu(tf.nn.batch_normalization(y, *values, 1e-3))
    return _dense(tf, y, "d", 48, 2)


@pytest.mark.parametrize("build", [_flat, _flat_behind_norm])
def test_flattened_inputs_are_found(tmp_path: Path, build: Build) -> None:
    with open_tensors(saved(tmp_path, (None, 6, 6, 2), build)) as tensors:
        laid = apply_layout(tensors, "torch")
    assert {name.split("/")[0] for name in laid if "." not in name} <= {"d", "n"}
    assert {name.split("/")[0] for name in laid.told.undecided} == (
        {"d"} if build is _flat else {"d", "n"}
    )
    assert "c.weight" in laid


def test_pooled_inputs_are_not_flattened(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        return _dense(tf, tf.reduce_mean(_conv(tf, x), (1, 2)), "d", 3, 2)

    with open_tensors(saved(tmp_path, (None, 6, 6, 2), build)) as tensors:
        assert apply_layout(tensors, "torch").told.undecided == {}


def test_a_matrix_of_a_sequence_is_not_flattened(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        y = _dense(tf, tf.reshape(x, (-1, 4)), "a", 4, 8)
        return _dense(tf, tf.reshape(tf.reshape(y, (2, 5, 8)), (-1, 8)), "b", 8, 3)

    with open_tensors(saved(tmp_path, (2, 5, 4), build)) as tensors:
        laid = apply_layout(tensors, "torch")
    assert laid.told.undecided == {}
    assert set(laid) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_two_layers_in_one_place_get_two_names(tmp_path: Path) -> None:
    def build(tf: Any, x: Any) -> Any:
        with tf.compat.v1.variable_scope("block"):
            y = tf.matmul(x, _var(tf, "w1", (4, 4))) + _var(tf, "b1", (4,))
            y = tf.matmul(y, _var(tf, "w2", (4, 4))) + _var(tf, "b2", (4,))
            mean, variance = tf.nn.moments(y, [-1], keepdims=True)
            normal = (y - mean) * tf.math.rsqrt(variance + 1e-3)
            return normal * _var(tf, "g", (4,)) + _var(tf, "b", (4,))

    with open_tensors(saved(tmp_path, (2, 4), build)) as tensors:
        laid = apply_layout(tensors, "torch")
    assert laid.told.undecided == {}
    assert len(laid) == 6


@pytest.mark.parametrize("generation", [1, 2])
def test_frozen_graphs(tmp_path: Path, generation: int) -> None:
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if generation == 1:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, (None, 6, 6, 2), name="x")
            y = _dense(tf, tf.reduce_mean(_conv(tf, x), (1, 2)), "d", 3, 2)
            session.run(tf.compat.v1.global_variables_initializer())
            frozen = tf.compat.v1.graph_util.convert_variables_to_constants(
                session, graph.as_graph_def(), [y.op.name]
            )
        expected = {"c.weight", "d.weight", "d.bias"}
    else:
        x = keras.Input((6, 6, 2))
        y = keras.layers.BatchNormalization(name="n")(keras.layers.Conv2D(3, 3, name="c")(x))
        y = keras.layers.Dense(2, name="d")(keras.layers.GlobalAveragePooling2D()(y))
        model = keras.Model(x, y, name="m")
        function = tf.function(lambda x: model(x, training=False))
        concrete = function.get_concrete_function(tf.TensorSpec((1, 6, 6, 2)))
        frozen = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
        expected = {"c.weight", "c.bias", "n.weight", "n.bias", "n.running_mean", "n.running_var",
                    "n.num_batches_tracked", "d.weight", "d.bias"}  # fmt: skip
    (tmp_path / "frozen.pb").write_bytes(frozen.SerializeToString())
    with open_tensors(tmp_path / "frozen.pb") as tensors:
        laid = apply_layout(tensors, "torch")
    assert laid.told.undecided == {}
    last = {".".join(name.split(".")[-2:]).replace("_1.", ".") for name in laid if "." in name}
    assert last == expected


def test_what_frozen_models_hold(tmp_path: Path) -> None:
    """A module without variables, as hubs have them: its weights are constants."""
    import tensorflow as tf

    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    class Frozen(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4))])
        def __call__(self, x: Any) -> Any:
            return tf.matmul(x, tf.constant(weights, name="w"))

    tf.saved_model.save(Frozen(), str(tmp_path / "m"))
    with open_tensors(tmp_path / "m") as tensors:
        found = known_uses(tensors)
        assert [tensors[name].spec.shape for name in found.known] == [(4, 3)]
        assert [use.kind for use in found.known.values()] == [LayerKind.DENSE]
