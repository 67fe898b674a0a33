from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from cramjam import snappy
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers.sstable import (
    BLOCK_BYTES,
    FOOTER_BYTES,
    MAGIC,
    Table,
    build_table,
    mask,
    unmask,
)
from tensorferry.converters.containers.wire import read_varint, varint
from tensorferry.converters.errors import CorruptFileError, UnsafeFileError
from tensorferry.converters.sources import Source

# SaveV2 of `ab` = float32 [1, 2] and `ac` = string ["hi", ""], byte for byte as TensorFlow
# 2.21 writes it.
WORKED_EXAMPLE = bytes.fromhex(
    "000006" "08011a020801"
    "00020f" "6162" "0801120412020802280835593ce535"
    "010111" "63" "08071204120208022008280835" "9e9e48ed"
    "0000000001000000" "00" "9d7facb7"
    "0000000001000000" "00" "c0f2a1b0"
    "000102" "62" "003a" "0000000001000000" "00" "df4237a3"
    "3f084c0e" + "00" * 36 + "57fb808b247547db"
)  # fmt: skip
WORKED_ENTRIES = {
    b"": bytes.fromhex("08011a020801"),
    b"ab": bytes.fromhex("0801120412020802280835593ce535"),
    b"ac": bytes.fromhex("080712041202080220082808359e9e48ed"),
}


class _Memory(Source):
    """A file that is not on a disk."""

    def __init__(self, data: bytes) -> None:
        self.path = Path("t.index")
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_into(self, offset: int, target: memoryview) -> None:
        target[:] = self._data[offset : offset + len(target)]

    def close(self) -> None:
        pass


def _read(data: bytes, *, verify: bool = True) -> list[tuple[bytes, bytes]]:
    return list(Table(_Memory(data), verify=verify).entries())


def _built(model: Mapping[bytes, bytes]) -> bytes:
    return build_table(sorted(model.items()))


def _block(body: bytes, compression: int = 0) -> bytes:
    stored = body + bytes([compression])
    return stored + mask(Algorithm.CRC32C.update(stored)).to_bytes(4, "little")


def _plain(entries: bytes, restarts: tuple[int, ...] = (0,)) -> bytes:
    numbers = (*restarts, len(restarts))
    return entries + b"".join(n.to_bytes(4, "little") for n in numbers)


def _table(*blocks: tuple[bytes, int]) -> bytes:
    """Return a table of blocks given as body and compression, with an index that names no keys."""
    data, handles = b"", b""
    for number, (body, compression) in enumerate(blocks):
        handle = varint(len(data)) + varint(len(body))
        handles += bytes([0, 1, len(handle), number]) + handle
        data += _block(body, compression)
    footer = varint(len(data)) + varint(8)
    data += _block(_plain(b""))
    footer += varint(len(data)) + varint(len(handles) + 8)
    data += _block(_plain(handles))
    return data + footer.ljust(FOOTER_BYTES - 8, b"\0") + MAGIC


# Against a sorted dictionary


def test_worked_example_is_reproduced() -> None:
    assert len(WORKED_EXAMPLE) == 143
    assert _built(WORKED_ENTRIES) == WORKED_EXAMPLE


def test_worked_example_is_read() -> None:
    assert dict(_read(WORKED_EXAMPLE)) == WORKED_ENTRIES


@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=40), max_size=60))
def test_any_entries_come_back_sorted(model: dict[bytes, bytes]) -> None:
    assert _read(_built(model)) == sorted(model.items())


@given(st.dictionaries(st.text("ab/.:", max_size=8).map(str.encode), st.just(b"v"), max_size=80))
def test_keys_that_look_like_paths_come_back(model: dict[bytes, bytes]) -> None:
    assert _read(_built(model)) == sorted(model.items())


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 32, 33, 1000])
@pytest.mark.parametrize("key", ["{:04}", "shared/prefix/of/all/{:04}", "\xff\xff{:04}"])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 1000])
def test_sizes_and_keys(count: int, key: str, size: int) -> None:
    model = {key.format(n).encode("latin-1"): bytes([n % 251]) * size for n in range(count)}
    assert _read(_built(model)) == sorted(model.items())


def test_long_keys_share_long_prefixes() -> None:
    model = {b"x" * 3000 + bytes([n]): b"" for n in range(20)}
    data = _built(model)
    assert _read(data) == sorted(model.items())
    # Two restart points hold the whole key, and so may the index.
    assert len(data) < 4 * 3000


def test_long_common_key_and_empty_key_live_together() -> None:
    model = {b"": b"header", b"/a": b"1", b"b": b"2", b"b/": b"3", b"b//c": b"4"}
    assert _read(_built(model)) == sorted(model.items())


def test_keys_that_have_no_successor_come_back() -> None:
    model = {b"\xff": b"1", b"\xff\xff": b"2"}
    assert _read(_built(model)) == sorted(model.items())


# Blocks and restart points


def _restarts(data: bytes) -> int:
    """Return the number of restart points of the only data block."""
    ((offset, length),) = _handles(data)
    return int.from_bytes(data[offset + length - 4 : offset + length], "little")


@pytest.mark.parametrize(("count", "restarts"), [(1, 1), (16, 1), (17, 2), (32, 2), (33, 3)])
def test_a_restart_point_every_16_entries(count: int, restarts: int) -> None:
    assert _restarts(_built({b"%03d" % n: b"v" for n in range(count)})) == restarts


def test_large_tables_have_several_blocks() -> None:
    model = {b"key/%05d" % n: bytes([n % 251]) * 5000 for n in range(300)}
    data = _built(model)
    assert _read(data) == sorted(model.items())
    assert len(data) > 5 * BLOCK_BYTES
    offsets = sorted(handle[0] for handle in _handles(data))
    assert len(offsets) == 6
    # A block ends with the entry that fills it.
    assert all(0 <= b - a - BLOCK_BYTES < 5_100 for a, b in pairwise(offsets))


def _handles(data: bytes) -> list[tuple[int, int]]:
    """Return offset and length of every data block."""
    footer, at = data[-FOOTER_BYTES:], 0
    numbers = []
    for _ in range(4):
        number, at = read_varint(footer, at)
        numbers.append(number)
    index = data[numbers[2] : numbers[2] + numbers[3]]
    count, at = int.from_bytes(index[-4:], "little"), 0
    found = []
    for _ in range(count):
        length = index[at + 1]
        value = at + 3 + length
        offset, middle = read_varint(index, value)
        size, at = read_varint(index, middle)
        found.append((offset, size))
    return found


def test_a_huge_value_gets_a_block_of_its_own() -> None:
    model = {b"a": b"small", b"b": b"x" * (2 * BLOCK_BYTES), b"c": b"small"}
    data = _built(model)
    assert _read(data) == sorted(model.items())
    assert data.startswith(_block(_plain(bytes([0, 1, 5]) + b"asmall")))


def test_a_block_without_restart_points_is_read() -> None:
    body = bytes([0, 1, 1]) + b"kv" + bytes(4)
    assert _read(_table((body, 0))) == [(b"k", b"v")]


def test_blocks_that_use_no_prefixes_are_read() -> None:
    body = _plain(b"\0\2\1aa1\0\2\1ab2", (0, 6))
    assert _read(_table((body, 0))) == [(b"aa", b"1"), (b"ab", b"2")]


def test_lengths_of_several_varint_bytes_are_read() -> None:
    entry = varint(0) + varint(200) + varint(300) + b"k" * 200 + b"v" * 300
    assert _read(_table((_plain(entry), 0))) == [(b"k" * 200, b"v" * 300)]


def test_unsorted_keys_are_read_and_marked() -> None:
    table = Table(_Memory(_table((_plain(b"\0\1\0b\0\1\0a"), 0))))
    assert [key for key, _ in table.entries()] == [b"b", b"a"]
    assert table.out_of_order


def test_sorted_keys_are_not_marked() -> None:
    table = Table(_Memory(WORKED_EXAMPLE))
    assert len(list(table.entries())) == 3
    assert not table.out_of_order
    assert not table.compressed


# Snappy


def _snappy(body: bytes) -> tuple[bytes, int]:
    return bytes(snappy.compress_raw(body)), 1


def test_snappy_blocks_are_read() -> None:
    first = _plain(b"\0\1\x40a" + b"v" * 64)
    second = _plain(b"\0\1\1bw")
    table = Table(_Memory(_table(_snappy(first), (second, 0), _snappy(_plain(b"\0\1\1cx")))))
    assert list(table.entries()) == [(b"a", b"v" * 64), (b"b", b"w"), (b"c", b"x")]
    assert table.compressed


def test_snappy_index_and_metaindex_are_read() -> None:
    data = _block(*_snappy(_plain(b"\0\1\1kv")))
    index = _snappy(_plain(b"\0\1\2k" + varint(0) + varint(len(data) - 5)))
    footer = varint(0) + varint(0) + varint(len(data)) + varint(len(index[0]))
    table = data + _block(*index) + footer.ljust(40, b"\0") + MAGIC
    assert _read(table) == [(b"k", b"v")]


def test_snappy_bomb_is_refused_before_unpacking() -> None:
    with pytest.raises(UnsafeFileError, match="claims more than snappy can pack") as caught:
        _read(_table((varint(1 << 30) + b"\0", 1)))
    assert caught.value.where == "block at byte 0"


@pytest.mark.parametrize("body", [b"", b"\x05", b"\x05\xff\xff\xff", b"\x04\x0cabc", b"\x80" * 11])
def test_damaged_snappy_is_refused(body: bytes) -> None:
    with pytest.raises(CorruptFileError):
        _read(_table((body, 1)))


# Corruption


@pytest.mark.parametrize("at", range(len(WORKED_EXAMPLE)))
def test_every_flipped_byte_is_noticed_or_harmless(at: int) -> None:
    damaged = bytearray(WORKED_EXAMPLE)
    damaged[at] ^= 0x55
    found, place = WORKED_ENTRIES, "t.index: somewhere"
    try:
        found = dict(_read(bytes(damaged)))
    except CorruptFileError as error:
        place = f"{error.path}: {error.where}"
    # The empty metaindex and the padding of the footer are not read, so the entries are right.
    assert found == WORKED_ENTRIES
    assert re.fullmatch(r"t\.index: \w.*", place)


def _flipped(at: int) -> bytes:
    damaged = bytearray(WORKED_EXAMPLE)
    damaged[at] ^= 1
    return bytes(damaged)


DATA_END = WORKED_EXAMPLE.index(bytes.fromhex("9d7facb7")) + 4
INDEX_AT = DATA_END + 13


@pytest.mark.parametrize(
    ("at", "where"), [(0, "block at byte 0"), (DATA_END - 1, "block at byte 0"),
                      (INDEX_AT + 1, f"block at byte {INDEX_AT}")],
)  # fmt: skip
def test_a_damaged_block_is_named_by_its_offset(at: int, where: str) -> None:
    with pytest.raises(CorruptFileError, match="masked crc32c of the block differs") as caught:
        _read(_flipped(at))
    assert caught.value.where == where
    assert str(caught.value.expected).startswith("0x")
    assert "--no-checksum" in (caught.value.hint or "")


def test_checksums_can_be_left_out() -> None:
    at = WORKED_EXAMPLE.index(b"\x59\x3c\xe5\x35")  # inside a value
    assert dict(_read(_flipped(at), verify=False)) != WORKED_ENTRIES


@pytest.mark.parametrize("length", range(len(WORKED_EXAMPLE)))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(CorruptFileError, match=r"t\.index"):
        _read(WORKED_EXAMPLE[:length])


def test_a_trailing_byte_is_refused() -> None:
    with pytest.raises(CorruptFileError, match="no table magic number at the end"):
        _read(WORKED_EXAMPLE + b"\0")


def test_a_block_of_unknown_compression_is_refused() -> None:
    with pytest.raises(CorruptFileError, match=r"block compression, expected 0 .* got 2"):
        _read(_table((_plain(b""), 2)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0\0\0",
        b"\xff\xff\xff\xff",
        _plain(b"\1\1\1kv"),  # shares a byte of no key
        _plain(b"\0\x7f\1kv"),
        _plain(b"\0\1\x7fkv"),
        _plain(b"\0"),
        _plain(b"\0\x80\x80"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused(body: bytes) -> None:
    with pytest.raises(CorruptFileError) as caught:
        _read(_table((body, 0)))
    assert (caught.value.where or "").startswith("block at byte 0")


@pytest.mark.parametrize("handle", [(0, 1 << 40), (1 << 63, 0), ((1 << 64) - 1, 10)])
def test_a_handle_that_leaves_the_file_is_refused(handle: tuple[int, int]) -> None:
    footer = varint(0) + varint(0) + varint(handle[0]) + varint(handle[1])
    with pytest.raises(CorruptFileError, match="runs past the end"):
        _read(bytes(100) + footer.ljust(40, b"\0") + MAGIC)


# Checksums


@given(st.integers(0, 2**32 - 1))
def test_mask_is_undone(crc: int) -> None:
    assert unmask(mask(crc)) == crc
    assert 0 <= mask(crc) < 1 << 32


def test_mask_of_nothing_is_what_tensorflow_stores() -> None:
    assert mask(Algorithm.CRC32C.update(b"")) == 0xA282EAD8
