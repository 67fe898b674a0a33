"""Every fault that can be planted is found, and named; the samples as they are have none."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers.bundle_messages import (
    build_entry,
    build_header,
    slice_key,
)
from tensorferry.converters.containers.sstable import build_table, mask
from tensorferry.converters.containers.wire import message
from tensorferry.converters.digests import digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_named
from tensorferry.converters.tensors import TensorDict
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline.check import Checked, check, failed

SAMPLES = [
    "all_dtypes/ckpt", "frozen_graph", "hdf5_file", "keras3_object", "keras_archive",
    "keras_shards", "keras_weights", "max_shard_slices", "npz_file", "safetensors_file",
    "saved_model_keras", "saved_model_module", "several_steps", "tf1_adam_ema", "tf1_multi_shard",
    "tf1_partitioned", "tf1_v1", "tf_keras_h5", "tf_keras_object", "tf_keras_weights",
    "tf_module_object", "tfjs_graph", "tfjs_layers", "tflite_dense",
]  # fmt: skip
MakeTensors = Callable[[Mapping[str, Values]], TensorDict]


def checked(path: Path, *, digests: bool = False, verify: bool = True) -> Checked:
    options = ReadOptions(verify=verify)
    try:
        tensors = open_tensors(path, options)
    except CorruptFileError as error:
        return failed(error, str(path))
    with tensors:
        return check(str(path), tensors, options, 2, security=True, digests=digests)


def found(path: Path, *, verify: bool = True) -> list[Finding]:
    """Return what is wrong with a model's files and graphs, its values aside."""
    every = checked(path, verify=verify).findings
    return [finding for finding in every if not finding.rule.startswith("value/")]


def one(path: Path) -> Finding:
    [finding] = found(path)
    return finding


def rules(path: Path) -> list[tuple[str, str]]:
    """Return rule and level of what was found."""
    return [(finding.rule, finding.level.value) for finding in found(path)]


def flip(path: Path, at: int) -> Path:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    return path


def cut(path: Path, length: int) -> Path:
    path.write_bytes(path.read_bytes()[:length])
    return path


def add(path: Path, data: bytes) -> Path:
    with path.open("ab") as file:
        file.write(data)
    return path


@pytest.fixture
def copied(samples: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Return the function that copies a sample, and returns the copy's folder."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(samples / name, tmp_path / "m"))

    return copy


@pytest.fixture
def written(make_tensors: MakeTensors, tmp_path: Path) -> Callable[..., Path]:
    """Return the function that writes arrays to a file, and returns its path."""

    def write(name: str, values: Mapping[str, Values], **options: Any) -> Path:
        formats = {".safetensors": "safetensors", ".npz": "npz", ".h5": "hdf5"}
        plan = format_named(formats[Path(name).suffix]).plan
        assert plan
        write_plan(plan(make_tensors(values), tmp_path / name, WriteOptions(**options)))
        return tmp_path / name

    return write


def place(samples: Path, name: str) -> Path:
    """Return what of a sample is pointed at: its folder, or its only file."""
    folder = samples / name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return files[0] if len(files) == 1 and files[0].is_file() else folder


@pytest.mark.parametrize("name", [name for name in SAMPLES if "/" not in name])
def test_a_sample_is_clean(samples: Path, name: str) -> None:
    path = place(samples, name)
    if name == "several_steps":
        path /= "model.ckpt-30.index"
    assert [each for each in found(path) if each.level is not Level.NOTE] == []


# Checkpoints


def shard(folder: Path) -> Path:
    return next(iter(sorted(folder.glob("*.data-*"))))


def test_a_flipped_byte_of_data_is_found_and_the_rest_is_read(
    copied: Callable[[str], Path], samples: Path
) -> None:
    folder = copied("tf_keras_object")
    flip(shard(folder), 0)
    damaged = checked(folder)
    [finding] = [each for each in damaged.findings if each.rule.startswith("integrity/")]
    assert (finding.rule, finding.level) == ("integrity/damaged", Level.ERROR)
    assert finding.path == str(shard(folder))
    assert "crc32c" in finding.text
    assert (finding.where or "").startswith("byte 0 to ")
    whole = checked(samples / "tf_keras_object")
    assert set(whole.stats) - set(damaged.stats) == {finding.tensor}
    assert not damaged.is_clean


def test_without_checksums_a_flipped_byte_is_not_seen(copied: Callable[[str], Path]) -> None:
    folder = copied("tf_keras_object")
    flip(shard(folder), 0)
    assert found(folder, verify=False) == []


def test_a_flipped_byte_of_text_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf_module_object")
    with open_tensors(folder) as tensors:
        texts = [name for name in tensors if tensors[name].spec.dtype is DType.STRING]
        [value] = tensors[texts[0]].elements()[:1]
    flip(shard(folder), shard(folder).read_bytes().index(value))
    assert (one(folder).rule, one(folder).tensor) == ("integrity/damaged", texts[0])


@pytest.mark.parametrize("at", [0, 40])
def test_a_flipped_byte_of_an_index_is_one_finding(copied: Callable[[str], Path], at: int) -> None:
    folder = copied("tf_keras_object")
    [index] = folder.glob("*.index")
    flip(index, at)
    assert (one(folder).rule, one(folder).path) == ("integrity/unreadable", str(index))


def test_an_index_cut_short_is_one_finding(copied: Callable[[str], Path]) -> None:
    folder = copied("tf_keras_object")
    [index] = folder.glob("*.index")
    cut(index, 200)
    assert (one(folder).rule, one(folder).level) == ("integrity/unreadable", Level.ERROR)


def test_data_cut_short_are_found_by_tensor(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    cut(shard(folder), shard(folder).stat().st_size - 4)
    assert {each.rule for each in found(folder)} == {"integrity/missing-data"}
    assert all(each.tensor for each in found(folder))


def test_what_is_no_tensor_is_read_too(copied: Callable[[str], Path]) -> None:
    folder = copied("tf_keras_weights")
    end = shard(folder).stat().st_size
    flip(shard(folder), end - 4)  # in the object graph, which stands last
    finding = next(each for each in found(folder) if each.path == str(shard(folder)))
    assert finding.rule == "integrity/damaged"
    assert (finding.where or "").startswith("entry `_CHECKPOINTABLE_OBJECT_GRAPH`: byte ")
    cut(shard(folder), end - 4)
    assert ("integrity/missing-data", "error") in rules(folder)


def test_a_missing_shard_is_one_finding(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_multi_shard")
    gone = sorted(folder.glob("*.data-*"))[1]
    gone.unlink()
    finding = one(folder)
    assert (finding.rule, finding.level) == ("integrity/missing-data", Level.ERROR)
    assert finding.path == str(gone)
    assert "tensors, such as `" in finding.text


def test_bytes_behind_the_data_are_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    size = shard(folder).stat().st_size
    add(shard(folder), b"#!/bin/sh")
    finding = one(folder)
    assert (finding.rule, finding.level) == ("integrity/unlisted-bytes", Level.WARNING)
    assert finding.text == "9 bytes that nothing in it lists"
    assert finding.where == f"byte {size} to {size + 9}"


def test_a_shard_of_another_save_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    stray = Path(str(shard(folder)).replace("00000-of-00001", "00001-of-00002"))
    stray.write_bytes(b"")
    assert (one(folder).rule, one(folder).path) == ("integrity/stray-file", str(stray))


def test_what_an_interrupted_save_left_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    (folder / "model.ckpt-9.index.tempstate1234").write_bytes(b"")
    assert rules(folder) == [("integrity/leftover", "warning")]
    [index] = folder.glob("*.index")
    assert found(index) == []  # of another checkpoint than the one that is meant


def test_a_graph_cut_short_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    [meta] = folder.glob("*.meta")
    cut(meta, 900)
    rule, where = found(folder)[0].rule, found(folder)[0].path
    assert (rule, where) == ("integrity/damaged", str(meta))


def state(folder: Path, *names: str) -> Path:
    lines = [f'model_checkpoint_path: "{names[0]}"\n']
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    path = folder / "checkpoint"
    path.write_text("".join(lines))
    return path


def test_a_state_file_whose_latest_is_gone_is_a_warning(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    [index] = folder.glob("*.index")
    stale = state(folder, "model.ckpt-99", index.stem)
    finding = one(index)
    assert (finding.rule, finding.level) == ("integrity/stale-state", Level.WARNING)
    assert finding.path == str(stale)
    assert "`model.ckpt-99`" in finding.text


def test_a_state_file_whose_older_ones_are_gone_is_a_note(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    [index] = folder.glob("*.index")
    state(folder, index.stem, *(f"model.ckpt-{step}" for step in range(90, 95)))
    finding = one(index)
    assert (finding.rule, finding.level) == ("integrity/stale-state", Level.NOTE)
    assert finding.text.endswith("`model.ckpt-92` and 2 more")
    assert checked(index).findings


def test_a_state_file_that_was_moved_is_a_note(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    [index] = folder.glob("*.index")
    state(folder, f"/gone/{index.stem}")
    assert rules(folder) == [("integrity/stale-state", "note")]


DATA = np.arange(6, dtype="<f4").tobytes()


def entry(shape: tuple[int, ...], offset: int, data: bytes, number: int = 0) -> bytes:
    crc = mask(Algorithm.CRC32C.update(data))
    return build_entry(DType.FLOAT32, shape, number, offset, len(data), crc)


def bundle(folder: Path, rows: Iterable[tuple[bytes, bytes]], *shards: bytes) -> Path:
    table = build_table([(b"", build_header(len(shards))), *rows])
    (folder / "m.index").write_bytes(table)
    for number, data in enumerate(shards):
        (folder / f"m.data-{number:05d}-of-{len(shards):05d}").write_bytes(data)
    return folder / "m"


def test_gaps_between_tensors_are_counted(tmp_path: Path) -> None:
    rows = [(name, entry((2,), at, DATA[:8])) for name, at in ((b"a", 4), (b"b", 20))]
    data = b"hide" + DATA[:8] + b"more" * 2 + DATA[:8]
    finding = one(bundle(tmp_path, rows, data))
    assert finding.text == "12 bytes that nothing in it lists, in 2 places"
    assert finding.where == "byte 0 to 4"


def test_bytes_of_two_tensors_are_found(tmp_path: Path) -> None:
    rows = [(b"a", entry((4,), 0, DATA[:16])), (b"b", entry((4,), 8, DATA[8:]))]
    finding = one(bundle(tmp_path, rows, DATA))
    assert finding.rule == "integrity/shared-bytes"
    assert finding.where == "byte 8 to 16"


def test_an_empty_shard_that_is_missing_is_found(tmp_path: Path) -> None:
    prefix = bundle(tmp_path, [(b"a", entry((6,), 0, DATA))], DATA, b"")
    assert found(prefix) == []
    (tmp_path / "m.data-00001-of-00002").unlink()
    assert rules(prefix) == [("integrity/missing-file", "warning")]


CUTS = [((0, 1), (0, 3)), ((1, 1), (0, 3))]


def partitioned(folder: Path, cuts: Iterable[Any], held: Iterable[Any]) -> Path:
    """Write a tensor of two rows that lists some slices, and holds some."""

    def dims(each: Any) -> bytes:
        return b"".join(message((1, message((1, a or None), (2, n)))) for a, n in each)

    shape = b"".join(message((2, message((1, dim)))) for dim in (2, 3))
    whole = message((1, 1), (2, shape), *((7, dims(each)) for each in cuts))
    rows = [(slice_key(b"w", each), entry((1, 3), 12 * at, DATA[12 * at :][:12]))
            for at, each in enumerate(held)]  # fmt: skip
    return bundle(folder, sorted([*rows, (b"w", whole)]), DATA[: 12 * len(rows)])


def test_slices_that_cover_everything_are_fine(tmp_path: Path) -> None:
    assert found(partitioned(tmp_path, CUTS, CUTS)) == []


def test_slices_that_leave_a_hole_are_found(tmp_path: Path) -> None:
    finding = one(partitioned(tmp_path, CUTS[:1], CUTS[:1]))
    assert (finding.rule, finding.tensor) == ("integrity/missing-data", "w")
    assert "hole" in finding.text


def test_a_slice_without_an_entry_is_found(tmp_path: Path) -> None:
    assert one(partitioned(tmp_path, CUTS, CUTS[:1])).rule == "integrity/missing-data"


def test_a_slice_that_no_tensor_lists_is_found(tmp_path: Path) -> None:
    listed = [each.rule for each in found(partitioned(tmp_path, CUTS[:1], CUTS))]
    assert sorted(listed) == ["integrity/missing-data", "integrity/orphan-slice"]


# The first version


def test_a_flipped_byte_of_a_v1_checkpoint_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_v1")
    [path] = [
        each for each in folder.iterdir() if each.suffix != ".meta" and each.name != "checkpoint"
    ]
    flip(path, path.stat().st_size // 2)
    assert {each.rule for each in found(path)} <= {"integrity/damaged", "integrity/unreadable"}
    assert found(path)


def test_a_v1_checkpoint_with_bytes_between_blocks_is_found(copied: Callable[[str], Path]) -> None:
    path = copied("tf1_v1") / "model.ckpt-7"
    table = path.read_bytes()
    footer = len(table) - 48
    path.write_bytes(table[:footer] + b"hidden" + table[footer:])
    assert (one(path).rule, one(path).where) == (
        "integrity/unlisted-bytes", f"byte {footer} to {footer + 6}",
    )  # fmt: skip


# SavedModels


def test_a_flipped_byte_of_variables_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("saved_model_module")
    flip(shard(folder / "variables"), 0)
    assert ("integrity/damaged", "error") in rules(folder)


def test_a_missing_asset_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("saved_model_module")
    [asset] = (folder / "assets").iterdir()
    asset.unlink()
    finding = next(each for each in found(folder) if each.level is Level.ERROR)
    assert (finding.rule, finding.path) == ("integrity/missing-file", str(asset))


def test_a_graph_of_a_saved_model_cut_short_is_found(copied: Callable[[str], Path]) -> None:
    folder = copied("saved_model_module")
    cut(folder / "saved_model.pb", 2000)
    assert {each.rule for each in found(folder)} == {"integrity/unreadable"}


def const(name: str, text: bytes) -> bytes:
    value = message((8, message((1, 7), (2, b""), (8, text))))
    return message((1, name.encode()), (2, b"Const"), (5, message((1, b"value"), (2, value))))


READ_FILE = [
    const("path", b"/etc/passwd"),
    message((1, b"r"), (2, b"ReadFile"), (3, b"path")),
]


def saved_model(folder: Path, nodes: Iterable[bytes] = (), assets: Iterable[bytes] = ()) -> Path:
    listed = [(6, message((2, name))) for name in assets]
    meta = message((1, message((4, b"serve"))), (2, message(*((1, n) for n in nodes))), *listed)
    (folder / "saved_model.pb").write_bytes(message((1, 1), (2, meta)))
    return folder


def test_a_graph_that_reads_files_is_found(tmp_path: Path) -> None:
    finding = one(saved_model(tmp_path, READ_FILE))
    assert (finding.rule, finding.level) == ("security/file-read-op", Level.ERROR)
    assert finding.path == str(tmp_path / "saved_model.pb")


def test_without_security_nobody_looks(tmp_path: Path) -> None:
    path = saved_model(tmp_path, READ_FILE)
    with open_tensors(path) as tensors:
        assert check(str(path), tensors, ReadOptions(), 1).findings == ()


def test_an_asset_that_leads_out_is_found(tmp_path: Path) -> None:
    finding = one(saved_model(tmp_path, assets=[b"../../etc/passwd"]))
    assert (finding.rule, finding.level) == ("security/external-file", Level.ERROR)


def test_a_lambda_in_the_metadata_of_keras_is_found_once(tmp_path: Path) -> None:
    layer = {"class_name": "Lambda", "name": "odd",
             "config": {"name": "odd", "function": ["4wEAAAA=", None, None]}}  # fmt: skip
    model = {"class_name": "Sequential", "config": {"layers": [layer]}}
    texts = [json.dumps(each).encode() for each in (model, layer)]
    nodes = [(1, message((2, n), (4, b"_tf_keras_layer"), (5, t))) for n, t in enumerate(texts)]
    (tmp_path / "keras_metadata.pb").write_bytes(message(*nodes))
    finding = one(saved_model(tmp_path))
    assert (finding.rule, finding.where) == ("security/lambda", "Keras metadata: layer `odd`")


# Graphs alone


def test_a_frozen_graph_that_reads_files_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.pb"
    path.write_bytes(message(*((1, node) for node in READ_FILE)))
    assert rules(path) == [("security/file-read-op", "error")]


def test_a_frozen_graph_cut_short_is_found(copied: Callable[[str], Path]) -> None:
    [path] = copied("frozen_graph").iterdir()
    cut(path, path.stat().st_size - 3)
    assert rules(path) == [("integrity/unreadable", "error")]


def test_a_constant_that_claims_too_much_is_not_read(tmp_path: Path) -> None:
    shape = message((2, message((1, 1 << 28))))
    value = message((8, message((1, 1), (2, shape), (5, b"\0\0\x80?"))))
    node = message((1, b"c"), (2, b"Const"), (5, message((1, b"value"), (2, value))))
    other = message((1, b"y"), (2, b"Identity"), (3, b"c"))
    path = tmp_path / "m.pb"
    path.write_bytes(message((1, node), (1, other)))
    found_it = checked(path)
    [finding] = found_it.findings
    assert (finding.rule, finding.tensor) == ("security/oversize", "c")
    assert found_it.stats == {}


def test_the_graph_beside_a_checkpoint_is_looked_into(copied: Callable[[str], Path]) -> None:
    folder = copied("tf1_adam_ema")
    [meta] = folder.glob("*.meta")
    python = message((2, message((1, message((1, b"p"), (2, b"PyFunc"))))))
    meta.write_bytes(meta.read_bytes() + python)  # of a field given twice the last one counts
    assert ("security/python-op", "error") in rules(folder)


# Files of other kinds


VALUES = {"a": np.arange(6, dtype="f4"), "b": np.arange(1, 9, dtype="i4")}


def test_safetensors_with_bytes_behind_are_one_finding(written: Callable[..., Path]) -> None:
    path = written("m.safetensors", VALUES)
    assert found(path) == []
    add(path, b"more")
    assert rules(path) == [("integrity/unreadable", "error")]


def test_safetensors_cut_short_are_one_finding(written: Callable[..., Path]) -> None:
    path = written("m.safetensors", VALUES)
    cut(path, path.stat().st_size - 4)
    assert rules(path) == [("integrity/unreadable", "error")]


@pytest.fixture
def shards(written: Callable[..., Path], tmp_path: Path) -> Path:
    """Return the index of two shards."""
    written("m.safetensors", VALUES, max_shard_bytes=32)
    return tmp_path / "m.safetensors.index.json"


def test_a_shard_that_is_missing_is_found(shards: Path) -> None:
    assert found(shards) == []
    gone = shards.with_name("m-00001-of-00002.safetensors")
    gone.unlink()
    assert (one(shards).rule, one(shards).path) == ("integrity/missing-data", str(gone))


def test_a_shard_that_no_index_lists_is_found(shards: Path) -> None:
    first = shards.with_name("m-00001-of-00002.safetensors")
    stray = shards.with_name("m-00003-of-00003.safetensors")
    shutil.copy(first, stray)
    shutil.copy(first, shards.with_name("other-00001-of-00001.safetensors"))
    assert (one(shards).rule, one(shards).path) == ("integrity/stray-file", str(stray))


def test_a_total_size_that_is_wrong_is_found(shards: Path) -> None:
    content = json.loads(shards.read_text())
    content["metadata"]["total_size"] += 1
    shards.write_text(json.dumps(content))
    assert rules(shards) == [("integrity/size", "warning")]


@pytest.mark.parametrize("compress", [False, True])
def test_a_flipped_byte_of_an_array_is_found(
    written: Callable[..., Path],
    compress: bool,
) -> None:
    path = written("m.npz", {"a": np.arange(600, dtype="f4"), "b": VALUES["b"]}, compress=compress)
    assert found(path) == []
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a.npy")
    flip(path, info.header_offset + 30 + len("a.npy") + info.compress_size - 20)
    assert (one(path).rule, one(path).tensor) == ("integrity/damaged", "a")


def test_a_flipped_byte_of_a_member_that_is_no_array_is_found(written: Callable[..., Path]) -> None:
    path = written("m.npz", VALUES)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("notes.txt", "hello there")
    assert found(path) == []
    flip(path, path.read_bytes().index(b"hello there"))
    assert (one(path).rule, one(path).where) == ("integrity/damaged", "member `notes.txt`")


def shifted(path: Path, data: bytes) -> Path:
    """Put bytes between the last member of an archive and its directory."""
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    record = bytearray(content[end:])
    record[16:20] = (start + len(data)).to_bytes(4, "little")
    path.write_bytes(content[:start] + data + content[start:end] + record)
    return path


def test_bytes_between_members_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, **VALUES)
    assert found(path) == []
    shifted(path, b"hidden" * 5)
    finding = one(path)
    assert (finding.rule, finding.level) == ("integrity/unlisted-bytes", Level.WARNING)
    assert finding.text == "30 bytes that nothing in it lists"


# Keras and HDF5


def test_a_flipped_weight_in_an_archive_is_no_fault_of_one_tensor(
    copied: Callable[[str], Path],
) -> None:
    [path] = copied("keras_archive").iterdir()
    with open_tensors(path) as tensors:
        [extent] = tensors[next(iter(tensors))].extents or ()
        names = set(tensors)
    flip(path, extent.offset)
    damaged = checked(path)
    [finding] = [each for each in damaged.findings if each.rule.startswith("integrity/")]
    assert (finding.rule, finding.tensor) == ("integrity/damaged", None)
    assert finding.where == "member `model.weights.h5`"
    assert set(damaged.stats) == names  # all of them were read


def test_a_flipped_config_in_an_archive_is_found(copied: Callable[[str], Path]) -> None:
    [path] = copied("keras_archive").iterdir()
    flip(path, path.read_bytes().index(b"Functional") if b"Functional" in path.read_bytes()
         else path.read_bytes().index(b"Sequential"))  # fmt: skip
    assert rules(path) == [("integrity/unreadable", "error")]


LAMBDA = {"class_name": "Sequential", "config": {"name": "s", "layers": [
    {"class_name": "Lambda", "config": {"name": "odd", "function": ["4wEAAAA=", None, None]}},
]}}  # fmt: skip


def test_a_lambda_in_a_keras_archive_is_found(copied: Callable[[str], Path]) -> None:
    [path] = copied("keras_archive").iterdir()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(LAMBDA) if name == "config.json" else data)
    finding = one(path)
    assert (finding.rule, finding.level) == ("security/lambda", Level.ERROR)
    assert finding.where == "`config.json`: layer `odd`"


def test_a_lambda_in_an_h5_file_is_found(copied: Callable[[str], Path]) -> None:
    [path] = copied("tf_keras_h5").iterdir()
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps(LAMBDA)
    assert rules(path) == [("security/lambda", "error")]


def test_bytes_behind_an_h5_file_are_found(written: Callable[..., Path]) -> None:
    path = written("m.h5", VALUES)
    assert found(path) == []
    add(path, b"\0" * 100)
    finding = one(path)
    assert (finding.rule, finding.level) == ("integrity/unlisted-bytes", Level.WARNING)
    assert finding.text.startswith("100 bytes ")


def test_bytes_before_an_h5_file_are_a_note(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["w"] = VALUES["a"]
    assert rules(path) == [("integrity/unlisted-bytes", "note")]


def test_an_h5_file_cut_short_is_found(written: Callable[..., Path]) -> None:
    path = written("m.h5", VALUES)
    cut(path, path.stat().st_size - 1)
    assert rules(path) == [("integrity/unreadable", "error")]


def test_an_h5_file_that_was_never_closed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    file = h5py.File(path, "w", libver="latest")
    file["w"] = VALUES["a"]
    file.swmr_mode = True
    file.flush()
    shutil.copy(path, tmp_path / "copy.h5")
    file.close()
    assert found(path) == []
    assert ("integrity/leftover", "warning") in rules(tmp_path / "copy.h5")


def external(file: h5py.File) -> None:
    file["other"] = h5py.ExternalLink("/etc/passwd", "/")


def outside(file: h5py.File) -> None:
    file.create_dataset("other", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/tmp/x.h5", "w", (4,), "u1")
    file.create_virtual_dataset("other", layout)


def claiming(file: h5py.File) -> None:
    file.create_dataset("other", (1 << 40,), "f8", chunks=(1 << 20,))


@pytest.mark.parametrize("plant", [external, outside, virtual, claiming])
def test_an_h5_file_that_leads_out_is_found(
    tmp_path: Path, plant: Callable[[h5py.File], None]
) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["w"] = VALUES["a"]
        plant(file)
    assert rules(path) == [("security/unsafe-file", "error")]


def test_models_of_other_kinds_that_lack_a_file_are_found(copied: Callable[[str], Path]) -> None:
    folder = copied("tfjs_layers")
    gone = sorted(folder.glob("*.bin"))[-1]
    gone.unlink()
    assert {(each.rule, each.path) for each in found(folder)} == {
        ("integrity/missing-data", str(gone))
    }


def test_a_tflite_file_cut_short_is_found(copied: Callable[[str], Path]) -> None:
    [path] = copied("tflite_dense").iterdir()
    cut(path, path.stat().st_size // 2)
    assert rules(path) == [("integrity/unreadable", "error")]


# Archives


def test_an_archive_that_leads_out_is_found(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../m.index", b"")
    assert rules(path) == [("security/unsafe-file", "error")]


def test_a_model_in_an_archive_is_checked_as_one_beside_it(
    copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copied("tf1_adam_ema")
    add(shard(folder), b"more")
    path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    finding = one(path)
    assert finding.rule == "integrity/unlisted-bytes"
    assert finding.path == f"{path}::{shard(folder).name}"


# Values, and what else comes of one pass


def test_nan_is_found(written: Callable[..., Path]) -> None:
    path = written("m.safetensors", {"a": np.array([1, np.nan, 3], "f4"), "b": VALUES["b"]})
    [finding] = [each for each in checked(path).findings if each.tensor == "a"]
    assert finding.rule.startswith("value/")
    assert not checked(path).is_clean


def test_digests_are_those_of_reading_again(samples: Path) -> None:
    path = samples / "tf_module_object"
    with open_tensors(path) as tensors:
        expected = digest_all(tensors, tensors, 1)
    assert checked(path, digests=True).digests == expected


def test_what_cannot_be_read_has_no_digest(copied: Callable[[str], Path]) -> None:
    folder = copied("tf_keras_object")
    flip(shard(folder), 0)
    result = checked(folder, digests=True)
    [damaged] = [each.tensor for each in result.findings if each.rule == "integrity/damaged"]
    assert damaged
    assert damaged not in result.digests
    assert len(result.digests) > 1


def test_findings_come_gravest_first_and_notes_alone_are_clean(tmp_path: Path) -> None:
    rows = [(b"a", entry((6,), 0, DATA))]
    prefix = bundle(tmp_path, rows, DATA)
    state(tmp_path, "m", "m-1")
    assert checked(prefix).is_clean
    add(tmp_path / "m.data-00000-of-00001", b"x")
    flip(tmp_path / "m.data-00000-of-00001", 0)
    levels = [each.level for each in found(prefix)]
    assert levels == [Level.ERROR, Level.WARNING, Level.NOTE]
    assert not checked(prefix).is_clean
