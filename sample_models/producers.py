"""Make one sample model with TensorFlow, in the current folder: `python producers.py MODEL`.

`generate.py` runs this once per model: TF1 graphs, tf_keras and Keras 3 share global state (names,
graphs, devices) that would leak from one model into the next. A function marked `@_producer` makes
the model of its name.

How a model gets its values: a scratch bundle with the same keys and the values of `truth.expected`
is written first, and the model's own loader restores from it. Hence whatever the model saves, slots
and counters included, holds the truth; afterwards every tensor is read back and compared.

Prints how many tensors were compared.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from bundles import (
    LIST_OF,
    Entries,
    Slice,
    entries_of,
    restore_truth_like,
    save_v2,
    truth_tensor,
    verify,
    write_truth,
)
from truth import expected

v1 = tf.compat.v1

Producer = Callable[[], None]

_PRODUCERS: dict[str, Producer] = {}


def _producer(make: Producer) -> Producer:
    _PRODUCERS[make.__name__] = make
    return make


# ---- TF1 graphs and the v1 Saver ----------------------------------------------------------------


def _save_v1(graph: tf.Graph, saver: v1.train.Saver, steps: tuple[int, ...], cpus: int = 1) -> None:
    """Save the graph's variables as `model.ckpt-<step>`, each with its `.meta`."""
    config = v1.ConfigProto(device_count={"CPU": cpus})
    session = v1.Session(graph=graph, config=config)
    with tempfile.TemporaryDirectory() as scratch:
        write_truth(f"{scratch}/truth", _v1_entries(graph))
        with graph.as_default():  # outside of a graph the Saver looks for eager variables
            saver.restore(session, f"{scratch}/truth")
            for step in steps:
                saver.save(session, "./model.ckpt", global_step=step, write_meta_graph=False)
                _write_meta(saver, Path(f"model.ckpt-{step}.meta"))


def _v1_entries(graph: tf.Graph) -> Entries:
    entries: Entries = {}
    for variable in graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES):
        whole = variable.op.name, variable.shape
        part = variable._get_save_slice_info()
        key, shape = (part.full_name, part.full_shape) if part else whole
        entries[key] = (variable.dtype.base_dtype, tuple(shape))
    return entries


def _write_meta(saver: v1.train.Saver, path: Path) -> None:
    """Write the default graph's `.meta` without traces of this machine, maps in a fixed order."""
    meta = saver.export_meta_graph(
        clear_devices=True, clear_extraneous_savers=True, strip_default_attrs=True
    )
    path.write_bytes(meta.SerializeToString(deterministic=True))


def _v1_variable(name: str, *shape: int, trainable: bool = True) -> v1.Variable:
    # Zeros need no Const of the variable's size in the meta graph.
    return v1.get_variable(name, shape, initializer=v1.zeros_initializer(), trainable=trainable)


def _v1_dense(x: tf.Tensor, scope: str, units: int) -> tf.Tensor:
    with v1.variable_scope(scope):
        kernel = _v1_variable("kernel", x.shape[-1], units)
        bias = _v1_variable("bias", units)
    return tf.nn.bias_add(tf.matmul(x, kernel), bias, name=f"{scope}/BiasAdd")


def _v1_frozen_batch_norm(x: tf.Tensor) -> tf.Tensor:
    channels = x.shape[-1]
    with v1.variable_scope("batch_normalization"):
        gamma, beta = _v1_variable("gamma", channels), _v1_variable("beta", channels)
        mean = _v1_variable("moving_mean", channels, trainable=False)
        variance = _v1_variable("moving_variance", channels, trainable=False)
    image = tf.reshape(x, (-1, 1, 1, channels))
    normal, _, _ = v1.nn.fused_batch_norm(image, gamma, beta, mean, variance, is_training=False)
    return tf.reshape(normal, (-1, channels))


@_producer
def tf1_adam_ema() -> None:
    """Save two dense layers and a batch norm: ref variables, Adam, moving averages, step."""
    v1.disable_resource_variables()
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        hidden = _v1_frozen_batch_norm(tf.nn.relu(_v1_dense(x, "dense", 8)))
        logits = _v1_dense(hidden, "dense_1", 3)
        step = v1.train.create_global_step()
        loss = tf.reduce_mean(tf.square(logits))
        train = v1.train.AdamOptimizer(learning_rate=0.01).minimize(loss, global_step=step)
        with tf.control_dependencies([train]):
            averages = v1.train.ExponentialMovingAverage(decay=0.99, num_updates=step)
            averages.apply(v1.trainable_variables())
        saver = v1.train.Saver()
    _save_v1(graph, saver, steps=(7,))


def _v1_grid(name: str, shape: tuple[int, int], parts: tuple[int, int]) -> tf.Tensor:
    """Join a variable that is cut along both axes; TensorFlow's partitioners cut along one only."""
    height, width = (size // count for size, count in zip(shape, parts, strict=True))
    rows = []
    for i in range(parts[0]):
        row = []
        for j in range(parts[1]):
            part = _v1_variable(f"{name}/part_{i * parts[1] + j}", height, width)
            offset = [i * height, j * width]
            part._set_save_slice_info(
                v1.Variable.SaveSliceInfo(name, list(shape), offset, [height, width])
            )
            row.append(part)
        rows.append(tf.concat(row, axis=1))
    return tf.concat(rows, axis=0)


def _v1_split(name: str, *shape: int, parts: int, axis: int) -> tf.Tensor:
    partitioner = v1.fixed_size_partitioner(parts, axis=axis)
    with v1.variable_scope("", partitioner=partitioner):
        return tf.convert_to_tensor(_v1_variable(name, *shape))


@_producer
def tf1_partitioned() -> None:
    """Save resource variables cut along axis 0, axis 1 and both, with Adam slots."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, (None, 7), name="x")
        x = tf.matmul(x, _v1_split("rows/kernel", 7, 5, parts=3, axis=0))
        x = tf.matmul(x, _v1_split("columns/kernel", 5, 4, parts=2, axis=1))
        x = tf.matmul(x, _v1_grid("grid/kernel", (4, 6), (2, 3)))
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(x))
        saver = v1.train.Saver()
    _save_v1(graph, saver, steps=(7,))


@_producer
def tf1_multi_shard() -> None:
    """Save ref variables that live on three devices with a sharded Saver: three data shards."""
    v1.disable_resource_variables()
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        for index in range(3):
            with tf.device(f"/cpu:{index}"):
                x = _v1_dense(x, f"dense_{index}", 4 + index)
        saver = v1.train.Saver(sharded=True)
    _save_v1(graph, saver, steps=(7,), cpus=3)


@_producer
def tf1_v1() -> None:
    """Save ref variables, one of them cut into three, and their slots as a V1 checkpoint."""
    v1.disable_resource_variables()
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, (None, 4), name="x")
        x = tf.matmul(_v1_dense(x, "dense", 7), _v1_split("rows/kernel", 7, 5, parts=3, axis=0))
        step = v1.train.create_global_step()
        v1.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_sum(x), global_step=step)
        saver = v1.train.Saver(write_version=v1.train.SaverDef.V1)
    _save_v1(graph, saver, steps=(7,))


@_producer
def several_steps() -> None:
    """Save one model three times; the state file lists all three."""
    v1.disable_resource_variables()
    with tf.Graph().as_default() as graph:
        v1.train.create_global_step()
        _v1_dense(v1.placeholder(tf.float32, (None, 2), name="x"), "dense", 3)
        saver = v1.train.Saver(max_to_keep=3)
    _save_v1(graph, saver, steps=(10, 20, 30))


def _verify_v1(path: str) -> int:
    """Do what `verify` does for a V1 checkpoint, of which the reader refuses cut variables."""
    entries = entries_of(path)
    for key, (dtype, shape) in entries.items():
        (found,) = tf.raw_ops.RestoreV2(
            prefix=path, tensor_names=[key], shape_and_slices=[""], dtypes=[dtype]
        )
        truth = expected(key, dtype.name, shape)
        np.testing.assert_array_equal(found.numpy(), truth, err_msg=key, strict=True)
    return len(entries)


# ---- tf.train.Checkpoint ------------------------------------------------------------------------


class _Linear(tf.Module):
    """A dense layer whose variables have no names, so TensorFlow calls all of them `Variable`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.w = tf.Variable(tf.zeros((inputs, outputs)))
        self.b = tf.Variable(tf.zeros(outputs))


class _Nested(tf.Module):
    """Lists, dict keys that need escapes, an alias, a cycle, a table and a string variable."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [_Linear(2, 3) for _ in range(11)]  # `10` sorts before `2`
        self.by_name = {name: _Linear(3, 2) for name in ("plain", "a.b", "c/d", "./e..f")}
        self.first = self.blocks[0]
        self.itself = self
        self.words = tf.Variable([""] * 5)
        self.step = tf.Variable(tf.zeros((), tf.int64))
        self.half = tf.Variable(tf.zeros((2, 3), tf.bfloat16))
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(["x", "y", "z"], tf.zeros(3, tf.int64))

    def order_table(self) -> None:
        """Bring the table's export into the order of the truth: it lists the newest entry first."""
        keys, values = self.table.export()
        self.table.remove(keys)
        for index in _order_of_truth(keys.numpy()):
            self.table.insert(keys[index : index + 1], values[index : index + 1])


def _order_of_truth(keys: np.ndarray) -> list[int]:
    """Return indices of `keys`, which end in `:<k>`, with the highest k first."""
    return sorted(range(len(keys)), key=lambda index: -int(keys[index].rsplit(b":", 1)[1]))


@_producer
def tf_module_object() -> None:
    """Save a nested tf.Module with escapes, aliases, a hash table and ambiguous full names."""
    module = _Nested()
    checkpoint = tf.train.Checkpoint(module=module)
    restore_truth_like(checkpoint.write, checkpoint.read)
    module.order_table()
    checkpoint.save("ckpt")


@_producer
def max_shard_slices() -> None:
    """Save in shards of 1.5 kB at most, so that one variable of an object graph is sliced."""
    root = tf.Module()
    root.big = tf.Variable(tf.zeros((40, 24)))
    root.small = tf.Variable(tf.zeros(3))
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=1500)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    checkpoint = tf.train.Checkpoint(root=root)
    restore_truth_like(checkpoint.write, checkpoint.read)
    checkpoint.save("ckpt", options=options)


@_producer
def tf_keras_object() -> None:
    """Save a tf_keras Sequential with the legacy Adam and its slot variables."""
    import tf_keras

    model = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, activation="relu", name="d1", input_shape=(4,)),
            tf_keras.layers.BatchNormalization(name="bn"),
            tf_keras.layers.Dense(3, name="d2"),
        ]
    )
    optimizer = tf_keras.optimizers.legacy.Adam()
    model.compile(optimizer, "mse")
    # The first step makes the slots; there is no public call that only makes them.
    optimizer.apply_gradients((tf.zeros_like(v), v) for v in model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    restore_truth_like(checkpoint.write, checkpoint.read)
    checkpoint.save("ckpt")


@_producer
def tf_keras_weights() -> None:
    """Save a tf_keras functional model, compiled with the new Adam, through `save_weights`."""
    import tf_keras

    inputs = tf_keras.Input((8, 8, 1))
    x = tf_keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = tf_keras.layers.BatchNormalization(name="bn")(x)
    x = tf_keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = tf_keras.Model(inputs, tf_keras.layers.Dense(3, name="head")(x))
    model.compile(tf_keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    restore_truth_like(model.save_weights, model.load_weights)
    model.save_weights("weights")


@_producer
def keras3_object() -> None:
    """Save Keras 3, whose weights get the keys `optimizer/_trainable_variables/<i>`."""
    import keras

    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, activation="relu", name="d1")(inputs)
    x = keras.layers.BatchNormalization(name="bn")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="d2")(x), name="model")
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    restore_truth_like(checkpoint.write, checkpoint.read)
    checkpoint.save("ckpt")


# ---- Raw SaveV2 ---------------------------------------------------------------------------------

# Numbers of DataType in tensorflow/core/framework/types.proto.
_RESOURCE, _VARIANT, _LAST_DTYPE = 20, 21, 33
_ODD_NAMES = ("größe/重み", "a name: with spaces:0", "/leading/and//double", "new\nline", "_")


@_producer
def all_dtypes() -> None:
    """Save all dtypes that SaveV2 stores, zero-element and scalar tensors, odd names, a variant."""
    numbers = set(range(1, _LAST_DTYPE + 1)) - {_RESOURCE, _VARIANT}
    dtypes = [tf.as_dtype(number) for number in sorted(numbers)]
    entries: Entries = {f"dtype/{dtype.name}": (dtype, (2, 5)) for dtype in dtypes}
    for dtype in (tf.float32, tf.string):
        entries[f"scalar/{dtype.name}"] = (dtype, ())
        entries[f"empty/{dtype.name}"] = (dtype, (0, 3))
    entries |= dict.fromkeys(_ODD_NAMES, (tf.float32, (3,)))
    tensors = {key: truth_tensor(key, *entry) for key, entry in entries.items()}
    tensors["variant/tensor_list"] = _tensor_list("variant/tensor_list")
    save_v2("bundle", tensors, _whole_axis_slices("sliced/whole_axis"))


def _whole_axis_slices(key: str) -> list[Slice]:
    """Cut a tensor by an extent without length (`-`); the v1 Saver always writes the length."""
    whole = expected(key, "int64", (4, 3))
    return [(key, "4 3 0,1:-", whole[:1]), (key, "4 3 1,3:-", whole[1:])]


def _tensor_list(key: str) -> tf.Tensor:
    rows = expected(key, *LIST_OF)
    return tf.raw_ops.TensorListFromTensor(tensor=rows, element_shape=rows.shape[1:])


# ---- One model per run --------------------------------------------------------------------------


def main(name: str) -> None:
    """Make the model `name` in the current folder and check it."""
    _PRODUCERS[name]()
    counts = {verify(str(path.with_suffix(""))) for path in Path().glob("*.index")}
    counts |= {_verify_v1(str(path)) for path in Path().glob("model.ckpt-?") if path.is_file()}
    (tensors,) = counts  # the steps of one model hold the same keys
    print(tensors)


if __name__ == "__main__":
    main(sys.argv[1])
