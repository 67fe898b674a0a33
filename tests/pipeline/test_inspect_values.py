"""Values of tensors and of parts: the same as numpy's, and no more bytes read than needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, UsageError
from tensorferry.converters.sources import Extent, FileSource, Source
from tensorferry.converters.tensors import (
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorDict,
    TensorSpec,
)
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline import parts
from tensorferry.pipeline.values import Wanted, value_json, value_lines


class Counting(Source):
    """A source that counts what is read."""

    def __init__(self, inner: Source) -> None:
        self.inner, self.path, self.count = inner, inner.path, 0

    @property
    def size(self) -> int:
        return self.inner.size

    def read_into(self, offset: int, target: memoryview) -> None:
        self.count += len(target)
        self.inner.read_into(offset, target)

    def close(self) -> None:
        self.inner.close()


class Bytes(Source):
    """A source in memory."""

    path = Path("memory")

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self.data[offset : offset + len(target)]

    def close(self) -> None:
        pass


def wanted(tensor: Tensor, word: str = "w") -> Wanted:
    return Wanted.find(TensorDict("made", "made", {"w": tensor}), word)


def array_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def in_memory(array: np.ndarray) -> Tensor:
    return MemoryTensor(TensorSpec(DType.FLOAT32, array.shape), array.tobytes)


def in_ranges(array: np.ndarray, cuts: list[int]) -> Tensor:
    data = array.tobytes()
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    source = Bytes(data)
    extents = (Extent(source, a, b - a) for a, b in pairwise(places))
    return ExtentTensor(TensorSpec(DType.FLOAT32, array.shape), tuple(extents))


BOUNDS = st.none() | st.integers(-9, 9)
INDICES = st.integers(-8, 8) | st.builds(slice, BOUNDS, BOUNDS, st.none() | st.integers(1, 4))
SHAPES = st.lists(st.integers(0, 8), max_size=4).map(tuple)


def written(index: int | slice) -> str:
    if isinstance(index, int):
        return str(index)
    bounds = ["" if each is None else str(each) for each in (index.start, index.stop)]
    return ":".join(bounds) + ("" if index.step is None else f":{index.step}")


@given(
    SHAPES,
    st.lists(INDICES, max_size=5),
    st.none() | st.integers(0, 4),
    st.lists(st.integers(0, 1 << 20), max_size=2),
    st.sampled_from([(4096, 1 << 20), (16, 64), (1, 4)]),
)
def test_a_part_is_what_numpy_takes(
    shape: tuple[int, ...],
    indices: list[int | slice],
    dots: int | None,
    cuts: list[int],
    sizes: tuple[int, int],
) -> None:
    index: list[object] = list(indices)
    words = [written(each) for each in indices]
    if dots is not None:
        index.insert(dots, ...)
        words.insert(dots, "...")
    word = f"w[{', '.join(words) or '...'}]"
    array = array_of(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PAGE", sizes[0])
        patch.setattr(parts, "PIECE", sizes[1])
        for tensor in (in_memory(array), in_ranges(array, cuts)):
            try:
                expected = array[tuple(index)]
            except IndexError:
                with pytest.raises(UsageError):
                    wanted(tensor, word)
                continue
            found = wanted(tensor, word).read()
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "shape", [(1001,), (7, 200), (2, 600), (6, 7, 30), (12, 12, 12), (1, 5000), (4, 4, 4, 4, 4, 2)]
)
@pytest.mark.parametrize("index", ["", "[0]", "[..., 1:]", "[::2]", "[-1:]"])
def test_what_is_printed_is_what_numpy_prints(shape: tuple[int, ...], index: str) -> None:
    array = array_of(shape) / 7
    expected = array[0] if index == "[0]" else array
    expected = {"[..., 1:]": array[..., 1:], "[::2]": array[::2], "[-1:]": array[-1:]}.get(
        index, expected
    )
    for tensor in (in_memory(array), in_ranges(array, [100])):
        head, *lines = value_lines(wanted(tensor, f"w{index}"))
        assert lines == str(expected).splitlines()
        shown = "x".join(map(str, expected.shape)) or "scalar"
        assert head == f"w{index}  float32  {shown}"


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (DType.BFLOAT16, ml_dtypes.bfloat16),
        (DType.FLOAT8_E5M2, ml_dtypes.float8_e5m2),
        (DType.INT4, ml_dtypes.int4),
        (DType.QINT8, np.int8),
        (DType.BOOL, np.bool_),
        (DType.COMPLEX64, np.complex64),
    ],
)
def test_other_types_are_summarised_too(dtype: DType, kind: type) -> None:
    array = (np.arange(3000).reshape(50, 60) % 5).astype(kind)
    tensor = MemoryTensor(TensorSpec(dtype, array.shape), array.tobytes)
    assert wanted(tensor).text() == str(array)
    assert json.loads(value_json(wanted(tensor, "w[3, 1:4]")))["dtype"] == dtype.label


# Bytes that are read


@pytest.fixture
def large(tmp_path: Path) -> tuple[Counting, Tensor]:
    """Return a tensor of 1 GB in a file with holes, and the source that counts."""
    rows, columns = 250_000, 1000
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(rows * columns * 4)
        for row, column in ((0, 0), (0, 7), (3, 2), (rows - 1, columns - 1)):
            file.seek((row * columns + column) * 4)
            file.write(np.float32(row + column + 1).tobytes())
    source = Counting(FileSource(path))
    spec = TensorSpec(DType.FLOAT32, (rows, columns))
    return source, ExtentTensor(spec, (Extent(source, 0, spec.nbytes),))


@pytest.mark.parametrize(
    ("index", "most"),
    [
        ("[0]", 4000),
        ("[0, 7]", 4),
        ("[0:4, :8]", 3 * 4000 + 32),
        ("[-1, -8:]", 32),
        ("[::50000, :2]", 5 * 8),
        ("[5:5]", 0),
    ],
)
def test_a_part_reads_only_its_bytes(large: tuple[Counting, Tensor], index: str, most: int) -> None:
    source, tensor = large
    part = wanted(tensor, f"w{index}").read()
    assert source.count <= most
    if index == "[0:4, :8]":
        assert part[0, 7] == 8
        assert part[3, 2] == 6
        assert part.sum() == 15
    if index == "[-1, -8:]":
        assert part[-1] == 250_999


def test_a_large_tensor_is_printed_from_its_corners(large: tuple[Counting, Tensor]) -> None:
    source, tensor = large
    head, *lines = value_lines(wanted(tensor))
    assert head == "w  float32  250000x1000"
    assert source.count < 50_000
    assert " ..." in lines
    assert " ".join(lines).split()[:4] == ["[[1.00000e+00", "0.00000e+00", "0.00000e+00", "..."]
    assert lines[-1].endswith("2.50999e+05]]")


def test_json_of_a_large_tensor_is_refused_before_it_is_read(
    large: tuple[Counting, Tensor],
) -> None:
    source, tensor = large
    with pytest.raises(UsageError, match=r"at most 1,000,000, got 250,000,000") as caught:
        value_json(wanted(tensor))
    assert source.count == 0
    assert caught.value.hint
    assert "convert SRC part.npz --include 'w'" in caught.value.hint


def test_a_column_is_read_in_pieces(large: tuple[Counting, Tensor]) -> None:
    _, tensor = large
    column = wanted(tensor, "w[:20000, 2]").read()
    assert column.shape == (20000,)
    assert column[3] == 6
    assert column.sum() == 6


# What is asked for


def test_a_name_that_ends_in_brackets_comes_first(
    make_tensors: Callable[[Mapping[str, Values]], TensorDict],
) -> None:
    tensors = make_tensors({"w[0]": [b"exact"], "w": [b"a", b"b"], "v[x]": [b"c", b"d"]})
    assert Wanted.find(tensors, "w[0]").read().tolist() == [b"exact"]
    assert Wanted.find(tensors, "w[1]").read().tolist() == b"b"
    assert Wanted.find(tensors, "v[x][-1]").read().tolist() == b"d"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("", r"\[\] at character 1: no index, expected integers, .* got nothing"),
        ("0,,1", r"\[0,,1\] at character 3: no index"),
        ("0, x", r"\[0, x\] at character 4: no index, .* got `x`"),
        ("1:2:3:4", r"at character 1: no index, .* got `1:2:3:4`"),
        ("::-1", r"at character 3: a step, expected 1 or more, got -1"),
        ("::0", r"at character 3: a step, expected 1 or more, got 0"),
        (":, 9", r"at character 4: an index of axis 1, expected -8 to 7, got 9"),
        ("-5", r"at character 1: an index of axis 0, expected -4 to 3, got -5"),
        ("0,0,0", r"at character 5: too many indices, expected at most 2, got 3 indices for"),
        ("..., ...", r"at character 6: a second ellipsis"),
        ("1_0", r"at character 1: no index, .* got `1_0`"),
        ("9" * 30, r"at character 1: no index"),
    ],
)
def test_an_index_that_is_none_is_refused_with_its_place(index: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"tensor `w`: .*{message}"):
        wanted(in_memory(array_of((4, 8))), f"w[{index}]")


def test_an_unknown_name_gets_the_nearest(samples: Path) -> None:
    with open_tensors(samples / "several_steps") as tensors:
        for word in ("dense/kernl", "dense/kernl[0]"):
            with pytest.raises(UsageError, match="did you mean `dense/kernel`"):
                Wanted.find(tensors, word)


def test_values_are_those_of_the_tensor(samples: Path, truth: ModuleType) -> None:
    with open_tensors(samples / "several_steps", ReadOptions(step=20)) as tensors:
        head, *rest = value_lines(Wanted.find(tensors, "dense/bias"))
        part = Wanted.find(tensors, "dense/kernel[1, :2]").read()
    assert head == "dense/bias  float32  3"
    expected = truth.expected("dense/bias", "float32", (3,))
    assert np.array_equal(np.fromstring(rest[0].strip("[]"), sep=" ", dtype=np.float32), expected)
    assert np.array_equal(part, truth.expected("dense/kernel", "float32", (2, 3))[1, :2])


def test_a_tensor_of_more_axes_than_numpy_has_is_refused() -> None:
    shape = (1,) * 80
    tensor = MemoryTensor(TensorSpec(DType.FLOAT32, shape), lambda: b"\0" * 4)
    with pytest.raises(Exception, match="tensor `w`: no array can have this shape"):
        wanted(tensor, "w[:0]").read()


def test_too_many_corners_are_refused() -> None:
    shape = (7,) * 9
    tensor = MemoryTensor(TensorSpec(DType.FLOAT32, shape), lambda: b"")
    with pytest.raises(UsageError, match="too many corners to print, got 9 axes"):
        wanted(tensor).text()


def test_a_tensor_whose_shard_is_missing_is_named_once(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        if "data-00001" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_tensors(tmp_path) as tensors:
        for word in ("dense_1/kernel", "dense_1/kernel[0, 1]"):
            with pytest.raises(CorruptFileError, match="shard is missing") as caught:
                Wanted.find(tensors, word).read()
            assert str(caught.value).count("tensor `dense_1/kernel`") == 1


def test_data_that_ends_early_is_named() -> None:
    tensor = MemoryTensor(TensorSpec(DType.FLOAT32, (5, 5)), lambda: b"\0" * 40)
    with pytest.raises(CorruptFileError, match=r"tensor `w`: the data ends early, .* 100 bytes"):
        wanted(tensor, "w[4:]").read()


# JSON


def test_json_has_values_and_words_for_what_json_lacks() -> None:
    array = np.array([[1.5, np.nan], [np.inf, -np.inf]], np.float32)
    found = json.loads(value_json(wanted(in_memory(array))))
    assert found == {
        "name": "w", "dtype": "float32", "shape": [2, 2], "slice": None,
        "values": [[1.5, "nan"], ["inf", "-inf"]],
    }  # fmt: skip
    found = json.loads(value_json(wanted(in_memory(array), "w[0, :1]")))
    assert found == {
        "name": "w", "dtype": "float32", "shape": [1], "slice": "0, :1", "values": [1.5],
    }  # fmt: skip


def test_json_of_other_types(
    make_tensors: Callable[[Mapping[str, Values]], TensorDict],
) -> None:
    complexes = np.array([1 + 2j, complex("nan")], np.complex64)
    small = np.array([0.5, 3], ml_dtypes.bfloat16)
    tensors = {
        "c": MemoryTensor(TensorSpec(DType.COMPLEX64, (2,)), complexes.tobytes),
        "b": MemoryTensor(TensorSpec(DType.BFLOAT16, (2,)), small.tobytes),
        "i": MemoryTensor(TensorSpec(DType.INT4, ()), lambda: b"\xff"),
        "t": make_tensors({"t": ["ä".encode(), b"\xff"]})["t"],
    }
    found = {
        name: json.loads(value_json(Wanted.find(TensorDict("made", "made", tensors), name)))
        for name in tensors
    }
    assert found["c"]["values"] == [[1, 2], ["nan", 0]]
    assert found["b"]["values"] == [0.5, 3]
    assert found["i"]["values"] == -1
    assert found["t"]["values"] == ["ä", "\udcff"]
