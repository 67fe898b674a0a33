"""The shards of a target in the making: a hidden folder beside it that many processes fill.

    .model.safetensors.parts-0123456789abcdef/
        run.json                  what run it is of, for those of another one
        files/…                   whole shards, under the names they are going to have
        done/3.json               what is known of the shard of number 3, which is whole
        writing/3-…               a shard that is being written, locked by its writer
        commit.json               while the files get their places: which these were
        users, finisher           locks: of all who are at work here, and of the one who finishes

A shard is whole if its row is there: it was on the disk before the row was written. So whoever is
killed loses the shard it was at, and nothing else. Two who write the same shard write the same
bytes, and the last one's name counts.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...converters.casting import Losses
from ...converters.errors import ConvertError, CorruptFileError
from ...converters.scratch import PREFIX
from ...converters.staging import Places, Staging, allocate, target_error
from ..own_json import own_json
from .shares import Run

__all__ = ["PartsFolder", "Shard"]

MAX_JSON_BYTES = 1 << 30  # some hundred bytes for each tensor
# Of the target's own name in that of the folder; file systems take 255 bytes for both.
NAME_BYTES = 200
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Shard:
    """What is known of a shard that is whole.

    Attributes:
        size: in bytes.
        checksums: by name of the tensor, where the target needs them.
        digests: by name of the tensor, where they were asked for.
        losses: by name, of tensors that were cast.
    """

    size: int
    checksums: Mapping[str, int] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    losses: Mapping[str, Losses] = field(default_factory=dict)


class PartsFolder:
    """The folder of one run.

    Args:
        places: where the target's files go.
        name: of the target.
        run: which run it is.

    Attributes:
        path: where it is, or is going to be.
        files: where whole files are in it.
    """

    def __init__(self, places: Places, name: str, run: Run) -> None:
        short = os.fsdecode(os.fsencode(name)[:NAME_BYTES])
        self._prefix = f".{short}.parts-"
        self._places = places
        self._run = run
        self.path = places.parent / f"{self._prefix}{run.key}"
        self.files = self.path / "files"

    # Who is at work here

    @contextmanager
    def used(self) -> Iterator[None]:
        """Make the folder, and keep others from taking it for stale while the context lasts.

        Raises:
            TargetError: it cannot be made.
        """
        try:
            descriptor = self._locked_users()
        except OSError as error:
            raise target_error(self.path, error) from error
        try:
            yield
        finally:
            os.close(descriptor)
            if not _has_rows(self.path):
                _remove_unused(self.path)

    def _locked_users(self) -> int:
        while True:
            self.path.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # somebody took it for stale meanwhile
                descriptor = _locked(self.path / "users", fcntl.LOCK_SH)
                if _is_at(descriptor, self.path / "users"):
                    for folder in (self.files, self.path / "done", self.path / "writing"):
                        folder.mkdir(exist_ok=True)
                    self._put(self.path / "run.json", self._run._asdict())
                    return descriptor
                os.close(descriptor)

    @contextmanager
    def finishing(self) -> Iterator[bool]:
        """Wait until nobody else finishes this run, and keep others from it.

        Yields:
            Whether there is anything left to finish; not if another process has.
        """
        path = self.path / "finisher"
        try:
            descriptor = _locked(path, fcntl.LOCK_EX)
        except FileNotFoundError:
            yield False
            return
        except OSError as error:
            raise target_error(path, error) from error
        try:
            yield _is_at(descriptor, path)
        finally:
            os.close(descriptor)

    @property
    def gone(self) -> bool:
        """Whether somebody has finished the run and removed it."""
        return not self.path.is_dir() and self._places.finals[-1].exists()

    def others(self) -> dict[Path, Run | None]:
        """Return the folders with shards of other runs for the same target, and which they are."""
        pattern = re.compile(rf"{re.escape(self._prefix)}[0-9a-f]{{16}}")
        try:
            names = sorted(each.name for each in os.scandir(self.path.parent))
        except OSError:
            return {}
        paths = [self.path.with_name(name) for name in names if pattern.fullmatch(name)]
        return {path: _run_at(path) for path in paths if path != self.path and _has_rows(path)}

    def remove_others(self) -> None:
        """Remove the folders of other runs at which nobody is at work."""
        for path in self.others():
            _remove_unused(path)

    # Shards

    def has(self, number: int, size: int) -> bool:
        """Tell whether a shard is whole, as far as can be told without reading its row."""
        try:
            whole = (self.files / self._places.names[number]).stat().st_size == size
        except OSError:
            return False
        return whole and self._row(number).exists()

    def done(self, number: int, size: int) -> Shard | None:
        """Return what is known of a shard, if it is whole and as long as planned."""
        if not self.has(number, size):
            return None
        try:
            with own_json(self._row(number), MAX_JSON_BYTES) as content:
                shard = _shard(content)
        except (OSError, ConvertError):  # a row that cannot be read is none
            return None
        return shard if shard.size == size else None

    @contextmanager
    def writing(self, number: int, size: int) -> Iterator[tuple[Path, int]]:
        """Give path and descriptor of a new file of a size; it gets its name if all is well.

        Raises:
            TargetError: no permission, or no space.
        """
        final = self.files / self._places.names[number]
        try:
            self._remove_stale(number)
            path, descriptor = self._new(number)
        except OSError as error:
            raise target_error(final, error) from error
        try:
            allocate(descriptor, size)
            yield path, descriptor
            os.fsync(descriptor)
            self._make_folder_of(final)
            path.rename(final)
        except OSError as error:
            raise target_error(final, error) from error
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def put(self, number: int, shard: Shard) -> None:
        """Write down that a shard is whole.

        Raises:
            TargetError: it cannot be written.
        """
        self._put(self._row(number), asdict(shard))

    def _new(self, number: int) -> tuple[Path, int]:
        """Make a file to write a shard to; it has its lock before its name can be seen."""
        token = secrets.token_hex(8)
        path = self.path / "writing" / f"{number}-{token}"
        descriptor = _locked(path.with_name(token), fcntl.LOCK_EX)
        path.with_name(token).rename(path)
        return path, descriptor

    def _make_folder_of(self, final: Path) -> None:
        """Make the folders between `files` and a file, and none above: another may be done."""
        for folder in reversed(final.relative_to(self.files).parents[:-1]):
            (self.files / folder).mkdir(exist_ok=True)

    def _row(self, number: int) -> Path:
        return self.path / "done" / f"{number}.json"

    def _remove_stale(self, number: int) -> None:
        """Remove what killed processes have left of a shard."""
        for path in (self.path / "writing").glob(f"{number}-*"):
            with suppress(OSError):
                descriptor = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                os.close(descriptor)

    def _put(self, path: Path, content: Mapping[str, Any]) -> None:
        """Store JSON; it appears whole, and is on the disk then."""
        try:
            temporary = self.path / "writing" / secrets.token_hex(8)
            with temporary.open("x", encoding="ascii") as file:
                file.write(json.dumps(content))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        except OSError as error:
            raise target_error(path, error) from error

    # Bringing them to their places

    def commit(self, staging: Staging) -> None:
        """Give all files their places, and remove the folder; only for who finishes.

        Args:
            staging: of the target, with `files` prepared.

        Raises:
            TargetError: a rename failed; everything is as it was.
            UsageError: something is at one of the places meanwhile.
        """
        marks = {str(name): _mark(self.files / name) for name in self._places.names}
        marker = self.path / "commit.json"
        self._put(marker, marks)
        try:
            with staging:
                staging.commit()
        except BaseException:
            marker.unlink(missing_ok=True)
            raise
        _discard(self.path)

    def take_back(self) -> None:
        """Undo what a commit has done in whose middle a process was killed.

        If all files have their places, the folder is removed: it was killed too late to matter.
        """
        marker = self.path / "commit.json"
        if not marker.exists():
            return
        with self.finishing() as there:
            if not there or not marker.exists():
                return
            with own_json(marker, MAX_JSON_BYTES) as content:
                marks = content if isinstance(content, dict) else {}
            moved = [
                (final, self.files / name)
                for name, final in zip(self._places.names, self._places.finals, strict=True)
                if not (self.files / name).exists() and _mark(final) == marks.get(str(name))
            ]
            if len(moved) == len(self._places.names):
                _discard(self.path)
                return
            for final, place in moved:
                self._make_folder_of(place)
                final.rename(place)
            marker.unlink()


def _mark(path: Path) -> list[int] | None:
    """Return what tells whether a file was moved here; None where there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def _discard(folder: Path) -> None:
    """Remove a folder, at once for those who are still at work in it."""
    with suppress(OSError):  # another one has
        gone = folder.with_name(f"{PREFIX}{secrets.token_hex(8)}")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _locked(path: Path, how: int) -> int:
    """Open and lock a file; return the descriptor, which holds the lock until it is closed.

    Raises:
        BlockingIOError: another process has the lock, and waiting was not asked for.
        OSError: it cannot be opened.
    """
    # Writable: an exclusive lock over NFS needs it.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        # Without locks waiting is all in vain, and taking for stale a danger.
        if how & fcntl.LOCK_NB or error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            os.close(descriptor)
            raise
    return descriptor


def _has_rows(folder: Path) -> bool:
    return any((folder / "done").glob("*.json"))


def _remove_unused(folder: Path) -> None:
    """Remove a folder of parts at which nobody is at work."""
    with suppress(OSError):
        descriptor = _locked(folder / "users", fcntl.LOCK_EX | fcntl.LOCK_NB)
        _discard(folder)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _run_at(folder: Path) -> Run | None:
    """Return which run a folder says it is of."""
    with suppress(ConvertError), own_json(folder / "run.json", MAX_JSON_BYTES) as content:
        if isinstance(content, dict) and set(content) == set(Run._fields):
            return Run(*(str(content[name]) for name in Run._fields))
    return None


def _shard(content: object) -> Shard:
    """Return what a row says.

    Raises:
        CorruptFileError: it is none.
    """
    row: dict[str, Any] = content if isinstance(content, dict) else {}
    checksums, digests, losses = (row.get(key, {}) for key in ("checksums", "digests", "losses"))
    if (
        set(row) != set(Shard.__dataclass_fields__)
        or not isinstance(row["size"], int)
        or not _all(checksums, lambda each: type(each) is int)
        or not _all(digests, lambda each: isinstance(each, str) and _DIGEST.fullmatch(each))
        or not _all(losses, _are_losses)
    ):
        raise CorruptFileError("no row of a shard")
    return Shard(row["size"], checksums, digests, {n: Losses(*each) for n, each in losses.items()})


def _all(values: object, fits: Any) -> bool:
    return isinstance(values, dict) and all(fits(each) for each in values.values())


def _are_losses(value: object) -> bool:
    return isinstance(value, list) and [type(each) for each in value] == [int, int]
