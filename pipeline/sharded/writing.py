"""Writing one shard: to the disk, read back if that is wanted, and then written down as whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...converters.casting import CastTensor, Losses
from ...converters.digests import digest_all
from ...converters.errors import UsageError, VerificationError
from ...converters.output import PlannedFile, Written, write_file
from ...converters.sources import Extent, FileSource
from ...converters.tensors import ExtentTensor, Tensor
from ..casts import loss_notes
from ..convert import Listener, refuse_losses
from ..options import ConvertOptions
from ..verify import FAULT_HINT, sample_of, source_digests
from .division import Division, divided
from .folder import Shard
from .shares import Run, wants_digests

__all__ = ["Task", "own_tensors", "write_shard", "write_task"]


@dataclass(frozen=True)
class Task:
    """One shard to write; small, and pickled on its way to a worker.

    Attributes:
        source: what to open.
        target: what the shard is of.
        options: how.
        number: of the file in the plan.
        run: which run it is, as whoever gave the task sees it.
    """

    source: str
    target: str
    options: ConvertOptions
    number: int
    run: Run


def write_task(task: Task) -> Shard:
    """Write a shard, in whatever process; return what is known of it.

    Raises:
        UsageError: source or flags are others here.
        ConvertError: as `convert` does.
    """
    with divided(task.source, task.target, task.options, Listener()) as division:
        if division.run != task.run:
            raise UsageError(
                f"does not fit what this worker was asked for: {division.difference(task.run)}",
                path=task.source, hint="all workers have to see the same files",
            )  # fmt: skip
        with division.folder.used():
            return division.done(task.number) or write_shard(division, task.number, Listener())


def write_shard(division: Division, number: int, listener: Listener) -> Shard:
    """Write a shard and return what is known of it; the folder is in use.

    Raises:
        TargetError: no permission or no space.
        CorruptFileError: the source is damaged, or has changed.
        LossError: values are lost, under `strict`.
        VerificationError: it does not read back as it should.
    """
    _, kept, plan, options, _ = division.work
    file = plan.files[number]
    written = Written()
    with division.folder.writing(number, file.size) as (path, descriptor):
        write_file(
            file, descriptor, written, digests=wants_digests(options), jobs=options.threads,
            advance=listener.advanced,
        )  # fmt: skip
        own = kept.select(name for name, _, _ in file.placements if name in kept)
        refuse_losses(loss_notes(own), file.path, strict=options.strict)
        digests: Mapping[str, str] = {}
        if wants_digests(options):
            digests = source_digests(
                written.digests, replace(plan, files=(file,)), own, options.threads,
                again=options.verify,
            )  # fmt: skip
        os.fsync(descriptor)
        _verify(division, file, path, digests)
        division.check_source()
    checksums = written.checksums if file.algorithm else {}
    shard = Shard(file.size, checksums, digests, dict(_losses(own)))
    division.folder.put(number, shard)
    return shard


def own_tensors(division: Division, file: PlannedFile) -> set[str]:
    """Return the names of the tensors whose own bytes are in a file, and no others."""
    tensors = division.work.kept.tensors
    return {name for name, tensor, _ in file.placements if tensors.get(name) is tensor}


def _losses(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Losses]]:
    for name, tensor in tensors.items():
        if isinstance(tensor, CastTensor) and tensor.losses:
            yield name, tensor.losses


# Reading back


def _verify(division: Division, file: PlannedFile, path: Path, digests: Mapping[str, str]) -> None:
    """Compare the bytes on the disk with what the plan says, all or those of a sample."""
    _, kept, _, options, _ = division.work
    if not options.verify and not options.verify_sample:
        return
    wanted = {name for name, _, _ in file.placements}
    own = own_tensors(division, file) if options.verify else set()
    if not options.verify:
        wanted &= {*sample_of(kept)}
    planned = {name: tensor for name, tensor, _ in file.placements if name in wanted}
    again = digest_all(planned, planned.keys() - own, options.threads)
    expected = {name: again[name] if name in again else digests[name] for name in planned}
    source = FileSource(path)
    try:
        _compare_literals(file, source)
        copies = {
            name: ExtentTensor(tensor.spec, (Extent(source, offset, tensor.nbytes),))
            for name, tensor, offset in file.placements
            if name in planned
        }
        got = digest_all(copies, copies, options.threads)
    finally:
        source.close()
    for name, value in expected.items():
        if got[name] != value:
            raise VerificationError(
                "reads back different", path=file.path, where=f"tensor `{name}`",
                expected=f"digest {value}", got=got[name], hint=FAULT_HINT,
            )  # fmt: skip


def _compare_literals(file: PlannedFile, source: FileSource) -> None:
    for offset, data in file.literals:
        if source.read(offset, len(data)) != data:
            raise VerificationError(
                "reads back different", path=file.path, where=f"byte {offset}", hint=FAULT_HINT
            )
