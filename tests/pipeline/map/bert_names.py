"""Names and shapes of BERT as google-research writes them, and what transformers calls them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Renamed", "google_bert", "hugging_face"]

Shape = tuple[int, ...]


class Renamed(NamedTuple):
    """What a tensor becomes."""

    name: str
    transposed: bool


def google_bert(
    hidden: int, inner: int, words: int, layers: int, positions: int = 24
) -> dict[str, Shape]:
    """Return shapes by name, of run_pretraining.py's model."""
    shapes: dict[str, Shape] = {
        "bert/embeddings/word_embeddings": (words, hidden),
        "bert/embeddings/token_type_embeddings": (2, hidden),
        "bert/embeddings/position_embeddings": (positions, hidden),
        **_norm("bert/embeddings", hidden),
    }
    for layer in range(layers):
        above = f"bert/encoder/layer_{layer}"
        for part in ("query", "key", "value"):
            shapes |= _dense(f"{above}/attention/self/{part}", hidden, hidden)
        shapes |= _dense(f"{above}/attention/output/dense", hidden, hidden)
        shapes |= _norm(f"{above}/attention/output", hidden)
        shapes |= _dense(f"{above}/intermediate/dense", hidden, inner)
        shapes |= _dense(f"{above}/output/dense", inner, hidden)
        shapes |= _norm(f"{above}/output", hidden)
    shapes |= _dense("bert/pooler/dense", hidden, hidden)
    shapes |= _dense("cls/predictions/transform/dense", hidden, hidden)
    shapes |= _norm("cls/predictions/transform", hidden)
    shapes["cls/predictions/output_bias"] = (words,)
    shapes["cls/seq_relationship/output_weights"] = (2, hidden)
    shapes["cls/seq_relationship/output_bias"] = (2,)
    return shapes


def _dense(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def _norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}/LayerNorm/{leaf}": (size,) for leaf in ("beta", "gamma")}


# By leaf, what transformers' convert_bert_original_tf_checkpoint_to_pytorch.py makes of it.
_LEAVES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
_WHOLE = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
}


def hugging_face(name: str, *, alone: bool) -> Renamed | None:
    """Return what a tensor becomes in BertForPreTraining, or in BertModel `alone`."""
    if alone and not name.startswith("bert/"):
        return None
    base = name.removeprefix("bert/") if alone else name
    if base in _WHOLE:
        return Renamed(_WHOLE[base], transposed=False)
    path, _, leaf = base.replace("layer_", "layer/").rpartition("/")
    if leaf not in _LEAVES:  # a table of embeddings
        return Renamed(f"{path}/{leaf}".replace("/", ".") + ".weight", transposed=False)
    return Renamed(f"{path}/{_LEAVES[leaf]}".replace("/", "."), transposed=leaf == "kernel")
