"""What every reader and every writer promises, as test classes to subclass.

    class TestReader(ReaderContract):
        FORMAT = FORMAT

        @pytest.fixture(params=["one.xyz", "two.xyz"])
        def sample(self, request) -> Path: ...     # one file, folder or prefix of this format

        @pytest.fixture
        def foreign(self) -> list[Path]: ...       # files of other formats

    class TestWriter(WriterContract):
        FORMAT = FORMAT

Nothing here is collected by itself, and nothing but pytest is needed to run it.
"""

# ruff: noqa: D102 - the name of a test is the sentence that a docstring would repeat

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import count, pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ..checksums import Algorithm, Checksum
from ..containers.tensor_bundle import LOW_BITS
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, TargetError, UsageError
from ..output import Plan, Written, write_plan
from ..registry import HEAD_BYTES, Format, Location, ReadOptions, WriteOptions
from ..sources import Extent, FileSource
from ..tensors import (
    CHUNK_BYTES,
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorDict,
    TensorSpec,
)

if TYPE_CHECKING:
    import numpy as np
    import pytest

__all__ = [
    "ReaderContract", "Values", "WriterContract", "canonical", "contents", "listing", "tensors_of",
]  # fmt: skip

# What a tensor may be given as: an array, a list of strings, or dtype, shape and bytes.
Values: TypeAlias = "np.ndarray | list[bytes] | tuple[DType, tuple[int, ...], bytes] | Tensor"
# Dtype, shape, and the bytes or the elements.
Content: TypeAlias = tuple[DType, tuple[int, ...], bytes | list[bytes]]


def canonical(dtype: DType, raw: bytes) -> bytes:
    """Return bytes that are values of `dtype`: bool 0 or 1, 4-bit types within their range."""
    if dtype is DType.BOOL:
        return bytes(byte & 1 for byte in raw)
    table = LOW_BITS.get(dtype)
    return raw.translate(table) if table else raw


def tensors_of(values: Mapping[str, Values]) -> TensorDict:
    """Return a dictionary of tensors that lie in memory."""
    tensors = {name: _tensor(value) for name, value in values.items()}
    return TensorDict(format="memory", summary="tensors in memory", tensors=tensors)


def _tensor(value: Values) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, tuple):
        dtype, shape, raw = value
        return MemoryTensor(TensorSpec(dtype, shape), lambda: raw)
    if isinstance(value, list):
        return _strings(value, (len(value),))
    if value.dtype == object:
        return _strings(list(value.ravel()), value.shape)
    named = DType.named(value.dtype.name)
    if named is None:
        raise TypeError(f"{value.dtype} is none of our types")
    # ml_dtypes leaves the high bits of its 4-bit types 0; ours are sign-extended.
    raw = canonical(named, value.tobytes())
    return MemoryTensor(TensorSpec(named, value.shape), lambda: raw)


def _strings(elements: list[bytes], shape: tuple[int, ...]) -> ElementTensor:
    spec = TensorSpec(DType.STRING, shape)
    return ElementTensor(spec, lambda: elements, sum(map(len, elements)))


def contents(tensors: Mapping[str, Tensor]) -> dict[str, Content]:
    """Return all there is to compare: dtype, shape and bytes (or elements) by name."""
    return {name: _content(tensor) for name, tensor in tensors.items()}


def _content(tensor: Tensor) -> Content:
    spec = tensor.spec
    if spec.dtype.variable:
        return spec.dtype, spec.shape, tensor.elements()
    return spec.dtype, spec.shape, b"".join(map(bytes, tensor.chunks()))


def listing(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, and what they hold."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _failure(call: Callable[[], object]) -> ConvertError | None:
    try:
        call()
    except ConvertError as error:
        return error
    return None


class ReaderContract:
    """What opening a sample promises.

    Attributes:
        FORMAT: the format under test.
        PAGE_BYTES: metadata may be read in pages of this size, whatever else lies in them.
    """

    FORMAT: ClassVar[Format]
    PAGE_BYTES: ClassVar[int] = 0

    def _open(self, sample: Path, options: ReadOptions | None = None) -> TensorDict:
        return self.FORMAT.open(Location(sample), options or ReadOptions())

    def test_sniff_says_yes(self, sample: Path) -> None:
        assert self.FORMAT.sniff(Location(sample))

    def test_sniff_says_no_to_other_formats(self, foreign: Iterable[Path]) -> None:
        claimed = [path for path in foreign if self.FORMAT.sniff(Location(path))]
        assert not claimed

    def test_sniff_says_no_to_what_is_not_there(self, tmp_path: Path) -> None:
        assert not self.FORMAT.sniff(Location(tmp_path / "nothing"))
        assert not self.FORMAT.sniff(Location(tmp_path))

    def test_names_the_format(self, sample: Path) -> None:
        with self._open(sample) as tensors:
            assert tensors.format == self.FORMAT.name
            assert tensors.summary

    def test_open_reads_no_tensor_data(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reads: list[tuple[Path, int, int]] = []
        original = FileSource.read_into

        def recorded(source: FileSource, offset: int, target: memoryview) -> None:
            reads.append((source.path, offset, offset + len(target)))
            original(source, offset, target)

        monkeypatch.setattr(FileSource, "read_into", recorded)
        with self._open(sample) as tensors:
            extents = [each for name in tensors for each in tensors[name].extents or ()]
        touched = [
            (path, start, stop)
            for extent in extents
            for path, start, stop in reads
            if path == extent.source.path
            and start < extent.offset + extent.length
            and extent.offset < stop
            and extent.length
            and stop - start > self.PAGE_BYTES
            and (start or stop > HEAD_BYTES)  # which sniffing reads of every file
        ]
        assert not touched

    def test_order_is_stable(self, sample: Path) -> None:
        with self._open(sample) as first, self._open(sample) as second:
            assert list(first) == list(second)

    def test_chunks_join_to_what_read_gives(self, sample: Path) -> None:
        with self._open(sample) as tensors:
            for name, tensor in tensors.items():
                array, spec = tensor.read(), tensor.spec
                joined = array.tobytes()
                if spec.dtype.variable:
                    held = tensor.elements()
                    assert list(array.ravel()) == held, name
                    joined = b"".join(len(each).to_bytes(8, "little") + each for each in held)
                assert (array.shape, array.dtype) == (spec.shape, spec.dtype.numpy()), name
                assert b"".join(map(bytes, tensor.chunks())) == joined, name

    def test_chunks_are_whole_elements_and_small_enough(self, sample: Path) -> None:
        with self._open(sample) as tensors:
            for name, tensor in tensors.items():
                itemsize = tensor.spec.dtype.itemsize
                for limit in (1, 24, CHUNK_BYTES) if itemsize else ():
                    sizes = [len(chunk) for chunk in tensor.chunks(limit)]
                    assert sum(sizes) == tensor.nbytes == tensor.spec.nbytes, name
                    assert all(size % itemsize == 0 for size in sizes), name
                    assert all(size <= max(limit, itemsize) for size in sizes), name

    def test_extents_hold_exactly_the_bytes(self, sample: Path) -> None:
        with self._open(sample) as tensors:
            for name, tensor in tensors.items():
                if tensor.extents is None:
                    continue
                lengths = [extent.length for extent in tensor.extents]
                data = [extent.source.read(extent.offset, extent.length)
                        for extent in tensor.extents]  # fmt: skip
                assert sum(lengths) == tensor.nbytes, name
                assert b"".join(data) == b"".join(map(bytes, tensor.chunks())), name

    def test_closing_twice_is_fine(self, sample: Path) -> None:
        tensors = self._open(sample)
        assert len(contents(tensors)) == len(tensors)
        tensors.close()
        tensors.close()

    def test_keys_are_names_when_asked_for(self, sample: Path) -> None:
        with self._open(sample, ReadOptions(names="key")) as tensors:
            assert [tensors.origin(name).key for name in tensors] == list(tensors)

    def test_readable_names_and_keys_stand_for_the_same_tensors(self, sample: Path) -> None:
        with self._open(sample) as named, self._open(sample, ReadOptions(names="key")) as keyed:
            found = {named.origin(name).key: content for name, content in contents(named).items()}
            assert found == contents(keyed)


class WriterContract:
    """What planning and writing promise.

    Attributes:
        FORMAT: the format under test.
    """

    FORMAT: ClassVar[Format]

    def target(self, folder: Path) -> Path:
        """Return a name for an output in `folder`."""
        return folder / f"out{self.FORMAT.extensions[0]}"

    def values(self) -> dict[str, Values]:
        """Return a small model that every format can hold."""
        return {
            "dense/kernel": (DType.FLOAT32, (3, 4), bytes(range(48))),
            "dense/bias": (DType.FLOAT32, (4,), bytes(range(16))),
            "flags": (DType.BOOL, (5,), b"\0\1\1\0\1"),
            "größe:0": (DType.INT64, (2,), bytes(range(16))),
            "step": (DType.INT64, (), b"\7" + bytes(7)),
        }

    # Tools

    def _plan(self, tensors: TensorDict, target: Path, *, overwrite: bool = False) -> Plan:
        assert self.FORMAT.plan is not None
        return self.FORMAT.plan(tensors, target, WriteOptions(overwrite=overwrite))

    def _write(
        self, tensors: TensorDict, target: Path, *, overwrite: bool = False, jobs: int = 1
    ) -> Written:
        plan = self._plan(tensors, target, overwrite=overwrite)
        return write_plan(plan, overwrite=overwrite, jobs=jobs)

    def _reopened(self, target: Path) -> TensorDict:
        return self.FORMAT.open(Location(target), ReadOptions())

    def _round_trip(self, values: Mapping[str, Values], folder: Path) -> dict[str, Content]:
        folder.mkdir(exist_ok=True)
        target = self.target(folder)
        self._write(tensors_of(values), target)
        with self._reopened(target) as tensors:
            return contents(tensors)

    # The plan

    def test_plan_is_what_is_written(self, tmp_path: Path) -> None:
        plan = self._plan(tensors_of(self.values()), self.target(tmp_path))
        write_plan(plan)
        sizes = {file.path: file.size for file in plan.files}
        assert {path: path.stat().st_size for path in tmp_path.iterdir()} == sizes
        assert plan.size == sum(sizes.values())
        assert plan.format == self.FORMAT.name

    def test_planning_touches_no_disk(self, tmp_path: Path) -> None:
        plan = self._plan(tensors_of(self.values()), self.target(tmp_path))
        assert plan.files
        assert not list(tmp_path.iterdir())

    def test_every_byte_is_planned_once(self, tmp_path: Path) -> None:
        plan = self._plan(tensors_of(self.values()), self.target(tmp_path))
        for file in plan.files:
            ranges = [(at, at + len(data)) for at, data in file.literals]
            ranges += [(row.offset, row.offset + row.tensor.nbytes) for row in file.placements]
            ordered = sorted(each for each in ranges if each[0] < each[1])
            assert all(a[1] <= b[0] for a, b in pairwise(ordered))
            assert all(stop <= file.size for _, stop in ordered)
            offsets = [row.offset for row in file.placements]
            assert offsets == sorted(offsets)

    def test_stored_names_and_notes_speak_of_tensors_that_are_there(self, tmp_path: Path) -> None:
        tensors = tensors_of(self.values())
        plan = self._plan(tensors, self.target(tmp_path))
        assert set(plan.stored_names) <= set(tensors)
        assert {note.tensor for note in plan.notes} <= {None, *tensors}

    # The bytes

    def test_what_was_written_reads_back(self, tmp_path: Path) -> None:
        values = self.values()
        assert self._round_trip(values, tmp_path) == contents(tensors_of(values))

    def test_same_input_gives_the_same_bytes(self, tmp_path: Path) -> None:
        found = []
        for folder in (tmp_path / "a", tmp_path / "b"):
            folder.mkdir()
            self._write(tensors_of(self.values()), self.target(folder))
            found.append(listing(folder))
        assert found[0] == found[1]

    def test_number_of_threads_does_not_show(self, tmp_path: Path) -> None:
        found = []
        with _large(tmp_path / "source") as tensors:
            for jobs in (1, 4):
                folder = tmp_path / str(jobs)
                folder.mkdir()
                written = self._write(tensors, self.target(folder), jobs=jobs)
                found.append((listing(folder), written.checksums))
            expected = contents(tensors)
        assert found[0] == found[1]
        with self._reopened(self.target(tmp_path / "4")) as tensors:
            assert contents(tensors) == expected

    # Failures

    def test_nothing_is_visible_after_a_failed_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in count():
            with monkeypatch.context() as patched:
                patched.setattr(os, "pwrite", _failing_at(number))
                error = _failure(
                    lambda: self._write(tensors_of(self.values()), self.target(tmp_path))
                )
            if error is None:  # no more writes than that
                break
            assert isinstance(error, TargetError), number
            assert error.hint, number
            assert not list(tmp_path.iterdir()), number
        assert number > 0

    def test_a_failed_write_leaves_the_old_output(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = self.target(tmp_path)
        self._write(tensors_of({"old": (DType.INT8, (1,), b"\1")}), target)
        before = listing(tmp_path)
        monkeypatch.setattr(os, "pwrite", _failing_at(0))
        error = _failure(lambda: self._write(tensors_of(self.values()), target, overwrite=True))
        assert isinstance(error, TargetError)
        assert listing(tmp_path) == before

    def test_nothing_is_visible_after_a_corrupt_source(self, tmp_path: Path) -> None:
        values = self.values() | {"rotten": _Rotten(TensorSpec(DType.FLOAT32, (8,)))}
        error = _failure(lambda: self._write(tensors_of(values), self.target(tmp_path)))
        assert isinstance(error, CorruptFileError)
        assert "`rotten`" in error.message
        assert not list(tmp_path.iterdir())

    def test_a_checksum_of_the_source_is_verified(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(32))
        folder = tmp_path / "out"
        folder.mkdir()
        checksum = Checksum(Algorithm.CRC32C, 1)
        extent = Extent(FileSource(source), 0, 32, checksum)
        tensor = ExtentTensor(TensorSpec(DType.FLOAT32, (8,)), (extent,))
        error = _failure(lambda: self._write(tensors_of({"rotten": tensor}), self.target(folder)))
        extent.source.close()
        assert isinstance(error, CorruptFileError)
        assert "`rotten`" in error.message
        assert not list(folder.iterdir())

    # What is there already

    def test_existing_output_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        target = self.target(tmp_path)
        self._write(tensors_of({"old": (DType.INT8, (1,), b"\1")}), target)
        before = listing(tmp_path)
        error = _failure(lambda: self._write(tensors_of(self.values()), target))
        assert isinstance(error, UsageError)
        assert "--overwrite" in (error.hint or "")
        assert listing(tmp_path) == before

    def test_overwriting_replaces_the_output(self, tmp_path: Path) -> None:
        target = self.target(tmp_path)
        self._write(tensors_of({"old": (DType.INT8, (1,), b"\1")}), target)
        files = set(listing(tmp_path))
        self._write(tensors_of(self.values()), target, overwrite=True)
        assert set(listing(tmp_path)) == files
        with self._reopened(target) as tensors:
            assert contents(tensors) == contents(tensors_of(self.values()))

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        target = self.target(tmp_path / "missing")
        error = _failure(lambda: self._write(tensors_of(self.values()), target))
        assert isinstance(error, UsageError)
        assert "missing" in error.message

    # Edges

    def test_holds_nothing_at_all(self, tmp_path: Path) -> None:
        assert self._round_trip({}, tmp_path) == {}

    def test_holds_scalars_and_tensors_without_elements(self, tmp_path: Path) -> None:
        values: dict[str, Values] = {
            "scalar": (DType.FLOAT32, (), b"\0\0\x80\x3f"),
            "empty": (DType.FLOAT32, (0,), b""),
            "empty/inside": (DType.INT32, (2, 0, 3), b""),
            "one": (DType.INT16, (1, 1), b"\1\2"),
        }
        found: dict[str, Content] = {}
        for number, (name, value) in enumerate(values.items()):
            found |= self._round_trip({name: value}, tmp_path / str(number))
        assert found == contents(tensors_of(values))

    def test_holds_a_long_name(self, tmp_path: Path) -> None:
        values: dict[str, Values] = {"x" * 3000: (DType.INT8, (1,), b"\1")}
        assert self._round_trip(values, tmp_path) == contents(tensors_of(values))

    def test_every_dtype_comes_back_or_is_refused(self, tmp_path: Path) -> None:
        for dtype in DType:
            folder = tmp_path / dtype.label
            folder.mkdir()
            values = {"a/tensor": _every_value(dtype)}
            error = _failure(partial(self._round_trip, values, folder))
            if error is None:
                with self._reopened(self.target(folder)) as tensors:
                    assert contents(tensors) == contents(tensors_of(values)), dtype
            else:
                assert isinstance(error, TargetError), dtype
                assert "`a/tensor`" in error.message, dtype
                assert error.hint, dtype
                assert not list(folder.iterdir()), dtype


def _every_value(dtype: DType) -> Values:
    """Return a tensor with every byte value in it."""
    if dtype.variable:
        elements = [b"", b"text", bytes(range(256)), b"\xff" * 300]
        spec = TensorSpec(dtype, (2, 2))
        return ElementTensor(spec, lambda: elements, sum(map(len, elements)))
    raw = canonical(dtype, bytes(range(256)))
    shape = (2, 128 // dtype.itemsize)
    assert prod(shape) * dtype.itemsize == len(raw)
    return dtype, shape, raw


class _Rotten(Tensor):
    """A tensor that turns out to be damaged half way through."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:  # noqa: ARG002
        yield memoryview(bytes(self.nbytes // 2))
        raise CorruptFileError("made to fail")


def _failing_at(number: int) -> Callable[[int, memoryview, int], int]:
    """Return an `os.pwrite` whose call `number`, counted from 0, finds the disk full."""
    left = [number]
    pwrite = os.pwrite

    def failing(descriptor: int, data: memoryview, offset: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    return failing


def _large(path: Path) -> TensorDict:
    """Return tensors that lie in a file and are large enough for several threads."""
    sizes = {"a/large": 5_000_000, "b": 3, "c": 0, "d": 70_001, "e": 200_000}
    data = bytes(range(251)) * (4 * sum(sizes.values()) // 251 + 1)
    path.write_bytes(data)
    source, at = FileSource(path), 0
    tensors: dict[str, Tensor] = {}
    for name, size in sizes.items():
        value = Algorithm.CRC32C.update(data[at : at + 4 * size])
        extent = Extent(source, at, 4 * size, Checksum(Algorithm.CRC32C, value))
        tensors[name] = ExtentTensor(TensorSpec(DType.FLOAT32, (size,)), (extent,))
        at += 4 * size
    return TensorDict("file", "tensors in a file", tensors, sources=(source,))
