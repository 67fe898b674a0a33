"""What a check found: typed, with a rule that machines know it by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Finding", "Level"]


class Level(Enum):
    """How grave a finding is; the words are those of SARIF 2.1.0, section 3.27.10."""

    ERROR = "error"  # damaged, or dangerous to load
    WARNING = "warning"  # very likely wrong
    NOTE = "note"  # worth a look


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        rule: what kind of thing, such as `integrity/checksum`, `value/nan`, `security/file-op`.
        level: how grave.
        text: what a person should know, without the name of tensor and file.
        tensor: its name, where it is about one.
        path: the file, where it is about one.
        where: a place in the file, such as a node or an entry.
    """

    rule: str
    level: Level
    text: str
    tensor: str | None = None
    path: str | None = None
    where: str | None = None

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "rule": self.rule, "level": self.level.value, "text": self.text,
            "tensor": self.tensor, "path": self.path, "where": self.where,
        }  # fmt: skip
