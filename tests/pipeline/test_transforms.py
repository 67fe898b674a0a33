"""Each operation against numpy, for any shape, type and size of the chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import UsageError
from tensorferry.converters.tensors import (
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
)
from tensorferry.pipeline.permuting import merged, tiled_copy
from tensorferry.pipeline.transforms import (
    divided,
    filled,
    fitted,
    joined,
    permuted,
    reordered,
    reshaped,
    scaled,
    sliced,
    stacked,
)

DTYPES = (DType.UINT8, DType.BFLOAT16, DType.FLOAT32, DType.INT64, DType.COMPLEX128)
shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
steps = st.sampled_from([16, 48, 1 << 20])  # bytes of a chunk; an element has 16 at most


def tensor_of(array: np.ndarray[Any, Any], dtype: DType) -> Tensor:
    return MemoryTensor(TensorSpec(dtype, array.shape), array.tobytes)


@st.composite
def models(draw: st.DrawFn, shape: st.SearchStrategy[tuple[int, ...]] = shapes) -> Any:
    """Draw an array and a tensor with its bytes."""
    dtype = draw(st.sampled_from(DTYPES))
    lengths = draw(shape)
    array = np.arange(1, math.prod(lengths) + 1).reshape(lengths).astype(dtype.numpy())
    return array, tensor_of(array, dtype)


def read(tensor: Tensor, step: int) -> np.ndarray[Any, Any]:
    """Return a tensor read in chunks of so many bytes, and check that they are no larger."""
    parts = [bytes(chunk) for chunk in tensor.chunks(step)]
    assert all(len(part) <= step for part in parts)
    joined_parts = b"".join(parts)
    assert len(joined_parts) == tensor.nbytes
    return np.frombuffer(joined_parts, tensor.spec.dtype.numpy()).reshape(tensor.spec.shape)


def same(tensor: Tensor, expected: np.ndarray[Any, Any], step: int) -> None:
    assert tensor.spec.shape == expected.shape
    np.testing.assert_array_equal(read(tensor, step), expected)


@given(models(), steps, st.data())
def test_permuting(model: Any, step: int, data: st.DataObject) -> None:
    array, tensor = model
    axes = data.draw(st.permutations(range(array.ndim)))
    same(permuted(tensor, axes), array.transpose(axes), step)


@given(models(), steps, st.data())
def test_a_permutation_and_its_inverse_are_nothing(
    model: Any, step: int, data: st.DataObject
) -> None:
    array, tensor = model
    axes = data.draw(st.permutations(range(array.ndim)))
    back = [axes.index(axis) for axis in range(array.ndim)]
    same(permuted(permuted(tensor, axes), back), array, step)


@given(models(), steps, st.data())
def test_slicing(model: Any, step: int, data: st.DataObject) -> None:
    array, tensor = model
    ranges = []
    for length in array.shape:
        start = data.draw(st.integers(0, length))
        stop = data.draw(st.integers(start, length))
        ranges.append((start, stop, data.draw(st.integers(1, 3))))
    same(sliced(tensor, ranges), array[tuple(slice(*each) for each in ranges)], step)


@given(models(), steps, st.data())
def test_fitting(model: Any, step: int, data: st.DataObject) -> None:
    array, tensor = model
    shape = tuple(data.draw(st.integers(0, 6)) for _ in array.shape)
    expected = np.full(shape, 7).astype(array.dtype)
    corner = tuple(slice(min(old, new)) for old, new in zip(array.shape, shape, strict=True))
    expected[corner] = array[corner]
    same(fitted(tensor, shape, 7), expected, step)


@given(models(), steps, st.data())
def test_dividing_and_joining_again(model: Any, step: int, data: st.DataObject) -> None:
    array, tensor = model
    if not array.ndim:
        return
    axis = data.draw(st.integers(-array.ndim, array.ndim - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, array.shape[axis]), max_size=3)))
    ends = [*cuts, array.shape[axis]]
    sizes = [end - start for start, end in zip([0, *cuts], ends, strict=True)]
    parts = divided(tensor, axis, sizes)
    for part, expected in zip(parts, np.split(array, cuts, axis), strict=True):
        same(part, expected, step)
    same(joined(parts, axis), array, step)


@given(models(), steps, st.integers(1, 3), st.data())
def test_stacking(model: Any, step: int, count: int, data: st.DataObject) -> None:
    array, tensor = model
    axis = data.draw(st.integers(-array.ndim - 1, array.ndim))
    same(stacked([tensor] * count, axis), np.stack([array] * count, axis), step)


@given(st.integers(1, 4), models(), steps, st.data())
def test_reordering(count: int, model: Any, step: int, data: st.DataObject) -> None:
    array, tensor = model
    if not array.ndim:
        return
    axis = data.draw(st.integers(0, array.ndim - 1))
    array = np.concatenate([array + array.dtype.type(k) for k in range(count)], axis)
    tensor = tensor_of(array, tensor.spec.dtype)
    order = data.draw(st.permutations(range(count)))
    blocks = np.split(array, count, axis)
    expected = np.concatenate([blocks[number] for number in order], axis)
    same(reordered(tensor, axis, order), expected, step)


@given(models(), steps)
def test_reshaping(model: Any, step: int) -> None:
    array, tensor = model
    same(reshaped(tensor, [array.size]), array.reshape(-1), step)
    if array.size:
        same(reshaped(tensor, [1, -1]), array.reshape(1, -1), step)


@given(shapes, steps, st.sampled_from(DTYPES))
def test_filling(shape: tuple[int, ...], step: int, dtype: DType) -> None:
    same(filled(TensorSpec(dtype, shape), 3), np.full(shape, 3).astype(dtype.numpy()), step)


@pytest.mark.parametrize("dtype", [DType.FLOAT64, DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16])
def test_scaling_rounds_once(dtype: DType) -> None:
    array = np.linspace(-5, 5, 999).astype(dtype.numpy())
    exact = array.astype(np.float64) * 0.3
    expected = exact.astype(dtype.numpy())
    if dtype is DType.BFLOAT16:  # ml_dtypes goes by way of float32
        neighbours = [expected, np.nextafter(expected, ml_dtypes.bfloat16(9))]
        distance = [np.abs(each.astype(np.float64) - exact) for each in neighbours]
        assert np.all(distance[0] <= distance[1])
    same(scaled(tensor_of(array, dtype), 0.3), expected, 1 << 20)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((300, 700), (1, 0)),
        ((3, 3, 96, 160), (3, 2, 0, 1)),
        ((5, 64, 129), (1, 2, 0)),
        ((64, 5, 300), (2, 1, 0)),
        ((64, 500, 9), (1, 0, 2)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.complex128])
def test_tiles_cover_everything(shape: tuple[int, ...], axes: Sequence[int], dtype: type) -> None:
    source = np.arange(math.prod(shape)).reshape(shape).astype(dtype).transpose(axes)
    target = np.empty(source.shape, dtype)
    tiled_copy(target, source)
    np.testing.assert_array_equal(target, source)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.data())
def test_merged_axes_move_the_same_elements(shape: list[int], data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    array = np.arange(math.prod(shape)).reshape(shape)
    few, order = merged(shape, axes)
    np.testing.assert_array_equal(
        array.reshape(few).transpose(order).ravel(), array.transpose(axes).ravel()
    )


def test_what_moves_no_byte_keeps_its_extents() -> None:
    tensor = ExtentTensor(TensorSpec(DType.FLOAT32, (1, 0, 3)), ())
    assert permuted(tensor, (1, 0, 2)).extents == ()
    assert reshaped(tensor, (0, 7)).extents == ()


def test_texts_are_reshaped_only() -> None:
    texts = ElementTensor(TensorSpec(DType.STRING, (2,)), lambda: [b"a", b"b"], 2)
    assert reshaped(texts, (2, 1)).read().tolist() == [[b"a"], [b"b"]]
    with pytest.raises(UsageError, match="is not permuted, expected elements of fixed size"):
        permuted(texts, (0,))


ONE = tensor_of(np.zeros((2, 3), np.float32), DType.FLOAT32)
WHOLE = tensor_of(np.zeros((2, 3), np.int8), DType.INT8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: permuted(ONE, (0, 0)),
            "is not permuted, expected each of 2 axes once, got (0, 0)",
        ),
        (
            lambda: permuted(ONE, (0, 2)),
            "is not permuted, expected each of 2 axes once, got (0, 2)",
        ),
        (lambda: reshaped(ONE, (4, -1)), "expected a shape of 6 elements, got (4, -1)"),
        (lambda: reshaped(ONE, (-1, -1)), "expected a shape of 6 elements, got (-1, -1)"),
        (lambda: reshaped(ONE, (0, -1)), "expected a shape of 6 elements, got (0, -1)"),
        (lambda: sliced(ONE, [(0, 3, 1), (0, 3, 1)]), "expected a part of (2, 3)"),
        (lambda: sliced(ONE, [(0, 2, 1)]), "expected a part of (2, 3), got ((0, 2, 1))"),
        (lambda: fitted(ONE, (2,)), "expected 2 axes, as (2, 3), got (2)"),
        (lambda: fitted(WHOLE, (2, 4), 0.5), "expected a number that int8 holds, got 0.5"),
        (lambda: scaled(WHOLE, 2), "is not scaled, expected floats, got int8"),
        (
            lambda: joined([ONE, WHOLE], 0),
            "expected float32 (2, 3) but for axis 0, got int8 (2, 3)",
        ),
        (lambda: joined([ONE], 2), "has no such axis, expected one of 2, got 2"),
        (lambda: stacked([ONE, reshaped(ONE, (6,))], 0), "expected (2, 3), got (6)"),
        (lambda: stacked([ONE], 4), "is not stacked, expected an axis of 3, got 4"),
        (lambda: divided(ONE, 1, (1, 1)), "expected lengths that add up to 3, got (1, 1)"),
        (lambda: reordered(ONE, 1, (1, 0)), "expected equal blocks of an axis of 3, got (1, 0)"),
        (
            lambda: reordered(ONE, 1, (0, 0, 1)),
            "expected equal blocks of an axis of 3, got (0, 0, 1)",
        ),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert message in str(caught.value)
