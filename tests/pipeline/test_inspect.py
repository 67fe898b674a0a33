from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline.console import human
from tensorferry.pipeline.inspect import inventory, table, values


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


def test_the_inventory_reads_no_tensor_data(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "several_steps").iterdir():
        data = b"\0" * path.stat().st_size if ".data-" in path.name else path.read_bytes()
        (tmp_path / path.name).write_bytes(data)
    with open_tensors(tmp_path / "model.ckpt-10") as tensors:
        assert len(inventory(tensors)["tensors"]) == 3
        assert "3 tensors" in list(table(tensors))[-1]


def test_values_are_those_of_the_tensor(samples: Path, truth: ModuleType) -> None:
    with open_tensors(samples / "several_steps", ReadOptions(step=20)) as tensors:
        head, *rest = values(tensors, "dense/bias")
    assert head == "dense/bias  float32  3"
    expected = truth.expected("dense/bias", "float32", (3,))
    assert np.array_equal(np.fromstring(rest[0].strip("[]"), sep=" ", dtype=np.float32), expected)


def test_an_unknown_name_gets_the_nearest(samples: Path) -> None:
    with (
        open_tensors(samples / "several_steps") as tensors,
        pytest.raises(UsageError, match="did you mean `dense/kernel`"),
    ):
        list(values(tensors, "dense/kernl"))


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1340, "1.34 kB"),
        (5 * 10**9, "5 GB"),
        (10**16, "1e+04 TB"),
    ],
)
def test_sizes_for_people(nbytes: int, text: str) -> None:
    assert human(nbytes) == text
