"""A zoo of small models, and batches over it."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorferry.pipeline.batch.jobs import BatchPlan
from tensorferry.pipeline.batch.plan import plan_jobs
from tensorferry.pipeline.convert import ConvertOptions

# Folders of `sample_models` that are one model each.
MODELS = ("tf_module_object", "tf_keras_object", "max_shard_slices", "npz_file", "tf1_adam_ema")


@pytest.fixture
def make_zoo(tmp_path: Path, samples: Path) -> Callable[[int], Path]:
    """Return the function that makes a folder with so many models, at several depths."""

    def make(count: int) -> Path:
        root = tmp_path / "zoo"
        for number in range(count):
            folder = root / f"team{number % 3}" / f"run{number}"
            shutil.copytree(samples / MODELS[number % len(MODELS)], folder)
        return root

    return make


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., BatchPlan]:
    """Return the function that plans a batch from `zoo` to `out`, to safetensors."""

    def planned(**flags: Any) -> BatchPlan:
        options = ConvertOptions(target_format="safetensors", jobs=1, **flags)
        return plan_jobs(tmp_path / "zoo", tmp_path / "out", options)

    return planned


@pytest.fixture
def broken_disk(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the paths whose reading fails as on a broken disk, which no test can have for real."""
    paths: set[str] = set()
    read = os.preadv

    def preadv(descriptor: int, *rest: Any) -> int:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()) in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, *rest)

    monkeypatch.setattr(os, "preadv", preadv)
    return paths


@contextmanager
def _dask(workers: int = 2, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("dask_cluster.py")), str(workers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(60)


@pytest.fixture(scope="session")
def start_dask() -> Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]:
    """Return what starts a cluster, and gives its process and the address of its scheduler."""
    return _dask


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """Return the address of a Dask cluster of two workers."""
    with _dask() as (_, address):
        yield address
