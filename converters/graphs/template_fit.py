"""Tensors that are to be those of another model: under its keys, in its object graph.

A template has names, keys, shapes and types; the tensors of a source have to be all of them, and
no others. What belongs to training or to saving and not to the model may be missing: who calls
says what becomes of it (`Spare`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..containers.bundle_writer import Row
from ..errors import TargetError
from ..notes import Kind, Note
from ..tensors import Origin, Role, TensorDict, TensorSpec
from .templates import SAVE_COUNTER, Arrangement, attached, graph_row, keys_of, rows_of

__all__ = ["CHECKPOINT", "MODEL", "Spare", "fit"]

LISTED = 20  # names of a kind in a message
SHOWN = 6  # names in a note
MAX_SCOPES = 32  # parts that one name may have more than the other


@dataclass(frozen=True)
class Spare:
    """What to do about tensors of a template that the source does not have.

    Attributes:
        kept: roles of those that are taken from the template.
        dropped: roles of those that are left out; any other one is missed.
    """

    kept: frozenset[Role]
    dropped: frozenset[Role]

    def keeps(self, origin: Origin) -> bool:
        """Tell whether a tensor is taken from the template."""
        return origin.role in self.kept or origin.key == SAVE_COUNTER

    def drops(self, origin: Origin) -> bool:
        """Tell whether a tensor is left out."""
        return origin.role in self.dropped and not self.keeps(origin)


_TRAINING = frozenset({Role.SLOT, Role.OPTIMIZER, Role.COUNTER})
_CONTENT = frozenset({Role.TABLE, Role.TEXT})
# New weights end an optimizer's work: its state was of the old ones.
CHECKPOINT = Spare(_CONTENT, _TRAINING | {Role.AVERAGE})
# The graph of a SavedModel restores each variable by its key, and fails where one is missing.
MODEL = Spare(_CONTENT | _TRAINING, frozenset())


def fit(
    template: TensorDict, tensors: TensorDict, spare: Spare, target: Path, place: Path
) -> Arrangement:
    """Return the tensors under the keys of a template, which has them by name or by key.

    Args:
        template: what is taken over, opened by readable names.
        tensors: what is to be written.
        spare: what to do about tensors that only the template has.
        target: what messages call the target.
        place: what messages call the template.

    Raises:
        TargetError: tensors are missing, too many, or of other shapes or types; lists them all.
    """
    found = _Fit(template, tensors, spare)
    found.check(target, place)
    return found.arrangement()


class _Fit:
    """A template and the tensors that are to take the place of its own.

    Attributes:
        keys: of the tensors, by name.
        ends: names of the template with those of the tensors that have only their ends in common.
    """

    def __init__(self, template: TensorDict, tensors: TensorDict, spare: Spare) -> None:
        self._template = template
        self._tensors = tensors
        self._spare = spare
        self._origins = {name: template.origin(name) for name in template}
        self.ends: dict[str, str] = {}
        self.keys = keys_of(tensors, self._origins)
        self._ties = self._tied()
        self._match_ends()

    # What fits

    def _tied(self) -> dict[str, str]:
        """Return the keys of what the source has under another name only, with that name."""
        given = set(self.keys.values())
        keys = keys_of(self._tensors.aliases, self._origins)
        return {
            key: self._tensors.aliases[alias] for alias, key in keys.items() if key not in given
        }

    @property
    def _extra(self) -> list[str]:
        """Return the names of tensors that the template does not have."""
        tied = set(self._ties.values())
        return [name for name in self._tensors if name not in self.keys and name not in tied]

    def _match_ends(self) -> None:
        """Match names that differ from the template's at their beginning alone.

        The variable that Keras 3 exports as `net/inner/dense/kernel` is `inner/dense/kernel` in a
        file with its weights and `dense/kernel` in a checkpoint of tf_keras. All names that are
        left have to find each other so.
        """
        missing, extra = self._required, self._extra
        ends = _ends(missing, extra) or {
            other: name for name, other in _ends(extra, missing).items()
        }
        if ends:
            self.keys |= {other: self._origins[name].key for name, other in ends.items()}
            self.ends = ends
            del self._missing

    @cached_property
    def _missing(self) -> dict[str, Origin]:
        given = {*self.keys.values(), *self._ties}
        return {name: each for name, each in self._origins.items() if each.key not in given}

    @property
    def _required(self) -> list[str]:
        """Return the names of tensors that are missing and may not be."""
        keeps, drops = self._spare.keeps, self._spare.drops
        return [name for name, each in self._missing.items() if not keeps(each) | drops(each)]

    def arrangement(self) -> Arrangement:
        """Return what is to be written; only if all fits."""
        kept = {name: each for name, each in self._missing.items() if self._spare.keeps(each)}
        dropped = {name: each for name, each in self._missing.items() if self._spare.drops(each)}
        graph = attached(self._template)
        copies = graph.copies if graph else {}
        rows = rows_of(self._tensors, self.keys, copies)
        rows += [Row(key, name, self._tensors[name]) for key, name in self._ties.items()]
        found: dict[str, str | None] = {row.key: row.name for row in rows}
        found |= {each.key: None for each in kept.values()}
        rows += [Row(each.key, each.key, self._template[name]) for name, each in kept.items()]
        if graph:
            gone = {each.key for each in dropped.values()}
            rows.append(graph_row(graph.data, found, gone))
        notes = tuple(self._notes(kept, dropped))
        return Arrangement(rows, found, notes, self._template.sources)

    def _notes(self, kept: Mapping[str, Origin], dropped: Mapping[str, Origin]) -> Iterator[Note]:
        if self.ends:
            name, other = next(iter(self.ends.items()))
            text = (
                f"{len(self.ends)} names are those of the template but for their beginnings, as "
                f"`{other}` and `{name}`"
            )
            yield Note(Kind.TARGET, text)
        if kept:
            text = f"taken from the template, since the source has none: {_summed(kept)}"
            yield Note(Kind.TARGET, text)
        if dropped:
            text = f"left out of the object graph, since the source has none: {_summed(dropped)}"
            yield Note(Kind.TARGET, text)

    # What does not fit

    def check(self, target: Path, place: Path) -> None:
        """Raise one error that lists all that does not fit."""
        extra, others = self._extra, list(self._others())
        parts = [
            _listed("missing", map(_quoted, self._required)),
            _listed("that it does not have", map(_quoted, extra)),
            _listed("of another shape or type", (_misfit(*each) for each in others)),
            _listed("given by name and by key", self._twice()),
        ]
        if not any(parts):
            return
        hint = f"`convert inspect {place}` lists what is wanted"
        if extra:
            hint = "leave tensors out with --weights-only or --exclude"
        elif any(wanted.shape == got.shape for _, wanted, got in others):
            hint = "cast what has another type with --dtype 'NAME=TYPE'"
        raise TargetError(
            f"the tensors do not fit `{place}`: {'; '.join(filter(None, parts))}",
            path=target,
            hint=hint,
        )

    def _others(self) -> Iterator[tuple[str, TensorSpec, TensorSpec]]:
        """Yield tensors of another shape or type, with what is wanted and what there is."""
        specs = {each.key: self._template[name].spec for name, each in self._origins.items()}
        both = [*self.keys.items(), *((name, key) for key, name in self._ties.items())]
        for name, key in both:
            wanted, got = specs[key], self._tensors[name].spec
            if wanted != got:
                yield name, wanted, got

    def _twice(self) -> Iterator[str]:
        """Yield what to say of tensors that are there by name and by key."""
        counts = Counter(self.keys.values())
        for key in (key for key, count in counts.items() if count > 1):
            yield " and ".join(_quoted(name) for name, own in self.keys.items() if own == key)


def _ends(longer: Iterable[str], shorter: Iterable[str]) -> dict[str, str]:
    """Return each longer name with the longest of the shorter ones that it ends with.

    Nothing, unless all names of both find one of their own.
    """
    others = set(shorter)
    found: dict[str, str] = {}
    for name in longer:
        end = name
        for _ in range(MAX_SCOPES):
            end = end.partition("/")[2]
            if end in others:
                found[name] = end
                break
        else:
            return {}
    return found if sorted(found.values()) == sorted(others) else {}


def _misfit(name: str, wanted: TensorSpec, got: TensorSpec) -> str:
    what = f"expected {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}"
    return f"{_quoted(name)} ({what})"


def _quoted(name: str) -> str:
    return f"`{name}`"


def _listed(what: str, texts: Iterable[str]) -> str:
    texts = list(texts)
    if not texts:
        return ""
    more = f" and {len(texts) - LISTED} more" if len(texts) > LISTED else ""
    return f"{len(texts)} {what}: {', '.join(texts[:LISTED])}{more}"


def _summed(origins: Mapping[str, Origin]) -> str:
    """Return names where there are few, else how many of each role."""
    if len(origins) <= SHOWN:
        return ", ".join(map(_quoted, origins))
    counts = Counter(origin.role.value for origin in origins.values())
    return ", ".join(f"{count} of role {role}" for role, count in counts.items())
