"""Hashes of files that several threads bring piece by piece: each waits for its turn.

The pieces of a file are handed out in the order of their offsets, so the one whose turn it is
always lies with a thread that works on it. While one thread hashes, the others read and write.
SHA-256 of the file and BLAKE3 of its tensors take turns apart from each other: so one thread can
be at the first while another is at the second.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...converters.digests import hasher
from ...converters.output import PlannedFile
from ...converters.tensors import TensorSpec

if TYPE_CHECKING:
    from blake3 import blake3

__all__ = ["FileHash", "Held", "OutputHashes"]


class StoppedError(Exception):
    """Another thread has failed, so the piece before this one never comes."""


class _Turns:
    """Passes on bytes in order, whoever brings them.

    Args:
        take: gets each piece; never called by two threads at a time.
    """

    def __init__(self, take: Callable[[memoryview], object]) -> None:
        self._take = take
        self._at = 0
        self._stopped = False
        self._turn = threading.Condition()

    def put(self, offset: int, view: memoryview) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._stopped or offset <= self._at)
            if self._stopped:
                raise StoppedError
        if offset != self._at:
            raise RuntimeError(f"byte {offset} comes twice")
        self._take(view)
        with self._turn:
            self._at += len(view)
            self._turn.notify_all()

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            self._turn.notify_all()


class Held(NamedTuple):
    """A tensor in a file: byte offset of its values, what it is, and its name."""

    offset: int
    spec: TensorSpec
    name: str


class FileHash:
    """SHA-256 of a file, and the digests of the tensors in it.

    Args:
        held: the tensors; none overlaps another.
    """

    def __init__(self, held: Iterable[Held] = ()) -> None:
        self._sha = hashlib.sha256()
        self._tensors = _TensorDigests(sorted(held, key=lambda each: each.offset))
        self._turns = (_Turns(self._sha.update), _Turns(self._tensors.update))

    @property
    def sha256(self) -> str:
        """Hexadecimal, of what came so far."""
        return self._sha.hexdigest()

    @property
    def digests(self) -> Mapping[str, str]:
        """By name, of the tensors that are complete."""
        return self._tensors.digests

    def put(self, offset: int, view: memoryview) -> None:
        """Take in a piece, when all before it were taken."""
        for turns in self._turns:
            turns.put(offset, view)

    def stop(self) -> None:
        """Let no thread wait any longer."""
        for turns in self._turns:
            turns.stop()


class _TensorDigests:
    """Digests of the tensors of a file, of which the bytes come in order."""

    def __init__(self, held: Sequence[Held]) -> None:
        self._waiting = iter(held)
        self._at = 0
        self._current: Held | None = None
        self._state: blake3 | None = None
        self.digests: dict[str, str] = {}
        self._next()

    def update(self, view: memoryview) -> None:
        while len(view) and self._current and self._state:
            gap = self._current.offset - self._at
            if gap > 0:
                view = self._passed(view, gap)
                continue
            part = view[: self._current.spec.nbytes + gap]
            self._state.update(part)
            view = self._passed(view, len(part))
            if self._at == self._current.offset + self._current.spec.nbytes:
                self._next()
        self._at += len(view)

    def _passed(self, view: memoryview, count: int) -> memoryview:
        count = min(count, len(view))
        self._at += count
        return view[count:]

    def _next(self) -> None:
        """Close the tensor at hand and open the next one that has bytes."""
        if self._current and self._state:
            self.digests[self._current.name] = self._state.hexdigest()
        self._current = self._state = None
        for each in self._waiting:
            state = hasher(each.spec)
            if each.spec.nbytes:
                self._current, self._state = each, state
                return
            self.digests[each.name] = state.hexdigest()


class OutputHashes:
    """Hashes of all files of a plan, on the bytes that are written.

    Attributes:
        files: in the order of the plan.
    """

    def __init__(self, files: Iterable[PlannedFile]) -> None:
        self.files = [
            FileHash(Held(at, tensor.spec, name) for name, tensor, at in file.placements)
            for file in files
        ]

    def write(self, index: int, offset: int, view: memoryview) -> None:
        """Take in bytes of the `index`th file."""
        self.files[index].put(offset, view)

    def stop(self) -> None:
        """Let no thread wait any longer."""
        for file in self.files:
            file.stop()
