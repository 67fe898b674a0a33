"""GPT-2 of openai, to `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Ferry, Load
from .encoders import IDS, assert_close
from .graphs import Graph, Saved, saved

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

WORDS, POSITIONS, WIDTH, LAYERS, HEADS = 53, 12, 128, 2, 2


def norm(graph: Graph, x: Any, name: str) -> Any:
    with graph.scope(name):
        return graph.normal(x, 1e-5) * graph.variable("g", WIDTH) + graph.variable("b", WIDTH)


def conv1d(graph: Graph, x: Any, width: int, name: str) -> Any:
    """Return a convolution of width 1, as which openai wrote dense layers."""
    with graph.scope(name):
        kernel = graph.variable("w", 1, int(x.shape[-1]), width)
        return graph.tf.matmul(x, kernel[0]) + graph.variable("b", width)


def block(graph: Graph, x: Any) -> Any:
    length = int(x.shape[1])
    unseen = (1 - np.tri(length, dtype=np.float32)) * -1e10
    y = norm(graph, x, "ln_1")
    with graph.scope("attn"):
        together = conv1d(graph, y, 3 * WIDTH, "c_attn")
        parts = [graph.heads(part, HEADS) for part in graph.tf.split(together, 3, axis=-1)]
        mixed = graph.attend(*parts, bias=unseen, scale=(WIDTH // HEADS) ** -0.5)
        x += conv1d(graph, mixed, WIDTH, "c_proj")
    y = norm(graph, x, "ln_2")
    with graph.scope("mlp"):
        wide = graph.tf.nn.gelu(conv1d(graph, y, 4 * WIDTH, "c_fc"), approximate=True)
        return x + conv1d(graph, wide, WIDTH, "c_proj")


def language_model(graph: Graph) -> list[Any]:
    """Return logits and the last layer."""
    tf = graph.tf
    with graph.scope("model"):
        places = graph.variable("wpe", POSITIONS, WIDTH)
        words = graph.variable("wte", WORDS, WIDTH)
        x = tf.gather(words, IDS) + places[: IDS.shape[1]]
        for number in range(LAYERS):
            with graph.scope(f"h{number}"):
                x = block(graph, x)
        x = norm(graph, x, "ln_f")
        return [tf.matmul(x, words, transpose_b=True), x]


@pytest.fixture(scope="module")
def source(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tensorflow, tmp_path_factory.mktemp("gpt2"), language_model)


def computed(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.from_numpy(IDS))


def test_language_model(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "gpt2", "gpt2")
    got = computed(load(tmp_path / "gpt2", "GPT2LMHeadModel")).logits
    assert_close([got.numpy()], source.outputs[:1])


def test_model_alone(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    ferry(source.prefix, tmp_path / "gpt2", "gpt2", architecture="GPT2Model")
    got = computed(load(tmp_path / "gpt2", "GPT2Model")).last_hidden_state
    assert_close([got.numpy()], source.outputs[1:])


def test_config_and_padded_vocabulary(
    source: Saved, tmp_path: Path, ferry: Ferry, load: Load
) -> None:
    ferry(source.prefix, tmp_path / "gpt2", "gpt2", vocab=64)
    config = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    assert config == {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 64,
        "n_positions": POSITIONS, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS,
        "n_inner": 4 * WIDTH, "activation_function": "gelu_new", "bos_token_id": WORDS - 1,
        "eos_token_id": WORDS - 1,
    }  # fmt: skip
    got = computed(load(tmp_path / "gpt2", "GPT2LMHeadModel")).logits.numpy()
    assert_close([got[..., :WORDS]], source.outputs[:1])
    assert not got[..., WORDS:].any()


def test_slots_and_strangers(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    found = saved(
        tensorflow, tmp_path, language_model, slots=("/Adam", "/Adam_1"), others=["clf/w"]
    )
    report = ferry(found.prefix, tmp_path / "gpt2", "gpt2")
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == 2 * len(found.variables) + 1
    assert "no rule of builtin:gpt2 matches `clf/w`: kept" in [note.text for note in report.notes]
    got = computed(load(tmp_path / "gpt2", "GPT2LMHeadModel", frozenset({"clf/w"}))).logits
    assert_close([got.numpy()], found.outputs[:1])
