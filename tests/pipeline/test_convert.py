from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.digests import digest
from tensorferry.converters.errors import (
    CorruptFileError,
    LossError,
    UsageError,
    VerificationError,
)
from tensorferry.converters.output import Plan
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert

TARGETS = ["safetensors", "npz", "h5", "ckpt"]


@pytest.mark.parametrize("ending", TARGETS)
@pytest.mark.parametrize(
    "sample", ["tf1_adam_ema", "tf1_partitioned", "max_shard_slices", "tf_keras_object"]
)
def test_every_target_holds_the_same_tensors(
    tmp_path: Path, samples: Path, sample: str, ending: str
) -> None:
    target = tmp_path / f"model.{ending}"
    report = convert(samples / sample, target, ConvertOptions(verify=True, digests=True))
    with open_tensors(samples / sample) as source, open_tensors(target) as copy:
        assert set(copy) == set(source)
        assert {name: digest(copy[name]) for name in copy} == dict(report.digests)
        assert {name: digest(source[name]) for name in source} == dict(report.digests)


@pytest.mark.parametrize("ending", TARGETS)
def test_the_same_container_again_is_the_same_bytes(
    tmp_path: Path, samples: Path, ending: str
) -> None:
    convert(samples / "tf_keras_weights", tmp_path / f"a.{ending}")
    (tmp_path / "again").mkdir()
    convert(tmp_path / f"a.{ending}", tmp_path / "again" / f"a.{ending}", ConvertOptions(jobs=3))
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    for name in files:
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert files


def test_the_account_names_every_tensor_once(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(exclude=("*/Adam*",), digests=True)
    report = convert(samples / "tf1_adam_ema", tmp_path / "out.npz", options)
    rows = list(report.rows())
    assert [row["name"] for row in rows] == list(report.source)
    assert sum(report.counts.values()) == len(report.source)
    assert {row["action"] for row in rows} == {"written", "excluded"}
    assert all(("digest" in row) == (row["action"] == "written") for row in rows)
    assert json.loads(json.dumps(report.json()))["counts"] == report.counts


def test_a_listener_hears_every_byte(tmp_path: Path, samples: Path) -> None:
    class Counter(Listener):
        planned = seen = opened_tensors = 0
        ended = False

        def opened(self, tensors: TensorDict) -> None:
            self.opened_tensors = len(tensors)

        def started(self, plan: Plan) -> None:
            self.planned = plan.size

        def advanced(self, nbytes: int) -> None:
            self.seen += nbytes

        def finished(self) -> None:
            self.ended = True

    listener = Counter()
    convert(samples / "tf1_multi_shard", tmp_path / "out.safetensors", listener=listener)
    assert (listener.opened_tensors, listener.ended) == (6, True)
    assert listener.seen == listener.planned == (tmp_path / "out.safetensors").stat().st_size


def test_a_dry_run_plans_what_a_run_writes(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(write=WriteOptions(max_shard_bytes=300))
    source, target = samples / "tf1_partitioned", tmp_path / "out.ckpt"
    planned = convert(source, target, replace(options, dry_run=True))
    assert not list(tmp_path.iterdir())
    convert(source, target, options)
    sizes = {path: path.stat().st_size for path in tmp_path.iterdir()}
    assert {file.path: file.size for file in planned.plan.files} == sizes


def test_strict_accepts_what_is_not_lost(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(strict=True, exclude=("w*",))
    source = tmp_path / "source.safetensors"
    convert(samples / "tf1_multi_shard", source)
    assert convert(source, tmp_path / "out.ckpt", replace(options, exclude=())).lossy is False


def test_strict_refuses_a_loss_before_writing(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        if not path.name.endswith("data-00001-of-00003"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(LossError, match="dense_1/bias"):
        convert(tmp_path, tmp_path / "o.npz", ConvertOptions(strict=True, allow_missing=True))
    with pytest.raises(CorruptFileError, match=r"data-00001-of-00003.*missing"):
        convert(tmp_path, tmp_path / "o.npz")
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_file_is_no_tensor_in_the_account(tmp_path: Path, samples: Path) -> None:
    shutil.copy(samples / "tf1_v1" / "model.ckpt-7", tmp_path / "m-00000-of-00002")
    with pytest.raises(CorruptFileError, match="m-00001-of-00002: shard is missing"):
        convert(tmp_path, tmp_path / "o.npz", ConvertOptions(include=("dense/*",)))
    report = convert(tmp_path, tmp_path / "o.npz", ConvertOptions(allow_missing=True))
    assert report.counts == {"written": 7}
    assert report.lossy
    assert "dropped: `m-00001-of-00002`: shard is missing" in [
        f"{note.kind.value}: {note}" for note in report.notes
    ]


def test_names_are_keys_on_request(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(read=ReadOptions(names="key"))
    convert(samples / "keras3_object", tmp_path / "out.safetensors", options)
    with open_tensors(tmp_path / "out.safetensors") as copy:
        assert all("/.ATTRIBUTES/" in name for name in copy)


def test_a_failed_verification_leaves_the_old_file(
    tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.npz"
    target.write_bytes(b"precious")

    def refuse(*_: object) -> None:
        raise VerificationError("reads back different")

    # `pipeline.convert` is the function; the module of that name holds what it calls.
    monkeypatch.setattr(sys.modules[convert.__module__], "verify_copy", refuse)
    options = ConvertOptions(verify=True, write=WriteOptions(overwrite=True))
    with pytest.raises(VerificationError):
        convert(samples / "several_steps", target, options)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


def test_source_and_target_may_be_the_same_file(tmp_path: Path, samples: Path) -> None:
    path = tmp_path / "model.safetensors"
    convert(samples / "tf1_multi_shard", path)
    before = path.read_bytes()
    convert(path, path, ConvertOptions(write=WriteOptions(overwrite=True), verify=True))
    assert path.read_bytes() == before


def test_fsync_is_only_slower(tmp_path: Path, samples: Path) -> None:
    convert(samples / "tf1_multi_shard", tmp_path / "a.ckpt", ConvertOptions(fsync=True))
    with open_tensors(tmp_path / "a.ckpt") as copy:
        assert len(copy) == 6


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(include=("dense_9/kernel",))
    with pytest.raises(UsageError, match="did you mean `dense_"):
        convert(samples / "tf1_multi_shard", tmp_path / "a.ckpt", options)


def test_the_report_may_not_replace_the_target(tmp_path: Path, samples: Path) -> None:
    target = tmp_path / "out.npz"
    with pytest.raises(UsageError, match="replace the target"):
        convert(samples / "tf1_multi_shard", target, ConvertOptions(report=target))
    options = ConvertOptions(report=tmp_path / "nowhere" / "report.json")
    with pytest.raises(UsageError, match="folder does not exist"):
        convert(samples / "tf1_multi_shard", target, options)
    assert not list(tmp_path.iterdir())


def write_with_metadata(path: Path) -> None:
    header = '{"__metadata__":{"format":"pt"},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\7")


def test_metadata_of_the_same_container_is_kept(tmp_path: Path) -> None:
    write_with_metadata(tmp_path / "a.safetensors")
    report = convert(
        tmp_path / "a.safetensors", tmp_path / "b.safetensors", ConvertOptions(strict=True)
    )
    assert report.lossy is False
    with open_tensors(tmp_path / "b.safetensors") as copy:
        assert copy.metadata == {"format": "pt"}


def test_metadata_that_is_lost_is_said(tmp_path: Path) -> None:
    write_with_metadata(tmp_path / "a.safetensors")
    assert convert(tmp_path / "a.safetensors", tmp_path / "b.npz").lossy is True
    with pytest.raises(LossError, match="texts format"):
        convert(tmp_path / "a.safetensors", tmp_path / "c.npz", ConvertOptions(strict=True))


def test_an_object_graph_is_kept_or_its_loss_is_said(tmp_path: Path, samples: Path) -> None:
    source, strict = samples / "tf_module_object", ConvertOptions(strict=True)
    assert convert(source, tmp_path / "b.ckpt", strict).lossy is False
    convert(samples / "tf1_multi_shard", tmp_path / "more.npz")
    more = replace(strict, updates=(tmp_path / "more.npz",))
    with pytest.raises(LossError, match="object graph"):
        convert(source, tmp_path / "c.ckpt", more)
    assert convert(source, tmp_path / "b.npz").lossy is False


def test_a_folder_may_not_lie_in_the_folder_that_is_read(tmp_path: Path, samples: Path) -> None:
    shutil.copytree(samples / "tf1_multi_shard", tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    options = ConvertOptions(target_format="safetensors", write=WriteOptions(folder=True))
    with pytest.raises(UsageError, match="lies inside of the source"):
        convert(tmp_path / "model", tmp_path / "model" / "inner", options)
    assert sorted(tmp_path.rglob("*")) == before
    convert(tmp_path / "model", tmp_path / "beside", options)
    convert(tmp_path / "model", tmp_path / "model" / "file.npz")
