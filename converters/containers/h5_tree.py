"""What an HDF5 file holds, whoever read it: datasets by path, groups, and attributes on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from .hdf5_types import Element

__all__ = ["Stored", "Tree", "split_texts"]


class Stored(NamedTuple):
    """A dataset.

    Attributes:
        element: what its elements are.
        shape: None where it has not even a shape (a null dataspace).
        place: byte offset of its elements in the source, where they lie in one piece.
        inline: its bytes, where they lie in its header.
    """

    element: Element
    shape: tuple[int, ...] | None
    place: int | None = None
    inline: bytes | None = None


class Tree(ABC):
    """Datasets by path without the leading slash, in the file's order, and groups likewise.

    Bytes of a path that are not UTF-8 are carried as PEP 383 does.
    """

    def __init__(self) -> None:
        self.datasets: dict[str, Stored] = {}
        self.groups: list[str] = []

    @abstractmethod
    def texts(self, path: str, name: str) -> list[bytes] | None:
        """Return the texts of an attribute; None where there is no such attribute.

        Raises:
            CorruptFileError: it is no text, or leads nowhere.
        """

    @abstractmethod
    def number(self, path: str, name: str) -> int | None:
        """Return the integer of an attribute; None where there is no such attribute.

        Raises:
            CorruptFileError: it is no integer.
        """


def split_texts(data: bytes, width: int, padding: bytes | None) -> list[bytes]:
    """Return texts of fixed length without what fills them up.

    Args:
        data: their bytes.
        width: bytes of each.
        padding: what fills them up, or None where the first NUL ends them.
    """
    padded = [data[at : at + width] for at in range(0, len(data), width)]
    if padding is None:
        return [text.partition(b"\0")[0] for text in padded]
    return [text.rstrip(padding) for text in padded]
