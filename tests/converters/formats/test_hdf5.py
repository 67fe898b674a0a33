from __future__ import annotations

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers import hdf5_slices
from tensorferry.converters.containers.hdf5_guard import MAX_DEPTH
from tensorferry.converters.containers.hdf5_skeleton import (
    ALIGNED_BYTES,
    ALIGNMENT,
    Skeleton,
    Store,
)
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    TargetError,
)
from tensorferry.converters.formats.hdf5 import FORMAT
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.tensors import (
    CHUNK_BYTES,
    ElementTensor,
    ExtentTensor,
    Tensor,
    TensorDict,
    TensorSpec,
)
from tensorferry.converters.testing.contracts import (
    ReaderContract,
    Values,
    WriterContract,
    contents,
    tensors_of,
)
from tensorferry.converters.testing.strategies import tensor_dicts

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)

# Path in the file by name.
ODD_NAMES = {
    "": "%",
    "/": "%/%",
    "//x": "%/%/x",
    "x/": "x/%",
    "a//b": "a/%/b",
    ".": "%2E",
    "./y": "%2E/y",
    "..": "..",
    "...": "...",
    "%": "%25",
    "50%": "50%25",
    "%25": "%2525",
    "a\0b": "a%00b",
    "not \udcff utf-8": "not %FF utf-8",
    "größe/重み": "größe/重み",
    "Case/a": "Case/a",
    "case/A": "case/A",
    ".data": "%2Edata",
    ".ATTRIBUTES/VALUE": ".ATTRIBUTES/VALUE",
    "new\nline": "new\nline",
    "w:0": "w:0",
    "back\\slash": "back\\slash",
}


def _plan(tensors: Mapping[str, Values] | TensorDict, target: Path) -> Plan:
    assert FORMAT.plan
    given = tensors if isinstance(tensors, TensorDict) else tensors_of(tensors)
    return FORMAT.plan(given, target, WriteOptions())


def _write(tensors: Mapping[str, Values] | TensorDict, target: Path) -> Plan:
    plan = _plan(tensors, target)
    write_plan(plan, overwrite=True)
    return plan


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _read(path: Path, name: str = "x") -> np.ndarray:
    with _open(path) as tensors:
        return tensors[name].read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.h5"


def _ours(path: Path) -> None:
    values = WriterContract().values() | {
        "a": (DType.BFLOAT16, (3,), b"abcdef"),
        "a/b": (DType.INT4, (2,), b"\1\2"),
        "text": [b"one", "zwölf".encode(), b""],
        "bytes": [b"\0", b"\xff\xfe"],
        "nothing": (DType.FLOAT32, (0, 3), b""),
    }
    _write(values, path)


def _theirs(path: Path) -> None:
    """Write with h5py what a reader meets."""
    with h5py.File(path, "w", userblock_size=1024) as file:
        file["contiguous"] = FLOATS
        file["big"] = FLOATS.astype(">f4")
        file.create_dataset("chunked", data=np.arange(70.0).reshape(7, 10), chunks=(3, 4))
        file.create_dataset("gzip", data=np.arange(1000), compression="gzip", fletcher32=True)
        file["group/scalar"] = np.int16(-3)
        file["group/none"] = np.zeros((0, 2))
        file["text"] = ["one", "zwölf", ""]
        file["fixed"] = np.array([b"one", b"two\0", b"three"])


class TestWriter(WriterContract):
    FORMAT = FORMAT


class TestReader(ReaderContract):
    FORMAT = FORMAT
    PAGE_BYTES = 4096

    @pytest.fixture(params=[_ours, _theirs], ids=["ours", "theirs"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        sample = tmp_path / "sample.h5"
        request.param(sample)
        return sample

    @pytest.fixture
    def foreign(self, samples: Path) -> list[Path]:
        parts = ("__pycache__",)
        suffixes = (".h5", ".hdf5")
        return [
            path for path in samples.rglob("*")
            if path.is_file() and path.suffix not in suffixes and not set(parts) & set(path.parts)
        ]  # fmt: skip


# Names


@given(tensor_dicts())
def test_any_dictionary_comes_back(tensors: TensorDict) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        plan = _write(tensors, path)
        assert path.stat().st_size == plan.size
        with _open(path) as found:
            assert contents(found) == contents(tensors)
        with _open(path, names="key") as keyed:
            assert {plan.stored_names.get(name, name) for name in tensors} == set(keyed)


@given(st.sets(st.text(st.sampled_from("a/.%d\0"), max_size=5), max_size=8))
def test_names_are_never_merged(names: set[str]) -> None:
    values = {name: (DType.INT8, (1,), bytes([at])) for at, name in enumerate(sorted(names))}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        _write(values, path)
        with _open(path) as found:
            assert contents(found) == contents(tensors_of(values))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_escaped(name: str, path: Path) -> None:
    plan = _write({name: FLOATS}, path)

    stored = ODD_NAMES[name]
    assert plan.stored_names == ({} if stored == name else {name: stored})
    assert [note.kind for note in plan.notes] == ([] if stored == name else [Kind.RENAMED])
    with h5py.File(path) as file:
        assert file[stored][()].tolist() == FLOATS.tolist()
    with _open(path) as tensors:
        assert list(tensors) == [name]
        assert tensors.origin(name).key == stored
    with _open(path, names="key") as tensors:
        assert list(tensors) == [stored]


def test_all_odd_names_live_together(path: Path) -> None:
    values = {name: FLOATS + at for at, name in enumerate(ODD_NAMES)}
    _write(values, path)

    with _open(path) as tensors:
        assert contents(tensors) == contents(tensors_of(values))


def test_a_name_that_is_also_a_group_moves_into_it(path: Path) -> None:
    values = {name: FLOATS + at for at, name in enumerate(("w", "w/Adam", "w/Adam/x", "w/.data"))}
    plan = _write(values, path)

    assert plan.stored_names == {
        "w": "w/.data", "w/Adam": "w/Adam/.data", "w/.data": "w/%2Edata"
    }  # fmt: skip
    with _open(path) as tensors:
        assert contents(tensors) == contents(tensors_of(values))


def test_deep_names_pass_our_own_guard(path: Path) -> None:
    values = {"/".join("g" * depth): FLOATS for depth in (59, 60, 61, MAX_DEPTH, 300)}
    _write(values, path)

    with _open(path) as tensors:
        assert set(tensors) == set(values)


def test_long_names(path: Path) -> None:
    values = {"k" * 60_000: FLOATS, "k" * 60_000 + "/": FLOATS, "\0" * 30_000: FLOATS}
    _write(values, path)

    with _open(path) as tensors:
        assert set(tensors) == set(values)


def test_two_datasets_cannot_have_one_exact_name(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = FLOATS
        file["b"] = FLOATS
        file["b"].attrs["tensorferry_name"] = np.bytes_(b"a")

    with pytest.raises(CorruptFileError, match="dataset `b`: a second tensor with the name `a`"):
        _open(path)
    with _open(path, names="key") as tensors:
        assert list(tensors) == ["a", "b"]


# What h5py sees of our files


@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.native], ids=str)
def test_h5py_reads_native_types_as_they_are(dtype: DType, path: Path) -> None:
    raw = bytes(range(96)) if dtype is not DType.BOOL else b"\0\1" * 48
    values = np.frombuffer(raw, dtype.numpy()).reshape(2, -1)
    plan = _write({"group/x": values}, path)

    assert not plan.notes
    with h5py.File(path) as file:
        assert file["group/x"].dtype == dtype.numpy()
        assert file["group/x"][()].tobytes() == values.tobytes()
        assert not file["group/x"].attrs


def test_h5py_reads_bfloat16_as_float32(path: Path) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    plan = _write({"x": values}, path)

    assert not plan.notes
    with h5py.File(path) as file:
        assert file["x"].dtype == np.float32
        with np.errstate(invalid="ignore"):  # signalling NaNs
            expected = values.astype(np.float32)
        assert np.array_equal(file["x"][()], expected, equal_nan=True)
        offset = file["x"].id.get_offset()
    data = path.read_bytes()
    assert data[offset : offset + values.nbytes] == values.tobytes()


def test_h5py_reads_strings_as_text(path: Path) -> None:
    elements = [b"one", "zwölf".encode(), b"", b"x" * 10_000]
    plan = _write({"x": np.array(elements, object).reshape(2, 2)}, path)

    assert not plan.notes
    with h5py.File(path) as file:
        assert file["x"].asstr()[()].ravel().tolist() == [each.decode() for each in elements]


@pytest.mark.parametrize("elements", [[b"a\0b", b""], [b"\xff"], [b"end\0"]], ids=repr)
def test_strings_that_are_no_text_are_packed(elements: list[bytes], path: Path) -> None:
    plan = _write({"x": elements}, path)

    assert [note.kind for note in plan.notes] == [Kind.ENCODED]
    with h5py.File(path) as file:
        assert file["x"].dtype == np.uint8
        assert file["x"].attrs["dtype"] == b"string"
        assert file["x"].attrs["tensorferry_shape"].tolist() == [len(elements)]
    assert _read(path).tolist() == elements


@pytest.mark.parametrize("dtype", [DType.STRING, DType.VARIANT], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 1)], ids=str)
@pytest.mark.parametrize("element", [b"", b"text", b"\0\xff"], ids=repr)
def test_strings_of_any_shape(
    dtype: DType, shape: tuple[int, ...], element: bytes, path: Path
) -> None:
    tensor = ElementTensor(TensorSpec(dtype, shape), lambda: [element] * prod(shape), 0)
    _write({"x": tensor}, path)

    with _open(path) as tensors:
        assert contents(tensors) == contents({"x": tensor})


def test_types_without_a_name_in_hdf5_have_an_attribute(path: Path) -> None:
    values = np.arange(4, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    plan = _write({"x": values}, path)

    assert [(note.kind, note.text) for note in plan.notes] == [
        (Kind.ENCODED, "kept as uint8 with an attribute")
    ]
    with h5py.File(path) as file:
        assert file["x"].dtype == np.uint8
        assert file["x"].attrs["dtype"] == b"float8_e4m3fn"


def test_more_dimensions_than_hdf5_has(path: Path) -> None:
    shape = (*[1] * 39, 4)
    _write({"x": (DType.INT16, shape, b"12345678"), "y": np.array([b"s"] * 4, object)}, path)

    with _open(path) as tensors:
        assert tensors["x"].spec.shape == shape
        assert tensors["x"].read().tobytes() == b"12345678"


def test_what_hdf5_cannot_hold_is_a_target_error(path: Path) -> None:
    values: dict[str, Values] = {"x": (DType.INT8, (0, 1 << 70), b"")}

    with pytest.raises(TargetError, match="HDF5 cannot hold these tensors") as caught:
        _plan(values, path)
    assert caught.value.path == str(path)


def test_large_data_is_aligned_and_every_byte_planned(path: Path) -> None:
    values = {f"g{at % 5}/x{at}": np.zeros(11 * at, np.float32) for at in range(200)}
    (file,) = _plan(values, path).files

    places = [(at, len(data)) for at, data in file.literals]
    placed = [(row.offset, row.tensor.nbytes) for row in file.placements if row.tensor.nbytes]
    assert all(offset % ALIGNMENT == 0 for offset, length in placed if length >= ALIGNED_BYTES)
    at = 0
    for offset, length in sorted(places + placed):
        assert offset == at
        at += length
    assert at == file.size


def test_gaps_are_all_that_is_not_placed() -> None:
    store = Store()
    store.write(bytes(range(100)))

    gaps = list(Skeleton(store, 600).gaps([(20, 5), (10, 10), (30, 0), (90, 500)]))

    assert gaps == [(0, bytes(range(10))), (25, bytes(range(25, 90))), (590, bytes(10))]


def test_time_does_not_show(path: Path) -> None:
    values: dict[str, Values] = {"a/b": FLOATS, "c": [b"text"], "d": [b"\0"], "d/e": FLOATS}
    first = _plan(values, path).files[0].literals
    time.sleep(1.1)  # HDF5 counts in seconds
    assert _plan(values, path).files[0].literals == first


@given(tensor_dicts())
def test_a_file_written_anew_is_the_same_file(tensors: TensorDict) -> None:
    with TemporaryDirectory() as folder:
        first, second = Path(folder) / "1.h5", Path(folder) / "2.h5"
        _write(tensors, first)
        with _open(first) as found:
            _write(found, second)
        assert first.read_bytes() == second.read_bytes()


class _Endless(Tensor):
    """A large tensor that must not be read."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        raise AssertionError(f"read in pieces of {max_bytes}")


def test_planning_keeps_no_tensor_data(path: Path) -> None:
    spec = TensorSpec(DType.FLOAT32, (50, 1_000_000))
    tensors = tensors_of({f"large{at}": _Endless(spec) for at in range(10)})
    _plan(tensors_of({"x": FLOATS}), path)  # imports

    tracemalloc.start()
    plan = _plan(tensors, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert plan.size > 2_000_000_000
    assert peak < 1_000_000


def test_h5py_is_not_imported_with_the_module() -> None:
    code = (
        "import sys, tensorferry.converters.formats.hdf5;"
        "print({'h5py', 'numpy', 'ml_dtypes'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_planning_leaves_nothing_that_crashes_the_interpreter() -> None:
    code = (
        "from pathlib import Path\n"
        "from tensorferry.converters.formats.hdf5 import FORMAT\n"
        "from tensorferry.converters.registry import WriteOptions\n"
        "from tensorferry.converters.testing.contracts import tensors_of\n"
        "from tensorferry.converters.dtypes import DType\n"
        "from tensorferry.converters.errors import TargetError\n"
        "for shape in (3,), (0, 1 << 70):\n"
        "    try:\n"
        "        FORMAT.plan(tensors_of({'a': (DType.INT8, shape, b'')}), Path('x.h5'),"
        " WriteOptions())\n"
        "    except TargetError:\n"
        "        print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


# What we see of h5py's files


ARRAYS = {
    "float32": FLOATS,
    "float64": FLOATS.astype(np.float64),
    "float16": FLOATS.astype(np.float16),
    "bool": FLOATS > 2,
    "complex64": (FLOATS + 1j).astype(np.complex64),
    "complex128": FLOATS + 1j,
    "uint8": FLOATS.astype(np.uint8),
    "int64": FLOATS.astype(np.int64),
    "scalar": np.float32(3),
    "empty": np.zeros((2, 0, 3), np.float32),
    "large": np.arange(60_000.0).reshape(30, 40, 50),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf"},
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("options", [{}, {"userblock_size": 512}, {"libver": "latest"}], ids=str)
def test_reads_what_h5py_writes(
    name: str, layout: str, order: Literal["little", "big"], options: dict[str, Any], path: Path
) -> None:
    values = np.asarray(ARRAYS[name])
    with h5py.File(path, "w", **options) as file:
        chunking = LAYOUTS[layout] if values.size > 1 else {}
        file.create_dataset("x", data=values, dtype=values.dtype.newbyteorder(order), **chunking)

    assert FORMAT.sniff(Location(path))
    with open_tensors(path) as tensors:
        found = tensors["x"].read()
        assert tensors["x"].spec.shape == values.shape
        assert tensors.format == "hdf5"
        assert tensors.summary == "HDF5 file"
    assert found.dtype == values.dtype
    assert found.tobytes() == values.tobytes()


def test_contiguous_data_is_a_byte_range(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=2048) as file:
        file["x"] = FLOATS
        file["big"] = FLOATS.astype(">f4")

    with _open(path) as tensors:
        assert isinstance(tensors["x"], ExtentTensor)
        assert tensors["big"].extents is None


@pytest.mark.parametrize("values", [FLOATS, FLOATS[1, 1]], ids=["matrix", "scalar"])
def test_compact_data_is_read(values: np.ndarray, path: Path) -> None:
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        scalar = h5py.h5s.create(h5py.h5s.SCALAR)
        space = h5py.h5s.create_simple(values.shape) if values.shape else scalar
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, properties)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.asarray(values))

    assert _read(path).tolist() == values.tolist()


@pytest.mark.parametrize("slab", [1, 100, 1000, 30_000, 1 << 20])
@pytest.mark.parametrize("chunks", [(1, 1, 1), (7, 11, 13), (30, 40, 50)], ids=str)
def test_slices_join_to_the_whole(
    slab: int, chunks: tuple[int, ...], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(1200, dtype=np.int16).reshape(4, 15, 20)
    fitting = tuple(min(pair) for pair in zip(chunks, values.shape, strict=True))
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, chunks=fitting)
    monkeypatch.setattr(hdf5_slices, "SLAB_BYTES", slab)

    assert _read(path).tobytes() == values.tobytes()
    pieces = list(hdf5_slices.slabs(values.shape, fitting, 2))
    assert all(prod(count) * 2 <= max(slab, 2) for _, count in pieces)


def test_a_dataset_that_changed_meanwhile_is_an_error(path: Path) -> None:
    for shape in (100,), (50,):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.zeros(shape), chunks=(10,))
        if shape == (100,):
            tensors = _open(path)

    with tensors, pytest.raises(CorruptFileError, match="dataset `x`: changed since"):
        tensors["x"].read()


def test_a_damaged_chunk_is_an_error(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), compression="gzip", fletcher32=True)
        place = file["x"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place + 50] ^= 1
    path.write_bytes(data)

    with _open(path) as tensors, pytest.raises(CorruptFileError, match="dataset `x`: libhdf5"):
        tensors["x"].read()


def test_fixed_strings_lose_what_fills_them_up(path: Path) -> None:
    padding = {"null": h5py.h5t.STR_NULLPAD, "space": h5py.h5t.STR_SPACEPAD,
               "term": h5py.h5t.STR_NULLTERM}  # fmt: skip
    with h5py.File(path, "w") as file:
        for name, code in padding.items():
            kind = h5py.h5t.C_S1.copy()
            kind.set_size(6)
            kind.set_strpad(code)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((2,)))
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([b"a\0 b", b"c     "], "S6"), kind)

    with _open(path) as tensors:
        found = {name: tensors[name].elements() for name in tensors}
    assert found == {
        "null": [b"a\0 b", b"c     "], "space": [b"a\0 b\0\0", b"c"], "term": [b"a", b"c     "]
    }  # fmt: skip


def test_fixed_strings_may_be_compressed(path: Path) -> None:
    values = np.array([f"word {at}".encode() for at in range(1000)])
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, compression="gzip")

    assert _read(path).tolist() == values.tolist()


def test_many_strings_of_h5py(path: Path) -> None:
    values = [f"word {at}" * (at % 7) for at in range(5000)] + ["long" * 100_000]
    with h5py.File(path, "w", userblock_size=512) as file:
        file["x"] = values

    assert _read(path).tolist() == [value.encode() for value in values]


def _heap(path: Path) -> int:
    """Write two strings; return where their heap begins."""
    with h5py.File(path, "w") as file:
        file["x"] = ["one", "two"]
    return path.read_bytes().index(b"GCOL")


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [
        (0, b"X", "global heap"),
        (8, b"\xff\xff\xff\xff", "a block of metadata"),
        (16, b"\x09", "text 1 of the global heap at 2080, expected 3 bytes, got 0"),
        (24, b"\x01", "text 1 of the global heap at 2080, expected 3 bytes, got 1"),
        (24, b"\xff\xff", "object 1"),
    ],
)
def test_damaged_strings_are_errors(at: int, new: bytes, message: str, path: Path) -> None:
    heap = _heap(path)
    data = bytearray(path.read_bytes())
    data[heap + at : heap + at + len(new)] = new
    path.write_bytes(data)

    with _open(path) as tensors, pytest.raises(CorruptFileError) as caught:
        tensors["x"].elements()
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{path}: dataset `x`: ")


@pytest.mark.parametrize(
    ("at", "new", "message"),
    [(0, b"\xff\xff\xff", "text 2 of the global heap"), (4, b"\xff" * 7, "a block of metadata")],
)
def test_references_that_lead_nowhere(at: int, new: bytes, message: str, path: Path) -> None:
    _heap(path)
    with h5py.File(path) as file:
        place = file["x"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[place + at : place + at + len(new)] = new
    path.write_bytes(data)

    with _open(path) as tensors, pytest.raises(CorruptFileError, match=message):
        tensors["x"].elements()


@pytest.mark.parametrize("count", [1, 3])
def test_packed_elements_that_do_not_fit_their_shape(count: int, path: Path) -> None:
    _write({"x": [b"\0", b"\1\0"]}, path)
    with h5py.File(path, "a") as file:
        file["x"].attrs.modify("tensorferry_shape", np.array([count]))

    with _open(path) as tensors, pytest.raises(CorruptFileError, match="packed elements"):
        tensors["x"].elements()


@pytest.mark.parametrize("length", [1, 8, 12])
def test_packed_elements_that_are_cut_short(length: int, path: Path) -> None:
    data = np.frombuffer(b"\5\0\0\0\0\0\0\0text"[:length], np.uint8)
    with h5py.File(path, "w") as file:
        file["x"] = data
        file["x"].attrs["dtype"] = np.bytes_(b"string")
        file["x"].attrs["tensorferry_shape"] = np.array([1])

    with _open(path) as tensors, pytest.raises(CorruptFileError, match="packed elements"):
        tensors["x"].elements()


def test_a_shape_that_does_not_fit_is_an_error(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = FLOATS
        file["x"].attrs["tensorferry_shape"] = np.array([7])

    with pytest.raises(CorruptFileError, match="dataset `x`: attribute `tensorferry_shape`"):
        _open(path)


@pytest.mark.parametrize("value", [3, [b"two", b"texts"]], ids=str)
def test_a_name_that_is_no_text_is_somebody_elses(value: object, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = FLOATS
        file["x"].attrs["tensorferry_name"] = value
        file["x"].attrs["tensorferry_shape"] = "no list"

    with _open(path) as tensors:
        assert list(tensors) == ["x"]


def test_an_endless_name_is_an_error(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = FLOATS
        file["x"].attrs["tensorferry_name"] = np.bytes_(b"x" * ((1 << 20) + 1))

    with pytest.raises(CorruptFileError, match="attribute `tensorferry_name`"):
        _open(path)


@pytest.mark.parametrize("label", ["float32", "bfloat16", "string", "int4", "no type at all"])
def test_a_dtype_that_does_not_fit_is_somebody_elses(label: str, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = FLOATS
        file["x"].attrs["dtype"] = np.bytes_(label.encode())

    assert _read(path).dtype == np.float32


def test_reads_bfloat16_as_keras_stores_it(path: Path) -> None:
    values = np.arange(5).astype(ml_dtypes.bfloat16)
    with h5py.File(path, "w") as file:
        file["x"] = values  # opaque
        file["x"].attrs["dtype"] = "bfloat16"
        file["y"] = values.view(np.uint16)
        file["y"].attrs["dtype"] = np.bytes_(b"bfloat16")

    for name in "xy":
        assert _read(path, name).dtype == ml_dtypes.bfloat16
        assert _read(path, name).tobytes() == values.tobytes()


def test_reads_float8_that_describes_itself(path: Path) -> None:
    with h5py.File(path, "w") as file:
        kind = h5py.h5t.IEEE_F16LE.copy()
        kind.set_fields(7, 2, 5, 0, 2)
        kind.set_size(1)
        dataset = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((4,)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype=np.uint8), kind)

    assert _read(path).dtype == ml_dtypes.float8_e5m2
    assert _read(path).tobytes() == bytes(range(4))


def test_a_dataset_without_even_a_shape_is_noted(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = FLOATS
        file["none"] = h5py.Empty("f4")

    with _open(path) as tensors:
        assert list(tensors) == ["x"]
        assert [note.kind for note in tensors.notes] == [Kind.SOURCE]
        assert "`none`" in tensors.notes[0].text


def test_names_of_any_bytes_are_read(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file[b"not \xff utf-8"] = FLOATS
        file[b"dir \xfe/x"] = np.arange(10_000)
        file.create_dataset(b"\xfdz", data=np.arange(10_000), compression="gzip")

    with _open(path) as tensors:
        assert list(tensors) == ["dir \udcfe/x", "not \udcff utf-8", "\udcfdz"]
        assert all(tensors[name].read().size for name in tensors)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError):
        open_tensors(tmp_path, format="hdf5")


def test_our_own_file_cut_short_is_an_error(path: Path) -> None:
    _ours(path)
    data = path.read_bytes()

    for length in [*range(0, len(data), 59), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError) as caught:
            _open(path)
        assert caught.value.path == str(path)
        assert caught.value.hint


# Real files


def _models(corpus: Path) -> Iterator[tuple[str, Path]]:
    lines = (corpus / "MANIFEST.tsv").read_text().splitlines()
    columns = lines[0].split("\t")
    for line in lines[1:]:
        row = dict(zip(columns, line.split("\t"), strict=True))
        if row["format"] in ("keras_h5", "keras_weights_h5"):
            yield row["id"], corpus / "files" / row["local_dir"] / row["main_arg"]


def test_real_keras_files_read_as_h5py_does(corpus: Path) -> None:
    models = dict(_models(corpus))
    assert models
    for name, path in models.items():
        oracle = json.loads((corpus / "oracle" / f"{name}.json").read_text())
        with open_tensors(path, ReadOptions(names="key"), format="hdf5") as tensors:
            found = {
                key: [str(tensor.spec.dtype), list(tensor.spec.shape), _digest(tensor)]
                for key, tensor in tensors.items()
            }
        assert found == oracle["tensors"], name


def _digest(tensor: Tensor) -> str:
    state = sha256()
    for chunk in tensor.chunks():
        state.update(chunk)
    return state.hexdigest()
