"""The numbers of a difference against numpy on whole arrays, and what is a cast or a turn."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import MemoryTensor, Tensor, TensorSpec
from tensorferry.converters.testing.contracts import canonical, tensors_of
from tensorferry.converters.testing.strategies import FIXED, shapes
from tensorferry.pipeline import diff_forms, diff_values
from tensorferry.pipeline.diff_forms import axes_of, cast_remark, fingerprint
from tensorferry.pipeline.diff_values import Gap, Tolerance, equal_values, gap

COMPLEX = (DType.COMPLEX64, DType.COMPLEX128)


@pytest.fixture(autouse=True, scope="module")
def short_pieces() -> Any:
    """Let small tensors have several chunks, and chunks several blocks."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (diff_values, diff_forms):
            patch.setattr(module, "STEP", 64)
        patch.setattr(diff_values, "BLOCK", 3)
        yield


def tensor(dtype: DType, shape: tuple[int, ...], raw: bytes) -> Tensor:
    return MemoryTensor(TensorSpec(dtype, shape), lambda: canonical(dtype, raw))


def of(array: np.ndarray) -> Tensor:
    return tensors_of({"x": array})["x"]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Return two tensors of a type and a shape; some elements of them are equal."""
    dtype = draw(st.sampled_from(FIXED))
    spec = TensorSpec(dtype, draw(shapes()))
    seeds = [draw(st.binary(min_size=1, max_size=24)) for _ in range(2)]
    first, second = ((seed * (spec.nbytes // len(seed) + 1))[: spec.nbytes] for seed in seeds)
    # Equal up to somewhere: within an element, between two, or to the end.
    cut = draw(st.integers(0, spec.nbytes))
    return tensor(dtype, spec.shape, first), tensor(dtype, spec.shape, first[:cut] + second[cut:])


def whole(each: Tensor) -> np.ndarray:
    """Return the values of a tensor, flat: exact integers, complex numbers, or float64."""
    dtype = each.spec.dtype
    if dtype.carrier in ("int64", "uint64"):
        return each.read().ravel().astype(object)
    array = each.read().ravel()
    return array.astype("c16") if dtype in COMPLEX else array.astype("f8")


def bits(each: Tensor) -> list[bytes]:
    raw, width = b"".join(map(bytes, each.chunks())), each.spec.dtype.itemsize
    return [raw[at : at + width] for at in range(0, len(raw), width)]


def expected(first: Tensor, second: Tensor, tolerance: Tolerance) -> Gap:
    """Compute the same on whole arrays, element by element where numpy has no word for it."""
    a, b = whole(first), whole(second)
    values = zip(map(complex, a), map(complex, b), strict=True)
    finite = np.array([np.isfinite(x) and np.isfinite(y) for x, y in values], bool)
    odd = sum(
        x != y for x, y, fine in zip(bits(first), bits(second), finite, strict=True) if not fine
    )
    a, b = a[finite], b[finite]
    apart = np.abs(a - b).astype("f8")
    a, b = (each.astype("c16") for each in (a, b))
    beyond = int((apart > tolerance.absolute + tolerance.relative * np.abs(b)).sum())
    changed = int((apart != 0).sum())
    return Gap(
        size=first.spec.size, changed=changed + odd, beyond=beyond + odd, odd=odd,
        most=float(apart.max(initial=0.0)), squares=float((apart**2).sum()),
        lefts=float((np.abs(a) ** 2).sum()), rights=float((np.abs(b) ** 2).sum()),
        products=float((a.conj() * b).real.sum()),
    )  # fmt: skip


def agree(got: float, wanted: float, scale: float) -> bool:
    if not math.isfinite(wanted) or not math.isfinite(scale):
        return True  # beyond float64, where the order of a sum decides what it becomes
    return math.isclose(got, wanted, rel_tol=1e-12, abs_tol=1e-12 * scale)


@given(pairs(), st.sampled_from([Tolerance(), Tolerance(0.5, 0.0), Tolerance(0.0, 0.25)]))
def test_a_gap_is_what_numpy_finds_on_whole_arrays(
    pair: tuple[Tensor, Tensor], tolerance: Tolerance
) -> None:
    with np.errstate(all="ignore"):
        wanted = expected(*pair, tolerance)
    got = gap(*pair, tolerance)
    counts = ("size", "changed", "odd", "most")
    assert [getattr(got, each) for each in counts] == [getattr(wanted, each) for each in counts]
    assert got.beyond == wanted.beyond
    for each in ("squares", "lefts", "rights"):
        assert agree(getattr(got, each), getattr(wanted, each), 0.0), each
    assert agree(got.products, wanted.products, math.sqrt(wanted.lefts) * math.sqrt(wanted.rights))


@given(pairs())
def test_tensors_are_equal_where_their_bytes_are(pair: tuple[Tensor, Tensor]) -> None:
    assert equal_values(*pair) == (bits(pair[0]) == bits(pair[1]))


def test_measures_are_of_the_whole_tensor_also_where_its_beginning_is_equal() -> None:
    a = np.arange(1, 1001, dtype="f4")
    b = a.copy()
    b[-1] += 2
    found = gap(of(a), of(b), Tolerance())
    assert found.most == 2
    assert found.relative == pytest.approx(2 / np.linalg.norm(a.astype("f8")))
    wanted = np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine == pytest.approx(float(wanted))
    assert found.share == 1 / 1000


def test_long_integers_are_compared_exactly() -> None:
    a = np.array([2**62, -(2**63), 7])
    b = np.array([2**62 + 1, 2**63 - 1, 7])
    found = gap(of(a), of(b), Tolerance())
    assert (found.changed, found.most) == (2, float(2**64 - 1))


def test_signs_of_zeros_are_no_change_of_value() -> None:
    found = gap(of(np.array([0.0, 1.0])), of(np.array([-0.0, 1.0])), Tolerance())
    assert (found.changed, found.beyond, found.most, found.share) == (0, 0, 0.0, 0.0)


def test_a_nan_is_the_same_where_its_bits_are() -> None:
    a = np.array([0x7FC00000, 0x7FC00000, 0x7F800000, 0x3F800000], "u4").view("f4")
    b = np.array([0x7FC00000, 0x7FC00001, 0x7F800000, 0x3F800000], "u4").view("f4")
    found = gap(of(a), of(b), Tolerance(absolute=1e9))
    assert (found.changed, found.beyond, found.odd, found.most) == (1, 1, 1, 0.0)
    assert found.cosine == 1.0


def test_nan_in_what_is_equal_is_left_out_of_the_norms() -> None:
    a = np.array([np.nan, 3, 4, 1, np.inf, 2])
    b = np.array([np.nan, 3, 4, 2, np.inf, 2])
    found = gap(of(a), of(b), Tolerance())
    assert (found.lefts, found.rights, found.products) == (30, 33, 31)
    assert (found.changed, found.odd) == (1, 0)


def test_a_tolerance_includes_its_bound() -> None:
    a, b = of(np.array([1.0, 2.0, 8.0])), of(np.array([2.0, 4.0, 8.0]))
    assert gap(a, b, Tolerance(absolute=1.0)).beyond == 1
    assert gap(a, b, Tolerance(absolute=2.0)).beyond == 0
    assert gap(a, b, Tolerance(relative=0.5)).beyond == 0


@pytest.mark.parametrize(
    ("ours", "theirs"), [("f4", "f8"), ("f8", "f2"), ("i1", "i8"), ("u4", "c8")]
)
def test_two_types_are_compared_by_value(ours: str, theirs: str) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 50, 100).astype(ours), rng.integers(0, 50, 100).astype(theirs)
    found = gap(of(a), of(b), Tolerance())
    x, y = a.astype("f8"), b.real.astype("f8")
    assert found.changed == np.count_nonzero(x != y)
    assert (found.most, found.products) == (np.abs(x - y).max(), x @ y)
    assert (found.squares, found.lefts, found.rights) == (((x - y) ** 2).sum(), x @ x, y @ y)


def test_nan_and_infinity_of_two_types_are_the_same() -> None:
    a = np.array([np.nan, np.inf, -np.inf, np.nan, 1.0])
    b = np.array([np.nan, np.inf, np.inf, 1.0, 1.0], "f4")
    found = gap(of(a), of(b), Tolerance())
    assert (found.odd, found.changed, found.most) == (2, 2, 0.0)


def test_zeros_have_no_direction_and_no_relative_distance() -> None:
    found = gap(of(np.zeros(3)), of(np.ones(3)), Tolerance())
    assert (found.relative, found.cosine) == (math.inf, None)


def test_squares_beyond_float64_give_no_number_instead_of_a_wrong_one() -> None:
    found = gap(of(np.array([1e200, 1.0])), of(np.array([2e200, 1.0])), Tolerance())
    assert (found.most, found.changed, found.cosine) == (1e200, 1, None)
    assert math.isnan(found.relative)


def test_complex_numbers_are_compared_with_real_ones() -> None:
    found = gap(of(np.array([1 + 1j, 2])), of(np.array([1.0, 2.0])), Tolerance())
    assert (found.changed, found.most) == (1, 1.0)


# Turned


@given(st.data())
def test_axes_are_found_that_explain_a_turn(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple))
    axes = data.draw(st.permutations(range(len(shape))))
    kind = data.draw(st.sampled_from(["u1", "f2", "f4", "f8", "c16"]))
    a = np.arange(math.prod(shape)).reshape(shape).astype(kind)
    b = np.ascontiguousarray(a.transpose(axes))
    assert fingerprint(of(a)) == fingerprint(of(b))
    found = axes_of(of(a), of(b))
    if found is None:  # nothing was turned, so that no other order explains it
        orders = [
            order for order in permutations(range(len(shape))) if order != tuple(sorted(axes))
        ]
        assert not any(np.array_equal(a.transpose(order), b) for order in orders)
    else:
        assert np.array_equal(a.transpose(found), b)


def test_the_same_elements_in_another_order_alone_are_no_turn() -> None:
    a = np.arange(12.0).reshape(3, 4)
    b = a.ravel()[::-1].reshape(4, 3)
    assert fingerprint(of(a)) == fingerprint(of(b))
    assert axes_of(of(a), of(b)) is None


def test_of_many_axes_no_order_is_tried() -> None:
    a = np.arange(64.0).reshape([2] * 6)
    assert axes_of(of(a), of(np.ascontiguousarray(a.T))) is None


# Cast

NARROW = {
    DType.BFLOAT16: ml_dtypes.bfloat16,
    DType.FLOAT16: np.float16,
    DType.FLOAT8_E4M3FN: ml_dtypes.float8_e4m3fn,
    DType.FLOAT8_E5M2FNUZ: ml_dtypes.float8_e5m2fnuz,
}
VALUES = np.linspace(-3, 3, 50, dtype="f4")


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_what_was_rounded_is_a_cast_both_ways(dtype: DType) -> None:
    wide, narrow = of(VALUES), of(VALUES.astype(NARROW[dtype]))
    assert cast_remark(wide, narrow) == ""
    assert cast_remark(narrow, wide) == ""


def test_a_unit_in_the_last_place_is_still_a_cast_and_two_are_not() -> None:
    rounded = VALUES.astype(ml_dtypes.bfloat16).view("u2")
    cut_off = (VALUES.view("u4") >> 16).astype("u2")
    assert not np.array_equal(rounded, cut_off)
    assert cast_remark(of(VALUES), of(cut_off.view(ml_dtypes.bfloat16))) == ""
    assert cast_remark(of(VALUES), of((rounded + 2).view(ml_dtypes.bfloat16))) is None


def test_neighbours_of_zero_lie_on_both_sides() -> None:
    least = np.array([1, 0x8001], "u2").view("f2")  # the smallest numbers of float16
    assert cast_remark(of(np.array([0.0, 0.0])), of(least)) == ""
    assert cast_remark(of(least[:1].astype("f8")), of(least[1:])) is None


def test_what_is_beyond_the_range_is_counted() -> None:
    wide = np.array([1e6, 1.0, np.inf, np.nan], "f4")
    with np.errstate(over="ignore"):
        narrow = wide.astype("f2")
    assert cast_remark(of(wide), of(narrow)) == "1 beyond its range"


def test_an_infinity_is_no_neighbour_of_the_largest_number() -> None:
    largest = np.array([65504.0], "f2")
    assert cast_remark(of(np.array([np.inf], "f4")), of(largest)) is None


def test_nan_of_a_type_without_negative_zero_is_no_neighbour_of_zero() -> None:
    nan = np.array([0x80], "u1").view(ml_dtypes.float8_e5m2fnuz)
    assert cast_remark(of(np.zeros(1, "f4")), of(nan)) is None
    assert cast_remark(of(np.array([np.nan], "f4")), of(nan)) == ""


def test_integers_are_cast_exactly_or_not_at_all() -> None:
    a = np.array([1, 2, 3])
    assert cast_remark(of(a), of(a.astype("i2"))) == ""
    assert cast_remark(of(a), of(a.astype("f4"))) == ""
    assert cast_remark(of(a), of(a.astype("i2") + 1)) is None
    assert cast_remark(of(a), of(a.astype("c8"))) is None
    assert cast_remark(of(np.array([70000])), of(np.array([32767], "i2"))) == "1 beyond its range"
