"""Pairs of names as few rules: what differs by a number alone is one rule with a capture.

`layer_0/kernel` … `layer_11/kernel` become `layer_{n:int}/kernel`, also where the numbers of the
target are others (`{n+1}`, or a table). Rules that differ by one word alone are one too. A rule
that would match more of the source than it stands for is narrowed, or written tensor by tensor.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from ..recipe.patterns import REGEX, parse_pattern
from .propose import Pair

__all__ = ["Draft", "covering", "drafts_of", "literal", "skeleton"]

_NUMBER = re.compile(r"(?<![0-9x])([0-9]+)(?=$|[_\-/.:])")
_LEVEL = re.compile(r"([/.])")
_LETTERS = "nmkijl"

_Words: TypeAlias = "dict[str, str]"


@dataclass(frozen=True)
class Draft:
    """A rule in the making.

    Attributes:
        match: patterns; several are joined.
        into: templates of names; several are cut into.
        steps: what is done to the values.
        why: how the pairs are known.
        ties: templates of further names.
        where: what captures may be.
        words: by capture, what its texts become.
        names: tensors of the source that it stands for.
    """

    match: tuple[str, ...]
    into: tuple[str, ...]
    steps: tuple[Mapping[str, object], ...]
    why: str
    ties: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()

    def matches(self, names: Iterable[str]) -> frozenset[str]:
        """Return those of some names that it matches."""
        found = set()
        for text in self.match:
            match = parse_pattern(text).compiled(_no_parameter)
            for name in names:
                captures = match(name)
                if captures is not None and self._admits(captures):
                    found.add(name)
        return frozenset(found)

    def _admits(self, captures: Mapping[str, str]) -> bool:
        return all(captures[key] in each for key, each in self.where.items()) and all(
            captures[key] in each for key, each in self.words.items()
        )


def _no_parameter(name: str) -> str:
    raise KeyError(name)


def drafts_of(pairs: Sequence[Pair], names: Collection[str]) -> list[Draft]:
    """Return rules for pairs, in the order of the first tensor of each.

    Args:
        pairs: what becomes of tensors.
        names: all names of the source.
    """
    groups: dict[object, list[Pair]] = {}
    for pair in pairs:
        key = (
            *(_skeletons(each) for each in (pair.sources, pair.targets, pair.ties)),
            str(pair.steps),
        )
        groups.setdefault(key, []).append(pair)
    drafts: list[Draft] = []
    for group in groups.values():
        draft = _collapsed(group) if len(group) > 1 else None
        exact = draft and _narrowed(draft, names)
        drafts += [exact] if exact else map(_single, group)
    return _with_words(drafts, names)


def _skeletons(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(skeleton, names))


def skeleton(name: str) -> str:
    """Return a name with `#` for its numbers."""
    return _NUMBER.sub("#", name)


def _single(pair: Pair) -> Draft:
    return Draft(
        tuple(map(literal, pair.sources)),
        tuple(map(_braced, pair.targets)),
        pair.steps,
        pair.why,
        tuple(map(_braced, pair.ties)),
        names=frozenset(pair.sources),
    )


def literal(name: str) -> str:
    """Return a pattern that matches a name alone."""
    if "*" in name or name.startswith(REGEX):
        return REGEX + re.escape(name)
    return _braced(name)


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


# Numbers


def _collapsed(pairs: Sequence[Pair]) -> Draft | None:
    """Return one rule for pairs whose names differ by numbers alone; None where there is none."""
    first = pairs[0]
    columns = [
        _columns([pair.sources[place] for pair in pairs]) for place in range(len(first.sources))
    ]
    varying = dict.fromkeys(each for place in columns for each in place if len(set(each)) > 1)
    if not varying or len(varying) > len(_LETTERS):
        return None
    captures = dict(zip(varying, _LETTERS, strict=False))
    match = tuple(map(partial(_filled, captures), first.sources, columns))
    holes = [f"{{{name}:int}}" for name in captures.values()]
    if any("*" in each or any(hole not in each for hole in holes) for each in match):
        return None
    words: dict[str, _Words] = {}
    into = [
        _template([pair.targets[at] for pair in pairs], captures, words)
        for at in range(len(first.targets))
    ]
    ties = [
        _template([pair.ties[at] for pair in pairs], captures, words)
        for at in range(len(first.ties))
    ]
    if None in (*into, *ties) or (words and len(captures) > 1):
        return None
    names = frozenset(name for pair in pairs for name in pair.sources)
    return Draft(
        match, tuple(filter(None, into)), first.steps, first.why, tuple(filter(None, ties)),
        words=words, names=names,
    )  # fmt: skip


def _columns(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the numbers of names that differ by numbers alone, hole by hole."""
    return list(zip(*map(_NUMBER.findall, names), strict=True))


def _filled(
    captures: Mapping[tuple[str, ...], str], name: str, columns: Sequence[tuple[str, ...]]
) -> str:
    parts = _NUMBER.split(name)
    for number, values in enumerate(columns):
        if values in captures:
            parts[2 * number + 1] = f"{{{captures[values]}:int}}"
    return "".join(part if at % 2 else _braced(part) for at, part in enumerate(parts))


def _template(
    names: Sequence[str], captures: Mapping[tuple[str, ...], str], words: dict[str, _Words]
) -> str | None:
    """Return a template that gives these names, one for each pair; None where none does."""
    parts = _NUMBER.split(names[0])
    for hole, values in enumerate(_columns(names)):
        text = values[0] if len(set(values)) == 1 else _expression(values, captures, words)
        if text is None:
            return None
        parts[2 * hole + 1] = text
    return "".join(part if at % 2 else _braced(part) for at, part in enumerate(parts))


def _expression(
    values: tuple[str, ...], captures: Mapping[tuple[str, ...], str], words: dict[str, _Words]
) -> str | None:
    if values in captures and captures[values] not in words:
        return f"{{{captures[values]}}}"
    for column, name in captures.items():
        apart = {int(theirs) - int(ours) for ours, theirs in zip(column, values, strict=True)}
        if len(apart) == 1 and all(str(int(each)) == each for each in values) and name not in words:
            offset = apart.pop()
            return f"{{{name}{offset:+d}}}" if offset else f"{{{name}+0}}"
    for column, name in captures.items():
        table = dict(zip(column, values, strict=True))
        one_to_one = len(table) == len(set(zip(column, values, strict=True)))
        if one_to_one and len(captures) == 1 and words.setdefault(name, table) == table:
            return f"{{{name}}}"
    return None


def _narrowed(draft: Draft, names: Collection[str]) -> Draft | None:
    """Return a rule that matches what it stands for and nothing else; None where none does."""
    if draft.matches(names) == draft.names:
        return draft
    where = {
        name: tuple(
            sorted({each[name] for each in _captured(draft)}, key=lambda text: (len(text), text))
        )
        for name in sorted(_captured(draft)[0])
    }
    narrow = replace(draft, where=where)
    return narrow if narrow.matches(names) == draft.names else None


def _captured(draft: Draft) -> list[Mapping[str, str]]:
    matches = [parse_pattern(text).compiled(_no_parameter) for text in draft.match]
    return [found for name in draft.names for each in matches if (found := each(name)) is not None]


# Words


def _with_words(drafts: list[Draft], names: Collection[str]) -> list[Draft]:
    """Make one rule of those that differ by one word alone."""
    merged = True
    while merged:
        merged = False
        for group, place, other in _by_word(drafts):
            draft = _of_words(group, place, other)
            if draft is not None and draft.matches(names) == draft.names:
                at = drafts.index(group[0])
                drafts[at] = draft
                gone = {id(each) for each in group[1:]}
                drafts = [each for each in drafts if id(each) not in gone]
                merged = True
                break
    return drafts


def _by_word(drafts: Sequence[Draft]) -> Iterator[tuple[list[Draft], int, int]]:
    """Yield rules that differ by one level of match and name alone, most first."""
    found: dict[object, list[Draft]] = {}
    for draft in drafts:
        if len(draft.match) == len(draft.into) == 1 and not draft.ties and not draft.words:
            ours, theirs = (_LEVEL.split(each[0]) for each in (draft.match, draft.into))
            for place, other in ((i, j) for i in range(len(ours)) for j in range(len(theirs))):
                if _is_word(ours[place]) and _is_word(theirs[other]):
                    key = (
                        place, other, *ours[:place], None, *ours[place + 1 :], None,
                        *theirs[:other], None, *theirs[other + 1 :], str(draft.steps),
                        str(draft.where), draft.why,
                    )  # fmt: skip
                    found.setdefault(key, []).append(draft)
    groups = [(each, key[0], key[1]) for key, each in found.items() if len(each) > 1]  # type: ignore[index]
    yield from sorted(groups, key=lambda one: -len(one[0]))


def _is_word(text: str) -> bool:
    return text.replace("_", "a").replace("-", "a").isalnum()


def _of_words(drafts: Sequence[Draft], place: int, other: int) -> Draft | None:
    ours, theirs = (_LEVEL.split(each[0]) for each in (drafts[0].match, drafts[0].into))
    table = {
        _LEVEL.split(each.match[0])[place]: _LEVEL.split(each.into[0])[other] for each in drafts
    }
    if len(table) < len(drafts):
        return None
    alike = all(word == text for word, text in table.items())
    name = "leaf" if place == len(ours) - 1 else "part"
    ours[place] = f"{{{name}:{'|'.join(table)}}}" if alike else f"{{{name}}}"
    theirs[other] = f"{{{name}}}"
    return replace(
        drafts[0],
        match=("".join(ours),),
        into=("".join(theirs),),
        words={} if alike else {name: table},
        names=frozenset().union(*(each.names for each in drafts)),
    )


# Names that share a fate


def covering(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return patterns that match all of some names and none of others, few of them.

    Args:
        names: what they are to match.
        others: what they may not match.
    """
    names = list(names)
    taken = {prefix for name in others for prefix in _prefixes(name)}
    counts = Counter(prefix for name in names for prefix in _prefixes(name))
    found: dict[str, None] = {}
    for name in names:
        free = (each for each in _prefixes(name) if each not in taken and "*" not in each)
        prefix = next(free, None)
        several = prefix is not None and counts[prefix] > 1 and not prefix.startswith(REGEX)
        found[f"{_braced(prefix)}**" if several and prefix else literal(name)] = None
    return list(found)


def _prefixes(name: str) -> Iterator[str]:
    for found in _LEVEL.finditer(name):
        yield name[: found.end()]
