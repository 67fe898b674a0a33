"""How the axes of a tensor may become those of its counterpart, and which of these ways it is.

Only orders that frameworks use are thought of. Where shapes leave more than one, the siblings
decide: tensors of the same leaves whose shapes leave no choice. Then what the tensor is used for.
What is still open stays open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ...converters.uses import Evidence, LayerKind, Use
from .sides import Item
from .vocabulary import LINEAR, RECURRENT

__all__ = ["Ask", "Votes", "Way", "open_reason", "turns_channels", "ways_between"]

Axes: TypeAlias = tuple[int, ...]
Key: TypeAlias = tuple[str, str, int]

# By number of axes: TensorFlow to PyTorch and back, TensorFlow to MLX and back, depthwise kernels.
_ORDERS: Mapping[int, tuple[Axes, ...]] = {
    2: ((1, 0),),
    3: ((2, 1, 0), (2, 0, 1), (1, 2, 0)),
    4: ((3, 2, 0, 1), (2, 3, 1, 0), (3, 0, 1, 2), (1, 2, 3, 0), (2, 3, 0, 1)),
    5: ((4, 3, 0, 1, 2), (3, 4, 2, 1, 0), (2, 3, 4, 1, 0), (4, 0, 1, 2, 3), (1, 2, 3, 4, 0)),
}
_TO_TORCH = {3: (2, 1, 0), 4: (3, 2, 0, 1), 5: (4, 3, 0, 1, 2)}
_TO_MLX = {3: (2, 0, 1), 4: (3, 0, 1, 2), 5: (4, 0, 1, 2, 3)}
_CONVOLUTIONS = frozenset({LayerKind.CONV, LayerKind.CONV_TRANSPOSE})
_GATED = frozenset({LayerKind.LSTM, LayerKind.GRU, LayerKind.RNN, LayerKind.ATTENTION})
_KNOWN = frozenset({Evidence.GRAPH, Evidence.CONFIG})


class Way(NamedTuple):
    """What is done to the axes.

    Attributes:
        squeeze: whether axes of length 1 go first.
        axes: order of the others; empty where they stay as they are.
        expand: axes of length 1 that are added at last, by their places in the result.
    """

    squeeze: bool = False
    axes: Axes = ()
    expand: Axes = ()

    @property
    def steps(self) -> tuple[dict[str, object], ...]:
        """The same as steps of a recipe."""
        steps: list[dict[str, object]] = []
        if self.squeeze:
            steps.append({"squeeze": True})
        if self.axes == (1, 0):
            steps.append({"transpose": True})
        elif self.axes:
            steps.append({"permute": [*self.axes]})
        if self.expand:
            steps.append({"expand": [*self.expand]})
        return tuple(steps)


class Ask(NamedTuple):
    """A pair of which the way is wanted.

    Attributes:
        source: the tensor.
        target: its counterpart.
        use: what the tensor is used for.
    """

    source: Item
    target: Item
    use: Use | None = None

    @property
    def key(self) -> Key:
        """What is the same for siblings."""
        ours, theirs = (
            each.leaf or "".join(each.words[-1:])
            for each in (self.source.parsed, self.target.parsed)
        )
        return ours, theirs, len(self.source.lengths or ())


def ways_between(source: Item, target: Item) -> tuple[Way, ...]:
    """Return the ways that give a target's shape, plain ones first; none where none does."""
    if source.shape is None or None in source.shape:
        return ()
    before = tuple(each for each in source.shape if each is not None)
    if target.shape is None:
        return (Way(),)
    if len(target.shape) == len(before):
        found = [Way(axes=axes) for axes in _orders(len(before)) if _fits(before, axes, target)]
        if found:
            return _different(before, found)
    squeezed = tuple(each for each in before if each != 1)
    if None in target.shape:
        return ()
    rest = tuple(each for each in target.shape if each != 1)
    expand = tuple(place for place, each in enumerate(target.shape) if each == 1)
    found = [
        Way(len(squeezed) < len(before), axes, expand)
        for axes in _orders(len(squeezed))
        if _turned(squeezed, axes) == rest
    ]
    return _different(squeezed, found)


def _orders(rank: int) -> tuple[Axes, ...]:
    return ((), *_ORDERS.get(rank, ()))


def _turned(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in axes) if axes else shape


def _fits(shape: tuple[int, ...], axes: Axes, target: Item) -> bool:
    turned = _turned(shape, axes)
    return all(
        wanted in (None, got) for wanted, got in zip(target.shape or (), turned, strict=True)
    )


def _different(shape: tuple[int, ...], ways: Sequence[Way]) -> tuple[Way, ...]:
    """Leave out ways that move no byte otherwise than one before: axes of length 1 do not count."""
    seen: dict[Axes, Way] = {}
    for way in ways:
        axes = way.axes or tuple(range(len(shape)))
        seen.setdefault(tuple(axis for axis in axes if shape[axis] != 1), way)
    return tuple(seen.values())


class Votes:
    """What pairs say whose shapes leave no choice.

    Args:
        decided: pairs with their only way.
    """

    def __init__(self, decided: Sequence[tuple[Ask, Way]]) -> None:
        self._by_key: dict[Key, set[Axes]] = {}
        for ask, way in decided:
            if len(ask.source.lengths or ()) > 1:
                self._by_key.setdefault(ask.key, set()).add(way.axes)

    def choose(self, ask: Ask, ways: Sequence[Way]) -> tuple[Way, str] | None:
        """Return which of several ways it is and why, or None."""
        voted = self._by_key.get(ask.key, set())
        if len(voted) > 1:
            return None
        if voted:
            found = [way for way in ways if way.axes in voted]
            return (found[0], "as its siblings") if len(found) == 1 else None
        return _by_leaf(ask, ways) or _by_use(ask, ways)


def _by_leaf(ask: Ask, ways: Sequence[Way]) -> tuple[Way, str] | None:
    """Return the way of pairs whose leaves say it."""
    ours, theirs = ask.source.parsed, ask.target.parsed
    plain = [way for way in ways if not way.axes]
    if plain and ours.leaf == theirs.leaf != "":
        return plain[0], f"`{ours.leaf}` on both sides"
    if plain and "embedding" in ours.words and "embedding" in theirs.words:
        return plain[0], "embeddings lie alike everywhere"
    if (ours.leaf, theirs.leaf) == ("kernel", "weight"):
        linear = any(
            theirs.words[-len(each) :] == each == ours.words[-len(each) :] for each in LINEAR
        )
        found = [way for way in ways if way.axes == (1, 0)]
        if linear and found:
            return found[0], "a linear layer of transformers"
    return None


def _by_use(ask: Ask, ways: Sequence[Way]) -> tuple[Way, str] | None:
    """Return the way of pairs of which graph or config tell what the source is."""
    use = ask.use
    if use is None or use.evidence not in _KNOWN or ask.target.parsed.leaf != "weight":
        return None
    axes: Axes | None = None
    if use.kind is LayerKind.DENSE:
        axes = () if use.facts.get("transposed") else (1, 0)
    elif use.kind in _CONVOLUTIONS:
        first, last = (each.get(len(ask.source.shape or ())) for each in (_TO_TORCH, _TO_MLX))
        axes = None if last in {way.axes for way in ways} else first
    elif use.kind is LayerKind.EMBEDDING:
        axes = ()
    found = [way for way in ways if way.axes == axes]
    return (found[0], f"{use.kind.value} by {use.evidence.value}") if found else None


def turns_channels(way: Way) -> bool:
    """Tell whether a way brings channels first that were last."""
    return way.axes == _TO_TORCH.get(len(way.axes))


def open_reason(ask: Ask, way: Way, widths: frozenset[int], *, channels_first: bool) -> str:
    """Return why a way is not to be relied on though it fits the shapes; empty where it is.

    Args:
        ask: the pair.
        way: the way.
        widths: lengths of vectors of the source: channels and units of its layers.
        channels_first: whether convolutions of the model are turned to channels first.
    """
    use, ours, theirs = ask.use, ask.source.parsed, ask.target.parsed
    if ours.leaf == theirs.leaf and not way.axes:
        return ""
    gated = use.kind in _GATED if use else bool(RECURRENT & {*ours.words, *theirs.words})
    if gated and len(ask.source.lengths or ()) > 0:
        return "a recurrent or attention layer, whose gates or heads may be in another order"
    if not channels_first or way.axes != (1, 0):
        return ""
    rows = ask.source.shape[0] if ask.source.shape else None
    told = use is not None and use.evidence in _KNOWN
    guess = not told and rows is not None and _may_be_flattened(rows, widths)
    if guess or (use is not None and use.facts.get("flattened")):
        return (
            "its rows may come from a flattened (height, width, channels), which have another "
            "order with channels first: reshape = [H, W, C, OUT], permute = [3, 2, 0, 1], "
            "reshape = [OUT, -1]"
        )
    return ""


def _may_be_flattened(rows: int, widths: frozenset[int]) -> bool:
    return rows not in widths and any(1 < each < rows and rows % each == 0 for each in widths)
