"""Batches on real Dask clusters: schedulers and workers in processes of their own, on loopback."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import ClusterError, NotRecognisedError
from tensorferry.pipeline import cluster_worker
from tensorferry.pipeline.batch.jobs import BatchPlan, Job
from tensorferry.pipeline.batch.ledger import LEDGER, Ledger, Row, read_rows
from tensorferry.pipeline.batch.pool import LostError, WorkerError
from tensorferry.pipeline.batch.run import (
    BatchListener,
    BatchOptions,
    Totals,
    local_executor,
    run_batch,
)
from tensorferry.pipeline.cluster import ClusterExecutor, cluster_executor
from tensorferry.pipeline.convert import ConvertOptions, convert

MakeZoo = Callable[[int], Path]
Plan = Callable[..., BatchPlan]
StartDask = Callable[..., AbstractContextManager[tuple[subprocess.Popen[str], str]]]
PROGRAM = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"


@pytest.fixture
def executor(address: str) -> Iterator[ClusterExecutor]:
    with cluster_executor(address) as executor:
        yield executor


class Heard(BatchListener):
    """Keeps what it hears, and may do something about it."""

    def __init__(self, react: Callable[[Row], object]) -> None:
        self._react = react

    def changed(self, row: Row, totals: Totals) -> None:
        del totals
        self._react(row)


def ran(plan: BatchPlan, out: Path, executor: Any, react: Any = lambda row: None) -> Totals:  # noqa: ARG005
    with Ledger(out) as ledger:
        return run_batch(plan, ledger, executor, BatchOptions(4, patience=0.01), Heard(react))


def counts(totals: Totals) -> tuple[int, int, int]:
    return totals.done, totals.unchanged, totals.failed


def rows(out: Path, event: str) -> list[Row]:
    return [row for row in read_rows(out / LEDGER) if row["event"] == event]


def outputs(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != LEDGER]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def children(pid: int) -> list[int]:
    texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(word) for text in texts for word in text.split()]


def processes(executor: ClusterExecutor) -> list[int]:
    """Return the processes of calls that the workers have."""
    pids = {executor.submit(os.getppid).result() for _ in range(8)}
    return [pid for each in pids for pid in children(each)]


def sparse_model(path: Path, nbytes: int) -> None:
    """Write a safetensors file whose one tensor is a hole: large, and made at once."""
    header = f'{{"w":{{"dtype":"U8","shape":[{nbytes}],"data_offsets":[0,{nbytes}]}}}}'
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + nbytes)


def when_writing(folder: Path, act: Callable[[int], object]) -> threading.Thread:
    """Do something to the process that writes an output, as soon as there is one."""

    def writer() -> int | None:
        with suppress(OSError):  # folders come and go
            if not [*folder.rglob(".tensorferry-*/*")]:
                return None
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                path = os.readlink(link)  # noqa: PTH115  it may be of a file that is gone
            except OSError:
                continue
            if path.startswith(str(folder)) and path.endswith("/large.safetensors"):
                return int(link.parts[2])
        return None

    def run() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            pid = writer()
            if pid:
                act(pid)
                return
            time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# Calls of any kind


def test_any_call_can_be_made(executor: ClusterExecutor, tmp_path: Path) -> None:
    assert [*executor.map(operator.add, range(30), range(30))] == [*range(0, 60, 2)]
    assert executor.submit(os.getcwd).result() == str(Path.cwd())
    with pytest.raises(ZeroDivisionError):
        executor.submit(operator.truediv, 1, 0).result()
    with pytest.raises(FileNotFoundError):
        executor.submit(os.stat, tmp_path / "nothing").result()


def test_errors_of_ours_arrive_whole(executor: ClusterExecutor, tmp_path: Path) -> None:
    flags = ConvertOptions(target_format="npz")
    call = str(tmp_path / "nothing"), str(tmp_path / "out.npz"), flags
    with pytest.raises(NotRecognisedError) as here:
        convert(*call)
    with pytest.raises(NotRecognisedError) as there:
        executor.submit(convert, *call).result()
    assert (str(there.value), vars(there.value)) == (str(here.value), vars(here.value))


def test_a_crash_costs_one_call(executor: ClusterExecutor) -> None:
    crash, leaving, good = (
        executor.submit(os.abort), executor.submit(os._exit, 3), executor.submit(operator.add, 1, 2)
    )  # fmt: skip
    with pytest.raises(WorkerError) as caught:
        crash.result()
    assert caught.value.signal == signal.SIGABRT
    with pytest.raises(WorkerError):
        leaving.result()
    assert good.result() == 3


def test_calls_have_limits(address: str) -> None:
    def limit(first: int) -> float | None:
        return 0.5 if first == 60 else None

    with cluster_executor(address, memory=400 << 20, seconds=limit) as executor:
        with pytest.raises(WorkerError) as caught:
            executor.submit(time.sleep, 60).result()
        assert caught.value.seconds == 0.5
        with pytest.raises(MemoryError):
            executor.submit(bytearray, 1 << 30).result()


def test_a_call_can_be_cancelled(executor: ClusterExecutor) -> None:
    slow = [executor.submit(time.sleep, 0.5) for _ in range(3)]
    waiting = executor.submit(time.sleep, 60)
    assert waiting.cancel()
    assert [each.result() for each in slow] == [None] * 3


def test_no_process_is_left(address: str) -> None:
    with cluster_executor(address) as executor:
        pids = processes(executor)
        assert len(pids) >= 2
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_an_error_ends_what_runs(address: str) -> None:
    began = time.monotonic()
    pids: list[int] = []
    futures: list[Future[None]] = []

    def interrupted() -> None:
        with cluster_executor(address) as executor:
            pids.extend(processes(executor))
            futures.extend(executor.submit(time.sleep, 60) for _ in range(6))
            time.sleep(0.2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 10
    assert all(future.done() for future in futures)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    with cluster_executor(address) as executor:  # the workers are as before
        assert executor.submit(operator.add, 1, 2).result() == 3


# Batches


def test_the_same_bytes_as_of_a_local_batch(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, executor: ClusterExecutor
) -> None:
    (make_zoo(12) / "torn.npz").write_bytes(b"PK\x03\x04torn")
    out = tmp_path / "out"
    assert counts(ran(plan(verify=True), out, executor)) == (12, 0, 1)
    assert counts(ran(plan(verify=True), out, executor)) == (0, 12, 1)
    there = outputs(out)
    (failed,) = rows(out, "failed")
    out.rename(tmp_path / "there")
    with local_executor(2) as local:
        assert counts(ran(plan(verify=True), out, local)) == (12, 0, 1)
    assert there == outputs(out)
    assert {**rows(out, "failed")[0], "at": 0, "seconds": 0} == {**failed, "at": 0, "seconds": 0}


def test_a_crash_costs_one_row(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, executor: ClusterExecutor
) -> None:
    sparse_model(make_zoo(4) / "large.safetensors", 1 << 29)
    out = tmp_path / "out"
    killer = when_writing(out, lambda pid: os.kill(pid, signal.SIGSEGV))
    totals = ran(plan(), out, executor)
    killer.join()
    assert counts(totals) == (4, 0, 1)
    (row,) = rows(out, "failed")
    assert row["error"].endswith("large.safetensors: converting it crashed the worker, got SIGSEGV")
    assert [*tmp_path.rglob(".tensorferry-*")] == []


@pytest.mark.oracle
def test_a_hang_costs_one_row(make_zoo: MakeZoo, plan: Plan, tmp_path: Path, address: str) -> None:
    sparse_model(make_zoo(4) / "large.safetensors", 1 << 29)
    out = tmp_path / "out"

    def limit(job: Job) -> float:
        return 3 if job.source.endswith("large.safetensors") else 60

    with cluster_executor(address, seconds=limit) as executor:
        stopper = when_writing(out, lambda pid: os.kill(pid, signal.SIGSTOP))
        totals = ran(plan(), out, executor)
        stopper.join()
    assert counts(totals) == (4, 0, 1)
    (row,) = rows(out, "failed")
    assert row["error"].endswith("converting it takes too long, expected at most 3 s")
    assert [*tmp_path.rglob(".tensorferry-*")] == []


@pytest.mark.oracle
def test_a_lost_worker_costs_nothing(
    start_dask: StartDask, make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    sparse_model(make_zoo(8) / "large.safetensors", 1 << 29)
    out = tmp_path / "out"
    with start_dask() as (_, address), cluster_executor(address) as executor:
        # Of the process that writes, the Dask worker is the parent.
        killer = when_writing(out, lambda pid: os.kill(parent(pid), signal.SIGKILL))
        totals = ran(plan(), out, executor)
        killer.join()
    assert counts(totals) == (9, 0, 0)
    assert {*Counter(row["target"] for row in rows(out, "done")).values()} == {1}
    assert [*tmp_path.rglob(".tensorferry-*")] == []


@pytest.mark.oracle
def test_workers_may_come_later(make_zoo: MakeZoo, plan: Plan, tmp_path: Path) -> None:
    from distributed import LocalCluster

    make_zoo(6)
    with (
        LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0") as dask,
        cluster_executor(dask.scheduler_address) as executor,
    ):
        assert executor.threads() == {}
        timer = threading.Timer(0.3, dask.scale, (1,))
        timer.start()
        with Ledger(tmp_path / "out") as ledger:
            totals = run_batch(plan(), ledger, executor, BatchOptions(executor.calls))
        assert counts(totals) == (6, 0, 0)


def test_a_folder_that_is_lost_later_is_a_row(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, address: str
) -> None:
    make_zoo(1)
    folder = tmp_path / "shared"
    folder.mkdir()
    with cluster_executor(address, folders=[folder]) as executor:
        folder.rmdir()
        assert counts(ran(plan(), tmp_path / "out", executor)) == (0, 0, 1)
    assert [row["attempt"] for row in rows(tmp_path / "out", "started")] == [1, 2, 3]
    (row,) = rows(tmp_path / "out", "failed")
    assert row["error"].endswith(f": the folder {folder} is not seen from there")


KILL_DASK_WORKER = "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)"


@pytest.mark.oracle
def test_a_call_that_takes_workers_with_it_is_given_up(start_dask: StartDask) -> None:
    with (
        start_dask(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as (_, address),
        cluster_executor(address) as executor,
    ):
        deadly = executor.submit(subprocess.run, ["sh", "-c", KILL_DASK_WORKER])
        with pytest.raises(LostError, match="2 workers were lost while they were at it") as caught:
            deadly.result(60)
        assert not caught.value.again
        assert executor.submit(operator.add, 1, 2).result(60) == 3


@pytest.mark.oracle
def test_processes_end_when_their_caller_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster_worker, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(cluster_worker, "LOOK_SECONDS", 0.1)
    with (
        LocalCluster(
            processes=False, n_workers=1, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as dask,
        cluster_executor(dask.scheduler_address) as executor,
    ):
        pid = executor.submit(os.getpid).result()
        until = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < until
            time.sleep(0.05)
        assert executor.submit(operator.add, 1, 2).result() == 3


# Commands


def command(folder: Path, address: str, *flags: str) -> subprocess.Popen[str]:
    words = ["batch", "zoo", "out", "--to", "safetensors", "--cluster", address, *flags]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )


def when_done(out: Path, count: int) -> None:
    """Wait until so many models are done."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if (out / LEDGER).exists() and len(rows(out, "done")) >= count:
            return
        time.sleep(0.005)
    raise AssertionError("it takes too long")


def finished(start_dask: StartDask, folder: Path, models: int) -> None:
    """Run a batch again on a new cluster; everything is done then, and nothing was done twice."""
    before = {row["target"] for row in rows(folder / "out", "done")}
    assert 0 < len(before) < models
    with start_dask() as (_, address), command(folder, address) as process:
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 0, messages
    lines = messages.splitlines()
    assert lines[:2] == [
        f"{address}: workers: 2, threads: 2",
        f"{models} models found, {len(before)} are there already",
    ]
    times = Counter(row["target"] for row in rows(folder / "out", "done"))
    assert len(times) == models
    assert {*times.values()} == {1}
    assert [*folder.rglob(".tensorferry-*")] == []


@pytest.mark.oracle
def test_a_scheduler_that_is_lost(start_dask: StartDask, make_zoo: MakeZoo, tmp_path: Path) -> None:
    make_zoo(60)
    with start_dask() as (cluster, address), command(tmp_path, address) as process:
        when_done(tmp_path / "out", 5)
        cluster.kill()
        began = time.monotonic()
        _, messages = process.communicate(timeout=120)
        assert time.monotonic() - began < 15
        assert process.returncode == ClusterError.exit_code, messages
    assert messages.splitlines()[-3:] == [
        f"convert: {address}: the connection to the scheduler was lost",
        "",
        "hint: run the same command again: what is done stays done",
    ]
    assert "Traceback" not in messages
    assert "distributed" not in messages
    events = Counter(row["event"] for row in read_rows(tmp_path / "out" / LEDGER))
    assert events["started"] == events["done"] + events["stopped"]
    finished(start_dask, tmp_path, 60)


@pytest.mark.oracle
def test_an_interrupt_leaves_all_in_order(
    start_dask: StartDask, make_zoo: MakeZoo, tmp_path: Path, address: str
) -> None:
    make_zoo(60)
    with command(tmp_path, address) as process:
        when_done(tmp_path / "out", 5)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=120)
        assert process.returncode == 130, messages
    assert messages.splitlines()[-1].startswith("interrupted; the same command goes on")
    events = Counter(row["event"] for row in read_rows(tmp_path / "out" / LEDGER))
    assert events["started"] == events["done"] + events["stopped"]
    assert [*tmp_path.rglob(".tensorferry-*")] == []
    finished(start_dask, tmp_path, 60)
