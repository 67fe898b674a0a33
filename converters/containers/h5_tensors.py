"""Tensors of the datasets of an HDF5 tree."""

from __future__ import annotations

from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError
from ..sources import Extent, Source
from ..tensors import (
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
    byte_swapped,
)
from .h5_blocks import Blocks, find_signature
from .h5_heaps import GlobalHeap
from .h5_tree import Stored, split_texts
from .hdf5_slices import SliceTensor
from .windows import locate

__all__ = ["tensor_of"]


def tensor_of(path: str, stored: Stored, spec: TensorSpec, source: Source) -> Tensor:
    """Return the tensor of a dataset that has a shape; reads nothing of it.

    Args:
        path: of the dataset.
        stored: where its bytes are.
        spec: what they are; takes as many bytes as the dataset, unless it is text.
        source: the file.

    Raises:
        CorruptFileError: strings that are read by nobody here.
    """
    if stored.element.dtype is DType.STRING:
        return _texts(path, stored, source)
    raw = _raw(path, stored, spec, source)
    return byte_swapped(raw) if stored.element.big_endian else raw


def _raw(path: str, stored: Stored, spec: TensorSpec, source: Source) -> Tensor:
    """Return the bytes of a dataset as they are in the file."""
    if not spec.nbytes:
        return ExtentTensor(spec, ())
    if stored.inline is not None:
        inline = stored.inline
        return MemoryTensor(spec, lambda: inline)
    if stored.place is not None:
        inner, offset = locate(source, stored.place)
        return ExtentTensor(spec, (Extent(inner, offset, spec.nbytes),))
    return SliceTensor(spec, source, path)


def _texts(path: str, stored: Stored, source: Source) -> Tensor:
    element = stored.element
    spec = TensorSpec(DType.STRING, stored.shape or ())
    if element.variable and spec.size and stored.place is None and stored.inline is None:
        raise CorruptFileError(
            "strings of variable length in chunks are not read",
            hint="write the file anew with contiguous strings, or without this dataset",
        )
    raw = _raw(path, stored, TensorSpec(DType.UINT8, (spec.size * element.width,)), source)

    def load() -> list[bytes]:
        try:
            if element.variable:
                return _heap(source).texts(b"".join(raw.chunks()))
            return split_texts(b"".join(raw.chunks()), element.width, element.padding)
        except ConvertError as error:
            if error.path is None:
                error.path = str(source.path)
            raise error.within(f"dataset `{path}`") from None

    return ElementTensor(spec, load, raw.nbytes)


def _heap(source: Source) -> GlobalHeap:
    return GlobalHeap(Blocks(source, find_signature(source) or 0, verify=False))
