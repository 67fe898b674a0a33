from __future__ import annotations

import csv
import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers.wire import message
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
)
from tensorferry.converters.formats.tfjs import FORMAT
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents
from tensorferry.pipeline.convert import ConvertOptions, convert

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
STRINGS = [b"", b"text", "größe".encode(), b"\xff\0"]


def _open(path: Path) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions())


def _bytes(value: np.ndarray | list[bytes]) -> bytes:
    if isinstance(value, list):
        return b"".join(struct.pack("<I", len(each)) + each for each in value)
    return value.tobytes()


def _row(name: str, value: np.ndarray | list[bytes], **more: Any) -> dict[str, Any]:
    strings = isinstance(value, list)
    shape = [len(value)] if strings else list(np.shape(value))
    dtype = "string" if strings else value.dtype.name  # type: ignore[union-attr]
    return {"name": name, "shape": shape, "dtype": dtype, **more}


def _group(folder: Path, data: bytes, rows: list[dict[str, Any]], cuts: Iterable[int] = ()) -> Any:
    """Write the files of a group, cut at these bytes, and return what the manifest says of it."""
    ends = [0, *cuts, len(data)]
    number = len(list(folder.glob("group*")))
    names = [f"group{number}-shard{n}of{len(ends) - 1}.bin" for n in range(1, len(ends))]
    for name, start, end in zip(names, ends, ends[1:], strict=False):
        (folder / name).write_bytes(data[start:end])
    return {"paths": names, "weights": rows}


def _model(folder: Path, groups: list[Any], **content: Any) -> Path:
    content = {"format": "layers-model", "modelTopology": {}, "weightsManifest": groups} | content
    path = folder / "model.json"
    path.write_text(json.dumps(content))
    return path


def _every_type(folder: Path, cuts: Iterable[int] = (7, 7, 50, 61)) -> Path:
    values: dict[str, np.ndarray | list[bytes]] = {
        "dense/kernel": KERNEL,
        "flags": np.array([True, False, True]),
        "strings": STRINGS,
        "scalar": np.array(7, np.int32),
        "bytes": np.arange(5, dtype=np.uint8),
        "complex": np.array([1 + 2j, -3j], np.complex64),
        "half": np.arange(3, dtype=np.float16),
        "words": np.arange(3, dtype=np.uint16),
        "none": np.zeros((2, 0), np.float32),
    }
    rows = [_row(name, value) for name, value in values.items()]
    data = b"".join(map(_bytes, values.values()))
    small = {"dtype": "uint8", "scale": 0.1, "min": -1.5, "original_dtype": "float32"}
    quantized = [
        {"name": "q8", "shape": [2, 3], "dtype": "float32", "quantization": small},
        {"name": "q16", "shape": [3], "dtype": "int32",
         "quantization": {"dtype": "uint16", "scale": 0.5, "min": -3}},
        {"name": "h16", "shape": [2], "dtype": "float32", "quantization": {"dtype": "float16"}},
    ]  # fmt: skip
    more = bytes([0, 1, 128, 254, 255, 3])
    more += np.array([0, 1, 65535], np.uint16).tobytes()
    more += np.array([0.1, -65504], np.float16).tobytes()
    groups = [_group(folder, data, rows, cuts), _group(folder, more, quantized, (1, 9))]
    return _model(folder, groups)


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["file", "folder", "shard", "old"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        path = _every_type(folder)
        if request.param == "old":
            content = json.loads(path.read_text())["weightsManifest"]
            path.unlink()
            path = folder / "weights_manifest.json"
            path.write_text(json.dumps(content))
        shard = folder / "group0-shard1of5.bin"
        return {"folder": folder, "shard": shard}.get(request.param, path)

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        (tmp_path / "keras.json").write_text('{"class_name": "Sequential", "config": {}}')
        (tmp_path / "list.json").write_text("[1, 2]")
        (tmp_path / "model.bin").write_bytes(bytes(10))
        ours = {"__pycache__", "tfjs_layers", "tfjs_graph"}
        others = (path for path in samples.rglob("*") if not ours & set(path.parts))
        return [*tmp_path.iterdir(), *others]


# Values


def test_every_type_is_read(tmp_path: Path) -> None:
    with _open(_every_type(tmp_path)) as tensors:
        assert tensors["dense/kernel"].read().tolist() == KERNEL.tolist()
        assert tensors["flags"].read().tolist() == [True, False, True]
        assert tensors["strings"].elements() == STRINGS
        assert tensors["scalar"].read() == 7
        assert tensors["bytes"].read().tolist() == [0, 1, 2, 3, 4]
        assert tensors["complex"].read().tolist() == [1 + 2j, -3j]
        assert tensors["half"].read().tolist() == [0, 1, 2]
        assert tensors["words"].spec.dtype is DType.UINT16
        assert tensors["none"].read().shape == (2, 0)


def test_quantised_weights_come_out_as_their_real_values(tmp_path: Path) -> None:
    with _open(_every_type(tmp_path)) as tensors:
        stored = np.array([[0, 1, 128], [254, 255, 3]], np.uint8)
        assert np.array_equal(tensors["q8"].read(), (stored * 0.1 - 1.5).astype(np.float32))
        # Halves go up, as JavaScript's Math.round has it: -3, -2.5, 32764.5.
        assert tensors["q16"].read().tolist() == [-3, -2, 32765]
        assert tensors["h16"].read().tolist() == [np.float32(np.float16(0.1)), -65504]
        assert tensors.details["quantization"] == {
            "q8": {"dtype": "uint8", "scale": 0.1, "min": -1.5},
            "q16": {"dtype": "uint16", "scale": 0.5, "min": -3.0},
            "h16": {"dtype": "float16", "scale": None, "min": None},
        }
        [note] = tensors.notes
        assert "3 of 12 weights are quantised to float16 and uint16 and uint8" in note.text


@given(st.lists(st.integers(0, 144), max_size=8))
def test_files_may_be_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    whole = folder / "whole"
    whole.mkdir()
    with (
        _open(_every_type(whole, ())) as expected,
        _open(_every_type(folder, sorted(cuts))) as found,
    ):
        assert contents(found) == contents(expected)


def test_a_weight_in_several_files_has_byte_ranges(tmp_path: Path) -> None:
    group = _group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)], (5, 6, 33))
    with _open(_model(tmp_path, [group])) as tensors:
        extents = tensors["w"].extents
        assert extents
        assert [extent.length for extent in extents] == [5, 1, 27, 15]
        assert len(tensors.sources) == tensors.details["shards"] == 4
        for limit in (1, 8, 20, 1 << 20):
            chunks = [bytes(chunk) for chunk in tensors["w"].chunks(limit)]
            assert {len(chunk) % 4 for chunk in chunks} == {0}
            assert b"".join(chunks) == KERNEL.tobytes()


def test_a_conversion_streams_across_files(tmp_path: Path) -> None:
    target = tmp_path / "m.safetensors"
    convert(_every_type(tmp_path), target, ConvertOptions(verify=True))
    with open_tensors(target) as copy, _open(tmp_path) as tensors:
        assert contents(copy) == contents(tensors)


def test_what_produced_it_is_in_the_details(tmp_path: Path) -> None:
    group = _group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)])
    signature = {
        "inputs": {
            "x": {
                "name": "x:0", "dtype": "DT_FLOAT",
                "tensorShape": {"dim": [{"size": "-1"}, {"size": "3"}, {"size": "9" * 5000}]},
            },
            "any": {"name": "a:0", "dtype": "DT_INT32", "tensorShape": {"unknownRank": True}},
            "odd": [],
        },
        "outputs": None,
    }  # fmt: skip
    path = _model(tmp_path, [group], signature=signature, convertedBy="x", generatedBy=None)
    with _open(path) as tensors:
        assert tensors.details == {
            "kind": "layers-model", "producer": "x", "shards": 1,
            "signatures": {
                "default": {
                    "method": "",
                    "inputs": {
                        "any": {"tensor": "a:0", "dtype": "int32", "shape": None},
                        "odd": {"tensor": "", "dtype": "", "shape": None},
                        "x": {"tensor": "x:0", "dtype": "float32", "shape": [-1, 3, -1]},
                    },
                    "outputs": {},
                }
            },
        }  # fmt: skip


def test_the_graph_of_before_is_recognised_by_its_manifest(tmp_path: Path) -> None:
    group = _group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)])
    (tmp_path / "weights_manifest.json").write_text(json.dumps([group]))
    (tmp_path / "tensorflowjs_model.pb").write_bytes(b"\x0a\0")
    assert FORMAT.sniff(Location(tmp_path / "tensorflowjs_model.pb"))
    with _open(tmp_path / "tensorflowjs_model.pb") as tensors:
        assert list(tensors) == ["w"]
    assert not FORMAT.sniff(Location(tmp_path / "other.pb"))


def _graph_of_before(path: Path) -> None:
    """Write a GraphDef with a Const that has a type and a shape, and no values."""
    shape = message((2, message((1, 3))), (2, message((1, 4))))
    value = message((8, message((1, 1), (2, shape))))
    entry = message((1, b"value"), (2, value))
    path.write_bytes(message((1, message((1, b"w"), (2, b"Const"), (5, entry)))))


def test_the_graph_of_before_is_no_frozen_graph(tmp_path: Path) -> None:
    path = tmp_path / "tensorflowjs_model.pb"
    _graph_of_before(path)
    with pytest.raises(NotRecognisedError, match=r"TensorFlow\.js"):
        open_tensors(path)
    group = _group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)])
    (tmp_path / "weights_manifest.json").write_text(json.dumps([group]))
    with open_tensors(path) as tensors:
        assert tensors.format == "tfjs"
        np.testing.assert_array_equal(tensors["w"].read(), KERNEL)


def test_a_manifest_without_its_ending_is_recognised(tmp_path: Path) -> None:
    path = _every_type(tmp_path)
    path.rename(tmp_path / "model")
    content = '{"weightsManifest": [], "modelTopology": "' + "x" * 9000 + '"}'
    (tmp_path / "long").write_text(content)
    assert FORMAT.sniff(Location(tmp_path / "long"))
    assert not FORMAT.sniff(Location(tmp_path / "model.json"))


# What weights are for

TOPOLOGY = {
    "model_config": {"class_name": "Sequential", "config": {"name": "m", "layers": [
        {"class_name": "Dense", "config": {"name": "dense", "trainable": True}},
        {"class_name": "BatchNormalization", "config": {"name": "bn", "trainable": False}},
        {"class_name": "Model", "config": {"name": "inner", "layers": [
            {"class_name": "Dense", "config": {"name": "deep"}}]}},
    ]}}
}  # fmt: skip


def test_layers_of_the_config_hold_weights(tmp_path: Path) -> None:
    names = [
        "dense/kernel", "bn/gamma", "bn/moving_mean", "inner/deep/kernel", "deep/bias", "other/x",
    ]  # fmt: skip
    value = np.zeros(1, np.float32)
    rows = [_row(name, value) for name in names]
    rows.append(_row("Adam/dense/kernel/m", value, group="optimizer"))
    group = _group(tmp_path, bytes(4 * len(rows)), rows)
    with _open(_model(tmp_path, [group], modelTopology=TOPOLOGY)) as tensors:
        found = [tensors.origin(name) for name in tensors]
    assert [(each.role, each.trainable, each.evidence) for each in found] == [
        (Role.WEIGHT, True, Evidence.CONFIG),
        (Role.WEIGHT, False, Evidence.CONFIG),
        (Role.STATE, False, Evidence.CONFIG),
        (Role.WEIGHT, None, Evidence.CONFIG),
        (Role.WEIGHT, None, Evidence.CONFIG),
        (Role.UNKNOWN, None, Evidence.NONE),
        (Role.OPTIMIZER, False, Evidence.CONFIG),
    ]


def _node(name: str, op: str, *inputs: str) -> dict[str, Any]:
    return {"name": name, "op": op, "input": list(inputs)}


def test_the_graph_proves_weights(tmp_path: Path) -> None:
    nodes = [
        *(_node(name, "Const") for name in ("kernel", "bias", "mean", "depth", "lost", "axis")),
        _node("x", "Placeholder"),
        _node("same", "Identity", "kernel"),
        _node("y", "_FusedMatMul", "x", "same", "bias"),
        _node("z", "FusedDepthwiseConv2dNative", "y", "depth", "bias"),
        _node("n", "FusedBatchNormV3", "z", "bias", "bias", "mean", "mean"),
        _node("sum", "Sum", "n", "axis"),
        {"name": 3, "input": None},
        "nonsense",
    ]
    names = ["kernel", "bias", "mean", "depth", "lost", "absent"]
    value = np.zeros(1, np.float32)
    rows = [_row(name, value) for name in names]
    group = _group(tmp_path, bytes(4 * len(rows)), rows)
    path = _model(tmp_path, [group], format="graph-model", modelTopology={"node": nodes})
    with _open(path) as tensors:
        found = {name: tensors.origin(name) for name in tensors}
        assert tensors.summary == "TensorFlow.js graph-model"
    roles = {name: origin.role for name, origin in found.items()}
    assert roles == {
        "kernel": Role.WEIGHT, "bias": Role.WEIGHT, "mean": Role.STATE, "depth": Role.WEIGHT,
        "lost": Role.CONSTANT, "absent": Role.CONSTANT,
    }  # fmt: skip
    assert found["kernel"].evidence is Evidence.GRAPH


@pytest.mark.parametrize("topology", [None, [], {"node": 3}, {"node": [{"op": "Const"}] * 2}])
def test_a_damaged_graph_only_costs_the_roles(tmp_path: Path, topology: object) -> None:
    group = _group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)])
    path = _model(tmp_path, [group], format="graph-model", modelTopology=topology)
    with _open(path) as tensors:
        assert tensors.origin("w").role is Role.CONSTANT
        assert contents(tensors)["w"][2] == KERNEL.tobytes()


# What is refused


def _changed(folder: Path, change: dict[str, Any]) -> Path:
    row = _row("w", KERNEL) | change
    return _model(folder, [_group(folder, KERNEL.tobytes(), [row])])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"dtype": "float64"}, "`w`: dtype, expected one of float32"),
        ({"dtype": ["float32"]}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"name": 3}, "name of a weight, expected a text"),
        ({"shape": [3, -4]}, "shape"),
        ({"shape": [3, 4.0]}, "shape"),
        ({"shape": [True, 12]}, "shape"),
        ({"shape": "12"}, "shape"),
        ({"shape": [1] * 65}, "shape"),
        ({"shape": [1 << 40, 1 << 40]}, "shape"),
        ({"shape": [3, 5]}, "runs past the end"),
        ({"shape": [1 << 30]}, "runs past the end"),
        ({"shape": [3, 3]}, "length of the 1 files together, expected 36 bytes, got 48"),
        ({"dtype": "string", "shape": [100]}, "runs past the end"),
        ({"dtype": "string", "shape": [3]}, "runs past the end|length"),
        ({"quantization": []}, "quantization, expected an object"),
        ({"quantization": {"dtype": "int8"}}, "dtype"),
        ({"quantization": {"dtype": "uint8"}}, "scale, expected a number"),
        ({"quantization": {"dtype": "uint8", "scale": True, "min": 0}}, "scale"),
        ({"quantization": {"dtype": "uint8", "scale": 10**400, "min": 0}}, "scale"),
        ({"quantization": {"dtype": "uint8", "scale": 1, "min": "0"}}, "min"),
        ({"dtype": "int32", "quantization": {"dtype": "float16"}}, "expected float32, got int32"),
        ({"dtype": "bool", "quantization": {"dtype": "uint8"}}, "expected float32 or int32"),
    ],
)
def test_rows_that_make_no_sense_are_refused(
    tmp_path: Path, change: dict[str, Any], what: str
) -> None:
    with pytest.raises(CorruptFileError, match=what) as caught:
        _open(_changed(tmp_path, change))
    assert caught.value.path == str(tmp_path / "model.json")
    assert "group 0" in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["../secret.bin", "/etc/passwd", "a/b.bin", "..", ".", "", "a\\b", "a\0b", "http://x/y.bin"],
)
def test_files_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    group = {"paths": [name], "weights": [_row("w", KERNEL)]}
    with pytest.raises(UnsafeFileError, match="expected a bare name"):
        _open(_model(tmp_path, [group]))


@pytest.mark.parametrize(
    "groups", [None, {}, [3], [{}], [{"paths": [], "weights": 3}], [{"paths": [3], "weights": []}]]
)
def test_manifests_that_are_none_are_refused(tmp_path: Path, groups: Any) -> None:
    with pytest.raises(CorruptFileError, match="expected"):
        _open(_model(tmp_path, groups))


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    groups = [_group(tmp_path, KERNEL.tobytes(), [_row("w", KERNEL)]) for _ in range(2)]
    with pytest.raises(CorruptFileError, match="`w`: occurs twice"):
        _open(_model(tmp_path, groups))


def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text('{"weightsManifest": [], "weightsManifest": []}')
    with pytest.raises(CorruptFileError, match="a key occurs twice"):
        _open(path)
    path.write_text('"weightsManifest"')
    with pytest.raises(CorruptFileError, match="expected an object or a list"):
        _open(path)


def test_what_lies_behind_a_missing_file_is_broken(tmp_path: Path) -> None:
    value = np.arange(2, dtype=np.float32)
    rows = [_row(name, value) for name in "abc"]
    rows.append(_row("text", STRINGS))
    data = value.tobytes() * 3 + _bytes(STRINGS)
    path = _model(tmp_path, [_group(tmp_path, data, rows, (8, 12))])
    (tmp_path / "group0-shard2of3.bin").unlink()
    with _open(path) as tensors:
        assert set(tensors.broken) == {"b", "c", "text"}
        assert tensors["a"].read().tolist() == [0, 1]
        assert isinstance(tensors.broken["b"], NotRecognisedError)
        assert "group0-shard2of3.bin" in tensors.broken["b"].message
        for read in (tensors["b"].read, tensors["text"].elements):
            with pytest.raises(NotRecognisedError, match="is missing"):
                read()


def test_damage_is_an_error_or_changes_nothing_but_values(tmp_path: Path) -> None:
    path = _every_type(tmp_path)
    data = path.read_bytes()
    outcomes = set()
    changed = [data[:end] for end in range(0, len(data), 7)]
    changed += [data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in range(len(data))]
    for each in changed:
        path.write_bytes(each)
        try:
            with _open(path) as tensors:
                outcomes.add(len(contents(tensors)))
        except ConvertError:
            outcomes.add(-1)
    assert outcomes <= {-1, 12}


def test_text_that_is_cut_is_an_error_when_read(tmp_path: Path) -> None:
    group = _group(tmp_path, _bytes(STRINGS), [_row("s", STRINGS)])
    with _open(_model(tmp_path, [group])) as tensors:
        (tmp_path / group["paths"][0]).write_bytes(_bytes([b"x" * 99, *STRINGS]))
        with pytest.raises(CorruptFileError):
            tensors["s"].elements()


# Real models


def _corpus_rows(corpus: Path) -> list[dict[str, str]]:
    with (corpus / "MANIFEST.tsv").open() as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["format"] == "tfjs"]


def test_real_models_read_as_the_official_reader_does(corpus: Path, tmp_path: Path) -> None:
    rows = _corpus_rows(corpus)
    assert len(rows) == 3
    for row in rows:
        oracle = json.loads((corpus / "oracle" / f"{row['id']}.json").read_text())["tensors"]
        source = corpus / "files" / row["local_dir"] / row["main_arg"]
        target = tmp_path / f"{row['id']}.safetensors"
        options = ReadOptions(names="key")
        convert(source, target, ConvertOptions(read=options))
        for path in (source, source.parent, target):
            with open_tensors(path, options) as tensors:
                found = {
                    name: [dtype.label, list(shape), hashlib.sha256(data).hexdigest()]
                    for name, (dtype, shape, data) in contents(tensors).items()
                    if isinstance(data, bytes)
                }
            assert found == oracle, path
