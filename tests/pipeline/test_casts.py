from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.casting import TARGETS, CastTensor
from tensorferry.converters.digests import digest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import LossError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_for_target
from tensorferry.converters.tensors import Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import Values, contents, tensors_of
from tensorferry.pipeline.casts import Casts, cast_tensors, parse_casts, type_named
from tensorferry.pipeline.convert import ConvertOptions, convert

BF16, F16, F32 = DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32
ONES = np.ones(3, np.float32)


def stored(path: Path, values: Mapping[str, Values]) -> Path:
    """Write tensors in the format that the name stands for."""
    plan = format_for_target(path).plan
    assert plan
    write_plan(plan(tensors_of(values), path, WriteOptions()))
    return path


def dtypes(tensors: Mapping[str, Any]) -> dict[str, str]:
    return {name: tensor.spec.dtype.label for name, tensor in tensors.items()}


# What is asked for


@pytest.mark.parametrize("dtype", TARGETS, ids=str)
def test_types_have_their_label_and_a_short_name(dtype: DType) -> None:
    assert type_named(dtype.label) is dtype
    assert type_named(dtype.label.upper()) is dtype
    short = dtype.label
    for long, less in (("complex", "c"), ("float", "f"), ("uint", "u"), ("int", "i"), ("_", "")):
        short = short.replace(long, less)
    assert type_named(short) is dtype


def test_types_have_their_names_in_safetensors() -> None:
    assert [type_named(code) for code in ("BF16", "F8_E4M3", "F8_E5M2", "I64")] == [
        BF16, DType.FLOAT8_E4M3FN, DType.FLOAT8_E5M2, DType.INT64,
    ]  # fmt: skip


def test_texts_ask_for_a_default_and_for_patterns() -> None:
    casts = parse_casts(["embed*=f32", "bf16", "norm*=keep", "a=b=f16", "bfloat16"])
    assert casts == Casts(BF16, (("embed*", F32), ("norm*", None), ("a=b", F16)))
    assert not parse_casts([])


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["fp16"], "no type is called `fp16`\n\nhint: did you mean `f16`"),
        (["w=bf17"], "did you mean `bf16`"),
        (["embed*"], "no type is called `embed*`\n\nhint: say TYPE or PATTERN=TYPE"),
        (["w="], "no type is called ``"),
        (["=f16"], "no pattern before `=`"),
        (["f16", "bf16"], "two types for all tensors: float16 and bfloat16"),
        (["i8"], "not all tensors can become int8"),
        (["keep"], "no type is called `keep`"),
        (["w=string"], "nothing is cast to string"),
        (["float4_e2m1fn"], "nothing is cast to float4_e2m1fn"),
        (["w=bool"], "nothing is cast to bool"),
    ],
)
def test_what_nobody_can_mean_is_refused(tmp_path: Path, texts: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_casts(texts)
    assert said in str(raised.value)
    # Before anything is read: there is nothing to read.
    with pytest.raises(UsageError):
        convert(tmp_path / "nothing", tmp_path / "x.npz", ConvertOptions(dtypes=tuple(texts)))


# Which tensors


ROLES = {
    "kernel": Role.WEIGHT,
    "moving_mean": Role.STATE,
    "kernel/m": Role.SLOT,
    "kernel/ema": Role.AVERAGE,
    "unknown": Role.UNKNOWN,
    "constant": Role.CONSTANT,
    "learning_rate": Role.OPTIMIZER,
    "step": Role.COUNTER,
}


@pytest.fixture
def model(make_tensors: Callable[[Mapping[str, Values]], TensorDict]) -> TensorDict:
    values: dict[str, Values] = dict.fromkeys(ROLES, ONES)
    others: dict[str, Values] = {
        "count": np.arange(3),
        "mask": np.array([True]),
        "words": [b"a"],
        "half": np.ones(2, np.float16),
        "small": np.ones(2, DType.FLOAT8_E5M2.numpy()),
        "complex": np.ones(2, np.complex64),
        "quantised": (DType.QINT8, (1,), b"\1"),
    }
    origins = {name: Origin(f"key/{name}", role) for name, role in ROLES.items()}
    return replace(make_tensors(values | others), origins=origins)


def test_a_type_alone_is_for_floats_that_are_computed_with(model: TensorDict) -> None:
    got = dtypes(cast_tensors(model, parse_casts(["bf16"])))
    changed = {name for name, label in got.items() if label != dtypes(model)[name]}
    assert changed == {*ROLES, "half", "small"} - {"learning_rate", "step"}
    assert {got[name] for name in changed} == {"bfloat16"}
    assert list(got) == list(model)


def test_patterns_name_anything(model: TensorDict) -> None:
    texts = ["count=i32", "mask=u8", "step=f64", "re:^lear.*rate$=f16", "complex=c128"]
    got = dtypes(cast_tensors(model, parse_casts(texts)))
    assert {name for name, label in got.items() if label != dtypes(model)[name]} == {
        "count", "mask", "step", "learning_rate", "complex",
    }  # fmt: skip
    assert (got["count"], got["mask"], got["step"]) == ("int32", "uint8", "float64")


def test_patterns_go_before_the_default_and_the_first_counts(model: TensorDict) -> None:
    texts = ["bf16", "kernel=keep", "kernel*=f16", "*ema=f64"]
    got = dtypes(cast_tensors(model, parse_casts(texts)))
    assert (got["kernel"], got["kernel/m"], got["kernel/ema"]) == ("float32", "float16", "float16")
    assert got["moving_mean"] == "bfloat16"


def test_patterns_may_be_over_keys(model: TensorDict) -> None:
    got = dtypes(cast_tensors(model, parse_casts(["key/kernel=f16"]), "key"))
    assert [name for name, label in got.items() if label != dtypes(model)[name]] == ["kernel"]
    with pytest.raises(UsageError, match="no tensor is called `key/kernel`"):
        cast_tensors(model, parse_casts(["key/kernel=f16"]))


def test_a_tensor_that_has_the_type_already_is_the_same(model: TensorDict) -> None:
    got = cast_tensors(model, parse_casts(["f32", "half=f16", "words=keep"]))
    assert got["kernel"] is model["kernel"]
    assert got["half"] is model["half"]
    assert isinstance(got["small"], CastTensor)
    assert cast_tensors(model, parse_casts([])) is model


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("words=f16", "tensor `words`: string is not cast to float16"),
        ("quantised=f32", "tensor `quantised`: qint8 is not cast to float32"),
        ("kernel=i32", "tensor `kernel`: float32 is not cast to int32"),
        ("*=f16", "tensor `count`: int64 is not cast to float16"),
        ("count=bf16", "tensor `count`: int64 is not cast to bfloat16"),
        ("complex=f32", "tensor `complex`: complex64 is not cast to float32"),
        ("kernl=f16", "did you mean `kernel`"),
        ("re:[=f16", "no regular expression"),
    ],
)
def test_what_a_tensor_cannot_become_is_refused(model: TensorDict, text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        cast_tensors(model, parse_casts([text]))
    assert said in str(raised.value)


# Whole conversions


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file with values that float16 cannot hold."""
    wide = np.array([1.0, 1e6, -1e6, 65519.9, 1e-9, 0.0, np.nan, np.inf], np.float32)
    values: dict[str, Values] = {
        "fine": ONES,
        "steps": np.arange(3),
        "wide/kernel": wide,
        "zeros": np.full(5, 1e-20, np.float32),
    }
    return stored(tmp_path / "source.safetensors", values)


@pytest.mark.parametrize("ending", ["safetensors", "npz", "h5", "ckpt"])
@pytest.mark.parametrize("label", ["bfloat16", "float16", "float64", "float8_e4m3fn"])
def test_every_target_holds_what_the_cast_gives(
    tmp_path: Path, source: Path, ending: str, label: str
) -> None:
    target = tmp_path / f"out.{ending}"
    options = ConvertOptions(dtypes=(label,), verify=True, jobs=2)
    report = convert(source, target, options)
    with open_tensors(source) as before, open_tensors(target) as after:
        assert dtypes(after) == {**dict.fromkeys(before, label), "steps": "int64"}
        expected = cast_tensors(before, parse_casts([label]))
        assert contents({name: after[name] for name in before}) == contents(expected)
        assert {name: digest(expected[name]) for name in before} == dict(report.digests)


def test_the_account_tells_what_was_cast_and_what_was_lost(tmp_path: Path, source: Path) -> None:
    report = convert(source, tmp_path / "out.npz", ConvertOptions(dtypes=("f16",)))
    assert report.counts == {"written": 1, "cast": 3}
    lost = {n.tensor: n.text for n in report.notes if n.kind is Kind.OUT_OF_RANGE}
    assert lost == {
        "wide/kernel": "of 8 values, 2 overflow and 1 become zero as float16",
        "zeros": "of 5 values, 5 become zero as float16",
    }
    assert report.lossy
    rows = {row["name"]: row for row in report.rows()}
    assert rows["wide/kernel"]["cast"] == {"dtype": "float16", "overflow": 2, "zero": 1}
    assert rows["wide/kernel"]["dtype"] == "float32"
    assert rows["fine"]["action"] == "cast"
    assert rows["fine"]["notes"] == ["float32 to float16"]
    assert "cast" not in rows["steps"]


def test_a_plain_cast_is_no_loss(tmp_path: Path, source: Path) -> None:
    options = ConvertOptions(dtypes=("bf16", "wide*=keep"), strict=True)
    assert convert(source, tmp_path / "out.npz", options).lossy is False


def test_a_dry_run_does_not_know_what_would_be_lost(tmp_path: Path, source: Path) -> None:
    options = ConvertOptions(dtypes=("f16",), dry_run=True, strict=True)
    report = convert(source, tmp_path / "out.npz", options)
    assert report.counts == {"written": 1, "cast": 3}
    assert {row["name"]: row.get("cast") for row in report.rows()}["zeros"] == {"dtype": "float16"}
    assert report.plan.size < convert(source, tmp_path / "whole.npz").plan.size


@pytest.mark.parametrize("ending", ["safetensors", "npz", "h5", "ckpt"])
def test_strict_refuses_lost_values_and_leaves_nothing(
    tmp_path: Path, source: Path, ending: str
) -> None:
    before = sorted(tmp_path.iterdir())
    options = ConvertOptions(dtypes=("f16",), strict=True)
    with pytest.raises(LossError, match=r"`wide/kernel`: of 8 values, 2 overflow.*and 1 more"):
        convert(source, tmp_path / f"out.{ending}", options)
    assert sorted(tmp_path.iterdir()) == before


def test_an_average_in_its_variables_place_is_what_was_cast(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(ema="only", dtypes=("dense/kernel=f16",), weights_only=True)
    report = convert(samples / "tf1_adam_ema", tmp_path / "out.npz", options)
    actions = {row["name"]: row["action"] for row in report.rows()}
    assert actions["dense/kernel/ExponentialMovingAverage"] == "cast"
    assert actions["dense/kernel"] == "excluded"
    assert sum(report.counts.values()) == len(report.source)


def test_only_a_cast_needs_numpy(tmp_path: Path, source: Path) -> None:
    program = (
        "import sys; from tensorferry.pipeline import ConvertOptions, convert\n"
        "convert(sys.argv[1], sys.argv[2], ConvertOptions(dtypes=tuple(sys.argv[3:])))\n"
        "print('numpy' in sys.modules)"
    )
    for words, needed in ((), "False"), (("bf16",), "True"):
        command = [sys.executable, "-c", program, str(source), f"{needed}.safetensors", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == needed


def test_the_command_line_casts(tmp_path: Path, source: Path) -> None:
    program = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
    words = [str(source), "out.safetensors", "--dtype", "f16", "--dtype", "wide*=keep"]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "2 written, 2 cast" in done.stderr
    assert "note: out of range: tensor `zeros`: of 5 values, 5 become zero" in done.stderr
    assert "note: cast" not in done.stderr
    again = subprocess.run(
        [*command, "--overwrite", "--strict", "-v"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 5
    assert "would be lost: tensor `zeros`" in again.stderr


def test_losses_are_printed_before_other_notes(tmp_path: Path) -> None:
    many: dict[str, Values] = {f"a{number}": ONES for number in range(9)}
    stored(tmp_path / "m.safetensors", many | {"z": np.full(2, 1e9, np.float32)})
    program = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
    words = ["m.safetensors", "o.npz", "--dtype", "bf16", "--dtype", "z=f16"]
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    notes = [line for line in done.stderr.splitlines() if line.startswith("note")]
    assert notes[0] == "note: out of range: tensor `z`: of 2 values, 2 overflow as float16"
    assert notes[-1] == "note: 5 more (-v shows all)"


def test_what_is_tied_stays_tied(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a"] = np.arange(4, dtype=np.float32)
        file["b"] = file["a"]
    options = ConvertOptions(dtypes=("bf16",), verify=True)
    convert(tmp_path / "m.h5", tmp_path / "m.safetensors", options)
    with open_tensors(tmp_path / "m.safetensors") as tensors:
        assert tensors["a"].extents == tensors["b"].extents
        assert tensors["b"].read().tolist() == [0, 1, 2, 3]
