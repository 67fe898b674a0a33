"""Recipes printed back: what they come to, and where each part stood."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline.recipe.printing import print_texts, recipe_text
from tensorferry.pipeline.recipe.read import parse_recipe, read_recipe, read_recipes

RULE = '[[rule]]\nmatch = "{name}"\ndrop = true\n'


def stored(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"version = 1\n{text}", encoding="utf-8")
    return path


def test_what_is_included_comes_after_stage_by_stage(tmp_path: Path) -> None:
    stored(tmp_path / "sub" / "b.toml", '''unmatched = "drop"
about = "theirs"
[parameters]
x = 1
y = 2
[metadata]
a = "1"
b = "2"
[files.c]
a = 1
b = 2
[[stage]]
name = "one"
unmatched = "drop"
[[stage.rule]]
match = "b"
drop = true
[[stage]]
name = "two"
[[stage.rule]]
match = "c"
drop = true
''')  # fmt: skip
    path = stored(tmp_path / "a.toml", '''include = ["sub/b.toml", "sub/b.toml"]
[parameters]
x = 3
[metadata]
a = "own"
[files.c]
a = 3
[[stage]]
name = "one"
[[stage.rule]]
match = "a"
drop = true
''')  # fmt: skip
    recipe = read_recipe(path, {"y": "5"})
    assert (
        recipe_text(recipe)
        == """version = 1  # from a.toml
unmatched = "drop"

[parameters]
x = 3  # from a.toml:4
y = 5  # from b.toml:6

[[stage]]
name = "one"
unmatched = "drop"

[[stage.rule]]  # from a.toml:11, rule 1
match = "a"
drop = true

[[stage.rule]]  # from b.toml:16, rule 1
match = "b"
drop = true

[[stage]]
name = "two"

[[stage.rule]]  # from b.toml:21, rule 2
match = "c"
drop = true

[metadata]
a = "own"
b = "2"

[files.c]
a = 3
b = 2
"""
    )
    again = parse_recipe(recipe_text(recipe))
    assert again == recipe
    assert [rule.place.label for stage in again.stages for rule in stage.rules] == [
        "a.toml:11", "b.toml:16", "b.toml:21",
    ]  # fmt: skip


def test_places_are_those_of_the_file_that_is_read(tmp_path: Path) -> None:
    """Somebody may have changed what was printed."""
    text = recipe_text(read_recipe(stored(tmp_path / "a.toml", RULE)))
    (tmp_path / "b.toml").write_text(text)
    assert read_recipe(tmp_path / "b.toml").stages[0].rules[0].place.label == "b.toml:3"


def test_names_of_files_stay_in_their_comment(tmp_path: Path) -> None:
    path = stored(tmp_path / "a\nname = [\x07.toml", f"[parameters]\np = 1\n{RULE}")
    text = recipe_text(read_recipe(path))
    assert parse_recipe(text) == read_recipe(path)


@pytest.mark.parametrize(
    "second", ["[parameters]\nx = 1\n", "[parameters]\ny = { count = '{n}' }\n",
               'unmatched = "error"\n'],
)  # fmt: skip
def test_recipes_that_cannot_be_one_are_not_printed(second: str) -> None:
    first = recipe_text(parse_recipe(f"version = 1\n[parameters]\nx = 1\n{RULE}"))
    with pytest.raises(UsageError, match="these recipes cannot be one"):
        print_texts([first, f"version = 1\n{second}{RULE}"])


def test_a_setting_is_for_each_recipe_that_has_it(tmp_path: Path) -> None:
    for name, parameters in (("a", "x = 1\n"), ("b", "x = 2\ny = 3\n")):
        stored(tmp_path / f"{name}.toml", f"[parameters]\n{parameters}{RULE}")
    paths = [tmp_path / "a.toml", tmp_path / "b.toml"]
    both = read_recipes(paths, {"x": "7", "y": "8"})
    assert [[each.value for each in one.parameters.values()] for one in both] == [[7], [7, 8]]
    with pytest.raises(UsageError, match="--set: no recipe has a parameter called `z`"):
        read_recipes(paths, {"z": "1"})
    with pytest.raises(UsageError, match="no parameter is called `z`"):
        read_recipes(paths[:1], {"z": "1"})
