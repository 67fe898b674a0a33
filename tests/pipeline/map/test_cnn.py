"""A Keras CNN to the torch state dict of the same CNN: names, shapes and roles decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.pipeline.convert import ConvertOptions, convert

from .cnns import DISTINCT, EQUAL, keras_cnn, torch_cnn, truth_of
from .conftest import Map
from .scoring import score

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]


def stored(model: Any, path: Path) -> Path:
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        shapes = {name: [*each.shape] for name, each in model.state_dict().items()}
        path.write_text(json.dumps(shapes))
    return path


@pytest.mark.parametrize("target", ["t.safetensors", "t.json"])
@pytest.mark.parametrize("form", ["sequential", "features", "numbered"])
@pytest.mark.parametrize("channels", [DISTINCT, EQUAL], ids=["distinct", "equal"])
@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_a_cnn_computes_the_same(
    tmp_path: Path, map_to: Map, ending: str, channels: tuple[int, ...], form: str, target: str
) -> None:
    import keras
    import torch

    model = keras_cnn(keras, channels)
    model.save(tmp_path / f"m.{ending}")
    other = torch_cnn(torch, channels, form)
    path = stored(other, tmp_path / target)

    done = map_to(tmp_path / f"m.{ending}", path)

    found = score(f"CNN {ending} {channels} {form} {target}", done, truth_of(model, other))
    assert found.right == found.total == 20
    assert done.complete
    options = ConvertOptions(recipes=(done.text,), like=str(path), strict_like=True)
    convert(tmp_path / f"m.{ending}", tmp_path / "out.safetensors", options)
    check_outputs(model, other, tmp_path / "out.safetensors", channels[0])


def check_outputs(model: Any, other: Any, path: Path, channels: int) -> None:
    import torch
    from safetensors.torch import load_file

    result = other.load_state_dict(load_file(path), strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in result.missing_keys)
    inputs = np.random.default_rng(3).normal(size=(2, 9, 9, channels)).astype("f4")
    with torch.no_grad():
        got = other.eval()(torch.from_numpy(inputs.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.abs(got - np.asarray(model(inputs))).max() < 1e-5


def test_names_without_numbers_need_an_order(tmp_path: Path, map_to: Map) -> None:
    import keras
    import torch

    model = keras_cnn(keras, EQUAL)
    model.save(tmp_path / "m.keras")
    other = torch_cnn(torch, EQUAL, "words")
    truth = truth_of(model, other)
    ordered = map_to(tmp_path / "m.keras", stored(other, tmp_path / "t.json"))
    assert score("CNN by order", ordered, truth).right == len(truth)
    alphabetical = map_to(tmp_path / "m.keras", stored(other, tmp_path / "t.safetensors"))
    assert score("CNN in the order of the alphabet", alphabetical, truth).right < len(truth)
    assert not alphabetical.complete
    assert {each.target for each in alphabetical.proposal.open} >= {"conv_stem.weight"}


def test_rows_that_were_flattened_are_left_open(tmp_path: Path, map_to: Map) -> None:
    import keras
    import torch

    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(5)]
    )
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    other = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    )
    path = stored(other, tmp_path / "t.safetensors")
    for source in ("m.keras", "m.weights.h5"):
        done = map_to(tmp_path / source, path)
        [left] = done.proposal.open
        assert left.target == "2.weight"
        assert "permute = [3, 2, 0, 1]" in left.why
        assert not done.complete
