from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters.checksums import Algorithm, Checksum
from tensorferry.converters.dtypes import DType
from tensorferry.converters.formats.safetensors import FORMAT
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import ExtentTensor, Tensor, TensorSpec
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.converters.ties import ties
from tensorferry.pipeline.convert import ConvertOptions, convert

SOURCE, OTHER = FileSource("one"), FileSource("two")
FLOATS, INTS = TensorSpec(DType.FLOAT32, (3,)), TensorSpec(DType.INT32, (3,))


def _at(*offsets: int, spec: TensorSpec = FLOATS, source: FileSource = SOURCE) -> Tensor:
    length = spec.nbytes // len(offsets)
    return ExtentTensor(spec, tuple(Extent(source, offset, length) for offset in offsets))


def test_tensors_of_the_same_bytes_are_tied_to_the_first() -> None:
    tensors = {"a": _at(0), "b": _at(12), "c": _at(0), "d": _at(12), "e": _at(0)}
    assert ties(tensors) == {"c": "a", "d": "b", "e": "a"}


@pytest.mark.parametrize(
    "other",
    [
        _at(12),
        _at(4),
        _at(0, source=OTHER),
        _at(0, spec=INTS),
        _at(0, spec=TensorSpec(DType.FLOAT32, (3, 1))),
        _at(0, spec=TensorSpec(DType.FLOAT32, (2,))),
        _at(0, 40, spec=TensorSpec(DType.FLOAT32, (2,))),
    ],
)
def test_anything_else_is_no_tie(other: Tensor) -> None:
    assert ties({"a": _at(0), "b": other}) == {}


def test_another_checksum_is_no_tie() -> None:
    """Both are verified then, and at least one differs."""
    rows = [Extent(SOURCE, 0, 12, Checksum(Algorithm.CRC32C, value)) for value in (1, 2, 1)]
    tensors = {str(n): ExtentTensor(FLOATS, (extent,)) for n, extent in enumerate(rows)}
    assert ties(tensors) == {"2": "0"}


def test_several_ranges_count_as_a_whole() -> None:
    tensors = {"a": _at(0, 40, 80), "b": _at(0, 80, 40), "c": _at(0, 40, 80)}
    assert ties(tensors) == {"c": "a"}


def test_tensors_without_bytes_are_never_tied() -> None:
    none = TensorSpec(DType.FLOAT32, (0, 2))
    tensors = {"a": _at(0, spec=none), "b": _at(0, spec=none), "c": _at(0), "d": _at(0)}
    assert ties(tensors) == {"d": "c"}
    assert ties({"a": ExtentTensor(none, ()), "b": ExtentTensor(none, ())}) == {}


def test_one_object_under_two_names_is_a_tie_and_equal_bytes_are_not() -> None:
    made = tensors_of({"a": (DType.INT8, (2,), b"\1\2"), "b": (DType.INT8, (2,), b"\1\2")})
    assert ties(made) == {}
    assert ties({"a": made["a"], "b": made["b"], "c": made["a"]}) == {"c": "a"}


def test_strings_are_never_tied() -> None:
    text = tensors_of({"s": [b"one"]})["s"]
    assert ties({"a": text, "b": text}) == {}


@pytest.mark.parametrize("ending", [".npz", ".h5"])
@pytest.mark.parametrize("flags", [WriteOptions(), WriteOptions(compress=True)])
def test_numpy_and_hdf5_get_a_copy_under_each_name(
    tmp_path: Path, ending: str, flags: WriteOptions
) -> None:
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = tensors_of({"kernel": kernel, "bias": np.zeros(3, np.float32)})
    source = tmp_path / "model.safetensors"
    assert FORMAT.plan
    tied = replace(model, aliases={"head/kernel": "kernel"})
    write_plan(FORMAT.plan(tied, source, WriteOptions()))
    options = ConvertOptions(write=flags, verify=True)
    done = convert(source, tmp_path / f"model{ending}", options)
    assert "1 other names of tensors get a copy each" in [note.text for note in done.notes]
    with open_tensors(tmp_path / f"model{ending}") as copy:
        assert sorted(copy) == ["bias", "head/kernel", "kernel"]
        assert (copy["head/kernel"].read() == kernel).all()
