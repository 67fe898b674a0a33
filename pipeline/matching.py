"""Which tensor of a target is which of its source: what a writer was asked for, or else names.

A conversion is planned once more, without writing: the plan tells under which names or keys its
tensors lie. Targets with places of their own (object graphs, Keras) are read by key then. Where
nobody knows how the target was made, the target itself is tried as the template too, and what
leaves the fewest tensors over is taken. Values play no part in that.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..converters.errors import ConvertError, TargetError, UsageError
from ..converters.notes import Kind, Note
from ..converters.opening import open_tensors
from ..converters.output import Plan
from ..converters.registry import Format, ReadOptions, WriteOptions, format_named
from ..converters.tensors import Tensor, TensorDict
from .convert import fitting

__all__ = ["Match", "matched"]

# By format what takes a target's own arrangement over.
_ITSELF: Mapping[str, Callable[[Path], WriteOptions]] = {
    "saved-model": lambda path: WriteOptions(template=path),
    "tf-checkpoint": lambda path: WriteOptions(layout_of=path),
    "keras-v3": lambda path: WriteOptions(config=path),
    "keras-h5": lambda path: WriteOptions(config=path),
}


@dataclass(frozen=True)
class Match:
    """A target, opened, and what its tensors should be.

    Attributes:
        readable: the target by the names it opens with.
        copy: the target as it is compared; perhaps by its keys.
        pairs: name in the source and name that `copy` should have; each of both may occur more
            than once.
        added: tensors that the writer put in beside those of the source, by name in `copy`.
        elsewhere: tensors of the source that are another one of it and have no name in the
            target, with why.
        dropped: tensors of the source that the target has no place for, with why.
        notes: what is worth knowing.
    """

    readable: TensorDict
    copy: TensorDict
    pairs: list[tuple[str, str]]
    added: Mapping[str, Tensor] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()

    def missing(self, tensors: TensorDict) -> list[str]:
        """Return the names of the source that the target should have and has no place for."""
        there = {name for name, _ in self.pairs} | {*self.elsewhere, *self.dropped}
        return [name for name in tensors if name not in there]

    @property
    def extra(self) -> list[str]:
        """Return the names in `copy` that nothing in the source stands for."""
        known = {name for _, name in self.pairs} | set(self.added)
        return [name for name in self.copy if name not in known]


@contextmanager
def matched(
    tensors: TensorDict, target: Path, write: WriteOptions | None, format: str | None = None
) -> Iterator[Match]:
    """Open a target and tell which of its tensors should be which.

    Args:
        tensors: what should be in it.
        target: what was written.
        write: how; None where nobody knows.
        format: name of its format; None to find out.

    Raises:
        ConvertError: the target cannot be read, or what it was made with is not there any more.
    """
    with ExitStack() as stack:
        readable = stack.enter_context(open_tensors(target, format=format))
        if readable.broken:
            raise next(iter(readable.broken.values()))
        finder = _Finder(tensors, target, readable, stack)
        yield finder.recorded(write) if write else finder.guessed()


class _Finder:
    """Makes matches; what they open is closed with the stack."""

    def __init__(
        self, tensors: TensorDict, target: Path, readable: TensorDict, stack: ExitStack
    ) -> None:
        self._tensors = tensors
        self._target = target
        self._readable = readable
        self._stack = stack

    def recorded(self, write: WriteOptions) -> Match:
        """Return what the very flags of the conversion come to."""
        try:
            return self._planned(write)
        except (TargetError, UsageError) as error:
            text = f"compared by names, since the conversion cannot be planned again: {error.what}"
            match = self._by_names()
            return replace(match, notes=(*match.notes, Note(Kind.TARGET, text)))

    def guessed(self) -> Match:
        """Return the best of what the target may be."""
        best = self._by_names()
        tries = [WriteOptions()]
        if self._readable.format == "tf-checkpoint":
            tries.append(WriteOptions(object_based=True))
        itself = _ITSELF.get(self._readable.format)
        own = itself(self._place) if itself else None
        for write in filter(None, (*tries, own)):
            if not self._left(best):
                break
            match = self._tried(write)
            if match and write is own:  # the target cannot vouch for itself
                match = replace(match, added={})
            if match and self._left(match) < self._left(best):
                best = match
        return best

    def _tried(self, write: WriteOptions) -> Match | None:
        try:
            return replace(self._planned(write), notes=())  # on flags that nobody gave
        except ConvertError:
            return None

    def _left(self, match: Match) -> int:
        absent = [name for _, name in match.pairs if name not in match.copy]
        return sum(map(len, (match.missing(self._tensors), match.extra, match.dropped, absent)))

    @property
    def _place(self) -> Path:
        """The target, as a model that another one is made like."""
        folder = self._readable.details.get("folder")
        return Path(folder) if isinstance(folder, str) else self._target

    def _by_names(self) -> Match:
        return Match(self._readable, self._readable, self._pairs(self._readable))

    def _pairs(self, copy: TensorDict) -> list[tuple[str, str]]:
        """Return pairs of equal names; a tensor may be there under its other names, or them."""
        pairs = [(name, name) for name in copy if name in self._tensors]
        aliases = self._tensors.aliases
        pairs += [
            (aliases[name], name)
            for name in copy
            if name not in self._tensors and aliases.get(name) in self._tensors
        ]
        return pairs + [
            (name, copy.aliases[name])
            for name in self._tensors
            if name not in copy and name in copy.aliases
        ]

    def _planned(self, write: WriteOptions) -> Match:
        """Return the match that a plan gives.

        Raises:
            UsageError: the format is not written so.
            TargetError: it would not hold the tensors.
        """
        format = format_named(self._readable.format)
        with tempfile.TemporaryDirectory() as empty:
            path = _like(Path(empty), self._target, format)
            plan = fitting(self._tensors, path, format, self._write(write, format))
        for source in plan.sources:
            self._stack.callback(source.close)
        if plan.read_back is None:
            copy, pairs, added = self._readable, self._pairs(self._readable), {}
        else:
            options = ReadOptions(names="key", constants=False)
            place = self._place / plan.read_back.inside
            copy = open_tensors(place, options, format=plan.read_back.format)
            self._stack.enter_context(copy)
            keys = plan.read_back.keys.items()
            pairs = [(name, key) for key, name in keys if name is not None]
            added = _added(plan)
        dropped, elsewhere = _without_place(plan, {name for name, _ in pairs})
        notes = tuple(note for note in plan.notes if note.kind is Kind.METADATA_LOST)
        return Match(self._readable, copy, pairs, added, elsewhere, dropped, notes)

    def _write(self, write: WriteOptions, format: Format) -> WriteOptions:
        folder = "folder" in format.options and self._place.is_dir()
        return replace(write, folder=folder, overwrite=False)


def _added(plan: Plan) -> dict[str, Tensor]:
    """Return by key what a plan puts in beside the tensors of its source."""
    keys = plan.read_back.keys if plan.read_back else {}
    given = {name: tensor for file in plan.files for name, tensor, _ in file.placements}
    return {key: given[key] for key, name in keys.items() if name is None and key in given}


def _without_place(plan: Plan, stored: Set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return what a plan drops, and what it stores as another tensor alone; each with why."""
    notes = [
        (note.tensor, note) for note in plan.notes if note.tensor and note.tensor not in stored
    ]
    dropped = {name: note.text for name, note in notes if note.kind is Kind.DROPPED}
    elsewhere = {name: note.text for name, note in notes if note.kind is Kind.TARGET}
    return dropped, elsewhere


def _like(folder: Path, target: Path, format: Format) -> Path:
    """Return a path in an empty folder that a writer takes for the same kind of target."""
    name = target.resolve().name
    if name.lower().endswith(format.extensions) or not format.extensions:
        return folder / name
    return folder / f"{name}{'' if target.is_dir() else format.extensions[0]}"
