"""Attributes of HDF5 datasets: short texts and lists of integers, all that we write and read.

Written with a fixed length, since libhdf5 crashes or loops on damaged files mostly where it reads
text of variable length (fuzzing of valid Keras files, HDF5 1.14.6 and 2.0.0).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import CorruptFileError

if TYPE_CHECKING:
    import h5py

__all__ = ["Attribute", "attach", "count_others", "has", "numbers", "text"]

MAX_BYTES = 1 << 20

Attribute = bytes | tuple[int, ...]


def attach(dataset: h5py.h5d.DatasetID, name: str, value: Attribute) -> None:
    """Add an attribute; an empty one has no dataspace, since HDF5 has no text of length 0."""
    import numpy as np
    from h5py import h5a, h5s, h5t

    key = name.encode("ascii")
    if not value:
        h5a.create(dataset, key, h5t.STD_U8LE, h5s.create(h5s.NULL))
    elif isinstance(value, bytes):
        attribute = h5a.create(dataset, key, _fixed(len(value)), h5s.create(h5s.SCALAR))
        attribute.write(np.frombuffer(value, f"S{len(value)}").reshape(()), _fixed(len(value)))
    else:
        attribute = h5a.create(dataset, key, h5t.STD_I64LE, h5s.create_simple((len(value),)))
        attribute.write(np.array(value, "<i8"), h5t.STD_I64LE)


def count_others(owner: h5py.h5d.DatasetID | h5py.h5f.FileID, names: Iterable[str]) -> int:
    """Return how many attributes there are beside those called `names`; reads none of them."""
    from h5py import h5a

    return int(h5a.get_num_attrs(owner)) - sum(has(owner, name) for name in names)


def has(dataset: h5py.h5d.DatasetID, name: str) -> bool:
    """Tell whether there is such an attribute."""
    return _open(dataset, name) is not None


def text(dataset: h5py.h5d.DatasetID, name: str, *, variable: bool = False) -> bytes | None:
    """Return the bytes of a text, or None where there is no such attribute or it is no text.

    Args:
        dataset: the dataset.
        name: of the attribute.
        variable: whether text of variable length is read as well.
    """
    import numpy as np
    from h5py import h5t

    attribute = _open(dataset, name)
    if attribute is None or _is_empty(attribute):
        return None if attribute is None else b""
    kind = attribute.get_type()
    if kind.get_class() != h5t.STRING or attribute.get_space().get_simple_extent_npoints() != 1:
        return None
    if kind.is_variable_str():
        return _variable(attribute) if variable else None
    if kind.get_size() > MAX_BYTES:
        raise CorruptFileError(
            f"attribute `{name}`", expected=f"at most {MAX_BYTES} bytes", got=kind.get_size()
        )
    raw = np.zeros(attribute.shape, f"S{kind.get_size()}")
    attribute.read(raw, kind)
    return raw.tobytes()


def numbers(dataset: h5py.h5d.DatasetID, name: str) -> tuple[int, ...] | None:
    """Return a list of integers, or None where there is no such attribute or it is none."""
    import numpy as np
    from h5py import h5t

    attribute = _open(dataset, name)
    if attribute is None or _is_empty(attribute):
        return None if attribute is None else ()
    count = attribute.get_space().get_simple_extent_npoints()
    if attribute.get_type().get_class() != h5t.INTEGER or 8 * count > MAX_BYTES:
        return None
    raw = np.zeros(attribute.shape, "<i8")
    attribute.read(raw, h5t.STD_I64LE)
    return tuple(int(value) for value in raw.ravel())


def _open(dataset: h5py.h5d.DatasetID, name: str) -> h5py.h5a.AttrID | None:
    from h5py import h5a

    key = name.encode("ascii")
    return h5a.open(dataset, key) if h5a.exists(dataset, key) else None


def _is_empty(attribute: h5py.h5a.AttrID) -> bool:
    from h5py import h5s

    return bool(attribute.get_space().get_simple_extent_type() == h5s.NULL)


def _fixed(length: int) -> h5py.h5t.TypeID:
    from h5py import h5t

    kind = h5t.C_S1.copy()
    kind.set_size(length)
    kind.set_strpad(h5t.STR_NULLPAD)
    kind.set_cset(h5t.CSET_UTF8)
    return kind


def _variable(attribute: h5py.h5a.AttrID) -> bytes:
    import h5py
    import numpy as np

    raw = np.empty(attribute.shape, object)
    attribute.read(raw, h5py.h5t.py_create(h5py.string_dtype()))
    value = raw.reshape(-1)[0]
    return value if isinstance(value, bytes) else str(value).encode("utf-8")
