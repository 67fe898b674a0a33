"""Reading an object of a store as if it were a file: few requests, and not many bytes too many.

A request to a store costs as much time as the transfer of some MiB, and formats read indexes in
small steps. What was fetched is kept, and the more of it is read in sequence, the more is fetched
at a time:

    a read somewhere            what was asked for, at least 4 KiB at the start, 512 bytes elsewhere
    small reads in sequence     twice as much each time up to 32 KiB, then a 16th of the sequence
    large reads in sequence     twice as much each time, up to 4 MiB
    after 4 MiB in sequence     4 MiB at a time, and as much again ahead, at most 32 MiB

So an index costs itself and less than 64 KiB, and a tensor is fetched by several connections.
Blocks lie in the memory, 96 MiB of them at most for all files of a model; the least recently used
goes first.
"""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

__all__ = ["BlockCache", "CachedFile", "Fetch"]

HEAD_BYTES, JUMP_BYTES = 4 << 10, 512  # at least, at the start of a file and elsewhere
LARGE_BYTES = 64 << 10  # a read of a tensor, not of an index
SMALL_AHEAD_BYTES, SMALL_AHEAD_SHARE = 32 << 10, 16
BLOCK_BYTES = 4 << 20
AHEAD_BLOCKS = 8
CACHE_BYTES = 96 << 20
BLOCK_COST = 1 << 10  # what a block takes beside its bytes
REMEMBERED = 64  # sequences of a file that may go on

Fetch = Callable[[int, int], memoryview]  # offset and length to exactly those bytes; thread-safe


@dataclass(slots=True, eq=False)
class _Block:
    """Bytes that were asked for, and perhaps are there.

    Attributes:
        start: byte offset.
        end: byte offset after them.
        run: number of bytes that were read in sequence before these.
        coming: what tells that they are there, or why not; None when they are.
        data: the bytes.
        unread: number of bytes that nobody has read.
    """

    start: int
    end: int
    run: int
    coming: Future[memoryview] | None
    data: memoryview | None = None
    unread: int = 0

    @property
    def length(self) -> int:
        return self.end - self.start


class BlockCache:
    """What the files of a model share: the room for blocks and the threads that fetch ahead."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._recent: OrderedDict[_Block, CachedFile] = OrderedDict()
        self._held = 0
        self._threads: ThreadPoolExecutor | None = None

    def touch(self, file: CachedFile, block: _Block) -> None:
        """Note the use of a block, and drop those not used for longest; the lock is held."""
        if block not in self._recent:
            self._held += block.length + BLOCK_COST
        self._recent[block] = file
        self._recent.move_to_end(block)
        while self._held > CACHE_BYTES and len(self._recent) > 1:
            oldest, owner = next(iter(self._recent.items()))
            owner.drop(oldest)

    def forget(self, block: _Block) -> None:
        """Stop counting a block; the lock is held."""
        if self._recent.pop(block, None):
            self._held -= block.length + BLOCK_COST

    def later(self, run: Callable[[], None]) -> None:
        """Do something in a thread of its own; the lock is held."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AHEAD_BLOCKS, "read-ahead")
        self._threads.submit(run)

    def close(self) -> None:
        """Stop fetching ahead and give the memory back."""
        with self.lock:
            threads, self._threads = self._threads, None
            for block, owner in tuple(self._recent.items()):
                owner.drop(block)
        if threads:
            threads.shutdown(wait=False, cancel_futures=True)


class CachedFile:
    """An object of a store that is read by ranges, and what is known of it already.

    Args:
        path: what messages call it.
        size: its length in bytes.
        fetch: gets a range.
        cache: shared with the other files of the model.
    """

    def __init__(self, path: Path, size: int, fetch: Fetch, cache: BlockCache) -> None:
        self.path = path
        self.size = size
        self._fetch = fetch
        self._cache = cache
        self._starts: list[int] = []  # of the blocks, rising; no two overlap
        self._blocks: dict[int, _Block] = {}
        self._runs: OrderedDict[int, int] = OrderedDict()  # length of a sequence by its end

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target`, which ends within the file, from byte `offset` on; thread-safe."""
        if len(target) > BLOCK_BYTES:
            self._read_at_once(offset, target)
            return
        while len(target):
            block, mine = self._block(offset, len(target))
            if mine:
                self._load(block)
            coming = block.coming
            data = block.data if coming is None else coming.result()
            if data is None:
                raise AssertionError("a block is there or coming")
            count = min(block.end - offset, len(target))
            target[:count] = data[offset - block.start : offset - block.start + count]
            self._took(block, count)
            offset += count
            target = target[count:]

    def _read_at_once(self, offset: int, target: memoryview) -> None:
        """Read what is more than a block by several connections, and nothing beyond it.

        A long header is read so; what is behind it may not be wanted.
        """
        for begin in range(0, len(target), AHEAD_BLOCKS * BLOCK_BYTES):
            part = target[begin : begin + AHEAD_BLOCKS * BLOCK_BYTES]
            at, end = offset + begin, offset + begin + len(part)
            with self._cache.lock:
                while at < end:
                    block = self._holding(at)
                    if block is None:
                        block = self._new(at, min(BLOCK_BYTES, end - at), 0)
                        self._cache.later(partial(self._load, block))
                    self._cache.touch(self, block)
                    at = block.end
            for start in range(0, len(part), BLOCK_BYTES):
                self.read_into(offset + begin + start, part[start : start + BLOCK_BYTES])

    def drop(self, block: _Block) -> None:
        """Forget a block; the lock is held."""
        self._cache.forget(block)
        if self._blocks.get(block.start) is block:
            del self._blocks[block.start]
            del self._starts[bisect_right(self._starts, block.start) - 1]

    def _block(self, offset: int, length: int) -> tuple[_Block, bool]:
        """Return the block that holds a byte, and whether the caller has to fetch it."""
        with self._cache.lock:
            block = self._holding(offset)
            mine = block is None
            if block is None:
                run = self._runs.pop(offset, 0)
                block = self._new(offset, max(length, _window(offset, length, run)), run)
            self._cache.touch(self, block)
            self._ahead(block)
            return block, mine

    def _holding(self, offset: int) -> _Block | None:
        index = bisect_right(self._starts, offset) - 1
        block = self._blocks[self._starts[index]] if index >= 0 else None
        return block if block and offset < block.end else None

    def _new(self, offset: int, length: int, run: int) -> _Block:
        index = bisect_right(self._starts, offset)
        limit = self._starts[index] if index < len(self._starts) else self.size
        end = min(offset + length, limit)
        block = _Block(offset, end, run, Future(), unread=end - offset)
        insort(self._starts, offset)
        self._blocks[offset] = block
        self._runs[end] = run + block.length
        if len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)
        return block

    def _ahead(self, block: _Block) -> None:
        """Ask for what follows a block of a long sequence."""
        for _ in range(min(block.run // BLOCK_BYTES, AHEAD_BLOCKS)):
            if block.end >= self.size:
                return
            following = self._holding(block.end)
            if following is None:
                run = self._runs.pop(block.end, None)
                if run is None:  # another thread was there, and it is read and gone
                    return
                following = self._new(block.end, BLOCK_BYTES, run)
                self._cache.later(partial(self._load, following))
            self._cache.touch(self, following)
            block = following

    def _load(self, block: _Block) -> None:
        """Fetch a block; whoever reads it hears what went wrong."""
        coming = block.coming
        if coming is None:
            return
        try:
            data = self._fetch(block.start, block.length)
        except BaseException as error:
            with self._cache.lock:
                self.drop(block)  # the next one tries again
            coming.set_exception(error)
        else:
            block.data, block.coming = data, None
            coming.set_result(data)

    def _took(self, block: _Block, count: int) -> None:
        """Drop a block of a tensor when all of it was read; nobody reads it again."""
        with self._cache.lock:
            block.unread -= count
            if block.unread <= 0 and block.length > LARGE_BYTES:
                self.drop(block)


def _window(offset: int, length: int, run: int) -> int:
    """Return how many bytes to fetch where `length` are asked for after a sequence of `run`."""
    if not run:
        return JUMP_BYTES if offset else HEAD_BYTES
    if run >= BLOCK_BYTES:
        return BLOCK_BYTES
    if length >= LARGE_BYTES:
        return min(2 * run, BLOCK_BYTES)
    return min(run, max(SMALL_AHEAD_BYTES, run // SMALL_AHEAD_SHARE))
