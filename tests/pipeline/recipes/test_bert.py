"""BERT of google-research, to `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.registry import WriteOptions

from .conftest import Ferry, Load
from .encoders import (
    HEADS,
    LAYERS,
    POSITIONS,
    WIDTH,
    WORDS,
    assert_close,
    embedded,
    gelu,
    layer,
    outputs,
)
from .graphs import Graph, Saved, saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def encoded(graph: Graph) -> tuple[Any, Any, Any]:
    """Return the table of words, the last layer and the pooled output."""
    with graph.scope("bert"):
        words, x = embedded(graph)
        for number in range(LAYERS):
            with graph.scope(f"encoder/layer_{number}"):
                x = layer(graph, x)
        with graph.scope("pooler"):
            return words, x, graph.tf.tanh(graph.dense(x[:, 0], WIDTH))


def pretraining(graph: Graph) -> list[Any]:
    """Return logits of words and of the next sentence, last layer and pooled output."""
    words, x, pooled = encoded(graph)
    with graph.scope("cls"):
        with graph.scope("predictions"):
            with graph.scope("transform"):
                changed = graph.norm(gelu(graph, graph.dense(x, WIDTH)))
            logits = graph.tf.matmul(changed, words, transpose_b=True)
            logits += graph.variable("output_bias", WORDS)
        with graph.scope("seq_relationship"):
            weights = graph.variable("output_weights", 2, WIDTH)
            bias = graph.variable("output_bias", 2)
            follows = graph.tf.matmul(pooled, weights, transpose_b=True) + bias
    return [logits, follows, x, pooled]


def classifier(graph: Graph) -> list[Any]:
    """Return what run_classifier.py makes of the pooled output."""
    _, _, pooled = encoded(graph)
    weights, bias = graph.variable("output_weights", 3, WIDTH), graph.variable("output_bias", 3)
    return [graph.tf.matmul(pooled, weights, transpose_b=True) + bias]


def squad(graph: Graph) -> list[Any]:
    """Return what run_squad.py makes of the last layer: starts and ends."""
    _, x, _ = encoded(graph)
    weights = graph.variable("cls/squad/output_weights", 2, WIDTH)
    logits = graph.tf.matmul(x, weights, transpose_b=True)
    logits += graph.variable("cls/squad/output_bias", 2)
    return [logits[..., 0], logits[..., 1]]


@pytest.fixture(scope="module")
def source(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tensorflow, tmp_path_factory.mktemp("bert"), pretraining)


def test_pretraining(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "bert", "bert")
    model = load(tmp_path / "bert", "BertForPreTraining")
    got = outputs(model, "prediction_logits", "seq_relationship_logits")
    assert_close(got, source.outputs[:2])


def test_config_is_derived(source: Saved, tmp_path: Path, ferry: Ferry) -> None:
    ferry(source.prefix, tmp_path / "bert", "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    assert config == {
        "model_type": "bert", "architectures": ["BertForPreTraining"], "vocab_size": WORDS,
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH, "hidden_act": "gelu",
        "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "num_labels": 2,
    }  # fmt: skip


def test_model_without_heads(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(
        source.prefix, tmp_path / "bert", "bert", {"exclude": ("cls/*",)}, architecture="BertModel"
    )
    model = load(tmp_path / "bert", "BertModel")
    assert_close(outputs(model, "last_hidden_state", "pooler_output"), source.outputs[2:])


def test_slots_are_left_out(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    found = saved(tensorflow, tmp_path, pretraining, slots=("/adam_m", "/adam_v"))
    report = ferry(found.prefix, tmp_path / "bert", "bert")
    dropped = [row.sources[0] for row in report.changes if row.target is None]
    assert len(dropped) == 2 * len(found.variables) + 1
    assert "global_step" in dropped
    assert not [note for note in report.notes if "no rule" in note.text]
    model = load(tmp_path / "bert", "BertForPreTraining")
    got = outputs(model, "prediction_logits", "seq_relationship_logits")
    assert_close(got, found.outputs[:2])


def test_classifier(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    found = saved(tensorflow, tmp_path, classifier)
    architecture = "BertForSequenceClassification"
    ferry(found.prefix, tmp_path / "b", "bert", architecture=architecture, labels=3)
    model = load(tmp_path / "b", "BertForSequenceClassification")
    assert_close(outputs(model, "logits"), found.outputs)


def test_squad(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    found = saved(tensorflow, tmp_path, squad)
    ferry(found.prefix, tmp_path / "b", "bert", {"exclude": ("bert/pooler/*",)})
    model = load(tmp_path / "b", "BertForQuestionAnswering")
    assert_close(outputs(model, "start_logits", "end_logits"), found.outputs)


def test_a_strange_variable_is_kept_and_told(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load
) -> None:
    found = saved(tensorflow, tmp_path, pretraining, others=["loss/my_head/kernel"])
    report = ferry(found.prefix, tmp_path / "bert", "bert")
    told = [note.text for note in report.notes if "no rule" in note.text]
    assert told == ["no rule of builtin:bert matches `loss/my_head/kernel`: kept"]
    load(tmp_path / "bert", "BertForPreTraining", frozenset({"loss/my_head/kernel"}))


def test_padded_vocabulary(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "bert", "bert", vocab=64)
    model = load(tmp_path / "bert", "BertForPreTraining")
    (logits,) = outputs(model, "prediction_logits")
    assert logits.shape[-1] == 64
    assert_close([logits[..., :WORDS]], source.outputs[:1])
    assert not logits[..., WORDS:].any()


def test_in_shards(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    options = WriteOptions(max_shard_bytes=500_000)
    ferry(source.prefix, tmp_path / "bert", "bert", {"write": options})
    assert (tmp_path / "bert" / "model.safetensors.index.json").is_file()
    model = load(tmp_path / "bert", "BertForPreTraining")
    assert_close(outputs(model, "prediction_logits"), source.outputs[:1])
