"""Outputs appear whole under their final names or not at all.

Files are written under their own names into a temporary folder beside the final place, where they
can be read back and verified, and are renamed at the end, in the order given: the file that makes
a set valid comes last. What was there before is set aside during the renames and put back if one
of them fails.

Temporary folders are locked as long as their process lives. What a killed one left is told by
that, and removed by `remove_stale`.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from .errors import TargetError, UsageError
from .scratch import PREFIX, lock_folder, make_locked

__all__ = ["Places", "Staging", "allocate", "places_of", "remove_stale", "target_error"]

OLD_PREFIX = f"{PREFIX}old-"
# Below a folder of the second kind: what gets a successor, and what goes without one.
REPLACED, REMOVED = "0", "1"


class Places(NamedTuple):
    """Where the files of a target are, before and after they are committed.

    Attributes:
        parent: the folder that the target lies in, links followed.
        finals: the files, links followed.
        names: the path of each in a folder for staging; the target's own name is in it where the
            target is a folder.
    """

    parent: Path
    finals: tuple[Path, ...]
    names: tuple[Path, ...]


def places_of(finals: Sequence[Path], folder: Path | None = None) -> Places:
    """Return where the files of a target are.

    Args:
        finals: the files, all in one folder, or anywhere below `folder`.
        folder: the target, where it is one.
    """
    followed = tuple(_follow(final) for final in finals)
    parent = (folder.resolve() if folder else followed[0]).parent
    return Places(parent, followed, tuple(_name(final, folder) for final in finals))


class Staging:
    """A set of output files in the making; a context manager that removes what is not committed.

    Args:
        finals: the files to appear, the one that makes the set valid last; all in one folder, or
            anywhere below `folder`.
        overwrite: whether files of these names may be there already.
        fsync: whether to wait until the disk has them before renaming, and after.
        folder: the folder to make for them, if it is not there; then all appear at once.
        removed: files that are there and are gone when the new ones have appeared.
        prepared: a folder beside the target in which the files lie already, where `places_of`
            says; it stays.

    Attributes:
        folder: where the files are until they are committed.

    Raises:
        UsageError: a file exists and `overwrite` is false, or the folder does not exist.
        TargetError: the folder cannot be written to.
    """

    folder: Path

    def __init__(
        self,
        finals: Sequence[Path],
        *,
        overwrite: bool,
        fsync: bool,
        folder: Path | None = None,
        removed: Sequence[Path] = (),
        prepared: Path | None = None,
    ) -> None:
        self._prepared = prepared
        self._root = folder.resolve() if folder else None
        self._places = places_of(finals, folder)
        _, self._finals, self._names = self._places
        self._removed = tuple(removed)
        # A link and what it stands for have two names.
        kept = self._names if folder else [Path(final.name) for final in self._finals]
        self._kept = dict(zip(self._finals, kept, strict=True))
        self._kept |= {path: _name(path, folder) for path in removed}
        self._overwrite = overwrite
        self._fsync = fsync
        self._open: list[int] = []
        self._locks: list[int] = []
        self._old: Path | None = None
        self._check_all()

    def __enter__(self) -> Staging:
        try:
            self.folder = self._prepared or self._make_folder(PREFIX)
        except OSError as error:
            raise target_error(self._parent, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        for folder in filter(None, (None if self._prepared else self.folder, self._old)):
            shutil.rmtree(folder, ignore_errors=True)
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    @property
    def _parent(self) -> Path:
        return self._places.parent

    def _make_folder(self, prefix: str) -> Path:
        """Make a temporary folder and lock it."""
        folder, lock = make_locked(self._parent, prefix)
        if lock is not None:
            self._locks.append(lock)
        return folder

    def create(self, index: int, size: int) -> int:
        """Create the `index`th output in the temporary folder; return its descriptor.

        Space for `size` bytes is taken at once: a full disk shows before the first byte is
        written, and blocks laid out in one go made copying 1.4 times as fast.

        Raises:
            TargetError: no permission, or no space.
        """
        final = self._finals[index]
        try:
            path = self.path(index)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._open.append(descriptor)
            allocate(descriptor, size)
        except OSError as error:
            raise target_error(final, error) from error
        return descriptor

    def path(self, index: int) -> Path:
        """Return where the `index`th output is in the temporary folder, which is made for it."""
        path = self.folder / self._names[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, descriptor: int) -> None:
        """Wait for the disk, if that was asked for, and close a file that is written.

        Raises:
            TargetError: the disk did not take it.
        """
        if self._fsync:
            self._sync([descriptor])
        if descriptor in self._open:
            self._open.remove(descriptor)
        os.close(descriptor)

    def commit(self) -> None:
        """Give all files their final names.

        Raises:
            TargetError: a rename failed; everything is as it was.
        """
        if self._fsync:
            self._sync(self._open)
        self._close()
        self._check_all()
        if self._root and not self._root.exists():
            self._commit_folder(self._root)
        else:
            self._commit_files()
        if self._fsync:
            self._sync_folder()

    def _commit_folder(self, root: Path) -> None:
        try:
            (self.folder / root.name).rename(root)
        except OSError as error:
            raise target_error(root, error) from error

    def _commit_files(self) -> None:
        aside: dict[Path, Path] = {}
        done: list[tuple[Path, Path]] = []
        made: list[Path] = []
        try:
            self._make_folders(made)
            self._set_aside(aside)
            for name, final in zip(self._names, self._finals, strict=True):
                (self.folder / name).rename(final)
                done.append((name, final))
        except BaseException as error:
            self._put_back(done, aside)
            for folder in reversed(made):
                with suppress(OSError):
                    folder.rmdir()
            if isinstance(error, OSError):
                raise target_error(
                    self._finals[min(len(done), len(self._finals) - 1)], error
                ) from error
            raise

    def _make_folders(self, made: list[Path]) -> None:
        """Make the folders below the target that are not there."""
        for final in self._finals:
            missing = [each for each in final.parents if not each.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                made.append(folder)

    def _set_aside(self, aside: dict[Path, Path]) -> None:
        """Move what is there into the temporary folder, which is removed at the end.

        Backwards, so that whoever looks in between finds no set that seems valid.
        """
        finals = [(REPLACED, final) for final in self._finals]
        removed = [(REMOVED, final) for final in self._removed]
        there = [each for each in reversed((*removed, *finals)) if each[1].exists()]
        if not there:
            return
        self._old = self._make_folder(OLD_PREFIX)
        for kind, final in there:
            kept = self._old / kind / self._kept[final]
            kept.parent.mkdir(parents=True, exist_ok=True)
            final.rename(kept)
            aside[final] = kept

    def _put_back(self, done: Iterable[tuple[Path, Path]], aside: Mapping[Path, Path]) -> None:
        """Undo what was done; where that fails too, what was there stays in the folder."""
        try:
            for name, final in done:
                final.rename(self.folder / name)
            for final, kept in aside.items():
                kept.rename(final)
        except OSError as error:
            failure = target_error(self._finals[0], error)
            failure.hint = f"what was there before is kept in {self._old}"
            self._old = None
            raise failure from error

    def _check_all(self) -> None:
        parent = self._parent
        if not parent.is_dir():
            raise UsageError("the folder does not exist", path=parent, hint=f"mkdir -p {parent}")
        if self._root and self._root.exists() and not self._root.is_dir():
            raise UsageError("is a file, not a folder", path=self._root)
        for final in (*self._finals, *self._removed):
            self._check(final)

    def _check(self, final: Path) -> None:
        if final.is_dir():
            raise UsageError("is a folder, not a file", path=final)
        if final.exists() and not final.is_file():
            # A rename would put a file in the place of a device, for everybody.
            raise UsageError("is a device or a pipe, not a file", path=final)
        if final.exists() and not self._overwrite:
            raise UsageError("exists already", path=final, hint="replace it with --overwrite")

    def _sync(self, descriptors: Iterable[int]) -> None:
        try:
            for descriptor in descriptors:
                os.fsync(descriptor)
        except OSError as error:
            raise target_error(self._finals[0].parent, error) from error

    def _sync_folder(self) -> None:
        descriptor = os.open(self._parent, os.O_RDONLY)
        try:
            self._sync([descriptor])
        finally:
            os.close(descriptor)

    def _close(self) -> None:
        while self._open:
            with suppress(OSError):
                os.close(self._open.pop())


def remove_stale(parent: Path) -> None:
    """Remove the temporary folders in a folder whose processes were killed.

    What such a process had set aside goes only when a successor is there: else it may be the one
    copy that is left.
    """
    try:
        folders = [each for each in parent.iterdir() if each.name.startswith(PREFIX)]
    except OSError:
        return
    for folder in folders:
        if folder.is_symlink():
            continue
        with suppress(OSError):
            lock = lock_folder(folder)
            if not folder.name.startswith(OLD_PREFIX) or _has_successors(folder):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _has_successors(old: Path) -> bool:
    """Tell whether all that was set aside and gets a successor has it."""
    kept = [path for path in (old / REPLACED).rglob("*") if not path.is_dir()]
    there = all((old.parent / path.relative_to(old / REPLACED)).exists() for path in kept)
    return there and (bool(kept) or not any((old / REMOVED).rglob("*")))


def target_error(path: Path, error: OSError) -> TargetError:
    """Return the error to raise when the operating system refuses to write."""
    hints = {
        errno.ENOSPC: "free some space, or choose another disk",
        errno.EDQUOT: "free some of your quota, or choose another disk",
        errno.EFBIG: "the file system or a limit of the process forbids files of this size",
        errno.EACCES: "choose a folder that you may write to",
        errno.EPERM: "choose a folder that you may write to",
        errno.EROFS: "choose a folder that you may write to",
    }
    text = os.strerror(error.errno).lower() if error.errno else str(error)
    return TargetError(f"cannot be written: {text}", path=path, hint=hints.get(error.errno or 0))


def _name(final: Path, folder: Path | None) -> Path:
    """Return where an output is, seen from the folder that all lie in, or that is made for them."""
    return folder.resolve().name / final.relative_to(folder) if folder else Path(final.name)


def _follow(final: Path) -> Path:
    """Return what a link stands for, so that writing through it keeps the link."""
    return final.resolve() if final.is_symlink() else final


def allocate(descriptor: int, size: int) -> None:
    """Take the space for `size` bytes of a new file, and make it that long.

    Raises:
        OSError: there is no space.
    """
    if size == 0:
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except AttributeError:  # not every system has it (macOS)
        os.ftruncate(descriptor, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(descriptor, size)
