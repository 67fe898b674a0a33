"""How right a proposed recipe is: every tensor it makes, against what the test knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tensorferry.pipeline.map.proposed import Mapped

__all__ = ["Score", "mapping_of", "score"]


class Score(NamedTuple):
    """Numbers of tensors of the target."""

    right: int
    wrong: int
    total: int


def mapping_of(done: Mapped) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return by target what it is made of, and the steps as text."""
    found = {}
    for pair in done.proposal.pairs:
        steps = re.sub(r"[{}' ]", "", ",".join(map(str, pair.steps)))
        for target in (*pair.targets, *pair.ties):
            found[target] = (pair.sources, steps)
    return found


def score(what: str, done: Mapped, truth: Mapping[str, tuple[tuple[str, ...], str]]) -> Score:
    """Compare a proposal with the truth, by target; prints the share."""
    found = mapping_of(done)
    right = [name for name, each in found.items() if truth.get(name) == each]
    wrong = {name: (each, truth.get(name)) for name, each in found.items() if name not in right}
    print(f"{what}: {len(right)} of {len(truth)} right, {len(wrong)} wrong")  # noqa: T201
    assert not wrong, wrong
    return Score(len(right), len(wrong), len(truth))
