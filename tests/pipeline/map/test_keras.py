"""Two Keras models that differ in the names of their layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.convert import ConvertOptions, convert

from .cnns import DISTINCT, EQUAL, keras_cnn
from .conftest import Map
from .scoring import score

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5"),
]

OTHERS = ("stem", "calm", "ears", "desk", "oak", "lamp", "tip")


@pytest.mark.parametrize("target", ["keras", "h5"])
@pytest.mark.parametrize("source", ["keras", "h5"])
@pytest.mark.parametrize("channels", [DISTINCT, EQUAL], ids=["distinct", "equal"])
def test_a_chain_is_found(
    tmp_path: Path, map_to: Map, channels: tuple[int, ...], source: str, target: str
) -> None:
    import keras

    first = keras_cnn(keras, channels)
    first.save(tmp_path / f"a.{source}")
    second = keras_cnn(keras, channels, OTHERS)
    second.save(tmp_path / f"b.{target}")
    done = map_to(tmp_path / f"a.{source}", tmp_path / f"b.{target}")
    truth = truth_of(first, second)
    found = score(f"two Keras CNNs {channels} {source} {target}", done, truth)
    assert found.right == found.total == 20
    assert done.complete
    check_loads(tmp_path, f"a.{source}", f"b.{target}", done.text)


def check_loads(folder: Path, source: str, target: str, text: str) -> None:
    options = ConvertOptions(recipes=(text,), like=str(folder / target), strict_like=True)
    convert(folder / source, folder / "out.safetensors", options)
    with open_tensors(folder / "out.safetensors") as made, open_tensors(folder / target) as wanted:
        assert {name: each.spec for name, each in made.items()} == {
            name: wanted[name].spec for name in made
        }


def truth_of(first: Any, second: Any) -> dict[str, tuple[tuple[str, ...], str]]:
    ours, theirs = ([layer for layer in model.layers if layer.weights] for model in (first, second))
    return {
        f"{other.name}/{b.name}": ((f"{layer.name}/{a.name}",), "")
        for layer, other in zip(ours, theirs, strict=True)
        for a, b in zip(layer.weights, other.weights, strict=True)
    }


def residual(keras: Any, names: tuple[str, ...]) -> Any:
    """Two branches of equal shapes that are added."""
    keras.backend.clear_session()
    layers = keras.layers
    given = iter(names)
    inputs = keras.Input((6,))
    left = layers.Dense(6, name=next(given))(inputs)
    right = layers.Dense(6, name=next(given))(inputs)
    return keras.Model(inputs, layers.Dense(6, name=next(given))(layers.Add()([left, right])))


def test_branches_too(tmp_path: Path, map_to: Map) -> None:
    import keras

    first, second = residual(keras, ("a", "b", "c")), residual(keras, ("z", "x", "y"))
    first.save(tmp_path / "a.keras")
    second.save(tmp_path / "b.keras")
    done = map_to(tmp_path / "a.keras", tmp_path / "b.keras")
    assert score("two Keras models with branches", done, truth_of(first, second)).right == 6
    assert done.complete


def test_branches_are_not_those_of_torch_by_order(tmp_path: Path, map_to: Map) -> None:
    import json

    import keras

    residual(keras, ("a", "b", "c")).save(tmp_path / "a.keras")
    shapes = {
        f"{name}.{leaf}": [6] * rank
        for name in ("out", "two", "one")
        for leaf, rank in (("weight", 2), ("bias", 1))
    }
    (tmp_path / "t.json").write_text(json.dumps(shapes))
    done = map_to(tmp_path / "a.keras", tmp_path / "t.json")
    assert not done.proposal.pairs
    assert len(done.proposal.open) == 6


def test_names_that_keras_counts_do_not_mislead(tmp_path: Path, map_to: Map) -> None:
    """The second model of a session begins to count where the first has ended."""
    import keras

    first = keras_cnn(keras, EQUAL)
    layers = keras.layers
    flow = inputs = keras.Input((9, 9, EQUAL[0]))
    for filters in EQUAL[1:-1]:
        flow = layers.Conv2D(filters, 3, padding="same")(flow)
        flow = layers.ReLU()(layers.BatchNormalization()(flow))
    flow = layers.GlobalAveragePooling2D()(flow)
    second = keras.Model(inputs, layers.Dense(EQUAL[-1])(flow))
    assert "conv2d_3" in {layer.name for layer in second.layers}
    first.save(tmp_path / "a.keras")
    second.save(tmp_path / "b.keras")
    done = map_to(tmp_path / "a.keras", tmp_path / "b.keras")
    found = score("counted names", done, truth_of(first, second))
    assert found.right == found.total
