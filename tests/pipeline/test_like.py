"""A result compared with what it should be like, whatever kind of target that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import NotRecognisedError, TargetError, UsageError
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.like import Wanted, like, wanted_by


@pytest.fixture
def source(samples: Path) -> Path:
    return samples / "tf1_adam_ema"


def stored(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_a_model_is_like_itself(source: Path) -> None:
    with open_tensors(source) as tensors:
        found = like(tensors, source)
    assert found.same
    assert found.matched == 29


@pytest.mark.parametrize(
    "name",
    [
        "safetensors_file/model.safetensors", "saved_model_keras", "keras_archive/model.keras",
        "tf_keras_h5/model.h5", "tf1_v1",
    ],
)  # fmt: skip
def test_every_kind_of_model_is_a_target(samples: Path, name: str) -> None:
    with open_tensors(samples / name) as tensors:
        assert like(tensors, samples / name).same
    wanted = wanted_by(samples / name)
    assert wanted
    assert all(each.dtype for each in wanted.values())


def test_what_training_alone_needs_may_be_missing(source: Path, tmp_path: Path) -> None:
    done = convert(
        source, tmp_path / "w.npz",
        ConvertOptions(weights_only=True, ema="raw", like=str(source), strict_like=True),
    )  # fmt: skip
    assert done.likeness
    assert (done.likeness.matched, done.likeness.same) == (8, True)


def test_a_meta_graph_alone_is_a_target(source: Path, tmp_path: Path) -> None:
    meta = tmp_path / "model.meta"
    shutil.copy(source / "model.ckpt-7.meta", meta)
    wanted = wanted_by(meta)
    assert wanted["dense/kernel"] == Wanted((4, 8), DType.FLOAT32, needed=True)
    assert not wanted["dense/kernel/Adam"].needed
    assert not wanted["dense/kernel/ExponentialMovingAverage"].needed
    with open_tensors(source) as tensors:
        assert like(tensors, meta).same


def test_a_keras_config_is_a_target(samples: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(samples / "keras_archive" / "model.keras") as archive:
        archive.extract("config.json", tmp_path)
    wanted = wanted_by(tmp_path / "config.json")
    assert wanted["d1/kernel"].shape == (4, 8)
    with open_tensors(samples / "keras_archive" / "model.keras") as tensors:
        found = like(tensors, tmp_path / "config.json")
    assert not found.missing
    assert not found.differs


def test_what_differs(source: Path, tmp_path: Path) -> None:
    target = stored(
        tmp_path / "t.json",
        {
            "dense/kernel": [8, 4],
            "dense/bias": {"shape": [8], "dtype": "float16"},
            "dense_1/kernel": [8, None],
            "dense_1/bias": None,
            "fc/kernel": {"shape": [1], "dtype": "bfloat16"},
        },
    )
    flags = ConvertOptions(include=("dense*/*",), exclude=("*/*/*",), like=str(target))
    done = convert(source, tmp_path / "m.npz", flags)
    assert done.likeness
    assert [*done.likeness.lines(None)] == [
        "missing     fc/kernel     bfloat16 1",
        "different   dense/kernel  expected any dtype 8x4, got float32 4x8",
        "different   dense/bias    expected float16 8, got float32 8",
        f"like {target}: 2 matched, 1 missing, 2 different",
    ]
    assert [*done.likeness.lines(1)][2] == "different   1 more (-v shows all)"
    told = done.json()["like"]
    assert told["different"]["dense/kernel"] == {
        "expected": {"dtype": None, "shape": [8, 4]}, "got": {"dtype": "float32", "shape": [4, 8]},
    }  # fmt: skip
    assert told["missing"] == {"fc/kernel": {"dtype": "bfloat16", "shape": [1]}}


def test_strict_writes_nothing(source: Path, tmp_path: Path) -> None:
    target = stored(tmp_path / "t.json", {"dense/kernel": [4, 8]})
    flags = ConvertOptions(include=("dense/*",), like=str(target), strict_like=True)
    with pytest.raises(TargetError) as caught:
        convert(source, tmp_path / "m.npz", flags)
    assert caught.value.message == f"{target}: the result is not like it: 1 matched, 7 unexpected"
    assert not (tmp_path / "m.npz").exists()


def test_other_names_are_there_too(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "a.npz", w=np.zeros(2))
    text = 'version = 1\n[[rule]]\nmatch = "w"\nrename = "in"\ntie = "out"\n'
    target = stored(tmp_path / "t.json", {"in": [2], "out": [2]})
    flags = ConvertOptions(recipes=(text,), like=str(target), strict_like=True)
    done = convert(tmp_path / "a.npz", tmp_path / "b.npz", flags)
    assert done.likeness
    assert done.likeness.matched == 2


@pytest.mark.parametrize(
    "content", ["[1]", '{"a": "b"}', '{"a": [-1]}', '{"a": [true]}', '{"a": {"dtype": "f99"}}']
)
def test_what_is_no_list_of_shapes_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(NotRecognisedError):
        wanted_by(tmp_path / "t.json")


def test_damaged_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a": ')
    with pytest.raises(NotRecognisedError, match="is no model, and no JSON"):
        wanted_by(tmp_path / "t.json")


def test_strict_needs_a_target(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--strict-like needs --like TARGET"):
        convert(source, tmp_path / "m.npz", ConvertOptions(strict_like=True))
