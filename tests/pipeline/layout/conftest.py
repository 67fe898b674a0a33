"""The zoo, saved once by Keras 3 for all that read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from .results import Results
from .zoo import ROWS, Row, model_of


class Saved(NamedTuple):
    """A model of one row: where it is, what goes in, and what Keras computes."""

    row: Row
    path: Path
    inputs: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """Return what gives the saved model of a row, by the name of the row."""
    import keras

    folder = tmp_path_factory.mktemp("zoo")
    made: dict[str, Saved] = {}

    def one(name: str) -> Saved:
        if name not in made:
            [row] = [row for row in ROWS if row.name == name]
            model, inputs = model_of(keras, row), row.inputs()
            path = folder / f"{name.replace(' ', '_')}.keras"
            model.save(path)
            made[name] = Saved(row, path, inputs, np.asarray(model(inputs)))
        return made[name]

    return one


@pytest.fixture(scope="session")
def results() -> Results:
    """Return where the results of the zoo are noted."""
    return Results()
