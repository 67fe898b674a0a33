"""Real checkpoints that nobody here wrote: read, converted to every format, and read back."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.errors import CorruptFileError, NotRecognisedError
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, all_formats, format_for_target
from tensorferry.converters.tensors import TensorDict

# The ids of the manifest's rows of the formats `ckpt_v2` and `ckpt_object`; a test below compares.
CHECKPOINTS = [
    "obj-keras-lso-tf22",
    "obj-sonnet-batch-norm-scale-offset",
    "obj-sonnet-dropout",
    "obj-sonnet-ema-2",
    "obj-sonnet-embed-100-100",
    "obj-sonnet-trainable-state",
    "v2-g2p-ckpt0-201711",
    "v2-g2p-ckpt10-2shards",
    "v2-g2p-ckpt100-3shards",
    "v2-g2p-model-nometa",
    "v2-kipoi-iris",
    "v2-serving-half-plus-two",
    "v2-tf2onnx-regression",
]
# Those whose names come from the tensors alone.
WRITERS = [
    each for each in all_formats() if each.plan and not each.options & {"config", "template"}
]

Digests = dict[str, tuple[str, tuple[int, ...], str]]


def _rows(corpus: Path) -> dict[str, dict[str, str]]:
    with (corpus / "MANIFEST.tsv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def _place(corpus: Path, name: str) -> Path:
    row = _rows(corpus)[name]
    return corpus / "files" / row["local_dir"] / row["main_arg"]


def _oracle(corpus: Path, name: str) -> Digests:
    content: dict[str, Any] = json.loads((corpus / "oracle" / f"{name}.json").read_text())
    return {
        key: (dtype, tuple(shape), digest)
        for key, (dtype, shape, digest) in content["tensors"].items()
    }


def _digests(tensors: TensorDict) -> Digests:
    """Return dtype, shape and SHA-256 by name, of all but strings, which the oracle leaves out."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.spec.dtype.variable or name in tensors.broken:
            continue
        state = hashlib.sha256()
        for chunk in tensor.chunks():
            state.update(chunk)
        found[name] = (tensor.spec.dtype.label, tensor.spec.shape, state.hexdigest())
    return found


def test_every_checkpoint_of_the_corpus_is_tried(corpus: Path) -> None:
    formats = ("ckpt_v2", "ckpt_object")
    assert sorted(CHECKPOINTS) == sorted(
        name for name, row in _rows(corpus).items() if row["format"] in formats
    )


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_holds_what_tensorflow_reads(corpus: Path, name: str) -> None:
    with open_tensors(_place(corpus, name), ReadOptions(names="key")) as tensors:
        assert tensors.format == "tf-checkpoint"
        assert not tensors.broken
        assert _digests(tensors) == _oracle(corpus, name)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_has_a_readable_name_for_every_key(corpus: Path, name: str) -> None:
    with open_tensors(_place(corpus, name)) as tensors:
        keys = [tensors.origin(each).key for each in tensors]
    assert set(keys) >= set(_oracle(corpus, name))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("ending", [ending for each in WRITERS for ending in each.extensions])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_converted(corpus: Path, tmp_path: Path, name: str, ending: str) -> None:
    target = tmp_path / f"out{ending}"
    plan = format_for_target(target).plan
    assert plan
    with open_tensors(_place(corpus, name), ReadOptions(names="key")) as tensors:
        planned = plan(tensors, target, WriteOptions())
        write_plan(planned)
        names = set(tensors)
    assert planned.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    kept = planned.read_back is not None  # the keys, that is
    with open_tensors(target, ReadOptions(names="key" if kept else "readable")) as found:
        assert set(found) == names
        assert _digests(found) == _oracle(corpus, name)


@pytest.mark.parametrize("name", ["obj-sonnet-ema-2", "obj-sonnet-batch-norm-scale-offset"])
def test_snappy_indexes_are_among_them(corpus: Path, name: str) -> None:
    assert "snappy" in _rows(corpus)[name]["oddities"]
    assert (corpus / "oracle" / f"{name}.json").is_file()


# What is damaged


def test_a_missing_shard_costs_what_lies_there(corpus: Path) -> None:
    place = _place(corpus, "bad-t5x-missing-shard")
    with open_tensors(place, ReadOptions(names="key")) as tensors:
        assert set(tensors) - set(tensors.broken) == {"global_step"}
        assert len(tensors) > 1
        assert _digests(tensors) == _oracle(corpus, "bad-t5x-missing-shard")
        for error in tensors.broken.values():
            assert isinstance(error, CorruptFileError)
            assert error.what == "data shard is missing"
            assert (error.path or "").endswith("model.ckpt-0.data-00001-of-00002")


@pytest.mark.parametrize("pointed", ["model.ckpt", "model.ckpt.meta", "checkpoint", "."])
def test_a_graph_without_weights_is_not_recognised(corpus: Path, pointed: str) -> None:
    folder = _place(corpus, "bad-sullychen-meta-only").parent
    with pytest.raises(NotRecognisedError) as caught:
        open_tensors(folder / pointed)
    assert caught.value.message


def test_another_framework_is_not_recognised(corpus: Path) -> None:
    with pytest.raises(NotRecognisedError) as caught:
        open_tensors(_place(corpus, "bad-mmdnn-ir-not-tf"))
    assert caught.value.path
