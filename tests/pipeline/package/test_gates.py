"""Gates: each refuses what it is for, names the tensor, and lets all else pass."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.casting import TARGETS, castable
from tensorferry.converters.digests import digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.tensors import ChunkTensor, Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import Values, tensors_of
from tensorferry.pipeline.casts import cast_tensors, parse_casts
from tensorferry.pipeline.convert import Listener
from tensorferry.pipeline.digest_file import model_digest
from tensorferry.pipeline.finding_lines import finding_lines
from tensorferry.pipeline.package.gate_input import GateInput
from tensorferry.pipeline.package.gates import run_gates
from tensorferry.pipeline.package.policy import Bounds, Policy, WantedDigest
from tensorferry.pipeline.rules import POLICY
from tensorferry.pipeline.sarif import sarif_log

REPOSITORY = Path(__file__).resolve().parents[3]
FINITE = Policy(no_nan=True, no_infinity=True)
COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)
FLOATS = [each for each in DType if re.match("float|bfloat|complex", each.label)]


def given(tensors: TensorDict, **changes: Any) -> GateInput:
    values: dict[str, Any] = {
        "path": "model", "source": tensors, "kept": tensors, "variants": {"": tensors},
        "reading": ReadOptions(), "fields": {}, "jobs": 2, "listener": Listener(), **changes,
    }  # fmt: skip
    return GateInput(**values)


def gated(policy: Policy, values: Mapping[str, Values], **changes: Any) -> list[Finding]:
    found = run_gates(policy, given(tensors_of(values), **changes))
    assert all(each.level is Level.ERROR for each in found)
    assert {each.rule for each in found} <= set(POLICY)
    return found


def lines(found: list[Finding]) -> list[str]:
    return [re.sub(r"^error +policy/", "", line) for line in finding_lines(found)]


# Values


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_kind_of_value_is_judged_as_numpy_does(dtype: DType) -> None:
    values = _kinds_of_values(dtype)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        wide = values.astype("c16" if dtype in COMPLEX else "f8")
    odd = {str(place): values[[0, place, 0]] for place in range(len(values))}
    found = {(f.tensor, f.rule) for f in gated(FINITE, odd)}
    expected = {(str(place), "policy/nan") for place in np.flatnonzero(np.isnan(wide))}
    expected |= {(str(place), "policy/infinity") for place in np.flatnonzero(np.isinf(wide))}
    assert found == expected
    assert len(expected) or dtype is DType.FLOAT4_E2M1FN


def _kinds_of_values(dtype: DType) -> np.ndarray:
    """Return all patterns of small types; of 16 bits those of the largest exponent, and some."""
    kind = dtype.numpy()
    if dtype is DType.FLOAT4_E2M1FN:
        return np.arange(16, dtype="u1").view(kind)
    if kind.itemsize == 1:
        return np.arange(1, 257).astype("u1").view(kind)  # begins with a number, in all of them
    if kind.itemsize == 2:
        patterns = np.arange(1 << 16)
        some = (patterns % 37 == 0) | (patterns & 0x7C00 == 0x7C00)
        return patterns[some].astype("u2").view(kind)
    part = np.dtype(f"f{kind.itemsize // 2}") if kind.kind == "c" else kind
    limits = np.finfo(part)
    parts = np.array([0, -0.0, 1, np.inf, -np.inf, np.nan, limits.max, limits.tiny], part)
    if kind.kind != "c":
        return parts
    pairs = np.array([(first, second) for first in parts for second in parts], part)
    return pairs.view(kind).ravel()


def test_the_first_place_and_the_count_are_told() -> None:
    values = np.zeros((3, 1000, 1000), "f4")
    values[1, 700, 3] = values[2, 0, 0] = np.nan
    values[2, 999, 999] = -np.inf
    assert lines(gated(FINITE, {"ok": values[0], "w": values})) == [
        "nan       tensor `w`: 2 of 3,000,000 values are not a number, the first at [1, 700, 3]",
        "infinity  tensor `w`: 1 of 3,000,000 values is infinite, the first at [2, 999, 999]",
    ]


def test_a_scalar_has_no_place_and_nothing_has_no_values() -> None:
    [found] = gated(FINITE, {"s": np.array(np.nan), "none": np.zeros((0, 3), ml_dtypes.bfloat16)})
    assert found.text == "1 of 1 values is not a number"


def test_only_what_is_forbidden_is_found() -> None:
    values = {"w": np.array([np.nan, np.inf], "f4"), "i": np.arange(3), "t": [b"nan"]}
    assert [f.rule for f in gated(Policy(no_nan=True), values)] == ["policy/nan"]
    assert [f.rule for f in gated(Policy(no_infinity=True), values)] == ["policy/infinity"]
    assert gated(Policy(), values) == []


@pytest.mark.parametrize("name", ["f16", "bf16", "f8_e4m3", "f8e5m2", "f32"])
def test_what_a_cast_makes_infinite_is_found_in_that_variant(name: str) -> None:
    tensors = tensors_of({"big": np.array([1.0, 1e39]), "small": np.array([2.0, -3.0])})
    cast = cast_tensors(tensors, parse_casts([name]))
    found = run_gates(FINITE, given(tensors, variants={"f64": tensors, name: cast}))
    infinite = bool(np.isinf(cast["big"].read().astype("f8")).any())
    assert [(f.rule, f.tensor, f.where) for f in found] == [
        (f"policy/{'infinity' if infinite else 'nan'}", "big", f"variant `{name}`")
    ]


CASTS = [
    (source, target)
    for source in (DType.FLOAT64, DType.FLOAT32, DType.COMPLEX128)
    for target in TARGETS
    if target in FLOATS and castable(source, target) and target is not source
]


@pytest.mark.parametrize(("source", "target"), CASTS, ids=str)
def test_a_cast_is_judged_by_what_comes_out_of_it(source: DType, target: DType) -> None:
    """Where the source alone is looked at, the result is the same as if the cast was."""
    largest = float(ml_dtypes.finfo(_part(target)).max)
    for factor in (0.5, 1.0, 1.0 + 2**-20, 1.01, 1.5):
        with np.errstate(over="ignore"):
            values = np.array([0.0, -largest * factor]).astype(source.numpy())
        tensors = tensors_of({"w": values})
        cast = cast_tensors(tensors, parse_casts([f"w={target.label}"]))
        made = cast["w"].read().astype("c16" if "complex" in target.label else "f8")
        found = run_gates(FINITE, given(cast))
        assert bool(found) == (not np.isfinite(made).all()), factor


def _part(dtype: DType) -> Any:
    kind = dtype.numpy()
    return np.dtype(f"f{kind.itemsize // 2}") if kind.kind == "c" else kind


class Reads(Listener):
    """Adds up what is read."""

    def __init__(self) -> None:
        self.planned = self.read = self.ended = 0

    def reading(self, size: int) -> None:
        self.planned += size

    def advanced(self, nbytes: int) -> None:
        self.read += nbytes

    def finished(self) -> None:
        self.ended += 1


def test_several_variants_and_a_digest_are_one_reading() -> None:
    tensors = tensors_of({"w": np.ones(1000, "f4"), "i": np.arange(10)})
    cast = cast_tensors(tensors, parse_casts(["bf16"]))
    wanted = WantedDigest(model_digest(digest_all(tensors, tensors, 1)))
    policy = Policy(no_nan=True, no_infinity=True, digest=wanted)
    reads = Reads()
    variants = {"f32": tensors, "bf16": cast}
    assert run_gates(policy, given(tensors, variants=variants, listener=reads)) == []
    assert (reads.planned, reads.read, reads.ended) == (4080, 4080, 1)


def test_a_policy_that_asks_for_no_values_reads_none() -> None:
    reads = Reads()
    assert gated(Policy(max_parameters=3), {"w": np.ones(3)}, listener=reads) == []
    assert (reads.read, reads.ended) == (0, 0)


def test_a_tensor_that_cannot_be_read_is_no_finding() -> None:
    def fail(_: memoryview) -> bytes:
        raise CorruptFileError("cut short", path="m.data")

    tensors = tensors_of({"a": np.ones(3)})
    broken = ChunkTensor(tensors["a"].spec, tensors["a"], fail)
    with pytest.raises(CorruptFileError, match=r"m\.data: tensor `a`: cut short"):
        run_gates(FINITE, given(tensors_of({"a": broken})))


# Sizes, types, names, roles

VALUES: Mapping[str, Values] = {
    "d1/kernel": np.ones((4, 8), "f4"),
    "d1/bias": np.ones(8, "f4"),
    "steps": np.array(7),
}


def test_too_many_bytes_or_parameters_name_the_largest_tensor() -> None:
    assert gated(Policy(max_bytes=168, max_parameters=41), VALUES) == []
    assert lines(gated(Policy(max_bytes=167, max_parameters=40), VALUES)) == [
        "bytes       tensor `d1/kernel`: 168 bytes in all, at most 167 are allowed; "
        "this is the largest",
        "parameters  tensor `d1/kernel`: 41 parameters in all, at most 40 are allowed; "
        "this is the largest",
    ]


def test_nothing_is_within_every_limit() -> None:
    assert gated(Policy(max_bytes=0, max_parameters=0), {}) == []


def test_types_that_are_not_allowed_are_named() -> None:
    policy = Policy(dtypes=(DType.FLOAT32, DType.BFLOAT16))
    assert lines(gated(policy, VALUES)) == [
        "dtype  tensor `steps`: is int64, allowed: float32, bfloat16"
    ]


def test_what_only_training_needs_is_named() -> None:
    tensors = tensors_of({each.name.lower(): np.ones(1) for each in Role if each is not Role.TEXT})
    origins = {each.name.lower(): Origin(each.name, each) for each in Role}
    named = TensorDict("memory", "roles", tensors.tensors, origins)
    assert lines(run_gates(Policy(no_optimizer_state=True), given(named))) == [
        "optimizer-state  tensor `slot`: is a slot of an optimizer",
        "optimizer-state  tensor `optimizer`: is state of an optimizer",
        "optimizer-state  tensor `counter`: is a counter",
    ]


def test_names_that_are_required_or_forbidden() -> None:
    policy = Policy(required=("d1/*", "d2/kernel", "re:^st"), forbidden=("*bias", "absent"))
    assert lines(gated(policy, VALUES)) == [
        "required-name   no tensor is called `d2/kernel`; did you mean `d1/kernel`?",
        "forbidden-name  tensor `d1/bias`: its name matches `*bias`",
    ]


def test_findings_say_which_variant_they_are_about() -> None:
    tensors = tensors_of(VALUES)
    cast = cast_tensors(tensors, parse_casts(["f16"]))
    policy = Policy(dtypes=(DType.FLOAT16, DType.INT64))
    found = run_gates(policy, given(tensors, variants={"f32": tensors, "f16": cast}))
    assert [(f.tensor, f.where) for f in found] == [
        ("d1/kernel", "variant `f32`"), ("d1/bias", "variant `f32`"),
    ]  # fmt: skip


# Digests


def test_weights_that_are_the_wanted_ones_pass() -> None:
    tensors = tensors_of(VALUES)
    digests = digest_all(tensors, tensors, 1)
    wanted = WantedDigest(model_digest(digests), digests)
    assert gated(Policy(digest=wanted), VALUES) == []
    assert gated(Policy(digest=WantedDigest(wanted.model)), VALUES) == []


def test_weights_that_are_others_are_told_by_both_digests() -> None:
    digest = model_digest(digest_all(tensors_of(VALUES), VALUES, 1))
    [found] = gated(Policy(digest=WantedDigest("0" * 64)), VALUES)
    assert found.text == f"the weights are others: digest, expected {'0' * 64}, got {digest}"


def test_a_digest_file_tells_which_tensors_are_others() -> None:
    tensors = tensors_of({**VALUES, "gone": np.ones(2)})
    digests = digest_all(tensors, tensors, 1)
    wanted = WantedDigest(model_digest(digests), digests)
    changed = {**VALUES, "d1/bias": np.zeros(8, "f4"), "new": np.ones(1)}
    found = gated(Policy(digest=wanted), changed)
    assert [(f.tensor, f.text.split(",")[0]) for f in found] == [
        ("d1/bias", "its values are others: digest"),
        ("new", "is not in the digest file"),
        ("gone", "is in the digest file"),
    ]


def test_a_digest_is_about_the_weights_before_they_are_cast() -> None:
    tensors = tensors_of(VALUES)
    wanted = WantedDigest(model_digest(digest_all(tensors, tensors, 1)))
    cast = cast_tensors(tensors, parse_casts(["bf16"]))
    assert run_gates(Policy(digest=wanted), given(tensors, variants={"bf16": cast})) == []


# What the owner says


def test_a_licence_is_required() -> None:
    assert lines(gated(Policy(licensed=True), {})) == [
        "license  there is no licence: give it with --license"
    ]
    assert gated(Policy(licensed=True), {}, licence="MIT") == []
    policy = Policy(licensed=True, licences=("MIT", "Apache-2.0"))
    assert gated(policy, {}, licence="Apache-2.0") == []
    assert lines(gated(policy, {}, licence="GPL-3.0-only")) == [
        "license  the licence is GPL-3.0-only, allowed: MIT, Apache-2.0"
    ]


METRICS = Policy(metrics={"accuracy": Bounds(0.9, 1.0), "loss": Bounds()})


@pytest.mark.parametrize(
    ("metrics", "texts"),
    [
        ({"accuracy": 0.9, "loss": 7}, []),
        ({"accuracy": 1, "loss": 7}, []),
        ({"accuracy": 0.89, "loss": 7}, ["`accuracy` is 0.89, at least 0.9 is required"]),
        ({"accuracy": 1.1, "loss": 7}, ["`accuracy` is 1.1, at most 1 is allowed"]),
        ({"accuracy": 1}, ["no `loss` among the metrics: give it with --fields"]),
    ],
)
def test_metrics_are_there_and_within_their_bounds(
    metrics: Mapping[str, float], texts: list[str]
) -> None:
    assert [f.text for f in gated(METRICS, {}, fields={"metrics": metrics})] == texts


def test_no_fields_are_no_metrics() -> None:
    assert len(gated(METRICS, {})) == 2


# What the source holds

LAMBDA = {"class_name": "Sequential", "config": {"name": "s", "layers": [
    {"class_name": "Lambda", "config": {"name": "odd", "function": ["4wEAAAA=", None, None]}},
]}}  # fmt: skip


def opened_gates(path: Path) -> list[Finding]:
    with open_tensors(path) as tensors:
        return run_gates(Policy(no_risks=True), given(tensors, path=str(path)))


def test_what_is_dangerous_to_load_is_refused(samples: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(samples / "keras_archive" / "model.keras") as source,
        zipfile.ZipFile(tmp_path / "m.keras", "w") as target,
    ):
        for name in source.namelist():
            text = json.dumps(LAMBDA).encode() if name == "config.json" else source.read(name)
            target.writestr(name, text)
    [found] = opened_gates(tmp_path / "m.keras")
    assert (found.rule, found.where) == ("policy/risk", "`config.json`: layer `odd`")
    assert found.text.startswith("security/lambda: ")
    assert found.path is None or found.path.startswith(str(tmp_path))


@pytest.mark.parametrize(
    "sample", ["keras_archive/model.keras", "saved_model_module", "tf_keras_h5/model.h5"]
)
def test_samples_pass(samples: Path, sample: str) -> None:
    path = samples / sample
    assert opened_gates(path if path.exists() else next(path.parent.iterdir())) == []


# What machines are told


def test_sarif_has_rule_tensor_and_file() -> None:
    found = gated(FINITE, {"w": np.array([np.nan])})
    [run] = sarif_log(found, "model.keras")["runs"]
    [result] = run["results"]
    assert run["tool"]["driver"]["rules"][0]["id"] == result["ruleId"] == "policy/nan"
    assert "plug-in" not in run["tool"]["driver"]["rules"][0]["shortDescription"]["text"]
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "w"


def test_every_rule_is_used_and_in_the_guide() -> None:
    page = (REPOSITORY / "docs" / "guide" / "package.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(policy/[\w-]+)`", page)) == set(POLICY)
    code = "".join(
        (REPOSITORY / "pipeline" / "package" / name).read_text(encoding="utf-8")
        for name in ("gates.py", "value_gates.py")
    )
    for rule in POLICY:
        assert f'"{rule}"' in code or f'"{rule.removeprefix("policy/")}"' in code


def test_a_signalling_nan_warns_nobody(make_tensors: Callable[..., TensorDict]) -> None:
    raw = struct.pack("<2I", 0x7F800001, 0x3F800000)
    tensors = make_tensors({"w": (DType.FLOAT32, (2,), raw)})
    [found] = run_gates(FINITE, given(cast_tensors(tensors, parse_casts(["f16"]))))
    assert found.rule == "policy/nan"
