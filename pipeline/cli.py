"""The command line, parsed by typer: words and flags in, calls of `commands` out."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ..converters.registry import ReadOptions, WriteOptions
from .commands import run_convert, run_formats, run_inspect
from .console import guarded
from .convert import ConvertOptions
from .entry import VERBS
from .isolate import run_isolated

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


class By(StrEnum):
    """What patterns are over."""

    name = "name"
    key = "key"


class Ema(StrEnum):
    """What to do with moving averages."""

    auto = "auto"
    raw = "raw"
    only = "only"
    both = "both"


class Keras1(StrEnum):
    """What to do with weights that Keras 1 wrote."""

    keep = "keep"
    modern = "modern"


class Names(StrEnum):
    """What to call tensors."""

    readable = "readable"
    key = "key"


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return a number of bytes: `5GB` is 5 * 10^9, `5GiB` is 5 * 2^30."""
    match = _SIZE.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise typer.BadParameter(f"`{text}` is no size such as 5GB or 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


From = Annotated[str | None, typer.Option("--from", "-f", metavar="FORMAT", help="Format of SRC.")]
NamesOption = Annotated[Names, typer.Option(help="Readable names, or the container's keys.")]
Step = Annotated[int | None, typer.Option(min=0, help="Take this step of a folder.")]
Latest = Annotated[bool, typer.Option("--latest", help="Take the highest step of a folder.")]
TagSet = Annotated[
    str | None, typer.Option(metavar="TAGS", help="Take this meta graph: serve, or serve,gpu.")
]
Constants = Annotated[
    bool | None,
    typer.Option(help="Take constants; by default where there are no variables."),
]
Keras1Option = Annotated[Keras1, typer.Option(help="Weights of Keras 1: as they are, or as today.")]
UnflipTheano = Annotated[
    bool, typer.Option("--unflip-theano", help="Turn the kernels that Theano stored mirrored.")
]
Dequantize = Annotated[
    bool, typer.Option("--dequantize", help="Compute the real values of quantised weights.")
]
Isolate = Annotated[
    bool, typer.Option("--isolate", help="Read in a child process with limits; for hostile files.")
]
NoChecksum = Annotated[bool, typer.Option("--no-checksum", help="Verify no checksums.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every note.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]


def _tags(text: str | None) -> frozenset[str] | None:
    """Return the tags of a set: `serve,gpu`; an empty text is the set without any."""
    return None if text is None else frozenset(filter(None, text.split(",")))


@app.command(DEFAULT)
def convert_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="File or prefix to write.")],
    source_format: From = None,
    target_format: Annotated[
        str | None, typer.Option("--to", "-t", metavar="FORMAT", help="Format of DST.")
    ] = None,
    names: NamesOption = Names.readable,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Keep only these; repeatable; re: for a regular expression."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave these out; repeatable.")
    ] = None,
    by: Annotated[By, typer.Option(help="Match patterns with names, or with keys.")] = By.name,
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out optimizer state, counters, tables.")
    ] = False,
    ema: Annotated[
        Ema, typer.Option(help="Moving averages: leave out, put in their variables' place, keep.")
    ] = Ema.auto,
    update: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Replace or add its tensors by name; repeatable."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="[GLOB=]TYPE", help="Cast to bf16, f16, f32…; repeatable."),
    ] = None,
    step: Step = None,
    latest: Latest = False,
    tag_set: TagSet = None,
    constants: Constants = None,
    keras1: Keras1Option = Keras1.keep,
    unflip_theano: UnflipTheano = False,
    dequantize: Dequantize = False,
    isolate: Isolate = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out tensors whose data is missing.")
    ] = False,
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
    no_checksum: NoChecksum = False,
    jobs: Annotated[int, typer.Option(min=0, help="Threads; 0 chooses.")] = 0,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store the account of every tensor.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Convert the weights in SRC to DST, whose ending names the format."""
    if isolate:
        _isolate(source, debug)
    read = ReadOptions(
        names=names.value,
        verify=not no_checksum,
        step=step,
        latest=latest,
        tag_set=_tags(tag_set),
        constants=constants,
        keras1=keras1.value,
        unflip_theano=unflip_theano,
        dequantize=dequantize,
    )
    options = ConvertOptions(
        source_format=source_format,
        target_format=target_format,
        read=read,
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
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        by=by.value,
        weights_only=weights_only,
        ema=ema.value,
        updates=tuple(update or ()),
        dtypes=tuple(dtype or ()),
        allow_missing=allow_missing,
        strict=strict,
        dry_run=dry_run,
        verify=verify,
        verify_sample=verify_sample,
        report=report,
        fsync=fsync,
        jobs=jobs,
    )
    _exit(
        lambda: run_convert(
            source,
            target,
            options,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        ),
        debug,
    )


@app.command("inspect")
def inspect_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Print these tensors' values.")
    ] = None,
    source_format: From = None,
    names: NamesOption = Names.readable,
    step: Step = None,
    latest: Latest = False,
    tag_set: TagSet = None,
    constants: Constants = None,
    keras1: Keras1Option = Keras1.keep,
    unflip_theano: UnflipTheano = False,
    dequantize: Dequantize = False,
    isolate: Isolate = False,
    no_checksum: NoChecksum = False,
    as_tree: Annotated[
        bool, typer.Option("--tree", help="Group by layer, with the bytes of each.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show what is in SRC: names, roles, dtypes, shapes, bytes."""
    if isolate:
        _isolate(source, debug)
    options = ReadOptions(
        names=names.value,
        verify=not no_checksum,
        step=step,
        latest=latest,
        tag_set=_tags(tag_set),
        constants=constants,
        keras1=keras1.value,
        unflip_theano=unflip_theano,
        dequantize=dequantize,
    )
    _exit(
        lambda: run_inspect(
            source,
            wanted or (),
            options,
            source_format=source_format,
            as_tree=as_tree,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        ),
        debug,
    )


@app.command("formats")
def formats_command(as_json: Json = False, debug: Debug = False) -> None:
    """List the formats that are read and written."""
    _exit(lambda: run_formats(as_json=as_json), debug)


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


def _isolate(source: str, debug: bool) -> NoReturn:
    """Run this very command line in a child process, and end as it does."""
    codes: list[int] = []
    code = guarded(lambda: codes.append(run_isolated(sys.argv[1:], source)), debug=debug)
    raise typer.Exit(codes[0] if codes else code)


def _exit(command: Callable[[], None], debug: bool) -> None:
    raise typer.Exit(guarded(command, debug=debug))


def run() -> int:
    """Parse the command line and run it; return the exit code."""
    result = app(prog_name="convert", standalone_mode=True)
    return int(result or 0)
