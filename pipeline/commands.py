"""What the verbs do once their words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..converters.errors import NotRecognisedError, UsageError, printable
from ..converters.names import near
from ..converters.registry import all_formats
from .console import Console
from .convert import ConvertOptions, convert
from .entry import VERBS
from .report import Report

__all__ = ["run_convert", "run_formats", "run_recipes"]


def run_convert(
    source: str,
    target: str,
    options: ConvertOptions,
    *,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Convert, and print the account of it."""
    console = Console(source, quiet=quiet, verbose=verbose)
    try:
        done = convert(source, target, options, console)
    except (NotRecognisedError, UsageError) as error:
        if "/" not in source and not Path(source).exists():  # perhaps a verb, mistyped
            error.hint = near(source, VERBS) or error.hint
        raise
    console.closing(done)
    if options.dry_run and not as_json:
        _print_plan(done)
        _print_lines(f"{printable(str(file.path))}  {file.size:,}" for file in done.plan.files)
    if as_json:
        _print_json(done.json())


def run_formats(*, as_json: bool = False) -> None:
    """Print which formats are read and written."""
    formats = [
        {
            "name": each.name,
            "title": each.title,
            "reads": True,
            "writes": each.plan is not None,
            "extensions": list(each.extensions),
            "limits": each.limits,
        }
        for each in all_formats()
    ]
    if as_json:
        _print_json({"formats": formats})
        return
    width = max(len(each.name) for each in all_formats())
    for each in all_formats():
        does = "read, write" if each.plan else "read"
        endings = f" ({' '.join(each.extensions)})" if each.extensions else ""
        _print_lines([f"{each.name:<{width}}  {does:<11}  {each.title}{endings}"])
        if each.limits:
            _print_lines([f"{'':<{width}}  {'':<11}  not: {each.limits}"])


def run_recipes(*, as_json: bool = False) -> None:
    """Print which recipes come with Tensorferry."""
    from .recipe.builtin import BUILTIN, builtin_names
    from .recipe.read import read_recipe

    recipes = [read_recipe(f"{BUILTIN}{name}") for name in builtin_names()]
    if as_json:
        known = [
            {"name": each.name, "about": each.about, "parameters": [*each.parameters]}
            for each in recipes
        ]
        _print_json({"recipes": known})
        return
    width = max(len(each.name) for each in recipes)
    _print_lines(f"{each.name:<{width}}  {each.about}" for each in recipes)


def _print_plan(done: Report) -> None:
    """Print what recipes are going to do, if there are any."""
    if done.changes:
        from .recipe.plan_table import plan_lines

        _print_lines(plan_lines(done.plan_rows()))
        _print_lines([""])


def _print_json(content: dict[str, Any]) -> None:
    # `dumps` is in C, `dump` is not: 20 times faster for a large inventory.
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
