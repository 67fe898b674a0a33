"""Packages appear whole under their names, or not at all; what they replace goes as a whole."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...converters.errors import ConvertError, UsageError
from ...converters.staging import Staging, remove_stale, target_error
from .records import MANIFEST

__all__ = ["is_tar", "made_in", "planned_only", "staged"]

TAR = ".tar"
MADE = ".made"  # folder in which a package is put together, beside where it waits
RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h
# What tells a folder of ours; any other is never replaced, whatever the flags say.
_MARKS = (MANIFEST, "oci-layout")


def is_tar(target: Path) -> bool:
    """Tell whether a target is an archive, by its name."""
    return target.name.lower().endswith(TAR)


class _Whole(Staging):
    """A staging whose one output may be a folder."""

    def commit(self) -> None:
        if self._fsync:
            _sync_all(self.path(0))
        super().commit()

    def _commit_files(self) -> None:
        """Let the new one and what was there change places, where the system can do it at once."""
        [final] = self._finals
        if not (final.exists() and _exchanged(self.path(0), final)):
            super()._commit_files()

    def _check(self, final: Path) -> None:
        if not final.is_dir() or is_tar(final):
            super()._check(final)
            return
        there = {each.name for each in final.iterdir()}
        if there and not there.intersection(_MARKS):
            raise UsageError(
                "is a folder that holds no package",
                path=final,
                hint="name a folder that is not there",
            )
        if there and not self._overwrite:
            raise UsageError("exists already", path=final, hint="replace it with --overwrite")


@contextmanager
def staged(target: Path, *, overwrite: bool, fsync: bool) -> Iterator[Staging]:
    """Give a staging for a package; the folder or archive is its output 0.

    What earlier runs left that were killed is removed first.

    Raises:
        UsageError: the target exists, or is no package, or its folder does not exist.
        TargetError: the folder cannot be written to.
    """
    with _Whole([target], overwrite=overwrite, fsync=fsync) as staging:
        remove_stale(target.parent)
        with _moved_errors(staging.folder, target.parent):
            made_in(staging).mkdir(parents=True)
            yield staging


def planned_only(target: Path, *, overwrite: bool) -> Staging:
    """Return a staging with which nothing can be written, for a dry run.

    Raises:
        UsageError: as `staged`.
    """
    staging = _Whole([target], overwrite=overwrite, fsync=False)
    staging.folder = target.parent
    return staging


def made_in(staging: Staging) -> Path:
    """Return the folder in which a package is put together; it has the target's name."""
    return staging.folder / MADE / staging.path(0).name


@contextmanager
def _moved_errors(made: Path, meant: Path) -> Iterator[None]:
    """Let errors about files below a temporary folder name the places they were meant for."""
    try:
        yield
    except ConvertError as error:
        if error.path and Path(error.path).is_relative_to(made):
            inside = Path(error.path).relative_to(made)
            if inside.parts[:1] == (MADE,):
                inside = inside.relative_to(MADE)
            error.path = str(meant / inside)
            error.args = (error.message,)
        raise


def _exchanged(one: Path, other: Path) -> bool:
    """Let two files or folders change places at once; tell whether that could be done.

    A killed process then leaves the old package or the new one, and never none.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # no Linux, or a C library of before 2018
        return False
    paths = os.fsencode(one), os.fsencode(other)
    return bool(call(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) == 0)


def _sync_all(place: Path) -> None:
    """Wait until the disk has a file, or all of a folder.

    Raises:
        TargetError: the disk did not take it.
    """
    for path in (place, *place.rglob("*")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise target_error(path, error) from error
