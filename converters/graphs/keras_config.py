"""The config of a Keras model, read as data: which object holds which, and what they are called.

`config.json` nests objects as {"class_name", "config", "module", "registered_name"}. The weights
file names groups after Python attributes (`cell`, `forward_layer`) and, inside a list such as
`layers`, after classes with a counter (`dense`, `dense_1`). Both are walked side by side: this
module tells, for an object of the config, the group path of each object below it.

Specified by keras/src/saving/saving_lib.py (v3.15.0: _walk_saveable, _save_container_state) and
keras/src/utils/naming.py (to_snake_case). No class named in a config is ever imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

__all__ = [
    "Layer", "children", "class_of_group", "inner", "is_model", "major_of", "optimizer", "parse",
    "snake_case",
]  # fmt: skip

Children = dict[str, "Layer"]

_LIBRARIES = ("keras", "tf_keras")
# Classes whose name in a config is not that of the class itself (keras 3.15, keras_export).
_CLASSES = {"GroupQueryAttention": "GroupedQueryAttention"}
MAX_DEPTH = 64  # of models in models; the groups of an HDF5 file nest no deeper either


class Layer(NamedTuple):
    """An object of the config.

    Attributes:
        kind: its class.
        name: the part it adds to the names of its variables; empty where it adds none.
        config: what its class keeps of it.
        library: whether it is one of Keras's own classes and not one that only has the same name.
        trainable: what the config says, for it and what is above it; None where it says nothing.
        keras: major version of the Keras that wrote it.
        build: what it was built with, such as its input shape.
    """

    kind: str
    name: str
    config: Mapping[str, Any]
    library: bool = True
    trainable: bool | None = None
    keras: int = 3
    build: Mapping[str, Any] = {}

    @property
    def mode(self) -> str | None:
        """How it is quantised, such as `int8` or `int4/128`; None where it is not."""
        return _text(_mapping(_mapping(self.config.get("dtype")).get("config")).get("mode"))


def snake_case(name: str) -> str:
    """Return the group name of a class; keras/src/utils/naming.py, to_snake_case."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def class_of_group(group: str) -> str:
    """Return the snake-case class of a group inside a list, without its counter."""
    return re.sub(r"_\d+$", "", group)


def parse(data: object, keras: int) -> Layer | None:
    """Return the model of a config, or None if it is no config of an object.

    Args:
        data: the JSON of `config.json`.
        keras: major version of the Keras that wrote it.
    """
    return _layer(data, keras, None)


def optimizer(data: object, keras: int) -> Layer | None:
    """Return the optimizer the model was compiled with; tf_keras may keep only its class."""
    found = _mapping(_mapping(data).get("compile_config")).get("optimizer")
    if isinstance(found, str):
        return Layer(found, "", {}, keras=keras)
    return _layer(found, keras, None)


def inner(parent: Layer, key: str) -> Layer | None:
    """Return the object that a config keeps under a key."""
    return _layer(parent.config.get(key), parent.keras, parent.trainable)


def major_of(data: object) -> int:
    """Return the major version of the Keras that wrote a config; tf_keras counts as 2.

    The two differ in the module of the model, in what an input is made of and in dtype policies.
    """
    content = _mapping(data)
    module = _text(content.get("module")) or ""
    if module.startswith(("tf_keras.", "keras.engine.", "keras.src.engine.")):
        return 2
    for item in _items(_mapping(content.get("config")).get("layers")):
        config = _mapping(_mapping(item).get("config"))
        policy = _mapping(config.get("dtype")).get("class_name")
        if "batch_input_shape" in config or policy == "Policy":
            return 2
        if "batch_shape" in config or policy == "DTypePolicy":
            return 3
    return 3


def is_model(layer: Layer) -> bool:
    """Tell whether an object is a model made of the layers in its config."""
    return layer.kind in ("Functional", "Sequential", "Model") or "input_layers" in layer.config


def children(parent: Layer) -> Children:
    """Return the objects right below one, by the path of their group below its own.

    They are in the order of creation, which is that of trainable variables.
    """
    rule = _RULES.get(parent.kind) if parent.library else None
    if rule is None and "input_layers" in parent.config:
        rule = _of_model  # a subclass of Functional keeps the config of one
    return {} if rule is None else rule(parent)


def _layer(data: object, keras: int, above: bool | None) -> Layer | None:
    content = _mapping(data)
    kind, config = _text(content.get("class_name")), content.get("config")
    if not kind or not isinstance(config, dict):
        return None
    trainable = config.get("trainable")
    if not isinstance(trainable, bool) or above is False:
        trainable = above
    return Layer(
        kind,
        _text(config.get("name")) or _text(content.get("name")) or "",
        config,
        _is_library(content),
        trainable,
        keras,
        _mapping(content.get("build_config")),
    )


def _is_library(content: Mapping[str, Any]) -> bool:
    """Whether a class is Keras's own; those that users register have `package>Class`."""
    module, registered = content.get("module"), content.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        return False
    if isinstance(module, str):
        return module.partition(".")[0] in _LIBRARIES
    return "module" not in content  # 2.12 and before named none for its own


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


# What is below an object, by its class


def _of_model(parent: Layer) -> Children:
    return dict(_listed(parent, "layers", _layers(parent)))


def _layers(parent: Layer) -> Iterator[object]:
    for item in _items(parent.config.get("layers")):
        content = _mapping(item)
        # Operations such as an addition are in the config and are no layers.
        if "ops" in (_text(content.get("module")) or "").split("."):
            continue
        if parent.kind == "Sequential" and content.get("class_name") == "InputLayer":
            continue
        yield item


def _listed(parent: Layer, group: str, items: Iterator[object]) -> Iterator[tuple[str, Layer]]:
    """Yield the objects of a list with their groups, counted by class within the list."""
    counts: dict[str, int] = {}
    for item in items:
        layer = _layer(item, parent.keras, parent.trainable)
        if layer is None:
            continue
        name = snake_case(_CLASSES.get(layer.kind, layer.kind))
        count = counts[name] = counts.get(name, -1) + 1
        yield f"{group}/{name}_{count}" if count else f"{group}/{name}", layer


def _of_rnn(parent: Layer) -> Children:
    """A ready-made recurrent layer makes its cell itself, with its own config."""
    kind = f"{parent.kind}Cell"
    return {"cell": parent._replace(kind=kind, name=_cell_name(parent.kind, parent.keras))}


def _cell_name(kind: str, keras: int) -> str:
    if kind.startswith("ConvLSTM"):
        return "conv_lstm_cell" if keras >= 3 else ""
    return snake_case(f"{kind}Cell")


def _of_custom_rnn(parent: Layer) -> Children:
    return _single(parent, "cell", "cell")


def _of_stacked_cells(parent: Layer) -> Children:
    return dict(_listed(parent, "cells", iter(_items(parent.config.get("cells")))))


def _of_bidirectional(parent: Layer) -> Children:
    forward = inner(parent, "layer")
    if forward is None:
        return {}
    given = inner(parent, "backward_layer")
    # Keras 3 stores the forward layer under its new name, tf_keras under the one it was given.
    plain = forward.name.removeprefix("forward_") if parent.keras >= 3 else forward.name
    backward = f"backward_{plain}"
    if given is not None:
        backward = given.name if parent.keras >= 3 else f"backward_{given.name}"
    return {
        "forward_layer": forward._replace(name=f"forward_{plain}"),
        "backward_layer": (given or forward)._replace(name=backward),
    }


def _of_time_distributed(parent: Layer) -> Children:
    found = _single(parent, "layer", "layer")
    if parent.keras >= 3:
        return found
    return {path: layer._replace(name="") for path, layer in found.items()}


def _of_wrapper(parent: Layer) -> Children:
    return _single(parent, "layer", "layer")


def _single(parent: Layer, key: str, group: str) -> Children:
    layer = inner(parent, key)
    return {} if layer is None else {group: layer}


def _of_attention(parent: Layer) -> Children:
    """Four dense layers that are in no config."""
    private = "_" if parent.keras < 3 or parent.kind == "GroupQueryAttention" else ""
    parts = {"query": "query", "key": "key", "value": "value", "output": "attention_output"}
    common = {
        "bias_axes": bool(parent.config.get("use_bias", True)),
        "dtype": parent.config.get("dtype"),
    }
    below: Children = {}
    for part, name in parts.items():
        # What the kernel's shape follows from: axes that are summed over, number of heads.
        shape = {"summed": 2 if part == "output" else 1, "heads": _heads(parent, part)}
        layer = parent._replace(kind="EinsumDense", name=name, config=common | shape, build={})
        below[f"{private}{part}_dense"] = layer
    return below


def _heads(parent: Layer, part: str) -> object:
    if parent.kind == "MultiHeadAttention":
        return parent.config.get("num_heads")
    grouped = part in ("key", "value")
    return parent.config.get("num_key_value_heads" if grouped else "num_query_heads")


_RULES: dict[str, Callable[[Layer], Children]] = {
    "Functional": _of_model,
    "Sequential": _of_model,
    "Model": _of_model,
    "LSTM": _of_rnn,
    "GRU": _of_rnn,
    "SimpleRNN": _of_rnn,
    "ConvLSTM1D": _of_rnn,
    "ConvLSTM2D": _of_rnn,
    "ConvLSTM3D": _of_rnn,
    "RNN": _of_custom_rnn,
    "StackedRNNCells": _of_stacked_cells,
    "Bidirectional": _of_bidirectional,
    "TimeDistributed": _of_time_distributed,
    "SpectralNormalization": _of_wrapper,
    "MultiHeadAttention": _of_attention,
    "GroupQueryAttention": _of_attention,
}
