"""Where the roots of a batch are: folders of this machine, or in object stores.

A place in a store is a `RemotePath`, whose text is its URL and which is joined as any other path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir

from ...converters.errors import UsageError
from ...converters.mounts import RemotePath
from .jobs import Job

__all__ = ["inside", "is_url", "joined", "litter_of", "place_of", "resolved"]


def is_url(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path, or its text, is the URL of an object store."""
    return "://" in os.fspath(path)


def place_of(text: str | os.PathLike[str]) -> Path:
    """Return a root as it was named, a folder or a URL.

    Raises:
        UsageError: it is the URL of a file of this machine.
    """
    name = os.fspath(text)
    if not is_url(name):
        return Path(name)
    if name.lower().startswith("file:"):
        raise UsageError("is a file of this machine", path=name, hint="leave out `file://`")
    scheme, _, rest = name.partition("://")
    return RemotePath(f"{scheme.lower()}://{rest}")


def joined(folder: Path, text: str) -> Path:
    """Return what a list in a folder names: below it, or a URL, or a path from the root."""
    if is_url(text):
        return place_of(text)
    return Path(text) if text.startswith("/") else folder / text


def inside(root: Path, target: str) -> str:
    """Return a path below the root of all targets; one that is named in full has the root cut off.

    One that is not below it stays as it is.
    """
    return target.removeprefix(f"{root}/") if is_url(root) else target


def resolved(path: Path) -> Path:
    """Return a path without links; URLs have none."""
    return path if is_url(path) else path.resolve()


def litter_of(job: Job) -> Iterator[Path]:
    """Yield the folders of this machine in which a killed worker may have left something."""
    if not is_url(job.target):
        yield Path(job.target).parent
    if is_url(job.target) or is_url(job.source):
        yield Path(gettempdir())
