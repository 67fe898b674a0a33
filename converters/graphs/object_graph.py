"""Names and roles of the keys of an object-based checkpoint, as its object graph tells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..tensors import Evidence, Origin, Role
from .keras_object_names import names_in_sequential
from .object_roles import Known, ObjectRoles
from .trackables import GRAPH_KEY, KEY_ENDINGS, VALUE, Attribute, ObjectGraph

__all__ = ["GRAPH_KEY", "ObjectGraph", "describe"]


def describe(
    graph: ObjectGraph,
    keys: Iterable[str],
    *,
    readable: bool = True,
    trainable: Mapping[int, bool] | None = None,
    names: Mapping[str, str] | None = None,
) -> dict[str, Origin]:
    """Return, by name, where each tensor of the bundle comes from.

    A readable name is, in this order, the one that is given; the name that its Keras 3 optimizer
    spells out (see `_spelled`); the variable's full name where no other has it, without that of
    the Sequential that is the root; the shortest path to it that avoids optimizers; the checkpoint
    key. No two are the same.

    Args:
        graph: the object graph.
        keys: the keys of the bundle, in order; those that the graph does not know keep theirs.
        readable: whether names are readable ones or the keys themselves.
        trainable: by node, for containers that say so.
        names: by key, for containers that know better ones.
    """
    keys = list(keys)
    entries = _entries(graph, frozenset(keys))
    roles = ObjectRoles(graph, trainable or {})
    full_names = _full_names(entries)
    choices = (
        names or {}, _spelled(graph, entries, roles), _shorter(graph, entries, full_names, roles),
        full_names, _path_names(entries, roles.paths),
    )  # fmt: skip
    names = _unique(keys, *(choices if readable else ()))
    owners = {entry.node: names[key] for key, entry in entries.items()}
    origins = {}
    for key in keys:
        entry = entries.get(key)
        known = roles.of(entry.node, entry.attribute) if entry else Known()
        owner = None if known.owner is None else owners.get(known.owner)
        evidence = Evidence.NONE if known.role is Role.UNKNOWN else Evidence.GRAPH
        origins[names[key]] = Origin(key, known.role, owner, known.trainable, evidence, known.slot)
    return origins


class _Entry(NamedTuple):
    """What the graph says of a key: its node, the attribute, and what part of it the key holds."""

    node: int
    attribute: Attribute
    part: str = ""


def _entries(graph: ObjectGraph, known: frozenset[str]) -> dict[str, _Entry]:
    """Return what the graph says by key."""
    entries = {}
    for number, node in enumerate(graph.nodes):
        for attribute in node.attributes:
            if attribute.key in known:
                entries[attribute.key] = _Entry(number, attribute)
                continue
            for ending, part in KEY_ENDINGS.items():
                if attribute.key + ending in known:
                    entries[attribute.key + ending] = _Entry(number, attribute, part)
    return entries


def _full_names(entries: Mapping[str, _Entry]) -> dict[str, str]:
    named = {key: entry.attribute.full_name for key, entry in entries.items() if not entry.part}
    counts = Counter(named.values())
    return {key: name for key, name in named.items() if name and counts[name] == 1}


def _shorter(
    graph: ObjectGraph,
    entries: Mapping[str, _Entry],
    full_names: Mapping[str, str],
    roles: ObjectRoles,
) -> dict[str, str]:
    keys = {entries[key].node: key for key in full_names}
    named = {node: full_names[key] for node, key in keys.items()}
    return {
        keys[node]: name for node, name in names_in_sequential(graph, named, roles.paths).items()
    }


def _spelled(
    graph: ObjectGraph, entries: Mapping[str, _Entry], roles: ObjectRoles
) -> dict[str, str]:
    """Return the names of variables as their Keras 3 optimizer spells them.

    Keras 3 gives all layers of a subclassed model the full names of one, `sub/kernel`, but calls
    their slots `adam/sub_dense_2_kernel_momentum`: the variable is `sub/dense_2/kernel`. Slashes
    inside the layer's own path are lost as underscores.
    """
    names: dict[str, str] = {}
    keys = {entry.node: key for key, entry in entries.items()}
    for slot, known in roles.listed.items():
        if known.owner not in keys or keys[known.owner] in names:
            continue
        full_name = entries[keys[known.owner]].attribute.full_name
        for attribute in graph.nodes[slot].attributes:
            name = _respelled(full_name, attribute.full_name.rpartition("/")[2])
            if name:
                names[keys[known.owner]] = name
    return names


def _respelled(full_name: str, slot: str) -> str | None:
    """Return `sub/dense_2/kernel` for `sub/kernel` and `sub_dense_2_kernel_momentum`."""
    scope, _, leaf = full_name.rpartition("/")
    start, end = f"{scope.replace('/', '_')}_", slot.rfind(f"_{leaf}_")
    if not scope or not slot.startswith(start) or end <= len(start):
        return None
    return f"{scope}/{slot[len(start) : end]}/{leaf}"


def _path_names(
    entries: Mapping[str, _Entry], paths: Mapping[int, tuple[str, ...] | None]
) -> dict[str, str]:
    names = {}
    for key, (number, attribute, part) in entries.items():
        own = () if attribute.name == VALUE else (part or attribute.name,)
        path = paths.get(number)
        if path:
            names[key] = "/".join((*path, *own))
    return names


def _unique(keys: list[str], *choices: Mapping[str, str]) -> dict[str, str]:
    """Give each key the first choice that no other key's choice is; the key itself at last.

    A name that is also the key of another tensor is no choice either, nor one that a checkpoint
    keeps for itself.
    """
    names: dict[str, str] = {}
    taken = {*keys, "", GRAPH_KEY}
    for choice in choices:
        open_keys = [key for key in keys if key not in names and key in choice]
        counts = Counter(choice[key] for key in open_keys)
        for key in open_keys:
            name = choice[key]
            if counts[name] == 1 and (name not in taken or name == key):
                names[key] = name
                taken.add(name)
    return {key: names.get(key, key) for key in keys}
