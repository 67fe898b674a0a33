"""Which Keras layer a tensor belongs to, as far as a config beside the weights says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...converters.errors import UsageError
from ...converters.graphs.keras_given import given
from ...converters.tensors import TensorDict

__all__ = ["layers_of"]


def layers_of(tensors: TensorDict) -> Mapping[str, str]:
    """Return the class of its layer by the key of each tensor, where the config names one.

    It is that of the innermost object in the tensor's name that the config calls so: of
    `lstm/lstm_cell/kernel` that is the LSTM.

    Raises:
        UsageError: there is no config.
    """
    config = given(tensors, None)
    if config is None:
        raise UsageError(
            "a rule selects by `layer`, and there is no Keras config beside the weights",
            hint="select by names, with `match` alone",
        )
    classes = _classes(config.parsed)
    found = {}
    for name in tensors:
        above = name.split("/")[:-1]
        layer = next((classes[part] for part in reversed(above) if part in classes), None)
        if layer:
            found[tensors.origin(name).key] = layer
    return found


def _classes(config: Any) -> dict[str, str]:
    """Return the class of each layer by its name; none where two of one name differ."""
    found: dict[str, set[str]] = {}
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            kind, inside = value.get("class_name"), value.get("config")
            name = inside.get("name") if isinstance(inside, dict) else None
            if isinstance(kind, str) and isinstance(name, str):
                found.setdefault(name, set()).add(kind)
    return {name: next(iter(kinds)) for name, kinds in found.items() if len(kinds) == 1}
