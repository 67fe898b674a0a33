"""EfficientNet of the TPU models, with moving averages, to `transformers`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from .conftest import Ferry, Load
from .graphs import Graph, saved
from .images import IMAGES, LABELS, SIZE, assert_same, divisible

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

WIDTH = 0.25
# Repeats, kernel size, stride, expansion and outputs of each stage.
STAGES = [
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
]  # fmt: skip


class Block:
    """Names of layers in a scope, counted as Keras counts them.

    Args:
        graph: where they go.
        prefix: of the layers of batch normalization: `tpu_` where they ran on TPUs.
    """

    def __init__(self, graph: Graph, prefix: str) -> None:
        self.graph, self.prefix = graph, prefix
        self._counts: dict[str, int] = {}

    def _name(self, kind: str) -> str:
        count = self._counts[kind] = self._counts.get(kind, -1) + 1
        return f"{kind}_{count}" if count else kind

    def conv(self, x: Any, width: int, size: int = 1, stride: int = 1) -> Any:
        return self.graph.conv(x, width, size, f"{self._name('conv2d')}/kernel", stride)

    def norm(self, x: Any) -> Any:
        return self.graph.batch_norm(x, self._name(f"{self.prefix}batch_normalization"))


def squeezed(graph: Graph, x: Any, width: int) -> Any:
    tf, y = graph.tf, graph.tf.reduce_mean(x, [1, 2], keepdims=True)
    with graph.scope("se"):
        y = graph.conv(y, width, 1, "conv2d/kernel") + graph.variable("conv2d/bias", width)
        wide = int(x.shape[-1])
        y = graph.conv(tf.nn.silu(y), wide, 1, "conv2d_1/kernel")
        return x * tf.sigmoid(y + graph.variable("conv2d_1/bias", wide))


def build(model: str, depth: float, prefix: str) -> Any:
    """Return what builds a network."""

    def network(graph: Graph) -> list[Any]:
        tf, swish = graph.tf, graph.tf.nn.silu
        with graph.scope(model):
            with graph.scope("stem"):
                stem = Block(graph, prefix)
                x = swish(stem.norm(stem.conv(IMAGES, divisible(32 * WIDTH), 3, 2)))
            number = 0
            for repeats, size, first, expansion, outputs in STAGES:
                for repeat in range(math.ceil(depth * repeats)):
                    with graph.scope(f"blocks_{number}"):
                        block, before, stride = Block(graph, prefix), x, 1 if repeat else first
                        if expansion > 1:
                            x = block.conv(x, expansion * int(x.shape[-1]))
                            x = swish(block.norm(x))
                        x = graph.depthwise(x, size, "depthwise_conv2d/depthwise_kernel", stride)
                        x = squeezed(
                            graph, swish(block.norm(x)), max(1, int(before.shape[-1]) // 4)
                        )
                        x = block.norm(block.conv(x, divisible(outputs * WIDTH)))
                        x = x + before if repeat else x
                    number += 1
            with graph.scope("head"):
                head = Block(graph, prefix)
                x = swish(head.norm(head.conv(x, divisible(1280 * WIDTH))))
                return [graph.dense(tf.reduce_mean(x, [1, 2]), LABELS)]

    return network


@pytest.mark.parametrize(
    ("model", "depth", "prefix"),
    [("efficientnet-b0", 1.0, "tpu_"), ("efficientnet-b1", 1.1, "")],
)
def test_averages(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, model: str, depth: float, prefix: str
) -> None:
    network = build(model, depth, prefix)
    slots = ("/RMSProp", "/RMSProp_1")
    found = saved(tensorflow, tmp_path, network, slots=slots, others=["aux"], averages=True)
    settings = {"model": model, "width": WIDTH, "depth": depth, "image": SIZE}
    report = ferry(found.prefix, tmp_path / "e", "efficientnet", {"ema": "only"}, **settings)
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == 2 * len(found.variables) + 1
    assert any("matches `aux`: kept" in note.text for note in report.notes)
    got = load(tmp_path / "e", "EfficientNetForImageClassification", frozenset({"aux"}))
    assert_same(got, found.outputs[0])


def test_without_classifier(tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load) -> None:
    found = saved(tensorflow, tmp_path, build("efficientnet-b0", 1.0, "tpu_"))
    flags = {"exclude": ("*/head/dense/*",)}
    ferry(found.prefix, tmp_path / "e", "efficientnet", flags, width=WIDTH, labels=2)
    load(tmp_path / "e", "EfficientNetModel")
