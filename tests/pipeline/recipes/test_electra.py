"""ELECTRA of google-research, both of its models from one checkpoint, to `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ferry, Load
from .encoders import LAYERS, WIDTH, WORDS, assert_close, embedded, gelu, layer, outputs
from .graphs import Graph, Saved, saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

EMBEDDING, SMALL = 32, 64


def encoder(graph: Graph, x: Any, name: str, width: int) -> Any:
    with graph.scope(name):
        if int(x.shape[-1]) != width:
            x = graph.dense(x, width, "embeddings_project")
        for number in range(LAYERS):
            with graph.scope(f"encoder/layer_{number}"):
                x = layer(graph, x, width)
    return x


def model(embedding: int, shared: bool = True) -> Any:
    """Return what builds generator and discriminator, on one table of words or on two."""

    def pretraining(graph: Graph) -> list[Any]:
        tf = graph.tf
        with graph.scope("electra"):
            words, x = embedded(graph, embedding)
        judged = encoder(graph, x, "electra", WIDTH)
        with graph.scope("discriminator_predictions"):
            changed = gelu(graph, graph.dense(judged, WIDTH))
            judgement = graph.dense(changed, 1, "dense_1")[..., 0]
        if not shared:
            with graph.scope("generator"):
                words, x = embedded(graph, embedding)
        made = encoder(graph, x, "generator", SMALL)
        with graph.scope("generator_predictions"):
            graph.variable("temperature")
            changed = graph.norm(gelu(graph, graph.dense(made, embedding)))
            logits = tf.matmul(changed, words, transpose_b=True)
            logits += graph.variable("output_bias", WORDS)
        return [judgement, judged, logits]

    return pretraining


@pytest.fixture(scope="module")
def source(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tensorflow, tmp_path_factory.mktemp("electra"), model(EMBEDDING))


def test_discriminator(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    report = ferry(source.prefix, tmp_path / "e", "electra-discriminator")
    assert {row.sources[0].partition("/")[0] for row in report.changes if row.target is None} == {
        "generator", "generator_predictions",
    }  # fmt: skip
    found = load(tmp_path / "e", "ElectraForPreTraining")
    assert_close(outputs(found, "logits"), source.outputs[:1])
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    assert (config["embedding_size"], config["hidden_size"]) == (EMBEDDING, WIDTH)


def test_discriminator_alone(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    flags = {"exclude": ("discriminator_predictions/*",)}
    ferry(source.prefix, tmp_path / "e", "electra-discriminator", flags)
    found = load(tmp_path / "e", "ElectraModel")
    assert_close(outputs(found, "last_hidden_state"), source.outputs[1:2])


def test_generator(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "e", "electra-generator")
    found = load(tmp_path / "e", "ElectraForMaskedLM")
    assert_close(outputs(found, "logits"), source.outputs[2:])


@pytest.mark.parametrize("embedding", [WIDTH, SMALL])
def test_without_projection(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, embedding: int
) -> None:
    found = saved(tensorflow, tmp_path, model(embedding), slots=("/adam_m", "/adam_v"))
    ferry(found.prefix, tmp_path / "d", "electra-discriminator")
    judge = load(tmp_path / "d", "ElectraForPreTraining")
    assert_close(outputs(judge, "logits"), found.outputs[:1])
    ferry(found.prefix, tmp_path / "g", "electra-generator")
    maker = load(tmp_path / "g", "ElectraForMaskedLM")
    assert_close(outputs(maker, "logits"), found.outputs[2:])


def test_own_embeddings_and_strangers(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load
) -> None:
    found = saved(tensorflow, tmp_path, model(EMBEDDING, shared=False), others=["extra/w"])
    own = {"embeddings": "generator/embeddings"}
    report = ferry(found.prefix, tmp_path / "g", "electra-generator", vocab=56, **own)
    assert any("matches `extra/w`: kept" in note.text for note in report.notes)
    maker = load(tmp_path / "g", "ElectraForMaskedLM", frozenset({"extra/w"}))
    (logits,) = outputs(maker, "logits")
    assert_close([logits[..., :WORDS]], found.outputs[2:])
