"""Object-based checkpoints that we write, against every loader of TensorFlow and tf_keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.containers.tensor_bundle import Bundle
from tensorferry.converters.graphs.trackables import GRAPH_KEY, VALUE
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.tensors import Role
from tensorferry.pipeline.convert import ConvertOptions, convert

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

INPUTS = np.random.default_rng(0).normal(size=(3, 6)).astype("f4")
SAVES = f"save_counter/.ATTRIBUTES/{VALUE}"


@pytest.fixture(scope="module")
def tf_keras(tensorflow: Any) -> Any:
    assert tensorflow
    return pytest.importorskip("tf_keras")


@pytest.fixture(scope="module")
def keras(tensorflow: Any) -> Any:
    assert tensorflow
    return pytest.importorskip("keras")


def filled(model: Any, seed: int) -> Any:
    """Give a model other weights."""
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def same(one: Any, other: Any) -> bool:
    return all(map(np.array_equal, one.get_weights(), other.get_weights()))


# Models whose layers do not come in the order of their names


def functional(k: Any) -> Any:
    inputs = k.Input((6,))
    x = k.layers.Dense(6, name="zeta")(inputs)
    x = k.layers.BatchNormalization(name="bn")(x)
    x = k.layers.Dense(6, name="alpha")(k.layers.Dropout(0.5)(x))
    return k.Model(inputs, k.layers.Dense(6, name="middle")(x))


def sequential(k: Any) -> Any:
    layers = [k.layers.Dense(6, name="b"), k.layers.ReLU(), k.layers.Dense(6, name="a")]
    return k.Sequential([k.layers.Input((6,)), *layers, k.layers.LayerNormalization(name="c")])


def nested(k: Any) -> Any:
    inner = k.Sequential(
        [k.layers.Input((6,)), k.layers.Dense(6, name="z"), k.layers.Dense(6, name="y")],
        name="inner",
    )
    inputs, deep = k.Input((6,)), k.Input((6,))
    outer = k.Model(deep, inner(k.layers.Dense(6, name="q")(deep)), name="outer")
    return k.Model(inputs, k.layers.Dense(6, name="a")(outer(inputs)))


def recurrent(k: Any) -> Any:
    inputs = k.Input((4, 6))
    x = k.layers.LSTM(3, return_sequences=True, name="z")(inputs)
    x = k.layers.Bidirectional(k.layers.GRU(3, return_sequences=True), name="both")(x)
    x = k.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    return k.Model(inputs, k.layers.SimpleRNN(3, name="last")(k.layers.Conv1D(3, 2)(x)))


@pytest.mark.parametrize(
    ("make", "limit"),
    [(functional, None), (sequential, 200), (nested, None), (recurrent, 200)],
)
def test_all_loaders_take_the_same_file(
    tensorflow: Any, tf_keras: Any, tmp_path: Path, make: Callable[[Any], Any], limit: int | None
) -> None:
    model = filled(make(tf_keras), 1)
    model.save(tmp_path / "m.h5")
    prefix = str(tmp_path / "m.ckpt")
    write = WriteOptions(object_based=True, max_shard_bytes=limit)
    options = ConvertOptions(write=write, verify=True, strict=True)
    report = convert(tmp_path / "m.h5", prefix, options)
    assert not report.notes

    loaded = filled(make(tf_keras), 2)
    loaded.load_weights(prefix)
    assert same(loaded, model)

    restored = filled(make(tf_keras), 3)
    tensorflow.train.Checkpoint(restored).restore(prefix).assert_consumed()
    assert same(restored, model)

    reader = tensorflow.train.load_checkpoint(prefix)
    assert len(reader.get_variable_to_shape_map()) == len(report.kept) + 2  # graph and counter
    assert reader.get_tensor(SAVES) == 1
    with open_tensors(tmp_path / "m.h5") as source:
        arrays = {name: tensor.read() for name, tensor in source.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(reader.get_tensor(f"{name}/.ATTRIBUTES/{VALUE}"), array)
    assert_saver_restores(tensorflow, prefix, arrays)


def assert_saver_restores(tensorflow: Any, prefix: str, arrays: dict[str, np.ndarray]) -> None:
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), v1.Session() as session:
        variables = {name: v1.get_variable(name, a.shape, a.dtype) for name, a in arrays.items()}
        v1.train.Saver().restore(session, prefix)
        for name, array in session.run(variables).items():
            np.testing.assert_array_equal(array, arrays[name], err_msg=name, strict=True)


def test_objects_of_any_names_are_restored(tensorflow: Any, tmp_path: Path) -> None:
    arrays = {
        "a/b.c/w": np.arange(6.0),
        "a/w": np.arange(3),
        "größe": np.float32([1]),
        "n/0": INPUTS,
    }
    np.savez(tmp_path / "m.npz", **arrays)
    prefix = str(tmp_path / "m.ckpt")
    convert(tmp_path / "m.npz", prefix, ConvertOptions(write=WriteOptions(object_based=True)))
    zeros = {name: tensorflow.Variable(tensorflow.zeros_like(a)) for name, a in arrays.items()}
    inside = tensorflow.train.Checkpoint(w=zeros["a/w"], **{"b.c": Holder(tensorflow, zeros)})
    listed = [zeros["n/0"]]
    checkpoint = tensorflow.train.Checkpoint(a=inside, größe=zeros["größe"], n=listed)
    checkpoint.restore(prefix).assert_consumed()
    for name, array in arrays.items():
        np.testing.assert_array_equal(zeros[name].numpy(), array, err_msg=name, strict=True)


def Holder(tensorflow: Any, variables: dict[str, Any]) -> Any:  # noqa: N802 - it stands for a class
    return tensorflow.train.Checkpoint(w=variables["a/b.c/w"])


def test_layers_in_no_order_are_refused_by_load_weights_and_not_mixed_up(
    tf_keras: Any, tmp_path: Path
) -> None:
    model = filled(sequential(tf_keras), 1)
    model.save(tmp_path / "m.h5")
    convert(tmp_path / "m.h5", tmp_path / "m.safetensors")  # sorted by name
    write = WriteOptions(object_based=True)
    convert(tmp_path / "m.safetensors", tmp_path / "m.ckpt", ConvertOptions(write=write))
    other = filled(sequential(tf_keras), 2)
    before = other.get_weights()
    with pytest.raises(AssertionError, match="Nothing except the root object matched"):
        other.load_weights(str(tmp_path / "m.ckpt"))
    assert all(map(np.array_equal, before, other.get_weights()))
    other.save_weights(str(tmp_path / "own"))
    like = ConvertOptions(write=WriteOptions(layout_of=tmp_path / "own"), verify=True)
    convert(tmp_path / "m.safetensors", tmp_path / "ordered.ckpt", like)
    other.load_weights(str(tmp_path / "ordered.ckpt")).assert_consumed()
    assert same(other, model)


# Optimizers


def trained(k: Any, optimizer: str, seed: int) -> tuple[Any, Any]:
    """Return a model and an optimizer that has worked on it, as good as; cheaper than training."""
    k.backend.clear_session()
    model = filled(functional(k), seed)
    module = k.optimizers.legacy if optimizer == "legacy" else k.optimizers
    adam = module.Adam(name="adam")
    build = adam._create_all_weights if optimizer == "legacy" else adam.build
    build(model.trainable_variables)
    rng = np.random.default_rng(seed)
    for variable in state_of(adam):
        variable.assign(rng.integers(1, 9, variable.shape))
    return model, adam


def state_of(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    return list(variables() if callable(variables) else variables)


KINDS = [("tf_keras", "legacy"), ("tf_keras", "new"), ("keras", "new")]


@pytest.mark.parametrize(("library", "optimizer"), KINDS)
def test_weights_flow_back_into_a_checkpoint(
    request: pytest.FixtureRequest, tensorflow: Any, tmp_path: Path, library: str, optimizer: str
) -> None:
    k = request.getfixturevalue(library)
    train = tensorflow.train
    prefixes = []
    for seed in (1, 2):
        model, adam = trained(k, optimizer, seed)
        checkpoint = train.Checkpoint(model=model, optimizer=adam)
        prefixes.append(checkpoint.save(str(tmp_path / str(seed))))
    for weights_only in (False, True):
        source = tmp_path / f"{weights_only}.safetensors"
        target = tmp_path / f"{weights_only}.ckpt"
        convert(prefixes[1], source, ConvertOptions(weights_only=weights_only))
        write = WriteOptions(layout_of=Path(prefixes[0]))
        convert(source, target, ConvertOptions(write=write, verify=True, strict=True))
        other, fresh = trained(k, optimizer, 3)
        status = train.Checkpoint(model=other, optimizer=fresh).restore(str(target))
        if weights_only:
            status.expect_partial()
            alone = filled(functional(k), 4)
            train.Checkpoint(model=alone).restore(str(target)).assert_consumed()
            assert same(alone, model)
        else:
            status.assert_consumed()
            assert equal(state_of(fresh), state_of(adam))
        assert same(other, model)


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    return all(map(np.array_equal, map(np.asarray, ours), map(np.asarray, theirs)))


@pytest.mark.parametrize(("library", "optimizer"), KINDS)
def test_a_checkpoint_goes_through_us_with_its_graph(
    request: pytest.FixtureRequest, tensorflow: Any, tmp_path: Path, library: str, optimizer: str
) -> None:
    k = request.getfixturevalue(library)
    train = tensorflow.train
    model, adam = trained(k, optimizer, 1)
    prefix = train.Checkpoint(model=model, optimizer=adam).save(str(tmp_path / "m"))
    copy, weights = str(tmp_path / "copy.ckpt"), str(tmp_path / "weights.ckpt")
    convert(prefix, copy, ConvertOptions(verify=True, strict=True))
    convert(prefix, weights, ConvertOptions(verify=True, strict=True, weights_only=True))
    graphs = [Bundle.open(Path(each)).tensors[GRAPH_KEY].elements() for each in (prefix, copy)]
    assert graphs[0] == graphs[1]
    other, fresh = trained(k, optimizer, 2)
    train.Checkpoint(model=other, optimizer=fresh).restore(copy).assert_consumed()
    assert same(other, model)
    assert equal(state_of(fresh), state_of(adam))
    alone = filled(functional(k), 3)
    train.Checkpoint(model=alone).read(weights).assert_consumed()
    assert same(alone, model)


def test_slots_of_tensorflow_1_reach_a_legacy_optimizer(
    tensorflow: Any, tf_keras: Any, tmp_path: Path
) -> None:
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), v1.Session() as session:
        x = tensorflow.constant(INPUTS)
        for name in ("dense", "dense_1"):
            x = x @ v1.get_variable(f"{name}/kernel", (6, 6)) + v1.get_variable(f"{name}/bias", 6)
        train = v1.train.AdamOptimizer().minimize(tensorflow.reduce_sum(x * x))
        session.run(v1.global_variables_initializer())
        session.run(train)
        saver = v1.train.Saver()
        prefix = saver.save(session, str(tmp_path / "tf1"))
    with open_tensors(prefix) as source:
        arrays = {name: tensor.read() for name, tensor in source.items()}
        slots = {name: each for name, each in source.origins.items() if each.role is Role.SLOT}
    assert len(slots) == 8
    target = str(tmp_path / "m.ckpt")
    options = ConvertOptions(write=WriteOptions(object_based=True), verify=True, strict=True)
    convert(prefix, target, options)
    layers = [tf_keras.layers.Dense(6, name=name) for name in ("dense", "dense_1")]
    model = tf_keras.Sequential([tf_keras.layers.Input((6,)), *layers])
    optimizer = tf_keras.optimizers.legacy.Adam()
    model.compile(optimizer, "mse")
    optimizer._create_all_weights(model.trainable_variables)
    status = tensorflow.train.Checkpoint(model, optimizer=optimizer).restore(target)
    status.expect_partial()
    for variable in model.trainable_variables:
        name = variable.name.removesuffix(":0")
        np.testing.assert_array_equal(variable.numpy(), arrays[name])
        for slot in ("m", "v"):
            (key,) = (n for n, each in slots.items() if (each.owner, each.slot) == (name, slot))
            np.testing.assert_array_equal(optimizer.get_slot(variable, slot).numpy(), arrays[key])
    assert_saver_restores(tensorflow, target, arrays)


@pytest.mark.parametrize("make", [functional, nested])
def test_checkpoints_and_saved_models_of_tf_keras_stand_for_each_other(
    tensorflow: Any, tf_keras: Any, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    model = filled(make(tf_keras), 1)
    model.save(tmp_path / "model", save_format="tf")
    model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "own")
    options = ConvertOptions(verify=True, strict=True)
    convert(tmp_path / "model", tmp_path / "kept.ckpt", options)
    for source in ("m.h5", "own", "model"):
        for template in ("model", "own"):
            write = WriteOptions(layout_of=tmp_path / template)
            target = tmp_path / f"{source}-{template}.ckpt"
            convert(tmp_path / source, target, replace(options, write=write))
    for target in sorted(tmp_path.glob("*.ckpt.index")):
        other = filled(make(tf_keras), 2)
        other.load_weights(str(target.with_suffix(""))).expect_partial()
        assert same(other, model), target
    write = WriteOptions(template=tmp_path / "model")
    options = replace(options, write=write, target_format="saved-model")
    convert(tmp_path / "own", tmp_path / "again", options)
    again = tensorflow.saved_model.load(str(tmp_path / "again"))
    (output,) = again.signatures["serving_default"](tensorflow.constant(INPUTS)).values()
    np.testing.assert_array_equal(output, model(INPUTS))
