"""Every kind of layer from Keras to PyTorch: both sides compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.pipeline.layout.apply import apply_layout
from tensorferry.pipeline.recipe.applied import Applied

from .results import Results
from .zoo import ROWS, Row, model_of

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def torch_output(
    row: Row, path: Path, inputs: np.ndarray[Any, Any]
) -> tuple[Applied, np.ndarray[Any, Any]]:
    """Return a model laid out for PyTorch, and what PyTorch computes with it."""
    torch = pytest.importorskip("torch")
    with open_tensors(path) as tensors:
        laid = apply_layout(tensors, "torch")
        state = {
            name: torch.from_numpy(np.array(laid[name].read()))
            for name in laid
            if not name.startswith("seed_generator")
        }
    module = row.module(torch)
    prefix = "0." if row.name == "einsum dense" else ""
    module.load_state_dict(
        {f"{prefix}{name.removeprefix('it.')}": each for name, each in state.items()}
    )
    module.eval()
    x = torch.from_numpy(inputs)
    if row.spatial:
        x = x.movedim(-1, 1)
    with torch.no_grad():
        y = row.call(module, x) if row.call else module(x)
    return laid, np.asarray(y.movedim(1, -1) if row.spatial else y)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_keras_3(tmp_path: Path, results: Results, row: Row, ending: str) -> None:
    import keras

    model = model_of(keras, row)
    path = tmp_path / f"model.{ending}"
    model.save(path)
    inputs = row.inputs()
    expected = np.asarray(model(inputs))
    results.compare(row.name, ending, *torch_output(row, path, inputs), expected)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name != "rms norm"], ids=lambda row: row.name
)
def test_tf_keras(tmp_path: Path, results: Results, row: Row) -> None:
    import tf_keras

    model = model_of(tf_keras, row)
    path = tmp_path / "model.h5"
    model.save(path)
    inputs = row.inputs()
    expected = np.asarray(model(inputs))
    results.compare(row.name, "tf_keras h5", *torch_output(row, path, inputs), expected)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_saved_model_of_keras_3(tmp_path: Path, results: Results, row: Row) -> None:
    import keras

    model = model_of(keras, row)
    model.export(tmp_path / "model", verbose=False)
    inputs = row.inputs()
    expected = np.asarray(model(inputs))
    results.compare(row.name, "export", *torch_output(row, tmp_path / "model", inputs), expected)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name != "rms norm"], ids=lambda row: row.name
)
def test_saved_model_of_tf_keras(tmp_path: Path, results: Results, row: Row) -> None:
    import tf_keras

    model = model_of(tf_keras, row)
    model.save(tmp_path / "model")
    inputs = row.inputs()
    expected = np.asarray(model(inputs))
    results.compare(
        row.name, "tf_keras saved", *torch_output(row, tmp_path / "model", inputs), expected
    )
