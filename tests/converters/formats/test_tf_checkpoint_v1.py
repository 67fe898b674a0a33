from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, NotRecognisedError, UsageError
from tensorferry.converters.formats import safetensors, tf_checkpoint
from tensorferry.converters.formats.tf_checkpoint_v1 import FORMAT
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.sources import FileSource
from tensorferry.converters.tensors import Evidence, Role, Tensor, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents

ROWS = (((0, 3), (0, None)), ((3, 2), (0, None)), ((5, 2), (0, None)))
FLOATS = np.arange(35, dtype=np.float32).reshape(7, 5)


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _shards(folder: Path, v1_tensor: Any, v1_table: Callable[..., bytes]) -> Path:
    """Write two shards, slices of `w` in both, and return the pattern."""
    folder.mkdir(exist_ok=True)
    halves = [{"w": v1_tensor.floats(FLOATS, *ROWS[:1]), "a": v1_tensor.floats(FLOATS[0])}]
    halves += [{"w": v1_tensor.floats(FLOATS, *ROWS[1:]), "b": v1_tensor.floats(FLOATS[1])}]
    for number, tensors in enumerate(halves):
        (folder / f"m-7-{number:05d}-of-00002").write_bytes(v1_table(tensors))
    return folder / "m-7-?????-of-00002"


@pytest.fixture(params=["file", "folder", "state file", "meta", "shard", "pattern", "packed"])
def sample(
    request: pytest.FixtureRequest,
    samples: Path,
    tmp_path: Path,
    v1_tensor: Any,
    v1_table: Callable[..., bytes],
) -> Path:
    folder = samples / "tf1_v1"
    pattern = tmp_path / "sharded" / "m-7-?????-of-00002"
    if request.param in ("shard", "pattern"):
        _shards(pattern.parent, v1_tensor, v1_table)
    if request.param == "packed":
        tensors = {"w": v1_tensor.floats(FLOATS, *ROWS), "a": v1_tensor.floats(FLOATS[0])}
        (tmp_path / "packed").write_bytes(v1_table(tensors, packed=True))
    paths = {
        "file": folder / "model.ckpt-7",
        "folder": folder,
        "state file": folder / "checkpoint",
        "meta": folder / "model.ckpt-7.meta",
        "shard": pattern.with_name("m-7-00001-of-00002"),
        "pattern": pattern,
        "packed": tmp_path / "packed",
    }
    return paths[request.param]


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        (tmp_path / "m.pb").write_bytes(b"\x08\1 not a checkpoint")
        (tmp_path / "zeros").write_bytes(bytes(100))
        others = [path for path in samples.iterdir() if path.name != "tf1_v1"]
        members = [each for path in others if path.is_dir() for each in path.iterdir()]
        return [samples, *others, *members, *tmp_path.iterdir()]

    def test_open_reads_no_tensor_data(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A block's checksum covers keys and values, so blocks of small values are read whole.

        What is read is not kept; that large values are not read is tested with the blocks.
        """
        reads: list[int] = []
        original = FileSource.read_into

        def recorded(source: FileSource, offset: int, target: memoryview) -> None:
            reads.append(len(target))
            original(source, offset, target)

        with _open(sample) as tensors:
            monkeypatch.setattr(FileSource, "read_into", recorded)
            sizes = [
                sum(extent.length for extent in tensor.extents or ()) for tensor in tensors.values()
            ]
            assert not reads
            assert sum(sizes) <= sum(tensor.nbytes for tensor in tensors.values())


# The sample


def test_the_sample_holds_the_truth(samples: Path, truth: ModuleType) -> None:
    with _open(samples / "tf1_v1" / "model.ckpt-7", names="key") as tensors:
        assert len(tensors) == 7
        for key, tensor in tensors.items():
            expected = truth.expected(key, tensor.spec.dtype.label, tensor.spec.shape)
            np.testing.assert_array_equal(tensor.read(), expected, err_msg=key, strict=True)
        assert len(tensors["rows/kernel"].extents or ()) == 3
        assert not tensors.notes
        assert not tensors.broken


def test_the_graph_beside_it_tells_roles(samples: Path) -> None:
    with _open(samples / "tf1_v1") as tensors:
        slot = tensors.origin("rows/kernel/Momentum")
        assert (slot.role, slot.owner) == (Role.SLOT, "rows/kernel")
        assert slot.evidence is Evidence.GRAPH
        assert tensors.origin("dense/kernel").trainable
        assert tensors.origin("global_step").role is Role.COUNTER


def test_the_graph_beside_shards_is_found(
    tmp_path: Path, v1_tensor: Any, v1_table: Callable[..., bytes]
) -> None:
    pattern = _shards(tmp_path / "m", v1_tensor, v1_table)
    (pattern.parent / "m-7.meta").write_bytes(b"\x0a\x00")
    with _open(tmp_path / "m" / "m-7.meta") as tensors:
        assert tensors.details["prefix"] == str(pattern)
        assert any("m-7.meta" in note.text for note in tensors.notes)


def test_strings_are_text(tmp_path: Path, v1_tensor: Any, v1_table: Callable[..., bytes]) -> None:
    words = v1_tensor(DType.STRING, (1,), {((0, None),): b"\x42\x02hi"})
    (tmp_path / "m").write_bytes(v1_table({"words": words}))
    with _open(tmp_path / "m") as tensors:
        assert tensors["words"].elements() == [b"hi"]
        assert tensors.origin("words").role is Role.TEXT


# What is pointed at


def test_whatever_is_pointed_at_means_the_same(sample: Path) -> None:
    with _open(sample) as tensors:
        assert tensors.details["kind"] == "name-based"
        if "sharded" in str(sample):
            assert list(tensors) == ["a", "b", "w"]
            assert tensors.summary == "TensorFlow checkpoint V1 `m-7-?????-of-00002`, 2 shards"
            np.testing.assert_array_equal(tensors["w"].read(), FLOATS, strict=True)


def test_steps_are_chosen(tmp_path: Path, v1_tensor: Any, v1_table: Callable[..., bytes]) -> None:
    for step in (1, 2, 10):
        tensors = {f"step{step}": v1_tensor.floats(FLOATS)}
        (tmp_path / f"m-{step}").write_bytes(v1_table(tensors))
    _shards(tmp_path, v1_tensor, v1_table)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m-2"\n')
    found = {
        "state": _open(tmp_path),
        "step": _open(tmp_path, step=1),
        "shards": _open(tmp_path / "m-1", step=7),
        "latest": _open(tmp_path, latest=True),
    }
    assert {name: next(iter(tensors)) for name, tensors in found.items()} == {
        "state": "step2", "step": "step1", "shards": "a", "latest": "step10",
    }  # fmt: skip
    assert any("--step" in note.text for note in found["state"].notes)
    assert found["state"].details["other_checkpoints"]


def test_a_folder_with_several_asks(tmp_path: Path, v1_table: Callable[..., bytes]) -> None:
    for step in (1, 2):
        (tmp_path / f"m-{step}").write_bytes(v1_table({}))
    assert FORMAT.sniff(Location(tmp_path))
    with pytest.raises(UsageError, match="holds 2 checkpoints and there is no state file"):
        _open(tmp_path)


def test_v2_wins_where_both_have_the_same_name(
    samples: Path, tmp_path: Path, v1_tensor: Any, v1_table: Callable[..., bytes]
) -> None:
    shutil.copytree(samples / "tf1_multi_shard", tmp_path / "m")
    path = tmp_path / "m" / "model.ckpt-7"
    path.write_bytes(v1_table({"a": v1_tensor.floats(FLOATS)}))
    for pointed in (path, path.parent):
        assert not FORMAT.sniff(Location(pointed))
        assert tf_checkpoint.FORMAT.sniff(Location(pointed))
    with _open(path) as tensors:  # with --from
        assert list(tensors) == ["a"]
    with pytest.raises(UsageError, match="is a checkpoint of the other version"):
        _open(path.parent)


def test_a_damaged_file_is_named_for_what_is_wrong(samples: Path, tmp_path: Path) -> None:
    data = (samples / "tf1_v1" / "model.ckpt-7").read_bytes()
    path = tmp_path / "model.ckpt-7"
    path.write_bytes(data[:-1])
    for pointed in (path, tmp_path):
        assert FORMAT.sniff(Location(pointed))
        with pytest.raises(CorruptFileError, match="no table magic number at the end") as caught:
            _open(pointed)
        assert caught.value.path == str(path)
        assert "cut short" in (caught.value.hint or "")


def test_a_missing_shard_breaks_the_rest(
    tmp_path: Path, v1_tensor: Any, v1_table: Callable[..., bytes]
) -> None:
    pattern = _shards(tmp_path / "m", v1_tensor, v1_table)
    gone = pattern.with_name("m-7-00000-of-00002")
    gone.unlink()
    for pointed in (pattern, gone, tmp_path / "m", tmp_path / "m" / "m-7"):
        assert FORMAT.sniff(Location(pointed))
        with _open(pointed) as tensors:
            assert list(tensors.broken) == [gone.name, "w"]
            assert list(tensors) == ["b", "w"]
            assert list(tensors.select(["b"]).broken) == [gone.name]


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError) as caught:
        _open(tmp_path / "m")
    assert caught.value.path


# Real files


def _real(corpus: Path) -> Iterator[tuple[str, Path]]:
    with (corpus / "MANIFEST.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["format"] == "ckpt_v1":
                yield row["id"], corpus / "files" / row["local_dir"] / row["main_arg"]


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, list[Any]]:
    return {
        name: [spec.label, list(shape), hashlib.sha256(data).hexdigest()]
        for name, (spec, shape, data) in contents(tensors).items()
        if isinstance(data, bytes)
    }


def test_real_files_hold_what_tensorflow_reads(corpus: Path, tmp_path: Path) -> None:
    models = dict(_real(corpus))
    assert len(models) == 5
    for name, path in models.items():
        oracle = json.loads((corpus / "oracle" / f"{name}.json").read_text())["tensors"]
        assert FORMAT.sniff(Location(path)), name
        with _open(path, names="key") as tensors:
            assert _digests(tensors) == oracle, name
            target = tmp_path / f"{name}.safetensors"
            assert safetensors.FORMAT.plan
            write_plan(safetensors.FORMAT.plan(tensors, target, WriteOptions()))
        with safetensors.FORMAT.open(Location(target), ReadOptions(names="key")) as written:
            assert _digests(written) == oracle, name


# Against TensorFlow

# All that SaveSlices takes; 2.21 has no kernel for the others.
STORED = (
    "float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64",
    "bool", "uint16", "complex128", "float16",
)  # fmt: skip
QUANTISED = ("qint8", "quint8", "qint32")


def _same(tensors: TensorDict, truth: Mapping[str, np.ndarray]) -> None:
    assert set(tensors) == set(truth)
    assert not tensors.broken
    for name, expected in truth.items():
        np.testing.assert_array_equal(tensors[name].read(), expected, err_msg=name, strict=True)


@pytest.mark.oracle
def test_every_type_that_tensorflow_writes_is_read(
    tensorflow: Any, truth: ModuleType, tmp_path: Path
) -> None:
    names = [(f"{dtype}/{part}", dtype, shape) for dtype in STORED
             for part, shape in (("full", (3, 5)), ("scalar", ()), ("empty", (0, 2)))]  # fmt: skip
    values = {name: truth.expected(name, dtype, shape) for name, dtype, shape in names}
    tensorflow.raw_ops.SaveSlices(
        filename=str(tmp_path / "m"),
        tensor_names=list(values),
        shapes_and_slices=[""] * len(values),
        data=[tensorflow.constant(values[name], dtype=dtype) for name, dtype, _ in names],
    )
    with _open(tmp_path / "m") as tensors:
        _same(tensors, values)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", QUANTISED)
def test_quantised_types_are_plain_integers(
    tensorflow: Any, truth: ModuleType, tmp_path: Path, dtype: str
) -> None:
    plain = truth.expected("q", dtype, (4,))
    data = tensorflow.bitcast(tensorflow.constant(plain), dtype)
    tensorflow.raw_ops.SaveSlices(
        filename=str(tmp_path / "m"), tensor_names=["q"], shapes_and_slices=[""], data=[data]
    )
    with _open(tmp_path / "m") as tensors:
        assert str(tensors["q"].spec.dtype) == dtype
        assert b"".join(map(bytes, tensors["q"].chunks())) == plain.tobytes()


@pytest.mark.oracle
def test_slices_in_several_files_are_stitched(
    tensorflow: Any, truth: ModuleType, tmp_path: Path
) -> None:
    whole = truth.expected("w", "float32", (8, 5))
    for shard, (start, stop) in enumerate(((0, 3), (3, 8))):
        tensorflow.raw_ops.SaveSlices(
            filename=str(tmp_path / f"m-{shard:05d}-of-00002"),
            tensor_names=["w", f"own{shard}"],
            shapes_and_slices=[f"8 5 {start},{stop - start}:-", ""],
            data=[whole[start:stop], np.float32(shard)],
        )
    with _open(tmp_path / "m-?????-of-00002") as tensors:
        _same(tensors, {"w": whole, "own0": np.array(0.0, "f4"), "own1": np.array(1.0, "f4")})


@pytest.mark.oracle
def test_large_values_are_verified_and_copied_from_where_they_lie(
    tensorflow: Any, tmp_path: Path
) -> None:
    values = {
        "big": np.arange(600_000, dtype=np.float32),
        "count": np.arange(400_000, dtype=np.int32) - 200_000,
        "small": np.arange(3, dtype=np.float32),
    }
    tensorflow.raw_ops.SaveSlices(
        filename=str(tmp_path / "m"),
        tensor_names=list(values),
        shapes_and_slices=[""] * 3,
        data=list(values.values()),
    )
    with _open(tmp_path / "m") as tensors:
        _same(tensors, values)
        (extent,) = tensors["big"].extents or ()
    assert extent.checksum is not None
    assert extent.checksum.value == extent.checksum.algorithm.update(values["big"].tobytes())
    data = bytearray((tmp_path / "m").read_bytes())
    data[extent.offset + 1_000_000] ^= 1
    (tmp_path / "m").write_bytes(data)
    with _open(tmp_path / "m") as tensors, pytest.raises(CorruptFileError, match="crc32c"):
        tensors["big"].read()


def _variables(v1: Any) -> dict[str, Any]:
    """Make a graph's variables: two plain ones on two devices, one cut in three."""
    with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(3, axis=0)):
        rows = v1.get_variable("rows", (7, 5), initializer=v1.random_normal_initializer())
    with v1.device("/cpu:1"):
        plain = v1.get_variable("plain", (2, 3), initializer=v1.random_normal_initializer())
    step = v1.get_variable("global_step", (), v1.int64, initializer=v1.ones_initializer())
    return {"rows": rows.as_tensor(), "plain": plain, "global_step": step}


@pytest.mark.oracle
@pytest.mark.parametrize("sharded", [False, True])
def test_what_a_saver_writes_is_read(tensorflow: Any, tmp_path: Path, sharded: bool) -> None:
    v1 = tensorflow.compat.v1
    config = v1.ConfigProto(device_count={"CPU": 2})
    with tensorflow.Graph().as_default(), v1.Session(config=config) as session:
        variables = _variables(v1)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=sharded, write_version=v1.train.SaverDef.V1)
        saver.save(session, str(tmp_path / "m"), global_step=7)
        values = {name: np.asarray(value) for name, value in session.run(variables).items()}
    named = sorted(path.name for path in tmp_path.iterdir())
    assert ("m-7-00000-of-00002" in named) == sharded
    for path in (tmp_path, tmp_path / "checkpoint", tmp_path / "m-7", tmp_path / "m-7.meta"):
        assert FORMAT.sniff(Location(path)), path
        with _open(path) as tensors:
            _same(tensors, values)
            assert not [note for note in tensors.notes if "gone" in note.text]
