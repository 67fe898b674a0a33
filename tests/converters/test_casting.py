"""Casting, held against a rounding of our own that only compares with midpoints."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from tensorferry.converters.casting import (
    FLOATS,
    INTEGERS,
    TARGETS,
    CastTensor,
    Losses,
    castable,
)
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import MemoryTensor, Tensor, TensorSpec
from tensorferry.converters.testing.contracts import tensors_of


class Layout(NamedTuple):
    """How a small float is made: bits of exponent and mantissa, bias, number of finite codes."""

    exponent: int
    mantissa: int
    bias: int
    finite: int


# IEEE 754 for the first two, OCP 8-bit floating point (OFP8) for E4M3 and E5M2, arXiv:2206.02915
# for the kinds without a negative zero.
LAYOUTS = {
    DType.FLOAT16: Layout(5, 10, 15, 0x7C00),
    DType.BFLOAT16: Layout(8, 7, 127, 0x7F80),
    DType.FLOAT8_E4M3FN: Layout(4, 3, 7, 0x7F),
    DType.FLOAT8_E5M2: Layout(5, 2, 15, 0x7C),
    DType.FLOAT8_E4M3FNUZ: Layout(4, 3, 8, 0x80),
    DType.FLOAT8_E5M2FNUZ: Layout(5, 2, 16, 0x80),
    DType.FLOAT8_E4M3B11FNUZ: Layout(4, 3, 11, 0x80),
}
WITHOUT_NEGATIVE_ZERO = {dtype for dtype in LAYOUTS if dtype.label.endswith("fnuz")}
WIDE = {DType.FLOAT32: np.float32, DType.FLOAT64: np.float64}


@cache
def ladder(dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """Return all finite magnitudes of a type in order, and the midpoints above each of them."""
    layout = LAYOUTS[dtype]
    codes = np.arange(layout.finite + 1)  # one more: what the next number would be
    exponents, mantissas = codes >> layout.mantissa, codes & ((1 << layout.mantissa) - 1)
    normal = exponents > 0
    scale = np.where(normal, exponents, 1) - layout.bias - layout.mantissa
    magnitudes = np.ldexp((mantissas + (normal << layout.mantissa)).astype(np.float64), scale)
    return magnitudes[:-1], (magnitudes[:-1] + magnitudes[1:]) / 2


def rounded(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Return finite values to the nearest of a type, ties to even; NaN where there is none."""
    magnitudes, midpoints = ladder(dtype)
    exact = np.abs(values.astype(np.float64))
    below = np.searchsorted(midpoints, exact, side="left")
    tie = midpoints[np.minimum(below, len(midpoints) - 1)] == exact
    codes = np.where(tie & (below % 2 == 1), below + 1, below)
    reached = np.append(magnitudes, np.nan)[np.minimum(codes, len(magnitudes))]
    return np.copysign(reached, values)


def interesting(dtype: DType, wide: DType) -> np.ndarray:
    """Return values around everything that a type can and cannot hold exactly."""
    magnitudes, midpoints = ladder(dtype)
    near = np.concatenate([magnitudes, midpoints, [5e-324, 1e-45, 1e300, 3.4e38, 3.5e38]])
    close = [near, np.nextafter(near, 0), np.nextafter(near, np.inf)]
    with np.errstate(all="ignore"):
        singles = near.astype(np.float32)
    close += [np.nextafter(singles, np.float32(bound)) for bound in (0, np.inf)]
    random = np.random.default_rng(0).integers(0, 1 << 32, 50_000, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        both = np.concatenate([*close, random]).astype(WIDE[wide])
    finite = both[np.isfinite(both)]
    return np.concatenate([finite, -finite])


def cast(values: np.ndarray, dtype: DType, chunk: int = 1 << 16) -> tuple[np.ndarray, Losses]:
    tensor = CastTensor(tensors_of({"x": values})["x"], dtype)
    data = b"".join(map(bytes, tensor.chunks(chunk)))
    assert tensor.losses is not None
    made = np.dtype(dtype.carrier) if dtype in INTEGERS else dtype.numpy()
    return np.frombuffer(data, made).reshape(values.shape), tensor.losses


@pytest.mark.parametrize("wide", WIDE, ids=str)
@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
def test_floats_are_rounded_once_to_the_nearest(dtype: DType, wide: DType) -> None:
    values = interesting(dtype, wide)
    got, losses = cast(values, dtype)
    expected = rounded(values, dtype)
    finite = np.isfinite(got.astype(np.float64))
    np.testing.assert_array_equal(finite, np.isfinite(expected))
    np.testing.assert_array_equal(got.astype(np.float64)[finite], expected[finite])
    zeros = np.count_nonzero((expected == 0) & (values != 0))
    assert losses == (np.count_nonzero(np.isnan(expected)), zeros)
    assert zeros > 0
    assert losses.overflow > 0


@pytest.mark.parametrize("dtype", [*LAYOUTS, DType.FLOAT32], ids=str)
def test_signs_of_zero_infinity_and_nan_are_kept(dtype: DType) -> None:
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan])
    got, losses = cast(values, dtype)
    assert losses == (0, 0)
    numbers = got.astype(np.float64)
    assert numbers[:2].tolist() == [0, 0]
    assert np.isnan(numbers[4:]).all()
    has_infinity = LAYOUTS.get(dtype) is None or dtype.label in (
        "float16",
        "bfloat16",
        "float8_e5m2",
    )
    assert np.isinf(numbers[2:4]).all() if has_infinity else np.isnan(numbers[2:4]).all()
    if dtype not in WITHOUT_NEGATIVE_ZERO:
        assert np.signbit(numbers).tolist() == [False, True] * 3


@pytest.mark.parametrize("payload", [1, 0xFFFF, 0x10000, 0x3FFFFF, 0x400000, 0x7FFFFF])
@pytest.mark.parametrize("dtype", LAYOUTS, ids=str)
def test_no_nan_becomes_a_number(dtype: DType, payload: int) -> None:
    values = np.array([0x7F800000 | payload, 0xFF800000 | payload], np.uint32).view(np.float32)
    assert np.isnan(cast(values, dtype)[0].astype(np.float64)).all()
    doubles = np.array([0x7FF << 52 | payload, 0xFFF << 52 | payload], np.uint64).view(np.float64)
    assert np.isnan(cast(doubles, dtype)[0].astype(np.float64)).all()


@pytest.mark.parametrize("source", sorted(FLOATS - {DType.FLOAT64}, key=str), ids=str)
def test_wider_floats_hold_the_same(source: DType) -> None:
    codes = np.arange(1 << 16 if source.itemsize > 1 else 1 << 8)
    if source is DType.FLOAT32:
        values = (codes << 16).astype(np.uint32).view(np.float32)
    elif source is DType.FLOAT4_E2M1FN:
        values = codes[:16].astype(np.uint8).view(source.numpy())
    else:
        values = codes.astype(f"u{source.itemsize}").view(source.numpy())
    for wide, array_type in WIDE.items():
        got, losses = cast(values, wide)
        with np.errstate(invalid="ignore"):  # as numpy calls a signalling NaN
            np.testing.assert_array_equal(got, values.astype(array_type))
        assert losses == (0, 0)


def test_float16_and_bfloat16_become_each_other() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    got, losses = cast(halves, DType.BFLOAT16)
    np.testing.assert_array_equal(got.astype(np.float64), rounded(halves, DType.BFLOAT16))
    assert losses == (0, 0)
    brains = np.arange(1 << 16, dtype=np.uint16).view(DType.BFLOAT16.numpy())
    brains = brains[np.isfinite(brains.astype(np.float32))]
    expected = rounded(brains.astype(np.float64), DType.FLOAT16)
    got, losses = cast(brains, DType.FLOAT16)
    fits = ~np.isnan(expected)
    np.testing.assert_array_equal(got[fits].astype(np.float64), expected[fits])
    assert losses.overflow == np.count_nonzero(~fits) > 0
    assert losses.zero == np.count_nonzero((expected == 0) & (brains != 0)) > 0


def test_float64_becomes_float32() -> None:
    values = np.array([1 + 2**-24, 1 + 3 * 2**-24, 1e39, -1e39, 1e-46, 0.1, np.nan, np.inf])
    got, losses = cast(values, DType.FLOAT32)
    np.testing.assert_array_equal(
        got, [1, 1 + 2**-22, np.inf, -np.inf, 0, np.float32(0.1), np.nan, np.inf]
    )
    assert losses == (2, 1)


def test_complex_numbers_are_cast_by_parts() -> None:
    values = np.array([[1 + 2j, 1e300 - 1e-300j], [np.nan - 0.1j, 0]])
    got, losses = cast(values, DType.COMPLEX64)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, values.astype(np.complex64))
    assert losses == (1, 1)
    again, losses = cast(got, DType.COMPLEX128)
    np.testing.assert_array_equal(again, got)
    assert losses == (0, 0)


def bounds(dtype: DType) -> tuple[int, int]:
    bits = int("".join(filter(str.isdigit, dtype.label)))
    if dtype.label.startswith("uint"):
        return 0, 2**bits - 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@pytest.mark.parametrize("target", sorted(INTEGERS, key=str), ids=str)
@pytest.mark.parametrize("source", sorted(INTEGERS, key=str), ids=str)
def test_integers_stop_at_the_ends(source: DType, target: DType) -> None:
    low, high = bounds(target)
    ends = {edge + step for edge in (*bounds(source), low, high, 0) for step in (-1, 0, 1)}
    numbers = sorted(n for n in ends if bounds(source)[0] <= n <= bounds(source)[1])
    data = np.array(numbers, source.carrier).tobytes()
    tensor = CastTensor(MemoryTensor(TensorSpec(source, (len(numbers),)), lambda: data), target)
    got = np.frombuffer(b"".join(map(bytes, tensor.chunks())), target.carrier).tolist()
    assert got == [min(max(number, low), high) for number in numbers]
    assert tensor.losses == (sum(a != b for a, b in zip(got, numbers, strict=True)), 0)


def test_integers_and_bool_become_wide_floats() -> None:
    numbers = np.array([0, -1, 2**24 + 1, 2**24 + 3, 2**53 + 1, -(2**63)])
    got, losses = cast(numbers, DType.FLOAT32)
    assert got.tolist() == [0, -1, 2**24, 2**24 + 4, 2**53, -(2**63)]
    assert losses == (0, 0)
    assert cast(numbers, DType.FLOAT64)[0].tolist() == [float(number) for number in numbers]
    truths = np.array([True, False])
    assert cast(truths, DType.FLOAT32)[0].tolist() == [1.0, 0.0]
    assert cast(truths, DType.UINT8)[0].tolist() == [1, 0]


def test_what_is_cast_to_what() -> None:
    pairs = {(source, target) for source in DType for target in DType if castable(source, target)}
    assert {target for _, target in pairs} == set(TARGETS)
    assert (DType.FLOAT32, DType.INT8) not in pairs
    assert (DType.INT64, DType.BFLOAT16) not in pairs
    assert (DType.COMPLEX64, DType.FLOAT32) not in pairs
    assert (DType.UINT8, DType.BOOL) not in pairs
    unread = {DType.STRING, DType.VARIANT} | {each for each in DType if each.label[0] == "q"}
    assert not unread & {source for source, _ in pairs}


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT64, DType.FLOAT8_E5M2], ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 8, 100, 4096, 1 << 20])
def test_chunks_are_whole_elements_and_not_too_long(dtype: DType, chunk: int) -> None:
    values = np.linspace(-1e30, 1e30, 1000, dtype=np.float32).reshape(10, 100)
    whole, losses = cast(values, dtype)
    tensor = CastTensor(tensors_of({"x": values})["x"], dtype)
    assert tensor.losses is None
    assert tensor.extents is None
    assert tensor.nbytes == 1000 * dtype.itemsize
    parts = [bytes(part) for part in tensor.chunks(chunk)]
    assert b"".join(parts) == whole.tobytes()
    assert all(len(part) % dtype.itemsize == 0 for part in parts)
    assert max(map(len, parts)) <= max(chunk, dtype.itemsize)
    assert tensor.losses == losses
    assert sum(map(len, tensor.chunks(64))) == tensor.nbytes
    assert tensor.losses == losses  # of one reading, not of both


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1)])
def test_any_shape_is_cast(shape: tuple[int, ...]) -> None:
    got, losses = cast(np.full(shape, 1.5, np.float32), DType.BFLOAT16)
    assert got.shape == shape
    assert got.astype(np.float32).tolist() == np.full(shape, 1.5).tolist()
    assert losses == (0, 0)
    assert cast(np.full(shape, 2, np.complex128), DType.COMPLEX64)[0].shape == shape


def test_losses_are_not_known_before_the_end() -> None:
    tensor = CastTensor(tensors_of({"x": np.full(100, 1e6, np.float32)})["x"], DType.FLOAT16)
    next(tensor.chunks(40))
    assert tensor.losses is None
    assert np.isinf(tensor.read()).all()
    assert tensor.losses == (100, 0)


class Zeros(Tensor):
    """Zeros that are made when they are read."""

    __slots__ = ()

    def __init__(self, count: int) -> None:
        self.spec = TensorSpec(DType.FLOAT64, (count,))

    def chunks(self, max_bytes: int = 1 << 20) -> Iterator[memoryview]:
        step = max_bytes // 8 * 8
        for at in range(0, self.nbytes, step):
            yield memoryview(bytes(min(step, self.nbytes - at)))


@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT8_E4M3FN, DType.FLOAT32], ids=str)
def test_memory_does_not_grow_with_the_tensor(dtype: DType) -> None:
    tensor = CastTensor(Zeros(8 << 20), dtype)
    tracemalloc.start()
    try:
        assert sum(map(len, tensor.chunks())) == (8 << 20) * dtype.itemsize
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 << 20
