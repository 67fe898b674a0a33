from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import CorruptFileError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.tensors import Evidence, Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.selection import select, select_average, select_weights

Make = Callable[[Mapping[str, Values]], TensorDict]

ROLES = {
    "w": Origin("k/w", Role.WEIGHT),
    "b": Origin("k/b", Role.WEIGHT),
    "mean": Origin("k/mean", Role.STATE),
    "w/m": Origin("k/w/m", Role.SLOT, "w"),
    "w/avg": Origin("k/w/avg", Role.AVERAGE, "w", False, Evidence.GRAPH),
    "w/avg/biased": Origin("k/w/avg/biased", Role.STATE, "w/avg"),
    "step": Origin("k/step", Role.COUNTER),
    "rate": Origin("k/rate", Role.OPTIMIZER),
    "odd": Origin("k/odd"),
    "c": Origin("k/c", Role.CONSTANT),
    "t": Origin("k/t", Role.TEXT),
    "table": Origin("k/table", Role.TABLE),
}


@pytest.fixture
def model(make_tensors: Make) -> TensorDict:
    """Return a tensor of each role, the n-th of which holds n."""
    import numpy as np

    values = {name: np.array([n], "float32") for n, name in enumerate(ROLES)}
    return replace(make_tensors(values), origins=ROLES)


def _excluded(tensors: TensorDict) -> set[str | None]:
    return {note.tensor for note in tensors.notes if note.kind is Kind.EXCLUDED}


# Patterns


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("w", {"w"}),
        ("w*", {"w", "w/m", "w/avg", "w/avg/biased"}),
        ("?", {"w", "b", "c", "t"}),
        ("[bc]", {"b", "c"}),
        ("re:^w/", {"w/m", "w/avg", "w/avg/biased"}),
        ("re:a.g", {"w/avg", "w/avg/biased"}),
        ("re:^(step|rate)$", {"step", "rate"}),
    ],
)
def test_patterns_match_names(model: TensorDict, pattern: str, found: set[str]) -> None:
    assert set(select(model, [pattern], [])) == found
    assert set(select(model, [], [pattern])) == set(model) - found


def test_patterns_match_keys_on_request(model: TensorDict) -> None:
    assert set(select(model, ["k/w", "re:^k/st"], [], "key")) == {"w", "step"}
    with pytest.raises(UsageError, match="no tensor is called `w`"):
        select(model, ["w"], [], "key")


def test_a_name_wins_over_the_pattern_it_looks_like(make_tensors: Make) -> None:
    tensors = make_tensors({"re:a": [b"x"], "a": [b"x"], "[b]": [b"x"], "b": [b"x"]})
    assert list(select(tensors, ["re:a"], [])) == ["re:a"]
    assert list(select(tensors, ["[b]"], [])) == ["[b]"]


@pytest.mark.parametrize("pattern", ["re:(", "re:["])
def test_what_is_no_regular_expression_is_refused(model: TensorDict, pattern: str) -> None:
    with pytest.raises(UsageError, match="no regular expression"):
        select(model, [pattern], [])


def test_a_pattern_that_matches_nothing_gets_near_names(model: TensorDict) -> None:
    with pytest.raises(UsageError, match="did you mean `step`"):
        select(model, [], ["re:stepp"])


# Roles


def test_weights_only_keeps_the_model_and_what_is_not_known(model: TensorDict) -> None:
    kept = select_weights(model)
    assert set(kept) == {"w", "b", "mean", "w/avg", "w/avg/biased", "odd", "c"}
    assert _excluded(kept) == set(model) - set(kept)
    [note] = [note for note in kept.notes if note.kind is not Kind.EXCLUDED]
    assert note.text == "nothing says what these are for, so they are kept: `odd`"


def test_many_unknown_ones_are_not_all_listed(make_tensors: Make) -> None:
    tensors = make_tensors({f"t{n}": [b"x"] for n in range(9)})
    [note] = select_weights(tensors).notes
    assert note.text.endswith("`t5` and 3 more")


# Moving averages


def test_both_are_kept_and_said(model: TensorDict) -> None:
    auto = select_average(model)
    assert list(auto) == list(model)
    assert auto.notes[-1].text.startswith("1 moving average kept beside the variables")
    assert select_average(model, "both") is model


def test_raw_leaves_averages_out_and_what_they_need(model: TensorDict) -> None:
    kept = select_average(model, "raw")
    assert set(model) - set(kept) == {"w/avg", "w/avg/biased"} == _excluded(kept)


def test_only_puts_averages_in_the_place_of_their_variables(model: TensorDict) -> None:
    kept = select_average(model, "only")
    assert set(kept) == set(model) - {"w/avg", "w/avg/biased"}
    assert kept["w"] is model["w/avg"]
    assert kept.origin("w") == Origin("k/w/avg", Role.WEIGHT, None, None, Evidence.GRAPH)
    assert _excluded(kept) == {"w", "w/avg/biased"}
    assert kept.notes[-1].text.endswith("own values are kept: `b`, `mean`, `odd`")


def test_averages_alone_get_the_names_of_their_variables(make_tensors: Make) -> None:
    tensors = replace(
        make_tensors({"w/avg": [b"x"]}), origins={"w/avg": Origin("w/avg", Role.AVERAGE, "w")}
    )
    assert "without the variables" in select_average(tensors).notes[-1].text
    kept = select_average(tensors, "only")
    assert list(kept) == ["w"]
    assert kept.origin("w").role is Role.WEIGHT
    assert not kept.notes


@pytest.mark.parametrize("ema", ["auto", "raw", "both"])
def test_without_averages_there_is_nothing_to_choose(make_tensors: Make, ema: str) -> None:
    tensors = make_tensors({"w": [b"x"]})
    assert select_average(tensors, ema) is tensors  # type: ignore[arg-type]


def test_wanted_averages_that_are_not_there_are_an_error(make_tensors: Make) -> None:
    with pytest.raises(UsageError, match="no moving averages"):
        select_average(make_tensors({"w": [b"x"]}), "only")


def test_two_averages_of_one_variable_are_an_error(model: TensorDict) -> None:
    origins = {**ROLES, "odd": Origin("k/odd", Role.AVERAGE, "w")}
    with pytest.raises(UsageError, match="`w` has several moving averages: `w/avg` and `odd`"):
        select_average(replace(model, origins=origins), "only")


def test_an_average_that_cannot_be_read_is_broken_under_its_new_name(model: TensorDict) -> None:
    errors = {name: CorruptFileError(name) for name in ("w", "w/avg", "b")}
    kept = select_average(replace(model, broken=errors), "only")
    assert kept.broken == {"w": errors["w/avg"], "b": errors["b"]}


# The whole way


def test_the_account_of_averages_names_source_tensors(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(ema="only", weights_only=True, digests=True, verify=True)
    report = convert(samples / "tf1_adam_ema", tmp_path / "a.safetensors", options)
    rows = {row["name"]: row for row in report.rows()}
    average = rows["dense/kernel/ExponentialMovingAverage"]
    assert (average["action"], average["stored_name"]) == ("written", "dense/kernel")
    assert average["digest"] == report.digests["dense/kernel"]
    assert rows["dense/kernel"]["action"] == "excluded"
    assert "digest" not in rows["dense/kernel"]
    assert report.counts == {"written": 8, "excluded": 21}
    assert report.left_out == {
        "optimizer slot": (12, 664),
        "optimizer state": (2, 8),
        "counter": (1, 8),
        "weight": (6, 332),
    }
    assert report.json()["left_out"]["optimizer slot"] == {"tensors": 12, "bytes": 664}
    with (
        open_tensors(tmp_path / "a.safetensors") as copy,
        open_tensors(samples / "tf1_adam_ema") as source,
    ):
        for name in ("dense/kernel", "batch_normalization/gamma"):
            own = source[f"{name}/ExponentialMovingAverage"].read()
            assert (copy[name].read() == own).all()
        assert len(copy) == 8


def test_notes_of_the_writer_reach_the_average(tmp_path: Path, samples: Path) -> None:
    report = convert(samples / "tf1_adam_ema", tmp_path / "a.npz", ConvertOptions(ema="only"))
    assert {row["action"] for row in report.rows()} == {"written", "excluded"}
    assert all(row["stored_name"] is None for row in report.rows() if row["action"] == "excluded")
