"""What formats know about a model besides its tensors: the same keys for the same facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.facts import fact_lines

SAMPLES = [
    "frozen_graph/frozen.pb", "hdf5_file/model.h5", "keras3_object", "keras_archive/model.keras",
    "keras_shards", "keras_weights", "max_shard_slices", "npz_file/model.npz",
    "safetensors_file", "saved_model_keras", "saved_model_module", "several_steps",
    "tf1_adam_ema", "tf1_multi_shard", "tf1_partitioned", "tf1_v1", "tf_keras_h5/model.h5",
    "tf_keras_object", "tf_module_object", "tfjs_graph", "tfjs_layers",
    "tflite_dense/model.tflite",
]  # fmt: skip


def documented() -> set[str]:
    """Return the keys that the user guide lists."""
    page = Path(__file__).resolve().parents[2] / "docs" / "guide" / "inspect.md"
    table = page.read_text().partition("a fact has the same key")[2].partition("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {key.strip("`") for row in rows for key in row.strip().split(", ")}


def lines(**details: object) -> list[str]:
    return list(fact_lines(TensorDict("made", "made", {}, details=details)))


@pytest.mark.parametrize("sample", SAMPLES)
def test_facts_of_all_formats_have_the_same_types(samples: Path, sample: str) -> None:
    with open_tensors(samples / sample) as tensors:
        details: dict[str, Any] = dict(tensors.details)
        shown = list(fact_lines(tensors))
    for key in ("producer", "producer_version", "kind", "model", "model_name"):
        assert isinstance(details.get(key, ""), str)
    for key in ("shards", "step"):
        assert isinstance(details.get(key, 0), int)
    for optimizer in details.get("optimizers", ()):
        assert set(optimizer) == {"kind", "parameters"}
    for signature in details.get("signatures", {}).values():
        assert set(signature) == {"method", "inputs", "outputs"}
    assert set(details) <= documented()
    facts = ("producer", "kind", "shards", "step", "optimizers", "signatures")
    assert bool(shown) == any(details.get(key) for key in facts)
    assert all(line.isprintable() for line in shown)


def test_who_wrote_it_and_with_which_optimizer(samples: Path) -> None:
    with open_tensors(samples / "tf_keras_h5" / "model.h5") as tensors:
        shown = list(fact_lines(tensors))
    assert shown[0].startswith("producer   Keras 2.")
    assert shown[1:3] == ["kind       full model", "model      Functional model"]
    assert shown[3].startswith("optimizer  Adam: ")


def test_a_graph_tells_the_optimizer_and_its_constants(samples: Path) -> None:
    with open_tensors(samples / "tf1_adam_ema") as tensors:
        assert tensors.details["step"] == 7
        assert list(tensors.details["optimizers"]) == [  # type: ignore[call-overload]
            {
                "kind": "Adam",
                "parameters": {
                    "learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-08,
                },
            }
        ]  # fmt: skip
        assert "step       7" in list(fact_lines(tensors))
    with open_tensors(samples / "tf1_v1") as tensors:
        assert tensors.details["optimizers"] == (
            {"kind": "Momentum", "parameters": {"learning_rate": 0.1, "momentum": 0.9}},
        )


def test_signatures_of_a_tflite_model_have_types_and_shapes(samples: Path) -> None:
    with open_tensors(samples / "tflite_dense" / "model.tflite") as tensors:
        shown = list(fact_lines(tensors))
    [line] = [each for each in shown if each.startswith("signature")]
    assert line.startswith("signature serving_default: x float32[")
    assert " -> " in line


def test_parameters_are_short() -> None:
    parameters = {
        "a": 1, "b": None, "c": 1 / 3, "d": True, "e": {"class_name": "CosineDecay", "config": {}},
        "f": "sum", "g": [0.1, 0.2], "h": {}, "i": False, "j": 2, "k\n": 3,
    }  # fmt: skip
    shown = lines(optimizers=[{"kind": "A\x1b", "parameters": parameters}], shards=3)
    assert shown == [
        "shards     3",
        r"optimizer  A\x1b: a 1, c 0.333333, d on, e CosineDecay, f sum, g ..., h ..., i off, "
        "2 more",
    ]
    assert lines(optimizers=[{"kind": "SGD", "parameters": {}}]) == ["optimizer  SGD"]
    assert lines() == []
