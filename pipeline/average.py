"""The mean of several checkpoints, tensor by tensor: computed in float64 while it is written.

Float and complex weights, moving averages and optimizer slots are averaged. Everything else is that
of the last model: integers, counters, texts, tables, and the optimizer's own numbers, which say how
far the training is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..converters.casting import FLOATS
from ..converters.dtypes import DType
from ..converters.errors import UsageError
from ..converters.notes import Kind, Note
from ..converters.tensors import CHUNK_BYTES, Role, Tensor, TensorDict, TensorSpec
from .transforms import weighted_sum

__all__ = ["averaged", "decaying_weights"]

SHOWN = 5
_COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)
_OF_THE_LAST = frozenset({Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE})


def decaying_weights(count: int, decay: float) -> list[float]:
    """Return what each of `count` models weighs in their moving average.

    It begins with the first model; each further one moves it `1 - decay` of the way.

    Args:
        count: number of models, in the order of the training.
        decay: from 0, where the last model is all, to below 1.
    """
    return [decay ** (count - 1), *((1 - decay) * decay**age for age in reversed(range(count - 1)))]


def averaged(
    models: Sequence[TensorDict], labels: Sequence[str], weights: Sequence[float]
) -> TensorDict:
    """Return the mean of models; reads no values.

    Args:
        models: at least two, with the same names, dtypes and shapes.
        labels: what to call them in messages.
        weights: what each counts, above 0; their sum does not matter.

    Returns:
        The last model, with mean values.

    Raises:
        UsageError: the models do not hold the same tensors.
    """
    last = models[-1]
    for model, label in zip(models[:-1], labels, strict=False):
        _check_alike(model, last, label, labels[-1])
    means = {
        name: _MeanTensor([model[name] for model in models], weights)
        for name in last
        if _has_mean(last, name)
    }
    text = f"means of {len(models)} models: {len(means)} tensors"
    if len(means) < len(last):
        text += "; the others are those of the last"
    notes = (*last.notes, Note(Kind.SOURCE, text))
    return replace(last, tensors={**last.tensors, **means}, notes=notes)


def _has_mean(model: TensorDict, name: str) -> bool:
    dtype = model[name].spec.dtype
    return (dtype in FLOATS or dtype in _COMPLEX) and model.origin(name).role not in _OF_THE_LAST


def _check_alike(model: TensorDict, last: TensorDict, label: str, last_label: str) -> None:
    """Refuse a model that does not hold the very tensors of the last one.

    Raises:
        UsageError: it lists what differs.
    """
    apart = [f"`{name}` is only in {last_label}" for name in last if name not in model]
    apart += [f"`{name}` is not in {last_label}" for name in model if name not in last]
    apart += [
        f"`{name}` is {_shown(model[name].spec)} and not {_shown(last[name].spec)}"
        for name in last
        if name in model and model[name].spec != last[name].spec
    ]
    if apart:
        more = f"; and {len(apart) - SHOWN} more" if len(apart) > SHOWN else ""
        raise UsageError(
            f"does not hold the same tensors: {'; '.join(apart[:SHOWN])}{more}",
            path=label,
            hint="choose with --include and --exclude what to average",
        )


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype} {spec.shape}"


class _MeanTensor(Tensor):
    """The weighted mean of tensors of one dtype and shape; in float64, rounded once."""

    __slots__ = ("_inner", "_weights")

    def __init__(self, inner: Sequence[Tensor], weights: Sequence[float]) -> None:
        self.spec = inner[0].spec
        self._inner = tuple(inner)
        self._weights = tuple(weights)

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the means; all tensors are read at the same pace."""
        mean = weighted_sum(self._inner, self._weights, sum(self._weights))
        return mean.chunks(max_bytes)
