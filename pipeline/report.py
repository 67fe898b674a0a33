"""What became of every tensor: counted for people, listed for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..converters.casting import CastTensor
from ..converters.notes import Kind, Note
from ..converters.output import Plan
from ..converters.tensors import Tensor, TensorDict
from ..converters.uses import Uses
from .options import ConvertOptions
from .recipe.applied import Applied, Change
from .recorded import recorded_flags

if TYPE_CHECKING:
    from ..converters.stores import Sent
    from .like import Likeness

__all__ = ["Report"]

_ACTIONS = (
    Kind.DROPPED,
    Kind.EXCLUDED,
    Kind.UNDECIDED,
    Kind.ADDED,
    Kind.UPDATED,
    Kind.TRANSFORMED,
    Kind.CAST,
    Kind.ENCODED,
    Kind.MOVED,
    Kind.RENAMED,
)


@dataclass(frozen=True)
class Report:
    """The account of one conversion.

    Attributes:
        target: what was written.
        source: all tensors that were found, those of updates in the place of the model's own.
        kept: those that were written.
        plan: where they went.
        digests: by name, where they were asked for.
        options: how.
        seconds: wall time.
        sent: the objects that were stored, where the target is in a store.
        likeness: how it differs from what it should be like, where that was asked for.
    """

    target: Path
    source: TensorDict
    kept: TensorDict
    plan: Plan
    digests: Mapping[str, str]
    options: ConvertOptions
    seconds: float
    sent: tuple[Sent, ...] = ()
    likeness: Likeness | None = None

    @property
    def dry_run(self) -> bool:
        """Whether nothing was written."""
        return self.options.dry_run

    @property
    def notes(self) -> tuple[Note, ...]:
        """Everything worth knowing, in the order in which it came up."""
        return self.kept.notes + self.plan.notes

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by what became of them; each counts once, as what is gravest."""
        actions = self._actions()
        counts = Counter(kind.value for kind in actions.values())
        return {"written": len(self.source) - len(actions), **counts}

    @property
    def left_out(self) -> dict[str, tuple[int, int]]:
        """Number and bytes of the tensors that were excluded, by role."""
        totals: dict[str, tuple[int, int]] = {}
        for name, kind in self._actions().items():
            if kind is Kind.EXCLUDED:
                role = self.source.origin(name).role.value
                count, nbytes = totals.get(role, (0, 0))
                totals[role] = count + 1, nbytes + self.source[name].nbytes
        return totals

    @property
    def lossy(self) -> bool:
        """Whether the target holds less than the source."""
        return any(note.kind.lossy for note in self.notes)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per tensor of the source."""
        actions = self._actions()
        texts: dict[str, list[str]] = {}
        for name, note in self._tensor_notes():
            texts.setdefault(name, []).append(note.text)
        kept_names = self._kept_names()
        changes = self._changes()
        for name, tensor in self.source.items():
            kept = kept_names.get(name)
            row: dict[str, Any] = {
                "name": name,
                "key": self.source.origin(name).key,
                "action": actions[name].value if name in actions else "written",
                "dtype": tensor.spec.dtype.label,
                "shape": list(tensor.spec.shape),
                "role": self.source.origin(name).role.value,
                "stored_name": None if kept is None else self.plan.stored_names.get(kept, kept),
                "notes": texts.get(name, []),
            }
            if kept is not None:
                row |= _cast(self.kept[kept])
            if name in changes:
                row["recipe"] = changes[name]
            if isinstance(self.kept, Applied):
                row |= _layout(self.kept.told, name)
            if kept is not None and kept in self.digests:
                row["digest"] = self.digests[kept]
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
            "flags": recorded_flags(self.options),
            "dry_run": self.dry_run,
            "seconds": round(self.seconds, 3),
            "counts": self.counts,
            "left_out": {
                role: {"tensors": count, "bytes": nbytes}
                for role, (count, nbytes) in self.left_out.items()
            },
            "lossy": self.lossy,
            "notes": [
                {"kind": note.kind.value, "tensor": note.tensor, "text": note.text}
                for note in self.notes
            ],
            "tensors": list(self.rows()),
            **({"changes": self.plan_rows()} if self.changes else {}),
            **({"like": self.likeness.json()} if self.likeness else {}),
        }

    @property
    def changes(self) -> tuple[Change, ...]:
        """What recipes made of each tensor; none where there was no recipe."""
        return self.kept.rows if isinstance(self.kept, Applied) else ()

    def plan_rows(self) -> list[dict[str, Any]]:
        """Return what recipes made of each tensor as JSON values, `--dtype` included."""
        rows = [row.json() for row in self.changes]
        for row in rows:
            if row["target"] is not None:  # after a cast by --dtype, too
                row["after"]["dtype"] = self.kept[row["target"]].spec.dtype.label
        return rows

    def _changes(self) -> dict[str, dict[str, Any]]:
        """Return what rules did with each tensor of the source, where any did."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.changes:
            for name in row.sources if row.rules else ():
                said = found.setdefault(
                    name, {"targets": [], "rules": [*row.rules], "steps": [*row.steps]}
                )
                said["targets"] += [row.target] if row.target is not None else []
        return found

    def _actions(self) -> dict[str, Kind]:
        """Return what became of each tensor that is not simply written; the gravest counts."""
        actions: dict[str, Kind] = {}
        for kind in reversed(_ACTIONS):
            for name, note in self._tensor_notes():
                if note.kind is kind and name in self.source:  # a layout may have added it
                    actions[name] = kind
        return actions

    def _tensor_notes(self) -> Iterator[tuple[str, Note]]:
        """Yield the notes on tensors with the tensor's name in the source.

        The writer knows a tensor by the name it was given, as a moving average that stands for
        its variable.
        """
        names = self._source_names()
        for note in self.kept.notes:
            if note.tensor is not None:
                yield note.tensor, note
        for note in self.plan.notes:
            if note.tensor is not None:
                yield names.get(note.tensor, note.tensor), note

    def _kept_names(self) -> dict[str, str]:
        """Return the name that a tensor of the source is kept under, the first of several."""
        if isinstance(self.kept, Applied):
            pairs = [(name, row.target) for row in self.kept.rows for name in row.sources]
        else:
            pairs = [(source, kept) for kept, source in self._source_names().items()]
        return {name: kept for name, kept in reversed(pairs) if kept is not None}

    def _source_names(self) -> dict[str, str]:
        """Return the name in the source by the name of each kept tensor; keys never change."""
        if isinstance(self.kept, Applied):
            rows = self.kept.rows
            return {row.target: row.sources[0] for row in rows if row.target and row.sources}
        if self.kept.origins is self.source.origins:
            return {name: name for name in self.kept}
        by_key = {self.source.origin(name).key: name for name in self.source}
        return {name: by_key[self.kept.origin(name).key] for name in self.kept}


def _layout(told: Uses, name: str) -> dict[str, Any]:
    """Return what a row says of the layout: what a tensor is for, or why nobody knows."""
    use = told.known.get(name)
    if use is not None:
        return {"layout": use.json()}
    return {"layout": {"undecided": told.undecided[name]}} if name in told.undecided else {}


def _cast(tensor: Tensor) -> dict[str, Any]:
    """Return what a row says of a cast; in a dry run nobody knows what is lost."""
    if not isinstance(tensor, CastTensor):
        return {}
    lost = tensor.losses._asdict() if tensor.losses else {}
    return {"cast": {"dtype": tensor.spec.dtype.label, **lost}}
