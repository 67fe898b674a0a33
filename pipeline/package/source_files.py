"""Which files a source consists of, and their hashes, taken while other things go on."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ...converters.containers.archives import SEPARATOR, unpacked
from ...converters.errors import ConvertError
from ...converters.opening import open_tensors
from ...converters.registry import ReadOptions, format_named
from ...converters.sources import FileSource
from ...converters.tensors import TensorDict
from .manifest import plain
from .records import FileRecord, SourceFacts

__all__ = ["SourceFile", "SourceHashes", "files_of_source", "files_of_updates", "source_facts"]

READ_BYTES = 1 << 20
STAGING = ".tensorferry-"  # folders of runs that go on, or that were killed
# They tell where the model lay, which is nobody's business, or what lay beside it.
_PRIVATE = frozenset(
    {"prefix", "folder", "index", "other_checkpoints", "other_versions", "archive"}
)


class SourceFile(NamedTuple):
    """A file of the source: what the package calls it, and where it lies."""

    name: str
    place: Path


def files_of_source(path: str | os.PathLike[str], tensors: TensorDict) -> list[SourceFile]:
    """Return the files that a source consists of, sorted by name.

    Those that were opened, those that belong to them by their names, and of a SavedModel all in
    its folder. Of an archive it is the archive.

    Args:
        path: what the user pointed at.
        tensors: what came of it; open.
    """
    places = {each.place for each in tensors.sources if isinstance(each, FileSource)}
    if unpacked(tensors):
        archive = _archive(os.fspath(path), tensors)
        return [SourceFile(archive.name, archive)]
    folder = _saved_model(tensors, places)
    if folder:
        return _named(_below(folder), folder)
    for parent in {place.parent for place in places}:
        places |= _companions(tensors.format, parent, {place.name for place in places})
    places = places or {Path(path)}
    root = os.path.commonpath([place.parent for place in places])
    return _named((place for place in places if place.is_file()), Path(root))


def files_of_updates(
    updates: Iterable[str | os.PathLike[str]], reading: ReadOptions
) -> Iterator[SourceFile]:
    """Yield the files of what was given with `--update`, each below a folder of its own."""
    for number, update in enumerate(updates, 1):
        with open_tensors(update, reading) as tensors:
            for name, place in files_of_source(update, tensors):
                yield SourceFile(f"update-{number}/{name}", place)


def _archive(path: str, tensors: TensorDict) -> Path:
    """Return the archive that a model was unpacked from."""
    if "://" in path:
        from ...converters.remote import mirrored

        path = str(mirrored(tensors, str)[0])
    return Path(path.partition(SEPARATOR)[0])


def _saved_model(tensors: TensorDict, places: set[Path]) -> Path | None:
    """Return the folder of a SavedModel; of one in a store, the one that stands for it."""
    folder = tensors.details.get("folder")
    if not isinstance(folder, str):
        return None
    graphs = [place.parent for place in places if place.name.startswith("saved_model.")]
    return Path(folder) if Path(folder).is_dir() else next(iter(graphs), None)


def _named(places: Iterable[Path], root: Path) -> list[SourceFile]:
    return sorted(SourceFile(place.relative_to(root).as_posix(), place) for place in places)


def _below(folder: Path) -> Iterator[Path]:
    for each in folder.rglob("*"):
        inside = each.relative_to(folder)
        if each.is_file() and not any(part.startswith(STAGING) for part in inside.parts):
            yield each


def _companions(format: str, parent: Path, known: set[str]) -> set[Path]:
    group = format_named(format).group
    if group is None:
        return set()
    names = [each.name for each in parent.iterdir()]
    return {
        parent / name
        for found in group(names)
        if found.members & known
        for name in found.members
        if name in names
    }


class SourceHashes:
    """SHA-256 of the files of a source, taken by a thread of its own; a context manager.

    The files have just been read, or are going to be, so they come from the memory of the system
    as a rule. Leaving the context stops what is not done.
    """

    def __init__(self, files: Iterable[SourceFile]) -> None:
        self._files = tuple(files)
        self._records: list[FileRecord] = []
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def cancel(self) -> None:
        """Take no hashes after all."""
        self._stop.set()

    @property
    def newest(self) -> int:
        """When the newest of the files was changed, in seconds since 1970; 0 for objects."""
        sources = [FileSource(each.place) for each in self._files]
        return max((int(each.place.stat().st_mtime) for each in sources if each.on_disk), default=0)

    def records(self) -> tuple[FileRecord, ...]:
        """Wait for the hashes.

        Raises:
            ConvertError: a file cannot be read.
        """
        self._thread.join()
        if self._error:
            raise self._error
        return tuple(self._records)

    def _run(self) -> None:
        try:
            for file in self._files:
                self._records.append(self._hashed(file))
        except ConvertError as error:
            self._error = error
        except _Stopped:
            pass

    def _hashed(self, file: SourceFile) -> FileRecord:
        source = FileSource(file.place)
        try:
            state, buffer = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
            for at in range(0, source.size, READ_BYTES):
                if self._stop.is_set():
                    raise _Stopped
                view = buffer[: min(READ_BYTES, source.size - at)]
                source.read_into(at, view)
                state.update(view)
            return FileRecord(file.name, source.size, state.hexdigest())
        finally:
            source.close()


class _Stopped(Exception):  # noqa: N818
    """Nobody wants the hashes any more."""


def source_facts(name: str, tensors: TensorDict, files: tuple[FileRecord, ...]) -> SourceFacts:
    """Return what a package says of its source.

    Args:
        name: what to call it.
        tensors: what came of it.
        files: with their hashes.
    """
    details: Mapping[str, object] = tensors.details
    producer = " ".join(
        str(details[key]) for key in ("producer", "producer_version") if details.get(key)
    )
    step = details.get("step")
    return SourceFacts(
        name=name,
        format=tensors.format,
        summary=tensors.summary,
        producer=producer,
        step=step if isinstance(step, int) else None,
        files=files,
        details=plain({key: details[key] for key in details if key not in _PRIVATE}),
        metadata=dict(tensors.metadata),
    )
