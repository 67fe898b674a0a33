"""The inventory of a 100 GB model touches its index alone, and a slice its own bytes alone."""

from __future__ import annotations

import io
import json
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tensorferry.converters.containers.bundle_writer import Row, plan_bundle
from tensorferry.converters.dtypes import DType
from tensorferry.converters.registry import ReadOptions
from tensorferry.converters.tensors import MemoryTensor, TensorSpec
from tensorferry.pipeline.run_inspect import InspectOptions, run_inspect

TOTAL = 100 * 10**9
COUNT = 1000
SPEC = TensorSpec(DType.FLOAT32, (TOTAL // COUNT // 4000, 1000))

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/io").exists(), reason="the kernel does not count what is read"
)


def bytes_read() -> int:
    """Return how much this process has read, as the kernel counts it."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def inspected(path: Path, **options: object) -> tuple[str, int]:
    """Return what is printed, and how many bytes were read for it; at most a second it takes."""
    chosen = InspectOptions(quiet=True, **options)  # type: ignore[arg-type]
    out = io.StringIO()
    with redirect_stdout(io.StringIO()):
        run_inspect(str(path), ReadOptions(), chosen)  # modules are imported once
    before, began = bytes_read(), time.perf_counter()
    with redirect_stdout(out):
        run_inspect(str(path), ReadOptions(), chosen)
    seconds, count = time.perf_counter() - began, bytes_read() - before
    assert seconds < 1
    return out.getvalue(), count


def _sparse(path: Path, head: bytes, nbytes: int) -> Path:
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + nbytes)
    return path


def _name(number: int) -> str:
    return f"layer_{number:03}/kernel"


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    header = {
        _name(number): {
            "dtype": "F32",
            "shape": SPEC.shape,
            "data_offsets": [number * SPEC.nbytes, (number + 1) * SPEC.nbytes],
        }
        for number in range(COUNT)
    }
    text = json.dumps(header).encode()
    return _sparse(tmp_path / "m.safetensors", len(text).to_bytes(8, "little") + text, TOTAL)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    prefix = tmp_path / "model.ckpt"
    tensor = MemoryTensor(SPEC, bytes)
    rows = [Row(_name(number), _name(number), tensor) for number in range(COUNT)]
    plan = plan_bundle(prefix, rows, prefix)
    [shard] = plan.shards
    assert shard.size == TOTAL
    _sparse(shard.path, b"", TOTAL)
    assert plan.index.finish
    [(_, index)] = plan.index.finish({})
    plan.index.path.write_bytes(index)
    return prefix


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint"])
def test_an_inventory_reads_the_index_alone(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    index = path if kind == "safetensors" else path.with_name("model.ckpt.index")
    most = 200_000 if kind == "safetensors" else 2 * index.stat().st_size + 20_000
    for options in ({}, {"as_json": True}, {"as_tree": True, "sort": "size"}):
        text, count = inspected(path, **options)
        assert f"{TOTAL}" in text.replace(",", "")
        assert count < most


@pytest.mark.parametrize("kind", ["safetensors", "checkpoint"])
def test_a_part_of_a_tensor_is_read_alone(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    _, alone = inspected(path)
    text, count = inspected(path, names=(f"{_name(7)}[-2:, :3]",))
    assert text.splitlines() == [
        f"{_name(7)}[-2:, :3]  float32  2x3", "[[0. 0. 0.]", " [0. 0. 0.]]",
    ]  # fmt: skip
    assert count < alone + 5000
    text, count = inspected(path, names=(_name(7),))
    assert text.splitlines()[0] == f"{_name(7)}  float32  25000x1000"
    assert count < alone + 50_000
