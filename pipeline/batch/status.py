"""What the ledger of a batch comes to: totals, and what has failed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .ledger import Row, all_rows

__all__ = ["Status", "failure_lines", "status_of"]


@dataclass
class Status:
    """How the models of a folder stand, as its ledger says.

    Attributes:
        done: number of models that were converted.
        nbytes: bytes of their files.
        seconds: what the workers took for them.
        failed: the rows of those that failed, by target.
        unfinished: the targets that were begun and are not done.
        skipped: why something is no model, by path.
    """

    done: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    failed: dict[str, Row] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "done": self.done,
            "failed": len(self.failed),
            "unfinished": len(self.unfinished),
            "skipped": len(self.skipped),
            "bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            "failures": list(self.failed.values()),
            "unfinished_targets": self.unfinished,
            "skipped_paths": self.skipped,
        }


def status_of(root: Path) -> Status:
    """Return how the models of a folder stand; looks at no file but the ledgers.

    Raises:
        NotRecognisedError: there is no ledger.
    """
    status = Status()
    # Bytes and seconds of what is done, or the row of a failure: of a million models that is a lot.
    last: dict[str, tuple[int, float] | Row | None] = {}
    for row in all_rows(root):
        if row["event"] == "skipped":
            status.skipped[row["source"]] = row["error"]
        elif row["event"] == "done":
            last[row["target"]] = _bytes(row), row.get("seconds", 0.0)
        else:
            last[row["target"]] = row if row["event"] == "failed" else None
    for target, what in last.items():
        if what is None:
            status.unfinished.append(target)
        elif isinstance(what, tuple):
            status.done += 1
            status.nbytes += what[0]
            status.seconds += what[1]
        else:
            status.failed[target] = what
    return status


def _bytes(row: Row) -> int:
    return sum(file["size"] for file in row["files"])


def failure_lines(row: Row) -> Iterator[str]:
    """Yield what to print of a failure: the message, then perhaps the hint."""
    yield f"failed: {row['error']} (exit {row['exit_code']})"
    if row.get("hint"):
        yield f"        hint: {row['hint']}"
