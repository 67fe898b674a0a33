"""The weights of a package: all variants planned before any is written, hashed on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...converters.digests import digest_all
from ...converters.errors import UsageError
from ...converters.opening import open_tensors
from ...converters.output import Plan, PlannedFile, write_plan
from ...converters.registry import format_named
from ...converters.tensors import Tensor, TensorDict
from ..casts import cast_tensors, loss_notes, parse_casts, type_named
from ..convert import Listener, fitting, refuse_losses
from ..digest_file import model_digest
from ..options import ConvertOptions
from ..recorded import recorded_flags
from ..report import Report
from .names import renamed_index, weights_name
from .ordered_hash import OutputHashes
from .records import FileKind, FileRecord, TensorRecord, Variant

__all__ = ["PlannedVariant", "WrittenVariant", "home", "plan_variants", "portable", "write_variant"]

FORMAT = "safetensors"


@dataclass(frozen=True)
class PlannedVariant:
    """Weights that are going to be written.

    Attributes:
        name: of the variant; empty where there is only one.
        options: how, with the casts of this variant.
        tensors: in the types they are going to have.
        plan: where they go.
    """

    name: str
    options: ConvertOptions
    tensors: TensorDict
    plan: Plan


@dataclass(frozen=True)
class WrittenVariant:
    """Weights that were written.

    Attributes:
        variant: what the package says of them.
        files: with their hashes.
        report: what became of every tensor.
    """

    variant: Variant
    files: tuple[FileRecord, ...]
    report: Report


def plan_variants(
    kept: TensorDict, names: Iterable[str], options: ConvertOptions, folder: Path
) -> list[PlannedVariant]:
    """Plan all variants; touches no disk.

    Args:
        kept: what is written, in the types of the source.
        names: types such as `bf16`; none is one variant without a name.
        options: how; its casts come before those of a variant.
        folder: where to.

    Raises:
        UsageError: a type is unknown, or no default, or given twice.
        TargetError: safetensors cannot hold a tensor.
    """
    names = tuple(names)
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UsageError(f"variant `{repeated[0]}` is given twice")
    return [_planned(kept, name, options, folder) for name in names or ("",)]


def _planned(kept: TensorDict, name: str, options: ConvertOptions, folder: Path) -> PlannedVariant:
    if name:
        type_named(name)  # before it becomes the name of a file
        options = replace(options, dtypes=(*options.dtypes, name))
    tensors = cast_tensors(kept, parse_casts(options.dtypes), options.by)
    write = replace(options.write, overwrite=False)
    path = folder / weights_name(name)
    plan = fitting(tensors, path, format_named(FORMAT), write, strict=options.strict)
    return PlannedVariant(name, options, tensors, renamed_index(plan, name))


def write_variant(
    planned: PlannedVariant, source: TensorDict, listener: Listener
) -> WrittenVariant:
    """Write a variant and hash what is written.

    Args:
        planned: what to write, and where.
        source: all tensors that were found.
        listener: hears how writing goes on.

    Raises:
        TargetError: no space, or no permission; or values were lost and `strict` was given.
        CorruptFileError: the source is damaged.
    """
    hashes = OutputHashes(planned.plan.files)
    options = planned.options
    listener.started(planned.plan)
    try:
        write_plan(
            planned.plan,
            fsync=options.fsync,
            jobs=options.threads,
            advance=listener.advanced,
            observer=hashes,
        )
    finally:
        listener.finished()
    lost = tuple(loss_notes(planned.tensors))
    if options.strict:
        refuse_losses(lost, planned.plan.files[-1].path)
    plan = replace(planned.plan, notes=(*planned.plan.notes, *lost))
    digests: dict[str, str] = {}
    for file in hashes.files:
        digests |= file.digests
    files = tuple(_files(plan, hashes))
    tensors = _as_read(plan, planned.tensors, digests, options.threads)
    variant = Variant(
        name=planned.name,
        casts=options.dtypes,
        files=tuple(file.path for file in files),
        tensors=tensors,
        digest=model_digest({name: record.digest for name, record in tensors.items()}),
        flags=recorded_flags(portable(options)),
    )
    report = Report(plan.files[-1].path, source, planned.tensors, plan, digests, options, 0.0)
    return WrittenVariant(variant, files, report)


def _files(plan: Plan, hashes: OutputHashes) -> Iterator[FileRecord]:
    for file, seen in zip(plan.files, hashes.files, strict=True):
        kind = FileKind.WEIGHTS if _holds_tensors(file) else FileKind.INDEX
        yield FileRecord(file.path.name, file.size, seen.sha256, kind)


def _holds_tensors(file: PlannedFile) -> bool:
    return file.path.suffix != ".json"


def _as_read(
    plan: Plan, tensors: TensorDict, streamed: Mapping[str, str], jobs: int
) -> dict[str, TensorRecord]:
    """Return the records of all tensors as the files say when they are opened.

    What went through as it is was hashed on the way; of what is encoded, such as strings in the
    header, the few bytes are read.
    """
    own = {
        name
        for file in plan.files
        for name, tensor, _ in file.placements
        if tensors.tensors.get(name) is tensor
    }
    with open_tensors(plan.files[-1].path, format=FORMAT) as copy:
        found = {}
        for name in copy:
            source = name if name in tensors else tensors.aliases.get(name)
            if source in own and copy[name].spec == tensors[source].spec:
                found[name] = streamed[source]
        found |= digest_all(copy, (name for name in copy if name not in found), jobs)
        first = plan.files[0].path.name
        return {
            name: TensorRecord(tensor.spec, found[name], home(tensor) or first)
            for name, tensor in copy.items()
        }


def home(tensor: Tensor) -> str:
    """Return the name of the file that holds a tensor's bytes; empty where a header does."""
    extents = tensor.extents
    return extents[0].source.path.name if extents else ""


def portable(options: ConvertOptions) -> ConvertOptions:
    """Return options without what differs between machines and changes no byte of the weights."""
    updates = tuple(Path(each).name for each in options.updates)
    read = replace(options.read, endpoint_url=None)
    write = replace(options.write, overwrite=False)
    return replace(
        options, read=read, write=write, updates=updates, jobs=0, fsync=False, dry_run=False
    )
