"""What a format knows about a model besides its tensors, as lines for people.

The keys are those of `TensorDict.details` that mean the same in every format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..converters.errors import printable
from ..converters.tensors import TensorDict
from .signatures import signature_lines

__all__ = ["fact_lines"]

_SHOWN = 8  # parameters of an optimizer


def fact_lines(tensors: TensorDict) -> Iterator[str]:
    """Yield a line for each fact, labels aligned, then one for each signature."""
    facts = list(_facts(tensors.details))
    width = max((len(label) for label, _ in facts), default=0)
    for label, text in facts:
        yield printable(f"{label:<{width}}  {text}")
    yield from signature_lines(tensors)


def _facts(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    producer = _joined(details, "producer", "producer_version")
    if producer:
        yield "producer", producer
    for key in ("kind", "shards", "step"):
        if key in details:
            yield key, str(details[key])
    model = _joined(details, "model", "model_name")
    if model:
        yield "model", model
    for optimizer in details.get("optimizers", ()):
        yield "optimizer", _optimizer(**optimizer)


def _joined(details: Mapping[str, Any], *keys: str) -> str:
    return " ".join(str(details[key]) for key in keys if details.get(key))


def _optimizer(kind: str, parameters: Mapping[str, object]) -> str:
    """Return an optimizer as `Adam: learning_rate 0.001, beta_1 0.9`."""
    told = {name: value for name, value in parameters.items() if value is not None}
    shown = [f"{name} {_short(value)}" for name, value in told.items()]
    more = [f"{len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
    return ": ".join(filter(None, [kind, ", ".join([*shown[:_SHOWN], *more])]))


def _short(value: object) -> str:
    """Return a number to six digits, a class by its name, and of all else that it is there."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return str(value.get("class_name") or "...")
    return value if isinstance(value, str) else "..."
