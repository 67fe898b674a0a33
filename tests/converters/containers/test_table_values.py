from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters.containers import sstable, table_values
from tensorferry.converters.containers.messages import Body
from tensorferry.converters.containers.sstable import FOOTER_BYTES, MAGIC, build_table
from tensorferry.converters.containers.table_values import DeferredTensor
from tensorferry.converters.containers.wire import message
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import (
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
)

HUGE = np.arange(400_000, dtype=np.int32).tobytes()  # more than is read at once
MIDDLE = HUGE[:300_000]  # fills a block alone


def _parse(body: Body) -> Tensor:
    """Return field 1 of a message as it lies there, or field 2 as something to be decoded."""
    for number, value in body.bodies():
        if number == 1:
            spec = TensorSpec(DType.UINT8, (value.length,))
            return ExtentTensor(spec, (Extent(value.source, value.start, value.length),))
        if number == 2:
            return MemoryTensor(TensorSpec(DType.UINT8, (value.length,)), value.load)
        return ElementTensor(TensorSpec(DType.STRING, ()), partial(_element, value), value.length)
    raise CorruptFileError("no field")


def _element(body: Body) -> list[bytes]:
    return [body.load()]


def _file(tmp_path: Path, entries: dict[bytes, bytes]) -> Path:
    path = tmp_path / "table"
    path.write_bytes(build_table(sorted(entries.items())))
    return path


def _tensors(path: Path, *, verify: bool = True) -> dict[bytes, Tensor]:
    values = table_values.table_values(FileSource(path), verify=verify)
    return {value.key: value.tensor(_parse) for value in values}


def _bytes(tensor: Tensor) -> bytes:
    return b"".join(map(bytes, tensor.chunks()))


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build tables as other writers may: everything in one block."""
    monkeypatch.setattr(sstable, "BLOCK_BYTES", 1 << 40)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the lengths of all reads from files, as they happen."""
    lengths: list[int] = []
    original = FileSource.read_into

    def recorded(source: FileSource, offset: int, target: memoryview) -> None:
        lengths.append(len(target))
        original(source, offset, target)

    monkeypatch.setattr(FileSource, "read_into", recorded)
    return lengths


@pytest.mark.parametrize("huge", [HUGE, MIDDLE], ids=["huge", "middle"])
def test_a_block_of_one_large_value_is_not_read(
    tmp_path: Path, reads: list[int], huge: bytes
) -> None:
    path = _file(tmp_path, {b"a": message((1, huge)), b"b": message((1, huge))})
    tensors = _tensors(path)
    extents = [tensor.extents for tensor in tensors.values()]
    assert all(extents)
    assert sum(reads) < 4_000
    assert [_bytes(tensor) for tensor in tensors.values()] == [huge, huge]


def test_the_checksum_of_a_large_value_is_derived(tmp_path: Path) -> None:
    tensor = _tensors(_file(tmp_path, {b"a": message((1, HUGE))}))[b"a"]
    (extent,) = tensor.extents or ()
    assert extent.checksum is not None
    assert extent.checksum.value == extent.checksum.algorithm.update(HUGE)
    assert tensor.extents == (extent,)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("place", [7, 900_000, -6])
def test_damage_of_a_large_value_shows_when_it_is_read(
    tmp_path: Path, number: int, place: int
) -> None:
    path = _file(tmp_path, {b"a": message((number, HUGE))})
    start = path.read_bytes().index(HUGE[:100])
    _flip(path, start + (place if place > 0 else len(HUGE) + place))
    tensor = _tensors(path)[b"a"]
    with pytest.raises(CorruptFileError, match="crc32c of the b") as caught:
        tensor.elements() if number == 3 else _bytes(tensor)
    assert caught.value.path == str(path)
    unverified = _tensors(path, verify=False)[b"a"]
    assert unverified.elements() if number == 3 else _bytes(unverified)


@pytest.mark.usefixtures("one_block")
def test_a_large_block_of_several_values_is_checked_once_before_any(
    tmp_path: Path, reads: list[int]
) -> None:
    entries = {b"k" * (600 + n): message((1, HUGE[n:])) for n in range(3)}
    entries |= {b"z": message((3, b"text")), b"zz": message((2, HUGE))}
    path = _file(tmp_path, entries)
    tensors = _tensors(path)
    assert sum(reads) < 12_000
    found = {key: _bytes(tensor) for key, tensor in tensors.items() if key != b"z"}
    assert sum(reads) < 4 * path.stat().st_size
    assert found == {b"k" * (600 + n): HUGE[n:] for n in range(3)} | {b"zz": HUGE}
    assert tensors[b"z"].elements() == [b"text"]
    assert tensors[b"z"].nbytes == 4
    assert tensors[b"zz"].extents is None


@pytest.mark.usefixtures("one_block")
def test_damage_in_a_large_block_shows_with_each_of_its_values(tmp_path: Path) -> None:
    path = _file(tmp_path, {b"a": message((1, HUGE)), b"b": message((1, b"small"))})
    _flip(path, 1000)
    tensors = _tensors(path)
    for tensor in tensors.values():
        with pytest.raises(CorruptFileError, match="crc32c of the block differs") as caught:
            _bytes(tensor)
        assert caught.value.where == "block at byte 0"
    assert _bytes(_tensors(path, verify=False)[b"b"]) == b"small"


def test_small_blocks_are_verified_at_once_and_read_again(tmp_path: Path) -> None:
    entries = {b"a": message((1, b"ab")), b"b": message((2, b"cd")), b"c": message((1, MIDDLE))}
    path = _file(tmp_path, entries)
    tensors = _tensors(path)
    (extent,) = tensors[b"a"].extents or ()
    assert extent.checksum is not None
    assert extent.source.read(extent.offset, extent.length) == b"ab"
    assert [_bytes(tensor) for tensor in tensors.values()] == [b"ab", b"cd", MIDDLE]
    assert (_tensors(path, verify=False)[b"a"].extents or ())[0].checksum is None
    _flip(path, extent.offset)
    with pytest.raises(CorruptFileError, match="crc32c of the bytes differs"):
        _bytes(tensors[b"a"])
    with pytest.raises(CorruptFileError, match="crc32c of the block differs"):
        _tensors(path)


def test_whole_values_are_verified(tmp_path: Path) -> None:
    path = _file(tmp_path, {b"a": message((1, HUGE)), b"b": b"small"})
    values = table_values.table_values(FileSource(path))
    assert [value.load() for value in values] == [message((1, HUGE)), b"small"]
    unverified = table_values.table_values(FileSource(path), verify=False)
    assert next(unverified).load() == message((1, HUGE))
    _flip(path, 1000)
    first = next(table_values.table_values(FileSource(path)))
    with pytest.raises(CorruptFileError, match="crc32c of the block differs"):
        first.load()


def test_compressed_blocks_are_unpacked_again_for_each_value(
    tmp_path: Path, v1_table: Callable[..., bytes]
) -> None:
    path = tmp_path / "table"
    entries = [(b"x", message((1, MIDDLE))), (b"y", message((3, b"text")))]
    path.write_bytes(v1_table({}, packed=True, blocks=(1,), extra=entries))
    values = list(table_values.table_values(FileSource(path)))
    assert values[0].load().startswith(b"\x0a")
    tensors = {value.key: value.tensor(_parse) for value in values[1:]}
    assert all(isinstance(tensor, DeferredTensor) for tensor in tensors.values())
    assert _bytes(tensors[b"x"]) == MIDDLE
    assert tensors[b"y"].elements() == [b"text"]
    _flip(path, 300)
    with pytest.raises(CorruptFileError, match="crc32c of the block differs"):
        _bytes(tensors[b"x"])


@pytest.mark.parametrize("value", [HUGE, MIDDLE], ids=["huge", "middle"])
@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_damaged_heads_of_large_blocks_are_refused(tmp_path: Path, value: bytes, at: int) -> None:
    path = _file(tmp_path, {b"a": message((1, value))})
    data = bytearray(path.read_bytes())
    data[at] = 0xFF
    path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        list(map(_bytes, _tensors(path).values()))
    assert caught.value.path == str(path)


def test_restart_points_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, {b"a": message((1, HUGE))})
    data = bytearray(path.read_bytes())
    at = data.index(b"\1\0\0\0\0", len(HUGE))
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="restart points"):
        _tensors(path)


def test_blocks_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table"
    block = build_table([(b"a", b"x")])[:18]
    index = b"\0\1\2a\0\x0d" + b"\0\1\2b\0\x0d" + bytes.fromhex("0000000001000000")
    footer = bytes([0, 0, len(block), len(index)]).ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC
    path.write_bytes(block + index + bytes(5) + footer)
    values = table_values.table_values(FileSource(path), verify=False)
    assert next(values).body.load() == b"x"
    with pytest.raises(CorruptFileError, match="blocks overlap") as caught:
        next(values)
    assert caught.value.where == "block at byte 0"
