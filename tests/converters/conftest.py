"""What several formats' tests share: V1 checkpoints and SavedModels made byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cramjam import snappy
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers.bundle_messages import TYPE_NUMBERS, Range, slice_key
from tensorferry.converters.containers.sstable import FOOTER_BYTES, MAGIC, build_table, mask
from tensorferry.converters.containers.wire import message, varint
from tensorferry.converters.dtypes import DType
from tensorferry.converters.formats.tf_checkpoint import FORMAT
from tensorferry.converters.graphs.object_graph_writer import build_graph
from tensorferry.converters.graphs.templates import attach
from tensorferry.converters.graphs.trackables import VALUE, Attribute, Node, ObjectGraph
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.tensors import Origin
from tensorferry.converters.testing.contracts import tensors_of


class V1Tensor(NamedTuple):
    """A tensor of a V1 checkpoint: dtype, full shape, and by slice the bytes of its TensorProto."""

    dtype: DType
    shape: tuple[int, ...]
    slices: Mapping[tuple[Range, ...], bytes]

    @classmethod
    def floats(cls, array: np.ndarray, *cuts: tuple[Range, ...]) -> V1Tensor:
        """Return a float32 tensor, whole or cut; each slice has first elements and lengths."""
        ranges = cuts or (((0, None),) * array.ndim,)
        parts = {each: message((5, _part(array, each).tobytes())) for each in ranges}
        return cls(DType.FLOAT32, array.shape, parts)


def _part(array: np.ndarray, ranges: tuple[Range, ...]) -> np.ndarray:
    found = array.astype(np.float32)
    for axis, (start, length) in enumerate(ranges):
        stop = array.shape[axis] if length is None else start + length
        found = np.take(found, range(start, stop), axis)
    return np.ascontiguousarray(found)


def _slice(ranges: tuple[Range, ...]) -> bytes:
    dims = (message((1, start or None), (2, length)) for start, length in ranges)
    return b"".join(message((1, dim)) for dim in dims)


def _listed(name: bytes, tensor: V1Tensor) -> bytes:
    dims = b"".join(message((2, message((1, dim or None)))) for dim in tensor.shape)
    slices = b"".join(message((4, _slice(ranges))) for ranges in tensor.slices)
    return message((1, name), (2, dims), (3, TYPE_NUMBERS[tensor.dtype])) + slices


def v1_entries(tensors: Mapping[str, V1Tensor], version: bytes = b"") -> dict[bytes, bytes]:
    """Return keys and values of a V1 checkpoint."""
    named = {name.encode(): tensor for name, tensor in tensors.items()}
    listing = b"".join(message((1, _listed(*each))) for each in named.items())
    entries = {b"": message((1, listing + message((2, version or message((1, 1))))))}
    for name, tensor in named.items():
        for ranges, values in tensor.slices.items():
            stored = message((1, name), (2, _slice(ranges)), (3, values))
            entries[slice_key(name, ranges)] = message((2, stored))
    return entries


def _table(blocks: Iterable[Iterable[tuple[bytes, bytes]]], *, packed: bool) -> bytes:
    """Return a table with these entries in these blocks, compressed or not."""
    data, index = b"", []
    for number, entries in enumerate(blocks):
        body = _body(entries)
        body = bytes(snappy.compress_raw(body)) if packed else body
        index.append((b"%05d" % number, varint(len(data)) + varint(len(body))))
        data += _stored(body, packed=packed)
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(_body(index)))
    data += _stored(_body(index), packed=False)
    return data + footer.ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC


def _body(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    rows = (
        varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in entries
    )
    return b"".join(rows) + bytes.fromhex("0000000001000000")


def _stored(body: bytes, *, packed: bool) -> bytes:
    stored = body + bytes([packed])
    return stored + mask(Algorithm.CRC32C.update(stored)).to_bytes(4, "little")


@pytest.fixture(scope="session")
def v1_tensor() -> type[V1Tensor]:
    """Return the class of the tensors that `v1_table` takes."""
    return V1Tensor


@pytest.fixture(scope="session")
def v1_table() -> Callable[..., bytes]:
    """Return the function that makes a V1 checkpoint's file.

    It takes tensors by name; `blocks`: how many entries each block holds, the last one the rest;
    `packed`: whether blocks are compressed; `extra`: further entries; `version`: a VersionDef.
    """

    def make(
        tensors: Mapping[str, V1Tensor],
        *,
        blocks: tuple[int, ...] = (),
        packed: bool = False,
        extra: Iterable[tuple[bytes, bytes]] = (),
        version: bytes = b"",
    ) -> bytes:
        entries = sorted([*v1_entries(tensors, version).items(), *extra])
        if not blocks and not packed:
            return build_table(entries)
        ends = [sum(blocks[:number]) for number in range(len(blocks) + 1)]
        cuts = [*zip(ends, [*ends[1:], None], strict=True)]
        return _table([entries[start:stop] for start, stop in cuts], packed=packed)

    return make


# What Keras 3's `export` writes: every weight twice, under names that begin with the model's


def _exported_nodes() -> list[Node]:
    lists = ["variables", "_all_variables"]
    keys = [f"{each}/{number}/.ATTRIBUTES/{VALUE}" for each in lists for number in range(2)]
    names = ["net/d/kernel", "net/d/bias"] * 2
    variables = [Attribute(VALUE, *each) for each in zip(names, keys, strict=True)]
    return [
        Node(children=[(1, lists[0]), (2, lists[1])]),
        Node(children=[(3, "0"), (4, "1")]),
        Node(children=[(5, "0"), (6, "1")]),
        *(Node(attributes=[each]) for each in variables),
    ]


def _exported(folder: Path) -> Path:
    nodes = _exported_nodes()
    attributes = [each for node in nodes for each in node.attributes]
    values = [np.arange(6, dtype="<f4").reshape(2, 3), np.ones(3, "<f4")] * 2
    origins = {each.key: Origin(each.key) for each in attributes}
    graph = attach(folder, build_graph(ObjectGraph(tuple(nodes))), origins)
    stored = tensors_of(dict(zip(origins, values, strict=True)))
    tensors = replace(stored, origins=origins, attachments=graph)
    (folder / "variables").mkdir(parents=True)
    assert FORMAT.plan
    write_plan(FORMAT.plan(tensors, folder / "variables" / "variables", WriteOptions()))
    (folder / "variables" / "checkpoint").unlink()
    objects = [message(*((1, message((1, n))) for n, _ in node.children)) for node in nodes[:3]]
    objects += [
        message((7, message((1, 1), (3, 1), (6, each.full_name.encode())))) for each in attributes
    ]
    saved = message(*((1, each) for each in objects))
    meta = message((1, message((4, b"serve"))), (7, saved))
    (folder / "saved_model.pb").write_bytes(message((1, 1), (2, meta)))
    return folder


@pytest.fixture(scope="session")
def exported_model() -> Callable[[Path], Path]:
    """Return the function that makes a SavedModel in a folder, as Keras 3 exports them.

    It has `net/d/kernel`, 2 by 3, and `net/d/bias`, each of them twice.
    """
    return _exported
