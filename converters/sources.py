"""Where bytes come from. A source hands out byte ranges and is safe to use from many threads."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from .checksums import Checksum
from .errors import CorruptFileError, NotRecognisedError
from .mounts import Shown, shown_at

__all__ = ["Extent", "FileSource", "Source"]


class Source(ABC):
    """Bytes that can be read by range.

    Attributes:
        path: what messages call it; it may be set to what the user called it.
    """

    path: Path

    @property
    @abstractmethod
    def size(self) -> int:
        """Length in bytes."""

    @abstractmethod
    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` on; thread-safe.

        Raises:
            CorruptFileError: the source ends before `target` is full.
        """

    @abstractmethod
    def close(self) -> None:
        """Release what is held; may be called again."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes; the caller has checked `length` against `size`."""
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)


class FileSource(Source):
    """A file, opened at the first read, read by position; in a mounted folder, what it stands for.

    Attributes:
        place: where it lies.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self.place = Path(path)
        self._shown = shown_at(self.place)
        if self._shown:
            self.path = self._shown.path
        self._descriptor = -1
        self._size = -1
        self._lock = threading.Lock()

    @property
    def on_disk(self) -> bool:
        """Whether its bytes are those of the file at `place`."""
        return self._shown is None

    @property
    def size(self) -> int:
        """Length in bytes, when first asked for."""
        if self._size < 0:
            self._size = self._shown.size if self._shown else self._stat()
        return self._size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` on."""
        if self._shown:
            self._read_shown(self._shown, offset, target)
            return
        descriptor = self._descriptor if self._descriptor >= 0 else self._open()
        while len(target):
            try:
                count = os.preadv(descriptor, [target], offset)
            except OSError as error:
                raise CorruptFileError(
                    f"reading failed: {error.strerror}", path=self.path, where=f"byte {offset}"
                ) from error
            if count == 0:
                raise self._ends_early(offset, len(target))
            offset += count
            target = target[count:]

    def close(self) -> None:
        """Close the file descriptor, if one is open."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _read_shown(self, shown: Shown, offset: int, target: memoryview) -> None:
        there = max(shown.size - offset, 0)
        if len(target) > there:
            raise self._ends_early(offset + there, len(target) - there)
        if len(target):
            shown.read_into(offset, target)

    def _ends_early(self, at: int, more: int) -> CorruptFileError:
        return CorruptFileError(
            "the file ends early",
            path=self.path,
            where=f"byte {at}",
            expected=f"{more} more bytes",
            got="end of file",
            hint="copy the file again; it is shorter than its index says",
        )

    def _open(self) -> int:
        with self._lock:
            if self._descriptor < 0:
                try:
                    self._descriptor = os.open(self.place, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as error:
                    raise _unreadable(self.path, error) from error
            return self._descriptor

    def _stat(self) -> int:
        try:
            return self.place.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: OSError) -> NotRecognisedError:
    return NotRecognisedError(f"cannot be opened: {error.strerror}", path=path)


class Extent(NamedTuple):
    """A byte range of a source; offset and length in bytes.

    A named tuple and not a dataclass: a checkpoint may have 100,000 of them, and a frozen
    dataclass takes more than twice as long to make.
    """

    source: Source
    offset: int
    length: int
    checksum: Checksum | None = None
