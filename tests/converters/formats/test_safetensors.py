from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, reject
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, TargetError
from tensorferry.converters.formats import safetensors
from tensorferry.converters.formats.safetensors import CODES, FORMAT, MAX_HEADER_BYTES
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.tensors import TensorDict
from tensorferry.converters.testing.contracts import (
    ReaderContract,
    Values,
    WriterContract,
    canonical,
    contents,
    tensors_of,
)
from tensorferry.converters.testing.strategies import tensor_dicts

# What the format holds, as a code of its own or under that of another type.
HELD = [
    dtype for dtype in DType if dtype.variable or {dtype, DType.named(dtype.carrier)} & set(CODES)
]


def _plan(tensors: TensorDict, target: Path) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors, target, WriteOptions())


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _write(values: dict[str, Values], target: Path) -> Path:
    write_plan(_plan(tensors_of(values), target))
    return target


def _header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found


class TestWriter(WriterContract):
    FORMAT = FORMAT


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["plain", "with a record"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        values = WriterContract().values()
        if request.param != "plain":
            values |= {
                "__metadata__": np.arange(3),
                "text": [b"a", b"\xff"],
                "quarter": (DType.INT4, (3,), b"\xff\0\7"),
                "none": [],
            }
        return _write(values, tmp_path / "sample.safetensors")

    @pytest.fixture
    def foreign(self, samples: Path) -> Iterator[Path]:
        ours = {"__pycache__", "safetensors_file"}
        return (path for path in samples.rglob("*") if not ours & set(path.parts))


# Writing


@given(tensor_dicts(HELD))
@example(tensors_of({"__metadata__": [b"x"], "a": np.arange(3, dtype=np.int8)}))
@example(tensors_of({"a\udcff": np.arange(3), "b\udcff": [b"\xff"]}))
def test_whatever_is_written_reads_back(tensors: TensorDict) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "m.safetensors"
        try:
            plan = _plan(tensors, target)
        except TargetError:  # two names become one; another test is about that
            reject()
        write_plan(plan)
        assert target.stat().st_size == plan.size
        with _open(target) as found:
            assert contents(found) == contents(tensors)
        with _open(target, names="key") as keyed:
            assert {plan.stored_names.get(name, name) for name in tensors} == set(keyed)


def test_files_without_a_record_have_no_metadata(tmp_path: Path) -> None:
    path = _write({"a": np.arange(3)}, tmp_path / "m.safetensors")
    assert list(_header(path)) == ["a"]


@pytest.mark.parametrize("text", [[], [b"x"]])
def test_metadata_is_kept_beside_the_record(tmp_path: Path, text: list[bytes]) -> None:
    values: dict[str, Values] = {"a": np.arange(3)}
    if text:
        values["s"] = text
    metadata = {"format": "pt", "größe": "\n"}
    tensors = replace(tensors_of(values), metadata=metadata)
    target = tmp_path / "m.safetensors"
    write_plan(_plan(tensors, target))
    with _open(target) as found:
        assert found.metadata == metadata
        assert contents(found) == contents(tensors)


def test_metadata_of_our_own_name_does_not_pass_for_a_record(tmp_path: Path) -> None:
    tensors = replace(tensors_of({"a": np.arange(3)}), metadata={"tensorferry": "of another"})
    target = tmp_path / "m.safetensors"
    plan = _plan(tensors, target)
    write_plan(plan)
    assert [note.kind for note in plan.notes] == [Kind.METADATA_LOST]
    with _open(target) as found:
        assert list(found) == ["a"]
        assert not found.metadata


def test_data_starts_aligned(tmp_path: Path) -> None:
    for length in range(1, 20):
        path = _write({"x" * length: np.arange(3)}, tmp_path / f"{length}.safetensors")
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_wider_types_come_first_so_that_all_are_aligned(tmp_path: Path) -> None:
    values: dict[str, Values] = {
        f"{dtype}": (dtype, (1,), canonical(dtype, b"\1" * dtype.itemsize)) for dtype in CODES
    }
    header = _header(_write(values, tmp_path / "m.safetensors"))
    assert [entry["dtype"] for entry in header.values()] == list(CODES.values())
    for name, entry in header.items():
        dtype = DType.named(name)
        assert dtype
        assert entry["data_offsets"][0] % dtype.itemsize == 0


def test_a_name_that_is_taken_is_escaped_with_a_note(tmp_path: Path) -> None:
    plan = _plan(tensors_of({"__metadata__": np.arange(3)}), tmp_path / "m.safetensors")
    assert plan.stored_names == {"__metadata__": "%5F_metadata__"}
    assert [note.tensor for note in plan.notes] == ["__metadata__"]


def test_names_are_never_merged(tmp_path: Path) -> None:
    values: dict[str, Values] = {"a\udcff": np.arange(3), "a%FF": np.arange(3)}
    with pytest.raises(TargetError, match="two names become `a%FF` in the target") as caught:
        _plan(tensors_of(values), tmp_path / "m.safetensors")
    assert "--exclude" in (caught.value.hint or "")


def test_encoded_types_are_noted(tmp_path: Path) -> None:
    values: dict[str, Values] = {"s": [b"x"], "q": (DType.INT4, (1,), b"\7"), "f": np.zeros(1)}
    plan = _plan(tensors_of(values), tmp_path / "m.safetensors")
    assert {note.tensor for note in plan.notes} == {"s", "q"}
    assert not any(note.kind.lossy for note in plan.notes)


def test_a_type_without_a_code_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="safetensors has no complex128") as caught:
        _plan(tensors_of({"z": np.zeros(1, np.complex128)}), tmp_path / "m.safetensors")
    assert "--dtype 'z=c64'" in (caught.value.hint or "")


def test_a_header_that_readers_would_refuse_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors, "MAX_HEADER_BYTES", 90)
    _plan(tensors_of({"a": np.arange(3)}), tmp_path / "m.safetensors")
    with pytest.raises(TargetError, match="header too long, expected at most 90 bytes"):
        _plan(tensors_of({"a": np.arange(3), "b" * 50: np.arange(3)}), tmp_path / "m.safetensors")


# Reading what others wrote


def _file(tmp_path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def _entry(begin: int = 0, end: int = 8, **changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [begin, end], **changes}


def test_other_fields_and_metadata_are_accepted(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": _entry(extra=1)}
    with _open(_file(tmp_path, header, bytes(8))) as tensors:
        assert list(tensors) == ["a"]
        assert tensors.metadata == {"format": "pt"}


def test_metadata_may_be_null_as_mlx_writes_it(tmp_path: Path) -> None:
    with _open(_file(tmp_path, {"__metadata__": None, "a": _entry()}, bytes(8))) as tensors:
        assert list(tensors) == ["a"]


def test_order_of_data_need_not_be_that_of_the_header(tmp_path: Path) -> None:
    header = {"b": _entry(8, 16), "none": _entry(8, 8, shape=[0]), "a": _entry(0, 8)}
    with _open(_file(tmp_path, header, struct.pack("<4f", 0, 1, 2, 3))) as tensors:
        assert {name: list(tensor.read()) for name, tensor in tensors.items()} == {
            "b": [2, 3], "none": [], "a": [0, 1],
        }  # fmt: skip


def test_an_empty_file_of_tensors_is_read(tmp_path: Path) -> None:
    with _open(_file(tmp_path, {})) as tensors:
        assert not tensors


# Attacks

_DEEP = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
_HUGE = 1 << 70

HEADERS: dict[str, object] = {
    "overlap": {"a": _entry(), "b": _entry(4, 12)},
    "same place": {"a": _entry(), "b": _entry(), "c": _entry(8, 12, shape=[1])},
    "hole": {"a": _entry(), "b": _entry(9, 12, dtype="U8", shape=[3])},
    "hole at the start": {"a": _entry(4, 12)},
    "hole at the end": {"a": _entry()},
    "beyond the end": {"a": _entry(), "b": _entry(8, 16)},
    "duplicate key": b'{"a":{"dtype":"U8","shape":[12],"data_offsets":[0,12]},"a":0}',
    "duplicate field": b'{"a":{"dtype":"U8","dtype":"U8","shape":[12],"data_offsets":[0,12]}}',
    "negative begin": {"a": _entry(-8, 0), "b": _entry(0, 12, shape=[3])},
    "negative shape": {"a": _entry(0, 12, shape=[-3])},
    "two negative dimensions": {"a": _entry(0, 12, shape=[-3, -1])},
    "end before begin": {"a": _entry(12, 0, shape=[3])},
    "float offsets": {"a": _entry(0, 12.0, shape=[3])},  # type: ignore[arg-type]
    "float shape": {"a": _entry(0, 12, shape=[3.0])},
    "bool as number": {"a": _entry(0, 12, shape=[3, True])},
    "bool as offset": {"a": _entry(False, 12, shape=[3])},
    "text as number": {"a": _entry(0, 12, shape=["3"])},
    "numbers beyond 64 bits": {"a": _entry(_HUGE, _HUGE), "b": _entry(0, 12, shape=[3])},
    "dimension beyond 64 bits": {
        "a": _entry(0, 0, shape=[_HUGE, 0]), "b": _entry(0, 12, shape=[3]),
    },
    "product beyond 64 bits": {
        "a": _entry(0, 0, shape=[1 << 62, 1 << 62, 0]), "b": _entry(0, 12, shape=[3]),
    },
    "three offsets": {"a": _entry(data_offsets=[0, 12, 12], shape=[3])},
    "no offsets": {"a": {"dtype": "F32", "shape": [3]}},
    "shape of another size": {"a": _entry(0, 12, shape=[4])},
    "unknown dtype": {"a": _entry(0, 12, dtype="F128", shape=[3])},
    "packed dtype": {"a": _entry(0, 12, dtype="F4", shape=[24])},
    "dtype no text": {"a": _entry(0, 12, dtype=["F32"], shape=[3])},
    "lone surrogate": b'{"\\ud800":{"dtype":"U8","shape":[12],"data_offsets":[0,12]}}',
    "carried byte": b'{"\\udcff":{"dtype":"U8","shape":[12],"data_offsets":[0,12]}}',
    "entry no object": {"a": [0, 12]},
    "header no object": [1, 2],
    "header a text": "text",
    "no json": b"{",
    "json and more": b"{} {}",
    "not utf-8": b'{"\xff":{"dtype":"U8","shape":[12],"data_offsets":[0,12]}}',
    "utf-16": '{"a":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "nan": b'{"a":NaN}',
    "long number": b'{"a":' + b"9" * 5000 + b"}",
    "deep": _DEEP,
    "metadata no texts": {"__metadata__": {"a": 1}, "b": _entry(0, 12, shape=[3])},
    "metadata no unicode": {"__metadata__": {"a": "\ud800"}, "b": _entry(0, 12, shape=[3])},
    "metadata a list": {"__metadata__": [], "b": _entry(0, 12, shape=[3])},
    "record no json": {"__metadata__": {"tensorferry": "{"}, "b": _entry(0, 12, shape=[3])},
    "record deep": {"__metadata__": {"tensorferry": _DEEP.decode()}, "b": _entry(0, 12, shape=[3])},
    "record of the future": {
        "__metadata__": {"tensorferry": '{"version":2}'}, "b": _entry(0, 12, shape=[3]),
    },
    "record of another type": {
        "__metadata__": {"tensorferry": '{"version":1,"dtypes":{"b":"int4"}}'},
        "b": _entry(0, 12, shape=[3]),
    },
    "record that merges": {
        "__metadata__": {"tensorferry": '{"version":1,"names":{"a":"b"}}'},
        "a": _entry(0, 4, shape=[1]), "b": _entry(4, 12),
    },
    "record that hides": {
        "__metadata__": {
            "tensorferry":
                '{"version":1,"elements":{"b":{"dtype":"string","shape":[],"text":["x"]}}}'
        },
        "b": _entry(0, 12, shape=[3]),
    },
}  # fmt: skip


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_refused(tmp_path: Path, header: object) -> None:
    path = _file(tmp_path, header, bytes(12))
    with pytest.raises(CorruptFileError) as caught:
        _open(path)
    assert caught.value.path == str(path)
    assert (caught.value.where or "").startswith("header")
    assert len(caught.value.message) < 2000


@pytest.mark.parametrize("extra", [b"\0", b"more"])
def test_trailing_bytes_are_refused(tmp_path: Path, extra: bytes) -> None:
    with pytest.raises(CorruptFileError, match="data length, expected 8 bytes") as caught:
        _open(_file(tmp_path, {"a": _entry()}, bytes(8) + extra))
    assert caught.value.hint


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="expected 8 bytes, got 7 bytes"):
        _open(_file(tmp_path, {"a": _entry()}, bytes(7)))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 1 << 63, (1 << 64) - 1])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path, length: int) -> None:
    path = _file(tmp_path, b"{}", length=length)
    with pytest.raises(CorruptFileError, match=f"got {length} bytes"):
        _open(path)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, b"\0" * 8, b"\2\0\0\0\0\0\0\0{"])
def test_a_file_too_short_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"m\.safetensors: header"):
        _open(path)


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError):
        _open(_file(tmp_path, b"{", bytes(12)))
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [path for path in held if path.is_relative_to(tmp_path)]


@pytest.mark.parametrize(
    ("head", "yes"),
    [
        (b"\2\0\0\0\0\0\0\0{}", True),
        (b"\3\0\0\0\0\0\0\0 {}", True),
        (b"\2\0\0\0\0\0\0\0[]", False),
        (b"\1\0\0\0\0\0\0\0{}", False),
        (b"\2\0\0\0\0\0\0\1{}", False),
        (b"\2\0\0\0\0\0\0\0{", False),
        (b"", False),
    ],
)
def test_files_are_known_by_their_beginning(tmp_path: Path, head: bytes, yes: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(head)
    assert FORMAT.sniff(Location(path)) is yes


# Against the library

_NUMPY = [dtype for dtype in CODES if dtype.native]


def _all_plain() -> dict[str, Values]:
    values: dict[str, Values] = {
        f"größe/{dtype} \"quoted\"\n\x7f": (
            dtype, (2, 32 // dtype.itemsize), canonical(dtype, bytes(range(90, 154)))
        )
        for dtype in _NUMPY
    }  # fmt: skip
    return values | {"scalar": np.array(1.5), "empty": np.zeros((2, 0), np.int16)}


@pytest.mark.oracle
def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = _write(_all_plain(), tmp_path / "m.safetensors")
    found = load_file(path)
    assert contents(tensors_of(found)) == contents(tensors_of(_all_plain()))


@pytest.mark.oracle
def test_the_library_accepts_every_type_and_our_record(tmp_path: Path) -> None:
    from safetensors import safe_open

    values: dict[str, Values] = {
        f"{dtype}": (dtype, (2,), canonical(dtype, bytes(2 * dtype.itemsize)))
        for dtype in HELD
        if not dtype.variable
    }
    values |= {"text": [b"\xff"], "__metadata__": np.arange(2)}
    path = _write(values, tmp_path / "m.safetensors")
    with safe_open(path, framework="np") as file:
        names = set(file.keys())
        assert names == {*values, "%5F_metadata__"} - {"text", "__metadata__"}
        types = {name: file.get_slice(name).get_dtype() for name in names}
    assert {types[str(dtype)] for dtype in CODES} == set(CODES.values())


@pytest.mark.oracle
def test_plain_files_are_the_bytes_that_the_library_writes(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = tensors_of(_all_plain())
    save_file({name: tensor.read() for name, tensor in tensors.items()}, tmp_path / "theirs")
    ours = _write(_all_plain(), tmp_path / "ours.safetensors")
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


# The library knows nothing of our record, and has types that we do not read.
_REFUSED = {
    name: header for name, header in HEADERS.items() if not name.startswith(("record", "packed"))
}


@pytest.mark.oracle
@pytest.mark.parametrize("header", _REFUSED.values(), ids=_REFUSED)
def test_what_we_refuse_the_library_refuses_too(tmp_path: Path, header: object) -> None:
    from safetensors import SafetensorError, safe_open

    with pytest.raises(SafetensorError):
        safe_open(_file(tmp_path, header, bytes(12)), framework="np")
