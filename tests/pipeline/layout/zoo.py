"""One small model for each kind of layer, as Keras builds it, and the module of the other side.

A row is built with the `layers` of Keras 3 or of tf_keras. What is loaded into the module of the
other side is what `convert --layout` makes of the saved model, by names alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ROWS", "Row", "model_of", "randomised"]

Array = np.ndarray[Any, Any]


class Row(NamedTuple):
    """A kind of layer.

    Attributes:
        name: of the row.
        build: given Keras and its `layers`, returns the layer, called `it`.
        shape: of the input, without the batch.
        module: given torch, returns the module that does the same.
        spatial: whether the input has channels, which PyTorch wants first.
        whole_numbers: whether the input is whole numbers.
        call: given module and input, calls it; None where that is simply a call.
    """

    name: str
    build: Callable[[Any], Any]
    shape: tuple[int, ...]
    module: Callable[[Any], Any]
    spatial: bool = False
    whole_numbers: bool = False
    call: Callable[[Any, Any], Any] | None = None

    def inputs(self) -> Array:
        """Return a batch of two."""
        rng = np.random.default_rng(7)
        if self.whole_numbers:
            return rng.integers(0, 5, (2, *self.shape))
        return rng.normal(size=(2, *self.shape)).astype(np.float32)


def _first(module: Any, x: Any) -> Any:
    return module(x)[0]


def _attention(module: Any, x: Any) -> Any:
    return module(x, x, x)[0]


ROWS = (
    Row("dense", lambda k: k.Dense(3, name="it"), (4,), lambda t: t.nn.Linear(4, 3)),
    Row("dense square", lambda k: k.Dense(4, name="it"), (4,), lambda t: t.nn.Linear(4, 4)),
    Row("conv1d", lambda k: k.Conv1D(5, 3, name="it"), (8, 4),
        lambda t: t.nn.Conv1d(4, 5, 3), spatial=True),
    Row("conv2d", lambda k: k.Conv2D(5, (3, 2), name="it"), (8, 7, 4),
        lambda t: t.nn.Conv2d(4, 5, (3, 2)), spatial=True),
    Row("conv2d groups", lambda k: k.Conv2D(6, 3, groups=2, name="it"), (8, 7, 4),
        lambda t: t.nn.Conv2d(4, 6, 3, groups=2), spatial=True),
    Row("conv3d", lambda k: k.Conv3D(5, 2, name="it"), (4, 5, 6, 3),
        lambda t: t.nn.Conv3d(3, 5, 2), spatial=True),
    Row("conv1d transpose", lambda k: k.Conv1DTranspose(5, 3, strides=2, name="it"), (8, 4),
        lambda t: t.nn.ConvTranspose1d(4, 5, 3, stride=2), spatial=True),
    Row("conv2d transpose", lambda k: k.Conv2DTranspose(5, 3, strides=2, name="it"), (6, 5, 4),
        lambda t: t.nn.ConvTranspose2d(4, 5, 3, stride=2), spatial=True),
    Row("depthwise 1d", lambda k: k.DepthwiseConv1D(3, depth_multiplier=2, name="it"), (8, 4),
        lambda t: t.nn.Conv1d(4, 8, 3, groups=4), spatial=True),
    Row("depthwise 2d", lambda k: k.DepthwiseConv2D(3, depth_multiplier=2, name="it"), (8, 7, 4),
        lambda t: t.nn.Conv2d(4, 8, 3, groups=4), spatial=True),
    Row("separable 2d", lambda k: k.SeparableConv2D(5, 3, depth_multiplier=2, name="it"), (8, 7, 4),
        lambda t: _separable(t), spatial=True),
    Row("batch norm", lambda k: k.BatchNormalization(name="it"), (5, 6, 4),
        lambda t: t.nn.BatchNorm2d(4, eps=1e-3), spatial=True),
    Row("batch norm without scale", lambda k: k.BatchNormalization(scale=False, name="it"),
        (5, 6, 4), lambda t: t.nn.BatchNorm2d(4, eps=1e-3), spatial=True),
    Row("layer norm", lambda k: k.LayerNormalization(name="it"), (5, 4),
        lambda t: t.nn.LayerNorm(4, eps=1e-3)),
    Row("group norm", lambda k: k.GroupNormalization(2, name="it"), (5, 6, 4),
        lambda t: t.nn.GroupNorm(2, 4, eps=1e-3), spatial=True),
    Row("rms norm", lambda k: k.RMSNormalization(name="it"), (5, 4),
        lambda t: t.nn.RMSNorm(4, eps=1e-6)),
    Row("embedding", lambda k: k.Embedding(5, 3, name="it"), (4,),
        lambda t: t.nn.Embedding(5, 3), whole_numbers=True),
    Row("prelu", lambda k: k.PReLU(shared_axes=[1, 2], name="it"), (5, 6, 4),
        lambda t: t.nn.PReLU(4), spatial=True),
    Row("lstm", lambda k: k.LSTM(3, return_sequences=True, name="it"), (6, 4),
        lambda t: t.nn.LSTM(4, 3, batch_first=True), call=_first),
    Row("gru", lambda k: k.GRU(3, return_sequences=True, name="it"), (6, 4),
        lambda t: t.nn.GRU(4, 3, batch_first=True), call=_first),
    Row("simple rnn", lambda k: k.SimpleRNN(3, return_sequences=True, name="it"), (6, 4),
        lambda t: t.nn.RNN(4, 3, batch_first=True), call=_first),
    Row("bidirectional lstm",
        lambda k: k.Bidirectional(k.LSTM(3, return_sequences=True), name="it"), (6, 4),
        lambda t: t.nn.LSTM(4, 3, batch_first=True, bidirectional=True), call=_first),
    Row("bidirectional gru",
        lambda k: k.Bidirectional(k.GRU(3, return_sequences=True), name="it"), (6, 4),
        lambda t: t.nn.GRU(4, 3, batch_first=True, bidirectional=True), call=_first),
    Row("attention", lambda k: k.MultiHeadAttention(2, 4, name="it"), (5, 8),
        lambda t: t.nn.MultiheadAttention(8, 2, batch_first=True), call=_attention),
    Row("einsum dense",
        lambda k: k.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de", name="it"),
        (5, 4), lambda t: t.nn.Sequential(t.nn.Linear(4, 6), t.nn.Unflatten(-1, (2, 3)))),
)  # fmt: skip


def _separable(torch: Any) -> Any:
    module = torch.nn.Sequential()
    module.add_module("depthwise", torch.nn.Conv2d(4, 8, 3, groups=4, bias=False))
    module.add_module("pointwise", torch.nn.Conv2d(8, 5, 1))
    return module


def randomised(model: Any) -> None:
    """Give all weights of a Keras model other values than those it begins with."""
    rng = np.random.default_rng(3)
    model.set_weights([rng.uniform(0.2, 0.9, each.shape) for each in model.get_weights()])


def model_of(keras: Any, row: Row) -> Any:
    """Return a model of one layer, built with Keras 3 or tf_keras."""
    layer = row.build(keras.layers)
    inputs = keras.Input(row.shape, dtype="int32" if row.whole_numbers else "float32")
    outputs = layer(inputs, inputs) if row.name == "attention" else layer(inputs)
    model = keras.Model(inputs, outputs)
    randomised(model)
    return model
