"""Parts of a target from a source in a store: each fetches its own ranges, and sees a change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.batch.jobs import Part
from tensorferry.pipeline.batch.pool import LocalExecutor
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.sharded.run import convert_over, convert_part

SHARDS = WriteOptions(max_shard_bytes=2_000_000)
NBYTES = 16_000_000


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of 16 MB in sixteen tensors."""
    path = tmp_path / "model.npz"
    values = np.arange(NBYTES // 64, dtype="f4")
    np.savez(path, **{f"w{n:02}": values + n for n in range(16)})  # type: ignore[arg-type]
    return path


def options(cloud: Any) -> ConvertOptions:
    return ConvertOptions(read=ReadOptions(endpoint_url=cloud.endpoint), write=SHARDS)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_part_fetches_only_what_it_writes(
    cloud: Any, model: Path, out: Path, tmp_path: Path
) -> None:
    url = cloud.put(model, "in/model.npz")
    moved = []
    for number in (1, 2, 3, 4):
        before = cloud.proxy.sent
        convert_part(url, out / "m.safetensors", Part(number, 4), options(cloud))
        moved.append(cloud.proxy.sent - before)
    assert max(moved) < NBYTES // 4 + 500_000
    (tmp_path / "local").mkdir()
    convert(model, tmp_path / "local" / "m.safetensors", ConvertOptions(write=SHARDS))
    assert files(out) == files(tmp_path / "local")


def test_workers_fetch_from_the_store_themselves(
    cloud: Any, model: Path, out: Path, tmp_path: Path
) -> None:
    url = cloud.put(model, "in/model.npz")
    with LocalExecutor(2) as executor:
        convert_over(url, out / "m.safetensors", executor, options(cloud))
    (tmp_path / "local").mkdir()
    convert(model, tmp_path / "local" / "m.safetensors", ConvertOptions(write=SHARDS))
    assert files(out) == files(tmp_path / "local")


def test_an_object_that_has_changed_between_parts_is_refused(
    cloud: Any, model: Path, out: Path
) -> None:
    url = cloud.put(model, "in/model.npz")
    convert_part(url, out / "m.safetensors", Part(1, 2), options(cloud))
    content = bytearray(model.read_bytes())
    content[1000] ^= 1
    model.write_bytes(content)
    cloud.put(model, "in/model.npz")
    with pytest.raises(UsageError, match="the source has changed since"):
        convert_part(url, out / "m.safetensors", Part(2, 2), options(cloud))
