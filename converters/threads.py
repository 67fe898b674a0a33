"""A few threads over one stream of tasks; what they do releases the GIL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["run_all"]

Task = TypeVar("Task")


def run_all(
    make_work: Callable[[], Callable[[Task], object]],
    tasks: Iterable[Task],
    jobs: int,
    stop: Callable[[], None] | None = None,
) -> None:
    """Do every task, in `jobs` threads of which the caller's is one.

    The first failure, or an interrupt of the calling thread, stops all of them; it is raised
    after the last one has ended, so nothing runs on afterwards.

    Args:
        make_work: called once in each thread; returns the function that does a task.
        tasks: taken one at a time, under a lock.
        jobs: number of threads, at least 1.
        stop: called at a failure, for tasks that wait for one another.
    """
    waiting = iter(tasks)
    lock = threading.Lock()
    failures = _Failures(stop)

    def run() -> None:
        work = make_work()
        while not failures:
            with lock:
                try:
                    task = next(waiting)
                except StopIteration:
                    return
            work(task)

    def run_guarded() -> None:
        try:
            run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run_guarded, daemon=True) for _ in range(jobs - 1)]
    for thread in threads:
        thread.start()
    run_guarded()
    for thread in threads:
        _join(thread, failures)
    if failures:
        raise failures[0]


class _Failures(list[BaseException]):
    """What has failed so far; tells somebody of each."""

    def __init__(self, tell: Callable[[], None] | None) -> None:
        super().__init__()
        self._tell = tell

    def append(self, error: BaseException) -> None:
        super().append(error)
        if self._tell:
            self._tell()


def _join(thread: threading.Thread, failures: _Failures) -> None:
    """Wait for a thread; an interrupt while waiting stops the work and goes on waiting."""
    while thread.is_alive():
        try:
            thread.join()
        except BaseException as error:
            failures.append(error)
