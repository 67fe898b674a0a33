"""Object-based checkpoints as targets: graphs kept, taken over, and made of names."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers.bundle_messages import parse_entry
from tensorferry.converters.containers.sstable import Table
from tensorferry.converters.containers.tensor_bundle import Bundle, index_path, shard_path
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    NotRecognisedError,
    TargetError,
    UsageError,
    VerificationError,
)
from tensorferry.converters.formats.saved_model import FORMAT as SAVED_MODEL
from tensorferry.converters.formats.tf_checkpoint import FORMAT
from tensorferry.converters.graphs.object_graph_writer import build_graph
from tensorferry.converters.graphs.templates import attach
from tensorferry.converters.graphs.trackables import (
    GRAPH_KEY,
    VALUE,
    Attribute,
    Node,
    ObjectGraph,
)
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.sources import FileSource
from tensorferry.converters.tensors import Origin, Role, Tensor, TensorDict
from tensorferry.converters.testing.contracts import (
    Values,
    WriterContract,
    contents,
    listing,
    tensors_of,
)
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.verify import verify_copy

SAMPLES = {
    "tf_module_object": "ckpt-1",
    "max_shard_slices": "ckpt-1",
    "tf_keras_object": "ckpt-1",
    "tf_keras_weights": "weights",
    "keras3_object": "ckpt-1",
}
SAVES = f"save_counter/.ATTRIBUTES/{VALUE}"


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, samples: Path) -> Path:
    return samples / request.param / SAMPLES[request.param]


def opened(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def planned(tensors: TensorDict, target: Path, **options: Any) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors, target, WriteOptions(**options))


def written(tensors: TensorDict, target: Path, **options: Any) -> Plan:
    plan = planned(tensors, target, **options)
    write_plan(plan)
    return plan


def graph_bytes(prefix: Path) -> bytes:
    return b"".join(Bundle.open(prefix).tensors[GRAPH_KEY].elements())


def graph_of(prefix: Path) -> ObjectGraph:
    return ObjectGraph.parse(graph_bytes(prefix))


def keys_of(prefix: Path) -> set[str]:
    return set(Bundle.open(prefix).tensors) - {GRAPH_KEY}


def told(plan: Plan) -> list[str]:
    return [note.text for note in plan.notes if "`checkpoint` file" not in note.text]


def paths(graph: ObjectGraph) -> dict[str, str]:
    """Return the key of what each path through the graph leads to."""
    found: dict[str, str] = {}

    def visit(number: int, path: tuple[str, ...]) -> None:
        for attribute in graph.nodes[number].attributes:
            found["/".join(path)] = attribute.key
        for child, name in graph.nodes[number].children:
            visit(child, (*path, name))

    visit(0, ())
    return found


# What a source's own graph says is kept


@pytest.mark.parametrize("names", ["readable", "key"])
@pytest.mark.parametrize("limit", [None, 100])
def test_graph_and_keys_of_the_source_are_kept(
    sample: Path, tmp_path: Path, names: Any, limit: int | None
) -> None:
    options = ConvertOptions(
        read=ReadOptions(names=names),
        write=WriteOptions(max_shard_bytes=limit),
        verify=True,
        strict=True,
    )
    report = convert(sample, tmp_path / "m.ckpt", options)
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(sample)
    assert keys_of(tmp_path / "m.ckpt") == keys_of(sample)
    assert set(report.counts) == {"written"}
    with opened(sample) as source, opened(tmp_path / "m.ckpt") as copy:
        assert contents(copy) == contents(source)
        assert copy.origins == source.origins
    assert (limit is not None) == shard_path(tmp_path / "m.ckpt", 1, 99).parent.joinpath(
        f"m.ckpt.data-00001-of-{Bundle.open(tmp_path / 'm.ckpt').header.shards:05d}"
    ).is_file()


def test_the_report_names_the_keys(samples: Path, tmp_path: Path) -> None:
    report = convert(samples / "tf_keras_object", tmp_path / "m.ckpt")
    rows = {row["name"]: row for row in report.rows()}
    assert rows["d1/kernel"]["stored_name"] == rows["d1/kernel"]["key"] != "d1/kernel"


def test_what_is_left_out_is_left_out_of_the_graph_too(sample: Path, tmp_path: Path) -> None:
    options = ConvertOptions(weights_only=True, verify=True, strict=True)
    report = convert(sample, tmp_path / "m.ckpt", options)
    assert any("left out of the object graph too" in note.text for note in report.notes)
    before, after = graph_of(sample), graph_of(tmp_path / "m.ckpt")
    assert [node.children for node in after.nodes] == [node.children for node in before.nodes]
    listed = {attribute.key for node in after.nodes for attribute in node.attributes}
    assert listed == keys_of(tmp_path / "m.ckpt") < keys_of(sample)
    assert not any(node.slots for node in after.nodes)
    with opened(tmp_path / "m.ckpt") as copy:  # whatever spelled the names out before
        assert set(copy) == set(report.kept)


def test_a_tensor_that_is_none_of_the_graph_costs_the_graph(samples: Path, tmp_path: Path) -> None:
    with opened(samples / "tf_keras_object") as source:
        tensors = {**source.tensors, "more": source["d1/kernel"]}
        plan = written(replace(source, tensors=tensors), tmp_path / "m.ckpt")
    (note,) = plan.notes
    assert note.kind is Kind.METADATA_LOST
    assert "--object-based" in note.text
    assert keys_of(tmp_path / "m.ckpt") == set(tensors)


def test_a_damaged_graph_is_not_written(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "tf_module_object", tmp_path / "m")
    shard = shard_path(tmp_path / "m" / "ckpt-1", 0, 1)
    data = bytearray(shard.read_bytes())
    data[data.index(b"save_counter")] ^= 1
    shard.write_bytes(data)
    with opened(tmp_path / "m") as source:
        plan = written(source, tmp_path / "m.ckpt")
        assert keys_of(tmp_path / "m.ckpt") == set(source)
    assert [note.kind for note in plan.notes] == [Kind.METADATA_LOST]


def averaged() -> TensorDict:
    """Return a variable and its average, which an optimizer holds as a slot."""
    keys = {
        "w": f"w/.ATTRIBUTES/{VALUE}",
        "ema": f"w/.OPTIMIZER_SLOT/o/average/.ATTRIBUTES/{VALUE}",
    }
    graph = ObjectGraph(
        (
            Node(children=[(1, "w"), (2, "o")]),
            Node(attributes=[Attribute(VALUE, "w", keys["w"])]),
            Node(slots=[(1, "average", 3)]),
            Node(attributes=[Attribute(VALUE, "w/average", keys["ema"])]),
        )
    )
    origins = {
        "w": Origin(keys["w"], Role.WEIGHT),
        "w/average": Origin(keys["ema"], Role.AVERAGE, "w", slot="average"),
    }
    tensors = tensors_of({"w": np.arange(3.0), "w/average": np.arange(5.0, 8.0)})
    attached = attach(Path("m"), build_graph(graph), origins)
    return replace(tensors, origins=origins, attachments=attached)


def test_averages_go_where_their_variables_were(tmp_path: Path) -> None:
    written(averaged(), tmp_path / "both.ckpt")
    convert(tmp_path / "both.ckpt", tmp_path / "m.ckpt", ConvertOptions(ema="only", verify=True))
    with opened(tmp_path / "m.ckpt", names="key") as found:
        assert list(found) == [f"w/.ATTRIBUTES/{VALUE}"]
        assert found[f"w/.ATTRIBUTES/{VALUE}"].read().tolist() == [5, 6, 7]
    assert not any(node.slots for node in graph_of(tmp_path / "m.ckpt").nodes)


def test_the_graph_of_a_saved_model_is_kept_and_copies_share_their_bytes(
    tmp_path: Path, exported_model: Callable[[Path], Path]
) -> None:
    model = exported_model(tmp_path / "model")
    report = convert(model, tmp_path / "m.ckpt", ConvertOptions(verify=True, strict=True))
    assert report.counts == {"written": 2}
    own = model / "variables" / "variables"
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(own)
    assert keys_of(tmp_path / "m.ckpt") == keys_of(own)
    assert shard_path(own, 0, 1).stat().st_size - 36 == (
        shard_path(tmp_path / "m.ckpt", 0, 1).stat().st_size
    )
    source = FileSource(index_path(tmp_path / "m.ckpt"))
    entries = {key: parse_entry(value) for key, value in Table(source).entries() if key}
    source.close()
    for i in range(2):
        first, second = (
            entries[f"{each}/{i}/.ATTRIBUTES/{VALUE}".encode()]
            for each in ("variables", "_all_variables")
        )
        assert first == second
    with SAVED_MODEL.open(Location(model), ReadOptions()) as source_tensors:
        found = contents(source_tensors)
    with opened(tmp_path / "m.ckpt", names="key") as copy:
        kernel = copy[f"_all_variables/0/.ATTRIBUTES/{VALUE}"]
        assert contents({"net/d/kernel": kernel})["net/d/kernel"] == found["net/d/kernel"]


def test_reading_back_finds_keys_that_are_missing_or_too_much(
    samples: Path, tmp_path: Path
) -> None:
    with opened(samples / "tf_module_object") as source:
        plan = written(source, tmp_path / "m.ckpt")
        assert plan.read_back
        keys = dict(plan.read_back.keys)
        verify_copy(tmp_path / "m.ckpt", plan.format, source, {}, 1, None, plan.read_back)
        for changed, what in (
            ({**keys, "more": None}, "key `more`: was not written"),
            ({key: keys[key] for key in keys if key != SAVES}, "written and should not have been"),
        ):
            back = plan.read_back._replace(keys=changed)
            with pytest.raises(VerificationError, match=what):
                verify_copy(tmp_path / "m.ckpt", plan.format, source, {}, 1, None, back)


# Graphs that are taken over


def _weights(prefix: Path, *roles: Role) -> dict[str, Tensor]:
    """Return tensors of some roles as another container would have them: no graph, no keys."""
    with opened(prefix) as source:
        return {
            name: tensor for name, tensor in source.items() if source.origin(name).role in roles
        }


def _like(sample: Path, target: Path, tensors: Mapping[str, Tensor]) -> Plan:
    given = TensorDict("memory", "tensors", dict(tensors))
    return written(given, target, layout_of=sample)


def test_all_tensors_of_a_template_give_its_graph(sample: Path, tmp_path: Path) -> None:
    plan = _like(sample, tmp_path / "m.ckpt", _weights(sample, *Role))
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(sample)
    assert keys_of(tmp_path / "m.ckpt") == keys_of(sample)
    assert not told(plan)


def test_keys_of_a_template_may_be_the_names(sample: Path, tmp_path: Path) -> None:
    with opened(sample, names="key") as source:
        tensors = dict(source.tensors)
    _like(sample, tmp_path / "m.ckpt", tensors)
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(sample)
    with opened(tmp_path / "m.ckpt", names="key") as found:
        assert contents(found) == contents(tensors)


@pytest.mark.parametrize("kind", ["tf_keras_object", "keras3_object", "tf_module_object"])
def test_weights_alone_end_the_optimizer(samples: Path, tmp_path: Path, kind: str) -> None:
    sample = samples / kind / SAMPLES[kind]
    weights = _weights(sample, Role.WEIGHT, Role.STATE, Role.UNKNOWN)
    source = tmp_path / "weights.safetensors"
    with opened(sample) as tensors:
        everything = dict(tensors.origins)
    convert(sample, source, ConvertOptions(include=tuple(weights)))
    options = WriteOptions(layout_of=sample)
    report = convert(source, tmp_path / "m.ckpt", ConvertOptions(write=options, verify=True))
    roles = (Role.TABLE, Role.TEXT)
    kept = {name for name, each in everything.items() if each.role in roles or each.key == SAVES}
    with opened(tmp_path / "m.ckpt") as found:
        assert set(found) == set(weights) | kept
        expected = {**weights, **{name: found[name] for name in kept}}
        assert contents(found) == contents(expected)
        assert set(report.kept) == set(weights)
    texts = [note.text for note in report.notes]
    assert any("taken from the template" in text and "save_counter" in text for text in texts)
    dropped = set(everything) - set(weights) - kept
    assert bool(dropped) == any("left out of the object graph" in text for text in texts)
    assert not any(node.slots for node in graph_of(tmp_path / "m.ckpt").nodes)


def test_one_error_lists_all_that_does_not_fit(samples: Path, tmp_path: Path) -> None:
    sample = samples / "tf_keras_weights"
    tensors = _weights(sample, *Role)
    missing = sorted(_weights(sample, Role.WEIGHT, Role.STATE))[:2]
    shaped, typed = sorted(_weights(sample, Role.WEIGHT, Role.STATE))[2:4]
    changed = tensors_of(
        {
            shaped: np.zeros((7, 7), "f4"),
            typed: np.zeros(tensors[typed].spec.shape, "f8"),
            "x": [b""],
        }
    )
    given = {name: each for name, each in tensors.items() if name not in missing} | {**changed}
    with pytest.raises(TargetError) as caught:
        _like(sample, tmp_path / "m.ckpt", given)
    text = caught.value.message
    assert f"2 missing: `{missing[0]}`, `{missing[1]}`" in text
    assert "1 that it does not have: `x`" in text
    assert f"`{shaped}` (expected float32 {tensors[shaped].spec.shape}, got float32 (7, 7))" in text
    assert f"`{typed}` (expected float32 {tensors[typed].spec.shape}, got float64" in text
    assert str(sample) in text
    assert "--exclude" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_long_lists_are_cut(samples: Path, tmp_path: Path) -> None:
    given = tensors_of({f"x{n:03}": np.zeros(1) for n in range(100)})
    with pytest.raises(TargetError) as caught:
        written(given, tmp_path / "m.ckpt", layout_of=samples / "tf_keras_weights")
    assert "100 that it does not have: `x000`" in caught.value.message
    assert "`x019` and 80 more" in caught.value.message
    assert "`x020`" not in caught.value.message


def test_a_tensor_by_name_and_by_key_is_refused(samples: Path, tmp_path: Path) -> None:
    sample = samples / "tf_keras_object" / "ckpt-1"
    tensors = _weights(sample, *Role)
    with opened(sample) as source:
        key = source.origin("d1/kernel").key
    with pytest.raises(TargetError, match=r"1 given by name and by key: `d1/kernel` and `.*layer"):
        _like(sample, tmp_path / "m.ckpt", {**tensors, key: tensors["d1/kernel"]})


def test_only_missing_tensors_get_another_hint(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        _like(samples / "tf_keras_weights", tmp_path / "m.ckpt", {})
    assert "convert inspect" in (caught.value.hint or "")


@pytest.mark.parametrize("scope", ["", "net/", "other/"])
def test_names_may_differ_by_that_of_the_model(
    tmp_path: Path, exported_model: Callable[[Path], Path], scope: str
) -> None:
    model = exported_model(tmp_path / "model")
    kernel, bias = np.zeros((2, 3), "f4"), np.zeros(3, "f4")
    given = tensors_of({f"{scope}d/kernel": kernel, f"{scope}d/bias": bias})
    if scope == "other/":
        with pytest.raises(TargetError, match=r"2 missing: .*; 2 that it does not have"):
            planned(given, tmp_path / "m.ckpt", layout_of=model)
        return
    plan = written(given, tmp_path / "m.ckpt", layout_of=model)
    assert keys_of(tmp_path / "m.ckpt") == keys_of(model / "variables" / "variables")
    assert any("but for their beginnings, as `d/" in text for text in told(plan)) == (not scope)


def test_names_end_with_the_longest_that_fits(tmp_path: Path) -> None:
    names = ["net/in/d/k", "net/d/k", "net/w"]
    values: dict[str, Values] = {name: np.full(2, number) for number, name in enumerate(names)}
    written(tensors_of(values), tmp_path / "old.ckpt", object_based=True)
    given = tensors_of({name.removeprefix("net/"): values[name] for name in names})
    written(given, tmp_path / "m.ckpt", layout_of=tmp_path / "old.ckpt")
    with opened(tmp_path / "m.ckpt") as found:
        assert contents(found.select(names)) == contents(tensors_of(values))
    other = tensors_of({"d/k": values["net/d/k"], "w": values["net/w"], "x/d/k": values["net/w"]})
    with pytest.raises(TargetError, match=r"3 missing: .*; 3 that it does not have"):
        planned(other, tmp_path / "x.ckpt", layout_of=tmp_path / "old.ckpt")


def test_the_template_may_be_the_one_with_the_shorter_names(tmp_path: Path) -> None:
    values = {"d/kernel": np.zeros((2, 3)), "d/bias": np.zeros(3)}
    written(tensors_of(values), tmp_path / "old.ckpt", object_based=True)
    given = tensors_of({f"net/{name}": value for name, value in values.items()})
    written(given, tmp_path / "m.ckpt", layout_of=tmp_path / "old.ckpt")
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(tmp_path / "old.ckpt")


def test_tied_weights_take_each_of_their_places(tmp_path: Path) -> None:
    values = {"embed/table": np.zeros((2, 3)), "head/kernel": np.zeros((2, 3))}
    written(tensors_of(values), tmp_path / "old.ckpt", object_based=True)
    given = tensors_of({"embed/table": np.ones((2, 3))})
    given = replace(given, aliases={"head/kernel": "embed/table", "nothing": "embed/table"})
    written(given, tmp_path / "m.ckpt", layout_of=tmp_path / "old.ckpt")
    with opened(tmp_path / "m.ckpt") as found:
        assert all((found[name].read() == 1).all() for name in values)
    sizes = [shard_path(tmp_path / name, 0, 1).stat().st_size for name in ("old.ckpt", "m.ckpt")]
    assert sizes[0] - sizes[1] == 48


@pytest.mark.parametrize("inside", ["", "ckpt-1", "ckpt-1.index", "ckpt-1.data-00000-of-00001"])
def test_a_template_is_named_as_any_checkpoint(samples: Path, tmp_path: Path, inside: str) -> None:
    sample = samples / "tf_keras_object"
    _like(sample / inside, tmp_path / "m.ckpt", _weights(sample, *Role))
    assert graph_bytes(tmp_path / "m.ckpt") == graph_bytes(sample / "ckpt-1")


def test_a_template_needs_a_graph(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no object graph: its keys are names"):
        _like(samples / "tf1_multi_shard", tmp_path / "m.ckpt", {})
    for place, got in ((samples / "README.md", "something else"), (tmp_path / "no", "nothing")):
        with pytest.raises(NotRecognisedError, match=f"checkpoint or a SavedModel, got {got}"):
            _like(place, tmp_path / "m.ckpt", {})


def test_a_graph_is_taken_over_or_made(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes an object graph over, --object-based makes one"):
        planned(
            tensors_of({}),
            tmp_path / "m.ckpt",
            layout_of=samples / "tf_keras_object",
            object_based=True,
        )


def test_what_a_template_gives_is_closed_when_it_is_written(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_sources: set[FileSource] = set()
    original = FileSource.read_into

    def recorded(source: FileSource, offset: int, target: memoryview) -> None:
        opened_sources.add(source)
        original(source, offset, target)

    sample = samples / "tf_module_object" / "ckpt-1"
    weights = _weights(sample, Role.WEIGHT, Role.STATE)
    monkeypatch.setattr(FileSource, "read_into", recorded)
    _like(sample, tmp_path / "m.ckpt", weights)
    assert any(source.path.name.startswith("ckpt-1.data") for source in opened_sources)
    of_template = [each for each in opened_sources if each.path.parent == sample.parent]
    for tensor in weights.values():
        for extent in tensor.extents or ():
            extent.source.close()
    assert all(source._descriptor < 0 for source in of_template)


# Graphs made of names


class TestObjectBased(WriterContract):
    """The counter that is added is no tensor of the source, and is looked at below."""

    FORMAT = FORMAT

    def _plan(self, tensors: TensorDict, target: Path, *, overwrite: bool = False) -> Plan:
        return planned(tensors, target, overwrite=overwrite, object_based=True)

    def _reopened(self, target: Path) -> TensorDict:
        tensors = super()._reopened(target)
        return tensors.select(name for name in tensors if name != "save_counter")


def test_names_are_paths_of_objects(tmp_path: Path) -> None:
    values: dict[str, Values] = {
        "z/kernel": np.zeros(1),
        "z": np.zeros(1),
        "a/b.c/größe": np.zeros(1),
        "/top//x": np.zeros(1),
    }
    written(tensors_of(values), tmp_path / "m.ckpt", object_based=True)
    assert keys_of(tmp_path / "m.ckpt") == {
        f"{path}/.ATTRIBUTES/{VALUE}"
        for path in ("z/kernel", "z", "a/b..c/größe", "/top//x", "save_counter")
    }
    graph = graph_of(tmp_path / "m.ckpt")
    found = paths(graph)
    assert {name: found[name] for name in values} == {
        "z/kernel": f"z/kernel/.ATTRIBUTES/{VALUE}",
        "z": f"z/.ATTRIBUTES/{VALUE}",
        "a/b.c/größe": f"a/b..c/größe/.ATTRIBUTES/{VALUE}",
        "/top//x": f"/top//x/.ATTRIBUTES/{VALUE}",
    }
    named = {each.full_name for node in graph.nodes for each in node.attributes}
    assert named == {*values, "save_counter"}


_PARTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), max_size=4)
_NAMES = st.lists(_PARTS, min_size=1, max_size=4).map("/".join).filter(lambda name: name != "")


@given(st.sets(_NAMES, min_size=1, max_size=6))
def test_any_names_make_a_graph_that_leads_to_them(names: set[str]) -> None:
    ordered = sorted(names)
    values: dict[str, Values] = {
        name: (DType.INT8, (1,), bytes([n])) for n, name in enumerate(ordered)
    }
    tensors = tensors_of(values)
    with TemporaryDirectory() as folder:
        target = Path(folder) / "m.ckpt"
        plan = written(tensors, target, object_based=True)
        with opened(target, names="key") as found:
            assert plan.read_back
            by_name = {plan.read_back.keys[key]: found[key] for key in found}
            by_name.pop(None, None)
            assert contents({name: by_name[name] for name in ordered}) == contents(tensors)
        assert set(ordered) <= set(paths(graph_of(target)))


def test_save_counter_is_there_once(tmp_path: Path) -> None:
    written(tensors_of({"a": np.zeros(1)}), tmp_path / "a.ckpt", object_based=True)
    own = {"a": np.zeros(1), "save_counter": np.int64(7).reshape(())}
    plan = written(tensors_of(own), tmp_path / "b.ckpt", object_based=True)
    for name, expected in (("a.ckpt", 1), ("b.ckpt", 7)):
        with opened(tmp_path / name) as found:
            assert found["save_counter"].read() == expected
            assert found["save_counter"].spec.dtype is DType.INT64
            assert found.origin("save_counter") == Origin(
                SAVES, Role.COUNTER, None, False, found.origin("save_counter").evidence
            )
    assert plan.stored_names["save_counter"] == SAVES


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "keeps this name for itself"),
        (GRAPH_KEY, "keeps this name for itself"),
        (f"a/.ATTRIBUTES/{VALUE}", "is a key of an object-based checkpoint already"),
        ("a/.OPTIMIZER_SLOT/o/m", "is a key of an object-based checkpoint already"),
        ("a/\udcff", "no names but UTF-8"),
    ],
)
def test_names_that_are_no_paths_are_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(TargetError, match=why) as caught:
        planned(tensors_of({name: np.zeros(1)}), tmp_path / "m.ckpt", object_based=True)
    assert "--exclude" in (caught.value.hint or "") or "--layout-of" in (caught.value.hint or "")
    assert not list(tmp_path.iterdir())


def test_parts_of_layers_have_the_names_that_tf_keras_has_for_them(tmp_path: Path) -> None:
    names = [
        "l/lstm_cell/kernel", "bi/forward_gru/gru_cell_1/kernel", "bi/backward_gru/gru_cell/kernel",
        "mha/query/kernel", "mha/key/kernel", "mha/value/kernel", "mha/attention_output/kernel",
        "d/kernel:0", "two/a_cell/w", "two/b_cell/w", "half/query/kernel",
    ]  # fmt: skip
    given = tensors_of({name: np.zeros(1) for name in names})
    written(given, tmp_path / "m.ckpt", object_based=True)
    found = paths(graph_of(tmp_path / "m.ckpt"))
    for path, name in (
        ("l/cell/kernel", names[0]),
        ("bi/forward_layer/cell/kernel", names[1]),
        ("bi/backward_layer/cell/kernel", names[2]),
        ("mha/_query_dense/kernel", names[3]),
        ("mha/_output_dense/kernel", names[6]),
        ("d/kernel", names[7]),
    ):
        assert found[path] == found[name], path
    assert not {"two/cell/w", "half/_query_dense/kernel"} & set(found)


def test_layers_are_numbered_in_their_order(tmp_path: Path) -> None:
    given = tensors_of({name: np.zeros(1) for name in ("z/k", "in/y/k", "in/x/k", "a/k", "w")})
    plan = written(given, tmp_path / "m.ckpt", object_based=True)
    found = paths(graph_of(tmp_path / "m.ckpt"))
    numbered = "layer_with_weights"
    assert found[f"{numbered}-0/k"] == found["z/k"]
    assert found[f"{numbered}-1/{numbered}-0/k"] == found["in/y/k"]
    assert found[f"{numbered}-1/{numbered}-1/k"] == found["in/x/k"]
    assert found[f"{numbered}-2/k"] == found["a/k"]
    assert f"{numbered}-3" not in found
    assert not told(plan)


def test_layers_in_no_order_have_no_numbers_and_a_note(tmp_path: Path) -> None:
    given = tensors_of({name: np.zeros(1) for name in ("a/k", "b/k")})
    plan = written(given, tmp_path / "m.ckpt", object_based=True)
    assert not [name for name in paths(graph_of(tmp_path / "m.ckpt")) if "layer_with" in name]
    (note,) = plan.notes
    assert note.kind is Kind.TARGET
    assert "in which order the layers come" in note.text


def test_slots_hang_on_the_optimizer(samples: Path, tmp_path: Path) -> None:
    source = samples / "tf1_adam_ema"
    options = ConvertOptions(write=WriteOptions(object_based=True), verify=True, strict=True)
    convert(source, tmp_path / "m.ckpt", options)
    key = f"dense/kernel/.OPTIMIZER_SLOT/optimizer/m/.ATTRIBUTES/{VALUE}"
    assert key in keys_of(tmp_path / "m.ckpt")
    with opened(source) as before, opened(tmp_path / "m.ckpt") as after:
        slots = {name for name in before if before.origin(name).role is Role.SLOT}
        assert slots
        for name in slots:
            assert after.origin(name).role is Role.SLOT
            assert after.origin(name).owner == before.origin(name).owner
            assert after.origin(name).slot == before.origin(name).slot
        assert set(after) == {*before, "save_counter"}


def test_slots_of_which_a_variable_has_two_stay_plain_variables(tmp_path: Path) -> None:
    names = ["w", "w/m", "w/m_1"]
    origins = {name: Origin(name, Role.SLOT, "w", False, slot="m") for name in names[1:]}
    given = replace(tensors_of({name: np.zeros(1) for name in names}), origins=origins)
    written(given, tmp_path / "m.ckpt", object_based=True)
    assert keys_of(tmp_path / "m.ckpt") == {f"{name}/.ATTRIBUTES/{VALUE}" for name in names} | {
        SAVES
    }


def test_tied_weights_are_objects_of_their_own_with_the_same_bytes(tmp_path: Path) -> None:
    given = replace(tensors_of({"e/t": np.arange(4.0)}), aliases={"h/k": "e/t"})
    for number, options in enumerate(({"object_based": True}, {})):
        target = tmp_path / f"{number}.ckpt"
        plan = written(given, target, **options)
        with opened(target) as found:
            assert set(found) - {"save_counter"} == {"e/t", "h/k"}
            assert found["h/k"].extents == found["e/t"].extents
        assert set(plan.stored_names) <= {"e/t"}


def test_a_graph_of_names_is_made_on_demand_though_there_is_another(
    samples: Path, tmp_path: Path
) -> None:
    options = ConvertOptions(write=WriteOptions(object_based=True), verify=True)
    convert(samples / "tf_keras_object", tmp_path / "m.ckpt", options)
    assert f"d1/kernel/.ATTRIBUTES/{VALUE}" in keys_of(tmp_path / "m.ckpt")


@pytest.mark.parametrize("mode", ["kept", "made", "like"])
def test_the_same_bytes_each_time_in_shards_too(samples: Path, tmp_path: Path, mode: str) -> None:
    source = samples / "tf_keras_object"
    options: dict[str, Any] = {"object_based": mode == "made"}
    if mode == "like":
        options["layout_of"] = samples / "tf_keras_object"
    found = []
    for jobs, folder in ((1, tmp_path / "a"), (3, tmp_path / "b")):
        folder.mkdir()
        write = WriteOptions(max_shard_bytes=200, **options)
        convert(source, folder / "m.ckpt", ConvertOptions(write=write, jobs=jobs, verify=True))
        found.append(listing(folder))
    assert found[0] == found[1]
    assert len(found[0]) > 4
