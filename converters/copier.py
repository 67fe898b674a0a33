"""The copy engine: carries the literals and tensors of one planned file to their places.

It cuts tensors that lie in byte ranges into pieces of 1 MiB of the target, read and
written by position by a few threads, each with one buffer; checksums of the source are verified
and those of the target computed on the way, part by part, and joined at the end. Tensors whose
bytes must be made are streamed by one thread each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from .checksums import Algorithm
from .digests import hasher
from .errors import CorruptFileError
from .sources import Extent
from .staging import target_error
from .tensors import check_extent
from .threads import run_all

if TYPE_CHECKING:
    from .output import Advance, Literal, Observer, Placement, PlannedFile

__all__ = ["PIECE_BYTES", "THREAD_FLOOR_BYTES", "Copier"]

# Measured (docs/adr/0005): 128 KiB to 4 MiB are alike, 16 MiB is slower.
PIECE_BYTES = 1 << 20
# At a time: larger writes made the kernel take large pages that had to be cleared first, and
# two threads wait for one another's; 1 MiB took twice as long (docs/adr/0005).
WRITE_BYTES = 64 << 10
# Below this a second thread costs more than it saves.
THREAD_FLOOR_BYTES = 16 << 20


class _Segment(NamedTuple):
    """A part of an extent and where it goes; it crosses no multiple of the piece size."""

    placement: int
    number: int  # of the extent in its tensor
    extent: Extent
    start: int  # bytes from the start of the extent
    length: int
    target: int  # byte offset in the output file


class _Part(NamedTuple):
    """Checksums of one segment of a tensor that comes in several."""

    segment: _Segment
    source: int
    target: int


# Segments that lie in one piece of the target, or the number of a placement to stream.
_Piece = list[_Segment] | int


class Copier:
    """Carries the literals and tensors of one file to their places.

    Args:
        file: the file.
        descriptor: open for writing, of a file that is as long as planned.
        with_digests: whether to compute the digest of each tensor on the way.
        advance: called with the number of bytes just written.
        index: number of the file in its plan, for the observer.
        observer: sees what is written, in order.

    Attributes:
        checksums: the target's checksum by name, where it needs one.
        digests: by name, as far as asked for.
    """

    def __init__(
        self,
        file: PlannedFile,
        descriptor: int,
        with_digests: bool,
        advance: Advance | None,
        index: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self._file = file
        self._descriptor = descriptor
        self._with_digests = with_digests
        self._advance = advance
        self._index = index
        self._observer = observer
        self._parts: list[_Part] = []
        self.checksums: dict[str, int] = {}
        self.digests: dict[str, str] = {}

    def run(self, jobs: int) -> None:
        """Write all literals and tensors."""
        self.put(self._file.literals)
        for offset, extent in self._file.copied:
            self._copy_range(offset, extent)
        jobs = 1 if self._file.size < THREAD_FLOOR_BYTES else jobs
        run_all(self._worker, self._pieces(), jobs, self._observer.stop if self._observer else None)
        self._join_parts()

    def put(self, literals: Iterable[Literal]) -> None:
        """Write bytes that are known."""
        for offset, data in literals:
            self._write(memoryview(data), offset)

    def _copy_range(self, offset: int, extent: Extent) -> None:
        for start in range(0, extent.length, PIECE_BYTES):
            length = min(PIECE_BYTES, extent.length - start)
            self._write(
                memoryview(extent.source.read(extent.offset + start, length)), offset + start
            )

    def _worker(self) -> Callable[[_Piece], None]:
        buffer = memoryview(bytearray(min(PIECE_BYTES, self._file.size)))

        def work(piece: _Piece) -> None:
            if isinstance(piece, int):
                self._stream(self._file.placements[piece])
            else:
                self._copy(piece, buffer)

        return work

    # Cutting the target into pieces

    def _pieces(self) -> Iterator[_Piece]:
        """Yield pieces by rising offset, so that whoever sees them all can wait for the next."""
        placements = self._file.placements
        for streamed, group in groupby(
            range(len(placements)), lambda index: self._must_stream(placements[index])
        ):
            if streamed:
                yield from group
                continue
            tensors = ((index, placements[index].tensor.extents or ()) for index in group)
            for _, segments in groupby(self._segments(tensors), _piece_number):
                yield list(segments)

    def _must_stream(self, placement: Placement) -> bool:
        """Tell whether one thread has to see the whole tensor in order."""
        nbytes = placement.tensor.nbytes
        if placement.tensor.extents is None or not nbytes:
            return True
        first, last = placement.offset, placement.offset + nbytes - 1
        return self._with_digests and first // PIECE_BYTES != last // PIECE_BYTES

    def _segments(self, tensors: Iterable[tuple[int, tuple[Extent, ...]]]) -> Iterator[_Segment]:
        for index, extents in tensors:
            target = self._file.placements[index].offset
            for number, extent in enumerate(extents):
                start = 0
                if not extent.length:
                    self._check_empty(index, extent)
                while start < extent.length:
                    length = min(extent.length - start, PIECE_BYTES - target % PIECE_BYTES)
                    yield _Segment(index, number, extent, start, length, target)
                    start += length
                    target += length

    # Carrying a piece

    def _copy(self, segments: list[_Segment], buffer: memoryview) -> None:
        base = segments[0].target // PIECE_BYTES * PIECE_BYTES
        for run in _runs(segments, _follows_in_source):
            first = run[0]
            view = buffer[first.target - base : _end(run[-1]) - base]
            with self._naming(first.placement):
                first.extent.source.read_into(first.extent.offset + first.start, view)
        for segment in segments:
            self._check(segment, buffer[segment.target - base : _end(segment) - base])
        if self._with_digests:
            self._digest(segments, buffer, base)
        for run in _runs(segments, _follows):
            start, end = run[0].target, _end(run[-1])
            self._write(buffer[start - base : end - base], start)

    def _check(self, segment: _Segment, view: memoryview) -> None:
        """Take the checksums of a segment; verify and keep them where it is a whole tensor."""
        expected = segment.extent.checksum
        algorithm = self._file.algorithm
        source = expected.algorithm.update(view) if expected else 0
        if algorithm is None:
            target = 0
        elif expected and expected.algorithm is algorithm:
            target = source
        else:
            target = algorithm.update(view)
        placement = self._file.placements[segment.placement]
        if segment.length != placement.tensor.nbytes:
            self._parts.append(_Part(segment, source, target))
            return
        self.checksums[placement.name] = target
        if expected and expected.value != source:
            with self._naming(segment.placement):
                check_extent(segment.extent, source)

    def _join_parts(self) -> None:
        """Join the checksums of tensors that came in several segments, and verify them."""
        self._parts.sort(key=lambda part: (part.segment.placement, part.segment.target))
        for index, of_tensor in groupby(self._parts, lambda part: part.segment.placement):
            parts = list(of_tensor)
            if self._file.algorithm:
                whole = _joined(self._file.algorithm, parts, lambda part: part.target)
                self.checksums[self._file.placements[index].name] = whole
            for _, of_extent in groupby(parts, lambda part: part.segment.number):
                self._check_joined(list(of_extent))

    def _check_empty(self, index: int, extent: Extent) -> None:
        with self._naming(index):
            check_extent(extent, 0)

    def _check_joined(self, parts: list[_Part]) -> None:
        extent = parts[0].segment.extent
        if extent.checksum:
            value = _joined(extent.checksum.algorithm, parts, lambda part: part.source)
            with self._naming(parts[0].segment.placement):
                check_extent(extent, value)

    def _digest(self, segments: list[_Segment], buffer: memoryview, base: int) -> None:
        for index in dict.fromkeys(segment.placement for segment in segments):
            placement = self._file.placements[index]
            state = hasher(placement.tensor.spec)
            start = placement.offset - base
            state.update(buffer[start : start + placement.tensor.nbytes])
            self.digests[placement.name] = state.hexdigest()

    def _stream(self, placement: Placement) -> None:
        algorithm = self._file.algorithm
        state = hasher(placement.tensor.spec) if self._with_digests else None
        checksum, at = 0, placement.offset
        try:
            for chunk in placement.tensor.chunks(PIECE_BYTES):
                if algorithm:
                    checksum = algorithm.update(chunk, checksum)
                if state:
                    state.update(chunk)
                self._write(chunk, at)
                at += len(chunk)
        except CorruptFileError as error:
            raise error.within(f"tensor `{placement.name}`") from error
        self.checksums[placement.name] = checksum
        if state:
            self.digests[placement.name] = state.hexdigest()

    def _write(self, view: memoryview, offset: int) -> None:
        total, left, at = len(view), view, offset
        while len(left):
            try:
                count = os.pwrite(self._descriptor, left[:WRITE_BYTES], at)
            except OSError as error:
                raise target_error(self._file.path, error) from error
            left, at = left[count:], at + count
        if self._observer:
            self._observer.write(self._index, offset, view)
        if self._advance:
            self._advance(total)

    @contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Put the tensor's name into an error on its way out."""
        try:
            yield
        except CorruptFileError as error:
            name = self._file.placements[index].name
            raise error.within(f"tensor `{name}`") from error


def _piece_number(segment: _Segment) -> int:
    return segment.target // PIECE_BYTES


def _end(segment: _Segment) -> int:
    return segment.target + segment.length


def _follows(before: _Segment, after: _Segment) -> bool:
    return _end(before) == after.target


def _follows_in_source(before: _Segment, after: _Segment) -> bool:
    return (
        _end(before) == after.target
        and before.extent.source is after.extent.source
        and before.extent.offset + before.start + before.length == after.extent.offset + after.start
    )


def _runs(
    segments: list[_Segment], follows: Callable[[_Segment, _Segment], bool]
) -> Iterator[list[_Segment]]:
    """Yield the longest runs in which each segment follows the one before."""
    run = [segments[0]]
    for segment in segments[1:]:
        if not follows(run[-1], segment):
            yield run
            run = []
        run.append(segment)
    yield run


def _joined(algorithm: Algorithm, parts: list[_Part], value: Callable[[_Part], int]) -> int:
    total = value(parts[0])
    for part in parts[1:]:
        total = algorithm.combine(total, value(part), part.segment.length)
    return total
