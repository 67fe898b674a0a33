"""Rules: what is checked of each when a recipe is read, and of those of a stage together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar, get_args

from ...converters.dtypes import DType
from ...converters.names import near
from ...converters.tensors import Role
from ..selection import By
from .expressions import parse_expression
from .model import Rule, Step, Where
from .nodes import Node, shown
from .patterns import Pattern, parse_pattern
from .steps import STEPS, step_of, template_of, templates_in
from .templates import Template, parse_template

__all__ = ["check_reachable", "pattern_of", "range_of", "rule_of"]

Found = TypeVar("Found")
Word = TypeVar("Word", bound=str)

_SELECTORS = ("match", "where", "map", "by", "role", "dtype", "layer", "rank")
_ACTIONS = ("rename", "do", *STEPS, "tie", "untie", "drop", "keep")
KEYS = (*_SELECTORS, *_ACTIONS, "required")
_ROLES = {role.name.lower(): role.value for role in Role} | {
    role.value: role.value for role in Role
}
_RANGE = re.compile(r"\s*([^.]*?)\s*\.\.\s*([^.]*?)\s*")


def rule_of(node: Node, parameters: Collection[str]) -> Rule:
    """Check a rule.

    Args:
        node: its table.
        parameters: names that its texts may use beside its captures.

    Raises:
        UsageError: it is none.
    """
    found = node.table(KEYS)
    if "match" not in found:
        node.fail("has no `match`", hint='match = "**" is for all tensors')
    match = tuple(pattern_of(each, parameters) for each in found["match"].one_or_more())
    steps = _steps(found)
    rule = Rule(
        place=node.place,
        table=node.value,
        match=match,
        where=_where(found.get("where")),
        words=_words(found.get("map")),
        by=_one_of(found["by"], get_args(By)) if "by" in found else "name",
        roles=frozenset(_several(found.get("role"), _role)),
        dtypes=frozenset(_several(found.get("dtype"), _dtype)),
        layers=frozenset(_several(found.get("layer"), Node.text)),
        ranks=frozenset(_several(found.get("rank"), _rank)),
        rename=template_of(found["rename"]) if "rename" in found else None,
        steps=steps,
        tie=tuple(_several(found.get("tie"), template_of)),
        untie="untie" in found and found["untie"].true(),
        drop="drop" in found and found["drop"].true(),
        required=found["required"].typed(bool) if "required" in found else None,
    )
    _check_actions(node, found, rule)
    _check_captures(node, found, rule, parameters)
    return rule


def pattern_of(node: Node, parameters: Collection[str] = ()) -> Pattern:
    """Parse a pattern.

    Raises:
        UsageError: it is none.
    """
    try:
        return parse_pattern(node.text(), parameters)
    except ValueError as error:
        node.fail(str(error))


# Parts of a rule


def _steps(found: Mapping[str, Node]) -> tuple[Step, ...]:
    alone = [each for key, each in found.items() if key in STEPS]
    if "do" not in found:
        if len(alone) > 1:
            alone[1].fail(
                f"is the second step, after `{alone[0].key}`", hint="do = […] orders them"
            )
        return tuple(map(step_of, alone))
    if alone:
        alone[0].fail("stands beside `do`", hint="put it into the list")
    return tuple(map(_step, found["do"].items()))


def _step(node: Node) -> Step:
    found = node.table(tuple(STEPS))
    if len(found) != 1:
        node.wrong("one step, such as { transpose = true }")
    return step_of(*found.values())


def _where(node: Node | None) -> dict[str, Where]:
    if node is None:
        return {}
    return {key: tuple(map(_bound, each.one_or_more())) for key, each in node.table().items()}


def _bound(node: Node) -> Template:
    """Return what a capture may be: a text, a whole number, or a range such as 0..11."""
    value = node.typed(str, int)
    if not isinstance(value, str):
        return parse_template(str(value))
    ends = range_of(value)
    for end in ends or ():
        try:
            parse_expression(end)
        except ValueError as error:
            node.fail(str(error))
    return parse_template(value) if ends else template_of(node)


def range_of(text: str) -> tuple[str, str] | None:
    """Return first and last number of `0..11`, in which both may be computed; or None."""
    found = _RANGE.fullmatch(text)
    if not found:
        return None
    first, last = (each.removeprefix("{").removesuffix("}") for each in found.groups())
    return first, last


def _words(node: Node | None) -> dict[str, dict[str, str]]:
    if node is None:
        return {}
    return {
        key: {word: text.typed(str) for word, text in each.table().items()}
        for key, each in node.table().items()
    }


def _several(node: Node | None, check: Callable[[Node], Found]) -> list[Found]:
    return [check(each) for each in node.one_or_more()] if node else []


def _one_of(node: Node, words: Collection[Word]) -> Word:
    found = node.text()
    for word in words:
        if word == found:
            return word
    return node.wrong(" or ".join(map(shown, words)))


def _role(node: Node) -> str:
    found = _ROLES.get(node.text())
    return found or node.fail(
        "no role", expected=" or ".join(sorted({*_ROLES.values()})), got=shown(node.value)
    )


def _dtype(node: Node) -> str:
    found = DType.named(node.text())
    if found is None:
        node.fail(
            "no dtype", got=shown(node.value), hint=near(node.value, [d.label for d in DType])
        )
    return found.label


def _rank(node: Node) -> int:
    rank: int = node.typed(int)
    return rank if rank >= 0 else node.wrong("0 or more")


# What has to be true of them together


def _check_actions(node: Node, found: Mapping[str, Node], rule: Rule) -> None:
    given = [key for key in _ACTIONS if key in found]
    if not given:
        node.fail("does nothing", hint="keep = true says that tensors stay as they are")
    for alone in ("drop", "keep"):
        if alone in given and len(given) > 1:
            others = ", ".join(f"`{key}`" for key in given if key != alone)
            found[alone].fail(f"stands beside {others}, and leaves nothing for it to do")
    if "keep" in found:
        found["keep"].true()
    _check_order(node, found, rule)


def _check_order(node: Node, found: Mapping[str, Node], rule: Rule) -> None:
    for number, step in enumerate(rule.steps):
        if step.name in ("concat", "stack") and number > 0:
            node.fail(f"`{step.name}` is step {number + 1}", expected="it first")
        if step.name == "split" and number + 1 < len(rule.steps):
            node.fail(f"`split` is step {number + 1} of {len(rule.steps)}", expected="it last")
    if rule.joins and (len(rule.match) < 2 or not (rule.rename or rule.splits)):
        node.fail(
            f"`{rule.steps[0].name}` joins several tensors",
            expected="a list of patterns in `match`, and `rename`",
            got=_counted(rule),
        )
    for key in ("rename", "tie", "untie") if rule.splits else ():
        if key in found:
            found[key].fail("stands beside `split`, which makes several tensors and names them")
    if rule.joins and "untie" in found:
        found["untie"].fail(f"stands beside `{rule.steps[0].name}`, which makes a new tensor")


def _counted(rule: Rule) -> str:
    patterns = f"{len(rule.match)} pattern{'' if len(rule.match) == 1 else 's'}"
    return patterns if rule.rename else f"{patterns} and no `rename`"


def _check_captures(
    node: Node, found: Mapping[str, Node], rule: Rule, parameters: Collection[str]
) -> None:
    every = [pattern.captures for pattern in rule.match]
    common = frozenset.intersection(*every)
    if rule.joins and any(each != common for each in every):
        found["match"].fail(
            "patterns of a group have different captures",
            expected=_named(every[0]),
            got=_named(next(each for each in every if each != every[0])),
        )
    for key, names in (("where", rule.where), ("map", rule.words)):
        for name in names:
            if name not in common:
                found[key].at(name).fail("is no capture of `match`", hint=near(name, common))
    for key, template in _templates(rule):
        _check_names(found.get(key, node), template.names, {*common, *parameters})
    for name, bounds in rule.where.items():
        for bound in bounds:
            _check_bound(found["where"].at(name), bound, parameters)


def _check_bound(node: Node, bound: Template, parameters: Collection[str]) -> None:
    ends = range_of(bound.text)
    names = [parse_expression(each).names for each in ends] if ends else [bound.names]
    _check_names(node, frozenset().union(*names), parameters)


def _check_names(node: Node, names: Iterable[str], known: Collection[str]) -> None:
    for name in sorted(names):
        if name not in known:
            node.fail(
                f"`{{{name}}}` is neither captured by every pattern nor a parameter",
                hint=near(name, known) or (f"there is {_named(known)}" if known else None),
            )


def _named(names: Collection[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(names)) or "none"


def _templates(rule: Rule) -> Iterator[tuple[str, Template]]:
    """Yield the texts of a rule that are filled in for each tensor, with the key they are below."""
    if rule.rename:
        yield "rename", rule.rename
    yield from (("tie", each) for each in rule.tie)
    for step in rule.steps:
        key = step.name if step.name in rule.table else "do"
        yield from ((key, each) for each in templates_in(step.value))


def check_reachable(rules: Iterable[tuple[Node, Rule]]) -> None:
    """Check that no rule of a file stands behind one that matches all it could.

    Raises:
        UsageError: one does.
    """
    seen: dict[object, Rule] = {}
    for node, rule in rules:
        for pattern in rule.match:
            first = seen.get((rule.by, pattern.shape)) or seen.get((rule.by, "**"))
            if first is not None:
                node.at("match").fail(
                    f"nothing is left for `{pattern.text}`: rule {first.place.rule} in line "
                    f"{first.place.line} matches it all",
                    hint="put the narrower rule first, or narrow the other one with `where`",
                )
        if not _is_narrowed(rule):
            for pattern in rule.match:
                seen[rule.by, "**" if pattern.matches_all else pattern.shape] = rule


def _is_narrowed(rule: Rule) -> bool:
    """Tell whether a rule does not take every tensor that its patterns match."""
    selectors = (rule.where, rule.words, rule.roles, rule.dtypes, rule.layers, rule.ranks)
    return any(map(bool, selectors)) or rule.joins
