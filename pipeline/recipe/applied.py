"""What a layout or a recipe has made of tensors: they themselves, and where each came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ...converters.casting import CastTensor
from ...converters.errors import UsageError
from ...converters.notes import Kind, Note
from ...converters.output import Plan, PlannedFile
from ...converters.tensors import TensorDict, TensorSpec
from ...converters.uses import Uses

__all__ = ["Applied", "Change", "casts_below", "change_notes", "with_files"]


class Change(NamedTuple):
    """A tensor of the result, or one that was left out.

    Attributes:
        sources: what it was called before; several where it was joined.
        target: what it is called now; None where it was left out.
        before: what its sources are.
        after: what it is, before any `--dtype`.
        rules: the rules that took part, such as `bert.toml:12`; none where it went through.
        steps: what was done to its values, in words.
        reason: why it was left out.
    """

    sources: tuple[str, ...]
    target: str | None
    before: tuple[TensorSpec, ...]
    after: TensorSpec | None
    rules: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    reason: str = ""

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "sources": [*self.sources],
            "target": self.target,
            "before": [_spec(each) for each in self.before],
            "after": _spec(self.after) if self.after else None,
            "rules": [*self.rules],
            "steps": [*self.steps],
        }


@dataclass(frozen=True, eq=False)
class Applied(TensorDict):
    """Tensors that a layout or a recipe has made.

    Attributes:
        rows: what became of each, in the order of the result; what was left out last.
        files: what is to be written beside a target that is a folder, by name.
        casts: by name, the casts on the way to a tensor, which count what is lost.
        told: what a layout went by, by name in the source.
    """

    rows: tuple[Change, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    casts: Mapping[str, tuple[CastTensor, ...]] = field(default_factory=dict)
    told: Uses = field(default_factory=Uses)


def casts_below(tensors: TensorDict, name: str) -> tuple[CastTensor, ...]:
    """Return the casts of a recipe on the way to a tensor."""
    return tensors.casts.get(name, ()) if isinstance(tensors, Applied) else ()


def with_files(plan: Plan, tensors: TensorDict) -> Plan:
    """Return a plan with the files of a recipe beside a target that is a folder.

    Raises:
        UsageError: the target has a file of that name already.
    """
    files = tensors.files if isinstance(tensors, Applied) else {}
    if not files:
        return plan
    if plan.folder is None:
        what = f"{', '.join(map('`{}`'.format, files))} of the recipe: the target is no folder"
        return replace(plan, notes=(*plan.notes, Note(Kind.METADATA_LOST, what)))
    taken = {file.path for file in plan.files}
    for name in files:
        if plan.folder / name in taken:
            raise UsageError("the recipe would replace a part of the target", path=name)
    added = [
        PlannedFile(plan.folder / name, len(text), ((0, text),)) for name, text in files.items()
    ]
    return replace(plan, files=(*added, *plan.files))


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype.label, "shape": [*spec.shape]}


def change_notes(rows: tuple[Change, ...]) -> Iterator[Note]:
    """Say what rules did, tensor by tensor of the source."""
    for row in rows:
        by = f" by {', '.join(row.rules)}" if row.rules else ""
        for name, spec in zip(row.sources, row.before, strict=True):
            if row.target is None:
                yield Note(Kind.EXCLUDED, row.reason + by, name)
            elif row.steps and all(step.startswith("cast ") for step in row.steps) and row.after:
                text = f"{spec.dtype} to {row.after.dtype}{_as(row, name)}{by}"
                yield Note(Kind.CAST, text, name)
            elif row.steps:
                text = f"{', '.join(row.steps)}{_as(row, name)}{by}"
                yield Note(Kind.TRANSFORMED, text, name)
            elif row.target != name:
                yield Note(Kind.MOVED, f"`{row.target}`{by}", name)


def _as(row: Change, name: str) -> str:
    return "" if row.target == name else f" as `{row.target}`"
