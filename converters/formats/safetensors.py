r"""safetensors: a JSON header of names, types, shapes and places, then the bytes.

    n       uint64, little endian: length of the header, at most 100,000,000
    header  JSON object, padded with blanks so that the data starts at a multiple of 8
            {"<name>": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …,
             "__metadata__": {"<text>": "<text>", …}}
    data    the tensors, without gap or overlap; offsets count from here

Specified by the README of huggingface/safetensors (v0.8.0) and `validate` in its `tensor.rs`. We
order tensors as its library does (wider types first, then by name), which keeps every tensor
aligned and gives the same bytes as `safetensors.numpy.save_file`. Several files with an index are
one model: `containers/safetensors_index.py`.

Not read: the packed 4- and 6-bit types F4, F6_E2M3 and F6_E3M2.

Strings, variants, types without a code and tied weights, which the format can store only once,
are kept in `__metadata__["tensorferry"]` (`converters/record.py`); files that need none have no
metadata but that of their source, since several loaders refuse metadata without a `format`, and
what that should say we do not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..containers.safetensors_header import (
    CODES,
    MAX_HEADER_BYTES,
    METADATA,
    Row,
    build_header,
    carrier_of,
    data_bytes,
    read_header,
    row,
)
from ..containers.safetensors_index import (
    WHOLE,
    build_index,
    cut,
    find,
    holds_model,
    index_beside,
    is_index,
    leftovers,
    others_beside,
    read_index,
    set_names,
    shard_groups,
    stray_shards,
)
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, TargetError, UsageError
from ..names import assign, escape
from ..notes import Kind, Note
from ..output import Placement, Plan, PlannedFile
from ..record import Record
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import FileSource
from ..tensors import Origin, Tensor, TensorDict
from ..ties import other_names, ties

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["CODES", "FORMAT", "MAX_HEADER_BYTES"]

RECORD = "tensorferry"
LFS_MAGIC = b"version https://git-lfs"
SHOWN = 5  # names in a note


# Reading


def _sniff(location: Location) -> bool:
    return holds_model(location)


def _open(location: Location, options: ReadOptions) -> TensorDict:
    place = find(location)
    model = _Model(readable=options.names == "readable")
    try:
        if not is_index(place):
            return _open_file(place.path, model, folder=place is not location)
        return _open_set(place.path, model, folder=place is not location)
    except BaseException:
        model.close()
        raise


def _open_file(path: Path, model: _Model, *, folder: bool) -> TensorDict:
    model.add(path)
    if folder:
        model.notes += _unread(path, ())
    index = index_beside(path)
    if index:
        text = f"one of the shards of `{index}`: the other tensors are not in it"
        model.notes.append(Note(Kind.SOURCE, text))
    return model.done(f"{FORMAT.title} file")


def _open_set(path: Path, model: _Model, *, folder: bool) -> TensorDict:
    index = read_index(path)
    homes = {tensor: name for name, tensors in index.files.items() for tensor in tensors}
    listed = len(homes)
    for name, tensors in index.files.items():
        missing = _missing(path.with_name(name), len(tensors))
        if missing:
            model.broken[name] = missing
        else:
            model.add(path.with_name(name), tensors, homes)
    model.add_texts(index.texts)
    if len(homes) > listed:
        text = f"{_counted(len(homes) - listed)} in the shards and not in the index"
        model.notes.append(Note(Kind.SOURCE, text))
    if folder:
        model.notes += _unread(path, index.files)
    count, gone = len(index.files), len(model.broken)
    shards = f"{count} shard{'s' if count > 1 else ''}{f', {gone} of them missing' if gone else ''}"
    details = {"shards": count, "index": dict(index.values)}
    return model.done(f"{FORMAT.title} `{path.name}`, {shards}", details)


def _unread(path: Path, own: Iterable[str]) -> Iterator[Note]:
    """Say which files of the folder that was pointed at are no part of the model."""
    others = others_beside(path, own)
    if others:
        yield Note(Kind.SOURCE, f"beside `{path.name}` and not read: {_shown(others)}")


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:SHOWN]) + more


def _missing(shard: Path, count: int) -> ConvertError | None:
    """Return why a shard's data is not there, or None."""
    if not shard.is_file():
        what, hint = "shard is missing", "copy the shard here"
    elif Location(shard).head.startswith(LFS_MAGIC):
        what, hint = "shard is a Git LFS pointer", "fetch the shard itself: git lfs pull"
    else:
        return None
    return CorruptFileError(
        f"{what}, with {_counted(count)} in it",
        path=shard,
        hint=f"{hint}; --allow-missing reads the other tensors",
    )


def _counted(count: int) -> str:
    return f"{count} tensor{'s' if count > 1 else ''}"


def _check_shard(
    shard: Path, stored: Iterable[str], wanted: Iterable[str], homes: dict[str, str]
) -> None:
    """Check that a shard has the tensors it should; take those in that the index does not name.

    Loaders read all tensors of all shards, so one that is in two has no certain values.
    """
    absent = set(wanted).difference(stored)
    if absent:
        raise CorruptFileError(
            "is not in the shard that the index names",
            path=shard, where=f"tensor `{min(absent)}`", hint="copy index and shards anew",
        )  # fmt: skip
    for name in stored:
        if homes.setdefault(name, shard.name) != shard.name:
            raise CorruptFileError(
                "is in two shards",
                path=shard,
                where=f"tensor `{name}`",
                expected=f"only in `{homes[name]}`",
                hint="copy index and shards anew",
            )


class _Model:
    """The tensors of one file or several, in the making."""

    def __init__(self, *, readable: bool) -> None:
        self._readable = readable
        self._tensors: dict[str, Tensor] = {}
        self._origins: dict[str, Origin] = {}
        self._aliases: dict[str, str] = {}
        self._metadata: dict[str, str] = {}
        self._sources: list[FileSource] = []
        self.notes: list[Note] = []
        self.broken: dict[str, ConvertError] = {}

    def close(self) -> None:
        for source in self._sources:
            source.close()

    def add(
        self, path: Path, wanted: Iterable[str] = (), homes: dict[str, str] | None = None
    ) -> None:
        """Take in what a file holds.

        Args:
            path: the file.
            wanted: stored names that should be in it.
            homes: name of the file by stored name, where there are several.
        """
        source = FileSource(path)
        self._sources.append(source)
        stored, metadata = read_header(source)
        if homes is not None:
            _check_shard(path, stored, wanted, homes)
        text = metadata.pop(RECORD, None)
        try:
            self._apply(Record() if text is None else Record.parse(text), stored)
        except CorruptFileError as error:
            error.path = str(path)
            raise error.within("header") from None
        self.add_texts(metadata)

    def _apply(self, record: Record, stored: Mapping[str, Tensor]) -> None:
        tensors, origins = record.apply(stored, readable=self._readable)
        self._aliases |= record.other_names(origins)
        repeated = self._tensors.keys() & tensors.keys()
        if repeated:
            raise CorruptFileError(
                "another shard has a tensor of this name", where=f"tensor `{min(repeated)}`"
            )
        self._tensors |= tensors
        self._origins |= origins

    def add_texts(self, texts: Mapping[str, str]) -> None:
        """Take in texts about the model, which should be the same in all files."""
        for key, text in texts.items():
            if self._metadata.setdefault(key, text) != text:
                what = f"the files disagree on the text `{key}`: one is kept"
                self.notes.append(Note(Kind.METADATA_LOST, what))

    def done(
        self, summary: str, details: Mapping[str, object] = MappingProxyType({})
    ) -> TensorDict:
        return TensorDict(
            format=FORMAT.name,
            summary=summary,
            tensors=self._tensors,
            origins=self._origins,
            notes=tuple(dict.fromkeys(self.notes)),
            broken=self.broken,
            metadata=self._metadata,
            aliases=self._aliases,
            details=details,
            sources=tuple(self._sources),
        )


# Writing


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    path = target / WHOLE if options.folder else target
    others = other_names(tensors)
    stored = tensors.tensors
    if options.untie:
        stored = {**stored, **{alias: stored[name] for alias, name in others.items()}}
    names = assign(stored, _stored_name, path)
    tied = {} if options.untie else ties(stored)
    rows, record, notes = _rows(stored, names, tied, path)
    if others and not options.untie:
        record.aliases = {alias: names[name] for alias, name in others.items()}
    notes += _notes(tensors, others, options)
    shards = [rows]
    if options.max_shard_bytes is not None:
        shards = cut(((row, row.nbytes) for row in rows), options.max_shard_bytes)
        notes += _oversized(rows, options.max_shard_bytes)
    metadata = {key: text for key, text in tensors.metadata.items() if key != RECORD}
    files = _files(path, shards, metadata, record)
    removed = leftovers(path, [file.path for file in files])
    if removed:
        notes.append(_removal(removed, options))
    return Plan(
        FORMAT.name,
        tuple(files),
        {name: names[name] for name in tensors if names[name] != name},
        tuple(note for note in notes if note.tensor is None or note.tensor in tensors),
        folder=target if options.folder else None,
        removed=tuple(removed),
    )


def _rows(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], tied: Mapping[str, str], path: Path
) -> tuple[list[Row], Record, list[Note]]:
    """Return the tensors that have bytes in the file, and what is to be said of all of them."""
    rows: list[Row] = []
    record, notes = Record(), []
    for (name, tensor), stored in zip(tensors.items(), names.values(), strict=True):
        dtype = tensor.spec.dtype
        if stored != name:
            record.names[stored] = name
            notes.append(Note(Kind.RENAMED, f"stored as `{stored}`", name))
        if name in tied:
            record.tied[stored] = names[tied[name]]
            text = f"tied to `{tied[name]}`: the bytes are stored once (--untie stores both)"
            notes.append(Note(Kind.ENCODED, text, name))
            continue
        if dtype.variable:
            record.elements[stored] = tensor
            notes.append(Note(Kind.ENCODED, f"{dtype}s kept as text in the metadata", name))
            continue
        carrier = _carrier(name, dtype, path)
        if carrier is not dtype:
            record.dtypes[stored] = dtype
            notes.append(Note(Kind.ENCODED, f"kept as {carrier} with a record", name))
        rows.append(row(carrier, stored, name, tensor))
    return rows, record, notes


def _stored_name(name: str) -> str:
    return "%5F_metadata__" if name == METADATA else escape(name)


def _carrier(name: str, dtype: DType, path: Path) -> DType:
    """Return the type under which `dtype` is stored."""
    carrier = carrier_of(dtype)
    if carrier is None:
        raise TargetError(
            f"safetensors has no {dtype}",
            path=path,
            where=f"tensor `{name}`",
            hint=f"cast it with --dtype {name + '=c64'!r}, choose .npz or .h5, "
            f"or leave it out with --exclude {name!r}",
        )
    return carrier


def _notes(tensors: TensorDict, others: Mapping[str, str], options: WriteOptions) -> Iterator[Note]:
    if RECORD in tensors.metadata:  # it would pass for a record of ours
        yield Note(Kind.METADATA_LOST, f"the text `{RECORD}`: our own is kept there")
    if others:
        done = "get a copy each" if options.untie else "are recorded (--untie stores copies)"
        yield Note(Kind.TARGET, f"{len(others)} other names of tensors {done}")


def _oversized(rows: Iterable[Row], limit: int) -> Iterator[Note]:
    for each in rows:
        if each.nbytes > limit:
            text = f"larger than a shard may be, so it has one of its own: {each.nbytes:,} bytes"
            yield Note(Kind.TARGET, text, each.name)


# Files


def _files(
    path: Path, shards: list[list[Row]], metadata: Mapping[str, str], record: Record
) -> list[PlannedFile]:
    """Return the shards and their index, or the one file where there is one shard."""
    if len(shards) == 1:
        return [_file(path, shards[0], metadata, record)]
    homes = {row.stored: number for number, rows in enumerate(shards) for row in rows}
    paths, index = set_names(path, len(shards))
    parts = zip(paths, shards, record.split(homes, len(shards)), strict=True)
    files = [_file(shard, rows, metadata, part) for shard, rows, part in parts]
    weight_map = {stored: paths[number].name for stored, number in homes.items()}
    text = build_index(weight_map, sum(row.nbytes for rows in shards for row in rows))
    return [*files, PlannedFile(index, len(text), ((0, text),))]


def _file(path: Path, rows: list[Row], metadata: Mapping[str, str], record: Record) -> PlannedFile:
    rows.sort()
    texts = {**metadata, RECORD: record.build()} if record else metadata
    header = build_header(rows, texts)
    if len(header) - 8 > MAX_HEADER_BYTES:
        raise TargetError(
            "header too long",
            path=path,
            expected=f"at most {MAX_HEADER_BYTES} bytes",
            got=f"{len(header) - 8} bytes",
            hint="leave some tensors out with --exclude, or split with --max-shard-size",
        )
    placements, at = [], len(header)
    for each in rows:
        placements.append(Placement(each.name, each.tensor, at))
        at += each.nbytes
    return PlannedFile(path, at, ((0, header),), tuple(placements))


def _removal(removed: Sequence[Path], options: WriteOptions) -> Note:
    """Say which files of an older set go; refuse where they may not be replaced."""
    if not options.overwrite:
        raise UsageError(
            "belongs to an older model of this name, which loaders might take for the new one",
            path=removed[0],
            hint="replace the older one with --overwrite, or choose another name",
        )
    shown = _shown([each.name for each in removed])
    return Note(Kind.TARGET, f"the older model of this name is removed: {shown}")


# Checking


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..findings import Finding, Level

    del options
    place = find(location)
    if not is_index(place):
        return  # header and data were compared when it was opened
    index = read_index(place.path)
    for path in stray_shards(place.path, index.files):
        text = "shard that the index does not list; it may be of another save"
        yield Finding("integrity/stray-file", Level.WARNING, text, path=str(path))
    said = index.values.get("total_size")
    held = sum(map(data_bytes, tensors.sources)) if not tensors.broken else said
    if isinstance(said, int) and said != held:
        text = f"`total_size` says {said:,} bytes, and the shards hold {held:,}"
        yield Finding("integrity/size", Level.WARNING, text, path=str(place.path))


FORMAT = Format(
    name="safetensors",
    title="safetensors",
    extensions=(".safetensors",),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    group=shard_groups,
    options=frozenset({"folder", "max_shard_bytes", "untie"}),
    metadata=True,
    limits="packed 4- and 6-bit types; complex128 is not written",
    audit=_audit,
)
