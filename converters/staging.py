"""Outputs appear whole under their final names or not at all.

Files are written under temporary names beside their final ones and renamed at the end, in the
order given: the file that makes a set valid comes last. What was there before is set aside during
the renames and put back if one of them fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from .errors import TargetError, UsageError

__all__ = ["Staging", "target_error"]


class Staging:
    """A set of output files in the making; a context manager that removes what is not committed.

    Args:
        finals: the files to appear, the one that makes the set valid last.
        overwrite: whether files of these names may be there already.
        fsync: whether to wait until the disk has them before renaming, and after.

    Raises:
        UsageError: a file exists and `overwrite` is false, or its folder does not exist.
    """

    def __init__(self, finals: Sequence[Path], *, overwrite: bool, fsync: bool) -> None:
        self._finals = [_follow(final) for final in finals]
        self._overwrite = overwrite
        self._fsync = fsync
        self._open: dict[Path, int] = {}
        for final in self._finals:
            self._check(final)

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        for final in self._finals:
            with suppress(OSError):
                self._temporary(final).unlink()

    def create(self, index: int, size: int) -> int:
        """Create the temporary file for the `index`th output; return its descriptor.

        Space for `size` bytes is taken at once: a full disk shows before the first byte is
        written, and blocks laid out in one go made copying 1.4 times as fast.

        Raises:
            TargetError: no permission, or no space.
        """
        final = self._finals[index]
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(self._temporary(final), flags, 0o666)
            self._open[final] = descriptor
            _allocate(descriptor, size)
        except OSError as error:
            raise target_error(final, error) from error
        return descriptor

    def commit(self) -> None:
        """Give all files their final names.

        Raises:
            TargetError: a rename failed; everything is as it was.
        """
        for final, descriptor in self._open.items():
            if self._fsync:
                _sync(descriptor, final)
        self._close()
        done: list[Path] = []
        aside = self._set_aside()
        try:
            for final in self._finals:
                self._check(final)
                self._temporary(final).rename(final)
                done.append(final)
        except BaseException as error:
            self._restore(done, aside)
            if isinstance(error, OSError):
                raise target_error(self._finals[len(done)], error) from error
            raise
        for kept in aside.values():
            kept.unlink()
        if self._fsync:
            for folder in {final.parent for final in self._finals}:
                _sync_folder(folder)

    def _set_aside(self) -> dict[Path, Path]:
        aside: dict[Path, Path] = {}
        try:
            # Backwards, so that whoever looks in between finds no set that seems valid.
            for final in reversed(self._finals):
                if self._overwrite and final.exists():
                    kept = self._temporary(final, "old")
                    final.rename(kept)
                    aside[final] = kept
        except OSError as error:
            self._restore([], aside)
            raise target_error(final, error) from error
        return aside

    def _restore(self, done: Sequence[Path], aside: dict[Path, Path]) -> None:
        for final in done:
            final.unlink()
        for final, kept in aside.items():
            kept.rename(final)

    def _check(self, final: Path) -> None:
        if not final.parent.is_dir():
            raise UsageError(
                "the folder does not exist", path=final.parent, hint=f"mkdir -p {final.parent}"
            )
        if final.is_dir():
            raise UsageError("is a folder, not a file", path=final)
        if final.exists() and not self._overwrite:
            raise UsageError("exists already", path=final, hint="replace it with --overwrite")

    def _temporary(self, final: Path, kind: str = "new") -> Path:
        # Short and independent of the final name, which may use all 255 bytes a name can have.
        index = self._finals.index(final)
        return final.parent / f".tensorferry-{os.getpid()}-{id(self):x}-{index}.{kind}"

    def _close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


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


def _follow(final: Path) -> Path:
    """Return what a link stands for, so that writing through it keeps the link."""
    return final.resolve() if final.is_symlink() else final


def _allocate(descriptor: int, size: int) -> None:
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


def _sync(descriptor: int, final: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise target_error(final, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
