"""What is shown of differences: layers, numbers, pages, and how a run moved."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.converters.tensors import Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.diff import Difference, Tolerance, Verdict, compare
from tensorferry.pipeline.diff_output import (
    differences_json,
    differences_table,
    layers_of,
    layers_table,
    summary,
)
from tensorferry.pipeline.over import Course, parse_steps
from tensorferry.pipeline.tables import plain

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
Arrays = dict[str, np.ndarray]


def shown(first: Arrays, second: Arrays) -> tuple[list[Difference], TensorDict, TensorDict]:
    models = tensors_of(first), tensors_of(second)
    return compare(*models, Tolerance(), 1), *models


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, "diff", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


# Layers


def test_a_layer_is_the_name_up_to_the_last_slash_or_dot() -> None:
    ones = np.ones(4)
    slashes = layers_of(*shown({"a/b/k": ones, "a/b/c.d": ones, "x.y": ones}, {}))
    assert list(slashes) == ["a/b", ""]
    dots = layers_of(*shown({"a.b.k": ones, "a.b.l": ones, "x": ones}, {}))
    assert list(dots) == ["a.b", ""]


def test_layers_count_elements_that_have_a_counterpart() -> None:
    first = {"l/k": np.zeros((2, 3)), "l/b": np.zeros(4), "l/gone": np.zeros(9), "m/k": np.ones(2)}
    second = {"l/k": np.eye(2, 3), "l/b": np.zeros(4), "m/k": np.ones(3)}
    layers = layers_of(*shown(first, second))
    assert (layers["l"].tensors, layers["l"].differ, layers["l"].size) == (3, 2, 10)
    assert (layers["l"].share, layers["l"].most) == (0.2, 1.0)
    assert (layers["m"].tensors, layers["m"].size, layers["m"].share) == (1, 0, None)


def test_layers_where_nothing_differs_are_shown_on_demand() -> None:
    layers = layers_of(*shown({"a/k": np.ones(2), "b/k": np.ones(2)}, {"a/k": np.ones(2)}))
    few, every = (layers_table(layers, every=each) for each in (False, True))
    assert [name for _, name, _ in few.rows] == ["b", "all layers"]
    assert [name for _, name, _ in every.rows] == ["a", "b", "all layers"]


# Numbers


@pytest.mark.parametrize(
    ("changed", "size", "text"),
    [
        (1, 1, "100 %"), (1, 3, "33.3 %"), (9999, 10000, ">99.9 %"), (999, 1000, "99.9 %"),
        (1, 20000, "<0.01 %"), (2, 10000, "0.02 %"),
    ],
)  # fmt: skip
def test_shares_say_all_and_nothing_of_nothing_else(changed: int, size: int, text: str) -> None:
    b = np.zeros(size)
    b[:changed] = 1
    cells = differences_table(*shown({"x": np.zeros(size)}, {"x": b})).rows[0][2]
    assert text in cells


def test_what_is_no_number_is_null_in_json() -> None:
    content = differences_json(*shown({"x": np.zeros(2)}, {"x": np.array([np.inf, 1])}))
    [row] = json.loads(json.dumps(content, allow_nan=False))["tensors"]
    assert (row["most"], row["relative"], row["cosine"], row["share"]) == (1.0, None, None, 1.0)
    assert row["text"] == "1 with NaN or infinity"


def test_names_from_files_are_shown_printable() -> None:
    found = shown({"a/\x1b[31m": np.ones(2)}, {"b/\n": np.ones(2)})
    text = "\n".join(plain(differences_table(*found)))
    assert "a/\\x1b[31m -> b/\\n" in text


def test_nothing_to_compare_is_said() -> None:
    assert summary([]) == "0 tensors: nothing to compare"
    assert summary([Difference("x", Verdict.SAME)]) == "1 tensor: 1 same"


# Over time


def course(*models: TensorDict) -> Course:
    found = Course(range(len(models)))
    for before, after in pairwise(models):
        found.add(before, after, 2)
    return found


def test_a_layer_moves_as_all_its_tensors_together() -> None:
    rng = np.random.default_rng(1)
    steps: list[Arrays] = [
        {"l/k": rng.normal(size=(3, 4)), "l/b": rng.normal(size=4)} for _ in range(3)
    ]
    content = course(*map(tensors_of, steps)).json()
    whole = [np.concatenate([each.ravel() for each in step.values()]) for step in steps]
    moved = [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairwise(whole)]
    [layer] = content["layers"]
    assert layer["relative"] == pytest.approx(moved)
    assert [row["name"] for row in content["tensors"]] == ["l/k", "l/b"]


def test_what_stands_still_is_the_same() -> None:
    model = tensors_of({"l/k": np.ones(3), "text": [b"a"]})
    assert course(model, model).same
    assert not course(model, tensors_of({"l/k": np.ones(3)})).same
    assert not course(model, tensors_of({"l/k": np.ones(3) * 2, "text": [b"a"]})).same


def test_counters_do_not_drown_what_moved() -> None:
    def model(step: int) -> TensorDict:
        values = tensors_of({"k": np.full(3, float(step)), "step": np.array(step * 10**6)})
        origins = {"step": Origin("step", Role.COUNTER)}
        return TensorDict("memory", "", values.tensors, origins)

    content = course(model(1), model(2)).json()
    assert [row["name"] for row in content["tensors"]] == ["k"]


def test_a_layer_that_became_nan_has_no_number() -> None:
    found = course(tensors_of({"l/k": np.ones(3)}), tensors_of({"l/k": np.array([1, 2, np.nan])}))
    assert found.table(every=False).rows[0][1:] == ("l", ("nan",))
    assert found.json()["layers"] == [{"name": "l", "relative": [None], "odd": [1]}]


def test_steps_that_have_no_tensor_in_common_show_a_dash() -> None:
    one, two = tensors_of({"l/k": np.ones(3)}), tensors_of({"m/k": np.ones(3)})
    found = course(one, two, two, one)
    assert found.table(every=False).rows[0][1:] == ("m", ("-", "0", "-"))
    assert found.apart == [["l/k", "m/k"], [], ["m/k", "l/k"]]


def test_a_layer_that_was_zero_moved_infinitely() -> None:
    found = course(tensors_of({"k": np.zeros(3)}), tensors_of({"k": np.ones(3)}))
    assert found.table(every=False).rows[0][2] == (f"{math.inf:.3g}",)


@pytest.mark.parametrize(
    ("words", "steps"),
    [(["1,2"], [1, 2]), (["3", "1"], [3, 1]), (["1, 2", "5"], [1, 2, 5]), (["all"], None)],
)
def test_steps_are_parsed(words: list[str], steps: list[int] | None) -> None:
    assert parse_steps(words) == steps


@pytest.mark.parametrize("words", [["1"], ["1,"], ["1,all"], ["-1,2"], ["1,²"], [""]])
def test_other_words_are_no_steps(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse_steps(words)


# The command line


def test_a_page_is_written(tmp_path: Path, samples: Path) -> None:
    pytest.importorskip("jinja2", reason="pages need the extra `report`")
    pytest.importorskip("plotly", reason="pages need the extra `report`")
    paths = str(samples / "tf_keras_object" / "ckpt-1"), str(samples / "keras_archive/model.keras")
    done = run(tmp_path, *paths, "--html", "page.html")
    assert done.returncode == 1
    assert done.stderr.endswith("page.html: a page to open in a browser\n")
    assert "adam/d1_kernel_momentum" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_child_process_reads_the_same(tmp_path: Path, samples: Path) -> None:
    words = [str(samples / "hdf5_file" / "model.h5")] * 2
    plain_run, isolated = run(tmp_path, *words), run(tmp_path, *words, "--isolate")
    assert (isolated.returncode, isolated.stdout) == (0, plain_run.stdout)


def test_weights_alone_are_compared_on_demand(tmp_path: Path, samples: Path) -> None:
    paths = str(samples / "tf_keras_object" / "ckpt-1"), str(samples / "keras_archive/model.keras")
    done: dict[str, Any] = json.loads(run(tmp_path, *paths, "--weights-only", "--json").stdout)
    assert done["counts"] == {"changed": 8}


def test_threads_do_not_change_what_is_printed(tmp_path: Path, samples: Path) -> None:
    paths = str(samples / "tf1_adam_ema"), str(samples / "tf1_v1" / "model.ckpt-7")
    one, four = (run(tmp_path, *paths, "-v", "--jobs", each).stdout for each in ("1", "4"))
    assert one == four
