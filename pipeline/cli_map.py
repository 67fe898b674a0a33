"""The verb `map`: words and flags in, a call of `run_map` out."""

from __future__ import annotations

from typing import Annotated

import typer

from .flags import Debug, Jobs, Json, Quiet, Reading, Verbose, end, reading

__all__ = ["map_command"]


@reading
def map_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    *,
    reading: Reading,
    like: Annotated[
        str, typer.Option(metavar="TARGET", help="The model whose names and layout are wanted.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The recipe; - is stdout.")
    ] = "-",
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Propose the recipe that turns SRC into TARGET's names and layout."""

    def run() -> int:
        from .run_map import MapOptions, run_map

        options = MapOptions(like, output, jobs, as_json, quiet, verbose)
        return run_map(source, options, reading.options, reading.format)

    end(run, debug=debug)
