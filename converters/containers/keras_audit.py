"""What is odd about the files of a Keras 3 model, beyond what reading its tensors shows."""

from __future__ import annotations

from collections.abc import Iterator

from ..findings import Finding
from ..registry import Location
from .checked_member import is_enough
from .h5_audit import audit_h5
from .keras_archive import ARCHIVE, WEIGHTS, find
from .zip_archive import STORED, read_members
from .zip_audit import audit_zip

__all__ = ["audit_keras"]


def audit_keras(location: Location, nbytes: int, *, verify: bool) -> Iterator[Finding]:
    """Yield findings on a model that was opened, and whose tensors were read.

    Args:
        location: an archive, a folder or a file of one, an index or a weights file.
        nbytes: of the tensors.
        verify: whether checksums are checked.
    """
    parts = find(location, verify=verify, config=False)
    try:
        for part in parts.parts:
            yield from audit_h5(part.source)
        if parts.kind == ARCHIVE:
            archive = parts.sources[0]
            weights = next(each for each in read_members(archive) if each.name == WEIGHTS)
            # Deflated ones were checked when they were unpacked, others while they were read.
            checked = weights.method != STORED or is_enough(weights.size, nbytes)
            yield from audit_zip(archive, {WEIGHTS} if checked else (), verify=verify)
    finally:
        parts.close()
