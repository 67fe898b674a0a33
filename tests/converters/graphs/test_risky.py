"""Operations and parts of configs that are dangerous to load: found, and never run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.findings import Finding, Level
from tensorferry.converters.graphs.risky_config import risky_parts
from tensorferry.converters.graphs.risky_ops import RISKY_OPS, custom_operators, risky_nodes

DT_STRING = 7
PLACE = "m/saved_model.pb"


def node(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    """Return a NodeDef; attributes are AttrValue messages."""
    entries = [(5, message((1, key.encode()), (2, value))) for key, value in attrs.items()]
    texts = [(3, each.encode()) for each in inputs]
    return message((1, name.encode()), (2, op.encode()), *texts, *entries)


def text(name: str, *values: str) -> bytes:
    """Return a Const of texts: one, or a list."""
    shape = message((2, message((1, len(values))))) if len(values) != 1 else b""
    tensor = message((1, DT_STRING), (2, shape), *((8, each.encode()) for each in values))
    return node(name, "Const", value=message((8, tensor)))


def function(name: str, argument: str, *nodes: bytes) -> bytes:
    """Return a FunctionDef with one argument."""
    signature = message((1, name.encode()), (2, message((1, argument.encode()))))
    return message((1, signature), *((3, each) for each in nodes))


def found(nodes: Iterable[bytes], functions: Iterable[bytes] = ()) -> list[Finding]:
    """Return what is risky in a graph."""
    library = message(*((1, each) for each in functions))
    data = message(*((1, each) for each in nodes), (2, library))
    return list(risky_nodes(Body.whole(MemorySource(Path(PLACE), data)), PLACE))


def one(*nodes: bytes) -> Finding:
    [finding] = found(nodes)
    assert finding.path == PLACE
    return finding


# Operations


def test_a_graph_that_only_computes_is_clean() -> None:
    assert found([text("t", "/etc/passwd"), node("y", "Identity", "t")]) == []


def test_a_file_read_from_a_fixed_place_is_an_error_that_names_it() -> None:
    finding = one(text("name", "/etc/passwd"), node("r", "ReadFile", "name"))
    assert (finding.rule, finding.level) == ("security/file-read-op", Level.ERROR)
    assert finding.text == "`ReadFile` reads files: `/etc/passwd`"
    assert finding.where == "node `r`"


def test_a_path_is_followed_through_other_operations() -> None:
    nodes = [
        text("a", "~"),
        text("b", ".ssh/id_rsa"),
        node("join", "StringJoin", "a", "b:0"),
        node("loop", "Identity", "join", "loop", "^b"),
        node("r", "ReadFile", "loop:0"),
    ]
    assert one(*nodes).text == "`ReadFile` reads files: `.ssh/id_rsa`, `~`"


def test_a_file_that_the_caller_names_is_a_warning() -> None:
    finding = one(node("x", "Placeholder"), node("r", "ReadFile", "x"))
    assert finding.level is Level.WARNING
    assert finding.text.endswith("at a path that the caller gives")


def test_a_file_that_is_written_is_an_error() -> None:
    nodes = [node("x", "Placeholder"), node("w", "WriteFile", "x", "x")]
    assert (one(*nodes).rule, one(*nodes).level) == ("security/file-write-op", Level.ERROR)


def test_functions_are_looked_into() -> None:
    inner = function("f", "x", node("w", "WriteFile", "x", "x"))
    [finding] = found([node("y", "PartitionedCall", "z")], [inner])
    assert finding.where == "node `w` of function `f`"


@pytest.mark.parametrize("op", ["PyFunc", "PyFuncStateless", "EagerPyFunc"])
def test_python_is_an_error(op: str) -> None:
    assert (one(node("p", op)).rule, one(node("p", op)).level) == (
        "security/python-op", Level.ERROR,
    )  # fmt: skip


def test_the_network_is_an_error() -> None:
    finding = one(text("where", "10.0.0.1:80"), node("c", "RpcClient", "where"))
    assert (finding.rule, finding.level) == ("security/network-op", Level.ERROR)
    assert "`10.0.0.1:80`" in finding.text


def urls(*values: str) -> bytes:
    return message((1, message(*((2, each.encode()) for each in values))))


def test_a_debugger_that_reports_elsewhere_is_an_error_and_another_none() -> None:
    far = node("d", "DebugIdentity", "x", debug_urls=urls("grpc://evil:1"))
    assert one(far).rule == "security/network-op"
    assert found([node("d", "DebugIdentity", "x", debug_urls=urls())]) == []


def test_printing_to_a_file_is_an_error_and_to_the_terminal_none() -> None:
    to_file = node("p", "PrintV2", "x", output_stream=message((2, b"file:///tmp/x")))
    assert one(to_file).rule == "security/file-write-op"
    assert found([node("p", "PrintV2", "x", output_stream=message((2, b"stderr")))]) == []


def test_a_cache_in_memory_is_none_and_one_on_the_disk_an_error() -> None:
    nodes = [text("where", ""), node("c", "CacheDataset", "data", "where")]
    assert found(nodes) == []
    nodes[0] = text("where", "/tmp/cache")
    assert one(*nodes).rule == "security/file-write-op"


def test_data_for_training_is_a_note_unless_its_place_is_fixed() -> None:
    reader = node("d", "TextLineDataset", "names")
    assert one(text("names", "train.txt"), reader).level is Level.NOTE
    assert one(text("names", "/etc/shadow", "a"), reader).level is Level.WARNING


def test_a_vocabulary_is_a_note() -> None:
    nodes = [text("v", "/srv/me/v.txt"), node("i", "InitializeTableFromTextFileV2", "t", "v")]
    assert (one(*nodes).rule, one(*nodes).level) == ("security/asset-op", Level.NOTE)


def test_an_operation_of_a_package_is_a_note() -> None:
    assert (one(node("a", "Addons>Thing")).rule, one(node("a", "Addons>Thing")).level) == (
        "security/custom-op", Level.NOTE,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["model", "_temp_" + "0" * 32 + "/part", "_temp/part", ".part"])
def test_what_a_saver_does_is_no_finding(path: str) -> None:
    nodes = [text("p", path), node("s", "SaveV2", "p", "n", "n"), node("r", "RestoreV2", "p", "n")]
    assert found(nodes) == []


def test_a_save_at_a_path_of_the_callers_is_no_finding() -> None:
    inner = function("save", "prefix", text("c", "x"), node("j", "StringJoin", "prefix", "c"),
                     node("s", "SaveV2", "j", "n", "n"))  # fmt: skip
    assert found([], [inner]) == []


def calling(name: str, op: str, called: str, *inputs: str) -> bytes:
    value = message((10, message((1, called.encode()))))
    return node(name, op, *inputs, f=value)


def test_a_function_that_is_given_a_fixed_place_to_save_to_is_an_error() -> None:
    inner = function("save", "prefix", node("s", "SaveV2", "prefix", "n", "n"))
    outer = function("outer", "x", calling("c", "PartitionedCall", "save", "x"))
    nodes = [text("p", "/srv/me/.bashrc"), calling("y", "StatefulPartitionedCall", "outer", "p")]
    [finding] = found(nodes, [inner, outer])
    assert (finding.rule, finding.level) == ("security/save-op", Level.ERROR)
    assert (finding.where, "`/srv/me/.bashrc`" in finding.text) == ("node `y`", True)
    nodes[0] = node("p", "Placeholder")
    assert found(nodes, [inner, outer]) == []


def test_a_default_is_a_fixed_place() -> None:
    save = node("s", "SaveV2", "x", "n", "n")
    nodes = [text("d", "/srv/me/.bashrc"), node("x", "PlaceholderWithDefault", "d"), save]
    assert one(*nodes).level is Level.ERROR
    nodes[0] = text("d", "model")  # what every Saver has
    assert found(nodes) == []


def test_a_save_at_a_fixed_place_is_an_error_and_a_restore_a_note() -> None:
    place = text("p", "/srv/me/.bashrc")
    assert one(place, node("s", "SaveV2", "p", "n", "n")).level is Level.ERROR
    assert one(text("p", "other"), node("s", "SaveV2", "p", "n", "n")).level is Level.NOTE
    assert one(place, node("r", "RestoreV2", "p", "n")).level is Level.NOTE


@pytest.mark.parametrize(
    ("path", "level"),
    [
        ("/a", Level.ERROR), ("~/a", Level.ERROR), ("C:\\a", Level.ERROR), ("a/../b", Level.ERROR),
        ("..", Level.ERROR), ("gs://a/b", Level.ERROR), ("\\\\host\\a", Level.ERROR),
        ("a", Level.WARNING), ("a/b.txt", Level.WARNING), ("a..b", Level.WARNING),
    ],
)  # fmt: skip
def test_which_paths_lead_out(path: str, level: Level) -> None:
    assert one(text("p", path), node("r", "ReadFile", "p")).level is level


def test_operators_of_tensorflow_lite_that_are_tensorflows() -> None:
    names = ["FlexReadFile", "FlexMatMul", "FlexWriteFile", "Mine"]
    assert [(each.rule, each.level) for each in custom_operators(names, "m.tflite")] == [
        ("security/file-read-op", Level.WARNING),
        ("security/file-write-op", Level.ERROR),
        ("security/custom-op", Level.NOTE),
    ]


@pytest.mark.oracle
def test_all_operations_are_tensorflows_and_take_what_we_think(tensorflow: Any) -> None:
    del tensorflow
    from tensorflow.core.framework.op_def_pb2 import OpList
    from tensorflow.python.client.pywrap_tf_session import TF_GetAllOpList, TF_GetBuffer

    operations = OpList()
    operations.ParseFromString(TF_GetBuffer(TF_GetAllOpList()))
    known = {op.name: op for op in operations.op}
    words = ("file", "path", "prefix", "pattern", "dir", "address", "name", "uri", "chunk")
    for name, risky in RISKY_OPS.items():
        assert name in known, name
        inputs = [each.name for each in known[name].input_arg]
        for number in risky.inputs:
            assert any(word in inputs[number] for word in words), (name, inputs[number])
        if risky.attribute:
            assert risky.attribute in {each.name for each in known[name].attr}, name


# Configs


def layer(kind: str, config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": "a", **config}, **more}


def parts(config: object) -> Iterator[tuple[str, Level]]:
    for finding in risky_parts(config, "m.keras", "`config.json`"):
        assert finding.path == "m.keras"
        assert (finding.where or "").startswith("`config.json`")
        yield finding.rule, finding.level


def test_a_usual_config_is_clean() -> None:
    dense = layer("Dense", {"units": 2, "kernel_initializer": layer("GlorotUniform", {})})
    tensor = {"class_name": "__keras_tensor__", "config": {"shape": [None, 2]}}
    own = layer("Dense", {}, module="keras.layers", registered_name=None)
    vocabulary = layer("StringLookup", {"vocabulary": ["a", "b"]})
    assert list(parts(layer("Sequential", {"layers": [dense, own, tensor, vocabulary]}))) == []


def test_a_lambda_of_keras_2_is_an_error_and_names_its_layer() -> None:
    config = layer("Sequential", {"name": "s", "layers": [
        layer("Lambda", {"name": "odd", "function": ["4wEAAAA=", None, None]})]})  # fmt: skip
    [finding] = risky_parts(config, "m.h5", "`model_config`")
    assert (finding.rule, finding.level) == ("security/lambda", Level.ERROR)
    assert finding.where == "`model_config`: layer `odd`"


def test_a_lambda_of_keras_3_is_an_error() -> None:
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}
    assert list(parts(layer("Lambda", {"function": code}))) == [
        ("security/lambda", Level.ERROR),
        ("security/bytecode", Level.ERROR),
    ]


def test_a_lambda_with_a_name_alone_is_a_warning() -> None:
    assert list(parts(layer("Lambda", {"function": "scale"}))) == [
        ("security/lambda", Level.WARNING)
    ]


def test_bytecode_anywhere_is_an_error() -> None:
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}
    assert list(parts(layer("Dense", {"activation": code}))) == [("security/bytecode", Level.ERROR)]


@pytest.mark.parametrize(
    "part",
    [
        {"class_name": "function", "config": "system", "module": "os"},
        {"class_name": "function", "config": "f", "module": "subprocess"},
        {"class_name": "Popen", "config": {}, "module": "subprocess"},
        {"class_name": "get_file", "config": {"origin": "http://x"}, "module": "keras.utils"},
        {"class_name": "function", "config": "eval", "module": "builtins"},
        {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
        {"class_name": "TFOpLambda", "config": {"function": "numpy_function"}},
    ],
)
def test_what_no_layer_names(part: dict[str, Any]) -> None:
    assert list(parts([part])) == [("security/unsafe-reference", Level.ERROR)]


def test_an_operation_of_tensorflow_is_usual() -> None:
    assert list(parts(layer("TFOpLambda", {"function": "math.multiply"}))) == []


def test_a_pickle_in_a_config_is_an_error() -> None:
    assert list(parts(layer("TorchModuleWrapper", {"module": "gAJ="}))) == [
        ("security/bytecode", Level.ERROR)
    ]


def test_another_model_is_an_error() -> None:
    assert list(parts(layer("TFSMLayer", {"filepath": "/tmp/x"}))) == [
        ("security/external-file", Level.ERROR)
    ]


@pytest.mark.parametrize(
    ("kind", "key"),
    [("StringLookup", "vocabulary"), ("TextVectorization", "vocabulary"),
     ("StaticHashTable", "filename")],
)  # fmt: skip
def test_a_vocabulary_elsewhere_is_a_warning(kind: str, key: str) -> None:
    [finding] = risky_parts(layer(kind, {key: "/etc/passwd"}), "m.keras", "x")
    assert (finding.rule, finding.level) == ("security/external-file", Level.WARNING)
    assert "`/etc/passwd`" in finding.text


@pytest.mark.parametrize(
    "part",
    [
        layer("Odd", {}, module="mine.layers", registered_name="Odd"),
        layer("Odd", {}, module=None, registered_name="pkg>Odd"),
        {"class_name": "function", "config": "odd", "module": "builtins"},
    ],
)
def test_what_is_not_of_keras_is_a_note_once(part: dict[str, Any]) -> None:
    assert list(parts([part, part])) == [("security/custom-object", Level.NOTE)]


def test_deep_configs_end() -> None:
    config: Any = layer("Lambda", {"function": "f"})
    for _ in range(5000):
        config = [config]
    assert list(parts(config)) == [("security/lambda", Level.WARNING)]
