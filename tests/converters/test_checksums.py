from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.checksums import Algorithm, Checksum

algorithms = pytest.mark.parametrize("algorithm", Algorithm)


@pytest.mark.parametrize(
    ("algorithm", "value"),
    [(Algorithm.CRC32C, 0xE3069283), (Algorithm.CRC32, 0xCBF43926)],
)
def test_check_values_of_the_catalogue(algorithm: Algorithm, value: int) -> None:
    assert algorithm.update(b"123456789") == value


@algorithms
def test_of_nothing_is_zero(algorithm: Algorithm) -> None:
    assert algorithm.update(b"") == 0
    assert algorithm.update(b"", 123) == 123


@given(st.binary())
def test_crc32_is_that_of_zip(data: bytes) -> None:
    assert Algorithm.CRC32.update(data) == zlib.crc32(data)


@algorithms
@given(first=st.binary(), second=st.binary())
def test_update_continues(algorithm: Algorithm, first: bytes, second: bytes) -> None:
    whole = algorithm.update(first + second)
    assert algorithm.update(memoryview(second), algorithm.update(bytearray(first))) == whole


@algorithms
@given(first=st.binary(), second=st.binary())
def test_parts_combine_and_split(algorithm: Algorithm, first: bytes, second: bytes) -> None:
    one, other = algorithm.update(first), algorithm.update(second)
    whole = algorithm.update(first + second)
    assert algorithm.combine(one, other, len(second)) == whole
    assert algorithm.split_off(whole, one, len(second)) == other
    assert algorithm.cut_off(whole, other, len(second)) == one


@algorithms
@given(st.lists(st.binary(max_size=9), max_size=6))
def test_many_parts_combine(algorithm: Algorithm, parts: list[bytes]) -> None:
    total = 0
    for part in parts:
        total = algorithm.combine(total, algorithm.update(part), len(part))
    assert total == algorithm.update(b"".join(parts))


@algorithms
def test_long_parts_combine(algorithm: Algorithm) -> None:
    second = bytes(3_000_001)
    whole = algorithm.update(b"x" + second)
    parts = algorithm.update(b"x"), algorithm.update(second)
    assert algorithm.combine(*parts, len(second)) == whole
    assert algorithm.cut_off(whole, parts[1], len(second)) == parts[0]


def test_checksums_are_values() -> None:
    assert Checksum(Algorithm.CRC32, 1) == Checksum(Algorithm.CRC32, 1)
    assert Checksum(Algorithm.CRC32, 1) != Checksum(Algorithm.CRC32C, 1)
