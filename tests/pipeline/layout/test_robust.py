"""Real models of others, and damaged graphs: told, listed or refused, and never a crash."""

from __future__ import annotations

import csv
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import ConvertError
from tensorferry.pipeline.layout.apply import TARGETS, apply_layout
from tensorferry.pipeline.layout.known import known_uses

GRAPHS = {
    "saved_model_keras": "saved_model.pb",
    "saved_model_module": "saved_model.pb",
    "tf1_adam_ema": "model.ckpt-7.meta",
    "frozen_graph": "frozen.pb",
}
ROUNDS = 40
LIMIT_SECONDS = 30.0  # far beyond the half second that the slowest takes


def test_models_of_the_corpus(corpus: Path) -> None:
    with (corpus / "MANIFEST.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    known: dict[str, int] = {}
    for row in rows:
        try:
            tensors = open_tensors(corpus / "files" / row["local_dir"] / row["main_arg"])
        except ConvertError:
            continue  # what is wrong with it is the matter of other tests
        began = time.perf_counter()
        with tensors:
            uses = known_uses(tensors)
            for target in TARGETS:
                laid = apply_layout(tensors, target)
                assert not laid.told.known.keys() & laid.told.undecided.keys(), row["id"]
                told = {name for change in laid.rows for name in change.sources}
                assert told == set(tensors), row["id"]
        assert time.perf_counter() - began < LIMIT_SECONDS, row["id"]
        for use in uses.known.values():
            known[use.evidence.value] = known.get(use.evidence.value, 0) + 1
    assert known["config"] >= 290
    assert known["graph"] >= 190
    assert known["name pattern"] >= 100


@pytest.mark.parametrize("model", GRAPHS)
def test_damaged_graphs(tmp_path: Path, samples: Path, model: str) -> None:
    shutil.copytree(samples / model, tmp_path / "m")
    path = tmp_path / "m" / GRAPHS[model]
    whole = path.read_bytes()
    place = path if model == "frozen_graph" else tmp_path / "m"
    rng = random.Random(model)
    opened = 0
    for _ in range(ROUNDS):
        path.write_bytes(_damaged(whole, rng))
        began = time.perf_counter()
        try:
            with open_tensors(place) as tensors:
                for target in TARGETS:
                    apply_layout(tensors, target)
            opened += 1
        except ConvertError:
            pass
        assert time.perf_counter() - began < LIMIT_SECONDS
    assert opened


def _damaged(whole: bytes, rng: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 4))):
        at = rng.randrange(len(data))
        if rng.random() < 0.8:
            data[at] = rng.randrange(256)
        else:
            other, length = rng.randrange(len(data)), rng.randrange(1, 100)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", ["hub", "ladder", "fan"])
def test_graphs_that_lead_everywhere(tmp_path: Path, tensorflow: Any, shape: str) -> None:
    """Graphs made to be slow to follow: all is one hop from all."""
    tf = tensorflow
    graph = tf.compat.v1.GraphDef()

    def node(name: str, op: str, *inputs: str) -> None:
        made = graph.node.add(name=name, op=op, input=inputs)
        made.attr["T"].type = 1

    names = [f"w{number}/kernel" for number in range(500)]
    for name in names:
        made = graph.node.add(name=name, op="Const")
        made.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([[0.5, 0.25], [0.5, 1.0]]))
        made.attr["dtype"].type = 1
    node("x", "Placeholder")
    if shape == "hub":
        node("hub", "Pack", *names)
        for number in range(500):
            node(f"i{number}", "Identity", "hub")
            node(f"m{number}", "MatMul", "x", f"i{number}")
    elif shape == "ladder":
        last = names
        for level in range(6):
            rungs = [f"a{level}_{number}" for number in range(40)]
            for rung in rungs:
                node(rung, "ConcatV2", *last[:100])
            last = rungs
        node("m", "MatMul", *last[:2])
    else:
        for number in range(500):
            node(f"m{number}", "MatMul", *names[:100])
            node(f"b{number}", "BiasAdd", f"m{number}", *names[100:200])
    path = tmp_path / "g.pb"
    path.write_bytes(graph.SerializeToString())
    began = time.perf_counter()
    with open_tensors(path) as tensors:
        apply_layout(tensors, "torch")
    assert time.perf_counter() - began < LIMIT_SECONDS
