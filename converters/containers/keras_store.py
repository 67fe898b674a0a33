"""A Keras weights file: the datasets of an HDF5 file, and what its groups `vars` are called.

Everything that the Keras 3 reader needs of HDF5 is here, whoever reads it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..dtypes import DType
from ..errors import ConvertError
from ..notes import Kind, Note
from ..sources import Source
from ..tensors import Tensor, TensorSpec
from .h5_blocks import SIGNATURE
from .h5_locator import Glance, OutsideSubset, glance
from .h5_reading import read_tree
from .h5_tensors import tensor_of
from .h5_tree import Stored, Tree, opaque_type

__all__ = ["SIGNATURE", "Store", "is_keras_3", "read_store"]

VARS = "vars"
# What only files of the layout before Keras 3 have at their root.
LEGACY_ATTRIBUTES = frozenset({"layer_names", "layer_names0", "nb_layers"})
LEGACY_GROUP = "model_weights"
MAX_LOOKED_AT = 64
ATTRIBUTES = re.compile(r"name|dtype|layer_names0?|nb_layers")


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


def read_store(source: Source, *, verify: bool = True) -> Store:
    """Return the datasets of an HDF5 file; reads none of their bytes.

    Raises:
        UnsafeFileError: a link, a layout or a filter that no weight file needs, or a bomb.
        CorruptFileError: it cannot be made sense of.
    """
    tree = read_tree(source, ATTRIBUTES, verify=verify)
    store = Store({}, {}, [])
    for path, stored in tree.datasets.items():
        try:
            _add(store, tree, path, stored, source)
        except ConvertError as error:
            if error.path is None:
                error.path = str(source.path)
            raise error.within(f"dataset `{path}`") from None
    for path in tree.groups:
        if path == VARS or path.endswith(f"/{VARS}"):
            store.labels[path] = tree.text(path, "name")
    return store


def _add(store: Store, tree: Tree, path: str, stored: Stored, source: Source) -> None:
    if stored.shape is None or stored.element.dtype is DType.STRING:
        what = "text" if stored.shape is not None else "nothing, not even a shape"
        kind = Kind.DROPPED if stored.shape is not None else Kind.SOURCE
        store.notes.append(Note(kind, f"dataset `{path}` holds {what}: left out"))
        return
    dtype = stored.element.dtype or opaque_type(tree, path, stored.element.width)
    store.tensors[path] = tensor_of(path, stored, TensorSpec(dtype, stored.shape), source)


# Recognising


def is_keras_3(source: Source) -> bool:
    """Tell whether an HDF5 file has the layout of Keras 3, from its first few groups."""
    try:
        return _has_vars(glance(source))
    except OutsideSubset:
        return _has_vars_by_hdf5(source)
    except ConvertError:  # whoever opens it will say what is wrong
        return False


def _has_vars(root: Glance) -> bool:
    if root.attributes & LEGACY_ATTRIBUTES:
        return False
    waiting = [root]
    left = MAX_LOOKED_AT
    while waiting and left > 0:
        group = waiting.pop(0)
        if group.group(VARS):
            return True
        if group.group(LEGACY_GROUP):
            return False
        names = group.links[:left]
        left -= len(names)
        waiting.extend(below for name in names if (below := group.group(name)))
    return False


def _has_vars_by_hdf5(source: Source) -> bool:
    try:
        tree = read_tree(source, ATTRIBUTES)
    except ConvertError:
        return False
    if LEGACY_ATTRIBUTES.intersection(tree.names("")) or LEGACY_GROUP in tree.groups:
        return False
    return any(path.rpartition("/")[2] == VARS for path in tree.groups)
