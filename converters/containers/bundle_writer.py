"""Plans a tensor bundle: which bytes go into which shard, and the index that tells it.

Rows are laid out in the order of their keys. Rows of one tensor share its bytes, as TensorFlow's
readers allow: nothing says that two entries may not name the same range. Layout and messages:
`tensor_bundle.py`, `bundle_messages.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from ..checksums import Algorithm
from ..dtypes import DType
from ..errors import TargetError
from ..names import encode
from ..output import Placement, PlannedFile
from ..tensors import Tensor, translated
from .bundle_messages import TYPE_NUMBERS, build_entry, build_header
from .bundle_strings import encode_strings, encode_variants
from .sstable import build_table, mask
from .tensor_bundle import index_path, shard_path

__all__ = ["BundlePlan", "Row", "plan_bundle"]

UNBOUNDED = 1 << 63

# One stored byte for each possible value of a signed type that takes the low bits only.
_LOW_BITS = {
    DType.INT4: bytes(byte & 0x0F for byte in range(256)),
    DType.INT2: bytes(byte & 0x03 for byte in range(256)),
}


class Row(NamedTuple):
    """A tensor that is to be in the bundle.

    Attributes:
        key: what the bundle calls it.
        name: of the tensor where it comes from; rows of one name are stored once.
        tensor: what gives the bytes.
    """

    key: str
    name: str
    tensor: Tensor


@dataclass(frozen=True)
class BundlePlan:
    """The files of a bundle; the index makes it valid and belongs last."""

    shards: tuple[PlannedFile, ...]
    index: PlannedFile


class _Place(NamedTuple):
    """Where a tensor's bytes go; `crc` is masked, or None until they were seen."""

    name: str
    tensor: Tensor
    shard: int
    offset: int
    nbytes: int
    crc: int | None = None


def plan_bundle(
    prefix: Path, rows: Iterable[Row], target: Path, max_shard_bytes: int | None = None
) -> BundlePlan:
    """Plan index and data shards below a prefix; string tensors are read for it.

    Args:
        prefix: of the bundle.
        rows: its tensors, each key once.
        target: what messages call it.
        max_shard_bytes: a shard is longer only if a single tensor is.

    Raises:
        TargetError: a bundle has no number for a dtype.
    """
    rows = sorted(rows, key=lambda row: encode(row.key))
    places, literals = _places(rows, target, max_shard_bytes or UNBOUNDED)
    count = 1 + max((place.shard for place in places.values()), default=0)
    files = _shards(prefix, places.values(), literals, count)
    keys = [(encode(row.key), places[row.name]) for row in rows]
    index = PlannedFile(
        index_path(prefix),
        len(_index(keys, count, {})),
        finish=lambda checksums: [(0, _index(keys, count, checksums))],
    )
    return BundlePlan(tuple(files), index)


def _places(
    rows: list[Row], target: Path, limit: int
) -> tuple[dict[str, _Place], dict[str, bytes]]:
    """Return the place of each tensor by its name, and the bytes that are known already."""
    places: dict[str, _Place] = {}
    literals: dict[str, bytes] = {}
    shard = offset = 0
    for row in rows:
        if row.name in places:
            continue
        tensor, crc = _stored(row, target), None
        if tensor.spec.dtype.variable:
            literals[row.name], crc = _encode(tensor)
        nbytes = len(literals[row.name]) if row.name in literals else tensor.nbytes
        if offset and offset + nbytes > limit:
            shard, offset = shard + 1, 0
        places[row.name] = _Place(row.name, tensor, shard, offset, nbytes, crc)
        offset += nbytes
    return places, literals


def _stored(row: Row, target: Path) -> Tensor:
    dtype = row.tensor.spec.dtype
    if dtype not in TYPE_NUMBERS:
        raise TargetError(
            f"a TensorFlow checkpoint has no {dtype}",
            path=target,
            where=f"tensor `{row.name}`",
            hint=f"cast it with --dtype {row.name + '=f32'!r}, "
            f"or leave it out with --exclude {row.name!r}",
        )
    return translated(row.tensor, _LOW_BITS[dtype]) if dtype in _LOW_BITS else row.tensor


def _encode(tensor: Tensor) -> tuple[bytes, int]:
    encode_elements = encode_variants if tensor.spec.dtype is DType.VARIANT else encode_strings
    return encode_elements(tensor.elements())


def _shards(
    prefix: Path, places: Iterable[_Place], literals: Mapping[str, bytes], count: int
) -> list[PlannedFile]:
    files = []
    held = {shard: list(own) for shard, own in groupby(places, lambda place: place.shard)}
    for shard in range(count):
        own = held.get(shard, [])  # nothing at all still makes one empty shard
        stored = [place for place in own if place.name in literals]
        copied = [place for place in own if place.name not in literals]
        planned = PlannedFile(
            shard_path(prefix, shard, count),
            size=own[-1].offset + own[-1].nbytes if own else 0,
            literals=tuple((place.offset, literals[place.name]) for place in stored),
            placements=tuple(Placement(each.name, each.tensor, each.offset) for each in copied),
            algorithm=Algorithm.CRC32C,
        )
        files.append(planned)
    return files


def _index(
    keys: Iterable[tuple[bytes, _Place]], shards: int, checksums: Mapping[str, int]
) -> bytes:
    entries = [(b"", build_header(shards))]
    for key, place in keys:
        crc = mask(checksums.get(place.name, 0)) if place.crc is None else place.crc
        spec = place.tensor.spec
        entry = build_entry(spec.dtype, spec.shape, place.shard, place.offset, place.nbytes, crc)
        entries.append((key, entry))
    return build_table(entries)
