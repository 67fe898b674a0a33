"""Make one sample of a format other than checkpoints, in the current folder.

`python file_producers.py SAMPLE`; `generate.py` runs it. A function marked `@_producer` makes the
sample of its name and returns how many tensors it compared with the truth, which is printed.

All hold one small network, as far as their format can: two dense layers, `d1` and `d2`, most with
a batch normalisation `bn` between them. How it gets its values: a draft is written, every tensor in
it is replaced by the truth of the name it has there, and the library loads that before it saves.
Where nothing loads such a file, the draft tells which variable has which name in it.

`tensorflowjs` does not install beside the other packages, so models of TensorFlow.js are written
here, as its converter lays them out.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import tensorflow as tf
from bundles import restore_truth_like, verify
from truth import expected

Arrays = dict[str, np.ndarray]
Producer = Callable[[], int]

_PRODUCERS: dict[str, Producer] = {}

# The network, by the names that people call its variables; keras3_object holds it too.
_SHAPES = {
    "d1/kernel": (4, 8),
    "d1/bias": (8,),
    "bn/gamma": (8,),
    "bn/beta": (8,),
    "bn/moving_mean": (8,),
    "bn/moving_variance": (8,),
    "d2/kernel": (8, 3),
    "d2/bias": (3,),
}


def _producer(make: Producer) -> Producer:
    _PRODUCERS[make.__name__] = make
    return make


def _model(library: object) -> object:
    """Build the network with Keras 3 or tf_keras."""
    inputs = library.Input((4,), name="x")
    x = library.layers.Dense(8, activation="relu", name="d1")(inputs)
    x = library.layers.BatchNormalization(name="bn")(x)
    return library.Model(inputs, library.layers.Dense(3, name="d2")(x), name="model")


def _compiled(library: object) -> object:
    """Build the network with an optimizer that has its slots."""
    model = _model(library)
    model.compile(library.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def _compare(found: Mapping[str, np.ndarray]) -> int:
    """Compare tensors with the truth of their names, and count them."""
    for name, array in found.items():
        truth = expected(name, array.dtype.name, array.shape)
        np.testing.assert_array_equal(array, truth, err_msg=name, strict=True)
    return len(found)


def _network() -> Arrays:
    return {name: expected(name, "float32", shape) for name, shape in _SHAPES.items()}


# ---- Keras --------------------------------------------------------------------------------------


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found


def _read_h5(file: str | BytesIO) -> Arrays:
    with h5py.File(file) as opened:
        return {name: each[()] for name, each in _datasets(opened).items()}


def _restore_h5(ending: str, save: Callable[[str], None], load: Callable[[str], object]) -> object:
    """Give a model the truth by way of an HDF5 file; return what loading that gives."""
    with tempfile.TemporaryDirectory() as scratch:
        draft = f"{scratch}/draft{ending}"
        save(draft)
        with h5py.File(draft, "r+") as file:
            for name, dataset in _datasets(file).items():
                dataset[...] = expected(name, dataset.dtype.name, dataset.shape)
        return load(draft)


def _settle_archive(path: Path) -> None:
    """Make an archive the same in each run: no dates, and small numbers for shared objects."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(members["metadata.json"]) | {"date_saved": "2020-01-01@00:00:00"}
    members["metadata.json"] = json.dumps(metadata).encode()
    config = members["config.json"]
    numbers = dict.fromkeys(re.findall(rb'"shared_object_id": (\d+)', config))
    for small, number in enumerate(numbers):
        config = config.replace(b": %b}" % number, b": %d}" % small)
    members["config.json"] = config
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


@_producer
def keras_archive() -> int:
    """Save a compiled model of Keras 3 as `.keras`."""
    import keras

    model = _compiled(keras)
    _restore_h5(".weights.h5", model.save_weights, model.load_weights)
    model.save("model.keras")
    _settle_archive(Path("model.keras"))
    with zipfile.ZipFile("model.keras") as archive:
        return _compare(_read_h5(BytesIO(archive.read("model.weights.h5"))))


@_producer
def keras_weights() -> int:
    """Save the weights of a model of Keras 3 alone."""
    import keras

    model = _model(keras)
    _restore_h5(".weights.h5", model.save_weights, model.load_weights)
    model.save_weights("model.weights.h5")
    return _compare(_read_h5("model.weights.h5"))


@_producer
def keras_shards() -> int:
    """Save them in shards of 150 bytes at most; the first layer lies in two of them."""
    import keras

    model = _model(keras)
    _restore_h5(".weights.h5", model.save_weights, model.load_weights)
    model.save_weights("model.weights.json", max_shard_size=150 / 1024**3)
    shards = sorted(Path().glob("*.h5"))
    return sum(_compare(_read_h5(str(shard))) for shard in shards)


@_producer
def tf_keras_h5() -> int:
    """Save a compiled model of tf_keras as a full `.h5`."""
    import tf_keras

    model = _restore_h5(".h5", _compiled(tf_keras).save, tf_keras.models.load_model)
    model.save("model.h5")
    return _compare(_read_h5("model.h5"))


# ---- SavedModel ---------------------------------------------------------------------------------


class _Tokens(tf.Module):
    """A layer, a step, texts, an alias, and a table that is filled from an asset."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.zeros((4, 3)), name="kernel")
        self.bias = tf.Variable(tf.zeros(3), name="bias")
        self.step = tf.Variable(tf.zeros((), tf.int64), trainable=False, name="step")
        self.words = tf.Variable([""] * 3, trainable=False, name="words")
        self.alias = self.kernel
        whole, line = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        initializer = tf.lookup.TextFileInitializer(vocabulary, tf.string, whole, tf.int64, line)
        self.table = tf.lookup.StaticHashTable(initializer, -1)

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, 4), tf.float32, "x"),
            tf.TensorSpec((None,), tf.string, "tokens"),
        ]
    )
    def serve(self, x: tf.Tensor, tokens: tf.Tensor) -> dict[str, tf.Tensor]:
        """Compute something with everything."""
        return {"y": x @ self.kernel + self.bias, "ids": self.table.lookup(tokens)}


def _settle(folder: Path) -> None:
    """Make the files of a SavedModel the same in each run: maps in order, no random number."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = folder / "saved_model.pb"
    content = SavedModel.FromString(path.read_bytes())
    path.write_bytes(content.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink()


@_producer
def saved_model_module() -> int:
    """Save a tf.Module with a signature and an asset."""
    vocabulary = Path("vocabulary.txt")  # its path is in the graph, so it is a relative one
    vocabulary.write_text("one\ntwo\n")
    module = _Tokens(str(vocabulary))
    checkpoint = tf.train.Checkpoint(root=module)
    restore_truth_like(checkpoint.write, checkpoint.read)
    tf.saved_model.save(module, ".", signatures=module.serve)
    vocabulary.unlink()
    _settle(Path())
    return verify("variables/variables")


@contextmanager
def _sorted_variables() -> Iterator[None]:
    """Let Keras list the variables of functions by name; it takes them out of a set."""
    from keras.src.export import saved_model_export_archive as module

    listed = module._list_variables_used_by_fns

    def by_name(functions: object) -> tuple[list[tf.Variable], ...]:
        return tuple(sorted(each, key=lambda variable: variable.name) for each in listed(functions))

    with patch.object(module, "_list_variables_used_by_fns", by_name):
        yield


@_producer
def saved_model_keras() -> int:
    """Export a model of Keras 3, which stores every variable twice; the first follows the rule."""
    import keras

    model = _model(keras)
    keys = [f"variables/{index}/.ATTRIBUTES/VARIABLE_VALUE" for index in range(len(model.weights))]
    for key, variable in zip(keys, model.weights, strict=True):
        variable.assign(expected(key, "float32", variable.shape))
    with _sorted_variables():
        model.export("model", verbose=False)
    shutil.copytree("model", ".", dirs_exist_ok=True)
    shutil.rmtree("model")
    _settle(Path())
    reader = tf.train.load_checkpoint("variables/variables")
    return _compare({key: reader.get_tensor(key) for key in keys})


# ---- Graphs without variables -------------------------------------------------------------------


class _Dense(tf.Module):
    """The two dense layers; a converter would fold the batch normalisation into them."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {name: shape for name, shape in _SHAPES.items() if name.startswith("d")}
        # Each holds its own number, by which it is found again in a draft.
        self.held = [
            tf.Variable(tf.fill(shape, float(number)), name=name)
            for number, (name, shape) in enumerate(shapes.items())
        ]

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, "x")])
    def serve(self, x: tf.Tensor) -> tf.Tensor:
        """Run both layers."""
        for index, scope in enumerate(("d1", "d2")):
            kernel, bias = self.held[2 * index : 2 * index + 2]
            with tf.name_scope(scope):
                x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, kernel), bias))
        return x


def _give_truth(module: _Dense, draft: Arrays) -> None:
    """Assign the truth of the names that variables have in a draft; kernels may be transposed."""
    numbers = {name: int(array.flat[0]) for name, array in draft.items()}
    if sorted(numbers.values()) != list(range(len(module.held))):
        raise RuntimeError(f"not the variables: {numbers}")
    for name, number in numbers.items():
        variable, truth = module.held[number], expected(name, "float32", draft[name].shape)
        variable.assign(truth if truth.shape == variable.shape else truth.T)


def _frozen(module: _Dense) -> tf.compat.v1.GraphDef:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    concrete = module.serve.get_concrete_function()
    return convert_variables_to_constants_v2(concrete).graph.as_graph_def()


def _constants(graph: tf.compat.v1.GraphDef) -> Arrays:
    nodes = (node for node in graph.node if node.op == "Const")
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in nodes}


def _frozen_truth() -> tf.compat.v1.GraphDef:
    module = _Dense()
    _give_truth(module, _constants(_frozen(module)))
    return _frozen(module)


@_producer
def frozen_graph() -> int:
    """Freeze the dense layers into a GraphDef."""
    content = _frozen_truth().SerializeToString(deterministic=True)
    Path("frozen.pb").write_bytes(content)
    return _compare(_constants(tf.compat.v1.GraphDef.FromString(content)))


def _lite(module: _Dense) -> bytes:
    concrete = module.serve.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()


def _lite_constants(content: bytes) -> Arrays:
    """Return the tensors that have values before anything is computed."""
    interpreter = tf.lite.Interpreter(model_content=content)
    details = interpreter.get_tensor_details()
    found: Arrays = {}
    for each in details:
        try:
            found[each["name"]] = interpreter.get_tensor(each["index"])
        except ValueError:  # computed, and nothing was yet
            continue
    return found


@_producer
def tflite_dense() -> int:
    """Convert the dense layers to TensorFlow Lite, which transposes the kernels."""
    module = _Dense()
    _give_truth(module, _lite_constants(_lite(module)))
    content = _lite(module)
    Path("model.tflite").write_bytes(content)
    return _compare(_lite_constants(content))


# ---- TensorFlow.js ------------------------------------------------------------------------------

_SHARD_BYTES = 100  # the converter takes 4 MiB; a weight may lie in two shards


def _save_tfjs(arrays: Arrays, **content: object) -> int:
    """Write `model.json` and shards, and compare what they hold."""
    data = b"".join(array.tobytes() for array in arrays.values())
    parts = [data[at : at + _SHARD_BYTES] for at in range(0, len(data), _SHARD_BYTES)]
    names = [f"group1-shard{number + 1}of{len(parts)}.bin" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        Path(name).write_bytes(part)
    rows = [
        {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        for name, array in arrays.items()
    ]
    content["convertedBy"] = "the sample models of Tensorferry"
    content["weightsManifest"] = [{"paths": names, "weights": rows}]
    Path("model.json").write_text(json.dumps(content, sort_keys=True))
    return _compare(arrays)


@_producer
def tfjs_layers() -> int:
    """Write a layers model, with the config of tf_keras."""
    import tf_keras

    config = json.loads(_model(tf_keras).to_json())
    topology = {key: config.pop(key) for key in ("keras_version", "backend")}
    generator = f"keras v{topology['keras_version']}"
    topology["model_config"] = config
    return _save_tfjs(
        _network(), format="layers-model", generatedBy=generator, modelTopology=topology
    )


@_producer
def tfjs_graph() -> int:
    """Write a graph model: the frozen graph as JSON, its constants without values."""
    from google.protobuf.json_format import MessageToDict

    graph = _frozen_truth()
    arrays = _constants(graph)
    for node in graph.node:
        if node.op == "Const":
            node.attr["value"].tensor.ClearField("tensor_content")
    version = tf.__version__
    return _save_tfjs(
        arrays, format="graph-model", generatedBy=version, modelTopology=MessageToDict(graph)
    )


# ---- Containers of arrays -----------------------------------------------------------------------


@_producer
def safetensors_file() -> int:
    """Write the network with the safetensors library."""
    from safetensors.numpy import load_file, save_file

    save_file(_network(), "model.safetensors", {"format": "np"})
    return _compare(load_file("model.safetensors"))


@_producer
def npz_file() -> int:
    """Write the network with numpy."""
    np.savez("model.npz", **_network())
    with np.load("model.npz") as file:
        return _compare(dict(file))


@_producer
def hdf5_file() -> int:
    """Write the network with h5py: one kernel in deflated chunks, one with an attribute."""
    with h5py.File("model.h5", "w") as file:
        for name, array in _network().items():
            options = {"chunks": (2, 8), "compression": "gzip"} if name == "d1/kernel" else {}
            file.create_dataset(name, data=array, **options)
        file["d2/kernel"].attrs["unit"] = "mV"
    return _compare(_read_h5("model.h5"))


def main(name: str) -> None:
    """Make the sample `name` in the current folder."""
    print(_PRODUCERS[name]())


if __name__ == "__main__":
    main(sys.argv[1])
