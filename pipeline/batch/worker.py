"""What runs in a worker process: calls come in through a pipe, results go back."""

from __future__ import annotations

import fcntl
import os
import pickle
import resource
import select
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Do what comes in until the parent closes the pipe; called by the pool in a new process.

    The command line gives the descriptor of the pipe, that of the life line, and the most memory
    in bytes, 0 for no limit.
    """
    calls, life, memory = map(int, sys.argv[1:4])
    _die_with_parent(life)
    _limit(memory)
    with Connection(calls) as connection:
        _serve(connection)


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


def _limit(memory: int) -> None:
    """Limit memory and dumps, and have the kernel take this process first when memory is short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory:
        # What is written to, not the address space: mapped files and libraries cost nothing.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
