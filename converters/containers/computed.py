"""Tensors that are computed element by element from what is stored, a chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from ..tensors import CHUNK_BYTES, Tensor, TensorSpec

if TYPE_CHECKING:
    import numpy as np

    # Gets a run of stored elements and the number of its first one; returns as many elements.
    Compute: TypeAlias = Callable[[np.ndarray, int], np.ndarray]

__all__ = ["ComputedTensor"]


class ComputedTensor(Tensor):
    """A tensor each of whose elements is computed from the one at the same place of another.

    Args:
        spec: what comes out; as many elements as go in.
        inner: what goes in.
        compute: gets elements as a flat array, and the number of the first of them; returns
            the results, which are cast to the type of `spec`.
    """

    __slots__ = ("_compute", "_inner")

    def __init__(self, spec: TensorSpec, inner: Tensor, compute: Compute) -> None:
        self.spec = spec
        self._inner = inner
        self._compute = compute

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the computed bytes."""
        import numpy as np

        stored, made = self._inner.spec.dtype, self.spec.dtype
        count = max(max_bytes // max(stored.itemsize, made.itemsize), 1)
        at = 0
        for chunk in self._inner.chunks(count * stored.itemsize):
            elements = np.frombuffer(chunk, stored.numpy())
            result = self._compute(elements, at).astype(made.numpy(), copy=False)
            at += len(elements)
            yield np.ascontiguousarray(result).view(np.uint8).data
