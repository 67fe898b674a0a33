"""The command line, parsed by typer: words and flags in, calls of `commands` out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..converters.errors import UsageError
from .cli_average import average_command
from .cli_batch import batch
from .cli_check import check_command
from .cli_diff import diff_command
from .cli_inspect import inspect_command
from .cli_map import map_command
from .cli_package import package
from .cli_verify import verify_command
from .commands import run_convert, run_formats, run_recipes
from .entry import VERBS
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
    reading,
    writing,
)  # fmt: skip
from .options import ConvertOptions

__all__ = ["app", "run"]

DEFAULT = "SRC DST"  # no word of a command line equals it


# A flag may have a value or have none, and typer knows no such flags.
_WITH_VALUE = {"--verify=full": "--verify", "--verify=sample": "--verify-sample"}


class _Group(TyperGroup):
    """A group whose default command is the conversion."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*VERBS, "--help", "--version", DEFAULT}:
            args = [DEFAULT, *args]
        args = [_WITH_VALUE.get(arg, arg) for arg in args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Convert model weights: what TensorFlow and Keras wrote, safetensors, npz and HDF5.",
    epilog="`convert SRC DST --help` lists the flags of a conversion.",
)


@app.command(DEFAULT)
@reading
@choosing
@writing
def convert_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="File or prefix to write.")],
    *,
    reading: Reading,
    choosing: ConvertOptions,
    writing: Writing,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan, write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read DST back and compare before it appears.")
    ] = False,
    verify_sample: Annotated[
        bool, typer.Option("--verify-sample", help="--verify=sample: compare some of the bytes.")
    ] = False,
    fsync: Annotated[bool, typer.Option("--fsync", help="Wait for the disk.")] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Write this part of N of DST's shards: 2/8.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Write DST's shards on a Dask cluster.")
    ] = None,
    jobs: Jobs = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the account of every tensor.")
    ] = None,
    digests: DigestFile = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Compare names, dtypes and shapes with a model."),
    ] = None,
    strict_like: Annotated[
        bool, typer.Option("--strict-like", help="Write nothing that is not --like TARGET.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Convert the weights in SRC to DST, whose ending names the format."""
    options = replace(
        choosing,
        source_format=reading.format,
        target_format=writing.format,
        read=reading.options,
        write=writing.options,
        strict=writing.strict,
        dry_run=dry_run,
        verify=verify,
        verify_sample=verify_sample,
        report=report,
        digest_file=digests,
        like=like,
        strict_like=strict_like,
        fsync=fsync,
        jobs=jobs,
    )

    def run() -> None:
        shown: Any = {"as_json": as_json, "quiet": quiet, "verbose": verbose}
        if shard is None and cluster is None:
            run_convert(source, target, options, **shown)
            return
        from .run_sharded import run_over, run_part

        if cluster is None:
            run_part(source, target, options, shard or "", **shown)
        elif shard is None:
            run_over(source, target, options, cluster, **shown, debug=debug)
        else:
            raise UsageError(
                "--shard and --cluster both share out a model",
                hint="leave out --shard; or run each part without a cluster",
            )

    end(run, debug=debug)


app.add_typer(batch, name="batch")
app.add_typer(package, name="package")
app.command("average")(average_command)
app.command("inspect")(inspect_command)
app.command("check")(check_command)
app.command("diff")(diff_command)
app.command("map")(map_command)
app.command("verify")(verify_command)


@app.command("formats")
def formats_command(as_json: Json = False, debug: Debug = False) -> None:
    """List the formats that are read and written."""
    end(lambda: run_formats(as_json=as_json), debug=debug)


@app.command("recipes")
def recipes_command(as_json: Json = False, debug: Debug = False) -> None:
    """List the recipes that --recipe knows by name."""
    end(lambda: run_recipes(as_json=as_json), debug=debug)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"tensorferry {version('tensorferry')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def run() -> int:
    """Parse the command line and run it; return the exit code."""
    result = app(prog_name="convert", standalone_mode=True)
    return int(result or 0)
