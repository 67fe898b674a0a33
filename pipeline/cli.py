"""The command line, parsed by typer: words and flags in, calls of `commands` out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..converters.registry import WriteOptions
from .cli_check import check_command
from .cli_diff import diff_command
from .cli_inspect import inspect_command
from .cli_verify import verify_command
from .commands import run_convert, run_formats
from .entry import VERBS
from .flags import Debug, DigestFile, Jobs, Json, Quiet, Reading, Verbose, choosing, end, reading
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


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return a number of bytes: `5GB` is 5 * 10^9, `5GiB` is 5 * 2^30."""
    match = _SIZE.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise typer.BadParameter(f"`{text}` is no size such as 5GB or 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


@app.command(DEFAULT)
@reading
@choosing
def convert_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="File or prefix to write.")],
    *,
    reading: Reading,
    choosing: ConvertOptions,
    target_format: Annotated[
        str | None, typer.Option("--to", "-t", metavar="FORMAT", help="Format of DST.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any loss is an error.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan, write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read DST back and compare before it appears.")
    ] = False,
    verify_sample: Annotated[
        bool, typer.Option("--verify-sample", help="--verify=sample: compare some of the bytes.")
    ] = False,
    fsync: Annotated[bool, typer.Option("--fsync", help="Wait for the disk.")] = False,
    max_shard_size: Annotated[
        int | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="Split data: 5GB, 512MiB."),
    ] = None,
    untie: Annotated[
        bool, typer.Option("--untie", help="Store tied tensors under each of their names.")
    ] = False,
    object_based: Annotated[
        bool, typer.Option("--object-based", help="Write a checkpoint with an object graph.")
    ] = False,
    layout_of: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Take object graph and keys of a model.")
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Take graph, assets, signatures of a model."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the Keras config of a file or model.")
    ] = None,
    flat: Annotated[bool, typer.Option("--flat", help="Make no groups of slashes.")] = False,
    compress: Annotated[bool, typer.Option("--compress", help="Deflate the data.")] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Note beside each tensor where it came from.")
    ] = False,
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
    """Convert the weights in SRC to DST, whose ending names the format."""
    options = replace(
        choosing,
        source_format=reading.format,
        target_format=target_format,
        read=reading.options,
        write=WriteOptions(
            overwrite=overwrite,
            max_shard_bytes=max_shard_size,
            untie=untie,
            object_based=object_based,
            layout_of=layout_of,
            template=template,
            config=config,
            flat=flat,
            compress=compress,
            provenance=provenance,
        ),
        strict=strict,
        dry_run=dry_run,
        verify=verify,
        verify_sample=verify_sample,
        report=report,
        digest_file=digests,
        fsync=fsync,
        jobs=jobs,
    )
    end(
        lambda: run_convert(
            source,
            target,
            options,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        ),
        debug=debug,
    )


app.command("inspect")(inspect_command)
app.command("check")(check_command)
app.command("diff")(diff_command)
app.command("verify")(verify_command)


@app.command("formats")
def formats_command(as_json: Json = False, debug: Debug = False) -> None:
    """List the formats that are read and written."""
    end(lambda: run_formats(as_json=as_json), debug=debug)


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
