from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers.bundle_strings import (
    decode_strings,
    decode_variants,
    encode_strings,
    encode_variants,
)
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.testing.strategies import elements

HI = bytes.fromhex("020078270b346869")  # ["hi", ""] as TensorFlow 2.21 writes it
HI_CRC = 0xED489E9E

Decode = Callable[[bytes, int, int | None], list[bytes]]
Encode = Callable[[list[bytes]], tuple[bytes, int]]
CODECS = [(encode_strings, decode_strings), (encode_variants, decode_variants)]


def test_strings_are_written_as_tensorflow_does() -> None:
    assert encode_strings([b"hi", b""]) == (HI, HI_CRC)
    assert decode_strings(HI, 2, HI_CRC) == [b"hi", b""]


def test_no_strings_at_all_are_four_bytes() -> None:
    data, crc = encode_strings([])
    assert len(data) == 4
    assert decode_strings(data, 0, crc) == []


def test_no_variants_at_all_are_no_bytes() -> None:
    assert encode_variants([]) == (b"", 0xA282EAD8)
    assert decode_variants(b"", 0, 0xA282EAD8) == []


@pytest.mark.parametrize(("encode", "decode"), CODECS)
@given(held=st.lists(elements(), max_size=8))
def test_elements_round_trip(encode: Encode, decode: Decode, held: list[bytes]) -> None:
    data, crc = encode(held)
    assert decode(data, len(held), crc) == held


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_every_flipped_byte_is_noticed(encode: Encode, decode: Decode) -> None:
    data, crc = encode([b"abc", b"", b"defg"])
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x21
        with pytest.raises(CorruptFileError):
            decode(bytes(damaged), 3, crc)


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_every_truncation_is_noticed(encode: Encode, decode: Decode) -> None:
    data, _ = encode([b"abc", b"", b"defg"])
    for length in range(len(data)):
        with pytest.raises(CorruptFileError):
            decode(data[:length], 3, None)


@pytest.mark.parametrize(("encode", "decode"), CODECS)
@pytest.mark.parametrize("count", [0, 2, 4, 1 << 60])
def test_another_number_of_elements_is_refused(encode: Encode, decode: Decode, count: int) -> None:
    data, _ = encode([b"abc", b"", b"defg"])
    with pytest.raises(CorruptFileError):
        decode(data, count, None)


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_another_checksum_of_the_entry_is_refused(encode: Encode, decode: Decode) -> None:
    data, crc = encode([b"abc"])
    with pytest.raises(CorruptFileError, match="differs") as caught:
        decode(data, 1, crc ^ 1)
    assert caught.value.expected == f"0x{crc ^ 1:08x}"
    assert caught.value.got == f"0x{crc:08x}"


@pytest.mark.parametrize(("encode", "decode"), CODECS)
def test_checksums_can_be_left_out(encode: Encode, decode: Decode) -> None:
    data, _ = encode([b"abc"])
    assert decode(data.replace(b"abc", b"abd"), 1, None) == [b"abd"]


def test_lengths_of_the_old_writer_are_the_same_bytes() -> None:
    # Before November 2018 lengths were varint32; below 2^32 that is the same.
    data, crc = encode_strings([b"x" * 70_000])
    assert data[:3] == bytes.fromhex("f0a204")
    assert decode_strings(data, 1, crc) == [b"x" * 70_000]


def test_big_endian_strings_checksum_big_endian_lengths() -> None:
    from tensorferry.converters.checksums import Algorithm
    from tensorferry.converters.containers.sstable import mask

    running = Algorithm.CRC32C.update((2).to_bytes(4, "big"))
    stored = mask(running).to_bytes(4, "big")
    crc = mask(Algorithm.CRC32C.update(b"hi", Algorithm.CRC32C.update(stored, running)))
    data = b"\2" + stored + b"hi"
    assert decode_strings(data, 1, crc, big_endian=True) == [b"hi"]
    with pytest.raises(CorruptFileError, match="lengths differs"):
        decode_strings(data, 1, crc)


def test_a_length_that_overflows_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="length of a string tensor"):
        decode_strings(b"\xff" * 9 + b"\1" + bytes(10), 1)
