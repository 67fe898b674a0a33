from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tensorferry.converters.containers import flatbuffer
from tensorferry.converters.containers.flatbuffer import Flatbuffer, Table
from tensorferry.converters.containers.messages import MemorySource
from tensorferry.converters.errors import CorruptFileError, UnsafeFileError

# A vtable at byte 4: three fields, of which the second is absent. The table at byte 16 holds the
# offset to a text, and a number of two bytes.
SMALL = (
    struct.pack("<I", 16)
    + struct.pack("<5H", 10, 10, 4, 0, 8)
    + bytes(2)
    + struct.pack("<iIHxx", 12, 8, 0xFFFE)
    + struct.pack("<I", 5) + b"words"
)  # fmt: skip


def _root(data: bytes, **limits: int) -> Table:
    source = MemorySource(Path("m.tflite"), data)
    return Flatbuffer(source, **{"budget": 1000, "longest": 100, **limits}).root()


def test_fields_are_given_by_their_numbers() -> None:
    root = _root(SMALL)
    assert root.text(0) == b"words"
    assert root.number(2, "H") == 0xFFFE
    assert root.number(2, "h") == -2
    assert [root.has(field) for field in range(5)] == [True, False, True, False, False]


def test_what_is_absent_is_empty() -> None:
    root = _root(SMALL)
    assert root.number(1, "Q") == 0
    assert root.text(3) == b""
    assert root.table(1) is None
    assert root.numbers(1, "f") == ()
    assert root.span(1) == (0, 0)
    assert list(root.places(1)) == []


def test_a_file_cut_anywhere_is_corrupt() -> None:
    for length in range(len(SMALL)):
        with pytest.raises(CorruptFileError, match="leads outside of the file, expected end by"):
            _root(SMALL[:length]).text(0)


def test_a_vtable_before_the_file_is_corrupt() -> None:
    with pytest.raises(CorruptFileError, match="byte -1: the flatbuffer leads outside"):
        _root(SMALL[:16] + struct.pack("<i", 17) + SMALL[20:])


def test_vectors_longer_than_the_file_are_refused_before_they_are_read() -> None:
    root = _root(SMALL, budget=1 << 40)
    assert root.span(0) == (32, 5)
    with pytest.raises(CorruptFileError, match="length of a vector, expected at most 1, got 5"):
        root.places(0)
    with pytest.raises(CorruptFileError, match="expected end by byte 37, got byte 52"):
        root.numbers(0, "f")


def test_texts_are_bounded() -> None:
    with pytest.raises(UnsafeFileError, match="length of a text, expected at most 4 bytes, got 5"):
        _root(SMALL, longest=4).text(0)
    root = _root(SMALL, budget=9)
    assert root.text(0) == b"words"
    with pytest.raises(UnsafeFileError, match="beside the weights, expected at most 9 bytes"):
        root.text(0)


def test_pages_are_dropped_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatbuffer, "PAGE_BYTES", 8)
    monkeypatch.setattr(flatbuffer, "MAX_PAGES", 1)
    root = _root(SMALL)
    assert root.text(0) == b"words"
    assert root.number(2, "H") == 0xFFFE
