"""Whether a model was trained, on models that Keras itself makes and trains."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.pipeline.stats import stats_all
from tensorferry.pipeline.value_flags import value_flags

pytestmark = pytest.mark.oracle


def network(keras: Any, *, recurrent: bool, normalised: bool) -> Any:
    layers = keras.layers
    body = [layers.LSTM(5) if recurrent else layers.Flatten(), layers.Dense(6, activation="tanh")]
    body += [layers.BatchNormalization()] if normalised else []
    model = keras.Sequential([keras.Input((3, 4)), *body, layers.Dense(2)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def rules(path: Path) -> set[str]:
    with open_tensors(path) as tensors:
        found = value_flags(tensors, stats_all(tensors, 1, brief=True), 1)
    return {finding.rule for finding in found if finding.tensor is None}


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_one_step_of_training_tells(
    tensorflow: Any, tmp_path: Path, name: str, recurrent: bool, normalised: bool
) -> None:
    keras = tensorflow.keras
    model = network(keras, recurrent=recurrent, normalised=normalised)
    rng = np.random.default_rng(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is old, says Keras
        model.save(tmp_path / f"fresh-{name}")
        model.fit(rng.normal(size=(8, 3, 4)), rng.normal(size=(8, 2)), verbose=0)
        model.save(tmp_path / f"trained-{name}")
    assert rules(tmp_path / f"fresh-{name}") == {"value/never-trained"}
    assert rules(tmp_path / f"trained-{name}") == set()
