from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.checksums import Algorithm, Checksum
from tensorferry.converters.copier import PIECE_BYTES, THREAD_FLOOR_BYTES
from tensorferry.converters.digests import digest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, TargetError
from tensorferry.converters.output import (
    Literal,
    Placement,
    Plan,
    PlannedFile,
    Written,
    write_plan,
)
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import (
    CHUNK_BYTES,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
)
from tensorferry.converters.testing.contracts import listing

LARGE = THREAD_FLOOR_BYTES + 3 * PIECE_BYTES + 12_345
jobs = pytest.mark.parametrize("jobs", [1, 4])
digests = pytest.mark.parametrize("with_digests", [False, True])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSource]:
    """Return a file of bytes that repeat nowhere near a piece."""
    path = tmp_path_factory.mktemp("output") / "source"
    path.write_bytes(np.arange(LARGE // 4 + 1, dtype=">u4").tobytes())
    found = FileSource(path)
    yield found
    found.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an empty folder to write into."""
    return tmp_path


def _bytes(source: FileSource, *ranges: tuple[int, int]) -> bytes:
    return b"".join(source.read(offset, length) for offset, length in ranges)


def _tensor(
    source: FileSource,
    *ranges: tuple[int, int],
    algorithm: Algorithm | None = Algorithm.CRC32C,
    wrong: int | None = None,
) -> ExtentTensor:
    """Return a tensor of byte ranges; the checksum of the one numbered `wrong` does not fit."""
    extents = []
    for number, (offset, length) in enumerate(ranges):
        checksum = None
        if algorithm:
            value = algorithm.update(_bytes(source, (offset, length)))
            checksum = Checksum(algorithm, value ^ (number == wrong))
        extents.append(Extent(source, offset, length, checksum))
    size = sum(length for _, length in ranges)
    return ExtentTensor(TensorSpec(DType.UINT8, (size,)), tuple(extents))


def _file(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    algorithm: Algorithm | None = None,
    gap: int = 0,
    literals: tuple[Literal, ...] = (),
    finish: Callable[[Mapping[str, int]], Iterable[Literal]] | None = None,
) -> PlannedFile:
    """Plan a file with tensors one behind the other, `gap` bytes before each."""
    placements, at = [], 0
    for name, tensor in tensors.items():
        placements.append(Placement(name, tensor, at + gap))
        at += gap + tensor.nbytes
    return PlannedFile(path, at, literals, tuple(placements), algorithm, finish)


def _write(*files: PlannedFile, **options: object) -> Written:
    return write_plan(Plan("test", files), **options)  # type: ignore[arg-type]


class _Made(Tensor):
    """A tensor that is streamed, and may break off."""

    def __init__(self, data: bytes, failure: BaseException | None = None) -> None:
        self.spec = TensorSpec(DType.UINT8, (len(data),))
        self._data = data
        self._failure = failure

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        view = memoryview(self._data)
        for at in range(0, len(view), max_bytes):
            yield view[at : at + max_bytes]
        if self._failure:
            raise self._failure


# Bytes come to their places

SIZES = {
    "one byte": [(7, 1)],
    "a piece": [(0, PIECE_BYTES)],
    "more than a piece": [(5, PIECE_BYTES + 1)],
    "several pieces": [(3, 3 * PIECE_BYTES + 17)],
    "several extents": [(100, 50), (0, 20), (1000, PIECE_BYTES), (90, 3)],
    "extents out of order": [(2 * PIECE_BYTES, PIECE_BYTES), (0, 2 * PIECE_BYTES)],
    "empty extents": [(5, 0), (9, 4), (5, 0)],
    "no bytes": [(0, 0)],
    "no extents": [],
    "all": [(0, LARGE)],
    "many extents": [(offset, 97) for offset in range(0, 3 * PIECE_BYTES, 1009)],
}


@jobs
@digests
@pytest.mark.parametrize("gap", [0, 1, PIECE_BYTES - 3])
@pytest.mark.parametrize("ranges", SIZES.values(), ids=SIZES)
def test_a_tensor_is_copied(
    source: FileSource,
    folder: Path,
    ranges: list[tuple[int, int]],
    gap: int,
    with_digests: bool,
    jobs: int,
) -> None:
    tensor = _tensor(source, *ranges)
    file = _file(folder / "out", {"t": tensor}, algorithm=Algorithm.CRC32C, gap=gap)
    written = _write(file, jobs=jobs, digests=with_digests)
    data = _bytes(source, *ranges)
    assert (folder / "out").read_bytes() == bytes(gap) + data
    assert written.checksums == {"t": Algorithm.CRC32C.update(data)}
    assert written.digests == ({"t": digest(tensor)} if with_digests else {})


@st.composite
def _layouts(draw: st.DrawFn) -> list[tuple[int, list[tuple[int, int]], bool]]:
    """Draw for each tensor the gap before it, its ranges, and whether it is streamed."""
    length = st.one_of(
        st.integers(0, 300),
        st.integers(PIECE_BYTES - 40, PIECE_BYTES + 40),
        st.integers(0, 2 * PIECE_BYTES + 5),
    )
    ranges = st.lists(st.tuples(st.integers(0, LARGE // 2), length), max_size=3)
    gap = st.sampled_from([0, 0, 0, 1, 7, 64, PIECE_BYTES])
    return draw(st.lists(st.tuples(gap, ranges, st.booleans()), max_size=6))


@given(_layouts(), st.booleans())
def test_any_layout_is_copied(
    source: FileSource,
    tmp_path_factory: pytest.TempPathFactory,
    layout: list[tuple[int, list[tuple[int, int]], bool]],
    with_digests: bool,
) -> None:
    placements, expected, checksums = [], bytearray(), {}
    for number, (gap, ranges, streamed) in enumerate(layout):
        data = _bytes(source, *ranges)
        expected += bytes(gap)
        tensor = _Made(data) if streamed else _tensor(source, *ranges)
        placements.append(Placement(str(number), tensor, len(expected)))
        checksums[str(number)] = Algorithm.CRC32C.update(data)
        expected += data
    path = tmp_path_factory.mktemp("layout") / "out"
    file = PlannedFile(path, len(expected), (), tuple(placements), Algorithm.CRC32C)
    written = _write(file, digests=with_digests)
    assert path.read_bytes() == bytes(expected)
    assert written.checksums == checksums
    assert len(written.digests) == (len(layout) if with_digests else 0)
    path.unlink()


@jobs
def test_extents_and_streams_go_together(source: FileSource, folder: Path, jobs: int) -> None:
    made = bytes(range(256)) * 9000
    tensors: dict[str, Tensor] = {
        "a": _tensor(source, (0, LARGE)),
        "b": _Made(made),
        "c": _tensor(source, (5, 10)),
        "d": _Made(b""),
        "e": MemoryTensor(TensorSpec(DType.UINT8, (3,)), lambda: b"xyz"),
    }
    written = _write(_file(folder / "out", tensors, algorithm=Algorithm.CRC32), jobs=jobs)
    parts = [_bytes(source, (0, LARGE)), made, _bytes(source, (5, 10)), b"", b"xyz"]
    assert (folder / "out").read_bytes() == b"".join(parts)
    assert written.checksums == {
        name: Algorithm.CRC32.update(part) for name, part in zip(tensors, parts, strict=True)
    }


@pytest.mark.parametrize("kept", [None, *Algorithm])
@pytest.mark.parametrize("needed", [None, *Algorithm])
def test_checksums_of_source_and_target_may_differ(
    source: FileSource, folder: Path, kept: Algorithm | None, needed: Algorithm | None
) -> None:
    ranges = [(0, PIECE_BYTES), (17, 99)]
    tensors = {"long": _tensor(source, *ranges, algorithm=kept),
               "short": _tensor(source, (3, 4), algorithm=kept)}  # fmt: skip
    written = _write(_file(folder / "out", tensors, algorithm=needed))
    if needed:
        assert written.checksums == {
            "long": needed.update(_bytes(source, *ranges)),
            "short": needed.update(_bytes(source, (3, 4))),
        }
    assert (folder / "out").stat().st_size == PIECE_BYTES + 103


def test_literals_and_what_is_known_afterwards(source: FileSource, folder: Path) -> None:
    seen: list[dict[str, int]] = []

    def finish(checksums: Mapping[str, int]) -> list[Literal]:
        seen.append(dict(checksums))
        return [(0, b"INDEX")]

    data = _file(
        folder / "data",
        {"t": _tensor(source, (9, 4))},
        algorithm=Algorithm.CRC32C,
        gap=6,
        literals=((0, b"head"), (5, b"!")),
    )
    index = PlannedFile(folder / "index", 5, finish=finish)
    _write(data, index)
    value = Algorithm.CRC32C.update(_bytes(source, (9, 4)))
    assert seen == [{"t": value}]
    assert listing(folder) == {
        "data": b"head\0!" + _bytes(source, (9, 4)),
        "index": b"INDEX",
    }


def test_short_writes_are_continued(
    source: FileSource, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:99_991], at))
    _write(_file(folder / "out", {"t": _tensor(source, (1, 2 * PIECE_BYTES))}))
    assert (folder / "out").read_bytes() == _bytes(source, (1, 2 * PIECE_BYTES))


@jobs
def test_progress_counts_every_byte(source: FileSource, folder: Path, jobs: int) -> None:
    counted: list[int] = []
    tensors = {"a": _tensor(source, (0, LARGE)), "b": _Made(bytes(2_000_000))}
    file = _file(folder / "out", tensors)
    _write(file, jobs=jobs, advance=counted.append)
    assert sum(counted) == file.size
    assert len(counted) > 10


# What is wrong with the source


@jobs
@digests
@pytest.mark.parametrize(
    ("ranges", "wrong"),
    [
        ([(3, 100)], 0),
        ([(3, PIECE_BYTES + 100)], 0),
        ([(3, 50), (100, 50)], 0),
        ([(3, 50), (100, 50)], 1),
        ([(3, 50), (100, 2 * PIECE_BYTES)], 0),
        ([(3, 50), (100, 2 * PIECE_BYTES)], 1),
        ([(0, LARGE)], 0),
    ],
)
def test_a_wrong_checksum_names_the_tensor(
    source: FileSource,
    folder: Path,
    ranges: list[tuple[int, int]],
    wrong: int,
    with_digests: bool,
    jobs: int,
) -> None:
    tensors = {"good": _tensor(source, (0, 9)), "bad": _tensor(source, *ranges, wrong=wrong)}
    with pytest.raises(CorruptFileError, match="tensor `bad`") as caught:
        _write(_file(folder / "out", tensors), jobs=jobs, digests=with_digests)
    offset, length = ranges[wrong]
    assert caught.value.where == f"tensor `bad`: byte {offset} to {offset + length}"
    assert caught.value.path == str(source.path)
    assert list(folder.iterdir()) == []


@jobs
def test_a_source_that_ends_early_names_the_tensor(
    source: FileSource, folder: Path, jobs: int
) -> None:
    extent = Extent(source, source.size - 5, 10)
    tensor = ExtentTensor(TensorSpec(DType.UINT8, (10,)), (extent,))
    with pytest.raises(CorruptFileError, match=r"tensor `t`: byte .*: the file ends early"):
        _write(_file(folder / "out", {"t": tensor}), jobs=jobs)
    assert list(folder.iterdir()) == []


def test_the_same_range_may_stand_twice_in_a_tensor(source: FileSource, folder: Path) -> None:
    value = Algorithm.CRC32C.update(_bytes(source, (8, 16)))
    extent = Extent(source, 8, 16, Checksum(Algorithm.CRC32C, value))
    tensor = ExtentTensor(TensorSpec(DType.UINT8, (32,)), (extent, extent))
    _write(_file(folder / "out", {"t": tensor}))
    assert (folder / "out").read_bytes() == 2 * _bytes(source, (8, 16))


def test_the_checksum_of_an_empty_range_counts_too(source: FileSource, folder: Path) -> None:
    empty = Extent(source, 8, 0, Checksum(Algorithm.CRC32C, 1))
    tensor = ExtentTensor(TensorSpec(DType.UINT8, (4,)), (Extent(source, 0, 4), empty))
    with pytest.raises(CorruptFileError, match="tensor `t`: byte 8 to 8: crc32c"):
        _write(_file(folder / "out", {"t": tensor}))
    assert list(folder.iterdir()) == []


def test_a_stream_that_fails_names_the_tensor(folder: Path) -> None:
    tensor = _Made(bytes(10), CorruptFileError("made to fail"))
    with pytest.raises(CorruptFileError, match="tensor `t`: made to fail"):
        _write(_file(folder / "out", {"t": tensor}))
    assert list(folder.iterdir()) == []


# Never half a file


@jobs
def test_an_interrupt_leaves_nothing(source: FileSource, folder: Path, jobs: int) -> None:
    tensors = {"a": _tensor(source, (0, LARGE)), "b": _Made(bytes(9), KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        _write(_file(folder / "out", tensors), jobs=jobs)
    assert list(folder.iterdir()) == []


def test_an_interrupt_leaves_the_old_file(source: FileSource, folder: Path) -> None:
    (folder / "out").write_bytes(b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    file = _file(folder / "out", {"a": _tensor(source, (0, 9))})
    with pytest.raises(KeyboardInterrupt):
        _write(file, overwrite=True, advance=interrupted)
    assert listing(folder) == {"out": b"old"}


def test_what_is_raised_before_the_commit_leaves_nothing(source: FileSource, folder: Path) -> None:
    looked: list[tuple[dict[str, bytes], Written]] = []

    def refuse(staged: Path, written: Written) -> None:
        looked.append((listing(staged), written))
        raise CorruptFileError("does not read back")

    file = _file(folder / "out", {"t": _tensor(source, (0, 4))})
    with pytest.raises(CorruptFileError, match="does not read back"):
        _write(file, before_commit=refuse)
    assert [files for files, _ in looked] == [{"out": _bytes(source, (0, 4))}]
    assert list(folder.iterdir()) == []


def test_a_target_that_needs_more_space_than_there_is_is_refused(folder: Path) -> None:
    file = PlannedFile(folder / "out", 1 << 60)
    with pytest.raises(TargetError, match="not enough space, expected 1152921504606846976 bytes"):
        _write(file)
    assert list(folder.iterdir()) == []


def test_a_disk_that_fails_is_named(
    source: FileSource, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EFBIG, "too big")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(TargetError, match="cannot be written: file too large") as caught:
        _write(_file(folder / "out", {"t": _tensor(source, (0, 4))}))
    assert caught.value.path == str(folder / "out")
    assert caught.value.hint
    assert list(folder.iterdir()) == []


def test_the_size_of_a_plan_is_that_of_its_files(folder: Path) -> None:
    files = (PlannedFile(folder / "a", 3), PlannedFile(folder / "b", 4))
    assert Plan("test", files).size == 7


class _Seen:
    """Takes down what is written, and in which order it was handed out."""

    def __init__(self) -> None:
        self.pieces: list[tuple[int, int, bytes]] = []
        self.stops = 0
        self._lock = threading.Lock()

    def write(self, index: int, offset: int, view: memoryview) -> None:
        with self._lock:
            self.pieces.append((index, offset, bytes(view)))

    def stop(self) -> None:
        self.stops += 1


def _observed_plan(folder: Path, fails: bool = False) -> Plan:
    """Plan two files, of tensors with byte ranges and between them such that have none."""
    source = folder / "source"
    source.write_bytes(os.urandom(40 << 20))
    source_file, placements, at = FileSource(source), [], 100
    for number, nbytes in enumerate([3 << 20, 5, 0, 20 << 20, 7, 1 << 20, 11, 9 << 20]):
        spec = TensorSpec(DType.UINT8, (nbytes,))
        tensor: Tensor = ExtentTensor(spec, (Extent(source_file, number * 3, nbytes),))
        if number % 3 == 1:
            tensor = MemoryTensor(spec, lambda nbytes=nbytes: b"m" * nbytes)
        if fails and number == 5:
            tensor = ExtentTensor(spec, (Extent(source_file, 40 << 20, nbytes),))
        placements.append(Placement(f"t{number}", tensor, at))
        at += nbytes
    large = PlannedFile(folder / "large", at, ((0, b"h" * 100),), tuple(placements))
    small = PlannedFile(folder / "small", 3, ((0, b"abc"),))
    return Plan("test", (large, small))


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_an_observer_sees_every_byte_once_and_in_order(tmp_path: Path, jobs: int) -> None:
    seen = _Seen()
    write_plan(_observed_plan(tmp_path), jobs=jobs, observer=seen)
    for index, name in enumerate(("large", "small")):
        pieces = [(offset, data) for number, offset, data in seen.pieces if number == index]
        if jobs > 1:
            pieces.sort()
        joined = b""
        for offset, data in pieces:
            assert offset == len(joined)
            joined += data
        assert joined == (tmp_path / name).read_bytes()
    assert not seen.stops


def test_an_observer_is_told_to_stop(tmp_path: Path) -> None:
    seen = _Seen()
    with pytest.raises(CorruptFileError, match="t5"):
        write_plan(_observed_plan(tmp_path, fails=True), jobs=2, observer=seen)
    assert seen.stops
