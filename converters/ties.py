"""Tensors under several names: weights that a model ties."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from .tensors import Tensor

__all__ = ["ties"]


def ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the tensors that are an earlier one once more, each with the name of that one.

    Such tensors have dtype, shape and byte ranges in common, as hard links in HDF5 have, or are
    one object here. Equal bytes in different places are no tie, and neither are no bytes at all.
    """
    # Nearly always all starts differ, and that is several times as fast to tell as comparing all.
    starts: list[Hashable] = [
        extents[0][:2] if extents else id(tensor)
        for tensor in tensors.values()
        if not (extents := tensor.extents) or extents[0].length
    ]
    if len(set(starts)) == len(starts):
        return {}
    kept: dict[Hashable, str] = {}
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        if tensor.spec.nbytes:  # none without bytes, and none of strings
            first = kept.setdefault((tensor.spec, tensor.extents or id(tensor)), name)
            if first != name:
                found[name] = first
    return found
