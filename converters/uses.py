"""What weights are used for: which layer reads a tensor, as what, and how that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = ["Evidence", "LayerKind", "Use", "Uses"]


class Evidence(Enum):
    """How it is known what a tensor is for."""

    NONE = "none"
    GRAPH = "graph"
    CONFIG = "config"
    NAME = "name pattern"

    # As for DType: members are singletons, and it is thrice as fast.
    __hash__ = object.__hash__


class LayerKind(Enum):
    """Kinds of layers, with the parts that their weights are.

    Layouts are those of Keras: `(in, out)` for a dense kernel, `(*spatial, in / groups, out)` for
    a convolution.
    """

    DENSE = "dense"  # kernel, bias
    EINSUM_DENSE = "einsum dense"  # kernel, bias
    CONV = "convolution"  # kernel, bias
    CONV_TRANSPOSE = "transposed convolution"  # kernel (*spatial, out, in), bias
    DEPTHWISE = "depthwise convolution"  # kernel (*spatial, in, multiplier), bias
    SEPARABLE = "separable convolution"  # depthwise_kernel, pointwise_kernel, bias
    EMBEDDING = "embedding"  # embeddings
    BATCH_NORM = "batch normalization"  # gamma, beta, moving_mean, moving_variance
    LAYER_NORM = "layer normalization"  # gamma, beta
    GROUP_NORM = "group normalization"  # gamma, beta
    RMS_NORM = "RMS normalization"  # scale
    PRELU = "PReLU"  # alpha
    LSTM = "LSTM"  # kernel, recurrent_kernel, bias; or joined_kernel (in + units, 4 units), bias
    GRU = "GRU"  # kernel, recurrent_kernel, bias; or gates_kernel, candidate_kernel, their biases
    RNN = "simple RNN"  # kernel, recurrent_kernel, bias; or joined_kernel (in + units, units), bias
    ATTENTION = "multi-head attention"  # query/kernel (dim, heads, size), …, output/bias


@dataclass(frozen=True, slots=True)
class Use:
    """What one tensor is used for.

    Attributes:
        layer: the layer it is a part of, by its path; all parts of a layer have the same.
        kind: of the layer.
        part: what it is there, as `LayerKind` lists it.
        evidence: how that is known.
        why: the same for people: a node, a class, a pattern.
        facts: what else counts for a layout. Of all layers: `epsilon`, `momentum`. DENSE:
            `transposed` (the kernel is `(out, in)`), `flattened` (it reads what was flattened from
            several axes, in an order that depends on the layout; or `perhaps`), `axes` (their
            lengths, channels last). LSTM: `gates` (`ifco`, `ijfo`),
            `forget_bias` (added when it runs). GRU: `gates` (`zrh`), `reset_after`. Recurrent
            layers: `direction` (`forward`, `backward`) of a half of a bidirectional one.
            EINSUM_DENSE: `equation`, or `summed`: it is summed over so many of its first axes.
    """

    layer: str
    kind: LayerKind
    part: str
    evidence: Evidence
    why: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "layer": self.layer,
            "kind": self.kind.value,
            "part": self.part,
            "evidence": self.evidence.value,
            "why": self.why,
            **({"facts": dict(self.facts)} if self.facts else {}),
        }


@dataclass(frozen=True)
class Uses:
    """What is known of a model's tensors.

    Attributes:
        known: by tensor name.
        undecided: why nothing is known that could be relied on, by tensor name.
    """

    known: Mapping[str, Use] = field(default_factory=dict)
    undecided: Mapping[str, str] = field(default_factory=dict)
