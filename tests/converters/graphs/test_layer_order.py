from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.graphs.layer_order import layers_in_order
from tensorferry.converters.tensors import Origin, Role, TensorDict
from tensorferry.converters.testing.contracts import tensors_of


def given(names: Iterable[str], **fields: object) -> TensorDict:
    tensors = tensors_of(dict.fromkeys(names, (DType.INT8, (1,), b"\x01")))
    return replace(tensors, **fields)  # type: ignore[arg-type]


def order(tensors: TensorDict) -> dict[tuple[str, ...], list[str]] | None:
    return layers_in_order(tensors, set(tensors))


def test_names_that_are_not_sorted_come_in_the_order_of_the_model() -> None:
    assert order(given(["z/kernel", "z/bias", "a/kernel"])) == {(): ["z", "a"]}


@pytest.mark.parametrize(
    "names",
    [
        ["a/kernel", "b/kernel"],
        ["a/z", "a.b/y"],  # as HDF5 sorts, group by group
        ["a2/k", "b10/k", "b11/k"],
        ["b2/k", "c9/k", "c10/k"],
    ],
)
def test_sorted_names_are_in_no_order(names: list[str]) -> None:
    assert order(given(names)) is None


def test_sorted_keys_are_no_order_either() -> None:
    names = {"z/kernel": "layer_with_weights-0/k", "a/kernel": "layer_with_weights-1/k"}
    origins = {name: Origin(key) for name, key in names.items()}
    assert order(given(names, origins=origins)) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["d1/k", "d10/k", "d2/k"], ["d1", "d2", "d10"]),
        (["dense/k", "dense_1/k", "dense_10/k", "dense_2/k"],
         ["dense", "dense_1", "dense_2", "dense_10"]),
        (["only/k"], ["only"]),
        (["conv2d/k", "conv2d_1/k"], ["conv2d", "conv2d_1"]),
    ],
)  # fmt: skip
def test_numbers_tell_the_order_of_sorted_names(names: list[str], expected: list[str]) -> None:
    assert order(given(names)) == {(): expected}


@pytest.mark.parametrize("names", [["d1/k", "d_1/k"], ["d01/k", "d1/k"]])
def test_numbers_that_are_the_same_tell_nothing(names: list[str]) -> None:
    assert order(given(sorted(names))) is None


def test_files_of_keras_are_in_order() -> None:
    names = ["a/kernel", "b/kernel"]
    assert order(given(names, format="keras-h5")) == {(): ["a", "b"]}
    assert order(given(names, details={"model": "Functional"})) == {(): ["a", "b"]}


def test_models_inside_of_models_have_their_own_order() -> None:
    found = order(given(["out/k", "inner/z/k", "inner/a/cell/k", "inner/a/k"]))
    assert found == {(): ["out", "inner"], ("inner",): ["z", "a"], ("inner", "a"): ["cell"]}


def test_variables_and_what_is_kept_for_them_are_no_layers() -> None:
    tensors = given(["w", "w/Adam", "z/kernel", "z/kernel/ema", "a/k"])
    origins = {"w/Adam": Origin("w/Adam", Role.SLOT, "w")}
    assert order(replace(tensors, origins=origins)) == {(): ["z", "a"]}


def test_a_partly_frozen_model_in_a_legacy_file_is_in_no_order() -> None:
    weights = {"inner/z/k": True, "inner/a/k": False}
    origins = {name: Origin(name, Role.WEIGHT, None, flag) for name, flag in weights.items()}
    tensors = given(weights, origins=origins, format="keras-h5")
    assert order(tensors) is None
    frozen = {name: origin._replace(trainable=False) for name, origin in origins.items()}
    assert order(replace(tensors, origins=frozen)) == {(): ["inner"], ("inner",): ["z", "a"]}


def test_what_all_names_begin_with_may_be_the_model_itself() -> None:
    names = ["net/z/k", "net/a/k"]
    assert order(given(names)) is None
    assert order(given(names, format="keras-h5")) == {(): ["net"], ("net",): ["z", "a"]}
    assert order(given(["z/k", "z/b"])) == {(): ["z"]}
    assert order(given([])) == {}


def test_one_level_in_doubt_leaves_all_of_them_out() -> None:
    assert order(given(["d1/a/k", "d1/b/k", "d2/a/k"])) is None


def test_very_deep_names_are_passed_over() -> None:
    deep = "/".join(["x"] * 5000)
    assert order(given([deep, "b/k"])) == {(): ["b"]}
