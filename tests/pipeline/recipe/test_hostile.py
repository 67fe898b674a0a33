"""Recipes that somebody has tampered with are refused with a message, or do what they say."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline.recipe.apply import apply_recipe
from tensorferry.pipeline.recipe.printing import _value, recipe_text
from tensorferry.pipeline.recipe.read import parse_recipe

if TYPE_CHECKING:
    from .conftest import Make

# Something of everything.
WHOLE: dict[str, Any] = {
    "version": 1,
    "about": "x",
    "unmatched": "keep",
    "include": ["builtin:pytorch-names"],
    "parameters": {
        "n": 2, "text": "a", "layers": {"count": "l{i}/*"}, "width": {"dim": ["l0/w", 0]},
        "half": "{width // n}",
    },
    "stage": [
        {
            "name": "1",
            "unmatched": "keep",
            "rule": [
                {
                    "match": "l{i:int}/{leaf}", "where": {"i": "0..{layers - 1}"}, "by": "name",
                    "map": {"leaf": {"w": "weight"}}, "role": "tensor", "dtype": "float32",
                    "rank": [2], "rename": "{i+1}.{leaf|upper}", "tie": ["t{i}"],
                    "do": [
                        {"reshape": ["{half}", -1]}, {"permute": [1, 0]}, {"expand": [0]},
                        {"squeeze": [0]}, {"slice": ["0:{n}"]}, {"scale": 2.0}, {"cast": "f64"},
                        {"fit": {"shape": [4, -1], "fill": 1}},
                        {"gates": {"axis": 0, "from": "ab", "to": "ba"}},
                    ],
                },
                {"match": ["x", "y"], "rename": "xy", "required": False, "stack": {"axis": 0}},
                {"match": "z", "split": {"axis": 0, "into": ["z1", "z2"], "sizes": [1, "{n}"]}},
            ],
        }
    ],
    "metadata": {"m": "{text}"},
    "files": {"config.json": {"a": ["{n}", {"b": "{text}"}]}},
}  # fmt: skip
OTHERS = [0, -1, 1 << 62, "", "{", "{n", "{{", "{zz}", "a\nb", [], [[]], {}, True, 1.5,
          float("inf"), ["", ""], {"": ""}, [0, 0], "x" * 5000, [3] * 100]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path to every value, and to every table and list."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, each in inner:
        yield (*path, key)
        yield from places(each, (*path, key))


def toml(content: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(each)}\n" for key, each in content.items())


def changed(path: tuple[Any, ...], other: Any) -> dict[str, Any]:
    content = copy.deepcopy(WHOLE)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = other
    return content


@pytest.fixture
def tensors(make: Make) -> Any:
    return make({"l0/w": (4, 6), "l1/w": (4, 6), "x": (2,), "y": (2,), "z": (3,)})


def test_the_whole_does_what_it_says(tensors: Any) -> None:
    made = apply_recipe(parse_recipe(toml(WHOLE)), tensors)
    assert {name: each.spec.shape for name, each in made.items()} == {
        "1.WEIGHT": (4, 2), "2.WEIGHT": (4, 2), "xy": (2, 2), "z1": (1,), "z2": (2,),
    }  # fmt: skip
    assert made.aliases == {"t0": "1.WEIGHT", "t1": "2.WEIGHT"}


@pytest.mark.parametrize("path", list(places(WHOLE)), ids=lambda path: ".".join(map(str, path)))
def test_any_value_in_any_place_is_refused_or_works(path: tuple[Any, ...], tensors: Any) -> None:
    for other in OTHERS:
        with suppress(UsageError):  # and nothing else
            recipe = parse_recipe(toml(changed(path, other)))
            assert parse_recipe(recipe_text(recipe)) == recipe
            made = apply_recipe(recipe, tensors)
            assert all(each.spec.addressable for each in made.values())
