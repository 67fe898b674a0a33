from __future__ import annotations

import pickle
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.registry import WriteOptions
from tensorferry.pipeline.batch.jobs import Job
from tensorferry.pipeline.batch.work import BUG, file_digest, work
from tensorferry.pipeline.convert import ConvertOptions


@pytest.fixture
def job(tmp_path: Path, samples: Path) -> Job:
    flags = ConvertOptions(target_format="safetensors", verify=True, fsync=True, jobs=1)
    source = str(samples / "tf_keras_object" / "ckpt-1")
    return Job(source, str(tmp_path / "a" / "b" / "m.safetensors"), 6000, "mark", flags)


def test_a_model_is_converted_and_accounted_for(job: Job) -> None:
    outcome = pickle.loads(pickle.dumps(work(job)))
    target = Path(job.target)
    assert outcome.failure is None
    (file,) = outcome.files
    assert (file.path, file.size) == (job.target, target.stat().st_size)
    assert (file.mtime_ns, file.digest) == (target.stat().st_mtime_ns, file_digest(target))
    assert outcome.counts == {"written": 26}
    assert not outcome.lossy
    assert len(outcome.digest) == 64
    with open_tensors(job.source) as source, open_tensors(target) as copy:
        assert {*source} == {*copy}


def test_the_digest_of_a_model_is_the_same_in_every_container(job: Job, tmp_path: Path) -> None:
    flags = replace(job.flags, target_format="npz")
    other = replace(job, target=str(tmp_path / "m.npz"), flags=flags)
    assert work(job).digest == work(other).digest


def test_without_verification_there_is_no_digest_of_the_model(job: Job) -> None:
    outcome = work(replace(job, flags=replace(job.flags, verify=False)))
    assert outcome.digest is None
    assert outcome.files[0].digest


def test_all_files_of_a_set_are_named(job: Job, tmp_path: Path) -> None:
    flags = ConvertOptions(
        target_format="tf-checkpoint", jobs=1, write=WriteOptions(max_shard_bytes=500)
    )
    outcome = work(replace(job, target=str(tmp_path / "x" / "m.ckpt"), flags=flags))
    names = [Path(file.path).name for file in outcome.files]
    assert names[0].startswith("m.ckpt.data-00000-of-0000")
    assert "m.ckpt.index" in names
    assert all(Path(file.path).stat().st_size == file.size for file in outcome.files)


def test_a_file_digest_is_what_b3sum_prints(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # From the test vectors of BLAKE3.
    expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert file_digest(path) == expected


# Failures


def failure(job: Job) -> tuple[str, str | None, int, bool]:
    outcome = pickle.loads(pickle.dumps(work(job)))
    assert outcome.files == ()
    assert outcome.failure
    return (
        outcome.failure.error,
        outcome.failure.hint,
        outcome.failure.exit_code,
        outcome.failure.transient,
    )


def test_a_source_that_is_gone(job: Job, tmp_path: Path) -> None:
    source = str(tmp_path / "gone")
    error, _, code, transient = failure(replace(job, source=source))
    assert source in error
    assert (code, transient) == (3, False)


def test_a_damaged_source(job: Job, tmp_path: Path) -> None:
    for path in Path(job.source).parent.iterdir():
        shutil.copy(path, tmp_path)
    data = tmp_path / "ckpt-1.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:50])
    error, hint, code, transient = failure(replace(job, source=str(tmp_path / "ckpt-1")))
    assert "ckpt-1.data-00000-of-00001" in error
    assert hint
    assert (code, transient) == (4, False)
    assert [path.name for path in Path(job.target).parent.iterdir()] == []


def test_a_target_that_is_there(job: Job) -> None:
    Path(job.target).parent.mkdir(parents=True)
    Path(job.target).write_bytes(b"mine")
    error, hint, code, _ = failure(job)
    assert error == f"{job.target}: exists already"
    assert (hint, code) == ("replace it with --overwrite", 2)
    assert Path(job.target).read_bytes() == b"mine"


def test_a_file_where_a_folder_is_needed(job: Job, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    error, _, code, _ = failure(job)
    assert error.endswith("is a file, and a folder is needed")
    assert code == 2


def test_a_folder_that_cannot_be_made(job: Job) -> None:
    error, _, code, transient = failure(replace(job, target="/proc/nowhere/m.safetensors"))
    assert "/proc/nowhere: cannot be written" in error
    assert (code, transient) == (5, False)


def test_a_disk_that_fails_may_be_asked_again(job: Job, broken_disk: set[str]) -> None:
    broken_disk.add(f"{job.source}.index")
    error, _, _, transient = failure(job)
    assert "input/output error" in error.lower()
    assert transient


def test_a_limit_on_files_is_not_asked_again(job: Job) -> None:
    # As a full disk, it does not pass by waiting.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        _, _, code, transient = failure(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heard)
    assert (code, transient) == (5, False)


def test_a_bug_is_a_failure_too(job: Job) -> None:
    error, hint, code, transient = failure(replace(job, source=None))  # type: ignore[arg-type]
    assert error.startswith("None: TypeError: ")
    assert hint == "a bug; convert it alone with --debug"
    assert (code, transient) == (BUG, False)
