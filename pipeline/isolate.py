"""Read a file that may be hostile in a child process with limits of its own.

Our own parsers cannot be crashed by what they read; libhdf5, which reads what lies outside of
their subset, can: two flipped bytes make it crash or loop for ever. A crash then ends the child,
and is reported as what it is, a damaged file.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..converters.errors import CorruptFileError

__all__ = ["run_isolated"]

FLAG = "--isolate"
# Address space, not what is used: numpy and h5py alone map more than 1 GiB.
MEMORY_BYTES = 4 << 30
# Seconds of computing: far more than any honest file takes, at a tenth of the usual speed.
LEAST_SECONDS, BYTES_PER_SECOND = 60, 20_000_000
START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"


def run_isolated(words: Sequence[str], source: str, endpoint: str | None = None) -> int:
    """Run the same command line in a child process with limits; return its exit code.

    Args:
        words: the command line, with the flag that asks for this.
        source: what is read, for the limits and the message.
        endpoint: where the object store of a URL is, if not where its cloud is.

    Raises:
        CorruptFileError: the child crashed, or computed for longer than any honest file takes.
    """
    seconds = LEAST_SECONDS + _bytes_of(source, endpoint) // BYTES_PER_SECOND
    child = subprocess.run(
        [sys.executable, "-c", START, *(word for word in words if word != FLAG)],
        check=False,
        preexec_fn=partial(_limit, seconds),
    )
    if child.returncode >= 0:
        return child.returncode
    if -child.returncode in (signal.SIGXCPU, signal.SIGKILL):
        raise CorruptFileError(
            "reading it takes too long", path=source, expected=f"at most {seconds} s of computing"
        )
    name = signal.Signals(-child.returncode).name
    raise CorruptFileError(
        "reading it crashed the reader",
        path=source,
        got=name,
        hint="the file is damaged or hostile",
    )


def _limit(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bytes_of(source: str, endpoint: str | None) -> int:
    if "://" not in source:
        return _size(Path(source))
    from ..converters.remote import listed_bytes

    return listed_bytes(source, endpoint)


def _size(path: Path) -> int:
    """Return the bytes of a file, of a prefix's files or of all in a folder."""
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return sum(each.lstat().st_size for each in path.parent.glob(f"{path.name}.*"))
    files = (Path(root) / name for root, _, names in os.walk(path) for name in names)
    return sum(each.lstat().st_size for each in files)
