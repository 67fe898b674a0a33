"""What names, numbers and shapes decide, and what they must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.pipeline.convert import ConvertOptions, convert

from .conftest import Map
from .scoring import mapping_of

H = 8


def dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)}


def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def gpt2(layers: int, *, hugging_face: bool) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of OpenAI's checkpoint, or of transformers' GPT2Model."""
    names = {"w": "weight", "b": "bias", "g": "weight"}
    shapes: dict[str, tuple[int, ...]] = {"model/wte": (40, H), "model/wpe": (24, H)}
    for layer in range(layers):
        above = f"model/h{layer}"
        for part, inputs, outputs in (
            ("attn/c_attn", H, 3 * H), ("attn/c_proj", H, H), ("mlp/c_fc", H, 4 * H),
            ("mlp/c_proj", 4 * H, H),
        ):  # fmt: skip
            shapes |= {f"{above}/{part}/w": (1, inputs, outputs), f"{above}/{part}/b": (outputs,)}
        shapes |= {f"{above}/ln_{n}/{leaf}": (H,) for n in (1, 2) for leaf in "gb"}
    shapes |= {f"model/ln_f/{leaf}": (H,) for leaf in "gb"}
    if not hugging_face:
        return shapes
    found = {}
    for name, shape in shapes.items():
        path, _, leaf = name.removeprefix("model/").rpartition("/")
        path = path.replace("/", ".").replace("h", "h.", 1) if path.startswith("h") else path
        new = f"{path}.{names[leaf]}" if path else f"{leaf}.weight"
        found[new] = shape[1:] if len(shape) == 3 else shape
    return found


def test_gpt2(of_shapes: Map) -> None:
    target = gpt2(3, hugging_face=True)
    assert target["h.2.attn.c_attn.weight"] == (H, 3 * H)
    done = of_shapes(gpt2(3, hugging_face=False), target)
    assert done.complete
    found = mapping_of(done)
    assert len(found) == len(target)
    assert found["h.2.attn.c_proj.weight"] == (("model/h2/attn/c_proj/w",), "squeeze:True")
    assert found["h.1.ln_2.bias"] == (("model/h1/ln_2/b",), "")
    assert found["wpe.weight"] == (("model/wpe",), "")
    assert 'match = "model/h{n:int}/ln_{m:int}/{leaf}"' in done.text


def test_numbers_may_be_shifted(of_shapes: Map) -> None:
    source = {k: v for n in range(4) for k, v in dense(f"enc/layer_{n}/ff", 4, 6).items()}
    target = {k: v for n in range(1, 5) for k, v in linear(f"enc.layers.{n}.ff", 4, 6).items()}
    done = of_shapes(source, target)
    assert done.complete
    assert 'rename = "enc.layers.{n+1}.ff.weight"' in done.text
    assert mapping_of(done)["enc.layers.4.ff.bias"] == (("enc/layer_3/ff/bias",), "")


def test_numbers_may_have_gaps(of_shapes: Map) -> None:
    source = {"dense/kernel": (4, 6), "dense_1/kernel": (6, 9), "dense_2/kernel": (9, 5)}
    target = {"net.0.weight": [6, 4], "net.2.weight": [9, 6], "net.5.weight": [5, 9]}
    done = of_shapes(source, target)
    assert done.complete
    assert mapping_of(done)["net.5.weight"] == (("dense_2/kernel",), "transpose:True")


@pytest.mark.parametrize("joined", ["attn.in_proj", "attn.c_attn", "attn.qkv"])
def test_query_key_and_value_become_one(of_shapes: Map, tmp_path: Path, joined: str) -> None:
    source: dict[str, Any] = {}
    for n in range(2):
        for part in ("query", "key", "value"):
            source |= dense(f"b/layer_{n}/attn/{part}", H, H)
        source |= dense(f"b/layer_{n}/mlp", H, 12)
    target: dict[str, Any] = {}
    end = "_weight" if "in_proj" in joined else ".weight"
    for n in range(2):
        target[f"b.layers.{n}.{joined}{end}"] = (3 * H, H)
        target[f"b.layers.{n}.{joined}{end.replace('weight', 'bias')}"] = (3 * H,)
        target |= linear(f"b.layers.{n}.mlp", H, 12)
    done = of_shapes(source, target)
    assert done.complete, done.text
    convert(tmp_path / "source.npz", tmp_path / "o.npz", ConvertOptions(recipes=(done.text,)))
    made, given = np.load(tmp_path / "o.npz"), np.load(tmp_path / "source.npz")
    parts = [given[f"b/layer_1/attn/{part}/kernel"].T for part in ("query", "key", "value")]
    assert np.array_equal(made[f"b.layers.1.{joined}{end}"], np.concatenate(parts))


def test_one_becomes_query_key_and_value(of_shapes: Map, tmp_path: Path) -> None:
    source: dict[str, Any] = {}
    target: dict[str, Any] = {}
    for n in range(2):
        source |= {f"h{n}/attn/c_attn/w": (1, H, 3 * H), f"h{n}/attn/c_attn/b": (3 * H,)}
        source |= {f"h{n}/mlp/w": (1, H, 5), f"h{n}/mlp/b": (5,)}
        for part in "qkv":
            target |= linear(f"h.{n}.attn.{part}_proj", H, H)
        target |= linear(f"h.{n}.mlp", H, 5)
    done = of_shapes(source, target)
    assert done.complete, done.text
    convert(tmp_path / "source.npz", tmp_path / "o.npz", ConvertOptions(recipes=(done.text,)))
    made, given = np.load(tmp_path / "o.npz"), np.load(tmp_path / "source.npz")
    whole = given["h1/attn/c_attn/w"][0].T
    assert np.array_equal(made["h.1.attn.k_proj.weight"], whole[H : 2 * H])


# What must stay open


def test_square_kernels_alone_are_not_guessed(of_shapes: Map) -> None:
    done = of_shapes(dense("a", 4, 4) | dense("b/c", 4, 4), linear("a", 4, 4) | linear("b.c", 4, 4))
    assert set(mapping_of(done)) == {"a.bias", "b.c.bias"}
    assert [each.why for each in done.proposal.open] == ["shapes leave open which way it lies"] * 2
    assert not done.complete


def test_siblings_that_disagree_decide_nothing(of_shapes: Map) -> None:
    source = dense("a", 4, 6) | dense("b", 4, 6) | dense("c", 4, 4)
    target = linear("a", 4, 6) | {"b.weight": (4, 6), "b.bias": (6,)} | linear("c", 4, 4)
    done = of_shapes(source, target)
    assert [each.target for each in done.proposal.open] == ["c.weight"]


def test_one_shape_alone_is_no_reason_where_something_is_left(of_shapes: Map) -> None:
    """Token types of BERT are as large as a classifier for two classes."""
    source = {"bert/token_type_embeddings": (2, H)} | dense("bert/pooler", H, H + 1)
    target = {"classifier.weight": [2, H]} | linear("bert.pooler", H, H + 1)
    target = target | {"other.weight": [3, H]}
    done = of_shapes(source, target)
    assert "classifier.weight" not in mapping_of(done)
    assert done.proposal.missing == ("other.weight",)
    assert "#   perhaps `bert/token_type_embeddings`" in done.text


def test_an_encoder_is_no_decoder(of_shapes: Map) -> None:
    source = {k: v for n in range(2) for k, v in dense(f"m/encoder/layer_{n}/ff", 4, 6).items()}
    target = {k: v for n in range(2) for k, v in linear(f"m.decoder.layer.{n}.ff", 4, 6).items()}
    done = of_shapes(source, target | {"x": [3]})
    assert not mapping_of(done)


def test_dense_layers_of_unknown_order_stay_open(of_shapes: Map) -> None:
    source = dense("dense", 4, 6) | dense("dense_1", 4, 6)
    done = of_shapes(source, linear("left", 4, 6) | linear("right", 4, 6))
    assert not mapping_of(done)
    assert len(done.proposal.open) == 4


def test_a_shorter_model(of_shapes: Map) -> None:
    source = {k: v for n in range(4) for k, v in dense(f"layer.{n}.ff", 4, 6).items()}
    done = of_shapes(
        source, {k: v for n in range(2) for k, v in linear(f"layer.{n}.ff", 4, 6).items()}
    )
    assert done.complete
    assert set(mapping_of(done)) == set(linear("layer.0.ff", 4, 6)) | set(
        linear("layer.1.ff", 4, 6)
    )


def test_recurrent_layers_stay_open(of_shapes: Map) -> None:
    done = of_shapes(
        {"gru/kernel": (4, 18), "gru/recurrent_kernel": (6, 18)},
        {"gru.weight": [18, 4], "gru.recurrent.weight": [18, 6]},
    )
    assert not mapping_of(done)


def test_equal_names_stay(of_shapes: Map) -> None:
    shapes = dense("a/b", 4, 4) | dense("a/c", 4, 4) | {"lstm/kernel": (4, 4)}
    done = of_shapes(shapes, shapes)
    assert done.complete
    assert done.text.count("[[rule]]") == 1
    assert "keep = true" in done.text


def test_a_word_by_chance_is_no_name(of_shapes: Map) -> None:
    source = {"ab/cd/ef/kernel": (4, 6), "gh/ij/kl/kernel": (4, 6)}
    done = of_shapes(source, {"mn.cd.weight": [6, 4], "kl.op.weight": [6, 4]})
    assert not mapping_of(done)


def test_a_group_whose_counterpart_is_gone_takes_no_other(of_shapes: Map) -> None:
    source: dict[str, Any] = {}
    target: dict[str, Any] = {}
    for n in range(2):
        source |= dense(f"encoder/layer_{n}/attention/output/dense", 4, 6)
        source |= dense(f"encoder/layer_{n}/output/dense", 4, 6)
        target |= linear(f"encoder.layer.{n}.mixing.output.dense", 4, 6)
    done = of_shapes(source, target)
    assert not mapping_of(done)
    assert len(done.proposal.open) == 4
