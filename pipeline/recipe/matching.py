"""Which rule a tensor falls under: the first of its stage that matches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...converters.errors import UsageError
from ...converters.tensors import Origin, TensorSpec
from .expressions import whole
from .model import Rule, Where
from .parameters import Scope
from .patterns import Match
from .rules import range_of
from .steps import templates_in
from .templates import parse_template

__all__ = ["Found", "Matcher", "failed", "matchers"]


class Found(NamedTuple):
    """A rule that matches.

    Attributes:
        matcher: of the rule.
        number: which of its patterns.
        captures: what that remembers, as templates get it.
        key: what tells groups apart: the captures as they were.
    """

    matcher: Matcher
    number: int
    captures: Mapping[str, str]
    key: tuple[tuple[str, str], ...]


class Matcher:
    """A rule whose patterns are ready to match.

    Args:
        rule: the rule.
        scope: the recipe's parameters.

    Attributes:
        rule: the rule.
        label: what rows call it.
        computes: whether its steps depend on what its patterns capture.
        used: whether it has matched anything.

    Raises:
        UsageError: a parameter cannot be found, or is no number where one is needed.
    """

    def __init__(self, rule: Rule, scope: Scope) -> None:
        self.rule = rule
        self.label = rule.place.label
        self.computes = any(True for step in rule.steps for _ in templates_in(step.value))
        self.used = False
        self._any = not (rule.roles or rule.dtypes or rule.ranks or rule.layers)
        try:
            self._matches: list[Match] = [each.compiled(scope) for each in rule.match]
            self._allowed = {name: _allowed(each, scope) for name, each in rule.where.items()}
        except ValueError as error:
            raise failed(rule, str(error)) from error

    def find(self, name: str, origin: Origin, spec: TensorSpec, layer: str) -> Found | None:
        """Return the match of a tensor, or None.

        Args:
            name: what it is called.
            origin: where it came from.
            spec: what it is.
            layer: class of its Keras layer, if that is known.
        """
        if not (self._any or self._selects(origin, spec, layer)):
            return None
        text = origin.key if self.rule.by == "key" else name
        for number, match in enumerate(self._matches):
            captures = match(text)
            if captures is not None and self._admits(captures):
                words = self.rule.words
                said = {
                    key: words[key][each] if key in words else each
                    for key, each in captures.items()
                }
                return Found(self, number, said, tuple(sorted(captures.items())))
        return None

    def _selects(self, origin: Origin, spec: TensorSpec, layer: str) -> bool:
        rule = self.rule
        return (
            (not rule.roles or origin.role.value in rule.roles)
            and (not rule.dtypes or spec.dtype.label in rule.dtypes)
            and (not rule.ranks or len(spec.shape) in rule.ranks)
            and (not rule.layers or layer in rule.layers)
        )

    def _admits(self, captures: Mapping[str, str]) -> bool:
        if any(captures.get(name) not in words for name, words in self.rule.words.items()):
            return False
        return all(
            any(_is_in(captures.get(name, ""), bound) for bound in bounds)
            for name, bounds in self._allowed.items()
        )


def failed(rule: Rule, what: str, name: str | None = None) -> UsageError:
    """Return the error of a rule that cannot be carried out, perhaps on one tensor."""
    where = f"rule {rule.place.rule}" + (f": tensor `{name}`" if name else "")
    return UsageError(what, path=rule.place.path, where=where)


def _allowed(bounds: Where, scope: Scope) -> list[str | range]:
    found: list[str | range] = []
    for bound in bounds:
        ends = range_of(bound.text)
        if ends is None:
            found.append(bound.fill(scope))
            continue
        first, last = (parse_template(f"{{{each}}}").value(scope) for each in ends)
        found.append(range(whole(first, ends[0]), whole(last, ends[1]) + 1))
    return found


def _is_in(text: str, bound: str | range) -> bool:
    if isinstance(bound, str):
        return text == bound
    return text.isascii() and text.isdigit() and len(text) < 19 and int(text) in bound


def matchers(rules: Iterable[Rule], scope: Scope) -> list[Matcher]:
    """Return rules ready to match, in their order."""
    return [Matcher(rule, scope) for rule in rules]
