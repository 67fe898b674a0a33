"""What moves on a terminal while a batch runs: a bar for all, and a line for each worker."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ...converters.errors import printable
from ..console import human
from .ledger import Row
from .run import Totals

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

__all__ = ["BatchScreen", "clock", "of_all"]

PER_SECOND = 5  # pictures
MOST_LINES = 16  # a cluster has more workers than a screen has lines
BAR_WIDTH, SHARE_WIDTH = 28, 12


class _Model(NamedTuple):
    """A model that a worker is at."""

    source: str
    nbytes: int
    began: float


class BatchScreen:
    """A picture that is drawn a few times a second, however many models come and go.

    Args:
        shares: returns by source how far the models are, from 0 to 1, as far as that is known.
    """

    def __init__(self, shares: Callable[[], Mapping[str, float]]) -> None:
        self._shares = shares
        self._totals = Totals()
        self._began = time.monotonic()
        self._lines: list[str | None] = []  # targets; each keeps its line as long as it runs
        self._models: dict[str, _Model] = {}
        self._live: Live | None = None

    def start(self, totals: Totals) -> None:
        """Begin to draw; what is printed from now on has to go through `print`."""
        from rich.console import Console as Terminal
        from rich.live import Live

        self._totals, self._began = totals, time.monotonic()
        self._live = Live(
            console=Terminal(stderr=True),
            get_renderable=self.picture,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=False,  # events go there
            redirect_stderr=False,
        )
        self._live.start()

    def changed(self, row: Row, totals: Totals) -> None:
        """Take note of a row of the ledger."""
        self._totals = totals
        target = row.get("target", "")
        if row["event"] == "started":
            self._models[target] = _Model(row["source"], row["source_bytes"], time.monotonic())
            if None in self._lines:
                self._lines[self._lines.index(None)] = target
            else:
                self._lines.append(target)
        elif self._models.pop(target, None):
            self._lines[self._lines.index(target)] = None

    def print(self, line: str) -> None:
        """Print a line above the picture."""
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the picture away."""
        if self._live is not None:
            self._live.stop()

    def picture(self) -> RenderableType:
        """Return the picture as it is now; called from a thread of its own."""
        from rich.console import Group

        running = [self._models.get(each) for each in list(self._lines) if each]
        models = [each for each in running if each]
        shown = models[:MOST_LINES]
        lines: list[RenderableType] = [self._overall()]
        if shown:
            lines.append(self._workers(shown))
        if len(models) > len(shown):
            from rich.text import Text

            lines.append(Text(f"  and {len(models) - len(shown)} more", style="dim"))
        return Group(*lines)

    def _overall(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        totals = self._totals
        grid = Table.grid(padding=(0, 2))
        for width in (BAR_WIDTH, 24, 12):
            grid.add_column(min_width=width, no_wrap=True)
        bar = ProgressBar(max(totals.source_total, 1), totals.source_bytes, width=BAR_WIDTH)
        failed = Text(f"{totals.failed} failed", style="bold red" if totals.failed else "dim")
        grid.add_row(bar, Text(of_all(totals), style="bold"), failed)
        grid.add_row(Text(self._bytes()), *map(Text, self._rates()))
        return grid

    def _bytes(self) -> str:
        return f"{human(self._totals.source_bytes)} of {human(self._totals.source_total)}"

    def _rates(self) -> Iterator[str]:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = self._totals.source_bytes / seconds
        yield f"{self._totals.done / seconds:.3g} models/s, {human(rate)}/s"
        left = self._totals.source_total - self._totals.source_bytes
        yield f"{clock(left / rate)} left" if rate else ""

    def _workers(self, models: list[_Model]) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        shares, now = self._shares(), time.monotonic()
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for width in (9, 8):
            grid.add_column(justify="right", no_wrap=True, min_width=width)
        grid.add_column(width=SHARE_WIDTH)
        grid.add_column(justify="right", no_wrap=True, min_width=4)
        for model in models:
            share = shares.get(model.source)
            grid.add_row(
                Text(f"  {_end_of(model.source)}"),
                human(model.nbytes),
                f"{now - model.began:.1f} s",
                "" if share is None else ProgressBar(1.0, share, width=SHARE_WIDTH),
                "" if share is None else f"{share:.0%}",
            )
        return grid


def of_all(totals: Totals) -> str:
    """Return how many models are through: `602 of 1200 models`."""
    return f"{totals.ended} of {totals.models} model{'' if totals.models == 1 else 's'}"


def clock(seconds: float) -> str:
    """Return a time as `12:34`, or `1:23:45`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _end_of(source: str) -> str:
    """Return what tells a model from its neighbours, which is at the end of its path."""
    room = os.get_terminal_size(2).columns - 52 if os.isatty(2) else 48
    text = printable(source)
    room = max(room, 16)
    return text if len(text) <= room else f"…{text[1 - room :]}"
