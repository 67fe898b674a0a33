"""Temporary folders, locked while their process lives, so that others can tell stale ones."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

__all__ = ["PREFIX", "lock_folder", "make_locked"]

PREFIX = ".tensorferry-"


def make_locked(parent: Path, prefix: str = PREFIX) -> tuple[Path, int | None]:
    """Make a temporary folder; return it and what holds its lock.

    Args:
        parent: where to make it.
        prefix: of its name.

    Returns:
        The folder, and the descriptor to close when it is removed; None where there are no locks,
        and nobody can take the folder for stale either.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            return folder, lock_folder(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody took it for stale meanwhile
        except OSError:
            return folder, None


def lock_folder(folder: Path) -> int:
    """Lock a folder, for as long as the descriptor is open or the process lives; return that.

    Raises:
        BlockingIOError: another process has the lock.
        FileNotFoundError: the folder is gone.
        OSError: the file system has no locks.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.stat()  # whoever had the lock may have removed it
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
