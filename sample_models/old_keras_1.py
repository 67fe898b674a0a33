"""Samples of Keras 0.3.3 and 1.2.2, both with Theano; see `old_producers.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from old_producers import must_equal, row, truth

if TYPE_CHECKING:
    from old_producers import Rows


def _variables(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, variable and whether it is trained, in the order of the file."""
    for layer in model.layers:
        trained = {id(each) for each in layer.trainable_weights}
        for variable in layer.weights:
            yield f"{layer.name}/{variable.name}", variable, id(variable) in trained


def _loaded(model: Any, file: str) -> dict[str, np.ndarray]:
    from keras import backend

    model.set_weights([0 * each for each in model.get_weights()])
    model.load_weights(file)
    return {name: backend.get_value(variable) for name, variable, _ in _variables(model)}


def _fill(model: Any) -> Rows:
    """Give every variable its truth; return what the model then holds."""
    from keras import backend

    rows = {}
    for name, variable, trainable in _variables(model):
        backend.set_value(variable, truth(name, backend.get_value(variable)))
        rows[name] = row(backend.get_value(variable), trainable=trainable)
    return rows


def _fill_adam(model: Any) -> Rows:
    """Make the slots of Adam, which have no names here; return what they hold in their order."""
    from keras import backend

    trained = [name for name, _, trainable in _variables(model) if trainable]
    loss = getattr(model, "model", model).total_loss  # a Sequential holds a Model
    model.optimizer.get_updates(model.trainable_weights, model.constraints, loss)
    rows: Rows = {}
    for index, variable in enumerate(model.optimizer.weights):
        name = f"param_{index}"
        backend.set_value(variable, truth(name, backend.get_value(variable)))
        slot, at = divmod(index - 1, len(trained))
        facts = {"slot": "mv"[slot], "owner": trained[at]} if index else {}
        rows[name] = row(backend.get_value(variable), trainable=False, **facts)
    return rows


# ---- Keras 1.2.2 --------------------------------------------------------------------------------


def _conv(order: str) -> Any:
    """Return kernels of which no two axes are equally long: no wrong order goes unseen."""
    from keras import layers
    from keras.models import Sequential

    shape = (2, 9, 9) if order == "th" else (9, 9, 2)
    output = (None, 7, 9, 9) if order == "th" else (None, 9, 9, 7)
    same = {"dim_ordering": order, "border_mode": "same"}
    return Sequential([
        layers.Convolution2D(5, 3, 1, input_shape=shape, name="conv", **same),
        layers.BatchNormalization(axis=1 if order == "th" else 3, name="bn"),
        layers.AtrousConvolution2D(4, 3, 1, atrous_rate=(2, 2), name="atrous", **same),
        layers.Deconvolution2D(7, 3, 1, output_shape=output, name="deconv", **same),
        layers.Convolution2D(6, 1, 2, bias=False, name="no_bias", **same),
        layers.MaxPooling2D((3, 3), dim_ordering=order, name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(3, name="out"),
    ])  # fmt: skip


def _volume(order: str) -> Any:
    from keras import layers
    from keras.models import Sequential

    shape = (2, 5, 5, 5) if order == "th" else (5, 5, 5, 2)
    conv = layers.Convolution3D(4, 3, 1, 2, input_shape=shape, dim_ordering=order, name="conv3d")
    return Sequential([conv])


def _sequence() -> Any:
    from keras import layers
    from keras.models import Sequential

    return Sequential([
        layers.Embedding(7, 6, input_length=8, name="embed"),
        layers.Convolution1D(5, 3, border_mode="same", name="conv1d"),
        layers.LSTM(4, return_sequences=True, name="lstm"),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="inner"), name="both"),
        layers.SimpleRNN(5, return_sequences=True, name="rnn"),
        layers.TimeDistributed(layers.Dense(6, name="d"), name="each"),
        layers.GRU(5, name="gru"),
        layers.Dense(2, name="out"),
    ])  # fmt: skip


def _nested() -> Any:
    from keras import layers
    from keras.models import Model, Sequential

    inner = Sequential(name="inner")
    inner.add(layers.Dense(4, input_shape=(3,), name="d_in"))
    inner.add(layers.BatchNormalization(name="bn_in"))
    first, second = (layers.Input((3,), name=name) for name in ("first", "second"))
    joined = layers.merge([inner(first), inner(second)], mode="concat", name="joined")
    return Model([first, second], layers.Dense(2, name="out")(joined))


def _gone() -> Any:
    """Return layers that Keras 2 does not have, or whose axes it has in another order."""
    from keras import layers
    from keras.models import Sequential

    shape, same = (2, 4, 5, 6), {"border_mode": "same"}
    each = {"return_sequences": True, **same}
    return Sequential([
        layers.ConvLSTM2D(4, 2, 1, input_shape=shape, dim_ordering="tf", name="conv_lstm", **each),
        layers.ConvLSTM2D(3, 2, 1, dim_ordering="th", name="conv_lstm_th", **same),
        layers.LocallyConnected2D(4, 2, 1, dim_ordering="th", name="local"),
        layers.MaxPooling2D((4, 4), dim_ordering="th", name="pool"),
        layers.Flatten(name="flatten"),
        layers.Highway(name="highway"),
        layers.MaxoutDense(4, nb_feature=2, name="maxout"),
        layers.PReLU(name="prelu"),
    ])  # fmt: skip


def keras_1_2_2() -> dict[str, Any]:
    """Save full models and weights alone, with kernels of both orders."""
    from keras import backend

    backend.set_image_dim_ordering("tf")
    full = {
        "conv_th": _conv("th"),
        "conv_tf": _conv("tf"),
        "sequence": _sequence(),
        "nested": _nested(),
        "gone": _gone(),
    }
    alone = {"volume_th": _volume("th"), "volume_tf": _volume("tf")}
    files = {}
    for name, model in {**full, **alone}.items():
        rows = files[f"{name}_weights.h5"] = _fill(model)
        model.save_weights(f"{name}_weights.h5")
        must_equal(_loaded(model, f"{name}_weights.h5"), rows)
        if name in alone:
            continue
        files[f"{name}.h5"] = rows
        if name not in ("sequence", "gone"):
            model.compile("adam", "mse")
            files[f"{name}.h5"] = {**rows, **_fill_adam(model)}
        model.save(f"{name}.h5")
        must_equal(_loaded(model, f"{name}.h5"), rows)
    return {"files": files}


# ---- Keras 0.3.3 --------------------------------------------------------------------------------


def keras_0_3_3() -> dict[str, Any]:
    """Save weights without any names."""
    from keras.layers.convolutional import Convolution2D
    from keras.layers.core import Dense, Flatten
    from keras.layers.recurrent import GRU
    from keras.models import Sequential

    conv = Sequential()
    conv.add(Convolution2D(3, 2, 1, input_shape=(2, 4, 4), dim_ordering="th"))
    conv.add(Flatten())
    conv.add(Dense(2))
    gru = Sequential()
    gru.add(GRU(3, input_shape=(4, 2)))
    files: dict[str, Rows] = {}
    for file, model in (("conv_weights.h5", conv), ("gru_weights.h5", gru)):
        rows = files[file] = {}
        for k, layer in enumerate(model.layers):
            named = {f"layer_{k}/param_{n}": each for n, each in enumerate(layer.get_weights())}
            layer.set_weights([truth(name, each) for name, each in named.items()])
            held = layer.get_weights()
            rows.update((name, row(held[n], trainable=True)) for n, name in enumerate(named))
        model.save_weights(file)
    return {"files": files}
