"""Layers with their weights, and what a framework makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...converters.tensors import Tensor, TensorDict
from ...converters.uses import LayerKind, Use, Uses

__all__ = ["Convention", "Layer", "Made", "Undecided", "layers_of"]


class Undecided(Exception):  # noqa: N818 - no error: the layer stays as it is
    """What a layer would become cannot be told; its text says why."""


class Made(NamedTuple):
    """A tensor of the other framework.

    Attributes:
        leaf: its name below that of the layer.
        tensor: the tensor.
        parts: what it was made from; none where TensorFlow has no such tensor.
    """

    leaf: str
    tensor: Tensor
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """A layer that is read in one direction.

    Attributes:
        path: its name.
        kind: what it is.
        parts: its tensors by part.
        names: what the dictionary calls them, by part.
        facts: what else is known of it (`converters/uses.py`).
        uses: what is known of each part.
    """

    path: str
    kind: LayerKind
    parts: Mapping[str, Tensor]
    names: Mapping[str, str]
    facts: Mapping[str, Any]
    uses: Mapping[str, Use]

    @property
    def direction(self) -> str:
        """Of a half of a bidirectional layer `forward` or `backward`, else empty."""
        return str(self.facts.get("direction", ""))

    def some(self, *names: str) -> Iterator[tuple[str, Tensor]]:
        """Yield those of some parts that are there."""
        for name in names:
            if name in self.parts:
                yield name, self.parts[name]


# What a framework makes of a layer. Raises `Undecided`, and `UsageError` where shapes do not fit.
Convention = Callable[[Layer], Sequence[Made]]


def layers_of(tensors: TensorDict, uses: Uses) -> list[Layer]:
    """Return the layers of what is there, in the order of their first tensors."""
    found: dict[tuple[str, LayerKind, object], dict[str, str]] = {}
    for name in tensors:
        use = uses.known.get(name)
        if use is not None:
            key = (use.layer, use.kind, use.facts.get("direction"))
            found.setdefault(key, {}).setdefault(use.part, name)
    paths = _paths(found)
    return [
        Layer(
            paths[path, kind],
            kind,
            {part: tensors[name] for part, name in names.items()},
            names,
            _facts([uses.known[name] for name in names.values()]),
            {part: uses.known[name] for part, name in names.items()},
        )
        for (path, kind, _), names in found.items()
    ]


def _paths(found: Mapping[tuple[str, LayerKind, object], Mapping[str, str]]) -> dict[Any, str]:
    """Return what to call layers by path and kind: of two in one place, the second by its tensor.

    A program that keeps a kernel and a scale side by side has no names for the two layers.
    """
    paths: dict[tuple[str, LayerKind], str] = {}
    places: set[str] = set()
    for (path, kind, _), names in found.items():
        taken = path in places and (path, kind) not in paths
        paths.setdefault((path, kind), next(iter(names.values())) if taken else path)
        places.add(path)
    return paths


def _facts(uses: Sequence[Use]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for use in uses:
        facts |= use.facts
    return facts
