"""The zoo without Keras: variables of a `tf.Module`, and of a TF1 graph, read by plain operations.

Each row is a function of the input that asks for its variables by name and shape, so that the same
row makes a SavedModel of a module and a checkpoint with its meta graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["CELLS", "PLAIN", "values_of"]

# Gives a variable, or what stands for it, by its leaf and shape.
Variable = Callable[[str, tuple[int, ...]], Any]


def values_of(leaf: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return the values of a variable; positive, so that a variance may have them."""
    rng = np.random.default_rng(sum(map(ord, leaf)))
    return rng.uniform(0.2, 0.9, shape).astype(np.float32)


def _dense(tf: Any, x: Any, var: Variable) -> Any:
    return tf.matmul(x, var("w", (4, 3))) + var("b", (3,))


def _dense_turned(tf: Any, x: Any, var: Variable) -> Any:
    return tf.matmul(x, var("w", (3, 4)), transpose_b=True) + var("b", (3,))


def _dense_square(tf: Any, x: Any, var: Variable) -> Any:
    return tf.nn.bias_add(tf.matmul(x, var("w", (4, 4)), transpose_b=True), var("b", (4,)))


def _conv1d(tf: Any, x: Any, var: Variable) -> Any:
    return tf.nn.conv1d(x, var("filters", (3, 4, 5)), 1, "VALID") + var("b", (5,))


def _conv2d(tf: Any, x: Any, var: Variable) -> Any:
    return tf.nn.bias_add(tf.nn.conv2d(x, var("filters", (3, 2, 4, 5)), 1, "VALID"), var("b", (5,)))


def _conv3d(tf: Any, x: Any, var: Variable) -> Any:
    y = tf.nn.conv3d(x, var("filters", (2, 2, 2, 3, 5)), [1] * 5, "VALID")
    return tf.nn.bias_add(y, var("b", (5,)))


def _conv2d_transpose(tf: Any, x: Any, var: Variable) -> Any:
    y = tf.nn.conv2d_transpose(x, var("filters", (3, 3, 5, 4)), (2, 13, 11, 5), 2, "VALID")
    return tf.nn.bias_add(y, var("b", (5,)))


def _depthwise(tf: Any, x: Any, var: Variable) -> Any:
    y = tf.nn.depthwise_conv2d(x, var("filters", (3, 3, 4, 2)), [1] * 4, "VALID")
    return tf.nn.bias_add(y, var("b", (8,)))


def _batch_norm(tf: Any, x: Any, var: Variable) -> Any:
    parts = [var(leaf, (4,)) for leaf in ("mean", "variance", "offset", "scale")]
    return tf.nn.batch_normalization(x, *parts, 1e-3)


def _fused_batch_norm(tf: Any, x: Any, var: Variable) -> Any:
    scale, offset, mean, variance = (
        var(leaf, (4,)) for leaf in ("scale", "offset", "mean", "variance")
    )
    return tf.compat.v1.nn.fused_batch_norm(
        x, scale, offset, mean, variance, epsilon=1e-3, is_training=False
    )[0]


def _layer_norm(tf: Any, x: Any, var: Variable) -> Any:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    normal = (x - mean) * tf.math.rsqrt(variance + 1e-3)
    return normal * var("g", (4,)) + var("b", (4,))


def _rms_norm(tf: Any, x: Any, var: Variable) -> Any:
    power = tf.reduce_mean(tf.square(x), -1, keepdims=True)
    return x * tf.math.rsqrt(power + 1e-6) * var("g", (4,))


def _embedding(tf: Any, x: Any, var: Variable) -> Any:
    return tf.nn.embedding_lookup(var("table", (5, 3)), x)


def _prelu(tf: Any, x: Any, var: Variable) -> Any:
    return tf.nn.relu(x) - var("slope", (4,)) * tf.nn.relu(-x)


# What computes a row of the zoo, by the name of the row.
PLAIN: dict[str, Callable[[Any, Any, Variable], Any]] = {
    "dense": _dense,
    "dense square": _dense_square,
    "dense turned": _dense_turned,
    "conv1d": _conv1d,
    "conv2d": _conv2d,
    "conv3d": _conv3d,
    "conv2d transpose": _conv2d_transpose,
    "depthwise 2d": _depthwise,
    "batch norm": _batch_norm,
    "fused batch norm": _fused_batch_norm,
    "layer norm": _layer_norm,
    "rms norm": _rms_norm,
    "embedding": _embedding,
    "prelu": _prelu,
}


def _lstm_step(tf: Any, x: Any, c: Any, h: Any, kernel: Any, bias: Any) -> tuple[Any, Any]:
    """One step of TF1's BasicLSTMCell, as rnn_cell_impl.py of TensorFlow 1.15 computes it."""
    gates = tf.nn.bias_add(tf.matmul(tf.concat([x, h], 1), kernel), bias)
    i, j, f, o = tf.split(gates, 4, axis=1)
    c = c * tf.sigmoid(f + tf.constant(1.0)) + tf.sigmoid(i) * tf.tanh(j)
    return c, tf.tanh(c) * tf.sigmoid(o)


def _basic_lstm(tf: Any, x: Any, var: Variable) -> Any:
    kernel, bias = var("kernel", (7, 12)), var("bias", (12,))
    steps = tf.TensorArray(tf.float32, 6)
    state = tf.zeros((2, 3)), tf.zeros((2, 3))

    def body(at: Any, c: Any, h: Any, out: Any) -> Any:
        c, h = _lstm_step(tf, x[:, at], c, h, kernel, bias)
        return at + 1, c, h, out.write(at, h)

    _, _, _, out = tf.while_loop(lambda at, *_: at < 6, body, (0, *state, steps), name="while")
    return tf.transpose(out.stack(), (1, 0, 2))


def _basic_rnn(tf: Any, x: Any, var: Variable) -> Any:
    kernel, bias = var("kernel", (7, 3)), var("bias", (3,))
    steps = tf.TensorArray(tf.float32, 6)

    def body(at: Any, h: Any, out: Any) -> Any:
        joined = tf.concat([x[:, at], h], 1)
        h = tf.tanh(tf.nn.bias_add(tf.matmul(joined, kernel), bias))
        return at + 1, h, out.write(at, h)

    _, _, out = tf.while_loop(
        lambda at, *_: at < 6, body, (0, tf.zeros((2, 3)), steps), name="while"
    )
    return tf.transpose(out.stack(), (1, 0, 2))


CELLS: dict[str, Callable[[Any, Any, Variable], Any]] = {
    "lstm": _basic_lstm,
    "simple rnn": _basic_rnn,
}
