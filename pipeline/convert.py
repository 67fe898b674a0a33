"""Open, select, plan, write, verify: the one orchestration behind the command line and batches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..converters.digests import digest_all
from ..converters.errors import LossError, UsageError
from ..converters.notes import Kind, Note
from ..converters.opening import open_tensors
from ..converters.output import Plan, Written, write_plan
from ..converters.registry import Format, ReadOptions, WriteOptions, format_for_target, format_named
from ..converters.staging import Staging, target_error
from ..converters.tensors import TensorDict
from .casts import cast_notes, cast_tensors, loss_notes, parse_casts
from .report import Report
from .selection import By, Ema, select, select_average, select_weights
from .update import updated
from .verify import sample_of, source_digests, verify_copy

__all__ = ["ConvertOptions", "Listener", "convert", "default_jobs"]


# What to say of an option that the format does not understand.
_NOT_DONE = {
    "folder": "is a folder: name the file or prefix to write as",
    "max_shard_bytes": "--max-shard-size means nothing to",
    "untie": "--untie means nothing to",
    "object_based": "--object-based means nothing to",
    "layout_of": "--layout-of means nothing to",
    "template": "--template means nothing to",
    "config": "--config means nothing to",
    "flat": "--flat means nothing to",
    "compress": "--compress means nothing to",
    "provenance": "--provenance means nothing to",
}


def default_jobs() -> int:
    """Return how many threads to use: those this process may run on, at most 4.

    Copying is bound by memory, not by computing; more threads gain nothing.
    """
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 4)


@dataclass(frozen=True)
class ConvertOptions:
    """What may be chosen about a conversion.

    Attributes:
        source_format: name of the source's format, where sniffing does not tell.
        target_format: name of the target's format, where its ending does not tell.
        read: how to open the source.
        write: how to lay the target out.
        include: patterns; only tensors that match one are kept.
        exclude: patterns; tensors that match one are left out.
        by: whether patterns are over names or keys.
        weights_only: leave out what is known to be no part of the model.
        ema: what to do with moving averages.
        updates: files whose tensors replace those of the same names or are added, in this order.
        dtypes: types to cast to: `bf16` for all floats, `embed*=f32` for those that match.
        allow_missing: leave out tensors whose data is not there instead of stopping.
        strict: any loss is an error; rounding by a cast that was asked for is none.
        dry_run: plan and report, write nothing.
        verify: read the output back and compare every tensor, before it gets its name.
        verify_sample: the same of all names, dtypes and shapes, and of the bytes of some tensors.
        digests: compute the digest of every tensor.
        report: store the account of every tensor there, digests included; a file that is there
            is replaced.
        fsync: wait until the disk has everything.
        jobs: number of threads.
    """

    source_format: str | None = None
    target_format: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    by: By = "name"
    weights_only: bool = False
    ema: Ema = "auto"
    updates: tuple[str | os.PathLike[str], ...] = ()
    dtypes: tuple[str, ...] = ()
    allow_missing: bool = False
    strict: bool = False
    dry_run: bool = False
    verify: bool = False
    verify_sample: bool = False
    digests: bool = False
    report: Path | None = None
    fsync: bool = False
    jobs: int = 0

    @property
    def threads(self) -> int:
        """Number of threads, the default where none was given."""
        return self.jobs or default_jobs()


class Listener:
    """Hears how a conversion goes on; does nothing by itself."""

    def opened(self, tensors: TensorDict) -> None:
        """The source was recognised and its index read."""

    def started(self, plan: Plan) -> None:
        """Writing begins."""

    def advanced(self, nbytes: int) -> None:
        """So many bytes were written since the last call; called from several threads."""

    def finished(self) -> None:
        """Writing has ended, one way or the other."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    listener: Listener | None = None,
) -> Report:
    """Convert a model's weights from one container to another.

    Args:
        source: a file, a folder or a checkpoint prefix.
        target: the file, or the checkpoint prefix, to write.
        options: what to choose differently.
        listener: hears how it goes on.

    Returns:
        What became of every tensor.

    Raises:
        ConvertError: see `converters/errors.py`; the target is then as it was.
    """
    options, listener = options or ConvertOptions(), listener or Listener()
    path = Path(target)
    writer, options = _writer(target, options)
    casts = parse_casts(options.dtypes)
    began = time.perf_counter()
    with open_tensors(source, options.read, format=options.source_format) as base:
        listener.opened(base)
        with updated(base, options.updates, options.read) as opened:
            kept = _without_missing(_select(opened, options), options)
            kept = cast_tensors(kept, casts, options.by)
            plan = _plan(writer, kept, path, options)
            _check_place(plan, Path(source))
            with _report_file(plan, options) as store:
                written = Written()
                if not options.dry_run:
                    written = _write(plan, kept, path, options, listener)
                plan = replace(plan, notes=(*plan.notes, *loss_notes(kept)))
                seconds = time.perf_counter() - began
                done = Report(path, opened, kept, plan, written.digests, options.dry_run, seconds)
                store(done)
    return done


def _writer(
    target: str | os.PathLike[str], options: ConvertOptions
) -> tuple[Format, ConvertOptions]:
    """Return the format to write, and refuse what it cannot do before anything is read."""
    path = Path(target)
    if path.is_dir() or os.fspath(target).endswith("/"):
        options = replace(options, write=replace(options.write, folder=True))
    if options.target_format:
        writer = format_named(options.target_format)
    elif options.write.folder:
        raise UsageError(
            "is a folder", path=path,
            hint=f"name the file to write, such as {path / 'model'}…, or the format with --to",
        )  # fmt: skip
    else:
        writer = format_for_target(path)
    if writer.plan is None:
        raise UsageError(f"{writer.title} is only read, not written", path=path)
    for name in options.write.given():
        if name not in writer.options:
            raise UsageError(f"{_NOT_DONE[name]} {writer.title}", path=path)
    return writer, options


def _select(tensors: TensorDict, options: ConvertOptions) -> TensorDict:
    kept = select(tensors, options.include, options.exclude, options.by)
    if options.weights_only:
        kept = select_weights(kept)
    return select_average(kept, options.ema)


def _without_missing(tensors: TensorDict, options: ConvertOptions) -> TensorDict:
    if not tensors.broken:
        return tensors
    if not options.allow_missing:
        raise next(iter(tensors.broken.values()))
    notes = [
        Note(Kind.DROPPED, error.what, name)
        if name in tensors
        else Note(Kind.DROPPED, f"`{name}`: {error.what}")  # a file, not a tensor
        for name, error in tensors.broken.items()
    ]
    return tensors.select((name for name in tensors if name not in tensors.broken), *notes)


def _plan(writer: Format, tensors: TensorDict, path: Path, options: ConvertOptions) -> Plan:
    if writer.plan is None:
        raise UsageError(f"{writer.title} is only read, not written", path=path)
    plan = writer.plan(tensors, path, options.write)
    if tensors.metadata and not writer.metadata:
        text = f"{writer.title} does not keep the texts {', '.join(sorted(tensors.metadata))}"
        plan = replace(plan, notes=(*plan.notes, Note(Kind.METADATA_LOST, text)))
    _refuse_losses((*tensors.notes, *plan.notes), path, options)
    return replace(plan, notes=(*cast_notes(tensors), *plan.notes))


def _refuse_losses(notes: Iterable[Note], path: Path, options: ConvertOptions) -> None:
    losses = [note for note in notes if note.kind.lossy]
    if options.strict and losses:
        first, more = losses[0], f", and {len(losses) - 1} more" if len(losses) > 1 else ""
        hint = "leave --strict out to accept it"
        if first.kind is Kind.OUT_OF_RANGE:
            hint = f"put --dtype '{first.tensor}=keep' first, or {hint}"
        raise LossError(f"would be lost: {first}{more}", path=path, hint=hint)


def _check_place(plan: Plan, source: Path) -> None:
    """Refuse to put a folder into the very folder that is read: that would be no model any more.

    Files may lie beside those of a checkpoint, and a folder may be replaced by its successor.
    """
    if plan.folder and source.is_dir() and source.resolve() in plan.folder.resolve().parents:
        raise UsageError(
            "lies inside of the source", path=plan.folder, hint="choose a folder beside the source"
        )


@contextmanager
def _report_file(plan: Plan, options: ConvertOptions) -> Iterator[Callable[[Report], None]]:
    """Make ready for the report, so that a bad place for it shows before anything is written."""
    path = options.report
    if path is None:
        yield lambda report: None  # noqa: ARG005
        return
    if path.resolve() in (file.path.resolve() for file in plan.files):
        raise UsageError("the report would replace the target", path=path)
    with Staging([path], overwrite=True, fsync=False) as staging:

        def store(report: Report) -> None:
            text = json.dumps(report.json(), indent=1) + "\n"
            try:
                (staging.folder / path.name).write_text(text, encoding="ascii")
            except OSError as error:
                raise target_error(path, error) from error
            staging.commit()

        yield store


def _write(
    plan: Plan, tensors: TensorDict, path: Path, options: ConvertOptions, listener: Listener
) -> Written:
    wants_digests = options.digests or options.verify or options.report is not None

    def check(folder: Path, written: Written) -> None:
        _refuse_losses(loss_notes(tensors), path, options)
        if wants_digests:
            written.digests = source_digests(
                written.digests, plan, tensors, options.threads, again=options.verify
            )
        expected = written.digests if options.verify else None
        if options.verify_sample and not options.verify:
            expected = digest_all(tensors, sample_of(tensors), options.threads)
        if expected is not None:
            copy = folder / _name_of_copy(plan)
            verify_copy(
                copy, plan.format, tensors, expected, options.threads, listener.advanced,
                plan.read_back,
            )  # fmt: skip

    listener.started(plan)
    try:
        return write_plan(
            plan,
            overwrite=options.write.overwrite,
            fsync=options.fsync,
            digests=wants_digests,
            jobs=options.threads,
            advance=listener.advanced,
            before_commit=check,
        )
    finally:
        listener.finished()


def _name_of_copy(plan: Plan) -> str:
    """Return what to open to read all files of a plan: the folder, or what makes the set valid."""
    return plan.folder.resolve().name if plan.folder else plan.files[-1].path.name
