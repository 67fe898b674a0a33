"""What became of every tensor: counted for people, listed for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..converters.notes import Kind, Note
from ..converters.output import Plan
from ..converters.tensors import TensorDict

__all__ = ["Report"]

_ACTIONS = (Kind.DROPPED, Kind.EXCLUDED, Kind.CAST, Kind.ENCODED, Kind.RENAMED)


@dataclass(frozen=True)
class Report:
    """The account of one conversion.

    Attributes:
        target: what was written.
        source: all tensors that were found.
        kept: those that were written.
        plan: where they went.
        digests: by name, where they were asked for.
        dry_run: nothing was written.
        seconds: wall time.
    """

    target: Path
    source: TensorDict
    kept: TensorDict
    plan: Plan
    digests: Mapping[str, str]
    dry_run: bool
    seconds: float

    @property
    def notes(self) -> tuple[Note, ...]:
        """Everything worth knowing, in the order in which it came up."""
        return self.kept.notes + self.plan.notes

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by what became of them; the values add up to the source's."""
        actions = self._actions()
        counts = Counter(kind.value for kind in actions.values())
        return {"written": len(self.source) - len(actions), **counts}

    @property
    def lossy(self) -> bool:
        """Whether the target holds less than the source."""
        return any(note.kind.lossy for note in self.notes)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per tensor of the source."""
        actions = self._actions()
        texts: dict[str, list[str]] = {}
        for note in self.notes:
            if note.tensor is not None:
                texts.setdefault(note.tensor, []).append(note.text)
        for name, tensor in self.source.items():
            kept = name in self.kept
            row = {
                "name": name,
                "key": self.source.origin(name).key,
                "action": actions[name].value if name in actions else "written",
                "dtype": tensor.spec.dtype.label,
                "shape": list(tensor.spec.shape),
                "stored_name": self.plan.stored_names.get(name, name) if kept else None,
                "notes": texts.get(name, []),
            }
            if name in self.digests:
                row["digest"] = self.digests[name]
            yield row

    def json(self) -> dict[str, Any]:
        """Return the whole account as JSON values."""
        return {
            "source": {"format": self.source.format, "summary": self.source.summary},
            "target": {
                "path": str(self.target),
                "format": self.plan.format,
                "files": [{"path": str(f.path), "bytes": f.size} for f in self.plan.files],
            },
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "counts": self.counts,
            "lossy": self.lossy,
            "notes": [
                {"kind": note.kind.value, "tensor": note.tensor, "text": note.text}
                for note in self.notes
            ],
            "tensors": list(self.rows()),
        }

    def _actions(self) -> dict[str, Kind]:
        """Return what became of each tensor that is not simply written; the gravest counts."""
        actions: dict[str, Kind] = {}
        for kind in reversed(_ACTIONS):
            for note in self.notes:
                if note.kind is kind and note.tensor is not None:
                    actions[note.tensor] = kind
        return actions
