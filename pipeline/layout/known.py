"""What is known of a model's tensors: by its graph or config, else by their names."""

from __future__ import annotations

from ...converters.casting import FLOATS
from ...converters.tensors import Role, TensorDict
from ...converters.uses import Uses
from .names import uses_of_names

__all__ = ["BESIDE", "known_uses"]

_OWN_AXES = "tflite"  # where a name of Keras's means other axes
# What is no part of a model has no place in another framework's one.
BESIDE = frozenset({Role.SLOT, Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE, Role.AVERAGE})


def known_uses(tensors: TensorDict) -> Uses:
    """Return what graph or config say of tensors, and names where there is neither.

    Raises:
        ConvertError: the graph or the config is damaged.
    """
    own = tensors.uses() if tensors.uses else Uses()
    model = [name for name in tensors if tensors.origin(name).role not in BESIDE]
    known = {name: own.known[name] for name in model if name in own.known}
    open_names = [name for name in model if name not in known]
    if tensors.uses and known:
        # A graph that tells of some weights is no reason to guess the others.
        reasons = {name: own.undecided.get(name, "nothing reads it") for name in open_names}
        found = Uses(known, reasons)
    elif tensors.format == _OWN_AXES:
        found = Uses({}, dict.fromkeys(open_names, "TensorFlow Lite has axes of its own"))
    else:
        found = uses_of_names({name: tensors[name].spec.shape for name in open_names})
    undecided = {name: why for name, why in found.undecided.items() if _counts(tensors, name)}
    return Uses(found.known, undecided)


def _counts(tensors: TensorDict, name: str) -> bool:
    """Tell whether a tensor may be a weight; a graph has numbers of its own, as an epsilon."""
    if tensors.origin(name).role is not Role.CONSTANT:
        return True
    return tensors[name].spec.dtype in FLOATS and bool(tensors[name].spec.shape)
