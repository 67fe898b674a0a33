"""npz and HDF5 with their bytes deflated, and what HDF5 may say besides."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, TargetError, UsageError
from tensorferry.converters.formats import hdf5, npz
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Format, WriteOptions
from tensorferry.converters.tensors import Tensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import Values, contents, tensors_of
from tensorferry.pipeline.convert import ConvertOptions, convert

# Wider than a chunk of 1 MiB, and not a multiple of it.
LARGE = np.arange(700_000, dtype=np.float32).reshape(7, 100, 1000) % 977
VALUES: dict[str, Values] = {
    "a/large": LARGE,
    "a/row": np.arange(600_000, dtype=np.int32).reshape(1, -1) % 13,
    "a/thin": np.ones((300_001, 1), np.float64),
    "small": np.arange(3, dtype=np.int8),
    "scalar": np.float64(2.5),
    "none": np.zeros((0, 4), np.float32),
    "half": (DType.BFLOAT16, (5000,), bytes(range(250)) * 40),
    "text": [b"one", b"", "drei\u00df".encode()],
    "raw": [b"\0\1", b"\xff"],
}
FORMATS = pytest.mark.parametrize("format", [npz.FORMAT, hdf5.FORMAT], ids=lambda each: each.name)


def written(format: Format, tensors: TensorDict, folder: Path, **options: bool) -> Path:
    target = folder / f"m{format.extensions[0]}"
    assert format.plan is not None
    plan = format.plan(tensors, target, WriteOptions(**options))
    write_plan(plan)
    assert target.stat().st_size <= plan.size
    return target


@FORMATS
def test_deflated_tensors_come_back(format: Format, tmp_path: Path) -> None:
    target = written(format, tensors_of(VALUES), tmp_path, compress=True)
    with open_tensors(target) as tensors:
        assert contents(tensors) == contents(tensors_of(VALUES))
    assert target.stat().st_size < LARGE.nbytes / 2


@FORMATS
def test_what_cannot_be_deflated_fits_the_plan(format: Format, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(3 << 20)
    written(format, tensors_of({"x": (DType.UINT8, (3 << 20,), noise)}), tmp_path, compress=True)


@FORMATS
def test_the_same_tensors_give_the_same_bytes(format: Format, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(written(format, tensors_of(VALUES), tmp_path / name, compress=True))
    assert files[0].read_bytes() == files[1].read_bytes()


class _Damaged(Tensor):
    def __init__(self) -> None:
        self.spec = TensorSpec(DType.UINT8, (1 << 20,))

    def chunks(self, max_bytes: int = 1) -> object:  # type: ignore[override]
        yield memoryview(bytes(max_bytes))
        raise CorruptFileError("made to fail")


@FORMATS
def test_nothing_stays_of_a_failure(format: Format, tmp_path: Path) -> None:
    tensors = TensorDict("test", "test", {"good": tensors_of(VALUES)["small"], "bad": _Damaged()})
    with pytest.raises(CorruptFileError, match="tensor `bad`: made to fail"):
        written(format, tensors, tmp_path, compress=True)
    assert not list(tmp_path.iterdir())


def test_numpy_and_h5py_read_what_is_deflated(tmp_path: Path) -> None:
    with np.load(written(npz.FORMAT, tensors_of(VALUES), tmp_path, compress=True)) as arrays:
        assert np.array_equal(arrays["a/large"], LARGE)
    path = written(hdf5.FORMAT, tensors_of(VALUES), tmp_path, compress=True)
    with h5py.File(path) as file:
        assert np.array_equal(file["a/large"], LARGE)
        assert (file["a/large"].compression, file["a/large"].shuffle) == ("gzip", True)
        assert file["a/large"].chunks == (2, 100, 1000)
        assert file["small"].chunks is None


def test_conversions_are_verified_through_deflate(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(verify=True, write=WriteOptions(compress=True))
    for target in ("m.npz", "m.h5"):
        done = convert(samples / "tf1_adam_ema", tmp_path / target, options)
        assert sum(done.counts.values()) == len(done.digests) == len(done.source)


def test_a_format_without_deflate_says_so(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(write=WriteOptions(compress=True))
    with pytest.raises(UsageError, match="--compress means nothing to safetensors"):
        convert(samples / "tf1_adam_ema", tmp_path / "m.safetensors", options)


# Names without groups


def test_flat_names_have_dots(tmp_path: Path) -> None:
    values: dict[str, Values] = {name: np.ones(2, np.float32) for name in ("w", "w/Adam", "a/b/c")}
    path = written(hdf5.FORMAT, tensors_of(values), tmp_path, flat=True)
    with h5py.File(path) as file:
        assert list(file) == ["a.b.c", "w", "w.Adam"]
    with open_tensors(path) as tensors:
        assert sorted(tensors) == ["a/b/c", "w", "w/Adam"]


def test_flat_names_are_never_merged(tmp_path: Path) -> None:
    values: dict[str, Values] = {name: np.ones(2, np.float32) for name in ("a.b", "a/b")}
    with pytest.raises(TargetError, match=r"`a\.b`") as caught:
        written(hdf5.FORMAT, tensors_of(values), tmp_path, flat=True)
    assert "--flat" in (caught.value.hint or "")


# Where tensors came from


def test_provenance_stands_beside_each_tensor(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(write=WriteOptions(provenance=True))
    done = convert(samples / "tf1_adam_ema", tmp_path / "m.h5", options)
    slot = next(name for name in done.kept if done.kept.origin(name).owner)
    with h5py.File(tmp_path / "m.h5") as file:
        attributes = dict(file[slot].attrs)
    origin = done.kept.origin(slot)
    assert attributes["tensorferry_key"] == origin.key.encode()
    assert attributes["tensorferry_role"] == origin.role.value.encode()
    assert attributes["tensorferry_owner"] == (origin.owner or "").encode()
    assert attributes["tensorferry_trainable"].tolist() == [0]
    with open_tensors(tmp_path / "m.h5") as tensors:
        assert not [note for note in tensors.notes if note.kind is Kind.METADATA_LOST]


# The tools of HDF5


@pytest.mark.skipif(not shutil.which("h5dump"), reason="needs h5dump and h5ls (hdf5-tools)")
@pytest.mark.parametrize("options", [{}, {"compress": True}, {"flat": True}], ids=str)
def test_the_tools_of_hdf5_read_it(options: dict[str, bool], tmp_path: Path) -> None:
    path = written(hdf5.FORMAT, tensors_of(VALUES), tmp_path, **options)
    name = "a.large" if options.get("flat") else "a/large"
    listed = subprocess.run(["h5ls", "-r", path], capture_output=True, text=True, check=True)
    assert f"/{name}" in listed.stdout
    assert "{7, 100, 1000}" in listed.stdout
    dumped = subprocess.run(
        ["h5dump", "-d", f"/{name}", "-s", "0,0,3", "-c", "1,1,4", path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "3, 4, 5, 6" in dumped.stdout
    whole = subprocess.run(["h5dump", path], capture_output=True, text=True, check=False)
    assert (whole.returncode, whole.stderr) == (0, "")
