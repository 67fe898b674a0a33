from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from tensorferry.converters import open_tensors
from tensorferry.converters.containers.strict_json import parse_json
from tensorferry.converters.digests import digest_all
from tensorferry.converters.errors import (
    CorruptFileError,
    NotRecognisedError,
    TargetError,
    UnsafeFileError,
    UsageError,
)
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_for_target
from tensorferry.converters.tensors import TensorDict
from tensorferry.converters.testing.contracts import Values, listing, tensors_of
from tensorferry.converters.testing.strategies import tensor_dicts
from tensorferry.pipeline import digest_file
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.digest_file import (
    digests_text,
    model_digest,
    parse_digests,
    read_digests,
    write_digests,
)

VALUES: dict[str, Values] = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.array(7, np.int64),
    "words": [b"a", b"bc"],
}
ONE, TWO = blake3(b"1").hexdigest(), blake3(b"2").hexdigest()


def digests_of(tensors: TensorDict) -> dict[str, str]:
    return digest_all(tensors, tensors, 1)


# One digest of a model


def test_the_model_digest_is_what_is_documented() -> None:
    by_hand = blake3()
    for name, each in (("a/b", ONE), ("größe", TWO)):
        raw = name.encode()
        by_hand.update(len(raw).to_bytes(8, "little") + raw + bytes.fromhex(each))
    assert model_digest({"größe": TWO, "a/b": ONE}) == by_hand.hexdigest()
    assert model_digest({}) == blake3().hexdigest()


def test_names_values_and_their_pairs_count() -> None:
    different = [
        {"a": ONE, "b": TWO},
        {"a": TWO, "b": ONE},
        {"a": ONE, "c": TWO},
        {"a": ONE},
        {"\udcff": ONE},
        {"ÿ": ONE},
    ]
    assert len({model_digest(each) for each in different}) == len(different)


def test_no_name_can_imitate_a_second_tensor() -> None:
    tail = bytes.fromhex(ONE) + (1).to_bytes(8, "little") + b"b"
    imitation = "a" + tail.decode("utf-8", "surrogateescape")
    assert model_digest({imitation: TWO}) != model_digest({"a": ONE, "b": TWO})


def test_it_is_the_same_in_every_container(tmp_path: Path) -> None:
    expected = model_digest(digests_of(tensors_of(VALUES)))
    for ending in ("npz", "safetensors", "h5", "ckpt"):
        path = tmp_path / f"m.{ending}"
        plan = format_for_target(path).plan
        assert plan
        write_plan(plan(tensors_of(dict(reversed(VALUES.items()))), path, WriteOptions()))
        with open_tensors(path) as copy:
            assert model_digest(digests_of(copy)) == expected


# Written and read


@given(tensor_dicts())
def test_what_is_written_is_read(tensors: TensorDict) -> None:
    digests = digests_of(tensors)
    text = digests_text(tensors, digests)
    read = parse_digests(parse_json(text.encode("ascii"), bytes_in_names=True))
    assert read.digests == digests
    assert read.specs == {name: tensor.spec for name, tensor in tensors.items()}
    assert read.model == model_digest(digests)


def test_the_order_of_tensors_does_not_show(tmp_path: Path) -> None:
    tensors = tensors_of(VALUES)
    turned = tensors.select(reversed(list(tensors)))
    assert digests_text(tensors, digests_of(tensors)) == digests_text(turned, digests_of(turned))
    write_digests(tmp_path / "d.json", tensors, {**digests_of(tensors), "another": ONE})
    assert sorted(read_digests(tmp_path / "d.json").digests) == sorted(VALUES)


def test_an_older_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text("old")
    write_digests(path, tensors_of(VALUES), digests_of(tensors_of(VALUES)))
    assert len(read_digests(path).digests) == 3
    assert set(listing(tmp_path)) == {"d.json"}
    with pytest.raises(UsageError, match="folder does not exist"):
        write_digests(tmp_path / "nowhere" / "d.json", tensors_of({}), {})


def test_a_full_disk_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.json"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TargetError, match=r"[Nn]o space"):
        write_digests(path, tensors_of({}), {})
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert set(listing(tmp_path)) == {"d.json"}


# What is no digest file

Change = Callable[[dict[str, Any]], object]


def put(*keys: str, value: object) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def without(*keys: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "d.json"
    write_digests(path, tensors_of(VALUES), digests_of(tensors_of(VALUES)))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            put("format", value="something"),
            "format: no digest file, expected 'tensorferry digests'",
        ),
        (put("version", value=2), "version: no digest file, expected 1, got 2"),
        (put("version", value=True), "`version`, expected int, got bool"),
        (put("version", value=1.0), "`version`, expected int, got float"),
        (put("model", value=ONE), f"model: is not the digest .* got {ONE}"),
        (put("model", value="0"), "model: digest, expected 64 hexadecimal digits, got '0'"),
        (put("more", value=1), "a digest file: `more` is unknown"),
        (without("tool"), "a digest file: `tool`, expected str, got nothing"),
        (without("tensors"), "`tensors`, expected dict, got nothing"),
        (put("tensors", value=[]), "`tensors`, expected dict, got list"),
        (without("tensors", "step"), "model: is not the digest of the tensors listed"),
        (put("tensors", "step", value=[]), "tensor `step`: JSON, expected an object, got list"),
        (put("tensors", "step", "more", value=1), "tensor `step`: `more` is unknown"),
        (without("tensors", "step", "shape"), "tensor `step`: `shape`, expected list, got nothing"),
        (put("tensors", "step", "dtype", value="float31"), "tensor `step`: unknown dtype"),
        (put("tensors", "step", "dtype", value=None), "`dtype`, expected str, got NoneType"),
        (put("tensors", "step", "shape", value="3"), "`shape`, expected list, got str"),
        (put("tensors", "step", "shape", value=[-1]), "tensor `step`: shape, expected a list of"),
        (put("tensors", "step", "shape", value=[True]), "tensor `step`: shape, expected a list"),
        (put("tensors", "step", "shape", value=[1] * 256), "tensor `step`: shape"),
        (put("tensors", "step", "shape", value=[1 << 60, 9]), "tensor `step`: no array has this"),
        (put("tensors", "step", "digest", value=ONE[:-1]), "tensor `step`: digest, expected 64"),
        (put("tensors", "step", "digest", value=ONE.upper()), "tensor `step`: digest, expected"),
        (put("tensors", "step", "digest", value=f"{ONE}\n"), r"tensor `step`: digest, .*\\n"),
        (put("tensors", "step", "digest", value=5), "`digest`, expected str, got int"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(stored: Path, change: Change, said: str) -> None:
    content = json.loads(stored.read_text())
    change(content)
    stored.write_text(json.dumps(content))
    with pytest.raises(CorruptFileError, match=said) as caught:
        read_digests(stored)
    assert caught.value.path == str(stored)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("[]", "a digest file: JSON, expected an object, got list"),
        ("{", "no JSON"),
        ('{"tensors": {"w": {}, "w": {}}}', "a key occurs twice in an object: 'w'"),
        ('{"version": 1e999}', "no JSON"),
        ('{"version": NaN}', "NaN"),
        ('{"\\ud834": 1}', "half a surrogate pair"),
        ("[" * 300 + "]" * 300, "at most 256 levels"),
        ("[" * 100_000, "no JSON|levels"),
    ],
)
def test_what_is_no_such_json_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(CorruptFileError, match=said) as caught:
        read_digests(tmp_path / "d.json")
    assert caught.value.path == str(tmp_path / "d.json")


def test_every_cut_and_flip_is_an_error_or_the_same(tmp_path: Path) -> None:
    stored, tensors = tmp_path / "d.json", tensors_of({"w": np.zeros(3, np.float32)})
    write_digests(stored, tensors, digests_of(tensors))
    raw = stored.read_bytes()
    whole = read_digests(stored)
    for length in range(len(raw) - 2):  # the last is a newline
        stored.write_bytes(raw[:length])
        with pytest.raises(CorruptFileError):
            read_digests(stored)
    for at in range(len(raw)):
        stored.write_bytes(raw[:at] + bytes([raw[at] ^ 0x11]) + raw[at + 1 :])
        try:
            read = read_digests(stored)
        except CorruptFileError:
            continue
        assert (read.model, read.digests) == (whole.model, whole.digests)  # the tool, a shape


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "d.json").open("wb") as file:
        file.truncate(digest_file.MAX_BYTES + 1)
    with pytest.raises(UnsafeFileError, match="at most"):
        read_digests(tmp_path / "d.json")


def test_what_is_not_there_or_no_file_is_not_recognised(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, said in (("none", "does not exist"), ("", "no regular"), ("pipe", "no regular")):
        with pytest.raises(NotRecognisedError, match=said):
            read_digests(tmp_path / place)


# From a conversion


def test_a_conversion_says_what_is_in_the_target(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(digest_file=tmp_path / "d.json", ema="raw", dtypes=("bf16",))
    report = convert(samples / "tf1_adam_ema", tmp_path / "m.npz", options)
    with open_tensors(tmp_path / "m.npz") as copy:
        assert read_digests(tmp_path / "d.json").digests == digests_of(copy) == report.digests


@pytest.mark.parametrize(
    ("source", "target", "write"),
    [
        ("tf1_adam_ema", "m.ckpt", WriteOptions(object_based=True)),
        ("safetensors_file/model.safetensors", "m.weights.h5", WriteOptions(config=Path("keras"))),
        ("npz_file/model.npz", "m", WriteOptions(template=Path("saved"))),
    ],
)
def test_names_are_those_that_the_target_opens_with(
    tmp_path: Path, samples: Path, source: str, target: str, write: WriteOptions
) -> None:
    if write.config:
        write = replace(write, config=samples / "keras_archive" / "model.keras")
    if write.template:
        write = replace(write, template=samples / "saved_model_keras")
    target_format = "saved-model" if write.template else None
    options = ConvertOptions(
        digest_file=tmp_path / "d.json", write=write, target_format=target_format
    )
    convert(samples / source, tmp_path / target, options)
    with open_tensors(tmp_path / target) as copy:
        assert read_digests(tmp_path / "d.json").digests == digests_of(copy)


def test_bad_places_are_told_before_anything_is_written(tmp_path: Path, samples: Path) -> None:
    source, target, same = samples / "tf1_multi_shard", tmp_path / "m.npz", tmp_path / "d.json"
    for options, said in (
        (ConvertOptions(digest_file=target), "digest file would replace the target"),
        (ConvertOptions(digest_file=same, report=same), "have the same name"),
        (ConvertOptions(digest_file=same, dry_run=True), "no digests"),
        (ConvertOptions(digest_file=tmp_path / "no" / "d.json"), "folder does not exist"),
    ):
        with pytest.raises(UsageError, match=said):
            convert(source, target, options)
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_fails_leaves_the_older_file(tmp_path: Path, samples: Path) -> None:
    (tmp_path / "d.json").write_text("old")
    (tmp_path / "m.npz").write_text("there")
    options = ConvertOptions(digest_file=tmp_path / "d.json")
    with pytest.raises(UsageError):
        convert(samples / "tf1_multi_shard", tmp_path / "m.npz", options)
    assert (tmp_path / "d.json").read_text() == "old"
    assert set(listing(tmp_path)) == {"d.json", "m.npz"}


def test_the_documented_fields_are_all_there_are() -> None:
    content: Mapping[str, Any] = json.loads(
        digests_text(tensors_of(VALUES), digests_of(tensors_of(VALUES)))
    )
    assert list(content) == ["format", "version", "tool", "model", "tensors"]
    assert content["tensors"]["kernel"]["shape"] == [2, 3]
    assert re.fullmatch(r"tensorferry \d+\.\d+\.\d+", content["tool"])
