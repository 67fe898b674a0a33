"""Ledgers wherever they are: on a disk, or in an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .jobs import Part
from .ledger import Ledger, merge
from .places import is_url

__all__ = ["ledgers_at", "merge_at", "open_ledger"]


def open_ledger(
    root: Path, part: Part | None, endpoint: str | None, say: Callable[[str], None]
) -> Ledger:
    """Open the ledger of a folder for adding rows.

    Args:
        root: the folder of the targets, or its URL.
        part: which part of the batch it is for.
        endpoint: where the object store is, if not where its cloud is.
        say: hears what takes long.

    Raises:
        UsageError: another batch is at work there.
        ConvertError: it cannot be written.
    """
    if not is_url(root):
        return Ledger(root, part)
    from .store_ledger import StoreLedger

    return StoreLedger(root, part, endpoint=endpoint, say=say)


@contextmanager
def ledgers_at(root: Path, endpoint: str | None) -> Iterator[Path]:
    """Give the folder in which the ledgers of a folder can be read, copies if it is in a store.

    Raises:
        ConvertError: there are none in the store, or it cannot be reached.
    """
    if not is_url(root):
        yield root
        return
    from .shelf import fetched

    with fetched(root, endpoint) as folder:
        yield folder


def merge_at(root: Path, endpoint: str | None) -> int:
    """Make one ledger of those of all parts; return how many they were.

    Raises:
        NotRecognisedError: there are none.
        UsageError: a part is at work.
        ConvertError: the ledger cannot be written.
    """
    if not is_url(root):
        return merge(root)
    from .store_ledger import merge_in_store

    return merge_in_store(root, endpoint)
