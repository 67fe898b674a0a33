"""Small models as TensorFlow 1 code makes them: named variables, a forward pass, a Saver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Build = Callable[["Graph"], Any]


class Saved(NamedTuple):
    """A checkpoint and what its model computes.

    Attributes:
        prefix: of the checkpoint.
        outputs: arrays that the model gave.
        variables: values by name.
    """

    prefix: Path
    outputs: list[np.ndarray]
    variables: dict[str, np.ndarray]


class Graph:
    """Variables in scopes, and the few layers that these models are made of.

    Args:
        tensorflow: the module.
    """

    def __init__(self, tensorflow: Any) -> None:
        self.tf = tensorflow
        self._random = np.random.default_rng(7)

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Open a scope of variables; entered again, it is the same."""
        with self.tf.compat.v1.variable_scope(name, reuse=self.tf.compat.v1.AUTO_REUSE):
            yield

    def variable(self, name: str, *shape: int, gain: float = 1.0) -> Any:
        """Return a variable of random numbers; what scales, or is a variance, is positive."""
        values = self._random.standard_normal(shape, np.float32) * np.float32(_spread(name, shape))
        if name.rpartition("/")[2] in ("gamma", "g", "scale", "moving_variance"):
            values = np.abs(values) + np.float32(0.9)
        return self.tf.compat.v1.get_variable(name, initializer=values * np.float32(gain))

    def dense(self, x: Any, width: int, name: str = "dense") -> Any:
        """Return what `tf.layers.dense` gives."""
        with self.scope(name):
            kernel = self.variable("kernel", int(x.shape[-1]), width)
            return self.tf.matmul(x, kernel) + self.variable("bias", width)

    def norm(self, x: Any, name: str = "LayerNorm", epsilon: float = 1e-12) -> Any:
        """Return what `tf.contrib.layers.layer_norm` gives over the last axis."""
        width = int(x.shape[-1])
        with self.scope(name):
            beta, gamma = self.variable("beta", width), self.variable("gamma", width)
        return self.normal(x, epsilon) * gamma + beta

    def normal(self, x: Any, epsilon: float) -> Any:
        """Return the last axis with mean 0 and variance 1."""
        mean, variance = self.tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * self.tf.math.rsqrt(variance + epsilon)

    def heads(self, x: Any, count: int) -> Any:
        """Return (batch, length, width) as (batch, heads, length, width // heads)."""
        batch, length, width = x.shape
        split = self.tf.reshape(x, [batch, length, count, width // count])
        return self.tf.transpose(split, [0, 2, 1, 3])

    def attend(self, query: Any, key: Any, value: Any, bias: Any = 0.0, scale: float = 1.0) -> Any:
        """Return attention over heads, merged to (batch, length, width) again."""
        scores = self.tf.matmul(query, key, transpose_b=True) * scale + bias
        mixed = self.tf.matmul(self.tf.nn.softmax(scores), value)
        batch, count, length, size = mixed.shape
        return self.tf.reshape(
            self.tf.transpose(mixed, [0, 2, 1, 3]), [batch, length, count * size]
        )

    def conv(self, x: Any, width: int, size: int, name: str = "weights", stride: int = 1) -> Any:
        """Return a convolution without bias, its input padded as TensorFlow pads."""
        kernel = self.variable(name, size, size, int(x.shape[-1]), width)
        return self.tf.nn.conv2d(x, kernel, stride, "SAME")

    def depthwise(self, x: Any, size: int, name: str, stride: int = 1) -> Any:
        """Return a depthwise convolution without bias, padded likewise."""
        kernel = self.variable(name, size, size, int(x.shape[-1]), 1)
        return self.tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

    def batch_norm(
        self, x: Any, name: str = "BatchNorm", epsilon: float = 0.001, gain: float = 1.0
    ) -> Any:
        """Return what batch normalization gives at inference."""
        width = int(x.shape[-1])
        with self.scope(name):
            gamma, beta = self.variable("gamma", width, gain=gain), self.variable("beta", width)
            mean = self.variable("moving_mean", width)
            variance = self.variable("moving_variance", width)
        return self.tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)


def _spread(name: str, shape: Sequence[int]) -> float:
    """Return what keeps numbers of a usual size from layer to layer."""
    if len(shape) < 4:
        return 0.1
    inputs = 1 if "depthwise" in name else shape[2]
    return float((2 / (shape[0] * shape[1] * inputs)) ** 0.5)


def saved(
    tensorflow: Any,
    folder: Path,
    build: Build,
    *,
    slots: Sequence[str] = (),
    others: Sequence[str] = (),
    averages: bool = False,
) -> Saved:
    """Build a model, run it once and save it.

    Args:
        tensorflow: the module.
        folder: where the checkpoint goes.
        build: makes the model in a graph and returns its outputs.
        slots: suffixes of the slots that each variable gets; and then there is a `global_step`.
        others: further variables, of 3 numbers.
        averages: whether each variable gets an average, which is what the outputs are of.
    """
    tf = tensorflow
    prefix = folder / "model.ckpt-7"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        outputs = build(Graph(tf))
        model = tf.compat.v1.global_variables()
        for each in model:
            for suffix in slots:
                tf.compat.v1.get_variable(each.op.name + suffix, initializer=tf.ones_like(each))
        for name in others:
            tf.compat.v1.get_variable(name, initializer=np.arange(3, dtype=np.float32))
        if slots:
            tf.compat.v1.get_variable("global_step", initializer=np.int64(7))
        if averages:
            _keep_averages(tf, model)
        session.run(tf.compat.v1.global_variables_initializer())
        arrays = session.run(list(outputs))
        values = session.run({each.op.name: each for each in model})
        if averages:
            session.run([each.assign(tf.zeros_like(each)) for each in model])
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(prefix), write_meta_graph=False)
    return Saved(prefix, arrays, values)


def _keep_averages(tf: Any, model: Sequence[Any]) -> None:
    for each in model:
        tf.compat.v1.get_variable(
            f"{each.op.name}/ExponentialMovingAverage", initializer=each.initial_value
        )
