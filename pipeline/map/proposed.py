"""A recipe proposed for a source and a target, and applied to see that it gives the target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.errors import UsageError
from ...converters.graphs.keras_given import given
from ...converters.tensors import TensorDict
from ...converters.uses import Uses
from ..like import Likeness, Wanted, like, wanted_by
from ..recipe.apply import apply_recipe
from ..recipe.read import parse_recipe
from .propose import Proposal, propose
from .sides import Side, side_of, side_of_target
from .values import Values, values_of
from .write import written

__all__ = ["Mapped", "mapped"]

# Formats whose tensors come in the order of the model, unless that is the order of the alphabet.
_IN_ORDER = frozenset({"keras-v3", "keras-h5"})
_BRANCHING = frozenset({
    "Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract",
    "MultiHeadAttention", "Attention",
})  # fmt: skip


@dataclass(frozen=True)
class Mapped:
    """A recipe, and what it comes to.

    Attributes:
        proposal: what becomes of each tensor.
        text: the recipe.
        rules: number of its rules.
        wanted: number of tensors that the target needs.
        likeness: how its result and the target differ; None if it cannot be applied.
        failure: why not.
    """

    proposal: Proposal
    text: str
    rules: int
    wanted: int
    likeness: Likeness | None
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether the recipe gives the target, and nothing is open."""
        is_open = bool(self.proposal.open or self.proposal.missing)
        return not is_open and self.likeness is not None and self.likeness.same


def mapped(
    source: TensorDict,
    path: str | os.PathLike[str],
    target: TensorDict | None,
    jobs: int,
    advance: Callable[[int], None] | None = None,
) -> Mapped:
    """Propose a recipe and apply it.

    Args:
        source: what is mapped.
        path: what it is to be like.
        target: the same, opened; None where that holds no values.
        jobs: number of threads.
        advance: called with the number of bytes just read of the source.

    Raises:
        ConvertError: the target is none, or values cannot be read.
    """
    wanted = wanted_by(path, source)
    sides = side_of(source), side_of_target(wanted)
    values = Values()
    if target is not None:
        first, second = (
            {name: tensors[name] for name in side.items if name in tensors}
            for tensors, side in zip((source, target), sides, strict=True)
        )
        values = values_of(first, second, jobs, advance)
    proposal = propose(*sides, _uses(source), values, ordered=_ordered(source, target, wanted))
    return _checked(source, path, proposal, sides[1])


def _checked(
    source: TensorDict, path: str | os.PathLike[str], proposal: Proposal, target: Side
) -> Mapped:
    roles = {name: source.origin(name).role.value for name in proposal.beside}
    about = f"{source.format} to the names and layout of {Path(path).name}"
    text = written(proposal, tuple(source), roles, about)
    number, count = text.count("\n[[rule]]"), len(target.items)
    if not number:
        return Mapped(proposal, text, 0, count, None)
    undecided = frozenset(proposal.undecided)
    decided = source.select([name for name in source if name not in undecided])
    try:
        result = apply_recipe(parse_recipe(text, "the recipe"), decided)
    except UsageError as error:
        return Mapped(proposal, text, number, count, None, str(error).partition("\n")[0])
    return Mapped(proposal, text, number, count, like(result, path))


# What else is known


def _uses(source: TensorDict) -> Uses:
    """Return what graph or config say of the source; names say it in their own way here."""
    return source.uses() if source.uses else Uses()


def _ordered(source: TensorDict, target: TensorDict | None, wanted: Mapping[str, Wanted]) -> bool:
    """Tell whether the order of tensors may say which is which.

    It may between two Keras models, which list their layers by one rule. Elsewhere it may where
    the source is known to be a chain of layers, which every framework builds in one order, and the
    target does not list its tensors by the alphabet.
    """
    classes = _classes(source)
    if not classes:
        return False
    if target is not None:
        return target.format in _IN_ORDER and bool(_classes(target))
    names = list(wanted)
    return not classes & _BRANCHING and names != sorted(names)


def _classes(tensors: TensorDict) -> frozenset[str]:
    """Return the classes of a Keras model's layers; none where there is no config."""
    config = given(tensors, None) if tensors.format in _IN_ORDER else None
    found: set[str] = set()
    waiting: list[Any] = [config.parsed] if config else []
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("class_name"), str):
                found.add(value["class_name"])
    return frozenset(found)
