from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorferry.converters.containers import table_values
from tensorferry.converters.containers.bundle_messages import Range, build_header, slice_key
from tensorferry.converters.containers.sstable import build_table
from tensorferry.converters.containers.tensor_slices import (
    TensorSlices,
    decode_slice_key,
    is_tensor_slices,
    parse_listing,
)
from tensorferry.converters.containers.wire import message, varint
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import ConvertError, CorruptFileError
from tensorferry.converters.testing.contracts import contents

WHOLE: Range = (0, None)
FLOATS = np.arange(35, dtype=np.float32).reshape(7, 5)

int64 = st.integers(-(2**63), 2**63 - 1)
ranges = st.lists(st.tuples(int64, int64.filter(lambda n: n != -1) | st.none()), max_size=5)


@pytest.fixture
def write(tmp_path: Path, v1_table: Callable[..., bytes]) -> Callable[..., Path]:
    """Return the function that writes a V1 checkpoint and returns its path."""

    def make(tensors: dict[str, Any], name: str = "m", **options: Any) -> Path:
        path = tmp_path / name
        path.write_bytes(v1_table(tensors, **options))
        return path

    return make


def _open(*files: Path, verify: bool = True) -> TensorSlices:
    return TensorSlices.open(files, verify=verify)


# Keys


@given(st.binary(max_size=20), ranges)
@example(b"\0\xff\0\1\xff", [(0, None), (63, 64), (-64, -65), (8191, 8192)])
def test_keys_come_back(name: bytes, ranges: list[Range]) -> None:
    assert decode_slice_key(slice_key(name, ranges)) == (name, tuple(ranges))


def test_worked_key_is_decoded() -> None:
    key = bytes.fromhex("00 77 00 01 01 02 82 82 80 7F")
    assert decode_slice_key(key) == (b"w", ((2, 2), (0, None)))


@given(st.binary(max_size=12), ranges.filter(bool), st.data())
def test_cut_keys_are_refused(name: bytes, ranges: list[Range], data: st.DataObject) -> None:
    key = slice_key(name, ranges)
    cut = key[: data.draw(st.integers(0, len(key) - 1))]
    with pytest.raises(CorruptFileError):
        decode_slice_key(cut)


@given(st.binary(max_size=40))
@example(b"\x00a\x00\x01\x01\x01\xff\xff\x80")
@example(b"\x00a\x00\x01\x01\x01\x00\x00\x80")
def test_any_bytes_are_a_key_or_refused(key: bytes) -> None:
    try:
        name, ranges = decode_slice_key(key)
    except CorruptFileError:
        return
    assert decode_slice_key(slice_key(name, ranges)) == (name, ranges)


@pytest.mark.parametrize("key", [b"", b"\x01\x05a\0\1\0", b"\0a\xff\x05\0\1\0", b"\0a\0\1\x01\x02"])
def test_other_keys_are_refused(key: bytes) -> None:
    with pytest.raises(CorruptFileError, match="key"):
        decode_slice_key(key)


# The list


def test_a_list_is_decoded() -> None:
    tensor = message(
        (1, b"w"), (2, message((2, message((1, 4))))), (3, 1), (4, message((1, message((2, 4))))),
        (9, 7), (9, b"unknown"),
    )  # fmt: skip
    listing = message((1, message((1, tensor), (2, message((1, 1))), (7, 1))), (5, b"unknown"))
    (listed,) = parse_listing(listing)
    assert listed == (b"w", 1, (4,), (((0, 4),),))


@pytest.mark.parametrize("version", [message((2, 2)), message((2, b"text"))])
def test_lists_for_newer_readers_are_refused(version: bytes) -> None:
    with pytest.raises(CorruptFileError, match="needs a newer reader"):
        parse_listing(message((1, message((2, version)))))


# What a file is


def test_v1_files_are_known(write: Callable[..., Path], v1_tensor: Any) -> None:
    path = write({"w": v1_tensor.floats(FLOATS)})
    assert is_tensor_slices(path)


@pytest.mark.parametrize("kept", [20, 60, -1])
def test_v1_files_that_are_cut_short_are_known(
    write: Callable[..., Path], v1_tensor: Any, kept: int
) -> None:
    path = write({"w": v1_tensor.floats(FLOATS)})
    path.write_bytes(path.read_bytes()[:kept])
    assert is_tensor_slices(path)
    with pytest.raises(CorruptFileError):
        _open(path)


def test_an_empty_v1_file_is_known(write: Callable[..., Path]) -> None:
    path = write({})
    assert is_tensor_slices(path)
    assert not _open(path).tensors


def test_packed_v1_files_are_known(write: Callable[..., Path], v1_tensor: Any) -> None:
    assert is_tensor_slices(write({"w": v1_tensor.floats(FLOATS)}, packed=True))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        b"\0\0\x80",
        b"\0\0\x05\x0a\x04abcd",
        b"\0\1\x06\x0a\x04abcd",
        b"text that is longer than a footer, which has 48 bytes, and then some",
        build_table([]),
        build_table([(b"", b"")]),
        build_table([(b"", build_header(1))]),
        build_table([(b"a", message((1, message((1, b"x")))))]),
    ],
)
def test_other_files_are_not_v1(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m"
    path.write_bytes(data)
    assert not is_tensor_slices(path)
    with pytest.raises(CorruptFileError):
        _open(path)


def test_the_first_entry_has_to_be_the_list(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(build_table([(b"a", b"b")]))
    with pytest.raises(CorruptFileError, match="first entry of the table") as caught:
        _open(path)
    assert caught.value.path == str(path)


# Tensors


def test_whole_tensors_are_byte_ranges(write: Callable[..., Path], v1_tensor: Any) -> None:
    path = write({"b": v1_tensor.floats(FLOATS), "a": v1_tensor.floats(np.array(3.0))})
    slices = _open(path)
    assert list(slices.tensors) == ["a", "b"]
    np.testing.assert_array_equal(slices.tensors["b"].read(), FLOATS, strict=True)
    assert slices.tensors["a"].read() == 3
    assert slices.tensors["a"].spec.shape == ()
    (extent,) = slices.tensors["b"].extents or ()
    assert path.read_bytes()[extent.offset :].startswith(FLOATS.tobytes())
    assert not slices.broken
    assert not slices.notes


# Field of TensorProto, values in it, and how the same lie in memory.
_MINUS_ONE = varint(-1)
TYPES: dict[DType, tuple[bytes, bytes]] = {
    DType.FLOAT32: (message((5, bytes(range(8)))), bytes(range(8))),
    DType.FLOAT64: (message((6, bytes(range(16)))), bytes(range(16))),
    DType.INT32: (message((7, _MINUS_ONE + b"\x07")), b"\xff" * 4 + b"\x07\0\0\0"),
    DType.UINT8: (message((7, b"\xff\x01\x07")), b"\xff\x07"),
    DType.INT16: (message((7, _MINUS_ONE + b"\x07")), b"\xff\xff\x07\0"),
    DType.INT8: (message((7, _MINUS_ONE + b"\x07")), b"\xff\x07"),
    DType.STRING: (message((8, b"a"), (8, b"")), b"\1" + bytes(7) + b"a" + bytes(8)),
    DType.COMPLEX64: (message((9, bytes(range(16)))), bytes(range(16))),
    DType.INT64: (message((10, _MINUS_ONE + b"\x07")), b"\xff" * 8 + b"\x07" + bytes(7)),
    DType.BOOL: (message((11, b"\1\0")), b"\1\0"),
    DType.QINT8: (message((7, _MINUS_ONE + b"\x07")), b"\xff\x07"),
    DType.QUINT8: (message((7, b"\xff\x01\x07")), b"\xff\x07"),
    DType.QINT32: (message((7, b"\1\2")), b"\1\0\0\0\2\0\0\0"),
    DType.UINT16: (message((7, b"\xff\xff\x03\x07")), b"\xff\xff\x07\0"),
    DType.COMPLEX128: (message((12, bytes(range(32)))), bytes(range(32))),
    DType.FLOAT16: (message((13, b"\x80\x78\x07")), b"\x00\x3c\x07\0"),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read_from_its_field(
    write: Callable[..., Path], v1_tensor: Any, dtype: DType
) -> None:
    stored, expected = TYPES[dtype]
    tensor = v1_tensor(dtype, (2,), {(WHOLE,): stored})
    for options in ({}, {"packed": True}):
        found = _open(write({"t": tensor}, **options)).tensors["t"]
        assert found.spec.dtype is dtype
        assert b"".join(map(bytes, found.chunks())) == expected


def test_values_may_be_unpacked(write: Callable[..., Path], v1_tensor: Any) -> None:
    floats = b"\x2d" + b"\0\0\x80\x3f" + b"\x2d" + b"\0\0\0\x40"
    tensors = {
        "f": v1_tensor(DType.FLOAT32, (2,), {(WHOLE,): floats}),
        "i": v1_tensor(DType.INT32, (2,), {(WHOLE,): message((7, -1), (7, 300))}),
    }
    found = _open(write(tensors)).tensors
    assert found["f"].read().tolist() == [1, 2]
    assert found["i"].read().tolist() == [-1, 300]


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.INT64, DType.STRING], ids=str)
def test_tensors_without_elements(write: Callable[..., Path], v1_tensor: Any, dtype: DType) -> None:
    tensor = v1_tensor(dtype, (0, 3), {(WHOLE, WHOLE): b""})
    found = _open(write({"t": tensor})).tensors["t"]
    assert found.spec.shape == (0, 3)
    assert found.read().shape == (0, 3)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_more_or_fewer_values_than_elements_are_refused(
    write: Callable[..., Path], v1_tensor: Any, dtype: DType
) -> None:
    tensors = {
        str(count): v1_tensor(dtype, (count,), {(WHOLE,): TYPES[dtype][0]}) for count in (1, 3)
    }
    found = _open(write(tensors))
    for tensor in found.tensors.values():
        with pytest.raises(CorruptFileError, match=f"values of {dtype}"):
            list(tensor.chunks())


def test_bytes_are_names(write: Callable[..., Path], v1_tensor: Any) -> None:
    names = ["a\0b", "ä/重", "new\nline", "x" * 3000, "\xff"]
    found = _open(write({name: v1_tensor.floats(FLOATS) for name in names}))
    assert set(found.tensors) == set(names)
    assert not found.broken


# Slices

CUTS = {
    "rows": (((0, 3), WHOLE), ((3, 2), WHOLE), ((5, 2), WHOLE)),
    "columns": ((WHOLE, (3, 2)), (WHOLE, (0, 3))),
    "grid": (
        ((0, 3), (0, 2)), ((0, 3), (2, 3)), ((3, 4), (0, 4)), ((3, 4), (4, 1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cut", CUTS)
def test_slices_are_stitched(
    write: Callable[..., Path], v1_tensor: Any, cut: str, packed: bool
) -> None:
    found = _open(write({"w": v1_tensor.floats(FLOATS, *CUTS[cut])}, packed=packed)).tensors["w"]
    np.testing.assert_array_equal(found.read(), FLOATS, strict=True)
    assert (found.extents is not None) == (cut == "rows" and not packed)


def test_slices_of_strings_are_stitched(write: Callable[..., Path], v1_tensor: Any) -> None:
    parts = {((2, 1),): message((8, b"c")), ((0, 2),): message((8, b"a"), (8, b"b"))}
    found = _open(write({"s": v1_tensor(DType.STRING, (3,), parts)})).tensors["s"]
    assert found.elements() == [b"a", b"b", b"c"]


def test_shards_are_united(write: Callable[..., Path], v1_tensor: Any) -> None:
    rows = CUTS["rows"]
    first = {"w": v1_tensor.floats(FLOATS, rows[0], rows[2]), "a": v1_tensor.floats(FLOATS[:1])}
    second = {"w": v1_tensor.floats(FLOATS, rows[1]), "b": v1_tensor.floats(FLOATS[:2])}
    files = write(first, "m-00000-of-00002"), write(second, "m-00001-of-00002")
    for order in (files, files[::-1]):
        found = _open(*order)
        assert list(found.tensors) == ["a", "b", "w"]
        np.testing.assert_array_equal(found.tensors["w"].read(), FLOATS, strict=True)
        assert len(found.sources) == 2
        assert not found.broken


def test_a_missing_shard_is_named_and_breaks_what_it_holds_a_part_of(
    write: Callable[..., Path], v1_tensor: Any
) -> None:
    tensors = {"w": v1_tensor.floats(FLOATS, *CUTS["rows"][:2]), "a": v1_tensor.floats(FLOATS)}
    path = write(tensors, "m-00000-of-00002")
    gone = path.with_name("m-00001-of-00002")
    found = _open(path, gone)
    assert list(found.broken) == [gone.name, "w"]
    assert found.broken[gone.name].path == str(gone)
    assert "--allow-missing" in (found.broken[gone.name].hint or "")
    assert "slices leave a hole" in str(found.broken["w"])
    assert gone.name in (found.broken["w"].hint or "")
    np.testing.assert_array_equal(found.tensors["a"].read(), FLOATS, strict=True)
    with pytest.raises(CorruptFileError, match="tensor `w`"):
        found.tensors["w"].read()
    with pytest.raises(CorruptFileError, match="tensor `w`"):
        found.tensors["w"].elements()


def test_slices_that_overlap_are_refused(write: Callable[..., Path], v1_tensor: Any) -> None:
    whole = {"w": v1_tensor.floats(FLOATS)}
    found = _open(write(whole, "m-00000-of-00002"), write(whole, "m-00001-of-00002"))
    assert "slices overlap" in str(found.broken["w"])
    assert found.broken["w"].hint is None


def test_slices_that_lie_outside_are_refused(write: Callable[..., Path], v1_tensor: Any) -> None:
    floats = message((5, FLOATS[0].tobytes()))
    found = _open(write({"w": v1_tensor(DType.FLOAT32, (5,), {((1, 5),): floats})}))
    assert "slice lies outside the tensor" in str(found.broken["w"])


@pytest.mark.parametrize("other", [FLOATS[:6], FLOATS[0]])
def test_shards_that_disagree_are_refused(
    write: Callable[..., Path], v1_tensor: Any, other: np.ndarray
) -> None:
    first = write({"w": v1_tensor.floats(FLOATS)}, "m-00000-of-00002")
    second = write({"w": v1_tensor.floats(other)}, "m-00001-of-00002")
    with pytest.raises(CorruptFileError, match="tensor `w`: shards disagree") as caught:
        _open(first, second)
    assert caught.value.path == str(second)


def test_a_slice_without_an_entry_breaks_its_tensor(tmp_path: Path) -> None:
    listed = message((1, b"w"), (2, message((2, message((1, 2))))), (3, 1), (4, message((1, b""))))
    path = tmp_path / "m"
    path.write_bytes(build_table([(b"", message((1, message((1, listed)))))]))
    found = _open(path)
    assert "slice (2,) at (0,): has no entry of its own" in str(found.broken["w"])


def test_entries_that_are_not_listed_are_noted(write: Callable[..., Path], v1_tensor: Any) -> None:
    extra = [(slice_key(b"x", (WHOLE,)), b""), (slice_key(b"w", ((0, 1), WHOLE)), b"")]
    found = _open(write({"w": v1_tensor.floats(FLOATS)}, extra=extra))
    assert [note.text for note in found.notes] == ["2 entries of `m` are not in its list; not read"]
    assert list(found.tensors) == ["w"]


def test_of_repeated_keys_the_first_is_taken(write: Callable[..., Path], v1_tensor: Any) -> None:
    extra = [(slice_key(b"w", (WHOLE, WHOLE)), b"\xff")]
    found = _open(write({"w": v1_tensor.floats(FLOATS)}, extra=extra, blocks=(9,)))
    assert [note.text for note in found.notes] == [
        "1 repeated keys in `m`; the first of each was taken"
    ]
    np.testing.assert_array_equal(found.tensors["w"].read(), FLOATS, strict=True)


BROKEN_LISTS = {
    "dtype": (3, 200, "dtype number"),
    "shape": (2, message((2, message((1, -1)))), "shape"),
    "rank": (4, message((1, b""), (1, b"")), "expected rank 1"),
}


@pytest.mark.parametrize("kind", BROKEN_LISTS)
def test_impossible_lists_are_refused(tmp_path: Path, kind: str) -> None:
    number, value, what = BROKEN_LISTS[kind]
    fields: dict[int, int | bytes] = {1: b"w", 2: message((2, message((1, 2)))), 3: 1}
    fields[number] = value
    listing = message((1, message((1, message(*fields.items())))))
    path = tmp_path / "m"
    path.write_bytes(build_table([(b"", listing)]))
    with pytest.raises(CorruptFileError, match=re.escape(what)) as caught:
        _open(path)
    assert caught.value.path == str(path)
    assert caught.value.where
    assert caught.value.where.startswith("tensor `w`")


def test_values_that_are_no_message_break_their_tensor(
    write: Callable[..., Path], v1_tensor: Any
) -> None:
    tensor = v1_tensor(DType.FLOAT32, (2,), {(WHOLE,): b"\x07\x07"})
    path = write({"w": tensor, "a": v1_tensor.floats(FLOATS)})
    found = _open(path)
    assert list(found.broken) == ["w"]
    assert found.broken["w"].path == str(path)
    np.testing.assert_array_equal(found.tensors["a"].read(), FLOATS, strict=True)


# Damage


def _everything(*files: Path, verify: bool) -> dict[str, Any]:
    found = _open(*files, verify=verify)
    if found.broken:
        raise next(iter(found.broken.values()))
    return contents(found.tensors)


@pytest.mark.parametrize("loaded", [1 << 20, 64], ids=["small blocks", "large blocks"])
@pytest.mark.parametrize("verify", [True, False])
def test_damage_is_an_error_or_does_no_harm(
    write: Callable[..., Path],
    v1_tensor: Any,
    monkeypatch: pytest.MonkeyPatch,
    loaded: int,
    verify: bool,
) -> None:
    monkeypatch.setattr(table_values, "LOADED_BLOCK_BYTES", loaded)
    monkeypatch.setattr(table_values, "KEPT_BYTES", 16)
    tensors = {
        "w": v1_tensor.floats(FLOATS[:2], ((0, 1), WHOLE), ((1, 1), WHOLE)),
        "i": v1_tensor(DType.INT32, (2,), {(WHOLE,): message((7, varint(-1) + b"\x07"))}),
        "s": v1_tensor(DType.STRING, (2,), {(WHOLE,): message((8, b"a"), (8, b"b"))}),
    }
    path = write(tensors, blocks=(1, 1, 1))
    whole = path.read_bytes()
    expected = _everything(path, verify=verify)
    seen = 0
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x81]) + whole[at + 1 :]):
            path.write_bytes(data)
            try:
                found = _everything(path, verify=verify)
            except ConvertError as error:
                seen += 1
                assert error.path  # noqa: PT017
            else:
                assert found == expected or not verify
    assert seen > len(whole)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_shapes_that_nothing_fills_are_refused_before_memory_is_taken(
    write: Callable[..., Path], v1_tensor: Any, dtype: DType
) -> None:
    tensor = v1_tensor(dtype, (1 << 40,), {(WHOLE,): TYPES[dtype][0]})
    found = _open(write({"t": tensor}))
    assert list(found.broken) == ["t"]
    assert f"values of {dtype}" in str(found.broken["t"])
    with pytest.raises(CorruptFileError, match=f"values of {dtype}"):
        found.tensors["t"].read()
