"""Which module of a source is which of a target, as far as that can be told without values.

Modules of one pattern are a group (`encoder.layer.#.output.dense`), and groups are matched, not
tensors: one decision counts for all layers, and all of them have to fit. A group goes to the one
whose name is most like its own, if it is that one's best too. What is left goes by shapes, by the
order of numbers and at last by the order of the models, and only if nothing is left over then.
Every module that is left open is so because something else would fit as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias

from .sides import Group, Module, Signature, groups_of
from .vocabulary import GENERIC
from .ways import ways_between

__all__ = ["Matcher", "ModulePair"]

LEAST, MARGIN = 0.6, 0.2  # of the likeness of two names
SAME = 2.0  # of names whose telling words are the same
COMMON = 0.6  # a word of so many patterns of a side says little
LITTLE, KIND = 0.1, 0.25  # what such a word counts, and one for a kind of thing
MOST = 20_000  # pairs of groups whose names are compared one by one

_Pairs: TypeAlias = "list[ModulePair]"
_Score: TypeAlias = "tuple[float, int, int]"


class ModulePair(NamedTuple):
    """Modules that are each other's counterparts.

    Attributes:
        source: one.
        target: the other.
        why: how that is known.
    """

    source: Module
    target: Module
    why: str


def _is_one(source: Module, target: Module) -> bool:
    """Tell whether modules have the same parts, of shapes that may be the same."""
    return source.parts.keys() == target.parts.keys() and all(
        ways_between(item, target.parts[part]) for part, item in source.parts.items()
    )


class Matcher:
    """Takes what is matched from what is left; call its stages in their order.

    Args:
        sources: modules of the source.
        targets: those of the target.

    Attributes:
        pairs: what is matched.
    """

    def __init__(self, sources: Sequence[Module], targets: Sequence[Module]) -> None:
        self._every = tuple(sources), tuple(targets)
        self._sources = dict.fromkeys(sources)
        self._targets = dict.fromkeys(targets)
        self._weights = _Weights(groups_of(sources), groups_of(targets))
        self.pairs: _Pairs = []

    @property
    def sources(self) -> tuple[Module, ...]:
        """What is left of the source."""
        return tuple(self._sources)

    @property
    def targets(self) -> tuple[Module, ...]:
        """What is left of the target."""
        return tuple(self._targets)

    def take(self, pair: ModulePair) -> None:
        """Match two modules."""
        self.pairs.append(pair)
        self._sources.pop(pair.source, None)
        self._targets.pop(pair.target, None)

    def set_aside(self, sources: Iterable[Module], targets: Iterable[Module]) -> None:
        """Take out what something else matches."""
        for each in sources:
            self._sources.pop(each, None)
        for each in targets:
            self._targets.pop(each, None)

    def _take_groups(self, source: Group, target: Group, why: str) -> None:
        for ours, theirs in zip(source.modules, target.modules, strict=True):
            self.take(ModulePair(ours, theirs, why))

    # By names

    def by_equal_names(self) -> None:
        """Match groups of one pattern with the same numbers; a target may lack the last ones."""
        theirs = {group.pattern: group for group in groups_of(self._targets)}
        for group in groups_of(self._sources):
            other = theirs.get(group.pattern)
            if other is not None:
                self._by_numbers(group, other)

    def _by_numbers(self, source: Group, target: Group) -> None:
        ours, theirs = ({each.numbers: each for each in one.modules} for one in (source, target))
        whole = len(ours) == len(source.modules) and len(theirs) == len(target.modules)
        shared = [numbers for numbers in ours if numbers in theirs]
        inside = len(shared) == min(len(ours), len(theirs)) and min(ours) == min(theirs)
        if whole and inside and all(_is_one(ours[each], theirs[each]) for each in shared):
            for each in shared:
                self.take(ModulePair(ours[each], theirs[each], "the same name"))

    def by_names(self) -> None:
        """Match groups that are each other's most alike, over and over."""
        while self._named(self.sources, self.targets, strict=True):
            pass

    def _named(self, sources: Iterable[Module], targets: Iterable[Module], *, strict: bool) -> bool:
        """Match groups by names; tell whether any were."""
        ours, theirs = groups_of(sources), groups_of(targets)
        scores = list(self._scores(ours, theirs))
        likely = {(one, other) for score, one, other in scores if score >= LEAST}
        best = _best((one, score, other) for score, one, other in scores)
        reverse = _best((other, score, one) for score, one, other in scores)
        found = [
            (one, other)
            for one, other in best.items()
            if (one, other) in likely
            and reverse.get(other) == one
            and self._weights.may_be_one(ours[one], theirs[other], strict=strict)
            and _are_one(ours[one], theirs[other])
        ]
        for one, other in found:
            self._take_groups(ours[one], theirs[other], "names")
        return bool(found)

    def _scores(self, ours: Sequence[Group], theirs: Sequence[Group]) -> Iterator[_Score]:
        """Yield likeness and numbers of groups of one kind, also where shapes differ.

        What is called alike and has another shape is a reason not to take the next best.
        """
        buckets: dict[object, list[int]] = {}
        by_word: dict[tuple[object, str], list[int]] = {}
        for number, group in enumerate(theirs):
            buckets.setdefault(_kind(group), []).append(number)
            for word in {*group.words} - GENERIC:
                by_word.setdefault((_kind(group), word), []).append(number)
        for at, group in enumerate(ours):
            kind = _kind(group)
            others: Iterable[int] = buckets.get(kind, [])
            if len(ours) * len(buckets.get(kind, [])) > MOST:
                telling = {*group.words} - GENERIC
                others = sorted(
                    {each for word in telling for each in by_word.get((kind, word), ())}
                )
            for other in others:
                score = self._weights.likeness(group, theirs[other])
                if score >= LEAST - MARGIN:
                    yield score, at, other

    # By structure

    def by_structure(self, *, ordered: bool) -> None:
        """Match what is left by shapes, where nothing would be left over.

        Args:
            ordered: whether the order of both sides is that of their models.
        """
        ours, theirs = _by_signature(self._sources), _by_signature(self._targets)
        if _counts(ours) != _counts(theirs):
            return
        aligned = self._aligned() if ordered else {}
        for key, modules in ours.items():
            while self._named(
                [each for each in modules if each in self._sources],
                [each for each in theirs[key] if each in self._targets],
                strict=False,
            ):
                pass
            ours_left = [each for each in modules if each in self._sources]
            others = [each for each in theirs[key] if each in self._targets]
            self._by_numbers_of(groups_of(ours_left), groups_of(others))
        left = self.sources
        if all(aligned.get(each) in self._targets for each in left):
            for each in left:
                if _is_one(each, aligned[each]):
                    self.take(ModulePair(each, aligned[each], "shapes, in their order"))

    def _aligned(self) -> dict[Module, Module]:
        """Return modules by their order, if both models are one sequence of modules."""
        ours, theirs = ([each.signature for each in side] for side in self._every)
        return dict(zip(*self._every, strict=True)) if ours == theirs else {}

    def _by_numbers_of(self, ours: Sequence[Group], theirs: Sequence[Group]) -> None:
        sizes = [sorted(len(each.modules) for each in side) for side in (ours, theirs)]
        if sizes[0] != sizes[1] or len(set(sizes[0])) < len(ours):
            return
        single = sizes[0] == [1]
        why = "the only ones of their shapes" if single else "shapes, in the order of numbers"
        by_size = {len(each.modules): each for each in theirs}
        for group in ours:
            other = by_size[len(group.modules)]
            if _are_one(group, other):
                self._take_groups(group, other, why)


def _kind(group: Group) -> object:
    """Return what modules have, without sizes: their parts and numbers of axes."""
    return tuple((part, len(lengths)) for part, lengths in group.modules[0].signature)


def _are_one(source: Group, target: Group) -> bool:
    """Tell whether groups have as many modules, that may be each other's in their order."""
    if len(source.modules) != len(target.modules) or not (_counted(source) and _counted(target)):
        return False
    return all(map(_is_one, source.modules, target.modules))


def _counted(group: Group) -> bool:
    """Tell whether numbers order a group."""
    return len({each.numbers for each in group.modules}) == len(group.modules)


def _by_signature(modules: Iterable[Module]) -> dict[Signature, list[Module]]:
    found: dict[Signature, list[Module]] = {}
    for each in modules:
        found.setdefault(each.signature, []).append(each)
    return found


def _counts(modules: dict[Signature, list[Module]]) -> dict[Signature, int]:
    return {key: len(each) for key, each in modules.items()}


def _best(scores: Iterable[tuple[int, float, int]]) -> dict[int, int]:
    """Return by what, the best that is better than all others by a margin."""
    found: dict[int, list[tuple[float, int]]] = {}
    for key, score, other in scores:
        found.setdefault(key, []).append((score, other))
    best = {}
    for key, each in found.items():
        (first, other), *rest = sorted(each, key=lambda one: -one[0])
        if not rest or first - rest[0][0] >= MARGIN:
            best[key] = other
    return best


class _Weights:
    """How much words say."""

    def __init__(self, ours: Sequence[Group], theirs: Sequence[Group]) -> None:
        self._common = _common(ours), _common(theirs)
        self._names = (
            {self._telling(group, 0) for group in ours},
            {self._telling(group, 1) for group in theirs},
        )

    def _telling(self, group: Group, side: int) -> tuple[str, ...]:
        return tuple(word for word in group.words if word not in self._common[side])

    def likeness(self, source: Group, target: Group) -> float:
        """Return how alike two names are: SAME, or from 0 to 1 what they share in their order."""
        if self._telling(source, 0) == self._telling(target, 1):
            return SAME
        ours, theirs = self._weighed(source, 0), self._weighed(target, 1)
        total = sum(weight for _, weight in (*ours, *theirs))
        return _shared(ours, theirs) / total if total else 0.0

    def may_be_one(self, source: Group, target: Group, *, strict: bool) -> bool:
        """Tell whether nothing in the names speaks against it.

        The very name of something else on the other side does: that is the counterpart then, even
        if something of it is missing. With `strict` so does a telling word of each side's own, or
        that they share none.
        """
        ours, theirs = self._telling(source, 0), self._telling(target, 1)
        if ours != theirs and (ours in self._names[1] or theirs in self._names[0]):
            return False
        if not strict:
            return True
        first, second = (
            {word for word, weight in self._weighed(group, side) if weight == 1.0}
            for side, group in enumerate((source, target))
        )
        says_more = first - {*target.words}, second - {*source.words}
        return bool(first & {*target.words}) and not all(says_more)

    def _weighed(self, group: Group, side: int) -> list[tuple[str, float]]:
        return [(word, self._weight(word, self._common[side])) for word in group.words]

    @staticmethod
    def _weight(word: str, common: frozenset[str]) -> float:
        return LITTLE if word in common else KIND if word in GENERIC else 1.0


def _common(groups: Sequence[Group]) -> frozenset[str]:
    counts: dict[str, int] = {}
    for group in groups:
        for word in {*group.words}:
            counts[word] = counts.get(word, 0) + 1
    return frozenset(
        word for word, count in counts.items() if len(groups) > 3 and count > COMMON * len(groups)
    )


def _shared(ours: Sequence[tuple[str, float]], theirs: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the longest words that both have in their order."""
    table = [[0.0] * (len(theirs) + 1) for _ in range(len(ours) + 1)]
    for (i, (word, first)), (j, (other, second)) in product(enumerate(ours), enumerate(theirs)):
        table[i + 1][j + 1] = (
            table[i][j] + first + second if word == other else max(table[i][j + 1], table[i + 1][j])
        )
    return table[-1][-1]
