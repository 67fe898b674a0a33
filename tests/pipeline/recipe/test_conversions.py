"""Conversions by recipe, from the source to the proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tensorferry.converters.errors import LossError, UsageError
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.batch.ledger import recipe_of
from tensorferry.pipeline.batch.plan import plan_jobs, plan_list
from tensorferry.pipeline.batch.work import work
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.proof import prove
from tensorferry.pipeline.recipe.one_liners import recipe_texts
from tensorferry.pipeline.recorded import read_report
from tensorferry.pipeline.report import Report

TORCH = """version = 1

[parameters]
dense = { count = "{layer}/kernel" }

[[rule]]
match = "{layer}/kernel"
role = "weight"
rank = 2
rename = "{layer}.weight"
do = [{ transpose = true }, { cast = "f16" }]

[[rule]]
match = "{layer}/{leaf}"
role = ["weight", "state"]
map = { leaf = { bias = "bias", beta = "bias", gamma = "weight", moving_mean = "running_mean", moving_variance = "running_var" } }
rename = "{layer}.{leaf}"

[[rule]]
match = "**"
drop = true

[metadata]
format = "pt"

[files."config.json"]
layers = "{dense}"
"""  # noqa: E501


@pytest.fixture
def source(samples: Path) -> Path:
    return samples / "tf1_adam_ema"


def run(source: Path, target: Path, text: str = TORCH, **flags: Any) -> Report:
    return convert(source, target, ConvertOptions(recipes=(text,), **flags))


def test_names_and_values_arrive(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "m.safetensors", verify=True)
    got = load_file(tmp_path / "m.safetensors")
    with open_tensors(source) as tensors:
        kernel = tensors["dense/kernel"].read()
        mean = tensors["batch_normalization/moving_mean"].read()
    assert sorted(got) == [
        *(f"batch_normalization.{leaf}" for leaf in ("bias", "running_mean", "running_var")),
        "batch_normalization.weight", "dense.bias", "dense.weight", "dense_1.bias",
        "dense_1.weight",
    ]  # fmt: skip
    np.testing.assert_array_equal(got["dense.weight"], kernel.T.astype(np.float16))
    np.testing.assert_array_equal(got["batch_normalization.running_mean"], mean)


@pytest.mark.parametrize("target", ["m.npz", "m.h5", "m.ckpt", "m.safetensors"])
def test_every_format_verifies_and_is_proved(source: Path, target: str, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    run(source, tmp_path / target, verify=True, report=report)
    recorded = read_report(report)
    assert prove(source, tmp_path / target, recorded=recorded).proved
    assert prove(source, tmp_path / target, ConvertOptions(recipes=(TORCH,))).proved
    assert not prove(source, tmp_path / target, ConvertOptions()).proved


def test_the_report_tells_each_tensor_of_the_source(source: Path, tmp_path: Path) -> None:
    content = run(source, tmp_path / "m.safetensors", digests=True).json()
    assert content["counts"] == {
        "written": 0, "transformed": 2, "renamed by rule": 6, "excluded": 21,
    }  # fmt: skip
    rows = {row["name"]: row for row in content["tensors"]}
    assert len(rows) == sum(content["counts"].values())
    assert rows["dense/kernel"]["action"] == "transformed"
    assert rows["dense/kernel"]["stored_name"] == "dense.weight"
    assert rows["dense/kernel"]["recipe"] == {
        "targets": ["dense.weight"], "rules": ["recipe:6"], "steps": ["transpose", "cast float16"],
    }  # fmt: skip
    assert rows["dense/kernel"]["digest"]
    assert rows["dense/bias"]["notes"] == ["`dense.bias` by recipe:13"]
    assert rows["global_step"]["notes"] == ["dropped by recipe:19"]
    assert len(content["changes"]) == 29
    assert content["changes"][0]["target"] == "batch_normalization.bias"


def test_a_dry_run_tells_types_after_dtype(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "m.npz", dry_run=True, dtypes=("bf16",))
    rows = {row["target"]: row for row in done.plan_rows()}
    assert rows["dense.bias"]["before"] == [{"dtype": "float32", "shape": [8]}]
    assert rows["dense.bias"]["after"] == {"dtype": "bfloat16", "shape": [8]}
    assert not (tmp_path / "m.npz").exists()


def test_averages_keep_the_names_of_the_source_in_the_account(source: Path, tmp_path: Path) -> None:
    content = run(source, tmp_path / "m.npz", ema="only").json()
    rows = {row["name"]: row for row in content["tensors"]}
    average = rows["dense/kernel/ExponentialMovingAverage"]
    assert (average["action"], average["stored_name"]) == ("transformed", "dense.weight")
    assert rows["dense/kernel"]["action"] == "excluded"
    assert sum(content["counts"].values()) == len(rows)


def test_files_lie_beside_a_folder_target(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out", target_format="safetensors", verify=True,
               write=ConvertOptions().write.__class__(folder=True))  # fmt: skip
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"layers": 2}
    assert not done.lossy
    assert prove(source, tmp_path / "out", ConvertOptions(recipes=(TORCH,))).proved


def test_without_a_folder_files_are_lost_and_it_is_said(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "m.safetensors")
    assert any("`config.json` of the recipe: the target is no folder" in str(note)
               for note in done.notes)  # fmt: skip
    with pytest.raises(LossError, match=r"would be lost: `config\.json`"):
        run(source, tmp_path / "n.safetensors", strict=True)


def test_a_file_that_the_target_has_is_not_replaced(source: Path, tmp_path: Path) -> None:
    text = TORCH.replace("config.json", "model.safetensors")
    with pytest.raises(UsageError, match="would replace a part of the target"):
        run(source, tmp_path / "out", text, target_format="safetensors",
            write=ConvertOptions().write.__class__(folder=True))  # fmt: skip


def test_what_a_cast_on_the_way_loses_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.array([[1e6, 1.0]], np.float32))
    text = """version = 1
[[rule]]
match = "w"
do = [{ cast = "f16" }, { transpose = true }]
"""
    done = run(tmp_path / "a.npz", tmp_path / "b.npz", text)
    assert any("of 2 values, 1 overflow as float16" in str(note) for note in done.notes)
    with pytest.raises(LossError):
        run(tmp_path / "a.npz", tmp_path / "c.npz", text, strict=True)
    assert not (tmp_path / "c.npz").exists()


def test_a_bad_recipe_stops_before_the_source_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^recipe:1: has no `version`"):
        run(tmp_path / "is not there", tmp_path / "m.npz", "about = 'x'")


def test_layers_select(samples: Path, tmp_path: Path) -> None:
    text = 'version = 1\n[[rule]]\nmatch = "**"\nlayer = "Dense"\ndrop = true\n'
    done = run(samples / "keras_archive" / "model.keras", tmp_path / "m.npz", text)
    gone = {row["name"] for row in done.json()["tensors"] if row["action"] == "excluded"}
    assert gone == {"d1/kernel", "d1/bias", "d2/kernel", "d2/bias"}


def test_tied_weights_follow(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a/w"] = np.arange(6.0).reshape(2, 3)
        file["b/w"] = file["a/w"]
    text = 'version = 1\n[[rule]]\nmatch = "{x}/w"\nrename = "{x}.w"\ntranspose = true\n'
    run(tmp_path / "a.h5", tmp_path / "b.safetensors", text, verify=True)
    with open_tensors(tmp_path / "b.safetensors") as tensors:
        assert sorted(tensors) == ["a.w", "b.w"]
        np.testing.assert_array_equal(tensors["b.w"].read(), np.arange(6.0).reshape(2, 3).T)
    assert len(load_file(tmp_path / "b.safetensors")) == 1


# Flags


def test_one_liners_are_rules(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('version = 1\n[parameters]\nn = "x"\n[[rule]]\n'
                                     'match = "{n}"\ndrop = true\n')  # fmt: skip
    texts = recipe_texts([str(tmp_path / "r.toml")], ["n=y"], ['match = "a=b", drop = true'],
                         ["{x}/c={x}.c"])  # fmt: skip
    assert texts == (
        "version = 1  # from r.toml\n"
        '\n[parameters]\nn = "y"  # from r.toml:3\n'
        '\n[[rule]]  # from r.toml:4, rule 1\nmatch = "{n}"\ndrop = true\n',
        "version = 1  # from command line\n"
        '\n[[rule]]  # from --rule, rule 1\nmatch = "a=b"\ndrop = true\n'
        '\n[[rule]]  # from --rename, rule 2\nmatch = "{x}/c"\nrename = "{x}.c"\n',
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (([], ["n"], [], []), "--set: no setting, expected NAME=VALUE, got `n`"),
        (([], [], ["drop"], []), "--rule: no rule, expected"),
        (([], [], ["drop = true }\nx = { y = 1"], []), "--rule: no rule, expected"),
        (([], [], ['match = "a"'], []), "--rule: rule 1: does nothing"),
        (([], [], [], ["a"]), "--rename: no renaming, expected PATTERN=NAME, got `a`"),
        (([], [], [], ["a={n}"]), "--rename: rule 1: rename: `{n}` is neither"),
    ],
)
def test_one_liners_that_are_none(words: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_texts(*words)
    assert caught.value.message.startswith(message)


# Batches


def test_a_batch_knows_the_recipe_by_its_text(samples: Path, tmp_path: Path) -> None:
    options = ConvertOptions(target_format="safetensors", recipes=(TORCH,))
    [job] = plan_jobs(samples / "tf1_adam_ema", tmp_path / "out", options).jobs
    assert work(job).counts["transformed"] == 2
    other = ConvertOptions(target_format="safetensors", recipes=(f"{TORCH}\n",))
    assert recipe_of(options) != recipe_of(other)


def test_a_list_names_recipes_by_their_files(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.toml").write_text(TORCH)
    row = {
        "source": str(samples / "tf1_adam_ema"),
        "target": "a.npz",
        "flags": {"recipes": ["torch.toml"]},
    }
    text = {"source": row["source"], "target": "b.safetensors", "flags": {"recipes": [TORCH]}}
    built = {"source": row["source"], "target": "c.safetensors",
             "flags": {"recipes": ["builtin:pytorch-names"]}}  # fmt: skip
    lines = "\n".join(map(json.dumps, (row, text, built)))
    (tmp_path / "list.jsonl").write_text(lines)
    options = ConvertOptions(target_format="safetensors")
    jobs = plan_list(tmp_path / "list.jsonl", tmp_path / "out", options).jobs
    counts = [work(job).counts for job in jobs]
    assert [each.get("transformed") for each in counts] == [2, 2, None]
    assert counts[2]["renamed by rule"] == 26
