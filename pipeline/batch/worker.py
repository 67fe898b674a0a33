"""What runs in a worker process: calls come in through a pipe, results go back."""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import resource
import select
import struct
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["SHARE", "main", "tell"]

# How much is done, and of how much.
SHARE = struct.Struct("=QQ")

# Objects that have come and not gone before the next search for cycles; tens of MB at most.
GARBAGE = 100_000


def main() -> None:
    """Do what comes in until the parent closes the pipe; called by the pool in a new process.

    The command line gives the descriptors of the pipe, of the life line and of the file in which
    to tell how far a call is, and the most memory in bytes, 0 for no limit.
    """
    calls, life, _Told.descriptor, memory = map(int, sys.argv[1:5])
    _die_with_parent(life)
    _limit(memory)
    _prepare()
    with Connection(calls) as connection:
        _serve(connection)


class _Told:
    """Where a worker process tells how far it is; in no other process is there such a place."""

    descriptor: int | None = None


def tell(done: int, total: int) -> None:
    """Tell whoever watches the pool how far the call is; elsewhere than in a worker, nobody."""
    if _Told.descriptor is not None:
        os.pwrite(_Told.descriptor, SHARE.pack(done, total), 0)


def _serve(connection: Connection) -> None:
    while True:
        try:
            call = connection.recv_bytes()
        except EOFError:
            return
        connection.send_bytes(_answer(call))


def _answer(call: bytes) -> bytes:
    """Return the pickled pair of success and value, or failure and exception."""
    answer: tuple[bool, Any]
    try:
        function, arguments, words = pickle.loads(call)
        answer = True, function(*arguments, **words)
    except BaseException as error:
        error.__traceback__ = None
        answer = False, error
    try:
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps((False, RuntimeError(f"the result cannot be sent: {error}")))


def _die_with_parent(life: int) -> None:
    """Have the kernel end this process when the parent is gone, however that came about.

    Nothing is ever written to the life line. When its other end is closed, the kernel sends
    SIGIO, whose default is to end the process, even one that hangs in foreign code.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    gone = select.poll()
    gone.register(life, select.POLLHUP)
    if gone.poll(0):
        sys.exit()


def _prepare() -> None:
    """Import what every model needs, perhaps while there is nothing to do yet.

    Cycles are looked for rarely, and never in what was imported: small models make none.
    """
    from ...converters.registry import all_formats
    from . import work  # noqa: F401 - it tells this module how far it is

    all_formats()
    gc.freeze()
    gc.set_threshold(GARBAGE)


def _limit(memory: int) -> None:
    """Limit memory and dumps, and have the kernel take this process first when memory is short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        # What is written to, not the address space: mapped files and libraries cost nothing.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
