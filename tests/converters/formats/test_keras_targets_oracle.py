"""Keras targets loaded by Keras: the models that come back are the ones that were saved.

Every model is saved by Keras, its weights go through a safetensors file, which knows nothing of
Keras, and back into each kind of Keras file with the config alone.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.errors import TargetError
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.report import Report

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Make = Callable[[Any], Any]


def imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def library(request: pytest.FixtureRequest, tensorflow: Any) -> Any:
    assert tensorflow
    return imported(request.param)


@pytest.fixture(scope="module")
def keras(tensorflow: Any) -> Any:
    assert tensorflow
    return imported("keras")


@pytest.fixture(scope="module")
def tf_keras(tensorflow: Any) -> Any:
    assert tensorflow
    return imported("tf_keras")


def is_keras_3(library: Any) -> bool:
    return library.__name__ == "keras"


# Models


def nested(k: Any) -> Any:
    layers = k.layers
    inputs = k.Input((6, 6, 3), name="x")
    deep_in = k.Input((6, 6, 4))
    deep = k.Model(deep_in, layers.Conv2D(4, 1, name="d_deep")(deep_in), name="deep")
    inner_in = k.Input((6, 6, 4))
    y = layers.BatchNormalization(name="b_in")(inner_in)
    y = deep(layers.Conv2D(4, 3, padding="same", name="c_in", trainable=False)(y))
    inner = k.Model(inner_in, layers.SeparableConv2D(4, 3, padding="same")(y), name="inner")
    row = k.Sequential([layers.Dense(4, name="s_in"), layers.Dropout(0.5)], name="row")
    shared = layers.Dense(4, name="shared")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="c")(inputs)
    y = layers.Add()([y, inner(y)])
    y = row(shared(shared(y)) * 2.0)
    y = layers.LayerNormalization(center=False)(layers.DepthwiseConv2D(3)(y))
    return k.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(y)), name="top")


def recurrent(k: Any) -> Any:
    layers = k.layers
    x = k.Input((5,), dtype="int32")
    y = layers.Embedding(9, 4)(x)
    both = layers.Bidirectional(
        layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True, name="back")
    )
    outputs = [
        both(y),
        layers.LSTM(3)(y),
        layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)])(y),
        layers.Flatten()(layers.ConvLSTM2D(2, 1)(layers.Reshape((1, 5, 2, 2))(y))),
        layers.Flatten()(layers.TimeDistributed(layers.Dense(2))(y)),
    ]
    return k.Model(x, layers.Concatenate()(outputs))


def attention(k: Any) -> Any:
    layers = k.layers
    x = k.Input((5, 4))
    y = layers.MultiHeadAttention(2, 3)(x, x)
    y = layers.LayerNormalization()(layers.Add()([x, y]))
    y = layers.Attention(use_scale=True, score_mode="concat")([y, y])
    return k.Model(x, layers.AdditiveAttention()([y, y]))


def sequential(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [k.Input((3,)), layers.Dense(4, name="a"), layers.BatchNormalization(), layers.Dense(2)]
    )


MODELS: list[Make] = [nested, recurrent, attention, sequential]


def array(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def randomise(variables: Iterable[Any]) -> None:
    random = np.random.default_rng(7)
    for variable in variables:
        value = array(variable)
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            variable.assign(random.uniform(0.1, 1, value.shape).astype(value.dtype))


def made(library: Any, make: Make) -> Any:
    library.backend.clear_session()
    model = make(library)
    randomise(model.weights)
    return model


def values(variables: Iterable[Any]) -> list[bytes]:
    return [array(variable).tobytes() for variable in variables]


def contents(model: Any) -> list[bytes]:
    return values(model.weights)


def output(model: Any) -> np.ndarray:
    shape = (2, *model.input_shape[1:])
    inputs = np.arange(int(np.prod(shape))).reshape(shape) % 7
    dtype = model.inputs[0].dtype
    return array(model(inputs.astype(getattr(dtype, "name", dtype))))


# Through a file that knows nothing of Keras


def written(source: Path, target: Path, **options: Any) -> Report:
    kind = options.pop("to", None)
    write = WriteOptions(**options)
    return convert(source, target, ConvertOptions(target_format=kind, verify=True, write=write))


def config_of(archive: Path) -> Path:
    path = archive.with_name("config.json")
    with zipfile.ZipFile(archive) as file:
        path.write_bytes(file.read("config.json"))
    return path


def plain(model: Any, folder: Path) -> tuple[Path, Path, Path]:
    """Save a model; return the archive, its config, and its weights as safetensors."""
    archive, weights = folder / "saved.keras", folder / "saved.safetensors"
    model.save(archive)
    convert(archive, weights)
    return archive, config_of(archive), weights


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_config_and_named_tensors_make_a_model(library: Any, tmp_path: Path, make: Make) -> None:
    model = made(library, make)
    archive, config, weights = plain(model, tmp_path)
    expected, result = contents(model), output(model)
    written(weights, tmp_path / "m.keras", config=config)
    loaded = library.models.load_model(tmp_path / "m.keras")
    assert contents(loaded) == expected
    assert np.array_equal(output(loaded), result)
    for name, kind in (("m.weights.h5", None), ("m.h5", "keras-h5")):
        written(weights, tmp_path / name, config=config, to=kind)
        randomise(reversed(loaded.weights))
        loaded.load_weights(tmp_path / name)
        assert contents(loaded) == expected
    with zipfile.ZipFile(archive) as saved, zipfile.ZipFile(tmp_path / "m.keras") as copy:
        assert copy.testzip() is None
        assert copy.read("config.json") == saved.read("config.json")


@pytest.mark.parametrize("make", [nested, sequential], ids=lambda make: make.__name__)
def test_a_legacy_file_may_be_a_whole_model(library: Any, tmp_path: Path, make: Make) -> None:
    model = made(library, make)
    _, config, weights = plain(model, tmp_path)
    written(weights, tmp_path / "m.h5", config=config, to="keras-h5")
    loaded = library.models.load_model(tmp_path / "m.h5")
    assert contents(loaded) == contents(model)
    assert np.array_equal(output(loaded), output(model))


@pytest.mark.parametrize("make", [nested, attention], ids=lambda make: make.__name__)
def test_keras_3_reads_shards_and_folders(keras: Any, tmp_path: Path, make: Make) -> None:
    model = made(keras, make)
    archive, _, weights = plain(model, tmp_path)
    expected = contents(model)
    report = written(weights, tmp_path / "m.weights.json", config=archive, max_shard_bytes=60)
    assert len(report.plan.files) > 3
    written(archive, tmp_path / "folder", folder=True, to="keras-v3")
    loaded = keras.saving.load_model(tmp_path / "folder")
    assert contents(loaded) == expected
    randomise(reversed(loaded.weights))
    loaded.load_weights(tmp_path / "m.weights.json")
    assert contents(loaded) == expected
    written(tmp_path / "m.weights.json", tmp_path / "joined.weights.h5")
    loaded.load_weights(tmp_path / "joined.weights.h5")
    assert contents(loaded) == expected


def test_the_layout_is_that_of_keras_itself(keras: Any, tmp_path: Path) -> None:
    model = made(keras, nested)
    archive, config, weights = plain(model, tmp_path)
    model.save_weights(tmp_path / "keras.weights.h5")
    written(weights, tmp_path / "ours.weights.h5", config=config)
    written(archive, tmp_path / "own.weights.h5")
    listed = [described(tmp_path / f"{name}.weights.h5") for name in ("keras", "ours", "own")]
    assert listed[0] == listed[1] == listed[2]


def described(path: Path) -> dict[str, object]:
    """Return all objects of an HDF5 file with their attributes, and what datasets hold."""
    found: dict[str, object] = {}

    def add(name: str, item: Any) -> None:
        value = item[()].tobytes() if isinstance(item, h5py.Dataset) else None
        found[name] = dict(item.attrs), value

    with h5py.File(path) as file:
        file.visititems(add)
    return found


# Optimizers


def trained(library: Any, make: Make, optimizer: Any) -> Any:
    model = made(library, make)
    model.compile(optimizer, library.losses.MeanSquaredError(), run_eagerly=True)
    inputs = np.ones((2, *model.input_shape[1:]), "f4")
    model.fit(inputs, np.zeros((2, *model.output_shape[1:])), verbose=0)
    randomise(state(model))
    return model


def state(model: Any) -> list[Any]:
    found = model.optimizer.variables
    return list(found() if callable(found) else found)


@pytest.mark.parametrize("name", ["Adam", "Nadam"])
def test_an_optimizer_goes_on_where_it_was(library: Any, tmp_path: Path, name: str) -> None:
    model = trained(library, sequential, getattr(library.optimizers, name)(0.01))
    archive, config, weights = plain(model, tmp_path)
    for source, given in ((weights, config), (archive, None)):
        written(source, tmp_path / "m.keras", config=given, overwrite=True)
        loaded = library.models.load_model(tmp_path / "m.keras")
        assert values(state(loaded)) == values(state(model))


def test_an_optimizer_that_is_not_whole_is_left_out(keras: Any, tmp_path: Path) -> None:
    model = trained(keras, sequential, "adam")
    archive, config, _ = plain(model, tmp_path)
    convert(archive, tmp_path / "w.npz", ConvertOptions(exclude=("adam/a_bias_velocity",)))
    report = written(tmp_path / "w.npz", tmp_path / "m.keras", config=config)
    assert report.counts["dropped"] == len(state(model)) - 1
    assert contents(keras.saving.load_model(tmp_path / "m.keras")) == contents(model)


def test_a_legacy_file_keeps_its_optimizer(library: Any, tmp_path: Path) -> None:
    model = trained(library, sequential, "adam")
    model.save(tmp_path / "m.h5")
    written(tmp_path / "m.h5", tmp_path / "copy.h5", to="keras-h5")
    loaded = library.models.load_model(tmp_path / "copy.h5")
    assert contents(loaded) == contents(model)
    # Keras 3 takes over the counters alone, also from a file of its own.
    original = library.models.load_model(tmp_path / "m.h5")
    assert values(state(loaded)) == values(state(original))


# Legacy weights alone


@pytest.mark.parametrize("make", [attention, sequential], ids=lambda make: make.__name__)
def test_weights_alone_are_read_by_name_or_by_place(
    library: Any, tmp_path: Path, make: Make
) -> None:
    model = made(library, make)
    _, _, weights = plain(model, tmp_path)
    expected = contents(model)
    written(weights, tmp_path / "w.h5", to="keras-h5")
    randomise(reversed(model.weights))
    assert contents(model) != expected
    model.load_weights(tmp_path / "w.h5", by_name=True)
    assert contents(model) == expected


def test_the_weights_of_a_legacy_file_keep_their_order(tf_keras: Any, tmp_path: Path) -> None:
    model = made(tf_keras, nested)
    expected = contents(model)
    model.save_weights(tmp_path / "w.h5")
    written(tmp_path / "w.h5", tmp_path / "copy.h5", to="keras-h5")
    randomise(reversed(model.weights))
    model.load_weights(tmp_path / "copy.h5")
    assert contents(model) == expected


def test_lists_longer_than_an_attribute_are_read(library: Any, tmp_path: Path) -> None:
    names = [f"a_layer_with_a_name_of_very_many_letters_{number:04}" for number in range(1500)]
    weights = {f"{name}/kernel": np.full((1, 1), number, "f4") for number, name in enumerate(names)}
    np.savez(tmp_path / "w.npz", **weights)
    written(tmp_path / "w.npz", tmp_path / "w.h5", to="keras-h5")
    with h5py.File(tmp_path / "w.h5") as file:
        assert "layer_names0" in file.attrs
    layer = library.layers.Dense(1, use_bias=False, name=names[1401])
    model = library.Sequential([library.Input((1,)), layer])
    model.load_weights(tmp_path / "w.h5", by_name=True)
    assert float(array(layer.kernel)[0, 0]) == 1401


# Precision


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_precision_is_kept(keras: Any, tmp_path: Path, policy: str) -> None:
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = made(keras, sequential)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    _, config, weights = plain(model, tmp_path)
    expected = contents(model)
    written(weights, tmp_path / "m.keras", config=config)
    assert contents(keras.saving.load_model(tmp_path / "m.keras")) == expected
    written(weights, tmp_path / "m.h5", config=config, to="keras-h5")
    assert contents(keras.models.load_model(tmp_path / "m.h5")) == expected


def test_bfloat16_goes_into_a_float32_model(library: Any, tmp_path: Path) -> None:
    model = made(library, sequential)
    archive, config, _ = plain(model, tmp_path)
    convert(archive, tmp_path / "half.safetensors", ConvertOptions(dtypes=("bf16",)))
    with open_tensors(tmp_path / "half.safetensors") as tensors:
        expected = [tensors[name].read().astype("f4") for name in sorted(tensors)]
    for name, kind in (("m.weights.h5", None), ("m.h5", "keras-h5")):
        written(tmp_path / "half.safetensors", tmp_path / name, config=config, to=kind)
        model.load_weights(tmp_path / name)
        model.save(tmp_path / "again.keras")
        with open_tensors(tmp_path / "again.keras") as tensors:
            got = [tensors[name].read() for name in sorted(tensors)]
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["int4", "float8"])
def test_quantised_models_come_back(keras: Any, tmp_path: Path, mode: str) -> None:
    layers = keras.layers
    x = keras.Input((6,), dtype="int32")
    y = layers.Embedding(10, 8)(x)
    y = layers.Dense(131, name="wide")(y)  # Keras cannot load attention that it quantised
    y = layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d")(y)
    model = keras.Model(x, y)
    model.quantize(mode)
    _, config, weights = plain(model, tmp_path)
    written(weights, tmp_path / "m.keras", config=config)
    loaded = keras.saving.load_model(tmp_path / "m.keras")  # which has them in another order
    assert sorted(contents(loaded)) == sorted(contents(model))


# What a config does not tell


def custom(keras: Any) -> type:
    @keras.saving.register_keras_serializable(package="Oracle")
    class Block(keras.layers.Layer):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.first = keras.layers.Dense(3, name="first")
            self.more = [keras.layers.Dense(2, name="one"), keras.layers.Dense(2, name="two")]

        def build(self, shape: Any) -> None:
            self.gain = self.add_weight(shape=(3,), name="gain")
            self.first.build(shape)
            for layer in self.more:
                layer.build((None, 3))

        def get_config(self) -> dict[str, Any]:
            return dict(super().get_config())

        def call(self, inputs: Any) -> Any:
            y = self.first(inputs) * self.gain
            return self.more[0](y) + self.more[1](y)

    return Block


def test_custom_layers_are_placed_by_a_model_of_their_class(keras: Any, tmp_path: Path) -> None:
    block = custom(keras)
    model = keras.Sequential([keras.Input((4,)), block(name="mine"), keras.layers.Dense(1)])
    randomise(model.weights)
    archive, config, weights = plain(model, tmp_path)
    with pytest.raises(TargetError, match="`mine/one/kernel` is not in it") as caught:
        written(weights, tmp_path / "m.keras", config=config)
    assert "--config model.keras" in str(caught.value.hint)
    for given in (archive, None):
        written(archive if given is None else weights, tmp_path / "m.keras", config=given,
                overwrite=True)  # fmt: skip
        assert contents(keras.saving.load_model(tmp_path / "m.keras")) == contents(model)


def test_subclassed_models_are_placed_by_one_of_their_class(keras: Any, tmp_path: Path) -> None:
    block = custom(keras)

    @keras.saving.register_keras_serializable(package="Oracle")
    class Mine(keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.block = block()
            self.last = keras.layers.Dense(1, name="last")

        def call(self, inputs: Any) -> Any:
            return self.last(self.block(inputs))

    def fresh() -> Any:
        model = Mine()
        model(np.zeros((1, 4), "f4"))
        return model

    model = fresh()
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    convert(tmp_path / "m.keras", tmp_path / "w.npz")
    for given in ("m.keras", "m.weights.h5"):
        target = tmp_path / f"from_{given}"
        written(tmp_path / "w.npz", target, config=tmp_path / given)
        other = fresh()
        other.load_weights(target)
        assert contents(other) == contents(model)
    keys = tmp_path / "keys.npz"
    convert(tmp_path / "m.keras", keys, ConvertOptions(read=ReadOptions(names="key")))
    written(keys, tmp_path / "keyed.weights.h5")
    other = fresh()
    other.load_weights(tmp_path / "keyed.weights.h5")
    assert contents(other) == contents(model)


def test_a_kernel_that_is_stored_twice_may_be_there_once(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    wrapped = layers.SpectralNormalization(layers.Dense(2, name="d"), name="sn")
    model = keras.Sequential([keras.Input((3,)), wrapped])
    randomise(model.weights)
    archive, config, _ = plain(model, tmp_path)
    convert(archive, tmp_path / "w.npz", ConvertOptions(exclude=("sn/kernel",)))
    written(tmp_path / "w.npz", tmp_path / "m.keras", config=config)
    assert contents(keras.saving.load_model(tmp_path / "m.keras")) == contents(model)


def test_assets_go_along(keras: Any, tmp_path: Path) -> None:
    lookup = keras.layers.StringLookup(name="words")
    lookup.adapt(["b", "a", "c", "a"])
    x = keras.Input((2,), dtype="string")
    y = keras.layers.Embedding(4, 2)(lookup(x))
    model = keras.Model(x, y)
    model.save(tmp_path / "m.keras")
    for target, options in (
        ("copy.keras", {}),
        ("folder", {"folder": True, "to": "keras-v3"}),
    ):
        written(tmp_path / "m.keras", tmp_path / target, **options)
        loaded = keras.saving.load_model(tmp_path / target)
        assert loaded.get_layer("words").get_vocabulary() == lookup.get_vocabulary()
    convert(tmp_path / "m.keras", tmp_path / "w.npz")
    written(tmp_path / "w.npz", tmp_path / "again.keras", config=tmp_path / "folder")
    loaded = keras.saving.load_model(tmp_path / "again.keras")
    assert loaded.get_layer("words").get_vocabulary() == lookup.get_vocabulary()
