"""Every red flag is planted once, and once there is something close to it that is none."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import open_tensors
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import ConvertError, CorruptFileError
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.tensors import (
    CHUNK_BYTES,
    MemoryTensor,
    Origin,
    Role,
    TensorDict,
    TensorSpec,
)  # fmt: skip
from tensorferry.converters.testing.contracts import Values, tensors_of
from tensorferry.pipeline.rereading import Dead, dead_slices
from tensorferry.pipeline.stats import stats_all
from tensorferry.pipeline.value_flags import EPSILON, RULES, value_flags

WEIGHT, STATE, SLOT, COUNTER, UNKNOWN = (
    Role.WEIGHT, Role.STATE, Role.SLOT, Role.COUNTER, Role.UNKNOWN,
)  # fmt: skip
RNG = np.random.default_rng(11)


def weights(*shape: int) -> np.ndarray:
    """Return values as a layer may have them, none of which is zero."""
    found = RNG.uniform(0.01, 1, shape) * RNG.choice([-1, 1], shape)
    return found.astype(np.float32)


def model(values: Mapping[str, Values], roles: Mapping[str, Role] | None = None) -> TensorDict:
    """Return a model of which everything is a weight, but for other roles."""
    roles = roles or {}
    origins = {name: Origin(name, roles.get(name, WEIGHT)) for name in values}
    return replace(tensors_of(values), origins=origins)


def flags(tensors: TensorDict) -> list[Finding]:
    """Return the flags, which brief statistics and any number of threads find as well."""
    found = value_flags(tensors, stats_all(tensors, 1), 1)
    assert found == value_flags(tensors, stats_all(tensors, 2, brief=True), 2)
    assert {finding.rule for finding in found} <= set(RULES)
    return found


def told(tensors: TensorDict) -> list[tuple[str, Level, str | None]]:
    return [(finding.rule, finding.level, finding.tensor) for finding in flags(tensors)]


def one(array: np.ndarray, role: Role = WEIGHT) -> list[tuple[str, str]]:
    """Return rules and levels of the flags on a model of one tensor."""
    found = flags(model({"dense/kernel": array}, {"dense/kernel": role}))
    assert {finding.tensor for finding in found} <= {"dense/kernel"}
    return [(finding.rule.removeprefix("value/"), finding.level.value) for finding in found]


# Values that are no numbers


@pytest.mark.parametrize("role", [WEIGHT, STATE, SLOT, Role.AVERAGE, UNKNOWN])
def test_nan_is_a_warning(role: Role) -> None:
    array = weights(4, 8)
    array[1, 3] = math.nan
    assert one(array, role) == [("nan", "warning")]
    [finding] = flags(model({"dense/kernel": array}))
    assert finding.text == "1 of 32 values is not a number"


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64])
@pytest.mark.parametrize("size", [20, 400])
def test_a_signalling_nan_is_one_too_and_raises_no_warning(dtype: DType, size: int) -> None:
    array = np.zeros((size, size), dtype.numpy())
    array[1:] = np.arange(1, size + 1)
    bits = array.view(f"u{dtype.itemsize}")
    infinity = np.array(math.inf, dtype.numpy()).view(bits.dtype)
    bits[2, 3] = infinity + 1
    found = flags(model({"dense/kernel": (dtype, array.shape, array.tobytes())}))
    assert [finding.rule for finding in found] == ["value/nan", "value/dead-slices"]


def test_the_largest_number_is_not_nan_and_a_constant_may_be() -> None:
    array = np.full((2, 4), np.finfo("f4").max, np.float32)
    array[0, 0] = 1
    assert one(array, Role.OPTIMIZER) == []
    assert one(np.array([1, math.nan], np.float32), Role.CONSTANT) == [("nan", "note")]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64])
def test_infinity_is_a_warning(dtype: type) -> None:
    array = np.abs(weights(4, 8)).astype(dtype)
    array[1, 3] = -math.inf
    assert one(array) == [("infinite", "warning")]
    assert one(array, SLOT) == [("infinite", "warning")]


def test_infinity_may_be_meant() -> None:
    mask = np.triu(np.full((6, 6), -math.inf, np.float32), 1)
    assert ("infinite", "note") in one(mask, UNKNOWN)
    best = np.array(math.inf, np.float32)
    assert one(best, UNKNOWN) == one(best, Role.OPTIMIZER) == [("infinite", "note")]
    assert one(best) == [("infinite", "warning")]


# Weights of one value


def test_a_weight_that_is_all_zero_is_a_warning() -> None:
    assert one(np.zeros((4, 8), np.float32)) == [("zero", "warning")]
    assert one(-np.zeros((4, 8), np.float16)) == [("zero", "warning")]
    assert one(np.zeros((4, 8), np.int8)) == [("zero", "warning")]
    assert one(np.zeros((4, 8), np.float32), UNKNOWN) == [("zero", "note")]


def test_what_is_often_zero_is_not_flagged() -> None:
    for role in (STATE, SLOT, Role.OPTIMIZER, COUNTER, Role.CONSTANT):
        assert one(np.zeros((4, 8), np.float32), role) == []
    for shape in ((8,), (), (1, 1), (0, 3)):  # a bias, a scalar, one number, none
        assert one(np.zeros(shape, np.float32)) == []
    assert one(np.zeros((4, 8), np.int32)) == []
    almost = np.zeros((2, 2), np.float32)
    almost[0, 0] = 1e-45
    assert ("zero", "warning") not in one(almost)


def test_a_constant_weight_is_a_note() -> None:
    assert one(np.full((4, 8), 0.1, np.float32)) == [("constant", "note")]
    almost = np.full((4, 8), 0.1, np.float32)
    almost[3, 7] = np.nextafter(np.float32(0.1), np.float32(1))
    assert one(almost) == []
    almost[3, 7] = math.nan
    assert one(almost) == [("nan", "warning")]
    assert one(np.ones(8, np.float32)) == []  # a gamma


# Dead slices


def test_dead_rows_and_columns_are_notes() -> None:
    array = weights(5, 7)
    array[2] = 0
    array[:, [1, 4]] = 0
    found = flags(model({"dense/kernel": array}))
    assert [(finding.rule, finding.text) for finding in found] == [
        ("value/dead-slices", "1 of 5 slices along the first axis is zero, such as [2]"),
        ("value/dead-slices", "2 of 7 slices along the last axis are zero, such as [..., 1]"),
    ]


def test_a_row_with_one_number_left_is_not_dead() -> None:
    array = weights(5, 7)
    array[2] = 0
    array[2, 6] = 1e-30
    array[:, 1] = 0
    array[0, 1] = math.nan
    assert one(array) == [("nan", "warning")]
    diagonal = np.diag(np.ones(6, np.float32))
    assert one(diagonal) == []


def test_dead_channels_of_a_convolution_are_found() -> None:
    array = weights(3, 3, 4, 8)
    array[..., 5] = 0
    array[:, :, 2, :] = 0  # neither the first axis nor the last
    [finding] = flags(model({"conv/kernel": array}))
    assert finding.text == "1 of 8 slices along the last axis is zero, such as [..., 5]"


def test_slots_may_have_dead_rows_and_single_numbers_are_no_slices() -> None:
    array = weights(5, 7)
    array[2] = 0
    assert one(array, SLOT) == []
    line = weights(1, 9)
    line[0, 3] = 0
    assert one(line) == []


@st.composite
def sparse(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
    return np.array(bits, np.float32).reshape(shape)


class Pieces(MemoryTensor):
    """A tensor in chunks of a few elements, which end where they like."""

    def __init__(self, array: np.ndarray, size: int) -> None:
        super().__init__(TensorSpec(DType.FLOAT32, array.shape), array.tobytes)
        self._size = size

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        return super().chunks(min(max_bytes, self._size * 4))


@given(sparse(), st.integers(1, 9))
def test_dead_slices_are_those_that_numpy_finds(array: np.ndarray, size: int) -> None:
    tensors = tensors_of({"it": Pieces(array, size)})
    found = dead_slices(tensors, {"it": int((array == 0).sum())}, 1, None).get("it", [])
    rows = np.flatnonzero(~array.reshape(array.shape[0], -1).any(axis=1))
    columns = np.flatnonzero(~array.reshape(-1, array.shape[-1]).any(axis=0))
    expected = [
        Dead(is_first, len(dead), length, int(dead[0]))
        for is_first, dead, length in (
            (True, rows, array.shape[0]),
            (False, columns, array.shape[-1]),
        )
        if len(dead) and length > 1 and array.size // length > 1
    ]
    assert found == expected


def test_only_tensors_with_zeros_enough_are_read_again() -> None:
    array = weights(300, 200)
    array[:, 0][:299] = 0
    read: list[int] = []
    tensors = model({"dense/kernel": array, "dense_1/kernel": weights(300, 200)})
    stats = stats_all(tensors, 1)
    assert value_flags(tensors, stats, 1, read.append) == []
    assert sum(read) == array.nbytes  # 299 zeros might be a row of 200
    array[100:, 0] = 1
    tensors = model({"dense/kernel": array})
    assert value_flags(tensors, stats_all(tensors, 1), 1, read.append) == []
    assert sum(read) == array.nbytes


# float16


def test_what_float16_cannot_hold_is_a_note() -> None:
    array = weights(4, 8)
    array[0, 0] = -70000
    assert one(array) == one(array, STATE) == one(array.astype("f8")) == [("f16-overflow", "note")]
    [finding] = flags(model({"dense/kernel": array}))
    assert finding.text == "the largest magnitude is 70000, and float16 ends at 65504"


def test_what_float16_can_hold_and_what_counts_is_not_flagged() -> None:
    array = weights(4, 8)
    array[0, 0] = 65504
    assert one(array) == []
    array[0, 0] = 1e9
    assert one(array, SLOT) == one(array, Role.OPTIMIZER) == one(array, COUNTER) == []
    assert one(array.astype(np.int64)) == []
    infinite = weights(4, 8)
    infinite[0, 0] = math.inf
    assert one(infinite) == [("infinite", "warning")]


# Duplicates


def test_equal_weights_are_likely_tied() -> None:
    array = weights(4, 8)
    found = flags(model({"a/kernel": array, "b/kernel": weights(4, 8), "c/kernel": array.copy()}))
    assert [(finding.rule, finding.level, finding.tensor) for finding in found] == [
        ("value/duplicate", Level.NOTE, "c/kernel")
    ]
    assert found[0].text == "the same as `a/kernel`: they are likely tied"


def test_nearly_equal_weights_are_not_tied() -> None:
    array = weights(4, 8)
    other = array.copy()
    other[0, :2] = other[0, 1::-1]  # the same values in another order
    assert told(model({"a/kernel": array, "b/kernel": other})) == []
    assert told(model({"a/kernel": array, "b/kernel": array.astype("f8")})) == []
    assert told(model({"a/kernel": array, "b/kernel": array.reshape(8, 4)})) == []
    assert told(model({"a/kernel": array, "b/kernel/m": array}, {"b/kernel/m": SLOT})) == []


def test_what_is_equal_for_good_reasons_is_not_tied() -> None:
    ones, few = np.ones(64, np.float32), weights(8)
    places = np.arange(64)
    mask = np.tril(np.ones((8, 8), bool))
    for array in (ones, few, places, mask):
        assert told(model({"a/it": array, "b/it": array}, {"a/it": UNKNOWN})) == []


def test_only_tensors_that_are_alike_are_read_for_a_digest() -> None:
    array = weights(400, 300)
    read: list[int] = []
    tensors = model({"a": array, "b": weights(400, 300), "c": array})
    found = value_flags(tensors, stats_all(tensors, 2), 2, read.append)
    assert [finding.tensor for finding in found] == ["c"]
    assert sum(read) == 2 * array.nbytes


# Variances


@pytest.mark.parametrize(
    "name",
    ["bn/moving_variance", "bn.running_var", "bn/bn_1_running_std", "bn/moving_variance/average"],
)
def test_a_negative_variance_is_a_warning(name: str) -> None:
    array = np.abs(weights(8))
    array[3] = -0.01
    tensors = model({name: array}, {name: STATE})
    assert told(tensors) == [("value/negative-variance", Level.WARNING, name)]
    array[3] = -EPSILON / 1000  # rounding: no layer notices
    assert told(model({name: array}, {name: UNKNOWN})) == [
        ("value/negative-variance", Level.NOTE, name)
    ]
    array[3] = 0
    assert told(model({name: array}, {name: STATE})) == []


def test_other_things_may_be_negative() -> None:
    array = weights(8)
    for name, role in (
        ("bn/moving_mean", STATE), ("bn/moving_variance/Adam", SLOT), ("invariance/kernel", WEIGHT),
        ("moving_variance_net/dense/kernel/part", WEIGHT),
    ):  # fmt: skip
        assert told(model({name: array}, {name: role})) == []


# Never trained


def fresh(**changed: np.ndarray) -> TensorDict:
    """Return a model as Keras makes it, with some tensors changed: `bn__gamma` is `bn/gamma`."""
    forget = np.repeat(np.array([0, 1, 0, 0], np.float32), 5)
    values: dict[str, Values] = {
        "dense/kernel": weights(4, 8), "dense/bias": np.zeros(8, np.float32),
        "lstm/kernel": weights(8, 20), "lstm/bias": forget,
        "bn/gamma": np.ones(8, np.float32), "bn/beta": np.zeros(8, np.float32),
        "bn/moving_mean": np.zeros(8, np.float32), "bn/moving_variance": np.ones(8, np.float32),
        "iteration": np.zeros((), np.int64), "dense/kernel/m": np.zeros((4, 8), np.float32),
    }  # fmt: skip
    values |= {name.replace("__", "/"): array for name, array in changed.items()}
    roles = {
        "bn/moving_mean": STATE, "bn/moving_variance": STATE, "iteration": COUNTER,
        "dense/kernel/m": SLOT,
    }  # fmt: skip
    return model(values, roles)


def test_a_model_as_it_was_made_was_never_trained() -> None:
    [finding] = flags(fresh())
    assert finding == Finding(
        "value/never-trained",
        Level.WARNING,
        "as it was initialised: all biases are 0 (3), all scales are 1 (1), all moving means are"
        " 0 (1), all moving variances are 1 (1), all optimizer slots are 0 (1), all step counters"
        " are 0 (1)",
    )
    tensors = fresh()
    plain = tensors.select(name for name in tensors if name.startswith(("dense", "iter")))
    assert told(plain) == [("value/never-trained", Level.WARNING, None)]


@pytest.mark.parametrize("name", ["dense__bias", "lstm__bias", "bn__gamma", "bn__beta"])
def test_a_model_of_which_anything_moved_was_trained(name: str) -> None:
    tensors = fresh()
    array = tensors[name.replace("__", "/")].read() + np.float32(1e-5)
    # The statistics are as they were, and that alone is worth a note.
    assert told(fresh(**{name: array})) == [("value/initial-statistics", Level.NOTE, None)]


def test_with_statistics_that_moved_nothing_is_left_to_tell() -> None:
    moved = np.full(8, 0.9, np.float32)
    assert told(fresh(bn__moving_variance=moved)) == []
    assert told(fresh(bn__moving_mean=moved, bn__moving_variance=moved)) == []
    assert told(fresh(iteration=np.array(1), bn__moving_mean=moved)) == []


def test_one_kind_of_evidence_is_not_enough() -> None:
    tensors = fresh()
    for names in (
        ["dense/kernel", "dense/bias", "lstm/kernel", "lstm/bias"],
        ["dense/kernel", "bn/moving_mean"],
        ["dense/kernel", "iteration"],
        ["dense/kernel"],
    ):
        assert told(tensors.select(names)) == []


def test_ones_elsewhere_in_a_bias_are_no_forget_gate() -> None:
    half = np.array([0, 0.5, 1, 0, 0, 0, 0, 0], np.float32)
    assert told(fresh(lstm__bias=half)) == [("value/initial-statistics", Level.NOTE, None)]


# All together


def test_flags_are_in_the_order_of_the_tensors_and_of_the_model_first() -> None:
    tensors = fresh(
        dense__kernel=np.zeros((4, 8), np.float32), lstm__kernel=np.full((8, 20), 1e6, np.float32)
    )
    assert told(tensors) == [
        ("value/never-trained", Level.WARNING, None),
        ("value/zero", Level.WARNING, "dense/kernel"),
        ("value/constant", Level.NOTE, "lstm/kernel"),
        ("value/f16-overflow", Level.NOTE, "lstm/kernel"),
    ]


def test_strings_empty_tensors_and_what_is_broken_are_left_out() -> None:
    tensors = model({"text": [b"a"], "none": np.zeros((0, 4), np.float32), "bad": weights(4, 8)})
    broken: Mapping[str, ConvertError] = {"bad": CorruptFileError("is missing")}
    assert told(replace(tensors, broken=broken)) == []
    assert told(model({})) == []


def test_a_tensor_that_breaks_meanwhile_is_named() -> None:
    array = weights(5, 7)
    array[2] = 0
    tensors = model({"dense/kernel": array})
    stats = stats_all(tensors, 1)

    def fails() -> bytes:
        raise CorruptFileError("the file ends early")

    gone = MemoryTensor(TensorSpec(DType.FLOAT32, (5, 7)), fails)
    with pytest.raises(CorruptFileError, match="tensor `dense/kernel`"):
        value_flags(replace(tensors, tensors={"dense/kernel": gone}), stats, 1)


def test_real_models_have_no_warnings(corpus: Path) -> None:
    with (corpus / "MANIFEST.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["oracle_ok"] == "yes"]
    assert len(rows) > 40
    rules = set()
    for row in rows:
        with open_tensors(corpus / "files" / row["local_dir"] / row["main_arg"]) as tensors:
            found = value_flags(tensors, stats_all(tensors, 2, brief=True), 2)
        assert {finding.level for finding in found} <= {Level.NOTE}, row["id"]
        rules |= {finding.rule for finding in found}
    # Each of these was looked at: they are as the notes say.
    assert rules == {
        "value/constant", "value/dead-slices", "value/duplicate", "value/initial-statistics",
        "value/negative-variance",
    }  # fmt: skip
