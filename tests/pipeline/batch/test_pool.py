"""Real processes that crash, hang, take too much memory and are orphaned."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path

import pytest
from tensorferry.pipeline.batch.pool import LocalExecutor, WorkerError


@pytest.fixture
def pool() -> Iterator[LocalExecutor]:
    with LocalExecutor(2) as executor:
        yield executor


def ended_by(future: Future[object]) -> int:
    error = future.exception(timeout=30)
    assert isinstance(error, WorkerError)
    return error.signal


def test_results_and_exceptions_come_back(pool: LocalExecutor) -> None:
    futures = [pool.submit(operator.add, number, 1) for number in range(50)]
    assert [each.result(30) for each in futures] == list(range(1, 51))
    with pytest.raises(ZeroDivisionError):
        pool.submit(operator.truediv, 1, 0).result(30)
    assert pool.submit(int, "ff", base=16).result(30) == 255


def test_work_is_done_in_other_processes_two_at_a_time(pool: LocalExecutor) -> None:
    pids = {pool.submit(os.getpid).result(30) for _ in range(5)}
    assert os.getpid() not in pids
    began = time.monotonic()
    wait([pool.submit(time.sleep, 2) for _ in range(2)])
    assert time.monotonic() - began < 3.9


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_costs_one_call_only(pool: LocalExecutor, number: signal.Signals) -> None:
    futures = [pool.submit(operator.neg, each) for each in range(20)]
    crash = pool.submit(signal.raise_signal, number)
    futures += [pool.submit(operator.neg, each) for each in range(20, 40)]
    assert ended_by(crash) == number
    assert [each.result(30) for each in futures] == [-each for each in range(40)]


def test_a_process_that_leaves_is_replaced(pool: LocalExecutor) -> None:
    assert ended_by(pool.submit(os._exit, 3)) == 0
    assert pool.submit(operator.neg, 1).result(30) == -1


def test_more_crashes_than_workers(pool: LocalExecutor) -> None:
    crashes = [pool.submit(os.abort) for _ in range(6)]
    assert [ended_by(each) for each in crashes] == [signal.SIGABRT] * 6
    assert pool.submit(operator.neg, 1).result(30) == -1


def test_a_call_that_hangs_is_ended() -> None:
    with LocalExecutor(1, seconds=lambda nap: 0.3 if nap > 1 else None) as executor:
        hanging, short = executor.submit(time.sleep, 60), executor.submit(time.sleep, 0.5)
        error = hanging.exception(timeout=30)
        assert isinstance(error, WorkerError)
        assert error.seconds == 0.3
        assert short.result(30) is None


def test_memory_is_limited() -> None:
    with LocalExecutor(1, memory=300 << 20) as executor:
        assert len(executor.submit(bytearray, 50 << 20).result(30)) == 50 << 20
        with pytest.raises(MemoryError):
            executor.submit(bytearray, 400 << 20).result(30)
        assert executor.submit(operator.neg, 1).result(30) == -1


def test_what_cannot_be_pickled_is_an_error_of_its_own(pool: LocalExecutor) -> None:
    with pytest.raises(Exception, match="pickle"):
        pool.submit(lambda: 1)
    with pytest.raises(RuntimeError, match="cannot be sent"):
        pool.submit(threading.Lock).result(30)
    assert pool.submit(operator.neg, 1).result(30) == -1


def test_calls_that_wait_can_be_cancelled() -> None:
    executor = LocalExecutor(1)
    running, waiting = executor.submit(time.sleep, 0.5), executor.submit(time.sleep, 0.5)
    while not running.running():
        time.sleep(0.01)
    assert waiting.cancel()
    executor.shutdown()
    assert running.result(0) is None
    with pytest.raises(CancelledError):
        waiting.result(0)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(int)


def test_killing_ends_all_at_once() -> None:
    executor = LocalExecutor(2)
    futures = [executor.submit(time.sleep, 60) for _ in range(4)]
    while not all(each.running() for each in futures[:2]):
        time.sleep(0.01)
    pids = executor.pids()
    executor.kill()
    assert [ended_by(each) for each in futures[:2]] == [signal.SIGKILL] * 2
    assert all(each.cancelled() for each in futures[2:])
    assert wait(futures, timeout=5).not_done == set()
    assert not [pid for pid in pids if is_alive(pid)]


def test_an_unused_pool_has_nothing_to_end() -> None:
    LocalExecutor(2).shutdown()
    LocalExecutor(2).kill()


def test_no_descriptor_stays_open() -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        with LocalExecutor(2) as executor:
            ended_by(executor.submit(os.abort))
            executor.submit(operator.neg, 1).result(30)
    assert len([*Path("/proc/self/fd").iterdir()]) <= before


# Orphans

PARENT = """
import os, sys, time
from concurrent.futures import wait
from tensorferry.pipeline.batch.pool import LocalExecutor
executor = LocalExecutor(2)
executor.submit(os.getpid).result()
wait([executor.submit(WORK) for _ in range(2)], timeout=1)
print(*executor.pids(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("work", ["time.sleep, 60", "eval, '10**10**9'"])
def test_workers_die_with_their_parent(work: str) -> None:
    # The last one hangs in C and never lets go of the interpreter.
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.replace("WORK", work)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        parent.kill()
    soon(lambda: not any(is_alive(pid) for pid in pids))


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def soon(happens: Callable[[], bool]) -> None:
    for _ in range(300):
        if happens():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen within 3 s")


TELL = "import time; from tensorferry.pipeline.batch.worker import tell; tell(1, 2); time.sleep(60)"


def test_a_worker_tells_how_far_it_is() -> None:
    pool = LocalExecutor(1)
    pool.submit(operator.neg, 1).result(30)
    assert pool.shares() == []
    future = pool.submit(exec, TELL)
    soon(lambda: pool.shares() == [((TELL,), 0.5)])
    pool.kill()
    assert isinstance(future.exception(30), WorkerError)
    assert pool.shares() == []
