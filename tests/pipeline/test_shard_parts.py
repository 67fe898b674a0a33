"""One target in parts: the same bytes in any order, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    LossError,
    TargetError,
    UsageError,
    VerificationError,
)
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline.batch.jobs import Part
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert
from tensorferry.pipeline.sharded import writing
from tensorferry.pipeline.sharded.run import PartReport, convert_part

SHARDS = WriteOptions(max_shard_bytes=100)
OPTIONS = ConvertOptions(write=SHARDS)


def parts(
    source: Path, target: Path, options: ConvertOptions, order: tuple[int, ...] = (1, 2, 3)
) -> list[PartReport]:
    return [convert_part(source, target, Part(each, len(order)), options) for each in order]


def local(source: Path, target: Path, options: ConvertOptions) -> dict[str, bytes]:
    """Return what a conversion in one go writes, in a folder of its own."""
    folder = target.parent / "local"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    convert(source, folder / target.name, options)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder, hidden ones too, but not those of `local`."""
    every = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def same(tmp_path: Path, out: Path) -> Callable[[Path, str, ConvertOptions], None]:
    """Return what checks that a target in `out` is that of a conversion in one go, and alone."""

    def check(source: Path, name: str, options: ConvertOptions) -> None:
        assert files(out) == local(source, tmp_path / name, options)

    return check


# The same bytes


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "safetensors": ("tf1_adam_ema", "m.safetensors", {}),
    "of an object graph": ("tf_keras_object/ckpt-1", "m.safetensors", {"verify": True}),
    "of a SavedModel": ("saved_model_keras", "m.safetensors", {"weights_only": True}),
    "of a Keras archive": ("keras_archive/model.keras", "m.safetensors", {"verify": True}),
    "of npz": ("npz_file/model.npz", "m.safetensors", {"verify_sample": True}),
    "of HDF5": ("hdf5_file/model.h5", "m.ckpt", {"verify": True}),
    "checkpoint": ("tf1_adam_ema", "m.ckpt", {"verify": True}),
    "checkpoint with objects": ("tf_keras_object/ckpt-1", "m.ckpt", {"verify_sample": True}),
    "Keras shards": ("keras_archive/model.keras", "m.weights.json", {"verify": True}),
    "cast": ("tf1_adam_ema", "m.safetensors", {"dtypes": ("bf16",), "verify": True}),
    "excluded": ("tf1_adam_ema", "m.safetensors", {"exclude": ("*/Adam*",), "ema": "only"}),
    "encoded": (
        "all_dtypes/bundle", "m.safetensors", {"exclude": ("*complex128",), "verify": True},
    ),
    "every dtype": ("all_dtypes/bundle", "m.ckpt", {"verify": True}),
    "keys": ("tf_keras_object/ckpt-1", "m.safetensors", {"read": ReadOptions(names="key")}),
    "digests": ("tf1_adam_ema", "m.safetensors", {"digests": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_parts_make_the_bytes_of_a_conversion_in_one_go(
    case: str, samples: Path, out: Path, same: Any, tmp_path: Path
) -> None:
    model, name, how = CASES[case]
    options = ConvertOptions(write=SHARDS, **how)
    done = parts(samples / model, out / name, options)
    same(samples / model, name, options)
    assert [bool(each.report) for each in done] == [False, False, True]
    whole = convert(samples / model, tmp_path / name, options)
    account = done[2].json() | {"seconds": 0}
    account["target"] = whole.json()["target"]
    assert account == whole.json() | {"seconds": 0}


def test_a_model_whose_tensors_are_tied_and_one_in_an_archive(
    samples: Path, out: Path, tmp_path: Path, same: Any
) -> None:
    packed = tmp_path / "model.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(samples / "tf_module_object", "model")
    options = ConvertOptions(write=SHARDS, verify=True)
    assert parts(packed, out / "m.safetensors", options)[-1].report
    same(packed, "m.safetensors", options)
    untied = ConvertOptions(write=WriteOptions(max_shard_bytes=20, untie=True, overwrite=True))
    assert parts(packed, out / "m.safetensors", untied)[-1].report
    same(packed, "m.safetensors", untied)


def test_a_folder_appears_at_once(samples: Path, out: Path, same: Any) -> None:
    options = ConvertOptions(
        target_format="safetensors", write=WriteOptions(max_shard_bytes=100, folder=True)
    )
    source = samples / "tf1_adam_ema"
    first, last = Part(1, 2), Part(2, 2)
    assert not convert_part(source, out / "model", first, options).report
    assert not (out / "model").exists()
    assert convert_part(source, out / "model", last, options).report
    same(source, "model", options)


def test_a_saved_model_is_made_of_parts(samples: Path, out: Path, same: Any) -> None:
    source = samples / "saved_model_module"
    write = WriteOptions(template=source, max_shard_bytes=20)
    options = ConvertOptions(target_format="saved-model", write=write, verify=True)
    done = parts(source, out / "model", options, (2, 1))
    assert [bool(each.files) for each in done] == [True, True]
    assert done[1].report
    same(source, "model", options)


@pytest.mark.parametrize("order", [*permutations((1, 2, 3))])
def test_the_order_does_not_matter(
    order: tuple[int, ...], samples: Path, out: Path, same: Any
) -> None:
    source = samples / "tf1_adam_ema"
    done = parts(source, out / "m.safetensors", OPTIONS, order)
    assert done[0].missing == tuple(sorted(order[1:]))
    assert done[1].missing == order[2:]
    assert done[2].missing == ()
    same(source, "m.safetensors", OPTIONS)


def test_nothing_is_seen_before_all_parts_are_there(samples: Path, out: Path) -> None:
    convert_part(samples / "tf1_adam_ema", out / "m.safetensors", Part(1, 2), OPTIONS)
    assert [path.name[:21] for path in out.iterdir()] == [".m.safetensors.parts-"]


def test_shares_are_even_and_more_parts_than_shards_do_no_harm(
    samples: Path, out: Path, same: Any
) -> None:
    source = samples / "tf1_adam_ema"
    options = ConvertOptions(write=WriteOptions(max_shard_bytes=300))
    done = parts(source, out / "m.safetensors", options, tuple(range(1, 10)))
    assert [len(each.files) for each in done] == [1] * 5 + [0] * 4
    assert [each.part.number for each in done if each.report] == [5]
    same(source, "m.safetensors", options)


def test_other_numbers_of_parts_go_together(samples: Path, out: Path, same: Any) -> None:
    source, target = samples / "tf1_adam_ema", out / "m.safetensors"
    convert_part(source, target, Part(1, 3), OPTIONS)
    done = convert_part(source, target, Part(1, 1), OPTIONS)
    assert done.there == len(done.files) // 3
    same(source, "m.safetensors", OPTIONS)


# Killed, and run again

# Writes a part of two and is killed after so many bytes, or at a rename of a number.
KILLED = """
import os, signal, sys
from pathlib import Path
from tensorferry.converters.registry import WriteOptions
from tensorferry.pipeline.batch.jobs import Part
from tensorferry.pipeline.convert import ConvertOptions, Listener
from tensorferry.pipeline.sharded.run import convert_part

source, target, part, what, at, overwrite = sys.argv[1:]
left = int(at)

def count(number):
    global left
    left -= number
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly(Listener):
    def advanced(self, nbytes):
        count(nbytes if what == "bytes" else 0)

rename = Path.rename
def deadly_rename(path, target):
    # Those of a commit begin or end in the folder of the target itself.
    count(what == "renames" and Path(sys.argv[2]).parent in (Path(target).parent, path.parent))
    return rename(path, target)

Path.rename = deadly_rename
write = WriteOptions(max_shard_bytes=1_000_000, overwrite=bool(overwrite))
options = ConvertOptions(write=write, verify=True)
done = convert_part(source, target, Part.of(part), options, Deadly())
print(done.there, len(done.files), bool(done.report))
"""
LARGE = ConvertOptions(write=WriteOptions(max_shard_bytes=1_000_000), verify=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of 5 MB in ten tensors."""
    path = tmp_path_factory.mktemp("model") / "model.npz"
    values = np.arange(125_000, dtype="f4")
    np.savez(path, **{f"w{n}": values + n for n in range(10)})  # type: ignore[arg-type]
    return path


def run_killed(
    source: Path, target: Path, part: str, what: str, at: int, *, overwrite: bool = False
) -> tuple[int, str]:
    words = [str(source), str(target), part, what, str(at), "yes" if overwrite else ""]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("at", [0, 600_000, 1_500_000, 2_400_000])
def test_a_part_that_is_killed_goes_on_where_it_was(
    at: int, model: Path, out: Path, same: Any
) -> None:
    target = out / "m.safetensors"
    code, _ = run_killed(model, target, "1/2", "bytes", at)
    assert code == -signal.SIGKILL
    left = [path for path in out.rglob("writing/*") if path.is_file()]
    assert len(left) == 1
    convert_part(model, target, Part(2, 2), LARGE)
    done = convert_part(model, target, Part(1, 2), LARGE)
    assert done.there == at // 1_000_000
    assert done.report
    same(model, "m.safetensors", LARGE)


@pytest.mark.parametrize(
    ("overwrite", "at", "dies"),
    [
        (False, 0, True), (False, 1, True), (False, 5, True), (False, 6, True), (False, 7, False),
        (True, 1, True), (True, 3, True), (True, 6, True), (True, 9, True), (True, 30, False),
    ],
)  # fmt: skip
def test_killed_at_any_rename_of_the_end_the_next_run_completes_it(
    overwrite: bool, at: int, dies: bool, model: Path, tmp_path: Path, same: Any, out: Path
) -> None:
    target = out / "m.safetensors"
    write = WriteOptions(max_shard_bytes=1_000_000, overwrite=overwrite)
    if overwrite:
        older = tmp_path / "older.npz"
        np.savez(older, a=np.zeros(500_000, "f4"), b=np.zeros(500_000, "f4"))
        convert(older, target, LARGE)
    code, _ = run_killed(model, target, "1/1", "renames", at, overwrite=overwrite)
    assert bool(code) == dies
    # It may have been killed when all files had their places.
    complete = (out / "m.safetensors.index.json").exists() and not overwrite
    with pytest.raises(UsageError, match="exists") if complete else nullcontext():
        convert_part(model, target, Part(1, 1), ConvertOptions(write=write, verify=True))
    same(model, "m.safetensors", LARGE)


# Something else than before


def npz(path: Path, seed: int, names: str = "abcdef") -> Path:
    values: Mapping[str, Values] = {
        name: np.random.default_rng([seed, n]).random(20, dtype="f4")
        for n, name in enumerate(names)
    }
    np.savez(path, **values)  # type: ignore[arg-type]
    return path


def test_a_source_that_has_changed_between_parts_is_refused(tmp_path: Path, out: Path) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert_part(source, target, Part(1, 2), OPTIONS)
    npz(source, 2)
    with pytest.raises(UsageError, match="do not fit: the source has changed since") as caught:
        convert_part(source, target, Part(2, 2), OPTIONS)
    assert str(caught.value.path).startswith(str(out / ".m.safetensors.parts-"))
    assert len(list(out.iterdir())) == 1


def test_other_flags_are_refused(tmp_path: Path, out: Path, same: Any) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert_part(source, target, Part(1, 2), OPTIONS)
    for other in (
        ConvertOptions(write=SHARDS, dtypes=("f16",)),
        ConvertOptions(write=SHARDS, verify=True),
        ConvertOptions(write=WriteOptions(max_shard_bytes=200)),
    ):
        with pytest.raises(UsageError, match="do not fit: the flags"):
            convert_part(source, target, Part(2, 2), other)
    # What changes no byte may differ.
    convert_part(source, target, Part(2, 2), ConvertOptions(write=SHARDS, jobs=3, fsync=True))
    same(source, "m.safetensors", OPTIONS)


def test_overwrite_begins_anew_and_removes_the_parts_of_the_dead(
    tmp_path: Path, out: Path, same: Any
) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert_part(source, target, Part(1, 2), OPTIONS)
    npz(source, 2)
    anew = ConvertOptions(write=WriteOptions(max_shard_bytes=100, overwrite=True))
    parts(source, target, anew, (1, 2))
    same(source, "m.safetensors", OPTIONS)


def test_parts_of_another_run_that_lives_are_left_alone(tmp_path: Path, out: Path) -> None:
    one, two = npz(tmp_path / "1.npz", 1), npz(tmp_path / "2.npz", 2)
    target = out / "m.safetensors"
    anew = ConvertOptions(write=WriteOptions(max_shard_bytes=100, overwrite=True))
    convert_part(one, target, Part(1, 2), anew)

    class Other(Listener):
        def reading(self, size: int) -> None:
            del size
            parts(two, target, anew, (1, 2))
            assert len([path for path in out.iterdir() if path.is_dir()]) == 1

    assert convert_part(one, target, Part(2, 2), anew, Other()).report
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_a_source_that_changes_while_it_is_read_is_told(tmp_path: Path, out: Path) -> None:
    source = npz(tmp_path / "m.npz", 1)

    class Meddler(Listener):
        def reading(self, size: int) -> None:
            del size
            os.utime(source, ns=(1, 1))

    with pytest.raises(CorruptFileError, match="has changed while it was read"):
        convert_part(source, out / "m.safetensors", Part(1, 2), OPTIONS, Meddler())
    assert list(out.iterdir()) == []


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path, out: Path, same: Any) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert(npz(tmp_path / "older.npz", 2, "abcd"), target, OPTIONS)
    before = files(out)
    with pytest.raises(UsageError, match="older model of this name"):
        convert_part(source, target, Part(1, 1), OPTIONS)
    assert files(out) == before
    anew = ConvertOptions(write=WriteOptions(max_shard_bytes=100, overwrite=True))
    convert_part(source, target, Part(1, 2), anew)
    kept = {name: data for name, data in files(out).items() if ".parts-" not in name}
    assert kept == before
    convert_part(source, target, Part(2, 2), anew)
    same(source, "m.safetensors", OPTIONS)
    with pytest.raises(UsageError, match="exists already") as caught:
        convert_part(source, target, Part(2, 2), OPTIONS)
    assert "if it was just completed" in str(caught.value)


# Two at once


@pytest.fixture(params=range(5))
def again(request: pytest.FixtureRequest) -> int:
    """Run a test several times, which may go one way or another."""
    return int(request.param)


def at_once(count: int, act: Callable[[Listener], PartReport]) -> list[PartReport]:
    """Run several that all have looked at what is there before any of them writes."""
    barrier = threading.Barrier(count)
    done: list[PartReport] = []
    failed: list[BaseException] = []

    class Waiting(Listener):
        def reading(self, size: int) -> None:
            del size
            barrier.wait()

    def run() -> None:
        try:
            done.append(act(Waiting()))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert failed == []
    return done


@pytest.mark.usefixtures("again")
def test_of_those_who_finish_at_once_one_does(model: Path, out: Path, same: Any) -> None:
    target = out / "m.safetensors"
    done = at_once(4, lambda listener: convert_part(model, target, Part(1, 1), LARGE, listener))
    assert sum(bool(each.report) for each in done) == 1
    assert [each.missing for each in done] == [()] * 4
    same(model, "m.safetensors", LARGE)


def test_the_last_parts_at_once(model: Path, out: Path, same: Any) -> None:
    target = out / "m.safetensors"
    numbers = iter([1, 2, 3, 4])
    done = at_once(
        4, lambda listener: convert_part(model, target, Part(next(numbers), 4), LARGE, listener)
    )
    assert sum(bool(each.report) for each in done) == 1
    same(model, "m.safetensors", LARGE)


# What goes wrong


def test_a_damaged_source_costs_its_shard_and_leaves_no_target(
    samples: Path, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / "in"
    shutil.copytree(samples / "tf1_adam_ema", source)
    data = next(source.glob("*.data-*"))
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    hurt = []
    for number in (1, 2):
        try:
            convert_part(source, out / "m.safetensors", Part(number, 2), OPTIONS)
        except CorruptFileError as error:
            hurt.append(error.what)
    assert hurt == ["crc32c of the bytes differs"]
    assert [path.name[:15] for path in out.iterdir()] == [".m.safetensors."]
    assert [path for path in out.rglob("writing/*") if path.is_file()] == []


def test_a_first_part_that_fails_leaves_nothing(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "wide.npz"
    np.savez(source, a=np.full(30, 1e300), b=np.full(30, 1.0))
    options = ConvertOptions(write=SHARDS, dtypes=("f32",), strict=True)
    with pytest.raises(LossError, match="tensor `a`: of 30 values, 30 overflow"):
        convert_part(source, out / "m.safetensors", Part(1, 2), options)
    assert list(out.iterdir()) == []


def test_values_that_a_cast_loses_are_told_by_whoever_finishes(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "wide.npz"
    np.savez(source, a=np.full(30, 1e300), b=np.full(30, 1.0))
    options = ConvertOptions(write=SHARDS, dtypes=("f32",))
    report = parts(source, out / "m.safetensors", options, (1, 2))[1].report
    assert report
    assert [note.text for note in report.notes if note.kind.lossy] == [
        "of 30 values, 30 overflow as float32"
    ]
    assert (
        report.json()["tensors"]
        == convert(source, tmp_path / "n.safetensors", options).json()["tensors"]
    )


@pytest.mark.parametrize("how", ["verify", "verify_sample"])
def test_a_disk_that_lies_is_found_out(
    how: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npz(tmp_path / "m.npz", 1)
    write_file = writing.write_file

    def lying(file: Any, descriptor: int, *rest: Any, **words: Any) -> None:
        write_file(file, descriptor, *rest, **words)
        os.pwrite(descriptor, b"\xff\xff", file.size - 2)

    monkeypatch.setattr(writing, "write_file", lying)
    options = ConvertOptions(write=SHARDS, **{how: True})  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="reads back different"):
        convert_part(source, out / "m.safetensors", Part(1, 1), options)
    assert list(out.iterdir()) == []


def test_a_header_that_lies_is_found_out(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file = writing.write_file

    def lying(file: Any, descriptor: int, *rest: Any, **words: Any) -> None:
        write_file(file, descriptor, *rest, **words)
        os.pwrite(descriptor, b"!", 20)

    monkeypatch.setattr(writing, "write_file", lying)
    options = ConvertOptions(write=SHARDS, verify=True)
    with pytest.raises(VerificationError, match="byte 0"):
        convert_part(npz(tmp_path / "m.npz", 1), out / "m.safetensors", Part(1, 1), options)


def test_a_full_disk_is_told_and_leaves_what_is_whole(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, same: Any
) -> None:
    target = out / "m.safetensors"
    allocate = os.posix_fallocate
    calls = iter(range(100))

    def full(descriptor: int, offset: int, length: int) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")
        allocate(descriptor, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(TargetError, match="no space left on device"):
            convert_part(model, target, Part(1, 1), LARGE)
    done = convert_part(model, target, Part(1, 1), LARGE)
    assert done.there == 2
    same(model, "m.safetensors", LARGE)


def test_too_little_space_is_told_before_anything_is_written(
    model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = os.statvfs(out)

    class Small:
        f_bavail, f_frsize = 1, small.f_frsize

    monkeypatch.setattr(os, "statvfs", lambda _: Small)
    with pytest.raises(TargetError, match="not enough space"):
        convert_part(model, out / "m.safetensors", Part(1, 2), LARGE)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("name", ["done/0.json", "done/1.json"])
@pytest.mark.parametrize("content", ["", "[]", '{"size": 7}', '{"size": 1e3, "checksums": {}}'])
def test_a_row_that_is_none_costs_its_shard_only(
    name: str, content: str, tmp_path: Path, out: Path, same: Any
) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert_part(source, target, Part(1, 2), OPTIONS)
    folder = next(out.iterdir())
    known = {path.name for path in (folder / "done").iterdir()}
    (folder / name).write_text(content)
    done = convert_part(source, target, Part(1, 1), OPTIONS)
    assert done.there == len(known - {Path(name).name})
    same(source, "m.safetensors", OPTIONS)


def test_a_shard_that_was_cut_short_is_written_again(tmp_path: Path, out: Path, same: Any) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    convert_part(source, target, Part(1, 2), OPTIONS)
    first = next(next(out.iterdir()).rglob("files/*"))
    os.truncate(first, 10)
    convert_part(source, target, Part(2, 2), OPTIONS)
    assert convert_part(source, target, Part(1, 2), OPTIONS).report
    same(source, "m.safetensors", OPTIONS)


@pytest.mark.parametrize(
    ("name", "how", "said"),
    [
        ("m.npz", {}, "is one file"),
        ("m.h5", {}, "is one file"),
        ("m.safetensors", {}, "is one file"),
        ("m.npz", {"write": SHARDS}, "--max-shard-size means nothing to"),
        ("s3://bucket/m.safetensors", {"write": SHARDS}, "not in an object store"),
        ("nowhere/m.safetensors", {"write": SHARDS}, "the folder does not exist"),
    ],
)
def test_what_cannot_be_written_in_parts_is_refused(
    name: str, how: dict[str, Any], said: str, tmp_path: Path, out: Path
) -> None:
    target = name if "://" in name else out / name
    with pytest.raises(ConvertError, match=said) as caught:
        convert_part(npz(tmp_path / "m.npz", 1), target, Part(1, 2), ConvertOptions(**how))
    assert caught.value.exit_code == 2
    assert list(out.iterdir()) == []


def test_a_dry_run_tells_the_files_of_a_part(tmp_path: Path, out: Path) -> None:
    source, target = npz(tmp_path / "m.npz", 1), out / "m.safetensors"
    options = ConvertOptions(write=SHARDS, dry_run=True)
    done = parts(source, target, options, (1, 2))
    names = [file.path.name for each in done for file in each.files]
    assert sorted(names) == [f"m-{n:05}-of-00006.safetensors" for n in range(1, 7)]
    assert json.loads(json.dumps(done[0].json()))["dry_run"]
    assert list(out.iterdir()) == []


def test_report_and_digests_are_those_of_a_conversion_in_one_go(
    samples: Path, tmp_path: Path, out: Path
) -> None:
    source = samples / "tf1_adam_ema"

    def with_files(folder: Path) -> ConvertOptions:
        return ConvertOptions(write=SHARDS, report=folder / "r", digest_file=folder / "d")

    convert(source, tmp_path / "m.safetensors", with_files(tmp_path))
    convert_part(source, out / "m.safetensors", Part(1, 2), with_files(out))
    assert not (out / "r").exists()
    convert_part(source, out / "m.safetensors", Part(2, 2), with_files(out))
    assert (out / "d").read_text() == (tmp_path / "d").read_text()
    rows = [json.loads((folder / "r").read_text())["tensors"] for folder in (tmp_path, out)]
    assert rows[0] == rows[1]
    assert len([path for path in out.iterdir() if path.name.startswith(".")]) == 0


def test_updates_are_of_the_source(tmp_path: Path, out: Path, same: Any) -> None:
    source, patch = npz(tmp_path / "m.npz", 1), npz(tmp_path / "u.npz", 2, "bx")
    options = ConvertOptions(write=SHARDS, updates=(patch,), verify=True)
    convert_part(source, out / "m.safetensors", Part(1, 2), options)
    npz(patch, 3, "bx")
    with pytest.raises(UsageError, match="do not fit"):
        convert_part(source, out / "m.safetensors", Part(2, 2), options)
    parts(source, out / "n.safetensors", options, (1, 2))
    shutil.rmtree(next(path for path in out.iterdir() if path.is_dir()))
    same(source, "n.safetensors", options)
