"""What the verbs do once their words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from ..converters.errors import UsageError, printable
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions, all_formats
from .console import Console
from .convert import ConvertOptions, convert
from .inspect import inventory_text, table, tree, values
from .signatures import signature_lines

__all__ = ["run_convert", "run_formats", "run_inspect"]


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
    done = convert(source, target, options, console)
    console.closing(done)
    if options.dry_run and not as_json:
        _print_lines(f"{printable(str(file.path))}  {file.size:,}" for file in done.plan.files)
    if as_json:
        _print_json(done.json())


def run_inspect(
    source: str,
    names: Iterable[str],
    options: ReadOptions,
    *,
    source_format: str | None = None,
    as_tree: bool = False,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Print what is in a model, or the values of some of its tensors."""
    names = list(names)
    if names and as_json:
        raise UsageError("values are printed for people only", hint="leave out NAME or --json")
    with open_tensors(source, options, format=source_format) as tensors:
        if as_json:
            sys.stdout.writelines(inventory_text(tensors))
            return
        Console(source, quiet=quiet, verbose=verbose).opened(tensors)
        if names:
            for name in names:
                _print_lines(values(tensors, name))
        else:
            _print_lines(tree(tensors) if as_tree else table(tensors))
            _print_lines(signature_lines(tensors))


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


def _print_json(content: dict[str, Any]) -> None:
    # `dumps` is in C, `dump` is not: 20 times faster for a large inventory.
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
