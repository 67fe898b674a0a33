"""What `batch` and the verbs below it do once their words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ...converters.errors import BatchError, printable
from ..console import INTERRUPTED, Console, human
from .jobs import BatchPlan, Part
from .ledger import Ledger, Row, merge
from .progress import BatchConsole, EventStream
from .run import MEMORY_BYTES, BatchListener, BatchOptions, Totals, local_executor, run_batch
from .status import Status, failure_lines, status_of

__all__ = ["merge_parts", "run_here", "show_plan", "show_status"]


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


def run_here(
    plan: BatchPlan,
    target_root: Path,
    options: BatchOptions,
    *,
    part: Part | None = None,
    memory: int | None = None,
    seconds: float | None = None,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> int:
    """Run a batch, or a part, in processes of this machine; return 0, or the code of an interrupt.

    Raises:
        BatchError: a model failed.
        UsageError: another batch is at work there.
    """
    console = Console(str(target_root))
    listeners: list[BatchListener] = [BatchConsole(console, quiet=quiet, verbose=verbose)]
    if as_json:
        listeners.append(EventStream())
    with (
        Ledger(target_root, part) as ledger,
        local_executor(options.jobs, memory or MEMORY_BYTES, seconds) as executor,
    ):
        try:
            totals = run_batch(plan, ledger, executor, options, _Several(listeners))
        except KeyboardInterrupt:
            console.say("interrupted; the same command goes on where this one was stopped")
            return INTERRUPTED
    if totals.failed:
        raise BatchError(
            f"{totals.failed} of {totals.models} models failed",
            path=target_root,
            hint=f"`convert batch status {target_root}` lists them; --retry failed tries again",
        )
    return 0


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


def show_status(root: Path, *, as_json: bool = False) -> int:
    """Print what a batch has come to; return the exit code."""
    status = status_of(root)
    if as_json:
        _print_json(status.json())
    else:
        _print_lines(_lines(status))
    return BatchError.exit_code if status.failed else 0


def merge_parts(root: Path) -> int:
    """Make one ledger of those of all parts, and say so; return the exit code."""
    count = merge(root)
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
