"""Which files of a plan are written apart, by which part, and what all parts have to agree on.

A shard is a file of the target with tensors in it. All else (an index, a state file, assets) is
written by whoever finishes. Everything here follows from the index of the source and from the
flags, so that every worker comes to the same without asking any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from heapq import heapreplace
from typing import Any, NamedTuple

from blake3 import blake3

from ...converters.errors import UsageError
from ...converters.output import Plan, PlannedFile
from ...converters.registry import format_named
from ...converters.sources import FileSource, Source
from ...converters.tensors import TensorDict
from ..options import ConvertOptions

__all__ = ["Run", "homes_of", "run_of", "shards_of", "source_mark", "sources_of", "wants_digests"]

# Of a fingerprint: enough for what is compared, and for the name of a folder.
DIGEST_BYTES = 8


class Run(NamedTuple):
    """What all who write parts of one target have to agree on; digests in hexadecimal.

    Attributes:
        source: of the source's files: names, sizes and times, or the store's tags.
        layout: of the shards, to the byte, and where their tensors come from.
        flags: of all that changes what is written or recorded, and of the version of this package.
    """

    source: str
    layout: str
    flags: str

    @property
    def key(self) -> str:
        """One digest of all three, which names the folder of the parts."""
        return _digest("".join(self))


def shards_of(plan: Plan, options: ConvertOptions) -> tuple[int, ...]:
    """Return the numbers of the files of a plan that can be written apart.

    Raises:
        UsageError: all tensors are in one file, and nobody asked for more.
    """
    shards = tuple(number for number, file in enumerate(plan.files) if file.placements)
    if len(shards) > 1 or (shards and options.write.max_shard_bytes is not None):
        return shards
    writer = format_named(plan.format)
    hint = "write a format that has shards: safetensors, a TensorFlow checkpoint, .weights.json"
    if "max_shard_bytes" in writer.options:
        hint = "split it into shards with --max-shard-size, such as --max-shard-size 5GB"
    raise UsageError(
        "is one file, which one worker writes", path=plan.files[-1].path, hint=hint
    )  # fmt: skip


def homes_of(plan: Plan, shards: Iterable[int], parts: int) -> dict[int, int]:
    """Return by shard which part it is of, from 1; all parts have about as many bytes."""
    lightest = [(0, part) for part in range(1, parts + 1)]
    homes: dict[int, int] = {}
    for number in sorted(shards, key=lambda each: (-plan.files[each].size, each)):
        load, homes[number] = lightest[0]
        heapreplace(lightest, (load + plan.files[number].size, homes[number]))
    return homes


def wants_digests(options: ConvertOptions) -> bool:
    """Tell whether the digest of every tensor is asked for."""
    return bool(options.digests or options.verify or options.report or options.digest_file)


def sources_of(opened: TensorDict, plan: Plan, shards: Iterable[int]) -> tuple[Source, ...]:
    """Return what is read for the shards of a plan, each once."""
    tensors = (tensor for number in shards for _, tensor, _ in plan.files[number].placements)
    own = (each.source for tensor in tensors for each in tensor.extents or ())
    return tuple(dict.fromkeys((*opened.sources, *own)))


def run_of(
    sources: Iterable[Source],
    opened: TensorDict,
    plan: Plan,
    shards: Iterable[int],
    options: ConvertOptions,
) -> Run:
    """Return what a run is known by.

    Args:
        sources: what is read.
        opened: the tensors that were found there.
        plan: what is going to be written.
        shards: numbers of the files that are written apart.
        options: how.
    """
    from importlib.metadata import version

    from ..batch.ledger import recipe_of

    rows = (row for number in shards for row in _rows(plan.files[number]))
    proofs = (options.verify, options.verify_sample, wants_digests(options))
    return Run(
        source=source_mark(sources, opened),
        layout=_digest(plan.format, *(json.dumps(row) for row in rows)),
        flags=_digest(recipe_of(options), str(proofs), version("tensorferry")),
    )


def source_mark(sources: Iterable[Source], opened: TensorDict) -> str:
    """Return a digest of name, size and time, or the store's tag, of all that is read.

    Args:
        sources: what is read; each file is looked at anew.
        opened: the tensors that were found there.
    """
    marks = {mark for source in sources for mark in _mark(source, opened)}
    return _digest(json.dumps(sorted(marks)))


def _digest(*texts: str) -> str:
    state = blake3()
    for text in texts:
        state.update(text.encode("ascii") + b"\n")
    return state.hexdigest(length=DIGEST_BYTES)


def _rows(file: PlannedFile) -> Iterator[list[Any]]:
    """Yield what makes a file what it is, as JSON values."""
    literals = [[offset, blake3(data).hexdigest()] for offset, data in file.literals]
    yield [file.path.name, file.size, literals]
    for name, tensor, offset in file.placements:
        extents = [
            [each.offset, each.length, each.checksum and each.checksum.value]
            for each in tensor.extents or ()
        ]
        yield [name, tensor.spec.dtype.label, tensor.spec.shape, offset, extents]


def _mark(source: Source, opened: TensorDict) -> Iterator[tuple[str, int, str]]:
    name = source.path.name
    try:
        state = source.path.stat()
    except (OSError, ValueError):  # it lies in an archive, or in a store
        if isinstance(source, FileSource):
            yield name, source.size, "" if source.on_disk else _tag(source, opened)
        return
    yield name, state.st_size, str(state.st_mtime_ns)


def _tag(source: FileSource, opened: TensorDict) -> str:
    """Return what a store says of an object that changes when it does."""
    from ...converters.remote import Mirror

    for mirror in opened.sources:
        if isinstance(mirror, Mirror):
            with suppress(ValueError, KeyError):  # that of an update
                return mirror.stored[mirror.key_of(source.place)].tag or ""
    return ""
