"""A proposal written as a recipe that a person reviews, commits and runs again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..recipe.printing import table_lines
from .blocks import Draft, covering, drafts_of, skeleton
from .propose import Open, Pair, Proposal

__all__ = ["written"]

SHOWN = 12  # candidates of a tensor that is open


def written(
    proposal: Proposal, names: Collection[str], roles: Mapping[str, str], about: str
) -> str:
    """Return the recipe of a proposal as TOML.

    Args:
        proposal: what becomes of each tensor.
        names: all names of the source.
        roles: of those that only training needs.
        about: what it is for, in a line.
    """
    return "\n".join(_lines(proposal, names, roles, about)) + "\n"


def _lines(
    proposal: Proposal, names: Collection[str], roles: Mapping[str, str], about: str
) -> Iterator[str]:
    head: dict[str, object] = {"version": 1, "about": about}
    if not proposal.open:
        head["unmatched"] = "error"
    yield from table_lines(head)
    yield from _open(proposal)
    if proposal.beside:
        found = sorted({roles[name] for name in proposal.beside})
        table = {"match": "**", "role": _one_or_list(found), "drop": True}
        yield from _rule("what only training needs", table)
    same = [pair for pair in proposal.pairs if _stays(pair)]
    for draft in drafts_of([pair for pair in proposal.pairs if not _stays(pair)], names):
        yield from _rule(draft.why, _table(draft))
    model = set(names) - set(proposal.beside)
    kept = {pair.sources[0] for pair in same}
    if kept:
        patterns = covering([name for name in names if name in kept], model - kept)
        yield from _rule("as they are", {"match": _one_or_list(patterns), "keep": True})
    if proposal.left:
        patterns = covering(proposal.left, model - set(proposal.left))
        table = {"match": _one_or_list(patterns), "drop": True}
        yield from _rule("the target has no place for them", table)


def _stays(pair: Pair) -> bool:
    return pair.sources == pair.targets and not pair.steps and not pair.ties


def _rule(why: str, table: Mapping[str, object]) -> Iterator[str]:
    yield ""
    yield f"[[rule]]  # {why}"
    yield from table_lines(table)


def _table(draft: Draft) -> dict[str, Any]:
    table: dict[str, Any] = {"match": _one_or_list(draft.match)}
    if draft.where:
        table["where"] = {name: _bounds(each) for name, each in draft.where.items()}
    if draft.words:
        table["map"] = {name: dict(each) for name, each in draft.words.items()}
    steps = [dict(each) for each in draft.steps]
    if len(draft.into) > 1:
        steps[-1]["split"] = {**_dict(steps[-1]["split"]), "into": [*draft.into]}
    else:
        table["rename"] = draft.into[0]
    if len(steps) == 1:
        table |= steps[0]
    elif steps:
        table["do"] = steps
    if draft.ties:
        table["tie"] = _one_or_list(draft.ties)
    return table


def _dict(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, Mapping) else {}


def _one_or_list(texts: Sequence[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else [*texts]


def _bounds(texts: Sequence[str]) -> str | list[str]:
    numbers = [int(each) for each in texts]
    plain = [str(each) for each in numbers] == [*texts]
    if plain and len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}..{numbers[-1]}"
    return [*texts]


def _open(proposal: Proposal) -> Iterator[str]:
    """Yield as comments what is to be decided by hand; names that differ by numbers once."""
    groups: dict[tuple[str, str], list[Open]] = {}
    for each in proposal.open:
        groups.setdefault((skeleton(each.target), each.why), []).append(each)
    for first, *others in groups.values():
        yield ""
        yield f"# open: {_said(first.target)}{_more(others)}: {first.why}"
        for name in first.candidates[:SHOWN]:
            yield f"#   perhaps {_said(name)}"
        if len(first.candidates) > SHOWN:
            yield f"#   and {len(first.candidates) - SHOWN} more"
    missing: dict[str, list[str]] = {}
    for name in proposal.missing:
        missing.setdefault(skeleton(name), []).append(name)
    for name, *rest in missing.values():
        yield ""
        yield f"# open: {_said(name)}{_more(rest)}: nothing in the source is of its shape"


def _more(others: Sequence[object]) -> str:
    return f" and {len(others)} like it" if others else ""


def _said(name: str) -> str:
    """Return a name as a comment can hold it."""
    return f"`{name}`" if name.isprintable() else repr(name)
