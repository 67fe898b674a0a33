"""In which order the layers of a model come, as far as its tensors tell.

tf_keras numbers layers in checkpoints. With wrong numbers its `load_weights` would fill layers
with each other's weights, or leave some out, and say nothing; so an order is certain or none.

- Files of Keras list layers in the order of the model. Inside of a layer of a legacy `.h5` file
  all that is not trained comes last, so a model inside of another that is partly frozen is in
  no order.
- Elsewhere tensors that are sorted by name or key, as safetensors and TensorFlow sort them, may
  come in any order. If they are not sorted, somebody had a reason.
- Numbers in names tell an order: `dense`, `dense_1`, `dense_2`.
- Where all names begin with the same part, it may be a layer or the name of the model, as in an
  export of Keras 3; then there is no order either, unless the file is one of Keras.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterator, Mapping
from itertools import accumulate

from ..dtypes import DType
from ..tensors import Role, TensorDict

__all__ = ["layers_in_order"]

MAX_DEPTH = 100  # objects on a path; paths of a deeper one would take memory by their square
_MODEL = frozenset({Role.WEIGHT, Role.STATE, Role.UNKNOWN})
_DIGITS = re.compile(r"([0-9]{1,18})")
_NUMBERED = re.compile(r"(.*?)_?(\d{0,9})", re.DOTALL)

Path = tuple[str, ...]


def layers_in_order(tensors: TensorDict, variables: Container[str]) -> dict[Path, list[str]] | None:
    """Return the layers in each object that has some, by the path to it; None if any is in doubt.

    A layer is an object that holds weights, itself or below; `()` is the model.

    Args:
        tensors: the tensors.
        variables: names of those that are variables of objects.
    """
    levels: dict[Path, dict[str, None]] = {}
    trained: dict[Path, set[bool | None]] = {}
    for name in tensors:
        origin = tensors.origin(name)
        if name not in variables or origin.role not in _MODEL:
            continue
        for path in _objects(name, variables):
            levels.setdefault(path[:-1], {})[path[-1]] = None
            if origin.role is Role.WEIGHT:
                trained.setdefault(path, set()).add(origin.trainable)
    listed = _is_listed(tensors)
    if not listed and _is_scoped(levels):
        return None
    listed = listed or _is_unsorted(tensors)
    legacy = tensors.format == "keras-h5"
    ordered = {}
    for path, names in levels.items():
        mixed = legacy and {True, False} <= trained.get(path, set())
        layers = list(names) if listed and not mixed else _by_number(list(names))
        if layers is None:
            return None
        ordered[path] = layers
    return ordered


def _objects(name: str, variables: Container[str]) -> Iterator[Path]:
    """Yield the paths of the objects that hold a variable; a variable of its own is none."""
    parts = name.split("/")
    if len(parts) > MAX_DEPTH:
        return
    above = accumulate(parts[:-1], lambda path, part: f"{path}/{part}")
    for depth, path in enumerate(above, 1):
        if path not in variables:
            yield tuple(parts[:depth])


def _by_number(names: list[str]) -> list[str] | None:
    """Return names that differ by their numbers alone in the order of these."""
    if len(names) < 2:
        return names
    numbered: dict[int, str] = {}
    stems = set()
    for name in names:
        match = _NUMBERED.fullmatch(name)
        stem, digits = match.groups() if match else (name, "")
        stems.add(stem)
        numbered[int(digits or 0)] = name
    if len(stems) > 1 or len(numbered) < len(names):
        return None
    return [numbered[number] for number in sorted(numbered)]


def _is_listed(tensors: TensorDict) -> bool:
    """Tell whether the file lists its layers in the order of the model."""
    return tensors.format == "keras-h5" or "model" in tensors.details


def _is_scoped(levels: Mapping[Path, Collection[str]]) -> bool:
    """Tell whether all names begin alike: with a model in the model, or with its own name."""
    (first, *others) = levels.get((), ("",))
    return not others and (first,) in levels


def _is_unsorted(tensors: TensorDict) -> bool:
    """Tell whether the tensors are in an order that is none of names or keys."""
    of_type: dict[DType, list[str]] = {}
    for name in tensors:
        of_type.setdefault(tensors[name].spec.dtype, []).append(name)
    keys = {name: tensors.origin(name).key for name in tensors}
    return not (
        all(_is_sorted(names) for names in of_type.values())
        or all(_is_sorted([keys[name] for name in names]) for names in of_type.values())
    )


def _is_sorted(texts: list[str]) -> bool:
    """Tell whether texts are in one of the orders that programs give them."""
    return any(texts == sorted(texts, key=key) for key in (str, _parts, _numbers))


def _parts(text: str) -> list[str]:
    return text.split("/")


def _numbers(text: str) -> list[tuple[int, str]]:
    """Return what sorts `a2` before `a10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(text)]
