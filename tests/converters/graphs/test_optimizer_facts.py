"""What graphs and Keras configs say about optimizers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.containers.graph_proto import meta_graph
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.graphs.keras_config import Layer, optimizer
from tensorferry.converters.graphs.meta_graph import graph_facts
from tensorferry.converters.graphs.optimizer_facts import (
    optimizers_of_layer,
    optimizers_of_metadata,
)

FLOAT, DOUBLE, INT32, STRING = 1, 2, 3, 7


def node(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    parts = [(1, name.encode()), (2, op.encode()), *((3, each.encode()) for each in inputs)]
    parts += [(5, message((1, key.encode()), (2, value))) for key, value in attrs.items()]
    return message(*parts)


def constant(name: str, value: bytes, kind: int = FLOAT, *dims: int) -> bytes:
    shape = message(*((2, message((1, dim))) for dim in dims))
    tensor = message((1, kind), (2, shape), (4, value))
    return node(name, "Const", value=message((8, tensor)))


def single(name: str, value: float) -> bytes:
    return constant(name, struct.pack("<f", value))


def told(*nodes: bytes) -> list[dict[str, Any]]:
    data = message((2, message(*((1, each) for each in nodes))))
    body = Body(MemorySource(Path("m.meta"), data), 0, len(data), data)
    return list(graph_facts(meta_graph(body), ()).optimizers)


MOMENTUM = ("w", "slot", "lr", "grad", "momentum")


def test_constants_of_update_nodes_are_parameters() -> None:
    nodes = [single("lr", 0.1), single("momentum", 0.9)]
    assert told(*nodes, node("update", "ApplyMomentum", *MOMENTUM)) == [
        {"kind": "Momentum", "parameters": {"learning_rate": 0.1, "momentum": 0.9}}
    ]
    sparse = node("update", "ResourceSparseApplyMomentum", "w", "slot", "lr", "g", "i", "momentum")
    assert told(*nodes, sparse)[0]["parameters"] == {"learning_rate": 0.1, "momentum": 0.9}


def test_what_is_computed_is_not_told() -> None:
    nodes = [single("lr", 0.1), node("decayed", "Mul", "lr", "step")]
    update = node("update", "ApplyMomentum", "w", "slot", "decayed", "grad")  # one input too few
    assert told(*nodes, update) == [{"kind": "Momentum", "parameters": {}}]


def test_a_constant_that_is_passed_on_is_told() -> None:
    nodes = [single("c", 0.001), node("lr", "Identity", "c")]
    descent = node("update", "ApplyGradientDescent", "w", "lr:0", "grad")
    assert told(*nodes, descent) == [
        {"kind": "GradientDescent", "parameters": {"learning_rate": 0.001}}
    ]


def test_several_values_and_several_optimizers() -> None:
    nodes = [single(f"lr{number}", number) for number in range(20)]
    nodes += [node(f"u{n}", "ApplyGradientDescent", "w", f"lr{n}", "grad") for n in range(20)]
    nodes.append(node("v", "ApplyAdagrad", "w", "slot", "lr1", "grad"))
    descent, adagrad = told(*nodes)
    assert descent["parameters"]["learning_rate"] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert adagrad == {"kind": "Adagrad", "parameters": {"learning_rate": 1}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (constant("lr", struct.pack("<d", 0.1), DOUBLE), {"learning_rate": 0.1}),
        (constant("lr", struct.pack("<i", -3), INT32), {"learning_rate": -3}),
        (single("lr", 16777217), {"learning_rate": 16777216}),
        (single("lr", 1 / 3), {"learning_rate": 0.33333334}),
        (single("lr", float("nan")), {}),
        (single("lr", float("-inf")), {}),
        (constant("lr", b"\0" * 8, FLOAT, 2), {}),
        (constant("lr", b"\0"), {}),  # too short
        (constant("lr", b"x", STRING), {}),
        (node("lr", "Const", value=message((8, b"\xff"))), {}),
        (node("lr", "Const"), {}),
    ],
)
def test_only_single_finite_numbers_are_told(data: bytes, expected: dict[str, float]) -> None:
    [found] = told(data, node("update", "ApplyGradientDescent", "w", "lr", "grad"))
    assert found["parameters"] == expected


# Keras


def test_a_config_tells_kind_and_parameters() -> None:
    config = {"name": "sgd", "lr": 0.5, "momentum": None, "jit_compile": True}
    layer = Layer("SGD", "sgd", config)
    assert optimizers_of_layer(layer) == [
        {"kind": "SGD", "parameters": {"learning_rate": 0.5, "momentum": None}}
    ]
    assert optimizers_of_layer(None) == []


@pytest.mark.parametrize("key", ["inner_optimizer", "optimizer"])
def test_a_wrapped_optimizer_is_told_too(key: str) -> None:
    inner = {"class_name": "Adam", "config": {"learning_rate": 0.1}}
    outer = {"class_name": "LossScaleOptimizer", "config": {"initial_scale": 2.0, key: inner}}
    layer = optimizer({"compile_config": {"optimizer": outer}}, 3)
    assert optimizers_of_layer(layer) == [
        {"kind": "LossScaleOptimizer", "parameters": {"initial_scale": 2.0}},
        {"kind": "Adam", "parameters": {"learning_rate": 0.1}},
    ]


def test_wrapping_without_end_ends() -> None:
    config: dict[str, Any] = {"class_name": "A", "config": {}}
    for _ in range(50):
        config = {"class_name": "A", "config": {"inner_optimizer": config}}
    assert len(optimizers_of_layer(Layer("A", "", {"inner_optimizer": config}))) == 4


def test_metadata_that_cannot_be_read_says_nothing() -> None:
    good = {"training_config": {"optimizer_config": {"class_name": "SGD", "config": {}}}}
    bad = ['"training_config"', '{"training_config": [', '{"training_config": {}}', '"\udcff"']
    assert optimizers_of_metadata(bad) == []
    assert optimizers_of_metadata([*bad, json.dumps(good)]) == [{"kind": "SGD", "parameters": {}}]
