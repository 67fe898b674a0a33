"""MobileNets of TF-slim, to `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Ferry, Load
from .graphs import Graph, saved
from .images import IMAGES, LABELS, SIZE, assert_same, divisible

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

# The narrowest of which transformers computes the same: below, slim adds a residual to the stem.
WIDTH = 0.35
SETTINGS = {"width": WIDTH, "image": SIZE}


def convolved(
    graph: Graph, x: Any, name: str, width: int, size: int, stride: int = 1, *, relu: bool = True
) -> Any:
    """Return a convolution, or a depthwise one where `width` is 0, normalized."""
    with graph.scope(name):
        if width:
            y = graph.conv(x, width, size, stride=stride)
        else:
            y = graph.depthwise(x, size, "depthwise_weights", stride)
        y = graph.batch_norm(y)
    return graph.tf.nn.relu6(y) if relu else y


def classified(graph: Graph, x: Any) -> Any:
    mean = graph.tf.reduce_mean(x, [1, 2], keepdims=True)
    with graph.scope("Logits/Conv2d_1c_1x1"):
        y = graph.conv(mean, LABELS, 1) + graph.variable("biases", LABELS)
    return y[:, 0, 0]


def v1(graph: Graph) -> list[Any]:
    """Return what mobilenet_v1.py computes."""
    with graph.scope("MobilenetV1"):
        width = 32
        x = convolved(graph, IMAGES, "Conv2d_0", int(width * WIDTH), 3, 2)
        for number, stride in enumerate([1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1], 1):
            width *= 2 if stride == 2 or number == 1 else 1
            x = convolved(graph, x, f"Conv2d_{number}_depthwise", 0, 3, stride)
            x = convolved(graph, x, f"Conv2d_{number}_pointwise", int(width * WIDTH), 1)
        return [classified(graph, x)]


def v2(graph: Graph) -> list[Any]:
    """Return what mobilenet_v2.py computes."""
    widths = [16, 24, 24, 32, 32, 32, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    with graph.scope("MobilenetV2"):
        x = convolved(graph, IMAGES, "Conv", divisible(32 * WIDTH), 3, 2)
        for number, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            with graph.scope(f"expanded_conv_{number}" if number else "expanded_conv"):
                y = convolved(graph, x, "expand", 6 * int(x.shape[-1]), 1) if number else x
                y = convolved(graph, y, "depthwise", 0, 3, stride)
                y = convolved(graph, y, "project", divisible(width * WIDTH), 1, relu=False)
                x = x + y if stride == 1 and x.shape[-1] == y.shape[-1] else y
        return [classified(graph, convolved(graph, x, "Conv_1", 1280, 1))]


KINDS = pytest.mark.parametrize(
    ("name", "build", "model"),
    [("mobilenet-v1", v1, "MobileNetV1"), ("mobilenet-v2", v2, "MobileNetV2")],
)


@KINDS
def test_classifier(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, name: str, build: Any, model: str
) -> None:
    found = saved(tensorflow, tmp_path, build)
    ferry(found.prefix, tmp_path / "m", name, **SETTINGS)
    assert_same(load(tmp_path / "m", f"{model}ForImageClassification"), found.outputs[0])


@KINDS
def test_without_classifier(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, name: str, build: Any, model: str
) -> None:
    found = saved(tensorflow, tmp_path, build)
    ferry(found.prefix, tmp_path / "m", name, {"exclude": ("*/Logits/*",)}, labels=2, **SETTINGS)
    load(tmp_path / "m", f"{model}Model")


@KINDS
def test_slots_averages_and_strangers(
    tensorflow: Any, tmp_path: Path, ferry: Ferry, load: Load, name: str, build: Any, model: str
) -> None:
    slots = ("/RMSProp", "/RMSProp_1")
    found = saved(tensorflow, tmp_path, build, slots=slots, others=["AuxLogits"], averages=True)
    report = ferry(found.prefix, tmp_path / "m", name, {"ema": "only"}, **SETTINGS)
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == 2 * len(found.variables) + 1
    assert any("matches `AuxLogits`: kept" in note.text for note in report.notes)
    got = load(tmp_path / "m", f"{model}ForImageClassification", frozenset({"AuxLogits"}))
    assert_same(got, found.outputs[0])
