"""How bytes are put down: a plan says which bytes go where, the copy engine carries them.

A writer plans: for every output file its exact size, the literal bytes it knows already
(headers), where each tensor's bytes go, and what can be told only when all bytes have been seen
(an index with checksums). Planning touches no disk, so `--dry-run`, the free-space check and
refusing early are all the same plan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from .checksums import Algorithm
from .copier import Copier
from .errors import TargetError
from .notes import Note
from .sources import Extent, Source
from .staging import Staging, target_error
from .tensors import Tensor

__all__ = [
    "Advance", "Literal", "Observer", "Placement", "Plan", "PlannedFile", "ReadBack", "Written",
    "check_space", "write_file", "write_plan",
]  # fmt: skip

Advance = Callable[[int], None]  # gets the number of bytes just written
Literal = tuple[int, bytes]  # byte offset in the output file, and what goes there


class Observer(Protocol):
    """Sees what is written to each file, but for what `PlannedFile.make` writes.

    Several threads bring pieces that were handed out by rising offset: one may wait for another.
    """

    def write(self, index: int, offset: int, view: memoryview) -> None:
        """Take in bytes that were written to the `index`th file of the plan; thread-safe."""

    def stop(self) -> None:
        """Let no thread wait any longer: one has failed."""


class Placement(NamedTuple):
    """A tensor's place in an output file.

    Attributes:
        name: the tensor's name in the dictionary that is written.
        tensor: what gives the bytes; the dictionary's own tensor where they go as they are.
        offset: byte offset in the output file.
    """

    name: str
    tensor: Tensor
    offset: int


@dataclass(frozen=True)
class PlannedFile:
    """One output file.

    Attributes:
        path: its final path.
        size: its exact length in bytes.
        literals: bytes that are known before.
        placements: the tensors in it, by rising offset.
        algorithm: the checksum the target needs of every tensor, if any.
        finish: returns what can be told only afterwards, from the checksums of all tensors
            written so far, by name.
        copied: ranges of other files that go in as they are: byte offset here, and the range.
        make: writes a file whose layout cannot be known before, to a path, and tells how far it
            is; `size` is then the most it may take, and all else is empty.
    """

    path: Path
    size: int
    literals: tuple[Literal, ...] = ()
    placements: tuple[Placement, ...] = ()
    algorithm: Algorithm | None = None
    finish: Callable[[Mapping[str, int]], Iterable[Literal]] | None = None
    copied: tuple[tuple[int, Extent], ...] = ()
    make: Callable[[Path, Advance], None] | None = None


class ReadBack(NamedTuple):
    """How a target is read to be compared, where its own names may not be those of the dictionary.

    Attributes:
        format: name of the format to open it with.
        keys: by key there, name of the tensor in the dictionary; None for what the writer added.
        inside: what to open in a target that is a folder; else nothing.
    """

    format: str
    keys: Mapping[str, str | None]
    inside: str = ""


@dataclass(frozen=True)
class Plan:
    """What a writer is going to do.

    Attributes:
        format: name of the target format.
        files: the output files, the one that makes the set valid last.
        folder: the folder to make for them, where the target is one.
        removed: older files that would make a mixture with these; they go when these appear.
        stored_names: names that are not kept as they are, with what they become.
        notes: what is lost, encoded or renamed.
        read_back: how to compare the target, where it may not have the dictionary's names.
        sources: what was opened for the plan alone; closed when it is written.
    """

    format: str
    files: tuple[PlannedFile, ...]
    stored_names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    folder: Path | None = None
    removed: tuple[Path, ...] = ()
    read_back: ReadBack | None = None
    sources: tuple[Source, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


@dataclass
class Written:
    """What was learned while writing: per tensor name, the target's checksum and the digest."""

    checksums: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)


def write_plan(
    plan: Plan,
    *,
    overwrite: bool = False,
    fsync: bool = False,
    digests: bool = False,
    jobs: int = 1,
    advance: Advance | None = None,
    before_commit: Callable[[Path, Written], None] | None = None,
    observer: Observer | None = None,
) -> Written:
    """Write all files of a plan; they appear together, or nothing does.

    Args:
        plan: what to write.
        overwrite: whether existing files may be replaced.
        fsync: whether to wait until the disk has everything.
        digests: whether to compute the digest of each tensor on the way.
        jobs: number of threads.
        advance: called with the number of bytes just written.
        before_commit: called with the temporary folder in which the files lie under their final
            names, when all is written; what it raises leaves the target as it was.
        observer: sees what is written, in order; not together with `digests`.

    Raises:
        UsageError: a target exists or its folder does not.
        TargetError: no space or no permission.
        CorruptFileError: a source is short or a checksum differs.
    """
    written = Written()
    paths = [file.path for file in plan.files]
    with (
        _closing(plan.sources),
        Staging(
            paths, overwrite=overwrite, fsync=fsync, folder=plan.folder, removed=plan.removed
        ) as staging,
    ):
        check_space((plan.folder or plan.files[0].path).parent, plan.size)
        for index, file in enumerate(plan.files):
            if file.make:
                _make(file.make, staging, index, advance)
                continue
            descriptor = staging.create(index, file.size)
            copier = Copier(file, descriptor, digests, advance, index, observer)
            _carry(copier, file, written, jobs)
            staging.finish(descriptor)
        if before_commit:
            before_commit(staging.folder, written)
        staging.commit()
    return written


def write_file(
    file: PlannedFile,
    descriptor: int,
    written: Written,
    *,
    digests: bool = False,
    jobs: int = 1,
    advance: Advance | None = None,
) -> None:
    """Write one file of a plan whose layout is known.

    Args:
        file: the file.
        descriptor: open for writing, of a file that is as long as planned.
        written: what is known of the files before it; what is learned here is added.
        digests: whether to compute the digest of each tensor on the way.
        jobs: number of threads.
        advance: called with the number of bytes just written.

    Raises:
        TargetError: the disk did not take it.
        CorruptFileError: a source is short or a checksum differs.
    """
    _carry(Copier(file, descriptor, digests, advance), file, written, jobs)


def _carry(copier: Copier, file: PlannedFile, written: Written, jobs: int) -> None:
    copier.run(jobs)
    written.checksums |= copier.checksums
    written.digests |= copier.digests
    if file.finish:
        copier.put(file.finish(written.checksums))


def _make(
    make: Callable[[Path, Advance], None], staging: Staging, index: int, advance: Advance | None
) -> None:
    path = staging.path(index)
    try:
        make(path, advance or (lambda _: None))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise target_error(path, error) from error
    staging.finish(descriptor)


@contextmanager
def _closing(sources: Iterable[Source]) -> Iterator[None]:
    try:
        yield
    finally:
        for source in sources:
            source.close()


def check_space(folder: Path, size: int) -> None:
    """Check that so many bytes can be written to a folder.

    Raises:
        TargetError: they cannot.
    """
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    if size > free:
        raise TargetError(
            "not enough space",
            path=folder,
            expected=f"{size} bytes",
            got=f"{free} bytes",
            hint="free some space, or choose another disk",
        )
