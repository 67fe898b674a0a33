from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from tensorferry.converters.containers.bundle_messages import TYPE_NUMBERS
from tensorferry.converters.containers.sstable import Table
from tensorferry.converters.containers.tensor_bundle import index_path, shard_path
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, TargetError
from tensorferry.converters.formats.tf_checkpoint import FORMAT
from tensorferry.converters.graphs.object_graph import GRAPH_KEY
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.sources import FileSource
from tensorferry.converters.tensors import TensorDict
from tensorferry.converters.testing.contracts import (
    ReaderContract,
    Values,
    WriterContract,
    canonical,
    contents,
    tensors_of,
)
from tensorferry.converters.testing.strategies import tensor_dicts

SAMPLES = {
    "tf1_adam_ema": "model.ckpt-7",
    "tf1_partitioned": "model.ckpt-7",
    "tf1_multi_shard": "model.ckpt-7",
    "several_steps": "model.ckpt-20",
    "tf_module_object": "ckpt-1",
    "max_shard_slices": "ckpt-1",
    "tf_keras_object": "ckpt-1",
    "tf_keras_weights": "weights",
    "keras3_object": "ckpt-1",
    "all_dtypes": "bundle",
}


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, samples: Path) -> Path:
    return samples / request.param / SAMPLES[request.param]


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _plan(tensors: TensorDict, target: Path, **options: Any) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors, target, WriteOptions(**options))


def _write(values: Mapping[str, Values], target: Path, **options: Any) -> Path:
    write_plan(_plan(tensors_of(values), target, **options))
    return target


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        for name in ("m.safetensors", "m.npz", "m.h5", "m.pb"):
            (tmp_path / name).write_bytes(b"\x08\1 not a checkpoint")
        return [samples / "README.md", samples, *tmp_path.iterdir()]


class TestWriter(WriterContract):
    FORMAT = FORMAT


class TestWriterOfIndex(WriterContract):
    """A target may be given by the name of its index."""

    FORMAT = FORMAT

    def target(self, folder: Path) -> Path:
        return folder / "out.index"


# Samples hold the truth


def _truth_of(truth: ModuleType, key: str, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    found: np.ndarray = truth.expected(key, dtype.label, shape)
    return found


def test_samples_hold_the_truth(sample: Path, truth: ModuleType) -> None:
    with _open(sample, names="key") as tensors:
        assert not tensors.broken
        compared = 0
        for key, tensor in tensors.items():
            if key in truth.BOOKKEEPING or tensor.spec.dtype is DType.VARIANT:
                continue
            expected = _truth_of(truth, key, tensor.spec.dtype, tensor.spec.shape)
            np.testing.assert_array_equal(tensor.read(), expected, err_msg=key, strict=True)
            compared += 1
    assert compared


def test_samples_hold_as_many_tensors_as_the_manifest_says(sample: Path, samples: Path) -> None:
    import tomllib

    models = tomllib.loads((samples / "MANIFEST.toml").read_text())["model"]
    (model,) = (each for each in models if each["folder"] == sample.parent.name)
    with _open(sample, names="key") as tensors:
        counted = [key for key in tensors if not key.startswith("save_counter/")]
        assert len(counted) == model["tensors"]
        assert tensors.details["kind"] == model["kind"]


def test_the_variant_is_kept_as_bytes_with_a_note(samples: Path, truth: ModuleType) -> None:
    with _open(samples / "all_dtypes" / "bundle") as tensors:
        (element,) = tensors["variant/tensor_list"].elements()
        assert any(note.tensor == "variant/tensor_list" for note in tensors.notes)
    rows = truth.expected("variant/tensor_list", "float32", (3, 2))
    assert b"tensorflow::TensorList" in element
    assert rows[0].tobytes() in element


def test_the_slices_of_a_sample_are_byte_ranges_of_its_shards(samples: Path) -> None:
    with _open(samples / "max_shard_slices") as tensors:
        assert tensors.details["shards"] == 3
        assert tensors["big"].extents is None  # cut along both axes
    with _open(samples / "tf1_partitioned") as tensors:
        assert len(tensors["rows/kernel"].extents or ()) == 3
        assert tensors["columns/kernel"].extents is None


def test_steps_are_chosen(samples: Path) -> None:
    folder = samples / "several_steps"
    chosen = [
        _open(folder),
        _open(folder, step=10),
        _open(folder, latest=True),
        _open(folder / "model.ckpt-20.index"),
    ]
    prefixes = [Path(str(tensors.details["prefix"])).name for tensors in chosen]
    assert prefixes == ["model.ckpt-30", "model.ckpt-10", "model.ckpt-30", "model.ckpt-20"]
    assert len([note for note in chosen[0].notes if "--step" in note.text]) == 1


def test_an_index_under_another_name_is_still_known(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "downloaded"
    shutil.copy(samples / "all_dtypes" / "bundle.index", path)
    assert FORMAT.sniff(Location(path))


def test_a_damaged_object_graph_leaves_the_keys(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "tf_module_object", tmp_path / "m")
    shard = shard_path(tmp_path / "m" / "ckpt-1", 0, 1)
    data = bytearray(shard.read_bytes())
    at = data.index(b"save_counter")
    data[at] ^= 1
    shard.write_bytes(data)
    with _open(tmp_path / "m") as tensors:
        assert "save_counter/.ATTRIBUTES/VARIABLE_VALUE" in tensors
        (note,) = (note for note in tensors.notes if "the object graph cannot be read" in note.text)
        assert note.kind.lossy


# Writing


@given(tensor_dicts(sorted(TYPE_NUMBERS, key=TYPE_NUMBERS.__getitem__)))
@example(tensors_of({"a": [b""], "a/b": [], "/": (DType.INT4, (2,), b"\xff\x07")}))
@example(tensors_of({"/a": [b"x"], "a": [b"y"]}))
def test_whatever_is_written_reads_back(tensors: TensorDict) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "m.ckpt"
        plan = _plan(tensors, target)
        write_plan(plan)
        assert {file.path: file.size for file in plan.files} == {
            path: path.stat().st_size for path in Path(folder).iterdir()
        }
        with _open(target) as found:
            assert contents(found) == contents(tensors)
            assert not [note for note in found.notes if note.tensor is None]


@given(tensor_dicts(sorted(TYPE_NUMBERS, key=TYPE_NUMBERS.__getitem__)))
def test_shards_change_nothing_but_the_files(tensors: TensorDict) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "m.ckpt"
        write_plan(_plan(tensors, target, max_shard_bytes=40))
        with _open(target) as found:
            assert contents(found) == contents(tensors)


def test_shards_are_as_long_as_allowed(tmp_path: Path) -> None:
    values: dict[str, Values] = {f"t{n}": (DType.INT8, (30,), bytes(30)) for n in range(5)}
    values["t2"] = (DType.INT8, (200,), bytes(200))
    plan = _plan(tensors_of(values), tmp_path / "m", max_shard_bytes=64)
    names = [file.path.name for file in plan.files]
    assert names == [*(f"m.data-{n:05d}-of-00003" for n in range(3)), "checkpoint", "m.index"]
    assert [file.size for file in plan.files[:3]] == [60, 200, 60]


def test_the_index_comes_last_and_the_state_file_before(tmp_path: Path) -> None:
    plan = _plan(tensors_of({"a": [b"x"]}), tmp_path / "m.ckpt")
    assert [file.path.name for file in plan.files] == [
        "m.ckpt.data-00000-of-00001",
        "checkpoint",
        "m.ckpt.index",
    ]


def test_a_state_file_that_is_there_stays_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "other"\n')
    plan = _plan(tensors_of({"a": [b"x"]}), tmp_path / "m.ckpt")
    write_plan(plan)
    assert "other" in (tmp_path / "checkpoint").read_text()
    assert [note.text for note in plan.notes if "`checkpoint` file" in note.text]


def test_the_folder_can_be_opened_by_its_state_file(tmp_path: Path) -> None:
    _write({"a": [b"x"]}, tmp_path / "größe.ckpt")
    with _open(tmp_path) as tensors:
        assert contents(tensors) == contents(tensors_of({"a": [b"x"]}))


@pytest.mark.parametrize("name", ["", GRAPH_KEY])
def test_names_that_are_kept_back_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetError, match="keeps this name for itself") as caught:
        _plan(tensors_of({name: [b"x"]}), tmp_path / "m")
    assert "--exclude" in (caught.value.hint or "")


def test_a_type_that_has_no_number_is_refused(tmp_path: Path) -> None:
    values: dict[str, Values] = {"a": (DType.FLOAT8_E8M0FNU, (1,), b"\0")}
    with pytest.raises(TargetError, match="has no float8_e8m0fnu"):
        _plan(tensors_of(values), tmp_path / "m")


def test_4_bit_types_are_stored_as_tensorflow_does(tmp_path: Path) -> None:
    _write({"a": np.array([-1, 7, -8], ml_dtypes.int4)}, tmp_path / "m")
    assert shard_path(tmp_path / "m", 0, 1).read_bytes() == b"\x0f\x07\x08"


def test_a_sample_survives_being_written_again(sample: Path, tmp_path: Path) -> None:
    with _open(sample) as tensors:
        write_plan(_plan(tensors, tmp_path / "m.ckpt"))
        with _open(tmp_path / "m.ckpt") as again:
            assert contents(again) == contents(tensors)


def test_a_missing_shard_stops_writing(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "tf1_multi_shard", tmp_path / "m")
    prefix = tmp_path / "m" / "model.ckpt-7"
    shard_path(prefix, 1, 3).unlink()
    with _open(prefix) as tensors:
        assert set(tensors.broken) == {"dense_1/kernel", "dense_1/bias"}
        plan = _plan(tensors, tmp_path / "out")
        with pytest.raises(CorruptFileError, match="data shard is missing"):
            write_plan(plan)
    assert not list(tmp_path.glob("out*"))


# Against TensorFlow

# No array gives these types; they come from a bit cast.
_QUANTISED = [dtype for dtype in TYPE_NUMBERS if dtype.label.startswith("q")]


def _every_type() -> dict[str, Values]:
    values: dict[str, Values] = {
        f"dtype/{dtype}": (
            dtype,
            (2, 64 // dtype.itemsize),
            canonical(dtype, bytes(range(90, 90 + 128))),
        )
        for dtype in TYPE_NUMBERS
        if not dtype.variable
    }
    strings = np.array([[b"a", b""], [b"\0\xff", b"x" * 300]], dtype=object)
    return values | {
        "strings": strings,
        "no strings": [],
        "scalar": np.float32(1.5).reshape(()),
        "empty": np.zeros((2, 0, 3), np.int32),
        "odd\nname: größe//": np.arange(3),
        "/leading": np.arange(3.0),
        "x" * 3000: np.arange(2),
    }


def _own(array: np.ndarray) -> np.ndarray:
    """Return 4-bit integers with their high bits 0, as ml_dtypes and TensorFlow keep them."""
    small = array.dtype in (ml_dtypes.int4, ml_dtypes.int2)
    return array.astype(np.int8).astype(array.dtype) if small else array


@pytest.mark.oracle
@pytest.mark.parametrize("limit", [None, 500])
def test_tensorflow_reads_every_type(tensorflow: Any, tmp_path: Path, limit: int | None) -> None:
    tensors = tensors_of(_every_type())
    _write(tensors.tensors, tmp_path / "m.ckpt", max_shard_bytes=limit)
    reader = tensorflow.train.load_checkpoint(str(tmp_path / "m.ckpt"))
    assert set(reader.get_variable_to_shape_map()) == set(tensors)
    for name, tensor in tensors.items():
        (found,) = tensorflow.raw_ops.RestoreV2(
            prefix=str(tmp_path / "m.ckpt"),
            tensor_names=[name],
            shape_and_slices=[""],
            dtypes=[TYPE_NUMBERS[tensor.spec.dtype]],
        )
        assert tuple(found.shape) == tensor.spec.shape, name
        if tensor.spec.dtype.variable:
            assert list(found.numpy().ravel()) == tensor.elements(), name
        else:
            assert _own(found.numpy()).tobytes() == _own(tensor.read()).tobytes(), name


@pytest.mark.oracle
def test_tensorflow_finds_the_checkpoint_by_the_folder(tensorflow: Any, tmp_path: Path) -> None:
    _write({"a": np.arange(3.0)}, tmp_path / "m.ckpt")
    assert tensorflow.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "m.ckpt")
    assert tensorflow.train.list_variables(str(tmp_path)) == [("a", [3])]


@pytest.mark.oracle
def test_files_are_the_bytes_that_tensorflow_writes(tensorflow: Any, tmp_path: Path) -> None:
    values = _every_type()
    tensors = tensors_of(values)
    names = sorted(tensors, key=lambda name: name.encode())
    arrays = []
    for name in names:
        spec = tensors[name].spec
        array = _own(tensors[name].read())
        if spec.dtype.variable:
            array = tensorflow.constant(array, tensorflow.string, shape=spec.shape)
        elif spec.dtype in _QUANTISED:
            array = tensorflow.bitcast(array, TYPE_NUMBERS[spec.dtype])
        arrays.append(array)
    theirs = tmp_path / "theirs"
    tensorflow.raw_ops.SaveV2(
        prefix=str(theirs), tensor_names=names, shape_and_slices=[""] * len(names), tensors=arrays
    )
    ours = _write(values, tmp_path / "ours")
    assert shard_path(ours, 0, 1).read_bytes() == shard_path(theirs, 0, 1).read_bytes()
    assert index_path(ours).read_bytes() == index_path(theirs).read_bytes()


@pytest.mark.oracle
def test_large_indexes_are_the_bytes_that_tensorflow_writes(
    tensorflow: Any, tmp_path: Path
) -> None:
    names = [f"layer_{n // 100}/block_{n % 100}/kernel_with_a_long_name_{n}" for n in range(9000)]
    names += [f"{'y' * 200_000}{n}" for n in range(3)]
    names.sort()
    ones = tensorflow.constant([1.0])
    tensorflow.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[ones] * len(names),
    )
    _write({name: np.ones(1, np.float32) for name in names}, tmp_path / "ours")
    data = [index_path(tmp_path / name).read_bytes() for name in ("ours", "theirs")]
    assert data[0] == data[1]
    assert len(data[0]) > 600_000


@pytest.mark.oracle
def test_the_saver_of_tensorflow_1_restores(tensorflow: Any, tmp_path: Path) -> None:
    v1 = tensorflow.compat.v1
    kernel, step = np.arange(6, dtype=np.float32).reshape(2, 3), np.int64(7)
    prefix = _write({"dense/kernel": kernel, "global_step": step.reshape(())}, tmp_path / "m.ckpt")
    for resource in (False, True):
        with tensorflow.Graph().as_default(), v1.Session() as session:
            with v1.variable_scope("", use_resource=resource):
                weights = v1.get_variable("dense/kernel", (2, 3))
                counter = v1.get_variable("global_step", (), tensorflow.int64)
            v1.train.Saver().restore(session, str(prefix))
            found = session.run([weights, counter])
        np.testing.assert_array_equal(found[0], kernel, strict=True)
        assert found[1] == step


@pytest.mark.oracle
def test_checkpoint_restores_by_name(tensorflow: Any, tmp_path: Path) -> None:
    root = tensorflow.Module()
    root.kernel = tensorflow.Variable(tensorflow.zeros((2, 3)), name="dense/kernel")
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    checkpoint = tensorflow.train.Checkpoint(root=root)
    counter = np.int64(checkpoint.save_counter.numpy() + 1).reshape(())  # it wants this one too
    prefix = _write({"dense/kernel": values, "save_counter": counter}, tmp_path / "m.ckpt")
    status = checkpoint.restore(str(prefix))
    status.assert_existing_objects_matched()
    np.testing.assert_array_equal(root.kernel.numpy(), values, strict=True)


@pytest.mark.oracle
def test_samples_are_what_tensorflow_reads(tensorflow: Any, sample: Path) -> None:
    reader = tensorflow.train.load_checkpoint(str(sample))
    shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    with _open(sample, names="key") as tensors:
        assert set(tensors) == set(shapes) - {GRAPH_KEY}
        for key, tensor in tensors.items():
            assert list(tensor.spec.shape) == shapes[key], key
            assert TYPE_NUMBERS[tensor.spec.dtype] == types[key].as_datatype_enum, key


def test_an_index_has_no_keys_but_names(tmp_path: Path) -> None:
    _write({"b": [b"x"], "a": np.arange(2)}, tmp_path / "m")
    source = FileSource(index_path(tmp_path / "m"))
    assert [key for key, _ in Table(source).entries()] == [b"", b"a", b"b"]
    source.close()
