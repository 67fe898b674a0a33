from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorferry.converters.containers import flatbuffer, tflite_model
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
)
from tensorferry.converters.formats.tflite import DTYPES, FORMAT
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.sources import FileSource
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents
from tensorferry.pipeline.convert import ConvertOptions, convert

flatbuffers = pytest.importorskip("flatbuffers")
tflite = pytest.importorskip("tflite")

TYPES = {dtype: number for number, dtype in DTYPES.items()}


class T(NamedTuple):
    """A tensor to put into a file made by hand."""

    name: str | None
    dtype: DType | int = DType.FLOAT32
    shape: tuple[int, ...] = ()
    data: bytes = b""
    scale: tuple[float, ...] = ()
    zero: tuple[int, ...] = ()
    axis: int = 0
    details: int = 0
    sparse: bool = False
    buffer: int | None = None


class Op(NamedTuple):
    """An operator: its name, inputs and outputs."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = ()


def _numbers(builder: Any, values: tuple[float, ...], dtype: str) -> int:
    return int(builder.CreateNumpyVector(np.array(values, dtype)))


def _vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(builder: Any, kind: str, **fields: int | None) -> int:
    """Build a table of a kind from its fields by name."""
    getattr(tflite, f"{kind}Start")(builder)
    for name, value in fields.items():
        if value is not None:
            getattr(tflite, f"{kind}Add{name}")(builder, value)
    return int(getattr(tflite, f"{kind}End")(builder))


def _tensor(builder: Any, each: T, buffer: int) -> int:
    quantization = None
    if each.scale or each.zero or each.details:
        quantization = _table(
            builder, "QuantizationParameters",
            Scale=_numbers(builder, each.scale, "f4"), ZeroPoint=_numbers(builder, each.zero, "i8"),
            DetailsType=each.details, QuantizedDimension=each.axis,
        )  # fmt: skip
    return _table(
        builder, "Tensor",
        Shape=_numbers(builder, each.shape, "i4"),
        Type=each.dtype if isinstance(each.dtype, int) else TYPES[each.dtype],
        Buffer=buffer if each.buffer is None else each.buffer,
        Name=None if each.name is None else builder.CreateString(each.name),
        Quantization=quantization,
        Sparsity=_table(builder, "SparsityParameters") if each.sparse else None,
    )  # fmt: skip


def _file(
    graphs: list[list[T]], operators: tuple[Op, ...] = (), *, external: bool = False
) -> bytes:
    """Return a file; with `external` the bytes of tensors follow the flatbuffer."""
    builder = flatbuffers.Builder()
    every = [each for graph in graphs for each in graph]
    behind = b""
    buffers = [_table(builder, "Buffer")]
    for each in every:
        if external and each.data:
            # What the tables will take is not known yet; they leave room.
            place = 16384 + len(behind)
            buffers.append(_table(builder, "Buffer", Offset=place, Size=len(each.data)))
            behind += each.data
        else:
            data = builder.CreateByteVector(each.data) if each.data else None
            buffers.append(_table(builder, "Buffer", Data=data))
    codes = [getattr(tflite.BuiltinOperator, each.name) for each in operators]
    numbers = iter(range(1, len(every) + 1))
    made = []
    for graph in graphs:
        tensors = [_tensor(builder, each, next(numbers)) for each in graph]
        steps = [
            _table(
                builder, "Operator", OpcodeIndex=index,
                Inputs=_numbers(builder, each.inputs, "i4"),
                Outputs=_numbers(builder, each.outputs, "i4"),
            )
            for index, each in enumerate(operators)
        ]  # fmt: skip
        made.append(
            _table(
                builder, "SubGraph", Tensors=_vector(builder, tensors),
                Operators=_vector(builder, steps),
            )
        )  # fmt: skip
    described = builder.CreateString("made by hand")
    signature = _table(builder, "SignatureDef", SignatureKey=builder.CreateString("serve"))
    metadata = _table(builder, "Metadata", Name=builder.CreateString("min_runtime_version"))
    root = _table(
        builder, "Model", Version=3, Description=described,
        OperatorCodes=_vector(
            builder,
            [
                _table(builder, "OperatorCode", BuiltinCode=code, DeprecatedBuiltinCode=code % 128)
                for code in codes
            ],
        ),
        Subgraphs=_vector(builder, made), Buffers=_vector(builder, buffers),
        SignatureDefs=_vector(builder, [signature]), Metadata=_vector(builder, [metadata]),
    )  # fmt: skip
    builder.Finish(root, file_identifier=b"TFL3")
    data = bytes(builder.Output())
    return data.ljust(16384, b"\0") + behind if external else data


def _strings(*elements: bytes) -> bytes:
    ends = np.cumsum([4 * (len(elements) + 2), *map(len, elements)])
    return struct.pack(f"<{len(ends) + 1}i", len(elements), *ends) + b"".join(elements)


KERNEL = np.arange(6, dtype=np.float32)
SAMPLE = [
    T("x", DType.FLOAT32, (1, 3)),
    T("dense/kernel", DType.FLOAT32, (2, 3), KERNEL.tobytes()),
    T("dense/bias", DType.FLOAT32, (2,), KERNEL[:2].tobytes()),
    T("shape", DType.INT32, (2,), struct.pack("<2i", -1, 2)),
    T("words", DType.STRING, (3,), _strings(b"a", b"", b"\xff\0c")),
    T("none", DType.STRING, (0,), _strings()),
    T("q", DType.INT8, (2, 2), b"\x80\xff\0\x7f", (0.5,), (-1,)),
    T("axis", DType.INT8, (2, 3), bytes(range(6)), (0.5, 2.0, 4.0), (0, 1, 2), 1),
    T("nibbles", DType.INT4, (3,), b"\x18\xf7", (2.0,), (0,)),
    T("crumbs", DType.INT2, (5,), b"\xe4\x03"),
    T("half", DType.FLOAT16, (2,), b"\0\x3c\0\xc0"),
    T("brain", DType.BFLOAT16, (1,), b"\x80\x3f"),
    T("scalar", DType.INT64, (), struct.pack("<q", -7)),
    T("flags", DType.BOOL, (2,), b"\1\0"),
]
OPERATORS = (
    Op("FULLY_CONNECTED", (0, 1, 2), (20,)),
    Op("DEQUANTIZE", (10,), (21,)),
    Op("RESHAPE", (21, 3), (22,)),
    Op("CONV_2D", (0, 22, -1), (23,)),
    Op("GATHER", (3, 12), (24,)),
)


def _write(path: Path, *arguments: Any, **more: Any) -> Path:
    path.write_bytes(_file(*arguments, **more))
    return path


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


class TestReader(ReaderContract):
    FORMAT = FORMAT
    PAGE_BYTES = flatbuffer.PAGE_BYTES

    @pytest.fixture(params=["inside", "behind", "several graphs"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        graphs = [SAMPLE, SAMPLE[1:4]] if request.param == "several graphs" else [SAMPLE]
        external = request.param == "behind"
        return _write(tmp_path / "m.tflite", graphs, OPERATORS, external=external)

    @pytest.fixture
    def foreign(self, samples: Path) -> Iterator[Path]:
        ours = {"__pycache__", "tflite_dense"}
        return (path for path in samples.rglob("*") if not ours & set(path.parts))


# Values


def test_values_are_read_as_they_are_stored(tmp_path: Path) -> None:
    with _open(_write(tmp_path / "m.tflite", [SAMPLE], OPERATORS)) as tensors:
        assert list(tensors) == [each.name for each in SAMPLE if each.data]
        assert tensors["dense/kernel"].read().tolist() == KERNEL.reshape(2, 3).tolist()
        assert tensors["words"].elements() == [b"a", b"", b"\xff\0c"]
        assert tensors["none"].elements() == []
        assert tensors["q"].read().tolist() == [[-128, -1], [0, 127]]
        assert b"".join(map(bytes, tensors["nibbles"].chunks())) == b"\xf8\x01\x07"
        assert b"".join(map(bytes, tensors["crumbs"].chunks())) == b"\0\1\xfe\xff\xff"
        assert tensors["scalar"].read() == -7
        assert tensors["dense/kernel"].extents
        [note] = tensors.notes
        assert "3 tensors are quantised" in note.text
        assert tensors.details["producer"] == "made by hand"
        assert tensors.details["signatures"] == {
            "serve": {"method": "", "inputs": {}, "outputs": {}}
        }
        assert tensors.details["metadata"] == ["min_runtime_version"]
        assert tensors.details["quantization"] == {
            "q": {"scale": (0.5,), "zero_point": (-1,), "axis": 0},
            "axis": {"scale": (0.5, 2.0, 4.0), "zero_point": (0, 1, 2), "axis": 1},
            "nibbles": {"scale": (2.0,), "zero_point": (0,), "axis": 0},
        }


def test_real_values_are_computed_on_request(tmp_path: Path) -> None:
    with _open(_write(tmp_path / "m.tflite", [SAMPLE], OPERATORS), dequantize=True) as tensors:
        assert tensors["q"].read().tolist() == [[-63.5, 0], [0.5, 64]]
        assert tensors["axis"].read().tolist() == [[0, 0, 0], [1.5, 6, 12]]
        assert tensors["nibbles"].read().tolist() == [-16, 2, 14]
        assert tensors["q"].spec.dtype is DType.FLOAT32
        assert tensors["crumbs"].spec.dtype is DType.INT2
        [note] = tensors.notes
        assert "real values of 3 quantised tensors" in note.text
        for limit in (1, 4, 8):
            chunks = [bytes(chunk) for chunk in tensors["axis"].chunks(limit)]
            assert b"".join(chunks) == tensors["axis"].read().tobytes()


def test_scales_along_any_axis_fit(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    scales = {0: (2.0, 0.5), 1: (1.0, 2.0, 3.0), 2: (1.0, 0.5, 0.25, 4.0)}
    graph = [
        T(f"{axis}", DType.INT32, (2, 3, 4), stored.tobytes(), scale, (), axis)
        for axis, scale in scales.items()
    ]
    with _open(_write(tmp_path / "m.tflite", [graph]), dequantize=True) as tensors:
        for axis, scale in scales.items():
            shape = [len(scale) if each == axis else 1 for each in range(3)]
            expected = stored * np.reshape(np.array(scale), shape)
            assert tensors[f"{axis}"].read().tolist() == expected.tolist()


def test_scales_of_another_kind_are_not_applied(tmp_path: Path) -> None:
    graph = [T("a", DType.INT8, (2,), b"\1\2", (0.5,), (0,), 0, 1)]
    path = _write(tmp_path / "m.tflite", [graph])
    with _open(path, dequantize=True) as tensors:
        assert tensors["a"].read().tolist() == [1, 2]
        assert "another kind" in tensors.notes[0].text


def test_names_stay_unique(tmp_path: Path) -> None:
    one = KERNEL[:1].tobytes()
    graph = [T("a", shape=(1,), data=one), T("a", shape=(1,), data=one), T("", data=one),
             T(None, data=one), T("a#1", shape=(1,), data=one)]  # fmt: skip
    path = _write(tmp_path / "m.tflite", [graph, [T("b"), T("a", data=one)]])
    with _open(path) as tensors:
        assert list(tensors) == ["a", "a#1", "#2", "#3", "a#1#4", "a#1.1"]
        assert [tensors.origin(name).key for name in tensors] == list(tensors)


def test_operators_tell_weights(tmp_path: Path) -> None:
    with _open(_write(tmp_path / "m.tflite", [SAMPLE], OPERATORS)) as tensors:
        origins = {name: tensors.origin(name) for name in tensors}
    weights = [name for name, origin in origins.items() if origin.role is Role.WEIGHT]
    assert weights == ["dense/kernel", "dense/bias", "half"]
    assert {origins[name].evidence for name in weights} == {Evidence.GRAPH}
    assert origins["words"].role is Role.TEXT
    assert origins["shape"].role is Role.CONSTANT


# What is refused


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (T("a", shape=(2,), data=bytes(4)), "buffer of float32 \\(2,\\), expected 8 bytes, got 4"),
        (T("a", DType.INT4, (3,), bytes(3)), "expected 2 bytes, got 3"),
        (T("a", shape=(-1,), data=bytes(4)), "shape"),
        (T("a", shape=(1 << 30,) * 3, data=bytes(4)), "shape"),
        (T("a", data=bytes(4), buffer=99), "number of a buffer, expected below 2, got 99"),
        (T("a", DType.INT8, (2,), b"12", (1.0,), (1, 2, 3)), "zero points"),
        (T("a", DType.INT8, (2,), b"12", (1.0,) * 3, (), 0), "number of scales"),
        (T("a", DType.INT8, (2,), b"12", (1.0,) * 2, (), 5), "number of scales"),
        (T("a", DType.INT8, (2,), b"12", (1.0,) * 2, (), -1), "number of scales"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, tensor: T, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what) as caught:
        _open(_write(tmp_path / "m.tflite", [[tensor]]), dequantize=True)
    assert caught.value.path == str(tmp_path / "m.tflite")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0",
        struct.pack("<3i", 2, 12, 13) + b"a",
        struct.pack("<3i", 1, 12, 99) + b"a",
        struct.pack("<3i", 1, 13, 12) + b"a",
        struct.pack("<3i", 1, 0, 12),
        struct.pack("<3i", 1, -4, 12),
    ],
)
def test_damaged_texts_are_refused_when_read(tmp_path: Path, data: bytes) -> None:
    graph = [T("a", DType.STRING, (1,), data or b"x")]
    with (
        _open(_write(tmp_path / "m.tflite", [graph])) as tensors,
        pytest.raises(CorruptFileError, match="table of texts"),
    ):
        tensors["a"].elements()


@pytest.mark.parametrize(
    ("tensor", "what"),
    [(T("a", data=b"1234", sparse=True), "is sparse"), (T("a", 13, data=b"12"), "the type 13")],
)
def test_what_is_not_read_is_listed_as_broken(tmp_path: Path, tensor: T, what: str) -> None:
    with _open(_write(tmp_path / "m.tflite", [[tensor]])) as tensors:
        assert what in tensors.broken["a"].message


def test_a_buffer_behind_the_end_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.tflite", [SAMPLE], external=True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="runs past the end of the file"):
        _open(path)


def test_files_that_are_too_short_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    for data in (b"", b"\0\0\0\x1c", b"\x1c\0\0\0TFL3"):
        path.write_bytes(data)
        with pytest.raises(CorruptFileError):
            _open(path)
    with pytest.raises(NotRecognisedError):
        _open(tmp_path / "nothing")


def test_a_file_that_is_cut_short_meanwhile_is_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapped file would end the process with SIGBUS."""
    graph = [T(f"t{n}", shape=(2000,), data=bytes(8000)) for n in range(8)]
    path = _write(tmp_path / "m.tflite", [graph])
    original = FileSource.read_into

    def cutting(source: FileSource, offset: int, target: memoryview) -> None:
        original(source, offset, target)
        os.truncate(path, 4096)

    monkeypatch.setattr(FileSource, "read_into", cutting)
    with pytest.raises(CorruptFileError, match="the file ends early"):
        _open(path)


@pytest.mark.parametrize(("limit", "value"), [("BUDGET_BYTES", 100), ("MAX_NAME_BYTES", 2)])
def test_what_is_taken_out_of_a_file_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(tflite_model, limit, value)
    with pytest.raises(UnsafeFileError, match=f"expected at most {value} bytes"):
        _open(_write(tmp_path / "m.tflite", [SAMPLE]))


def test_the_number_of_tensors_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_model, "MAX_TENSORS", 3)
    with pytest.raises(UnsafeFileError, match="tensors, expected at most 3"):
        _open(_write(tmp_path / "m.tflite", [SAMPLE]))


@pytest.mark.parametrize("external", [False, True])
def test_damage_is_an_error_or_other_values(tmp_path: Path, external: bool) -> None:
    path = _write(tmp_path / "m.tflite", [SAMPLE], OPERATORS, external=external)
    data = path.read_bytes()
    used = data.rstrip(b"\0") if not external else data[:2600]
    generator = random.Random(2)
    changed = [data[: generator.randrange(len(used))] for _ in range(150)]
    for _ in range(1200):
        at, value = generator.randrange(len(used)), generator.randrange(256)
        changed.append(data[:at] + bytes([value]) + data[at + 1 :])
    opened = 0
    for each in changed:
        path.write_bytes(each)
        try:
            with _open(path, dequantize=True) as tensors:
                good = {name: each for name, each in tensors.items() if name not in tensors.broken}
                contents(good)
                opened += 1
        except ConvertError:
            pass
    assert 0 < opened < len(changed)


# Real models


def test_real_models_read_as_the_schema_says(corpus: Path, tmp_path: Path) -> None:
    with (corpus / "MANIFEST.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["format"] == "tflite"]
    assert len(rows) == 5
    for row in rows:
        oracle = json.loads((corpus / "oracle" / f"{row['id']}.json").read_text())
        source = corpus / "files" / row["local_dir"] / row["main_arg"]
        target = tmp_path / f"{row['id']}.safetensors"
        options = ReadOptions(names="key")
        convert(source, target, ConvertOptions(read=options))
        for path in (source, target):
            with open_tensors(path, options) as tensors:
                found = _digests(tensors)
                texts = {name for name in tensors if tensors[name].spec.dtype is DType.STRING}
            assert found == oracle["tensors"], path
            # safetensors keeps texts in its metadata, under their names.
            assert texts == set(oracle["not_digested"]), path


def _digests(tensors: TensorDict) -> Mapping[str, list[object]]:
    return {
        name: [dtype.label, list(shape), hashlib.sha256(data).hexdigest()]
        for name, (dtype, shape, data) in contents(tensors).items()
        if isinstance(data, bytes)
    }


# TensorFlow's own converter and interpreter


def _convolutional(tensorflow: Any) -> Any:
    keras = tensorflow.keras
    keras.utils.set_random_seed(3)
    layers = keras.layers
    return keras.Sequential([
        layers.Input((8, 8, 3)),
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.DepthwiseConv2D(3, name="depth"),
        layers.Flatten(),
        layers.Dense(32, name="dense"),
    ])  # fmt: skip


def _converted(tensorflow: Any, quantize: str) -> bytes:
    converter = tensorflow.lite.TFLiteConverter.from_keras_model(_convolutional(tensorflow))
    if quantize != "float":
        converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tensorflow.float16]
    if quantize == "int8":
        generator = np.random.default_rng(0)
        converter.representative_dataset = lambda: (
            [generator.random((1, 8, 8, 3), np.float32)] for _ in range(8)
        )
    data: bytes = converter.convert()
    return data


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantize", ["float", "float16", "dynamic", "int8"])
def test_tensorflow_reads_the_same(tensorflow: Any, tmp_path: Path, quantize: str) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(_converted(tensorflow, quantize))
    interpreter = tensorflow.lite.Interpreter(str(path))
    details = {each["name"]: each for each in interpreter.get_tensor_details()}
    with _open(path) as stored, _open(path, dequantize=True) as real:
        kernels = [name for name, tensor in stored.items() if len(tensor.spec.shape) > 1]
        assert len(kernels) == 3
        assert {stored.origin(name).role for name in kernels} == {Role.WEIGHT}
        for name, tensor in stored.items():
            expected = interpreter.get_tensor(details[name]["index"])
            assert np.array_equal(tensor.read(), expected), name
            scales = details[name]["quantization_parameters"]
            if len(scales["scales"]):
                found = real[name].read()
                assert np.array_equal(found, _dequantized(expected, scales)), name
        kinds = {
            "float": {DType.FLOAT32},
            "float16": {DType.FLOAT16},
            "dynamic": {DType.INT8, DType.FLOAT32},
            "int8": {DType.INT8},
        }
        assert {stored[name].spec.dtype for name in kernels} == kinds[quantize]


def _dequantized(stored: Any, scales: Mapping[str, Any]) -> Any:
    shape = [1] * stored.ndim
    if len(scales["scales"]) > 1:
        shape[scales["quantized_dimension"]] = -1
    points = scales["zero_points"].reshape(shape).astype(np.float64)
    scale = scales["scales"].astype(np.float64).reshape(shape)
    return ((stored - points) * scale).astype(np.float32)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_float_weights_are_those_of_the_model(tensorflow: Any, tmp_path: Path) -> None:
    model = _convolutional(tensorflow)
    path = tmp_path / "m.tflite"
    path.write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(model).convert())
    kernel = model.get_layer("dense").kernel.numpy()
    with _open(path) as tensors:
        arrays = [tensor.read() for tensor in tensors.values()]
    # TensorFlow Lite has dense kernels the other way around: (out, in).
    assert any(each.shape == kernel.T.shape and np.array_equal(each, kernel.T) for each in arrays)
