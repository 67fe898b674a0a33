"""A conversion as every worker sees it: the source opened, the target planned and divided."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...converters.errors import CorruptFileError, UsageError
from ...converters.sources import Source
from ...converters.staging import Places, Staging, places_of
from ..batch.jobs import Part
from ..convert import Listener, Prepared, chosen, prepared
from ..options import ConvertOptions
from ..targets import target_at
from .folder import PartsFolder, Shard
from .shares import Run, homes_of, run_of, shards_of, source_mark, sources_of

__all__ = ["Division", "check_target", "divided"]

_DIFFERS = {
    "source": "the source has changed since",
    "flags": "the flags, or the version of this program, are others",
    "layout": "the source is another one",
}


@dataclass(frozen=True)
class Division:
    """What is going to be written, and in which pieces.

    Attributes:
        source: what is read.
        work: tensors, plan and options.
        shards: numbers of the files of the plan that are written apart.
        sources: what is read for them.
        run: what all who write them have to agree on.
        places: where the files go.
        folder: where they are until then.
    """

    source: str
    work: Prepared
    shards: tuple[int, ...]
    sources: tuple[Source, ...]
    run: Run
    places: Places
    folder: PartsFolder

    def share(self, part: Part) -> list[int]:
        """Return the shards of a part."""
        homes = homes_of(self.work.plan, self.shards, part.parts)
        return [number for number in self.shards if homes[number] == part.number]

    def done(self, number: int) -> Shard | None:
        """Return what is known of a shard that is whole."""
        return self.folder.done(number, self.work.plan.files[number].size)

    def missing(self) -> list[int]:
        """Return the shards that are not whole yet."""
        files = self.work.plan.files
        return [each for each in self.shards if not self.folder.has(each, files[each].size)]

    def size(self, shards: list[int]) -> int:
        """Return the bytes of shards together."""
        return sum(self.work.plan.files[number].size for number in shards)

    def staging(self) -> Staging:
        """Return what brings the files to their places.

        Raises:
            UsageError: something is there, and may not be replaced.
        """
        plan = self.work.plan
        return Staging(
            [file.path for file in plan.files],
            overwrite=self.work.options.write.overwrite,
            fsync=True,
            folder=plan.folder,
            removed=plan.removed,
            prepared=self.folder.files,
        )

    def check_others(self) -> None:
        """Refuse to begin beside parts of another source or with other flags.

        Raises:
            UsageError: there are such.
        """
        for path, run in self.folder.others().items():
            raise UsageError(
                f"holds parts that do not fit: {self.difference(run)}", path=path,
                hint="finish them with their own source and flags, or begin anew with --overwrite",
            )  # fmt: skip

    def difference(self, run: Run | None) -> str:
        """Say what is different in another run."""
        ours = self.run._asdict()
        theirs = run._asdict() if run else {}
        return next(text for name, text in _DIFFERS.items() if theirs.get(name) != ours[name])

    def check_source(self) -> None:
        """Check that the source is as it was when it was opened.

        Raises:
            CorruptFileError: it is not.
        """
        if source_mark(self.sources, self.work.opened) != self.run.source:
            raise CorruptFileError(
                "the source has changed while it was read",
                path=self.source, hint="run it again when nobody writes to it any more",
            )  # fmt: skip


def check_target(target: str | os.PathLike[str]) -> None:
    """Refuse what is not on a disk.

    Raises:
        UsageError: it is in an object store.
    """
    if "://" in os.fspath(target):
        raise UsageError(
            "parts are put together in a folder that all workers see, and not in an object store",
            path=target, hint="write to a disk, and copy the files to the store, the index last",
        )  # fmt: skip


@contextmanager
def divided(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: ConvertOptions,
    listener: Listener,
) -> Iterator[Division]:
    """Open a source and divide its target; nothing is written.

    Raises:
        UsageError: the target cannot be written in parts.
        ConvertError: as `convert` does.
    """
    check_target(target)
    endpoint = options.read.endpoint_url
    with (
        target_at(target, folder=options.write.folder, endpoint=endpoint) as place,
        prepared(source, chosen(source, options, listener), place, options, listener) as work,
    ):
        plan = work.plan
        try:
            shards = shards_of(plan, work.options)
            places = places_of([file.path for file in plan.files], plan.folder)
            sources = sources_of(work.opened, plan, shards)
            run = run_of(sources, work.opened, plan, shards, work.options)
            name = (plan.folder or Path(target)).resolve().name
            folder = PartsFolder(places, name, run)
            yield Division(os.fspath(source), work, shards, sources, run, places, folder)
        finally:
            for each in plan.sources:
                each.close()
