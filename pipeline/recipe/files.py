"""Texts and files that a recipe sets beside the tensors, such as `config.json`."""

from __future__ import annotations

import json
from typing import Any

from ...converters.errors import UsageError
from .model import Recipe
from .parameters import Scope
from .templates import parse_template

__all__ = ["texts_of", "written"]


def texts_of(recipe: Recipe, scope: Scope) -> dict[str, str]:
    """Return the texts that a recipe sets, with their placeholders filled.

    Raises:
        UsageError: one cannot be.
    """
    return {
        name: str(_filled(text, scope, f"{recipe.name}: metadata: {name}"))
        for name, text in recipe.metadata.items()
    }


def written(recipe: Recipe, scope: Scope) -> dict[str, bytes]:
    """Return the files of a recipe by name: JSON, as people would write it.

    Raises:
        UsageError: a placeholder cannot be filled.
    """
    return {
        name: (json.dumps(_filled(values, scope, f"{recipe.name}: files: {name}"), indent=2) + "\n")
        .encode("ascii")
        for name, values in recipe.files.items()
    }  # fmt: skip


def _filled(value: Any, scope: Scope, where: str) -> Any:
    """Return a value with its texts filled; one that is a placeholder alone keeps its type."""
    if isinstance(value, dict):
        return {key: _filled(each, scope, where) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, scope, where) for each in value]
    if not isinstance(value, str):
        return value
    try:
        return parse_template(value).value(scope)
    except ValueError as error:
        raise UsageError(str(error), where=where) from error
