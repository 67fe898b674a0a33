"""Real models of the corpus are packaged, verified, and hold what their oracle says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.digests import digest
from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.rebuild import rebuild
from tensorferry.pipeline.package.verify import verify_package

KINDS = [
    "ckpt_object", "ckpt_v1", "ckpt_v2", "frozen_pb", "keras_h5", "keras_v3", "keras_weights_h5",
    "saved_model", "tfjs", "tflite",
]  # fmt: skip
LARGEST = 3_000_000


def _smallest(corpus: Path, kind: str) -> list[Path]:
    """Return the three smallest models of a kind that can be read."""
    with (corpus / "MANIFEST.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["format"] == kind]
    fitting = [row for row in rows if row["oracle_ok"] == "yes" and int(row["bytes"]) <= LARGEST]
    fitting.sort(key=lambda row: int(row["bytes"]))
    return [corpus / "files" / row["local_dir"] / row["main_arg"] for row in fitting[:3]]


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_each_kind(kind: str, corpus: Path, tmp_path: Path) -> None:
    sources = _smallest(corpus, kind)
    assert sources
    for number, source in enumerate(sources):
        package = tmp_path / str(number)
        options = PackageOptions(ConvertOptions(weights_only=True, exclude=()))
        build_package(source, package, options)
        assert verify_package(package, jobs=2).problems == ()
        assert rebuild(package, str(source), PackageOptions()).problems == ()
        found = json.loads((package / "manifest.json").read_text())
        tensors = found["variants"][0]["tensors"]
        with open_tensors(source) as model:
            assert sum(found["accounting"]["counts"][""].values()) == len(model)
            for name in list(tensors)[:50]:
                assert tensors[name]["digest"] == digest(model[name])
