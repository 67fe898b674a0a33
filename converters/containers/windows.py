"""A part of a source as a source of its own, and a member of an archive unpacked beside it."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from ..errors import CorruptFileError, TargetError
from ..sources import FileSource, Source
from .zip_archive import Member, MemberStream

__all__ = ["SourceFile", "WindowSource", "locate", "unpack"]

PIECE_BYTES = 1 << 20


class WindowSource(Source):
    """A byte range of a source; closing it closes nothing, since others share what is below.

    Args:
        inner: the source.
        offset: first byte.
        size: length in bytes; the caller has checked that it lies within.
        tensors: what tensors are read from by their offsets in `inner`, where it is another.
    """

    def __init__(
        self, inner: Source, offset: int, size: int, tensors: Source | None = None
    ) -> None:
        self.inner = inner
        self.tensors = tensors or inner
        self.offset = offset
        self._size = size

    @property
    def path(self) -> Path:  # type: ignore[override]
        """What messages call the source below."""
        return self.inner.path

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` of the window on."""
        if offset < 0 or offset + len(target) > self._size:
            raise CorruptFileError(
                "runs out of its member",
                path=self.path,
                expected=f"end by byte {self._size}",
                got=f"byte {offset + len(target)}",
            )
        self.inner.read_into(self.offset + offset, target)

    def close(self) -> None:
        """Close nothing."""


def locate(source: Source, offset: int) -> tuple[Source, int]:
    """Return the source that a byte of a tensor is read from, and its offset there."""
    if isinstance(source, WindowSource):
        return source.tensors, source.offset + offset
    return source, offset


class SourceFile(io.RawIOBase):
    """A source as a file object, for libraries that take no byte ranges."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, and return the position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: object) -> int:
        """Fill as much of the buffer as there is; return how many bytes that was."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        count = max(min(len(view), self._source.size - self._at), 0)
        self._source.read_into(self._at, view[:count])
        self._at += count
        return count


class _UnpackedSource(FileSource):
    """A temporary file without a name; it goes when it is closed."""

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        super().__init__(path)
        self._descriptor = descriptor
        self._size = size

    def _open(self) -> int:
        raise ValueError("read after it was closed")


def unpack(source: Source, member: Member, *, verify: bool) -> Source:
    """Return a member that is deflated as a source of its own, on the disk and not in memory.

    Its size was compared with what deflate can pack (`read_members`), and is with the room there
    is before a byte is written.

    Raises:
        CorruptFileError: it cannot be inflated, or its CRC-32 differs.
        TargetError: there is no room for it.
    """
    folder = tempfile.gettempdir()
    room = os.statvfs(folder)
    if member.size > room.f_bavail * room.f_frsize:
        raise _no_room(source, member, folder, f"{room.f_bavail * room.f_frsize} bytes")
    with tempfile.TemporaryFile() as file:
        stream = MemberStream(source, member, verify=verify)
        try:
            for at in range(0, member.size, PIECE_BYTES):
                file.write(stream.read(min(PIECE_BYTES, member.size - at)))
            stream.finish()
            file.flush()
        except OSError as error:
            raise _no_room(source, member, folder, error.strerror) from error
        return _UnpackedSource(source.path, os.dup(file.fileno()), member.size)


def _no_room(source: Source, member: Member, folder: str, got: str | None) -> TargetError:
    return TargetError(
        "no room to unpack it",
        path=source.path,
        where=f"member `{member.name}`",
        expected=f"{member.size} bytes in {folder}",
        got=got,
        hint="name another folder with TMPDIR, or pack the archive anew without compression",
    )
