"""Hypothesis strategies for all that a tensor dictionary may hold."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from hypothesis import strategies as st

from ..dtypes import DType
from ..names import decode
from ..tensors import ElementTensor, MemoryTensor, Tensor, TensorDict, TensorSpec
from .contracts import canonical, tensors_of

__all__ = ["FIXED", "dtypes", "elements", "names", "shapes", "tensor_dicts", "tensors"]

FIXED = tuple(dtype for dtype in DType if not dtype.variable)

# Names that some container reserves, nests, trims or cannot encode.
_ODD_NAMES = (
    "a",
    "a/b",
    "a/b/",
    "/a",
    "//",
    ".",
    "..",
    "a:0",
    "a b",
    " ",
    "new\nline",
    "nul\0inside",
    "\0",
    "größe/重み",
    "__metadata__",
    "%5F_metadata__",
    "a%2Fb",
    "file.npy",
    "_CHECKPOINTABLE_OBJECT_GRAPH/x",
    "tensorferry",
    decode(b"not \xff utf-8"),
    decode(b"\xc3"),
)


def names() -> st.SearchStrategy[str]:
    """Return names: awkward ones, any text, and any bytes as PEP 383 carries them."""
    return st.one_of(
        st.sampled_from(_ODD_NAMES),
        st.text(st.sampled_from("ab/.: %"), min_size=1, max_size=6),
        st.text(min_size=1, max_size=20),
        st.binary(min_size=1, max_size=12).map(decode),
    )


def dtypes() -> st.SearchStrategy[DType]:
    """Return any of our types."""
    return st.sampled_from(DType)


def shapes(max_rank: int = 4, max_size: int = 200) -> st.SearchStrategy[tuple[int, ...]]:
    """Return shapes, with dimensions of 0 and 1 among them."""
    dims = st.lists(st.one_of(st.sampled_from((0, 1)), st.integers(0, 7)), max_size=max_rank)
    return dims.map(tuple).filter(lambda shape: prod(shape) <= max_size)


def elements() -> st.SearchStrategy[bytes]:
    """Return elements of a string tensor: any bytes, some of them longer than one varint byte."""
    return st.one_of(st.binary(max_size=12), st.text(max_size=6).map(str.encode), _long())


def _long() -> st.SearchStrategy[bytes]:
    return st.builds(lambda byte, count: bytes([byte]) * count, st.integers(0, 255), st.just(300))


@st.composite
def tensors(
    draw: st.DrawFn, of: st.SearchStrategy[DType] | None = None, max_rank: int = 4
) -> Tensor:
    """Return tensors in memory; the bytes are any that are values of the type, NaNs included."""
    dtype = draw(dtypes() if of is None else of)
    spec = TensorSpec(dtype, draw(shapes(max_rank)))
    if dtype.variable:
        held = draw(st.lists(elements(), min_size=spec.size, max_size=spec.size))
        return ElementTensor(spec, lambda: held, sum(map(len, held)))
    # Few drawn bytes, repeated: large draws are slow and shrink badly.
    seed = draw(st.binary(min_size=1, max_size=48))
    raw = (seed * (spec.nbytes // len(seed) + 1))[: spec.nbytes]
    return MemoryTensor(spec, lambda: canonical(dtype, raw))


def tensor_dicts(
    of: Sequence[DType] | None = None,
    *,
    named: st.SearchStrategy[str] | None = None,
    max_size: int = 6,
) -> st.SearchStrategy[TensorDict]:
    """Return whole dictionaries.

    Args:
        of: the types that may occur; all of them if not given.
        named: the names that may occur.
        max_size: at most this many tensors.
    """
    kinds = None if of is None else st.sampled_from(of)
    held = st.dictionaries(named or names(), tensors(kinds), max_size=max_size)
    return held.map(tensors_of)
