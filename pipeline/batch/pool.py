"""Worker processes of this machine, one of which may crash, hang or run out of memory.

The pool of the standard library is broken for good when one of its processes dies. In this one
that costs the call it was at, and another process takes its place.

A worker is a fresh interpreter and not a fork: the caller may have threads, and its main module
is not imported again. Workers have process groups of their own, so Ctrl-C reaches the caller only.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from multiprocessing.connection import Pipe, wait
from typing import Any, NamedTuple, TypeVar

from .worker import SHARE

__all__ = ["EndingExecutor", "LocalExecutor", "LostError", "WorkerError"]

# Not the current folder first on the path (-P): what is to be converted may lie there.
START = "from tensorferry.pipeline.batch.worker import main; main()"

Result = TypeVar("Result")


class WorkerError(Exception):
    """A worker ended in the middle of a call.

    Args:
        pid: the process that has ended.
        signal: what ended it; 0 if it left by itself.
        seconds: the limit of time that it went beyond; None if that was not the reason.
    """

    def __init__(self, pid: int, signal: int, seconds: float | None = None) -> None:
        self.pid = pid
        self.signal = signal
        self.seconds = seconds
        reason = f"signal {signal}" if seconds is None else f"it took more than {seconds:g} s"
        super().__init__(f"worker {pid} has ended: {reason}")


class LostError(Exception):
    """No worker of a cluster could make a call.

    Args:
        what: the reason.
        again: whether another attempt may do.
    """

    def __init__(self, what: str, *, again: bool) -> None:
        self.again = again
        super().__init__(what)


class EndingExecutor(Executor, ABC):
    """An executor whose calls can be ended."""

    @abstractmethod
    def kill(self) -> None:
        """End all calls at once, whatever they are at; returns when that is done."""


class _Call(NamedTuple):
    future: Future[Any]
    pickled: bytes
    seconds: float | None
    arguments: tuple[Any, ...]


class _Worker:
    """A process, and the call it is at."""

    def __init__(self, memory: int) -> None:
        self.connection, theirs = Pipe()
        life, self._life = os.pipe()
        self._told = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        told = self._told.fileno()
        with theirs:
            words = [str(theirs.fileno()), str(life), str(told), str(memory)]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, *words],
                stdin=subprocess.DEVNULL,
                stdout=2,  # data of ours goes there, and nothing that a library prints
                pass_fds=(theirs.fileno(), life, told),
                process_group=0,
            )
        os.close(life)
        self.call: _Call | None = None
        self.deadline = float("inf")
        self.ended = False

    def start(self, call: _Call) -> None:
        os.ftruncate(self._told.fileno(), 0)
        self.call = call
        self.deadline = time.monotonic() + call.seconds if call.seconds else float("inf")
        with suppress(OSError):  # it has died: waiting for the answer will tell
            self.connection.send_bytes(call.pickled)

    def finish(self) -> _Call:
        """Return the call that it was at, and have none."""
        call, self.call = self.call, None
        self.deadline = float("inf")
        assert call is not None
        return call

    def end(self) -> int:
        """Close the pipe, which an idle worker takes as its end; return what ended it."""
        self.ended = True
        self.connection.close()
        code = self._process.wait()
        os.close(self._life)
        self._told.close()
        return max(-code, 0)

    def share(self) -> float | None:
        """Return how far it is with its call, from 0 to 1; None if it has not told."""
        try:
            told = os.pread(self._told.fileno(), SHARE.size, 0)
        except (OSError, ValueError):  # it has just ended
            return None
        done, total = SHARE.unpack(told) if len(told) == SHARE.size else (0, 0)
        return min(done / total, 1.0) if total else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()


class LocalExecutor(EndingExecutor):
    """A pool of processes. What a call, its arguments and its result are made of is pickled.

    Args:
        workers: number of processes; each is started when there is something to do for it.
        memory: bytes that a process may write to, beyond which it sees MemoryError; 0 for no limit.
        seconds: tells from the arguments of a call how long it may take; None for ever.
    """

    def __init__(
        self,
        workers: int,
        *,
        memory: int = 0,
        seconds: Callable[..., float | None] | None = None,
    ) -> None:
        self._size = workers
        self._memory = memory
        self._seconds = seconds or _for_ever
        self._calls: deque[_Call] = deque()
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        self._closing = self._killing = False
        self._bell, self._ringer = Pipe(duplex=False)
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Have a worker call a function; a worker that dies raises WorkerError in the future."""
        future: Future[Result] = Future()
        pickled = pickle.dumps((fn, args, kwargs))
        call = _Call(future, pickled, self._seconds(*args, **kwargs), args)
        with self._lock:
            if self._closing:
                raise RuntimeError("the pool was shut down")
            self._calls.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pool", daemon=True)
                self._thread.start()
        self._ring()
        return future

    def warm_up(self, most: int) -> None:
        """Start processes before there is something to do, while others are still busy."""
        with self._lock, suppress(OSError):
            while self._thread is None and len(self._workers) < min(most, self._size):
                self._workers.append(_Worker(self._memory))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the workers when all are done."""
        with self._lock:
            self._closing = True
            cancelled = list(self._calls) if cancel_futures else []
            if cancel_futures:
                self._calls.clear()
        for call in cancelled:
            if call.future.cancel():
                call.future.set_running_or_notify_cancel()  # those who wait for it hear it then
        self._ring()
        if self._thread is None:
            self._end_idle()
        elif wait:
            self._thread.join()

    def kill(self) -> None:
        """End all workers at once, whatever they are at; returns when the last one is gone."""
        self._killing = True
        self.shutdown(cancel_futures=True)

    def pids(self) -> list[int]:
        """Return the process numbers of the workers that are at something."""
        return [worker.pid for worker in list(self._workers) if worker.call]

    def shares(self) -> list[tuple[tuple[Any, ...], float]]:
        """Return the arguments of each call that has told how far it is, and how far: 0 to 1."""
        calls = [(worker.call, worker.share()) for worker in list(self._workers)]
        return [(call.arguments, share) for call, share in calls if call and share is not None]

    def _ring(self) -> None:
        with suppress(OSError):  # it has ended already
            self._ringer.send_bytes(b"")

    # In a thread of its own

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # a bug: nobody may wait for ever because of it
            self._closing = True
            for call in (*(worker.call for worker in self._workers), *self._calls):
                if call and not call.future.done():
                    call.future.set_exception(error)
            raise

    def _work(self) -> None:
        while not self._killing:
            self._assign()
            busy = [worker for worker in self._workers if worker.call]
            if not busy and self._closing and not self._calls:
                break
            self._listen(busy)
        for worker in self._workers:
            if worker.call:
                worker.kill()
                self._bury(worker)
        self._end_idle()
        self._bell.close()
        self._ringer.close()

    def _end_idle(self) -> None:
        """End all workers; those that were at something have been ended already."""
        for worker in self._workers:
            if not worker.ended:
                worker.end()
        self._workers.clear()

    def _assign(self) -> None:
        """Give waiting calls to idle workers, and to new ones while there are not enough."""
        while True:
            idle = next((worker for worker in self._workers if not worker.call), None)
            if idle is None and len(self._workers) >= self._size:
                return
            with self._lock:
                call = self._calls.popleft() if self._calls else None
            if call is None:
                return
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                worker = idle or self._started()
            except OSError as error:
                call.future.set_exception(error)
                continue
            worker.start(call)

    def _started(self) -> _Worker:
        worker = _Worker(self._memory)
        self._workers.append(worker)
        return worker

    def _listen(self, busy: list[_Worker]) -> None:
        """Wait until a call is done, a worker has died or is late, or somebody rings."""
        deadline = min((worker.deadline for worker in busy), default=float("inf"))
        patience = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        ready = wait([self._bell, *(worker.connection for worker in busy)], patience)
        while self._bell.poll():
            self._bell.recv_bytes()
        for worker in busy:
            if worker.connection in ready:
                self._hear(worker)
            elif worker.deadline <= time.monotonic():
                worker.kill()
                self._replace(worker, late=True)

    def _hear(self, worker: _Worker) -> None:
        try:
            good, value = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._replace(worker)
            return
        except Exception as error:  # it cannot be made again here
            good, value = False, error
        future = worker.finish().future
        if good:
            future.set_result(value)
        else:
            future.set_exception(value)

    def _replace(self, worker: _Worker, *, late: bool = False) -> None:
        self._workers.remove(worker)
        self._bury(worker, late=late)

    def _bury(self, worker: _Worker, *, late: bool = False) -> None:
        ended_by = worker.end()
        call = worker.finish()
        seconds = call.seconds if late else None
        call.future.set_exception(WorkerError(worker.pid, ended_by, seconds))


def _for_ever(*_: Any, **__: Any) -> None:
    """Set no limit of time."""
