from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest
from tensorferry.converters.containers.zip_archive import (
    DEFLATED,
    STORED,
    Member,
    MemberStream,
    read_members,
)
from tensorferry.converters.containers.zip_builder import (
    NewMember,
    build_directory,
    build_local_header,
)
from tensorferry.converters.errors import ConvertError, CorruptFileError, UnsafeFileError
from tensorferry.converters.sources import Source

GIB = 1 << 30
# Byte offsets of fields in the records of the central directory and in the end record.
FLAGS, METHOD, CRC, PACKED, SIZE, EXTRA_LENGTH, COMMENT_LENGTH, DISK, START, NAME = (
    8, 10, 16, 20, 24, 30, 32, 34, 42, 46,
)  # fmt: skip
END_DISK, END_HERE, END_COUNT, END_LENGTH, END_START = 4, 8, 10, 12, 16


class _Bytes(Source):
    """A source of any length of which only some ranges are not zero."""

    def __init__(self, ranges: Mapping[int, bytes], size: int) -> None:
        self.path = Path("archive.zip")
        self._ranges = ranges
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, target: memoryview) -> None:
        if offset + len(target) > self._size:
            raise CorruptFileError("the file ends early", path=self.path)
        target[:] = bytes(len(target))
        for start, data in self._ranges.items():
            first, last = max(start, offset), min(start + len(data), offset + len(target))
            if first < last:
                target[first - offset : last - offset] = data[first - start : last - start]

    def close(self) -> None:
        pass


def _source(data: bytes) -> _Bytes:
    return _Bytes({0: data}, len(data))


def _build(contents: Mapping[str, bytes]) -> bytes:
    data, members = bytearray(), []
    for name, content in contents.items():
        member = NewMember(name, len(content), len(data), zlib.crc32(content))
        data += build_local_header(member) + content
        members.append(member)
    return bytes(data + build_directory(members, len(data)))


def _zip(
    contents: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.comment = comment
    return file.getvalue()


def _patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def _in_directory(data: bytes, field: int, value: bytes) -> bytes:
    return _patched(data, data.index(b"PK\x01\x02") + field, value)


def _in_local(data: bytes, field: int, value: bytes) -> bytes:
    return _patched(data, field, value)


def _in_end(data: bytes, field: int, value: bytes) -> bytes:
    return _patched(data, data.rindex(b"PK\x05\x06") + field, value)


def _contents(source: Source) -> dict[str, bytes]:
    contents = {}
    for member in read_members(source):
        stream = MemberStream(source, member, verify=True)
        contents[member.name] = stream.read(member.size)
        stream.finish()
    return contents


CONTENTS = {"a.npy": b"first", "b/é.npy": b"", "日本": bytes(range(256)) * 3}


def test_python_reads_what_is_built() -> None:
    with zipfile.ZipFile(io.BytesIO(_build(CONTENTS))) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENTS
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_archive_of_nothing_is_one_end_record() -> None:
    assert _build({}) == _zip({})
    assert read_members(_source(_build({}))) == []


def test_only_names_beyond_ascii_are_flagged_as_utf8() -> None:
    with zipfile.ZipFile(io.BytesIO(_build(CONTENTS))) as archive:
        assert [info.flag_bits for info in archive.infolist()] == [0, 0x800, 0x800]


@pytest.mark.parametrize("length", range(130))
def test_data_starts_at_a_multiple_of_64(length: int) -> None:
    source = _source(_build({"x" * length: b"odd", "y" * length + "é": b"data"}))
    assert [member.data % 64 for member in read_members(source)] == [0, 0]
    with zipfile.ZipFile(io.BytesIO(source.read(0, source.size))) as archive:
        assert archive.testzip() is None


def test_what_is_built_is_read_back() -> None:
    assert _contents(_source(_build(CONTENTS))) == CONTENTS


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\x05\x06 in it" + bytes(30)])
def test_what_python_writes_is_read(method: int, comment: bytes) -> None:
    assert _contents(_source(_zip(CONTENTS, method, comment))) == CONTENTS


def test_a_streamed_archive_with_data_descriptors_is_read() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_args: int) -> int:
            raise io.UnsupportedOperation

        tell = seek

    file = Pipe()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"first" * 100)
    assert file.getvalue()[6] & 8
    assert _contents(_source(file.getvalue())) == {"a.npy": b"first" * 100}


def test_a_name_without_the_utf8_flag_is_code_page_437() -> None:
    data = _zip({"\u00e9": b""})
    data = _in_directory(data.replace("é".encode(), b"\x82\x82"), FLAGS, b"\0\0")
    assert [member.name for member in read_members(_source(data))] == ["éé"]


def test_a_long_deflated_member_comes_in_pieces() -> None:
    content = random.Random(0).randbytes(1_200_000)  # hardly packs, so takes several reads
    source = _source(_zip({"a": content}, zipfile.ZIP_DEFLATED))
    stream = MemberStream(source, read_members(source)[0], verify=True)
    pieces = [stream.read(600_000) for _ in range(2)]
    stream.finish()
    assert b"".join(pieces) == content


# More than 4 GiB, without writing them


def _large(content_size: int) -> tuple[_Bytes, list[NewMember]]:
    first = NewMember("large", content_size, 0, 7)
    head = build_local_header(first)
    second = NewMember("after", 3, len(head) + content_size, zlib.crc32(b"end"))
    tail = build_local_header(second) + b"end"
    end = build_directory([first, second], second.start + len(tail))
    ranges = {0: head, second.start: tail + end}
    return _Bytes(ranges, second.start + len(tail) + len(end)), [first, second]


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0xFFFFFFFF, 5 * GIB])
def test_sizes_and_offsets_beyond_32_bits_come_back(size: int) -> None:
    source, built = _large(size)
    read = read_members(source)
    assert [(each.name, each.size, each.start, each.crc) for each in read] == list(built)
    assert [each.data % 64 for each in read] == [0, 0]


class _Reader(io.RawIOBase):
    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = at + (0, self._at, self._source.size)[whence]
        return self._at

    def read(self, length: int = -1) -> bytes:
        rest = self._source.size - self._at
        data = self._source.read(self._at, rest if length < 0 else min(length, rest))
        self._at += len(data)
        return data


def test_python_finds_a_member_behind_4_gib() -> None:
    source, _ = _large(5 * GIB)
    with zipfile.ZipFile(cast("io.BytesIO", _Reader(source))) as archive:
        assert archive.read("after") == b"end"
        assert archive.getinfo("large").file_size == 5 * GIB


def test_a_local_header_beyond_32_bits_says_its_size_in_the_zip64_field() -> None:
    head = build_local_header(NewMember("a", 5 * GIB, 0))
    assert struct.unpack_from("<2L", head, 18) == (0xFFFFFFFF, 0xFFFFFFFF)
    assert struct.unpack_from("<2H2Q", head, 31) == (1, 16, 5 * GIB, 5 * GIB)
    assert len(head) % 64 == 0


def test_more_than_65535_members_come_back() -> None:
    contents = {str(number): b"" for number in range(65_536)}
    data = _build(contents)
    assert len(read_members(_source(data))) == 65_536
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == list(contents)


# What is refused

TWO = _zip({"one.npy": b"first", "two.npy": b"other"})
PACKED_ONE = _zip({"one.npy": b"first" * 9}, zipfile.ZIP_DEFLATED)


def _with_zip64_end(data: bytes) -> bytes:
    at = data.rindex(b"PK\x05\x06")
    count, length, start = struct.unpack_from("<H2L", data, at + END_COUNT)
    wide = struct.pack(
        "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start
    ) + struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    return data[:at] + wide + _patched(data[at:], END_HERE, b"\xff" * 12)


WIDE = _with_zip64_end(TWO)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "no end record", id="empty file"),
        pytest.param(TWO + b"more", "no end record", id="bytes after it"),
        pytest.param(b"more" + TWO, "end of the central directory", id="bytes before it"),
        pytest.param(_in_end(TWO, END_DISK, b"\1"), "several disks", id="several disks"),
        pytest.param(_in_end(TWO, END_HERE, b"\1"), "several disks", id="counts differ"),
        pytest.param(
            _in_end(TWO, END_HERE, b"\1\0\1\0"), "expected 1, got 2", id="fewer are counted"
        ),
        pytest.param(_in_end(TWO, END_LENGTH, b"\1"), "end of the central", id="length is wrong"),
        pytest.param(_in_end(TWO, END_START, b"\1"), "end of the central", id="offset is wrong"),
        pytest.param(_in_directory(TWO, 0, b"X"), "no whole record", id="signature of a record"),
        pytest.param(
            _in_directory(TWO, COMMENT_LENGTH, b"\xff\xff"), "no whole record", id="long comment"
        ),
        pytest.param(
            _in_directory(TWO, COMMENT_LENGTH, b"\x20"), "no whole record", id="cut record"
        ),
        pytest.param(_in_directory(TWO, DISK, b"\1"), "another disk", id="member on a disk"),
        pytest.param(_in_directory(TWO, FLAGS, b"\1"), "encrypted", id="encrypted"),
        pytest.param(_in_directory(TWO, FLAGS, b"\x20"), "flags", id="patched data"),
        pytest.param(_in_directory(TWO, METHOD, b"\x0c"), "method", id="bzip2"),
        pytest.param(_in_directory(TWO, METHOD, b"\x08"), "got 0", id="methods differ"),
        pytest.param(_in_directory(TWO, SIZE, b"\4"), "stored member", id="stored sizes differ"),
        pytest.param(_in_directory(TWO, SIZE, b"\xff" * 4), "zip64 extra", id="no zip64 field"),
        pytest.param(_in_directory(TWO, START, b"\1"), "signature", id="offset of local header"),
        pytest.param(
            _in_directory(TWO, START, b"\xff" * 3), "runs into", id="offset behind the data"
        ),
        pytest.param(_in_local(TWO, 28, b"\xff"), "runs into", id="long local extra field"),
        pytest.param(_in_local(TWO, 30, b"X"), "another name", id="names differ"),
        pytest.param(_in_local(TWO, 26, b"\3"), "another name", id="name lengths differ"),
        pytest.param(TWO.replace(b"two", b"one"), "occurs twice", id="duplicate"),
        pytest.param(
            _in_directory(_in_directory(TWO, NAME, b"\xff"), FLAGS + 1, b"\x08"), "UTF-8",
            id="name is no UTF-8",
        ),
        pytest.param(
            _patched(WIDE, len(WIDE) - 42, b"\1"), "several disks|end of", id="no locator"
        ),
        pytest.param(
            _patched(WIDE, len(WIDE) - 22 + END_LENGTH, b"\0"), "two end records",
            id="end records differ",
        ),
        pytest.param(
            _patched(WIDE, len(WIDE) - 34, b"\xff" * 8), "zip64 end record",
            id="locator points behind the end",
        ),
        pytest.param(
            _patched(WIDE, len(WIDE) - 34, b"\0"), "zip64 end record", id="locator points elsewhere"
        ),
    ],
)  # fmt: skip
def test_damage_is_named(data: bytes, text: str) -> None:
    with pytest.raises(CorruptFileError, match=text):
        read_members(_source(data))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(TWO.replace(b"one.npy", b"../.npy"), "leads out", id="traversal"),
        pytest.param(TWO.replace(b"one.npy", b"a\\..\\np"), "leads out", id="backslashes"),
        pytest.param(TWO.replace(b"one.npy", b"/etc/pw"), "leads out", id="absolute"),
        pytest.param(TWO.replace(b"one.npy", b"on\0.npy"), "NUL", id="NUL"),
        pytest.param(_in_directory(PACKED_ONE, SIZE, b"\xff\xff\xff\0"), "inflated", id="ratio"),
    ],
)
def test_what_no_weight_file_needs_is_unsafe(data: bytes, text: str) -> None:
    with pytest.raises(UnsafeFileError, match=text):
        read_members(_source(data))


def test_members_that_share_bytes_are_refused() -> None:
    inner = _build({"inner": b"data"})
    data = _build({"outer": inner})
    start = data.index(b"inner") - 30
    assert start % 64 == 0
    outer = NewMember("outer", len(inner), 0, zlib.crc32(inner))
    shared = NewMember("inner", 4, start, zlib.crc32(b"data"))
    end = len(build_local_header(outer)) + len(inner)
    with pytest.raises(UnsafeFileError, match=r"`inner`: shares bytes with `outer`"):
        read_members(_source(data[:end] + build_directory([outer, shared], end)))


def test_a_central_directory_that_would_fill_memory_is_refused() -> None:
    length = 1 << 29
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, length, 0, 0)
    with pytest.raises(UnsafeFileError, match="length of the central directory"):
        read_members(_Bytes({length: end}, length + len(end)))


def test_a_zip64_end_record_where_none_is_needed_is_read() -> None:
    assert list(_contents(_source(WIDE))) == ["one.npy", "two.npy"]


def test_a_zip64_field_is_found_behind_others() -> None:
    data = _build({"a": b"data"})
    at = data.index(b"PK\x01\x02")
    extra = struct.pack("<2HB2H2Q2H", 9, 1, 0, 1, 16, 4, 4, 7, 0)
    record = bytearray(data[at : at + NAME] + b"a" + extra)
    record[PACKED : SIZE + 4] = b"\xff" * 8
    struct.pack_into("<H", record, EXTRA_LENGTH, len(extra))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(record), at, 0)
    assert _contents(_source(data[:at] + record + end)) == {"a": b"data"}


# Streams


def _stream(data: bytes) -> tuple[MemberStream, Member]:
    source = _source(data)
    member = read_members(source)[0]
    return MemberStream(source, member, verify=True), member


def _read_all(data: bytes) -> bytes:
    stream, member = _stream(data)
    content = stream.read(member.size)
    stream.finish()
    return content


def _repacked(packed: bytes, size: int, crc: int = 0) -> bytes:
    """Return an archive of one deflated member whose packed bytes are given."""
    head = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, DEFLATED, 0, 0, 0, 0, 0, 1, 0) + b"a"
    record = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, DEFLATED, 0, 0, crc, len(packed), size, 1,
        0, 0, 0, 0, 0, 0,
    ) + b"a"  # fmt: skip
    start = len(head) + len(packed)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(record), start, 0)
    return head + packed + record + end


def _deflate(content: bytes) -> bytes:
    return zlib.compress(content, wbits=-15)


def test_a_member_of_a_repacked_archive_is_read() -> None:
    assert _read_all(_repacked(_deflate(b"content"), 7, zlib.crc32(b"content"))) == b"content"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(_patched(TWO, 37, b"F"), "crc32 of the contents", id="stored"),
        pytest.param(_repacked(_deflate(b"abc"), 3), "crc32 of the contents", id="deflated"),
        pytest.param(_repacked(_deflate(b"abc"), 4), "packed data ends early", id="shorter"),
        pytest.param(_repacked(_deflate(b"abc"), 2), "an end after 2 bytes", id="longer"),
        pytest.param(_repacked(_deflate(b"abc") + b"x", 3), "an end after 3", id="followed"),
        pytest.param(_repacked(_deflate(b"abc")[:-1], 3), "an end after 3", id="cut at its end"),
        pytest.param(_repacked(b"\xff" * 9, 3), "packed data: ", id="not deflated"),
    ],
)
def test_contents_that_differ_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(CorruptFileError, match=text) as caught:
        _read_all(data)
    assert "archive.zip: member `" in caught.value.message


@pytest.mark.parametrize("data", [TWO, PACKED_ONE])
def test_reading_past_the_end_of_a_member_is_refused(data: bytes) -> None:
    stream, member = _stream(data)
    with pytest.raises(CorruptFileError, match="ends early"):
        stream.read(member.size + 1)


@pytest.mark.parametrize("data", [TWO, PACKED_ONE])
def test_finishing_before_the_end_of_a_member_is_refused(data: bytes) -> None:
    stream, _ = _stream(data)
    stream.read(1)
    with pytest.raises(CorruptFileError, match="longer than what it holds"):
        stream.finish()


def test_without_verifying_the_crc_is_not_looked_at() -> None:
    source = _source(_patched(TWO, 37, b"F"))
    stream = MemberStream(source, read_members(source)[0], verify=False)
    content = stream.read(5)
    stream.finish()
    assert content == b"First"


def _damaged(data: bytes) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]
    for at, byte in enumerate(data):
        for mask in (0x01, 0x80, 0xFF):
            yield _patched(data, at, bytes([byte ^ mask]))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: _build({"a.npy": b"first", "é": b""}), id="built"),
        pytest.param(lambda: _zip({"a": b"ab" * 20}, zipfile.ZIP_DEFLATED, b"note"), id="python"),
    ],
)
def test_damage_anywhere_is_an_error_of_ours_or_harmless(make: Callable[[], bytes]) -> None:
    data = make()
    whole = _contents(_source(data))
    outcomes = set()
    for damaged in _damaged(data):
        try:
            outcomes.add(_contents(_source(damaged)) == whole)
        except ConvertError:
            outcomes.add(True)
    assert outcomes == {True}


def test_methods_have_the_numbers_of_the_specification() -> None:
    assert (STORED, DEFLATED) == (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
