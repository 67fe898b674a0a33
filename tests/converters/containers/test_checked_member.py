from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from random import Random
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers import checked_member
from tensorferry.converters.containers.checked_member import CheckedMember
from tensorferry.converters.containers.messages import MemorySource
from tensorferry.converters.containers.zip_archive import Member, read_members
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.sources import FileSource, Source

SIZE = 4 << 20
DATA = Random(1).randbytes(SIZE)
STEP = SIZE // 16


class _Member:
    """A member of a checked archive, read by offsets in it."""

    def __init__(self, source: Source, member: Member) -> None:
        self._checked = CheckedMember(source, member)
        self._start = member.data

    def read(self, start: int, length: int) -> bytes:
        return self._checked.read(self._start + start, length)


def _member(path: Path, damaged: int | None = None) -> _Member:
    """Return a member; `damaged` is a byte in it that is flipped."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("before", b"before")
        file.writestr("m", DATA)
    source = FileSource(path)
    (member,) = (each for each in read_members(source) if each.name == "m")
    if damaged is not None:
        with path.open("r+b") as opened:
            opened.seek(member.data + damaged)
            opened.write(bytes([DATA[damaged] ^ 1]))
    return _Member(source, member)


def _read(member: _Member, starts: Iterable[int], length: int = STEP) -> None:
    for start in starts:
        assert member.read(start, min(length, SIZE - start))


def test_a_whole_member_may_be_read_in_any_order(tmp_path: Path) -> None:
    starts = list(range(0, SIZE, STEP))
    Random(2).shuffle(starts)
    member = _member(tmp_path / "a.zip")
    for start in starts:
        assert member.read(start, STEP) == DATA[start : start + STEP]


@pytest.mark.parametrize("damaged", [0, SIZE // 2, SIZE - 1])
def test_damage_shows_when_nearly_all_was_read(tmp_path: Path, damaged: int) -> None:
    member = _member(tmp_path / "a.zip", damaged)
    _read(member, range(0, SIZE - checked_member.LEFT_BYTES - STEP, STEP))
    with pytest.raises(CorruptFileError, match="member `m`: crc32 of the contents differs") as at:
        _read(member, [SIZE - checked_member.LEFT_BYTES - STEP])
    assert at.value.path == str(tmp_path / "a.zip")
    _read(member, range(0, SIZE, STEP))  # said once


def test_a_part_of_a_large_member_is_not_checked(tmp_path: Path) -> None:
    member = _member(tmp_path / "a.zip", 0)
    for _ in range(20):
        _read(member, range(0, SIZE // 2, STEP))


def test_several_threads_may_read(tmp_path: Path) -> None:
    member = _member(tmp_path / "a.zip", 7)
    failed: list[CorruptFileError] = []

    def work(first: int) -> None:
        try:
            _read(member, range(first * 4096, SIZE, 4 * 4096), 4096)
        except CorruptFileError as error:
            failed.append(error)

    threads = [Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 1


@given(st.lists(st.tuples(st.integers(0, 4999), st.integers(1, 5000)), max_size=30), st.booleans())
def test_overlapping_reads_are_summed_up_once(reads: list[tuple[int, int]], damaged: bool) -> None:
    data = DATA[:5000]
    crc = Algorithm.CRC32.update(data) ^ damaged
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checked_member, "LEFT_BYTES", 100)
        source = MemorySource(Path("a.zip"), b"abc" + data)
        member = _Member(source, Member("m", 0, crc, 5000, 5000, 0, 3, 0))
        seen: set[int] = set()
        for start, length in reads:
            end = min(start + length, 5000)
            full = len(seen) < 5000 - 156 <= len(seen | set(range(start, end)))
            seen |= set(range(start, end))
            if full and damaged:
                with pytest.raises(CorruptFileError):
                    member.read(start, end - start)
            else:
                assert member.read(start, end - start) == data[start:end]
