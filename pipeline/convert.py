"""Open, select, plan, write, verify: the one orchestration behind the command line and batches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..converters.digests import digest_all
from ..converters.errors import LossError, UsageError
from ..converters.notes import Kind, Note
from ..converters.opening import open_tensors
from ..converters.output import Plan, Written, write_plan
from ..converters.registry import Format, WriteOptions, format_for_target, format_named
from ..converters.staging import Staging, target_error
from ..converters.tensors import TensorDict
from .casts import cast_notes, cast_tensors, loss_notes, parse_casts
from .options import ConvertOptions, default_jobs
from .recipe.applied import Applied, with_files
from .report import Report
from .selection import select, select_average, select_weights
from .targets import Target, target_at
from .update import updated
from .verify import digests_as_read, sample_of, source_digests, verify_copy

if TYPE_CHECKING:
    from .layout.apply import Target as LayoutTarget
    from .like import Likeness
    from .recipe.model import Recipe

__all__ = [
    "ConvertOptions", "Listener", "Prepared", "StoreText", "beside", "chosen", "convert",
    "convert_chosen", "default_jobs", "fitting", "name_of_copy", "prepared", "refuse_losses",
]  # fmt: skip

StoreText = Callable[[Path | None, Callable[[], str]], None]  # puts a text beside the target

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


class Listener:
    """Hears how a conversion goes on; does nothing by itself."""

    def opened(self, tensors: TensorDict) -> None:
        """The source was recognised and its index read."""

    def compared(self, likeness: Likeness) -> None:
        """The result was compared with what it should be like."""

    def started(self, plan: Plan) -> None:
        """Writing begins."""

    def reading(self, size: int) -> None:
        """Reading of so many bytes begins, where nothing is written."""

    def advanced(self, nbytes: int) -> None:
        """So many were written, or read, since the last call; called from several threads."""

    def finished(self) -> None:
        """Writing or reading has ended, one way or the other."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: ConvertOptions | None = None,
    listener: Listener | None = None,
) -> Report:
    """Convert a model's weights from one container to another.

    Args:
        source: a file, a folder or a checkpoint prefix, or the URL of one.
        target: the file, or the checkpoint prefix, to write, or its URL.
        options: what to choose differently.
        listener: hears how it goes on.

    Returns:
        What became of every tensor.

    Raises:
        ConvertError: see `converters/errors.py`; the target is then as it was.
    """
    options, listener = options or ConvertOptions(), listener or Listener()
    tensors = chosen(source, options, listener)
    return convert_chosen(source, tensors, target, options, listener)


def convert_chosen(
    source: str | os.PathLike[str],
    tensors: AbstractContextManager[tuple[TensorDict, TensorDict]],
    target: str | os.PathLike[str],
    options: ConvertOptions,
    listener: Listener,
) -> Report:
    """Write tensors that are chosen already; otherwise as `convert`.

    Args:
        source: where they come from.
        tensors: gives them, as `chosen` does; entered when the target is known to be writable.
        target: as `convert` takes it.
        options: how to write them.
        listener: hears how it goes on.

    Raises:
        ConvertError: see `converters/errors.py`; the target is then as it was.
    """
    endpoint = options.read.endpoint_url
    with target_at(target, folder=options.write.folder, endpoint=endpoint) as place:
        return _convert(source, tensors, place, options, listener)


def _convert(
    source: str | os.PathLike[str],
    tensors: AbstractContextManager[tuple[TensorDict, TensorDict]],
    target: Target,
    options: ConvertOptions,
    listener: Listener,
) -> Report:
    began = time.perf_counter()
    with (
        prepared(source, tensors, target, options, listener) as ready,
        beside(ready.plan, ready.options) as store,
    ):
        opened, kept, plan, options, likeness = ready
        written = Written()
        if not options.dry_run:
            written = _write(plan, kept, target, options, listener, store)
        plan = replace(plan, notes=(*plan.notes, *loss_notes(kept)))
        seconds = time.perf_counter() - began
        shown = target.shown(plan)
        done = Report(
            target.name, opened, kept, shown, written.digests, options, seconds, target.sent,
            likeness,
        )  # fmt: skip
        store(options.report, lambda: json.dumps(done.json(), indent=1) + "\n")
    return done


class Prepared(NamedTuple):
    """What a conversion is going to do; nothing is written yet.

    Attributes:
        opened: all tensors that were found, those of updates in the place of the model's own.
        kept: those that are to be written.
        plan: where they go.
        options: how, with what the target itself says of it.
        likeness: how the tensors differ from what they should be like, where that was asked for.
    """

    opened: TensorDict
    kept: TensorDict
    plan: Plan
    options: ConvertOptions
    likeness: Likeness | None = None


@contextmanager
def prepared(
    source: str | os.PathLike[str],
    tensors: AbstractContextManager[tuple[TensorDict, TensorDict]],
    target: Target,
    options: ConvertOptions,
    listener: Listener,
) -> Iterator[Prepared]:
    """Open tensors and plan their target; they are open as long as the context is.

    Args:
        source: where they come from.
        tensors: gives them, as `chosen` does; entered when the target is known to be writable.
        target: where they go.
        options: how to write them.
        listener: hears how it goes on.

    Raises:
        ConvertError: the source cannot be read, or the target cannot be written like that.
    """
    writer, options = _writer(target, options)
    with tensors as (opened, kept):
        plan = _plan(writer, kept, target.path, options)
        _check_place(plan, Path(source))
        yield Prepared(opened, kept, plan, options, _compared(kept, options, listener))


def _compared(tensors: TensorDict, options: ConvertOptions, listener: Listener) -> Likeness | None:
    """Compare the result with what it should be like; refuse it where it has to be."""
    if options.like is None:
        return None
    from .like import like  # few runs need it

    likeness = like(tensors, options.like)
    listener.compared(likeness)
    if options.strict_like:
        likeness.refuse()
    return likeness


@contextmanager
def chosen(
    source: str | os.PathLike[str], options: ConvertOptions, listener: Listener
) -> Iterator[tuple[TensorDict, TensorDict]]:
    """Give the tensors of a source, updates in their places, and those that are to be written.

    Both are open as long as the context is. What is cast is cast when it is read.

    Raises:
        ConvertError: the source cannot be read, or what is asked for is not there.
    """
    casts = parse_casts(options.dtypes)
    recipes = _recipes(options.recipes)
    with open_tensors(source, options.read, format=options.source_format) as base:
        listener.opened(base)
        with updated(base, options.updates, options.read) as opened:
            kept = _without_missing(_select(opened, options), options)
            if options.layout != "keep":
                kept = _laid_out(options.layout, opened, kept)
            if recipes:
                kept = _applied(recipes, opened, kept)
            yield opened, cast_tensors(kept, casts, options.by)


def _recipes(texts: Iterable[str]) -> list[Recipe]:
    if not texts:
        return []
    from .recipe.read import parse_recipe  # few runs need it

    return [parse_recipe(text) for text in texts]


def _laid_out(target: LayoutTarget, opened: TensorDict, kept: TensorDict) -> TensorDict:
    """Return tensors as a framework has them; notes name those as their source does."""
    from .layout.apply import apply_layout

    return apply_layout(kept, target, _moved(opened, kept))


def _applied(recipes: list[Recipe], opened: TensorDict, kept: TensorDict) -> TensorDict:
    """Return what recipes make of tensors; notes name those as their source does."""
    from .recipe.apply import apply_recipes

    # What a layout has made knows its sources itself.
    names = {} if isinstance(kept, Applied) else _moved(opened, kept)
    return apply_recipes(recipes, kept, names)


def _moved(opened: TensorDict, kept: TensorDict) -> dict[str, str]:
    """Return what the source calls tensors that have another name; keys never change."""
    by_key = {opened.origin(name).key: name for name in opened}
    moved = (name for name in kept if kept.origin(name).key != opened.origin(name).key)
    return {name: by_key[kept.origin(name).key] for name in moved}


def fitting(
    tensors: TensorDict, path: Path, format: Format, write: WriteOptions, *, strict: bool = False
) -> Plan:
    """Plan what a conversion would write to a path; nothing is written.

    Raises:
        UsageError: the format is not written, or not with these flags.
        TargetError: it cannot hold the tensors, or `strict` is given and something would be lost.
    """
    options = ConvertOptions(target_format=format.name, write=write, strict=strict)
    place = Target(path, is_folder=write.folder)
    return _plan(_writer(place, options)[0], tensors, path, options)


def _writer(target: Target, options: ConvertOptions) -> tuple[Format, ConvertOptions]:
    """Return the format to write, and refuse what it cannot do before anything is read."""
    path = target.path
    if options.strict_like and options.like is None:
        raise UsageError("--strict-like needs --like TARGET")
    if options.digest_file and options.dry_run:
        raise UsageError("a dry run reads no values, so there are no digests", path=path)
    if target.is_folder:
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
    plan = with_files(plan, tensors)
    refuse_losses((*tensors.notes, *plan.notes), path, strict=options.strict)
    return replace(plan, notes=(*cast_notes(tensors), *plan.notes))


def refuse_losses(notes: Iterable[Note], path: Path, *, strict: bool = True) -> None:
    """Refuse what `--strict` forbids.

    Raises:
        LossError: a note tells of a loss.
    """
    losses = [note for note in notes if note.kind.lossy]
    if strict and losses:
        first, more = losses[0], f", and {len(losses) - 1} more" if len(losses) > 1 else ""
        what, hint = "would be lost", "leave --strict out to accept it"
        if first.kind is Kind.UNDECIDED:
            what = first.kind.value
            hint = f"say what becomes of it in a rule (--recipe), --exclude it, or {hint}"
        if first.kind is Kind.OUT_OF_RANGE:
            hint = f"put --dtype '{first.tensor}=keep' first, or {hint}"
        raise LossError(f"{what}: {first}{more}", path=path, hint=hint)


def _check_place(plan: Plan, source: Path) -> None:
    """Refuse to put a folder into the very folder that is read: that would be no model any more.

    Files may lie beside those of a checkpoint, and a folder may be replaced by its successor.
    """
    if plan.folder and source.is_dir() and source.resolve() in plan.folder.resolve().parents:
        raise UsageError(
            "lies inside of the source", path=plan.folder, hint="choose a folder beside the source"
        )


@contextmanager
def beside(plan: Plan, options: ConvertOptions) -> Iterator[StoreText]:
    """Make ready for report and digest file; they appear at the end, if all is well.

    So a bad place for them shows before anything is written.

    Yields:
        What puts a text there.
    """
    paths = [path for path in (options.report, options.digest_file) if path]
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        what = "report" if path is options.report else "digest file"
        if place in (file.path.resolve() for file in plan.files):
            raise UsageError(f"the {what} would replace the target", path=path)
        if places.count(place) > 1:
            raise UsageError("report and digest file have the same name", path=path)
    with ExitStack() as stack:
        staged = {
            path: stack.enter_context(Staging([path], overwrite=True, fsync=False))
            for path in paths
        }

        def store(path: Path | None, text: Callable[[], str]) -> None:
            if path is None:
                return
            try:
                staged[path].path(0).write_text(text(), encoding="ascii")
            except OSError as error:
                raise target_error(path, error) from error

        yield store
        for staging in staged.values():
            if staging.path(0).exists():  # a dry run has no digests
                staging.commit()


def _write(
    plan: Plan,
    tensors: TensorDict,
    target: Target,
    options: ConvertOptions,
    listener: Listener,
    store: StoreText,
) -> Written:
    files = (options.report, options.digest_file)
    wants_digests = options.digests or options.verify or any(files)

    def check(folder: Path, written: Written) -> None:
        refuse_losses(loss_notes(tensors), target.path, strict=options.strict)
        if wants_digests:
            written.digests = source_digests(
                written.digests, plan, tensors, options.threads, again=options.verify
            )
        expected = written.digests if options.verify else None
        if options.verify_sample and not options.verify:
            expected = digest_all(tensors, sample_of(tensors), options.threads)
        overwrite, advance = options.write.overwrite, listener.advanced
        with target.published(plan, folder, overwrite=overwrite, advance=advance) as copy:
            if expected is not None:
                verify_copy(
                    copy() / name_of_copy(plan), plan.format, tensors, expected, options.threads,
                    advance, plan.read_back,
                )  # fmt: skip
            staged = folder / name_of_copy(plan)
            store(
                options.digest_file,
                lambda: digests_as_read(staged, plan, tensors, written.digests, options.threads),
            )

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


def name_of_copy(plan: Plan) -> str:
    """Return what to open to read all files of a plan: the folder, or what makes the set valid."""
    return plan.folder.resolve().name if plan.folder else plan.files[-1].path.name
