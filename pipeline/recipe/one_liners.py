"""Recipes as the command line names them: files, and rules that are written there."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...converters.errors import UsageError
from .printing import recipe_text, rules_text
from .read import parse_recipe, read_recipes

__all__ = ["recipe_texts"]

RULE, RENAME, SET = "--rule", "--rename", "--set"


def recipe_texts(
    recipes: Sequence[str], settings: Iterable[str], rules: Iterable[str], renames: Iterable[str]
) -> tuple[str, ...]:
    """Return recipes as texts that need no other file.

    Args:
        recipes: files, or names of built-in recipes.
        settings: `NAME=VALUE`.
        rules: inside of a TOML table, such as `match = "*/Adam*", drop = true`.
        renames: `PATTERN=NAME`.

    Returns:
        A text for each recipe, then one of all rules, those of `renames` last.

    Raises:
        UsageError: one of them is not as it should be; with file, line and rule.
        NotRecognisedError: there is no such file.
    """
    texts = [recipe_text(each) for each in read_recipes(recipes, dict(_settings(settings)))]
    own = rules_text([*_rules(rules), *_renames(renames)])
    if own:
        parse_recipe(own, "command line")
        texts.append(own)
    return tuple(texts)


def _settings(settings: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("no setting", where=SET, expected="NAME=VALUE", got=f"`{text}`")
        yield name.strip(), value


def _rules(rules: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in rules:
        try:
            content = tomllib.loads(f"rule = {{{text}}}")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise _no_rule(text) from error
        if content.keys() != {"rule"}:  # a brace in the text ended the table
            raise _no_rule(text)
        yield RULE, content["rule"]


def _no_rule(text: str) -> UsageError:
    return UsageError(
        "no rule", where=RULE, expected="""'match = "PATTERN", drop = true'""", got=f"`{text[:80]}`"
    )


def _renames(renames: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for text in renames:
        pattern, equals, name = text.partition("=")
        if not equals or not pattern or not name:
            raise UsageError("no renaming", where=RENAME, expected="PATTERN=NAME", got=f"`{text}`")
        yield RENAME, {"match": pattern, "rename": name}
