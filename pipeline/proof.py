"""Prove that a target holds exactly its source: every tensor of both is read and compared.

What the conversion would write is derived once more, through the functions of the conversion:
which tensors, under which names, in which types. The target is read back by its own reader. Both
sides are streamed, a tensor of one after the same of the other, by a few threads; they are equal if
type, shape and digest are.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from ..converters.digests import digest
from ..converters.errors import ConvertError, UsageError
from ..converters.notes import Note
from ..converters.registry import Location, format_named
from ..converters.tensors import Tensor, TensorDict, TensorSpec
from ..converters.threads import run_all
from .casts import loss_notes
from .convert import Listener, chosen
from .digest_file import Digests, model_digest, read_digests
from .matching import Match, matched
from .options import ConvertOptions
from .recorded import Recorded, recorded_flags
from .witness import Hearing, hear

__all__ = ["Fate", "Held", "Proof", "Row", "counts", "prove"]


class Fate(Enum):
    """What became of a tensor; all but the first are differences."""

    SAME = "same"
    CHANGED = "changed"
    DTYPE = "other dtype"
    SHAPE = "other shape"
    MISSING = "missing"  # should be there and is not
    EXTRA = "extra"  # is there and should not be
    DROPPED = "dropped"  # the target's format has no place for it


class Held(NamedTuple):
    """What a model has under a name."""

    spec: TensorSpec
    digest: str

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        dtype, shape = self.spec.dtype.label, list(self.spec.shape)
        return {"dtype": dtype, "shape": shape, "digest": self.digest}


@dataclass(frozen=True)
class Row:
    """A tensor that should be in the target, or is.

    Attributes:
        name: in the source; of what is extra, in the target.
        fate: what became of it.
        stored: what the target calls it, where it has it.
        expected: what it should be; None for what is extra.
        got: what it is; None where it is not there.
        text: more about it.
    """

    name: str
    fate: Fate
    stored: str | None = None
    expected: Held | None = None
    got: Held | None = None
    text: str = ""

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "name": self.name,
            "fate": self.fate.value,
            "stored_name": self.stored,
            "expected": self.expected.json() if self.expected else None,
            "got": self.got.json() if self.got else None,
            "text": self.text,
        }


@dataclass(frozen=True)
class Proof:
    """What was found.

    Attributes:
        source: the source, in a phrase.
        target: the target, in a phrase; None where there was none.
        rows: tensor by tensor, target against source.
        listed: tensor by tensor, what was given against a digest file.
        witness: what another program read in the source.
        digest: of the whole source, as it should be in the target.
        notes: what is worth knowing.
        nbytes: bytes of values that were read.
        seconds: wall time.
        options: how the conversion was, as far as that is known.
    """

    source: str
    target: str | None
    rows: tuple[Row, ...]
    listed: tuple[Row, ...]
    witness: Hearing | None
    digest: str
    notes: tuple[Note, ...]
    nbytes: int
    seconds: float
    options: ConvertOptions

    @property
    def proved(self) -> bool:
        """Whether no difference was found."""
        rows = (*self.rows, *self.listed)
        agreed = self.witness is None or self.witness.agrees
        return agreed and all(row.fate is Fate.SAME for row in rows)

    def json(self) -> dict[str, Any]:
        """Return the whole account as JSON values."""
        return {
            "proved": self.proved,
            "digest": self.digest,
            "source": self.source,
            "target": self.target,
            "flags": recorded_flags(self.options),
            "counts": counts(self.rows),
            "bytes": self.nbytes,
            "seconds": round(self.seconds, 3),
            "notes": [
                {"kind": note.kind.value, "tensor": note.tensor, "text": note.text}
                for note in self.notes
            ],
            "tensors": [row.json() for row in self.rows],
            "digest_file": [row.json() for row in self.listed],
            "witness": self.witness.json() if self.witness else None,
        }


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Return the number of tensors by what became of them."""
    found = Counter(row.fate.value for row in rows)
    return {fate.value: found[fate.value] for fate in Fate if found[fate.value]}


def prove(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    options: ConvertOptions | None = None,
    *,
    recorded: Recorded | None = None,
    digest_file: str | os.PathLike[str] | None = None,
    against: str | None = None,
    listener: Listener | None = None,
) -> Proof:
    """Compare a source with what was made of it.

    Args:
        source: as `convert` got it.
        target: as `convert` got it; None to compare with the digest file or witness alone.
        options: what was chosen about the conversion, as far as it is known.
        recorded: the same, as the report of the conversion has it; then `options` is not asked.
        digest_file: what the target, or the source if there is none, is compared with too.
        against: name of a framework that reads the source once more.
        listener: hears how it goes on.

    Raises:
        ConvertError: one of them cannot be read.
        UsageError: there is nothing to compare with.
    """
    if target is None and digest_file is None and against is None:
        raise UsageError(
            "nothing to compare with", path=source, hint="name a DST, --digests FILE or --against"
        )
    listener = listener or Listener()
    options = recorded.options if recorded else options or ConvertOptions()
    wanted = read_digests(digest_file) if digest_file is not None else None
    began = time.perf_counter()
    with chosen(source, options, listener) as (opened, kept), ExitStack() as stack:
        match = None
        if target is not None:
            write = options.write if recorded else None
            format = _format(Path(target), recorded) if recorded else options.target_format
            match = stack.enter_context(matched(kept, Path(target), write, format))
        seen = _read(kept, match, options.threads, listener)
        witness = None
        if against:
            digests = {name: held.digest for name, held in seen.expected.items()}
            witness = hear(against, opened, kept, digests, options.read)
        return Proof(
            source=opened.summary,
            target=match.readable.summary if match else None,
            rows=tuple(_rows(kept, match, seen)) if match else (),
            listed=tuple(_listed(wanted, seen.named(match))) if wanted else (),
            witness=witness,
            digest=model_digest({name: held.digest for name, held in seen.expected.items()}),
            notes=(*kept.notes, *(match.notes if match else ()), *loss_notes(kept)),
            nbytes=seen.nbytes,
            seconds=time.perf_counter() - began,
            options=options,
        )


def _format(target: Path, recorded: Recorded) -> str | None:
    """Return the format that was written, if it still is the target's."""
    found = format_named(recorded.format)
    return found.name if found.sniff(Location(target)) else None


# Reading


@dataclass(frozen=True)
class _Seen:
    """What was read.

    Attributes:
        expected: what should be in the target, by name in the source.
        added: what should be there beside that, by name in the copy.
        got: what is in the target, by name in the copy.
        nbytes: of all values that were read.
    """

    expected: dict[str, Held]
    added: dict[str, Held]
    got: dict[str, Held]
    nbytes: int

    def named(self, match: Match | None) -> dict[str, Held]:
        """Return what a digest file is about: the target, by the names it opens with."""
        if match is None:
            return self.expected
        if match.copy is match.readable:
            return self.got
        keys = {name: match.readable.origin(name).key for name in match.readable}
        return {name: self.got[key] for name, key in keys.items() if key in self.got}


def _read(tensors: TensorDict, match: Match | None, jobs: int, listener: Listener) -> _Seen:
    """Read all that is to be compared, a tensor of the source and then the same of the target."""
    expected: dict[str, Held] = {}
    added: dict[str, Held] = {}
    got: dict[str, Held] = {}
    tasks = [(expected, name, tensor) for name, tensor in tensors.items()]
    if match:
        order = {name: number for number, name in enumerate(tensors)}
        first = {name: order[source] for source, name in reversed(match.pairs)}
        tasks += [(added, name, tensor) for name, tensor in match.added.items()]
        tasks += [(got, name, tensor) for name, tensor in match.copy.items()]
        last = len(order)
        tasks.sort(key=lambda task: (order if task[0] is expected else first).get(task[1], last))
    nbytes = sum(tensor.nbytes for _, _, tensor in tasks)

    def work(task: tuple[dict[str, Held], str, Tensor]) -> None:
        found, name, tensor = task
        try:
            found[name] = Held(tensor.spec, digest(tensor, listener.advanced))
        except ConvertError as error:
            raise error.within(f"tensor `{name}`") from error

    listener.reading(nbytes)
    try:
        run_all(lambda: work, tasks, jobs)
    finally:
        listener.finished()
    return _Seen(expected, added, got, nbytes)


# Comparing


def _rows(tensors: TensorDict, match: Match, seen: _Seen) -> Iterator[Row]:
    """Yield what became of each tensor, in the order of the source; what is extra last."""
    stored: dict[str, list[str]] = {}
    for name, key in match.pairs:
        stored.setdefault(name, []).append(key)
    others = set(seen.got.values())
    for name in tensors:
        expected = seen.expected[name]
        for key in stored.get(name, ()):
            yield _row(name, key, expected, seen.got.get(key))
        if name in match.elsewhere and expected in others:
            yield Row(name, Fate.SAME, None, expected, expected, match.elsewhere[name])
        elif name in match.dropped:
            yield Row(name, Fate.DROPPED, None, expected, None, match.dropped[name])
        elif name not in stored:
            yield Row(name, Fate.MISSING, None, expected, None, match.elsewhere.get(name, ""))
    for key in match.added:
        yield replace(_row(key, key, seen.added[key], seen.got.get(key)), text="of the template")
    for key in match.extra:
        yield Row(key, Fate.EXTRA, key, None, seen.got[key])


def _row(name: str, stored: str, expected: Held, got: Held | None) -> Row:
    if got is None:
        return Row(name, Fate.MISSING, stored, expected)
    return Row(name, _fate(expected, got), stored, expected, got)


def _fate(expected: Held, got: Held) -> Fate:
    if expected.spec.shape != got.spec.shape:
        return Fate.SHAPE
    if expected.spec.dtype is not got.spec.dtype:
        return Fate.DTYPE
    return Fate.SAME if expected.digest == got.digest else Fate.CHANGED


def _listed(wanted: Digests, got: Mapping[str, Held]) -> Iterator[Row]:
    """Yield what became of each tensor of a digest file, in its order; what is extra last."""
    for name, spec in wanted.specs.items():
        yield _row(name, name, Held(spec, wanted.digests[name]), got.get(name))
    for name in got:
        if name not in wanted.digests:
            yield Row(name, Fate.EXTRA, name, None, got[name])
