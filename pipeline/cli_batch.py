"""The verb `batch` and those below it: words and flags in, calls of `batch.commands` out."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..converters.errors import UsageError
from .batch.jobs import Part
from .batch.plan import NAME, plan_jobs, plan_list
from .flags import (
    Debug,
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
        str, typer.Argument(metavar="SRC_ROOT", help="Folder with models, or a list of them.")
    ],
    target_root: Annotated[
        str, typer.Argument(metavar="DST_ROOT", help="Folder to write to, and of the ledger.")
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the plan, do nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Worker processes; 0 chooses.")] = 0,
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
        from .batch.commands import run_here, show_plan
        from .batch.run import BatchOptions, default_workers

        if reading.options.step is not None:
            raise UsageError("--step means nothing to a batch", hint="--latest takes the last ones")
        source, target = _folder(source_root), _folder(target_root)
        part = None if shard is None else Part.of(shard)
        if source.is_file():
            plan = plan_list(source, target, options, name=name)
        else:
            plan = plan_jobs(source, target, options, name=name, latest=reading.options.latest)
        if part:
            plan = plan.part(part, target)
        if dry_run:
            return show_plan(plan, as_json=as_json)
        how = BatchOptions(jobs or default_workers(), in_flight, retry_failed=retry is Retry.failed)
        return run_here(
            plan,
            target,
            how,
            part=part,
            memory=memory,
            seconds=timeout,
            as_json=as_json,
            quiet=quiet,
            verbose=verbose,
        )

    end(run, debug=debug)


def _folder(root: str) -> Path:
    if "://" in root:
        raise UsageError(
            "a batch reads and writes folders, and no object stores", path=root,
            hint="models in a store are converted one by one",
        )  # fmt: skip
    return Path(root)


@batch.command("status")
def status_command(
    target_root: Annotated[
        Path, typer.Argument(metavar="DST_ROOT", help="Folder that a batch wrote to.")
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a batch has come to, and what failed; exit code 7 if anything has."""

    def run() -> int:
        from .batch.commands import show_status

        return show_status(target_root, as_json=as_json)

    end(run, debug=debug)


@batch.command("merge")
def merge_command(
    target_root: Annotated[
        Path, typer.Argument(metavar="DST_ROOT", help="Folder that parts of a batch wrote to.")
    ],
    debug: Debug = False,
) -> None:
    """Make one ledger of those that the parts of a batch (--shard) have left."""

    def run() -> int:
        from .batch.commands import merge_parts

        return merge_parts(target_root)

    end(run, debug=debug)
