"""The page of a batch: totals, plots and failures made here, and a table of all its models.

The table's data lies in the page compressed, and is unpacked by the browser: of 100,000 models it
is 20 MB of JSON. Plots are drawn here, as SVG: they are few, and need no library.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...converters.errors import printable
from ..batch.history import DONE, FAILED, UNFINISHED, Entry, History, sums
from ..console import human
from .data import coded, sparse
from .page import render

__all__ = ["batch_page"]

# Packed; a page is to stay below 8 MB, and a browser below a second.
MOST_BYTES = 7_000_000
SLOWEST, SHOWN_SKIPPED, EXAMPLES = 10, 100, 3
BARS = 48
# What an exit code says; docs/adr/0009.
CODES = {
    2: "cannot be carried out", 3: "missing or not recognised", 4: "corrupt or unsafe",
    5: "the target cannot hold it, or be written", 6: "verification failed", 70: "a bug",
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A bar of a plot: place and height as shares of the plot, and what it says."""

    left: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Plot:
    """A plot of bars.

    Attributes:
        title: what is shown.
        bars: from left to right.
        ends: what the left and the right end of its axis stand for.
        top: what the highest bar stands for.
    """

    title: str
    bars: Sequence[Bar]
    ends: tuple[str, str]
    top: str


def batch_page(name: str, history: History) -> str:
    """Return the page of a batch.

    Args:
        name: what to call it, such as the folder of its targets.
        history: what became of its models.

    Raises:
        UsageError: the libraries of the extra `report` are not installed.
    """
    done, failed = history.of(DONE), history.of(FAILED)
    packed, shown = _fitting(history.entries)
    slowest = sorted(done, key=lambda each: -each.seconds)[:SLOWEST]
    return render(
        "batch.html.j2",
        scripts=("basics", "batch"),
        packed=packed,
        title=printable(name),
        models=len(history.entries),
        shown=shown,
        done=len(done),
        failed=len(failed),
        unfinished=len(history.of(UNFINISHED)),
        before=sum(each.before or 0 for each in done),
        after=sum(each.after for each in done),
        span=_span(history.entries),
        sums=sums(history.entries),
        failures=[*_failures(failed)],
        plots=[*_plots(done, history.entries)],
        slowest=[(printable(each.target), each.before, each.seconds) for each in slowest],
        skipped=[
            (printable(path), printable(why))
            for path, why in sorted(history.skipped.items())[:SHOWN_SKIPPED]
        ],
        all_skipped=len(history.skipped),
    )


# The table


def _fitting(entries: Sequence[Entry]) -> tuple[str, int]:
    """Return as many models as fit, packed, and how many those are.

    What has gone wrong comes first, then what took longest.
    """
    packed = _packed(entries)
    if len(packed) <= MOST_BYTES:
        return packed, len(entries)
    rank = {FAILED: 0, UNFINISHED: 1, DONE: 2}
    gravest = sorted(entries, key=lambda each: (rank[each.state], -each.seconds))
    count = len(entries)
    while len(packed) > MOST_BYTES:
        count = int(count * 0.95 * MOST_BYTES / len(packed))
        packed = _packed(gravest[:count])
    return packed, count


def _packed(entries: Sequence[Entry]) -> str:
    text = json.dumps(_columns(entries), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("ascii"), mtime=0)).decode()


def _columns(entries: Sequence[Entry]) -> dict[str, Any]:
    first = min((each.ended for each in entries if each.ended is not None), default=0.0)
    return {
        "first": first,
        "target": [printable(each.target) for each in entries],
        "source": [printable(each.source) for each in entries],
        "state": coded(each.state for each in entries),
        "formats": coded(printable(each.formats) or None for each in entries),
        "before": [each.before for each in entries],
        "after": [each.after for each in entries],
        "seconds": [round(each.seconds, 3) for each in entries],
        "ended": [None if each.ended is None else round(each.ended - first) for each in entries],
        "attempts": sparse(each.attempts if each.attempts > 1 else None for each in entries),
        "exit": sparse(each.exit_code for each in entries),
        "error": sparse(printable(each.error) for each in entries),
        "hint": sparse(printable(each.hint) for each in entries),
    }


# Failures and times


def _failures(failed: Sequence[Entry]) -> Iterator[tuple[int, str, int, list[str]]]:
    """Yield code, what it says, number and first examples of each kind of failure."""
    counts = Counter(each.exit_code for each in failed)
    for code, count in counts.most_common():
        examples = [printable(each.error) for each in failed if each.exit_code == code]
        yield code or 0, CODES.get(code or 0, "another failure"), count, examples[:EXAMPLES]


def _span(entries: Iterable[Entry]) -> str:
    """Return when the first and the last model ended."""
    times = [each.ended for each in entries if each.ended is not None]
    if not times:
        return ""
    first, last = (datetime.fromtimestamp(each, UTC) for each in (min(times), max(times)))
    shown = f"{first:%Y-%m-%d %H:%M:%S}"
    return f"{shown} to {last:%Y-%m-%d %H:%M:%S} UTC" if last - first else f"{shown} UTC"


# Plots


def _plots(done: Sequence[Entry], entries: Sequence[Entry]) -> Iterator[Plot]:
    ends = [each.ended for each in entries if each.ended is not None and each.state != UNFINISHED]
    if len(ends) > 1 and max(ends) > min(ends):
        yield _over_time(ends)
    for title, values, shown in (
        ("Seconds of a model", [each.seconds for each in done], _seconds),
        ("Size of a source", [float(each.before or 0) for each in done], human),
    ):
        positive = [each for each in values if each > 0]
        if len(positive) > 1 and max(positive) > min(positive):
            yield _spread(title, positive, shown)


def _over_time(ends: Sequence[float]) -> Plot:
    first, length = min(ends), max(ends) - min(ends)
    counts = Counter(min(int((each - first) / length * BARS), BARS - 1) for each in ends)
    width = length / BARS

    def text(at: int, count: int) -> str:
        return f"{_seconds(at * width)} to {_seconds((at + 1) * width)}: {count / width:.3g}/s"

    top = f"{max(counts.values()) / width:.3g} models/s"
    return Plot("Models over time", _bars(counts, text), ("0 s", _seconds(length)), top)


def _spread(title: str, values: Sequence[float], shown: Any) -> Plot:
    """Return how often there are values of which size, on a logarithmic scale."""
    low, high = math.log(min(values)), math.log(max(values))
    counts = Counter(
        min(int((math.log(each) - low) / (high - low) * BARS), BARS - 1) for each in values
    )

    def edge(at: int) -> str:
        return str(shown(math.exp(low + at * (high - low) / BARS)))

    def text(at: int, count: int) -> str:
        return f"{edge(at)} to {edge(at + 1)}: {count:,}"

    top = f"{max(counts.values()):,}"
    return Plot(title, _bars(counts, text), (edge(0), edge(BARS)), top)


def _bars(counts: Counter[int], text: Any) -> list[Bar]:
    top = max(counts.values())
    return [
        Bar(at / BARS, 1 / BARS, counts[at] / top, text(at, counts[at])) for at in sorted(counts)
    ]


def _seconds(value: float) -> str:
    return f"{value:.3g} s"
