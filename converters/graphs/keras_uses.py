"""What a Keras config says about each weight: the class of its layer is what it is used for.

Variables are found under any of the names that files give them (`keras_layout.py`). A layer of a
class that is not Keras's own says nothing. A dense layer that reads what was flattened is told:
its rows are in the order of the axes, which another framework may have in another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, NamedTuple

from ..tensors import Evidence
from ..uses import LayerKind, Use, Uses
from .keras_config import Layer, children
from .keras_flatten import flattened_layers
from .keras_layout import VARS, Place, layout_of_config

__all__ = ["uses_of_config"]

_KINDS = {
    "Dense": LayerKind.DENSE,
    "EinsumDense": LayerKind.EINSUM_DENSE,
    "Embedding": LayerKind.EMBEDDING,
    "ReversibleEmbedding": LayerKind.EMBEDDING,
    "BatchNormalization": LayerKind.BATCH_NORM,
    "SyncBatchNormalization": LayerKind.BATCH_NORM,
    "LayerNormalization": LayerKind.LAYER_NORM,
    "GroupNormalization": LayerKind.GROUP_NORM,
    "RMSNormalization": LayerKind.RMS_NORM,
    "PReLU": LayerKind.PRELU,
    "LSTM": LayerKind.LSTM,
    "GRU": LayerKind.GRU,
    "SimpleRNN": LayerKind.RNN,
    "MultiHeadAttention": LayerKind.ATTENTION,
    **{
        f"{name}{dims}D{suffix}": kind
        for dims in (1, 2, 3)
        for name, suffix, kind in (
            ("Conv", "", LayerKind.CONV),
            ("Conv", "Transpose", LayerKind.CONV_TRANSPOSE),
            ("DepthwiseConv", "", LayerKind.DEPTHWISE),
            ("SeparableConv", "", LayerKind.SEPARABLE),
        )
    },
}
_RECURRENT = (LayerKind.LSTM, LayerKind.GRU, LayerKind.RNN)
_ATTENTION_PARTS = {"attention_output": "output"}
_FACTS = ("epsilon", "momentum", "equation")


class _Object(NamedTuple):
    """An object of the config that may have variables.

    Attributes:
        owner: the layer that it is, or is a part of.
        path: names of the owner and the objects above it.
        part: what comes before the names of its variables in those of the owner's parts.
        direction: `forward` or `backward`, where it is a half of a bidirectional layer.
    """

    owner: Layer
    path: tuple[str, ...]
    part: str = ""
    direction: str = ""


def uses_of_config(model: Layer, names: Collection[str]) -> Uses:
    """Return what a config says of the tensors of a model.

    Args:
        model: from the config.
        names: of the model's tensors, without those of its optimizer.
    """
    below = (_below(path, layer) for path, layer in children(model).items())
    objects = dict(chain.from_iterable(below))
    flattened = flattened_layers(model)
    known: dict[str, Use] = {}
    undecided: dict[str, str] = {}
    for place in layout_of_config(model, names).places:
        name = next((each for each in (place.name, *place.others) if each in names), None)
        if name is None or place.alias or name in known:
            continue
        found = objects[place.key.rpartition(f"/{VARS}/")[0]]
        kind = _KINDS.get(found.owner.kind)
        if kind is None:
            undecided[name] = f"nothing is known of the layout of {found.owner.kind}"
        else:
            known[name] = _use(found, kind, place, flattened.get(found.path))
    for name in names:
        if name not in known:
            undecided.setdefault(name, "the config does not tell what it is")
    return Uses(known, undecided)


def _below(group: str, layer: Layer, above: tuple[str, ...] = ()) -> Iterator[tuple[str, _Object]]:
    """Yield a layer and all objects below it, by their groups."""
    path = (*above, layer.name) if layer.name else above
    kind = _KINDS.get(layer.kind) if layer.library else None
    yield group, _Object(layer, path)
    for below, child in children(layer).items():
        inner = f"{group}/{below}"
        if kind in _RECURRENT:
            yield inner, _Object(layer, path)
        elif kind is LayerKind.ATTENTION:
            part = _ATTENTION_PARTS.get(child.name, child.name)
            yield inner, _Object(layer, path, f"{part}/")
        elif layer.kind == "Bidirectional" and _KINDS.get(child.kind) in _RECURRENT:
            found = _Object(child, path, direction=below.removesuffix("_layer"))
            yield inner, found
            yield from ((f"{inner}/{cell}", found) for cell in children(child))
        else:
            yield from _below(inner, child, path)


def _use(found: _Object, kind: LayerKind, place: Place, flattened: tuple[int, ...] | None) -> Use:
    config = found.owner.config
    facts: dict[str, Any] = {key: config[key] for key in _FACTS if config.get(key) is not None}
    if flattened is not None:
        facts |= {"flattened": True, **({"axes": list(flattened)} if flattened else {})}
    if found.direction:
        facts["direction"] = found.direction
    if kind is LayerKind.LSTM:
        facts["gates"] = "ifco"
    if kind is LayerKind.GRU:
        facts |= {"gates": "zrh", "reset_after": config.get("reset_after") is True}
    leaf = place.name.rpartition("/")[2]
    if kind is LayerKind.DEPTHWISE and leaf.endswith("kernel"):
        leaf = "kernel"  # which tf_keras calls depthwise_kernel
    layer = "/".join(found.path)
    return Use(layer, kind, f"{found.part}{leaf}", Evidence.CONFIG, found.owner.kind, facts)
