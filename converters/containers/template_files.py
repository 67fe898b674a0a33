"""The files of a model's folder that another model takes over, byte for byte.

Only regular files are taken. A link is followed if it leads to a file of the same folder; anything
else that a folder may hold (links out of it, links to folders, pipes, devices) is refused: a model
needs none, and what such a link leads to is nobody's to publish.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import UnsafeFileError, UsageError
from ..output import PlannedFile
from ..sources import Extent, FileSource

__all__ = ["check_apart", "copied_files", "replaced_files"]

MAX_FILES = 10_000  # an honest model has a handful; more would be planned, opened and listed
LISTED = 6


def copied_files(folder: Path, target: Path, wanted: Callable[[Path], bool]) -> list[PlannedFile]:
    """Plan copies of a folder's files at the same places below the target, by name.

    Args:
        folder: the template, resolved.
        target: the folder to make.
        wanted: tells of a path inside of the template whether it is copied.

    Raises:
        UnsafeFileError: there is something else than files, or too many of them.
    """
    files: list[PlannedFile] = []
    for path in sorted(_files(folder, wanted)):
        if len(files) == MAX_FILES:
            raise UnsafeFileError(
                "too many files for a model",
                path=folder,
                expected=f"at most {MAX_FILES}",
                got="more",
            )
        source = FileSource(path)
        size = source.size
        whole = ((0, Extent(source, 0, size)),) if size else ()
        files.append(PlannedFile(target / path.relative_to(folder), size, copied=whole))
    return files


def _files(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            if not wanted(path.relative_to(folder)):
                continue
            if path.is_symlink():
                _check_link(path, folder)
            elif name in names and not stat.S_ISREG(path.lstat().st_mode):
                raise UnsafeFileError("is no regular file", path=path)
            if name in names:
                yield path


def _check_link(path: Path, folder: Path) -> None:
    there = path.resolve()
    if not there.is_relative_to(folder) or not there.is_file():
        raise UnsafeFileError(
            "is a link to something else than a file of the template",
            path=path,
            expected=f"a file below {folder}",
            got=there,
            hint="copy the template with its links followed: cp -rL",
        )


def check_apart(target: Path, template: Path, sources: Iterable[Path]) -> None:
    """Refuse a target that is, holds or lies in its template, or holds what is read.

    Raises:
        UsageError: it does.
    """
    root, other = target.resolve(), template.resolve()
    if root.is_relative_to(other) or other.is_relative_to(root):
        raise UsageError(
            "template and target lie in each other",
            path=target,
            got=f"template {template}",
            hint="choose a target beside the template",
        )
    for source in sources:
        if source.resolve().is_relative_to(root):
            raise UsageError(
                "the source lies in the target",
                path=target,
                got=f"source {source}",
                hint="choose a target beside the source",
            )


def replaced_files(
    target: Path, files: Iterable[PlannedFile], is_part: Callable[[Path], bool]
) -> tuple[Path, ...]:
    """Return the files of an older model in a folder that the new one does not overwrite.

    They would be taken for parts of the new one: a data shard, the graph as text.

    Args:
        target: the folder, which need not be there.
        files: those to be written.
        is_part: tells of a path inside of the folder whether a model has such a file.

    Raises:
        UsageError: there are files that belong to no model; lists the first few.
    """
    planned = {file.path for file in files}
    there = (path for path in target.rglob("*") if path.is_symlink() or not path.is_dir())
    old = sorted(path for path in there if path not in planned)
    others = [path for path in old if not is_part(path.relative_to(target))]
    if others:
        names = ", ".join(f"`{path.relative_to(target)}`" for path in others[:LISTED])
        more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
        raise UsageError(
            f"holds files that are no part of a model: {names}{more}",
            path=target,
            hint="move them away, or choose another target",
        )
    return tuple(old)
