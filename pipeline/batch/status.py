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
    status, last = Status(), dict[str, Row]()
    for row in all_rows(root):
        if row["event"] == "skipped":
            status.skipped[row["source"]] = row["error"]
        else:
            last[row["target"]] = row
    for target, row in last.items():
        if row["event"] == "done":
            status.done += 1
            status.nbytes += sum(file["size"] for file in row["files"])
            status.seconds += row.get("seconds", 0.0)
        elif row["event"] == "failed":
            status.failed[target] = row
        else:
            status.unfinished.append(target)
    return status


def failure_lines(row: Row) -> Iterator[str]:
    """Yield what to print of a failure: the message, then perhaps the hint."""
    yield f"failed: {row['error']} (exit {row['exit_code']})"
    if row.get("hint"):
        yield f"        hint: {row['hint']}"
