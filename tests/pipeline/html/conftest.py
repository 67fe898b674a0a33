"""Models to make pages of: a large one, one with hostile names, one of each verdict."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import (
    MemoryTensor,
    Origin,
    Role,
    Tensor,
    TensorDict,
    TensorSpec,
)
from tensorferry.pipeline.diff import Difference, Verdict
from tensorferry.pipeline.stats import PERCENTILES, Stats

LARGE = 10_000
BARS = 32
HOSTILE = (
    "</script><script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 2'>",
    "<b>bold</b>/<a href='javascript:window.hit=3'>link</a>",
    "\"quoted\" and 'quoted' & &lt;entity&gt;",
    "line\nbreak\ttab\x00nul\x1b[31m",
    "right\u202eto left\u2066isolate",
    "not utf-8 \udcff",
    "separators \u2028\u2029",
    "%{label} $x^2$ {{ 7 * 7 }} {% raw %}",
    "الوزن/kernel",
    "a" * 3000,
    "",
)


def numbers(dtype: DType = DType.FLOAT32, shape: tuple[int, ...] = (2,)) -> Tensor:
    spec = TensorSpec(dtype, shape)
    return MemoryTensor(spec, lambda: bytes(spec.nbytes))


def model(tensors: Mapping[str, Tensor], roles: Mapping[str, Role] | None = None) -> TensorDict:
    origins = {name: Origin(name, role) for name, role in (roles or {}).items()}
    return TensorDict("safetensors", "a model of the tests", dict(tensors), origins)


def stats(tensor: Tensor, seed: int = 1) -> Stats:
    """Return statistics as they could be, with counts of as many digits as there can be."""
    size, low = tensor.spec.size, -1.0 - seed % 7
    width = (2.0 + seed % 5) / BARS
    return Stats(
        size=size,
        finite=size,
        minimum=low,
        maximum=low + BARS * width,
        mean=low / math.pi,
        std=1 / math.e,
        norm=math.sqrt(size),
        percentiles={percent: low + percent / 100 * BARS * width for percent in PERCENTILES},
        edges=tuple(low + at * width for at in range(BARS + 1)),
        counts=tuple(size * (at * seed % 97 + 1) // 97 for at in range(BARS)),
    )


@pytest.fixture(scope="session")
def large() -> TensorDict:
    """Return a model of 10,000 tensors."""
    leaves = {
        "attention/query/kernel": (768, 768),
        "attention/query/bias": (768,),
        "mlp/dense/kernel": (768, 3072),
        "mlp/dense/bias": (3072,),
        "norm/gamma": (768,),
    }
    names = [
        (f"model/encoder/layer_{layer}/{leaf}", shape)
        for layer in range(LARGE // len(leaves))
        for leaf, shape in leaves.items()
    ]
    tensors = {name: numbers(shape=shape) for name, shape in names}
    return model(tensors, dict.fromkeys(tensors, Role.WEIGHT))


@pytest.fixture(scope="session")
def large_stats(large: TensorDict) -> dict[str, Stats]:
    """Return statistics of all its tensors."""
    return {name: stats(tensor, seed) for seed, (name, tensor) in enumerate(large.items(), 1)}


@pytest.fixture(scope="session")
def hostile() -> TensorDict:
    """Return a model whose tensors have the names that one would attack a page with."""
    return model({name: numbers(shape=(at + 1,)) for at, name in enumerate(HOSTILE)})


@pytest.fixture(scope="session")
def verdicts() -> tuple[TensorDict, TensorDict, list[Difference]]:
    """Return two models, and each verdict once."""
    same = {f"block_{at}/{leaf}": numbers() for at in range(3) for leaf in ("kernel", "bias")}
    first = {
        **same,
        "old/kernel": numbers(),
        "turned/kernel": numbers(shape=(2, 3)),
        "cast/kernel": numbers(),
        "shape/kernel": numbers(shape=(4,)),
        "dtype/kernel": numbers(),
        "gone/kernel": numbers(),
        "nan/kernel": numbers(),
    }
    second = {
        **same,
        "new/kernel": numbers(),
        "turned/kernel": numbers(shape=(3, 2)),
        "cast/kernel": numbers(DType.FLOAT16),
        "shape/kernel": numbers(shape=(5,)),
        "dtype/kernel": numbers(DType.INT32),
        "nan/kernel": numbers(),
        "extra/kernel": numbers(DType.INT8, (7,)),
    }
    different = [
        *(Difference(name, Verdict.SAME) for name in list(same)[:4]),
        Difference("block_2/kernel", Verdict.CHANGED, "", None, None, 0.5, 0.125, 0.99, 0.75),
        Difference("block_2/bias", Verdict.CLOSE, "", None, None, 1e-7, 1e-7, 1.0, 0.5),
        Difference("old/kernel", Verdict.RENAMED, other="new/kernel"),
        Difference("turned/kernel", Verdict.TRANSPOSED, axes=(1, 0)),
        Difference("cast/kernel", Verdict.CAST, "float32 to float16"),
        Difference("shape/kernel", Verdict.SHAPE),
        Difference("dtype/kernel", Verdict.DTYPE),
        Difference("gone/kernel", Verdict.MISSING),
        Difference("nan/kernel", Verdict.CHANGED, "", None, None, math.nan, math.inf, math.nan, 1),
        Difference("extra/kernel", Verdict.ADDED),
    ]
    return model(first), model(second), different


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start the browser; where CI runs it has to be there."""
    path = shutil.which("chromium")
    if path is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            "no chromium here; `make browser` installs it"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # The sandbox cannot be had as root, as which containers run.
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
