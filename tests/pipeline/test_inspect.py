from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.tensors import Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline.console import human
from tensorferry.pipeline.inspect import inventory, inventory_text
from tensorferry.pipeline.tables import plain, table, tree


def test_the_inventory_is_json_and_complete(samples: Path) -> None:
    with open_tensors(samples / "tf_keras_object") as tensors:
        found = json.loads(json.dumps(inventory(tensors)))
        names = list(tensors)
    assert [row["name"] for row in found["tensors"]] == names
    assert found["totals"]["tensors"] == len(names)
    assert found["totals"]["bytes"] == sum(row["bytes"] for row in found["tensors"])
    assert found["totals"]["roles"]["optimizer slot"] == 12
    owners = {row["name"]: row.get("owner") for row in found["tensors"]}
    assert owners["Adam/d1/kernel/m"] == "d1/kernel"


def test_the_inventory_says_what_is_known_and_how(samples: Path) -> None:
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        found = inventory(tensors)
    rows = {row["name"]: row for row in found["tensors"]}
    slot = rows["dense/kernel/Adam_1"]
    assert (slot["role"], slot["owner"], slot["slot"]) == ("optimizer slot", "dense/kernel", "v")
    assert (slot["trainable"], slot["evidence"]) == (False, "graph")
    assert rows["dense/kernel"]["trainable"] is True
    assert sum(found["totals"]["role_bytes"].values()) == found["totals"]["bytes"]


def test_a_tree_has_a_row_per_tensor_and_sums_per_layer(samples: Path) -> None:
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        lines = [line.split() for line in plain(tree(tensors))]
    assert ["dense/", "8", "tensors", "640"] in lines
    assert ["kernel/", "3", "tensors", "384"] in lines
    assert ["Adam_1", "optimizer", "slot", "v", "float32", "4x8", "128"] in lines
    assert ["12", "tensors", "optimizer", "slot", "664"] in lines
    assert lines[-1] == ["29", "tensors", "1,408"]


def test_layers_that_hold_one_layer_are_one_and_dots_are_layers_too(
    make_tensors: Callable[[Mapping[str, Values]], TensorDict],
) -> None:
    names = ["a.b.c", "a.b.d", "e"]
    lines = [line.split() for line in plain(tree(make_tensors({name: [b"x"] for name in names})))]
    assert [line[0] for line in lines] == ["name", "e", "a.b.", "c", "d", "3"]
    deep = "/".join("n" * 5000)
    assert len(tree(make_tensors({deep: [b"x"], f"{deep}/m": [b"y"]})).rows) < 80


def test_frozen_weights_and_what_cannot_be_read_are_marked(
    make_tensors: Callable[[Mapping[str, Values]], TensorDict],
) -> None:
    frozen = Origin("w", Role.WEIGHT, None, False)
    tensors = replace(
        make_tensors({"w": [b"x"]}), origins={"w": frozen}, broken={"w": CorruptFileError("gone")}
    )
    assert "weight, not trained, not readable" in list(plain(table(tensors)))[1]


def test_the_inventory_reads_no_tensor_data(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "several_steps").iterdir():
        data = b"\0" * path.stat().st_size if ".data-" in path.name else path.read_bytes()
        (tmp_path / path.name).write_bytes(data)
    with open_tensors(tmp_path / "model.ckpt-10") as tensors:
        assert len(inventory(tensors)["tensors"]) == 3
        assert "3 tensors" in list(plain(table(tensors)))[-1]


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1340, "1.34 kB"),
        (5 * 10**9, "5 GB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (10**16, "1e+04 TB"),
    ],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert human(nbytes) == text


@pytest.mark.parametrize(
    "sample", ["tf_keras_object", "all_dtypes/bundle", "tf1_adam_ema", "keras3_object", "tf1_v1"]
)
def test_the_inventory_as_text_is_the_same(samples: Path, sample: str) -> None:
    with open_tensors(samples / sample) as tensors:
        text = "".join(inventory_text(tensors))
        assert json.loads(text) == json.loads(json.dumps(inventory(tensors)))


def test_the_inventory_as_text_tells_what_is_broken(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        if "data-00001" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_tensors(tmp_path) as tensors:
        text = "".join(inventory_text(tensors))
        assert json.loads(text) == json.loads(json.dumps(inventory(tensors)))
    assert text.count('"error"') == 2
