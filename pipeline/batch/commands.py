"""What `batch` and the verbs below it do once their words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import BatchError, UsageError, printable
from ..console import INTERRUPTED, Console, human
from .jobs import BatchPlan, Job, Part
from .ledger import Row
from .ledgers import ledgers_at, merge_at, open_ledger
from .places import is_url
from .pool import LocalExecutor
from .progress import BatchConsole, EventStream
from .run import (
    MEMORY_BYTES,
    BatchListener,
    BatchOptions,
    Totals,
    default_workers,
    local_executor,
    run_batch,
    time_limit,
)
from .status import Status, failure_lines, status_of

if TYPE_CHECKING:
    from ..cluster import ClusterExecutor

__all__ = ["early_pool", "merge_parts", "run_here", "show_plan", "show_status"]

# Workers that are started while models are still looked for: more would be in the way of that.
EARLY_WORKERS = 4


class _Several(BatchListener):
    """Tells several listeners the same."""

    def __init__(self, listeners: Sequence[BatchListener]) -> None:
        self._listeners = listeners

    def began(self, totals: Totals) -> None:
        for each in self._listeners:
            each.began(totals)

    def changed(self, row: Row, totals: Totals) -> None:
        for each in self._listeners:
            each.changed(row, totals)

    def waited(self, totals: Totals) -> None:
        for each in self._listeners:
            each.waited(totals)

    def ended(self, totals: Totals) -> None:
        for each in self._listeners:
            each.ended(totals)


def early_pool(
    jobs: int = 0, memory: int | None = None, seconds: float | None = None
) -> LocalExecutor:
    """Return processes of this machine, the first of which are being started.

    Args:
        jobs: how many; 0 for one for each processor.
        memory: bytes that each may take; None for the usual.
        seconds: the most a model may take; None for what is usual for its size.
    """
    pool = local_executor(jobs or default_workers(), memory or MEMORY_BYTES, seconds)
    pool.warm_up(EARLY_WORKERS)
    return pool


def run_here(
    plan: BatchPlan,
    target_root: Path,
    options: BatchOptions,
    *,
    pool: LocalExecutor | None = None,
    jobs: int = 0,
    part: Part | None = None,
    cluster: str | None = None,
    memory: int | None = None,
    seconds: float | None = None,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
    debug: bool = False,
    html: Path | None = None,
) -> int:
    """Run a batch, or a part, and return 0, or the code of an interrupt.

    Without a cluster, processes of this machine do it: those of `pool` if there is one, else so
    many `jobs`, or one for each processor.
    A cluster is given so many models at a time, or as many as it takes. What the ledger says at
    the end is written as a page, if one is wanted.

    Raises:
        BatchError: a model failed.
        ClusterError: the scheduler was lost.
        UsageError: another batch is at work there, or the cluster cannot be used, or no page can
            be written.
    """
    if html:
        _check_page(html)
    console = Console(str(target_root))
    screen = BatchConsole(console, quiet=quiet, verbose=verbose)
    listeners: list[BatchListener] = [screen]
    if as_json:
        listeners.append(EventStream())
    memory = memory or MEMORY_BYTES
    endpoint = plan.endpoint
    say = _say_nothing if quiet else console.say
    with open_ledger(target_root, part, endpoint, say) as ledger, ExitStack() as stack:
        executor: LocalExecutor | ClusterExecutor
        if cluster:
            executor = stack.enter_context(
                _on_cluster(cluster, target_root, memory, time_limit(seconds), debug=debug)
            )
            options = replace(options, jobs=jobs or executor.calls)
            if not quiet:
                console.say(f"{cluster}: {_threads(executor.threads())}")
        else:
            options = replace(options, jobs=jobs or default_workers())
            executor = stack.enter_context(pool or early_pool(jobs, memory, seconds))
            screen.shares = partial(_shares, executor)
        try:
            totals = run_batch(plan, ledger, executor, options, _Several(listeners))
        except KeyboardInterrupt:
            console.say("interrupted; the same command goes on where this one was stopped")
            return INTERRUPTED
    if html:
        _write_page(html, target_root, endpoint)
    if totals.failed:
        raise BatchError(
            f"{totals.failed} of {totals.models} models failed",
            path=target_root,
            hint=f"`convert batch status {target_root}` lists them; --retry failed tries again",
        )
    return 0


def _shares(pool: LocalExecutor) -> dict[str, float]:
    return {job.source: share for (job,), share in pool.shares()}


def _on_cluster(
    address: str,
    target_root: Path,
    memory: int,
    seconds: Callable[[Job], float],
    *,
    debug: bool,
) -> AbstractContextManager[ClusterExecutor]:
    from ..cluster import cluster_executor

    folders = () if is_url(target_root) else (target_root,)
    return cluster_executor(address, folders=folders, memory=memory, seconds=seconds, debug=debug)


def _threads(threads: Mapping[str, int]) -> str:
    if not threads:
        return "no workers yet; waiting for some"
    return f"workers: {len(threads)}, threads: {sum(threads.values())}"


def _say_nothing(_: str) -> None:
    pass


def _check_page(path: Path) -> None:
    """Refuse what a page needs and has not before work begins, not after.

    Raises:
        UsageError: the libraries of the extra `report` are not installed, or there is no folder.
    """
    from ..html import template_library

    template_library()
    if not path.parent.is_dir():
        raise UsageError("the folder does not exist", path=path.parent, hint="make it first")


def _write_page(path: Path, root: Path, endpoint: str | None) -> None:
    from ..html import batch_page, write_page
    from .history import history_of

    with ledgers_at(root, endpoint) as folder:
        write_page(path, batch_page(str(root), history_of(folder)))


def show_plan(plan: BatchPlan, *, as_json: bool = False) -> int:
    """Print what would be done, largest first; return 0."""
    jobs = sorted(plan.jobs, key=lambda job: -job.nbytes)
    if as_json:
        rows = [{"source": j.source, "target": j.target, "bytes": j.nbytes} for j in jobs]
        skipped = [{"source": each.path, "error": each.reason} for each in plan.skipped]
        _print_json({"jobs": rows, "skipped": skipped})
        return 0
    _print_lines(f"{job.source}  {job.nbytes:,}  {job.target}" for job in jobs)
    _print_lines(f"skipped: {each.path}: {each.reason}" for each in plan.skipped)
    total = human(sum(job.nbytes for job in jobs))
    _print_lines([f"{len(jobs)} to convert, {total}; {len(plan.skipped)} skipped"])
    return 0


def show_status(
    root: Path,
    *,
    endpoint: str | None = None,
    as_json: bool = False,
    html: Path | None = None,
) -> int:
    """Print what a batch has come to, and write that as a page too; return the exit code."""
    if html:
        _check_page(html)
        _write_page(html, root, endpoint)
    with ledgers_at(root, endpoint) as folder:
        status = status_of(folder)
    if as_json:
        _print_json(status.json())
    else:
        _print_lines(_lines(status))
    return BatchError.exit_code if status.failed else 0


def merge_parts(root: Path, endpoint: str | None = None) -> int:
    """Make one ledger of those of all parts, and say so; return the exit code."""
    count = merge_at(root, endpoint)
    Console(str(root)).say(f"{root}: {count} ledger{'s' if count > 1 else ''} merged")
    return 0


def _lines(status: Status) -> Iterable[str]:
    counts = {
        "done": status.done,
        "failed": len(status.failed),
        "unfinished": len(status.unfinished),
        "no models": len(status.skipped),
    }
    for name, count in counts.items():
        yield f"{name:<10}  {count:>9,}"
    yield f"{human(status.nbytes)} written"
    for row in status.failed.values():
        yield from failure_lines(row)


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
