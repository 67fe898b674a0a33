"""What a person sees of a batch: a bar on a terminal, or lines now and then; then a table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from ...converters.errors import printable
from ..console import Console, human
from .history import formats_of
from .ledger import Row
from .run import BatchListener, Totals
from .screen import BatchScreen, clock, of_all
from .status import failure_lines

__all__ = ["BatchConsole", "EventStream", "summary_lines"]

# Between two plain lines.
LINE_SECONDS = 5.0
# Told at the end: so many models that took longest, if they took that long.
SLOWEST, SLOW_SECONDS = 3, 1.0


class BatchConsole(BatchListener):
    """Prints how a batch goes, to stderr.

    Args:
        console: what prints the lines.
        quiet: print failures only.
        verbose: print a line for every model.

    Attributes:
        shares: returns by source how far the models are, from 0 to 1, as far as that is known.
    """

    def __init__(self, console: Console, *, quiet: bool = False, verbose: bool = False) -> None:
        self.shares: Callable[[], Mapping[str, float]] = dict
        self._console = console
        self._quiet = quiet
        self._verbose = verbose
        self._began = self._told = time.monotonic()
        self._screen: BatchScreen | None = None
        self._sums: dict[str, list[int]] = {}  # by formats: models, bytes before and after
        self._slowest: list[tuple[float, str]] = []

    def began(self, totals: Totals) -> None:
        """Say what there is to do, and show a bar where somebody is looking."""
        self._began = self._told = time.monotonic()
        todo = totals.models - totals.ended
        if self._quiet:
            return
        unchanged = f", {totals.unchanged} are there already" if totals.unchanged else ""
        self._console.say(f"{_counted(totals.models)} found{unchanged}")
        if todo and sys.stderr.isatty():
            self._screen = BatchScreen(self.shares)
            self._screen.start(totals)

    def changed(self, row: Row, totals: Totals) -> None:
        """Print a failure; with `verbose`, anything."""
        if self._screen is not None:
            self._screen.changed(row, totals)
        if row["event"] == "done":
            self._count(row)
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
        """Print a line if the last one is old, where nothing moves."""
        if self._screen is not None or self._quiet:
            return
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._console.say(", ".join(self._parts(totals)))

    def ended(self, totals: Totals) -> None:
        """Take the bar away, and print the table."""
        if self._screen is not None:
            self._screen.stop()
        if self._quiet:
            return
        *counts, written = summary_lines(totals)
        for line in (*counts, *self._details(), written):
            self._console.say(line)

    def _count(self, row: Row) -> None:
        total = self._sums.setdefault(formats_of(row), [0, 0, 0])
        for at, value in enumerate((1, row.get("source_bytes", 0), row["bytes"])):
            total[at] += value
        if row["seconds"] >= SLOW_SECONDS:
            self._slowest = sorted([*self._slowest, (row["seconds"], row["target"])])[-SLOWEST:]

    def _details(self) -> Iterator[str]:
        """Yield what came of which formats, where there were several, and what took longest."""
        for formats, (count, before, after) in sorted(self._sums.items()):
            if len(self._sums) > 1:
                yield f"  {formats}: {count:,}, {human(before)} to {human(after)}"
        for seconds, target in reversed(self._slowest):
            yield f"  slowest: {target}: {seconds:.1f} s"

    def _print(self, line: str) -> None:
        if self._screen is not None:
            self._screen.print(printable(line))
        else:
            self._console.say(line)

    def _parts(self, totals: Totals) -> Iterator[str]:
        seconds = max(time.monotonic() - self._began, 1e-9)
        yield of_all(totals)
        yield f"{totals.failed} failed"
        yield f"{totals.done / seconds:.3g} models/s"
        rate = totals.source_bytes / seconds
        yield f"{human(rate)}/s"
        if rate:
            left = (totals.source_total - totals.source_bytes) / rate
            yield f"{clock(left)} left"


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


def _counted(models: int) -> str:
    return f"{models} model{'' if models == 1 else 's'}"


def _print_json(content: Row) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")
    sys.stdout.flush()
