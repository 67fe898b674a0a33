"""Names of weights taken apart: the module, its numbers, and which of its weights it is.

Frameworks call the same thing differently: `kernel` and `weight`, `gamma` and `weight`, `LayerNorm`
and `ln`, `layer_3` and `h.3`. Words come out as one of them; numbers are kept apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

__all__ = ["FUSED", "GENERIC", "LINEAR", "MARK", "RECURRENT", "TIES", "Parsed", "parse_name"]

MARK = "#"  # stands for a number in a pattern

# Last parts of names, by what they are in a module. `scale` and `shift` of a normalization are
# `weight` and `bias` too: a module has either, and the number of axes tells them apart.
_LEAVES = {
    **dict.fromkeys(("kernel", "weight", "weights", "w", "embeddings"), "weight"),
    **dict.fromkeys(("gamma", "scale", "g"), "weight"),
    **dict.fromkeys(("bias", "biases", "beta", "b", "offset"), "bias"),
    **dict.fromkeys(("moving_mean", "running_mean"), "mean"),
    **dict.fromkeys(("moving_variance", "running_var"), "variance"),
    "num_batches_tracked": "counter",
}  # fmt: skip
# The same at the end of a last part that says more, such as `output_weights`.
_ENDINGS = {"kernel": "weight", "weight": "weight", "weights": "weight", "bias": "bias"}
_SYNONYMS = {
    "ln": "norm", "layernorm": "norm", "bn": "norm", "batchnorm": "norm", "normalization": "norm",
    "groupnorm": "norm", "rmsnorm": "norm",
    "attn": "attention", "q": "query", "k": "key", "v": "value",
    "fc": "dense", "linear": "dense", "proj": "dense", "projection": "dense",
    "emb": "embedding", "embed": "embedding", "embeddings": "embedding", "pos": "position",
    "layers": "layer", "block": "layer", "blocks": "layer", "h": "layer",
    "conv1d": "conv", "conv2d": "conv", "conv3d": "conv",
    "ffn": "mlp", "feedforward": "mlp", "out": "output", "o": "output", "enc": "encoder",
    "dec": "decoder",
}  # fmt: skip
_PAIRS = {"wte": ("word", "embedding"), "wpe": ("position", "embedding")}
_NORMS = frozenset({"layer", "batch", "group", "rms"})
# Words that say what kind of thing it is, and not which.
GENERIC = frozenset({"dense", "norm", "conv", "layer", "model", "network"})
RECURRENT = frozenset({"lstm", "gru", "rnn", "bidirectional", "cell"})
# Modules of transformers' BertModel and its family that are `nn.Linear`, whose weight is
# `(out, in)`: transformers, models/bert/modeling_bert.py.
LINEAR = tuple(
    tuple(each.split("."))
    for each in (
        "attention.self.query", "attention.self.key", "attention.self.value",
        "attention.output.dense", "intermediate.dense", "output.dense", "pooler.dense",
        "predictions.transform.dense",
    )
)  # fmt: skip
# Modules that hold query, key and value one after the other. (`query_key_value` is none of them:
# GPT-NeoX and BLOOM interleave the heads there.)
FUSED = ("in_proj", "c_attn", "qkv", "qkv_proj")
# Weights that transformers ties (`_tied_weights_keys`): the other name, and whose it is.
TIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.weight": "wte.weight",
}

_NUMBER = re.compile(r"(?<![0-9x])[0-9]+(?=$|[_\-])")
_SEPARATOR = re.compile(r"[/.]")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+[0-9]*[a-z]+|[A-Z]?[a-z]+|[0-9]+")


class Parsed(NamedTuple):
    """A name taken apart.

    Attributes:
        module: the name without what it is in its module.
        leaf: that, as it stands in the name; empty where the module is all there is.
        part: that, in one of the words above; empty where it is none of them.
        pattern: the module with `#` for numbers and dots between its parts.
        numbers: of the pattern, in its order.
        words: of the pattern, without the numbers.
    """

    module: str
    leaf: str
    part: str
    pattern: str
    numbers: tuple[int, ...]
    words: tuple[str, ...]


def parse_name(name: str) -> Parsed:
    """Take a name apart."""
    levels = _SEPARATOR.split(name.removesuffix(":0"))
    module, leaf, part = _without_leaf(levels)
    found = [each for level in module for each in _NUMBER.findall(level)]
    numbers = tuple(int(each[:18]) for each in found)
    pattern = ".".join(_NUMBER.sub(MARK, level) for level in module)
    words = tuple(word for level in module for word in _words(_NUMBER.sub("", level)))
    return Parsed(".".join(module), leaf, part, pattern, numbers, words)


def _without_leaf(levels: list[str]) -> tuple[list[str], str, str]:
    *above, last = levels
    if last in _LEAVES and above:
        return above, last, _LEAVES[last]
    start, _, ending = last.rpartition("_")
    if start and ending in _ENDINGS:
        return [*above, start], ending, _ENDINGS[ending]
    return levels, "", ""


@lru_cache(maxsize=4096)
def _words(level: str) -> tuple[str, ...]:
    found: list[str] = []
    for raw in _WORD.findall(level):
        word = _SYNONYMS.get(raw.lower(), raw.lower())
        if word == "norm" and found and found[-1] in _NORMS:
            found.pop()
        found += _PAIRS.get(word, (word,))
    if len(found) > 1 and found[-1] == "dense" and found[-2] in ("query", "key", "value", "output"):
        found.pop()  # q_proj
    return tuple(found)
