"""Statistics against numpy on whole arrays."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.tensors import CHUNK_BYTES, MemoryTensor, Tensor, TensorSpec
from tensorferry.converters.testing.contracts import canonical, tensors_of
from tensorferry.pipeline.stats import BINS, PERCENTILES, SHARED_BYTES, Stats, stats_all, stats_of
from tensorferry.pipeline.tally import SMALL

NUMBERS = [dtype for dtype in DType if not dtype.variable]
WIDE = [dtype for dtype in NUMBERS if dtype.numpy().itemsize > 2]
LARGE = SMALL + 12_345  # elements, and so counted by patterns


def tensor(array: np.ndarray) -> Tensor:
    return tensors_of({"it": array})["it"]


def raw_tensor(dtype: DType, raw: bytes) -> Tensor:
    size = len(raw) // dtype.itemsize
    return tensors_of({"it": (dtype, (size,), raw)})["it"]


def numbers(found: Tensor) -> np.ndarray:
    """Return the numbers of a tensor as numpy reads them; two for a complex one."""
    array = found.read().reshape(-1)
    return array.view(f"f{array.itemsize // 2}") if array.dtype.kind == "c" else array


def is_integer(dtype: DType) -> bool:
    return dtype.label.removeprefix("q").startswith(("bool", "int", "uint"))


def assert_agrees(stats: Stats, found: Tensor, share: float = 0) -> None:
    """Compare with numpy; percentiles may be off by a share of their value, or by rounding."""
    share = max(share, 2**-53)
    array = numbers(found)
    with np.errstate(invalid="ignore"):
        wide = array if array.dtype.kind in "iu" else array.astype("f8")
    usual = wide[np.isfinite(wide)]
    assert stats.size == len(array)
    assert stats.finite == len(usual)
    assert stats.nans == np.isnan(wide).sum()
    assert stats.infinities == np.isinf(wide).sum()
    assert stats.zeros == (wide == 0).sum()
    if is_integer(found.spec.dtype):
        assert stats.denormals == 0
    else:
        least = float(ml_dtypes.finfo(array.dtype).smallest_normal)
        assert stats.denormals == ((usual != 0) & (np.abs(usual) < least)).sum()
    narrow = found.spec.dtype.numpy().itemsize <= 2
    assert stats.distinct == (len(np.unique(wide)) if narrow else None)
    if not len(usual):
        assert all(math.isnan(x) for x in (stats.minimum, stats.mean, stats.std, stats.norm))
        assert not stats.percentiles
        assert not stats.edges
        return
    assert stats.minimum == usual.min().item()
    assert stats.maximum == usual.max().item()
    assert_measures_agree(stats, usual.astype(np.longdouble))
    lower = np.percentile(usual, PERCENTILES, method="lower").tolist()
    for percent, expected in zip(PERCENTILES, lower, strict=True):
        assert abs(stats.percentiles[percent] - expected) <= share * abs(expected), percent
    assert_histogram_agrees(stats, usual.astype("f8"), share)


def assert_measures_agree(stats: Stats, usual: np.ndarray) -> None:
    """Compare with what 64 bits of mantissa and a wide exponent say."""
    magnitude = float(np.abs(usual).max())
    assert stats.mean == pytest.approx(float(usual.mean()), rel=1e-9, abs=magnitude * 1e-14)
    assert stats.std == pytest.approx(float(usual.std()), rel=1e-9, abs=magnitude * 1e-14)
    norm = float(np.sqrt((usual * usual).sum()))
    assert stats.norm == pytest.approx(norm, rel=1e-9)


def assert_histogram_agrees(stats: Stats, usual: np.ndarray, share: float) -> None:
    assert sum(stats.counts) == len(usual)
    assert len(stats.edges) == len(stats.counts) + 1
    assert list(stats.edges) == sorted(stats.edges)
    assert stats.edges[0] == usual.min()
    assert stats.edges[-1] == usual.max()
    below = np.cumsum(stats.counts)[:-1]
    for edge, count in zip(stats.edges[1:-1], below, strict=True):
        slack = share * abs(edge)
        assert (usual < edge - slack).sum() <= count <= (usual < edge + slack).sum(), edge


# Small and narrow: exact


@st.composite
def raw_tensors(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from(NUMBERS))
    raw = draw(st.binary(max_size=400))
    return raw_tensor(dtype, canonical(dtype, raw[: len(raw) // dtype.itemsize * dtype.itemsize]))


@given(raw_tensors())
def test_small_tensors_of_any_bits_agree_with_numpy(found: Tensor) -> None:
    assert_agrees(stats_of(found), found)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_every_pattern_of_narrow_types_agrees_with_numpy(dtype: DType) -> None:
    if dtype.numpy().itemsize > 2:
        raw = np.random.default_rng(1).bytes(4000 * dtype.itemsize)
    else:
        every = np.arange(1 << 16, dtype="u2").tobytes()
        raw = canonical(dtype, every + every[: 2 * 12_345])
    found = raw_tensor(dtype, raw)
    assert_agrees(stats_of(found), found)
    assert_agrees(stats_of(found, brief=True), found)


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_no_elements_have_no_statistics(dtype: DType) -> None:
    found = stats_of(raw_tensor(dtype, b""))
    assert (found.size, found.finite, found.zeros, found.counts) == (0, 0, 0, ())
    assert found.json()["mean"] is None


def test_a_scalar_is_all_there_is() -> None:
    found = stats_of(tensor(np.array(1001, np.int64)))
    assert (found.minimum, found.maximum, found.mean, found.std) == (1001, 1001, 1001.0, 0.0)
    assert set(found.percentiles.values()) == {1001}
    assert (found.edges, found.counts) == ((1001.0, 1001.0), (1,))


def test_integers_beyond_the_mantissa_of_doubles_stay_exact() -> None:
    large = 2**53 + 1
    for size in (2, LARGE):
        array = np.full(size, large, np.int64)
        array[-1] = -large - 2
        found = json.loads(json.dumps(stats_of(tensor(array)).json()))
        assert (found["min"], found["max"]) == (-large - 2, large)
    unsigned = stats_of(tensor(np.array([0, 2**64 - 1], np.uint64)))
    assert (unsigned.minimum, unsigned.maximum) == (0, 2**64 - 1)


def test_constants_have_no_deviation() -> None:
    for size in (3, LARGE):
        found = stats_of(tensor(np.full(size, 0.1, np.float32)))
        assert (found.std, found.mean) == (0.0, float(np.float32(0.1)))
        assert found.norm == pytest.approx(float(np.float32(0.1)) * math.sqrt(size))
        assert set(found.percentiles.values()) == {found.mean}


def test_zero_has_no_sign() -> None:
    for size in (2, LARGE):
        found = stats_of(tensor(np.full(size, -0.0, np.float32)))
        assert math.copysign(1, found.minimum) == 1
        assert (found.zeros, found.distinct) == (size, None)
    both = stats_of(tensor(np.array([-0.0, 0.0], np.float16)))
    assert (both.zeros, both.distinct) == (2, 1)


# Large and wide


def spread(dtype: DType, size: int = LARGE) -> Tensor:
    """Return a large tensor of what weights may hold, and some of what they should not."""
    rng = np.random.default_rng(7)
    kind = dtype.numpy()
    if kind.kind in "iu":
        info = np.iinfo(kind)
        array = rng.integers(info.min, info.max, size, kind, endpoint=True)
        array[: size // 2] = rng.integers(0, 100, size // 2)
        return raw_tensor(dtype, array.tobytes())
    parts = rng.normal(0, 0.05, size * kind.itemsize // np.dtype(kind).alignment)
    parts = parts.astype(f"f{np.dtype(kind).alignment}")
    parts[rng.integers(0, len(parts), len(parts) // 3)] = 0
    parts[:6] = math.nan, math.inf, -math.inf, np.finfo(parts.dtype).smallest_subnormal, 1e30, 1e-30
    return raw_tensor(dtype, parts.tobytes())


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_large_tensors_agree_with_numpy_within_the_stated_error(dtype: DType) -> None:
    found = spread(dtype)
    single = dtype in (DType.FLOAT32, DType.COMPLEX64)
    assert_agrees(stats_of(found), found, share=1 / 256 if single else 1 / 128)


@given(
    arrays.arrays(
        st.sampled_from([np.dtype("f4"), np.dtype("f8"), np.dtype("i4"), np.dtype("u8")]), 300
    )
)
def test_large_tensors_of_anything_agree_with_numpy(array: np.ndarray) -> None:
    found = tensor(np.tile(array, SMALL // 300 + 1))
    share = 1 / 256 if array.dtype == "f4" else 1 / 128
    # What lies next to zero counts as zero.
    tiny = np.abs(array) < np.finfo(array.dtype).smallest_normal if array.dtype.kind == "f" else 0
    if not np.any(tiny & (array != 0)):
        assert_agrees(stats_of(found), found, share)


def test_denormals_are_counted_and_percentiles_of_them_are_at_most_near() -> None:
    for kind in ("f4", "f8"):
        info = np.finfo(kind)
        array = np.zeros(LARGE, kind)
        array[:100] = info.smallest_subnormal
        array[100:200] = -info.smallest_normal / 2
        array[200:300] = info.smallest_normal
        found = stats_of(tensor(array))
        assert (found.denormals, found.zeros) == (200, LARGE - 300)
        assert found.percentiles[50] == 0
        assert found.minimum == -info.smallest_normal / 2


def test_numbers_near_the_end_of_float64_make_no_nonsense() -> None:
    for size in (3, LARGE):
        signs = np.where(np.arange(size) % 2, 1.0, -1.0)
        for magnitude in (1e200, 1e-200, 1e308, 5e-324):
            found = tensor(signs * magnitude)
            stats = stats_of(found)
            assert stats.std == pytest.approx(magnitude, rel=0.06)
            assert abs(stats.mean) <= magnitude / 2
            expected = magnitude * math.sqrt(size)
            assert stats.norm == pytest.approx(expected, rel=1e-9, abs=5e-324)
            assert np.isfinite(stats.edges).all()
            assert sum(stats.counts) == size
    assert stats_of(tensor(np.full(9, 1.7e308))).norm == math.inf
    assert stats_of(tensor(np.full(9, 1.7e308))).json()["norm"] is None


def test_chunks_of_very_different_magnitudes_are_put_together() -> None:
    array = np.zeros(CHUNK_BYTES)
    at = len(array) // 4
    array[:at], array[at : 2 * at], array[2 * at : 3 * at] = 1e200, 1e-200, 1.0
    array[0] = -1e200
    found = tensor(array)
    assert_measures_agree(stats_of(found), array.astype(np.longdouble))
    tiny = array * 1e-200 * 1e-100  # nothing above 1e-100, and zeros
    assert_measures_agree(stats_of(tensor(tiny)), tiny.astype(np.longdouble))


def test_far_from_zero_the_deviation_keeps_its_digits() -> None:
    array = np.random.default_rng(3).normal(1e8, 1, LARGE)
    assert stats_of(tensor(array)).std == pytest.approx(float(array.std()), rel=1e-9)


def test_all_nan_and_all_infinite_tensors_have_counts_only() -> None:
    for size in (5, LARGE):
        for dtype in ("f4", "f8", "f2"):
            found = stats_of(tensor(np.full(size, math.nan, dtype)))
            assert (found.nans, found.finite) == (found.size, 0)
            assert math.isnan(found.minimum)
            found = stats_of(tensor(np.full(size, -math.inf, "f4")))
            assert (found.infinities, found.finite, found.counts) == (size, 0, ())


# Threads, chunks and what cannot be read


class Chunked(Tensor):
    """A tensor in chunks of its own choice, from one buffer that is used again."""

    def __init__(self, array: np.ndarray, lengths: list[int]) -> None:
        self.spec = TensorSpec(DType(("float32", 4)), array.shape)
        self._array = array
        self._lengths = lengths
        self.threads: set[int] = set()

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(max_bytes))
        raw, at = self._array.tobytes(), 0
        for length in self._lengths:
            part = raw[at : at + length * 4]
            buffer[: len(part)] = part
            yield buffer[: len(part)]
            buffer[: len(part)] = b"\xff" * len(part)
            at += len(part)


@given(st.lists(st.integers(0, 1 << 17), min_size=1, max_size=8), st.integers(1, 3))
def test_chunks_and_threads_make_no_difference(lengths: list[int], jobs: int) -> None:
    lengths = [*lengths, 1 << 17]
    array = np.random.default_rng(5).standard_normal(sum(lengths), np.float32)
    found = stats_of(Chunked(array, lengths), jobs=jobs)
    alone = stats_of(Chunked(array, lengths))
    assert found == alone
    expected = stats_of(tensor(array))
    assert replace(found, mean=0.0, std=0.0, norm=0.0) == replace(
        expected, mean=0.0, std=0.0, norm=0.0
    )
    assert_measures_agree(found, array.astype(np.longdouble))


def test_one_large_tensor_is_counted_by_several_threads() -> None:
    seen: set[int] = set()

    def advance(_length: int) -> None:  # called by the thread that takes the chunk
        time.sleep(0.002)
        seen.add(threading.get_ident())

    stats = stats_all(tensors_of({"large": np.ones(SHARED_BYTES // 4, np.float32)}), 2, advance)
    assert stats["large"].mean == 1.0
    assert len(seen) == 2


def test_progress_counts_every_byte() -> None:
    told: list[int] = []
    tensors = tensors_of(
        {"a": np.ones(LARGE, np.float32), "b": np.ones(3, np.float16), "c": [b"text"]}
    )
    found = stats_all(tensors, 2, told.append)
    assert list(found) == ["a", "b"]
    assert sum(told) == LARGE * 4 + 6


def fails() -> bytes:
    raise CorruptFileError("the file ends early")


@pytest.mark.parametrize("size", [3, LARGE, SHARED_BYTES])
def test_a_tensor_that_cannot_be_read_is_named(size: int) -> None:
    broken = MemoryTensor(TensorSpec(DType.FLOAT32, (size,)), fails)
    tensors = tensors_of({"good": np.ones(3, np.float32), "bad": broken})
    with pytest.raises(CorruptFileError, match="tensor `bad`"):
        stats_all(tensors, 2)
    unreadable: dict[str, Any] = {}
    assert list(stats_all(tensors, 2, unreadable=unreadable)) == ["good"]
    assert "tensor `bad`" in str(unreadable["bad"])
    known = replace(tensors, broken={"bad": CorruptFileError("is missing")})
    assert list(stats_all(known, 2)) == ["good"]


@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_brief_statistics_have_what_is_cheap_and_nothing_else(dtype: DType) -> None:
    full, brief = (stats_of(spread(dtype), brief=brief).json() for brief in (False, True))
    cheap = ("size", "finite", "zeros", "nan", "inf", "distinct", "min", "max")
    assert {name: brief[name] for name in cheap} == {name: full[name] for name in cheap}
    assert {brief[name] for name in full if name not in (*cheap, "histogram")} == {None}
    assert brief["histogram"] == {"edges": (), "counts": ()}


def test_json_has_all_numbers_and_is_json() -> None:
    found = stats_of(tensor(np.array([1, 2, math.nan, math.inf], np.float32))).json()
    assert json.loads(json.dumps(found, allow_nan=False))["histogram"]["counts"][0] == 1
    assert (found["nan"], found["inf"], found["max"], found["p50"]) == (1, 1, 2.0, 1.0)
    nothing = stats_of(tensor(np.zeros(0, np.float32))).json()
    assert nothing.keys() == found.keys()
    assert len(found["histogram"]["counts"]) == BINS
