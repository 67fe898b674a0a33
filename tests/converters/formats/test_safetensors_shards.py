"""safetensors in several files, in folders, and with tied weights."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from tensorferry.converters.containers import strict_json
from tensorferry.converters.containers.safetensors_header import CODES
from tensorferry.converters.containers.safetensors_index import cut, read_index
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    CorruptFileError,
    LossError,
    NotRecognisedError,
    TargetError,
    UnsafeFileError,
    UsageError,
)
from tensorferry.converters.formats.safetensors import FORMAT
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions, claims
from tensorferry.converters.sources import Extent, FileSource
from tensorferry.converters.tensors import ExtentTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import (
    ReaderContract,
    Values,
    WriterContract,
    contents,
    listing,
    tensors_of,
)
from tensorferry.converters.testing.strategies import tensor_dicts
from tensorferry.pipeline.convert import ConvertOptions, convert

INDEX = "m.safetensors.index.json"
HELD = [
    dtype for dtype in DType if dtype.variable or {dtype, DType.named(dtype.carrier)} & set(CODES)
]


def _plan(tensors: TensorDict, target: Path, **options: Any) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors, target, WriteOptions(**options))


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _write(values: Mapping[str, Values] | TensorDict, target: Path, **options: Any) -> Plan:
    tensors = values if isinstance(values, TensorDict) else tensors_of(values)
    plan = _plan(tensors, target, **options)
    write_plan(plan, overwrite=options.get("overwrite", False))
    return plan


def _bytes(*sizes: int) -> dict[str, Values]:
    """Return tensors of these sizes: `a`, `b` and so on."""
    return {chr(97 + n): (DType.UINT8, (size,), bytes([n]) * size) for n, size in enumerate(sizes)}


def _header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    found: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return found


def _shard(number: int, count: int, stem: str = "m") -> str:
    return f"{stem}-{number:05}-of-{count:05}.safetensors"


def _index(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


class TestWriter(WriterContract):
    """The contract, with at most 40 bytes a file."""

    FORMAT = FORMAT

    def _plan(self, tensors: TensorDict, target: Path, *, overwrite: bool = False) -> Plan:
        return _plan(tensors, target, overwrite=overwrite, max_shard_bytes=40)

    def _reopened(self, target: Path) -> TensorDict:
        index = target.with_name(target.stem + ".safetensors.index.json")
        return _open(index if index.exists() else target)

    def test_overwriting_replaces_the_output(self, tmp_path: Path) -> None:
        """The one old file is no part of the new set, and must not lie beside it."""
        target = self.target(tmp_path)
        self._write(tensors_of({"old": (DType.INT8, (1,), b"\1")}), target)
        self._write(tensors_of(self.values()), target, overwrite=True)
        assert set(listing(tmp_path)) == {
            *(_shard(n, 3, "out") for n in (1, 2, 3)), "out.safetensors.index.json",
        }  # fmt: skip
        with self._reopened(target) as tensors:
            assert contents(tensors) == contents(tensors_of(self.values()))


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["index", "folder", "folder of one file", "record", "variant"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        values = WriterContract().values()
        folder = tmp_path / "sample"
        if request.param == "folder of one file":
            _write(values, folder, folder=True)
            return folder
        if request.param == "record":
            values |= {"__metadata__": np.arange(3), "text": [b"a", b"\xff"], "a\udcff": np.ones(2)}
            values["quarter"] = (DType.INT4, (3,), b"\xff\0\7")
        _write(values, folder, folder=True, max_shard_bytes=40)
        index = folder / "model.safetensors.index.json"
        if request.param == "variant":
            index = index.rename(folder / "model.safetensors.index.fp16.json")
        return folder if request.param == "folder" else index

    @pytest.fixture
    def foreign(self, samples: Path) -> Iterator[Path]:
        own = samples / "safetensors_file"
        paths = (path for path in samples.rglob("*") if "__pycache__" not in path.parts)
        return (path for path in paths if path != own and own not in path.parents)


# Several files


def test_the_set_is_named_as_loaders_expect(tmp_path: Path) -> None:
    _write(_bytes(8, 8, 8), tmp_path / "m.safetensors", max_shard_bytes=16)
    assert set(listing(tmp_path)) == {_shard(1, 2), _shard(2, 2), INDEX}
    assert (tmp_path / INDEX).read_text() == (
        "{\n"
        '  "metadata": {\n'
        '    "total_size": 24\n'
        "  },\n"
        '  "weight_map": {\n'
        '    "a": "m-00001-of-00002.safetensors",\n'
        '    "b": "m-00001-of-00002.safetensors",\n'
        '    "c": "m-00002-of-00002.safetensors"\n'
        "  }\n"
        "}\n"
    )


@pytest.mark.parametrize(
    ("target", "stem"),
    [
        ("model.fp16.safetensors", "model.fp16"),
        ("weights.bin", "weights.bin"),
        ("m.SAFETENSORS", "m"),
        ("größe.safetensors", "größe"),
    ],
)
def test_the_stem_is_that_of_the_target(tmp_path: Path, target: str, stem: str) -> None:
    plan = _write(_bytes(8, 8), tmp_path / target, max_shard_bytes=8)
    names = [_shard(1, 2, stem), _shard(2, 2, stem), f"{stem}.safetensors.index.json"]
    assert [file.path.name for file in plan.files] == names
    with _open(tmp_path / names[-1]) as tensors:
        assert contents(tensors) == contents(tensors_of(_bytes(8, 8)))


def test_what_fits_one_file_is_one_plain_file(tmp_path: Path) -> None:
    _write(_bytes(8, 8), tmp_path / "limited.safetensors", max_shard_bytes=16)
    _write(_bytes(8, 8), tmp_path / "plain.safetensors")
    found = listing(tmp_path)
    assert set(found) == {"limited.safetensors", "plain.safetensors"}
    assert found["limited.safetensors"] == found["plain.safetensors"]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ((6, 6, 2, 6, 2, 2), 10, [[0], [1, 2], [3, 4, 5]]),
        ((4, 20, 4, 4), 10, [[1], [0, 2], [3]]),
        ((20, 20), 10, [[0], [1], []]),
        ((10, 0, 0, 1, 0), 10, [[0, 1, 2], [3, 4]]),
        ((), 10, [[]]),
        ((0, 0), 0, [[0, 1]]),
        ((1, 0, 1), 0, [[0], [2], [1]]),
    ],
)
def test_shards_are_filled_in_order(
    sizes: tuple[int, ...], limit: int, expected: list[list[int]]
) -> None:
    assert cut(enumerate(sizes), limit) == [shard for shard in expected if shard or not sizes]


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(0, 40))
def test_every_tensor_is_in_one_shard_and_no_shard_is_too_large(
    sizes: list[int], limit: int
) -> None:
    shards = cut(enumerate(sizes), limit)
    assert sorted(number for shard in shards for number in shard) == list(range(len(sizes)))
    assert all(len(shard) == 1 or sum(sizes[n] for n in shard) <= limit for shard in shards)
    assert all(shard == sorted(shard) for shard in shards)
    assert all(shards) or not sizes


def test_a_tensor_larger_than_a_shard_has_one_of_its_own_and_this_is_said(tmp_path: Path) -> None:
    plan = _plan(tensors_of(_bytes(4, 9, 4)), tmp_path / "m.safetensors", max_shard_bytes=8)
    assert [[row.name for row in file.placements] for file in plan.files] == [["b"], ["a", "c"], []]
    [note] = plan.notes
    assert (note.kind, note.tensor) == (Kind.TARGET, "b")
    assert note.text == "larger than a shard may be, so it has one of its own: 9 bytes"


def test_one_large_tensor_alone_is_a_plain_file(tmp_path: Path) -> None:
    plan = _write(_bytes(9), tmp_path / "m.safetensors", max_shard_bytes=8)
    assert set(listing(tmp_path)) == {"m.safetensors"}
    assert [note.tensor for note in plan.notes] == ["a"]


def test_every_shard_has_the_metadata_of_the_source(tmp_path: Path) -> None:
    texts = {"format": "pt", "author": "größe"}
    tensors = replace(tensors_of(_bytes(8, 8)), metadata=texts)
    _write(tensors, tmp_path / "m.safetensors", max_shard_bytes=8)
    for number in (1, 2):
        assert _header(tmp_path / _shard(number, 2))["__metadata__"] == texts
    assert _index(tmp_path / INDEX)["metadata"] == {"total_size": 16}
    with _open(tmp_path / INDEX) as found:
        assert found.metadata == texts
        assert found.notes == ()


def test_no_format_is_invented(tmp_path: Path) -> None:
    _write(_bytes(8, 8), tmp_path / "m.safetensors", max_shard_bytes=8)
    assert [list(_header(tmp_path / _shard(n, 2))) for n in (1, 2)] == [["a"], ["b"]]


def test_every_shard_opens_alone_with_what_is_to_be_said_of_it(tmp_path: Path) -> None:
    values: dict[str, Values] = {
        "text": [b"one"],
        "a": (DType.INT4, (8,), bytes(8)),
        "größe\udcff": (DType.UINT4, (8,), bytes(8)),
    }
    _write(values, tmp_path / "m.safetensors", max_shard_bytes=8)
    for number, names in ((1, ["a", "text"]), (2, ["größe\udcff"])):
        with _open(tmp_path / _shard(number, 2)) as tensors:
            expected = {name: values[name] for name in names}
            assert contents(tensors) == contents(tensors_of(expected))
            [note] = tensors.notes
            assert f"one of the shards of `{INDEX}`" in note.text
    assert set(_index(tmp_path / INDEX)["weight_map"]) == {"a", "größe%FF"}


def test_a_file_that_is_called_like_a_shard_is_none_without_an_index(tmp_path: Path) -> None:
    _write(_bytes(8), tmp_path / _shard(1, 2))
    with _open(tmp_path / _shard(1, 2)) as tensors:
        assert not tensors.notes


@given(tensor_dicts(HELD), st.integers(0, 300))
def test_whatever_is_written_reads_back(tensors: TensorDict, limit: int) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "out"
        try:
            plan = _plan(tensors, target, folder=True, max_shard_bytes=limit)
        except TargetError:  # two names become one
            reject()
        write_plan(plan)
        with _open(target) as found:
            assert contents(found) == contents(tensors)
        with _open(target, names="key") as keyed:
            assert {plan.stored_names.get(name, name) for name in tensors} == set(keyed)


def test_a_header_that_is_too_long_tells_of_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tensorferry.converters.formats.safetensors.MAX_HEADER_BYTES", 90)
    with pytest.raises(TargetError, match="header too long") as caught:
        _plan(tensors_of(_bytes(8, 8)), tmp_path / "m.safetensors")
    assert "--max-shard-size" in (caught.value.hint or "")
    assert len(_plan(tensors_of(_bytes(8, 8)), tmp_path / "m", max_shard_bytes=8).files) == 3


# Folders


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("limit", [None, 8])
def test_a_folder_is_made_or_filled(tmp_path: Path, there: bool, limit: int | None) -> None:
    folder = tmp_path / "out"
    if there:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    plan = _write(_bytes(8, 8), folder, folder=True, max_shard_bytes=limit)
    names = {"model.safetensors"} if limit is None else {
        _shard(1, 2, "model"), _shard(2, 2, "model"), "model.safetensors.index.json",
    }  # fmt: skip
    assert set(listing(folder)) == names | ({"config.json"} if there else set())
    assert plan.folder == folder
    with _open(folder) as tensors:
        assert contents(tensors) == contents(tensors_of(_bytes(8, 8)))


@pytest.mark.parametrize("spelling", ["out/", "out", "."])
def test_the_command_takes_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    source = tmp_path / "source.safetensors"
    _write(_bytes(8, 8), source)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out" if spelling == "." else tmp_path)
    options = ConvertOptions(
        target_format="safetensors", verify=True, write=WriteOptions(max_shard_bytes=8)
    )
    convert(source, spelling, options)
    assert len(listing(tmp_path / "out")) == 3


# What is there already


def _set_of(folder: Path, limit: int | None) -> set[str]:
    """Return the names of a model of three tensors that is written with this limit."""
    plan = _plan(tensors_of(_bytes(8, 8, 8)), folder / "m.safetensors", max_shard_bytes=limit)
    return {file.path.name for file in plan.files}


@pytest.mark.parametrize(
    ("old", "new"), [(None, 8), (None, 16), (8, None), (8, 16), (16, 8), (16, None)]
)
def test_an_older_model_of_another_arrangement_is_refused_or_goes_as_a_whole(
    tmp_path: Path, old: int | None, new: int | None
) -> None:
    target = tmp_path / "m.safetensors"
    others = {
        "m.safetensors.bak", "mm-00001-of-00002.safetensors", "m.fp16.safetensors",
        "m-00001-of-00002.bin", "x.safetensors.index.json",
    }  # fmt: skip
    for name in others:
        (tmp_path / name).write_bytes(b"other")
    _write(_bytes(1, 8, 8), target, max_shard_bytes=old)
    before = listing(tmp_path)
    with pytest.raises(UsageError) as caught:
        _write(_bytes(8, 8, 8), target, max_shard_bytes=new)
    assert "--overwrite" in (caught.value.hint or "")
    assert listing(tmp_path) == before

    plan = _write(_bytes(8, 8, 8), target, max_shard_bytes=new, overwrite=True)
    assert set(listing(tmp_path)) == others | _set_of(tmp_path, new)
    gone = set(before) - others - _set_of(tmp_path, new)
    assert {path.name for path in plan.removed} == gone
    [note] = plan.notes
    assert note.kind is Kind.TARGET
    assert all(f"`{name}`" in note.text for name in gone)
    with _open(target if new is None else tmp_path / INDEX) as tensors:
        assert contents(tensors) == contents(tensors_of(_bytes(8, 8, 8)))


def test_shards_without_an_index_go_when_there_are_new_ones(tmp_path: Path) -> None:
    """A loader that takes every file of a folder would read them."""
    (tmp_path / _shard(7, 9)).write_bytes(b"old")
    with pytest.raises(UsageError, match="belongs to an older model of this name"):
        _write(_bytes(8, 8), tmp_path / "m.safetensors", max_shard_bytes=8)
    _write(_bytes(8, 8), tmp_path / "m.safetensors", max_shard_bytes=8, overwrite=True)
    assert set(listing(tmp_path)) == {_shard(1, 2), _shard(2, 2), INDEX}


def test_planning_removes_nothing(tmp_path: Path) -> None:
    _write(_bytes(8, 8), tmp_path / "m.safetensors", max_shard_bytes=8)
    before = listing(tmp_path)
    _plan(tensors_of(_bytes(8, 8)), tmp_path / "m.safetensors", overwrite=True)
    assert listing(tmp_path) == before


def test_an_older_model_is_put_back_if_the_new_one_cannot_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.safetensors"
    _write(_bytes(1, 8), target, max_shard_bytes=8)
    before = listing(tmp_path)
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if to == target:
            raise PermissionError(13, "made to fail")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(TargetError):
        _write(_bytes(8, 8), target, overwrite=True)
    assert listing(tmp_path) == before


def test_a_model_is_joined_and_split_in_its_place(tmp_path: Path) -> None:
    target, index = tmp_path / "m.safetensors", tmp_path / INDEX
    _write(_bytes(8, 8, 8), target)
    whole = listing(tmp_path)
    convert(target, target, _overwriting(max_shard_bytes=8))
    assert set(listing(tmp_path)) == _set_of(tmp_path, 8)
    convert(index, target, _overwriting(max_shard_bytes=16))
    assert set(listing(tmp_path)) == _set_of(tmp_path, 16)
    convert(index, target, _overwriting())
    assert listing(tmp_path) == whole


def _overwriting(**options: Any) -> ConvertOptions:
    return ConvertOptions(write=WriteOptions(overwrite=True, **options), verify=True)


# Reading what others wrote


def _set(folder: Path, *files: Mapping[str, Values], **changes: Any) -> Path:
    """Write shards of the names `1`, `2`, … and an index, in which `changes` may be made."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for number, values in enumerate(files, 1):
        name = f"{number}.safetensors"
        _write(values, folder / name)
        weight_map |= dict.fromkeys(values, name)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map, **changes}
    path = folder / INDEX
    path.write_text(json.dumps(index))
    return path


A, B = _bytes(8), {"b": _bytes(8, 8)["b"]}


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors.index.json",
        "model.fp16.safetensors.index.json",
        "model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.index.non_ema.json",
        "any name",
    ],
)
def test_an_index_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    index = _set(tmp_path / "m", A, B).rename(tmp_path / "m" / name)
    assert claims(Location(index)) == [FORMAT]
    with open_tensors(index) as tensors:
        assert contents(tensors) == contents(tensors_of(_bytes(8, 8)))
        assert tensors.summary == f"safetensors `{name}`, 2 shards"
    named = ".safetensors.index" in name
    assert bool(claims(Location(index.parent))) is named


def test_metadata_before_the_map_may_be_long(tmp_path: Path) -> None:
    index = _set(tmp_path, A, B, metadata={"note": "x" * 9000})
    text = json.dumps(json.loads(index.read_text()), sort_keys=True)
    index.write_text(text)
    assert FORMAT.sniff(Location(index))
    with _open(index) as tensors:
        assert tensors.metadata == {"note": "x" * 9000}


def test_a_file_that_is_too_large_for_an_index_is_not_read(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"metadata": {"a": "' + " " * 5000)
    with index.open("r+b") as file:
        file.truncate(1 << 40)
    assert not FORMAT.sniff(Location(index))


def test_a_folder_that_cannot_be_listed_is_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path) -> None:
        raise PermissionError(13, "made to fail")  # to root nothing is forbidden

    monkeypatch.setattr(os, "scandir", refused)
    assert not FORMAT.sniff(Location(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        '{"metadata": {}, "weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}',
        '{"metadata": {}, "weight_map": {"/layers/dense/vars": ["m_00000.weights.h5"]}}',
        '{"a": "m.safetensors"}',
        '["weight_map", "m.safetensors"]',
        "",
        "{",
    ],
)
def test_other_json_is_no_index(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    assert not FORMAT.sniff(Location(path))
    assert not FORMAT.sniff(Location(tmp_path))


@pytest.mark.parametrize(
    "name", ["model", "diffusion_pytorch_model", "adapter_model"]
)  # fmt: skip
def test_a_folder_stands_for_the_file_that_loaders_look_for(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    _write(A, tmp_path / f"{name}.safetensors")
    with open_tensors(tmp_path) as tensors:
        assert list(tensors) == ["a"]
        assert not tensors.notes


@pytest.mark.parametrize("limit", [None, 8])
def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path, limit: int | None) -> None:
    _write(_bytes(8, 8), tmp_path, folder=True, max_shard_bytes=limit)
    for name in ("model.fp16", "a", "b", "c", "d", "e"):
        _write(B, tmp_path / f"{name}.safetensors")
    with open_tensors(tmp_path) as tensors:
        assert list(tensors) == ["a", "b"]
        [note] = tensors.notes
        named = ", ".join(f"`{name}.safetensors`" for name in "abcde")
        assert note.text.endswith(f" and not read: {named} and 1 more")


def test_a_set_in_an_archive_is_one_model(tmp_path: Path) -> None:
    _write(_bytes(8, 8), tmp_path / "repo", folder=True, max_shard_bytes=8)
    with tarfile.open(tmp_path / "repo.tar", "w") as tar:
        tar.add(tmp_path / "repo", arcname="repo")
    with open_tensors(tmp_path / "repo.tar") as tensors:
        assert contents(tensors) == contents(tensors_of(_bytes(8, 8)))
        assert tensors.details["archive"] == {"kind": "tar", "inner": "repo"}


def test_a_folder_of_other_files_is_none_of_ours(tmp_path: Path) -> None:
    _write(A, tmp_path / "other.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    (tmp_path / "adapter_model.safetensors").mkdir()
    assert not FORMAT.sniff(Location(tmp_path))
    with pytest.raises(NotRecognisedError, match="holds no safetensors model"):
        _open(tmp_path)


@pytest.mark.parametrize(
    "others",
    [
        ["model.safetensors"],
        ["adapter_model.safetensors"],
        ["model.safetensors.index.json"],
        ["model.safetensors.index.fp16.json", "model.safetensors"],
    ],
)
def test_a_folder_of_several_models_is_refused(tmp_path: Path, others: list[str]) -> None:
    """Which of a whole file and an index counts differs between loaders."""
    index = _set(tmp_path, A, B)
    for name in others:
        if name.endswith(".json"):
            (tmp_path / name).write_bytes(index.read_bytes())
        else:
            _write(A, tmp_path / name)
    assert FORMAT.sniff(Location(tmp_path))
    with pytest.raises(UsageError, match="holds `") as caught:
        _open(tmp_path)
    assert all(f"`{name}`" in caught.value.message for name in (INDEX, *others))
    with _open(index) as tensors:
        assert len(tensors) == 2


def test_order_is_that_of_the_shards(tmp_path: Path) -> None:
    index = _set(tmp_path, {"z": A["a"]}, {"y": A["a"]}, {"x": A["a"]})
    with _open(index) as tensors:
        assert list(tensors) == ["z", "y", "x"]


def test_texts_of_the_index_are_kept_and_its_numbers_are_details(tmp_path: Path) -> None:
    metadata = {"total_size": 16, "total_parameters": 16, "lm_head": "embed", "format": "pt"}
    index = _set(tmp_path, A, B, metadata=metadata)
    with _open(index) as tensors:
        assert tensors.metadata == {"lm_head": "embed", "format": "pt"}
        assert tensors.details["index"] == {"total_size": 16, "total_parameters": 16}
        assert tensors.details["shards"] == 2


@pytest.mark.parametrize("metadata", [None, {}])
def test_an_index_may_lack_metadata(tmp_path: Path, metadata: object) -> None:
    index = _set(tmp_path, A, B)
    content = _index(index) | {"metadata": metadata}
    if metadata is None:
        del content["metadata"]
    index.write_text(json.dumps(content))
    with _open(index) as tensors:
        assert len(tensors) == 2


def test_shards_that_disagree_on_a_text_are_a_loss(tmp_path: Path) -> None:
    for name, text in (("1", "pt"), ("2", "mlx"), ("3", "flax")):
        part = replace(tensors_of({name: A["a"]}), metadata={"format": text})
        _write(part, tmp_path / f"{name}.safetensors")
    index = tmp_path / INDEX
    index.write_text(json.dumps({"weight_map": {n: f"{n}.safetensors" for n in "123"}}))
    with _open(index) as tensors:
        assert tensors.metadata == {"format": "pt"}
        [note] = tensors.notes
        assert note.kind is Kind.METADATA_LOST
        assert "`format`" in note.text
    with pytest.raises(LossError, match="disagree"):
        convert(index, tmp_path / "out.npz", ConvertOptions(strict=True))


def test_tensors_that_the_index_does_not_name_are_read_as_loaders_do(tmp_path: Path) -> None:
    index = _set(tmp_path, _bytes(8, 8), {"c": A["a"]}, weight_map={
        "a": "1.safetensors", "c": "2.safetensors",
    })  # fmt: skip
    with _open(index) as tensors:
        assert list(tensors) == ["a", "b", "c"]
        [note] = tensors.notes
        assert note.text == "1 tensor in the shards and not in the index"


@pytest.mark.parametrize(
    ("files", "weight_map", "message"),
    [
        ([A, B], {"a": "1.safetensors", "b": "1.safetensors"}, "tensor `b`: is not in the shard"),
        ([A, B], {"a": "2.safetensors", "b": "1.safetensors"}, "tensor `b`: is not in the shard"),
        ([A, {**A, **B}], {"a": "1.safetensors", "b": "2.safetensors"}, "`a`: is in two shards"),
        ([{**A, **B}, B], {"a": "1.safetensors", "b": "2.safetensors"}, "`b`: is in two shards"),
        (
            [{**A, "c": A["a"]}, {**B, "c": A["a"]}],
            {"a": "1.safetensors", "b": "2.safetensors"},
            "`c`: is in two shards",
        ),
    ],
)
def test_a_tensor_is_in_the_one_file_that_the_index_names(
    tmp_path: Path, files: list[Mapping[str, Values]], weight_map: dict[str, str], message: str
) -> None:
    index = _set(tmp_path, *files, weight_map=weight_map)
    with pytest.raises(CorruptFileError, match=message) as caught:
        _open(index)
    assert Path(caught.value.path or "").name in {"1.safetensors", "2.safetensors"}
    assert caught.value.hint


def test_names_that_records_make_equal_are_refused(tmp_path: Path) -> None:
    index = _set(tmp_path, {"a\udcff": A["a"]}, {"b\udcff": A["a"]}, weight_map={
        "a%FF": "1.safetensors", "b%FF": "2.safetensors",
    })  # fmt: skip
    shard = tmp_path / "2.safetensors"
    shard.write_bytes(shard.read_bytes().replace(b"b\\\\udcff", b"a\\\\udcff"))
    with pytest.raises(CorruptFileError, match="another shard has a tensor of this name"):
        _open(index)
    with _open(index, names="key") as tensors:
        assert list(tensors) == ["a%FF", "b%FF"]


# Missing shards


def _gone(path: Path) -> None:
    path.unlink()


def _pointer(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8\n")


@pytest.mark.parametrize(
    ("damage", "what", "advice"),
    [(_gone, "shard is missing", "copy the shard"), (_pointer, "Git LFS pointer", "git lfs pull")],
)
def test_what_lies_in_a_missing_shard_can_be_left_out(
    tmp_path: Path, damage: Callable[[Path], None], what: str, advice: str
) -> None:
    folder = tmp_path / "model"
    index = _set(folder, _bytes(8, 8), {"c": A["a"]})
    damage(folder / "1.safetensors")
    with _open(index) as tensors:
        assert list(tensors) == ["c"]
        assert list(tensors.broken) == ["1.safetensors"]
        assert tensors.summary.endswith("2 shards, 1 of them missing")
    with pytest.raises(CorruptFileError, match=f"{what}, with 2 tensors") as caught:
        convert(index, tmp_path / "out.npz")
    assert caught.value.path == str(folder / "1.safetensors")
    assert advice in (caught.value.hint or "")
    assert "--allow-missing" in (caught.value.hint or "")
    done = convert(folder, tmp_path / "out.npz", ConvertOptions(allow_missing=True))
    assert done.counts["written"] == 1
    [note] = done.notes
    assert note.text.startswith("`1.safetensors`: shard is ")
    with pytest.raises(LossError):
        convert(folder, tmp_path / "no.npz", ConvertOptions(allow_missing=True, strict=True))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    index = _set(tmp_path, A, B)
    (tmp_path / "2.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CorruptFileError, match=r"2\.safetensors: header: "):
        _open(index)
    held = [path.resolve() for path in Path("/proc/self/fd").iterdir() if path.exists()]
    assert not [path for path in held if path.is_relative_to(tmp_path)]


# Attacks


@pytest.mark.parametrize(
    "name",
    [
        "../1.safetensors",
        "/tmp/1.safetensors",
        "sub/1.safetensors",
        "sub\\1.safetensors",
        "C:1.safetensors",
        "\\\\host\\1.safetensors",
        "1.safetensors\0",
        "1.bin",
        "..",
        "",
        "1.SAFETENSORS",
    ],
)
def test_shards_lie_beside_the_index(tmp_path: Path, name: str) -> None:
    index = _set(tmp_path, A, weight_map={"a": name, "b": "1.safetensors"})
    with pytest.raises(UnsafeFileError, match="tensor `a`: name of a shard") as caught:
        _open(index)
    assert caught.value.path == str(index)


@pytest.mark.parametrize(
    "content",
    [
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": ["1.safetensors"]}},
        {"weight_map": {"a": None}},
        {"weight_map": ["1.safetensors"]},
        {"weight_map": {}},
        {},
        {"weight_map": {"a": "1.safetensors"}, "metadata": [1]},
        {"weight_map": {"a": "1.safetensors"}, "metadata": None},
        [],
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: object) -> None:
    index = _set(tmp_path, A)
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptFileError) as caught:
        read_index(index)
    assert caught.value.path == str(index)
    assert not isinstance(caught.value, UnsafeFileError)


def test_deep_and_huge_indexes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = _set(tmp_path, A)
    text = index.read_text()
    index.write_text(text[:-1] + ', "deep": ' + "[" * 5000 + "]" * 5000 + "}")
    with pytest.raises(UnsafeFileError, match="levels"):
        _open(index)
    index.write_text(text[:-1] + ', "metadata": {}}')
    with pytest.raises(CorruptFileError, match="occurs twice"):
        _open(index)
    index.write_text(text)
    monkeypatch.setattr(strict_json, "JSON_VALUES", 2)
    with pytest.raises(UnsafeFileError, match="values"):
        _open(index)


# Tied weights


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    """Return an HDF5 file in which hard links give tensors further names."""
    path = tmp_path / "tied.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(12, dtype=np.float32).reshape(3, 4)
        file["b"] = np.arange(12, dtype=np.float32).reshape(3, 4)  # equal, and no tie
        file["c"] = np.zeros((0, 4), np.float32)
        file["dec/a"], file["dec/c"] = file["a"], file["c"]
        file["größe"] = np.ones(3, np.int8)
        file["z"] = file["größe"]
    return path


def test_tied_tensors_are_stored_once_and_come_back_under_both_names(
    tmp_path: Path, tied: Path
) -> None:
    target = tmp_path / "m.safetensors"
    done = convert(tied, target, ConvertOptions(verify=True, strict=True))
    assert set(_header(target)) == {"__metadata__", "a", "b", "c", "dec/c", "größe"}
    assert done.counts == {"written": 5, "encoded": 2}
    assert {note.tensor: note.text for note in done.notes} == {
        "dec/a": "tied to `a`: the bytes are stored once (--untie stores both)",
        "z": "tied to `größe`: the bytes are stored once (--untie stores both)",
    }
    rows = {row["name"]: row for row in done.rows()}
    assert (rows["dec/a"]["action"], rows["dec/a"]["stored_name"]) == ("encoded", "dec/a")
    assert rows["dec/a"]["digest"] == rows["a"]["digest"]
    with open_tensors(tied) as expected, _open(target) as tensors:
        assert contents(tensors) == contents(expected)
        assert tensors["dec/a"].extents == tensors["a"].extents
    with _open(target, names="key") as keyed:
        assert set(keyed) == set(tensors)


def test_ties_outlast_another_conversion(tmp_path: Path, tied: Path) -> None:
    for source, target in ((tied, "one"), (tmp_path / "one.safetensors", "two")):
        convert(source, tmp_path / f"{target}.safetensors")
    found = listing(tmp_path)
    assert found["one.safetensors"] == found["two.safetensors"]
    convert(tmp_path / "two.safetensors", tmp_path / "three.npz", ConvertOptions(verify=True))


def test_tied_tensors_share_a_shard(tmp_path: Path, tied: Path) -> None:
    options = ConvertOptions(verify=True, write=WriteOptions(max_shard_bytes=48))
    convert(tied, tmp_path / "m.safetensors", options)
    index = _index(tmp_path / INDEX)
    assert index["metadata"]["total_size"] == 48 + 48 + 3
    assert set(index["weight_map"]) == {"a", "b", "c", "dec/c", "größe"}
    with open_tensors(tied) as expected, _open(tmp_path / INDEX) as tensors:
        assert contents(tensors) == contents(expected)
    with _open(tmp_path / _shard(1, 3)) as first:
        assert set(first) == {"a", "dec/a"}


def test_untied_tensors_are_stored_under_all_names(tmp_path: Path, tied: Path) -> None:
    target = tmp_path / "m.safetensors"
    done = convert(tied, target, ConvertOptions(verify=True, write=WriteOptions(untie=True)))
    assert set(_header(target)) == {"a", "b", "c", "dec/a", "dec/c", "größe", "z"}
    assert done.counts == {"written": 7}
    assert not done.notes


def test_a_tie_of_tensors_with_a_record_keeps_it(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_bytes(b"\1\0\7")
    tensor = tensors_in(source, TensorSpec(DType.INT4, (3,)))
    values: dict[str, Values] = {"a\udcff": tensor, "__metadata__": tensor, "c": tensor}
    plan = _write(values, tmp_path / "m.safetensors")
    assert set(_header(tmp_path / "m.safetensors")) == {"__metadata__", "a%FF"}
    with _open(tmp_path / "m.safetensors") as tensors:
        assert contents(tensors) == contents(tensors_of(values))
    with _open(tmp_path / "m.safetensors", names="key") as keyed:
        assert set(keyed) == {plan.stored_names.get(name, name) for name in values}


def tensors_in(path: Path, spec: TensorSpec) -> ExtentTensor:
    """Return the one tensor that a file holds."""
    return ExtentTensor(spec, (Extent(FileSource(path), 0, spec.nbytes),))


# Names that the model has and the dictionary has not


def _named() -> TensorDict:
    values: dict[str, Values] = {
        "embed": (DType.BFLOAT16, (4,), bytes(range(8))),
        "quarter": (DType.INT4, (4,), bytes(4)),
        "text": [b"x"],
    }
    aliases = {"head": "embed", "a\udcff": "quarter", "words": "text", "lost": "left out"}
    return replace(tensors_of(values), aliases=aliases | {"embed": "quarter"})


KEPT = {"head": "embed", "a\udcff": "quarter", "words": "text"}


@pytest.mark.parametrize("limit", [None, 8])
def test_other_names_are_recorded(tmp_path: Path, limit: int | None) -> None:
    target = tmp_path / "m.safetensors"
    plan = _write(_named(), target, max_shard_bytes=limit)
    [note] = [note for note in plan.notes if note.tensor is None]
    assert note.kind is Kind.TARGET
    assert note.text == "3 other names of tensors are recorded (--untie stores copies)"
    with _open(tmp_path / INDEX if limit else target) as tensors:
        assert tensors.aliases == KEPT
        assert contents(tensors) == contents(_named())


def test_other_names_get_copies_when_untied(tmp_path: Path) -> None:
    plan = _write(_named(), tmp_path / "m.safetensors", untie=True)
    assert {note.tensor for note in plan.notes} == {None, "quarter", "text"}
    assert "3 other names of tensors get a copy each" in {note.text for note in plan.notes}
    with _open(tmp_path / "m.safetensors") as tensors:
        assert tensors.aliases == {}
        found = contents(tensors)
    expected = contents(_named())
    assert found == expected | {alias: expected[name] for alias, name in KEPT.items()}


@pytest.mark.parametrize("untie", [False, True])
def test_other_names_pass_verification_and_every_tensor_counts_once(
    tmp_path: Path, untie: bool
) -> None:
    _write(_named(), tmp_path / "source.safetensors")
    options = ConvertOptions(verify=True, strict=True, write=WriteOptions(untie=untie))
    done = convert(tmp_path / "source.safetensors", tmp_path / "m.safetensors", options)
    assert done.counts == {"written": 1, "encoded": 2}
    assert [row["name"] for row in done.rows()] == ["embed", "quarter", "text"]
    with _open(tmp_path / "m.safetensors") as tensors:
        assert len(tensors) == (6 if untie else 3)
    if not untie:
        found = listing(tmp_path)
        assert found["m.safetensors"] == found["source.safetensors"]


def test_other_names_of_what_is_left_out_are_left_out(tmp_path: Path) -> None:
    _write(_named(), tmp_path / "source.safetensors")
    options = ConvertOptions(include=("quarter",))
    convert(tmp_path / "source.safetensors", tmp_path / "m.safetensors", options)
    with _open(tmp_path / "m.safetensors") as tensors:
        assert tensors.aliases == {"a\udcff": "quarter"}
