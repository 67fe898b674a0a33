"""The verb `diff`: words and flags in, a call of `run_diff` out."""

from __future__ import annotations

from typing import Annotated

import typer

from .diff import Tolerance
from .flags import (
    Debug,
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
from .run_diff import DiffOptions, run_diff

__all__ = ["diff_command"]


@reading
def diff_command(
    first: Annotated[str, typer.Argument(metavar="A", help="File, folder or prefix.")],
    second: Annotated[
        str | None, typer.Argument(metavar="B", help="Another; none with --over.")
    ] = None,
    *,
    reading: Reading,
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP,STEP…", help="How layers moved in folder A; all for all steps."),
    ] = None,
    rtol: Annotated[
        float, typer.Option(min=0, help="Values are close within this share of B's.")
    ] = 0.0,
    atol: Annotated[float, typer.Option(min=0, help="Or within this distance.")] = 0.0,
    structure_only: Annotated[
        bool, typer.Option("--structure-only", help="Names, dtypes and shapes; read no values.")
    ] = False,
    include: Include = None,
    exclude: Exclude = None,
    weights_only: WeightsOnly = False,
    html: HtmlFile = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show what differs between A and B, tensor by tensor, whatever their formats."""
    options = DiffOptions(
        over=tuple(over or ()),
        tolerance=Tolerance(absolute=atol, relative=rtol),
        structure_only=structure_only,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        weights_only=weights_only,
        html=html,
        jobs=jobs,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )
    end(lambda: run_diff(first, second, reading.options, options, reading.format), debug=debug)
