from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers.slices import Part, stitch
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import (
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorSpec,
)


def _in_memory(array: np.ndarray) -> Tensor:
    if array.dtype == object:
        held = list(array.ravel())
        return ElementTensor(TensorSpec(DType.STRING, array.shape), lambda: held, 7)
    return MemoryTensor(TensorSpec(DType.INT32, array.shape), array.tobytes)


def _part(whole: np.ndarray, *bounds: tuple[int, int]) -> Part:
    """Return a part of `whole` given by the first and the last element plus one, per axis."""
    values = whole[(*(slice(start, stop) for start, stop in bounds), ...)]
    starts, lengths = tuple(a for a, _ in bounds), tuple(b - a for a, b in bounds)
    return Part(starts, lengths, _in_memory(values))


def _stitched(whole: np.ndarray, *parts: Part) -> np.ndarray:
    dtype = DType.STRING if whole.dtype == object else DType.INT32
    return stitch(TensorSpec(dtype, whole.shape), parts).read()


WHOLE = np.arange(7 * 5, dtype=np.int32).reshape(7, 5)
WORDS = np.array([[b"a", b""], [b"\0\xff", b"long" * 100]], dtype=object)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (2, 1, 0)])
def test_rows_in_any_order(order: tuple[int, ...]) -> None:
    parts = [_part(WHOLE, rows, (0, 5)) for rows in ((0, 3), (3, 5), (5, 7))]
    np.testing.assert_array_equal(_stitched(WHOLE, *(parts[n] for n in order)), WHOLE, strict=True)


def test_columns() -> None:
    parts = [_part(WHOLE, (0, 7), columns) for columns in ((0, 1), (1, 4), (4, 5))]
    np.testing.assert_array_equal(_stitched(WHOLE, *parts), WHOLE, strict=True)


def test_grid() -> None:
    cuts = product(((0, 2), (2, 7)), ((0, 3), (3, 5)))
    parts = [_part(WHOLE, rows, columns) for rows, columns in cuts]
    np.testing.assert_array_equal(_stitched(WHOLE, *parts), WHOLE, strict=True)


def test_one_part_may_be_all() -> None:
    whole = _stitched(WHOLE, _part(WHOLE, (0, 7), (0, 5)))
    np.testing.assert_array_equal(whole, WHOLE, strict=True)


@pytest.mark.parametrize("axis", [0, 1])
def test_strings(axis: int) -> None:
    halves = [((0, 1), (0, 2)), ((1, 2), (0, 2))]
    parts = [_part(WORDS, *(half if axis == 0 else half[::-1])) for half in halves]
    tensor = stitch(TensorSpec(DType.STRING, (2, 2)), parts)
    assert tensor.elements() == list(WORDS.ravel())
    assert tensor.nbytes == 14


@pytest.mark.parametrize("value", [np.array(7, np.int32), np.array(b"text", object)])
def test_scalars(value: np.ndarray) -> None:
    assert _stitched(value, _part(value)) == value


def test_rows_that_lie_in_files_stay_byte_ranges(tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    paths[0].write_bytes(b"..." + WHOLE[:3].tobytes())
    paths[1].write_bytes(WHOLE[3:].tobytes())
    sources = [FileSource(path) for path in paths]
    spec = TensorSpec(DType.INT32, (7, 5))
    tensor = stitch(
        spec,
        [
            Part((3, 0), (4, 5), _stored(sources[1], 0, (4, 5))),
            Part((0, 0), (3, 5), _stored(sources[0], 3, (3, 5))),
        ],
    )
    extents = [Extent(sources[0], 3, 60), Extent(sources[1], 0, 80)]
    assert list(tensor.extents or ()) == extents
    np.testing.assert_array_equal(tensor.read(), WHOLE, strict=True)
    for source in sources:
        source.close()


def _stored(source: FileSource, offset: int, shape: tuple[int, ...]) -> Tensor:
    spec = TensorSpec(DType.INT32, shape)
    return ExtentTensor(spec, (Extent(source, offset, spec.nbytes),))


@given(st.data())
def test_any_grid_is_the_whole(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    whole = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    cuts = []
    for dim in shape:
        inner = data.draw(st.sets(st.integers(1, dim - 1), max_size=2)) if dim > 1 else set()
        edges = [0, *sorted(inner), dim]
        cuts.append(list(pairwise(edges)))
    parts = data.draw(st.permutations([_part(whole, *bounds) for bounds in product(*cuts)]))
    np.testing.assert_array_equal(_stitched(whole, *parts), whole, strict=True)


@pytest.mark.parametrize(
    ("bounds", "what"),
    [
        ([((0, 3), (0, 5)), ((4, 7), (0, 5))], "hole"),
        ([((0, 3), (0, 5))], "hole"),
        ([], "hole"),
        ([((0, 4), (0, 5)), ((3, 7), (0, 5))], "overlap"),
        ([((0, 7), (0, 5)), ((0, 7), (0, 5))], "overlap"),
        ([((0, 7), (0, 3)), ((0, 7), (2, 5))], "overlap"),
        # As many elements as the whole, but one twice and one never.
        ([((0, 4), (0, 5)), ((3, 6), (0, 5))], "overlap"),
        ([((0, 4), (0, 3)), ((4, 7), (0, 3)), ((0, 3), (3, 5)), ((2, 6), (3, 5))], "overlap"),
    ],
)
def test_holes_and_overlaps_are_refused(
    bounds: list[tuple[tuple[int, int], tuple[int, int]]], what: str
) -> None:
    with pytest.raises(CorruptFileError, match=what):
        _stitched(WHOLE, *(_part(WHOLE, *each) for each in bounds))


@pytest.mark.parametrize(
    ("starts", "lengths"),
    [
        ((0, 0), (8, 5)),
        ((1, 0), (7, 5)),
        ((-1, 0), (7, 5)),
        ((0, 0), (7, 0)),
        ((0, 0), (7, -5)),
        ((1 << 62, 0), (1 << 62, 5)),
    ],
)
def test_parts_outside_are_refused(starts: tuple[int, int], lengths: tuple[int, int]) -> None:
    part = Part(starts, lengths, _in_memory(WHOLE))
    with pytest.raises(CorruptFileError, match="outside"):
        _stitched(WHOLE, part)


def test_many_parts_are_checked_fast() -> None:
    whole = np.arange(20_000, dtype=np.int32)
    parts = [_part(whole, (n, n + 1)) for n in range(20_000)]
    np.testing.assert_array_equal(_stitched(whole, *parts), whole, strict=True)
