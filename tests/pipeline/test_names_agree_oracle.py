"""One model in every container: the same names for the same values, or a reason why not.

The reasons are those that docs/guide/names.md gives.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.tensors import Role

# Keras and TensorFlow warn about each other; none of it is about what is tested here.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guide" / "names.md"

# The models, and what their variables are called: by layer, in the order of the layer

STATISTICS = "gamma beta moving_mean moving_variance"
FUNCTIONAL = {
    "c": "kernel bias",
    "bn": STATISTICS,
    "inner/c_in": "kernel bias",
    "inner/b_in": STATISTICS,
    "inner/deep/d_deep": "kernel bias",
    "inner/row/d_row": "kernel bias",
    "out": "kernel bias",
}
LSTM = {"lstm/lstm_cell": "kernel recurrent_kernel bias"}
SEQUENTIAL = {"c": "kernel bias", "bn": STATISTICS, "out": "kernel bias"}
MODELS: Mapping[str, Mapping[str, str]] = {
    "functional": FUNCTIONAL | LSTM,
    "sequential": SEQUENTIAL | LSTM,
    # tf_keras takes seconds to trace an LSTM for a SavedModel.
    "functional without LSTM": FUNCTIONAL,
    "sequential without LSTM": SEQUENTIAL,
}


def functional(k: Any, *, lstm: bool) -> Any:
    layers = k.layers
    deep_in = k.Input((6, 6, 4))
    deep = k.Model(deep_in, layers.Dense(4, name="d_deep")(deep_in), name="deep")
    row = k.Sequential([layers.Dense(4, name="d_row")], name="row")
    inner_in = k.Input((6, 6, 4))
    y = layers.Conv2D(4, 3, padding="same", name="c_in")(inner_in)
    inner = k.Model(inner_in, row(deep(layers.BatchNormalization(name="b_in")(y))), name="inner")
    x = k.Input((6, 6, 3), name="x")
    y = layers.Conv2D(4, 3, padding="same", name="c")(x)
    y = layers.Reshape((36, 4))(inner(layers.BatchNormalization(name="bn")(y)))
    if lstm:
        y = layers.LSTM(3, name="lstm")(y)
    return k.Model(x, layers.Dense(2, name="out")(y), name="top")


def sequential(k: Any, *, lstm: bool) -> Any:
    layers = k.layers
    rows = [k.Input((6, 3)), layers.Conv1D(4, 3, name="c"), layers.BatchNormalization(name="bn")]
    rows += [layers.LSTM(2, name="lstm")] if lstm else []
    return k.Sequential([*rows, layers.Dense(2, name="out")], name="top")


# The containers

Save = Callable[[Any, Any, Path], object]
SAVED: Mapping[str, tuple[str, Save]] = {
    ".keras": (".keras", lambda _, model, path: model.save(path)),
    ".weights.h5": (".weights.h5", lambda _, model, path: model.save_weights(path)),
    ".h5": (".h5", lambda _, model, path: model.save(path)),
    ".h5 of weights alone": (".h5", lambda _, model, path: model.save_weights(path)),
    "checkpoint": ("", lambda tf, model, path: tf.train.Checkpoint(model=model).write(str(path))),
    "checkpoint of a step": (
        "", lambda tf, model, path: tf.train.Checkpoint(model=model).save(str(path / "step")),
    ),
    "checkpoint of save_weights": ("", lambda _, model, path: model.save_weights(str(path))),
    "SavedModel of save": ("", lambda _, model, path: model.save(str(path))),
    "SavedModel of export": ("", lambda _, model, path: model.export(str(path))),
    "SavedModel of saved_model.save": (
        "", lambda tf, model, path: tf.saved_model.save(model, str(path)),
    ),
}  # fmt: skip
ONLY_TF_KERAS = {".h5 of weights alone", "checkpoint of save_weights", "SavedModel of save"}
TRACED = {"SavedModel of save", "SavedModel of saved_model.save"}


# Where they differ, and why


class Other(NamedTuple):
    """What a container has instead: layers' names, numbers for variables; and one more variable."""

    why: str
    layers: Mapping[str, str]
    more: str | None = None  # a pattern
    numbered: bool = False


NO_MODELS = {
    "inner/c_in": "c_in",
    "inner/b_in": "b_in",
    "inner/deep/d_deep": "d_deep",
    "inner/row/d_row": "row/d_row",
}
TOP = {each: f"top/{each}" for each in SEQUENTIAL | LSTM}
SEED = r"seed_generator(_\d+)?/seed_generator_state"  # of the dropout of an LSTM
GROUPS = {
    "c": "layers/conv2d",
    "bn": "layers/batch_normalization",
    "inner/c_in": "layers/functional/layers/conv2d",
    "inner/b_in": "layers/functional/layers/batch_normalization",
    "inner/deep/d_deep": "layers/functional/layers/functional/layers/dense",
    "inner/row/d_row": "layers/functional/layers/sequential/layers/dense",
    "lstm/lstm_cell": "layers/lstm/cell",
    "out": "layers/dense",
}
UNNAMED = "full names without those of functional models"
SEEDS = "seeds of random generators, which no other container has"
OTHERS: Mapping[tuple[str, str, str], Other] = {
    ("keras", "functional", "checkpoint"): Other(UNNAMED, NO_MODELS),
    ("keras", "functional", "checkpoint of a step"): Other(UNNAMED, NO_MODELS),
    ("keras", "functional", "SavedModel of saved_model.save"): Other(UNNAMED, NO_MODELS),
    ("keras", "functional", "SavedModel of export"): Other(SEEDS, NO_MODELS, SEED),
    ("keras", "sequential", "SavedModel of export"): Other(
        "the name of a Sequential before those of its layers", TOP, SEED
    ),
    **{
        ("tf_keras", "functional", container): Other(
            "full names without those of any model", NO_MODELS | {"inner/row/d_row": "d_row"}
        )
        for container in (
            "checkpoint", "checkpoint of a step", "checkpoint of save_weights",
            "SavedModel of export", "SavedModel of saved_model.save",
        )
    },
    ("tf_keras", "functional", ".h5 of weights alone"): Other(
        "the outermost model alone, since there is no config",
        {"inner/deep/d_deep": "inner/d_deep", "inner/row/d_row": "inner/d_row"},
    ),
    ("tf_keras", "functional", ".weights.h5"): Other("keys", GROUPS, numbered=True),
    ("tf_keras", "sequential", ".weights.h5"): Other(
        "keys", GROUPS | {"c": "layers/conv1d"}, numbered=True
    ),
}  # fmt: skip
SAME = Other("", {})


def cases() -> Iterator[tuple[str, str, str]]:
    for library in ("keras", "tf_keras"):
        for model in ("functional", "sequential"):
            for container in SAVED:
                if library == "tf_keras" or container not in ONLY_TF_KERAS:
                    yield library, model, container


@pytest.fixture(scope="module")
def made(tensorflow: Any) -> Callable[[str, str], Any]:
    """Return the function that makes a model, or takes the one that was made before."""
    assert tensorflow
    models: dict[tuple[str, str], Any] = {}

    def make(library: str, name: str) -> Any:
        if (library, name) not in models:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                k = pytest.importorskip(library)
            build = functional if name.startswith("functional") else sequential
            model = build(k, lstm="without" not in name)
            random = np.random.default_rng(5)
            for variable in model.weights:
                variable.assign(random.random(variable.shape, np.float32))
            models[library, name] = model
        return models[library, name]

    return make


def read(path: Path) -> dict[str, bytes]:
    """Return weights and state by name."""
    with open_tensors(path) as tensors:
        return {
            name: tensor.read().tobytes()
            for name, tensor in tensors.items()
            if tensors.origin(name).role in (Role.WEIGHT, Role.STATE)
        }


@pytest.mark.parametrize(("library", "model", "container"), list(cases()))
def test_a_model_has_the_same_names_everywhere(
    tensorflow: Any,
    made: Callable[[str, str], Any],
    tmp_path: Path,
    library: str,
    model: str,
    container: str,
) -> None:
    traced = library == "tf_keras" and container in TRACED
    name = f"{model} without LSTM" if traced else model
    live = made(library, name)
    suffix, save = SAVED[container]
    path = tmp_path / f"m{suffix}"
    with contextlib.redirect_stdout(io.StringIO()):  # `export` prints what it has stored
        save(tensorflow, live, path)
    other = OTHERS.get((library, model, container), SAME)
    live.save(tmp_path / "reference.keras")
    reference = read(tmp_path / "reference.keras")
    expected = {}
    for layer, variables in MODELS[name].items():
        for number, own in enumerate(variables.split()):
            called = f"vars/{number}" if other.numbered else own
            expected[f"{other.layers.get(layer, layer)}/{called}"] = reference.pop(f"{layer}/{own}")
    assert not reference
    got = read(path)
    more = [each for each in got if other.more and re.fullmatch(other.more, each)]
    assert len(more) == (other.more is not None)
    assert {each: value for each, value in got.items() if each not in more} == expected
    assert other.why in PAGE.read_text(encoding="utf-8")
