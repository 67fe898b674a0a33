"""A Keras weights file: the datasets of an HDF5 file, and what its groups `vars` are called.

Everything that the Keras 3 reader needs of HDF5 is here, whoever reads it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..dtypes import DType
from ..errors import CorruptFileError
from ..names import decode
from ..notes import Kind, Note
from ..sources import Extent, FileSource, Source
from ..tensors import CHUNK_BYTES, ChunkTensor, ExtentTensor, Tensor, TensorSpec
from . import hdf5_attributes as attributes
from .hdf5_guard import Found, opened, translated, walk
from .hdf5_slices import SliceTensor
from .hdf5_types import Element, recognise
from .windows import SourceFile, locate

if TYPE_CHECKING:
    import h5py

__all__ = ["SIGNATURE", "Store", "is_keras_3", "read_store"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
VARS = "vars"
# What only files of the layout before Keras 3 have at their root.
LEGACY_ATTRIBUTES = ("layer_names", "layer_names0", "nb_layers")
LEGACY_GROUP = "model_weights"
MAX_LOOKED_AT = 64


class Store(NamedTuple):
    """What a weights file holds.

    Attributes:
        tensors: by path of the dataset, in the file's order.
        labels: by path of each group `vars`, its attribute `name` or None.
        notes: what was left out.
    """

    tensors: dict[str, Tensor]
    labels: dict[str, str | None]
    notes: list[Note]


def read_store(source: Source) -> Store:
    """Return the datasets of an HDF5 file; reads none of their bytes.

    Raises:
        UnsafeFileError: a link, a layout or a filter that no weight file needs, or a bomb.
        CorruptFileError: it cannot be made sense of.
    """
    store = Store({}, {}, [])
    with _opened(source) as file:
        for found in walk(file, source.path, source.size):
            with translated(source.path, f"dataset `{found.path}`"):
                _add(store, found, source)
        # The walk has shown that the groups are a tree of hard links.
        with translated(source.path, None):
            store.labels.update(_labels(file.id, ""))
    return store


def is_keras_3(source: Source) -> bool:
    """Tell whether an HDF5 file has the layout of Keras 3, from its first few groups."""
    try:
        with _opened(source) as file:
            root = file.id
            if any(attributes.has(root, name) for name in LEGACY_ATTRIBUTES):
                return False
            waiting = [root]
            for _ in range(MAX_LOOKED_AT):
                if not waiting:
                    break
                groups = dict(_groups(waiting.pop(0)))
                if VARS in groups:
                    return True
                if LEGACY_GROUP in groups:
                    return False
                waiting.extend(groups.values())
    except CorruptFileError:
        return False
    return False


# With h5py


@contextmanager
def _opened(source: Source) -> Iterator[h5py.File]:
    """Open a source for reading and close it whatever happens.

    A file object that h5py still holds when the interpreter ends makes it crash.
    """
    if isinstance(source, FileSource) and type(source) is FileSource:
        with opened(source.path) as file:
            yield file
        return
    import h5py

    with translated(source.path, None), h5py.File(SourceFile(source), "r") as file:
        yield file


def _add(store: Store, found: Found, source: Source) -> None:
    element = recognise(found.kind)
    if found.shape is None or element.dtype is DType.STRING:
        what = "text" if found.shape is not None else "nothing, not even a shape"
        text = f"dataset `{found.path}` holds {what}: left out"
        kind = Kind.DROPPED if found.shape is not None else Kind.SOURCE
        store.notes.append(Note(kind, text))
        return
    spec = TensorSpec(_dtype(found, element), found.shape)
    tensor = _raw(found, spec, source)
    if element.big_endian and spec.dtype.swap_unit > 1:
        tensor = ChunkTensor(spec, tensor, partial(_swap, spec.dtype.swap_unit))
    store.tensors[found.path] = tensor


def _raw(found: Found, spec: TensorSpec, source: Source) -> Tensor:
    if found.place is not None:
        inner, offset = locate(source, found.place)
        return ExtentTensor(spec, (Extent(inner, offset, spec.nbytes),))
    if not spec.nbytes:
        return ExtentTensor(spec, ())
    return _PackedTensor(spec, source, found.path)


class _PackedTensor(SliceTensor):
    """A dataset in chunks, of a file that may lie in an archive."""

    __slots__ = ("_source",)

    def __init__(self, spec: TensorSpec, source: Source, key: str) -> None:
        super().__init__(spec, source.path, key)
        self._source = source

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes, unpacked in slabs of at most 16 MiB."""
        step = max(max_bytes // self.spec.dtype.itemsize, 1) * self.spec.dtype.itemsize
        with _opened(self._source) as file:
            for slab in self._slabs(file):
                for at in range(0, len(slab), step):
                    yield slab[at : at + step]


def _dtype(found: Found, element: Element) -> DType:
    """Return the type of an element; Keras and tf_keras hold bfloat16 as two opaque bytes."""
    if element.dtype is not None:
        return element.dtype
    label = attributes.text(found.dataset, "dtype", variable=True)
    named = DType.BFLOAT16 if label is None else DType.named(decode(label.rstrip(b"\0")))
    if named is None or named.native or named.itemsize != element.width:
        raise CorruptFileError(
            "a type that is not read: opaque",
            expected=f"bfloat16, or an attribute `dtype` of a type of {element.width} bytes",
            got=f"{element.width} bytes" if label is None else repr(decode(label)),
        )
    return named


def _swap(unit: int, chunk: memoryview) -> bytes:
    values = array({2: "H", 4: "I", 8: "Q"}[unit], bytes(chunk))
    values.byteswap()
    return values.tobytes()


def _groups(group: h5py.h5g.GroupID) -> Iterator[tuple[str, h5py.h5g.GroupID]]:
    """Yield the groups of one that are hard links, without following any other."""
    from h5py import h5g, h5l, h5o

    links: list[tuple[bytes, int]] = []
    group.links.iterate(lambda name, info: links.append((name, info.type)), info=True)
    for name, kind in links:
        if kind == h5l.TYPE_HARD:
            entry = h5o.open(group, name)
            if isinstance(entry, h5g.GroupID):
                yield decode(name), entry


def _labels(group: h5py.h5g.GroupID, prefix: str) -> Iterator[tuple[str, str | None]]:
    for name, entry in _groups(group):
        path = prefix + name
        if name == VARS:
            label = attributes.text(entry, "name", variable=True)
            yield path, None if label is None else decode(label.rstrip(b"\0"))
        yield from _labels(entry, path + "/")
