"""Samples of Keras 2.3.1 (Theano, TensorFlow 1.15) and Keras 2.13; see `old_producers.py`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from old_producers import must_equal, plain, row, truth

if TYPE_CHECKING:
    from old_producers import Rows


def _variables(model: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield name, variable and whether it is trained, in the order of the file."""
    trained = {id(each) for each in model.trainable_weights}
    for layer in model.layers:
        for variable in layer.weights:
            name = plain(variable.name)
            prefix = "" if name.startswith(f"{layer.name}/") else f"{layer.name}/"
            yield prefix + name, variable, id(variable) in trained


def _rows(model: Any) -> Rows:
    from keras import backend

    return {
        name: row(backend.get_value(variable), trainable=trainable)
        for name, variable, trainable in _variables(model)
    }


def _fill(model: Any) -> Rows:
    """Give every variable its truth; return what the model then holds."""
    from keras import backend

    for name, variable, _ in _variables(model):
        backend.set_value(variable, truth(name, backend.get_value(variable)))
    return _rows(model)


def _loaded(model: Any, file: str) -> dict[str, np.ndarray]:
    """Load a file into a model without values."""
    from keras import backend

    model.set_weights([0 * each for each in model.get_weights()])
    model.load_weights(file)
    return {name: backend.get_value(variable) for name, variable, _ in _variables(model)}


def _fill_slots(variables: list[Any], owners: dict[int, tuple[str, str]]) -> Rows:
    """Give the variables of an optimizer their truth; `owners` has slot and owner by id."""
    from keras import backend

    rows: Rows = {}
    for index, variable in enumerate(variables):
        name = plain(variable.name or f"param_{index}")
        backend.set_value(variable, truth(name, np.asarray(backend.get_value(variable))))
        slot, owner = owners.get(id(variable), ("", ""))
        facts = {"slot": slot, "owner": owner} if slot else {}
        rows[name] = row(np.asarray(backend.get_value(variable)), trainable=False, **facts)
    return rows


# ---- Keras 2.3.1 --------------------------------------------------------------------------------


def _conv(order: str) -> Any:
    """Return the counterpart of what Keras 1 saves in `old_keras_1.py`."""
    from keras import layers
    from keras.models import Sequential

    first = order == "th"
    same = {"data_format": "channels_first" if first else "channels_last", "padding": "same"}
    shape = (2, 9, 9) if first else (9, 9, 2)
    return Sequential([
        layers.Conv2D(5, (3, 1), input_shape=shape, name="conv", **same),
        layers.BatchNormalization(axis=1 if first else 3, name="bn"),
        layers.Conv2D(4, (3, 1), dilation_rate=(2, 2), name="atrous", **same),
        layers.Conv2DTranspose(7, (3, 1), name="deconv", **same),
        layers.Conv2D(6, (1, 2), use_bias=False, name="no_bias", **same),
        layers.MaxPooling2D((3, 3), data_format=same["data_format"], name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(3, name="out", trainable=False),
    ])  # fmt: skip


def _volume(order: str) -> Any:
    from keras import layers
    from keras.models import Sequential

    shape = (2, 5, 5, 5) if order == "th" else (5, 5, 5, 2)
    axes = "channels_first" if order == "th" else "channels_last"
    return Sequential([
        layers.Conv3D(4, (3, 1, 2), input_shape=shape, data_format=axes, name="conv3d"),
    ])  # fmt: skip


def _sequence() -> Any:
    from keras import layers
    from keras.models import Sequential

    return Sequential([
        layers.Embedding(7, 6, input_length=8, name="embed"),
        layers.Conv1D(5, 3, padding="same", name="conv1d"),
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

    dense = layers.Dense(4, input_shape=(3,), name="d_in")
    inner = Sequential([dense, layers.BatchNormalization(name="bn_in")], name="inner")
    first, second = (layers.Input((3,), name=name) for name in ("first", "second"))
    joined = layers.concatenate([inner(first), inner(second)], name="joined")
    return Model([first, second], layers.Dense(2, name="out")(joined))


def _conv_lstm() -> Any:
    """Return the part of `_gone` in `old_keras_1.py` that this Keras can load."""
    from keras import layers
    from keras.models import Sequential

    shape = (2, 4, 5, 6)
    return Sequential([layers.ConvLSTM2D(4, (2, 1), input_shape=shape, name="conv_lstm")])


def _fill_adam(model: Any) -> Rows:
    from keras import backend

    trained = [name for name, _, trainable in _variables(model) if trainable]
    if backend.backend() == "theano":  # which would compile, and cannot
        with backend.name_scope("training"), backend.name_scope("Adam"):
            model.optimizer.get_updates(model.total_loss, model._collected_trainable_weights)
    else:
        model._make_train_function()
    variables = model.optimizer.weights
    slots = [(slot, name) for slot in ("m", "v") for name in trained]
    owners = {id(variables[1 + at]): slots[at] for at in range(len(slots))}
    return _fill_slots(variables, owners)


def _save(models: dict[str, Callable[[], Any]], alone: tuple[str, ...]) -> dict[str, Rows]:
    from keras import backend

    files = {}
    for name, build in models.items():
        if backend.backend() == "tensorflow":
            backend.clear_session()  # else names would be made unique with a number
        model = build()
        rows = files[f"{name}_weights.h5"] = _fill(model)
        model.save_weights(f"{name}_weights.h5")
        must_equal(_loaded(model, f"{name}_weights.h5"), rows)
        if name in alone:
            continue
        model.compile("adam", "mse")
        files[f"{name}.h5"] = {**rows, **_fill_adam(model)}
        model.save(f"{name}.h5")
        must_equal(_loaded(model, f"{name}.h5"), rows)
    return files


def keras_2_3_1_theano() -> dict[str, Any]:
    """Save mirrored kernels, and the name of the backend that has them so."""
    models = {
        "conv_th": partial(_conv, "th"),
        "volume": partial(_volume, "tf"),
        "sequence": _sequence,
    }
    return {"files": _save(models, alone=("volume",))}


def keras_2_3_1() -> dict[str, Any]:
    """Save with TensorFlow 1.15; tell how this Keras converts files of Keras 1 and of Theano."""
    models = {"conv_th": partial(_conv, "th"), "sequence": _sequence, "nested": _nested}
    files = _save(models, alone=("conv_th",))
    old = {
        "conv_th.h5": partial(_conv, "th"),
        "conv_tf.h5": partial(_conv, "tf"),
        "volume_th_weights.h5": partial(_volume, "th"),
        "volume_tf_weights.h5": partial(_volume, "tf"),
        "sequence.h5": _sequence,
        "nested.h5": _nested,
        "gone.h5": _conv_lstm,
    }
    mirrored = {
        "conv_th.h5": partial(_conv, "th"),
        "volume_weights.h5": partial(_volume, "tf"),
        "sequence.h5": _sequence,
    }
    tasks = [(f"keras_1_2_2/{file}", each, "modern") for file, each in old.items()]
    tasks += [(f"keras_1_2_2/{file}", each, "modern unflip") for file, each in old.items()]
    tasks += [(f"keras_2_3_1_theano/{file}", each, "unflip") for file, each in mirrored.items()]
    loaded: dict[str, dict[str, Rows]] = {}
    for file, build, options in tasks:
        loaded.setdefault(file, {})[options] = _converted(build, file, options)
    return {"files": files, "loaded": loaded}


def _converted(build: Callable[[], Any], file: str, options: str) -> Rows:
    """Return what a model holds after it loaded a file, whose folder lies beside this one."""
    import h5py
    from keras import backend

    backend.clear_session()
    model = build()
    with tempfile.TemporaryDirectory() as folder:
        copy = str(Path(folder) / "copy.h5")
        shutil.copy(str(Path("..") / file), copy)
        if options == "modern unflip":  # Keras 1 did not say, so that Keras 2 must be told
            with h5py.File(copy, "a") as opened:
                opened.get("model_weights", opened).attrs["backend"] = b"theano"
        model.set_weights([0 * each for each in model.get_weights()])
        model.load_weights(copy, by_name=True)
    return _rows(model)


# ---- Keras 2.13 ---------------------------------------------------------------------------------


def _many() -> Any:
    """Return a functional model with a shared, a nested, a frozen and wrapped layers."""
    from keras import Model, Sequential, layers

    dense = layers.Dense(4, name="d_in")
    inner = Sequential(
        [layers.Input((3,)), dense, layers.BatchNormalization(name="bn_in")], name="inner"
    )
    first, second = (layers.Input((8, 3), name=name) for name in ("first", "second"))
    each = layers.TimeDistributed(inner, name="each")
    x = layers.concatenate([each(first), each(second)], name="joined")
    x = layers.SeparableConv1D(5, 3, name="separable")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="inner_lstm"), name="both")(
        x
    )
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)], name="stack")(x)
    return Model([first, second], layers.Dense(2, trainable=False, name="frozen")(x), name="many")


def keras_2_13() -> dict[str, Any]:
    """Save every layout this Keras has; an optimizer in `.h5` and `.keras`."""
    from keras.models import load_model

    model = _many()
    rows = _fill(model)
    for file in ("many_weights.h5", "many.weights.h5"):
        model.save_weights(file)
        must_equal(_loaded(model, file), rows)
    model.compile("adam", "mse")
    adam = model.optimizer
    variables = model.trainable_variables
    adam.apply_gradients([(0 * each, each) for each in variables])
    names = {id(variable): name for name, variable, _ in _variables(model)}
    owners = {}
    for slot, slots in (("m", adam._momentums), ("v", adam._velocities)):
        for owner, variable in zip(variables, slots, strict=True):
            owners[id(variable)] = (slot, names[id(owner)])
    whole = {**rows, **_fill_slots(adam.variables, owners)}
    for file in ("many.h5", "many.keras"):
        model.save(file)
        loaded = load_model(file)
        must_equal({name: each.numpy() for name, each, _ in _variables(loaded)}, rows)
    alone = dict.fromkeys(("many_weights.h5", "many.weights.h5"), rows)
    return {"files": {**alone, **dict.fromkeys(("many.h5", "many.keras"), whole)}}
