"""Attributes of HDF5 datasets and groups: texts and lists of integers, all that we write.

Written with a fixed length, since libhdf5 crashes or loops on damaged files mostly where it reads
text of variable length (fuzzing of valid Keras files, HDF5 1.14.6 and 2.0.0). Keras asks for texts
of variable length: h5py gives it those as `str`, and others as bytes, which it does not take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..names import encode

if TYPE_CHECKING:
    import h5py

__all__ = ["Attribute", "attach"]

# Bytes are a text of fixed length and `str` is one of variable length; a list has texts of fixed
# length.
Attribute = bytes | str | list[bytes] | tuple[int, ...]


def attach(owner: h5py.h5d.DatasetID | h5py.h5g.GroupID, name: str, value: Attribute) -> None:
    """Add an attribute; an empty one has no dataspace, since HDF5 has no text of length 0."""
    import numpy as np
    from h5py import h5a, h5s, h5t

    key = name.encode("ascii")
    if isinstance(value, str):
        _attach_text(owner, key, value)
    elif isinstance(value, list):
        _attach_texts(owner, key, value)
    elif not value:
        h5a.create(owner, key, h5t.STD_U8LE, h5s.create(h5s.NULL))
    elif isinstance(value, bytes):
        attribute = h5a.create(owner, key, _fixed(len(value)), h5s.create(h5s.SCALAR))
        attribute.write(np.frombuffer(value, f"S{len(value)}").reshape(()), _fixed(len(value)))
    else:
        attribute = h5a.create(owner, key, h5t.STD_I64LE, h5s.create_simple((len(value),)))
        attribute.write(np.array(value, "<i8"), h5t.STD_I64LE)


def _attach_text(owner: h5py.h5d.DatasetID | h5py.h5g.GroupID, key: bytes, value: str) -> None:
    import h5py
    import numpy as np
    from h5py import h5a, h5s, h5t

    kind = h5t.py_create(h5py.string_dtype(), logical=True)
    attribute = h5a.create(owner, key, kind, h5s.create(h5s.SCALAR))
    objects = h5t.py_create(h5py.string_dtype())  # as Python holds them, not as the file does
    attribute.write(np.array(encode(value), object), objects)


def _attach_texts(
    owner: h5py.h5d.DatasetID | h5py.h5g.GroupID, key: bytes, value: list[bytes]
) -> None:
    """Add a list of texts, each padded to the longest; an empty one has a shape of (0,)."""
    import numpy as np
    from h5py import h5a, h5s

    width = max(map(len, value), default=0) or 1
    attribute = h5a.create(owner, key, _fixed(width), h5s.create_simple((len(value),)))
    if value:
        attribute.write(np.array(value, f"S{width}"), _fixed(width))


def _fixed(length: int) -> h5py.h5t.TypeID:
    from h5py import h5t

    kind = h5t.C_S1.copy()
    kind.set_size(length)
    kind.set_strpad(h5t.STR_NULLPAD)
    kind.set_cset(h5t.CSET_UTF8)
    return kind
