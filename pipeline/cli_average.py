"""The verb `average`: words and flags in, a call of its module out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..converters.errors import UsageError
from .flags import (
    Debug,
    DigestFile,
    Jobs,
    Json,
    Quiet,
    Reading,
    Verbose,
    Writing,
    choosing,
    end,
    opening,
    writing,
)  # fmt: skip
from .options import ConvertOptions

__all__ = ["average_command"]


@opening
@choosing
@writing
def average_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="SRC... DST", help="Models, and the file to write.")
    ],
    *,
    reading: Reading,
    choosing: ConvertOptions,
    writing: Writing,
    last: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="Average the last N checkpoints of the folder SRC."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,W,...", help="What each model counts; else the same.")
    ] = None,
    decay: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Moving average: how much each further model leaves."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan, write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read DST back and compare before it appears.")
    ] = False,
    fsync: Annotated[bool, typer.Option("--fsync", help="Wait for the disk.")] = False,
    jobs: Jobs = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the account of every tensor.")
    ] = None,
    digests: DigestFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the mean of several models, computed in float64, to DST."""
    options = replace(
        choosing,
        source_format=reading.format,
        target_format=writing.format,
        read=reading.options,
        write=writing.options,
        strict=writing.strict,
        dry_run=dry_run,
        verify=verify,
        report=report,
        digest_file=digests,
        fsync=fsync,
        jobs=jobs,
    )

    def run() -> None:
        from .run_average import Mean, run_average

        *sources, target = paths
        if not sources:
            raise UsageError("nothing to average", hint="convert average SRC... DST")
        mean = Mean(tuple(sources), last, _numbers(weights), decay)
        run_average(mean, target, options, as_json=as_json, quiet=quiet, verbose=verbose)

    end(run, debug=debug)


def _numbers(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(each) for each in text.split(","))
    except ValueError:
        raise UsageError("--weights", expected="numbers, such as 1,1,2", got=repr(text)) from None
