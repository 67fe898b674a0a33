"""Batches in real processes and threads; what is injected is real too: links, signals, limits."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import ClusterError
from tensorferry.pipeline.batch.jobs import BatchPlan, Job
from tensorferry.pipeline.batch.ledger import LEDGER, Ledger, Row, read_rows
from tensorferry.pipeline.batch.pool import LocalExecutor
from tensorferry.pipeline.batch.run import (
    BatchListener,
    BatchOptions,
    Totals,
    local_executor,
    run_batch,
)

Plan = Callable[..., BatchPlan]
MakeZoo = Callable[[int], Path]
FAST = BatchOptions(jobs=2, patience=0.01)


class Heard(BatchListener):
    """Keeps what it hears, and may do something about it."""

    def __init__(self, react: Callable[[Row], object] = lambda row: None) -> None:  # noqa: ARG005
        self.rows: list[Row] = []
        self._react = react

    def changed(self, row: Row, totals: Totals) -> None:
        del totals
        self.rows.append(row)
        self._react(row)

    def events(self, name: str) -> list[Row]:
        return [row for row in self.rows if row["event"] == name]


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalExecutor]:
    with local_executor(2) as executor:
        yield executor


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


def ran(plan: BatchPlan, out: Path, executor: Any, options: BatchOptions = FAST) -> Totals:
    with Ledger(out) as ledger:
        return run_batch(plan, ledger, executor, options)


def counts(totals: Totals) -> tuple[int, int, int]:
    return totals.done, totals.unchanged, totals.failed


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob(".tensorferry-*")]


# Doing what is missing, changed or failed


def test_all_models_are_converted(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    make_zoo(10)
    totals = ran(plan(verify=True), tmp_path / "out", pool)
    assert (totals.models, counts(totals)) == (10, (10, 0, 0))
    assert totals.source_bytes == totals.source_total > 0
    targets = [*(tmp_path / "out").rglob("*.safetensors")]
    assert totals.nbytes == sum(path.stat().st_size for path in targets)
    for job in plan().jobs:
        with open_tensors(job.source) as source, open_tensors(job.target) as copy:
            assert {*source} == {*copy}
    assert leftovers(tmp_path) == []


def test_again_nothing_is_done(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    make_zoo(4)
    ran(plan(), tmp_path / "out", pool)
    before = (tmp_path / "out" / LEDGER).read_bytes()
    assert counts(ran(plan(), tmp_path / "out", pool)) == (0, 4, 0)
    assert (tmp_path / "out" / LEDGER).read_bytes() == before


def test_what_is_missing_or_changed_is_done(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    zoo = make_zoo(5)
    ran(plan(), tmp_path / "out", pool)
    first, second, *_ = plan().jobs
    Path(first.target).unlink()
    for path in Path(second.source).parent.iterdir():
        os.utime(path, ns=(5, 5))
    shutil.copytree(zoo / "team0" / "run0", zoo / "new")
    assert counts(ran(plan(), tmp_path / "out", pool)) == (3, 3, 0)
    assert counts(ran(plan(), tmp_path / "out", pool)) == (0, 6, 0)


def test_other_flags_make_it_new(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    make_zoo(3)
    ran(plan(), tmp_path / "out", pool)
    assert counts(ran(plan(dtypes=("f16",)), tmp_path / "out", pool)) == (3, 0, 0)


def test_what_nobody_here_wrote_is_left_alone(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    make_zoo(2)
    target = Path(plan().jobs[0].target)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    heard = Heard()
    with Ledger(tmp_path / "out") as ledger:
        totals = run_batch(plan(), ledger, pool, FAST, heard)
    assert counts(totals) == (1, 0, 1)
    (row,) = heard.events("failed")
    assert (row["exit_code"], row["hint"]) == (2, "replace it with --overwrite")
    assert target.read_bytes() == b"mine"


def test_failures_are_told_again_and_tried_again_when_asked(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    zoo = make_zoo(3)
    (zoo / "torn.npz").write_bytes(b"PK\x03\x04torn")
    out = tmp_path / "out"
    assert counts(ran(plan(), out, pool)) == (3, 0, 1)
    size = (out / LEDGER).stat().st_size
    heard = Heard()
    with Ledger(out) as ledger:
        assert counts(run_batch(plan(), ledger, pool, FAST, heard)) == (0, 3, 1)
    assert [row["source"] for row in heard.events("failed")] == [str(zoo / "torn.npz")]
    assert (out / LEDGER).stat().st_size == size
    assert counts(ran(plan(), out, pool, replace(FAST, retry_failed=True))) == (0, 3, 1)
    assert (out / LEDGER).stat().st_size > size


def test_folders_are_made_for_targets_only(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    zoo = make_zoo(1)
    (zoo / "bad" / "deep").mkdir(parents=True)
    (zoo / "bad" / "deep" / "torn.npz").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "out" / "mine").mkdir(parents=True)
    assert counts(ran(plan(), tmp_path / "out", pool)) == (1, 0, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "mine",
        "team0",
        LEDGER,
    ]


# Order and limits


def in_order(plan: BatchPlan, out: Path, executor: Any, options: BatchOptions) -> list[int]:
    """Return the sizes of sources in the order in which they were begun."""
    sizes = {job.source: job.nbytes for job in plan.jobs}
    heard = Heard()
    with Ledger(out) as ledger:
        run_batch(plan, ledger, executor, options, heard)
    return [sizes[row["source"]] for row in heard.events("started")]


def test_the_largest_come_first(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, pool: LocalExecutor
) -> None:
    make_zoo(10)
    sizes = in_order(plan(), tmp_path / "out", pool, FAST)
    assert sizes == sorted(sizes, reverse=True)
    assert len({*sizes}) == 5


class Counting(ThreadPoolExecutor):
    """Knows how many bytes it was given at most at a time."""

    def __init__(self) -> None:
        super().__init__(4)
        self._sizes: dict[Future[Any], int] = {}
        self.most: list[tuple[int, int]] = []

    def submit(self, fn: Any, /, *args: Any, **words: Any) -> Future[Any]:
        future = super().submit(fn, *args, **words)
        (job,) = args
        self._sizes[future] = job.nbytes
        running = [size for each, size in self._sizes.items() if not each.done()]
        self.most.append((len(running), sum(running)))
        return future


def test_bytes_in_flight_are_limited(make_zoo: MakeZoo, plan: Plan, tmp_path: Path) -> None:
    make_zoo(10)
    planned = plan()
    largest = max(job.nbytes for job in planned.jobs)
    limit = 13_000
    assert largest > limit
    with Counting() as executor:
        options = BatchOptions(jobs=4, bytes_at_a_time=limit)
        assert counts(ran(planned, tmp_path / "out", executor, options)) == (10, 0, 0)
    assert all(count == 1 or size <= limit for count, size in executor.most)


# What may pass


def test_a_disk_that_comes_back(
    make_zoo: MakeZoo,
    plan: Plan,
    tmp_path: Path,
    threads: ThreadPoolExecutor,
    broken_disk: set[str],
) -> None:
    zoo = make_zoo(4)
    bad = zoo / "bad.npz"
    shutil.copy(next(zoo.rglob("model.npz")), bad)
    planned = plan()
    broken_disk.add(str(bad))

    def mend(row: Row) -> None:
        if row["event"] == "started" and row["attempt"] == 2:
            broken_disk.clear()

    heard = Heard(mend)
    with Ledger(tmp_path / "out") as ledger:
        totals = run_batch(planned, ledger, threads, FAST, heard)
    assert counts(totals) == (5, 0, 0)
    attempts = [row["attempt"] for row in heard.events("started") if row["source"] == str(bad)]
    assert attempts == [1, 2]


def test_a_disk_that_stays_away(
    make_zoo: MakeZoo,
    plan: Plan,
    tmp_path: Path,
    threads: ThreadPoolExecutor,
    broken_disk: set[str],
) -> None:
    bad = make_zoo(1) / "bad.npz"
    bad.write_bytes(b"PK\x03\x04")
    planned = plan()
    broken_disk.add(str(bad))
    heard = Heard()
    began = time.monotonic()
    with Ledger(tmp_path / "out") as ledger:
        totals = run_batch(planned, ledger, threads, replace(FAST, patience=0.05), heard)
    assert time.monotonic() - began > 0.05 + 0.2
    assert counts(totals) == (1, 0, 1)
    assert [row["attempt"] for row in heard.events("started") if row["source"] == str(bad)] == [
        1,
        2,
        3,
    ]
    (row,) = heard.events("failed")
    assert "input/output error" in row["error"].lower()


def sparse_model(path: Path, nbytes: int) -> None:
    """Write a safetensors file whose one tensor is a hole: large, and made at once."""
    header = f'{{"w":{{"dtype":"U8","shape":[{nbytes}],"data_offsets":[0,{nbytes}]}}}}'
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + nbytes)


def when_writing(folder: Path, act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as an output is being written below a folder."""

    def run() -> None:
        while not [*folder.rglob(".tensorferry-*/*")]:
            time.sleep(0.001)
        act()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_worker_that_is_killed_is_replaced_and_its_model_done(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    zoo = make_zoo(5)
    sparse_model(zoo / "large.safetensors", 1 << 29)
    out = tmp_path / "out"
    with local_executor(1) as executor:
        killer = when_writing(
            out, lambda: [os.kill(pid, signal.SIGKILL) for pid in executor.pids()]
        )
        totals = ran(plan(), out, executor)
        killer.join()
    assert counts(totals) == (6, 0, 0)
    attempts = [row["attempt"] for row in read_rows(out / LEDGER) if row["event"] == "started"]
    assert sorted(attempts) == [1, 1, 1, 1, 1, 1, 2]
    assert leftovers(out) == []


def test_a_crash_costs_one_row(make_zoo: MakeZoo, plan: Plan, tmp_path: Path) -> None:
    zoo = make_zoo(5)
    sparse_model(zoo / "large.safetensors", 1 << 29)
    out = tmp_path / "out"
    with local_executor(1) as executor:
        killer = when_writing(
            out, lambda: [os.kill(pid, signal.SIGSEGV) for pid in executor.pids()]
        )
        totals = ran(plan(), out, executor)
        killer.join()
    assert counts(totals) == (5, 0, 1)
    (row,) = [row for row in read_rows(out / LEDGER) if row["event"] == "failed"]
    assert (
        row["error"]
        == f"{zoo / 'large.safetensors'}: converting it crashed the worker, got SIGSEGV"
    )
    assert row["exit_code"] == 4
    assert leftovers(out) == []


def test_a_model_that_takes_too_long_costs_one_row(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    zoo = make_zoo(3)
    sparse_model(zoo / "large.safetensors", 1 << 29)
    out = tmp_path / "out"
    stopped: list[int] = []

    def stop() -> None:
        stopped.extend(executor.pids())
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)  # it hangs

    with local_executor(1, seconds=3) as executor:
        stopper = when_writing(out, stop)
        totals = ran(plan(), out, executor)
        stopper.join()
    assert counts(totals) == (3, 0, 1)
    (row,) = [row for row in read_rows(out / LEDGER) if row["event"] == "failed"]
    assert row["error"].endswith("converting it takes too long, expected at most 3 s")
    assert leftovers(out) == []


def test_memory_is_limited(make_zoo: MakeZoo, plan: Plan, tmp_path: Path) -> None:
    import numpy as np

    zoo = make_zoo(3)
    # Columns come first in it, so it has to be turned as a whole.
    np.savez_compressed(zoo / "large.npz", w=np.zeros((1 << 24, 16), dtype=np.float32, order="F"))
    out = tmp_path / "out"
    with local_executor(1, memory=400 << 20) as executor:
        totals = ran(plan(), out, executor)
    assert counts(totals) == (3, 0, 1)
    (row,) = [row for row in read_rows(out / LEDGER) if row["event"] == "failed"]
    assert "more memory is needed than a worker may have" in row["error"]
    assert row["exit_code"] == 4


# Interrupts


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_all_in_order(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, kind: type[BaseException]
) -> None:
    zoo = make_zoo(5)
    sparse_model(zoo / "large.safetensors", 1 << 28)
    out = tmp_path / "out"

    def interrupt(row: Row) -> None:
        if row["event"] == "done":
            raise kind

    with local_executor(2) as executor, Ledger(out) as ledger, pytest.raises(kind):
        run_batch(plan(), ledger, executor, FAST, Heard(interrupt))
    events = [row["event"] for row in read_rows(out / LEDGER) if row["event"] != "skipped"]
    assert events.count("started") == events.count("done") + events.count("stopped")
    assert leftovers(out) == []
    with local_executor(2) as executor:
        totals = ran(plan(), out, executor)
    assert totals.done == 6 - events.count("done")
    assert totals.unchanged == events.count("done")


def test_threads_are_waited_for_at_an_interrupt(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    make_zoo(8)
    out = tmp_path / "out"

    def interrupt(row: Row) -> None:
        if row["event"] == "started":
            raise KeyboardInterrupt

    with Ledger(out) as ledger, pytest.raises(KeyboardInterrupt):
        run_batch(plan(), ledger, threads, FAST, Heard(interrupt))
    assert leftovers(out) == []
    assert counts(ran(plan(), out, threads)) == (8, 0, 0)


# Executors of others


def test_any_executor_will_do(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    make_zoo(6)
    assert counts(ran(plan(), tmp_path / "out", threads)) == (6, 0, 0)
    assert counts(ran(plan(), tmp_path / "out", threads)) == (0, 6, 0)


class Losing(ThreadPoolExecutor):
    """Loses its first call, as a cluster loses a machine."""

    lost = False

    def submit(self, fn: Any, /, *args: Any, **words: Any) -> Future[Any]:
        if self.lost:
            return super().submit(fn, *args, **words)
        self.lost = True
        future: Future[Any] = Future()
        future.set_exception(ConnectionError("the machine is gone"))
        return future


def test_what_another_executor_loses_is_tried_again(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    make_zoo(3)
    with Losing(1) as executor:
        assert counts(ran(plan(), tmp_path / "out", executor)) == (3, 0, 0)


class Repeating(ThreadPoolExecutor):
    """Makes each call again, as a cluster does whose worker is lost with the first result."""

    def submit(self, fn: Any, /, *args: Any, **words: Any) -> Future[Any]:
        def twice() -> Any:
            fn(*args, **words)
            return fn(*args, **words)

        return super().submit(twice)


def test_what_another_executor_does_twice_is_done(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    make_zoo(5)
    first, second, *_ = (Path(job.target) for job in plan().jobs)
    first.parent.mkdir(parents=True)
    first.write_bytes(b"mine")
    second.parent.mkdir(parents=True, exist_ok=True)
    second.with_name("other").write_bytes(b"mine too")
    with Repeating(2) as executor:
        assert counts(ran(plan(), tmp_path / "out", executor)) == (4, 0, 1)
    assert first.read_bytes() == b"mine"


def test_processes_of_the_standard_library(make_zoo: MakeZoo, plan: Plan, tmp_path: Path) -> None:
    make_zoo(5)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        assert counts(ran(plan(), tmp_path / "out", executor)) == (5, 0, 0)


def test_an_executor_that_cannot_go_on_ends_the_batch(
    make_zoo: MakeZoo, plan: Plan, tmp_path: Path
) -> None:
    class Ending(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **words: Any) -> Future[Any]:
            if heard.events("done"):
                raise ClusterError("the machines are gone")
            return super().submit(fn, *args, **words)

    make_zoo(5)
    out = tmp_path / "out"
    heard = Heard()
    with Ending(2) as executor, Ledger(out) as ledger, pytest.raises(ClusterError):
        run_batch(plan(), ledger, executor, FAST, heard)
    events = [row["event"] for row in read_rows(out / LEDGER)]
    assert events.count("started") == events.count("done") + events.count("stopped")
    with ThreadPoolExecutor(2) as executor:
        assert ran(plan(), out, executor).failed == 0


def test_a_plan_may_be_empty(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    assert counts(ran(BatchPlan((), ()), tmp_path / "out", threads)) == (0, 0, 0)


def test_a_job_of_ones_own(
    samples: Path, tmp_path: Path, plan: Plan, make_zoo: MakeZoo, threads: ThreadPoolExecutor
) -> None:
    make_zoo(1)
    flags = plan().jobs[0].flags
    source = str(samples / "npz_file" / "model.npz")
    job = Job(source, str(tmp_path / "elsewhere" / "m.safetensors"), 1, "mark", flags)
    assert counts(ran(BatchPlan((job,), ()), tmp_path / "out", threads)) == (1, 0, 0)
    rows = [*read_rows(tmp_path / "out" / LEDGER)]
    assert rows[-1]["target"] == job.target
