from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.checksums import Algorithm, Checksum
from tensorferry.converters.digests import digest, digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import ConvertError, CorruptFileError, NotRecognisedError
from tensorferry.converters.notes import Kind, Note
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import (
    ChunkTensor,
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Origin,
    Role,
    Tensor,
    TensorDict,
    TensorSpec,
    retyped,
)
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.converters.testing.strategies import FIXED, tensors

# Types


@pytest.mark.parametrize("dtype", FIXED, ids=str)
def test_a_type_of_numpy_is_as_wide_as_ours(dtype: DType) -> None:
    assert dtype.numpy().itemsize == dtype.itemsize
    assert DType.named(dtype.label) is dtype
    assert np.dtype(dtype.carrier).itemsize == dtype.itemsize
    assert dtype.native == (dtype.numpy().name == dtype.label == dtype.carrier)


def test_types_without_a_numpy_type_of_their_own() -> None:
    assert DType.BFLOAT16.numpy() == ml_dtypes.bfloat16
    assert DType.QINT32.numpy() == np.int32
    assert DType.STRING.numpy() == np.dtype(object)
    assert DType.named("no such type") is None


@pytest.mark.parametrize(
    ("dtype", "unit"),
    [(DType.INT8, 1), (DType.FLOAT64, 8), (DType.COMPLEX64, 4), (DType.COMPLEX128, 8)],
)
def test_what_turns_around_with_the_byte_order(dtype: DType, unit: int) -> None:
    assert dtype.swap_unit == unit


# Specs


def test_a_spec_knows_its_size() -> None:
    spec = TensorSpec(DType.FLOAT32, (3, 4))
    assert (spec.size, spec.nbytes) == (12, 48)
    assert TensorSpec(DType.FLOAT32, ()).size == 1
    assert TensorSpec(DType.FLOAT32, (5, 0)).nbytes == 0
    assert TensorSpec(DType.STRING, (5,)).nbytes == 0


def test_specs_are_values() -> None:
    specs = {TensorSpec(DType.INT8, (1, 2)), TensorSpec(DType.INT8, (1, 2))}
    assert len(specs) == 1


@pytest.mark.parametrize(
    ("shape", "can_be"),
    [((1 << 60,), True), ((1 << 61,), False), ((0, 1 << 61), False), ((0,), True), ((), True)],
)
def test_a_spec_below_2_to_the_63_bytes_can_be(shape: tuple[int, ...], can_be: bool) -> None:
    assert TensorSpec(DType.FLOAT32, shape).addressable is can_be


# Tensors


@given(tensors(), st.integers(1, 40))
def test_chunks_of_any_size_are_the_same_bytes(tensor: Tensor, limit: int) -> None:
    joined = b"".join(map(bytes, tensor.chunks(limit)))
    assert joined == b"".join(map(bytes, tensor.chunks()))
    if not tensor.spec.dtype.variable:
        assert joined == tensor.read().tobytes()


def test_arrays_that_are_read_are_own_memory() -> None:
    tensor = tensors_of({"a": np.arange(4)})["a"]
    array = tensor.read()
    array[0] = 99
    assert tensor.read()[0] == 0


def test_numbers_have_no_elements() -> None:
    with pytest.raises(TypeError, match="int64 has no variable elements"):
        tensors_of({"a": np.arange(4)})["a"].elements()


def test_too_many_dimensions_for_numpy_are_named() -> None:
    shape = (1,) * 100
    for spec in (TensorSpec(DType.INT8, shape), TensorSpec(DType.STRING, shape)):
        tensor: Tensor = MemoryTensor(spec, lambda: b"\1")
        if spec.dtype.variable:
            tensor = ElementTensor(spec, lambda: [b"x"], 1)
        with pytest.raises(ConvertError, match="no array can have this shape"):
            tensor.read()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)))
    return path


def _extent(source: FileSource, offset: int, length: int, *, good: bool = True) -> Extent:
    value = Algorithm.CRC32C.update(bytes(range(offset, offset + length)))
    return Extent(source, offset, length, Checksum(Algorithm.CRC32C, value ^ (not good)))


def test_extents_are_read_in_their_order(data: Path) -> None:
    source = FileSource(data)
    extents = (_extent(source, 200, 8), _extent(source, 0, 0), _extent(source, 4, 4))
    tensor = ExtentTensor(TensorSpec(DType.INT32, (3,)), extents)
    expected = bytes(range(200, 208)) + bytes(range(4, 8))
    for limit in (1, 4, 8, 1 << 20):
        assert b"".join(map(bytes, tensor.chunks(limit))) == expected
    source.close()


def test_a_wrong_checksum_names_file_and_bytes(data: Path) -> None:
    source = FileSource(data)
    extents = (_extent(source, 0, 4), _extent(source, 100, 8, good=False))
    with pytest.raises(CorruptFileError, match="crc32c of the bytes differs") as caught:
        ExtentTensor(TensorSpec(DType.INT32, (3,)), extents).read()
    source.close()
    assert caught.value.path == str(data)
    assert caught.value.where == "byte 100 to 108"


def test_a_source_too_short_is_named(data: Path) -> None:
    source = FileSource(data)
    with pytest.raises(CorruptFileError, match="the file ends early") as caught:
        source.read(250, 10)
    source.close()
    assert caught.value.expected == "4 more bytes"
    assert caught.value.where == "byte 256"


@pytest.mark.parametrize("missing", ["size", "read"])
def test_a_source_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    source = FileSource(tmp_path / "nothing")
    with pytest.raises(NotRecognisedError, match="cannot be opened: No such file"):
        _ = source.size if missing == "size" else source.read(0, 1)


def test_a_closed_source_opens_again(data: Path) -> None:
    source = FileSource(data)
    source.close()
    assert source.read(3, 2) == b"\3\4"
    source.close()
    source.close()
    assert source.read(3, 2) == b"\3\4"
    source.close()


def test_a_folder_cannot_be_read(tmp_path: Path) -> None:
    source = FileSource(tmp_path)
    with pytest.raises(ConvertError) as caught:
        source.read(0, 1)
    source.close()
    assert caught.value.path == str(tmp_path)


def test_changed_chunks_have_no_extents() -> None:
    inner = tensors_of({"a": np.arange(3, dtype=np.int8)})["a"]
    tensor = ChunkTensor(inner.spec, inner, lambda chunk: bytes(byte + 1 for byte in chunk))
    assert tensor.extents is None
    assert tensor.read().tolist() == [1, 2, 3]


def test_the_same_bytes_as_another_type(data: Path) -> None:
    source = FileSource(data)
    stored = ExtentTensor(TensorSpec(DType.UINT16, (2,)), (_extent(source, 0, 4),))
    made = tensors_of({"a": np.array([256, 770], np.uint16)})["a"]
    for tensor in (stored, made):
        other = retyped(tensor, DType.BFLOAT16)
        assert other.spec == TensorSpec(DType.BFLOAT16, (2,))
        assert other.extents == tensor.extents
        assert other.read().tobytes() == tensor.read().tobytes() == bytes(range(4))
    source.close()


# Dictionaries


def _dictionary() -> TensorDict:
    values = tensors_of({"b": np.arange(3), "a": [b"x"]}).tensors
    broken = {"a": CorruptFileError("made to fail")}
    return TensorDict("test", "two tensors", values, {"a": Origin("A")}, broken=broken)


def test_a_dictionary_is_a_mapping_in_its_order() -> None:
    tensors = _dictionary()
    assert list(tensors) == ["b", "a"]
    assert len(tensors) == 2
    assert "a" in tensors
    assert 7 not in tensors
    assert tensors["b"].spec.shape == (3,)


def test_origins_default_to_the_name() -> None:
    assert _dictionary().origin("a") == Origin("A", Role.UNKNOWN, None)
    assert _dictionary().origin("b") == Origin("b")


def test_selecting_keeps_what_belongs_to_the_selected() -> None:
    note = Note(Kind.EXCLUDED, "by the user", "a")
    selected = _dictionary().select(["b"], note)
    assert list(selected) == ["b"]
    assert selected.notes == (note,)
    assert not selected.broken
    assert set(_dictionary().select(["a"]).broken) == {"a"}


def test_closing_closes_the_sources(data: Path) -> None:
    source = FileSource(data)
    assert source.read(0, 1) == b"\0"
    tensors = TensorDict("test", "", {}, sources=(source,))
    with tensors as entered:
        assert entered is tensors
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert data.resolve() not in held


# Digests


def test_digests_tell_values_types_and_shapes_apart() -> None:
    given_values = tensors_of(
        {
            "a": np.zeros(4, np.int32),
            "b": np.zeros((2, 2), np.int32),
            "c": np.zeros(4, np.float32),
            "d": np.ones(4, np.int32),
            "e": [b"a", b"bc"],
            "f": [b"ab", b"c"],
        }
    )
    found = digest_all(given_values, given_values, jobs=2)
    assert len(set(found.values())) == len(given_values)
    assert found == {name: digest(tensor) for name, tensor in given_values.items()}


def test_a_digest_is_what_its_description_says() -> None:
    from blake3 import blake3

    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = tensors_of({"a": array, "s": [b"xy"]})
    assert digest(tensors["a"]) == blake3(b"float32 2x3\n" + array.tobytes()).hexdigest()
    assert digest(tensors["s"]) == blake3(b"string 1\n\2\0\0\0\0\0\0\0xy").hexdigest()


def test_digests_report_progress() -> None:
    counted: list[int] = []
    digest(tensors_of({"a": np.zeros(3_000_000, np.int8)})["a"], counted.append)
    assert sum(counted) == 3_000_000
    assert len(counted) == 3


def test_a_digest_that_fails_names_the_tensor(data: Path) -> None:
    source = FileSource(data)
    bad = ExtentTensor(TensorSpec(DType.INT8, (4,)), (_extent(source, 0, 4, good=False),))
    with pytest.raises(CorruptFileError, match="tensor `bad`"):
        digest_all({"bad": bad}, ["bad"], jobs=1)
    source.close()
