"""Samples of today: each opens as what the manifest calls it and holds the truth."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import all_formats

SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
NAMES = {each.name for each in all_formats()}


def rows() -> list[Any]:
    content = tomllib.loads((SAMPLES / "MANIFEST.toml").read_text(encoding="utf-8"))
    files = [row for row in content["model"] if row["kind"] in NAMES]
    return [pytest.param(row, id=row["id"]) for row in files if isinstance(row["point_at"], str)]


def test_every_format_has_a_sample() -> None:
    kinds = {each.values[0]["kind"] for each in rows()}
    assert kinds | {"tf-checkpoint", "tf-checkpoint-v1"} == NAMES  # see their own tests


@pytest.mark.parametrize("row", rows())
def test_a_sample_is_what_the_manifest_says(row: dict[str, Any], truth: ModuleType) -> None:
    if row["kind"] == "tflite":
        pytest.importorskip("tflite")
    with open_tensors(SAMPLES / row["point_at"]) as tensors:
        assert tensors.format == row["kind"]
        assert len(tensors) == row["tensors"]
        for name, tensor in tensors.items():
            key, spec = tensors.origin(name).key, tensor.spec
            expected = truth.expected(key, spec.dtype.label, spec.shape)
            np.testing.assert_array_equal(tensor.read(), expected, err_msg=name, strict=True)
