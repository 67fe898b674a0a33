from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from tensorferry.converters.containers import windows
from tensorferry.converters.containers.windows import SourceFile, WindowSource, locate, unpack
from tensorferry.converters.containers.zip_archive import read_members
from tensorferry.converters.errors import CorruptFileError, TargetError
from tensorferry.converters.sources import FileSource

DATA = bytes(range(200))


@pytest.fixture
def source(tmp_path: Path) -> FileSource:
    (tmp_path / "data").write_bytes(DATA)
    return FileSource(tmp_path / "data")


def test_a_window_is_a_source_of_its_own(source: FileSource) -> None:
    window = WindowSource(source, 10, 20)
    assert (window.size, window.read(3, 4)) == (20, DATA[13:17])
    assert window.path == source.path
    window.close()
    assert source.read(0, 1) == DATA[:1]


@pytest.mark.parametrize(("offset", "length"), [(0, 21), (20, 1), (-1, 1)])
def test_nothing_is_read_beside_a_window(source: FileSource, offset: int, length: int) -> None:
    with pytest.raises(CorruptFileError, match="runs out of its member"):
        WindowSource(source, 10, 20).read(offset, length)


def test_a_byte_of_a_window_is_located_in_what_lies_below(source: FileSource) -> None:
    assert locate(WindowSource(source, 10, 20), 5) == (source, 15)
    assert locate(source, 5) == (source, 5)


def test_a_source_can_be_read_as_a_file(source: FileSource) -> None:
    file = SourceFile(source)
    assert file.readable()
    assert file.seekable()
    assert file.read(3) == DATA[:3]
    assert (file.seek(-2, os.SEEK_END), file.read()) == (198, DATA[198:])
    assert (file.seek(-50, os.SEEK_CUR), file.tell()) == (150, 150)
    assert file.seek(500) == 500
    assert file.read(1) == b""


def deflated(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", data)
    return path


def test_a_member_is_unpacked_into_a_file_that_nobody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(windows.tempfile, "tempdir", str(folder))
    archive = FileSource(deflated(tmp_path / "a.zip", DATA * 20_000))
    unpacked = unpack(archive, read_members(archive)[0], verify=True)
    assert list(folder.iterdir()) == []
    assert unpacked.size == len(DATA) * 20_000
    assert unpacked.read(1_000_000, 200) == DATA
    unpacked.close()
    with pytest.raises(ValueError, match="closed"):
        unpacked.read(0, 1)


def test_damage_is_found_while_a_member_is_unpacked(tmp_path: Path) -> None:
    path = deflated(tmp_path / "a.zip", DATA)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 16] ^= 1
    path.write_bytes(data)
    archive = FileSource(path)
    with pytest.raises(CorruptFileError, match="crc32"):
        unpack(archive, read_members(archive)[0], verify=True)


def test_room_is_looked_for_before_anything_is_unpacked(tmp_path: Path) -> None:
    archive = FileSource(deflated(tmp_path / "a.zip", DATA))
    member = read_members(archive)[0]._replace(size=1 << 60)
    with pytest.raises(TargetError, match="no room to unpack it") as caught:
        unpack(archive, member, verify=True)
    assert "TMPDIR" in str(caught.value)
