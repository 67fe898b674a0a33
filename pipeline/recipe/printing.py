"""Recipes written as TOML: what they include is in them, and parameters have the given values.

Behind each rule and parameter stands where it was written, so that messages can say it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ...converters.errors import UsageError, printable
from .model import Recipe, Rule, Stage

__all__ = ["print_texts", "recipe_text", "rules_text", "table_lines"]

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


def recipe_text(recipe: Recipe) -> str:
    """Return a recipe as TOML that reads back as the same recipe and needs no other file."""
    return "\n".join(_lines(recipe)) + "\n"


def rules_text(rules: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return rules that are in no file as a recipe; nothing where there are none.

    Args:
        rules: what messages call the place of each, and its table.
    """
    lines = []
    for number, (place, table) in enumerate(rules, 1):
        lines += ["", f"[[rule]]  # from {place}, rule {number}"]
        lines += [f"{_key(key)} = {_value(each)}" for key, each in table.items()]
    return "\n".join(("version = 1  # from command line", *lines, "")) if rules else ""


def table_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of a table with their values, a line for each."""
    yield from (f"{_key(key)} = {_value(each)}" for key, each in table.items())


def print_texts(texts: Sequence[str]) -> None:
    """Print recipes as one to stdout.

    Raises:
        UsageError: there is none, or they cannot be one.
    """
    if not texts:
        raise UsageError("there is no recipe to print", hint="name one with --recipe or --rule")
    sys.stdout.write(texts[0] if len(texts) == 1 else recipe_text(_combined(texts)))


def _combined(texts: Sequence[str]) -> Recipe:
    """Return one recipe that does what several do one after the other.

    Raises:
        UsageError: two parameters have one name, or one depends on what an earlier recipe makes.
    """
    from .read import parse_recipe

    recipes = [parse_recipe(text) for text in texts]
    first, *others = recipes
    for each in others:
        found = [name for name, value in each.parameters.items() if value.kind != "value"]
        again = [name for name in each.parameters if name in first.parameters]
        if found or again or any(one.unmatched != "keep" for one in recipes):
            raise UsageError(
                "these recipes cannot be one: parameters that are found in the input, or that have "
                "one name, and `unmatched` are of each alone",
                hint="print them one by one",
            )
    stages = [(f"{number}", stage) for number, one in enumerate(recipes, 1) for stage in one.stages]
    return replace(
        first,
        stages=tuple(
            replace(stage, name=f"{number} {stage.name}".rstrip()) for number, stage in stages
        ),
        parameters={name: each for one in recipes for name, each in one.parameters.items()},
        metadata={name: text for one in recipes for name, text in one.metadata.items()},
        files={name: values for one in recipes for name, values in one.files.items()},
    )


def _lines(recipe: Recipe) -> Iterator[str]:
    yield f"version = 1  # from {printable(recipe.name.rpartition('/')[2])}"
    if recipe.about:
        yield f"about = {_value(recipe.about)}"
    if recipe.unmatched != "keep":
        yield f"unmatched = {_value(recipe.unmatched)}"
    parameters = {name: each.value for name, each in recipe.parameters.items()}
    places = {name: each.place.label for name, each in recipe.parameters.items()}
    if parameters:
        yield from _table("parameters", parameters, places)
    single = len(recipe.stages) == 1 and not recipe.stages[0].name
    for stage in recipe.stages:
        if not single:
            yield from _stage(stage)
        for rule in stage.rules:
            yield from _rule(rule, "rule" if single else "stage.rule")
    if recipe.metadata:
        yield from _table("metadata", recipe.metadata)
    for name, values in recipe.files.items():
        yield from _table(f"files.{_key(name)}", values)


def _table(
    name: str, values: Mapping[str, Any], places: Mapping[str, str] = MappingProxyType({})
) -> Iterator[str]:
    yield ""
    yield f"[{name}]"
    for key, each in values.items():
        stood = f"  # from {places[key]}" if key in places else ""
        yield f"{_key(key)} = {_value(each)}{stood}"


def _stage(stage: Stage) -> Iterator[str]:
    yield ""
    yield "[[stage]]"
    yield f"name = {_value(stage.name)}"
    if stage.unmatched != "keep":
        yield f"unmatched = {_value(stage.unmatched)}"


def _rule(rule: Rule, header: str) -> Iterator[str]:
    yield ""
    yield f"[[{header}]]  # from {rule.place.label}, rule {rule.place.rule}"
    yield from (f"{_key(key)} = {_value(each)}" for key, each in rule.table.items())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """Return a value on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(key)} = {_value(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)  # inf and nan are called so in TOML too
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)


def _text(text: str) -> str:
    """Return a basic string; JSON's escapes are TOML's, but for DEL and pairs of surrogates."""
    quoted = json.dumps(text, ensure_ascii=False)
    return quoted.replace("\x7f", "\\u007f")
