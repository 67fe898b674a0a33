"""Where both sides hold values, values decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Map
from .scoring import mapping_of

Arrays = dict[str, np.ndarray[Any, Any]]


def store(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng((seed, *shape)).normal(size=shape).astype("f4")


def test_values_turned_and_renamed(tmp_path: Path, map_to: Map) -> None:
    square, kernel = random(6, 6), random(3, 3, 4, 4)
    source = {"a/kernel": square, "a/bias": random(6), "b/kernel": kernel, "c": random(1, 5, 7)}
    target = {
        "x.p": square.T, "y.q": random(6), "z.r": kernel.transpose(3, 2, 0, 1),
        "w": random(1, 5, 7)[0].T,
    }  # fmt: skip
    done = map_to(store(tmp_path / "s.npz", source), store(tmp_path / "t.npz", target))
    assert mapping_of(done) == {
        "x.p": (("a/kernel",), "transpose:True"),
        "y.q": (("a/bias",), ""),
        "z.r": (("b/kernel",), "permute:[3,2,0,1]"),
        "w": (("c",), "squeeze:True,transpose:True"),
    }
    assert done.complete
    assert done.proposal.counts["by values"] == 4


def test_values_overrule_names(tmp_path: Path, map_to: Map) -> None:
    one, two = random(4, 5, seed=1), random(4, 5, seed=2)
    source = store(tmp_path / "s.npz", {"first/w": one, "second/w": two})
    target = store(tmp_path / "t.npz", {"first/w": two, "second/w": one})
    assert mapping_of(map_to(source, target)) == {
        "second/w": (("first/w",), ""), "first/w": (("second/w",), ""),
    }  # fmt: skip


def test_zeros_and_ones_are_no_evidence(tmp_path: Path, map_to: Map) -> None:
    source = store(tmp_path / "s.npz", {"in/b": np.zeros(4, "f4"), "in/u": random(4, 3, seed=1)})
    target = store(tmp_path / "t.npz", {"far/x": np.zeros(4, "f4"), "k/v": random(4, 3, seed=2)})
    done = map_to(source, target)
    assert done.proposal.counts["by values"] == 0


def test_zeros_go_with_their_module(tmp_path: Path, map_to: Map) -> None:
    kernels = [random(4, 4, seed=seed) for seed in range(3)]
    source: Arrays = {}
    target: Arrays = {}
    for number, kernel in enumerate(kernels):
        source |= {f"layer_{number}/kernel": kernel, f"layer_{number}/bias": np.zeros(4, "f4")}
        other = f"blocks.{2 - number}"
        target |= {f"{other}.weight": kernel.T, f"{other}.bias": np.zeros(4, "f4")}
    done = map_to(store(tmp_path / "s.npz", source), store(tmp_path / "t.npz", target))
    assert done.complete
    assert mapping_of(done)["blocks.0.bias"] == (("layer_2/bias",), "")
    assert done.proposal.counts == {
        "by values": 3, "by names and shapes": 3, "ambiguous": 0, "without counterpart": 0,
    }  # fmt: skip


def test_a_narrower_target(tmp_path: Path, map_to: Map) -> None:
    values = random(5, 6)
    source = store(tmp_path / "s.npz", {"k": values, "l": random(5, 6, seed=9)})
    half = {"a": random(5, 6, seed=9).astype("f2").T, "b": values.astype("f2")}
    done = map_to(source, store(tmp_path / "t.npz", half))
    assert mapping_of(done) == {
        "a": (("l",), "transpose:True,cast:float16"), "b": (("k",), "cast:float16"),
    }  # fmt: skip
    assert done.complete


def test_a_tensor_that_the_target_has_twice(tmp_path: Path, map_to: Map) -> None:
    table, other = random(9, 4), random(4, 4)
    target = store(
        tmp_path / "t.npz", {"emb.weight": table, "head.weight": table, "o.weight": other}
    )
    source = store(tmp_path / "s.npz", {"emb/embeddings": table, "o/w": other})
    done = map_to(source, target)
    assert done.complete
    assert 'tie = "head.weight"' in done.text


def test_equal_tensors_stay_open(tmp_path: Path, map_to: Map) -> None:
    same = random(3, 3)
    source = store(tmp_path / "s.npz", {"one": same, "two": same, "c": random(2, 2)})
    target = store(tmp_path / "t.npz", {"left": same, "right": same, "d": random(2, 2)})
    done = map_to(source, target)
    assert mapping_of(done) == {"d": (("c",), "")}
    assert [each.candidates for each in done.proposal.open] == [("one", "two")] * 2
    assert not done.complete


SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)
NAMES = st.lists(st.text("abkw_0123", min_size=1, max_size=5), min_size=1, max_size=3).map("/".join)


@given(
    names=st.lists(NAMES, min_size=1, max_size=12, unique=True),
    data=st.data(),
)
def test_a_random_renaming_is_found_exactly(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    from tensorferry.converters.opening import open_tensors
    from tensorferry.pipeline.map.proposed import mapped

    folder = tmp_path_factory.mktemp("renaming")
    shapes = [data.draw(SHAPES) for _ in names]
    others = data.draw(st.lists(NAMES, min_size=len(names), max_size=len(names), unique=True))
    values = {
        name: random(*shape, seed=at)
        for at, (name, shape) in enumerate(zip(names, shapes, strict=True))
    }
    new = dict(zip(names, others, strict=True))
    order = data.draw(st.permutations(names))
    source = store(folder / "s.npz", values)
    target = store(folder / "t.npz", {new[name]: values[name] for name in order})
    with open_tensors(source) as tensors, open_tensors(target) as wanted:
        done = mapped(tensors, target, wanted, 1)
    assert {name: each for name, (each, _) in mapping_of(done).items()} == {
        new[name]: (name,) for name in names
    }
    assert done.complete
