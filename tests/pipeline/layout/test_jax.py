"""Every kind of layer from Keras to Flax: both sides compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.pipeline.layout.apply import apply_layout

from .conftest import Saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

# The module that does the same, by row; `n` is flax.linen.
MODULES: dict[str, Callable[[Any], Any]] = {
    "dense": lambda n: n.Dense(3),
    "dense square": lambda n: n.Dense(4),
    "conv1d": lambda n: n.Conv(5, (3,), padding="VALID"),
    "conv2d": lambda n: n.Conv(5, (3, 2), padding="VALID"),
    "conv2d groups": lambda n: n.Conv(6, (3, 3), padding="VALID", feature_group_count=2),
    "conv3d": lambda n: n.Conv(5, (2, 2, 2), padding="VALID"),
    "conv1d transpose": lambda n: n.ConvTranspose(5, (3,), strides=(2,), padding="VALID"),
    "conv2d transpose": lambda n: n.ConvTranspose(5, (3, 3), strides=(2, 2), padding="VALID"),
    "depthwise 1d": lambda n: n.Conv(8, (3,), padding="VALID", feature_group_count=4),
    "depthwise 2d": lambda n: n.Conv(8, (3, 3), padding="VALID", feature_group_count=4),
    "batch norm": lambda n: n.BatchNorm(use_running_average=True, epsilon=1e-3),
    "batch norm without scale": lambda n: n.BatchNorm(
        use_running_average=True, epsilon=1e-3, use_scale=False
    ),
    "layer norm": lambda n: n.LayerNorm(epsilon=1e-3),
    "group norm": lambda n: n.GroupNorm(2, epsilon=1e-3),
    "rms norm": lambda n: n.RMSNorm(epsilon=1e-6),
    "embedding": lambda n: n.Embed(5, 3),
    "lstm": lambda n: n.RNN(n.LSTMCell(3)),
    "gru": lambda n: n.RNN(n.GRUCell(3)),
    "simple rnn": lambda n: n.RNN(n.SimpleCell(3)),
    "attention": lambda n: n.MultiHeadDotProductAttention(2),
    "einsum dense": lambda n: n.DenseGeneral((2, 3)),
}


def variables_of(saved: Saved) -> dict[str, Any]:
    """Return what `--layout jax` makes of a model, nested as Flax takes it."""
    nested: dict[str, Any] = {}
    with open_tensors(saved.path) as tensors:
        laid = apply_layout(tensors, "jax")
        for name in laid:
            collection, it, *path, leaf = name.split("/")
            assert it == "it"
            inner = nested.setdefault(collection, {})
            for part in path:
                inner = inner.setdefault(part, {})
            inner[leaf] = np.array(laid[name].read())
    return nested


@pytest.mark.parametrize("name", MODULES)
def test_flax(name: str, saved: Callable[[str], Saved]) -> None:
    linen = pytest.importorskip("flax.linen")
    model = saved(name)
    module = MODULES[name](linen)
    variables = variables_of(model)
    made = module.init(__import__("jax").random.PRNGKey(0), model.inputs)
    assert _shapes(made) == _shapes(variables)
    got = np.asarray(module.apply(variables, model.inputs))
    np.testing.assert_allclose(got, model.expected, rtol=0, atol=1e-5)


def _shapes(nested: Any) -> Any:
    if hasattr(nested, "items"):
        return {key: _shapes(value) for key, value in nested.items()}
    return tuple(np.shape(nested))
