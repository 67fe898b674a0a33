"""The verb `inspect`: words and flags in, a call of `run_inspect` out."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .flags import (
    By,
    ByNames,
    Debug,
    DigestFile,
    Exclude,
    HtmlFile,
    Include,
    Jobs,
    Json,
    Quiet,
    Reading,
    Verbose,
    WeightsOnly,
    end,
    reading,
)
from .run_inspect import InspectOptions, run_inspect

__all__ = ["inspect_command"]


class Sort(StrEnum):
    """What tensors are sorted by."""

    size = "size"
    name = "name"


@reading
def inspect_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    wanted: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]…", help="Print these tensors' values, or part: 'NAME[0:4, :8]'."
        ),
    ] = None,
    *,
    reading: Reading,
    include: Include = None,
    exclude: Exclude = None,
    by: ByNames = By.name,
    weights_only: WeightsOnly = False,
    sort: Annotated[
        Sort | None, typer.Option(help="The largest first, or by name; else as in SRC.")
    ] = None,
    as_tree: Annotated[
        bool, typer.Option("--tree", help="Group by layer, with the bytes of each.")
    ] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read all values and show what they are like.")
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write statistics as CSV; - is stdout."),
    ] = None,
    layout: Annotated[
        bool, typer.Option("--layout", help="Show what layer each is a part of, and how we know.")
    ] = False,
    html: HtmlFile = None,
    digests: DigestFile = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show what is in SRC: names, roles, dtypes, shapes, bytes; with --stats, what values are."""
    options = InspectOptions(
        names=tuple(wanted or ()),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        by=by.value,
        weights_only=weights_only,
        sort=None if sort is None else sort.value,
        as_tree=as_tree,
        stats=stats,
        csv=csv,
        layout=layout,
        html=html,
        digests=digests,
        jobs=jobs,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )
    end(lambda: run_inspect(source, reading.options, options, reading.format), debug=debug)
