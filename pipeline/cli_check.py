"""The verb `check`: words and flags in, a call of `run_check` out."""

from __future__ import annotations

from typing import Annotated

import typer

from .flags import Debug, DigestFile, HtmlFile, Json, Quiet, Reading, Verbose, end, reading
from .run_check import CheckOptions, run_check

__all__ = ["check_command"]


@reading
def check_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    *,
    reading: Reading,
    security: Annotated[
        bool,
        typer.Option("--security", help="Look into graphs and configs for what is risky to load."),
    ] = False,
    sarif: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write findings as SARIF; - is stdout.")
    ] = None,
    html: HtmlFile = None,
    digests: DigestFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Look for damage and odd values in SRC, and with --security for risky parts.

    The exit code is 0 where nothing worse than a note was found, else 1.
    """
    options = CheckOptions(
        security=security,
        sarif=sarif,
        html=html,
        digests=digests,
        as_json=as_json,
        quiet=quiet,
        verbose=verbose,
    )
    end(lambda: run_check(source, options, reading.options, reading.format), debug=debug)
