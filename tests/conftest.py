"""What all tests share: where samples and corpus lie, the truth of the samples, one TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings
from tensorferry.converters.tensors import TensorDict
from tensorferry.converters.testing.contracts import Values, tensors_of

REPOSITORY = Path(__file__).resolve().parent.parent

# Machines differ in speed, and the same run should find the same things everywhere.
settings.register_profile("tensorferry", deadline=None, derandomize=True, database=None)
settings.load_profile("tensorferry")


@pytest.fixture(scope="session")
def samples() -> Path:
    """Return the folder of the sample models."""
    return REPOSITORY / "sample_models"


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Return the folder of real models, which is not part of the repository."""
    usual = REPOSITORY.parent / "shared" / "corpus"
    folder = Path(os.environ.get("TENSORFERRY_CORPUS", usual))
    if not (folder / "MANIFEST.tsv").is_file():
        pytest.skip("no corpus of real models here; TENSORFERRY_CORPUS names its folder")
    return folder


@pytest.fixture(scope="session")
def truth(samples: Path) -> ModuleType:
    """Return `sample_models/truth.py`, which computes what every sample tensor holds."""
    spec = importlib.util.spec_from_file_location("sample_truth", samples / "truth.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tensorflow() -> Any:
    """Import TensorFlow, once and quietly; its own warnings are none of our business."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("tensorflow")
    module.get_logger().setLevel("ERROR")
    return module


@pytest.fixture
def make_tensors() -> Callable[[Mapping[str, Values]], TensorDict]:
    """Return the function that makes a tensor dictionary of arrays and lists of strings."""
    return tensors_of
