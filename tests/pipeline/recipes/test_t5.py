"""T5 of Mesh TensorFlow, to `transformers`."""

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

WORDS, WIDTH, HEADS, HEAD, INNER, BLOCKS, BUCKETS = 53, 48, 4, 8, 80, 2, 32
TARGETS = np.random.default_rng(2).integers(0, WORDS, (2, 6))


def buckets(length: int, both: bool) -> np.ndarray:
    """Return for each pair of places the number of its bucket of distances."""
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    count = BUCKETS // 2 if both else BUCKETS
    first = np.where(distance < 0, count, 0) if both else 0
    far = np.abs(distance) if both else np.maximum(distance, 0)
    exact = count // 2
    steps = np.log(np.maximum(far, 1) / exact) / np.log(128 / exact) * (count - exact)
    return first + np.where(far < exact, far, np.minimum(exact + steps.astype(int), count - 1))


class T5:
    """Encoder and decoder.

    Args:
        graph: where they go.
        gated: as T5 1.1, with logits of their own.
        norm: what layer norms are called.
    """

    def __init__(self, graph: Graph, gated: bool, norm: str) -> None:
        self.graph, self.tf, self.gated, self.norm_name = graph, graph.tf, gated, norm

    def norm(self, x: Any, name: str) -> Any:
        with self.graph.scope(name):
            scale = self.graph.variable("scale", WIDTH)
        power = self.tf.reduce_mean(x * x, -1, keepdims=True)
        return x * self.tf.math.rsqrt(power + 1e-6) * scale

    def attention(self, x: Any, memory: Any, name: str, bias: Any) -> Any:
        graph = self.graph
        y = self.norm(x, self.norm_name)
        with graph.scope(name):
            sources = (
                {"q": y, "k": y, "v": y} if memory is None else {"q": y, "k": memory, "v": memory}
            )
            parts = [
                graph.heads(self.tf.matmul(each, graph.variable(leaf, WIDTH, HEADS * HEAD)), HEADS)
                for leaf, each in sources.items()
            ]
            mixed = graph.attend(*parts, bias=bias)
            return x + self.tf.matmul(mixed, graph.variable("o", HEADS * HEAD, WIDTH))

    def feed_forward(self, x: Any) -> Any:
        graph, tf = self.graph, self.tf
        y = self.norm(x, self.norm_name)

        def dense(y: Any, width: int, name: str) -> Any:
            return tf.matmul(y, graph.variable(f"{name}/kernel", int(y.shape[-1]), width))

        with graph.scope("DenseReluDense"):
            if self.gated:
                gate = tf.nn.gelu(dense(y, INNER, "wi_0"), approximate=True)
                wide = gate * dense(y, INNER, "wi_1")
            else:
                wide = tf.nn.relu(dense(y, INNER, "wi"))
            return x + dense(wide, WIDTH, "wo")

    def bias(self, length: int, both: bool) -> Any:
        with self.graph.scope("block_000/layer_000/SelfAttention"):
            table = self.graph.variable("relative_attention_bias", HEADS, BUCKETS)
        bias = self.tf.gather(table, buckets(length, both), axis=1)[None]
        return bias if both else bias + (1 - np.tri(length, dtype=np.float32)) * -1e9

    def stack(self, name: str, x: Any, memory: Any = None) -> Any:
        graph, both = self.graph, memory is None
        with graph.scope(name):
            bias = self.bias(int(x.shape[1]), both)
            for number in range(BLOCKS):
                with graph.scope(f"block_{number:03}"):
                    with graph.scope("layer_000"):
                        x = self.attention(x, None, "SelfAttention", bias)
                    if not both:
                        with graph.scope("layer_001"):
                            x = self.attention(x, memory, "EncDecAttention", 0.0)
                    with graph.scope("layer_001" if both else "layer_002"):
                        x = self.feed_forward(x)
            final = "final_layer_norm" if self.norm_name == "layer_norm" else self.norm_name
            return self.norm(x, final)

    def outputs(self) -> list[Any]:
        """Return logits and what the encoder gives."""
        graph, tf = self.graph, self.tf
        words = graph.variable("shared/embedding", WORDS, WIDTH)
        memory = self.stack("encoder", tf.gather(words, IDS))
        x = self.stack("decoder", tf.gather(words, TARGETS), memory)
        if self.gated:
            return [tf.matmul(x, graph.variable("decoder/logits/kernel", WIDTH, WORDS)), memory]
        return [tf.matmul(x * WIDTH**-0.5, words, transpose_b=True), memory]


def t5(gated: bool = False, norm: str = "layer_norm") -> Any:
    return lambda graph: T5(graph, gated, norm).outputs()


def logits(model: Any) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(IDS), decoder_input_ids=torch.from_numpy(TARGETS))
    return [found.logits.numpy(), found.encoder_last_hidden_state.numpy()]


@pytest.fixture(scope="module")
def source(tensorflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return saved(tensorflow, tmp_path_factory.mktemp("t5"), t5(), slots=("_slot_v",))


def test_whole_model(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    report = ferry(source.prefix, tmp_path / "t5", "t5")
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == len(source.variables) + 1
    assert_close(logits(load(tmp_path / "t5", "T5ForConditionalGeneration")), source.outputs)


def test_config(source: Saved, tmp_path: Path, ferry: Ferry) -> None:
    ferry(source.prefix, tmp_path / "t5", "t5", vocab=64)
    config = json.loads((tmp_path / "t5" / "config.json").read_text())
    assert config == {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"],
        "is_encoder_decoder": True, "vocab_size": 64, "d_model": WIDTH, "d_kv": HEAD,
        "d_ff": INNER, "num_layers": BLOCKS, "num_decoder_layers": BLOCKS, "num_heads": HEADS,
        "relative_attention_num_buckets": BUCKETS, "feed_forward_proj": "relu",
        "tie_word_embeddings": True, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }  # fmt: skip


def test_encoder_alone(source: Saved, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    import torch

    ferry(source.prefix, tmp_path / "t5", "t5", {"exclude": ("decoder/*",)}, decoders=BLOCKS)
    model = load(tmp_path / "t5", "T5EncoderModel")
    with torch.no_grad():
        got = model(input_ids=torch.from_numpy(IDS)).last_hidden_state.numpy()
    assert_close([got], source.outputs[1:])


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_gated(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, norm: str) -> None:
    found = saved(tensorflow, tmp_path, t5(True, norm), others=["decoder/strange"])
    report = ferry(found.prefix, tmp_path / "t5", "t5-gated", vocab=56)
    assert any("matches `decoder/strange`: kept" in note.text for note in report.notes)
    strange = frozenset({"decoder/strange"})
    got = logits(load(tmp_path / "t5", "T5ForConditionalGeneration", strange))
    assert_close([got[0][..., :WORDS], got[1]], found.outputs)
