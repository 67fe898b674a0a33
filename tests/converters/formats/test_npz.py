from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, reject
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    TargetError,
    UnsafeFileError,
)
from tensorferry.converters.formats import npz
from tensorferry.converters.formats.npz import FORMAT
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.tensors import ElementTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import (
    ReaderContract,
    Values,
    WriterContract,
    contents,
    tensors_of,
)
from tensorferry.converters.testing.strategies import FIXED, tensor_dicts

ODD_NAMES = (
    "",
    "..",
    "../up",
    "a/../b",
    "/absolute",
    "C:/drive",
    "w:0",
    "back\\slash",
    "nul\0inside",
    "new\nline",
    "\x7f\x85",
    "file",
    "allow_pickle",
    "ends.npy",
    ".npy",
    "__tensorferry__.json",
    "größe/重み",
    "not \udcff utf-8",
    "%2E",
    "x" * 70_000,
    "é" * 40_000,
)


def _plan(values: Mapping[str, Values], target: Path) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors_of(values), target, WriteOptions())


def _write(values: Mapping[str, Values], folder: Path) -> Path:
    target = folder / "out.npz"
    write_plan(_plan(values, target), overwrite=True)
    return target


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _reads(path: Path, **options: Any) -> dict[str, Any]:
    with _open(path, **options) as tensors:
        return contents(tensors)


def _read(path: Path, name: str = "a") -> np.ndarray:
    with _open(path) as tensors:
        return tensors[name].read()


def _npy(descr: str, shape: str, data: bytes, *, fortran: bool = False, version: int = 1) -> bytes:
    """Return an npy file whose header is spelt as given."""
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def _archive(
    path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.comment = comment
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.npz"


class TestWriter(WriterContract):
    FORMAT = FORMAT


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["ours", "savez", "savez_compressed", "odd", "empty"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "sample.npz"
        if request.param == "ours":
            odd: dict[str, Values] = dict.fromkeys(ODD_NAMES, (DType.INT8, (1,), b"\x01"))
            return _write(WriterContract().values() | odd | {"text": [b"a", b"b\0"]}, tmp_path)
        if request.param == "empty":
            np.savez(path)
        elif request.param == "odd":
            np.savez(path, fortran=np.asfortranarray(MATRIX), big=MATRIX.astype(">f8"), text=TEXT)
        else:
            save = getattr(np, request.param)
            save(path, MATRIX, text=TEXT, scalar=np.int16(3), none=np.zeros((0, 3), "c8"))
        return path

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        found = [path for path in samples.rglob("*") if path.suffix != ".npz"]
        return [
            *(path for path in found if "__pycache__" not in path.parts),
            _archive(tmp_path / "a.keras", {"metadata.json": b"{}", "model.weights.h5": b""}),
            _archive(tmp_path / "a.pt", {"archive/data.pkl": b"", "archive/data/0": b""}),
            _archive(tmp_path / "empty.zip", {}, comment=b"but for this"),
        ]


I1 = _npy("'|i1'", "(2,)", b"ab")
MATRIX = np.arange(6, dtype="f4").reshape(2, 3)
TEXT = np.array([b"ab", b"", b"c"])


# What we write, read by numpy and zip


@pytest.mark.parametrize("dtype", [dtype for dtype in FIXED if dtype.native], ids=str)
@pytest.mark.parametrize("shape", [(), (2, 3), (0, 2)])
def test_numpy_reads_its_own_types_as_they_are(
    tmp_path: Path, dtype: DType, shape: tuple[int, ...]
) -> None:
    raw = bytes(np.arange(96, dtype="u1") % 2)[: TensorSpec(dtype, shape).nbytes]
    with np.load(_write({"a": (dtype, shape, raw)}, tmp_path), allow_pickle=False) as loaded:
        assert loaded.files == ["a"]
        assert loaded["a"].dtype == np.dtype(dtype.label)
        assert loaded["a"].shape == shape
        assert loaded["a"].tobytes() == raw


@pytest.mark.parametrize("dtype", [dtype for dtype in FIXED if not dtype.native], ids=str)
def test_numpy_reads_other_types_as_integers_of_the_same_bytes(
    tmp_path: Path, dtype: DType
) -> None:
    raw = bytes(range(2 * dtype.itemsize))
    target = _write({"a": (dtype, (2,), raw)}, tmp_path)
    with np.load(target, allow_pickle=False) as loaded:
        assert loaded["a"].dtype == np.dtype(dtype.carrier)
        assert loaded["a"].tobytes() == raw
    plan = _plan({"a": (dtype, (2,), raw)}, target)
    assert [(note.kind, note.tensor) for note in plan.notes] == [(Kind.ENCODED, "a")]


def test_bfloat16_is_had_back_by_a_view(tmp_path: Path) -> None:
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    with np.load(_write({"a": values}, tmp_path)) as loaded:
        assert (loaded["a"].view(ml_dtypes.bfloat16) == values).all()


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 10**12), (1,) * 32, (10**6, 0)])
def test_headers_are_numpys_own(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    target = _write({"a": (DType.FLOAT32, shape, bytes(TensorSpec(DType.FLOAT32, shape).nbytes))},
                    tmp_path)  # fmt: skip
    with zipfile.ZipFile(target) as archive:
        assert archive.read("a.npy").startswith(file.getvalue())


def test_zip_tools_find_nothing_wrong(tmp_path: Path) -> None:
    target = _write(WriterContract().values(), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "zipfile", "-t", target], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Done testing\n"


def test_arrays_can_be_mapped_from_where_they_lie(tmp_path: Path) -> None:
    arrays = {"é" * n: np.arange(n, dtype="f8") for n in range(1, 80)}
    target = _write(arrays, tmp_path)
    with _open(target) as tensors:
        for name, expected in arrays.items():
            (extent,) = tensors[name].extents or ()
            assert extent.offset % 64 == 0
            mapped = np.memmap(target, "<f8", "r", extent.offset, expected.shape)
            assert (mapped == expected).all()


def test_members_are_stored_in_the_order_of_their_names(tmp_path: Path) -> None:
    target = _write(dict.fromkeys(("b", "a/c", "é", "a", "B"), MATRIX), tmp_path)
    with zipfile.ZipFile(target) as archive:
        names = ["B.npy", "a.npy", "a/c.npy", "b.npy", "é.npy"]
        assert archive.namelist() == names
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_no_record_is_written_where_none_is_needed(tmp_path: Path) -> None:
    target = _write({"a": MATRIX, "text": [b"ab", b""]}, tmp_path)
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["a.npy", "text.npy"]


def test_progress_adds_up_to_the_planned_size(tmp_path: Path) -> None:
    plan = _plan(WriterContract().values() | {"text": [b"a\0"]}, tmp_path / "a.npz")
    counts: list[int] = []
    write_plan(plan, advance=counts.append)
    assert sum(counts) == plan.size


def test_copying_does_not_import_numpy(tmp_path: Path) -> None:
    target = _write({"a": MATRIX, "text": [b"ab"]}, tmp_path)
    code = (
        "import sys; from pathlib import Path;"
        "from tensorferry.converters.formats.npz import FORMAT;"
        "from tensorferry.converters.output import write_plan;"
        "from tensorferry.converters.registry import *;"
        "tensors = FORMAT.open(Location(Path(sys.argv[1])), ReadOptions());"
        "write_plan(FORMAT.plan(tensors, Path(sys.argv[2]), WriteOptions()));"
        "print('numpy' in sys.modules)"
    )
    copy = tmp_path / "copy.npz"
    done = subprocess.run(
        [sys.executable, "-c", code, target, copy], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert copy.read_bytes() == target.read_bytes()


# Strings


@pytest.mark.parametrize(
    ("elements", "descr"),
    [
        pytest.param([b"ab", b"", b"\0c"], "|S2", id="plain"),
        pytest.param([b"", b""], "|S1", id="all empty"),
        pytest.param([], "|S1", id="none"),
        pytest.param([b"\xff\xfe"], "|S2", id="no text"),
        pytest.param([b"x" * 1000] + [b""] * 1000, "|S1000", id="wasteful but small"),
    ],
)
def test_strings_are_padded_where_that_loses_nothing(
    tmp_path: Path, elements: list[bytes], descr: str
) -> None:
    target = _write({"a": elements}, tmp_path)
    with np.load(target, allow_pickle=False) as loaded:
        assert loaded.files == ["a"]
        assert loaded["a"].dtype.str == descr
        assert loaded["a"].tolist() == elements
    assert _reads(target)["a"] == (DType.STRING, (len(elements),), elements)


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param([b"ends in\0"], id="ends in NUL"),
        pytest.param([b"\0"], id="is NUL"),
        pytest.param([b"x" * 100_000] + [b""] * 1000, id="wasteful"),
        pytest.param([b"\xff\0"], id="no text"),
    ],
)
def test_other_strings_are_kept_in_the_record(tmp_path: Path, elements: list[bytes]) -> None:
    target = _write({"a": elements}, tmp_path)
    with zipfile.ZipFile(target) as archive:
        assert archive.namelist() == ["__tensorferry__.json"]
    assert FORMAT.sniff(Location(target))
    assert _reads(target) == {"a": (DType.STRING, (len(elements),), elements)}


def test_variants_are_kept_in_the_record(tmp_path: Path) -> None:
    spec = TensorSpec(DType.VARIANT, ())
    target = _write({"a": ElementTensor(spec, lambda: [b"\xffx"], 2)}, tmp_path)
    assert _reads(target) == {"a": (DType.VARIANT, (), [b"\xffx"])}


def test_a_record_that_could_not_be_read_back_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "RECORD_BYTES", 100)
    with pytest.raises(TargetError, match="at most 100 bytes"):
        _plan({"a": [b"x" * 100 + b"\0"]}, tmp_path / "a.npz")


# Names


def _numbered() -> dict[str, Values]:
    return {
        name: (DType.INT16, (), number.to_bytes(2, "little"))
        for number, name in enumerate(ODD_NAMES)
    }


def test_odd_names_come_back_exactly(tmp_path: Path) -> None:
    values = _numbered()
    assert _reads(_write(values, tmp_path)) == contents(tensors_of(values))


def test_odd_names_are_stored_under_safe_ones(tmp_path: Path) -> None:
    plan = _plan(_numbered(), tmp_path / "a.npz")
    short = {name: stored for name, stored in plan.stored_names.items() if len(stored) < 200}
    assert short == {
        "": "%",
        "..": "%2E%2E",
        "../up": "%2E%2E/up",
        "a/../b": "a/%2E%2E/b",
        "/absolute": "%2Fabsolute",
        "C:/drive": "C%3A/drive",
        "back\\slash": "back%5Cslash",
        "nul\0inside": "nul%00inside",
        "new\nline": "new%0Aline",
        "\x7f\x85": "%7F%C2%85",
        "ends.npy": "ends%2Enpy",
        ".npy": "%2Enpy",
        "__tensorferry__.json": "%5F_tensorferry__.json",
        "not \udcff utf-8": "not %FF utf-8",
    }
    renamed = [note.tensor for note in plan.notes if note.kind is Kind.RENAMED]
    assert renamed == list(plan.stored_names)


def test_python_unpacks_every_name_to_a_file_of_its_own(tmp_path: Path) -> None:
    values = {name: value for name, value in _numbered().items() if len(name) < 200}
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(_write(values, tmp_path)) as archive:
        archive.extractall(folder)
    assert sum(path.is_file() for path in folder.rglob("*")) == len(values) + 1


def test_numpy_finds_every_array_under_its_stored_name(tmp_path: Path) -> None:
    target = _write(_numbered(), tmp_path)
    with np.load(target) as loaded, _open(target, names="key") as tensors:
        assert loaded.files == [*tensors, "__tensorferry__.json"]
        for name, tensor in tensors.items():
            assert loaded[name] == tensor.read()


def test_a_name_too_long_for_zip_is_shortened(tmp_path: Path) -> None:
    values = {"x" * 70_000 + end: MATRIX for end in "ab"}
    plan = _plan(values, tmp_path / "a.npz")
    assert len(set(plan.stored_names.values())) == 2
    assert all(len(stored) < 250 for stored in plan.stored_names.values())


def test_names_that_would_become_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="two names become `%2Fa`"):
        _plan({"/a": MATRIX, "%2Fa": MATRIX}, tmp_path / "a.npz")


@given(tensor_dicts())
def test_whatever_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: TensorDict
) -> None:
    target = tmp_path_factory.mktemp("any") / "a.npz"
    assert FORMAT.plan
    try:
        plan = FORMAT.plan(tensors, target, WriteOptions())
    except TargetError:  # two names that become one
        reject()
    write_plan(plan)
    assert target.stat().st_size == plan.size
    assert _reads(target) == contents(tensors)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None


# What others write


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["a", "a/b", "größe", "file.x", "ends.npy"])
def test_what_numpy_saves_is_read(path: Path, save: Callable[..., None], name: str) -> None:
    arrays = {name: MATRIX, "0": np.array(7), "none": np.zeros((3, 0), "u2")}
    save(path, **arrays)
    assert _reads(path) == contents(tensors_of(arrays))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", [dtype for dtype in FIXED if dtype.native], ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_byte_order_and_layout_do_not_show(
    path: Path,
    save: Callable[..., None],
    dtype: DType,
    order: Literal["<", ">"],
    layout: Literal["C", "F"],
) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype.label)
    stored = np.array(values, np.dtype(dtype.label).newbyteorder(order), order=layout)
    save(path, a=stored)
    with _open(path) as tensors:
        assert tensors["a"].spec == TensorSpec(dtype, (2, 3, 4))
    assert _reads(path)["a"][2] == values.tobytes()
    assert (_read(path) == values).all()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", ["S3", "<U3", ">U3"])
def test_text_is_read_as_strings(
    path: Path, save: Callable[..., None], dtype: str, layout: Literal["C", "F"]
) -> None:
    text = [["a", "bcd"], ["", "é" if "U" in dtype else "e"], ["x", "日本" if "U" in dtype else ""]]
    save(path, a=np.array(text, dtype, order=layout))
    expected = [element.encode() for row in text for element in row]
    assert _reads(path) == {"a": (DType.STRING, (3, 2), expected)}


def test_an_empty_array_in_fortran_order_is_read(path: Path) -> None:
    _archive(path, {"a.npy": _npy("'<f4'", "(0, 3)", b"", fortran=True)})
    assert _reads(path) == {"a": (DType.FLOAT32, (0, 3), b"")}


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("shape", ["(2,)", "(2L,)", " ( 2 , ) "])
def test_headers_of_all_versions_are_read(path: Path, version: int, shape: str) -> None:
    _archive(path, {"a.npy": _npy("'<i2'", shape, b"\1\0\2\0", version=version)})
    assert _reads(path) == {"a": (DType.INT16, (2,), b"\1\0\2\0")}


def test_a_comment_at_the_end_is_no_obstacle(path: Path) -> None:
    _archive(path, {"a.npy": _npy("'|i1'", "()", b"\5")}, comment=b"made by hand")
    assert _reads(path) == {"a": (DType.INT8, (), b"\5")}


def test_arrays_need_no_ending(path: Path) -> None:
    _archive(path, {"a.npy": _npy("'|i1'", "()", b"\5"), "b": _npy("'|i1'", "()", b"\6")})
    assert list(_reads(path)) == ["a", "b"]


def test_members_that_are_no_arrays_are_left_out_with_a_note(path: Path) -> None:
    _archive(path, {"a.npy": I1, "folder/": b"", "README": b"read", "e": b""})
    with _open(path) as tensors:
        assert list(tensors) == ["a"]
        assert [str(note) for note in tensors.notes] == [
            "member `README` is no array and is left out", "member `e` is no array and is left out",
        ]  # fmt: skip


def test_raw_bytes_are_read_where_the_record_names_their_type(path: Path) -> None:
    record = json.dumps({"version": 1, "dtypes": {"a": "bfloat16", "b": "int4"}})
    np.savez(path, a=np.zeros(2, "V2"), b=np.zeros(3, "V1"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__tensorferry__.json", record)
    assert _reads(path) == {
        "a": (DType.BFLOAT16, (2,), bytes(4)),
        "b": (DType.INT4, (3,), bytes(3)),
    }


def test_a_record_that_names_the_type_that_is_there_anyway_is_read(path: Path) -> None:
    record = json.dumps({"version": 1, "dtypes": {"a": "string", "b": "int8"}}).encode()
    text = _npy("'|S1'", "(2,)", b"xy")
    _archive(path, {"a.npy": text, "b.npy": I1, "__tensorferry__.json": record})
    assert _reads(path) == {
        "a": (DType.STRING, (2,), [b"x", b"y"]),
        "b": (DType.INT8, (2,), b"ab"),
    }


def test_a_deflated_record_is_read(path: Path) -> None:
    record = json.dumps({"version": 1, "dtypes": {"a": "bfloat16"}}).encode()
    members = {"a.npy": _npy("'<u2'", "()", b"\1\2"), "__tensorferry__.json": record}
    assert list(_reads(_archive(path, members, zipfile.ZIP_DEFLATED)).values()) == [
        (DType.BFLOAT16, (), b"\1\2")
    ]


def test_the_summary_tells_compressed_archives(path: Path) -> None:
    np.savez_compressed(path, a=MATRIX)
    with open_tensors(path) as tensors:
        assert tensors.format == "npz"
        assert tensors.summary == "NumPy archive (npz), compressed"
        assert tensors.details == {"compressed_members": 1}


def test_a_very_long_first_name_is_recognised(tmp_path: Path) -> None:
    target = _write({"x" * 60_000: MATRIX}, tmp_path)
    assert FORMAT.sniff(Location(target))
    with open_tensors(target) as tensors:
        assert list(tensors) == ["x" * 60_000]


# What is refused


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(_npy("'|O'", "()", b""), "could run code", id="object"),
        pytest.param(_npy("'<M8[ns]'", "()", bytes(8)), "type, expected", id="date"),
        pytest.param(_npy("'<f16'", "()", bytes(16)), "type, expected", id="long double"),
        pytest.param(_npy("'<f1'", "()", b"1"), "type, expected", id="float8 of ml_dtypes"),
        pytest.param(_npy("'|S0'", "(9,)", b""), "type, expected", id="no width"),
        pytest.param(_npy("[('a', '<i4')]", "()", bytes(4)), "type, expected", id="structure"),
        pytest.param(_npy("'|V2'", "()", b"ab"), "no name for", id="unnamed bytes"),
        pytest.param(_npy("'|i1'", "(3,)", b"ab"), "size for |i1 (3,)", id="data too short"),
        pytest.param(_npy("'|i1'", "(1,)", b"ab"), "size for |i1 (1,)", id="data too long"),
        pytest.param(_npy("'<f4'", "(10**12,)", b""), "no literal", id="expression"),
        pytest.param(_npy("'<f4'", f"({1 << 62},)", b""), "size for <f4", id="huge"),
        pytest.param(_npy("'<f4'", f"({1 << 63}, 0)", b""), "below 2^63", id="beyond int64"),
        pytest.param(_npy("'<f4'", "(-1,)", b""), "below 2^63", id="negative"),
        pytest.param(_npy("'<f4'", "(True,)", b"abcd"), "below 2^63", id="boolean"),
        pytest.param(_npy("'<f4'", "(1.0,)", b"abcd"), "below 2^63", id="float"),
        pytest.param(_npy("'<f4'", "[1]", b"abcd"), "a boolean and a tuple", id="list"),
        pytest.param(_npy("'<f4'", "(1,", b"abcd"), "no literal", id="unclosed"),
        pytest.param(_npy("'<f4'", "(" * 4000, b""), "no literal", id="deep"),
        pytest.param(_npy("'<f4'", "(1if 1else 2,)", b""), "no plain literal", id="words"),
        pytest.param(_npy(r"'\f4'", "(1,)", b""), "no plain literal", id="escape"),
        pytest.param(_npy("'<f4'", "(1,), 'x': 1", b""), "descr, fortran_order", id="more keys"),
        pytest.param(_npy("'<f4'", "(" + "1," * 5000 + ")", b""), "at most 10000", id="long"),
        pytest.param(
            _npy("'<f4'", "(" + "1," * 65 + ")", b"abcd", fortran=True), "at most 64", id="deep F"
        ),
        pytest.param(I1[:6] + b"\4\0" + I1[8:], "version of npy", id="version"),
        pytest.param(I1[:7], "version of npy", id="cut in the version"),
        pytest.param(I1[:9], "ends early", id="cut in the length"),
        pytest.param(I1[:30], "ends early", id="cut in the header"),
        pytest.param(b"", "signature of npy", id="empty"),
        pytest.param(b"text", "signature of npy", id="text"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_bad_arrays_are_named(path: Path, content: bytes, text: str, method: int) -> None:
    _archive(path, {"good.npy": I1, "bad.npy": content}, method)
    with pytest.raises(CorruptFileError) as caught:
        _open(path)
    assert caught.value.message.startswith(f"{path}: member `bad.npy`: ")
    assert text in caught.value.message


@pytest.mark.parametrize("names", [("a", "a.npy"), ("a.npy", "a")])
def test_two_members_for_one_array_are_refused(path: Path, names: tuple[str, str]) -> None:
    _archive(path, dict.fromkeys(names, I1))
    with pytest.raises(CorruptFileError, match=r"`a.npy` and `a` have the same name"):
        _open(path)


def test_a_name_that_leads_out_is_unsafe(path: Path) -> None:
    _archive(path, {"../evil.npy": I1})  # as numpy.savez writes such a name
    with pytest.raises(UnsafeFileError, match=r"a\.npz: member `\.\./evil\.npy`: the name leads"):
        _open(path)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (b"{}", "version None"),
        (b"\xff", "the record of types and names"),
        (b'{"version": 1, "dtypes": {"a": "float64"}}', "expected float64, got int8"),
        (b'{"version": 1, "elements": {"a": {"dtype": "string", "shape": [], "text": ["x"]}}}',
         "two tensors have the same name"),
    ],
)  # fmt: skip
def test_a_record_that_contradicts_the_arrays_is_refused(
    path: Path, record: bytes, text: str
) -> None:
    _archive(path, {"a.npy": I1, "__tensorferry__.json": record})
    with pytest.raises(CorruptFileError) as caught:
        _open(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert text in caught.value.message


def test_a_record_too_long_to_be_one_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _archive(path, {"a.npy": I1, "__tensorferry__.json": b" " * 101})
    monkeypatch.setattr(npz, "RECORD_BYTES", 100)
    with pytest.raises(CorruptFileError, match="expected at most 100 bytes, got 101"):
        _open(path)


def test_text_beyond_unicode_is_refused(path: Path) -> None:
    _archive(path, {"a.npy": _npy("'<U1'", "(1,)", b"\xff" * 4)})
    with _open(path) as tensors, pytest.raises(CorruptFileError, match="text: "):
        tensors["a"].elements()


# Damage


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["array", "text", "turned", "empty"])
def test_a_wrong_crc_is_found_when_the_data_is_read(
    path: Path, save: Callable[..., None], name: str
) -> None:
    arrays = {"array": MATRIX, "text": TEXT, "turned": MATRIX.T, "empty": MATRIX[:0]}
    save(path, **arrays)
    data = bytearray(path.read_bytes())
    at = data.rindex(f"{name}.npy".encode()) - 46 + 16
    data[at] ^= 1
    path.write_bytes(data)
    with _open(path) as tensors, pytest.raises(CorruptFileError, match="crc32 of the"):
        contents({name: tensors[name]})
    assert len(_reads(path, verify=False)) == len(arrays)


def _small(path: Path) -> Path:
    values: dict[str, Values] = {
        "a": MATRIX,
        "b\n": (DType.BFLOAT16, (2,), b"\1\2\3\4"),
        "c": [b"ab", b"c"],
        "d": [b"\0"],
    }
    return _write(values, path)


def _compressed(folder: Path) -> Path:
    path = folder / "a.npz"
    np.savez_compressed(path, a=MATRIX, b=TEXT, c=MATRIX.T)
    return path


def _damaged(data: bytes) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]
    for at, byte in enumerate(data):
        yield data[:at] + bytes([byte ^ (1 << at % 8)]) + data[at + 1 :]
        yield data[:at] + bytes([byte ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("make", [_small, _compressed])
@pytest.mark.parametrize("verify", [True, False])
def test_damage_is_an_error_that_names_the_file_or_harmless(
    tmp_path: Path, make: Callable[[Path], Path], verify: bool
) -> None:
    whole = make(tmp_path)
    expected = _reads(whole)
    data = whole.read_bytes()
    assert len(data) < 2000
    path = tmp_path / "damaged.npz"
    wrong = []
    for number, damaged in enumerate(_damaged(data)):
        path.write_bytes(damaged)
        try:
            found = _reads(path, verify=verify)
        except ConvertError as error:
            if error.path != str(path):
                wrong.append((number, error.message))
        else:
            if verify and found != expected:
                wrong.append((number, "other tensors"))
    assert not wrong


def test_a_bomb_is_refused_before_it_is_unpacked(path: Path) -> None:
    content = _npy("'|i1'", f"({1 << 40},)", b"")
    _archive(path, {"a.npy": content}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"a.npy") - 46 + 24
    data[at : at + 4] = b"\xfe\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(UnsafeFileError, match="size once inflated"):
        _open(path)
