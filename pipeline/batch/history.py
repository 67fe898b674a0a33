"""What became of every model of a batch, as its ledgers tell it, for a page or a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .ledger import Row, all_rows

__all__ = [
    "DONE", "FAILED", "UNFINISHED", "Entry", "History", "Sum", "formats_of", "history_of", "sums",
]  # fmt: skip

DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
UNKNOWN = "?"  # of rows that an older version wrote


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, by its last row.

    Attributes:
        target: its path below the root of the targets.
        source: what was opened.
        state: `done`, `failed` or `unfinished`.
        formats: what was read and what was written; empty if it is not known.
        before: bytes of the source; None if it is not known.
        after: bytes that were written.
        seconds: what the worker took.
        attempts: how often it was begun.
        ended: when, in seconds since 1970; None if it is not known.
        exit_code: of a failure, what converting it alone would have ended with.
        error: of a failure, the message.
        hint: of a failure, what may help.
    """

    target: str
    source: str
    state: str
    formats: str = ""
    before: int | None = None
    after: int = 0
    seconds: float = 0.0
    attempts: int = 0
    ended: float | None = None
    exit_code: int | None = None
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class History:
    """All models of a batch in the order of their targets, and what is none, by path."""

    entries: Sequence[Entry]
    skipped: dict[str, str]

    def of(self, state: str) -> list[Entry]:
        """Return those in a state."""
        return [each for each in self.entries if each.state == state]


@dataclass(frozen=True)
class Sum:
    """What some models come to together: their number, bytes before and after, and seconds."""

    name: str
    models: int
    before: int
    after: int
    seconds: float


def history_of(root: Path) -> History:
    """Return what became of every model of a folder; looks at no file but the ledgers.

    Raises:
        NotRecognisedError: there is no ledger.
    """
    last: dict[str, Entry] = {}  # no rows: of a million models they are gigabytes
    attempts: Counter[str] = Counter()
    skipped: dict[str, str] = {}
    for row in all_rows(root):
        if row["event"] == "skipped":
            skipped[row["source"]] = row["error"]
            continue
        attempts[row["target"]] += row["event"] == "started"
        last[row["target"]] = _entry(row, attempts[row["target"]])
    return History([entry for _, entry in sorted(last.items())], skipped)


def sums(entries: Iterable[Entry]) -> list[Sum]:
    """Return what was converted by formats, the most frequent first."""
    groups: dict[str, list[Entry]] = {}
    for each in entries:
        if each.state == DONE:
            groups.setdefault(each.formats or UNKNOWN, []).append(each)
    found = [
        Sum(
            name,
            len(group),
            sum(each.before or 0 for each in group),
            sum(each.after for each in group),
            sum(each.seconds for each in group),
        )
        for name, group in groups.items()
    ]
    return sorted(found, key=lambda each: (-each.models, each.name))


def _entry(row: Row, attempts: int) -> Entry:
    event = row["event"]
    state = event if event in (DONE, FAILED) else UNFINISHED
    return Entry(
        row["target"],
        row["source"],
        state,
        formats_of(row),
        _number(row.get("source_bytes")),
        sum(file["size"] for file in row["files"]) if state == DONE else 0,
        float(_number(row.get("seconds")) or 0.0),
        attempts,
        _time(row.get("at")),
        row["exit_code"] if state == FAILED else None,
        row["error"] if state == FAILED else "",
        str(row.get("hint") or ""),
    )


def formats_of(row: Row) -> str:
    """Return what was read and what was written, as `npz → safetensors`; empty if unknown."""
    formats = row.get("formats")
    if not isinstance(formats, (list, tuple)) or len(formats) != 2 or not all(formats):
        return ""
    return " → ".join(map(str, formats))


def _number(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else None


def _time(text: Any) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
