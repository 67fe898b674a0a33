from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers import bundle_messages
from tensorferry.converters.containers.bundle_messages import (
    DTYPES,
    TYPE_NUMBERS,
    Entry,
    Header,
    Range,
    build_entry,
    build_header,
    check_spec,
    is_v1_header,
    parse_entry,
    parse_header,
    slice_key,
)
from tensorferry.converters.containers.wire import message, varint
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.tensors import TensorSpec
from tensorferry.converters.testing.strategies import shapes

# The header


def test_header_is_what_tensorflow_writes() -> None:
    assert build_header(1) == bytes.fromhex("08011a020801")


@given(st.integers(1, 99_999))
def test_header_round_trips(shards: int) -> None:
    assert parse_header(build_header(shards)) == Header(shards, big_endian=False, producer=1)


def test_header_without_version_is_accepted() -> None:
    assert parse_header(message((1, 2), (2, 1))) == Header(2, big_endian=True, producer=0)


def test_header_of_a_newer_producer_is_accepted() -> None:
    assert parse_header(message((1, 1), (3, message((1, 2), (2, 1))))).producer == 2


def test_unknown_fields_of_a_header_are_ignored() -> None:
    assert parse_header(message((1, 3), (9, 1), (10, b"x"))).shards == 3


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "number of shards"),
        (message((1, 0)), "number of shards"),
        (message((1, 100_000)), "number of shards"),
        (message((1, -1)), "number of shards"),
        (message((1, 1), (2, 2)), "endianness"),
        (message((1, 1), (3, message((2, 2)))), "needs a newer reader"),
        (b"\x08", "varint"),
    ],
)
def test_bad_header_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what):
        parse_header(data)


def test_v1_header_is_told_by_the_wire_type_of_its_first_field() -> None:
    assert is_v1_header(message((1, message((1, b"meta")))))
    assert not is_v1_header(build_header(1))
    assert not is_v1_header(b"")


# Entries


def test_entry_is_what_tensorflow_writes() -> None:
    data = bytes.fromhex("0801120412020802280835593ce535")
    assert parse_entry(data) == Entry(1, (2,), 0, 0, 8, 0x35E53C59)
    assert build_entry(DType.FLOAT32, (2,), 0, 0, 8, 0x35E53C59) == data


def test_scalar_and_empty_dimension_are_written_as_tensorflow_does() -> None:
    assert build_entry(DType.FLOAT32, (), 0, 0, 4, 0)[2:4] == bytes.fromhex("1200")
    assert build_entry(DType.FLOAT32, (0,), 0, 0, 0, 0)[2:6] == bytes.fromhex("12021200")


@given(
    st.sampled_from(sorted(TYPE_NUMBERS, key=TYPE_NUMBERS.__getitem__)),
    st.lists(st.integers(0, 2**40), max_size=6).map(tuple),
    st.integers(0, 99_998),
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.integers(0, 2**32 - 1),
)
def test_entry_round_trips(
    dtype: DType, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: int
) -> None:
    data = build_entry(dtype, shape, shard, offset, size, crc)
    assert parse_entry(data) == Entry(TYPE_NUMBERS[dtype], shape, shard, offset, size, crc)


@given(shapes(), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_length_of_an_entry_does_not_depend_on_its_checksum(
    shape: tuple[int, ...], one: int, other: int
) -> None:
    lengths = {len(build_entry(DType.INT8, shape, 0, 9, 9, crc)) for crc in (one, other, 0)}
    assert len(lengths) == 1


def test_negative_numbers_stay_negative() -> None:
    data = message((1, 1), (3, -1), (4, -2), (5, -3))
    assert parse_entry(data)[2:5] == (-1, -2, -3)


def test_a_dtype_of_two_bytes_is_read_as_one_number() -> None:
    data = bytes.fromhex("08c812") + message((2, message((2, message((1, 2))))))
    assert parse_entry(data)[:2] == (0x12 << 7 | 0x48, (2,))


def test_entry_without_a_shape_is_a_scalar() -> None:
    assert parse_entry(message((1, 1), (5, 4))).shape == ()


@pytest.mark.parametrize(
    "unknown",
    [
        message((9, 1)),
        message((200, 1)),
        message((9, b"text")),
        varint(9 << 3 | 5) + b"\xff" * 4,
        varint(9 << 3 | 1) + b"\xff" * 8,
        varint(300 << 3 | 5) + b"\1\2\3\4",
    ],
)
def test_unknown_fields_of_an_entry_are_ignored(unknown: bytes) -> None:
    data = bytes.fromhex("0801120412020802280835593ce535")
    expected = parse_entry(data)
    assert parse_entry(unknown + data) == expected
    assert parse_entry(data + unknown) == expected


def test_slices_keep_whole_dimensions_apart_from_lengths() -> None:
    ranges = message((1, message((1, 2), (2, 3)))) + message((1, message((1, 0))))
    data = message((1, 1), (7, ranges), (7, b""))
    assert parse_entry(data).slices == (((2, 3), (0, None)), ())


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\x12\x05\x12",
        b"\x08\x01\x12",
        b"\x08\x01\x12\x7f",
        b"\x08\x01\x12\x05\x12\x02\x08",
        b"\x35\1\2\3",
        b"\x12\x02\x12\x05",
        b"\x0b",
        message((2, message((3, 1)))),
        b"\x3a\x03\x0a\x05",
    ],
)
def test_bad_entry_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        parse_entry(data)


@given(st.binary(max_size=30))
def test_any_bytes_are_an_entry_or_corrupt(data: bytes) -> None:
    try:
        entry = parse_entry(data)
    except CorruptFileError:
        entry = None
    assert entry is None or len(entry) == 7


# Specs


def test_every_number_has_a_type_of_its_own() -> None:
    assert len(TYPE_NUMBERS) == len(DTYPES) == 32
    assert set(DTYPES) == set(range(1, 34)) - {20}


def test_spec_of_an_entry() -> None:
    assert check_spec(19, (2, 0)) == TensorSpec(DType.FLOAT16, (2, 0))


@pytest.mark.parametrize(
    ("number", "shape"),
    [
        (0, ()),
        (20, ()),
        (34, ()),
        (101, ()),
        (200, ()),
        (-1, ()),
        (1, (-1,)),
        (1, (1 << 62, 2)),
        (1, (1 << 61,)),
        (7, (1 << 62, 2)),
        (1, (0, 1 << 62, 1 << 62)),
        (1, (1,) * 255),
    ],
)
def test_what_tensorflow_aborts_on_is_refused(number: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptFileError, match=r"dtype number|shape"):
        check_spec(number, shape)


# Slice keys


def test_slice_key_of_the_worked_example() -> None:
    assert slice_key(b"w", [(2, 2), (0, None)]) == bytes.fromhex(
        "00770001010282828 07f".replace(" ", "")
    )


def test_slice_key_of_a_scalar() -> None:
    assert slice_key(b"w", []) == bytes.fromhex("0077000100")


def test_slice_key_escapes_zero_and_all_ones() -> None:
    assert slice_key(b"\0\xff", [])[1:] == b"\0\xff\xff\0\0\1\0"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "80"),
        (1, "81"),
        (63, "bf"),
        (64, "c040"),
        (8191, "dfff"),
        (8192, "e02000"),
        (2**34 - 1, "fbffffffff"),
        (2**62 - 1, "ffbfffffffffffffff"),
        (2**62, "ffc04000000000000000"),
        (2**63 - 1, "ffc07fffffffffffffff"),
    ],
)
def test_signed_numbers_of_a_slice_key(value: int, code: str) -> None:
    key = slice_key(b"", [(value, None)])
    assert key == b"\0\0\1\1\1" + bytes.fromhex(code) + b"\x7f"


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**62) | st.none()), max_size=3),
       st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**62) | st.none()), max_size=3),
       st.binary(max_size=4), st.binary(max_size=4))  # fmt: skip
def test_slice_keys_differ_and_sort_as_what_they_stand_for(
    one: list[Range], other: list[Range], first: bytes, second: bytes
) -> None:
    def order(name: bytes, ranges: list[Range]) -> tuple[object, ...]:
        plain = [(start, -1 if length is None else length) for start, length in ranges]
        return name, len(ranges), plain

    keys = slice_key(first, one), slice_key(second, other)
    assert (keys[0] < keys[1]) == (order(first, one) < order(second, other))
    assert (keys[0] == keys[1]) == (order(first, one) == order(second, other))


# The fast path


def _result(parse: Callable[[bytes], Entry], data: bytes) -> Entry | None:
    try:
        return parse(data)
    except CorruptFileError:
        return None


@given(
    st.integers(0, 40),
    st.lists(st.integers(0, 300), max_size=3).map(tuple),
    st.integers(0, 2**20),
    st.integers(0, 60),
    st.binary(max_size=3),
)
def test_damaged_entries_are_read_as_the_general_decoder_does(
    number: int, shape: tuple[int, ...], offset: int, at: int, patch: bytes
) -> None:
    dims = b"".join(message((2, message((1, dim)))) for dim in shape)
    whole = message((1, number), (2, dims), (4, offset), (5, 9)) + b"\x35\1\2\3\4"
    for data in (whole[:at], whole[:at] + patch + whole[at:], whole[:at] + patch + whole[at + 1 :]):
        assert _result(parse_entry, data) == _result(bundle_messages._parse_any_entry, data)
