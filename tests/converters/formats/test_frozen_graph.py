from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.containers.messages import LOADED_BYTES, TAG_AND_LENGTH_BYTES
from tensorferry.converters.containers.wire import message
from tensorferry.converters.digests import digest_all
from tensorferry.converters.errors import ConvertError, CorruptFileError, NotRecognisedError
from tensorferry.converters.formats.frozen_graph import FORMAT
from tensorferry.converters.formats.safetensors import FORMAT as SAFETENSORS
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import HEAD_BYTES, Location, ReadOptions, WriteOptions
from tensorferry.converters.sources import FileSource
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents

FLOAT, INT32, STRING = 1, 3, 7


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def node(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    """Build a NodeDef; `attrs` are AttrValue messages."""
    entries = [(5, message((1, key.encode()), (2, value))) for key, value in attrs.items()]
    names = [(3, each.encode()) for each in inputs]
    return message((1, name.encode()), (2, op.encode()), *names, *entries)


def tensor_proto(array: np.ndarray, number: int) -> bytes:
    dims = b"".join(message((2, message((1, dim)))) for dim in array.shape)
    return message((1, number), (2, dims), (4, array.tobytes()))


def const(name: str, array: np.ndarray, number: int = FLOAT) -> bytes:
    value = message((8, tensor_proto(array, number)))
    return node(name, "Const", dtype=message((6, number)), value=value)


def call(function: str) -> bytes:
    return message((10, message((1, function.encode()))))


def function(name: str, arguments: list[str], *nodes: bytes) -> bytes:
    signature = message((1, name.encode()), *((2, message((1, a.encode()))) for a in arguments))
    return message((1, signature), *((3, each) for each in nodes))


def graph(*nodes: bytes, functions: tuple[bytes, ...] = ()) -> bytes:
    library = message(*((1, each) for each in functions))
    parts = [(1, each) for each in nodes]
    return message(*parts, *([(2, library)] if functions else []), (4, message((1, 27))))


PLACEHOLDER = node("x", "Placeholder", dtype=message((6, FLOAT)))
KERNEL = np.arange(12, dtype="<f4").reshape(3, 4)
LARGE = np.arange(40_000, dtype="<f4").reshape(200, 200)
SMALL = graph(
    PLACEHOLDER,
    const("lin/w", KERNEL),
    node("lin/w/read", "Identity", "lin/w"),
    node("mul", "MatMul", "x", "lin/w/read"),
    const("lin/b", np.ones(4, "<f4")),
    node("add", "BiasAdd", "mul", "lin/b"),
    const("shape", np.array([2, 2], "<i4"), INT32),
    node("reshape", "Reshape", "add", "shape"),
)
SMALL_TEXT = b"""# a graph
node { name: "x" op: "Placeholder" attr { key: "dtype" value { type: DT_FLOAT } } }
node {
  name: "w" op: "Const"
  attr { key: "value" value { tensor {
    dtype: DT_FLOAT tensor_shape { dim { size: 2 } }
    tensor_content: "\\000\\000\\200?" '\\000\\000\\000@'
  } } }
}
node { name: "w/read" op: "Identity" input: "w" }
versions { producer: 27 }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.pb"
    path.write_bytes(SMALL)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.pb"
    nodes = [const(f"w{n}", LARGE + n) for n in range(3)]
    path.write_bytes(graph(PLACEHOLDER, *nodes))
    return path


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["binary", "text"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "made" / f"graph.{request.param}"
        path.parent.mkdir()
        path.write_bytes(SMALL if request.param == "binary" else SMALL_TEXT)
        return path

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        meta_graph = message((1, message((4, b"serve"), (5, b"2.21.0"))), (2, SMALL))
        contents = {
            "saved_model.pb": message((1, 1), (2, meta_graph)),
            "model.meta": meta_graph,
            "model.onnx": message((1, 8), (2, b"pytorch"), (7, SMALL)),
            "mmdnn.pb": message((1, message((1, b"gru"), (2, b"GRU"), (4, message((1, b"k")))))),
            "keras_metadata.pb": message((1, message((2, 0), (3, b"root"), (4, b"_tf_keras")))),
            "lines.txt": b"\nnode\n",
            "net.prototxt": b'name: "LeNet" layer { name: "data" type: "Input" }',
            "saved_model.pbtxt": b"saved_model_schema_version: 1 meta_graphs { }",
            "meta.pbtxt": b"meta_info_def { } graph_def { node { } }",
            "empty.pb": b"",
        }
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [samples, samples / "README.md", *(tmp_path / name for name in contents)]

    def test_open_reads_no_tensor_data(self, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Say less than the contract: a small message is read whole, values and all."""
        del sample, monkeypatch
        assert len(SMALL) < LOADED_BYTES


# What is read


def test_constants_come_under_their_names_with_what_the_graph_proves(small: Path) -> None:
    with _open(small) as tensors:
        assert list(tensors) == ["lin/w", "lin/b", "shape"]
        np.testing.assert_array_equal(tensors["lin/w"].read(), KERNEL, strict=True)
        roles = [tensors.origin(name).role for name in tensors]
        evidence = {tensors.origin(name).evidence for name in tensors}
    assert roles == [Role.WEIGHT, Role.WEIGHT, Role.CONSTANT]
    assert evidence == {Evidence.GRAPH}


def test_weights_are_byte_ranges_of_the_file(small: Path) -> None:
    with _open(small) as tensors:
        (extent,) = tensors["lin/w"].extents or ()
        assert extent.source.path == small
        data = SMALL[extent.offset : extent.offset + extent.length]
    assert data == KERNEL.tobytes()


def test_opening_a_large_graph_reads_tags_only(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    original = FileSource.read_into

    def recorded(source: FileSource, offset: int, target: memoryview) -> None:
        read.append(len(target))
        original(source, offset, target)

    monkeypatch.setattr(FileSource, "read_into", recorded)
    with _open(large) as tensors:
        assert sum(tensor.nbytes for tensor in tensors.values()) == 3 * LARGE.nbytes
    read.remove(HEAD_BYTES)  # of the sniffing
    assert max(read) <= LOADED_BYTES
    assert sum(read) < 60 * TAG_AND_LENGTH_BYTES


def test_a_text_holds_what_its_binary_form_does(tmp_path: Path) -> None:
    path = tmp_path / "graph.pbtxt"
    path.write_bytes(SMALL_TEXT)
    with _open(path) as tensors:
        assert tensors["w"].read().tolist() == [1, 2]
        assert tensors.origin("w").role is Role.WEIGHT
        assert tensors.details["kind"] == "text"


def test_weights_are_proven_through_calls_loops_and_branches(tmp_path: Path) -> None:
    dense = function("dense", ["x", "w"], node("y", "MatMul", "x", "w"))
    body = function(
        "body", ["i", "h", "w"], const("one", np.ones((), "<f4")),
        node("call", "PartitionedCall", "h", "w", f=call("dense")),
        node("bias", "BiasAdd", "call:output:0", "one:output:0"),
    )  # fmt: skip
    branch = function("branch", ["t"], node("rows", "GatherV2", "t", "t"))
    made = graph(
        const("called", KERNEL), const("looped", KERNEL), const("table", KERNEL),
        const("added", KERNEL),
        node("a", "dense", "x", "called"),
        node("b", "StatelessWhile", "i", "x", "looped", body=call("body"), cond=call("cond")),
        node("c", "If", "p", "table", "^a", then_branch=call("branch"), else_branch=call("branch")),
        node("d", "AddV2", "x", "added"),
        functions=(dense, body, branch),
    )  # fmt: skip
    path = tmp_path / "graph.pb"
    path.write_bytes(made)
    with _open(path) as tensors:
        roles = {name: tensors.origin(name).role for name in tensors}
    proven = {name for name, role in roles.items() if role is Role.WEIGHT}
    assert proven == {"called", "looped", "table", "body/one"}
    assert roles["added"] is Role.CONSTANT


def test_a_function_that_calls_itself_is_followed_once(tmp_path: Path) -> None:
    loop = function("loop", ["w"], node("again", "PartitionedCall", "w", f=call("loop")))
    path = tmp_path / "graph.pb"
    made = graph(const("w", KERNEL), node("c", "loop", "w"), functions=(loop,))
    path.write_bytes(made)
    with _open(path) as tensors:
        assert tensors.origin("w").role is Role.CONSTANT


def test_a_graph_with_variables_is_said_not_to_be_frozen(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, node("w", "VariableV2"), const("w/init", KERNEL)))
    with _open(path) as tensors:
        assert list(tensors) == ["w/init"]
        assert "not frozen: the graph has 1 variables" in str(tensors.notes[0])


# Constants without values


def hollow(name: str, *shape: int) -> bytes:
    """Build a Const as TensorFlow.js and grappler write one: dtype and shape, no value."""
    dims = b"".join(message((2, message((1, dim)))) for dim in shape)
    value = message((8, message((1, FLOAT), (2, dims))))
    return node(name, "Const", dtype=message((6, FLOAT)), value=value)


def test_one_without_values_beside_others_is_zeros(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, hollow("zeros", 2), const("w", KERNEL)))
    with _open(path) as tensors:
        assert tensors["zeros"].read().tolist() == [0, 0]


def test_so_are_those_of_a_graph_with_variables(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, node("w", "VariableV2"), hollow("zeros", 2)))
    with _open(path) as tensors:
        assert tensors["zeros"].read().tolist() == [0, 0]


@pytest.mark.parametrize(
    "others",
    [
        [],
        [const("none", np.ones((0, 2), "<f4"))],
        [hollow("scalar")],
        [const("scalar", np.ones((), "<f4"))],  # early converters took raw bytes of several only
    ],
)
def test_a_graph_whose_constants_lack_values_is_refused(
    tmp_path: Path, others: list[bytes]
) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, *others, hollow("w", 2, 3)))
    with pytest.raises(NotRecognisedError, match=r"graph\.pb: .* TensorFlow\.js") as caught:
        _open(path)
    assert "model.json" in str(caught.value.hint)


@pytest.mark.parametrize("shape", [(0,), (), (1,)])
def test_a_graph_with_single_zeros_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, hollow("zero", *shape)))
    with _open(path) as tensors:
        np.testing.assert_array_equal(tensors["zero"].read(), np.zeros(shape, "f4"))


def test_texts_count_as_values_even_if_they_are_empty(tmp_path: Path) -> None:
    value = message((8, message((1, STRING), (8, b""))))
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, node("text", "Const", value=value)))
    with _open(path) as tensors:
        assert tensors["text"].elements() == [b""]


# Damage


def test_two_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(const("w", KERNEL), const("w", KERNEL)))
    with pytest.raises(CorruptFileError, match=r"graph\.pb: graph: node `w`: two nodes"):
        _open(path)


def test_content_of_another_length_is_named(tmp_path: Path) -> None:
    value = message((8, message((1, FLOAT), (2, message((2, message((1, 5))))), (4, bytes(8)))))
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, node("w", "Const", value=value)))
    with pytest.raises(CorruptFileError, match=r"node `w`: values of float32.* expected 20 bytes"):
        _open(path)


def test_a_const_without_a_value_is_named(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_bytes(graph(PLACEHOLDER, node("w", "Const")))
    with pytest.raises(CorruptFileError, match="node `w`: a Const without a value"):
        _open(path)


def _survives(path: Path, data: bytes) -> bool:
    """Tell whether a damaged file opens; nothing but an error that names it may stop it."""
    path.write_bytes(data)
    failed: ConvertError | None = None
    try:
        FORMAT.sniff(Location(path))
        with _open(path) as tensors:
            contents(tensors)
    except ConvertError as error:
        failed = error
    assert failed is None or failed.path == str(path)
    return failed is None


def test_a_file_cut_short_is_corrupt_or_has_fewer_nodes(tmp_path: Path) -> None:
    opened = [_survives(tmp_path / "cut.pb", SMALL[:n]) for n in range(len(SMALL))]
    assert sum(opened) < 20  # cuts between two nodes cannot be seen


def test_no_flipped_byte_ends_in_another_error(tmp_path: Path) -> None:
    opened = 0
    for at in range(len(SMALL)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(SMALL)
            damaged[at] ^= flip
            opened += _survives(tmp_path / "flipped.pb", bytes(damaged))
    assert 0 < opened < 3 * len(SMALL)  # flips of names and values cannot be seen


def test_a_damaged_text_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.pbtxt"
    path.write_bytes(b'node { name: "x" op: "Placeholder" } node { name: ')
    assert FORMAT.sniff(Location(path))
    with pytest.raises(CorruptFileError, match=r"graph\.pbtxt"):
        _open(path)


# Real files


def _rows(corpus: Path, wanted: str) -> list[Mapping[str, str]]:
    with (corpus / "MANIFEST.tsv").open() as file:
        return [row for row in csv.DictReader(file, delimiter="\t") if row["format"] == wanted]


def test_corpus_equals_its_oracle_and_so_does_what_is_written(corpus: Path, tmp_path: Path) -> None:
    rows = _rows(corpus, "frozen_pb")
    for row in rows:
        path = corpus / "files" / row["local_dir"] / row["main_arg"]
        oracle = json.loads((corpus / "oracle" / f"{row['id']}.json").read_text())["tensors"]
        expected = {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in oracle.items()}
        target = tmp_path / f"{row['id']}.safetensors"
        with _open(path, names="key") as tensors:
            found = {n: (t.spec.dtype.label, t.spec.shape) for n, t in tensors.items()}
            assert found == expected, row["id"]
            for name, tensor in tensors.items():
                assert _sha256(tensor) == oracle[name][2], name
            digests = digest_all(tensors, tensors, 1)
            assert SAFETENSORS.plan
            write_plan(SAFETENSORS.plan(tensors, target, WriteOptions()))
        with SAFETENSORS.open(Location(target), ReadOptions()) as written:
            assert digest_all(written, written, 1) == digests
    assert len(rows) == 4


def _sha256(tensor: Any) -> str:
    import hashlib

    state = hashlib.sha256()
    for chunk in tensor.chunks():
        state.update(chunk)
    return state.hexdigest()


def test_a_graph_of_mmdnn_is_not_taken_for_one_of_tensorflow(corpus: Path) -> None:
    (row,) = (row for row in _rows(corpus, "corrupt") if row["id"] == "bad-mmdnn-ir-not-tf")
    path = corpus / "files" / row["local_dir"] / row["main_arg"]
    assert not FORMAT.sniff(Location(path))
    with pytest.raises(NotRecognisedError, match="graph of another kind than TensorFlow's") as told:
        open_tensors(path)
    assert told.value.exit_code == 3


# Oracles


def _oracle(tf: Any, graph_def: Any) -> dict[str, np.ndarray]:
    nodes = (each for each in graph_def.node if each.op == "Const")
    return {each.name: tf.make_ndarray(each.attr["value"].tensor) for each in nodes}


@pytest.mark.oracle
@pytest.mark.parametrize("as_text", [False, True])
def test_a_graph_frozen_by_tensorflow_1_equals_it(
    tensorflow: Any, tmp_path: Path, as_text: bool
) -> None:
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default() as built, v1.Session() as session:
        x = v1.placeholder("float32", [None, 4, 4, 3], name="x")
        kernel = v1.get_variable("conv/kernel", [2, 2, 3, 5], use_resource=False)
        y = tensorflow.nn.conv2d(x, kernel, 1, "SAME")
        scale, offset, mean, var = (
            v1.get_variable(f"bn/{name}", [5], use_resource=False)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y, _, _ = v1.nn.fused_batch_norm(y, scale, offset, mean, var, is_training=False)
        tensorflow.identity(y, name="y")
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(session, built.as_graph_def(), ["y"])
    v1.train.write_graph(frozen, str(tmp_path), "frozen.pb", as_text=as_text)
    expected = _oracle(tensorflow, frozen)
    assert FORMAT.sniff(Location(tmp_path / "frozen.pb"))
    with _open(tmp_path / "frozen.pb") as tensors:
        assert set(tensors) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(tensors[name].read(), array, strict=True)
        roles = {name: tensors.origin(name).role for name in tensors}
    assert roles["conv/kernel"] is roles["bn/gamma"] is roles["bn/beta"] is Role.WEIGHT
    assert roles["bn/moving_mean"] is roles["bn/moving_variance"] is Role.STATE


@pytest.mark.oracle
def test_a_graph_frozen_by_tensorflow_2_equals_it(tensorflow: Any, tmp_path: Path) -> None:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    kernel = tensorflow.Variable(KERNEL, name="kernel")
    bias = tensorflow.Variable(np.ones(4, "f"), name="bias")

    @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, 3])])
    def model(x: Any) -> Any:
        steps = tensorflow.while_loop(
            lambda i, _: i < 2, lambda i, h: (i + 1, tensorflow.nn.relu(h) + bias), [0, x @ kernel]
        )
        return steps[1]

    frozen = convert_variables_to_constants_v2(
        model.get_concrete_function(), lower_control_flow=False
    )
    graph_def = frozen.graph.as_graph_def()
    path = tmp_path / "frozen.pb"
    path.write_bytes(graph_def.SerializeToString())
    expected = _oracle(tensorflow, graph_def)
    with _open(path) as tensors:
        assert set(expected) <= set(tensors)
        for name, array in expected.items():
            np.testing.assert_array_equal(tensors[name].read(), array, strict=True)
        weights = [name for name in tensors if tensors.origin(name).role is Role.WEIGHT]
        assert any(np.array_equal(tensors[name].read(), KERNEL) for name in weights)
        inside = set(tensors) - set(expected)
    assert all("/" in name for name in inside)


@pytest.mark.oracle
def test_constants_of_every_type_equal_those_of_tensorflow(tensorflow: Any, tmp_path: Path) -> None:
    types = [
        "float32",
        "float64",
        "float16",
        "bfloat16",
        "int8",
        "uint8",
        "int64",
        "bool",
        "complex64",
    ]
    with tensorflow.Graph().as_default() as built:
        for name in types:
            for shape in ((), (3,), (2, 0)):
                values = tensorflow.cast(tensorflow.constant(np.ones(shape)), name)
                array = tensorflow.get_static_value(values)
                tensorflow.constant(array, name=f"{name}/{len(shape)}")
        tensorflow.constant(["a", "", "größe"], name="text")
    path = tmp_path / "graph.pb"
    path.write_bytes(built.as_graph_def().SerializeToString())
    expected = _oracle(tensorflow, built.as_graph_def())
    assert len(expected) >= 28
    with _open(path) as tensors:
        for name, array in expected.items():
            found = tensors[name].read()
            assert found.shape == array.shape, name
            assert found.tolist() == array.tolist(), name
