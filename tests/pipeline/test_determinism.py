"""The same input and flags give the same bytes: with any number of threads, in any process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters.containers.wire import message
from tensorferry.converters.copier import PIECE_BYTES
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, all_formats, format_named
from tensorferry.converters.testing.contracts import Values, listing, tensors_of

# Runs all cases in one process, with threads for small files too.
PROGRAM = """
import json, sys
from tensorferry.converters import copier
from tensorferry.pipeline.cli import app
copier.THREAD_FLOOR_BYTES = 0
for case, words in json.loads(sys.argv[1]).items():
    print(case, file=sys.stderr)
    code = app(words, prog_name="convert", standalone_mode=False)
    if code:
        sys.exit(f"{case}: exit code {code}")
"""
RUNS = {1: "11", 2: "22", 4: "33"}  # number of threads: seed of the process's hashes
UNITS = [900, 800, 300, 30, 20, 10]
# Format, name of the target, flags. Each format that is written is here, with all that makes its
# writer go another way.
CASES = {
    "safetensors": ("safetensors", "m.safetensors", ""),
    "safetensors in shards": ("safetensors", "m/", "--max-shard-size 2MB"),
    "npz": ("npz", "m.npz", ""),
    "npz, compressed": ("npz", "m.npz", "--compress --include dense_[345]/*"),
    "hdf5": ("hdf5", "m.h5", "--provenance"),
    "hdf5, compressed": ("hdf5", "m.h5", "--compress --flat --include dense_[345]/*"),
    "tf-checkpoint": ("tf-checkpoint", "m.ckpt", "--max-shard-size 2MB"),
    "tf-checkpoint with objects": ("tf-checkpoint", "m.ckpt", "--object-based"),
    "tf-checkpoint like another": ("tf-checkpoint", "m.ckpt", "--layout-of objects"),
    "saved-model": ("saved-model", "m/", "--template template"),
    "keras-v3": ("keras-v3", "m.keras", "--config config.json"),
    "keras-v3 weights": ("keras-v3", "m.weights.h5", "--config config.json"),
    "keras-v3 in shards": (
        "keras-v3", "m.weights.json", "--config config.json --max-shard-size 2MB",
    ),
    "keras-h5": ("keras-h5", "m.h5", "--config config.json"),
    "cast": ("safetensors", "m.safetensors", "--dtype f16 --dtype dense_0/*=bf16"),
    "cast to eight bits": ("npz", "m.npz", "--dtype f8e4m3"),
    "updated": ("safetensors", "m.safetensors", "--update update.npz --verify=sample"),
}  # fmt: skip


def weights() -> dict[str, Values]:
    """Return the weights of a model of which a thread gets several pieces."""
    random = np.random.default_rng(0)
    values: dict[str, Values] = {}
    for number, (inputs, outputs) in enumerate(pairwise(UNITS)):
        shape = (inputs, outputs)
        values[f"dense_{number}/kernel"] = random.standard_normal(shape, np.float32)
        values[f"dense_{number}/bias"] = random.standard_normal(outputs, np.float32)
    return values


def config() -> dict[str, object]:
    """Return the config of a Keras model of these weights."""
    inputs = {"name": "in", "batch_shape": [None, UNITS[0]], "dtype": "float32"}
    layers: list[dict[str, object]] = [{"class_name": "InputLayer", "config": inputs}]
    layers += [
        {"class_name": "Dense", "config": {"name": f"dense_{n}", "units": units, "use_bias": True}}
        for n, units in enumerate(UNITS[1:])
    ]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "sequential", "layers": layers},
        "registered_name": None,
    }


def store(name: str, values: Mapping[str, Values], path: Path, **options: bool) -> None:
    plan = format_named(name).plan
    assert plan
    path.parent.mkdir(parents=True, exist_ok=True)
    write_plan(plan(tensors_of(values), path, WriteOptions(**options)))


def prepare(folder: Path) -> None:
    """Make a source and what the flags name."""
    values = weights()
    sizes = [np.asarray(value).nbytes for value in values.values()]
    assert max(sizes) > 2 * PIECE_BYTES
    store("tf-checkpoint", values, folder / "source" / "m.ckpt")
    store("tf-checkpoint", values, folder / "objects" / "m.ckpt", object_based=True)
    store("npz", {"dense_4/bias": np.ones(UNITS[-1], np.float32)}, folder / "update.npz")
    (folder / "config.json").write_text(json.dumps(config()))
    template = folder / "template"
    store("tf-checkpoint", values, template / "variables" / "variables")
    (template / "variables" / "checkpoint").unlink()
    graph = message((1, message((4, b"serve"), (5, b"1.15.0"))))
    (template / "saved_model.pb").write_bytes(message((1, 1), (2, graph)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds for each number of threads the outputs of all cases."""
    folder = tmp_path_factory.mktemp("determinism")
    prepare(folder)
    for jobs, seed in RUNS.items():
        commands = {}
        for number, (case, (name, target, flags)) in enumerate(CASES.items()):
            (folder / f"{jobs}" / f"{number}").mkdir(parents=True)
            words = ["source", f"{jobs}/{number}/{target}", "--to", name, "--jobs", f"{jobs}"]
            commands[case] = [*words, *flags.split()]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


def test_every_format_that_is_written_is_tried() -> None:
    tried = {name for name, _, _ in CASES.values()}
    assert tried == {each.name for each in all_formats() if each.plan}


@pytest.mark.parametrize("number", range(len(CASES)), ids=list(CASES))
def test_the_same_input_gives_the_same_bytes(folder: Path, number: int) -> None:
    first, *others = (hashes(folder / f"{jobs}" / f"{number}") for jobs in RUNS)
    assert first
    assert all(other == first for other in others)


def hashes(folder: Path) -> dict[str, str]:
    files = listing(folder).items()
    return {path: hashlib.sha256(data).hexdigest() for path, data in files}
