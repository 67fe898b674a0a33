"""Converting one model in parts: one part by hand, or all of them over an executor."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError, TargetError, UsageError
from ...converters.output import PlannedFile, check_space
from ..batch.jobs import Part
from ..casts import loss_notes
from ..convert import Listener, StoreText, beside
from ..options import ConvertOptions
from ..report import Report
from .division import Division, divided
from .finishing import finish
from .folder import Shard
from .shares import homes_of, wants_digests
from .writing import Task, write_shard, write_task

__all__ = ["PartReport", "convert_over", "convert_part"]

# How often a shard is tried whose worker is lost.
ATTEMPTS = 3


@dataclass(frozen=True)
class PartReport:
    """What became of one part.

    Attributes:
        target: what it is a part of.
        part: which one.
        files: its shards.
        there: how many of them were there already.
        missing: the parts that are not whole yet, by their numbers.
        seconds: wall time.
        dry_run: whether nothing was written.
        report: the account of the whole, where this part was the last one.
    """

    target: Path
    part: Part
    files: tuple[PlannedFile, ...]
    there: int
    missing: tuple[int, ...]
    seconds: float
    dry_run: bool = False
    report: Report | None = None

    def json(self) -> dict[str, Any]:
        """Return it as JSON values; where the target is complete, the account of the whole."""
        if self.report:
            return self.report.json()
        return {
            "target": {"path": str(self.target)},
            "part": self.part.number,
            "parts": self.part.parts,
            "files": [{"path": str(file.path), "bytes": file.size} for file in self.files],
            "there": self.there,
            "missing": list(self.missing),
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
        }


def convert_part(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    part: Part,
    options: ConvertOptions | None = None,
    listener: Listener | None = None,
) -> PartReport:
    """Write the shards of one part; whoever finds all parts there makes the target of them.

    What is there already is not written again. Any number of processes may be at it, also with
    other numbers of parts, as long as source and flags are the same.

    Args:
        source: a file, a folder or a checkpoint prefix, or the URL of one.
        target: the file, or the checkpoint prefix, to write; on a disk that all parts share.
        part: which one.
        options: what to choose differently; the same for all parts.
        listener: hears how it goes on.

    Raises:
        UsageError: the target has no shards, or there are parts of another source or flags.
        ConvertError: as `convert` does; parts that are whole stay.
    """
    options, listener = options or ConvertOptions(), listener or Listener()
    began = time.perf_counter()
    with divided(source, target, options, listener) as division:
        own = division.share(part)
        done = PartReport(
            Path(target), part, tuple(division.work.plan.files[each] for each in own), 0, (), 0.0,
            options.dry_run,
        )  # fmt: skip
        if options.dry_run or (not own and division.folder.gone):
            return done  # there are more parts than shards, and the others are through
        if not options.write.overwrite:
            division.check_others()
        _make_ready(division)
        with division.folder.used(), beside(division.work.plan, division.work.options) as store:
            todo = [number for number in own if not division.done(number)]
            there = len(own) - len(todo)
            digests = None
            if _written(division, todo, listener):
                missing = _missing_parts(division, part)
                done = replace(done, there=there, missing=missing)
                digests = None if missing else finish(division, store)
            report = None
            if digests is not None:
                report = _report(division, Path(target), digests, store, began)
            return replace(done, report=report, seconds=time.perf_counter() - began)


def convert_over(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    executor: Executor,
    options: ConvertOptions | None = None,
    listener: Listener | None = None,
) -> Report:
    """Convert one model over many workers, each shard of the target by one of them.

    Same bytes and same account as `convert`. A shard whose worker is lost is given to another.
    Shards that are whole stay if anything fails, and are not written again by the next run.

    Args:
        source: a file, a folder or a checkpoint prefix, or the URL of one, that all workers see.
        target: the file, or the checkpoint prefix, to write; on a disk that all workers share.
        executor: of any kind; it is not shut down.
        options: what to choose differently; `jobs` are the threads of each worker, by default one.
        listener: hears how it goes on.

    Returns:
        What became of every tensor.

    Raises:
        UsageError: the target has no shards.
        ConvertError: as `convert` does; the target is then as it was.
    """
    options, listener = options or ConvertOptions(), listener or Listener()
    began = time.perf_counter()
    with divided(source, target, options, listener) as division:
        plan, options = division.work.plan, division.work.options
        with beside(plan, options) as store:
            if options.dry_run:
                return _report(division, Path(target), {}, store, began)
            _make_ready(division)
            with division.folder.used():
                todo = [number for number in division.shards if not division.done(number)]
                listener.started(plan)
                try:
                    check_space(division.places.parent, division.size(todo))
                    _Spreading(division, _task(division, target), executor, listener).run(todo)
                    digests = finish(division, store)
                finally:
                    listener.finished()
                if digests is None:
                    raise TargetError("another process has completed it meanwhile", path=target)
                return _report(division, Path(target), digests, store, began)


def _make_ready(division: Division) -> None:
    """Check the place of the target, before anything is written.

    Raises:
        UsageError: something is there, and may not be replaced.
    """
    division.folder.take_back()
    try:
        division.staging()
    except UsageError as error:
        if error.hint and "--overwrite" in error.hint:
            error.hint = "if it was just completed, nothing is left to do; else use --overwrite"
        raise


def _written(division: Division, todo: list[int], listener: Listener) -> bool:
    """Write shards one by one; tell whether it was done and not all of it by somebody else."""
    size = division.size(todo)
    check_space(division.places.parent, size)
    listener.reading(size)
    try:
        for number in todo:
            write_shard(division, number, listener)
    except ConvertError:
        if division.folder.gone:
            return False
        raise
    finally:
        listener.finished()
    return not division.folder.gone


def _missing_parts(division: Division, part: Part) -> tuple[int, ...]:
    """Return the parts, of as many, that are not whole yet."""
    missing = division.missing()
    if missing:  # or another process is just giving them their places
        division.folder.take_back()
        missing = division.missing()
    if division.folder.gone:
        return ()
    homes = homes_of(division.work.plan, division.shards, part.parts)
    return tuple(sorted({homes[number] for number in missing}))


def _report(
    division: Division,
    target: Path,
    digests: Mapping[str, str],
    store: StoreText,
    began: float,
) -> Report:
    opened, kept, plan, options, likeness = division.work
    plan = replace(plan, notes=(*plan.notes, *loss_notes(kept)))
    seconds = time.perf_counter() - began
    done = Report(target, opened, kept, plan, digests, options, seconds, likeness=likeness)
    store(options.report, lambda: json.dumps(done.json(), indent=1) + "\n")
    return done


def _task(division: Division, target: str | os.PathLike[str]) -> Task:
    """Return what a worker is told, but for the number; paths mean the same to all of them."""
    options, write = division.work.options, division.work.options.write
    options = replace(
        options,
        write=replace(
            write,
            layout_of=write.layout_of and write.layout_of.absolute(),
            template=write.template and write.template.absolute(),
            config=write.config and write.config.absolute(),
        ),
        updates=tuple(_everywhere(each) for each in options.updates),
        digests=wants_digests(options),
        report=None,
        digest_file=None,
        jobs=options.jobs or 1,
    )
    return Task(_everywhere(division.source), _everywhere(target), options, -1, division.run)


def _everywhere(path: str | os.PathLike[str]) -> str:
    """Return a path that means the same in every folder; a slash at its end has to stay."""
    text = os.fspath(path)
    return text if "://" in text or Path(text).is_absolute() else f"{Path.cwd()}{os.sep}{text}"


class _Spreading:
    """Gives shards to an executor, and again those whose workers are lost."""

    def __init__(
        self, division: Division, task: Task, executor: Executor, listener: Listener
    ) -> None:
        self._division = division
        self._task = task
        self._executor = executor
        self._listener = listener
        self._running: dict[Future[Shard], int] = {}
        self._attempts: dict[int, int] = {}

    def run(self, todo: list[int]) -> None:
        """Have all of these shards written, the largest first.

        Raises:
            ConvertError: one cannot be; those that are being written are left to end.
        """
        files = self._division.work.plan.files
        self._listener.advanced(self._division.size([*{*self._division.shards} - {*todo}]))
        try:
            for number in sorted(todo, key=lambda each: -files[each].size):
                self._submit(number)
            while self._running:
                ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in ended:
                    self._end(future)
        except BaseException:
            for future in self._running:
                future.cancel()
            raise

    def _submit(self, number: int) -> None:
        self._attempts[number] = self._attempts.get(number, 0) + 1
        try:
            future = self._executor.submit(write_task, replace(self._task, number=number))
        except BrokenExecutor as error:
            raise self._lost(number, error) from error
        self._running[future] = number

    def _end(self, future: Future[Shard]) -> None:
        number = self._running.pop(future)
        try:
            shard = future.result()
        except (ConvertError, MemoryError):
            raise
        except Exception as error:  # of whatever executor, which may have lost a worker
            if self._attempts[number] >= ATTEMPTS:
                raise self._lost(number, error) from error
            self._submit(number)
            return
        self._listener.advanced(shard.size)

    def _lost(self, number: int, error: Exception) -> TargetError:
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        return TargetError(
            f"cannot be written, its workers are lost: {text}",
            path=self._division.work.plan.files[number].path,
            hint="the same command goes on where this one has stopped",
        )
