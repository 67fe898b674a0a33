"""Putting the members of an archive into a folder, within bounds.

No name may lead out of the folder, occur twice or lie in a file; so many members, so deep, so many
bytes, and not more than what compression of weights explains. Sizes are looked at before anything
is unpacked. Links and devices never come here; who reads the archive refuses them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import CorruptFileError, TargetError, UnsafeFileError
from ..names import encode
from .tar_archive import Entry

__all__ = ["TRUST_HINT", "Bounds", "Unpacker", "parts_of"]

MAX_MEMBERS = 100_000
MAX_DEPTH = 32  # folders in one another
MAX_BYTES = 1 << 40
# Weights compress by a tenth, and what was never trained to almost nothing; a bomb by 1000.
MAX_RATIO = 100
SMALL_BYTES = 256 << 20  # up to this any ratio is harmless
RESERVE_BYTES = 64 << 20  # left free on the disk
NAME_BYTES, PATH_BYTES = 255, 4096  # what file systems take

TRUST_HINT = "if you trust the archive, unpack it and point at the model inside"


class Bounds:
    """Looks at members one by one, and at all of them together.

    Args:
        packed: length of the archive in bytes.
    """

    def __init__(self, packed: int) -> None:
        self._limit = min(MAX_BYTES, max(SMALL_BYTES, MAX_RATIO * packed))
        self._total = 0
        self._count = 0
        self._files: set[tuple[str, ...]] = set()
        self._folders: set[tuple[str, ...]] = {()}

    def check(self, entry: Entry) -> tuple[str, ...]:
        """Return the parts of a member's name.

        Raises:
            UnsafeFileError: the member breaks a bound.
        """
        try:
            return self._check(entry)
        except CorruptFileError as error:
            raise error.within(f"member `{entry.name[:NAME_BYTES]}`") from None

    def _check(self, entry: Entry) -> tuple[str, ...]:
        self._count += 1
        if self._count > MAX_MEMBERS:
            raise UnsafeFileError(
                "number of members", expected=f"at most {MAX_MEMBERS}", got="more", hint=TRUST_HINT
            )
        self._total += entry.size
        if self._total > self._limit:
            raise UnsafeFileError(
                "size of all members once unpacked", expected=f"at most {self._limit} bytes",
                got=f"{self._total} bytes or more", hint=TRUST_HINT,
            )  # fmt: skip
        parts = _safe_parts(entry.name)
        if entry.folder:
            self._claim_folders(parts)
            return parts
        if not parts:
            raise CorruptFileError("has no name")
        if parts in self._files or parts in self._folders:
            raise UnsafeFileError("occurs twice", hint=TRUST_HINT)
        self._claim_folders(parts[:-1])
        self._files.add(parts)
        return parts

    def _claim_folders(self, parts: tuple[str, ...]) -> None:
        for depth in range(len(parts), 0, -1):
            if parts[:depth] in self._folders:
                return
            if parts[:depth] in self._files:
                raise UnsafeFileError("lies in a file, not in a folder")
            self._folders.add(parts[:depth])


class Unpacker:
    """Puts members into a folder, within bounds.

    Args:
        folder: where to.
        packed: length of the archive in bytes.
        wanted: path inside the archive of the only folder to unpack; empty for everything.
    """

    def __init__(self, folder: Path, packed: int, wanted: str) -> None:
        self._folder = folder
        self._bounds = Bounds(packed)
        self._wanted = tuple(wanted.split("/")) if wanted else ()

    def put(self, entry: Entry, data: Iterable[bytes]) -> None:
        """Store a member."""
        parts = self._bounds.check(entry)
        if parts[: len(self._wanted)] != self._wanted:
            return
        self._make(parts if entry.folder else parts[:-1])
        if not entry.folder:
            self._write(self._folder.joinpath(*parts), entry, data)

    def _make(self, parts: tuple[str, ...]) -> None:
        try:
            self._folder.joinpath(*parts).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._disk_error(error) from error

    def _write(self, path: Path, entry: Entry, data: Iterable[bytes]) -> None:
        state = os.statvfs(self._folder)
        free = state.f_bavail * state.f_frsize
        if entry.size + RESERVE_BYTES > free:
            raise TargetError(
                "not enough space to unpack the archive", path=self._folder.parent,
                expected=f"{entry.size + RESERVE_BYTES} bytes", got=f"{free} bytes",
                hint="set TMPDIR to a folder on a larger disk",
            )  # fmt: skip
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for chunk in data:
                    file.write(chunk)
        except OSError as error:
            raise self._disk_error(error) from error

    def _disk_error(self, error: OSError) -> TargetError:
        return TargetError(
            f"unpacking the archive failed: {error.strerror}", path=self._folder.parent,
            hint="set TMPDIR to a folder with enough space",
        )  # fmt: skip


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a name without those that mean nothing; `./a//b/` is `a/b`."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _safe_parts(name: str) -> tuple[str, ...]:
    parts = parts_of(name)
    if name.startswith(("/", "\\")) or name[1:3] == ":\\":
        raise UnsafeFileError("an absolute path, which leads out of any folder")
    if ".." in parts or ".." in name.replace("\\", "/").split("/"):
        raise UnsafeFileError("the name leads out of the folder it would be unpacked to")
    if "\0" in name:
        raise UnsafeFileError("the name holds a NUL, at which other programs cut it")
    if len(parts) > MAX_DEPTH:
        raise UnsafeFileError("depth", expected=f"at most {MAX_DEPTH} folders", got=len(parts))
    longest = max((len(_encoded(part)) for part in parts), default=0)
    if longest > NAME_BYTES or len(_encoded(name)) > PATH_BYTES:
        raise UnsafeFileError("the name is longer than file systems take")
    return parts


def _encoded(name: str) -> bytes:
    try:
        return encode(name)
    except UnicodeEncodeError as error:
        raise CorruptFileError("the name is no text") from error
