"""What is odd about an HDF5 file as a whole, beyond what reading its tensors shows."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding, Level
from ..sources import Source
from .h5_blocks import OutsideSubset, open_blocks

__all__ = ["audit_h5"]


def audit_h5(source: Source) -> Iterator[Finding]:
    """Yield findings on a file that was opened: what follows its end, what stands before it."""
    try:
        _, place = open_blocks(source, verify=False)
    except OutsideSubset:  # addresses of another width, which Keras never writes
        return
    path = str(source.path)
    if place.end < source.size:
        text = f"{source.size - place.end:,} bytes behind the end of the HDF5 file"
        yield Finding("integrity/unlisted-bytes", Level.WARNING, text, path=path)
    if place.base:
        text = f"{place.base:,} bytes stand before the HDF5 file, which readers of HDF5 skip"
        yield Finding("integrity/unlisted-bytes", Level.NOTE, text, path=path)
    if place.is_open:
        text = "is marked as being written: the program that wrote it did not close it"
        yield Finding("integrity/leftover", Level.WARNING, text, path=path)
