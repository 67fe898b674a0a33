"""Tensors made of others, as `transforms.py` gives them; each reads those when it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from ..converters.tensors import CHUNK_BYTES, Tensor, TensorSpec
from .blocks import Block, Feed, blocks, unit

__all__ = [
    "JoinedTensor",
    "PaddedTensor",
    "ReorderedTensor",
    "SeenTensor",
    "SlicedTensor",
    "SumTensor",
]


class SeenTensor(Tensor):
    """The bytes of another tensor, in another shape."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Tensor, shape: tuple[int, ...]) -> None:
        self.spec = TensorSpec(inner.spec.dtype, shape)
        self._inner = inner

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes as they are."""
        return self._inner.chunks(max_bytes)


class SumTensor(Tensor):
    """The weighted sum of float64 or complex128 tensors of one shape, divided by a number.

    Args:
        inner: the tensors.
        weights: what each is multiplied with.
        divisor: what the sum is divided by.
    """

    __slots__ = ("_divisor", "_inner", "_weights")

    def __init__(
        self, inner: Sequence[Tensor], weights: Sequence[float], divisor: float = 1.0
    ) -> None:
        self.spec = inner[0].spec
        self._inner = inner
        self._weights = weights
        self._divisor = divisor

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the sums; all tensors are read at the same pace."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        step = max(max_bytes // itemsize, 1) * itemsize
        feeds = [Feed(each, step) for each in self._inner]
        for at in range(0, self.nbytes, step):
            count = min(step, self.nbytes - at)
            # Parts of complex numbers are added each by itself.
            total = np.zeros(count // 8)
            with np.errstate(all="ignore"):  # an infinity is what the sum is
                for feed, weight in zip(feeds, self._weights, strict=True):
                    total += np.frombuffer(feed.take(count), np.float64) * weight
            total /= self._divisor
            yield total.view(np.uint8).data
        for feed in feeds:
            feed.finish()


class SlicedTensor(Tensor):
    """Some indices along each axis."""

    __slots__ = ("_inner", "_ranges")

    def __init__(self, inner: Tensor, ranges: tuple[range, ...]) -> None:
        self.spec = TensorSpec(inner.spec.dtype, tuple(map(len, ranges)))
        self._inner = inner
        self._ranges = ranges

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield what is wanted of each block."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        feed = Feed(self._inner, max_bytes)
        for block in blocks(self._inner.spec.shape, itemsize, max_bytes):
            nbytes = prod(block.shape) * itemsize
            index = self._index(block)
            if index is None:
                feed.skip(nbytes)
                continue
            array = np.frombuffer(feed.take(nbytes), unit(itemsize)).reshape(block.shape)
            part = np.ascontiguousarray(array[index])
            yield part.reshape(-1).view(np.uint8).data
        feed.finish()

    def _index(self, block: Block) -> tuple[slice, ...] | None:
        """Return what is wanted of a block, or None if nothing is."""
        depth = len(block.prefix)
        inside = zip(block.prefix, self._ranges, strict=False)
        if not self.nbytes or not all(each in wanted for each, wanted in inside):
            return None
        along, trailing = self._ranges[depth], self._ranges[depth + 1 :]
        behind = max(0, -((along.start - block.start) // along.step))  # indices before this block
        first, stop = along.start + behind * along.step, min(along.stop, block.stop)
        if first >= stop:
            return None
        own = slice(first - block.start, stop - block.start, along.step)
        return (own, *(slice(each.start, each.stop, each.step) for each in trailing))


class PaddedTensor(Tensor):
    """A tensor with one and the same element behind the end of each axis."""

    __slots__ = ("_element", "_inner")

    def __init__(self, inner: Tensor, shape: tuple[int, ...], element: bytes) -> None:
        self.spec = TensorSpec(inner.spec.dtype, shape)
        self._inner = inner
        self._element = element

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield blocks with what there is in their corner."""
        import numpy as np

        itemsize = self.spec.dtype.itemsize
        element = np.frombuffer(self._element, unit(itemsize))
        feed = Feed(self._inner, max_bytes)
        for block in blocks(self.spec.shape, itemsize, max_bytes):
            made = np.full(block.shape, element[0])
            corner = self._corner(block)
            if prod(corner):
                held = np.frombuffer(feed.take(prod(corner) * itemsize), unit(itemsize))
                made[tuple(map(slice, corner))] = held.reshape(corner)
            yield made.reshape(-1).view(np.uint8).data
        feed.finish()

    def _corner(self, block: Block) -> tuple[int, ...]:
        """Return the shape of what the tensor below has in a block."""
        shape, depth = self._inner.spec.shape, len(block.prefix)
        if not all(each < length for each, length in zip(block.prefix, shape, strict=False)):
            return (0,)
        rows = max(0, min(block.stop, shape[depth]) - block.start)
        return (rows, *shape[depth + 1 :])


class JoinedTensor(Tensor):
    """Tensors one after the other along an axis."""

    __slots__ = ("_axis", "_tensors")

    def __init__(self, tensors: tuple[Tensor, ...], axis: int) -> None:
        shape = tensors[0].spec.shape
        length = sum(tensor.spec.shape[axis] for tensor in tensors)
        self.spec = TensorSpec(tensors[0].spec.dtype, (*shape[:axis], length, *shape[axis + 1 :]))
        self._tensors = tensors
        self._axis = axis

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the rows of all tensors in turn."""
        import numpy as np

        outer = prod(self.spec.shape[: self._axis])
        if outer == 1:
            for tensor in self._tensors:
                yield from tensor.chunks(max_bytes)
            return
        if not self.nbytes:
            return
        feeds = [Feed(tensor, max_bytes) for tensor in self._tensors]
        widths = [tensor.nbytes // outer for tensor in self._tensors]
        step = max_bytes // sum(widths)
        for at in range(0, outer, max(step, 1)):
            count = min(max(step, 1), outer - at)
            if not step:
                yield from self._long_row(feeds, widths, max_bytes)
                continue
            rows = [
                np.frombuffer(feed.take(count * width), np.uint8).reshape(count, width)
                for feed, width in zip(feeds, widths, strict=True)
            ]
            yield np.concatenate(rows, axis=1).reshape(-1).data
        for feed in feeds:
            feed.finish()

    def _long_row(
        self, feeds: list[Feed], widths: list[int], max_bytes: int
    ) -> Iterator[memoryview]:
        itemsize = self.spec.dtype.itemsize
        step = max(max_bytes // itemsize, 1) * itemsize
        for feed, width in zip(feeds, widths, strict=True):
            for at in range(0, width, step):
                yield feed.take(min(step, width - at))


class ReorderedTensor(Tensor):
    """Equal blocks along an axis in another order."""

    __slots__ = ("_axis", "_inner", "_order")

    def __init__(self, inner: Tensor, axis: int, order: tuple[int, ...]) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._axis = axis
        self._order = order

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield rows with their blocks in the new order; one row at least is held."""
        import numpy as np

        if not self.nbytes:
            return
        outer = prod(self.spec.shape[: self._axis])
        width = self.nbytes // outer
        step = max(max_bytes // width, 1)
        feed = Feed(self._inner, max_bytes)
        for at in range(0, outer, step):
            count = min(step, outer - at)
            rows = np.frombuffer(feed.take(count * width), np.uint8)
            rows = rows.reshape(count, len(self._order), -1)
            if count > 1 or width <= max_bytes:
                yield rows[:, list(self._order)].reshape(-1).data
                continue
            for number in self._order:
                yield from _pieces(rows[0, number].data, max_bytes, self.spec.dtype.itemsize)
        feed.finish()


def _pieces(view: memoryview, max_bytes: int, itemsize: int) -> Iterator[memoryview]:
    step = max(max_bytes // itemsize, 1) * itemsize
    for at in range(0, len(view), step):
        yield view[at : at + step]
