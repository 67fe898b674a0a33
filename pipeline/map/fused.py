"""Query, key and value in three modules on one side, and in one on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from .sides import Group, Item, Module, groups_of
from .vocabulary import FUSED
from .ways import Ask, Votes, Way, ways_between

__all__ = ["Fused", "fused_pairs", "fused_way"]

_PARTS = ("query", "key", "value")


class Fused(NamedTuple):
    """Three modules that are one.

    Attributes:
        three: query, key and value.
        one: all of them.
        joins: whether the source has three.
    """

    three: tuple[Module, Module, Module]
    one: Module
    joins: bool


def fused_pairs(sources: Sequence[Module], targets: Sequence[Module]) -> Iterator[Fused]:
    """Yield modules that are one on the other side, where shapes leave one choice."""
    for apart, together, joins in ((sources, targets, True), (targets, sources, False)):
        triples, ones = list(_triples(apart)), list(_ones(together))
        fits = [
            (a, b)
            for a in range(len(triples))
            for b in range(len(ones))
            if _fit(triples[a], ones[b])
        ]
        for a, b in fits:
            if sum(a == each for each, _ in fits) == sum(b == each for _, each in fits) == 1:
                members = zip(*(each.modules for each in triples[a]), strict=True)
                for three, one in zip(members, ones[b].modules, strict=True):
                    yield Fused((three[0], three[1], three[2]), one, joins)


def _triples(modules: Sequence[Module]) -> Iterator[tuple[Group, Group, Group]]:
    found: dict[tuple[str, int], dict[str, Group]] = {}
    for group in groups_of(modules):
        parent = group.pattern.rpartition(".")[0]
        if group.words and group.words[-1] in _PARTS:
            found.setdefault((parent, len(group.modules)), {})[group.words[-1]] = group
    for each in found.values():
        if len(each) == len(_PARTS):
            yield each["query"], each["key"], each["value"]


def _ones(modules: Sequence[Module]) -> Iterator[Group]:
    for group in groups_of(modules):
        if group.pattern.rpartition(".")[2] in FUSED:
            yield group


def _fit(three: tuple[Group, Group, Group], one: Group) -> bool:
    return all(len(each.modules) == len(one.modules) for each in three) and all(
        q.parts.keys() == k.parts.keys() == v.parts.keys() == whole.parts.keys()
        and all(_sizes(part, (q, k, v)) == _size(whole.parts[part]) for part in whole.parts)
        for q, k, v, whole in zip(*(each.modules for each in (*three, one)), strict=True)
    )


def _sizes(part: str, modules: tuple[Module, ...]) -> int | None:
    found = [_size(each.parts[part]) for each in modules]
    return sum(each or 0 for each in found) if None not in found else None


def _size(item: Item) -> int | None:
    if item.lengths is None:
        return None
    size = 1
    for each in item.lengths:
        size *= each
    return size


def fused_way(
    parts: Sequence[Item], whole: Item, votes: Votes, *, joins: bool
) -> tuple[int, Way] | None:
    """Return the axis along which parts lie in a whole, and the way of the axes.

    Args:
        parts: of query, key and value.
        whole: what they are together.
        votes: which way siblings lie.
        joins: whether the parts are the source: they are joined first, and turned then. Otherwise
            the whole is turned first, and cut then.

    Returns:
        None where that is not clear.
    """
    found: dict[int, Sequence[Way]] = {}
    for axis in range(len(parts[0].shape or ())):
        joined = _joined(parts, axis)
        if joined is not None:
            ways = ways_between(joined, whole) if joins else ways_between(whole, joined)
            if ways:
                found[axis] = ways
    choices = [(axis, way) for axis, ways in found.items() for way in ways]
    if len(choices) > 1:
        source, target = (parts[0], whole) if joins else (whole, parts[0])
        voted = [votes.choose(Ask(source, target), [way]) for _, way in choices]
        choices = [each for each, vote in zip(choices, voted, strict=True) if vote]
    return choices[0] if len(choices) == 1 else None


def _joined(parts: Sequence[Item], axis: int) -> Item | None:
    shapes = [each.shape for each in parts]
    if any(shape is None or None in shape for shape in shapes):
        return None
    known: list[Mapping[int, int]] = [
        {place: each or 0 for place, each in enumerate(shape or ())} for shape in shapes
    ]
    others = [{place: n for place, n in each.items() if place != axis} for each in known]
    if any(each != others[0] for each in others) or any(axis not in each for each in known):
        return None
    total = sum(each[axis] for each in known)
    shape = tuple(total if place == axis else known[0][place] for place in sorted(known[0]))
    return parts[0]._replace(shape=shape)
