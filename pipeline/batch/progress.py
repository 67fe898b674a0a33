"""What a person sees of a batch: a bar on a terminal, or lines now and then; then a table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..console import Console, human
from .ledger import Row
from .run import BatchListener, Totals
from .status import failure_lines

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["BatchConsole", "EventStream", "summary_lines"]

# Between two plain lines.
LINE_SECONDS = 5.0


class BatchConsole(BatchListener):
    """Prints how a batch goes, to stderr.

    Args:
        console: what prints the lines.
        quiet: print failures only.
        verbose: print a line for every model.
    """

    def __init__(self, console: Console, *, quiet: bool = False, verbose: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._verbose = verbose
        self._began = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def began(self, totals: Totals) -> None:
        """Say what there is to do, and show a bar where somebody is looking."""
        self._began = self._told = time.monotonic()
        todo = totals.models - totals.ended
        if self._quiet:
            return
        unchanged = f", {totals.unchanged} are there already" if totals.unchanged else ""
        self._console.say(f"{_counted(totals.models)} found{unchanged}")
        if todo and sys.stderr.isatty():
            self._start_bar(totals)

    def changed(self, row: Row, totals: Totals) -> None:
        """Print a failure; with `verbose`, anything."""
        if row["event"] == "failed":
            for line in failure_lines(row):
                self._print(line)
        elif self._verbose and row["event"] == "skipped":
            self._print(f"skipped: {row['source']}: {row['error']}")
        elif self._verbose and row["event"] == "done":
            size = human(row["bytes"])
            rate = human(row["bytes"] / max(row["seconds"], 1e-9))
            self._print(f"done: {row['target']}: {size} in {row['seconds']:.2f} s ({rate}/s)")
        self.waited(totals)

    def waited(self, totals: Totals) -> None:
        """Move the bar, or print a line if the last one is old."""
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=totals.source_bytes,
                models=_of_all(totals),
                failed=totals.failed,
            )
        elif not self._quiet and time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._console.say(", ".join(self._parts(totals)))

    def ended(self, totals: Totals) -> None:
        """Take the bar away, and print the table."""
        if self._bar is not None:
            self._bar.stop()
        for line in () if self._quiet else summary_lines(totals):
            self._console.say(line)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._console.say(line)

    def _parts(self, totals: Totals) -> Iterator[str]:
        seconds = max(time.monotonic() - self._began, 1e-9)
        yield _of_all(totals)
        yield f"{totals.failed} failed"
        yield f"{totals.done / seconds:.3g} models/s"
        rate = totals.source_bytes / seconds
        yield f"{human(rate)}/s"
        if rate:
            left = (totals.source_total - totals.source_bytes) / rate
            yield f"{_clock(left)} left"

    def _start_bar(self, totals: Totals) -> None:
        from rich.console import Console as Terminal
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.fields[models]}"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=Terminal(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=totals.source_total, models=_of_all(totals), failed=totals.failed
        )
        self._bar.start()


class EventStream(BatchListener):
    """Prints every row as JSON to stdout, and the totals at the end; one object on a line."""

    def changed(self, row: Row, totals: Totals) -> None:
        """Print the row, with how many models are through."""
        _print_json({**row, "ended": totals.ended, "models": totals.models})

    def ended(self, totals: Totals) -> None:
        """Print the totals."""
        _print_json(
            {
                "event": "ended",
                "models": totals.models,
                "done": totals.done,
                "unchanged": totals.unchanged,
                "failed": totals.failed,
                "skipped": totals.skipped,
                "bytes": totals.nbytes,
                "seconds": round(totals.seconds, 3),
            }
        )


def summary_lines(totals: Totals) -> Iterator[str]:
    """Yield the table of what a batch has come to."""
    left = totals.models - totals.ended
    rows = [
        ("done", totals.done),
        ("there already", totals.unchanged),
        ("failed", totals.failed),
        ("left to do", left),
        ("no models", totals.skipped),
    ]
    for name, count in rows:
        if count or name == "done":
            yield f"{name:<13}  {count:>9,}"
    rate = human(totals.nbytes / max(totals.seconds, 1e-9))
    yield f"{human(totals.nbytes)} written in {totals.seconds:.2f} s ({rate}/s)"


def _of_all(totals: Totals) -> str:
    return f"{totals.ended} of {_counted(totals.models)}"


def _counted(models: int) -> str:
    return f"{models} model{'' if models == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _print_json(content: Row) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")
    sys.stdout.flush()
