"""TensorFlow 1 BERT to the BERT of transformers, without a hint; values are unrelated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.pipeline.convert import ConvertOptions, convert

from .bert_names import google_bert, hugging_face
from .conftest import Map
from .scoring import score

pytestmark = pytest.mark.oracle

LAYERS = 3
SIZES = {
    "distinct": (8, 16, 40, 24),
    "hidden and inner equal": (8, 8, 40, 24),
    "all equal": (8, 8, 8, 8),
}
TIES = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def saved_checkpoint(tensorflow: Any, folder: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """Save variables of these names with the slots of google-research's Adam."""
    tf = tensorflow.compat.v1
    random = np.random.default_rng(1)
    with tf.Graph().as_default(), tf.Session() as session:
        for name, shape in shapes.items():
            for suffix in ("", "/adam_m", "/adam_v"):
                value = random.normal(size=shape).astype("f4")
                tf.get_variable(f"{name}{suffix}", initializer=value)
        tf.get_variable("global_step", initializer=np.int64(7))
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(folder / "bert.ckpt"), write_meta_graph=False)
    return folder / "bert.ckpt"


def model_of(kind: str, sizes: tuple[int, int, int, int]) -> Any:
    import torch
    import transformers

    torch.manual_seed(2)
    hidden, inner, words, positions = sizes
    config = transformers.BertConfig(
        vocab_size=words, hidden_size=hidden, intermediate_size=inner,
        max_position_embeddings=positions, num_hidden_layers=LAYERS, num_attention_heads=2,
    )  # fmt: skip
    return getattr(transformers, kind)(config)


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining"])
@pytest.mark.parametrize("form", ["folder", "names and shapes"])
def test_all_of_bert_is_found(
    tensorflow: Any, tmp_path: Path, map_to: Map, kind: str, sizes: tuple[int, ...], form: str
) -> None:
    import torch
    from safetensors.torch import load_file

    hidden, inner, words, positions = sizes
    shapes = google_bert(hidden, inner, words, LAYERS, positions)
    source = saved_checkpoint(tensorflow, tmp_path, shapes)
    model = model_of(kind, (hidden, inner, words, positions))
    state = model.state_dict()
    if form == "folder":
        model.save_pretrained(tmp_path / "hf")
        target = tmp_path / "hf" / "model.safetensors"
        wanted = set(load_file(target))
    else:
        target = tmp_path / "target.json"
        target.write_text(json.dumps({name: [*each.shape] for name, each in state.items()}))
        wanted = set(state)

    done = map_to(source, target)

    new = {old: hugging_face(old, alone=kind == "BertModel") for old in shapes}
    truth = {
        each.name: ((old,), "transpose:True" if each.transposed else "")
        for old, each in new.items()
        if each
    }
    truth |= {name: truth[owner] for name, owner in TIES.items() if name in state}
    truth = {name: each for name, each in truth.items() if name in wanted or name in TIES.values()}
    found = score(f"{kind}, {sizes}, {form}", done, {k: v for k, v in truth.items() if k in wanted})
    assert found.right == found.total == len(wanted)
    assert done.complete
    check_conversion(tmp_path, source, target, done.text)

    from safetensors.numpy import load_file as load_arrays

    loaded = load_arrays(tmp_path / "out.safetensors")
    result = model.load_state_dict(
        {name: torch.from_numpy(each.copy()) for name, each in loaded.items()}, strict=False
    )
    assert not result.unexpected_keys
    assert {*result.missing_keys} <= {*TIES}


def check_conversion(folder: Path, source: Path, target: Path, text: str) -> None:
    """Convert with the recipe; the values are the source's own."""
    options = ConvertOptions(recipes=(text,), like=str(target), strict_like=True)
    report = convert(source, folder / "out.safetensors", options)
    assert report.likeness
    assert report.likeness.same
