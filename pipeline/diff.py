"""What differs between two models, tensor by tensor, whatever containers they lie in.

Tensors are matched by name, then by what is left of it without the conventions of a container
(`layer.kernel:0` is `layer/kernel`). Those without a counterpart are matched by their values
(`diff_match`). Both sides are streamed, two chunks per thread; only where a tensor has the very
elements of its counterpart in another order is it held, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from threading import Lock

from ..converters.tensors import Tensor, TensorDict, TensorSpec
from ..converters.threads import run_all
from .diff_forms import axes_of, cast_remark, fingerprint
from .diff_match import Match, Matches, match_names, match_values
from .diff_values import Gap, PlacedTensor, Tolerance, equal_values, gap
from .tables import shape_text

__all__ = ["Difference", "Tolerance", "Verdict", "compare"]


class Verdict(Enum):
    """What became of a tensor between A and B."""

    SAME = "same"
    CLOSE = "close"  # within the tolerance; without one, equal but for signs of zeros
    RENAMED = "renamed"
    TRANSPOSED = "transposed"
    CAST = "cast"
    CHANGED = "changed"
    SHAPE = "other shape"
    DTYPE = "other dtype"
    MISSING = "missing"  # in A alone
    ADDED = "added"  # in B alone

    @property
    def same(self) -> bool:
        """Whether it counts as no difference."""
        return self in (Verdict.SAME, Verdict.CLOSE)


@dataclass(frozen=True)
class Difference:
    """A tensor of A, of B, or of both.

    Measures are over pairs of finite values; None where nothing was measured.

    Attributes:
        name: in A, or in B where A has none.
        verdict: what became of it.
        text: what else there is to say.
        other: in B, where it is called otherwise there.
        axes: order of A's axes in B, where that is what differs.
        most: the largest absolute difference of two values.
        relative: L2 norm of the differences over that of A; infinite where A is zero.
        cosine: of the angle between the two as vectors.
        share: of the elements that differ.
    """

    name: str
    verdict: Verdict
    text: str = ""
    other: str | None = None
    axes: tuple[int, ...] | None = None
    most: float | None = None
    relative: float | None = None
    cosine: float | None = None
    share: float | None = None


def compare(
    first: TensorDict,
    second: TensorDict,
    tolerance: Tolerance,
    jobs: int,
    *,
    structure_only: bool = False,
    advance: Callable[[int], None] | None = None,
) -> list[Difference]:
    """Return what became of every tensor of both, those of A first, in its order.

    Args:
        first: A.
        second: B.
        tolerance: how far values may be apart and still be close.
        jobs: number of threads.
        structure_only: compare names, dtypes and shapes, and read no values.
        advance: called with the number of bytes just read of A.

    Raises:
        ConvertError: a tensor cannot be read; the error names it, and its model as A or B.
    """
    ours, theirs = _named(first, second, "A"), _named(second, first, "B")
    others = {name: name for name in ours if name in theirs}
    missing = [name for name in ours if name not in others]
    added = [name for name in theirs if name not in others]
    others |= match_names(missing, added)
    found: dict[str, Difference] = {}
    pair = _Pair(tolerance, structure_only, advance or _nobody, Lock())

    def work(name: str) -> None:
        other = others[name]
        difference = pair.compare(name, ours[name], theirs[other])
        found[name] = difference if other == name else _called(difference, other)

    # The largest first, so that no thread is left with one of them in the end.
    run_all(lambda: work, sorted(others, key=lambda name: -ours[name].nbytes), jobs)
    taken = set(others.values())
    missing = [name for name in missing if name not in others]
    added = [name for name in added if name not in taken]
    matches = Matches([], {}, {})
    if not structure_only:
        lefts = {name: ours[name] for name in missing}
        rights = {name: theirs[name] for name in added}
        matches = match_values(lefts, rights, jobs, advance)
    found |= {
        name: Difference(name, Verdict.MISSING, matches.remarks.get(name, "")) for name in missing
    }
    found |= {
        match.name: _matched(match, ours[match.name], theirs[match.other])
        for match in matches.pairs
    }
    taken |= {match.other for match in matches.pairs}
    return [found[name] for name in ours] + [
        Difference(name, Verdict.ADDED, matches.other_remarks.get(name, ""))
        for name in added
        if name not in taken
    ]


def _nobody(_nbytes: int) -> None:
    pass


def _named(tensors: TensorDict, others: TensorDict, side: str) -> dict[str, Tensor]:
    """Return the tensors of a side, and under an alias those that the other side has apart."""
    names = [*tensors, *(alias for alias in tensors.aliases if alias in others.tensors)]
    return {name: PlacedTensor(tensors, name, side) for name in names}


def _called(difference: Difference, other: str) -> Difference:
    """Return the verdict on a tensor that is called otherwise in B."""
    if not difference.verdict.same:
        return replace(difference, other=other)
    text = difference.text or ("close" if difference.verdict is Verdict.CLOSE else "")
    return replace(difference, other=other, verdict=Verdict.RENAMED, text=text)


def _matched(match: Match, first: Tensor, second: Tensor) -> Difference:
    text = ", ".join(filter(None, (_became(first.spec, second.spec), match.text)))
    return Difference(match.name, Verdict(match.kind), text, other=match.other, axes=match.axes)


def _became(first: TensorSpec, second: TensorSpec) -> str:
    parts = []
    if first.shape != second.shape:
        parts.append(f"{shape_text(first.shape)} became {shape_text(second.shape)}")
    if first.dtype is not second.dtype:
        parts.append(f"{first.dtype} became {second.dtype}")
    return ", ".join(parts)


@dataclass(frozen=True)
class _Pair:
    """How two tensors are compared that belong together.

    Attributes:
        turning: held while a tensor is in memory, so that it is one at a time.
    """

    tolerance: Tolerance
    structure_only: bool
    advance: Callable[[int], None]
    turning: Lock

    def compare(self, name: str, first: Tensor, second: Tensor) -> Difference:
        """Return the verdict on a pair."""
        a, b = first.spec, second.spec
        if a.shape != b.shape:
            return self._other_shape(name, first, second)
        if a.dtype is not b.dtype:
            return self._other_dtype(name, first, second)
        if self.structure_only:
            return Difference(name, Verdict.SAME)
        if a.dtype.variable:
            return self._texts(name, first, second)
        # Most tensors of most pairs are equal, and then there is nothing to compute.
        if equal_values(first, second):
            self.advance(first.nbytes)
            return Difference(name, Verdict.SAME)
        found = gap(first, second, self.tolerance, self.advance)
        if not found.beyond:
            text = "" if found.changed else "but for the signs of zeros"
            return _measured(name, Verdict.CLOSE, text, found)
        axes = self._axes(first, second) if found.permutable else None
        if axes is not None:
            return Difference(name, Verdict.TRANSPOSED, _became(a, b), axes=axes)
        odd = f"{found.odd:,} with NaN or infinity" if found.odd else ""
        return _measured(name, Verdict.CHANGED, odd, found)

    def _other_shape(self, name: str, first: Tensor, second: Tensor) -> Difference:
        a, b = first.spec, second.spec
        text = _became(a, b)
        if self.structure_only or a.dtype is not b.dtype or a.dtype.variable:
            return Difference(name, Verdict.SHAPE, text)
        turned = len(a.shape) > 1 and sorted(a.shape) == sorted(b.shape)
        axes = self._axes(first, second) if turned else None
        if axes is not None:
            return Difference(name, Verdict.TRANSPOSED, _became(a, b), axes=axes)
        if a.size == b.size and equal_values(first, second):
            text += ", values in the same order"
        self.advance(first.nbytes)
        return Difference(name, Verdict.SHAPE, text)

    def _other_dtype(self, name: str, first: Tensor, second: Tensor) -> Difference:
        text = _became(first.spec, second.spec)
        texts = first.spec.dtype.variable or second.spec.dtype.variable
        if self.structure_only or texts:
            return Difference(name, Verdict.DTYPE, text)
        lost = cast_remark(first, second)
        if lost is None:
            found = gap(first, second, self.tolerance, self.advance)
            return _measured(name, Verdict.DTYPE, text, found)
        self.advance(first.nbytes)
        return Difference(name, Verdict.CAST, f"{text}, {lost}" if lost else text)

    def _texts(self, name: str, first: Tensor, second: Tensor) -> Difference:
        lefts, rights = first.elements(), second.elements()
        self.advance(first.nbytes)
        changed = sum(left != right for left, right in zip(lefts, rights, strict=True))
        if not changed:
            return Difference(name, Verdict.SAME)
        return Difference(name, Verdict.CHANGED, share=changed / len(lefts))

    def _axes(self, first: Tensor, second: Tensor) -> tuple[int, ...] | None:
        """Return the order of axes that explains a difference; asks for evidence first."""
        if len(first.spec.shape) < 2 or fingerprint(first) != fingerprint(second):
            return None
        with self.turning:
            return axes_of(first, second)


def _measured(name: str, verdict: Verdict, text: str, found: Gap) -> Difference:
    return Difference(
        name,
        verdict,
        text,
        most=found.most,
        relative=found.relative,
        cosine=found.cosine,
        share=found.share,
    )
