"""Protobuf messages that may be larger than memory: read field by field, by position.

`wire.fields` wants a message as bytes. A frozen graph or a V1 checkpoint holds its weights inside
messages; here a message is a byte range of a source, small ones are loaded at once, and of large
ones only tags and lengths are read. What a field holds is again a range, so that tensor data can
be copied from where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import CorruptFileError
from ..sources import Source
from .wire import BYTES, FIXED32, FIXED64, VARINT, read_varint

__all__ = ["Body", "MemorySource"]

# A message up to this long is loaded whole; longer ones are those that hold weights.
LOADED_BYTES = 1 << 16
TAG_AND_LENGTH_BYTES = 20  # two varints of at most ten bytes


class MemorySource(Source):
    """Bytes in memory, such as a text file made binary; `path` is where they came from."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._data)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` on."""
        view = self._data[offset : offset + len(target)]
        if len(view) < len(target):
            raise CorruptFileError("ends early", path=self.path, where=f"byte {offset}")
        target[:] = view

    def close(self) -> None:
        """Nothing is held that the garbage collector does not free."""


class Body:
    """The value of a length-delimited field: a byte range of a source.

    Attributes:
        source: where it lies.
        start: byte offset of its first byte.
        length: in bytes.
    """

    __slots__ = ("_data", "length", "source", "start")

    def __init__(self, source: Source, start: int, length: int, data: bytes | None = None) -> None:
        self.source = source
        self.start = start
        self.length = length
        self._data = data

    @classmethod
    def whole(cls, source: Source) -> Body:
        """Return a source's content as one message."""
        return cls(source, 0, source.size)

    def load(self) -> bytes:
        """Return the content; for what is known to be small, or wanted whole."""
        return self.source.read(self.start, self.length) if self._data is None else self._data

    def text(self) -> str:
        """Return the content as text; bytes that are not UTF-8 as PEP 383 carries them."""
        return self.load().decode("utf-8", "surrogateescape")

    def fields(self) -> Iterator[tuple[int, int | Body]]:
        """Yield (field number, value): integers for varints and fixed widths, ranges for the rest.

        Raises:
            CorruptFileError: the bytes are no message; the error names file and byte.
        """
        try:
            if self._data is None and self.length > LOADED_BYTES:
                yield from self._scan()
            else:
                yield from self._parse(self.load())
        except CorruptFileError as error:
            if error.path is None:
                error.path = str(self.source.path)
            raise

    def bodies(self) -> Iterator[tuple[int, Body]]:
        """Yield the length-delimited fields alone."""
        for number, value in self.fields():
            if isinstance(value, Body):
                yield number, value

    def _parse(self, data: bytes) -> Iterator[tuple[int, int | Body]]:
        at, end = 0, len(data)
        while at < end:
            tag, at = read_varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == VARINT:
                value, at = read_varint(data, at)
                yield number, value
                continue
            length, at = _length(data, at, kind)
            self._check(number, at, length, end)
            part = data[at : at + length]
            if kind == BYTES:
                yield number, Body(self.source, self.start + at, length, part)
            else:
                yield number, int.from_bytes(part, "little")
            at += length

    def _scan(self) -> Iterator[tuple[int, int | Body]]:
        """Do the same for a message that is not loaded: read each tag and length by position."""
        at, end = 0, self.length
        while at < end:
            head = self.source.read(self.start + at, min(TAG_AND_LENGTH_BYTES, end - at))
            tag, used = read_varint(head, 0)
            number, kind = tag >> 3, tag & 7
            if kind == VARINT:
                value, used = read_varint(head, used)
                yield number, value
                at += used
                continue
            length, used = _length(head, used, kind)
            at += used
            self._check(number, at, length, end)
            body = Body(self.source, self.start + at, length)
            if kind == BYTES:
                yield number, body
            else:
                yield number, int.from_bytes(body.load(), "little")
            at += length

    def _check(self, number: int, at: int, length: int, end: int) -> None:
        if number == 0 or length > end - at:
            raise CorruptFileError(
                "no protobuf message" if number == 0 else "field runs past its message",
                where=f"byte {self.start + at}",
                expected=f"at most {end - at} bytes",
                got=f"{length} bytes",
            )


def _length(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Return the length of a value that is no varint, and the position after it is told."""
    if kind == BYTES:
        return read_varint(data, at)
    if kind in (FIXED32, FIXED64):
        return (4 if kind == FIXED32 else 8), at
    raise CorruptFileError("wire type", where=f"byte {at}", expected="0, 1, 2 or 5", got=kind)
