"""ResNet v1 of TF-slim, to the names of torchvision and timm.

Neither installs beside every build of PyTorch, so their names are spelled here: `Bottleneck` and
`ResNet` of torchvision/models/resnet.py, and timm's resnet.py has the same. The strides are those
of slim (the last unit of a block has it, torchvision's first), and so is the padding before the
pool; only with these do the outputs agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .conftest import Ferry
from .graphs import Graph, saved
from .images import IMAGES, LABELS, assert_same

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

UNITS, WIDTHS, STRIDES, FIRST = (2, 1, 3, 2), (8, 16, 24, 32), (2, 2, 2, 1), 8


def convolved(
    graph: Graph, x: Any, name: str, width: int, size: int, stride: int = 1, *, relu: bool = True
) -> Any:
    """Return what slim's `conv2d_same` and batch normalization give."""
    before = size // 2 if stride > 1 else 0
    x = graph.tf.pad(x, [[0, 0], [before, before], [before, before], [0, 0]])
    with graph.scope(name):
        kernel = graph.variable("weights", size, size, int(x.shape[-1]), width)
        padding = "VALID" if stride > 1 else "SAME"
        y = graph.batch_norm(graph.tf.nn.conv2d(x, kernel, stride, padding), epsilon=1e-5, gain=0.4)
    return graph.tf.nn.relu(y) if relu else y


def unit(graph: Graph, x: Any, width: int, stride: int) -> Any:
    with graph.scope("bottleneck_v1"):
        if int(x.shape[-1]) != 4 * width:
            short = convolved(graph, x, "shortcut", 4 * width, 1, stride, relu=False)
        else:
            short = x[:, ::stride, ::stride]
        y = convolved(graph, x, "conv1", width, 1)
        y = convolved(graph, y, "conv2", width, 3, stride)
        return graph.tf.nn.relu(short + convolved(graph, y, "conv3", 4 * width, 1, relu=False))


def slim(graph: Graph) -> list[Any]:
    """Return what resnet_v1.py computes."""
    tf = graph.tf
    with graph.scope("resnet_v1_50"):
        graph.variable("mean_rgb", 3)
        x = tf.nn.max_pool2d(convolved(graph, IMAGES, "conv1", FIRST, 7, 2), 3, 2, "SAME")
        for block, (units, width, last) in enumerate(zip(UNITS, WIDTHS, STRIDES, strict=True), 1):
            for number in range(1, units + 1):
                with graph.scope(f"block{block}/unit_{number}"):
                    x = unit(graph, x, width, last if number == units else 1)
        with graph.scope("logits"):
            mean = tf.reduce_mean(x, [1, 2], keepdims=True)
            return [(graph.conv(mean, LABELS, 1) + graph.variable("biases", LABELS))[:, 0, 0]]


def torchvision_resnet() -> Any:
    """Return a ResNet with the names of torchvision, and the strides of slim."""
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * width
            self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU()
            self.downsample = (
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )
                if inputs != outputs
                else nn.MaxPool2d(1, stride)
            )

        def forward(self, x: Any) -> Any:
            y = self.relu(self.bn1(self.conv1(x)))
            y = self.relu(self.bn2(self.conv2(y)))
            return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, FIRST, 7, 2, 3, bias=False)
            self.bn1, self.relu = nn.BatchNorm2d(FIRST), nn.ReLU()
            self.maxpool = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2))
            inputs = FIRST
            for block, (units, width, last) in enumerate(
                zip(UNITS, WIDTHS, STRIDES, strict=True), 1
            ):
                made = []
                for number in range(units):
                    made.append(Bottleneck(inputs, width, last if number == units - 1 else 1))
                    inputs = 4 * width
                setattr(self, f"layer{block}", nn.Sequential(*made))
            self.fc = nn.Linear(inputs, LABELS)

        def forward(self, x: Any) -> Any:
            x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
            x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
            return self.fc(x.mean((2, 3)))

    return ResNet().eval()


def test_every_name_fits_and_the_outputs_too(tensorflow: Any, tmp_path: Path, ferry: Ferry) -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    from safetensors.torch import load_file

    found = saved(tensorflow, tmp_path, slim, slots=("/Momentum",), others=["strange"])
    report = ferry(found.prefix, tmp_path / "r", "resnet-v1")
    dropped = [row for row in report.changes if row.target is None]
    assert len(dropped) == len(found.variables) + 2  # a slot each, mean_rgb, and the step
    assert any("matches `strange`: kept" in note.text for note in report.notes)
    state = load_file(tmp_path / "r" / "model.safetensors")
    del state["strange"]
    model = torchvision_resnet()
    model.load_state_dict(state)  # strict: nothing missing, nothing unexpected
    assert_same(model, found.outputs[0])
