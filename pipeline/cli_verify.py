"""The verb `verify`: words and flags in, a call of its module out."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .flags import Debug, Jobs, Json, Quiet, Reading, Verbose, choosing, end, reading
from .options import ConvertOptions

__all__ = ["verify_command"]


class Against(StrEnum):
    """Who reads the source once more."""

    tensorflow = "tensorflow"
    keras = "keras"


@reading
@choosing
def verify_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="DST", help="What was written; none with --digests, --against."),
    ] = None,
    *,
    reading: Reading,
    choosing: ConvertOptions,
    target_format: Annotated[
        str | None, typer.Option("--to", "-t", metavar="FORMAT", help="Format of DST.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the flags of the conversion from its report."),
    ] = None,
    digests: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare DST, or else SRC, with a digest file."),
    ] = None,
    against: Annotated[
        Against | None, typer.Option(help="Let this framework read SRC too, and compare.")
    ] = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Prove that DST holds exactly SRC, as it was converted."""

    def run() -> int:
        from .run_verify import run_verify

        options = replace(
            choosing,
            source_format=reading.format,
            target_format=target_format,
            read=reading.options,
        )
        return run_verify(
            source,
            target,
            options,
            report=report,
            digest_file=digests,
            against=against.value if against else None,
            jobs=jobs,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )

    end(run, debug=debug)
