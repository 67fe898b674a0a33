"""Gates that have to read: values that are no number, and digests. All tensors are read once.

Whether all values of a chunk are finite is told by one instruction or two for each; only where
one is not, they are counted. Casting takes ten times as long. So of what is going to be cast the
source is looked at, and only if it holds something that the other type may not, the cast itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...converters.casting import CastTensor
from ...converters.digests import hasher
from ...converters.dtypes import DType
from ...converters.errors import ConvertError
from ...converters.findings import Finding, Level
from ...converters.tensors import Tensor, TensorDict
from ...converters.threads import run_all
from ..digest_file import model_digest
from .gate_input import GateInput
from .policy import Policy, WantedDigest

if TYPE_CHECKING:
    import numpy as np

__all__ = ["value_findings"]

_FLOATS = frozenset(each for each in DType if each.label.startswith(("float", "bfloat", "complex")))
_SIGN = 0x7FFF  # all bits of a 16-bit float but that of the sign
# The exponent of infinity and NaN: all its bits are set (IEEE 754-2008, 3.4).
_EXPONENTS = {DType.FLOAT16: 0x7C00, DType.BFLOAT16: 0x7F80}


def value_findings(policy: Policy, given: GateInput) -> Iterator[Finding]:
    """Yield what values and digests say against the policy.

    Args:
        policy: what to fulfil.
        given: what would be written; `kept` is what digests are about.

    Raises:
        ConvertError: a tensor cannot be read; the error names it.
    """
    tasks = _Tasks()
    looked = {}
    if policy.no_nan or policy.no_infinity:
        looked = {variant: tasks.look(each) for variant, each in given.variants.items()}
    hashed = tasks.hash(given.kept) if policy.digest else {}
    tasks.read(given)
    if policy.digest is not None:
        yield from _digests(policy.digest, {name: task.digest for name, task in hashed.items()})
    for variant, by_name in looked.items():
        where = f"variant `{variant}`" if variant else None
        for name, task in by_name.items():
            for found in _values(policy, name, task):
                yield replace(found, where=where)


# What is read


@dataclass
class _Task:
    """A tensor to be read, and what came of it.

    Attributes:
        looked: whether for values.
        hashed: whether for its digest.
        measured: whether for its largest magnitude.
        first: place of the first element that is NaN, and of the first that is infinite.
        counts: of NaN and of infinite elements.
    """

    name: str
    tensor: Tensor
    looked: bool = False
    hashed: bool = False
    measured: bool = False
    digest: str = ""
    largest: float = 0.0
    first: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class _Tasks:
    """What is to be read: by identity, as variants share the tensors that none of them casts."""

    def __init__(self) -> None:
        self._tasks: dict[int, _Task] = {}
        self._casts: list[tuple[_Task, _Task]] = []  # of a cast, and of what goes into it

    def look(self, tensors: TensorDict) -> dict[str, _Task]:
        """Add what may hold NaN or infinity."""
        return {
            name: self._look_at(name, tensor)
            for name, tensor in tensors.items()
            if tensor.spec.dtype in _FLOATS
        }

    def _look_at(self, name: str, tensor: Tensor) -> _Task:
        if isinstance(tensor, CastTensor) and _is_measurable(tensor.inner.spec.dtype):
            inner = self._task(name, tensor.inner)
            inner.looked = inner.measured = True
            task = _Task(name, tensor, looked=True)
            self._casts.append((task, inner))
            return task
        task = self._task(name, tensor)
        task.looked = True
        return task

    def hash(self, tensors: TensorDict) -> dict[str, _Task]:
        """Add what has to be hashed."""
        added = {name: self._task(name, tensor) for name, tensor in tensors.items()}
        for task in added.values():
            task.hashed = True
        return added

    def _task(self, name: str, tensor: Tensor) -> _Task:
        return self._tasks.setdefault(id(tensor), _Task(name, tensor))

    def read(self, given: GateInput) -> None:
        """Read all of it."""
        _read(list(self._tasks.values()), given)
        _read([cast for cast, inner in self._casts if not _is_harmless(cast, inner)], given)


def _is_measurable(dtype: DType) -> bool:
    return dtype in _FLOATS and dtype.native


def _is_harmless(cast: _Task, inner: _Task) -> bool:
    """Tell whether what goes into a cast is finite, and so is what comes out."""
    import ml_dtypes

    limit = float(ml_dtypes.finfo(_part(cast.tensor.spec.dtype)).max)  # type: ignore[no-untyped-call]
    return not inner.counts and inner.largest <= limit


def _read(tasks: list[_Task], given: GateInput) -> None:
    """Read tensors, the largest first, so that no thread is left with one at the end."""
    if not tasks:
        return

    def work(task: _Task) -> None:
        try:
            _look(task, given.listener.advanced)
        except ConvertError as error:
            raise error.within(f"tensor `{task.name}`") from error

    tasks.sort(key=lambda task: -task.tensor.nbytes)
    given.listener.reading(sum(task.tensor.nbytes for task in tasks))
    try:
        run_all(lambda: work, tasks, given.jobs)
    finally:
        given.listener.finished()


def _look(task: _Task, advance: Callable[[int], None]) -> None:
    dtype = task.tensor.spec.dtype
    state = hasher(task.tensor.spec) if task.hashed else None
    finite = _test(dtype) if task.looked else None
    at = 0
    for chunk in filter(None, task.tensor.chunks()):
        if state is not None:
            state.update(chunk)
        if finite is not None and not finite(chunk):
            _count(task, chunk, at)
        elif task.measured:
            task.largest = max(task.largest, _magnitude(dtype, chunk))
        at += len(chunk)
        advance(len(chunk))
    task.digest = state.hexdigest() if state is not None else ""


def _test(dtype: DType) -> Callable[[memoryview], bool]:
    """Return what tells whether all values of a chunk are finite."""
    import numpy as np

    if dtype.native:
        kind = _part(dtype)
        return lambda chunk: bool(np.isfinite(np.frombuffer(chunk, kind)).all())
    if dtype.itemsize == 1:  # float8: a few of 256 patterns
        odd = np.flatnonzero(~np.isfinite(np.arange(256, dtype="u1").view(_part(dtype)))).tolist()
        return lambda chunk: not any((np.frombuffer(chunk, "u1") == each).any() for each in odd)
    limit = _EXPONENTS[dtype]
    return lambda chunk: bool((np.frombuffer(chunk, "u2") & _SIGN).max() < limit)


def _part(dtype: DType) -> np.dtype[np.generic]:
    """Return the numpy type of a float; of a complex number that of its parts."""
    import numpy as np

    kind = dtype.numpy()
    return np.dtype(f"f{kind.itemsize // 2}") if kind.kind == "c" else kind


def _magnitude(dtype: DType, chunk: memoryview) -> float:
    """Return the largest magnitude of a chunk of finite numbers, or of their parts."""
    import numpy as np

    values = np.frombuffer(chunk, _part(dtype))
    return float(max(values.max(), -values.min()))


def _count(task: _Task, chunk: memoryview, at: int) -> None:
    """Count what is not finite in a chunk that begins at byte `at` of the tensor."""
    import numpy as np

    dtype = task.tensor.spec.dtype
    values = np.frombuffer(chunk, dtype.numpy())
    with np.errstate(invalid="ignore"):  # a signalling NaN
        found = (("nan", np.isnan(values)), ("infinity", np.isinf(values)))
    for what, odd in found:
        if odd.any():
            task.counts[what] = task.counts.get(what, 0) + int(odd.sum())
            task.first.setdefault(what, at // dtype.itemsize + int(odd.argmax()))


# What is said


def _values(policy: Policy, name: str, task: _Task) -> Iterator[Finding]:
    rules = (("nan", policy.no_nan, "not a number"), ("infinity", policy.no_infinity, "infinite"))
    spec = task.tensor.spec
    for rule, forbidden, what in rules:
        count = task.counts.get(rule, 0)
        if forbidden and count:
            text = f"{count:,} of {spec.size:,} values {'is' if count == 1 else 'are'} {what}"
            place = _index(task.first[rule], spec.shape)
            text += f", the first at {place}" if place else ""
            yield Finding(f"policy/{rule}", Level.ERROR, text, name)


def _index(place: int, shape: tuple[int, ...]) -> str:
    """Return where an element is as `[3, 0]`, empty in a scalar."""
    index: list[int] = []
    for length in reversed(shape):
        place, rest = divmod(place, length)
        index.insert(0, rest)
    return str(index) if index else ""


def _digests(wanted: WantedDigest, digests: Mapping[str, str]) -> Iterator[Finding]:
    found = model_digest(digests)
    if found == wanted.model:
        return
    if wanted.digests is None:
        text = f"the weights are others: digest, expected {wanted.model}, got {found}"
        yield Finding("policy/digest", Level.ERROR, text)
        return
    for name, digest in digests.items():
        other = wanted.digests.get(name)
        if other is None:
            yield Finding("policy/digest", Level.ERROR, "is not in the digest file", name)
        elif other != digest:
            text = f"its values are others: digest, expected {other}, got {digest}"
            yield Finding("policy/digest", Level.ERROR, text, name)
    for name in wanted.digests:
        if name not in digests:
            text = "is in the digest file, and would not be packaged"
            yield Finding("policy/digest", Level.ERROR, text, name)
