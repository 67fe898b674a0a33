"""Casts held against TensorFlow's own, and read back by TensorFlow, safetensors and numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.casting import CastTensor
from tensorferry.converters.dtypes import DType
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

TARGETS = [DType.BFLOAT16, DType.FLOAT16, DType.FLOAT64, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2]


def values() -> np.ndarray:
    """Return float32 numbers of all sizes, many of them half way between two of 16 bits."""
    random = np.random.default_rng(7)
    bits = random.integers(0, 1 << 32, 300_000, np.uint32)
    bits[::3] &= 0xFFFF8000  # ties of bfloat16
    bits[1::3] &= 0xFFFFF000  # ties of float16
    usual = (random.standard_normal(100_000) * 0.02).astype(np.float32)
    special = np.array([0, -0.0, np.inf, -np.inf], np.float32)
    return np.concatenate([bits.view(np.float32), usual, special])


@pytest.mark.parametrize("dtype", TARGETS, ids=str)
def test_tensorflow_casts_alike(tensorflow: Any, dtype: DType) -> None:
    given = values()
    if dtype is DType.FLOAT64:
        given = given[~(np.abs(given) < 2.0**-126) | (given == 0)]  # TensorFlow makes these zero
    got = CastTensor(tensors_of({"x": given})["x"], dtype).read()
    expected = tensorflow.cast(given, dtype.label).numpy()
    assert got.dtype == expected.dtype
    nan = got != got
    np.testing.assert_array_equal(nan, expected != expected)
    assert nan[np.isnan(given)].all()
    kind = f"u{dtype.itemsize}"
    np.testing.assert_array_equal(got.view(kind)[~nan], expected.view(kind)[~nan])


def test_tensorflow_reads_a_cast_checkpoint(tensorflow: Any, tmp_path: Path, samples: Path) -> None:
    source = samples / "tf1_adam_ema" / "model.ckpt-7"
    options = ConvertOptions(dtypes=("f16", "dense/*=bf16", "global_step=f64"), verify=True)
    convert(source, tmp_path / "cast.ckpt", options)
    before = tensorflow.train.load_checkpoint(str(source))
    after = tensorflow.train.load_checkpoint(str(tmp_path / "cast.ckpt"))
    dtypes = after.get_variable_to_dtype_map()
    assert dtypes["dense_1/kernel"] == tensorflow.float16
    assert dtypes["dense/kernel"] == tensorflow.bfloat16
    assert dtypes["global_step"] == tensorflow.float64
    assert dtypes["beta1_power"] == tensorflow.float32
    assert dtypes.keys() == before.get_variable_to_dtype_map().keys()
    for name, dtype in dtypes.items():
        expected = tensorflow.cast(before.get_tensor(name), dtype).numpy()
        np.testing.assert_array_equal(after.get_tensor(name), expected)


def test_safetensors_and_numpy_read_what_was_cast(tmp_path: Path, samples: Path) -> None:
    from safetensors.numpy import load_file

    source = samples / "tf1_multi_shard"
    convert(source, tmp_path / "whole.safetensors")
    convert(source, tmp_path / "cast.safetensors", ConvertOptions(dtypes=("bf16",)))
    convert(source, tmp_path / "cast.npz", ConvertOptions(dtypes=("f16",)))
    whole = load_file(tmp_path / "whole.safetensors")
    brains = load_file(tmp_path / "cast.safetensors")
    with np.load(tmp_path / "cast.npz") as halves:
        for name, array in whole.items():
            np.testing.assert_array_equal(brains[name], array.astype(DType.BFLOAT16.numpy()))
            np.testing.assert_array_equal(halves[name], array.astype(np.float16))
