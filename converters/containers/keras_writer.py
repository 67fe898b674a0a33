"""Keras models, planned: weights alone, in shards, in an archive with the config, or in a folder.

    model.keras            zip, stored: metadata.json, config.json, model.weights.h5, assets/…
    m.weights.json         index; m_00000.weights.h5, … beside it
    folder                 the members of an archive, each a file

Specified by keras/src/saving/saving_lib.py (v3.15.0: _save_model_to_fileobj, H5IOStore,
ShardedH5IOStore). Zip dates are the first that zip has, so the same model gives the same bytes. The
zip's CRC-32 of the weights is joined from those of the tensors and of what lies between them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..checksums import Algorithm
from ..notes import Kind, Note
from ..output import Literal, Placement, PlannedFile
from ..sources import Extent, Source
from .h5_writer import Laid, NewDataset, NewGroup, lay_out
from .keras_attachments import CONFIG, METADATA
from .zip_builder import NewMember, build_directory, build_local_header

__all__ = [
    "Beside", "Weights", "leftovers", "plan_archive", "plan_file", "plan_folder", "plan_shards",
]  # fmt: skip

WEIGHTS, WEIGHTS_INDEX = "model.weights.h5", "model.weights.json"
READ_BYTES = 1 << 20
# Files of an older model that would be taken for the weights or the vocabulary of the new one.
_PARTS = re.compile(r"model\.weights\.(h5|json|npz)|model_\d{5,}\.weights\.h5|assets/.*", re.DOTALL)


class Weights(NamedTuple):
    """What a weights file holds.

    Attributes:
        datasets: in the order of the model.
        labels: groups called `vars`, each with the name of its object, if that is known.
    """

    datasets: Sequence[NewDataset]
    labels: Mapping[str, str | None]

    def by_group(self) -> dict[str, list[NewDataset]]:
        """Return the datasets of each group, also of those without any."""
        groups: dict[str, list[NewDataset]] = {group: [] for group in self.labels}
        for dataset in self.datasets:
            groups.setdefault(dataset.path.rpartition("/")[0], []).append(dataset)
        return groups


class Beside(NamedTuple):
    """What lies beside the weights.

    Attributes:
        config: `config.json`, byte for byte.
        metadata: `metadata.json`, byte for byte.
        assets: by their paths.
    """

    config: bytes
    metadata: bytes
    assets: Mapping[str, Source]


def plan_file(weights: Weights, target: Path) -> PlannedFile:
    """Plan a weights file."""
    laid = _lay_out(weights.datasets, weights.by_group(), weights, target)
    return PlannedFile(target, laid.size, laid.literals, laid.placements)


def _lay_out(
    datasets: Sequence[NewDataset], groups: Iterable[str], weights: Weights, target: Path
) -> Laid:
    labels = {group: weights.labels.get(group) for group in groups}
    made = [
        NewGroup(group, {"name": label} if label else {})
        for group, label in labels.items()
        if group
    ]
    return lay_out(datasets, made, target)


# Archives


class _Item(NamedTuple):
    """A member of an archive and its bytes: a text, a file, or (neither) the weights."""

    member: NewMember
    text: bytes | None = None
    source: Source | None = None

    @property
    def data(self) -> int:
        """Byte offset of the data."""
        return self.member.start + len(build_local_header(self.member))


def plan_archive(weights: Weights, beside: Beside, target: Path) -> PlannedFile:
    """Plan a `.keras` archive."""
    laid = _lay_out(weights.datasets, weights.by_group(), weights, target)
    items: list[_Item] = []
    at = 0
    for name, content in _contents(beside):
        item = _item(name, content, laid.size, at)
        items.append(item)
        at = item.data + item.member.size
    literals: list[Literal] = []
    for item in items:
        if item.text is not None or item.source is not None:
            literals.append((item.member.start, build_local_header(item.member)))
            literals.append((item.data, item.text or b""))
        else:
            literals += [(item.data + offset, data) for offset, data in laid.literals]
    base = next(item.data for item in items if item.text is None and item.source is None)
    return PlannedFile(
        target,
        at + len(build_directory((item.member for item in items), at)),
        literals=tuple(literal for literal in literals if literal[1]),
        placements=tuple(each._replace(offset=base + each.offset) for each in laid.placements),
        algorithm=Algorithm.CRC32,
        finish=partial(_finish, items, laid, at),
        copied=tuple(
            (item.data, Extent(item.source, 0, item.source.size))
            for item in items
            if item.source is not None
        ),
    )


def _contents(beside: Beside) -> Iterator[tuple[str, bytes | Source | None]]:
    """Yield the members by name; None stands for the weights."""
    yield METADATA, beside.metadata
    yield CONFIG, beside.config
    yield WEIGHTS, None
    yield from beside.assets.items()


def _item(name: str, content: bytes | Source | None, weights_size: int, start: int) -> _Item:
    if content is None:
        return _Item(NewMember(name, weights_size, start))
    if isinstance(content, bytes):
        return _Item(NewMember(name, len(content), start, Algorithm.CRC32.update(content)), content)
    return _Item(NewMember(name, content.size, start, _crc(content)), source=content)


def _crc(source: Source) -> int:
    value = 0
    for at in range(0, source.size, READ_BYTES):
        value = Algorithm.CRC32.update(source.read(at, min(READ_BYTES, source.size - at)), value)
    return value


def _finish(
    items: list[_Item], laid: Laid, end: int, checksums: Mapping[str, int]
) -> Iterator[Literal]:
    """Yield the header of the weights, whose CRC is known now, and what follows the data."""
    members = []
    for item in items:
        member = item.member
        if item.text is None and item.source is None:
            member = member._replace(crc=_joined_crc(laid, checksums))
            yield member.start, build_local_header(member)
        members.append(member)
    yield end, build_directory(members, end)


def _joined_crc(laid: Laid, checksums: Mapping[str, int]) -> int:
    """Return the CRC-32 of the weights file."""
    pieces: list[Literal | tuple[int, Placement]] = [*laid.literals]
    pieces += [(each.offset, each) for each in laid.placements if each.tensor.nbytes]
    value = 0
    for _, piece in sorted(pieces, key=lambda piece: piece[0]):
        if isinstance(piece, Placement):
            value = Algorithm.CRC32.combine(value, checksums[piece.name], piece.tensor.nbytes)
        else:
            value = Algorithm.CRC32.update(piece, value)
    return value


# Folders and shards


def plan_folder(
    weights: Weights, beside: Beside, max_shard_bytes: int | None, target: Path
) -> tuple[tuple[PlannedFile, ...], tuple[Note, ...]]:
    """Plan an unzipped model; its weights come last."""
    files: list[PlannedFile] = []
    for name, content in _contents(beside):
        path = target / name
        if isinstance(content, bytes):
            files.append(PlannedFile(path, len(content), ((0, content),)))
        elif content is not None:
            extent = Extent(content, 0, content.size)
            files.append(PlannedFile(path, content.size, copied=((0, extent),)))
    if max_shard_bytes is None:
        return (*files, plan_file(weights, target / WEIGHTS)), ()
    shards, notes = plan_shards(weights, max_shard_bytes, target / WEIGHTS_INDEX)
    return (*files, *shards), notes


class _Shard(NamedTuple):
    name: str
    datasets: list[NewDataset]
    groups: list[str]


def plan_shards(
    weights: Weights, max_shard_bytes: int | None, target: Path
) -> tuple[tuple[PlannedFile, ...], tuple[Note, ...]]:
    """Plan shards and their index, which comes last.

    Args:
        weights: what they hold.
        max_shard_bytes: most bytes of the tensors in a shard, unless one alone has more; None for
            a single shard.
        target: path of the index.
    """
    shards = _shards(weights, max_shard_bytes, target)
    files = [_shard_file(shard, weights, target.with_name(shard.name)) for shard in shards]
    index = _index(shards)
    notes = tuple(
        Note(Kind.TARGET, f"longer than --max-shard-size: has a shard of its own ({shard.name})",
             dataset.name)
        for shard in shards
        for dataset in shard.datasets
        if max_shard_bytes is not None and dataset.tensor.nbytes > max_shard_bytes
    )  # fmt: skip
    return (*files, PlannedFile(target, len(index), ((0, index),))), notes


def _shard_file(shard: _Shard, weights: Weights, path: Path) -> PlannedFile:
    laid = _lay_out(shard.datasets, shard.groups, weights, path)
    return PlannedFile(path, laid.size, laid.literals, laid.placements)


def _shards(weights: Weights, max_shard_bytes: int | None, target: Path) -> list[_Shard]:
    stem = _stem(target)
    shards: list[_Shard] = []
    size = 0
    for group, datasets in weights.by_group().items():
        if not shards:
            shards.append(_new_shard(stem, 0))
        if not datasets:
            shards[-1].groups.append(group)
        for dataset in datasets:
            nbytes = dataset.tensor.nbytes
            if size and max_shard_bytes is not None and size + nbytes > max_shard_bytes:
                shards.append(_new_shard(stem, len(shards)))
                size = 0
            size += nbytes
            shards[-1].datasets.append(dataset)
            if group not in shards[-1].groups[-1:]:
                shards[-1].groups.append(group)
    return shards or [_new_shard(stem, 0)]


def _stem(target: Path) -> str:
    # Keras looks for the first shard under this very name.
    return target.stem.replace(".weights", "")


def _new_shard(stem: str, number: int) -> _Shard:
    return _Shard(f"{stem}_{number:05}.weights.h5", [], [])


def _index(shards: Sequence[_Shard]) -> bytes:
    """Return the index; Keras finds the shards of a group by its path from the root."""
    where: dict[str, list[str]] = {}
    for shard in shards:
        for dataset in shard.datasets:
            names = where.setdefault(f"/{dataset.path.rpartition('/')[0]}", [])
            if shard.name not in names:
                names.append(shard.name)
    total = sum(dataset.tensor.nbytes for shard in shards for dataset in shard.datasets)
    content = {
        "metadata": {"total_size": float(total)},
        "weight_map": {
            group: names[0] if len(names) == 1 else names
            for group, names in (where or {"/vars": [shards[0].name]}).items()
        },
    }
    return json.dumps(content, indent=4).encode("ascii")


def leftovers(target: Path, files: Iterable[PlannedFile], *, folder: bool) -> tuple[Path, ...]:
    """Return files of an older model at the target that are not going to be replaced.

    Args:
        target: the index of shards, or the folder.
        files: those to be written.
        folder: whether the target is one.
    """
    planned = {file.path for file in files}
    if folder:
        found = [
            path
            for path in target.rglob("*")
            if path.is_file() and _PARTS.fullmatch(path.relative_to(target).as_posix())
        ]
    elif target.exists():
        shard = re.compile(rf"{re.escape(_stem(target))}_\d{{5,}}\.weights\.h5")
        found = [path for path in target.parent.iterdir() if shard.fullmatch(path.name)]
    else:
        found = []
    return tuple(sorted(path for path in found if path not in planned))
