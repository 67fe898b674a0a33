"""Every kind of layer from Keras to MLX: both sides compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.pipeline.layout.apply import apply_layout

from .conftest import Saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

# The module that does the same, by row; `n` is mlx.nn.
MODULES: dict[str, Callable[[Any], Any]] = {
    "dense": lambda n: n.Linear(4, 3),
    "dense square": lambda n: n.Linear(4, 4),
    "conv1d": lambda n: n.Conv1d(4, 5, 3),
    "conv2d": lambda n: n.Conv2d(4, 5, (3, 2)),
    "conv2d groups": lambda n: n.Conv2d(4, 6, 3, groups=2),
    "conv3d": lambda n: n.Conv3d(3, 5, 2),
    "conv1d transpose": lambda n: n.ConvTranspose1d(4, 5, 3, stride=2),
    "conv2d transpose": lambda n: n.ConvTranspose2d(4, 5, 3, stride=2),
    "depthwise 1d": lambda n: n.Conv1d(4, 8, 3, groups=4),
    "depthwise 2d": lambda n: n.Conv2d(4, 8, 3, groups=4),
    "batch norm": lambda n: n.BatchNorm(4, eps=1e-3),
    "batch norm without scale": lambda n: n.BatchNorm(4, eps=1e-3),
    "layer norm": lambda n: n.LayerNorm(4, eps=1e-3),
    "group norm": lambda n: n.GroupNorm(2, 4, eps=1e-3, pytorch_compatible=True),
    "rms norm": lambda n: n.RMSNorm(4, eps=1e-6),
    "embedding": lambda n: n.Embedding(5, 3),
    "prelu": lambda n: n.PReLU(4),
    "lstm": lambda n: n.LSTM(4, 3),
    "gru": lambda n: n.GRU(4, 3),
    "simple rnn": lambda n: n.RNN(4, 3),
    "attention": lambda n: n.MultiHeadAttention(8, 2, bias=True),
    "einsum dense": lambda n: n.Linear(4, 6),
}


@pytest.mark.parametrize("name", MODULES)
def test_mlx(name: str, saved: Callable[[str], Saved]) -> None:
    nn = pytest.importorskip("mlx.nn")
    import mlx.core as mx

    model = saved(name)
    module = MODULES[name](nn)
    with open_tensors(model.path) as tensors:
        laid = apply_layout(tensors, "mlx")
        weights = [
            (each.removeprefix("it."), mx.array(np.array(laid[each].read()))) for each in laid
        ]
    module.load_weights(weights)  # strict: no name may be missing or too many, no shape differ
    module.eval()
    x = mx.array(model.inputs)
    y = module(x, x, x) if name == "attention" else module(x)
    y = y[0] if name == "lstm" else y
    got = np.array(y).reshape(model.expected.shape)
    np.testing.assert_allclose(got, model.expected, rtol=0, atol=1e-5)
