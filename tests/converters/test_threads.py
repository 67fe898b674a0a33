from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from tensorferry.converters.threads import run_all

jobs = pytest.mark.parametrize("jobs", [1, 2, 8])


def _collect(into: list[int]) -> Callable[[], Callable[[int], None]]:
    return lambda: into.append


@jobs
def test_every_task_is_done_once(jobs: int) -> None:
    done: list[int] = []
    run_all(_collect(done), range(500), jobs)
    assert sorted(done) == list(range(500))


@jobs
def test_nothing_to_do_is_fine(jobs: int) -> None:
    done: list[int] = []
    run_all(_collect(done), (), jobs)
    assert done == []


def test_work_is_made_once_in_each_thread() -> None:
    made: list[int] = []
    barrier = threading.Barrier(3, timeout=10)

    def make_work() -> Callable[[int], object]:
        made.append(threading.get_ident())
        return lambda _: barrier.wait()

    run_all(make_work, range(3), 3)
    assert len(set(made)) == 3
    assert threading.get_ident() in made


@jobs
@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_first_failure_stops_all_and_is_raised(jobs: int, failure: type[BaseException]) -> None:
    done: list[int] = []

    def work(task: int) -> None:
        if task == 20:
            raise failure("made to fail")
        done.append(task)

    with pytest.raises(failure, match="made to fail"):
        run_all(lambda: work, range(10_000_000), jobs)
    assert len(done) < 10_000_000
    assert threading.active_count() == 1


@jobs
def test_a_failure_of_the_tasks_is_raised(jobs: int) -> None:
    done: list[int] = []

    def tasks() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        run_all(_collect(done), tasks(), jobs)
    assert done in ([], [1])


@jobs
def test_a_failure_to_make_work_is_raised(jobs: int) -> None:
    def make_work() -> Callable[[int], None]:
        raise MemoryError("no buffer")

    with pytest.raises(MemoryError, match="no buffer"):
        run_all(make_work, range(3), jobs)


def test_an_interrupt_while_waiting_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupts = [KeyboardInterrupt("made to stop")]
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if interrupts:
            raise interrupts.pop()
        join(thread, timeout)

    waiting = threading.Event()
    caller = threading.get_ident()

    def work(_: int) -> None:
        if threading.get_ident() != caller:
            waiting.wait(0.01)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt, match="made to stop"):
        run_all(lambda: work, range(20), 2)
    assert threading.active_count() == 1
