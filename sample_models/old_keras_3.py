"""Samples of Keras 3.0.5 with JAX; see `old_producers.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from old_producers import must_equal, row, truth

if TYPE_CHECKING:
    from old_producers import Rows


def _many() -> Any:
    """Return a functional model with a shared, a nested, a frozen and wrapped layers."""
    from keras import Model, Sequential, layers

    dense = layers.Dense(4, name="d_in")
    parts = [layers.Input((8, 3)), dense, layers.BatchNormalization(name="bn_in")]
    inner = Sequential(parts, name="inner")
    first, second = (layers.Input((8, 3), name=name) for name in ("first", "second"))
    x = layers.Concatenate(name="joined")([inner(first), inner(second)])
    x = layers.SeparableConv1D(5, 3, name="separable")(x)
    lstm = layers.LSTM(3, return_sequences=True, name="inner_lstm")
    x = layers.Bidirectional(lstm, name="both")(x)
    x = layers.TimeDistributed(layers.Dense(4, name="d"), name="each")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.RNN(layers.GRUCell(3), name="rnn")(x)
    x = layers.Dense(2, name="frozen")(x)
    return Model([first, second], x, name="many")


def _plain() -> Any:
    """Return layers with few variables: this Keras's `.h5` fails where two have one name."""
    from keras import Sequential, layers

    return Sequential([
        layers.Input((6, 6, 2)),
        layers.Conv2D(3, (3, 2), name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.Reshape((4, 15), name="rows"),
        layers.GRU(3, name="gru"),
        layers.Dense(2, name="frozen"),
    ], name="plain")  # fmt: skip


def _loaded(model: Any, file: str) -> dict[str, np.ndarray]:
    """Load a file into a model without values."""
    for each in model.weights:
        each.assign(np.zeros_like(each.value))
    model.load_weights(file)
    return {each.path: np.asarray(each.value) for each in model.weights}


def _fill(variables: list[Any], trained: list[Any]) -> Rows:
    """Give every variable its truth; return what it then holds."""
    ids = {id(each) for each in trained}
    rows = {}
    for each in variables:
        each.assign(truth(each.path, np.asarray(each.value)))
        rows[each.path] = row(np.asarray(each.value), trainable=id(each) in ids)
    return rows


def _fill_adam(model: Any) -> Rows:
    adam = model.optimizer
    adam.build(model.trainable_variables)
    rows = _fill(adam.variables, [])
    for slot, slots in (("m", adam._momentums), ("v", adam._velocities)):
        for owner, variable in zip(model.trainable_variables, slots, strict=True):
            rows[variable.path].update(slot=slot, owner=owner.path)
    return rows


def keras_3_0_5() -> dict[str, Any]:
    """Save `.weights.h5`, and with an optimizer `.keras` and `.h5`."""
    files = {}
    for name, model in (("many", _many()), ("plain", _plain())):
        model.get_layer("frozen").trainable = False  # as an argument it would not do
        rows = _fill(model.weights, model.trainable_variables)
        files[f"{name}.weights.h5"] = rows
        model.save_weights(f"{name}.weights.h5")
        must_equal(_loaded(model, f"{name}.weights.h5"), rows)
        model.compile("adam", "mse")
        file = f"{name}.keras" if name == "many" else f"{name}.h5"
        files[file] = {**rows, **_fill_adam(model)}
        model.save(file)
        must_equal(_loaded(model, file), rows)
    return {"files": files}
