"""Real models that nobody here wrote: nothing is found in them but what is truly there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.errors import NotRecognisedError
from tensorferry.converters.findings import Level
from tensorferry.pipeline.check import check

# What is wrong with some rows: half of a checkpoint is missing, ...
FAULTS = {"bad-t5x-missing-shard": {("integrity/missing-data", "error")}}
# ... and the graph of a training reads its data from a folder of whoever trained it.
RISKS = {"v2-g2p-ckpt100-3shards": {("security/data-op", "warning")}}
FOREIGN = {"bad-mmdnn-ir-not-tf", "bad-sullychen-meta-only"}


def _places(corpus: Path) -> dict[str, Path]:
    with (corpus / "MANIFEST.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {row["id"]: corpus / "files" / row["local_dir"] / row["main_arg"] for row in rows}


@pytest.mark.parametrize("security", [False, True])
def test_the_corpus_is_clean(corpus: Path, *, security: bool) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    places = _places(corpus)
    for name in sorted(set(places) - FOREIGN):
        with open_tensors(places[name]) as tensors:
            found = check(str(places[name]), tensors, ReadOptions(), 2, security=security)
        grave = {
            (each.rule, each.level.value) for each in found.findings if each.level is not Level.NOTE
        }
        if grave:
            seen[name] = grave
    assert seen == (FAULTS | RISKS if security else FAULTS)


@pytest.mark.parametrize("name", sorted(FOREIGN))
def test_what_is_no_model_is_not_recognised(corpus: Path, name: str) -> None:
    with pytest.raises(NotRecognisedError):
        open_tensors(_places(corpus)[name])
