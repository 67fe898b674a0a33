"""SavedModels with new weights, loaded and run by TensorFlow, tf_keras and its v1 loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.tensors import Role
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.report import Report

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

INPUTS = np.random.default_rng(0).normal(size=(3, 6)).astype("f4")


def network(k: Any, seed: int) -> Any:
    layers = [k.layers.Dense(5, name="b"), k.layers.BatchNormalization(name="bn")]
    layers += [k.layers.Dense(5, name="a")]
    model = k.Sequential([k.layers.Input((6,)), *layers], name="net")
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


def with_weights(source: Path, template: Path, target: Path, **options: Any) -> Report:
    write = WriteOptions(template=template, **options)
    chosen = ConvertOptions(target_format="saved-model", write=write, verify=True, strict=True)
    return convert(source, target, chosen)


def served(tensorflow: Any, model: Path) -> np.ndarray:
    """Return what the model gives for the inputs, by its serving signature."""
    loaded = tensorflow.saved_model.load(str(model))
    (output,) = loaded.signatures["serving_default"](tensorflow.constant(INPUTS)).values()
    return np.asarray(output)


def served_by_v1(tensorflow: Any, model: Path) -> np.ndarray:
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), v1.Session() as session:
        meta = v1.saved_model.load(session, ["serve"], str(model))
        signature = meta.signature_def["serving_default"]
        (given,), (asked,) = signature.inputs.values(), signature.outputs.values()
        return np.asarray(session.run(asked.name, {given.name: INPUTS}))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_tf_keras_model_gives_what_the_other_weights_give(
    tensorflow: Any, tmp_path: Path, compiled: bool
) -> None:
    k = pytest.importorskip("tf_keras")
    old, new = network(k, 1), network(k, 2)
    if compiled:
        old.compile("adam", "mse")
        old.train_on_batch(INPUTS, np.zeros((3, 5)))
    old.save(tmp_path / "old", save_format="tf")
    new.save(tmp_path / "new.h5")
    convert(tmp_path / "new.h5", tmp_path / "new.safetensors")
    report = with_weights(
        tmp_path / "new.safetensors", tmp_path / "old", tmp_path / "m", max_shard_bytes=100
    )
    assert any("optimizer slot" in note.text for note in report.notes) == compiled
    expected = new(INPUTS).numpy()
    np.testing.assert_array_equal(served(tensorflow, tmp_path / "m"), expected)
    np.testing.assert_array_equal(served_by_v1(tensorflow, tmp_path / "m"), expected)
    loaded = k.models.load_model(tmp_path / "m")
    np.testing.assert_array_equal(loaded(INPUTS).numpy(), expected)
    assert all(map(np.array_equal, loaded.get_weights(), new.get_weights()))


@pytest.mark.parametrize("source", ["h5", "export"])
def test_an_exported_keras_3_model_gives_what_the_other_weights_give(
    tensorflow: Any, tmp_path: Path, source: str
) -> None:
    k = pytest.importorskip("keras")
    old, new = network(k, 1), network(k, 2)
    old.export(tmp_path / "old", verbose=False)
    if source == "h5":
        new.save(tmp_path / "new.h5")
    else:
        new.export(tmp_path / "new.h5", verbose=False)
    convert(tmp_path / "new.h5", tmp_path / "new.safetensors")
    report = with_weights(tmp_path / "new.safetensors", tmp_path / "old", tmp_path / "m")
    assert report.counts == {"written": 8}
    expected = np.asarray(new(INPUTS))
    np.testing.assert_allclose(served(tensorflow, tmp_path / "m"), expected, rtol=1e-6)
    np.testing.assert_allclose(served_by_v1(tensorflow, tmp_path / "m"), expected, rtol=1e-6)


def test_tables_and_assets_of_a_module_still_work(tensorflow: Any, tmp_path: Path) -> None:
    lookup = tensorflow.lookup

    class Module(tensorflow.Module):  # type: ignore[misc]
        def __init__(self, value: float, words: Path) -> None:
            super().__init__()
            self.weight = tensorflow.Variable(np.full((6, 2), value, "f4"), name="weight")
            self.table = lookup.experimental.MutableHashTable(
                tensorflow.string, tensorflow.int64, -1
            )
            self.table.insert(tensorflow.constant(["a"]), tensorflow.constant([5], "int64"))
            self.words = lookup.StaticVocabularyTable(
                lookup.TextFileInitializer(
                    str(words), "string", lookup.TextFileIndex.WHOLE_LINE,
                    "int64", lookup.TextFileIndex.LINE_NUMBER,
                ),
                1,
            )  # fmt: skip

        @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 6), "float32")])
        def __call__(self, x: Any) -> Any:
            found = self.table.lookup(tensorflow.constant(["a"]))
            word = self.words.lookup(tensorflow.constant(["two"]))
            return x @ self.weight + tensorflow.cast(10 * found + word, "float32")

    (tmp_path / "words.txt").write_text("one\ntwo\n")
    tensorflow.saved_model.save(Module(1, tmp_path / "words.txt"), str(tmp_path / "old"))
    np.savez(tmp_path / "new.npz", weight=np.full((6, 2), 3, "f4"))
    report = with_weights(tmp_path / "new.npz", tmp_path / "old", tmp_path / "m")
    assert any("`table/keys`" in note.text for note in report.notes)
    loaded = tensorflow.saved_model.load(str(tmp_path / "m"))
    expected = INPUTS @ np.full((6, 2), 3, "f4") + 51
    np.testing.assert_allclose(loaded(tensorflow.constant(INPUTS)), expected, rtol=1e-6)


def test_a_model_of_tensorflow_1_gives_what_the_other_weights_give(
    tensorflow: Any, tmp_path: Path
) -> None:
    outputs = [_tf1_model(tensorflow, tmp_path / name) for name in ("old", "new")]
    assert not np.allclose(*outputs)
    for weights_only in (False, True):
        source, target = tmp_path / f"{weights_only}.safetensors", tmp_path / str(weights_only)
        convert(tmp_path / "new", source, ConvertOptions(weights_only=weights_only))
        with_weights(source, tmp_path / "old", target)
        np.testing.assert_array_equal(served_by_v1(tensorflow, target), outputs[1])
        np.testing.assert_array_equal(served(tensorflow, target), outputs[1])
    with open_tensors(tmp_path / "old") as old, open_tensors(tmp_path / "True") as new:
        slots = [name for name in old if old.origin(name).role is Role.SLOT]
        assert len(slots) == 6
        assert all(np.array_equal(old[name].read(), new[name].read()) for name in slots)


def _tf1_model(tensorflow: Any, folder: Path) -> np.ndarray:
    """Build a model with a partitioned variable and its slots; return what it gives."""
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tensorflow.float32, (None, 6), name="x")
        y = x @ v1.get_variable("dense/kernel", (6, 5)) + v1.get_variable("dense/bias", (5,))
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(3)):
            y @= tensorflow.convert_to_tensor(v1.get_variable("cut/kernel", (5, 4)))
        train = v1.train.AdamOptimizer().minimize(tensorflow.reduce_sum(y * y))
        session.run(v1.global_variables_initializer())
        session.run(train, {x: INPUTS})
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
        return np.asarray(session.run(y, {x: INPUTS}))
