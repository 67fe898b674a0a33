"""What happened to a tensor or to the file that a user should know: typed, countable, JSON-able."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Kind", "Note"]


class Kind(Enum):
    """What a note tells; `lossy` kinds become an error under `--strict`."""

    DROPPED = "dropped"  # in the source, not in the target
    OUT_OF_RANGE = "out of range"  # values that another dtype made infinite, NaN or zero
    METADATA_LOST = "metadata lost"  # something beside the tensors that the target cannot hold
    EXCLUDED = "excluded"  # left out because the user said so
    CAST = "cast"  # in another dtype because the user said so; rounding is no loss then
    TRANSFORMED = "transformed"  # values in another order or shape, because a recipe says so
    MOVED = "renamed by rule"  # under another name, because a recipe says so
    UNDECIDED = "not decided"  # no framework's layout can be told for it, so it stays as it is
    UPDATED = "updated"  # replaced by a tensor of an update
    ADDED = "added"  # from an update, and not in the source
    RENAMED = "renamed"  # the target cannot hold the name; the exact one is recorded in it
    ENCODED = "encoded"  # stored under another type; comes back identical through our reader
    SOURCE = "source"  # something unusual about the source that was dealt with
    TARGET = "target"  # something about the target worth knowing

    @property
    def lossy(self) -> bool:
        """Whether the target holds less than the source did."""
        return self in (Kind.DROPPED, Kind.OUT_OF_RANGE, Kind.METADATA_LOST, Kind.UNDECIDED)


@dataclass(frozen=True, slots=True)
class Note:
    """One remark; `tensor` is the name in the source dictionary, or None for the whole file."""

    kind: Kind
    text: str
    tensor: str | None = None

    def __str__(self) -> str:
        subject = "" if self.tensor is None else f"tensor `{self.tensor}`: "
        return f"{subject}{self.text}"
