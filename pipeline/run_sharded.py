"""`--shard` and `--cluster` of a conversion: the work, and what is printed about it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..converters.errors import printable
from ..converters.output import PlannedFile
from .batch.jobs import Part
from .console import Console, human
from .options import ConvertOptions
from .report import Report
from .sharded.division import check_target
from .sharded.run import PartReport, convert_over, convert_part

__all__ = ["run_over", "run_part"]

SHOWN = 20  # numbers of parts in a message


def run_part(
    source: str,
    target: str,
    options: ConvertOptions,
    shard: str,
    *,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Write one part of a target, and print what became of it.

    Args:
        source: what to convert.
        target: what the part is of.
        options: how.
        shard: which part, such as `2/8`.
        as_json: print it as JSON.
        quiet: print only errors.
        verbose: print every note.
    """
    console = Console(source, quiet=quiet, verbose=verbose)
    done = convert_part(source, target, Part.of(shard), options, console)
    _tell(console, done)
    _print(done, [file for file in done.files if options.dry_run], as_json=as_json)


def run_over(
    source: str,
    target: str,
    options: ConvertOptions,
    address: str,
    *,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
) -> None:
    """Convert one model on a Dask cluster, and print the account of it.

    Args:
        source: what to convert, as all workers see it.
        target: what to write, on a disk that they share.
        options: how.
        address: of the scheduler.
        as_json: print it as JSON.
        quiet: print only errors.
        verbose: print every note.
        debug: whether Dask may print its log.
    """
    from .cluster import cluster_executor

    console = Console(source, quiet=quiet, verbose=verbose)
    check_target(target)
    with cluster_executor(address, folders=[Path(target).parent], debug=debug) as executor:
        done = convert_over(source, target, executor, options, console)
    console.closing(done)
    _print(done, [file for file in done.plan.files if options.dry_run], as_json=as_json)


def _tell(console: Console, done: PartReport) -> None:
    """Say what became of a part, and what is missing besides."""
    where = f"{done.target}: part {done.part.number} of {done.part.parts}"
    size = sum(file.size for file in done.files)
    shards = _counted(len(done.files), "shard")
    if done.dry_run:
        console.say(f"{where}: would write {shards}, {human(size)}; nothing written")
        return
    if not done.files:
        console.say(f"{where}: there is no shard for it")
    elif done.there == len(done.files):
        console.say(f"{where}: {shards}, there already")
    else:
        there = f", {done.there} of them there already" if done.there else ""
        rate = human(size / max(done.seconds, 1e-9))
        took = f"{done.seconds:.2f} s ({rate}/s)"
        console.say(f"{where}: {shards} written{there}, {human(size)} in {took}")
    if done.missing:
        console.say(f"{done.target}: not complete yet, missing: {_parts(done.missing)}")
    elif done.report:
        console.say(f"{done.target}: all parts are there")
        console.closing(done.report)
    elif done.files:
        console.say(f"{done.target}: all parts are there, and another process has finished it")


def _parts(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"part{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _print(done: PartReport | Report, files: list[PlannedFile], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(done.json(), separators=(",", ":")) + "\n")
        return
    sys.stdout.writelines(f"{printable(str(file.path))}  {file.size:,}\n" for file in files)
