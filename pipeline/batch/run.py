"""The loop of a batch: largest first, so many at a time, every change written down."""

from __future__ import annotations

import os
import signal
import sys
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ...converters.errors import ConvertError, CorruptFileError
from ...converters.staging import remove_stale
from .jobs import BatchPlan, Job
from .ledger import Ledger, Row
from .places import is_url, litter_of
from .pool import EndingExecutor, LocalExecutor, LostError, WorkerError
from .work import BUG, Failure, Outcome, out_of_memory, work

__all__ = [
    "MEMORY_BYTES", "BatchListener", "BatchOptions", "Totals", "default_workers", "local_executor",
    "run_batch", "time_limit",
]  # fmt: skip

# Of a worker: far more than any model needs of which one tensor at most is in memory.
MEMORY_BYTES = 4 << 30

# An honest model takes far less, on a slow disk too; a hang is all that goes beyond.
LEAST_SECONDS, BYTES_PER_SECOND = 300.0, 2_000_000
# So far apart, at most, are two times at which the ledger is made durable.
SYNC_SECONDS = 1.0
TICK_SECONDS = 0.5


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; nothing of it changes an output.

    Attributes:
        jobs: how many models are given out at a time; a function is asked again and again, for
            workers that come and go.
        bytes_at_a_time: of the sources of those; a larger one is converted alone.
        retry_failed: try again what failed before, though nothing has changed.
        attempts: how often a model is tried when disk or network fail, or its worker is killed.
        patience: seconds before the second attempt; four times as long before each further one.
    """

    jobs: int | Callable[[], int] = 1
    bytes_at_a_time: int | None = None
    retry_failed: bool = False
    attempts: int = 3
    patience: float = 0.5


@dataclass
class Totals:
    """What a batch has come to.

    Attributes:
        models: number of all that were found.
        done: number that were converted.
        unchanged: number that were there already.
        failed: number that failed, now or before.
        skipped: number of files and folders that are no models.
        nbytes: bytes that were written.
        source_bytes: bytes of the sources that are through, of `source_total`.
        source_total: bytes of all sources that have to be converted.
        seconds: wall time.
    """

    models: int = 0
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    skipped: int = 0
    nbytes: int = 0
    source_bytes: int = 0
    source_total: int = 0
    seconds: float = 0.0

    @property
    def ended(self) -> int:
        """Number of models of which it is known what became of them."""
        return self.done + self.unchanged + self.failed


class BatchListener:
    """Hears how a batch goes on; does nothing by itself."""

    def began(self, totals: Totals) -> None:
        """What is there already is known, and work begins."""

    def changed(self, row: Row, totals: Totals) -> None:
        """A row was added to the ledger, or is told again (a failure of an earlier run)."""

    def waited(self, totals: Totals) -> None:
        """Some time has passed."""

    def ended(self, totals: Totals) -> None:
        """It is over, one way or the other."""


def default_workers() -> int:
    """Return how many processes to use: as many as there are processors for this one."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2


def local_executor(jobs: int, memory: int = 0, seconds: float | None = None) -> LocalExecutor:
    """Return a pool of processes with a limit of time for each model.

    Args:
        jobs: number of processes.
        memory: bytes that each may take; 0 for no limit.
        seconds: the limit of time; None for one that rises with the size of a model.
    """
    return LocalExecutor(jobs, memory=memory, seconds=time_limit(seconds))


def time_limit(seconds: float | None = None) -> Callable[[Job], float]:
    """Return what tells how long a job may take: so long, or by the size of its model."""

    def limit(job: Job) -> float:
        return seconds or LEAST_SECONDS + job.nbytes / BYTES_PER_SECOND

    return limit


def run_batch(
    plan: BatchPlan,
    ledger: Ledger,
    executor: Executor,
    options: BatchOptions | None = None,
    listener: BatchListener | None = None,
) -> Totals:
    """Convert what is missing, changed or was not tried, and write down what becomes of it.

    Args:
        plan: what there is to do.
        ledger: what was done; rows are added.
        executor: what does it; any will do that can be given `work` and a `Job`, which may be
            done twice if it loses workers. It is not shut down, but an interrupt ends what an
            `EndingExecutor` is at.
        options: how.
        listener: hears how it goes on.

    Returns:
        What it has come to. Models that failed are no exception.

    Raises:
        ConvertError: the ledger cannot be written, or the executor has come to its end.
    """
    batch = _Batch(ledger, executor, options or BatchOptions(), listener or BatchListener())
    return batch.run(plan)


class _Turn(NamedTuple):
    """A job that waits or is run.

    Attributes:
        job: what to do.
        attempt: counts from 1.
        due: not before this time.
    """

    job: Job
    attempt: int = 1
    due: float = 0.0


class _Batch:
    def __init__(
        self, ledger: Ledger, executor: Executor, options: BatchOptions, listener: BatchListener
    ) -> None:
        self._ledger = ledger
        self._executor = executor
        self._local = isinstance(executor, LocalExecutor)
        self._options = options
        self._listener = listener
        self._totals = Totals()
        self._waiting: list[_Turn] = []  # by rising size
        self._resting: list[_Turn] = []  # by falling time at which they are due
        self._running: dict[Future[Outcome], _Turn] = {}
        self._ended: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._starting: _Turn | None = None  # an interrupt may come before it is running
        self._folders = _Folders()
        self._synced = time.monotonic()

    def run(self, plan: BatchPlan) -> Totals:
        began = time.monotonic()
        try:
            self._prepare(plan)
            self._folders.remove_stale()
            while self._waiting or self._resting or self._running:
                self._start_some()
                self._wait()
        except BaseException:
            self._stop()
            raise
        finally:
            self._folders.remove_stale()
            self._folders.remove_empty()
            with suppress(OSError):
                self._ledger.sync()
            self._totals.seconds = time.monotonic() - began
            self._listener.ended(self._totals)
        return self._totals

    def _prepare(self, plan: BatchPlan) -> None:
        """Tell what is to be done from what is done."""
        totals = self._totals
        totals.models, totals.skipped = len(plan.jobs), len(plan.skipped)
        todo: list[Job] = []
        failed: list[Row] = []
        for job in plan.jobs:
            standing = self._ledger.standing(job)
            if standing.interrupted:
                self._folders.littered(job)
            if standing.finished:
                totals.unchanged += 1
            elif standing.failure and not self._options.retry_failed:
                totals.failed += 1
                failed.append(standing.failure)
            else:
                todo.append(_for_worker(job, ours=standing.ours))
        self._ledger.claim(todo)
        # Largest first, so that no long one is left at the end; taken from the end.
        todo.sort(key=lambda job: job.nbytes)
        totals.source_total = sum(job.nbytes for job in todo)
        self._waiting = [_Turn(job) for job in todo]
        self._listener.began(totals)
        for row in (*map(self._ledger.skipped, plan.skipped), *failed):
            if row:
                self._tell(row)

    def _start_some(self) -> None:
        jobs = self._options.jobs
        limit = jobs if isinstance(jobs, int) else jobs()
        while len(self._running) < limit:
            turn = self._next()
            if turn is None:
                return
            self._folders.about_to_write(turn.job)
            self._starting = turn
            self._tell(self._ledger.started(turn.job, turn.attempt))
            future = self._executor.submit(work, self._given(turn.job))
            self._running[future] = turn
            self._starting = None
            future.add_done_callback(self._ended.put)

    def _given(self, job: Job) -> Job:
        """Return a job as a worker gets it."""
        if self._local:
            return job
        # Workers elsewhere may be lost, and nobody here hears of it: somebody else may be given
        # the job then, and finds what the first one has written.
        self._folders.littered(job)
        return _for_worker(job, ours=True) if self._is_free(job) else job

    def _is_free(self, job: Job) -> bool:
        """Tell whether nobody else has written the target, as far as it was looked."""
        return self._folders.is_free(job) or self._ledger.is_claimed(job)

    def _next(self) -> _Turn | None:
        """Take the largest job that fits beside those that are running; alone, any fits."""
        limit = self._options.bytes_at_a_time
        free = sys.maxsize
        if limit is not None and self._running:
            free = limit - sum(turn.job.nbytes for turn in self._running.values())
        rested = self._resting[-1] if self._resting else None
        if rested and rested.due <= time.monotonic() and rested.job.nbytes <= free:
            return self._resting.pop()
        index = bisect_right(self._waiting, free, key=lambda turn: turn.job.nbytes)
        return self._waiting.pop(index - 1) if index else None

    def _wait(self) -> None:
        """Wait until a job has ended, or one is due again, or it is time to be heard of."""
        patience = TICK_SECONDS
        if self._resting:
            patience = max(0.0, min(patience, self._resting[-1].due - time.monotonic()))
        with suppress(Empty):
            self._end(self._ended.get(timeout=patience))
            while True:
                self._end(self._ended.get_nowait())
        self._listener.waited(self._totals)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._ledger.sync()
            self._synced = time.monotonic()

    def _end(self, future: Future[Outcome]) -> None:
        turn = self._running[future]
        outcome = self._outcome(future, turn.job)
        failure, totals = outcome.failure, self._totals
        if failure and failure.transient and turn.attempt < self._options.attempts:
            due = time.monotonic() + self._options.patience * 4 ** (turn.attempt - 1)
            # The target may be there already, if a worker was killed.
            again = _Turn(_for_worker(turn.job, ours=True), turn.attempt + 1, due)
            insort(self._resting, again, key=lambda turn: -turn.due)
            del self._running[future]
            return
        totals.source_bytes += turn.job.nbytes
        totals.failed += bool(failure)
        totals.done += not failure
        totals.nbytes += sum(each.size for each in outcome.files)
        row = self._ledger.ended(turn.job, outcome)
        del self._running[future]  # not before: what is interrupted here has no row yet
        self._tell(row)

    def _outcome(self, future: Future[Outcome], job: Job) -> Outcome:
        """Return what became of a job, also where its worker cannot tell any more."""
        try:
            return future.result()
        except WorkerError as error:
            self._folders.littered(job)
            if self._local:
                self._folders.remove_stale()
            return Outcome(0.0, _failure(job, error))
        except LostError as error:
            return Outcome(0.0, Failure(f"{job.source}: {error}", None, BUG, error.again))
        except ConvertError:  # of the executor; what `work` raises is in its outcome
            raise
        except MemoryError:
            return Outcome(0.0, out_of_memory(job))
        except Exception as error:  # of a foreign executor, which may have lost a worker
            what = f"{job.source}: its worker was lost: {type(error).__name__}: {error}"
            return Outcome(0.0, Failure(what, None, BUG, transient=True))

    def _stop(self) -> None:
        """End what is running, and write that down; what cannot be ended is waited for."""
        if isinstance(self._executor, EndingExecutor):
            self._executor.kill()
        # Not for those that could be cancelled: whoever waits for one may wait for ever.
        wait([future for future in self._running if not future.cancel()])
        with suppress(ConvertError):  # the ledger may be the reason
            for future, turn in [*self._running.items()]:
                self._folders.littered(turn.job)
                if not future.cancelled() and not future.exception() and self._is_open(turn):
                    self._end(future)
            begun = [*self._running.values(), *([self._starting] if self._starting else ())]
            for turn in begun:
                if self._is_open(turn):
                    self._folders.littered(turn.job)
                    self._tell(self._ledger.stopped(turn.job))

    def _is_open(self, turn: _Turn) -> bool:
        return self._ledger.is_open(turn.job)

    def _tell(self, row: Row) -> None:
        self._listener.changed(row, self._totals)


class _Folders:
    """Where targets go, and what must not stay there."""

    def __init__(self) -> None:
        self._known: set[Path] = set()
        self._names: dict[Path, list[str] | None] = {}
        self._new: list[Path] = []
        self._littered: set[Path] = set()

    def about_to_write(self, job: Job) -> None:
        """Take note of the folders that are going to be made for a target."""
        folder = Path(job.target).parent
        if folder in self._names or is_url(job.target):
            return
        above = [folder, *folder.parents]
        missing = [each for each in above if each not in self._known and not each.exists()]
        self._names[folder] = [] if folder in missing else _names(folder)
        self._new += reversed(missing)
        self._known.update(above)

    def is_free(self, job: Job) -> bool:
        """Tell whether no name was there that begins as a target's does, before it was written."""
        target = Path(job.target)
        names = self._names.get(target.parent)
        if names is None:
            return False
        index = bisect_left(names, target.stem)
        return index == len(names) or not names[index].startswith(target.stem)

    def littered(self, job: Job) -> None:
        """Take note that a killed process may have left something beside a target."""
        self._littered.update(litter_of(job))

    def remove_stale(self) -> None:
        """Remove what killed processes have left."""
        for folder in self._littered:
            remove_stale(folder)

    def remove_empty(self) -> None:
        """Remove the folders that were made for targets that never came."""
        for folder in reversed(self._new):
            with suppress(OSError):
                folder.rmdir()


def _names(folder: Path) -> list[str] | None:
    """Return the names in a folder, sorted; None if they cannot be known."""
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError:
        return None


def _for_worker(job: Job, *, ours: bool) -> Job:
    """Return a job with one thread, and leave to replace what a batch has written."""
    flags = replace(job.flags, jobs=job.flags.jobs or 1)
    if ours:
        flags = replace(flags, write=replace(flags.write, overwrite=True))
    return replace(job, flags=flags)


def _failure(job: Job, error: WorkerError) -> Failure:
    """Return what to say of a model whose worker has ended."""
    if error.seconds is not None:
        late = CorruptFileError(
            "converting it takes too long", path=job.source, expected=f"at most {error.seconds:g} s"
        )
        return Failure(late.message, "give it more with --timeout", late.exit_code)
    name = signal.Signals(error.signal).name if error.signal else "its exit"
    if error.signal in (signal.SIGKILL, signal.SIGTERM):
        killed = ConvertError("its worker was killed", path=job.source, got=name)
        hint = "if memory is short, choose fewer --jobs"
        return Failure(killed.message, hint, BUG, transient=True)
    crash = CorruptFileError("converting it crashed the worker", path=job.source, got=name)
    return Failure(crash.message, "the file is damaged or hostile", crash.exit_code)
