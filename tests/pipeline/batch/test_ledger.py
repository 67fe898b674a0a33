from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import NotRecognisedError, TargetError, UsageError
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.batch.jobs import Job, Part, Skipped
from tensorferry.pipeline.batch.ledger import (
    LEDGER,
    Ledger,
    Standing,
    merge,
    read_rows,
    recipe_of,
)
from tensorferry.pipeline.batch.status import status_of
from tensorferry.pipeline.batch.work import Failure, Outcome, Output, file_digest
from tensorferry.pipeline.convert import ConvertOptions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(root: Path) -> Job:
    flags = ConvertOptions(target_format="safetensors")
    return Job("zoo/a.npz", str(root / "deep" / "a.safetensors"), 7, "mark", flags)


def written(job: Job, content: bytes = b"weights") -> Outcome:
    """Write the target of a job, and return what its worker would say."""
    path = Path(job.target)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    output = Output(str(path), len(content), path.stat().st_mtime_ns, file_digest(path))
    return Outcome(0.25, None, (output,), "d" * 64, {"written": 3})


FAILURE = Failure("zoo/a.npz: is torn", "copy it again", 4, transient=True)


def record(root: Path, *jobs: Job) -> None:
    with Ledger(root) as ledger:
        for each in jobs:
            ledger.started(each, 1)
            ledger.ended(each, written(each))


def standing(root: Path, job: Job) -> Standing:
    with Ledger(root) as ledger:
        return ledger.standing(job)


# What counts


def test_a_job_without_a_row_is_to_be_done(root: Path, job: Job) -> None:
    assert standing(root, job) == Standing()


def test_a_job_that_is_done_is_finished(root: Path, job: Job) -> None:
    record(root, job)
    assert standing(root, job) == Standing(finished=True, ours=True)


def test_what_was_begun_only_is_to_be_done_again(root: Path, job: Job) -> None:
    with Ledger(root) as ledger:
        ledger.started(job, 1)
    assert standing(root, job) == Standing(ours=True, interrupted=True)
    with Ledger(root) as ledger:
        ledger.stopped(job)
    assert standing(root, job) == Standing(ours=True)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "another"},
        {"flags": ConvertOptions(target_format="safetensors", weights_only=True)},
        {"flags": ConvertOptions(target_format="safetensors", read=ReadOptions(names="key"))},
    ],
)
def test_what_has_changed_is_to_be_done_again(root: Path, job: Job, change: dict[str, Any]) -> None:
    record(root, job)
    assert standing(root, replace(job, **change)) == Standing(ours=True)


@pytest.mark.parametrize(
    "flags",
    [
        {"jobs": 7},
        {"fsync": True},
        {"verify": True},
        {"write": WriteOptions(overwrite=True)},
    ],
)
def test_flags_that_change_no_output_are_the_same_recipe(
    root: Path, job: Job, flags: dict[str, Any]
) -> None:
    record(root, job)
    assert standing(root, replace(job, flags=replace(job.flags, **flags))).finished


def test_a_failure_counts_until_something_changes(root: Path, job: Job) -> None:
    with Ledger(root) as ledger:
        row = ledger.ended(job, Outcome(0.5, FAILURE))
    assert row["error"] == "zoo/a.npz: is torn"
    assert (row["hint"], row["exit_code"], row["seconds"]) == ("copy it again", 4, 0.5)
    assert "transient" not in row
    assert standing(root, job) == Standing(failure=row, ours=True)
    assert standing(root, replace(job, fingerprint="another")) == Standing(ours=True)


def test_the_last_row_counts(root: Path, job: Job) -> None:
    with Ledger(root) as ledger:
        ledger.ended(job, Outcome(0.5, FAILURE))
        ledger.ended(job, written(job))
        assert ledger.standing(job).finished


def test_what_a_done_row_says(root: Path, job: Job) -> None:
    record(root, job)
    row = [*read_rows(root / LEDGER)][-1]
    assert row["event"] == "done"
    assert (row["source"], row["target"]) == ("zoo/a.npz", "deep/a.safetensors")
    assert (row["digest"], row["counts"], row["lossy"]) == ("d" * 64, {"written": 3}, False)
    assert (row["bytes"], row["seconds"]) == (7, 0.25)
    assert row["files"][0]["path"] == "deep/a.safetensors"


# Outputs are trusted by digest


def test_an_output_that_is_gone_is_made_again(root: Path, job: Job) -> None:
    record(root, job)
    Path(job.target).unlink()
    assert standing(root, job) == Standing(ours=True)


def test_an_output_that_was_only_touched_is_the_same(root: Path, job: Job) -> None:
    record(root, job)
    os.utime(job.target)
    assert standing(root, job).finished


@pytest.mark.parametrize("content", [b"another", b"longer than before", b""])
def test_an_output_with_other_bytes_is_made_again(root: Path, job: Job, content: bytes) -> None:
    record(root, job)
    Path(job.target).write_bytes(content)
    os.utime(job.target, ns=(1, 1))
    assert standing(root, job) == Standing(ours=True)


def test_an_output_that_a_folder_stands_for_is_made_again(root: Path, job: Job) -> None:
    record(root, job)
    Path(job.target).unlink()
    Path(job.target).mkdir()
    assert standing(root, job) == Standing(ours=True)


def test_outputs_may_be_moved_with_their_ledger(root: Path, job: Job, tmp_path: Path) -> None:
    record(root, job)
    moved = tmp_path / "elsewhere"
    shutil.move(root, moved)
    there = replace(job, target=str(moved / "deep" / "a.safetensors"))
    assert standing(moved, there).finished


# Lines that a crash leaves


def test_a_torn_last_line_is_passed_over_and_ended(root: Path, job: Job) -> None:
    record(root, job)
    path = root / LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:40])
    assert standing(root, job).finished
    other = replace(job, target=str(root / "b.safetensors"))
    record(root, other)
    assert standing(root, job).finished
    assert standing(root, other).finished


def test_every_length_that_a_crash_leaves_is_fine(root: Path, job: Job) -> None:
    record(root, job)
    path = root / LEDGER
    whole = path.read_bytes()
    begun = whole.index(b"\n") + 1
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        expected = Standing(ours=True, interrupted=True) if length >= begun - 1 else Standing()
        if length >= len(whole) - 1:
            expected = Standing(finished=True, ours=True)
        assert standing(root, job) == expected, length


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 4096,
        b"\xff\xfe",
        b"[1, 2]",
        b"{}",
        b'{"event": 3}',
        b'{"event": "done", "target": "deep/a.safetensors"}',
        b"[" * 100_000,
        b'{"event":"skipped","source":1,"error":"x"}',
    ],
)
def test_lines_that_are_no_rows_are_passed_over(root: Path, job: Job, line: bytes) -> None:
    record(root, job)
    with (root / LEDGER).open("ab") as file:
        file.write(line + b"\n")
    assert standing(root, job).finished


@pytest.mark.parametrize(
    "files", [None, 3, [3], [{}], [{"path": 1, "size": 1, "mtime_ns": 1, "digest": "x"}]]
)
def test_a_done_row_with_strange_files_is_none(root: Path, job: Job, files: Any) -> None:
    record(root, job)
    row = {**[*read_rows(root / LEDGER)][-1], "files": files}
    with (root / LEDGER).open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert standing(root, job).finished


def test_names_may_hold_any_byte(root: Path, job: Job) -> None:
    name = os.fsdecode(b"caf\xe9 \n.safetensors")
    odd = replace(job, source=name, target=str(root / name))
    record(root, odd)
    assert standing(root, odd).finished
    assert len((root / LEDGER).read_bytes().splitlines()) == 2


# What is no model


def test_what_is_skipped_is_said_once(root: Path) -> None:
    with Ledger(root) as ledger:
        row = ledger.skipped(Skipped("zoo/empty", "is empty"))
        assert row
        assert (row["source"], row["error"]) == ("zoo/empty", "is empty")
    with Ledger(root) as ledger:
        assert ledger.skipped(Skipped("zoo/empty", "is empty")) is None
        assert ledger.skipped(Skipped("zoo/empty", "is a pointer"))


# One batch at a time


def test_two_batches_do_not_share_a_ledger(root: Path) -> None:
    with Ledger(root), pytest.raises(UsageError, match="another batch is at work here"):
        Ledger(root)
    Ledger(root).__exit__(None, None, None)


def test_the_lock_of_a_killed_batch_is_gone(root: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from tensorferry.pipeline.batch.ledger import Ledger\n"
        "held = Ledger(Path(sys.argv[1])); print(flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        holder.stdout.readline()
        holder.kill()
    began = time.monotonic()
    with Ledger(root):
        assert time.monotonic() - began < 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TargetError, match="cannot be written"):
        Ledger(tmp_path / "file" / "out")


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="no ledger of a batch: no such file"):
        list(read_rows(tmp_path / LEDGER))


# Recipes


def test_a_recipe_is_stable() -> None:
    # As it stands in ledgers: were it another one, all zoos would be converted again.
    read = ReadOptions(tag_set=frozenset({"b", "a"}))
    options = ConvertOptions(target_format="safetensors", dtypes=("bf16",), read=read)
    assert recipe_of(options) == "a6f2a321bac8dd03468395aabf6a0eb2"


def test_a_recipe_knows_the_files_that_are_named(tmp_path: Path) -> None:
    path = tmp_path / "update.npz"
    path.write_bytes(b"one")
    options = ConvertOptions(updates=(str(path),), read=ReadOptions(tag_set=frozenset({"b", "a"})))
    before = recipe_of(options)
    assert recipe_of(options) == before
    path.write_bytes(b"another")
    assert recipe_of(options) != before
    folder = ConvertOptions(write=WriteOptions(template=tmp_path))
    before = recipe_of(folder)
    (tmp_path / "more").write_bytes(b"")
    assert recipe_of(folder) != before


def test_a_recipe_knows_the_files_of_a_prefix(tmp_path: Path) -> None:
    (tmp_path / "m.index").write_bytes(b"1")
    options = ConvertOptions(write=WriteOptions(layout_of=tmp_path / "m"))
    before = recipe_of(options)
    (tmp_path / "m.index").write_bytes(b"12")
    assert recipe_of(options) != before


# Parts


def test_parts_have_ledgers_of_their_own_that_become_one(root: Path, job: Job) -> None:
    other = replace(job, source="zoo/b.npz", target=str(root / "b.safetensors"))
    for number, each in enumerate((job, other), 1):
        with Ledger(root, Part(number, 2)) as ledger:
            ledger.started(each, 1)
            ledger.ended(each, written(each))
    assert not (root / LEDGER).exists()
    assert status_of(root).done == 2
    assert standing(root, other).finished  # the whole knows what its parts have done
    assert merge(root) == 2
    assert [path.name for path in root.glob("*.jsonl")] == [LEDGER]
    assert status_of(root).done == 2
    with Ledger(root, Part(2, 2)) as ledger:
        assert ledger.standing(job).finished  # and a part what the whole has
    with pytest.raises(NotRecognisedError, match="no ledgers of parts"):
        merge(root / "nowhere")


def test_the_later_row_of_a_target_counts_in_whatever_ledger_it_is(root: Path, job: Job) -> None:
    with Ledger(root, Part(1, 1)) as ledger:
        ledger.ended(job, Outcome(0.1, FAILURE))
    time.sleep(0.01)
    record(root, job)
    assert status_of(root).failed == {}
    merge(root)
    assert standing(root, job).finished


def test_ledgers_in_use_are_not_merged(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorferry.pipeline.batch.ledger.PATIENCE_SECONDS", 0.0)
    with Ledger(root, Part(1, 2)), pytest.raises(UsageError, match="another batch is at work"):
        merge(root)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/99999999"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no such part"):
        Part.of(text)


def test_parts_share_all_targets_and_none_twice() -> None:
    targets = [f"team{number}/m.safetensors" for number in range(1000)]
    owners = [[part for part in range(1, 8) if Part(part, 7).has(each)] for each in targets]
    assert {len(each) for each in owners} == {1}
    sizes = [sum(each == [part] for each in owners) for part in range(1, 8)]
    assert min(sizes) > 100


MERGE = """
import resource, sys
from pathlib import Path
from tensorferry.pipeline.batch.ledger import merge
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
print(merge(Path(sys.argv[1])))
"""


def test_more_parts_are_merged_than_files_may_be_open(root: Path, job: Job) -> None:
    for number in range(1, 101):
        with Ledger(root, Part(number, 100)) as ledger:
            ledger.started(replace(job, target=str(root / f"{number}.npz")), 1)
    done = subprocess.run(
        [sys.executable, "-c", MERGE, str(root)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("100\n", "")
    assert len(status_of(root).unfinished) == 100
