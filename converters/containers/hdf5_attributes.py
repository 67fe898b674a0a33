"""Attributes of HDF5 datasets: short texts and lists of integers, all that we write.

Written with a fixed length, since libhdf5 crashes or loops on damaged files mostly where it reads
text of variable length (fuzzing of valid Keras files, HDF5 1.14.6 and 2.0.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import h5py

__all__ = ["Attribute", "attach"]

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


def _fixed(length: int) -> h5py.h5t.TypeID:
    from h5py import h5t

    kind = h5t.C_S1.copy()
    kind.set_size(length)
    kind.set_strpad(h5t.STR_NULLPAD)
    kind.set_cset(h5t.CSET_UTF8)
    return kind
