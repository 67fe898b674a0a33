"""What an HDF5 file holds, whoever read it: datasets by path, groups, and attributes on demand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple, TypeAlias

from ..dtypes import DType
from ..errors import CorruptFileError
from ..names import decode
from .hdf5_types import Element

__all__ = ["OTHER", "Stored", "Tree", "Value", "opaque_type", "pieces", "split_texts"]

# Texts, integers, or the word for all else.
Value: TypeAlias = list[bytes] | tuple[int, ...] | str

OTHER = "neither text nor integers"


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
    def names(self, path: str) -> Collection[str]:
        """Return the names of the attributes of a group or a dataset."""

    @abstractmethod
    def value(self, path: str, name: str) -> Value | None:
        """Return an attribute; None where there is none, or it is not read.

        Texts of fixed length come with what fills them up.

        Raises:
            CorruptFileError: it leads nowhere.
        """

    def texts(self, path: str, name: str) -> list[bytes] | None:
        """Return the texts of an attribute; None where there is no such attribute.

        Raises:
            CorruptFileError: it is no text, or leads nowhere.
        """
        value = self.value(path, name)
        if value is None:
            return None
        if isinstance(value, list):
            return [text.partition(b"\0")[0] for text in value]
        if not value:  # whatever its type: an empty list of h5py's is one of float64
            return []
        raise CorruptFileError(f"`/{path}`: attribute `{name}`", expected="text", got=value)

    def text(self, path: str, name: str) -> str | None:
        """Return the first text of an attribute; None where there is none; raises as `texts`."""
        found = self.texts(path, name)
        return decode(found[0]) if found else None

    def number(self, path: str, name: str) -> int | None:
        """Return the integer of an attribute; None where there is no such attribute.

        Raises:
            CorruptFileError: it is no integer.
        """
        value = self.value(path, name)
        if value is None:
            return None
        if isinstance(value, tuple) and len(value) == 1:
            return value[0]
        raise CorruptFileError(f"`/{path}`: attribute `{name}`", expected="an integer", got=value)


def opaque_type(tree: Tree, path: str, width: int) -> DType:
    """Return the type of a dataset of opaque bytes in a file of Keras.

    An attribute `dtype` says it since Keras 3.1; before, and in tf_keras, two bytes are bfloat16.

    Raises:
        CorruptFileError: no type of ours takes so many bytes.
    """
    label = tree.text(path, "dtype")
    named = DType.BFLOAT16 if label is None else DType.named(label)
    if named is None or named.native or named.itemsize != width:
        raise CorruptFileError(
            "a type that is not read: opaque",
            expected=f"bfloat16, or an attribute `dtype` of a type of {width} bytes",
            got=f"{width} bytes" if label is None else repr(label),
        )
    return named


def pieces(data: bytes, width: int) -> list[bytes]:
    """Return the elements of `width` bytes that `data` consists of."""
    return [data[at : at + width] for at in range(0, len(data), width)]


def split_texts(data: bytes, width: int, padding: bytes | None) -> list[bytes]:
    """Return texts of fixed length without what fills them up.

    Args:
        data: their bytes.
        width: bytes of each.
        padding: what fills them up, or None where the first NUL ends them.
    """
    padded = pieces(data, width)
    if padding is None:
        return [text.partition(b"\0")[0] for text in padded]
    return [text.rstrip(padding) for text in padded]
