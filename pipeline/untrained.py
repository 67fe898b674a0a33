"""Whether a model is as it was initialised: what its biases, scales and statistics have in common.

One tensor proves nothing: biases stay zero where nothing moves them, and an exported model has
lost its statistics. So a model counts as never trained only where everything with a usual initial
value still has it, and where at least two kinds of things say so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ..converters.findings import Finding, Level
from ..converters.tensors import Origin, Role, TensorDict
from .stats import Stats

__all__ = ["untrained"]


def _is_zero(stats: Stats) -> bool:
    return stats.zeros == stats.size


def _is_one(stats: Stats) -> bool:
    return stats.finite == stats.size and stats.minimum == stats.maximum == 1


def _is_initial_bias(stats: Stats) -> bool:
    """Tell whether all is zero, or ones stand for the forget gate of an LSTM: a quarter of all."""
    ones = stats.size - stats.zeros
    forgets = 4 * ones == stats.size and stats.minimum == 0 and stats.maximum == 1
    return _is_zero(stats) or (forgets and round(stats.norm**2) == ones)


class _Kind(NamedTuple):
    """Tensors that are alike when they are made.

    Attributes:
        label: what they are, for people, with the value they start with.
        leaves: what layers call them; Keras 1 puts the layer before, as in `dense_1_b`.
        roles: which of them count.
        is_initial: tells whether one is as it was made.
        least: how many there must be to prove something.
    """

    label: str
    leaves: re.Pattern[str]
    roles: frozenset[Role]
    is_initial: Callable[[Stats], bool]
    least: int = 1


_ANY = re.compile(".*", re.DOTALL)
_LAYERS = frozenset({Role.WEIGHT, Role.STATE, Role.UNKNOWN})
_BIASES = _Kind(
    "biases are 0", re.compile("(.*_)?(bias|biases|beta|b)"), _LAYERS, _is_initial_bias, 2
)
_SCALES = _Kind("scales are 1", re.compile("(.*_)?gamma"), _LAYERS, _is_one)
_MEANS = _Kind("moving means are 0", re.compile("(.*_)?(moving|running)_mean"), _LAYERS, _is_zero)
_VARIANCES = _Kind(
    "moving variances are 1",
    re.compile("(.*_)?(moving|running)_(variance|var|std)"),
    _LAYERS,
    _is_one,
)
_SLOTS = _Kind("optimizer slots are 0", _ANY, frozenset({Role.SLOT}), _is_zero)
_STEPS = _Kind(
    "step counters are 0",
    re.compile("global_step|iter|iterations?|step"),
    frozenset({Role.COUNTER}),
    _is_zero,
)
_KINDS = (_BIASES, _SCALES, _MEANS, _VARIANCES, _SLOTS, _STEPS)


def untrained(tensors: TensorDict, stats: Mapping[str, Stats]) -> Iterator[Finding]:
    """Yield a finding if the model was never trained, or if nothing moved its statistics."""
    members: dict[_Kind, list[Stats]] = {}
    for name, each in stats.items():
        kind = _kind_of(name, tensors.origin(name))
        if kind and each.size:
            members.setdefault(kind, []).append(each)
    initial = {
        kind: len(found) for kind, found in members.items() if all(map(kind.is_initial, found))
    }
    facts = ", ".join(f"all {kind.label} ({initial[kind]})" for kind in _KINDS if kind in initial)
    proofs = [kind for kind, count in initial.items() if count >= kind.least]
    # Means and variances are one proof: they move together.
    if len(initial) == len(members) and len({*proofs} - {_MEANS}) > 1:
        yield Finding("value/never-trained", Level.WARNING, f"as it was initialised: {facts}")
    elif _MEANS in initial and _VARIANCES in initial:
        yield Finding(
            "value/initial-statistics",
            Level.NOTE,
            f"as they were initialised: {facts}; were their updates run?",
        )


def _kind_of(name: str, origin: Origin) -> _Kind | None:
    leaf = re.split(r"[/.]", name)[-1]
    for kind in _KINDS:
        if origin.role in kind.roles and kind.leaves.fullmatch(leaf):
            return kind
    return None
