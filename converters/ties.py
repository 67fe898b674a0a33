"""Tensors under several names: weights that a model ties."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

from .notes import Kind, Note
from .tensors import Tensor, TensorDict

__all__ = ["other_names", "ties", "untied"]


def other_names(tensors: TensorDict) -> dict[str, str]:
    """Return the aliases that are neither of a tensor that was left out nor the name of one."""
    return {
        alias: name
        for alias, name in tensors.aliases.items()
        if name in tensors and alias not in tensors
    }


def untied(tensors: TensorDict) -> tuple[TensorDict, tuple[Note, ...]]:
    """Return the dictionary with a tensor for each of its names, and what to say of that."""
    others = other_names(tensors)
    if not others:
        return tensors, ()
    copies = {alias: tensors[name] for alias, name in others.items()}
    text = f"{len(others)} other names of tensors get a copy each"
    return replace(tensors, tensors={**tensors.tensors, **copies}), (Note(Kind.TARGET, text),)


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
