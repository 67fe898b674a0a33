"""Every small sample, cut short at every length and with every byte of its index changed.

What comes out is a `ConvertError` or the very same tensors, never another exception.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.errors import ConvertError
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_named
from tensorferry.converters.testing.contracts import contents, tensors_of

INDEX_BYTES = 3000  # larger ones take too long here and hold nothing that is new
FLIP = 0x55  # half of the bits: lengths, tags and checksums all change
SHARD_STEPS = 150  # positions tried in a data shard

Values = Mapping[str, object]

SAMPLES = [
    "tf1_partitioned",
    "tf1_multi_shard",
    "tf1_adam_ema",
    "tf_module_object",
    "max_shard_slices",
    "tf_keras_object",
    "keras3_object",
    "all_dtypes",
]


@pytest.fixture(params=SAMPLES)
def copied(request: pytest.FixtureRequest, samples: Path, tmp_path: Path) -> Path:
    """Return the prefix of a sample's copy that may be damaged."""
    folder = tmp_path / "m"
    shutil.copytree(samples / request.param, folder, ignore=shutil.ignore_patterns("*.meta"))
    (index,) = folder.glob("*.index")
    assert index.stat().st_size < INDEX_BYTES
    return index.with_suffix("")


def _read(path: Path, *, verify: bool = True) -> tuple[Values, Values]:
    """Return what can be read by name, and what the file says about each tensor that cannot."""
    with open_tensors(path, ReadOptions(verify=verify)) as tensors:
        values: dict[str, object] = {}
        failures: dict[str, object] = {}
        for name, tensor in tensors.items():
            try:
                tensor.read()
                values |= contents({name: tensor})
            except ConvertError as error:
                failures[name] = error
                assert error.path, name  # noqa: PT017 - the error is one of many
        return values, failures


def _cut(data: bytes) -> Iterator[bytes]:
    yield from (data[:length] for length in range(len(data)))


def _flipped(data: bytes, step: int = 1) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ FLIP]) + data[at + 1 :]


def _refused(path: Path, **options: bool) -> ConvertError | None:
    """Return the error of opening; None where it opens."""
    try:
        _read(path, **options)
    except ConvertError as error:
        return error
    return None


def test_an_index_cut_at_any_length_is_refused(copied: Path) -> None:
    index = copied.with_name(f"{copied.name}.index")
    for data in _cut(index.read_bytes()):
        index.write_bytes(data)
        error = _refused(copied)
        assert error, len(data)
        assert error.path == str(index), len(data)


def test_an_index_with_any_byte_changed_is_refused_or_harmless(copied: Path) -> None:
    index = copied.with_name(f"{copied.name}.index")
    whole = _read(copied)
    harmless = 0
    for data in _flipped(index.read_bytes()):
        index.write_bytes(data)
        error = _refused(copied)
        if error is None:
            assert _read(copied) == whole
            harmless += 1
        else:
            assert error.path == str(index)
    # The empty metaindex, its trailer, its handle and the padding of the footer are not read.
    assert harmless <= 13 + 40


def test_an_index_whose_checksums_are_not_checked_never_crashes(copied: Path) -> None:
    index = copied.with_name(f"{copied.name}.index")
    names = set(_read(copied)[0])
    outcomes = {"refused": 0, "opened": 0}
    for data in _flipped(index.read_bytes()):
        index.write_bytes(data)
        error = _refused(copied, verify=False)
        outcomes["refused" if error else "opened"] += 1
        assert error is None or error.path
    assert names
    assert outcomes["refused"] > 10
    assert outcomes["opened"] > 10


def _shards(prefix: Path) -> list[Path]:
    return sorted(prefix.parent.glob(f"{prefix.name}.data-*"))


def _each_damaged(
    shard: Path, make: Callable[[bytes], Iterator[bytes]]
) -> Iterator[tuple[int, bytes]]:
    whole = shard.read_bytes()
    for number, data in enumerate(make(whole)):
        shard.write_bytes(data)
        yield number, data
    shard.write_bytes(whole)


def _spread(data: bytes) -> Iterator[bytes]:
    return _flipped(data, max(len(data) // SHARD_STEPS, 1))


def _cut_spread(data: bytes) -> Iterator[bytes]:
    step = max(len(data) // SHARD_STEPS, 1)
    yield from (data[:length] for length in range(0, len(data), step))


@pytest.mark.parametrize("make", [_spread, _cut_spread])
def test_a_damaged_shard_costs_only_what_lies_there(
    copied: Path, make: Callable[[bytes], Iterator[bytes]]
) -> None:
    # Names come from the object graph, which lies in a shard too; keys are always the same.
    whole = _read_keys(copied)[0]
    for shard in _shards(copied):
        for number, _ in _each_damaged(shard, make):
            values, failures = _read_keys(copied)
            assert values.keys() | failures.keys() == whole.keys(), number
            assert all(whole[name] == value for name, value in values.items()), number
    assert _read_keys(copied) == (whole, {})


def _read_keys(prefix: Path) -> tuple[Values, Values]:
    with open_tensors(prefix, ReadOptions(names="key")) as tensors:
        values: dict[str, object] = {}
        failures: dict[str, object] = {}
        for name, tensor in tensors.items():
            try:
                values |= contents({name: tensor})
            except ConvertError as error:
                failures[name] = error
    return values, failures


# safetensors


@pytest.fixture
def safetensors(tmp_path: Path) -> Path:
    """Return a small file with all that a header may hold."""
    plan = format_named("safetensors").plan
    assert plan
    target = tmp_path / "m.safetensors"
    tensors = tensors_of(
        {
            "dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
            "größe": np.arange(3, dtype=np.int8),
            "empty": np.zeros((0, 2), np.int16),
            "__metadata__": [b"text", b"\xff"],
        }
    )
    write_plan(plan(tensors, target, WriteOptions()))
    return target


def test_a_safetensors_file_cut_at_any_length_is_refused(safetensors: Path) -> None:
    for data in _cut(safetensors.read_bytes()):
        safetensors.write_bytes(data)
        error = _refused(safetensors)
        assert error, len(data)
        assert error.path == str(safetensors)


@pytest.mark.parametrize("pattern", [0x01, 0x04, 0x20, 0x80])
def test_a_header_with_any_byte_changed_is_refused_or_sound(
    safetensors: Path, pattern: int
) -> None:
    whole = safetensors.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for at in range(length):
        safetensors.write_bytes(whole[:at] + bytes([whole[at] ^ pattern]) + whole[at + 1 :])
        error = _refused(safetensors)
        # A header has no checksum: another name is as good as the one before.
        if error is None:
            with open_tensors(safetensors) as tensors:
                sizes = [tensor.nbytes for tensor in tensors.values() if tensor.extents]
            assert sum(sizes) == len(whole) - length, at
        else:
            assert error.path == str(safetensors), at
            refused += 1
    assert refused > length // 3
