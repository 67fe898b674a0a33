"""Models to map, and the shortest way to map them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.map.proposed import Mapped, mapped

__all__ = ["Map"]

Map = Callable[..., Mapped]


@pytest.fixture
def map_to() -> Map:
    """Return what proposes a recipe for a source and a target, by their paths."""

    def run(source: Path, target: Path) -> Mapped:
        values = None if target.suffix == ".json" else open_tensors(target)
        with open_tensors(source) as tensors:
            done = mapped(tensors, target, values, 2)
        if values is not None:
            values.close()
        return done

    return run


@pytest.fixture
def of_shapes(tmp_path: Path, map_to: Map) -> Map:
    """Return the same for names and shapes: a source of random values, a target of none."""

    def run(source: dict[str, Any], target: dict[str, Any]) -> Mapped:
        random = np.random.default_rng(0)
        arrays = {name: random.normal(size=shape).astype("f4") for name, shape in source.items()}
        np.savez(tmp_path / "source.npz", **arrays)
        (tmp_path / "target.json").write_text(json.dumps(target))
        return map_to(tmp_path / "source.npz", tmp_path / "target.json")

    return run
