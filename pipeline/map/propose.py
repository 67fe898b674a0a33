"""What becomes of each tensor of a source so that it is a target: decided, open, or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from ...converters.casting import castable
from ...converters.dtypes import DType
from ...converters.uses import Uses
from .fused import fused_pairs, fused_way
from .match import Matcher, ModulePair
from .sides import Item, Module, Side
from .values import Values
from .vocabulary import TIES
from .ways import Ask, Votes, Way, open_reason, turns_channels, ways_between

__all__ = ["Open", "Pair", "Proposal", "propose"]

BY_VALUES = "values"
Steps: TypeAlias = "tuple[Mapping[str, object], ...]"


class Pair(NamedTuple):
    """Tensors of the source, and what they become.

    Attributes:
        sources: one, or several that are joined.
        targets: one, or several that it is cut into.
        steps: what is done to the values.
        why: how that is known.
        ties: further names of the target.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    steps: Steps
    why: str
    ties: tuple[str, ...] = ()


class Open(NamedTuple):
    """A tensor of the target for which there is no one choice.

    Attributes:
        target: it.
        candidates: tensors of the source that it may be.
        why: what is not clear.
    """

    target: str
    candidates: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Proposal:
    """What becomes of a source.

    Attributes:
        pairs: what is decided, in the order of the source.
        open: tensors of the target with more than one choice.
        missing: tensors of the target with none.
        left: tensors of the source that the target has no place for.
        undecided: tensors of the source that may be one of those that are open.
        beside: tensors of the source that only training needs.
    """

    pairs: tuple[Pair, ...]
    open: tuple[Open, ...]
    missing: tuple[str, ...]
    left: tuple[str, ...]
    undecided: tuple[str, ...]
    beside: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of tensors of the target by how they are mapped."""
        by_values = [pair for pair in self.pairs if pair.why.startswith(BY_VALUES)]
        others = [pair for pair in self.pairs if not pair.why.startswith(BY_VALUES)]
        return {
            "by values": _targets(by_values),
            "by names and shapes": _targets(others),
            "ambiguous": len(self.open),
            "without counterpart": len(self.missing),
        }


def _targets(pairs: Sequence[Pair]) -> int:
    return sum(len(pair.targets) + len(pair.ties) for pair in pairs)


def propose(source: Side, target: Side, uses: Uses, values: Values, *, ordered: bool) -> Proposal:
    """Return what becomes of each tensor.

    Args:
        source: tensors to map.
        target: what they are to be.
        uses: what tensors of the source are used for.
        values: which tensors hold the same values.
        ordered: whether the order of both sides is that of their models.
    """
    return _Proposer(source, target, uses, values).run(ordered=ordered)


class _Asked(NamedTuple):
    """A pair of tensors whose way is still to be chosen."""

    ask: Ask
    ways: tuple[Way, ...]
    why: str
    ties: tuple[str, ...] = ()


@dataclass
class _Proposer:
    source: Side
    target: Side
    uses: Uses
    values: Values
    pairs: list[Pair] = field(default_factory=list)
    open: list[Open] = field(default_factory=list)

    def run(self, *, ordered: bool) -> Proposal:
        """Return what becomes of each tensor."""
        asked = list(self._by_values())
        done = {each.ask.source.name for each in asked}
        matcher = Matcher(self.source.modules, self.target.modules)
        for pair in self._modules(asked):
            matcher.take(pair)
        matcher.by_equal_names()
        matcher.by_names()
        fused = list(fused_pairs(matcher.sources, matcher.targets))
        for each in fused:
            matcher.set_aside(
                each.three if each.joins else (each.one,), (each.one,) if each.joins else each.three
            )
        matcher.by_structure(ordered=ordered)
        taken = {each.ask.target.name for each in asked} | {
            tie for each in asked for tie in each.ties
        }
        for pair in matcher.pairs:
            asked += self._parts(pair, done, taken)
        votes = self._decide(asked)
        for each in fused:
            self._fuse(each.three, each.one, votes, joins=each.joins)
        self._tie()
        return self._proposal()

    # Values

    def _by_values(self) -> Iterator[_Asked]:
        taken: set[str] = set()
        for same in self.values.same:
            item = self.source.items.get(same.source)
            targets = [each for each in same.targets if each in self.target.items]
            if item is None or not targets or taken & {*targets}:
                continue
            taken |= {*targets}
            first = self._best_named(item, targets)
            ties = tuple(each for each in targets if each != first)
            yield _Asked(self._ask(item, self.target.items[first]), same.ways, BY_VALUES, ties)

    def _best_named(self, item: Item, targets: Sequence[str]) -> str:
        words = {*item.parsed.words}
        return max(targets, key=lambda each: len(words & {*self.target.items[each].parsed.words}))

    def _modules(self, asked: Sequence[_Asked]) -> Iterator[ModulePair]:
        """Yield the modules that values have paired, where they agree on that."""
        ours, theirs = (
            {item.name: module for module in side.modules for item in module.parts.values()}
            for side in (self.source, self.target)
        )
        pairs = {(ours[each.ask.source.name], theirs[each.ask.target.name]) for each in asked}
        first, second = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
        for one, other in pairs:
            if first[one] == second[other] == 1:
                yield ModulePair(one, other, "beside what values say")

    # Ways

    def _ask(self, source: Item, target: Item) -> Ask:
        return Ask(source, target, self.uses.known.get(source.name))

    def _parts(self, pair: ModulePair, done: set[str], taken: set[str]) -> Iterator[_Asked]:
        for part, item in pair.source.parts.items():
            other = pair.target.parts.get(part)
            if other is None or item.name in done or other.name in taken:
                continue
            known = self.values.classes.get(item.name)
            if known is not None and other.name not in known:
                self.open.append(Open(other.name, (item.name,), "names say so, and values do not"))
                continue
            ways = ways_between(item, other)
            if ways:
                yield _Asked(self._ask(item, other), ways, pair.why)

    def _decide(self, asked: Sequence[_Asked]) -> Votes:
        votes = Votes([(each.ask, each.ways[0]) for each in asked if len(each.ways) == 1])
        widths = frozenset(
            lengths[0]
            for item in self.source.items.values()
            if (lengths := item.lengths) and len(lengths) == 1
        )
        choices = [
            (each.ways[0], "") if len(each.ways) == 1 else votes.choose(each.ask, each.ways)
            for each in asked
        ]
        channels_first = any(choice and turns_channels(choice[0]) for choice in choices)
        for each, choice in zip(asked, choices, strict=True):
            if choice is None:
                self._leave(each.ask, "shapes leave open which way it lies")
                continue
            why = ""
            if each.why != BY_VALUES:
                why = open_reason(each.ask, choice[0], widths, channels_first=channels_first)
            if why:
                self._leave(each.ask, why)
            else:
                self._add(each, *choice)
        return votes

    def _leave(self, ask: Ask, why: str) -> None:
        self.open.append(Open(ask.target.name, (ask.source.name,), why))

    def _add(self, asked: _Asked, way: Way, evidence: str) -> None:
        cast = _cast(asked.ask.source.dtype, asked.ask.target.dtype)
        if cast is None:
            self._leave(asked.ask, "no cast leads from one type to the other")
            return
        why = f"{asked.why}; {evidence}" if evidence else asked.why
        names = (asked.ask.source.name,), (asked.ask.target.name,)
        self.pairs.append(Pair(*names, (*way.steps, *cast), why, asked.ties))

    # Query, key and value in one

    def _fuse(self, three: Sequence[Module], one: Module, votes: Votes, *, joins: bool) -> None:
        for part, whole in one.parts.items():
            parts = [each.parts[part] for each in three]
            found = fused_way(parts, whole, votes, joins=joins)
            names = tuple(each.name for each in parts)
            if found is None:
                for target in (whole.name,) if joins else names:
                    sources = names if joins else (whole.name,)
                    self.open.append(Open(target, sources, "shapes leave open how they are joined"))
                continue
            axis, way = found
            ends = (parts[0], whole) if joins else (whole, parts[0])
            cast = _cast(ends[0].dtype, ends[1].dtype) or ()
            why, each = "query, key and value in one", {"axis": axis}
            if joins:
                steps: Steps = ({"concat": each}, *way.steps, *cast)
                self.pairs.append(Pair(names, (whole.name,), steps, why))
            else:
                steps = (*way.steps, *cast, {"split": each})
                self.pairs.append(Pair((whole.name,), names, steps, why))

    # What is left

    def _tie(self) -> None:
        """Let targets that transformers ties be other names of what is mapped."""
        mapped = {
            pair.targets[0]: at for at, pair in enumerate(self.pairs) if len(pair.targets) == 1
        }
        taken = {*mapped} | {tie for pair in self.pairs for tie in pair.ties}
        taken |= {each.target for each in self.open}
        for name, item in self.target.items.items():
            for end, owner_end in TIES.items():
                if name in taken or not name.endswith(end):
                    continue
                owners = [each for each in mapped if each.endswith(owner_end)]
                owner = self.target.items[owners[0]] if len(owners) == 1 else None
                if owner and (owner.shape, owner.dtype) == (item.shape, item.dtype):
                    pair = self.pairs[mapped[owner.name]]
                    self.pairs[mapped[owner.name]] = pair._replace(ties=(*pair.ties, name))

    def _proposal(self) -> Proposal:
        done = {name for pair in self.pairs for name in pair.sources}
        made = {name for pair in self.pairs for name in (*pair.targets, *pair.ties)}
        asked = {each.target for each in self.open}
        free = [item for name, item in self.source.items.items() if name not in done]
        missing = []
        fitting: dict[object, tuple[str, ...]] = {}  # by shape: many are of one
        for name, item in self.target.items.items():
            if name in made or name in asked:
                continue
            if item.shape not in fitting:
                fitting[item.shape] = tuple(each.name for each in free if ways_between(each, item))
            if fitting[item.shape]:
                why = "several fit, or what fits has another name"
                self.open.append(Open(name, fitting[item.shape], why))
            else:
                missing.append(name)
        candidates = {each.candidates for each in self.open}
        undecided = {name for each in candidates for name in each} - done
        order = {name: at for at, name in enumerate(self.source.items)}
        left = [item.name for item in free if item.name not in undecided]
        return Proposal(
            tuple(sorted(self.pairs, key=lambda pair: order[pair.sources[0]])),
            tuple(self.open),
            tuple(missing),
            tuple(left),
            tuple(name for name in order if name in undecided),
            self.source.beside,
        )


def _cast(source: DType | None, target: DType | None) -> tuple[dict[str, object], ...] | None:
    """Return the step that gives a target's type; None where there is none."""
    if source is None or target is None or source is target:
        return ()
    return ({"cast": target.label},) if castable(source, target) else None
