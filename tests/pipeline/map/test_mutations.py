"""Targets with foreign words and missing tensors: what is mapped is right, all else is open."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.map.proposed import mapped

from .bert_names import google_bert, hugging_face
from .scoring import score

WORDS = (
    "alpha", "tower", "mix", "core", "fc1", "zeta", "norm1", "apex", "final", "head", "bridge",
    "left", "right", "unit",
)  # fmt: skip
SIZES = [(8, 16, 40, 24), (8, 8, 8, 8)]
SEEDS = 60

Truth = dict[str, tuple[tuple[str, ...], str]]


def mutated(seed: int, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, list[int]], Truth]:
    """Return a target and the truth: words replaced, and perhaps tensors left out."""
    chance = random.Random(seed)
    known = sorted(
        {word for name in shapes for word in name.replace("layer_", "layer/").split("/")}
    )
    words = [word for word in known if not word.isdigit()]
    new = dict(
        zip(chance.sample(words, chance.randint(0, 5)), chance.sample(WORDS, 5), strict=False)
    )
    lost, alone = chance.choice((0.0, 0.1, 0.3)), chance.random() < 0.5
    target: dict[str, list[int]] = {}
    truth: Truth = {}
    for name, shape in shapes.items():
        renamed = hugging_face(name, alone=alone)
        if renamed is None or chance.random() < lost:
            continue
        *path, leaf = renamed.name.split(".")
        other = ".".join([*(new.get(word, word) for word in path), leaf])
        target[other] = [*shape][:: -1 if renamed.transposed else 1]
        truth[other] = (name,), "transpose:True" if renamed.transposed else ""
    return target, truth


@pytest.mark.parametrize("sizes", SIZES, ids=["distinct", "equal"])
def test_nothing_is_mapped_wrong(tmp_path: Path, sizes: tuple[int, int, int, int]) -> None:
    hidden, inner, words, positions = sizes
    shapes = google_bert(hidden, inner, words, 3, positions)
    np.savez(tmp_path / "s.npz", **{name: np.ones(shape, "f4") for name, shape in shapes.items()})
    right = total = 0
    with open_tensors(tmp_path / "s.npz") as tensors:
        for seed in range(SEEDS):
            target, truth = mutated(seed, shapes)
            (tmp_path / "t.json").write_text(json.dumps(target))
            found = score(f"seed {seed}", mapped(tensors, tmp_path / "t.json", None, 1), truth)
            right, total = right + found.right, total + found.total
    print(f"{sizes}: {right} of {total} right, none wrong")  # noqa: T201
    assert right > 0.45 * total
