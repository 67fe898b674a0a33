"""Calls that are made on a Dask cluster, whatever runs that: machines, Kubernetes, Slurm, a cloud.

    here                  scheduler        Dask worker            a process of its own
    ClusterExecutor  ->   any of Dask  ->  `serve`, in a thread  ->  the call

A Dask worker that dies costs the calls of all its threads, and what has killed one kills the next
that is given it. So each call is made in a process that the Dask worker keeps for it, with limits
of time and memory; one that crashes costs that call only. A Dask worker that is lost nevertheless
is Dask's affair, which gives its calls to another.

What Dask is told to call is `pickle.loads`, with something that makes the call when it is
unpickled. So the scheduler, which unpickles what it hands on, need not have us installed, and a
worker that has not can say so.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from ..converters.errors import ClusterError, UsageError
from .batch.pool import EndingExecutor, LostError, WorkerError
from .cluster_worker import Ended, Made, Session, Unfit, complaint, end, own_version, serve

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["ClusterExecutor", "cluster_executor"]

CONNECT_SECONDS = 10.0
# For what is asked of all workers at once.
ANSWER_SECONDS = 10.0
# So old may be what is known of the workers.
FRESH_SECONDS = 1.0
# So many calls are given out for each thread, so that none waits while results travel; and so many
# at least, since a cluster that grows with its work has no thread before there is any.
CALLS_PER_THREAD, LEAST_CALLS = 2, 8
# Who logs and warns what is nothing to the user.
LOUD = ("asyncio", "dask", "distributed", "tornado")

_EXTRA = "pip install 'tensorferry[dask]'"
_FIT = "workers need the same version of tensorferry, and see the same files by the same paths"

Result = TypeVar("Result")


@contextmanager
def cluster_executor(
    address: str,
    *,
    folders: Sequence[Path] = (),
    memory: int = 0,
    seconds: Callable[..., float | None] | None = None,
    debug: bool = False,
) -> Iterator[ClusterExecutor]:
    """Give an executor whose calls are made on a Dask cluster.

    What is called, its arguments and its result are pickled; workers need this package, in the same
    version. Relative paths mean the same to them where the working directory exists. A call whose
    Dask worker is lost is made again, so it may have been made before.

    Args:
        address: of the scheduler: `tcp://host:port`, or `tls://host:port` with the certificates
            that Dask's configuration names.
        folders: what every worker has to see.
        memory: bytes that the process of a call may take; 0 for no limit.
        seconds: tells from the arguments of a call how long it may take; None for ever.
        debug: whether Dask may print its log and its warnings.

    Yields:
        The executor. At the end its calls are waited for; after an error they are ended.

    Raises:
        UsageError: Dask is not installed, no scheduler answers, or a worker is not fit.
        ClusterError: the scheduler was lost.
    """
    with _silence(debug=debug):
        client = _connected(address)
        try:
            executor = ClusterExecutor(client, folders=folders, memory=memory, seconds=seconds)
            try:
                executor.check()
                yield executor
                executor.shutdown()
            except BaseException:
                executor.kill()
                raise
        finally:
            _bounded(client.close)


class ClusterExecutor(EndingExecutor):
    """Makes calls on a cluster; see `cluster_executor`."""

    def __init__(
        self,
        client: Client,
        *,
        folders: Sequence[Path],
        memory: int,
        seconds: Callable[..., float | None] | None,
    ) -> None:
        seen = tuple(str(folder.absolute()) for folder in folders)
        self._session = Session(uuid.uuid4().hex, own_version(), str(Path.cwd()), seen, memory)
        self._client = client
        self._address = str(client.scheduler.address)
        self._dask = client.get_executor(pure=False)
        self._seconds = seconds
        self._running: set[Future[Any]] = set()
        self._closing = False
        self._threads: dict[str, int] = {}
        self._asked = float("-inf")

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Have a worker call a function.

        Its future raises WorkerError if the process of the call ends, LostError if no worker can
        make it, ClusterError if the scheduler is lost.

        Raises:
            ClusterError: the scheduler is lost.
        """
        if self._closing:
            raise RuntimeError("the executor was shut down")
        if self._client.status != "running":
            raise self._lost()
        seconds = self._seconds(*args, **kwargs) if self._seconds else None
        call = pickle.dumps((fn, args, kwargs))
        future: Future[Result] = Future()
        self._running.add(future)
        theirs = self._dask.submit(pickle.loads, _order(serve, self._session, call, seconds))
        future.add_done_callback(partial(self._ended, theirs))
        theirs.add_done_callback(partial(self._heard, future))
        return future

    def calls(self) -> int:
        """Return how many calls to have at a time, from what the cluster is now."""
        return max(CALLS_PER_THREAD * sum(self.threads().values()), LEAST_CALLS)

    def threads(self) -> dict[str, int]:
        """Return the number of threads of each worker, as of a moment ago."""
        if self._client.status == "running" and time.monotonic() - self._asked > FRESH_SECONDS:
            with suppress(OSError, TimeoutError):  # a scheduler that is lost is heard of elsewhere
                self._threads = dict(self._client.nthreads(callback_timeout=ANSWER_SECONDS))
            self._asked = time.monotonic()
        return self._threads

    def check(self) -> None:
        """Ask the workers that are there whether they can do what is asked of them.

        Raises:
            UsageError: one cannot.
        """
        for worker, answer in sorted(self._on_all(complaint, self._session).items()):
            reason = _unfit(answer) if isinstance(answer, Exception) else answer
            if reason:
                raise UsageError(reason, path=worker, hint=_FIT)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes on the workers when all are done."""
        self._closing = True
        for future in [*self._running] if cancel_futures else ():
            future.cancel()
        if wait:
            _wait(self._running)
            self._on_all(end, self._session.name)

    def kill(self) -> None:
        """End all calls at once; returns when their processes are gone, as far as one can tell."""
        self._closing = True
        running = [*self._running]
        # First what waits, so that it does not take the place of what is ended.
        _bounded(partial(self._dask.shutdown, wait=False))
        self._on_all(end, self._session.name)
        for future in running:
            future.cancel()

    def _on_all(self, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call something on every worker there is; no answers if that takes too long."""
        if self._client.status != "running":
            return {}
        order = _order(function, *arguments)
        run = partial(self._client.run, pickle.loads, order, on_error="return")
        answers: dict[str, Any] | None = _bounded(run)
        return answers or {}

    def _ended(self, theirs: Future[Any], future: Future[Any]) -> None:
        self._running.discard(future)
        if future.cancelled():
            theirs.cancel()

    def _heard(self, future: Future[Any], theirs: Future[Any]) -> None:
        """Hand on what became of a call; runs in the thread of Dask's client."""
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(_value(self._answer(theirs)))
        except BaseException as error:  # of a call, which may have left by SystemExit
            future.set_exception(error)

    def _answer(self, theirs: Future[Any]) -> Made | Ended | Unfit:
        """Return what a worker has said; what is raised here is Dask's, and none of a call."""
        from distributed import KilledWorker

        try:
            answer: Made | Ended | Unfit = theirs.result()
        except CancelledError as error:
            raise error if self._closing else self._lost() from error
        except KilledWorker as error:
            count = error.allowed_failures + 1
            raise LostError(
                f"{count} workers were lost while they were at it", again=False
            ) from error
        except Exception as error:
            raise LostError(_unfit(error), again=True) from error
        return answer

    def _lost(self) -> ClusterError:
        return ClusterError(
            "the connection to the scheduler was lost",
            path=self._address,
            hint="run the same command again: what is done stays done",
        )


class _Order:
    """Something that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def _order(function: Callable[..., Any], *arguments: Any) -> bytes:
    return pickle.dumps(_Order(function, arguments))


def _value(answer: Made | Ended | Unfit) -> Any:
    """Return what a call has returned, or raise what it has raised."""
    if isinstance(answer, Unfit):
        raise LostError(answer.reason, again=True)
    if isinstance(answer, Ended):
        raise WorkerError(*answer)
    good, value = pickle.loads(answer.pickled)
    if not good:
        raise value
    return value


def _unfit(error: Exception) -> str:
    """Return what to say of a worker that could not even answer."""
    if isinstance(error, ImportError):
        return "this version of tensorferry is not installed there"
    return f"cannot be asked: {type(error).__name__}: {error}"


def _connected(address: str) -> Client:
    if not re.fullmatch(r"\w+://.+:\d+/?", address):
        raise UsageError(
            "no address of a scheduler", expected="tcp://HOST:PORT", got=f"`{address}`"
        )
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("a cluster needs Dask", path=address, hint=_EXTRA) from error
    try:
        # A client that finds nobody is in the way until the very end.
        with ThreadPoolExecutor(1) as thread:  # this one may have a loop, as in a notebook
            thread.submit(asyncio.run, _knock(address)).result()
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False, name="tensorferry")
    except Exception as error:
        raise UsageError(
            f"no scheduler answers: {_reason(error)}",
            path=address,
            hint="Dask's configuration has to name the certificates (distributed.comm.tls)"
            if address.startswith("tls:")
            else "look at the address, and whether the scheduler is running",
        ) from error


def _reason(error: BaseException) -> str:
    """Return what is behind an error; "timed out" is what Dask says of anything."""
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno:
        return str(error.strerror).lower()  # of a name that is not known, too
    text = str(error).partition("\n")[0]
    return text or f"nothing heard within {CONNECT_SECONDS:g} s"


async def _knock(address: str) -> None:
    from distributed import Security
    from distributed.core import rpc

    arguments = Security().get_connection_args("client")
    async with rpc(address, timeout=CONNECT_SECONDS, connection_args=arguments) as scheduler:
        await asyncio.wait_for(scheduler.identity(), 1.2 * CONNECT_SECONDS)


def _bounded(run: Callable[[], Any]) -> Any:
    """Return what a function returns; None if it fails, or takes too long to be waited for."""
    box: SimpleQueue[Any] = SimpleQueue()

    def put() -> None:
        try:
            box.put(run())
        except Exception:
            box.put(None)

    threading.Thread(target=put, daemon=True).start()
    with suppress(Empty):
        return box.get(timeout=ANSWER_SECONDS)
    return None


def _wait(futures: set[Future[Any]]) -> None:
    wait([*futures])


@contextmanager
def _silence(*, debug: bool) -> Iterator[None]:
    """Keep Dask's log and warnings from stderr."""
    if debug:
        yield
        return
    with suppress(ImportError):
        import distributed  # noqa: F401  its loggers are there from now on
    names = [name for name in [*logging.root.manager.loggerDict] if name.split(".")[0] in LOUD]
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            for each in LOUD:
                warnings.filterwarnings("ignore", module=each)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
