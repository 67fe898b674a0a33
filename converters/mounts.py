"""Folders whose files stand for objects of a store: which they are, and what messages call them.

Formats look for files by name, and read them by byte ranges. So a model in a store is shown to
them as a folder of files of the right names and sizes that hold nothing, and what is read from
these comes from the store. Such a folder is mounted here, as a file system is: the table is one
for the process, an entry is a private temporary folder, and only who made it takes it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PosixPath
from typing import Protocol

__all__ = ["RemotePath", "Shown", "mount", "shown_at", "unmount"]


class RemotePath(PosixPath):
    """A URL where a path is asked for; it keeps both slashes behind its scheme."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)


class Shown(Protocol):
    """What is behind a file of a mounted folder.

    Attributes:
        path: what messages call it.
        size: length in bytes.
    """

    path: Path
    size: int

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target`, which ends within the file, from byte `offset` on; thread-safe."""


_MOUNTED: dict[str, Mapping[str, Shown]] = {}


def mount(folder: Path, files: Mapping[str, Shown]) -> None:
    """Let the files of a folder, named by their absolute paths, stand for others."""
    _MOUNTED[f"{folder}/"] = files


def unmount(folder: Path) -> None:
    """Forget a folder; what was opened in it stays readable."""
    _MOUNTED.pop(f"{folder}/", None)


def shown_at(path: Path) -> Shown | None:
    """Return what a file stands for, None if it is what it is."""
    if not _MOUNTED:
        return None
    place = str(path)
    for folder, files in tuple(_MOUNTED.items()):
        if place.startswith(folder):
            return files.get(place)
    return None
