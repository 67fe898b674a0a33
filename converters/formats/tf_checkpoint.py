r"""TensorFlow checkpoint V2: a tensor bundle under a prefix, name-based or object-based.

    model.ckpt-7.index                  names, dtypes, shapes, places, checksums
    model.ckpt-7.data-00000-of-00001    the bytes
    checkpoint                          text: which prefix is the latest
    model.ckpt-7.meta                   the graph; not needed for values, read for roles

Layout: `containers/tensor_bundle.py`. Specified by tensorflow/core/util/tensor_bundle and
tensorflow/core/protobuf/tensor_bundle.proto (v2.21.0).

Written are name-based files, as tf.compat.v1.train.Saver writes them; tf.train.load_checkpoint,
Saver.restore and tf.train.Checkpoint.restore accept them. The object graph of an object-based
source gives names and roles and is not written.

Producers and their quirks: builds with snappy compress the index; parameter servers and
MaxShardSizePolicy slice variables; s390x writes big endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..checksums import Algorithm
from ..containers.bundle_messages import TYPE_NUMBERS, build_entry, build_header
from ..containers.bundle_strings import encode_strings, encode_variants
from ..containers.checkpoint_files import build_state, find, looks_like_checkpoint
from ..containers.sstable import build_table, mask
from ..containers.tensor_bundle import (
    Bundle,
    bundle_prefix,
    index_path,
    is_bundle_index,
    shard_path,
)
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, TargetError
from ..graphs.object_graph import GRAPH_KEY, ObjectGraph, describe
from ..graphs.variable_roles import describe_names, find_meta
from ..names import encode
from ..notes import Kind, Note
from ..output import Placement, Plan, PlannedFile
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..tensors import Origin, Tensor, TensorDict, translated, with_texts

__all__ = ["FORMAT"]


OBJECT_BASED = "object-based"


# Reading


def _sniff(location: Location) -> bool:
    if looks_like_checkpoint(location.path):
        return True
    return location.is_file and is_bundle_index(location.path)


def _open(location: Location, options: ReadOptions) -> TensorDict:
    found = find(location.path, step=options.step, latest=options.latest)
    bundle = Bundle.open(found.prefix, verify=options.verify)
    origins, graph_notes = _origins(bundle, found.prefix, readable=options.names == "readable")
    tensors = bundle.tensors
    if GRAPH_KEY in tensors:
        tensors = {name: bundle.tensors[origin.key] for name, origin in origins.items()}
    origins = with_texts(origins, tensors)
    shards = bundle.header.shards
    kind = OBJECT_BASED if GRAPH_KEY in bundle.tensors else "name-based"
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} `{found.prefix.name}`, {kind}, "
        f"{shards} shard{'s' if shards > 1 else ''}",
        tensors=tensors,
        origins=origins,
        notes=(*found.notes, *found.choice(), *bundle.notes, *graph_notes, *_variants(tensors)),
        broken=_broken(bundle, origins),
        details={
            "kind": kind,
            "prefix": str(found.prefix),
            "shards": shards,
            "byte_order": "big" if bundle.header.big_endian else "little",
            "other_checkpoints": [str(other) for other in found.others],
        },
        sources=bundle.sources,
    )


def _origins(
    bundle: Bundle, prefix: Path, *, readable: bool
) -> tuple[Mapping[str, Origin], list[Note]]:
    """Return by name where each tensor comes from, and what it is for."""
    if GRAPH_KEY not in bundle.tensors:
        shapes = {key: tensor.spec.shape for key, tensor in bundle.tensors.items()}
        return describe_names(shapes, find_meta(prefix), shapes=shapes)
    keys = [key for key in bundle.tensors if key != GRAPH_KEY]
    try:
        data = b"".join(bundle.tensors[GRAPH_KEY].elements())
        return describe(ObjectGraph.parse(data), keys, readable=readable), []
    except CorruptFileError as error:
        text = f"the object graph cannot be read, so names are keys: {error.message}"
        return {key: Origin(key) for key in keys}, [Note(Kind.SOURCE, text)]


def _broken(bundle: Bundle, origins: Mapping[str, Origin]) -> dict[str, ConvertError]:
    if not bundle.broken or not origins:
        return bundle.broken
    return {
        name: bundle.broken[origin.key]
        for name, origin in origins.items()
        if origin.key in bundle.broken
    }


def _variants(tensors: Mapping[str, Tensor]) -> Iterator[Note]:
    for name, tensor in tensors.items():
        if tensor.spec.dtype is DType.VARIANT:
            yield Note(Kind.SOURCE, "a variant: its bytes are kept and not interpreted", name)


# Writing

# One stored byte for each possible value of a signed type that takes the low bits only.
_LOW_BITS = {
    DType.INT4: bytes(byte & 0x0F for byte in range(256)),
    DType.INT2: bytes(byte & 0x03 for byte in range(256)),
}


@dataclass(frozen=True)
class _Row:
    """A tensor's line in the index; `crc` is masked, or None until its bytes were seen."""

    name: str
    tensor: Tensor
    shard: int
    offset: int
    nbytes: int
    crc: int | None = None


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    prefix = bundle_prefix(target) or target
    limit = options.max_shard_bytes or 1 << 63
    rows: list[_Row] = []
    literals: dict[str, bytes] = {}
    shard = offset = 0
    for name in sorted(tensors, key=lambda name: _key(name, target)):
        tensor, crc = _stored(name, tensors[name], target), None
        if tensor.spec.dtype.variable:
            literals[name], crc = _encode(tensor)
        nbytes = len(literals[name]) if name in literals else tensor.nbytes
        if offset and offset + nbytes > limit:
            shard, offset = shard + 1, 0
        rows.append(_Row(name, tensor, shard, offset, nbytes, crc))
        offset += nbytes
    count = shard + 1
    files = [_data_file(prefix, rows, literals, each, count) for each in range(count)]
    state, notes = _state_file(prefix, options)
    if tensors.format == FORMAT.name and tensors.details.get("kind") == OBJECT_BASED:
        text = "the object graph is not written; the target is name-based"
        notes = (*notes, Note(Kind.METADATA_LOST, text))
    index = PlannedFile(
        index_path(prefix),
        len(_index(rows, count, {})),
        finish=lambda checksums: [(0, _index(rows, count, checksums))],
    )
    return Plan(FORMAT.name, (*files, *state, index), notes=notes)


def _key(name: str, target: Path) -> bytes:
    """Return the key of a name; the empty one is the header's, the graph's makes another kind."""
    if name in ("", GRAPH_KEY):
        raise TargetError(
            "a TensorFlow checkpoint keeps this name for itself",
            path=target,
            where=f"tensor `{name}`",
            hint=f"leave it out with --exclude {name!r}",
        )
    return encode(name)


def _stored(name: str, tensor: Tensor, target: Path) -> Tensor:
    dtype = tensor.spec.dtype
    if dtype not in TYPE_NUMBERS:
        raise TargetError(
            f"a TensorFlow checkpoint has no {dtype}",
            path=target,
            where=f"tensor `{name}`",
            hint=f"leave it out with --exclude {name!r}",
        )
    if dtype not in _LOW_BITS:
        return tensor
    return translated(tensor, _LOW_BITS[dtype])


def _encode(tensor: Tensor) -> tuple[bytes, int]:
    encode_elements = encode_variants if tensor.spec.dtype is DType.VARIANT else encode_strings
    return encode_elements(tensor.elements())


def _data_file(
    prefix: Path, rows: list[_Row], literals: Mapping[str, bytes], shard: int, count: int
) -> PlannedFile:
    own = [row for row in rows if row.shard == shard]
    return PlannedFile(
        shard_path(prefix, shard, count),
        size=own[-1].offset + own[-1].nbytes if own else 0,
        literals=tuple((row.offset, literals[row.name]) for row in own if row.name in literals),
        placements=tuple(
            Placement(row.name, row.tensor, row.offset) for row in own if row.name not in literals
        ),
        algorithm=Algorithm.CRC32C,
    )


def _index(rows: Iterable[_Row], shards: int, checksums: Mapping[str, int]) -> bytes:
    entries = [(b"", build_header(shards))]
    for row in rows:
        crc = mask(checksums.get(row.name, 0)) if row.crc is None else row.crc
        spec = row.tensor.spec
        entry = build_entry(spec.dtype, spec.shape, row.shard, row.offset, row.nbytes, crc)
        entries.append((encode(row.name), entry))
    return build_table(entries)


def _state_file(
    prefix: Path, options: WriteOptions
) -> tuple[tuple[PlannedFile, ...], tuple[Note, ...]]:
    """Plan the file `checkpoint`; one that is there belongs to other checkpoints and stays."""
    path = prefix.with_name("checkpoint")
    if path.exists() and not options.overwrite:
        text = "the folder's `checkpoint` file was there already and is left as it is"
        return (), (Note(Kind.TARGET, text),)
    state = build_state(prefix.name)
    return (PlannedFile(path, len(state), literals=((0, state),)),), ()


FORMAT = Format(
    name="tf-checkpoint",
    title="TensorFlow checkpoint V2",
    extensions=(".ckpt", ".index"),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    options=frozenset({"max_shard_bytes"}),
    limits="object-based files are read and not written",
)
