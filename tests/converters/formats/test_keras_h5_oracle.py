"""Legacy `.h5` files of live models, and those of Keras 1 as tf_keras loads them.

The rule for names, from the live variables: the names of the layers, outermost first, without the
model's own, then what is behind the layer's name in the variable's. A file without a config knows
the outermost layer alone, and the variable's own name.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
from tensorferry.converters.formats.keras_h5 import FORMAT
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.tensors import Evidence, Role, TensorDict

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Slots = dict[str, tuple[str, str]]


def read(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


# Live models


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


def plain(variable: Any) -> str:
    return str(getattr(variable, "path", None) or variable.name.removesuffix(":0"))


def live(model: Any, *, config: bool = True, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the variables of a model by their readable names; `config`: the file has one."""
    found: dict[str, Any] = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found |= live(layer, config=config, above=(*above, layer.name))
            continue
        for variable in layer.weights:
            _, name, rest = f"/{plain(variable)}".partition(f"/{layer.name}/")
            own = f"{layer.name}/{rest}" if name else f"{layer.name}/{plain(variable)}"
            found["/".join((*(above if config else above[:1]), own))] = variable
    return found


def array(variable: Any) -> np.ndarray:
    return np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)


def randomise(variables: list[Any]) -> None:
    random = np.random.default_rng(7)
    for variable in variables:
        value = array(variable)
        if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
            variable.assign(random.uniform(0.1, 1, value.shape).astype(value.dtype))


def assert_same(tensors: TensorDict, expected: Mapping[str, Any]) -> None:
    assert sorted(tensors) == sorted(expected)
    for name, variable in expected.items():
        value, got = array(variable), tensors[name].read()
        assert (got.dtype.name, got.shape) == (value.dtype.name, value.shape), name
        assert got.tobytes() == value.tobytes(), name


def assert_roles(tensors: TensorDict, expected: Mapping[str, Any], trained: list[Any]) -> None:
    """Check roles against the live variables, all of Keras's own layers."""
    by_config = tensors.details.get("model") is not None
    ids = {id(variable) for variable in trained}
    for name, variable in expected.items():
        origin = tensors.origin(name)
        is_state = name.endswith(("moving_mean", "moving_variance", "norm/mean", "norm/variance"))
        if by_config:
            assert origin.evidence is Evidence.CONFIG, name
            assert origin.trainable is (id(variable) in ids), name
            assert origin.role is (Role.STATE if is_state else Role.WEIGHT), name
        else:  # then names alone tell, and none tells whether a weight is trained
            is_state = name.endswith(("moving_mean", "moving_variance"))
            assert origin.evidence is Evidence.NAME, name
            assert origin.trainable is (False if is_state else None), name


# Models


def nested(k: Any) -> Any:
    """Models in models, two levels; shared and frozen layers."""
    layers = k.layers
    deep_in = k.Input((4,))
    deep = k.Model(deep_in, layers.Dense(4, name="d_deep")(deep_in), name="deep")
    row = k.Sequential([layers.Dense(4, name="d_row"), layers.BatchNormalization(name="b_row")])
    inner_in = k.Input((4,))
    y = layers.Dense(4, name="inner")(row(deep(inner_in)))  # called as the model is
    inner = k.Model(inner_in, layers.LayerNormalization(name="n")(y), name="inner")
    x = k.Input((4,))
    shared = layers.Dense(4, name="shared")
    y = shared(shared(inner(inner(x))))
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.Dense(4, name="frozen", trainable=False)(y)
    frozen_in = k.Input((4,))
    frozen = k.Model(frozen_in, layers.Dense(2, name="d_fr")(frozen_in), name="still")
    frozen.trainable = False
    return k.Model(x, layers.Dense(1, name="out")(frozen(y)), name="top")


def convolutions(k: Any) -> Any:
    layers = k.layers
    x = k.Input((6, 6, 3))
    row = layers.Reshape((36, 3))(x)
    outputs = [
        layers.Conv1D(2, 3, name="c1")(row),
        layers.Conv2D(6, 3, groups=3, use_bias=False, name="c2")(x),
        layers.Conv3D(2, 1, name="c3")(layers.Reshape((6, 6, 1, 3))(x)),
        layers.Conv2DTranspose(2, 3, name="t2")(x),
        layers.DepthwiseConv2D(3, name="d2")(x),
        layers.SeparableConv1D(4, 3, name="s1")(row),
        layers.SeparableConv2D(4, 3, name="s2")(x),
        layers.BatchNormalization(scale=False, name="bn")(x),
        layers.PReLU(shared_axes=[1, 2], name="prelu")(x),
    ]
    return k.Model(x, outputs)


def recurrent(k: Any) -> Any:
    layers = k.layers
    x = k.Input((6,), dtype="int32")
    y = layers.Embedding(9, 4, name="emb")(x)
    both = layers.Bidirectional(layers.GRU(2, return_sequences=True), name="bi")
    outputs = [
        layers.LSTM(3, name="l")(y),
        layers.GRU(3, reset_after=False, name="g")(y),
        layers.SimpleRNN(3, use_bias=False, name="s")(y),
        layers.Bidirectional(layers.LSTM(2, name="in_both"))(both(y)),
        layers.RNN([layers.GRUCell(2), layers.LSTMCell(3), layers.LSTMCell(2, name="z")])(y),
        layers.TimeDistributed(layers.Dense(2, name="each"), name="td")(y),
    ]
    return k.Model(x, outputs)


def attention(k: Any) -> Any:
    layers = k.layers
    x = k.Input((5, 4))
    outputs = [
        layers.MultiHeadAttention(2, 3, name="mha")(x, x),
        layers.MultiHeadAttention(2, 3, use_bias=False)(x, x),
        layers.Attention(use_scale=True, name="a")([x, x]),
    ]
    if is_keras_3(k):
        outputs.append(layers.GroupQueryAttention(3, 4, 2, name="gqa")(x, x))
    return k.Model(x, outputs)


def sequential(k: Any) -> Any:
    layers = k.layers
    inner = k.Sequential([layers.Dense(3, name="d_in"), layers.BatchNormalization()], name="inner")
    return k.Sequential([k.Input((3,)), layers.Dense(4, name="a"), inner, layers.Dense(2)])


def subclass_of_functional(k: Any) -> Any:
    class Mine(k.Model):  # type: ignore[misc,name-defined]
        """Keeps the config of a functional model, under a class that nobody knows."""

    deep_in = k.Input((4,))
    deep = Mine(deep_in, k.layers.Dense(4, name="d_deep")(deep_in), name="deep")
    inner_in = k.Input((4,))
    inner = Mine(inner_in, k.layers.Dense(4, name="d_in")(deep(inner_in)), name="inner")
    x = k.Input((4,))
    return Mine(x, k.layers.Dense(2, name="out")(inner(x)), name="top")


MODELS: list[Callable[[Any], Any]] = [
    nested, convolutions, recurrent, attention, sequential, subclass_of_functional,
]  # fmt: skip


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_full_model_gives_names_bytes_and_roles_of_the_live_one(
    library: Any, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    model = make(library)
    randomise(model.weights)
    model.save(tmp_path / "m.h5")
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, live(model))
        assert_roles(tensors, live(model), model.trainable_variables)
        assert not tensors.notes


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_weights_alone_give_names_without_the_models_in_models(
    tf_keras: Any, tmp_path: Path, make: Callable[[Any], Any]
) -> None:
    model = make(tf_keras)
    randomise(model.weights)
    model.save_weights(tmp_path / "w.h5")
    expected = live(model, config=False)
    if make is nested:  # the list says `inner/kernel` of the layer `inner` in the model `inner`
        expected = {name.replace("inner/inner/", "inner/"): each for name, each in expected.items()}
    with read(tmp_path / "w.h5") as tensors:
        assert_same(tensors, expected)
        assert_roles(tensors, expected, model.trainable_variables)


def test_a_layer_may_be_called_as_its_model(library: Any, tmp_path: Path) -> None:
    layers = [library.Input((3,)), library.layers.Dense(2, name="same")]
    model = library.Sequential(layers, name="same")
    model.save(tmp_path / "m.h5")
    kernel, bias = model.weights
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, {"same/kernel": kernel, "same/bias": bias})


def test_a_layer_in_several_models_is_in_the_file_several_times(
    library: Any, tmp_path: Path
) -> None:
    shared = library.layers.Dense(4, name="shared")
    inner_in = library.Input((4,))
    inner = library.Model(inner_in, shared(inner_in), name="inner")
    x = library.Input((4,))
    model = library.Model(x, shared(inner(x)))
    model.save(tmp_path / "m.h5")
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, live(model))
        assert len(tensors) == 2 * len(model.weights)


def test_what_a_wrapper_holds(library: Any, tmp_path: Path) -> None:
    inner_in = library.Input((4,))
    inner = library.Model(inner_in, library.layers.Dense(3, name="d_in")(inner_in), name="inner")
    x = library.Input((5, 4))
    model = library.Model(x, library.layers.TimeDistributed(inner, name="td")(x))
    model.save(tmp_path / "m.h5")
    scope = "td/inner/d_in" if is_keras_3(library) else "td/d_in"  # tf_keras hides the wrapped one
    kernel, bias = model.weights
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, {f"{scope}/kernel": kernel, f"{scope}/bias": bias})


def block(k: Any) -> Any:
    """Return a layer of a class that nobody knows."""

    class Block(k.layers.Layer):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(name="block")
            self.first = k.layers.Dense(4)
            self.more = [k.layers.Dense(4, name="block_7"), k.layers.LayerNormalization()]
            self.more[0](np.zeros((1, 4), "f4"))  # made outside the scope of the layer

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
            self.seen = self.add_weight(name="seen", shape=(), trainable=False)
            super().build(shape)

        def call(self, inputs: Any) -> Any:
            for layer in (self.first, *self.more):
                inputs = layer(inputs)
            return inputs * self.scale

    return Block()


def custom(k: Any) -> Any:
    x = k.Input((4,))
    return k.Model(x, k.layers.Dense(1, name="out")(block(k)(x)))


def test_custom_layers_are_named_by_their_variables(library: Any, tmp_path: Path) -> None:
    model = custom(library)
    randomise(model.weights)
    model.save(tmp_path / "m.h5")
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, live(model))
        assert {"block/scale", "block/seen", "block/block_7/kernel"} < set(tensors)
        assert tensors.origin("block/seen").trainable is None  # nothing says it


def test_a_subclassed_model_is_named_by_its_layers(library: Any, tmp_path: Path) -> None:
    class Mine(library.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(name="mine")
            self.one = library.layers.Dense(4, name="first")
            self.more = [library.layers.BatchNormalization(name="b"), library.layers.LSTM(3)]

        def call(self, inputs: Any) -> Any:
            for layer in (self.one, *self.more):
                inputs = layer(inputs)
            return inputs

    model = Mine()
    model(np.zeros((1, 5, 4), "f4"))
    randomise(model.weights)
    assert {plain(variable).partition("/")[0] for variable in model.weights} == {"mine"}
    path = tmp_path / "m.h5"
    if is_keras_3(library):
        model.save(path)
    else:  # tf_keras does not save the whole of it
        model.save_weights(path)
    with read(path) as tensors:
        assert_same(tensors, live(model))
        assert tensors.origin("b/moving_mean").role is Role.STATE


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float16"])
def test_precision_is_kept(library: Any, tmp_path: Path, policy: str) -> None:
    if not is_keras_3(library) and policy == "bfloat16":
        pytest.skip("tf_keras cannot randomise it")
    library.mixed_precision.set_global_policy(policy)
    try:
        model = sequential(library)
    finally:
        library.mixed_precision.set_global_policy("float32")
    randomise(model.weights)
    model.save(tmp_path / "m.h5")
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, live(model))
        assert len(tensors.notes) == (policy == "bfloat16")  # opaque, and nothing says what


def test_lists_that_keras_stores_in_pieces(library: Any, tmp_path: Path) -> None:
    def rows(first: int, count: int) -> list[Any]:
        names = [f"{number}_{'x' * 4000}" for number in range(first, first + count)]
        return [library.layers.Dense(1, name=name) for name in names]

    inner = library.Sequential([library.Input((1,)), *rows(0, 9)])  # twice as many variables
    model = library.Sequential([library.Input((1,)), inner, *rows(10, 17)])
    randomise(model.weights)
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        weights = file["model_weights"]
        assert "layer_names1" in weights.attrs
        assert "weight_names1" in weights[inner.name].attrs
    with read(tmp_path / "m.h5") as tensors:
        assert_same(tensors, live(model))


# Optimizers

# Slots of each variable, in Keras 3, in tf_keras, and in tf_keras's older optimizers.
OPTIMIZERS: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("Adam", {"amsgrad": True}, "momentum velocity velocity_hat", "m v vhat", "m v vhat"),
    ("AdamW", {"use_ema": True}, "momentum velocity average", "m v average", ""),
    ("SGD", {"momentum": 0.9}, "momentum", "m", "momentum"),
    ("RMSprop", {"momentum": 0.9, "centered": True}, "velocity momentum average_gradient",
     "velocity momentum average_gradient", "rms momentum mg"),
    ("Adagrad", {}, "accumulator", "accumulator", "accumulator"),
    ("Adadelta", {}, "accumulated_grad accumulated_delta_var",
     "accumulated_grad accumulated_delta_var", "accum_grad accum_var"),
    ("Adamax", {}, "momentum norm", "m u", "m v"),
    ("Nadam", {}, "momentum velocity", "m v", "m v"),
    ("Ftrl", {}, "accumulator linear", "accumulator linear", "accumulator linear"),
    ("Lion", {}, "momentum", "m", ""),
]  # fmt: skip


def small(k: Any) -> Any:
    """Return a model with weights, state, a model inside and a frozen layer."""
    layers = k.layers
    inner_in = k.Input((4,))
    inner = k.Model(inner_in, layers.Dense(4, name="d_in")(inner_in), name="inner")
    x = k.Input((4,))
    y = layers.BatchNormalization(name="bn")(layers.Dense(4, name="a")(inner(x)))
    return k.Model(x, layers.Dense(1, name="still", trainable=False)(y))


def trained(model: Any, optimizer: Any) -> Any:
    """Train a step, and make all variables different."""
    model.compile(optimizer, "mse", run_eagerly=True)
    model.train_on_batch(np.zeros((2, *model.input_shape[1:]), "f4"), np.zeros((2, 1), "f4"))
    randomise([*model.weights, *variables_of(model.optimizer)])
    return model


def variables_of(optimizer: Any) -> list[Any]:
    found = optimizer.variables
    return list(found() if callable(found) else found)


def expected_slots(model: Any, pattern: str, slots: str) -> Slots:
    """Return owner and slot by the slot's name; in `pattern` {flat}, {owner} and {slot}."""
    ids = {id(variable) for variable in model.trainable_variables}
    found = {}
    for readable, variable in live(model).items():
        if id(variable) in ids:
            owner = plain(variable)
            for slot in slots.split():
                name = pattern.format(flat=owner.replace("/", "_"), owner=owner, slot=slot)
                found[name] = (readable, slot)
    return found


def assert_slots(path: Path, model: Any, expected: Slots) -> None:
    model.save(path)
    variables = {plain(each): each for each in variables_of(model.optimizer)}
    assert len(variables) == len(variables_of(model.optimizer))
    with read(path) as tensors:
        assert_same(tensors, live(model) | variables)
        for name in variables:
            origin = tensors.origin(name)
            assert (origin.owner, origin.slot) == expected.pop(name, (None, None)), name
            if origin.owner is None:
                assert origin.role in (Role.COUNTER, Role.OPTIMIZER), name
                assert (origin.role is Role.COUNTER) is (
                    name.rpartition("/")[2] in ("iter", "iteration", "step_counter")
                ), name
            else:
                average = origin.slot == "average"
                assert origin.role is (Role.AVERAGE if average else Role.SLOT), name
                assert tensors.origin(origin.owner).trainable, name
    assert not expected


@pytest.mark.parametrize(
    ("name", "options", "new", "old"),
    [row[:4] for row in OPTIMIZERS],
    ids=[row[0] for row in OPTIMIZERS],
)
def test_slots_know_their_variables(
    library: Any, tmp_path: Path, name: str, options: dict[str, Any], new: str, old: str
) -> None:
    model = trained(small(library), getattr(library.optimizers, name)(**options))
    if is_keras_3(library):
        expected = expected_slots(model, model.optimizer.name + "/{flat}_{slot}", new)
    else:
        expected = expected_slots(model, name + "/{slot}/{owner}", old)
    assert_slots(tmp_path / "m.h5", model, expected)


@pytest.mark.parametrize(
    ("name", "options", "slots"),
    [(*row[:2], row[4]) for row in OPTIMIZERS if row[4]],
    ids=[row[0] for row in OPTIMIZERS if row[4]],
)
def test_slots_of_older_optimizers_know_their_variables(
    tf_keras: Any, tmp_path: Path, name: str, options: dict[str, Any], slots: str
) -> None:
    model = trained(small(tf_keras), getattr(tf_keras.optimizers.legacy, name)(**options))
    expected = expected_slots(model, name + "/{owner}/{slot}", slots)
    assert_slots(tmp_path / "m.h5", model, expected)


def test_rows_and_columns_of_adafactor(tf_keras: Any, tmp_path: Path) -> None:
    # Keras 3 calls two of its variables alike, and cannot save them.
    model = trained(small(tf_keras), tf_keras.optimizers.Adafactor())
    matrices = {name for name, variable in live(model).items() if len(variable.shape) > 1}
    expected = expected_slots(model, "Adafactor/{slot}/{owner}", "r c v")
    kept = {
        name: (owner, slot)
        for name, (owner, slot) in expected.items()
        if slot == "v" or owner in matrices
    }
    assert_slots(tmp_path / "m.h5", model, kept)


def test_slots_of_custom_layers_know_their_variables(library: Any, tmp_path: Path) -> None:
    model = trained(custom(library), library.optimizers.Adam(name="mine"))
    if is_keras_3(library):
        expected = expected_slots(model, "mine/{flat}_{slot}", "momentum velocity")
    else:
        expected = expected_slots(model, "mine/{slot}/{owner}", "m v")
    assert_slots(tmp_path / "m.h5", model, expected)


def test_slots_within_a_loss_scale(library: Any, tmp_path: Path) -> None:
    if is_keras_3(library):
        inner = library.optimizers.Adam(name="adam")
        optimizer = library.optimizers.LossScaleOptimizer(inner, name="scale")
        pattern, slots = "scale/adam/{flat}_{slot}", "momentum velocity"
    else:
        optimizer = library.mixed_precision.LossScaleOptimizer(library.optimizers.Adam())
        pattern, slots = "{slot}/{owner}", "m v"
    model = trained(small(library), optimizer)
    assert_slots(tmp_path / "m.h5", model, expected_slots(model, pattern, slots))


# Keras 1, as tf_keras loads it

Arrays = Mapping[str, tuple[int, ...]]


class Old(NamedTuple):
    """A layer of Keras 1: class, config, shapes of its arrays; today's, and its input's shape."""

    kind: str
    config: Mapping[str, Any]
    arrays: Arrays
    make: Callable[[Any], Any]
    input: tuple[int, ...]
    alone: bool = True  # whether the arrays tell the same as the config


def gates(parts: Mapping[str, tuple[int, ...]], order: str) -> Arrays:
    return {f"{part}_{gate}": parts[part] for gate in order for part in parts}


FIRST = {"data_format": "channels_first"}
LSTM = gates({"W": (3, 4), "U": (4, 4), "b": (4,)}, "icfo")
BOTH = {f"{way}_in_{leaf}": LSTM[leaf] for way in ("forward", "backward") for leaf in LSTM}
IMAGE, VOLUME = (6, 6, 4), (5, 5, 5, 2)
OLD: dict[str, Old] = {
    "dense": Old("Dense", {}, {"W": (3, 4), "b": (4,)}, lambda k: k.Dense(4, name="x"), (3,)),
    "conv tf": Old(
        "Convolution2D", {"dim_ordering": "tf"}, {"W": (2, 3, 4, 5), "b": (5,)},
        lambda k: k.Conv2D(5, (2, 3), name="x"), IMAGE,
    ),
    "conv th": Old(
        "Convolution2D", {"dim_ordering": "th"}, {"W": (5, 4, 2, 3), "b": (5,)},
        lambda k: k.Conv2D(5, (2, 3), name="x", **FIRST), (4, 6, 6),
    ),
    "square conv th": Old(
        "Convolution2D", {"dim_ordering": "th"}, {"W": (3, 3, 3, 3), "b": (3,)},
        lambda k: k.Conv2D(3, 3, name="x", **FIRST), (3, 6, 6), alone=False,
    ),
    "conv th without bias": Old(
        "Convolution2D", {"dim_ordering": "th", "bias": False}, {"W": (5, 4, 2, 3)},
        lambda k: k.Conv2D(5, (2, 3), use_bias=False, name="x", **FIRST), (4, 6, 6), alone=False,
    ),
    "atrous": Old(
        "AtrousConvolution2D", {"dim_ordering": "th"}, {"W": (5, 4, 2, 3), "b": (5,)},
        lambda k: k.Conv2D(5, (2, 3), dilation_rate=2, name="x", **FIRST), (4, 6, 6),
    ),
    "conv 1d": Old(
        "Convolution1D", {"nb_filter": 5}, {"W": (3, 1, 4, 5), "b": (5,)},
        lambda k: k.Conv1D(5, 3, name="x"), (6, 4), alone=False,
    ),
    "conv 1d, as long as wide": Old(
        "Convolution1D", {"nb_filter": 5, "bias": False}, {"W": (5, 1, 4, 5)},
        lambda k: k.Conv1D(5, 5, use_bias=False, name="x"), (6, 4), alone=False,
    ),
    "conv 1d of Keras 1.1": Old(
        "Convolution1D", {}, {"W": (5, 4, 3, 1), "b": (5,)},
        lambda k: k.Conv1D(5, 3, name="x"), (6, 4), alone=False,
    ),
    "conv 3d tf": Old(
        "Convolution3D", {"dim_ordering": "tf"}, {"W": (1, 2, 3, 2, 4), "b": (4,)},
        lambda k: k.Conv3D(4, (1, 2, 3), name="x"), VOLUME,
    ),
    "conv 3d th": Old(
        "Convolution3D", {"dim_ordering": "th"}, {"W": (4, 2, 1, 2, 3), "b": (4,)},
        lambda k: k.Conv3D(4, (1, 2, 3), name="x", **FIRST), (2, 5, 5, 5),
    ),
    "deconv tf": Old(
        "Deconvolution2D", {"dim_ordering": "tf"}, {"W": (2, 3, 4, 5), "b": (5,)},
        lambda k: k.Conv2DTranspose(5, (2, 3), name="x"), IMAGE, alone=False,
    ),
    "deconv th": Old(
        "Deconvolution2D", {"dim_ordering": "th"}, {"W": (5, 4, 2, 3), "b": (5,)},
        lambda k: k.Conv2DTranspose(5, (2, 3), name="x", **FIRST), (4, 6, 6), alone=False,
    ),
    "lstm": Old("LSTM", {}, LSTM, lambda k: k.LSTM(4, name="x"), (6, 3)),
    "gru": Old(
        "GRU", {}, gates({"W": (3, 4), "U": (4, 4), "b": (4,)}, "zrh"),
        lambda k: k.GRU(4, reset_after=False, name="x"), (6, 3),
    ),
    "simple rnn": Old(
        "SimpleRNN", {}, {"W": (3, 4), "U": (4, 4), "b": (4,)},
        lambda k: k.SimpleRNN(4, name="x"), (6, 3),
    ),
    "conv lstm": Old(
        "ConvLSTM2D", {"dim_ordering": "tf", "nb_filter": 5},
        gates({"W": (2, 3, 4, 5), "U": (2, 3, 5, 5), "b": (5,)}, "icfo"),
        lambda k: k.ConvLSTM2D(5, (2, 3), name="x"), (2, *IMAGE),
    ),
    "both ways": Old(
        "Bidirectional", {"layer": {"class_name": "LSTM", "config": {"name": "in"}}}, BOTH,
        lambda k: k.Bidirectional(k.LSTM(4, name="in"), name="x"), (6, 3),
    ),
    "normalisation": Old(
        "BatchNormalization", {},
        dict.fromkeys(("gamma", "beta", "running_mean", "running_std"), (4,)),
        lambda k: k.BatchNormalization(name="x"), (3, 4),
    ),
    "embedding": Old(
        "Embedding", {}, {"W": (9, 4)}, lambda k: k.Embedding(9, 4, name="x"), (6,), alone=False
    ),
    "prelu": Old("PReLU", {}, {"alphas": (3, 4)}, lambda k: k.PReLU(name="x"), (3, 4)),
}  # fmt: skip


def old_file(path: Path, old: Old, *, config: bool) -> None:
    """Store numbers as Keras 1.2.2 does: no version on the group of weights."""
    random = np.random.default_rng(3)
    prefix = "" if old.kind == "Bidirectional" else "x_"
    with h5py.File(path, "w") as file:
        group = file
        if config:
            inside = {"name": "x", "trainable": True, **old.config}
            model = {"class_name": old.kind, "config": inside}
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [model]})
            file.attrs["keras_version"] = "1.2.2"
            group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"x"]
        names = [f"{prefix}{leaf}" for leaf in old.arrays]
        group.create_group("x").attrs["weight_names"] = [name.encode() for name in names]
        for name, shape in zip(names, old.arrays.values(), strict=True):
            group["x"][name] = random.random(shape, np.float32)


@pytest.mark.parametrize(
    ("kind", "config"),
    [*((kind, True) for kind in OLD), *((kind, False) for kind in OLD if OLD[kind].alone)],
)
def test_keras_1_is_read_as_tf_keras_loads_it(
    tf_keras: Any, tmp_path: Path, kind: str, config: bool
) -> None:
    old = OLD[kind]
    path = tmp_path / "old.h5"
    old_file(path, old, config=config)
    layer = old.make(tf_keras.layers)
    model = tf_keras.Sequential([tf_keras.Input(old.input), layer])
    model.load_weights(path)
    # Keras 1 has no part for the cell in its names.
    cells = re.compile(r"(lstm|gru|simple_rnn|conv_lstm)_cell/")
    expected = {cells.sub("", name): each for name, each in live(model).items()}
    with read(path, keras1="modern") as tensors:
        assert_same(tensors, expected)
        trained = {id(variable) for variable in model.trainable_variables}
        for name, variable in expected.items():
            known = config or tensors.origin(name).role is Role.STATE
            assert tensors.origin(name).trainable is (id(variable) in trained if known else None)
    with read(path) as tensors:
        assert len(tensors) == len(old.arrays)


def test_axes_in_no_certain_order_stay_as_they_are_and_are_named(tmp_path: Path) -> None:
    for kind in ("square conv th", "conv th without bias"):
        path = tmp_path / "old.h5"
        old_file(path, OLD[kind], config=False)
        with read(path, keras1="modern") as tensors, h5py.File(path) as file:
            assert tensors["x/x_W"].read().tobytes() == file["x/x_W"][()].tobytes()
            assert "kept: `x/x_W`" in str(tensors.notes[-1])


# Theano's kernels

# Classes whose first array Keras 2.3.1 turns when it loads a file of Theano's, keras/engine/
# saving.py, and of ConvLSTM2D the second, too.
MIRRORED = {"Conv1D": 1, "Conv2D": 1, "Conv3D": 1, "Conv2DTranspose": 1, "ConvLSTM2D": 2}


def turned(kernel: np.ndarray) -> np.ndarray:
    """Turn all axes but the last two: keras/utils/conv_utils.py, convert_kernel (v2.3.1)."""
    return kernel[(*[slice(None, None, -1)] * (kernel.ndim - 2), slice(None), slice(None))]


@pytest.mark.parametrize("mode", ["full", "weights"])
def test_kernels_of_theano_are_turned_as_keras_2_does(
    tf_keras: Any, tmp_path: Path, mode: str
) -> None:
    layers = tf_keras.layers
    x = tf_keras.Input((6, 6, 3))
    row, frames = layers.Reshape((36, 3))(x), layers.Reshape((1, 6, 6, 3))(x)
    inner_in = tf_keras.Input((6, 6, 3))
    inner = tf_keras.Model(inner_in, layers.Conv2D(3, 2, name="c_in")(inner_in), name="inner")
    outputs = [
        layers.Conv1D(2, 3, name="c1")(row),
        layers.Conv2D(6, (3, 2), name="c2")(x),
        layers.Conv3D(2, (2, 3, 1), name="c3")(layers.Reshape((6, 6, 1, 3))(x)),
        layers.Conv2DTranspose(2, 3, name="t2")(x),
        layers.ConvLSTM2D(2, 3, name="cl")(frames),
        layers.DepthwiseConv2D(3, name="d2")(x),
        layers.SeparableConv2D(4, 3, name="s2")(x),
        layers.LocallyConnected2D(2, 5, name="local")(x),
        layers.MultiHeadAttention(2, 3, name="mha")(row, row),
        layers.LSTM(2, name="l")(row),
        layers.Dense(2, name="d")(row),
        inner(x),
    ]
    model = tf_keras.Model(x, outputs)
    randomise(model.weights)
    path = tmp_path / "m.h5"
    model.save(path) if mode == "full" else model.save_weights(path)
    with h5py.File(path, "r+") as file:
        (file["model_weights"] if mode == "full" else file).attrs["backend"] = "theano"
    expected = {name: array(variable) for name, variable in live(model).items()}
    mirrored = {
        id(variable)
        for layer in [*model.layers, *inner.layers]
        for variable in layer.weights[: MIRRORED.get(type(layer).__name__, 0)]
    }
    # Without a config a kernel of three axes may be one of a convolution, and may be none.
    open_ones = {"c1", "local", "mha"} if mode == "weights" else set()
    for name, variable in live(model).items():
        if id(variable) in mirrored and name.partition("/")[0] not in open_ones:
            expected[name] = turned(expected[name])
    with read(path, unflip_theano=True) as tensors:
        assert {name: tensor.read().tobytes() for name, tensor in tensors.items()} == {
            name: value.tobytes() for name, value in expected.items()
        }
        assert all(f"`{each}/" in str(tensors.notes[-1]) for each in open_ones)
