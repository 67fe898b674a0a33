from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    fields,
    message,
    read_varint,
    signed,
    varint,
)
from tensorferry.converters.errors import CorruptFileError


@given(st.integers(0, 2**64 - 1), st.binary(max_size=3))
def test_varint_round_trips(value: int, rest: bytes) -> None:
    data = varint(value)
    assert read_varint(data + rest, 0) == (value, len(data))


@given(st.integers(-(2**63), 2**63 - 1))
def test_negative_numbers_are_twos_complement(value: int) -> None:
    assert signed(read_varint(varint(value), 0)[0]) == value


def test_varint_starts_where_told() -> None:
    assert read_varint(b"\xff\xac\x02\x07", 1) == (300, 3)


def test_varint_accepts_needless_bytes() -> None:
    assert read_varint(b"\x81\x80\x00", 0) == (1, 3)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "does not end"),
        (b"\x80", "does not end"),
        (b"\x80" * 10 + b"\1", "does not end"),
        (b"\xff" * 9 + b"\x02", "exceeds 64 bits"),
    ],
)
def test_bad_varint_is_refused_with_its_place(data: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what) as caught:
        read_varint(b"\0\0\0" + data, 3)
    assert caught.value.where == "byte 3"


def test_message_is_what_protobuf_writes() -> None:
    assert message((1, 150), (2, b"testing")) == bytes.fromhex("089601120774657374696e67")


def test_message_leaves_out_none_and_keeps_zero() -> None:
    assert message((1, None), (2, 0), (3, b"")) == bytes.fromhex("10001a00")


def test_fields_come_in_order_and_repeat() -> None:
    data = message((3, 1), (1, b"a"), (3, 2))
    assert list(fields(data)) == [(3, VARINT, 1), (1, BYTES, b"a"), (3, VARINT, 2)]


def test_fixed_width_fields_are_little_endian() -> None:
    data = b"\x0d\1\0\0\0" + b"\x11\2\0\0\0\0\0\0\0"
    assert list(fields(data)) == [(1, FIXED32, 1), (2, FIXED64, 2)]


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.integers(0, 2**64 - 1) | st.binary())))
def test_message_round_trips(parts: list[tuple[int, int | bytes]]) -> None:
    assert [(number, value) for number, _, value in fields(message(*parts))] == parts


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x0a\x05abcd", "runs past the end"),
        (b"\x0d\0\0\0", "runs past the end"),
        (b"\x09" + bytes(7), "runs past the end"),
        (b"\x08", "does not end"),
        (b"\x0b", "wire type"),
        (b"\x0f", "wire type"),
        (b"\0\0", "field number 0"),
        (b"\x0a" + b"\xff" * 9 + b"\1", "runs past the end"),
    ],
)
def test_bad_message_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what):
        list(fields(data))


@given(st.binary(max_size=40))
def test_any_bytes_are_fields_or_corrupt(data: bytes) -> None:
    try:
        found = list(fields(data))
    except CorruptFileError:
        found = []
    assert all(number > 0 for number, _, _ in found)
