"""Prove that what was written is what was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..converters.digests import digest_all
from ..converters.errors import VerificationError
from ..converters.opening import open_tensors

__all__ = ["verify_copy"]


def verify_copy(
    path: Path,
    format: str,
    expected: Mapping[str, str],
    jobs: int,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Read a file back and compare the digest of every tensor with what was streamed.

    Args:
        path: what was written.
        format: name of its format.
        expected: digests of the source's tensors by name.
        jobs: number of threads.
        advance: called with the number of bytes just read.

    Raises:
        VerificationError: a tensor is missing, is too much or differs.
    """
    with open_tensors(path, format=format) as copy:
        for name in expected.keys() ^ copy.keys():
            what = "was not written" if name in expected else "was written and is not in the source"
            raise VerificationError(what, path=path.name, where=f"tensor `{name}`")
        got = digest_all(copy, copy, jobs, advance)
    for name, value in expected.items():
        if got[name] != value:
            raise VerificationError(
                "reads back different",
                path=path.name,
                where=f"tensor `{name}`",
                expected=f"digest {value}",
                got=got[name],
                hint="the disk or memory may be faulty; if not, this is a bug in Tensorferry",
            )
