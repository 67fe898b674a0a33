"""Recipes applied to tensors: every change is lazy, and every tensor is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple, TypeAlias

from ...converters.casting import CastTensor
from ...converters.errors import UsageError
from ...converters.notes import Kind, Note
from ...converters.tensors import ChunkTensor, Origin, Tensor, TensorDict, TensorSpec
from ...converters.ties import ties
from ...converters.uses import Uses
from .applied import Applied, Change, change_notes
from .doing import Lookup, done, joined_by, parts_of
from .files import texts_of, written
from .layers import layers_of
from .matching import Found, Matcher, failed, matchers
from .model import Recipe, Rule, Stage, Step, Unmatched
from .parameters import Scope
from .steps import Split

__all__ = ["apply_recipe", "apply_recipes"]

_Group: TypeAlias = "dict[int, tuple[str, Found]]"  # name and match, by number of the pattern

SHOWN = 5
_NO_RULE = "no rule"


class _Item(NamedTuple):
    """A tensor on its way.

    Attributes:
        tensor: as it is by now.
        origin: where it, or the first of those it was joined of, came from.
        sources: what it was called in the input.
        before: what it was there.
        rules: those that have matched it, or what it was joined of.
        steps: what was done to its values, in words.
        casts: those below the tensor.
        touched: whether a rule of this recipe has matched it.
    """

    tensor: Tensor
    origin: Origin
    sources: tuple[str, ...]
    before: tuple[TensorSpec, ...]
    rules: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    casts: tuple[CastTensor, ...] = ()
    touched: bool = False

    def by(self, matcher: Matcher) -> _Item:
        """Return it with a rule that has matched it."""
        return self._replace(rules=(*self.rules, matcher.label), touched=True)

    def changed(self, tensor: Tensor, words: str) -> _Item:
        """Return it with another tensor, after one step."""
        if tensor is self.tensor:
            return self
        new = (tensor,) if isinstance(tensor, CastTensor) else ()
        steps = (*self.steps, words)
        return self._replace(tensor=tensor, steps=steps, casts=(*self.casts, *new))

    def row(self, name: str | None, reason: str = "") -> Change:
        """Return what is to be said of it."""
        after = self.tensor.spec if name is not None else None
        return Change(self.sources, name, self.before, after, self.rules, self.steps, reason)


@dataclass
class _State:
    """All tensors on their way, their other names, and what is to be said."""

    items: dict[str, _Item]
    aliases: dict[str, str]
    dropped: list[Change] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    layers: Mapping[str, str] = field(default_factory=dict)


def apply_recipe(recipe: Recipe, tensors: TensorDict) -> Applied:
    """Return what a recipe makes of tensors; nothing is read.

    Raises:
        UsageError: a rule cannot be carried out, or two tensors would get one name.
    """
    return apply_recipes([recipe], tensors)


def apply_recipes(
    recipes: Iterable[Recipe], tensors: TensorDict, names: Mapping[str, str] | None = None
) -> Applied:
    """Return what recipes make of tensors, each of what the one before has made.

    Args:
        recipes: in their order.
        tensors: the input.
        names: what notes and rows call its tensors, where that is something else.

    Raises:
        UsageError: a rule cannot be carried out, or two tensors would get one name.
    """
    recipes = list(recipes)
    state = _State(_begun(tensors, names or {}), dict(tensors.aliases))
    if any(rule.layers for recipe in recipes for stage in recipe.stages for rule in stage.rules):
        state.layers = layers_of(tensors)
    metadata, files = dict(tensors.metadata), dict[str, bytes]()
    for recipe in recipes:
        scope = Scope(recipe.parameters, _now(tensors, state))
        _run(recipe, scope, state)
        metadata |= texts_of(recipe, scope)
        files |= written(recipe, scope)
    return _applied(tensors, state, metadata, files)


def _begun(tensors: TensorDict, names: Mapping[str, str]) -> dict[str, _Item]:
    """Return tensors as they are now, with what a layout has made of them before."""
    rows = tensors.rows if isinstance(tensors, Applied) else ()
    before = {row.target: row for row in rows}
    items = {}
    for name, tensor in tensors.items():
        item = _Item(tensor, tensors.origin(name), (names.get(name, name),), (tensor.spec,))
        row = before.get(name)
        if row is not None:
            item = item._replace(
                sources=row.sources, before=row.before, rules=row.rules, steps=row.steps
            )
        items[name] = item
    return items


def _notes_before(tensors: TensorDict, rows: Iterable[Change]) -> Iterator[Note]:
    """Yield the notes on the input that still hold.

    Changes by a layout are told anew with what came after, and what a layout could not decide is
    decided where a rule matches it.
    """
    if not isinstance(tensors, Applied):
        yield from tensors.notes
        return
    changes = set(change_notes(tensors.rows))
    decided = {name for row in rows if row.rules or row.target is None for name in row.sources}
    for note in tensors.notes:
        if note not in changes and not (note.kind is Kind.UNDECIDED and note.tensor in decided):
            yield note


def _now(tensors: TensorDict, state: _State) -> TensorDict:
    return replace(tensors, tensors={name: each.tensor for name, each in state.items.items()})


def _run(recipe: Recipe, scope: Scope, state: _State) -> None:
    state.items = {
        name: each._replace(touched=False) if each.touched else each
        for name, each in state.items.items()
    }
    for stage in recipe.stages:
        _StageRun(stage, scope, state).run(recipe)
    untouched = [name for name, each in state.items.items() if not each.touched]
    _leave(state, recipe.unmatched, untouched, recipe.name)


def _leave(state: _State, unmatched: Unmatched, names: list[str], what: str) -> None:
    """Do with tensors that no rule matches what is to be done with them.

    Raises:
        UsageError: they are to stop the run.
    """
    if not names or unmatched == "keep":
        return
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    if unmatched == "note":
        state.notes.append(Note(Kind.SOURCE, f"no rule of {what} matches {shown}{more}: kept"))
        return
    if unmatched == "error":
        raise UsageError(
            f"no rule matches {shown}{more}", path=what,
            hint='name them in a rule with keep or drop, or say unmatched = "keep"',
        )  # fmt: skip
    state.dropped += [state.items[name].row(None, "no rule matches it") for name in names]
    gone = set(names)
    state.items = {name: each for name, each in state.items.items() if name not in gone}
    state.aliases = {alias: name for alias, name in state.aliases.items() if name not in gone}


def _applied(
    tensors: TensorDict, state: _State, metadata: Mapping[str, str], files: Mapping[str, bytes]
) -> Applied:
    items = state.items
    rows = (*(each.row(name) for name, each in items.items()), *state.dropped)
    given = {each.name: getattr(tensors, each.name) for each in fields(TensorDict)}
    given |= {
        "tensors": {name: each.tensor for name, each in items.items()},
        "origins": {name: each.origin for name, each in items.items()},
        "notes": (*_notes_before(tensors, rows), *state.notes, *change_notes(rows)),
        "metadata": metadata,
        "aliases": state.aliases,
    }
    casts = {name: each.casts for name, each in items.items() if each.casts}
    told = tensors.told if isinstance(tensors, Applied) else Uses()
    return Applied(**given, rows=rows, files=files, casts=casts, told=told)


class _StageRun:
    """One stage on its way.

    Args:
        stage: its rules.
        scope: the recipe's parameters.
        state: the tensors; `run` puts others in their place.
    """

    def __init__(self, stage: Stage, scope: Scope, state: _State) -> None:
        self._stage = stage
        self._scope = scope
        self._state = state
        self._matchers = matchers(stage.rules, scope)
        self._made: dict[tuple[str, Matcher, object], _Item] = {}
        self._ties: dict[str, str] = {}
        self._tied: Mapping[str, str] = {}
        self._new: dict[str, _Item] = {}
        self._targets: dict[str, str] = {}  # new name by old; the first of several

    def run(self, recipe: Recipe) -> None:
        """Put what the stage makes in the place of what there is."""
        state = self._state
        self._untie()
        self._tied = ties({name: each.tensor for name, each in state.items.items()})
        found = {name: self._find(name, each) for name, each in state.items.items()}
        groups = self._groups(found)
        for name, item in state.items.items():
            match = found[name]
            if match is None:
                self._put(name, name, item)
            elif match.matcher.rule.joins:
                self._join(groups[match.matcher, match.key])
            else:
                self._change(name, item, match)
        self._check_used()
        self._rename_aliases(found)
        self._rename_owners()
        state.items = self._new
        unmatched = [self._targets[name] for name, match in found.items() if match is None]
        what = f"{recipe.name}: stage `{self._stage.name}`" if self._stage.name else recipe.name
        _leave(state, self._stage.unmatched, unmatched, what)

    def _find(self, name: str, item: _Item) -> Found | None:
        layer = self._state.layers.get(item.origin.key, "")
        for matcher in self._matchers:
            found = matcher.find(name, item.origin, item.tensor.spec, layer)
            if found:
                matcher.used = True
                return found
        return None

    # What becomes of a tensor

    def _change(self, name: str, item: _Item, found: Found) -> None:
        rule = found.matcher.rule
        if rule.drop:
            self._state.dropped.append(item.by(found.matcher).row(None, "dropped"))
            return
        self._finish(name, (name,), item, found)

    def _finish(self, name: str, group: tuple[str, ...], item: _Item, found: Found) -> None:
        """Do the steps of a rule, and put what comes out under its name or names."""
        rule, lookup = found.matcher.rule, self._scope.within(found.captures)
        try:
            made = self._stepped(name, item, found, lookup)
            if rule.splits:
                self._split(name, made, rule, lookup)
                return
            target = rule.rename.fill(lookup) if rule.rename else name
            others = [each.fill(lookup) for each in rule.tie]
        except ValueError as error:
            raise failed(rule, str(error), name) from error
        except UsageError as error:
            if error.path:  # of a parameter, which is not to blame on this rule
                raise
            raise _told(error, rule, name) from error
        self._put(name, target, made, rule)
        for old in group:
            self._targets.setdefault(old, target)
        self._ties |= dict.fromkeys(others, target)

    def _stepped(self, name: str, item: _Item, found: Found, lookup: Lookup) -> _Item:
        """Return a tensor with all steps of a rule done; once for all names of a tied one."""
        rule = found.matcher.rule
        computed = found.key if found.matcher.computes else ()
        key = self._tied.get(name, name), found.matcher, computed
        if key in self._made and not rule.joins and not rule.untie:
            done_before = self._made[key]
            return done_before._replace(
                sources=item.sources, before=item.before, origin=item.origin
            )
        made = item.by(found.matcher)
        for step in rule.steps:
            if step.name not in ("concat", "stack", "split"):
                made = made.changed(done(made.tensor, step, lookup), _in_words(step))
        if rule.untie:
            made = made._replace(tensor=_copy(made.tensor))
        self._made[key] = made
        return made

    def _split(self, name: str, item: _Item, rule: Rule, lookup: Lookup) -> None:
        split: Split = rule.steps[-1].value
        parts = parts_of(item.tensor, split, lookup)
        for number, (template, part) in enumerate(zip(split.into, parts, strict=True), 1):
            target = template.fill(lookup)
            words = f"split {number} of {len(parts)}"
            made = item._replace(tensor=part, steps=(*item.steps, words))
            self._put(name, target, made, rule)

    def _put(self, old: str, target: str, item: _Item, rule: Rule | None = None) -> None:
        """Put a tensor under its new name.

        Raises:
            UsageError: another one has it.
        """
        if not target:
            raise UsageError("gets an empty name", path=item.rules[-1], where=f"tensor `{old}`")
        if target in self._new:
            raise self._collision(target, self._new[target], item, rule)
        self._new[target] = item
        self._targets.setdefault(old, target)

    def _collision(self, target: str, first: _Item, second: _Item, rule: Rule | None) -> UsageError:
        sides = [
            f"{' + '.join(f'`{name}`' for name in each.sources)} "
            f"({', '.join(each.rules) or _NO_RULE})"
            for each in (first, second)
        ]
        return UsageError(
            f"two tensors become `{target}`",
            path=rule.place.path if rule else first.rules[-1],
            expected="one", got=" and ".join(sides),
            hint="rename or drop one of them in a rule before",
        )  # fmt: skip

    # Groups

    def _groups(self, found: Mapping[str, Found | None]) -> dict[tuple[Matcher, object], _Group]:
        """Return by rule and captures the tensors that are joined, by number of their pattern.

        Raises:
            UsageError: one is missing, or there are two for a pattern.
        """
        groups: dict[tuple[Matcher, object], _Group] = {}
        for name, match in found.items():
            if match is None or not match.matcher.rule.joins:
                continue
            rule = match.matcher.rule
            group = groups.setdefault((match.matcher, match.key), {})
            if match.number in group:
                other = group[match.number][0]
                what = f"`{other}` and `{name}` match one pattern of the group"
                raise failed(rule, f"{what}, `{rule.match[match.number].text}`")
            group[match.number] = name, match
        for (matcher, _), group in groups.items():
            for number, pattern in enumerate(matcher.rule.match):
                if number not in group:
                    there = ", ".join(f"`{name}`" for name, _ in group.values())
                    what = f"no tensor matches `{pattern.text}` beside {there}"
                    raise failed(matcher.rule, what)
        return groups

    def _join(self, group: _Group) -> None:
        """Make one tensor of a group, in the place of its first."""
        members = [group[number] for number in sorted(group)]
        names = tuple(each for each, _ in members)
        if any(each in self._targets for each in names):
            return
        found = members[0][1]
        rule = found.matcher.rule
        items = [self._state.items[each] for each in names]
        try:
            tensor = joined_by(rule.steps[0], [each.tensor for each in items])
        except UsageError as error:
            raise _told(error, rule, names[0]) from error
        made = _Item(
            tensor,
            items[0].origin,
            tuple(each for item in items for each in item.sources),
            tuple(each for item in items for each in item.before),
            tuple(dict.fromkeys(each for item in items for each in item.rules)),
            (*dict.fromkeys(each for item in items for each in item.steps), rule.steps[0].name),
            tuple(each for item in items for each in item.casts),
        )
        self._finish(names[0], names, made, found)

    # Names

    def _untie(self) -> None:
        """Give other names of tensors that a rule unties a tensor each, after the tensor's own."""
        state = self._state
        apart: dict[str, list[str]] = {}
        for alias, owner in state.aliases.items():
            if alias not in state.items and owner in state.items:
                found = self._find(alias, state.items[owner])
                if found and found.matcher.rule.untie:
                    apart.setdefault(owner, []).append(alias)
        if not apart:
            return
        state.items = {
            each: state.items[name] for name in state.items for each in (name, *apart.get(name, ()))
        }
        state.aliases = {
            alias: owner for alias, owner in state.aliases.items() if alias not in state.items
        }

    def _rename_aliases(self, found: Mapping[str, Found | None]) -> None:
        """Let other names follow: the rule that matches one renames it too."""
        state, aliases = self._state, dict[str, str]()
        for alias, owner in state.aliases.items():
            target = self._targets.get(owner)
            if target is None:
                continue
            match = found[owner]
            other = self._alias(alias, owner, match.matcher.rule if match else None)
            if other and other != target and other not in self._new:
                aliases[other] = target
        state.aliases = aliases | {
            other: target for other, target in self._ties.items() if other not in self._new
        }

    def _alias(self, alias: str, owner: str, own: Rule | None) -> str | None:
        """Return what another name of a tensor becomes; None where it goes."""
        if own and (own.joins or own.splits):
            return None
        found = self._find(alias, self._state.items[owner])
        rule = found.matcher.rule if found else None
        if rule is None or found is None:
            return None if self._stage.unmatched == "drop" else alias
        if rule.drop:
            return None
        if rule.steps != (own.steps if own else ()):
            text = f"its other name `{alias}` goes: {rule.place.label} makes something else of it"
            sources = self._state.items[owner].sources
            self._state.notes.append(Note(Kind.TARGET, text, next(iter(sources), None)))
            return None
        return rule.rename.fill(self._scope.within(found.captures)) if rule.rename else alias

    def _rename_owners(self) -> None:
        """Let slots and averages follow the variables they belong to."""
        renamed = {old: new for old, new in self._targets.items() if old != new}
        for name, item in self._new.items():
            owner = item.origin.owner
            if owner in renamed:
                origin = item.origin._replace(owner=renamed[owner])
                self._new[name] = item._replace(origin=origin)

    def _check_used(self) -> None:
        for matcher in self._matchers:
            rule = matcher.rule
            if matcher.used or rule.required is False:
                continue
            shown = ", ".join(f"`{pattern.text}`" for pattern in rule.match)
            if rule.required:
                raise failed(rule, f"matches nothing, and is required: {shown}")
            text = f"rule {rule.place.rule} ({rule.place.label}) matches nothing: {shown}"
            self._state.notes.append(Note(Kind.SOURCE, text))


def _told(error: UsageError, rule: Rule, name: str) -> UsageError:
    """Return an error of a step with its rule and tensor."""
    told = failed(rule, error.what, name)
    return UsageError(
        error.what, path=told.path, where=told.where, expected=error.expected, got=error.got,
        hint=error.hint,
    )  # fmt: skip


def _copy(tensor: Tensor) -> Tensor:
    """Return a tensor that no writer takes for another one."""
    return tensor if tensor.spec.dtype.variable else ChunkTensor(tensor.spec, tensor, bytes)


def _in_words(step: Step) -> str:
    """Return a step as rows of a plan show it."""
    value = step.value
    if step.name == "cast":
        return f"cast {value}"
    if step.name == "gates":
        return f"gates {' '.join(map(str, value.order))}"
    if step.name == "permute":
        return f"permute {' '.join(map(str, value))}"
    return step.name
