from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import open_tensors
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import ConvertError, CorruptFileError
from tensorferry.converters.graphs import meta_graph
from tensorferry.converters.graphs.graph_nodes import Nodes
from tensorferry.converters.graphs.meta_graph import GraphFacts, graph_facts, read_meta
from tensorferry.converters.graphs.variable_roles import describe_names, find_meta
from tensorferry.converters.tensors import Evidence, Origin, Role, TensorDict

# Building graphs


def node(name: str, op: str, *inputs: str, **attrs: bytes) -> bytes:
    parts = [(1, name.encode()), (2, op.encode()), *((3, each.encode()) for each in inputs)]
    parts += [(5, message((1, key.encode()), (2, value))) for key, value in attrs.items()]
    return message(*parts)


def strings(name: str, *texts: str, size: int | None = None) -> bytes:
    """Return a Const node with strings."""
    shape = message((2, message((1, len(texts) if size is None else size))))
    tensor = message((1, 7), (2, shape), *((8, text.encode()) for text in texts))
    return node(name, "Const", value=message((8, tensor)))


def save(scope: str, op: str, **variables: str) -> list[bytes]:
    """Return a save node with its keys, and the input stored under each."""
    names, specs = f"{scope}/names", f"{scope}/specs"
    fixed = ["file", names] if op == "Save" else ["file", names, specs]
    return [
        strings(names, *variables),
        strings(specs, *("" for _ in variables)),
        node(f"{scope}/{op}", op, *fixed, *variables.values()),
    ]


def variable_def(name: str, *, trained: bool = False) -> bytes:
    return message((1, f"{name}:0".encode()), (7, 1 if trained else None))


def collection(name: str, *values: bytes, kind: int = 2) -> tuple[int, bytes]:
    return 4, message(
        (1, name.encode()), (2, message((kind, message(*((1, value) for value in values)))))
    )


def meta(nodes: list[bytes], *collections: tuple[int, bytes]) -> bytes:
    return message((2, message(*((1, each) for each in nodes))), *collections)


def facts_of(data: bytes, *keys: str) -> GraphFacts:
    body = Body(MemorySource(Path("m.meta"), data), 0, len(data), data)
    return graph_facts(meta_graph.meta_graph(body), keys)


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., dict[str, Origin]]:
    def run(data: bytes, *keys: str) -> dict[str, Origin]:
        (tmp_path / "m.meta").write_bytes(data)
        origins, notes, _ = describe_names(keys, tmp_path / "m.meta")
        assert notes == []
        return origins

    return run


# Savers


@pytest.mark.parametrize("op", ["SaveV2", "SaveSlices", "Save"])
@pytest.mark.parametrize("kind", ["Variable", "VariableV2", "VarHandleOp"])
def test_every_save_node_maps_keys_to_variables(op: str, kind: str) -> None:
    nodes = [node("v", kind), node("v/read", "ReadVariableOp", "v"), node("c", "Cast", "v/read:0")]
    facts = facts_of(meta([*nodes, *save("save", op, a="v", b="v/read", c="c")]), "a", "b", "c")
    assert facts.saved == {"a": ("v",), "b": ("v",), "c": ("v",)}


def test_a_partitioned_variable_has_a_node_per_part() -> None:
    nodes = [node("w/part_0", "VarHandleOp"), node("w/part_1", "VarHandleOp")]
    nodes += [
        strings("names", "w", "w"),
        node("save/SaveV2", "SaveV2", "file", "names", "specs", "w/part_0", "w/part_1"),
    ]
    assert facts_of(meta(nodes), "w").saved == {"w": ("w/part_0", "w/part_1")}


def test_sharded_savers_have_several_nodes() -> None:
    nodes = [node("a", "VariableV2"), node("b", "VariableV2")]
    nodes += [strings("names", "a"), strings("names_1", "b")]
    nodes += [
        node("save/SaveV2", "SaveV2", "file", "names", "specs", "a"),
        node("save/SaveV2_1", "SaveV2", "file", "names_1", "specs", "b"),
    ]
    assert facts_of(meta(nodes), "a", "b").saved == {"a": ("a",), "b": ("b",)}


def test_of_several_savers_the_one_that_knows_the_keys_counts() -> None:
    nodes = [node("a", "VariableV2"), node("b", "VariableV2")]
    nodes += save("save", "SaveV2", x="a") + save("save_1", "SaveV2", x="b", y="a")
    assert facts_of(meta(nodes), "x", "y").saved == {"x": ("b",), "y": ("a",)}


def test_what_no_variable_feeds_is_not_mapped() -> None:
    nodes = [node("t", "Add", "p", "q"), *save("save", "SaveV2", t="t", gone="nowhere")]
    assert facts_of(meta(nodes), "t", "gone").saved == {}


def test_contents_of_tables_are_tables(describe: Callable[..., dict[str, Origin]]) -> None:
    nodes = [node("t/export", "LookupTableExportV2", "t")]
    nodes += save("save", "SaveV2", **{"t-keys": "t/export", "t-values": "t/export:1"})
    origins = describe(meta(nodes), "t-keys", "t-values")
    assert {origin.role for origin in origins.values()} == {Role.TABLE}


def test_cycles_end() -> None:
    nodes = [node("a", "Identity", "b"), node("b", "Identity", "a"), *save("s", "SaveV2", a="a")]
    assert facts_of(meta(nodes), "a").saved == {}


def test_a_constant_that_claims_more_keys_than_there_are_inputs_maps_nothing() -> None:
    nodes = [node("a", "VariableV2"), strings("names", "a", size=1 << 40)]
    nodes += [node("save/SaveV2", "SaveV2", "file", "names", "specs", "a")]
    assert facts_of(meta(nodes), "a").saved == {}


# Roles


def _trained(*extra: bytes, **variables: str) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """Return nodes and collections: `w` is trained, the others are not."""
    nodes = [node(name, "VariableV2") for name in ("w", *variables.values())]
    nodes += save("save", "SaveV2", w="w", **variables)
    all_of_them = [variable_def(name) for name in ("w", *variables.values())]
    trained = collection("trainable_variables", variable_def("w"))
    return [*nodes, *extra], [collection("variables", *all_of_them), trained]


@pytest.mark.parametrize("prefix", ["", "Resource", "Sparse", "ResourceSparse"])
def test_slots_and_hyper_parameters_are_inputs_of_apply(
    describe: Callable[..., dict[str, Origin]], prefix: str
) -> None:
    indices = ["indices"] if "Sparse" in prefix else []
    apply = node("go", f"{prefix}ApplyMomentum", "w", "q", "rate", "g", *indices, "mu_read")
    nodes, collections = _trained(apply, node("mu_read", "Identity", "mu"), q="q", mu="mu", o="o")
    nodes.append(node("g", "Identity", "o"))
    origins = describe(meta(nodes, *collections), "w", "q", "mu", "o")
    assert origins["w"] == Origin("w", Role.WEIGHT, None, True, Evidence.GRAPH)
    assert origins["q"] == Origin("q", Role.SLOT, "w", False, Evidence.GRAPH, "momentum")
    assert origins["mu"] == Origin("mu", Role.OPTIMIZER, None, False, Evidence.GRAPH)
    assert origins["o"].role is Role.STATE


def test_owners_go_by_the_keys_that_a_saver_gave(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    nodes = [node("w", "VariableV2"), node("w/Adam", "VariableV2")]
    nodes += [node("go", "ApplyAdam", "w", "w/Adam"), *save("s", "SaveV2", old="w", other="w/Adam")]
    origins = describe(meta(nodes), "old", "other")
    assert origins["other"] == Origin("other", Role.SLOT, "old", False, Evidence.GRAPH, "m")


def test_names_of_variables_count_and_not_keys(describe: Callable[..., dict[str, Origin]]) -> None:
    nodes, collections = _trained(x="w/Adam", y="bn/moving_mean")
    origins = describe(meta(nodes, *collections), "w", "x", "y")
    assert origins["x"] == Origin("x", Role.SLOT, "w", False, Evidence.NAME, "Adam")
    assert origins["y"] == Origin("y", Role.STATE, None, False, Evidence.NAME)


def _average(target: str, source: str, name: str = "update") -> list[bytes]:
    return [
        node(f"{name}/sub", "Sub", f"{target}", source),
        node(f"{name}/mul", "Mul", f"{name}/sub", "rate"),
        node(name, "AssignSub", target, f"{name}/mul"),
    ]


def test_moving_averages_follow_a_variable_or_a_statistic(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    nodes, collections = _trained(a="avg", s="stat")
    nodes += [node("r", "Identity", "w"), *_average("avg", "r", "one")]
    nodes += [node("batch", "Mean", "x"), *_average("stat", "batch", "two")]
    origins = describe(meta(nodes, *collections), "w", "a", "s")
    assert origins["a"] == Origin("a", Role.AVERAGE, "w", False, Evidence.GRAPH)
    assert origins["s"] == Origin("s", Role.STATE, None, False, Evidence.GRAPH)


@pytest.mark.parametrize("change", ["Neg", "Sub", "Mul"])
def test_other_subtractions_make_no_average(
    describe: Callable[..., dict[str, Origin]], change: str
) -> None:
    nodes, collections = _trained(a="avg")
    nodes += [node("c", change, "x", "y"), node("up", "AssignSub", "avg", "c")]
    assert describe(meta(nodes, *collections), "w", "a")["a"].role is Role.STATE


def test_the_collection_of_averages_and_a_name_are_enough(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    shadow = "w/ExponentialMovingAverage"
    nodes, collections = _trained(**{shadow: shadow})
    listed = collection("moving_average_variables", variable_def("w"))
    origins = describe(meta(nodes, *collections, listed), "w", shadow)
    assert origins[shadow] == Origin(shadow, Role.AVERAGE, "w", False, Evidence.GRAPH)


def test_batch_norm_takes_statistics(describe: Callable[..., dict[str, Origin]]) -> None:
    nodes, collections = _trained(m="m", v="v", g="g")
    nodes.append(node("bn", "FusedBatchNormV3", "x", "g", "b", "m", "v"))
    origins = describe(meta(nodes, *collections), "w", "m", "v", "g")
    assert origins["m"] == Origin("m", Role.STATE, None, False, Evidence.GRAPH)
    assert origins["v"] == Origin("v", Role.STATE, None, False, Evidence.GRAPH)


@pytest.mark.parametrize("kind", [1, 2])
def test_the_global_step_is_a_counter(
    describe: Callable[..., dict[str, Origin]], kind: int
) -> None:
    nodes, collections = _trained(n="n")
    value = b"n:0" if kind == 1 else variable_def("n")
    origins = describe(meta(nodes, *collections, collection("global_step", value, kind=kind)), "n")
    assert origins["n"] == Origin("n", Role.COUNTER, None, False, Evidence.GRAPH)


def test_frozen_weights_are_weights_that_are_not_trained(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    nodes, collections = _trained(**{"base/kernel": "base/kernel"})
    origins = describe(meta(nodes, *collections), "w", "base/kernel")
    assert origins["base/kernel"][1:4] == (Role.WEIGHT, None, False)


def test_without_collections_nothing_is_said_of_training(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    nodes = [node("w", "VariableV2"), *save("save", "SaveV2", w="w")]
    assert describe(meta(nodes), "w") == {"w": Origin("w")}


def test_a_learning_rate_that_hangs_on_the_loss_claims_nothing(
    describe: Callable[..., dict[str, Origin]],
) -> None:
    chain = [node(f"n{i}", "Add", f"n{i + 1}") for i in range(200)]
    apply = node("go", "ApplyGradientDescent", "w", "n0", "g")
    nodes, collections = _trained(apply, *chain, node("n200", "Identity", "o"), o="o")
    assert describe(meta(nodes, *collections), "w", "o")["o"].role is Role.STATE


# Files


def test_text_and_binary_say_the_same(tmp_path: Path) -> None:
    text = b"""
        graph_def { node { name: "w" op: "VariableV2" }
          node { name: "names" op: "Const" attr { key: "value" value { tensor {
            dtype: DT_STRING tensor_shape { dim { size: 1 } } string_val: "w" } } } }
          node { name: "save/SaveV2" op: "SaveV2" input: "f" input: "names" input: "s" input: "w" }
        }
        collection_def { key: "trainable_variables" value { bytes_list { value: "\\n\\003w:0" } } }
    """
    (tmp_path / "m.meta").write_bytes(text)
    origins, notes, _ = describe_names(["w"], tmp_path / "m.meta")
    assert origins == {"w": Origin("w", Role.WEIGHT, None, True, Evidence.GRAPH)}
    assert notes == []


def test_the_graph_is_found_beside_the_checkpoint(tmp_path: Path) -> None:
    prefix = tmp_path / "model.ckpt-7"
    assert find_meta(prefix) is None
    (tmp_path / "model.ckpt-7.pbtxt").touch()
    assert find_meta(prefix) == tmp_path / "model.ckpt-7.pbtxt"
    (tmp_path / "model.ckpt-7.meta").touch()
    assert find_meta(prefix) == tmp_path / "model.ckpt-7.meta"


def test_a_graph_that_is_not_the_checkpoints_own_is_noted(tmp_path: Path) -> None:
    (tmp_path / "m.meta").write_bytes(meta([]))
    origins, [note], _ = describe_names(["w", "w/Adam"], tmp_path / "m.meta")
    assert "does not save 2 of 2 tensors, such as `w`" in note.text
    assert origins["w/Adam"].owner == "w"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x12\x7f",
        b"\x12\x02\x0a\x7f",
        b"\x12\x01\x0b",
        b"graph_def {",
        b"\x08",
    ],
)
def test_a_broken_graph_is_a_note_and_names_tell(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.meta").write_bytes(data)
    origins, [note], _ = describe_names(["w", "w/Momentum"], tmp_path / "m.meta")
    assert "`m.meta` tells nothing" in note.text
    assert origins["w/Momentum"].role is Role.SLOT


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.meta").write_bytes(bytes(100))
    monkeypatch.setattr(meta_graph, "META_BYTES", 99)
    with pytest.raises(ConvertError, match="too large"):
        read_meta(tmp_path / "m.meta")
    monkeypatch.setattr(meta_graph, "TEXT_BYTES", 9)
    (tmp_path / "m.meta").write_text("graph_def { }")
    with pytest.raises(ConvertError, match="too long"):
        read_meta(tmp_path / "m.meta")


def test_a_folder_called_meta_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "m.meta").mkdir()
    with pytest.raises(ConvertError, match="reading failed: Is a directory"):
        read_meta(tmp_path / "m.meta")


def test_nodes_written_in_another_order_are_found() -> None:
    long = "n" * 200
    graph = message(
        (4, message((1, 27))),
        (3, 7),
        (1, message((2, b"Identity"), (1, b"x"), (3, b"^control"), (3, b"y:1"))),
        (1, message((1, long.encode()), (2, b"VariableV2"))),
    )
    nodes = Nodes(graph, Path("g"))
    assert nodes.op(b"x") == b"Identity"
    assert nodes.inputs(b"x") == (b"y:1",)
    assert nodes.variable(long.encode()) == long.encode()
    assert len(nodes) == 2


@given(st.binary(max_size=60))
def test_any_bytes_are_a_graph_or_corrupt(data: bytes) -> None:
    try:
        facts = facts_of(message((2, data)), "w")
    except CorruptFileError:
        return
    assert set(facts.saved) <= {"w"}


def test_damage_is_a_note_or_harmless(tmp_path: Path, samples: Path) -> None:
    data = (samples / "tf1_multi_shard/model.ckpt-7.meta").read_bytes()
    start = data.index(b"save/SaveV2")
    for at in [*range(40), *range(start - 400, start + 200, 3)]:
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        (tmp_path / "m.meta").write_bytes(damaged)
        origins, _, _ = describe_names(["dense/kernel", "a"], tmp_path / "m.meta")
        assert list(origins) == ["dense/kernel", "a"]
    for length in range(0, len(data), 997):
        (tmp_path / "m.meta").write_bytes(data[:length])
        assert len(describe_names(["dense/kernel"], tmp_path / "m.meta")[0]) == 1


def test_a_graph_does_not_change_tensors(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_tensors(tmp_path / "model.ckpt-7") as tensors:
        before = {name: bytes(tensors[name].read().tobytes()) for name in tensors}
    (tmp_path / "model.ckpt-7.meta").write_bytes(b"\x12\x7f")
    with open_tensors(tmp_path / "model.ckpt-7") as tensors:
        assert "tells nothing" in tensors.notes[0].text
        assert {name: bytes(tensors[name].read().tobytes()) for name in tensors} == before


# Real files


def test_all_keys_of_the_corpus_are_mapped(corpus: Path) -> None:
    seen = 0
    for path in sorted((corpus / "files/ckpt_v2").rglob("*.meta")):
        tensors = open_tensors(path)
        tensors.close()
        facts = graph_facts(read_meta(path), tensors)
        assert set(facts.saved) == set(tensors)
        assert {tensors.origin(name).role for name in tensors}.isdisjoint({Role.UNKNOWN})
        seen += len(tensors)
    assert seen > 400


def test_all_keys_of_old_checkpoints_are_mapped(corpus: Path) -> None:
    seen = 0
    for path in sorted((corpus / "files/ckpt_v1").rglob("*.meta")):
        oracle = corpus / "oracle" / f"{path.parent.name}.json"
        keys = json.loads(oracle.read_text())["tensors"]
        origins, notes, _ = describe_names(keys, path)
        assert not notes
        assert {origin.role for origin in origins.values()} == {Role.WEIGHT}
        assert {origin.evidence for origin in origins.values()} == {Evidence.GRAPH}
        seen += len(keys)
    assert seen == 6


def test_roles_of_a_real_model(corpus: Path) -> None:
    tensors = open_tensors(
        corpus / "files/ckpt_v2/cmusphinx__g2p-seq2seq/v2-g2p-ckpt0-201711/model.ckpt-0.index"
    )
    tensors.close()
    roles = [tensors.origin(name).role for name in tensors]
    assert roles.count(Role.WEIGHT) == 23
    assert roles.count(Role.SLOT) == 44
    # Adam updates embeddings without an Apply node: the scope, the name and the shape tell.
    slots = [name for name in tensors if "source_embedding/W/Adam" in name]
    assert {tensors.origin(name).owner for name in slots} == {
        "model/att_seq2seq/encode/source_embedding/W"
    }


# TensorFlow itself

Live = Callable[..., dict[str, Origin]]
OPTIMIZERS = [
    ("AdamOptimizer", {}),
    ("MomentumOptimizer", {"momentum": 0.9}),
    ("RMSPropOptimizer", {}),
    ("RMSPropOptimizer", {"centered": True}),
    ("AdagradOptimizer", {}),
    ("AdadeltaOptimizer", {}),
    ("FtrlOptimizer", {}),
    ("ProximalAdagradOptimizer", {}),
    ("GradientDescentOptimizer", {}),
]


@pytest.fixture
def v1(tensorflow: Any) -> Iterator[Any]:
    """Return TensorFlow 1's API inside a graph of its own."""
    with tensorflow.Graph().as_default():
        yield tensorflow.compat.v1


def _saved(v1: Any, folder: Path, **options: Any) -> TensorDict:
    """Save all variables of the graph and open what was written."""
    with v1.Session() as session:
        session.run(v1.variables_initializer(v1.trainable_variables()))
        session.run(v1.global_variables_initializer())  # averages begin as their variables
        v1.train.Saver(**options).save(session, str(folder / "m"))
    tensors = open_tensors(folder / "m")
    tensors.close()
    return tensors


def _model(v1: Any, *, resource: bool, partitions: int | None = None) -> Any:
    """Return the loss of a small model with an embedding."""
    partitioner = v1.fixed_size_partitioner(partitions) if partitions else None
    with v1.variable_scope("net", use_resource=resource, partitioner=partitioner):
        table = v1.get_variable("emb/table", [6, 4])
        kernel = v1.get_variable("fc/kernel", [4, 2])
        bias = v1.get_variable("fc/bias", [2])
    rows = v1.nn.embedding_lookup(table, [0, 3])
    return v1.reduce_sum(v1.nn.bias_add(rows @ v1.convert_to_tensor(kernel), bias))


@pytest.mark.oracle
@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS)
def test_slots_are_those_of_the_live_optimizer(
    v1: Any, tmp_path: Path, name: str, arguments: dict[str, Any], resource: bool
) -> None:
    optimizer = getattr(v1.train, name)(0.1, **arguments)
    step = v1.train.get_or_create_global_step()
    with v1.variable_scope("scope"):
        optimizer.minimize(_model(v1, resource=resource), step)
    truth = {
        optimizer.get_slot(variable, slot).op.name: (variable.op.name, slot)
        for variable in v1.trainable_variables()
        for slot in optimizer.get_slot_names()
    }
    tensors = _saved(v1, tmp_path)
    origins = {name: tensors.origin(name) for name in tensors}
    slots = {n: o for n, o in origins.items() if o.role is Role.SLOT}
    assert {n: (o.owner, o.slot) for n, o in slots.items()} == truth
    trained = {n for n, o in origins.items() if o.trainable}
    assert trained == {variable.op.name for variable in v1.trainable_variables()}
    assert trained == {n for n, o in origins.items() if o.role is Role.WEIGHT}
    assert origins["global_step"].role is Role.COUNTER
    rest = {n for n, o in origins.items() if o.role is Role.OPTIMIZER}
    assert rest == set(origins) - trained - set(slots) - {"global_step"}


@pytest.mark.oracle
@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_parts_of_a_variable_are_one(
    v1: Any, tmp_path: Path, resource: bool, sharded: bool
) -> None:
    optimizer = v1.train.AdamOptimizer(0.1)
    optimizer.minimize(_model(v1, resource=resource, partitions=2))
    tensors = _saved(v1, tmp_path, sharded=sharded)
    weights = {name for name in tensors if tensors.origin(name).role is Role.WEIGHT}
    assert weights == {"net/emb/table", "net/fc/kernel", "net/fc/bias"}
    for name in weights:
        for suffix, slot in (("Adam", "m"), ("Adam_1", "v")):
            origin = tensors.origin(f"{name}/{suffix}")
            assert (origin.role, origin.owner, origin.slot) == (Role.SLOT, name, slot)
    assert len(tensors) == 3 * len(weights) + 2


@pytest.mark.oracle
@pytest.mark.parametrize("resource", [False, True])
@pytest.mark.parametrize("name", ["ExponentialMovingAverage", "Shadow"])
def test_averages_are_those_of_the_live_average(
    v1: Any, tmp_path: Path, resource: bool, name: str
) -> None:
    loss = _model(v1, resource=resource)
    average = v1.train.ExponentialMovingAverage(0.9, name=name)
    with v1.control_dependencies([loss]):
        average.apply(v1.trainable_variables())
    truth = {
        average.average(variable).op.name: variable.op.name for variable in v1.trainable_variables()
    }
    tensors = _saved(v1, tmp_path)
    found = {
        name: tensors.origin(name).owner
        for name in tensors
        if tensors.origin(name).role is Role.AVERAGE
    }
    assert found == truth
    assert set(tensors) == set(truth) | set(truth.values())


@pytest.mark.oracle
def test_what_zero_debiasing_needs_is_no_average(v1: Any, tmp_path: Path) -> None:
    from tensorflow.python.training import moving_averages

    loss = _model(v1, resource=False)
    with v1.variable_scope("", use_resource=False):
        mean = v1.get_variable("mean", [], trainable=False)
    moving_averages.assign_moving_average(mean, loss, 0.9, zero_debias=True)
    tensors = _saved(v1, tmp_path)
    assert tensors.origin("mean").role is Role.STATE
    assert tensors.origin("mean/biased").role is Role.STATE
    assert tensors.origin("mean/local_step").role is Role.COUNTER
    assert tensors.origin("mean/biased").owner == "mean"


@pytest.mark.oracle
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_statistics_of_batch_norm_are_state(
    v1: Any, tmp_path: Path, fused: bool, training: bool
) -> None:
    import tf_keras

    inputs = v1.placeholder("float32", [None, 4, 4, 3] if fused else [None, 3])
    with v1.variable_scope("net"):
        layer = tf_keras.layers.BatchNormalization(name="bn")
        layer(inputs, training=training)
    tensors = _saved(v1, tmp_path)
    roles = {name.rpartition("/")[2]: tensors.origin(name) for name in tensors}
    assert {leaf for leaf, origin in roles.items() if origin.role is Role.STATE} == {
        "moving_mean", "moving_variance",
    }  # fmt: skip
    assert {leaf for leaf, origin in roles.items() if origin.trainable} == {"gamma", "beta"}


@pytest.mark.oracle
def test_a_saver_may_call_variables_anything(v1: Any, tmp_path: Path) -> None:
    optimizer = v1.train.MomentumOptimizer(0.1, 0.9)
    optimizer.minimize(_model(v1, resource=True))
    names = {variable.op.name: f"x{n}" for n, variable in enumerate(v1.global_variables())}
    renamed = {names[variable.op.name]: variable for variable in v1.global_variables()}
    tensors = _saved(v1, tmp_path, var_list=renamed)
    for variable in v1.trainable_variables():
        slot = optimizer.get_slot(variable, "momentum").op.name
        assert tensors.origin(names[slot]).owner == names[variable.op.name]
        assert tensors.origin(names[slot]).slot == "momentum"


@pytest.mark.oracle
def test_the_text_form_says_the_same(v1: Any, tmp_path: Path) -> None:
    v1.train.AdamOptimizer(0.1).minimize(_model(v1, resource=True))
    binary = _saved(v1, tmp_path)
    v1.train.export_meta_graph(
        str(tmp_path / "m.meta"), as_text=True, saver_def=v1.train.Saver().saver_def
    )
    text = open_tensors(tmp_path / "m")
    text.close()
    assert (tmp_path / "m.meta").read_bytes().startswith(b"meta_info_def")
    assert {n: text.origin(n) for n in text} == {n: binary.origin(n) for n in binary}
