"""What `diff` does once its words are parsed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..converters.containers.checkpoint_files import steps_in
from ..converters.errors import UsageError
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions
from ..converters.tensors import TensorDict
from .console import FOUND, Console
from .diff import Difference, Tolerance, compare
from .diff_output import (
    differences_json,
    differences_table,
    layers_of,
    layers_table,
    summary,
)
from .options import default_jobs
from .over import ALL, Course, parse_steps
from .selection import matching, select_weights
from .tables import Table, plain

__all__ = ["DiffOptions", "run_diff"]

SHOWN = 6  # names in a note


@dataclass(frozen=True)
class DiffOptions:
    """What to compare, and how to show it.

    Attributes:
        over: steps of a run, instead of a second model.
        tolerance: how far values may be apart.
        structure_only: read no values.
        include: patterns; only tensors that match one are compared.
        exclude: patterns; tensors that match one are not.
        weights_only: leave out what is known to be no part of the model.
        html: write a page there.
        jobs: number of threads; 0 chooses.
        as_json: print JSON, and nothing to stderr.
        quiet: print the result alone.
        verbose: show what is the same too, and every note.
    """

    over: tuple[str, ...] = ()
    tolerance: Tolerance = field(default_factory=Tolerance)
    structure_only: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weights_only: bool = False
    html: Path | None = None
    jobs: int = 0
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def check(self, second: str | None, reading: ReadOptions) -> None:
        """Refuse words that contradict each other.

        Raises:
            UsageError: some do.
        """
        if not (math.isfinite(self.tolerance.absolute) and math.isfinite(self.tolerance.relative)):
            raise UsageError("a tolerance has to be a number", hint="such as --rtol 1e-5")
        if not self.over:
            if second is None:
                hint = "name two, or the steps of one run with --over"
                raise UsageError("one model alone has nothing to differ from", hint=hint)
            return
        given = {
            "B": second is not None, "--step": reading.step is not None,
            "--latest": reading.latest, "--structure-only": self.structure_only,
            "--rtol": self.tolerance.relative, "--atol": self.tolerance.absolute,
            "--html": self.html,
        }  # fmt: skip
        for word, there in given.items():
            if there:
                raise UsageError(
                    f"{word} means nothing with --over", hint=f"leave out {word} or --over"
                )


def run_diff(
    first: str,
    second: str | None,
    reading: ReadOptions,
    options: DiffOptions,
    source_format: str | None = None,
) -> int:
    """Print what differs between two models, or between the steps of one run.

    Args:
        first: a file, a folder or a checkpoint prefix; with `over` a folder of several steps.
        second: another; None with `over`.
        reading: how to open both.
        options: what to compare.
        source_format: name of the format of both, where sniffing does not tell.

    Returns:
        The exit code: 0 where nothing differs.

    Raises:
        ConvertError: one cannot be read, or the flags contradict each other.
    """
    options.check(second, reading)
    if second is None:
        return _run_over(first, reading, options, source_format)
    console = _console(first, options)
    with (
        open_tensors(first, reading, format=source_format) as a,
        open_tensors(second, reading, format=source_format) as b,
    ):
        console.opened(a)
        _console(second, options).opened(b)
        a, b = _selected((a, b), options)
        differences = _compared(a, b, options, console)
        if options.html is not None:
            _write_html(options.html, (first, second), (a, b), differences, console)
        if options.as_json:
            content = differences_json(differences, a, b, structure_only=options.structure_only)
            _print_json({"first": first, "second": second} | content)
        else:
            _print(differences, a, b, options)
    return 0 if all(each.verdict.same for each in differences) else FOUND


def _console(name: str, options: DiffOptions) -> Console:
    return Console(name, quiet=options.quiet or options.as_json, verbose=options.verbose)


def _selected(models: Sequence[TensorDict], options: DiffOptions) -> tuple[TensorDict, ...]:
    """Return what is to be compared of each; a pattern has to match something of one of them."""
    if options.weights_only:
        models = [select_weights(each) for each in models]
    if not options.include and not options.exclude:
        return tuple(models)
    names = {name: name for each in models for name in each}
    kept = matching(names, options.include) if options.include else set(names)
    kept -= matching(names, options.exclude)
    return tuple(each.select(name for name in each if name in kept) for each in models)


def _compared(
    first: TensorDict, second: TensorDict, options: DiffOptions, console: Console
) -> list[Difference]:
    if not options.structure_only:
        console.reading(sum(tensor.nbytes for tensor in first.values()))
    try:
        return compare(
            first,
            second,
            options.tolerance,
            options.jobs or default_jobs(),
            structure_only=options.structure_only,
            advance=console.advanced,
        )
    finally:
        console.finished()


def _print(
    differences: Sequence[Difference], first: TensorDict, second: TensorDict, options: DiffOptions
) -> None:
    shown = [each for each in differences if options.verbose or not each.verdict.same]
    if shown:
        _print_table(differences_table(shown, first, second))
        _print_lines([""])
        structure_only = options.structure_only
        layers = layers_of(differences, first, second, structure_only=structure_only)
        _print_table(layers_table(layers, every=options.verbose))
        _print_lines([""])
    text = summary(differences)
    _print_lines([f"{text}; no values were read" if options.structure_only else text])


def _write_html(
    path: Path,
    names: tuple[str, str],
    models: tuple[TensorDict, ...],
    differences: Sequence[Difference],
    console: Console,
) -> None:
    from .html import diff_page, write_page

    write_page(path, diff_page(*names, models[0], models[1], differences))
    console.say(f"{path}: a page to open in a browser")


# Over time


def _run_over(
    source: str, reading: ReadOptions, options: DiffOptions, source_format: str | None
) -> int:
    steps = parse_steps(options.over) or steps_in(Path(source))
    if len(steps) < 2:
        raise UsageError(
            f"--over {ALL}: holds {len(steps)} checkpoints with a step in their names",
            path=source,
            expected="at least 2",
        )
    console = _console(source, options)
    opened = partial(_opened, source, reading, options, source_format)
    course = Course(steps)
    for earlier, later in pairwise(steps):
        with opened(earlier) as before, opened(later) as after:
            if not course.spans:
                console.say(f"step {earlier}: {before.summary}")
            console.say(f"step {later}: {after.summary}")
            _add(course, before, after, options, console)
        if course.apart[-1]:
            console.say(f"note: step {earlier} to {later}: {_apart(course.apart[-1])}")
    if options.as_json:
        _print_json({"source": source} | course.json())
    else:
        _print_table(course.table(every=options.verbose))
    return 0 if course.same else FOUND


def _opened(
    source: str, reading: ReadOptions, options: DiffOptions, source_format: str | None, step: int
) -> TensorDict:
    tensors = open_tensors(source, replace(reading, step=step), format=source_format)
    try:
        [selected] = _selected([tensors], options)
    except UsageError:
        tensors.close()
        raise
    return selected


def _add(
    course: Course, before: TensorDict, after: TensorDict, options: DiffOptions, console: Console
) -> None:
    console.reading(sum(tensor.nbytes for tensor in before.values()))
    try:
        course.add(before, after, options.jobs or default_jobs(), console.advanced)
    finally:
        console.finished()


def _apart(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"not in both, or of another type or shape: {shown}{more}"


# Printing


def _print_table(shown: Table) -> None:
    if sys.stdout.isatty():
        from .terminal import print_table

        print_table(shown)
    else:
        _print_lines(plain(shown))


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _print_json(content: dict[str, Any]) -> None:
    # `dumps` is in C, `dump` is not: 20 times faster for many tensors.
    _print_lines([json.dumps(content, separators=(",", ":"))])
