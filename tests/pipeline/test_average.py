"""Means of checkpoints against numpy, and against what TensorFlow computes with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import open_tensors
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import UsageError
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_named
from tensorferry.converters.tensors import MemoryTensor, Origin, Role, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import contents, tensors_of
from tensorferry.pipeline.average import averaged, decaying_weights
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.run_average import Mean, run_average


def model_of(values: dict[str, np.ndarray[Any, Any]], **roles: Role) -> TensorDict:
    tensors = {
        name: MemoryTensor(TensorSpec(_dtype(array), array.shape), array.tobytes)
        for name, array in values.items()
    }
    origins = {name: Origin(name, role) for name, role in roles.items()}
    return TensorDict("test", "made here", tensors, origins)


def _dtype(array: np.ndarray[Any, Any]) -> DType:
    dtype = DType.named(array.dtype.name)
    assert dtype
    return dtype


def mean_of(arrays: list[np.ndarray[Any, Any]], weights: list[float]) -> np.ndarray[Any, Any]:
    models = [model_of({"x": array}) for array in arrays]
    labels = [str(number) for number in range(len(models))]
    return averaged(models, labels, weights)["x"].read()


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=7, max_size=7), min_size=2, max_size=5
    )
)
def test_the_mean_is_that_of_numpy_in_float64(rows: list[list[float]]) -> None:
    arrays = [np.array(row, np.float32) for row in rows]
    expected = np.mean(np.array(rows, np.float64), axis=0)
    got = mean_of(arrays, [1.0] * len(rows))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.astype(np.float32), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_mean_is_rounded_once(dtype: str) -> None:
    named = DType.named(dtype)
    assert named
    kind = named.numpy()
    arrays = [np.linspace(1, 9, 1001).astype(kind), np.linspace(2, 3, 1001).astype(kind)]
    exact = (3 * arrays[0].astype(np.float64) + arrays[1].astype(np.float64)) / 4
    got = mean_of(arrays, [3, 1])
    assert got.dtype == kind
    spacing = np.abs(np.nextafter(got, kind.type(100)).astype(np.float64) - got.astype(np.float64))
    assert np.all(np.abs(got.astype(np.float64) - exact) <= spacing / 2)


def test_complex_numbers_have_a_mean() -> None:
    arrays = [np.array([1 + 2j, 3], np.complex64), np.array([3 - 2j, 1j], np.complex64)]
    np.testing.assert_array_equal(mean_of(arrays, [1, 1]), [2, 1.5 + 0.5j])


def test_larger_than_a_chunk() -> None:
    arrays = [np.arange(700_000, dtype=np.float32) * k for k in (1, 3)]
    np.testing.assert_array_equal(mean_of(arrays, [1, 1]), arrays[0] * 2)


@given(st.integers(2, 9), st.floats(0, 0.999))
def test_a_decay_is_the_moving_average_in_order(count: int, decay: float) -> None:
    values = np.random.default_rng(count).normal(size=count)
    shadow = values[0]
    for value in values[1:]:
        shadow = decay * shadow + (1 - decay) * value
    weights = decaying_weights(count, decay)
    assert sum(weights) == pytest.approx(1)
    assert np.dot(weights, values) == pytest.approx(shadow)


def test_what_has_no_mean_is_that_of_the_last() -> None:
    first = {
        "w": np.array([2.0], np.float32),
        "count": np.array([1], np.int64),
        "beta_power": np.array([0.9], np.float32),
    }
    last = {
        "w": np.array([4.0], np.float32),
        "count": np.array([7], np.int64),
        "beta_power": np.array([0.5], np.float32),
    }
    models = [model_of(each, beta_power=Role.OPTIMIZER) for each in (first, last)]
    mean = averaged(models, ["a", "b"], [1, 1])
    assert {name: mean[name].read().item() for name in mean} == {
        "w": 3.0,
        "count": 7,
        "beta_power": 0.5,
    }
    [note] = mean.notes
    assert note.text == "means of 2 models: 1 tensors; the others are those of the last"


def test_models_that_differ_are_refused_with_a_list() -> None:
    a = model_of({"same": np.ones(2, np.float32), "gone": np.ones(1), "w": np.ones(3, np.float32)})
    b = model_of({"same": np.ones(2, np.float32), "new": np.ones(1), "w": np.ones(4, np.float32)})
    with pytest.raises(UsageError) as caught:
        averaged([a, b], ["a.npz", "b.npz"], [1, 1])
    assert str(caught.value) == (
        "a.npz: does not hold the same tensors: `new` is only in b.npz; `gone` is not in b.npz; "
        "`w` is float32 (3,) and not float32 (4,)\n\n"
        "hint: choose with --include and --exclude what to average"
    )


def test_the_last_checkpoints_of_a_run(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        values = {"w": np.full(3, step, np.float32), "step": np.array(step, np.int64)}
        plan = format_named("tf-checkpoint").plan
        assert plan
        write_plan(plan(tensors_of(values), tmp_path / f"model.ckpt-{step}", WriteOptions()))
    target = tmp_path / "mean.safetensors"
    run_average(Mean((str(tmp_path),), last=2), str(target), ConvertOptions(verify=True))
    with open_tensors(target) as mean:
        assert mean["w"].read().tolist() == [25, 25, 25]
        assert mean["step"].read() == 30


def test_a_model_averaged_with_itself_is_itself(samples: Path, tmp_path: Path) -> None:
    source, target = samples / "all_dtypes", tmp_path / "same.ckpt"
    run_average(Mean((str(source), str(source))), str(target), ConvertOptions(), quiet=True)
    with open_tensors(source) as before, open_tensors(target) as after:
        assert contents(after) == contents(before)


def test_formats_do_not_matter_and_types_change_last(samples: Path, tmp_path: Path) -> None:
    source = samples / "tf1_adam_ema"
    copy, target = tmp_path / "copy.npz", tmp_path / "mean.safetensors"
    convert(source, copy, ConvertOptions(weights_only=True, ema="raw"))
    options = ConvertOptions(weights_only=True, ema="raw", dtypes=("bf16",))
    run_average(Mean((str(source), str(copy)), weights=(1, 2)), str(target), options, quiet=True)
    with open_tensors(copy) as before, open_tensors(target) as after:
        assert {each.spec.dtype for each in after.values()} == {DType.BFLOAT16}
        for name in before:
            expected = before[name].read().astype(DType.BFLOAT16.numpy())
            np.testing.assert_array_equal(after[name].read(), expected)


@pytest.mark.oracle
def test_tensorflow_restores_the_mean(tmp_path: Path) -> None:
    import tensorflow as tf

    variable = tf.Variable(np.zeros((3, 4), np.float32))
    step = tf.Variable(0, dtype=tf.int64)
    checkpoint = tf.train.Checkpoint(w=variable, step=step)
    rows = np.random.default_rng(1).normal(size=(3, 3, 4)).astype(np.float32)
    paths = []
    for number, values in enumerate(rows):
        variable.assign(values)
        step.assign(number)
        paths.append(checkpoint.write(str(tmp_path / f"c{number}")))
    target = tmp_path / "mean.ckpt"
    run_average(Mean(tuple(paths)), str(target), ConvertOptions(), quiet=True)
    variable.assign(np.zeros((3, 4)))
    checkpoint.read(str(target)).assert_consumed()
    expected = np.mean(rows.astype(np.float64), axis=0).astype(np.float32)
    np.testing.assert_array_equal(variable.numpy(), expected)
    assert step.numpy() == 2
