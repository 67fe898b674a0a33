from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import open_tensors
from tensorferry.converters.graphs.name_patterns import describe_by_name
from tensorferry.converters.tensors import Evidence, Origin, Role

VARIABLE = "net/dense/kernel"


def _of(name: str, *beside: str) -> Origin:
    return describe_by_name([name, *beside])[name]


@pytest.mark.parametrize(
    ("names", "slots"),
    [
        (["Adam", "Adam_1"], ["m", "v"]),
        (["Momentum"], ["momentum"]),
        (["RMSProp", "RMSProp_1"], ["rms", "momentum"]),
        (["RMSProp", "RMSProp_1", "RMSProp_2"], ["rms", "mg", "momentum"]),
        (["Adagrad"], ["accumulator"]),
        (["AdagradDA", "AdagradDA_1"], ["gradient_accumulator", "gradient_squared_accumulator"]),
        (["Adadelta", "Adadelta_1"], ["accum", "accum_update"]),
        (["Ftrl", "Ftrl_1"], ["accum", "linear"]),
        (["ProximalAdagrad"], ["accumulator"]),
        (["LARSOptimizer"], ["momentum"]),
        (["adam_m", "adam_v"], ["m", "v"]),
        (["lamb_m", "lamb_v"], ["m", "v"]),
        # More or fewer than one optimizer makes: which is which cannot be told.
        (["Adam", "Adam_1", "Adam_2", "Adam_3"], ["Adam", "Adam_1", "Adam_2", "Adam_3"]),
        (["Adam_1"], ["Adam_1"]),
        (["Adafactor", "Adafactor_1"], ["Adafactor", "Adafactor_1"]),
    ],
)
def test_slots_stand_beside_their_variable(names: list[str], slots: list[str]) -> None:
    keys = [f"{VARIABLE}/{name}" for name in names]
    origins = describe_by_name([VARIABLE, *keys])
    assert [origins[key] for key in keys] == [
        Origin(key, Role.SLOT, VARIABLE, False, Evidence.NAME, slot)
        for key, slot in zip(keys, slots, strict=True)
    ]
    assert origins[VARIABLE] == Origin(VARIABLE, Role.WEIGHT, None, True, Evidence.NAME)


@pytest.mark.parametrize("part", ["vr", "vc", "v", "m"])
def test_adafactor_joins_with_underscores(part: str) -> None:
    key = f"{VARIABLE}_slot_{part}"
    assert _of(key, VARIABLE) == Origin(key, Role.SLOT, VARIABLE, False, Evidence.NAME, part)


@pytest.mark.parametrize("scope", ["training/Adam", "Adam", "training_1/SGD_2", "RMSprop"])
def test_keras_puts_the_optimizer_first(scope: str) -> None:
    key = f"{scope}/{VARIABLE}/m"
    assert _of(key, VARIABLE) == Origin(key, Role.SLOT, VARIABLE, False, Evidence.NAME, "m")


@pytest.mark.parametrize(
    "name",
    [
        "Adam",
        "x/Adam",
        "x/Momentum_1",
        "x/adam_m",
        "x_slot_vr",
        "Adam/x/m",
        "x/Adam_b",
        "x/Adamant",
    ],
)
def test_a_slot_without_its_variable_is_not_claimed(name: str) -> None:
    assert _of(name, "y", "x/y") == Origin(name)


def test_a_slot_in_a_scope_needs_the_shape_of_its_variable() -> None:
    slot, other = f"OptimizeLoss/{VARIABLE}/Adam", "OptimizeLoss/net/dense/bias/Adam"
    names = [VARIABLE, "net/dense/bias", slot, other]
    shapes = {VARIABLE: (2, 3), slot: (2, 3), "net/dense/bias": (3,), other: (4,)}
    origins = describe_by_name(names, shapes)
    assert origins[slot][1:3] == (Role.SLOT, VARIABLE)
    assert origins[other] == Origin(other)
    assert describe_by_name(names)[slot] == Origin(slot)


def test_the_longest_name_in_a_scope_wins() -> None:
    names = ["w", "a/w", "s/a/w/Adam"]
    origins = describe_by_name(names, dict.fromkeys(names, (2,)))
    assert origins["s/a/w/Adam"].owner == "a/w"


def test_averages_name_their_variable_whether_or_not_it_is_there() -> None:
    key = f"{VARIABLE}/ExponentialMovingAverage"
    average = Origin(key, Role.AVERAGE, VARIABLE, False, Evidence.NAME)
    assert _of(key, VARIABLE) == _of(key) == average
    assert _of("ExponentialMovingAverage") == Origin("ExponentialMovingAverage")
    assert _of("/ExponentialMovingAverage").role is Role.UNKNOWN


@pytest.mark.parametrize("leaf", ["moving_mean", "moving_variance", "renorm_stddev"])
def test_statistics_are_state(leaf: str) -> None:
    assert _of(f"bn/{leaf}") == Origin(f"bn/{leaf}", Role.STATE, None, False, Evidence.NAME)


def test_what_zero_debiasing_needs_stands_below_an_average() -> None:
    mean = "bn/moving_mean"
    assert _of(f"{mean}/biased", mean)[1:3] == (Role.STATE, mean)
    assert _of(f"{mean}/local_step", mean)[1:3] == (Role.COUNTER, mean)
    assert _of("a/biased").role is Role.UNKNOWN


@pytest.mark.parametrize("name", ["global_step", "train/global_step", "training/Adam/iterations"])
def test_steps_are_counters(name: str) -> None:
    assert _of(name).role is Role.COUNTER


@pytest.mark.parametrize(
    "name",
    [
        "beta1_power", "beta2_power_1", "scope/beta1_power",
        "Adam/lr", "SGD/momentum", "training/Adam/Variable_12", "loss_scale/good_steps",
    ],
)  # fmt: skip
def test_hyper_parameters_are_optimizer_state(name: str) -> None:
    assert _of(name) == Origin(name, Role.OPTIMIZER, None, False, Evidence.NAME)


@pytest.mark.parametrize("name", ["momentum", "net/decay", "Variable_1", "lr", "my/beta1_powers"])
def test_what_only_sounds_like_one_is_not(name: str) -> None:
    assert _of(name) == Origin(name)


@pytest.mark.parametrize(
    "leaf", ["kernel", "bias", "weights", "gamma", "embedding_table", "Matrix", "Bias"]
)
def test_what_layers_call_their_weights_are_weights(leaf: str) -> None:
    assert _of(f"net/{leaf}") == Origin(f"net/{leaf}", Role.WEIGHT, None, None, Evidence.NAME)


def test_of_other_names_nothing_is_claimed() -> None:
    assert _of("net/W_hidden") == Origin("net/W_hidden")


def test_names_tell_as_much_as_the_graph_here(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_adam_ema").iterdir():
        if path.suffix != ".meta":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_tensors(tmp_path) as named, open_tensors(samples / "tf1_adam_ema") as known:
        assert {o.evidence for o in known.origins.values()} == {Evidence.GRAPH}
        assert {o.evidence for o in named.origins.values()} == {Evidence.NAME}
        for name in known:
            assert named.origin(name)._replace(evidence=Evidence.GRAPH) == known.origin(name)


_PARTS = st.sampled_from(
    ["a", "kernel", "Adam", "Adam_1", "m", "training", "biased", "", "x_slot_v"]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)


@given(st.lists(_NAMES, max_size=12))
def test_every_name_has_an_origin_and_owners_of_slots_exist(names: list[str]) -> None:
    origins = describe_by_name(names, dict.fromkeys(names, (2,)))
    assert list(origins) == list(dict.fromkeys(names))
    for name, origin in origins.items():
        assert origin.key == name
        assert origin.role is not Role.SLOT or origin.owner in origins
        assert origin.owner != name
