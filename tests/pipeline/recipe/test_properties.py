"""What is true of recipes whatever the names, shapes and values are."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.recipe.apply import apply_recipe
from tensorferry.pipeline.recipe.patterns import parse_pattern
from tensorferry.pipeline.recipe.printing import recipe_text, rules_text
from tensorferry.pipeline.recipe.read import parse_recipe
from tensorferry.pipeline.recipe.templates import parse_template

from .conftest import tensor_of

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=12)
LEVELS = st.lists(st.sampled_from(["a", "B", "layer_1", "kernel:0", "{x}", "ü", "*"]), min_size=1,
                  max_size=4).map("/".join)  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


def dictionary(names: list[str]) -> TensorDict:
    tensors = {name: tensor_of(np.full((1,), number)) for number, name in enumerate(names)}
    return TensorDict("test", "test", tensors)


def values(tensors: TensorDict) -> list[tuple[str, list[Any]]]:
    return [(name, tensor.read().tolist()) for name, tensor in tensors.items()]


def run(tensors: TensorDict, *rules: dict[str, Any]) -> TensorDict:
    return apply_recipe(parse_recipe(rules_text([("r", rule) for rule in rules])), tensors)


@given(st.lists(NAMES, unique=True, max_size=6))
def test_renaming_is_invertible(names: list[str]) -> None:
    tensors = dictionary(names)
    there = run(tensors, {"match": "{path:**}", "rename": "model.{path|dots}"})
    back = run(there, {"match": "model.{path:**}", "rename": "{path|slashes}"})
    assert values(back) == values(tensors)


@given(st.lists(LEVELS, unique=True, max_size=6), st.lists(LEVELS, min_size=1, max_size=4))
def test_the_first_rule_that_matches_counts(names: list[str], patterns: list[str]) -> None:
    texts = [each.replace("{x}", "{{x}}") for each in dict.fromkeys(patterns)]
    rules = [{"match": each, "drop": True} for each in texts]
    keeps = [{"match": each, "keep": True, "required": False} for each in texts]
    matches = [parse_pattern(each).compiled(lambda name: name) for each in texts]
    kept = [name for name in names if not any(match(name) is not None for match in matches)]
    narrow = [{**each, "rank": [1]} for each in keeps]  # or those behind could never be reached
    assert [*run(dictionary(names), *rules)] == kept
    assert [*run(dictionary(names), *narrow, *rules)] == names


@given(st.lists(NAMES, unique=True, min_size=1, max_size=8), st.data())
def test_the_order_stays(names: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from(names)))
    rules = [
        {"match": f"re:{''.join(f'[{c}]' if c.isalnum() else chr(92) + c for c in name)}",
         "drop": True}
        for name in gone if all(c.isalnum() for c in name)
    ]  # fmt: skip
    rules.append({"match": "{x:**}", "rename": "{x}."})
    plain = {name for name in gone if all(c.isalnum() for c in name)}
    expected = [f"{name}." for name in names if name not in plain]
    assert [*run(dictionary(names), *rules)] == expected


@given(SHAPES, st.data())
def test_split_then_concat_is_identity(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=3)))
    sizes = [b - a for a, b in itertools.pairwise([0, *cuts, shape[axis]])]
    parts = [f"part{number}" for number in range(max(len(sizes), 2))]
    sizes += [0] * (len(parts) - len(sizes))
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensors = TensorDict("test", "test", {"a": tensor_of(array)})
    divided = run(tensors, {"match": "a", "split": {"axis": axis, "into": parts, "sizes": sizes}})
    assert [each.spec.shape[axis] for each in divided.values()] == sizes
    back = run(divided, {"match": parts, "rename": "a", "concat": {"axis": axis}})
    np.testing.assert_array_equal(back["a"].read(), array)


@given(SHAPES, st.data())
def test_permutations_compose(shape: tuple[int, ...], data: st.DataObject) -> None:
    orders = st.permutations(range(len(shape)))
    first, second = data.draw(orders), data.draw(orders)
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    tensors = TensorDict("test", "test", {"a": tensor_of(array)})
    steps = {"match": "a", "do": [{"permute": [*first]}, {"permute": [*second]}]}
    once = {"match": "a", "permute": [first[axis] for axis in second]}
    both, composed = run(tensors, steps)["a"], run(tensors, once)["a"]
    assert both.spec == composed.spec
    np.testing.assert_array_equal(both.read(), composed.read())
    np.testing.assert_array_equal(both.read(), array.transpose(first).transpose(second))


TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
VALUES = st.recursive(
    st.integers(-(1 << 62), 1 << 62) | st.booleans() | TEXTS | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if isinstance(value, list):
        return [escaped(each) for each in value]
    if isinstance(value, dict):
        return {key: escaped(each) for key, each in value.items()}
    return value


@given(st.dictionaries(TEXTS, VALUES, max_size=4), TEXTS)
def test_what_is_printed_reads_back_the_same(content: dict[str, Any], text: str) -> None:
    recipe = parse_recipe('version = 1\n[[rule]]\nmatch = "**"\nkeep = true\n[files.c]\n')
    with_files = type(recipe)(
        "x",
        about=text,
        stages=recipe.stages,
        metadata={"text": escaped(text)},
        files={"c.json": escaped(content)} if content else {},
    )
    printed = recipe_text(with_files)
    again = parse_recipe(printed)
    assert (again.about, again.metadata, again.files) == (
        with_files.about, with_files.metadata, with_files.files,
    )  # fmt: skip
    assert recipe_text(again) == printed
    applied = apply_recipe(again, dictionary(["a"]))
    assert applied.metadata["text"] == text
    if content:
        assert json.loads(applied.files["c.json"]) == content


@given(st.text(max_size=12))
def test_templates_and_patterns_refuse_or_read(text: str) -> None:
    for parse in (parse_template, parse_pattern):
        with suppress(ValueError):  # nothing else
            assert parse(text).text == text


@given(st.text("ab/", max_size=6), st.text("ab/*", min_size=1, max_size=6))
def test_stars_match_as_they_say(name: str, pattern: str) -> None:
    """Levels compared by hand, character by character."""
    match = parse_pattern(pattern).compiled(lambda name: name)
    assert (match(name) is not None) == by_hand(name, pattern)


def by_hand(name: str, pattern: str) -> bool:
    if not pattern:
        return not name
    if pattern.startswith("**"):
        return any(by_hand(name[at:], pattern[2:]) for at in range(len(name) + 1))
    if pattern[0] == "*":
        reach = (name + "/").index("/")
        return any(by_hand(name[at:], pattern[1:]) for at in range(reach + 1))
    return name[:1] == pattern[0] and by_hand(name[1:], pattern[1:])
