from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers.bundle_messages import (
    TYPE_NUMBERS,
    Range,
    build_entry,
    build_header,
    slice_key,
)
from tensorferry.converters.containers.bundle_strings import encode_strings, encode_variants
from tensorferry.converters.containers.sstable import build_table, mask
from tensorferry.converters.containers.tensor_bundle import (
    LOW_BITS,
    Bundle,
    bundle_prefix,
    index_path,
    is_bundle_index,
    shard_path,
)
from tensorferry.converters.containers.wire import message
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import ConvertError, CorruptFileError, NotRecognisedError
from tensorferry.converters.names import decode

Rows = Iterable[tuple[bytes, bytes]]
HEADER = (b"", build_header(1))
BIG_HEADER = (b"", message((1, 1), (2, 1), (3, message((1, 1)))))
DATA = struct.pack("<6f", *range(6))


def _crc(data: bytes) -> int:
    return mask(Algorithm.CRC32C.update(data))


def _entry(
    dtype: DType, shape: tuple[int, ...], data: bytes, offset: int = 0, shard: int = 0
) -> bytes:
    return build_entry(dtype, shape, shard, offset, len(data), _crc(data))


FLOATS = (b"w", _entry(DType.FLOAT32, (2, 3), DATA))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle of index rows and shards and returns its prefix."""

    def made(rows: Rows, *shards: bytes, count: int | None = None) -> Path:
        prefix = tmp_path / "m"
        index_path(prefix).write_bytes(build_table(rows))
        for number, data in enumerate(shards):
            shard_path(prefix, number, count or len(shards)).write_bytes(data)
        return prefix

    return made


def _read(prefix: Path, name: str = "w", *, verify: bool = True) -> np.ndarray:
    bundle = Bundle.open(prefix, verify=verify)
    try:
        return bundle.tensors[name].read()
    finally:
        _close(bundle)


def _close(bundle: Bundle) -> None:
    for source in bundle.sources:
        source.close()


def _opened(prefix: Path) -> Bundle:
    bundle = Bundle.open(prefix)
    _close(bundle)
    return bundle


def _refused(prefix: Path, *, read: bool = True) -> ConvertError:
    """Return the error of opening the bundle, or of reading its tensor `w`."""
    attempt = _read if read else _opened
    with pytest.raises(ConvertError) as caught:
        attempt(prefix)
    assert caught.value.path
    return caught.value


# Plain tensors


def test_a_bundle_of_our_own_builders_is_read(write: Callable[..., Path]) -> None:
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(_read(write([HEADER, FLOATS], DATA)), expected, strict=True)


def test_extents_are_byte_ranges_with_unmasked_checksums(write: Callable[..., Path]) -> None:
    entry = _entry(DType.FLOAT32, (2, 3), DATA, offset=5)
    prefix = write([HEADER, (b"w", entry)], b"x" * 5 + DATA + b"y")
    (extent,) = _opened(prefix).tensors["w"].extents or ()
    assert (extent.offset, extent.length) == (5, 24)
    assert extent.source.path == shard_path(prefix, 0, 1)
    assert extent.checksum
    assert extent.checksum.value == Algorithm.CRC32C.update(DATA)


def test_without_verification_extents_have_no_checksum(write: Callable[..., Path]) -> None:
    bundle = Bundle.open(write([HEADER, FLOATS], DATA), verify=False)
    _close(bundle)
    assert [extent.checksum for extent in bundle.tensors["w"].extents or ()] == [None]


def test_a_bundle_may_be_empty(write: Callable[..., Path]) -> None:
    assert _opened(write([HEADER], b"")).tensors == {}


NAMES = [b"a\0b", b"\xff\xfe", b"x" * 3000, b" ", b"//", b"..", b"new\nline", "größe".encode()]


@pytest.mark.parametrize("key", NAMES)
def test_names_may_be_any_bytes(write: Callable[..., Path], key: bytes) -> None:
    prefix = write([HEADER, (key, FLOATS[1])], DATA)
    np.testing.assert_array_equal(_read(prefix, decode(key)).ravel(), range(6))


def test_a_name_may_begin_as_slice_keys_do(write: Callable[..., Path]) -> None:
    key = slice_key(b"w", [(0, 2), (0, None)])
    bundle = _opened(write([HEADER, (key, FLOATS[1]), FLOATS], DATA))
    assert list(bundle.tensors) == [decode(key), "w"]


# Types that take the low bits of a byte

STORED = bytes(range(256))


@pytest.mark.parametrize("dtype", LOW_BITS, ids=str)
def test_only_the_low_bits_count(write: Callable[..., Path], dtype: DType) -> None:
    prefix = write([HEADER, (b"w", _entry(dtype, (256,), STORED))], STORED)
    bits = 2 if dtype in (DType.INT2, DType.UINT2) else 4
    low = [byte % (1 << bits) for byte in STORED]
    if dtype in (DType.INT2, DType.INT4):
        low = [value - (1 << bits) if value >> (bits - 1) else value for value in low]
    expected = np.array(low, np.int64)
    found = _read(prefix)
    if dtype is DType.FLOAT4_E2M1FN:
        np.testing.assert_array_equal(found.view(np.uint8), expected)
    else:
        np.testing.assert_array_equal(found.astype(np.int64), expected)


def test_all_ones_are_int4_minus_one(write: Callable[..., Path]) -> None:
    found = _read(write([HEADER, (b"w", _entry(DType.INT4, (2,), b"\xff\x0f"))], b"\xff\x0f"))
    np.testing.assert_array_equal(found, np.array([-1, -1], ml_dtypes.int4), strict=True)


def test_low_bits_are_checked_before_they_are_changed(write: Callable[..., Path]) -> None:
    error = _refused(write([HEADER, (b"w", _entry(DType.INT4, (2,), b"\xff\x0f"))], b"\xff\x0e"))
    assert isinstance(error, CorruptFileError)


# Big endian


@pytest.mark.parametrize(
    ("dtype", "code", "values"),
    [
        (DType.FLOAT32, ">f4", [1.5, -2, 3e-30]),
        (DType.FLOAT64, ">f8", [1.5, -2, 3e-300]),
        (DType.FLOAT16, ">f2", [1.5, -2, 0]),
        (DType.INT16, ">i2", [1, -2, 3]),
        (DType.UINT64, ">u8", [1, 2**63, 3]),
        (DType.QINT32, ">i4", [1, -2, 3]),
        (DType.COMPLEX64, ">c8", [1.5 + 2j, -2j, 3]),
        (DType.COMPLEX128, ">c16", [1.5 + 2j, -2j, 3]),
        (DType.UINT8, ">u1", [1, 2, 255]),
    ],
)
def test_big_endian_numbers(
    write: Callable[..., Path], dtype: DType, code: str, values: list[complex]
) -> None:
    array = np.array(values).astype(code)
    prefix = write([BIG_HEADER, (b"w", _entry(dtype, (3,), array.tobytes()))], array.tobytes())
    expected = array.astype(dtype.numpy())
    np.testing.assert_array_equal(_read(prefix), expected, strict=True)


def test_big_endian_bfloat16(write: Callable[..., Path]) -> None:
    values = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    data = values.view(np.uint16).astype(">u2").tobytes()
    prefix = write([BIG_HEADER, (b"w", _entry(DType.BFLOAT16, (3,), data))], data)
    np.testing.assert_array_equal(_read(prefix), values, strict=True)


def test_big_endian_numbers_have_no_extents_but_a_checksum(write: Callable[..., Path]) -> None:
    prefix = write([BIG_HEADER, (b"w", _entry(DType.INT16, (1,), b"\0\1"))], b"\0\2")
    bundle = _opened(prefix)
    assert bundle.header.big_endian
    assert bundle.tensors["w"].extents is None
    assert "crc32c" in _refused(prefix).message


def test_big_endian_bytes_keep_their_extents(write: Callable[..., Path]) -> None:
    prefix = write([BIG_HEADER, (b"w", _entry(DType.INT8, (2,), b"\0\1"))], b"\0\1")
    assert _opened(prefix).tensors["w"].extents


def test_big_endian_strings(write: Callable[..., Path]) -> None:
    running = Algorithm.CRC32C.update((2).to_bytes(4, "big") + (0).to_bytes(4, "big"))
    stored = mask(running).to_bytes(4, "big")
    crc = mask(Algorithm.CRC32C.update(stored + b"hi", running))
    data = b"\2\0" + stored + b"hi"
    entry = build_entry(DType.STRING, (2,), 0, 0, len(data), crc)
    assert list(_read(write([BIG_HEADER, (b"w", entry)], data))) == [b"hi", b""]


# Strings and variants


@pytest.mark.parametrize(
    ("dtype", "encode"), [(DType.STRING, encode_strings), (DType.VARIANT, encode_variants)]
)
def test_elements_of_any_length(
    write: Callable[..., Path], dtype: DType, encode: Callable[[list[bytes]], tuple[bytes, int]]
) -> None:
    data, crc = encode([b"a", b"", b"\0" * 300, b"\xff"])
    entry = build_entry(dtype, (2, 2), 0, 3, len(data), crc)
    bundle = Bundle.open(write([HEADER, (b"w", entry)], b"..." + data))
    assert bundle.tensors["w"].elements() == [b"a", b"", b"\0" * 300, b"\xff"]
    assert bundle.tensors["w"].nbytes == len(data)
    _close(bundle)


def test_damaged_strings_name_shard_and_bytes(write: Callable[..., Path]) -> None:
    data, crc = encode_strings([b"hello"])
    entry = build_entry(DType.STRING, (), 0, 0, len(data), crc)
    prefix = write([HEADER, (b"w", entry)], data.replace(b"hello", b"hallo"))
    error = _refused(prefix)
    assert error.path == str(shard_path(prefix, 0, 1))
    assert f"byte 0 to {len(data)}" in (error.where or "")
    assert _read(prefix, verify=False) == b"hallo"


# Slices


def _sliced(shape: tuple[int, ...], *slices: tuple[Range, ...], dtype: int = 1) -> bytes:
    def dim(size: int) -> tuple[int, bytes]:
        return 2, message((1, size or None))

    def extent(bounds: Range) -> tuple[int, bytes]:
        return 1, message((1, bounds[0] or None), (2, bounds[1]))

    listed = [(7, message(*map(extent, ranges))) for ranges in slices]
    return message((1, dtype), (2, message(*map(dim, shape))), *listed)


TOP: tuple[Range, ...] = ((0, 1), (0, None))
BOTTOM: tuple[Range, ...] = ((1, 1), (0, 3))
TOP_ROW = (slice_key(b"w", TOP), _entry(DType.FLOAT32, (1, 3), DATA[:12], 0, 1))
BOTTOM_ROW = (slice_key(b"w", BOTTOM), _entry(DType.FLOAT32, (1, 3), DATA[12:], 2, 0))
TWO_SHARDS = (b"", build_header(2))


def test_slices_in_several_shards_make_one_tensor(write: Callable[..., Path]) -> None:
    whole = (b"w", _sliced((2, 3), BOTTOM, TOP))
    prefix = write([TWO_SHARDS, TOP_ROW, BOTTOM_ROW, whole], b".." + DATA[12:], DATA[:12])
    bundle = _opened(prefix)
    assert list(bundle.tensors) == ["w"]
    assert [each.length for each in bundle.tensors["w"].extents or ()] == [12, 12]
    np.testing.assert_array_equal(_read(prefix).ravel(), range(6))


def test_big_endian_slices_are_turned_around(write: Callable[..., Path]) -> None:
    data = np.arange(6, dtype=">f4").tobytes()
    rows = [
        (slice_key(b"w", TOP), _entry(DType.FLOAT32, (1, 3), data[:12])),
        (slice_key(b"w", BOTTOM), _entry(DType.FLOAT32, (1, 3), data[12:], 12)),
    ]
    prefix = write([BIG_HEADER, *rows, (b"w", _sliced((2, 3), TOP, BOTTOM))], data)
    np.testing.assert_array_equal(_read(prefix).ravel(), range(6))


def test_sliced_strings_and_half_which_tensorflow_refuses(write: Callable[..., Path]) -> None:
    data, crc = encode_strings([b"a", b"b", b"c"])
    entry = build_entry(DType.STRING, (1, 3), 0, 0, len(data), crc)
    rows = [(slice_key(b"w", ranges), entry) for ranges in (TOP, BOTTOM)]
    whole = (b"w", _sliced((2, 3), TOP, BOTTOM, dtype=TYPE_NUMBERS[DType.STRING]))
    found = _read(write([HEADER, *rows, whole], data))
    assert found.tolist() == [[b"a", b"b", b"c"]] * 2


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([BOTTOM_ROW, (b"w", _sliced((2, 3), TOP, BOTTOM))], "has no entry of its own"),
        ([BOTTOM_ROW, (b"w", _sliced((2, 3), BOTTOM))], "hole"),
        ([BOTTOM_ROW, (b"w", _sliced((2, 3), BOTTOM, BOTTOM))], "overlap"),
        ([BOTTOM_ROW, (b"w", _sliced((1, 3), BOTTOM))], "outside"),
        ([BOTTOM_ROW, (b"w", _sliced((6,), BOTTOM))], "rank"),
        ([BOTTOM_ROW, (b"w", _sliced((2, 3), TOP, BOTTOM, dtype=3))], "entry of the slice|own"),
        ([(BOTTOM_ROW[0], _sliced((1, 3), TOP)), (b"w", _sliced((2, 3), BOTTOM))], "of the slice"),
    ],
)
def test_slices_that_do_not_fit_break_one_tensor(
    write: Callable[..., Path], rows: list[tuple[bytes, bytes]], what: str
) -> None:
    prefix = write([TWO_SHARDS, *rows, (b"x", FLOATS[1])], b".." + DATA[12:] + DATA, DATA)
    bundle = _opened(prefix)
    assert list(bundle.broken) == ["w"]
    error = bundle.broken["w"]
    assert error.path == str(index_path(prefix))
    assert (error.where or "").startswith("tensor `w`")
    with pytest.raises(CorruptFileError, match=what):
        bundle.tensors["w"].read()


# What is wrong with an index: the table of the facts sheet, row by row


def _index_of(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "m.index").write_bytes(data)
    return tmp_path / "m"


@pytest.mark.parametrize("data", [b"", b"\0", b"x" * 47])
def test_an_index_too_short_is_named(tmp_path: Path, data: bytes) -> None:
    error = _refused(_index_of(tmp_path, data))
    assert "too short for a table" in error.what
    assert error.path == str(tmp_path / "m.index")


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\n"], ids=["cut", "extended"]
)
def test_an_index_cut_or_extended_is_named(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    error = _refused(_index_of(tmp_path, change(build_table([HEADER, FLOATS]))))
    assert "magic number" in error.what
    assert error.hint


def test_a_missing_index_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="cannot be opened"):
        Bundle.open(tmp_path / "nothing")


def test_a_wrong_block_checksum_is_named_by_its_offset(tmp_path: Path) -> None:
    data = bytearray(build_table([HEADER, FLOATS]))
    data[4] ^= 1
    assert "block at byte 0" in (_refused(_index_of(tmp_path, bytes(data))).where or "")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [FLOATS],
        [(b"", message((1, message((1, b"a V1 checkpoint"))))), FLOATS],
    ],
)
def test_an_index_without_a_header_is_refused(
    write: Callable[..., Path], rows: list[tuple[bytes, bytes]]
) -> None:
    error = _refused(write(rows, DATA), read=False)
    assert error.what == "first entry of the index"


@pytest.mark.parametrize("header", [b"", message((1, 0)), message((1, 1), (2, 7))])
def test_a_bad_header_is_refused(write: Callable[..., Path], header: bytes) -> None:
    error = _refused(write([(b"", header), FLOATS], DATA), read=False)
    assert isinstance(error, CorruptFileError)


def test_a_bad_entry_is_named(write: Callable[..., Path]) -> None:
    error = _refused(write([HEADER, (b"w", b"\x12\x7f")], DATA), read=False)
    assert "entry `w`" in (error.where or "")


@pytest.mark.parametrize(
    "entry",
    [
        message((1, 0), (5, 24)),
        message((1, 20), (5, 24)),
        message((1, 101), (5, 24)),
        message((1, 200), (5, 24)),
        message((1, 1), (2, message((2, message((1, -1))))), (5, 24)),
        message((1, 1), (2, message(*[(2, message((1, 1 << 40)))] * 3)), (5, 24)),
        message((1, 1), (2, message((3, 1))), (5, 4)),
    ],
)
def test_what_makes_tensorflow_abort_is_refused(write: Callable[..., Path], entry: bytes) -> None:
    prefix = write([HEADER, (b"w", entry)], DATA)
    error = _refused(prefix, read=False)
    assert isinstance(error, CorruptFileError)
    assert error.path == str(index_path(prefix))
    assert "`w`" in (error.where or "")


def test_repeated_keys_count_once_with_a_note(write: Callable[..., Path]) -> None:
    second = (b"w", _entry(DType.FLOAT32, (1,), DATA[:4]))
    bundle = _opened(write([HEADER, FLOATS, second], DATA))
    assert bundle.tensors["w"].spec.shape == (2, 3)
    assert any("repeated" in note.text for note in bundle.notes)


def test_unsorted_keys_are_all_found_with_a_note(write: Callable[..., Path]) -> None:
    bundle = _opened(write([HEADER, (b"x", FLOATS[1]), FLOATS], DATA))
    assert list(bundle.tensors) == ["x", "w"]
    assert any("not sorted" in note.text for note in bundle.notes)


# What is wrong with a tensor: it is broken, the others are read


def _broken(prefix: Path) -> ConvertError:
    """Return why `w` cannot be read, after checking that `ok` can be."""
    bundle = Bundle.open(prefix)
    assert list(bundle.broken) == ["w"]
    assert bundle.tensors["ok"].read().ravel().tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ConvertError) as caught:
        list(bundle.tensors["w"].chunks())
    _close(bundle)
    assert caught.value is bundle.broken["w"]
    assert (caught.value.where or "").startswith("tensor `w`")
    return caught.value


OK = (b"ok", FLOATS[1])


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (build_entry(DType.FLOAT32, (2, 3), 1, 0, 24, 0), "shard"),
        (build_entry(DType.FLOAT32, (2, 3), 99_999, 0, 24, 0), "shard"),
        (message((1, 1), (3, -1), (5, 4)), "shard"),
        (build_entry(DType.FLOAT32, (2, 3), 0, 0, 23, 0), "size of float32"),
        (build_entry(DType.FLOAT32, (2, 3), 0, 0, 28, 0), "size of float32"),
        (message((1, 1), (4, -4), (5, 4)), "offset and size"),
        (build_entry(DType.FLOAT32, (2, 3), 0, 1, 24, 0), "the shard ends early"),
        (build_entry(DType.FLOAT32, (2, 3), 0, 1 << 62, 24, 0), "the shard ends early"),
        (build_entry(DType.STRING, (), 0, 20, 5, 0), "the shard ends early"),
        (message((1, 7), (4, 2), (5, -1)), "offset and size"),
    ],
)
def test_a_bad_place_breaks_one_tensor(write: Callable[..., Path], entry: bytes, what: str) -> None:
    assert what in _broken(write([HEADER, OK, (b"w", entry)], DATA)).what


def test_a_missing_shard_breaks_only_what_is_in_it(write: Callable[..., Path]) -> None:
    entry = _entry(DType.FLOAT32, (2, 3), DATA, shard=1)
    prefix = write([TWO_SHARDS, OK, (b"w", entry)], DATA, count=2)
    error = _broken(prefix)
    assert error.what == "data shard is missing"
    assert error.path == str(shard_path(prefix, 1, 2))


def test_a_shard_of_another_count_is_offered(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, FLOATS], DATA, count=2)
    error = _refused(prefix)
    assert error.hint == "`m.data-00000-of-00002` may be it: rename it if so"


def test_several_shards_of_another_count_are_not_offered(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, FLOATS], DATA, count=2)
    shard_path(prefix, 0, 3).write_bytes(DATA)
    assert "rename" not in (_refused(prefix).hint or "")


def test_a_shard_cut_short_names_both_lengths(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, FLOATS], DATA[:-1])
    error = _refused(prefix)
    assert (error.expected, error.got) == ("24 bytes", "23 bytes")
    assert error.path == str(shard_path(prefix, 0, 1))


def test_a_shard_cut_after_opening_is_noticed(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, FLOATS], DATA)
    bundle = Bundle.open(prefix)
    shard_path(prefix, 0, 1).write_bytes(DATA[:5])
    with pytest.raises(CorruptFileError, match="the file ends early"):
        bundle.tensors["w"].read()
    _close(bundle)


def test_a_wrong_checksum_names_shard_bytes_and_both_values(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, FLOATS], DATA[:-1] + b"\x7f")
    error = _refused(prefix)
    assert error.path == str(shard_path(prefix, 0, 1))
    assert error.where == "byte 0 to 24"
    assert str(error.expected) == f"0x{Algorithm.CRC32C.update(DATA):08x}"
    assert _read(prefix, verify=False).shape == (2, 3)


def test_shared_ranges_gaps_and_padding_are_fine(write: Callable[..., Path]) -> None:
    far = _entry(DType.FLOAT32, (1,), DATA[4:8], 4)
    prefix = write([HEADER, (b"v", far), FLOATS, (b"x", FLOATS[1])], DATA + b"padding")
    assert _opened(prefix).broken == {}
    assert _read(prefix, "v").tolist() == [1]
    np.testing.assert_array_equal(_read(prefix, "x"), _read(prefix, "w"))


def test_unknown_fields_are_ignored(write: Callable[..., Path]) -> None:
    prefix = write([HEADER, (b"w", FLOATS[1] + message((99, 1), (98, b"text")))], DATA)
    np.testing.assert_array_equal(_read(prefix).ravel(), range(6))


def test_tensors_without_elements_are_read(write: Callable[..., Path]) -> None:
    none, crc = encode_strings([])
    rows: Mapping[bytes, bytes] = {
        b"w": _entry(DType.FLOAT32, (0, 3), b""),
        b"s": build_entry(DType.STRING, (2, 0), 0, 0, len(none), crc),
    }
    prefix = write([HEADER, *sorted(rows.items())], none)
    assert _read(prefix).shape == (0, 3)
    assert _read(prefix, "s").shape == (2, 0)


# Paths


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("m.index", "m"),
        ("m.meta", "m"),
        ("m.data-00000-of-00001", "m"),
        ("model.ckpt-7.data-00012-of-00100", "model.ckpt-7"),
        ("a.index.index", "a.index"),
        ("m", None),
        (".index", None),
        ("m.data-0-of-1", None),
        ("m.indexes", None),
    ],
)
def test_prefix_of_a_member(name: str, prefix: str | None) -> None:
    assert bundle_prefix(Path("folder") / name) == (Path("folder") / prefix if prefix else None)


def test_an_index_is_known_by_its_header(write: Callable[..., Path], tmp_path: Path) -> None:
    assert is_bundle_index(index_path(write([HEADER], b"")))
    v1 = message((1, message((1, b"meta"))))
    assert not is_bundle_index(_index_of(tmp_path, build_table([(b"", v1)])).with_suffix(".index"))
    assert not is_bundle_index(tmp_path / "nothing")


def test_opening_leaves_no_file_open(write: Callable[..., Path], tmp_path: Path) -> None:
    bundle = Bundle.open(write([HEADER, FLOATS], DATA))
    assert bundle.tensors
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [path for path in held if path.is_relative_to(tmp_path)]
