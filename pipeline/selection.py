"""Which tensors to keep: by patterns over their names or keys, and by what they are for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Literal

from ..converters.errors import UsageError
from ..converters.names import near
from ..converters.notes import Kind, Note
from ..converters.tensors import Origin, Role, TensorDict

__all__ = [
    "REGEX", "By", "Ema", "found_by", "matching", "select", "select_average", "select_weights",
]  # fmt: skip

By = Literal["name", "key"]
Ema = Literal["auto", "raw", "only", "both"]

REGEX = "re:"
SHOWN = 6
# What `--weights-only` leaves out; of the rest nothing is known that would speak against it.
_NO_WEIGHTS = frozenset({Role.SLOT, Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE})


def select(
    tensors: TensorDict, include: Iterable[str], exclude: Iterable[str], by: By = "name"
) -> TensorDict:
    """Return the tensors that match an include pattern, if there are any, and no exclude one.

    `*` stands for any characters, slashes too; `?` for one; `[ab]` for one of a few. A pattern
    without any of these is a name. `re:` begins a regular expression, found anywhere in a name.

    Args:
        tensors: what there is.
        include: patterns.
        exclude: patterns.
        by: whether patterns are over names or over the container's own keys.

    Raises:
        UsageError: a pattern matches nothing, or is no regular expression.
    """
    include, exclude = tuple(include), tuple(exclude)
    if not include and not exclude:
        return tensors
    texts = {name: tensors.origin(name).key if by == "key" else name for name in tensors}
    wanted = matching(texts, include) if include else set(tensors)
    unwanted = matching(texts, exclude)
    left_out = {
        name: "excluded" if name in unwanted else "not included"
        for name in tensors
        if name in unwanted or name not in wanted
    }
    return _without(tensors, left_out)


def matching(texts: Mapping[str, str], patterns: Iterable[str]) -> set[str]:
    """Return the names whose text matches one of the patterns.

    Args:
        texts: what patterns are compared with, by name.
        patterns: as `select` takes them.

    Raises:
        UsageError: a pattern matches nothing, or is no regular expression.
    """
    matched: set[str] = set()
    for pattern in patterns:
        found = found_by(texts, pattern)
        if not found:
            raise UsageError(
                f"no tensor is called `{pattern}`",
                hint=near(pattern.removeprefix(REGEX), texts.values())
                or "list the names with `convert inspect`",
            )
        matched |= found
    return matched


def found_by(texts: Mapping[str, str], pattern: str) -> set[str]:
    """Return the names whose text matches a pattern; perhaps none.

    Args:
        texts: what the pattern is compared with, by name.
        pattern: as `select` takes it.

    Raises:
        UsageError: it is no regular expression.
    """
    exact = {name for name, text in texts.items() if text == pattern}
    if exact:
        return exact
    if not pattern.startswith(REGEX):
        return {name for name, text in texts.items() if fnmatchcase(text, pattern)}
    try:
        search = re.compile(pattern.removeprefix(REGEX)).search
    except re.error as error:
        raise UsageError(f"`{pattern}` is no regular expression: {error}") from error
    return {name for name, text in texts.items() if search(text)}


def select_weights(tensors: TensorDict) -> TensorDict:
    """Return weights, state and moving averages; what is not known to be none of these stays."""
    roles = {name: tensors.origin(name).role for name in tensors}
    left_out = {name: role.value for name, role in roles.items() if role in _NO_WEIGHTS}
    notes = []
    unknown = [name for name, role in roles.items() if role is Role.UNKNOWN]
    if unknown:
        text = f"nothing says what these are for, so they are kept: {_listed(unknown)}"
        notes.append(Note(Kind.SOURCE, text))
    return _without(tensors, left_out, *notes)


def select_average(tensors: TensorDict, ema: Ema = "auto") -> TensorDict:
    """Choose between variables and their moving averages.

    Args:
        tensors: what there is.
        ema: `raw` leaves averages out, `only` puts each under the name of its variable, `both`
            keeps both, and so does `auto`, which says so.

    Raises:
        UsageError: averages are wanted and there are none, or a variable has several.
    """
    averages = {
        name: tensors.origin(name) for name in tensors if tensors.origin(name).role is Role.AVERAGE
    }
    if ema == "both" or (not averages and ema != "only"):
        return tensors
    if ema == "only":
        return _averaged(tensors, averages)
    if ema == "raw":
        return _without(tensors, _dependants(tensors, averages))
    return tensors.select(tensors, Note(Kind.SOURCE, _unasked(tensors, averages)))


def _unasked(tensors: TensorDict, averages: Mapping[str, Origin]) -> str:
    """Return what to say where there are averages and nobody said which values are wanted."""
    count = f"{len(averages)} moving average{'' if len(averages) == 1 else 's'}"
    if any(origin.owner in tensors for origin in averages.values()):
        return f"{count} kept beside the variables; choose with --ema raw, --ema only or --ema both"
    return f"{count} without the variables kept; --ema only gives them the variables' names"


def _dependants(tensors: TensorDict, averages: Mapping[str, Origin]) -> dict[str, str]:
    """Return the averages and what is kept for them alone."""
    return {
        name: Role.AVERAGE.value
        for name in tensors
        if name in averages or tensors.origin(name).owner in averages
    }


def _averaged(tensors: TensorDict, averages: Mapping[str, Origin]) -> TensorDict:
    """Return the averages under the names of their variables, and what has no average as it is."""
    if not averages:
        raise UsageError("there are no moving averages to take", hint="leave --ema only out")
    sources = _sources(averages)
    replaced = {
        owner: "its moving average takes its place" for owner in sources if owner in tensors
    }
    dropped = {**_dependants(tensors, averages), **replaced}
    tensors_of, origins, notes = {}, {}, []
    for name in tensors:
        if name in averages:
            owner = averages[name].owner or name
            tensors_of[owner] = tensors[name]
            origins[owner] = _as_variable(tensors, name, owner)
        elif name in dropped:
            notes.append(Note(Kind.EXCLUDED, dropped[name], name))
        else:
            tensors_of[name] = tensors[name]
            origins[name] = tensors.origin(name)
    notes += _lacking(tensors, tensors_of, sources)
    broken = {
        averages[name].owner or name if name in averages else name: error
        for name, error in tensors.broken.items()
        if name in averages or name not in dropped
    }
    return replace(
        tensors,
        tensors=tensors_of,
        origins=origins,
        broken=broken,
        notes=tensors.notes + tuple(notes),
    )


def _sources(averages: Mapping[str, Origin]) -> dict[str, str]:
    """Return the average by the name of its variable.

    Raises:
        UsageError: a variable has several.
    """
    sources: dict[str, str] = {}
    for name, origin in averages.items():
        owner = origin.owner or name
        if owner in sources:
            raise UsageError(
                f"`{owner}` has several moving averages: `{sources[owner]}` and `{name}`",
                hint="leave all but one out with --exclude",
            )
        sources[owner] = name
    return sources


def _as_variable(tensors: TensorDict, name: str, owner: str) -> Origin:
    """Return the origin of an average that stands for its variable."""
    average = tensors.origin(name)
    raw = tensors.origin(owner) if owner in tensors else Origin(owner, Role.WEIGHT)
    return average._replace(role=raw.role, owner=None, trainable=raw.trainable)


def _lacking(
    tensors: TensorDict, kept: Iterable[str], sources: Mapping[str, str]
) -> tuple[Note, ...]:
    """Say which variables have no average and keep their own values."""
    model = (Role.WEIGHT, Role.STATE, Role.UNKNOWN)
    lacking = [
        name
        for name in kept
        if name not in sources and name in tensors and tensors.origin(name).role in model
    ]
    if not lacking:
        return ()
    text = f"without a moving average, so their own values are kept: {_listed(lacking)}"
    return (Note(Kind.SOURCE, text),)


def _without(tensors: TensorDict, left_out: Mapping[str, str], *notes: Note) -> TensorDict:
    """Return the tensors without some; `left_out` says why, by name."""
    excluded = [Note(Kind.EXCLUDED, why, name) for name, why in left_out.items()]
    return tensors.select((name for name in tensors if name not in left_out), *excluded, *notes)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
