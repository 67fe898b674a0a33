"""The mean of several checkpoints, tensor by tensor: computed in float64 while it is written.

Float and complex weights, moving averages and optimizer slots are averaged. Everything else is that
of the last model: integers, counters, texts, tables, and the optimizer's own numbers, which say how
far the training is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..converters.casting import FLOATS, CastTensor
from ..converters.dtypes import DType
from ..converters.errors import UsageError
from ..converters.notes import Kind, Note
from ..converters.tensors import CHUNK_BYTES, Role, Tensor, TensorDict, TensorSpec
from .blocks import Feed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["averaged", "decaying_weights"]

SHOWN = 5
_WIDE = {DType.COMPLEX64: DType.COMPLEX128, DType.COMPLEX128: DType.COMPLEX128}
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
    return (dtype in FLOATS or dtype in _WIDE) and model.origin(name).role not in _OF_THE_LAST


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
        wide = _WIDE.get(self.spec.dtype, DType.FLOAT64)
        mean = _WideMean([_as(each, wide) for each in self._inner], self._weights)
        return _as(mean, self.spec.dtype).chunks(max_bytes)


class _WideMean(Tensor):
    """The weighted mean of float64 or complex128 tensors."""

    __slots__ = ("_inner", "_weights")

    def __init__(self, inner: Sequence[Tensor], weights: Sequence[float]) -> None:
        self.spec = inner[0].spec
        self._inner = inner
        self._weights = weights

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the means."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        step = max(max_bytes // itemsize, 1) * itemsize
        feeds = [Feed(each, step) for each in self._inner]
        total = sum(self._weights)
        for at in range(0, self.nbytes, step):
            mean = self._sum(feeds, min(step, self.nbytes - at))
            np.divide(mean, total, out=mean)
            yield mean.view(np.uint8).data
        for feed in feeds:
            feed.finish()

    def _sum(self, feeds: Sequence[Feed], count: int) -> np.ndarray:
        import numpy as np

        # Parts of complex numbers are averaged each by itself.
        whole = np.zeros(count // 8)
        with np.errstate(all="ignore"):  # an infinity is what the mean is
            for feed, weight in zip(feeds, self._weights, strict=True):
                whole += np.frombuffer(feed.take(count), np.float64) * weight
        return whole


def _as(tensor: Tensor, dtype: DType) -> Tensor:
    return tensor if tensor.spec.dtype is dtype else CastTensor(tensor, dtype)
