"""Checkpoints among the names of the files in a folder.

Only names are looked at; whether it is a checkpoint, and of which version, whoever opens it tells.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator

from ..registry import Group

__all__ = ["bundle_groups", "slice_groups"]

STATE = "checkpoint"
_BUNDLE = re.compile(r"(?P<prefix>.+)\.(?P<part>index|meta|data-\d{5}-of-\d{5})", re.DOTALL)
_SLICES = re.compile(r"(?P<prefix>.+)-\d{5}-of-(?P<count>\d{5})", re.DOTALL)
_STEP = re.compile(r"(?P<stem>.+?)-(?P<step>\d{1,18})", re.DOTALL)


def bundle_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield the checkpoints V2, those without an index too: opening them tells what is missing."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    parts: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        match = _BUNDLE.fullmatch(name)
        if match:
            found[match["prefix"]].add(name)
            parts[match["prefix"]].add(match["part"])
    for prefix, members in found.items():
        if parts[prefix] != {"meta"}:  # the graph of a V1 checkpoint, or of none
            yield _group(prefix, prefix, members)
    yield from _state_files(names)


def slice_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield the checkpoints V1 of several files, or of one with a graph or a step."""
    names = frozenset(names)
    found: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        match = _SLICES.fullmatch(name)
        if match:
            found[match["prefix"], match["count"]].add(name)
        elif f"{name}.meta" in names or _STEP.fullmatch(name):
            yield _group(name, name, {name, f"{name}.meta"} & names)
    for (prefix, count), members in found.items():
        graph = {f"{prefix}.meta"} & names
        yield _group(f"{prefix}-?????-of-{count}", prefix, members | graph)
    yield from _state_files(names)


def _state_files(names: Collection[str]) -> Iterator[Group]:
    if STATE in names:
        yield Group(STATE, companions=frozenset({STATE}))


def _group(name: str, prefix: str, members: Collection[str]) -> Group:
    step = _STEP.fullmatch(prefix)
    return Group(
        name,
        frozenset(members),
        prefix,
        int(step["step"]) if step else None,
        frozenset({STATE}),
    )
