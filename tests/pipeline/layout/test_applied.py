"""A layout as a part of a conversion: rows, notes, recipes after it, and proofs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import LossError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.layout.apply import apply_layout
from tensorferry.pipeline.proof import prove

KERAS = Path("keras_archive") / "model.keras"
RULES = 'version = 1\n[[rule]]\nmatch = "d1.weight"\nrename = "first"\nscale = 2.0\n'


def test_every_tensor_of_the_source_has_a_row(samples: Path, tmp_path: Path) -> None:
    report = convert(samples / KERAS, tmp_path / "m.npz", ConvertOptions(layout="torch"))
    rows = {row["name"]: row for row in report.rows()}
    assert set(rows) == set(report.source)
    assert sum(report.counts.values()) == len(report.source)
    assert rows["d1/kernel"]["layout"] == {
        "layer": "d1", "kind": "dense", "part": "kernel", "evidence": "config", "why": "Dense",
    }  # fmt: skip
    assert rows["d1/kernel"]["action"] == "transformed"
    assert rows["d1/kernel"]["stored_name"] == "d1.weight"
    assert rows["bn/gamma"]["action"] == "renamed by rule"
    assert "layout" not in rows["adam/iteration"]
    assert [note.text for note in report.notes if "no part of the model" in note.text] == [
        "no part of the model, so they stay as they are: "
        "12 optimizer slot, 1 optimizer state, 1 counter"
    ]


def test_a_recipe_goes_on_with_what_a_layout_has_made(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(layout="torch", recipes=(RULES,), weights_only=True)
    report = convert(samples / KERAS, tmp_path / "m.npz", options)
    rows = {row["name"]: row for row in report.rows()}
    assert rows["d1/kernel"]["stored_name"] == "first"
    assert len(rows["d1/kernel"]["recipe"]["rules"]) == 2
    assert rows["d1/kernel"]["recipe"]["steps"] == ["laid out", "scale"]
    assert len(rows["d1/kernel"]["notes"]) == 1
    assert rows["d2/kernel"]["layout"]["kind"] == "dense"
    with open_tensors(samples / KERAS) as source, open_tensors(tmp_path / "m.npz") as copy:
        np.testing.assert_array_equal(copy["first"].read(), source["d1/kernel"].read().T * 2)
        np.testing.assert_array_equal(copy["d2.weight"].read(), source["d2/kernel"].read().T)
    assert prove(samples / KERAS, tmp_path / "m.npz", options).proved


def test_a_cast_of_what_was_added_counts_nothing(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(layout="torch", dtypes=("f16",), weights_only=True)
    report = convert(samples / KERAS, tmp_path / "m.npz", options)
    assert sum(report.counts.values()) == len(report.source)


def test_strict_stops_on_what_is_not_decided(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(LossError, match=r"not decided: tensor `d1/kernel`: neither .*, and 3 more"):
        convert(
            samples / "npz_file" / "model.npz",
            tmp_path / "m.npz",
            ConvertOptions(layout="torch", strict=True),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", ["keep = true", "drop = true", 'rename = "{a}.{b}"'])
def test_a_rule_decides(samples: Path, tmp_path: Path, keep: str) -> None:
    rules = f'version = 1\n[[rule]]\nmatch = "{{a:d1|d2}}/{{b}}"\n{keep}\n'
    options = ConvertOptions(layout="torch", strict=True, recipes=(rules,))
    report = convert(samples / "npz_file" / "model.npz", tmp_path / "m.npz", options)
    assert not [note for note in report.notes if note.kind is Kind.UNDECIDED]


def test_two_tensors_of_one_name_are_refused() -> None:
    values = {"dense/kernel": np.ones((4, 3), np.float32), "dense.weight": np.ones(2, np.float32)}
    with pytest.raises(UsageError, match=r"two tensors would be called `dense\.weight`"):
        apply_layout(tensors_of(values), "torch")


def test_shapes_that_fit_no_layer_are_not_decided() -> None:
    values = {f"depthwise_conv2d/{leaf}": np.ones(shape, np.float32) for leaf, shape in
              {"depthwise_kernel": (0, 3, 4, 0), "bias": (0,)}.items()}  # fmt: skip
    laid = apply_layout(tensors_of(values), "torch")
    assert {*laid.told.known, *laid.told.undecided} == set(values)


@pytest.mark.parametrize("target", ["torch", "jax", "mlx"])
def test_an_empty_model(target: str) -> None:
    assert len(apply_layout(tensors_of({}), target)) == 0  # type: ignore[arg-type]
