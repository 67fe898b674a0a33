"""What is easily laid out wrong: shared and nested layers, flattened inputs, cells, ties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.pipeline.layout.apply import apply_layout
from tensorferry.pipeline.recipe.applied import Applied

from .results import Results

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

Model = Callable[[Any], Any]  # given Keras 3 or tf_keras
FORMS = ("keras", "h5", "export", "tf_keras h5", "tf_keras saved")


def laid_out(model: Model, form: str, folder: Path, target: Any = "torch") -> Applied:
    """Return a model built, saved in one of the forms, and laid out."""
    import keras
    import tf_keras

    chosen: Any = tf_keras if form.startswith("tf_keras") else keras
    built = model(chosen)
    path = folder / {"keras": "m.keras", "h5": "m.h5", "tf_keras h5": "m.h5"}.get(form, "m")
    if form == "export":
        built.export(path, verbose=False)
    else:
        built.save(path)
    with open_tensors(path) as tensors:
        laid = apply_layout(tensors, target)
        weights = {name: laid[name].read() for name in laid}
    for name, value in weights.items():
        assert value.shape == laid[name].spec.shape
    return laid


def names(laid: Applied) -> set[str]:
    return {name for name in laid if laid[name].spec.dtype.label == "float32"}


def _shared(keras: Any) -> Any:
    a, b = keras.Input((4,)), keras.Input((4,))
    layer = keras.layers.Dense(3, name="shared")
    return keras.Model([a, b], keras.layers.Add()([layer(a), layer(b)]))


def _nested(keras: Any) -> Any:
    inner = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3, name="d")], name="inner"
    )
    x = keras.Input((4,))
    return keras.Model(x, keras.layers.Dense(2, name="head")(inner(x)))


def _distributed(keras: Any) -> Any:
    x = keras.Input((5, 4))
    return keras.Model(
        x, keras.layers.TimeDistributed(keras.layers.Dense(3, name="d"), name="every")(x)
    )


def _towers(keras: Any) -> Any:
    a, b = keras.Input((4,)), keras.Input((6,))
    left, right = (
        (keras.layers.Dense(3, name=n)(x) for n, x in (("left/dense", a), ("right/dense", b)))
        if False
        else (keras.layers.Dense(3, name="left")(a), keras.layers.Dense(3, name="right")(b))
    )
    return keras.Model([a, b], keras.layers.Dense(2, name="top")(
        keras.layers.Concatenate()([left, right])
    ))  # fmt: skip


def _sequence_dense(keras: Any) -> Any:
    x = keras.Input((5, 4))
    return keras.Model(x, keras.layers.Dense(3, name="d")(x))


def _pooled(keras: Any) -> Any:
    x = keras.Input((6, 6, 2))
    y = keras.layers.Conv2D(3, 3, name="c")(x)
    return keras.Model(x, keras.layers.Dense(2, name="d")(keras.layers.GlobalAveragePooling2D()(y)))


def _lstm_without_bias(keras: Any) -> Any:
    x = keras.Input((5, 4))
    return keras.Model(x, keras.layers.LSTM(3, use_bias=False, name="l")(x))


DECIDED: dict[str, tuple[Model, set[str]]] = {
    "shared": (_shared, {"shared.weight", "shared.bias"}),
    "nested": (_nested, {"inner.d.weight", "inner.d.bias", "head.weight", "head.bias"}),
    "towers": (_towers, {f"{a}.{b}" for a in ("left", "right", "top") for b in ("weight", "bias")}),
    "dense of sequences": (_sequence_dense, {"d.weight", "d.bias"}),
    "pooled": (_pooled, {"c.weight", "c.bias", "d.weight", "d.bias"}),
    "lstm without bias": (_lstm_without_bias, {"l.weight_ih_l0", "l.weight_hh_l0"}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trap", DECIDED)
def test_decided(tmp_path: Path, trap: str, form: str) -> None:
    model, expected = DECIDED[trap]
    laid = laid_out(model, form, tmp_path)
    assert laid.told.undecided == {}
    assert names(laid) == expected


@pytest.mark.parametrize("form", FORMS)
def test_distributed_over_time(tmp_path: Path, form: str) -> None:
    laid = laid_out(_distributed, form, tmp_path)
    assert laid.told.undecided == {}
    assert {laid[name].spec.shape for name in names(laid)} == {(3, 4), (3,)}


def _flattened(keras: Any) -> Any:
    x = keras.Input((6, 6, 2))
    y = keras.layers.Conv2D(3, 3, name="c")(x)
    return keras.Model(x, keras.layers.Dense(2, name="d")(keras.layers.Flatten()(y)))


def _flattened_behind_norm(keras: Any) -> Any:
    x = keras.Input((6, 6, 2))
    y = keras.layers.Flatten()(keras.layers.Conv2D(3, 3, name="c")(x))
    y = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization(name="n")(y))
    return keras.Model(x, keras.layers.Dense(2, name="d")(y))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model", [_flattened, _flattened_behind_norm])
def test_flattened_inputs_are_found(
    tmp_path: Path, results: Results, model: Model, form: str
) -> None:
    laid = laid_out(model, form, tmp_path)
    layers = {name.split("/")[0] for name in laid.told.undecided if "seed" not in name}
    assert layers == ({"d", "n"} if model is _flattened_behind_norm else {"d"})
    assert all("flattened" in why for name, why in laid.told.undecided.items())
    assert "c.weight" in laid
    if model is _flattened:
        results.refuse("dense after Flatten", form)


@pytest.mark.parametrize("target", ["jax", "mlx"])
def test_channels_stay_last_elsewhere(tmp_path: Path, target: str) -> None:
    laid = laid_out(_flattened, "keras", tmp_path, target)
    assert laid.told.undecided == {}


def test_the_rule_for_flattened_rows_is_told_and_right(tmp_path: Path) -> None:
    import keras
    import torch
    from tensorferry.pipeline.convert import ConvertOptions, convert

    model = _flattened(keras)
    model.save(tmp_path / "m.keras")
    with open_tensors(tmp_path / "m.keras") as tensors:
        why = apply_layout(tensors, "torch").told.undecided["d/kernel"]
    steps = why.partition("do = ")[2]
    assert steps
    (tmp_path / "r.toml").write_text(
        'version = 1\n[[rule]]\nmatch = "d/kernel"\nrename = "d.weight"\n'
        f'do = {steps}\n[[rule]]\nmatch = "d/bias"\nrename = "d.bias"\n'
    )
    recipe = (tmp_path / "r.toml").read_text()
    options = ConvertOptions(layout="torch", recipes=(recipe,), strict=True, weights_only=True)
    convert(tmp_path / "m.keras", tmp_path / "m.safetensors", options)
    other = torch.nn.Sequential()
    other.add_module("c", torch.nn.Conv2d(2, 3, 3))
    other.add_module("f", torch.nn.Flatten())
    other.add_module("d", torch.nn.Linear(48, 2))
    with open_tensors(tmp_path / "m.safetensors") as tensors:
        other.load_state_dict(
            {name: torch.from_numpy(np.array(each.read())) for name, each in tensors.items()}
        )
    x = np.random.default_rng(1).normal(size=(2, 6, 6, 2)).astype(np.float32)
    with torch.no_grad():
        got = other(torch.from_numpy(x).movedim(-1, 1))
    np.testing.assert_allclose(np.asarray(got), np.asarray(model(x)), rtol=0, atol=1e-5)


def _old_gru(keras: Any) -> Any:
    x = keras.Input((5, 4))
    return keras.Model(x, keras.layers.GRU(3, reset_after=False, name="g")(x))


def _narrow_heads(keras: Any) -> Any:
    x = keras.Input((5, 8))
    return keras.Model(x, keras.layers.MultiHeadAttention(2, 3, name="a")(x, x))


def _custom(keras: Any) -> Any:
    class Own(keras.layers.Layer):  # type: ignore[misc]
        def build(self, _shape: Any) -> None:
            self.own = self.add_weight(shape=(4, 4), name="own")

        def call(self, x: Any) -> Any:
            return (
                keras.activations.tanh(x) * 0.5 + keras.ops.sum(keras.ops.exp(self.own))
                if hasattr(keras, "ops")
                else x
            )

    x = keras.Input((4,))
    return keras.Model(x, Own(name="o")(x))


@pytest.mark.parametrize("form", FORMS)
def test_old_gru_is_refused_for_torch(tmp_path: Path, results: Results, form: str) -> None:
    laid = laid_out(_old_gru, form, tmp_path)
    assert len(laid.told.undecided) == 3
    assert all("reset_after=False" in why for why in laid.told.undecided.values())
    assert {name for name in laid if "g" in name.split("/")} == set(laid.told.undecided)
    results.refuse("gru, reset_after=False", form)


@pytest.mark.parametrize("form", FORMS)
def test_narrow_heads_are_refused_for_torch(tmp_path: Path, results: Results, form: str) -> None:
    laid = laid_out(_narrow_heads, form, tmp_path)
    assert len(laid.told.undecided) == 8
    assert all("heads times size" in why for why in laid.told.undecided.values())
    results.refuse("attention, heads times size is not the width", form)


@pytest.mark.parametrize("form", ["keras", "h5", "export"])
def test_custom_layers_are_listed(tmp_path: Path, results: Results, form: str) -> None:
    laid = laid_out(_custom, form, tmp_path)
    assert len(laid.told.undecided) == 1
    results.refuse("a layer of one's own", form)


def _channels_first(keras: Any) -> Any:
    x = keras.Input((2, 6, 6))
    y = keras.layers.Conv2D(3, 3, data_format="channels_first", name="c")(x)
    y = keras.layers.Flatten(data_format="channels_first")(y)
    return keras.Model(x, keras.layers.Dense(2, name="d")(y))


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_channels_first_filters_are_the_same(tmp_path: Path, form: str) -> None:
    laid = laid_out(_channels_first, form, tmp_path)
    assert laid["c.weight"].spec.shape == (3, 2, 3, 3)
    # Keras puts the channels last before it flattens, so the order is that of channels last.
    assert set(laid.told.undecided) == {"d/kernel", "d/bias"}
    if form == "keras":
        assert "4x4x3" in laid.told.undecided["d/kernel"]


def _spectral(keras: Any) -> Any:
    x = keras.Input((6, 6, 2))
    return keras.Model(
        x, keras.layers.SpectralNormalization(keras.layers.Conv2D(3, 3, name="c"), name="s")(x)
    )


@pytest.mark.parametrize("form", ["keras", "h5", "export"])
def test_spectral_normalization_leaves_its_vector(tmp_path: Path, form: str) -> None:
    laid = laid_out(_spectral, form, tmp_path)
    assert [laid[name].spec.shape for name in laid if name.endswith(".weight")] == [(3, 2, 3, 3)]
    # Its own reference to the kernel of the convolution is listed, too.
    assert all("vector" in name or name == "s/kernel" for name in laid.told.undecided)
