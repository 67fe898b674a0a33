"""Flags that several verbs share, and how a verb ends."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ..converters.errors import ConvertError
from ..converters.registry import ReadOptions, WriteOptions
from .console import guarded
from .isolate import run_isolated
from .options import ConvertOptions

__all__ = [
    "By", "ByNames", "Debug", "DigestFile", "Exclude", "HtmlFile", "Include", "Jobs", "Json",
    "Quiet", "Reading", "Verbose", "WeightsOnly", "Writing", "choosing", "end", "opening",
    "parse_size", "reading", "writing",
]  # fmt: skip


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


class Layout(StrEnum):
    """Whose names and axes tensors get."""

    keep = "keep"
    torch = "torch"
    jax = "jax"
    mlx = "mlx"


class Names(StrEnum):
    """What to call tensors."""

    readable = "readable"
    key = "key"


Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every note.")]
Debug = Annotated[bool, typer.Option("--debug", help="Print tracebacks.")]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Take only these; repeatable; re: for a regular expression."),
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="GLOB", help="Leave these out; repeatable.")
]
ByNames = Annotated[By, typer.Option(help="Match patterns with names, or with keys.")]
WeightsOnly = Annotated[
    bool, typer.Option("--weights-only", help="Leave out optimizer state, counters, tables.")
]
Jobs = Annotated[int, typer.Option(min=0, help="Threads; 0 chooses.")]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write a page to look at in a browser."),
]
DigestFile = Annotated[
    Path | None,
    typer.Option("--digests", metavar="FILE", help="Store a digest of every tensor, and of all."),
]


@dataclass(frozen=True)
class Reading:
    """How to open a source, as its flags say.

    Attributes:
        format: name of its format; None to find out.
        options: all else.
    """

    format: str | None
    options: ReadOptions


@dataclass(frozen=True)
class Writing:
    """How to write a target, as its flags say.

    Attributes:
        format: name of its format; None to go by its ending.
        options: how to lay it out.
        strict: any loss is an error.
    """

    format: str | None
    options: WriteOptions
    strict: bool


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return a number of bytes: `5GB` is 5 * 10^9, `5GiB` is 5 * 2^30."""
    match = _SIZE.fullmatch(text.strip())
    if not match or float(match[1]) <= 0:
        raise typer.BadParameter(f"`{text}` is no size such as 5GB or 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2].upper() or " "))


def _reading(
    source_format: Annotated[
        str | None, typer.Option("--from", "-f", metavar="FORMAT", help="Format of SRC.")
    ] = None,
    names: Annotated[
        Names, typer.Option(help="Readable names, or the container's keys.")
    ] = Names.readable,
    step: Annotated[int | None, typer.Option(min=0, help="Take this step of a folder.")] = None,
    latest: Annotated[
        bool, typer.Option("--latest", help="Take the highest step of a folder.")
    ] = False,
    tag_set: Annotated[
        str | None, typer.Option(metavar="TAGS", help="Take this meta graph: serve, or serve,gpu.")
    ] = None,
    constants: Annotated[
        bool | None,
        typer.Option(help="Take constants; by default where there are no variables."),
    ] = None,
    keras1: Annotated[
        Keras1, typer.Option(help="Weights of Keras 1: as they are, or as today.")
    ] = Keras1.keep,
    unflip_theano: Annotated[
        bool, typer.Option("--unflip-theano", help="Turn the kernels that Theano stored mirrored.")
    ] = False,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Compute the real values of quantised weights.")
    ] = False,
    no_checksum: Annotated[
        bool, typer.Option("--no-checksum", help="Verify no checksums.")
    ] = False,
    endpoint_url: Annotated[
        str | None,
        typer.Option("--endpoint-url", metavar="URL", help="Server of an object store's URLs."),
    ] = None,
) -> Reading:
    """Return what the flags of a source say; the one list of them."""
    options = ReadOptions(
        names=names.value,
        verify=not no_checksum,
        step=step,
        latest=latest,
        tag_set=None if tag_set is None else frozenset(filter(None, tag_set.split(","))),
        constants=constants,
        keras1=keras1.value,
        unflip_theano=unflip_theano,
        dequantize=dequantize,
        endpoint_url=endpoint_url,
    )
    return Reading(source_format, options)


def _choosing(
    include: Include = None,
    exclude: Exclude = None,
    by: ByNames = By.name,
    weights_only: WeightsOnly = False,
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
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out tensors whose data is missing.")
    ] = False,
    layout: Annotated[
        Layout, typer.Option(help="Names and axes: as they are, or as a framework has them.")
    ] = Layout.keep,
    recipe: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Change names and values by its rules; repeatable."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Set a parameter of a recipe."),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="A rule as a recipe has it; repeatable."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN=NAME", help="Rename as a rule does; repeatable."),
    ] = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Print all rules as one recipe; do nothing.")
    ] = False,
) -> ConvertOptions:
    """Return what the flags say that choose and change tensors; the one list of them."""
    recipes: tuple[str, ...] = ()
    if recipe or setting or rule or rename or print_recipe:
        from .recipe.one_liners import recipe_texts

        recipes = recipe_texts(recipe or (), setting or (), rule or (), rename or ())
    if print_recipe:
        from .recipe.printing import print_texts

        print_texts(recipes)
        raise typer.Exit
    return ConvertOptions(
        layout=layout.value,
        recipes=recipes,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        by=by.value,
        weights_only=weights_only,
        ema=ema.value,
        updates=tuple(update or ()),
        dtypes=tuple(dtype or ()),
        allow_missing=allow_missing,
    )


def _writing(
    target_format: Annotated[
        str | None, typer.Option("--to", "-t", metavar="FORMAT", help="Format of DST.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any loss is an error.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
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
) -> Writing:
    """Return what the flags of a target say; the one list of them."""
    options = WriteOptions(
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
    )
    return Writing(target_format, options, strict)


Isolate = Annotated[
    bool, typer.Option("--isolate", help="Read in a child process with limits; for hostile files.")
]


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say which tensors are written and what becomes of them.

    The command takes what they say as `choosing`, the options of a conversion.
    """
    return _merged(command, "choosing", _choosing)


def writing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how to write a target.

    The command takes what they say as `writing`.
    """
    return _merged(command, "writing", _writing)


def opening(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how to open a source, without `--isolate`.

    The command takes what they say as `reading`.
    """
    return _merged(command, "reading", _reading)


def reading(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags that say how to open a source.

    The command takes what they say as `reading`, its first path as its first parameter, and
    `debug`. With `--isolate` it runs in a child process.
    """
    inner = opening(command)
    own = signature(inner)
    first = next(iter(own.parameters))

    @wraps(inner)
    def run(**words: Any) -> None:
        if words.pop("isolate"):
            endpoint = words["endpoint_url"]
            end(lambda: run_isolated(sys.argv[1:], words[first], endpoint), debug=words["debug"])
        inner(**words)

    isolate = Parameter("isolate", Parameter.KEYWORD_ONLY, default=False, annotation=Isolate)
    return _with_parameters(run, [*own.parameters.values(), isolate])


def _merged(
    command: Callable[..., None], word: str, make: Callable[..., Any]
) -> Callable[..., None]:
    """Give a command the parameters of a function in the place of one, which gets its result."""
    shared = list(signature(make, eval_str=True).parameters.values())
    own = signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def run(**words: Any) -> None:
        given = {each.name: words.pop(each.name) for each in shared}
        try:
            found = make(**given)
        except ConvertError as error:
            end(partial(_raised, error), debug=words["debug"])
        command(**words, **{word: found})

    return _with_parameters(run, [*(each for each in own if each.name != word), *shared])


def _raised(error: ConvertError) -> NoReturn:
    raise error


def _with_parameters(run: Callable[..., None], parameters: list[Parameter]) -> Callable[..., None]:
    """Let a command say that it has these parameters; typer asks it."""
    named = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]
    run.__signature__ = Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in named}
    return run


def end(command: Callable[[], int | None], *, debug: bool) -> NoReturn:
    """Run what a verb does, and end with its exit code."""
    raise typer.Exit(guarded(command, debug=debug))
