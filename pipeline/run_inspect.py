"""What `inspect` does once its words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..converters.errors import UsageError
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions
from ..converters.tensors import TensorDict
from .console import Console, human
from .facts import fact_lines
from .inspect import inventory, inventory_text
from .options import default_jobs
from .selection import By, select, select_weights
from .tables import Sort, Table, counted, exact, plain, sort, stats_table, table, tree

if TYPE_CHECKING:
    from ..converters.findings import Finding
    from .stats import Stats

__all__ = ["InspectOptions", "run_inspect"]

STDOUT = "-"


@dataclass(frozen=True)
class InspectOptions:
    """What to show of a model, and how.

    Attributes:
        names: tensors whose values are printed, each perhaps with an index.
        include: patterns; only tensors that match one are shown.
        exclude: patterns; tensors that match one are not shown.
        by: whether patterns are over names or keys.
        weights_only: leave out what is known to be no part of the model.
        sort: order of the tensors; that of the model without it.
        as_tree: group them by layer.
        stats: read all values, and show what they are like.
        csv: write the statistics there; `-` is stdout.
        layout: show the layer that each tensor is a part of.
        html: write a page there.
        digests: read all values, and write the digest of every tensor there.
        jobs: number of threads; 0 chooses.
        as_json: print JSON, and nothing to stderr.
        quiet: print the table alone.
        verbose: print every note.
    """

    names: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    by: By = "name"
    weights_only: bool = False
    sort: Sort | None = None
    as_tree: bool = False
    stats: bool = False
    csv: str | None = None
    layout: bool = False
    html: Path | None = None
    digests: Path | None = None
    jobs: int = 0
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def check(self) -> None:
        """Refuse flags that contradict each other.

        Raises:
            UsageError: some do.
        """
        if self.names:
            for flag, given in {
                "--tree": self.as_tree, "--sort": self.sort, "--stats": self.stats,
                "--csv": self.csv, "--html": self.html, "--digests": self.digests,
                "--layout": self.layout,
            }.items():  # fmt: skip
                if given:
                    hint = f"leave out NAME or {flag}"
                    raise UsageError(f"{flag} means nothing where values are printed", hint=hint)
        if self.stats and self.as_tree:
            raise UsageError("a tree has no statistics", hint="leave out --tree or --stats")
        if self.layout and (self.stats or self.as_tree or self.csv == STDOUT):
            hint = "leave out --layout, or --stats, --tree and --csv -"
            raise UsageError("--layout shows a table of its own", hint=hint)
        if self.csv == STDOUT and self.as_json:
            raise UsageError("two things for stdout: JSON and CSV", hint="name a file with --csv")


def run_inspect(
    source: str,
    reading: ReadOptions,
    options: InspectOptions,
    source_format: str | None = None,
) -> None:
    """Print what is in a model, or the values of some of its tensors.

    Args:
        source: a file, a folder or a checkpoint prefix.
        reading: how to open it.
        options: what to show.
        source_format: name of its format, where sniffing does not tell.

    Raises:
        ConvertError: it cannot be read, or the flags contradict each other.
    """
    options.check()
    quiet = options.quiet or options.as_json
    console = Console(source, quiet=quiet, verbose=options.verbose)
    with open_tensors(source, reading, format=source_format) as opened:
        console.opened(opened)
        tensors = sort(_selected(opened, options), options.sort)
        console.notes(tensors.notes[len(opened.notes) :])
        if options.names:
            _print_values(tensors, options, console)
            return
        stats, findings = _measured(tensors, options, console)
        if options.html is not None:
            _write_html(source, options.html, tensors, stats or {}, findings, console)
        if options.csv is not None and options.csv != STDOUT:
            _write_csv(Path(options.csv), tensors, stats or {}, console)
        if options.digests is not None:
            _write_digests(options.digests, tensors, options.jobs or default_jobs(), console)
        _print(tensors, stats, findings, options)


def _selected(tensors: TensorDict, options: InspectOptions) -> TensorDict:
    """Return what is to be shown; what was left out on demand is no news."""
    kept = select(tensors, options.include, options.exclude, options.by)
    kept = replace(kept, notes=tensors.notes)
    if not options.weights_only:
        return kept
    weights = select_weights(kept)
    told = tuple(note for note in weights.notes[len(kept.notes) :] if note.tensor is None)
    return replace(weights, notes=kept.notes + told)


def _print_values(tensors: TensorDict, options: InspectOptions, console: Console) -> None:
    from .values import Wanted, value_json, value_lines

    every = [Wanted.find(tensors, name) for name in options.names]
    for wanted in every:
        if options.as_json:
            _print_lines([value_json(wanted)])
            continue
        _print_lines(value_lines(wanted))
        if options.verbose and wanted.partial:
            console.say(f"note: `{wanted.name}`: read in part, so no checksum was verified")


def _measured(
    tensors: TensorDict, options: InspectOptions, console: Console
) -> tuple[dict[str, Stats] | None, list[Finding]]:
    """Return statistics and what is odd about the values; None where nobody asked."""
    if not (options.stats or options.csv):
        return None, []
    from .stats import stats_all
    from .value_flags import value_flags

    jobs = options.jobs or default_jobs()
    console.reading(sum(tensor.nbytes for tensor in tensors.values()))
    try:
        stats = stats_all(tensors, jobs, console.advanced)
        return stats, value_flags(tensors, stats, jobs, console.advanced)
    finally:
        console.finished()


def _print(
    tensors: TensorDict,
    stats: Mapping[str, Stats] | None,
    findings: Sequence[Finding],
    options: InspectOptions,
) -> None:
    if options.as_json:
        if options.layout:
            _print_lines([_layout_text(tensors, stats, findings)])
        elif stats is None:
            sys.stdout.writelines(inventory_text(tensors))
        else:
            _print_lines([json.dumps(inventory(tensors, stats, findings), separators=(",", ":"))])
        return
    if options.csv == STDOUT:
        from .stats_csv import csv_text

        sys.stdout.write(csv_text(tensors, stats or {}))
        return
    if not options.quiet:
        head = list(fact_lines(tensors))
        _print_lines([*head, ""] if head else [])
    people = sys.stdout.isatty()
    size = human if people else exact
    if options.layout:
        from .layout.shown import layout_table

        shown = layout_table(tensors)
    elif stats is not None:
        shown = stats_table(tensors, stats)
    elif options.as_tree:
        shown = tree(tensors, size, options.sort)
    else:
        shown = table(tensors, size)
    _print_table(shown, people=people)
    if findings:
        from .finding_lines import finding_lines

        _print_lines(["", *finding_lines(findings)])


def _layout_text(
    tensors: TensorDict, stats: Mapping[str, Stats] | None, findings: Sequence[Finding]
) -> str:
    """Return the inventory as JSON, with what each tensor is used for in its row."""
    from .layout.shown import layout_json

    found, layouts = inventory(tensors, stats, findings), layout_json(tensors)
    for row in found["tensors"]:
        if row["name"] in layouts:
            row["layout"] = layouts[row["name"]]
    return json.dumps(found, separators=(",", ":"))


def _print_table(shown: Table, *, people: bool) -> None:
    if people:
        from .terminal import print_table

        print_table(shown)
    else:
        _print_lines(plain(shown))


def _write_csv(
    path: Path, tensors: TensorDict, stats: Mapping[str, Stats], console: Console
) -> None:
    from .stats_csv import write_csv

    write_csv(path, tensors, stats)
    console.say(f"{path}: statistics of {counted(len(stats))}")


def _write_digests(path: Path, tensors: TensorDict, jobs: int, console: Console) -> None:
    from ..converters.digests import digest_all
    from .digest_file import write_digests

    read = tensors.select(name for name in tensors if name not in tensors.broken)
    console.reading(sum(tensor.nbytes for tensor in read.values()))
    try:
        digests = digest_all(read, read, jobs, console.advanced)
    finally:
        console.finished()
    write_digests(path, read, digests)
    console.say(f"{path}: digests of {counted(len(digests))}")


def _write_html(
    source: str,
    path: Path,
    tensors: TensorDict,
    stats: Mapping[str, Stats],
    findings: Sequence[Finding],
    console: Console,
) -> None:
    from .html import inspect_page, write_page

    write_page(path, inspect_page(source, tensors, stats, findings))
    console.say(f"{path}: a page to open in a browser")


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
