"""What all built-in recipes have to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorferry.pipeline.recipe.builtin import builtin_names
from tensorferry.pipeline.recipe.printing import recipe_text
from tensorferry.pipeline.recipe.read import parse_recipe, read_recipe

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "built-in-recipes.md"


@pytest.mark.parametrize("name", builtin_names())
def test_is_checked_and_printed(name: str) -> None:
    recipe = read_recipe(f"builtin:{name}")
    again = parse_recipe(recipe_text(recipe))
    assert recipe.about
    assert [stage.rules for stage in again.stages] == [stage.rules for stage in recipe.stages]
    assert (again.parameters, again.files) == (recipe.parameters, recipe.files)


def test_the_page_lists_all() -> None:
    listed = re.findall(
        r"^\| `builtin:([a-z0-9-]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == builtin_names()


@pytest.mark.parametrize("name", builtin_names())
def test_nothing_is_said_of_slots_that_are_not_there(name: str) -> None:
    recipe = read_recipe(f"builtin:{name}")
    slots = [each for stage in recipe.stages for each in stage.rules if each.roles]
    assert all(each.required is False for each in slots)
