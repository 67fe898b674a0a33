"""Other names of tensors in an object graph: an object may be held by several others.

Weights are tied so. What Keras and TensorFlow hold for their own use, such as the list of all
variables of a model, gives no name.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from itertools import islice

from ..tensors import Origin, Role
from .trackables import VALUE, ObjectGraph

__all__ = ["aliases"]

MAX_DEPTH = 100  # objects on a path; a chain of all nodes would take memory by their square
MAX_NAMES = 8  # of one tensor; an object may be held by all others
# Seen in files of TensorFlow 2.2 to 2.21 and Keras 3.15; some begin with an underscore.
_LISTS = frozenset({
    "all_variables", "keras_api", "layers", "metrics", "non_trainable_variables",
    "regularization_losses", "trainable_variables", "variables",
})  # fmt: skip
# Of these nobody asks for other names, and an optimizer is often held twice.
_TRAINING = (Role.SLOT, Role.OPTIMIZER, Role.COUNTER)
_COUNTED = re.compile(r"layer(_with_weights)?-\d+")

Path = tuple[str, ...]


def aliases(graph: ObjectGraph, origins: Mapping[str, Origin]) -> dict[str, list[str]]:
    """Return the other paths to tensors that have several, by name.

    Args:
        graph: the object graph.
        origins: by name; what a tensor is called is not listed again.
    """
    paths, others = _paths(graph)
    if not others:
        return {}
    keys = {
        attribute.key: paths[number]
        for number, node in enumerate(graph.nodes)
        for attribute in node.attributes
        if attribute.name == VALUE and number in paths
    }
    found = {
        name: list(islice(_ways(keys.get(origin.key, ()), others), MAX_NAMES))
        for name, origin in origins.items()
        if origin.role not in _TRAINING
    }
    return {
        name: [way for way in ways if way != name] for name, ways in found.items() if len(ways) > 1
    }


def _paths(graph: ObjectGraph) -> tuple[dict[int, Path], dict[Path, list[Path]]]:
    """Return the shortest path to each object, and by such paths the other ones."""
    paths: dict[int, Path] = {0: ()}
    others: dict[Path, list[Path]] = defaultdict(list)
    waiting = deque([0] if graph.nodes else [])
    while waiting:
        number = waiting.popleft()
        above = paths[number]
        for child, name in graph.nodes[number].children:
            if name.lstrip("_") in _LISTS or _COUNTED.fullmatch(name):
                continue
            if child not in paths and len(above) < MAX_DEPTH:
                paths[child] = (*above, name)
                waiting.append(child)
            elif child in paths and above[: len(paths[child])] != paths[child]:  # no way back
                others[paths[child]].append((*above, name))
    return paths, others


def _ways(path: Path, others: Mapping[Path, list[Path]]) -> Iterator[str]:
    """Yield the path itself, and those that come to it at one of its objects."""
    yield "/".join(path)
    for n in range(1, len(path) + 1):
        for other in others.get(path[:n], ()):
            yield "/".join((*other, *path[n:]))
