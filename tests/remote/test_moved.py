"""No byte more is moved than it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.convert import ConvertOptions, convert

HEADER_ROOM = 64 << 10  # what may be moved beside an index


def options(cloud: Any, **more: Any) -> ConvertOptions:
    return ConvertOptions(read=ReadOptions(endpoint_url=cloud.endpoint, **more))


def made(folder: Path, ending: str) -> tuple[Path, int]:
    """Make a model of 1.8 MB and 90 tensors; return it and the bytes of its index."""
    arrays = {f"block_{n}/kernel": np.full((70, 70), n, "f4") for n in range(90)}
    np.savez(folder / "source.npz", **arrays)  # type: ignore[arg-type]
    target = folder / "model" / f"model{ending}"
    target.parent.mkdir(exist_ok=True)
    report = convert(folder / "source.npz", target)
    total = sum(each.size for each in report.plan.files)
    return target, total - sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt", ".npz", ".h5"])
def test_inspecting_moves_the_index_and_little_more(
    ending: str, cloud: Any, tmp_path: Path
) -> None:
    target, index = made(tmp_path, ending)
    url = cloud.put(target.parent, "big") + f"/{target.name}"
    with open_tensors(url, ReadOptions(endpoint_url=cloud.endpoint)) as tensors:
        assert len(tensors) == 90
    assert cloud.proxy.sent <= index + HEADER_ROOM


def test_one_tensor_is_read_without_the_others(cloud: Any, tmp_path: Path) -> None:
    target, index = made(tmp_path, ".safetensors")
    url = cloud.put(target, "big.safetensors")
    with open_tensors(url, ReadOptions(endpoint_url=cloud.endpoint)) as tensors:
        assert tensors["block_7/kernel"].read()[0, 0] == 7
    assert cloud.proxy.sent <= index + HEADER_ROOM + 70 * 70 * 4


def test_converting_moves_each_byte_once(cloud: Any, tmp_path: Path) -> None:
    target, _ = made(tmp_path, ".safetensors")
    url = cloud.put(target, "big.safetensors")
    convert(url, tmp_path / "copy.safetensors", options(cloud))
    assert (tmp_path / "copy.safetensors").read_bytes() == target.read_bytes()
    assert cloud.proxy.sent <= target.stat().st_size + HEADER_ROOM
    assert len([each for each in cloud.proxy.requests if each.method == "GET"]) < 20
