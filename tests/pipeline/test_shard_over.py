"""One target over many workers: the same bytes and account, whichever workers are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import CorruptFileError, TargetError, UsageError
from tensorferry.converters.registry import WriteOptions
from tensorferry.pipeline.batch.jobs import Part
from tensorferry.pipeline.batch.pool import LocalExecutor
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert
from tensorferry.pipeline.sharded.run import convert_over, convert_part

SHARDS = WriteOptions(max_shard_bytes=300)
CLUSTER = Path(__file__).parent / "batch" / "dask_cluster.py"
PROGRAM = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"


def files(folder: Path) -> dict[str, bytes]:
    every = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in every}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def expected(tmp_path: Path) -> Callable[[Path, str, ConvertOptions], dict[str, bytes]]:
    """Return what gives the files of a conversion in one go."""

    def run(source: Path, name: str, options: ConvertOptions) -> dict[str, bytes]:
        (tmp_path / "local").mkdir()
        convert(source, tmp_path / "local" / name, options)
        return files(tmp_path / "local")

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model of 40 MB in ten tensors."""
    path = tmp_path_factory.mktemp("model") / "model.npz"
    values = np.arange(1_000_000, dtype="f4")
    np.savez(path, **{f"w{n}": values + n for n in range(10)})  # type: ignore[arg-type]
    return path


LARGE = ConvertOptions(write=WriteOptions(max_shard_bytes=8_000_000), verify=True)


def processes() -> Executor:
    return ProcessPoolExecutor(2, get_context("spawn"))


@pytest.mark.parametrize(
    "make",
    [processes, lambda: LocalExecutor(2), lambda: ThreadPoolExecutor(3)],
    ids=["processes", "ours", "threads"],
)
def test_any_executor_makes_the_bytes_and_the_account_of_a_conversion_in_one_go(
    make: Callable[[], Executor], samples: Path, tmp_path: Path, out: Path, expected: Any
) -> None:
    source = samples / "tf1_adam_ema"
    options = ConvertOptions(write=SHARDS, dtypes=("dense*=bf16",), exclude=("*Adam",), verify=True)
    with make() as executor:
        report = convert_over(source, out / "m.safetensors", executor, options)
    assert files(out) == expected(source, "m.safetensors", options)
    whole = convert(source, tmp_path / "m.safetensors", options)
    mine, theirs = ({**each.json(), "seconds": 0, "target": 0} for each in (report, whole))
    assert mine == theirs
    assert report.digests == whole.digests


def test_paths_mean_the_same_to_workers_elsewhere(
    samples: Path, tmp_path: Path, out: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(samples / "saved_model_module")
    write = WriteOptions(template=Path("model"), max_shard_bytes=20)
    options = ConvertOptions(target_format="saved-model", write=write)
    with LocalExecutor(1) as executor:
        executor.submit(os.chdir, "/").result()
        convert_over("model", "out/made/", executor, options)
    assert files(out) == expected(samples / "saved_model_module", "made", options)


def test_progress_is_told_shard_by_shard(samples: Path, out: Path) -> None:
    told: list[int | str] = []

    class Told(Listener):
        def started(self, plan: Any) -> None:
            del plan
            told.append("started")

        def advanced(self, nbytes: int) -> None:
            told.append(nbytes)

        def finished(self) -> None:
            told.append("finished")

    options = ConvertOptions(write=SHARDS)
    convert_part(samples / "tf1_adam_ema", out / "m.safetensors", Part(1, 2), options)
    with ThreadPoolExecutor(1) as executor:
        report = convert_over(
            samples / "tf1_adam_ema", out / "m.safetensors", executor, options, Told()
        )
    sizes = [file.size for file in report.plan.files[:-1]]
    assert (told[0], told[-1]) == ("started", "finished")
    assert sum(each for each in told if isinstance(each, int)) == sum(sizes)
    assert len(told) == 3 + 3  # what was there is told at once


def test_a_dry_run_asks_no_worker(samples: Path, out: Path) -> None:
    options = ConvertOptions(write=SHARDS, dry_run=True)
    with LocalExecutor(1) as executor:
        report = convert_over(samples / "tf1_adam_ema", out / "m.safetensors", executor, options)
        assert executor.pids() == []
    assert len(report.plan.files) == 6
    assert list(out.iterdir()) == []


# Workers that are lost


@contextmanager
def killing(pids: Callable[[], list[int]], times: int) -> Iterator[list[int]]:
    """Kill workers as soon as they are seen at work, so many times."""
    killed: list[int] = []
    over = threading.Event()

    def run() -> None:
        while len(killed) < times and not over.is_set():
            for pid in set(pids()) - {*killed}:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_shards_of_lost_workers_are_given_to_others(model: Path, out: Path, expected: Any) -> None:
    with LocalExecutor(2) as executor, killing(executor.pids, 2) as killed:
        convert_over(model, out / "m.safetensors", executor, LARGE)
    assert len(killed) == 2
    assert files(out) == expected(model, "m.safetensors", LARGE)


def test_workers_that_are_always_lost_are_told_and_the_next_run_goes_on(
    model: Path, out: Path, expected: Any
) -> None:
    target = out / "m.safetensors"
    first = convert_part(model, target, Part(1, 3), LARGE)
    with (
        pytest.raises(TargetError, match="its workers are lost: WorkerError") as caught,
        LocalExecutor(1) as executor,
        killing(executor.pids, 1000) as killed,
    ):
        convert_over(model, target, executor, LARGE)
    assert len(killed) >= 3
    assert "goes on" in str(caught.value.hint)
    assert not target.with_name("m.safetensors.index.json").exists()
    assert convert_part(model, target, Part(1, 3), LARGE).there == len(first.files)
    with LocalExecutor(1) as executor:
        convert_over(model, target, executor, LARGE)
    assert files(out) == expected(model, "m.safetensors", LARGE)


def test_a_pool_that_is_broken_by_a_lost_worker_is_told_and_another_goes_on(
    model: Path, out: Path, expected: Any
) -> None:
    target = out / "m.safetensors"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pid = pool.submit(os.getpid).result()
        with (
            killing(lambda: [pid] if list(out.rglob("writing/*")) else [], 1) as killed,
            pytest.raises(TargetError, match="its workers are lost: BrokenProcessPool"),
        ):
            convert_over(model, target, pool, LARGE)
    assert killed == [pid]
    with processes() as pool:
        convert_over(model, target, pool, LARGE)
    assert files(out) == expected(model, "m.safetensors", LARGE)


# What goes wrong


def test_a_damaged_source_is_told_and_whole_shards_stay(
    samples: Path, tmp_path: Path, out: Path
) -> None:
    (tmp_path / "in").mkdir()
    for path in (samples / "tf1_adam_ema").iterdir():
        content = bytearray(path.read_bytes())
        content[-1] ^= ".data-" in path.name
        (tmp_path / "in" / path.name).write_bytes(content)
    options = ConvertOptions(write=SHARDS)
    with LocalExecutor(1) as executor, pytest.raises(CorruptFileError, match="crc32c") as caught:
        convert_over(tmp_path / "in", out / "m.safetensors", executor, options)
    assert caught.value.exit_code == 4
    assert [path.name[:15] for path in out.iterdir()] == [".m.safetensors."]


def test_a_worker_that_sees_another_source_is_told(tmp_path: Path, out: Path) -> None:
    source = tmp_path / "m.npz"
    np.savez(source, a=np.zeros(100), b=np.ones(100))

    class Meddler(Listener):
        def started(self, plan: Any) -> None:
            del plan
            np.savez(source, a=np.ones(100), b=np.ones(100))

    options = ConvertOptions(write=SHARDS)
    with LocalExecutor(1) as executor, pytest.raises(UsageError, match="source has changed since"):
        convert_over(source, out / "m.safetensors", executor, options, Meddler())
    assert list(out.iterdir()) == []


def test_what_is_there_is_found_before_any_worker_is_asked(samples: Path, out: Path) -> None:
    source, target = samples / "tf1_adam_ema", out / "m.safetensors"
    with LocalExecutor(1) as executor:
        convert_over(source, target, executor, ConvertOptions(write=SHARDS))
        before = files(out)
        with pytest.raises(UsageError, match="exists already"):
            convert_over(source, target, executor, ConvertOptions(write=SHARDS))
        with pytest.raises(UsageError, match="is one file"):
            convert_over(source, out / "n.safetensors", executor, ConvertOptions())
    assert files(out) == before


def test_all_that_was_set_aside_is_replaced(samples: Path, out: Path, expected: Any) -> None:
    target = out / "m.safetensors"
    convert(samples / "npz_file" / "model.npz", target, ConvertOptions(write=SHARDS))
    write = WriteOptions(max_shard_bytes=300, overwrite=True)
    with ThreadPoolExecutor(2) as executor:
        convert_over(
            samples / "tf1_adam_ema", target, executor, ConvertOptions(write=write, fsync=True)
        )
    assert files(out) == expected(
        samples / "tf1_adam_ema", "m.safetensors", ConvertOptions(write=SHARDS)
    )


# On a cluster


@contextmanager
def dask(workers: int) -> Iterator[str]:
    """Give the address of the scheduler of a cluster with processes of its own."""
    pytest.importorskip("distributed", reason="the extra `dask` is not installed")
    with subprocess.Popen(
        [sys.executable, str(CLUSTER), str(workers)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdin
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(20)


@pytest.mark.oracle
def test_a_dask_cluster_makes_the_same_files(model: Path, out: Path, expected: Any) -> None:
    words = [str(model), "m.safetensors", "--max-shard-size", "8MB", "--verify", "--jobs", "1"]
    with dask(2) as address:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words, "--cluster", address],
            cwd=out, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "m.safetensors: 10 written, 40 MB in" in done.stderr
    assert done.stdout == ""
    assert files(out) == expected(model, "m.safetensors", LARGE)


@pytest.mark.oracle
def test_a_dask_worker_that_is_killed_costs_nothing(model: Path, out: Path, expected: Any) -> None:
    from distributed import Client
    from tensorferry.pipeline.cluster import cluster_executor

    with dask(2) as address, cluster_executor(address, folders=[out]) as executor:
        with Client(address, set_as_default=False) as client:
            pids = [*client.run(os.getpid).values()]
        busy = [pids[0]]
        with killing(lambda: busy if list(out.rglob("writing/*")) else [], 1) as killed:
            convert_over(model, out / "m.safetensors", executor, LARGE)
    assert killed == busy
    assert files(out) == expected(model, "m.safetensors", LARGE)
