"""Ranges of an object are read as from a file, with few requests and few bytes too many."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import read_ahead
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.mounts import RemotePath, mount, unmount
from tensorferry.converters.read_ahead import BLOCK_BYTES, BlockCache, CachedFile
from tensorferry.converters.sources import FileSource
from tensorferry.converters.threads import run_all

PATH = RemotePath("s3://bucket/object")
MIB = 1 << 20


class Remote:
    """An object, and what was asked of it."""

    def __init__(self, size: int) -> None:
        self.data = bytes(range(251)) * (size // 251 + 1)
        self.data = self.data[:size]
        self.asked: list[tuple[int, int]] = []
        self.failing = 0

    def fetch(self, offset: int, length: int) -> memoryview:
        self.asked.append((offset, length))
        if self.failing:
            self.failing -= 1
            raise CorruptFileError("broken", path=PATH)
        return memoryview(self.data)[offset : offset + length]

    @property
    def moved(self) -> int:
        return sum(length for _, length in self.asked)


def opened(size: int) -> tuple[Remote, CachedFile, BlockCache]:
    remote, cache = Remote(size), BlockCache()
    return remote, CachedFile(PATH, size, remote.fetch, cache), cache


def read(file: CachedFile, offset: int, length: int) -> bytes:
    data = bytearray(length)
    file.read_into(offset, memoryview(data))
    return bytes(data)


@given(
    st.lists(
        st.tuples(st.integers(0, 12 * MIB - 1), st.sampled_from([1, 40, 4096, 70_000, 6 * MIB])),
        min_size=1,
        max_size=12,
    )
)
def test_reads_give_the_bytes_of_the_object(places: list[tuple[int, int]]) -> None:
    remote, file, cache = opened(12 * MIB)
    for offset, length in places:
        length = min(length, 12 * MIB - offset)
        assert read(file, offset, length) == remote.data[offset : offset + length]
    cache.close()


def test_threads_share_what_was_fetched() -> None:
    size = 60 * MIB + 77
    remote, file, cache = opened(size)
    target = bytearray(size)

    def work(piece: int) -> None:
        view = memoryview(target)[piece : piece + MIB]
        file.read_into(piece, view)

    run_all(lambda: work, range(0, size, MIB), 4)
    assert target == remote.data
    assert remote.moved == size
    assert len(remote.asked) < 25
    cache.close()


def test_an_index_that_is_read_in_small_steps_costs_little_more_than_itself() -> None:
    remote, file, cache = opened(40 * MIB)
    for index in (10_000, 300_000, 2_000_000):
        remote.asked.clear()
        start = 5 * MIB + index
        for at in range(start, start + index, 50):
            read(file, at, 50)
        assert remote.moved <= index + max(64 << 10, index // 16)
        assert len(remote.asked) < 80
    cache.close()


def test_single_reads_are_not_followed_by_others() -> None:
    remote, file, cache = opened(40 * MIB)
    for at in range(MIB, 30 * MIB, MIB):
        read(file, at + 7, 9)
    assert remote.moved <= 29 * read_ahead.JUMP_BYTES
    cache.close()


def test_a_long_read_fetches_nothing_beyond_it() -> None:
    remote, file, cache = opened(60 * MIB)
    assert read(file, 5, 45 * MIB) == remote.data[5 : 5 + 45 * MIB]
    assert remote.moved == 45 * MIB
    cache.close()


def test_what_is_fetched_ahead_is_not_more_than_what_was_read() -> None:
    remote, file, cache = opened(200 * MIB)
    for at in range(0, 12 * MIB, MIB):
        read(file, at, MIB)
    cache.close()
    assert remote.moved <= 12 * MIB + 12 * MIB + BLOCK_BYTES


def test_a_failure_is_heard_and_the_next_read_tries_again() -> None:
    remote, file, cache = opened(MIB)
    remote.failing = 1
    with pytest.raises(CorruptFileError, match="broken"):
        read(file, 100, 10)
    assert read(file, 100, 10) == remote.data[100:110]
    cache.close()


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_ahead, "CACHE_BYTES", 3 * BLOCK_BYTES)
    remote, file, cache = opened(100 * MIB)
    for at in range(0, 100 * MIB, 2 * MIB):  # no sequence
        read(file, at, MIB)
    held = sum(block.length for block in cache._recent)
    assert held <= 3 * BLOCK_BYTES
    assert read(file, 0, 10) == remote.data[:10]
    cache.close()
    assert not cache._recent


def test_a_mounted_folder_stands_for_objects(tmp_path: Path) -> None:
    remote, file, cache = opened(5000)
    shown = tmp_path / "folder" / "object"
    shown.parent.mkdir()
    shown.touch()
    mount(shown.parent, {str(shown): file})
    source, other = FileSource(shown), FileSource(tmp_path / "folder" / "absent")
    unmount(shown.parent)
    assert str(source.path) == "s3://bucket/object"
    assert source.size == 5000
    assert not source.on_disk
    assert source.read(4990, 10) == remote.data[-10:]
    with pytest.raises(CorruptFileError, match="the file ends early") as caught:
        source.read(4990, 11)
    assert caught.value.where == "byte 5000"
    assert other.on_disk
    assert FileSource(shown).on_disk
    cache.close()


def test_fetching_ahead_stops_when_it_is_closed() -> None:
    before = set(threading.enumerate())
    _, file, cache = opened(200 * MIB)
    for at in range(0, 16 * MIB, MIB):
        read(file, at, MIB)
    started = set(threading.enumerate()) - before
    assert started
    cache.close()
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()
