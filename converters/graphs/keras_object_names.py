"""Names that Keras would give the variables of an object graph, where the graph tells more.

Two things keep a variable's full name from being what `.keras` and `.h5` files say:

    sq/a/kernel     Keras 3 puts the name of a Sequential before those of its layers
    c_in/kernel     Keras leaves out the model `inner` that holds the layer

The first is seen in the graph alone: every object on the way to a variable adds one part to its
name at most, so that a name with more parts than that begins with the Sequential's. The second
needs the names of the models, which SavedModels of tf_keras note (`keras_metadata.pb`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from ..containers.keras_metadata import NAME_CHARACTERS, KerasObject
from .trackables import VALUE, ObjectGraph

__all__ = ["names_in_models", "names_in_sequential"]

Path = tuple[str, ...]

_MODELS = frozenset({"network", "sequential", "model"})
_SEQUENTIAL = "_functional"  # the child by which one of Keras 3 is known
_LAYERS = frozenset({"_operations", "_layers"})
_MAX_DEPTH = 64  # of models in models
_MAX_VISITS = 1 << 20  # of nodes; 1,000 layers of 1,000 objects each


# Keras 3


def names_in_sequential(
    graph: ObjectGraph, full_names: Mapping[int, str], paths: Mapping[int, Path | None]
) -> dict[int, str]:
    """Return by node the full names that begin with the model's own, without it.

    The model is the root, or all that the root holds, and a Sequential of Keras 3. A layer counts
    if the names of all its variables begin with the same two parts.

    Args:
        graph: the object graph.
        full_names: of variables, by node.
        paths: from the root, by node.
    """
    if not full_names:
        return {}
    # `Checkpoint.save` has added a counter: its own variables are no model's.
    is_saved = any(name == "save_counter" for _, name in graph.nodes[0].children)
    places = {
        node: path
        for node in full_names
        if (path := paths.get(node)) and not (is_saved and len(path) == 1)
    }
    layers: dict[Path, list[int]] = defaultdict(list)
    for node, path in places.items():
        layers[_layer(path)].append(node)
    if () in layers or not _is_sequential(graph, {_model(layer) for layer in layers}):
        return {}
    shorter: dict[int, str] = {}
    for layer, nodes in layers.items():
        names = {node: full_names[node].split("/") for node in nodes}
        same = len({tuple(name[:2]) for name in names.values()}) == 1
        if same and all(len(names[n]) > 1 + _objects(places[n][len(layer) :]) for n in nodes):
            shorter |= {node: "/".join(name[1:]) for node, name in names.items()}
    taken = set(full_names.values())
    return {node: name for node, name in shorter.items() if name not in taken}


def _layer(path: Path) -> Path:
    """Return the part of a path that leads to the first layer in a list; none if it has none."""
    for at in range(min(3, len(path) - 2)):
        if path[at] in _LAYERS and path[at + 1].isdecimal():
            return path[: at + 2]
    return ()


def _model(layer: Path) -> Path:
    """Return the path to the model that has a layer at a path."""
    above = layer[:-2]
    return above[:-1] if above[-1:] == (_SEQUENTIAL,) else above


def _is_sequential(graph: ObjectGraph, models: set[Path]) -> bool:
    """Whether there is one model, which is a Sequential and the root or right below it."""
    if len(models) != 1 or len(path := models.pop()) > 1:
        return False
    holders = {child for child, name in graph.nodes[0].children if (name,) == path} if path else {0}
    return any(
        name == _SEQUENTIAL for holder in holders for _, name in graph.nodes[holder].children
    )


def _objects(path: Path) -> int:
    """Return how many objects a path passes; an item of a list is one, the list itself none."""
    following = (*path[1:], "")
    return sum(
        part.isdecimal() or (part != _SEQUENTIAL and not after.isdecimal())
        for part, after in zip(path, following, strict=True)
    )


# tf_keras


def names_in_models(graph: ObjectGraph, objects: Iterable[KerasObject]) -> dict[str, str]:
    """Return by key the names of variables: models, outermost first, the layer, the variable.

    The root's own name is no part. What is below several layers has no name here.

    Args:
        graph: the object graph.
        objects: what tf_keras says about its nodes.
    """
    known = {each.node: each for each in objects if 0 < len(each.name) < NAME_CHARACTERS}
    names: dict[str, set[str]] = defaultdict(set)
    visits = 0
    for models, layer in _layers(graph, known):
        for node in _below(graph, layer):
            visits += 1
            if visits > _MAX_VISITS:
                return {}
            for attribute in graph.nodes[node].attributes:
                if attribute.name == VALUE and attribute.full_name:
                    own = _from_layer(attribute.full_name, known[layer].name)
                    names[attribute.key].add("/".join((*models, own)))
    return {key: found.pop() for key, found in names.items() if len(found) == 1}


def _layers(graph: ObjectGraph, known: Mapping[int, KerasObject]) -> Iterator[tuple[Path, int]]:
    """Yield every layer with the names of the models that hold it."""
    if 0 not in known or known[0].kind not in _MODELS:
        return
    ways = {0: 1}  # to a model; two are as good as many
    waiting: list[tuple[int, Path, frozenset[int]]] = [(0, (), frozenset({0}))]
    while waiting:
        model, above, passed = waiting.pop()
        for node in _held(graph, model, known):
            if known[node].kind not in _MODELS:
                yield above, node
            elif node not in passed and len(above) < _MAX_DEPTH and ways.setdefault(node, 0) < 2:
                ways[node] += 1
                waiting.append((node, (*above, known[node].name), passed | {node}))


def _held(graph: ObjectGraph, model: int, known: Mapping[int, KerasObject]) -> set[int]:
    """Return the layers and models that a model holds itself or in lists."""
    waiting, seen = [model], {model}
    held = set()
    while waiting:
        for child, name in graph.nodes[waiting.pop()].children:
            if child in seen or name == "keras_api":
                continue
            seen.add(child)
            if child in known:
                held.add(child)
            elif graph.nodes[child].children and _is_list(graph, child):
                waiting.append(child)
    return held


def _is_list(graph: ObjectGraph, node: int) -> bool:
    return all(name.isdecimal() for _, name in graph.nodes[node].children)


def _below(graph: ObjectGraph, layer: int) -> Iterator[int]:
    waiting, seen = [layer], {layer}
    while waiting:
        node = waiting.pop()
        yield node
        for child, name in graph.nodes[node].children:
            if child not in seen and name != "keras_api":
                seen.add(child)
                waiting.append(child)


def _from_layer(full_name: str, layer: str) -> str:
    """Return a name from the layer's on; the layer's before it where it is no part."""
    at = f"/{full_name}".find(f"/{layer}/")
    return full_name[at:] if at >= 0 else f"{layer}/{full_name}"
