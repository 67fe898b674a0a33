"""Which tensors of two models belong together where names do not say so.

Evidence comes in stages, strongest first: equal digests (renamed), the same elements in another
order that an order of axes explains (transposed), equal digests after a cast. Where several
tensors are equal, such as biases that are all zero, what was clear before says which path became
which, and within that path the last part of the name, then the order. What is still open is left
open, with a remark.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Literal, NamedTuple, TypeAlias

from ..converters.casting import INTEGERS, CastTensor, castable
from ..converters.digests import digest
from ..converters.dtypes import DType
from ..converters.tensors import Tensor
from ..converters.threads import run_all
from .diff_forms import axes_of, fingerprint

__all__ = ["Match", "Matches", "match_names", "match_values"]

Advance: TypeAlias = Callable[[int], None]
Functions: TypeAlias = tuple[Callable[[Tensor], Hashable], Callable[[Tensor], Hashable]]
Groups: TypeAlias = dict[Hashable, list[str]]


class Match(NamedTuple):
    """A tensor of A and what it is called in B.

    Attributes:
        name: in A.
        other: in B.
        kind: how it is the same, as a verdict says it.
        text: what else there is to say.
        axes: order of A's axes in B.
    """

    name: str
    other: str
    kind: Literal["renamed", "transposed", "cast"] = "renamed"
    text: str = ""
    axes: tuple[int, ...] | None = None


class Matches(NamedTuple):
    """What was found.

    Attributes:
        pairs: tensors that belong together.
        remarks: on tensors of A that were left, by name.
        other_remarks: on tensors of B.
    """

    pairs: list[Match]
    remarks: dict[str, str]
    other_remarks: dict[str, str]


Path: TypeAlias = tuple[str, ...]


def _path(name: str) -> Path:
    """Return the parts of a name, whichever way they are joined."""
    return tuple(name.removesuffix(":0").replace(".", "/").split("/"))


def match_names(missing: Iterable[str], added: Iterable[str]) -> dict[str, str]:
    """Return names that differ by convention alone: `a/b` and `a.b`, `a` and `a:0`.

    Names of one side that would be the same are left out.
    """
    lefts, rights = _unique(missing), _unique(added)
    return {name: rights[path] for path, name in lefts.items() if path in rights}


def _unique(names: Iterable[str]) -> dict[Path, str]:
    found: dict[Path, list[str]] = {}
    for name in names:
        found.setdefault(_path(name), []).append(name)
    return {path: each[0] for path, each in found.items() if len(each) == 1}


def match_values(
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    jobs: int,
    advance: Advance | None = None,
) -> Matches:
    """Return which of these tensors hold the same values.

    Args:
        first: tensors of A that have no counterpart in B.
        second: tensors of B that have none in A.
        jobs: number of threads.
        advance: called with the number of bytes just read of A for the first time.

    Raises:
        ConvertError: a tensor cannot be read.
    """
    matcher = _Matcher(dict(first), dict(second), jobs)
    matcher.by_digest(advance)
    matcher.by_elements()
    matcher.by_cast()
    return matcher.matches()


class _Matcher:
    """Takes what is matched from what is left, stage by stage."""

    def __init__(self, first: dict[str, Tensor], second: dict[str, Tensor], jobs: int) -> None:
        self._left = (first, second)
        self._jobs = jobs
        self._paths = _Paths()
        self._pairs: list[Match] = []
        self._remarks: tuple[dict[str, str], dict[str, str]] = ({}, {})

    def matches(self) -> Matches:
        """Return what was found, and remarks on what is left."""
        remarks = (
            {name: text for name, text in side.items() if name in left}
            for side, left in zip(self._remarks, self._left, strict=True)
        )
        return Matches(self._pairs, *remarks)

    def by_digest(self, advance: Advance | None) -> None:
        """Match what has the same type, shape and values."""
        for match in self._matched((_spec, _spec), (_digest, _digest), advance):
            self._take(match)

    def by_elements(self) -> None:
        """Match what has the same elements in another order of axes."""
        first, second = self._left
        for match in self._matched((_turned, _turned), (fingerprint, fingerprint)):
            axes = axes_of(first[match.name], second[match.other])
            if axes is not None:
                self._take(match._replace(kind="transposed", axes=axes))

    def by_cast(self) -> None:
        """Match what was rounded to another type, or was before it was widened."""
        types = ({each.spec.dtype for each in side.values()} for side in self._left)
        for ours, theirs in product(*(sorted(each, key=str) for each in types)):
            narrow = _narrow(ours, theirs)
            if narrow is None:
                continue
            rounded = partial(_digest_as, narrow)
            kinds = (partial(_shape_of, ours), partial(_shape_of, theirs))
            for match in self._matched(kinds, (rounded, rounded)):
                self._take(match._replace(kind="cast"))

    def _take(self, match: Match) -> None:
        self._pairs.append(match)
        del self._left[0][match.name], self._left[1][match.other]

    def _matched(
        self, kinds: Functions, keys: Functions, advance: Advance | None = None
    ) -> list[Match]:
        """Match tensors of equal kind and key; keys are made where the other side has the kind."""
        lefts, rights = self._keyed(kinds, keys, advance)
        groups = {key: (names, rights[key]) for key, names in lefts.items() if key in rights}
        clear = [(a[0], b[0]) for a, b in groups.values() if len(a) == len(b) == 1]
        for pair in clear:
            self._paths.learn(*pair)
        matches = [Match(*pair) for pair in clear]
        for a, b in groups.values():
            if len(a) > 1 or len(b) > 1:
                matches += self._paths.pairs(a, b)
                self._remarks[0].update(dict.fromkeys(a, _unclear(len(b), "B")))
                self._remarks[1].update(dict.fromkeys(b, _unclear(len(a), "A")))
        return matches

    def _keyed(
        self, kinds: Functions, keys: Functions, advance: Advance | None
    ) -> tuple[Groups, Groups]:
        """Return the names of each side by kind and key, in the order of the model."""
        sides = [
            {name: kind(tensor) for name, tensor in side.items()}
            for side, kind in zip(self._left, kinds, strict=True)
        ]
        shared = set(sides[0].values()) & set(sides[1].values()) - {None}
        tasks = [
            (side, name) for side in (0, 1) for name, kind in sides[side].items() if kind in shared
        ]
        found: dict[tuple[int, str], Hashable] = {}

        def work(task: tuple[int, str]) -> None:
            side, name = task
            tensor = self._left[side][name]
            found[task] = keys[side](tensor)
            if advance and not side:
                advance(tensor.nbytes)

        run_all(lambda: work, tasks, self._jobs)
        groups: tuple[Groups, Groups] = ({}, {})
        for side, name in tasks:
            key = (sides[side][name], found[side, name])
            groups[side].setdefault(key, []).append(name)
        return groups


def _unclear(count: int, side: str) -> str:
    what = "a tensor" if count == 1 else f"{count} tensors"
    return f"equal to {what} of {side}; which belongs to which is not clear"


# Kinds, and keys


def _spec(tensor: Tensor) -> Hashable:
    return tensor.spec


def _digest(tensor: Tensor) -> str:
    return digest(tensor)


def _turned(tensor: Tensor) -> Hashable:
    """Return what is the same in every order of axes; None where there is only one."""
    dtype, shape = tensor.spec.dtype, tensor.spec.shape
    if len(shape) < 2 or dtype.variable:
        return None
    return dtype, tuple(sorted(shape))


def _shape_of(dtype: DType, tensor: Tensor) -> Hashable:
    return tensor.spec.shape if tensor.spec.dtype is dtype else None


def _digest_as(dtype: DType, tensor: Tensor) -> str:
    return digest(tensor if tensor.spec.dtype is dtype else CastTensor(tensor, dtype))


def _narrow(ours: DType, theirs: DType) -> DType | None:
    """Return which of two types the other is rounded to; None if neither is.

    Integers and floats are none: a counter of 0 would be a learning rate of 0.
    """
    if ours is theirs or (ours in INTEGERS) != (theirs in INTEGERS):
        return None
    wide, narrow = sorted((ours, theirs), key=lambda each: -each.itemsize)
    if castable(wide, narrow):
        return narrow
    return wide if castable(narrow, wide) else None


# Paths


class _Paths:
    """Which path of A is which of B, learnt from tensors whose match is clear."""

    def __init__(self) -> None:
        self._known: dict[Path, Path | None] = {}  # None where there is more than one

    def learn(self, name: str, other: str) -> None:
        """Take in a pair: what is above both, as far as their names do not end alike."""
        ours, theirs = _path(name)[:-1], _path(other)[:-1]
        self._set(ours, theirs)
        while ours and theirs and ours[-1] == theirs[-1]:
            ours, theirs = ours[:-1], theirs[:-1]
            self._set(ours, theirs)

    def _set(self, ours: Path, theirs: Path) -> None:
        if self._known.setdefault(ours, theirs) != theirs:
            self._known[ours] = None

    def _other(self, path: Path) -> Path | None:
        """Return what a path is called in B; the same where nothing is known."""
        for length in range(len(path), -1, -1):
            if path[:length] in self._known:
                known = self._known[path[:length]]
                return None if known is None else known + path[length:]
        return path

    def pairs(self, names: Sequence[str], others: Sequence[str]) -> Iterator[Match]:
        """Match equal tensors by their paths, and within a path by the ends of names, or order."""
        ours: dict[Path, list[str]] = {}
        theirs: dict[Path, list[str]] = {}
        for name in names:
            path = self._other(_path(name)[:-1])
            if path is not None:
                ours.setdefault(path, []).append(name)
        for other in others:
            theirs.setdefault(_path(other)[:-1], []).append(other)
        text = f"one of {max(len(names), len(others))} equal tensors"
        for path, held in ours.items():
            yield from _within_path(held, theirs.get(path, []), text)


def _within_path(names: list[str], others: list[str], text: str) -> Iterator[Match]:
    ends = _unique_ends(names), _unique_ends(others)
    by_end = {ends[0][end]: ends[1][end] for end in ends[0] if end in ends[1]}
    for name, other in by_end.items():
        yield Match(name, other, text=f"{text}, by its path")
    names = [name for name in names if name not in by_end]
    others = [other for other in others if other not in by_end.values()]
    if len(names) == len(others):
        how = "by its path" if len(names) == 1 else "in the order of its path"
        for name, other in zip(names, others, strict=True):
            yield Match(name, other, text=f"{text}, {how}")


def _unique_ends(names: list[str]) -> dict[str, str]:
    return {path[-1]: name for path, name in _unique(names).items()}
