"""Making a target of shards that are all there: the index, the proof, and the names."""

from __future__ import annotations

from collections.abc import Mapping

from ...converters.casting import CastTensor
from ...converters.digests import digest_all
from ...converters.errors import TargetError
from ...converters.output import Written, write_file
from ...converters.staging import remove_stale
from ...converters.tensors import Tensor
from ..casts import loss_notes
from ..convert import StoreText, name_of_copy, refuse_losses
from ..verify import digests_as_read, sample_of, verify_copy
from .division import Division
from .folder import Shard
from .shares import wants_digests
from .writing import own_tensors

__all__ = ["finish"]


def finish(division: Division, store: StoreText) -> Mapping[str, str] | None:
    """Write what is left, verify, and give everything its place.

    Args:
        division: all of whose shards are whole.
        store: puts a digest file in its place.

    Returns:
        Digests by name, where they were asked for; None if another process has done it all.

    Raises:
        TargetError: no permission or no space, or a shard is gone again.
        UsageError: something is at the target's place meanwhile.
        LossError: values are lost, under `strict`.
        VerificationError: it does not read back as it should.
    """
    with division.folder.finishing() as there:
        if not there:
            return None
        written = _collected(division)
        _, kept, plan, options, _ = division.work
        refuse_losses(loss_notes(kept), plan.files[-1].path, strict=options.strict)
        _write_rest(division, written)
        if wants_digests(options):
            rest = (name for name in kept if name not in written.digests)
            written.digests |= digest_all(kept, rest, options.threads)
        _verify(division, written.digests)
        copy = division.folder.files / name_of_copy(plan)
        store(
            options.digest_file,
            lambda: digests_as_read(copy, plan, kept, written.digests, options.threads),
        )
        division.folder.commit(division.staging())
    division.folder.remove_others()
    remove_stale(division.places.parent)
    return {name: written.digests[name] for name in kept if name in written.digests}


def _collected(division: Division) -> Written:
    """Return what is known of all shards together."""
    written = Written()
    for number in division.shards:
        shard = division.done(number)
        if shard is None:
            raise TargetError(
                "was there and is gone", path=division.folder.files / division.places.names[number],
                hint="run the part again that it belongs to",
            )  # fmt: skip
        _take(division, shard, written)
    return written


def _take(division: Division, shard: Shard, written: Written) -> None:
    written.checksums |= shard.checksums
    written.digests |= shard.digests
    for name, losses in shard.losses.items():
        tensor = division.work.kept.tensors.get(name)
        if isinstance(tensor, CastTensor):
            tensor.losses = losses


def _write_rest(division: Division, written: Written) -> None:
    """Write the files without tensors, in their order; the last one makes the set valid."""
    for number, file in enumerate(division.work.plan.files):
        if number not in division.shards:
            with division.folder.writing(number, file.size) as (_, descriptor):
                write_file(file, descriptor, written)


# Verifying


def _verify(division: Division, digests: Mapping[str, str]) -> None:
    """Open the whole and compare names, types, shapes and places.

    The bytes were compared shard by shard. What is left are tensors that only a reader gives back:
    those that were encoded, or lie in the header.
    """
    _, kept, plan, options, _ = division.work
    if not options.verify and not options.verify_sample:
        return
    placed = _placed(division)
    expected = digests
    if not options.verify:
        rest = [name for name in sample_of(kept) if name not in placed]
        expected = digest_all(kept, rest, options.threads)

    def proven(name: str, copy: Tensor) -> bool:
        return name in placed and _place_of(copy) == placed[name]

    verify_copy(
        division.folder.files / name_of_copy(plan), plan.format, kept, expected, options.threads,
        None, plan.read_back, proven,
    )  # fmt: skip


def _placed(division: Division) -> dict[str, tuple[str, int, int]]:
    """Return name of file, offset and length of the tensors that are stored as they are."""
    files = [division.work.plan.files[number] for number in division.shards]
    return {
        name: (file.path.name, offset, tensor.nbytes)
        for file, own in ((file, own_tensors(division, file)) for file in files)
        for name, tensor, offset in file.placements
        if name in own
    }


def _place_of(copy: Tensor) -> tuple[str, int, int] | None:
    """Return the same of a tensor that was opened, if it lies in one piece."""
    extents = copy.extents
    if not extents or len(extents) > 1:
        return None
    return extents[0].source.path.name, extents[0].offset, extents[0].length
