"""What a batch has to do: one job for each model, and what is no model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from ...converters.errors import UsageError
from ...converters.names import encode
from ..options import ConvertOptions

__all__ = ["BatchPlan", "Job", "Part", "Skipped"]

MOST_PARTS = 1_000_000


class Part(NamedTuple):
    """One of several parts of a batch, which need to know nothing of each other.

    Attributes:
        number: which one, from 1.
        parts: of how many.
    """

    number: int
    parts: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.parts}"

    @classmethod
    def of(cls, text: str) -> Part:
        """Return what `2/8`, or `2-of-8`, says.

        Raises:
            UsageError: it says something else.
        """
        match = re.fullmatch(r"(\d{1,7})(?:/|-of-)(\d{1,7})", text)
        part = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= part.number <= part.parts <= MOST_PARTS:
            raise UsageError("no such part", expected="2/8: the second of eight", got=f"`{text}`")
        return part

    def has(self, target: str) -> bool:
        """Tell whether a target, by its path below the root, is of this part."""
        return int.from_bytes(blake3(encode(target)).digest(8)) % self.parts == self.number - 1


@dataclass(frozen=True)
class Job:
    """One model to convert; small, and pickled on its way to a worker.

    Attributes:
        source: what to open.
        target: what to write.
        nbytes: bytes of the source's files.
        fingerprint: of names, sizes and times of the source's files; another one if one changes.
        flags: how to convert.
    """

    source: str
    target: str
    nbytes: int
    fingerprint: str
    flags: ConvertOptions


@dataclass(frozen=True)
class Skipped:
    """A file or a folder that is no model."""

    path: str
    reason: str


@dataclass(frozen=True)
class BatchPlan:
    """What is going to be done.

    Attributes:
        jobs: in the order in which their models were found; no two have one target.
        skipped: what is left alone, and why.
        endpoint: where the object store is, if not where its cloud is.
    """

    jobs: tuple[Job, ...]
    skipped: tuple[Skipped, ...]
    endpoint: str | None = None

    def part(self, part: Part, root: Path) -> BatchPlan:
        """Return what one part has to do; whatever is no model is told by the first.

        Args:
            part: which one.
            root: folder of the targets, in which all parts see the same paths.
        """
        jobs = (job for job in self.jobs if part.has(os.path.relpath(job.target, root)))
        return replace(self, jobs=tuple(jobs), skipped=self.skipped if part.number == 1 else ())
