"""Names, bytes and slots against live models of Keras 3 and tf_keras, and the corpus."""

from __future__ import annotations

import csv
import hashlib
import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.formats.keras_v3 import FORMAT
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.tensors import Role, TensorDict
from tensorferry.pipeline.convert import ConvertOptions, convert

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore")


def read(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


# The corpus


def corpus_rows() -> list[tuple[str, str]]:
    return [
        ("keras_v3", "k3-57cell-nlf"),
        ("keras_v3", "k3-keras-nested-container"),
        ("keras_weights_h5", "wh5-agh-digits"),
    ]


def digests(tensors: TensorDict) -> dict[str, list[object]]:
    return {
        name: [
            tensor.spec.dtype.label,
            list(tensor.spec.shape),
            hashlib.sha256(b"".join(map(bytes, tensor.chunks()))).hexdigest(),
        ]
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(("kind", "model"), corpus_rows())
def test_real_files_equal_what_h5py_reads(
    corpus: Path, tmp_path: Path, kind: str, model: str
) -> None:
    with (corpus / "MANIFEST.tsv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}
    row = rows[model]
    assert row["format"] == kind
    path = corpus / "files" / row["local_dir"] / row["main_arg"]
    oracle = json.loads((corpus / "oracle" / f"{model}.json").read_text())["tensors"]
    with open_tensors(path, ReadOptions(names="key")) as tensors:
        assert tensors.format == FORMAT.name
        assert digests(tensors) == oracle
    target = tmp_path / "copy.safetensors"
    convert(path, target, ConvertOptions(read=ReadOptions(names="key")))
    with open_tensors(target) as copied:
        assert digests(copied) == oracle


# Live models


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def library(request: pytest.FixtureRequest, tensorflow: Any) -> Any:
    assert tensorflow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(request.param)


@pytest.fixture(scope="module")
def keras(tensorflow: Any) -> Any:
    assert tensorflow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("keras")


def is_keras_3(library: Any) -> bool:
    return library.__name__ == "keras"


def plain(variable: Any) -> str:
    return str(getattr(variable, "path", None) or variable.name.removesuffix(":0"))


def live(model: Any, prefix: str = "") -> dict[str, Any]:
    """Return the variables of a model by the names a person would give them."""
    found: dict[str, Any] = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= live(layer, f"{prefix}{layer.name}/")
            continue
        for variable in layer.weights:
            path = f"/{plain(variable)}"
            at = path.find(f"/{layer.name}/")
            name = path[at + 1 :] if at >= 0 else f"{layer.name}{path}"
            found[prefix + name] = variable
    return found


def array(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def randomise(variables: list[Any]) -> None:
    random = np.random.default_rng(7)
    for variable in variables:
        value = array(variable)
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            variable.assign(random.uniform(0.1, 1, value.shape).astype(value.dtype))


def assert_weights(tensors: TensorDict, model: Any) -> None:
    expected = live(model)
    trained = {id(variable) for variable in model.trainable_variables}
    names = [name for name in tensors if tensors.origin(name).role in (Role.WEIGHT, Role.STATE)]
    assert sorted(names) == sorted(expected)
    for name, variable in expected.items():
        value, got = array(variable), tensors[name].read()
        assert (got.dtype.name, got.shape) == (value.dtype.name, value.shape), name
        assert got.tobytes() == value.tobytes(), name
        assert tensors.origin(name).trainable in (None, id(variable) in trained), name


def functional(k: Any) -> Any:
    layers = k.layers
    inputs = k.Input((6, 6, 3), name="x")
    inner_in = k.Input((6, 6, 4))
    y = layers.Conv2D(4, 3, padding="same", name="c_in")(inner_in)
    y = layers.BatchNormalization(name="b_in")(y)
    inner = k.Model(inner_in, y, name="inner")
    row = k.Sequential([layers.Dense(4, name="s_in"), layers.Dropout(0.5)], name="row")
    shared = layers.Dense(4, name="shared")
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="c")(inputs)
    y = layers.Add()([y, inner(y)])
    y = shared(shared(y))
    y = row(y * 2.0)
    y = layers.Flatten()(y)
    return k.Model(inputs, layers.Dense(1, name="out", trainable=False)(y), name="top")


def convolutions(k: Any) -> Any:
    layers = k.layers
    x = k.Input((6, 6, 3))
    row = layers.Reshape((36, 3))(x)
    normalization = layers.Normalization(name="norm")
    normalization.adapt(np.random.default_rng(1).random((4, 6, 6, 3)))
    outputs = [
        layers.Conv1D(2, 3, name="c1")(row),
        layers.Conv2D(6, 3, groups=3, name="c2")(x),
        layers.Conv3D(2, 1, name="c3")(layers.Reshape((6, 6, 1, 3))(x)),
        layers.Conv1DTranspose(2, 3, name="t1")(row),
        layers.Conv2DTranspose(2, 3, name="t2")(x),
        layers.DepthwiseConv1D(3, name="d1")(row),
        layers.DepthwiseConv2D(3, name="d2")(x),
        layers.SeparableConv1D(4, 3, name="s1")(row),
        layers.SeparableConv2D(4, 3, use_bias=False, name="s2")(x),
        layers.BatchNormalization(scale=False, name="bn")(x),
        layers.LayerNormalization(center=False, name="ln")(x),
        layers.PReLU(shared_axes=[1, 2], name="prelu")(x),
        normalization(x),
    ]
    if is_keras_3(k):
        outputs += [
            layers.GroupNormalization(3, name="gn")(x),
            layers.RMSNormalization(name="rms")(x),
            layers.EinsumDense("abcd,de->abce", (None, None, 5), bias_axes="e", name="ein")(x),
        ]
    return k.Model(x, outputs)


def recurrent(k: Any) -> Any:
    layers = k.layers
    x = k.Input((6,), dtype="int32")
    y = layers.Embedding(9, 4, name="emb")(x)
    image = layers.Reshape((1, 6, 2, 2))(y)
    outputs = [
        layers.LSTM(3, name="l")(y),
        layers.GRU(3, reset_after=False, name="g")(y),
        layers.SimpleRNN(3, use_bias=False, name="s")(y),
        layers.Bidirectional(layers.LSTM(2, name="in_both"))(y),
        layers.Bidirectional(
            layers.GRU(2), backward_layer=layers.GRU(2, go_backwards=True, name="back"), name="bi"
        )(y),
        layers.RNN([layers.GRUCell(2), layers.LSTMCell(3), layers.LSTMCell(2, name="z")])(y),
        layers.RNN(layers.SimpleRNNCell(2, name="cell_s"), name="r")(y),
        layers.ConvLSTM2D(2, 1, name="cl")(image),
        layers.TimeDistributed(layers.Dense(2, name="each"), name="td")(y),
    ]
    return k.Model(x, outputs)


def attention(k: Any) -> Any:
    layers = k.layers
    x = k.Input((5, 4))
    outputs = [
        layers.MultiHeadAttention(2, 3, name="mha")(x, x),
        layers.MultiHeadAttention(2, 3, use_bias=False)(x, x),
        layers.Attention(use_scale=True, score_mode="concat", name="a")([x, x]),
        layers.AdditiveAttention(name="aa")([x, x]),
        layers.AdditiveAttention(use_scale=False)([x, x]),
    ]
    if is_keras_3(k):
        outputs.append(layers.GroupQueryAttention(3, 4, 2, name="gqa")(x, x))
    return k.Model(x, outputs)


def sequential(k: Any) -> Any:
    layers = k.layers
    return k.Sequential(
        [k.Input((3,)), layers.Dense(4, name="a"), layers.BatchNormalization(), layers.Dense(2)]
    )


MODELS: list[Callable[[Any], Any]] = [functional, convolutions, recurrent, attention, sequential]


@pytest.mark.oracle
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_archives_give_the_names_and_bytes_of_the_live_model(
    library: Any, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    model = make(library)
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert_weights(tensors, model)


@pytest.mark.oracle
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_all_arrangements_of_keras_3_give_the_same(
    keras: Any, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    model = make(keras)
    randomise(model.weights)
    folder = tmp_path / "folder"
    folder.mkdir()
    keras.saving.save_model(model, folder, zipped=False)
    with read(folder) as tensors:
        assert_weights(tensors, model)
    expected = {name: array(variable).tobytes() for name, variable in live(model).items()}
    model.save_weights(tmp_path / "m.weights.h5")
    model.save_weights(tmp_path / "s.weights.json", max_shard_size=1e-6)
    for path in (tmp_path / "m.weights.h5", tmp_path / "s.weights.json"):
        with read(path) as tensors:
            got = {name: tensor.read().tobytes() for name, tensor in tensors.items()}
        assert sorted(got.values()) == sorted(expected.values())
        # Without a config some names remain numbers; those that do not are right.
        named = {name: value for name, value in got.items() if "/vars/" not in name}
        assert {name: expected[name] for name in named} == named
        assert len(named) > len(got) // 3


OPTIMIZERS: dict[str, dict[str, object]] = {
    "Adam": {"amsgrad": True, "use_ema": True},
    "AdamW": {},
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Nadam": {},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "Ftrl": {},
    "Lion": {},
    "Adafactor": {},
}


def compiled(model: Any, optimizer: Any) -> Any:
    """Compile, train a step, and make all variables different."""
    model.compile(optimizer, "mse")
    shape = model.input_shape[1:]
    model.fit(np.zeros((2, *shape), "f4"), np.zeros((2, *model.output_shape[1:])), verbose=0)
    randomise([*model.weights, *optimizer_variables(model)])
    return model


def optimizer_variables(model: Any) -> list[Any]:
    found = model.optimizer.variables
    return list(found() if callable(found) else found)


@pytest.mark.oracle
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_know_their_variables(library: Any, tmp_path: Path, name: str) -> None:
    optimizer = getattr(library.optimizers, name)(**OPTIMIZERS[name])
    model = compiled(functional(library), optimizer)
    model.save(tmp_path / "m.keras")
    owners = {plain(variable): readable for readable, variable in live(model).items()}
    with read(tmp_path / "m.keras") as tensors:
        by_key = {tensors.origin(each).key: each for each in tensors}
        for index, variable in enumerate(optimizer_variables(model)):
            found = by_key[f"optimizer/vars/{index}"]
            assert tensors[found].read().tobytes() == array(variable).tobytes()
            origin = tensors.origin(found)
            if origin.owner is None:
                assert origin.role in (Role.COUNTER, Role.OPTIMIZER), found
                continue
            owner = next(path for path, each in owners.items() if each == origin.owner)
            assert str(origin.slot) in found
            if is_keras_3(library) and origin.slot not in ("r", "c"):
                assert plain(variable).endswith(f"/{owner.replace('/', '_')}_{origin.slot}")
            elif not is_keras_3(library):
                assert plain(variable) == f"{name}/{origin.slot}/{owner}"
        slots = [each for each in tensors if tensors.origin(each).owner]
        assert len(slots) >= len(model.trainable_variables)


@pytest.mark.oracle
def test_a_loss_scale_optimizer_holds_another(keras: Any, tmp_path: Path) -> None:
    inner = keras.optimizers.Adam(name="adam")
    optimizer = keras.optimizers.LossScaleOptimizer(inner, name="loss_scale_optimizer")
    model = compiled(sequential(keras), optimizer)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        owned = [each for each in tensors if tensors.origin(each).owner]
    assert "loss_scale_optimizer/adam/a_kernel_momentum" in owned
    assert "adam/a_kernel_momentum" in owned  # the same, which Keras stores twice
    assert len(owned) == 4 * len(model.trainable_variables)


@pytest.mark.oracle
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
def test_precision_is_kept(library: Any, tmp_path: Path, policy: str) -> None:
    mixed = library.mixed_precision
    mixed.set_global_policy(policy)
    try:
        model = sequential(library)
    finally:
        mixed.set_global_policy("float32")
    if not is_keras_3(library) and policy == "bfloat16":
        pytest.skip("tf_keras cannot randomise it")
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert_weights(tensors, model)


@pytest.mark.oracle
def test_a_subclassed_model_is_named_by_its_layers(keras: Any, tmp_path: Path) -> None:
    class Mine(keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.one = keras.layers.Dense(2, name="first")
            self.more = [keras.layers.Dense(3, name="second"), keras.layers.Dense(4)]

        def call(self, inputs: Any) -> Any:
            for layer in (self.one, *self.more):
                inputs = layer(inputs)
            return inputs

    model = Mine()
    model(np.zeros((1, 5), "f4"))
    randomise(model.weights)
    model.save_weights(tmp_path / "m.weights.h5")
    with read(tmp_path / "m.weights.h5") as tensors:
        got = {name: tensor.read().tobytes() for name, tensor in tensors.items()}
    one, second, third = (layer.get_weights() for layer in (model.one, *model.more))
    assert got == {
        "first/kernel": one[0].tobytes(),
        "first/bias": one[1].tobytes(),
        "second/kernel": second[0].tobytes(),
        "second/bias": second[1].tobytes(),
        f"{model.more[1].name}/kernel": third[0].tobytes(),
        f"{model.more[1].name}/bias": third[1].tobytes(),
    }


@pytest.mark.oracle
def test_the_kernel_of_spectral_normalization_lies_there_twice(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    wrapped = layers.SpectralNormalization(layers.Dense(2, name="d"), name="sn")
    model = keras.Sequential([keras.Input((3,)), wrapped])
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert sorted(tensors) == ["sn/d/bias", "sn/d/kernel", "sn/kernel", "sn/vector_u"]
        assert tensors["sn/kernel"].read().tobytes() == tensors["sn/d/kernel"].read().tobytes()


# Quantised


def quantisable(k: Any) -> Any:
    layers = k.layers
    x = k.Input((6,), dtype="int32")
    y = layers.Embedding(10, 7, name="e")(x)
    y = layers.MultiHeadAttention(2, 5, name="mha")(y, y)
    y = layers.Dense(5, name="d")(y)
    y = layers.Dense(131, use_bias=False, name="wide")(y)
    y = layers.Dense(4, name="tall")(y)
    y = layers.EinsumDense("abc,cde->abde", (None, 3, 2), bias_axes="de", name="ein")(y)
    y = layers.EinsumDense("abde,def->abf", (None, 3), name="back")(y)
    return k.Model(x, y)


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantised_layers_are_kept_as_they_are(keras: Any, tmp_path: Path, mode: str) -> None:
    model = quantisable(keras)
    model.quantize(mode)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert_weights(tensors, model)
        if mode != "float8":
            assert tensors.details["quantised"]["d"].startswith(mode)  # type: ignore[index]
            assert "kept as stored" in tensors.notes[-1].text


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["int8", "int4", "int4-per-channel"])
def test_real_values_are_those_that_keras_computes(keras: Any, tmp_path: Path, mode: str) -> None:
    model = quantisable(keras)
    randomise(model.weights)
    before = {name: array(variable) for name, variable in live(model).items()}
    if mode == "int4-per-channel":
        model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=None))
    else:
        model.quantize(mode)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras", dequantize=True) as tensors:
        assert sorted(tensors) == sorted(before)
        tolerance = 0.01 if mode == "int8" else 0.15
        for name, value in before.items():
            got = tensors[name].read()
            assert got.shape == value.shape, name
            assert np.abs(got - value).max() < tolerance, name
        table = np.asarray(model.get_layer("e")(np.arange(10)[None]))[0]
        assert np.array_equal(tensors["e/embeddings"].read(), table)


@pytest.mark.oracle
def test_merged_low_rank_changes_are_told(keras: Any, tmp_path: Path) -> None:
    model = sequential(keras)
    model.layers[0].enable_lora(2)
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert tensors.details["lora_rank"] == {"a": 2}
        merged = np.asarray(model.layers[0].kernel)
        assert np.array_equal(tensors["a/kernel"].read(), merged)


# Applications


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0"])
def test_every_variable_of_an_application_has_its_name(
    library: Any, tmp_path: Path, name: str
) -> None:
    application = getattr(import_module(f"{library.__name__}.applications"), name)
    model = application(weights=None, input_shape=(32, 32, 3), classes=3)
    randomise(model.weights)
    model.save(tmp_path / "m.keras")
    with read(tmp_path / "m.keras") as tensors:
        assert_weights(tensors, model)
