"""Flatbuffers, read by position: only the pages are read in which something is asked for.

    table    int32 distance back to its vtable, fields
    vtable   uint16 its length, uint16 the table's, uint16 place of each field in the table, or 0
    vector   uint32 number of elements, elements; a text is one of bytes
    offset   uint32, forward from where it stands: how tables hold texts, vectors and tables

Specified by https://github.com/google/flatbuffers/blob/v25.2.10/docs/source/internals.md. Every
place and every length is compared with the file before it is used. Nothing is mapped into memory:
a file that another program cuts short meanwhile is an error and not the end of the process.
"""

from __future__ import annotations

from struct import Struct, calcsize, unpack_from

from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source

__all__ = ["Flatbuffer", "Table"]

PAGE_BYTES = 4096
MAX_PAGES = 1024  # kept at a time
_PLACE, _BACK, _COUNT = Struct("<I"), Struct("<i"), Struct("<I")
_VTABLE = Struct("<H")
_HINT = "the file is cut short or damaged; copy it again"


class Flatbuffer:
    """The bytes of a flatbuffer, and how many were taken out of it.

    Args:
        source: the file.
        budget: bytes of texts and numbers that may be taken out together.
        longest: bytes of the longest text.
    """

    def __init__(self, source: Source, *, budget: int, longest: int) -> None:
        self.size = source.size
        self._source = source
        self._budget = budget
        self._longest = longest
        self._spent = 0
        self._pages: dict[int, bytes] = {}

    def root(self) -> Table:
        """Return the outermost table."""
        return self.table_at(0)

    def table_at(self, place: int) -> Table:
        """Return the table to which the offset at `place` leads."""
        return Table(self, self.target(place))

    def target(self, place: int) -> int:
        """Return where the offset at `place` leads."""
        [distance] = _PLACE.unpack(self.read(place, 4))
        return place + int(distance)

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of what describes the values.

        Raises:
            CorruptFileError: they are not all in the file.
        """
        if start < 0 or start + length > self.size:
            raise CorruptFileError(
                "the flatbuffer leads outside of the file", where=f"byte {start}",
                expected=f"end by byte {self.size}", got=f"byte {start + length}", hint=_HINT,
            )  # fmt: skip
        number, at = divmod(start, PAGE_BYTES)
        if at + length <= PAGE_BYTES:
            return self._page(number)[at : at + length]
        return self._source.read(start, length)

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= MAX_PAGES:
                self._pages.clear()
            start = number * PAGE_BYTES
            page = self._source.read(start, min(PAGE_BYTES, self.size - start))
            self._pages[number] = page
        return page

    def text(self, place: int) -> bytes:
        """Return the text at `place`."""
        [length] = _COUNT.unpack(self.read(place, 4))
        if place + 4 + length <= self.size and length > self._longest:
            limit = f"at most {self._longest} bytes"
            raise UnsafeFileError("length of a text", expected=limit, got=length)
        self.charge(length)
        return self.read(place + 4, length)

    def charge(self, nbytes: int) -> None:
        """Count bytes that are taken out of the file.

        Raises:
            UnsafeFileError: they are more than any honest file has.
        """
        self._spent += nbytes
        if self._spent > self._budget:
            raise UnsafeFileError(
                "names and numbers beside the weights",
                expected=f"at most {self._budget} bytes",
                got="more",
            )


class Table:
    """A table; fields are given by their number in the schema, and may be absent."""

    __slots__ = ("_at", "_buffer", "_fields")

    def __init__(self, buffer: Flatbuffer, at: int) -> None:
        self._buffer = buffer
        self._at = at
        [back] = _BACK.unpack(buffer.read(at, 4))
        [length] = _VTABLE.unpack(buffer.read(at - back, 2))
        data = buffer.read(at - back, max(length, 4))
        self._fields: tuple[int, ...] = unpack_from(f"<{len(data) // 2 - 2}H", data, 4)

    def _place(self, field: int) -> int | None:
        """Return where a field is, None if it is absent."""
        offset = self._fields[field] if field < len(self._fields) else 0
        return self._at + offset if offset else None

    def number(self, field: int, code: str) -> int:
        """Return an integer; `code` is that of `struct`. One that is absent is 0."""
        place = self._place(field)
        if place is None:
            return 0
        [value] = unpack_from(f"<{code}", self._buffer.read(place, calcsize(f"<{code}")))
        return int(value)

    def has(self, field: int) -> bool:
        """Tell whether a field is there."""
        return self._place(field) is not None

    def text(self, field: int) -> bytes:
        """Return a text, empty where it is absent."""
        place = self._place(field)
        return b"" if place is None else self._buffer.text(self._buffer.target(place))

    def table(self, field: int) -> Table | None:
        """Return an inner table, None where it is absent."""
        place = self._place(field)
        return None if place is None else self._buffer.table_at(place)

    def span(self, field: int) -> tuple[int, int]:
        """Return the offset of a vector's first element and their number; both may be wrong."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._buffer.target(place)
        [count] = _COUNT.unpack(self._buffer.read(start, 4))
        return start + 4, int(count)

    def numbers(self, field: int, code: str) -> tuple[float, ...]:
        """Return a vector of numbers, empty where it is absent."""
        start, count = self.span(field)
        self._buffer.charge(8 * count)
        return unpack_from(
            f"<{count}{code}", self._buffer.read(start, calcsize(f"<{code}") * count)
        )

    def places(self, field: int) -> range:
        """Return where the offsets to the tables of a vector stand, for `Flatbuffer.table_at`.

        Raises:
            CorruptFileError: they are more than the file has room for.
        """
        start, count = self.span(field)
        if start + 4 * count > self._buffer.size:
            raise CorruptFileError(
                "length of a vector", where=f"byte {start}", hint=_HINT,
                expected=f"at most {(self._buffer.size - start) // 4}", got=count,
            )  # fmt: skip
        self._buffer.charge(4 * count)
        return range(start, start + 4 * count, 4)
