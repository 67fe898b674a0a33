"""What happens in a Dask worker: each call is made in a process of its own, under limits.

The processes are those of `LocalExecutor`, one for each thread of the Dask worker. They belong to
one caller, who ends them; if the caller is gone without a word, they end after a while.
"""

from __future__ import annotations

import os
import pickle
import threading
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NamedTuple

from ..converters.staging import remove_stale
from .batch.pool import LocalExecutor, WorkerError

__all__ = ["Ended", "Made", "Session", "Unfit", "complaint", "end", "own_version", "serve"]

# A worker that can do nothing must not be the fastest, or it is given everything.
UNFIT_SECONDS = 1.0
IDLE_SECONDS, LOOK_SECONDS = 60.0, 5.0


class Session(NamedTuple):
    """What all calls of a caller have in common.

    Attributes:
        name: no other caller has it.
        version: of this package at the caller's.
        place: the caller's working directory, which is that of the calls where it exists.
        folders: what a worker has to see.
        memory: bytes that the process of a call may take; 0 for no limit.
    """

    name: str
    version: str
    place: str
    folders: tuple[str, ...]
    memory: int


class Made(NamedTuple):
    """A call was made; the pickled pair of success and value, or failure and exception."""

    pickled: bytes


class Ended(NamedTuple):
    """The process of a call has ended; what `WorkerError` says of it."""

    pid: int
    signal: int
    seconds: float | None


class Unfit(NamedTuple):
    """A call was not made, and why this worker cannot make it."""

    reason: str


def serve(session: Session, call: bytes, seconds: float | None) -> Made | Ended | Unfit:
    """Make a call in another process, and say what came of it.

    Args:
        session: of the caller.
        call: the pickled function, arguments and named arguments.
        seconds: how long it may take; None for ever.
    """
    reason = complaint(session)
    if reason:
        time.sleep(UNFIT_SECONDS)
        return Unfit(reason)
    try:
        return Made(_pools.call(session, call, seconds))
    except WorkerError as error:
        remove_stale(Path(gettempdir()))  # where what goes to a store is put together
        return Ended(error.pid, error.signal, error.seconds)


def complaint(session: Session) -> str | None:
    """Return why this machine cannot do what a caller wants; None if it can."""
    if own_version() != session.version:
        return f"another version of tensorferry, expected {session.version}, got {own_version()}"
    missing = next((each for each in session.folders if not Path(each).is_dir()), None)
    return f"the folder {missing} is not seen from there" if missing else None


def end(name: str) -> None:
    """End the processes of a caller, whatever they are at; returns when they are gone."""
    _pools.end(name)


@cache
def own_version() -> str:
    """Return the version of this package."""
    return version("tensorferry")


class _Pool:
    """The processes of one caller."""

    def __init__(self, size: int, memory: int) -> None:
        self.executor = LocalExecutor(size, memory=memory, seconds=_seconds)
        self.calls = 0
        self.used = time.monotonic()

    @property
    def idle(self) -> bool:
        return not self.calls and time.monotonic() - self.used > IDLE_SECONDS


class _Pools:
    """The processes of all callers of this Dask worker."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self._ended: set[str] = set()
        self._watched = False

    def call(self, session: Session, call: bytes, seconds: float | None) -> bytes:
        with self._lock:
            pool = self._pool(session)
            pool.calls += 1
        try:
            return pool.executor.submit(_make, call, session.place, seconds).result()
        finally:
            with self._lock:
                pool.calls -= 1
                pool.used = time.monotonic()

    def end(self, name: str) -> None:
        with self._lock:
            self._ended.add(name)
            pool = self._pools.pop(name, None)
        if pool:
            pool.executor.kill()

    def _pool(self, session: Session) -> _Pool:
        if session.name in self._ended:  # the call was on its way
            raise WorkerError(0, 0)
        if session.name not in self._pools:
            self._pools[session.name] = _Pool(_threads(), session.memory)
            if not self._watched:
                self._watched = True
                threading.Thread(target=self._watch, name="idle", daemon=True).start()
        return self._pools[session.name]

    def _watch(self) -> None:
        """End the processes that nobody uses any more."""
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                idle = [name for name, pool in self._pools.items() if pool.idle]
                pools = [self._pools.pop(name) for name in idle]
            for pool in pools:
                pool.executor.shutdown()


_pools = _Pools()


def _threads() -> int:
    """Return how many calls this Dask worker is given at a time."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


# In a process of its own


def _make(call: bytes, place: str, _seconds: float | None) -> bytes:
    """Make a call, and return the pickled pair of success and value, or failure and exception."""
    answer: tuple[bool, Any]
    try:
        _go_to(place)
        function, arguments, words = pickle.loads(call)
        answer = True, function(*arguments, **words)
    except BaseException as error:
        error.__traceback__ = None
        answer = False, error
    try:
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps((False, RuntimeError(f"the result cannot be sent: {error}")))


def _go_to(place: str) -> None:
    """Change to the caller's working directory; without it no relative path may mean anything."""
    try:
        os.chdir(place)
    except OSError:
        os.chdir("/")


def _seconds(_call: bytes, _place: str, seconds: float | None) -> float | None:
    return seconds
