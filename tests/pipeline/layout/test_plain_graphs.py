"""Every kind of layer from plain TensorFlow, without Keras, to PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .modules import CELLS, PLAIN, values_of
from .results import Results
from .test_torch import torch_output
from .zoo import ROWS, Row

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

SAME = {"dense turned": "dense", "fused batch norm": "batch norm"}
BUILD = PLAIN | CELLS


def row_of(name: str) -> Row:
    [row] = [row for row in ROWS if row.name == SAME.get(name, name)]
    return row


def inputs_of(name: str) -> np.ndarray[Any, Any]:
    row = row_of(name)
    inputs = row.inputs()
    return inputs if row.whole_numbers else inputs.astype(np.float32)


@pytest.mark.parametrize("name", BUILD)
def test_module(tmp_path: Path, results: Results, name: str) -> None:
    import tensorflow as tf

    row, inputs = row_of(name), inputs_of(name)

    class Layer(tf.Module):
        def __init__(self) -> None:
            super().__init__(name="it")
            self.made: dict[str, Any] = {}

        def variable(self, leaf: str, shape: tuple[int, ...]) -> Any:
            if leaf not in self.made:
                self.made[leaf] = tf.Variable(values_of(leaf, shape), name=f"it/{leaf}")
                setattr(self, leaf, self.made[leaf])
            return self.made[leaf]

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.it = Layer()
            BUILD[name](tf, tf.constant(inputs), self.it.variable)

        @tf.function(input_signature=[tf.TensorSpec(inputs.shape, inputs.dtype)])
        def __call__(self, x: Any) -> Any:
            return BUILD[name](tf, x, self.it.variable)

    model = Model()
    tf.saved_model.save(model, str(tmp_path / "model"))
    expected = np.asarray(model(inputs))
    laid, got = torch_output(row, tmp_path / "model", inputs)
    results.compare(name, "module", laid, got, expected)


# Loops are nodes of the graph itself in the first version, functions in the second.
@pytest.mark.parametrize(
    ("name", "control_flow"), [*((name, 2) for name in BUILD), *((name, 1) for name in CELLS)]
)
def test_graph_of_tf1(tmp_path: Path, results: Results, name: str, control_flow: int) -> None:
    import tensorflow as tf

    row, inputs = row_of(name), inputs_of(name)
    toggle = tf.compat.v1.disable_control_flow_v2
    if control_flow == 2:
        toggle = tf.compat.v1.enable_control_flow_v2
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        toggle()
        try:
            x = tf.compat.v1.placeholder(inputs.dtype, inputs.shape)
            y = BUILD[name](tf, x, _get_variable)
        finally:
            tf.compat.v1.enable_control_flow_v2()
        session.run(tf.compat.v1.global_variables_initializer())
        expected = session.run(y, {x: inputs})
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    laid, got = torch_output(row, tmp_path / "model.ckpt", inputs)
    results.compare(name, "meta", laid, got, expected)


def _get_variable(leaf: str, shape: tuple[int, ...]) -> Any:
    import tensorflow as tf

    with tf.compat.v1.variable_scope("it", reuse=tf.compat.v1.AUTO_REUSE):
        return tf.compat.v1.get_variable(leaf, initializer=values_of(leaf, shape))
