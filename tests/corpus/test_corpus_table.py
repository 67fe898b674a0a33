"""Every real model of the corpus, converted to safetensors by its own keys, against its oracle.

`TENSORFERRY_CORPUS_TABLE=FILE` stores what the run found as a table.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.errors import ConvertError
from tensorferry.pipeline.convert import ConvertOptions, convert

FORMATS = {
    "ckpt_v1": "tf-checkpoint-v1", "ckpt_v2": "tf-checkpoint", "ckpt_object": "tf-checkpoint",
    "frozen_pb": "frozen-graph", "keras_h5": "keras-h5", "keras_v3": "keras-v3",
    "keras_weights_h5": "keras-v3", "saved_model": "saved-model", "tfjs": "tfjs",
    "tflite": "tflite",
}  # fmt: skip
# Exit code and a part of the message of what cannot be converted.
DAMAGED = {
    "bad-mmdnn-ir-not-tf": (3, "a graph of another kind than TensorFlow's"),
    "bad-sullychen-meta-only": (3, "the checkpoint has no index"),
    "bad-t5x-missing-shard": (4, "data shard is missing"),
}
BY_KEY = ReadOptions(names="key")


class Row(NamedTuple):
    """What became of a model."""

    name: str
    format: str
    tensors: int
    result: str


def _manifest() -> list[dict[str, str]]:
    usual = Path(__file__).resolve().parents[3] / "shared" / "corpus"
    path = Path(os.environ.get("TENSORFERRY_CORPUS", usual)) / "MANIFEST.tsv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


ROWS = {row["id"]: row for row in _manifest()}


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    target = os.environ.get("TENSORFERRY_CORPUS_TABLE")
    if target:
        lines = ["| model | read as | tensors | result |", "|---|---|---|---|"]
        lines += [f"| {row.name} | {row.format} | {row.tensors} | {row.result} |" for row in rows]
        Path(target).write_text("\n".join(lines) + "\n")


def _digests(path: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    found = {}
    with open_tensors(path) as tensors:
        for name, tensor in tensors.items():
            if not tensor.spec.dtype.variable:
                state = hashlib.sha256()
                for chunk in tensor.chunks():
                    state.update(chunk)
                found[name] = (tensor.spec.dtype.label, tensor.spec.shape, state.hexdigest())
    return found


def test_the_corpus_is_complete(corpus: Path) -> None:
    assert len(ROWS) >= 62, corpus
    assert {row["format"] for row in ROWS.values()} == {*FORMATS, "corrupt"}
    assert {name for name, row in ROWS.items() if row["format"] == "corrupt"} == set(DAMAGED)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in DAMAGED])
def test_a_model_of_the_corpus_is_converted(
    name: str, corpus: Path, tmp_path: Path, table: list[Row]
) -> None:
    row = ROWS[name]
    place = corpus / "files" / row["local_dir"] / row["main_arg"]
    content = json.loads((corpus / "oracle" / f"{name}.json").read_text())
    # A SavedModel without variables gives its constants.
    oracle = content["tensors"] or content.get("graph_consts", {})
    target = tmp_path / "out.safetensors"

    done = convert(place, target, ConvertOptions(read=BY_KEY, verify=True))

    assert done.source.format == FORMATS[row["format"]]
    expected = {key: (dtype, tuple(shape), sha) for key, (dtype, shape, sha) in oracle.items()}
    found = _digests(target)
    assert found == expected
    table.append(Row(name, done.source.format, len(found), "equal"))


@pytest.mark.parametrize("name", [name for name in DAMAGED if name in ROWS])
def test_a_damaged_model_of_the_corpus_is_refused(
    name: str, corpus: Path, tmp_path: Path, table: list[Row]
) -> None:
    row = ROWS[name]
    place = corpus / "files" / row["local_dir"] / row["main_arg"]
    code, text = DAMAGED[name]

    with pytest.raises(ConvertError) as caught:
        convert(place, tmp_path / "out.safetensors", ConvertOptions(read=BY_KEY))

    error = caught.value
    message = error.message.removeprefix(f"{error.path}: ")
    table.append(Row(name, "", 0, f"exit {error.exit_code}: {message}"))
    assert error.exit_code == code
    assert text in error.message
    assert error.hint
    assert not list(tmp_path.iterdir())
