"""What Keras configs say about optimizers, for `TensorDict.details`: kind and parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..containers.strict_json import parse_json
from ..errors import ConvertError
from .keras_config import Layer, inner

__all__ = ["optimizers_of_layer", "optimizers_of_metadata"]

METADATA_BYTES = 16 << 20
MOST_WRAPPED = 4
_WRAPPED, _ONCE_WRAPPED = "inner_optimizer", "optimizer"  # of a LossScaleOptimizer
_NO_PARAMETERS = frozenset({
    "name", "is_legacy_optimizer", "jit_compile", _WRAPPED, _ONCE_WRAPPED,
})  # fmt: skip


def optimizers_of_layer(optimizer: Layer | None) -> list[dict[str, Any]]:
    """Return what a config says of an optimizer, and of the one that it wraps."""
    found: list[dict[str, Any]] = []
    while optimizer is not None and len(found) < MOST_WRAPPED:
        wrapped = inner(optimizer, _WRAPPED) or inner(optimizer, _ONCE_WRAPPED)
        parameters = {
            "learning_rate" if name == "lr" else name: value  # as it was until TensorFlow 2.2
            for name, value in optimizer.config.items()
            if name not in _NO_PARAMETERS
        }
        found.append({"kind": optimizer.kind, "parameters": parameters})
        optimizer = wrapped
    return found


def optimizers_of_metadata(texts: Iterable[str]) -> list[dict[str, Any]]:
    """Return what the metadata of the Keras objects in a SavedModel says.

    Args:
        texts: JSON of each object, the model first; one that cannot be read says nothing.
    """
    from .keras_h5_names import optimizer_of

    for text in texts:
        if '"training_config"' not in text:
            continue
        try:
            content = parse_json(text.encode(), max_bytes=METADATA_BYTES)
        except (ConvertError, UnicodeError):
            continue
        training = content.get("training_config") if isinstance(content, dict) else None
        config = training.get("optimizer_config") if isinstance(training, dict) else None
        if config is not None:
            return optimizers_of_layer(optimizer_of(config, 2))
    return []
