"""HDF5 files for Keras, planned: groups with their attributes, datasets with their tensors.

The file is laid out by libhdf5 (`hdf5_skeleton.py`) in the oldest layout, as Keras writes it: every
reader of HDF5 knows that one, ours without libhdf5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..dtypes import DType
from ..errors import TargetError
from ..output import Literal, Placement
from ..tensors import Tensor
from .hdf5_attributes import Attribute
from .hdf5_skeleton import Group, Member, build

__all__ = ["Laid", "NewDataset", "NewGroup", "check_dtype", "lay_out"]

MAX_RANK = 32  # H5S_MAX_RANK
MAX_PARTS = 60  # our own guard lets through what we write, also with a group above

NewGroup = Group


class NewDataset(NamedTuple):
    """A dataset to be, and what it holds.

    Attributes:
        path: its path without a leading slash.
        name: of the tensor in the dictionary that is written.
        tensor: its values.
        opaque: whether bfloat16 is bytes that an attribute names, as Keras 3 writes and reads it,
            and not a float that HDF5 understands.
    """

    path: str
    name: str
    tensor: Tensor
    opaque: bool = False


class Laid(NamedTuple):
    """A file laid out; all offsets are from its first byte.

    Attributes:
        size: its length in bytes.
        literals: all that is no tensor's.
        placements: tensors by rising offset.
    """

    size: int
    literals: tuple[Literal, ...]
    placements: tuple[Placement, ...]


def lay_out(datasets: Sequence[NewDataset], groups: Iterable[NewGroup], target: Path) -> Laid:
    """Lay out a file.

    Args:
        datasets: in the order in which their bytes are to lie; the groups above them are made.
        groups: those with attributes, or with nothing in them.
        target: the output, for messages.

    Raises:
        TargetError: HDF5 cannot hold a name, a type or a shape.
    """
    _check_paths(datasets, target)
    members = [_member(dataset, target) for dataset in datasets]
    try:
        skeleton = build(members, groups, old=True)
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise TargetError(
            f"HDF5 cannot hold these tensors: {error}", path=target, hint="choose .safetensors"
        ) from error
    placements = [
        Placement(dataset.name, dataset.tensor, offset or 0)  # 0: it has no bytes
        for dataset, offset in zip(datasets, skeleton.offsets, strict=True)
    ]
    placements.sort(key=lambda placement: placement.offset)
    places = [(placement.offset, placement.tensor.nbytes) for placement in placements]
    return Laid(skeleton.size, tuple(skeleton.gaps(places)), tuple(placements))


def check_dtype(name: str, tensor: Tensor, target: Path) -> None:
    """Refuse a tensor that no Keras file holds.

    Raises:
        TargetError: its type is none of those that HDF5 and Keras share, or its rank too high.
    """
    spec = tensor.spec
    if not spec.dtype.native and spec.dtype is not DType.BFLOAT16:
        raise TargetError(
            f"Keras files hold no {spec.dtype}", path=target, where=f"tensor `{name}`",
            hint="choose .safetensors, .npz or plain HDF5, or leave it out with --exclude",
        )  # fmt: skip
    if len(spec.shape) > MAX_RANK:
        raise TargetError(
            "number of dimensions", path=target, where=f"tensor `{name}`",
            expected=f"at most {MAX_RANK}", got=len(spec.shape), hint="choose .safetensors",
        )  # fmt: skip


def _member(dataset: NewDataset, target: Path) -> Member:
    check_dtype(dataset.name, dataset.tensor, target)
    spec = dataset.tensor.spec
    opaque = dataset.opaque and spec.dtype is DType.BFLOAT16
    attributes: dict[str, Attribute] = {"dtype": spec.dtype.label} if opaque else {}
    return Member(dataset.path, spec.dtype, spec.shape, attributes, opaque=opaque)


def _check_paths(datasets: Sequence[NewDataset], target: Path) -> None:
    """Refuse paths that HDF5 cannot hold, or that one file cannot hold together."""
    paths = {dataset.path: dataset.name for dataset in datasets}
    for dataset in datasets:
        parts = dataset.path.split("/")
        if not all(parts) or "." in parts or "\0" in dataset.path:
            raise _unfit(dataset, target, "a name with an empty part, `.` or a NUL in it")
        if len(parts) > MAX_PARTS:
            raise _unfit(dataset, target, f"more than {MAX_PARTS} parts in a name")
        if paths[dataset.path] != dataset.name:
            raise _unfit(dataset, target, f"the place of tensor `{paths[dataset.path]}`, too")
        for count in range(1, len(parts)):
            above = paths.get("/".join(parts[:count]))
            if above is not None:
                raise _unfit(dataset, target, f"a group in the place of tensor `{above}`")


def _unfit(dataset: NewDataset, target: Path, what: str) -> TargetError:
    return TargetError(
        f"cannot be stored as `{dataset.path}`: {what}",
        path=target,
        where=f"tensor `{dataset.name}`",
        hint="leave it out with --exclude, or choose .safetensors",
    )
