"""The verb `batch` and those below it: words and flags in, calls of `batch.commands` out."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..converters.errors import UsageError
from .batch.jobs import Part
from .batch.manifest import ENDINGS
from .batch.places import is_url, place_of
from .batch.plan import NAME, plan_jobs, plan_list
from .flags import (
    Debug,
    HtmlFile,
    Json,
    Quiet,
    Reading,
    Verbose,
    Writing,
    choosing,
    end,
    opening,
    parse_size,
    writing,
)  # fmt: skip
from .options import ConvertOptions

__all__ = ["DEFAULT", "batch"]

Endpoint = Annotated[
    str | None,
    typer.Option("--endpoint-url", metavar="URL", help="Server of an object store's URLs."),
]

DEFAULT = "SRC_ROOT DST_ROOT"  # no word of a command line equals it
VERBS = ("merge", "status")


class Retry(StrEnum):
    """What to try again although nothing has changed."""

    failed = "failed"


class _Group(TyperGroup):
    """A group whose default command is the batch."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*VERBS, "--help", DEFAULT}:
            args = [DEFAULT, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


batch = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Convert all models below a folder; can be stopped and started at will.",
    epilog="`convert batch SRC_ROOT DST_ROOT --help` lists the flags.",
)


@batch.command(DEFAULT)
@opening
@choosing
@writing
def batch_command(
    source_root: Annotated[
        str, typer.Argument(metavar="SRC_ROOT", help="Folder with models, or a list, or its URL.")
    ],
    target_root: Annotated[
        str, typer.Argument(metavar="DST_ROOT", help="Folder or URL to write to, with ledger.")
    ],
    *,
    reading: Reading,
    choosing: ConvertOptions,
    writing: Writing,
    name: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="Path of each target inside of DST_ROOT.")
    ] = NAME,
    retry: Annotated[
        Retry | None, typer.Option(help="Try again what failed and has not changed.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do this part of N, as in job arrays: 2/8.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on Dask: tcp://HOST:PORT.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the plan, do nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Models at a time; 0 chooses.")] = 0,
    memory: Annotated[
        int | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="Limit of each worker: 2GB, 512MiB."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Limit of each model.")
    ] = None,
    in_flight: Annotated[
        int | None,
        typer.Option(
            "--bytes-in-flight", parser=parse_size, metavar="SIZE",
            help="Convert models of this size together at a time.",
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option(help="Read each target back and compare before it appears.")
    ] = True,
    verify_sample: Annotated[
        bool, typer.Option("--verify-sample", help="--verify=sample: compare some of the bytes.")
    ] = False,
    fsync: Annotated[
        bool, typer.Option(help="Have each target on the disk before it counts as done.")
    ] = True,
    html: HtmlFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Convert every model below SRC_ROOT to the same place below DST_ROOT."""
    options = replace(
        choosing,
        source_format=reading.format,
        target_format=writing.format,
        read=replace(reading.options, latest=False),
        write=writing.options,
        strict=writing.strict,
        verify=verify and not verify_sample,
        verify_sample=verify_sample,
        fsync=fsync,
        jobs=1,
    )

    def run() -> int:
        from .batch.commands import early_pool, run_here, show_plan
        from .batch.run import BatchOptions

        if reading.options.step is not None:
            raise UsageError("--step means nothing to a batch", hint="--latest takes the last ones")
        if shard and cluster:
            raise UsageError(
                "--shard and --cluster both share out a batch",
                hint="leave out --shard; or run each part without a cluster",
            )
        source, target = place_of(source_root), place_of(target_root)
        part = None if shard is None else Part.of(shard)
        pool = None if cluster or dry_run else early_pool(jobs, memory, timeout)
        if source.is_file() or (is_url(source) and source.suffix.lower() in ENDINGS):
            plan = plan_list(source, target, options, name=name)
        else:
            plan = plan_jobs(source, target, options, name=name, latest=reading.options.latest)
        if part:
            plan = plan.part(part, target)
        if dry_run:
            return show_plan(plan, as_json=as_json)
        how = BatchOptions(bytes_at_a_time=in_flight, retry_failed=retry is Retry.failed)
        return run_here(
            plan,
            target,
            how,
            pool=pool,
            jobs=jobs,
            part=part,
            cluster=cluster,
            memory=memory,
            seconds=timeout,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
            debug=debug,
            html=html,
        )

    end(run, debug=debug)


@batch.command("status")
def status_command(
    target_root: Annotated[
        str, typer.Argument(metavar="DST_ROOT", help="Folder, or URL, that a batch wrote to.")
    ],
    endpoint_url: Endpoint = None,
    html: HtmlFile = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a batch has come to, and what failed; exit code 7 if anything has."""

    def run() -> int:
        from .batch.commands import show_status

        root = place_of(target_root)
        return show_status(root, endpoint=endpoint_url, as_json=as_json, html=html)

    end(run, debug=debug)


@batch.command("merge")
def merge_command(
    target_root: Annotated[
        str, typer.Argument(metavar="DST_ROOT", help="Folder or URL that parts wrote to.")
    ],
    endpoint_url: Endpoint = None,
    debug: Debug = False,
) -> None:
    """Make one ledger of those that the parts of a batch (--shard) have left."""

    def run() -> int:
        from .batch.commands import merge_parts

        return merge_parts(place_of(target_root), endpoint_url)

    end(run, debug=debug)
