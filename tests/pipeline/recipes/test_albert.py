"""ALBERT of google-research, to `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ferry, Load
from .encoders import HEAD, HEADS, POSITIONS, WIDTH, WORDS, assert_close, embedded, outputs
from .graphs import Graph, Saved, saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

EMBEDDING, LAYERS = 32, 3


def gelu(graph: Graph, x: Any) -> Any:
    return graph.tf.nn.gelu(x, approximate=True)


def layer(graph: Graph, x: Any) -> Any:
    with graph.scope("attention_1"):
        with graph.scope("self"):
            parts = [
                graph.heads(graph.dense(x, WIDTH, part), HEADS)
                for part in ("query", "key", "value")
            ]
            mixed = graph.attend(*parts, scale=HEAD**-0.5)
        with graph.scope("output"):
            x += graph.dense(mixed, WIDTH)
    x = graph.norm(x)
    with graph.scope("ffn_1/intermediate"):
        wide = gelu(graph, graph.dense(x, 4 * WIDTH))
        with graph.scope("output"):
            x += graph.dense(wide, WIDTH)
    return graph.norm(x, "LayerNorm_1")


def model(groups: int) -> Any:
    """Return what builds an ALBERT whose layers are of that many groups."""

    def pretraining(graph: Graph) -> list[Any]:
        tf = graph.tf
        with graph.scope("bert"):
            words, x = embedded(graph, EMBEDDING)
            with graph.scope("encoder"):
                x = graph.dense(x, WIDTH, "embedding_hidden_mapping_in")
                for number in range(LAYERS):
                    group = number * groups // LAYERS
                    with graph.scope(f"transformer/group_{group}/inner_group_0"):
                        x = layer(graph, x)
            with graph.scope("pooler"):
                pooled = tf.tanh(graph.dense(x[:, 0], WIDTH))
        with graph.scope("cls/predictions"):
            with graph.scope("transform"):
                changed = graph.norm(gelu(graph, graph.dense(x, EMBEDDING)))
            logits = tf.matmul(changed, words, transpose_b=True)
            logits += graph.variable("output_bias", WORDS)
        with graph.scope("cls/seq_relationship"):
            weights = graph.variable("output_weights", 2, WIDTH)
            order = tf.matmul(pooled, weights, transpose_b=True) + graph.variable("output_bias", 2)
        return [logits, order, x, pooled]

    return pretraining


@pytest.fixture(scope="module")
def source(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tensorflow, tmp_path_factory.mktemp("albert"), model(1))


def test_pretraining(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "a", "albert", layers=LAYERS)
    found = load(tmp_path / "a", "AlbertForPreTraining")
    assert_close(outputs(found, "prediction_logits", "sop_logits"), source.outputs[:2])
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config == {
        "model_type": "albert", "architectures": ["AlbertForPreTraining"], "vocab_size": WORDS,
        "embedding_size": EMBEDDING, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "num_hidden_groups": 1, "inner_group_num": 1, "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH, "hidden_act": "gelu_new", "type_vocab_size": 2,
        "max_position_embeddings": POSITIONS, "layer_norm_eps": 1e-12, "num_labels": 2,
    }  # fmt: skip


def test_model_alone(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "a", "albert", {"exclude": ("cls/*",)}, layers=LAYERS)
    found = load(tmp_path / "a", "AlbertModel")
    assert_close(outputs(found, "last_hidden_state", "pooler_output"), source.outputs[2:])


def test_groups_slots_and_vocabulary(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load
) -> None:
    found = saved(tensorflow, tmp_path, model(3), slots=("/lamb_m", "/lamb_v"), others=["strange"])
    report = ferry(found.prefix, tmp_path / "a", "albert", layers=LAYERS, vocab=56)
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == 2 * len(found.variables) + 1
    assert any("matches `strange`: kept" in note.text for note in report.notes)
    got = load(tmp_path / "a", "AlbertForPreTraining", frozenset({"strange"}))
    assert got.config.num_hidden_groups == 3
    logits, order = outputs(got, "prediction_logits", "sop_logits")
    assert_close([logits[..., :WORDS], order], found.outputs[:2])
    assert not logits[..., WORDS:].any()
