"""Red flags: values that are unusual in a model, found from the statistics of its tensors.

A warning is what hardly any sound model has; a note is what many have and is worth a look. So
what optimizers and counters hold is flagged only where it is no number. Tensors are read again
only for what statistics cannot tell, and only those that may have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..converters.dtypes import DType
from ..converters.findings import Finding, Level
from ..converters.tensors import Origin, Role, Tensor, TensorDict
from .rereading import dead_slices, duplicates
from .stats import Stats
from .untrained import untrained

__all__ = ["RULES", "value_flags"]

# By rule, what it is about.
RULES: Mapping[str, str] = {
    "value/nan": "A tensor holds values that are not a number.",
    "value/infinite": "A tensor holds infinite values.",
    "value/zero": "All values of a weight are zero.",
    "value/constant": "All values of a weight are the same, and not zero.",
    "value/dead-slices": "Whole rows, columns or channels of a weight are zero.",
    "value/f16-overflow": "A weight holds values that float16 cannot.",
    "value/duplicate": "A weight is the same as another: they are likely tied.",
    "value/negative-variance": "A moving variance is below zero.",
    "value/never-trained": "A model is as it was initialised.",
    "value/initial-statistics": "Moving means and variances are as they were initialised.",
}

F16_MAX = 65504.0
# No layer divides by less than the root of this much, so what is nearer to zero does no harm:
# running averages of float32 get there by rounding.
EPSILON = 1e-6
_MODEL = {Role.WEIGHT, Role.STATE, Role.AVERAGE, Role.UNKNOWN}
_TIED = {Role.WEIGHT, Role.STATE, Role.UNKNOWN}
MIN_TIED = 16  # elements
_WEIGHTS = {Role.WEIGHT, Role.UNKNOWN}
# Where infinity may be a start, a limit or a mask.
_BESIDE = {Role.CONSTANT, Role.COUNTER, Role.OPTIMIZER, Role.TABLE}
_VARIANCES = re.compile(r"(moving|running)_(variance|var|std|stddev)")
# Unsigned integers are left out: their zero says nothing.
_SIGNED = {DType.INT8, DType.INT4, DType.INT2, DType.QINT8}


def value_flags(
    tensors: TensorDict,
    stats: Mapping[str, Stats],
    jobs: int,
    advance: Callable[[int], None] | None = None,
) -> list[Finding]:
    """Return what is odd about the values of a model, in the order of its tensors.

    Args:
        tensors: the model.
        stats: of its tensors, brief or not; those without are left out.
        jobs: number of threads.
        advance: called with the number of bytes that are read a second time.

    Raises:
        ConvertError: a tensor can be read no more; the error names it.
    """
    values = [
        _Value(name, tensors[name], tensors.origin(name), each) for name, each in stats.items()
    ]
    values = [value for value in values if value.stats.size]
    found = [finding for value in values for finding in _flags(value)]
    found += _dead(tensors, values, jobs, advance)
    found += _duplicated(tensors, values, jobs, advance)
    order = {name: place for place, name in enumerate(tensors)}
    found.sort(key=lambda finding: order[finding.tensor or ""])  # stable
    return [*untrained(tensors, stats), *found]


@dataclass(frozen=True, slots=True)
class _Value:
    name: str
    tensor: Tensor
    origin: Origin
    stats: Stats

    @property
    def is_float(self) -> bool:
        return "float" in self.tensor.spec.dtype.label or "complex" in self.tensor.spec.dtype.label

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight of a kind that no layer initialises to one value."""
        spec = self.tensor.spec
        plain = self.is_float or spec.dtype in _SIGNED
        return self.origin.role in _WEIGHTS and plain and len(spec.shape) > 1 and spec.size > 1

    @property
    def is_constant(self) -> bool:
        return self.stats.finite == self.stats.size and self.stats.minimum == self.stats.maximum

    def finding(self, rule: str, level: Level, text: str) -> Finding:
        return Finding(f"value/{rule}", level, text, self.name)


def _flags(value: _Value) -> Iterator[Finding]:
    stats = value.stats
    if stats.nans:
        level = Level.NOTE if value.origin.role in _BESIDE else Level.WARNING
        text = f"{_share(stats.nans, stats.size)} not a number"
        yield value.finding("nan", level, text)
    if stats.infinities:
        level = Level.NOTE if _may_be_infinite(value) else Level.WARNING
        yield value.finding("infinite", level, f"{_share(stats.infinities, stats.size)} infinite")
    if value.is_matrix and value.is_constant:
        yield _constant(value)
    if _is_beyond_f16(value):
        largest = max(-stats.minimum, stats.maximum)
        text = f"the largest magnitude is {largest:.6g}, and float16 ends at {F16_MAX:g}"
        yield value.finding("f16-overflow", Level.NOTE, text)
    if _is_variance(value) and stats.minimum < 0:
        level = Level.WARNING if stats.minimum < -EPSILON else Level.NOTE
        text = f"a variance is negative: {stats.minimum:.6g}"
        yield value.finding("negative-variance", level, text)


def _share(count: int, size: int) -> str:
    return f"{count:,} of {size:,} values {'is' if count == 1 else 'are'}"


def _may_be_infinite(value: _Value) -> bool:
    """Tell whether infinity may be meant: beside the model, in a scalar, or in a mask."""
    stats = value.stats
    unknown_scalar = value.origin.role is Role.UNKNOWN and stats.size == 1
    return value.origin.role in _BESIDE or unknown_scalar or 0 < stats.zeros == stats.finite


def _constant(value: _Value) -> Finding:
    if value.stats.zeros:
        level = Level.WARNING if value.origin.role is Role.WEIGHT else Level.NOTE
        return value.finding("zero", level, f"all {value.stats.size:,} values are 0")
    text = f"all {value.stats.size:,} values are {value.stats.minimum:.6g}"
    return value.finding("constant", Level.NOTE, text)


def _is_beyond_f16(value: _Value) -> bool:
    largest = max(-value.stats.minimum, value.stats.maximum) if value.stats.finite else 0.0
    return value.origin.role in _MODEL and value.is_float and largest > F16_MAX


def _is_variance(value: _Value) -> bool:
    """Tell whether it is a running variance, or a part of one as Sonnet keeps them."""
    if value.origin.role not in (Role.STATE, Role.UNKNOWN, Role.WEIGHT) or not value.is_float:
        return False
    return any(map(_VARIANCES.search, re.split(r"[/.]", value.name)[-2:]))


def _dead(
    tensors: TensorDict,
    values: list[_Value],
    jobs: int,
    advance: Callable[[int], None] | None,
) -> Iterator[Finding]:
    names = {
        value.name: value.stats.zeros
        for value in values
        if value.is_matrix and value.stats.zeros < value.stats.size
    }
    for name, dead in dead_slices(tensors, names, jobs, advance).items():
        for each in dead:
            yield Finding("value/dead-slices", Level.NOTE, each.text, name)


def _duplicated(
    tensors: TensorDict,
    values: list[_Value],
    jobs: int,
    advance: Callable[[int], None] | None,
) -> Iterator[Finding]:
    names = {value.name: value.stats for value in values if _may_be_tied(value)}
    for name, first in duplicates(tensors, names, jobs, advance).items():
        text = f"the same as `{first}`: they are likely tied"
        yield Finding("value/duplicate", Level.NOTE, text, name)


def _may_be_tied(value: _Value) -> bool:
    """Tell whether two of this can hardly be the same by chance, or because all are made so."""
    stats = value.stats
    plain = value.is_float or value.tensor.spec.dtype in _SIGNED
    varied = stats.minimum < stats.maximum and (stats.distinct is None or stats.distinct > 2)
    return value.origin.role in _TIED and plain and varied and stats.size >= MIN_TIED
