"""HDF5 files, by the locator where it can and by libhdf5 behind the guard where it cannot.

Damage is no reason to ask libhdf5: it may crash on it.
"""

from __future__ import annotations

import re

from ..sources import Source
from .h5_locator import OutsideSubset, locate
from .h5_tree import Tree

__all__ = ["read_tree"]


def read_tree(source: Source, attributes: re.Pattern[str], *, verify: bool = True) -> Tree:
    """Return the groups, attributes and datasets of a file; reads no data.

    Args:
        source: the file.
        attributes: matches the names of the attributes whose values are wanted.
        verify: whether checksums of metadata are checked, where there are any.

    Raises:
        UnsafeFileError: it asks for something that no weight file needs.
        CorruptFileError: it is damaged.
    """
    try:
        return locate(source, verify=verify)
    except OutsideSubset:
        from .h5_fallback import read_guarded

        return read_guarded(source, attributes)
