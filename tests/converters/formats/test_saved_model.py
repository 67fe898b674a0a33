from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.checksums import Algorithm
from tensorferry.converters.containers.bundle_messages import build_entry, build_header
from tensorferry.converters.containers.bundle_strings import encode_strings
from tensorferry.converters.containers.sstable import build_table, mask
from tensorferry.converters.containers.wire import message
from tensorferry.converters.digests import digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UsageError,
)
from tensorferry.converters.formats import saved_model as saved_model_module
from tensorferry.converters.formats.safetensors import FORMAT as SAFETENSORS
from tensorferry.converters.formats.saved_model import FORMAT
from tensorferry.converters.formats.tf_checkpoint import FORMAT as CHECKPOINT
from tensorferry.converters.graphs.trackables import GRAPH_KEY
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents

KERNEL = np.arange(12, dtype="<f4").reshape(3, 4)
BIAS = np.ones(4, "<f4")
VALUE = ".ATTRIBUTES/VARIABLE_VALUE"


def _open(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def _details(tensors: TensorDict) -> Any:
    return dict(tensors.details)


# Models made by hand


def const(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(message((2, message((1, dim)))) for dim in array.shape)
    tensor = message((1, 1), (2, dims), (4, array.tobytes()))
    entry = message((1, b"value"), (2, message((8, tensor))))
    return message((1, name.encode()), (2, b"Const"), (5, entry))


def graph(*nodes: bytes) -> bytes:
    return message(*((1, node) for node in nodes))


def meta(
    graph_def: bytes = b"",
    *,
    tags: tuple[str, ...] = ("serve",),
    trained: tuple[str, ...] = (),
    objects: bytes | None = None,
) -> bytes:
    """Build a MetaGraphDef; `trained` are the names of trainable variables."""
    info = message(*((4, tag.encode()) for tag in tags), (5, b"1.15.0"))
    listed = message(*((1, message((1, f"{name}:0".encode()))) for name in trained))
    collection = message((1, b"trainable_variables"), (2, message((2, listed))))
    tensor = message((1, b"x:0"), (2, 1), (3, message((2, message((1, 3))))))
    signature = message((1, message((1, b"x"), (2, tensor))), (3, b"tensorflow/serving/predict"))
    entry = message((1, b"serving_default"), (2, signature))
    return message((1, info), (2, graph_def), (4, collection), (5, entry), (7, objects))


def saved_model(*metas: bytes) -> bytes:
    return message((1, 1), *((2, each) for each in metas))


def write_variables(folder: Path, arrays: Mapping[str, np.ndarray], graph: bytes | None) -> None:
    """Write `variables/`, with an object graph if there is one."""
    data, rows = b"", {}
    for key, array in arrays.items():
        raw = array.tobytes()
        dtype = DType.named(array.dtype.name)
        assert dtype
        rows[key] = (dtype, array.shape, len(data), len(raw), mask(Algorithm.CRC32C.update(raw)))
        data += raw
    if graph is not None:
        raw, crc = encode_strings([graph])
        rows[GRAPH_KEY] = (DType.STRING, (), len(data), len(raw), crc)
        data += raw
    entries = [(b"", build_header(1))]
    for key, (dtype, shape, offset, size, crc) in sorted(rows.items()):
        entries.append((key.encode(), build_entry(dtype, shape, 0, offset, size, crc)))
    (folder / "variables").mkdir(parents=True, exist_ok=True)
    (folder / "variables" / "variables.index").write_bytes(build_table(entries))
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(data)


def tf1_model(folder: Path, *metas: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    metas = metas or (meta(trained=("lin/w", "lin/b")),)
    (folder / "saved_model.pb").write_bytes(saved_model(*metas))
    write_variables(folder, {"lin/b": BIAS, "lin/w": KERNEL, "step": np.zeros((), "<i8")}, None)
    return folder


def _reference(number: int, name: str) -> bytes:
    return message((1, number), (2, name.encode()))


def _variable(name: str, *, trainable: bool = True) -> bytes:
    return message((7, message((1, 1), (3, trainable or None), (6, name.encode()))))


def exported(folder: Path, second: np.ndarray = KERNEL) -> Path:
    """Make what Keras 3 exports: each weight twice; `second` is the other kernel."""
    root = [(1, "variables"), (2, "_all_variables")]
    lists = [[(3, "0"), (4, "1")], [(5, "0"), (6, "1")]]
    names = ["sequential/d1/kernel", "sequential/d1/bias"] * 2
    references = [message(*((1, _reference(*each)) for each in row)) for row in (root, *lists)]
    user = message((4, message((1, b"trackable_list_wrapper"))))
    saved = [each + user for each in references] + [_variable(name) for name in names]
    keys = [f"{name}/{i}/{VALUE}" for name in ("variables", "_all_variables") for i in (0, 1)]
    attributes = [
        message((2, message((1, b"VARIABLE_VALUE"), (2, name.encode()), (3, key.encode()))))
        for name, key in zip(names, keys, strict=True)
    ]
    objects = message(*((1, each) for each in (*references, *attributes)))
    folder.mkdir(parents=True, exist_ok=True)
    graph_def = graph(const("scale", np.ones((), "<f4")))
    made = saved_model(meta(graph_def, objects=message(*((1, each) for each in saved))))
    (folder / "saved_model.pb").write_bytes(made)
    values = dict(zip(keys, (KERNEL, BIAS, second, BIAS), strict=True))
    write_variables(folder, values, objects)
    return folder


SMALL_TEXT = b"""saved_model_schema_version: 1
meta_graphs {
  meta_info_def { tags: "serve" tensorflow_version: "1.3.0" }
  graph_def { node { name: "c" op: "Const" attr { key: "value" value { tensor {
    dtype: DT_FLOAT tensor_shape { dim { size: 2 } } float_val: 3 } } } } }
}
"""


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["tf1", "exported", "text", "file", "variables", "version"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        folder = tmp_path / "made" / "model"
        if request.param == "text":
            folder.mkdir(parents=True)
            (folder / "saved_model.pbtxt").write_bytes(SMALL_TEXT)
            return folder
        if request.param == "exported":
            return exported(folder)
        tf1_model(folder / "00000007" if request.param == "version" else folder)
        inside = {"file": "saved_model.pb", "variables": "variables"}.get(request.param)
        return folder / inside if inside else folder

    @pytest.fixture
    def foreign(self, samples: Path, tmp_path: Path) -> list[Path]:
        files = {
            "model.onnx": message((1, 1), (2, b"pytorch"), (7, b"")),
            "frozen.pb": graph(const("w", KERNEL)),
            "frozen.pbtxt": b'node { name: "w" op: "NoOp" }',
            "tfhub_module.pb": b"\x08\x03",
            "empty.pb": b"",
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "7" / "variables").mkdir(parents=True)
        folders = [tmp_path / "7", tmp_path / "7" / "variables"]
        others = [each for each in samples.iterdir() if not each.name.startswith("saved_model_")]
        return [*others, *folders, *(tmp_path / name for name in files)]

    def test_readable_names_and_keys_stand_for_the_same_tensors(self, sample: Path) -> None:
        """Say less than the contract: of what is stored twice, one has a name."""
        with self._open(sample) as named, self._open(sample, ReadOptions(names="key")) as keyed:
            found = {named.origin(name).key: content for name, content in contents(named).items()}
            second = named.details.get("stored_twice", {})
            assert isinstance(second, dict)
            found |= {other: found[kept] for other, kept in second.items()}
            assert found == contents(keyed)


# What a user may point at


def test_every_way_to_point_at_a_model_finds_it(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "served" / "00000123")
    places = [model, tmp_path / "served", model / "variables", model / "saved_model.pb"]
    for place in places:
        with open_tensors(place) as tensors:
            assert tensors.format == "saved-model"
            assert list(tensors) == ["lin/b", "lin/w", "step"]
    with open_tensors(model / "variables" / "variables") as tensors:
        assert tensors.format == CHECKPOINT.name


def test_a_renamed_graph_file_is_known_by_its_content(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    renamed = (model / "saved_model.pb").rename(model / "graph.bin")
    assert FORMAT.sniff(Location(renamed))
    with _open(renamed) as tensors:
        assert len(tensors) == 3


def test_of_several_versions_one_must_be_chosen(tmp_path: Path) -> None:
    for version in ("00000123", "124", "7"):
        tf1_model(tmp_path / version)
    with pytest.raises(UsageError, match="holds 3 versions") as told:
        _open(tmp_path)
    assert told.value.hint == ("choose with --step or --latest; there are `7`, `00000123`, `124`")
    with pytest.raises(UsageError, match="no version 8"):
        _open(tmp_path, step=8)
    with _open(tmp_path, step=123) as tensors:
        assert tensors.details["folder"] == str(tmp_path / "00000123")
    with _open(tmp_path, latest=True) as tensors:
        assert tensors.details["folder"] == str(tmp_path / "124")
        assert "version `124` was taken" in str(tensors.notes[0])


def test_of_many_versions_the_first_and_last_are_listed(tmp_path: Path) -> None:
    for version in range(1, 16):
        tf1_model(tmp_path / str(version))
    with pytest.raises(UsageError) as told:
        _open(tmp_path)
    assert told.value.hint is not None
    assert told.value.hint.endswith("`5`, `6`, …, `11`, `12`, `13`, `14`, `15`")


def test_a_folder_without_a_model_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="holds no SavedModel"):
        _open(tmp_path)
    with pytest.raises(NotRecognisedError, match="cannot be opened"):
        _open(tmp_path / "nothing")


def test_a_step_that_is_not_there_is_refused_for_a_single_model(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "124")
    with _open(model, step=124) as tensors:
        assert len(tensors) == 3
    with pytest.raises(UsageError, match="not a folder with version 123"):
        _open(model, step=123)


def test_the_binary_graph_wins_over_the_text(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    (model / "saved_model.pbtxt").write_bytes(SMALL_TEXT)
    with _open(model) as tensors:
        assert tensors.details["graph"] == "saved_model.pb"
        assert "`saved_model.pbtxt` beside it is not" in str(tensors.notes[0])


def test_a_chunked_model_is_named_and_not_read(tmp_path: Path) -> None:
    riegeli = bytes.fromhex("83af70d10d884a3f") + bytes(56)
    (tmp_path / "saved_model.cpb").write_bytes(riegeli)
    for place in (tmp_path, tmp_path / "saved_model.cpb"):
        with pytest.raises(NotRecognisedError, match=r"chunked SavedModel|SavedModel in chunks"):
            open_tensors(place)


# TensorFlow 1: tags, collections


def test_roles_come_from_the_collections(tmp_path: Path) -> None:
    with _open(tf1_model(tmp_path / "model")) as tensors:
        origin = tensors.origin("lin/w")
        assert (origin.role, origin.trainable) == (Role.WEIGHT, True)
        assert origin.evidence is Evidence.GRAPH
        assert tensors.origin("step").trainable is not True
        assert tensors.details["kind"] == "TF1"


def test_the_serving_graph_is_taken_unless_tags_are_given(tmp_path: Path) -> None:
    train = meta(tags=("train", "gpu"), trained=("lin/w", "lin/b"))
    model = tf1_model(tmp_path / "model", train, meta(tags=("serve",)))
    with _open(model) as tensors:
        assert tensors.details["tags"] == ["serve"]
        assert len(tensors) == 3
    with _open(model, tag_set=frozenset({"gpu", "train"})) as tensors:
        assert tensors.details["tags"] == ["gpu", "train"]
        assert tensors.origin("lin/w").trainable
    with pytest.raises(UsageError, match="none has the tags `train`") as told:
        _open(model, tag_set=frozenset({"train"}))
    assert told.value.hint == "choose with --tag-set: `gpu,train`, `serve`"


def test_tags_that_do_not_say_which_graph_are_listed(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model", meta(tags=("train",)), meta(tags=("eval",)))
    with pytest.raises(UsageError, match="2 meta graphs, and none has the tags `serve`") as told:
        _open(model)
    assert told.value.exit_code == 2


def test_a_hub_module_without_tags_is_its_default(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "module", meta(tags=("train",)), meta(tags=()))
    (model / "tfhub_module.pb").write_bytes(b"\x08\x03")
    with _open(model) as tensors:
        assert tensors.details["hub"] is True
        assert tensors.details["tags"] == []
        assert tensors.summary.startswith("TF-Hub module")


# TensorFlow 2: objects


def test_weights_that_keras_stored_twice_come_once_under_their_names(tmp_path: Path) -> None:
    with _open(exported(tmp_path / "model")) as tensors:
        assert list(tensors) == ["sequential/d1/kernel", "sequential/d1/bias"]
        assert tensors.origin("sequential/d1/kernel").key == f"variables/0/{VALUE}"
        assert "2 weights are stored twice" in str(tensors.notes[0])
        assert tensors.details["stored_twice"] == {
            f"_all_variables/{i}/{VALUE}": f"variables/{i}/{VALUE}" for i in (0, 1)
        }


def test_both_are_there_under_their_keys(tmp_path: Path) -> None:
    with _open(exported(tmp_path / "model"), names="key") as tensors:
        assert len(tensors) == 4
        assert not tensors.notes


def test_without_checksums_they_are_still_told(tmp_path: Path) -> None:
    with _open(exported(tmp_path / "model"), verify=False) as tensors:
        assert list(tensors) == ["sequential/d1/kernel", "sequential/d1/bias"]


def test_two_weights_of_one_name_and_other_values_both_stay(tmp_path: Path) -> None:
    with _open(exported(tmp_path / "model", KERNEL + 1)) as tensors:
        assert len(tensors) == 3
        assert "1 weight is stored twice" in str(tensors.notes[0])


def test_objects_that_are_not_those_of_the_variables_are_left_alone(tmp_path: Path) -> None:
    model = exported(tmp_path / "model")
    objects = message((1, message()))
    (model / "saved_model.pb").write_bytes(saved_model(meta(objects=objects)))
    with _open(model) as tensors:
        assert len(tensors) == 4
        assert "its objects are not those of its variables" in str(tensors.notes[0])


# Constants, signatures, Keras


def test_a_graph_without_variables_gives_its_constants(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pbtxt").write_bytes(SMALL_TEXT)
    with _open(tmp_path) as tensors:
        assert tensors["c"].read().tolist() == [3, 3]
        assert tensors.origin("c").role is Role.CONSTANT
        assert "there are no variables" in str(tensors.notes[0])
    with _open(tmp_path, constants=False) as tensors:
        assert not tensors


def test_constants_come_beside_variables_only_when_asked_for(tmp_path: Path) -> None:
    model = exported(tmp_path / "model")
    with _open(model) as tensors:
        assert "scale" not in tensors
    with _open(model, constants=True) as tensors:
        assert tensors.origin("scale").role is Role.CONSTANT


def test_a_constant_of_a_variables_name_has_that_of_its_output(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model", meta(graph(const("lin/w", BIAS))))
    with _open(model, constants=True, names="key") as tensors:
        np.testing.assert_array_equal(tensors["lin/w"].read(), KERNEL)
        np.testing.assert_array_equal(tensors["lin/w:0"].read(), BIAS)


def test_signatures_are_in_the_details(tmp_path: Path) -> None:
    with _open(tf1_model(tmp_path / "model")) as tensors:
        details = json.loads(json.dumps(dict(tensors.details)))
    assert details["signatures"]["serving_default"] == {
        "method": "tensorflow/serving/predict",
        "inputs": {"x": {"tensor": "x:0", "dtype": "float32", "shape": [3]}},
        "outputs": {},
    }
    assert (details["producer"], details["producer_version"]) == ("TensorFlow", "1.15.0")


def test_the_optimizer_that_keras_notes_is_in_the_details(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    training = {
        "optimizer_config": {
            "class_name": "Custom>Adam",
            "config": {"name": "Adam", "learning_rate": 0.01, "amsgrad": False},
        }
    }
    texts = [
        b'"training_config" that is no JSON',
        b'{"training_config": null}',
        json.dumps({"class_name": "Sequential", "training_config": training}).encode(),
    ]
    objects = [message((2, 0), (4, b"_tf_keras_model"), (5, text)) for text in texts]
    (model / "keras_metadata.pb").write_bytes(message(*((1, each) for each in objects)))
    with _open(model) as tensors:
        [optimizer] = _details(tensors)["optimizers"]
    assert optimizer["kind"] == "Adam"
    assert optimizer["parameters"] == {"learning_rate": 0.01, "amsgrad": False}


def test_what_keras_notes_is_in_the_details(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    layer = message(
        (2, 4), (3, b"root.layer-1"), (4, b"_tf_keras_layer"),
        (5, b'{"class_name": "Dense", "name": "d1", "config": {}}'),
    )  # fmt: skip
    broken = message((2, 5), (4, b"_tf_keras_layer"), (5, b"[" * 100_000))
    (model / "keras_metadata.pb").write_bytes(message((1, layer), (1, broken)))
    with _open(model) as tensors:
        first, second = _details(tensors)["keras"]
    assert first == {
        "node": 4, "path": "root.layer-1", "kind": "layer", "class_name": "Dense", "name": "d1",
    }  # fmt: skip
    assert second["class_name"] == ""


def test_keras_metadata_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    (model / "keras_metadata.pb").write_bytes(b"\x0a\xff")
    with _open(model) as tensors:
        assert any("keras_metadata.pb" in str(note) for note in tensors.notes)


# Damage


def test_a_model_without_meta_graphs_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(message((1, 1)))
    with pytest.raises(CorruptFileError, match=r"saved_model\.pb: no meta graph"):
        _open(tmp_path)


def test_variables_without_an_index_are_missed(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    (model / "variables" / "variables.index").unlink()
    with pytest.raises(NotRecognisedError, match="the variables have no index"):
        _open(model)


def test_variables_whose_objects_are_damaged_keep_their_keys(tmp_path: Path) -> None:
    model = exported(tmp_path / "model")
    write_variables(model, {f"variables/0/{VALUE}": KERNEL}, b"\x0a\xff")
    with _open(model) as tensors:
        assert list(tensors) == [f"variables/0/{VALUE}"]
        assert "object graph cannot be read" in str(tensors.notes[0])


def test_objects_are_used_where_the_graph_has_none(tmp_path: Path) -> None:
    model = exported(tmp_path / "model")
    (model / "saved_model.pb").write_bytes(saved_model(meta()))
    with _open(model) as tensors:
        assert len(tensors) == 4
        assert tensors.details["kind"] == "TF1"


def test_a_damaged_graph_leaves_the_names(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model", meta(b"\x0a\x03\x0a\xff\xff"))
    with _open(model) as tensors:
        assert list(tensors) == ["lin/b", "lin/w", "step"]
        assert "roles are read off names" in str(tensors.notes[0])


def test_a_graph_full_of_weights_is_not_searched_for_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model_module, "META_BYTES", 10)
    model = tf1_model(tmp_path / "model", meta(graph(const("c", KERNEL)), trained=("lin/w",)))
    with _open(model) as tensors:
        assert tensors.origin("lin/w").trainable is True
        assert tensors.origin("lin/w").role is Role.WEIGHT


def test_variants_and_texts_are_told_as_in_a_checkpoint(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(saved_model(meta()))
    (tmp_path / "variables").mkdir()
    for path in (samples / "all_dtypes").iterdir():
        target = path.name.replace("bundle", "variables")
        (tmp_path / "variables" / target).write_bytes(path.read_bytes())
    with _open(tmp_path) as model, open_tensors(samples / "all_dtypes") as checkpoint:
        assert model.notes == checkpoint.notes
        roles = [{name: each.origin(name).role for name in each} for each in (model, checkpoint)]
    assert roles[0] == roles[1]


def test_a_missing_shard_is_told_of_its_tensors(tmp_path: Path) -> None:
    model = tf1_model(tmp_path / "model")
    (model / "variables" / "variables.data-00000-of-00001").unlink()
    with _open(model) as tensors:
        assert set(tensors.broken) == {"lin/b", "lin/w", "step"}


def _failure(folder: Path) -> ConvertError | None:
    try:
        with _open(folder, constants=True) as tensors:
            contents(tensors)
    except ConvertError as error:
        return error
    return None


@pytest.mark.parametrize("make", [tf1_model, exported])
def test_a_damaged_graph_gives_a_named_error_or_tensors(make: Any, tmp_path: Path) -> None:
    model = make(tmp_path / "model")
    path = model / "saved_model.pb"
    whole = path.read_bytes()
    damaged = [whole[:n] for n in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
        for at in range(len(whole))
        for flip in (0x01, 0x80, 0xFF)
    ]
    errors = []
    for data in damaged:
        path.write_bytes(data)
        assert FORMAT.sniff(Location(model))
        errors.append(_failure(model))
    told = [error for error in errors if error]
    assert len(told) > len(whole) // 2
    assert all(error.path for error in told)


# Real files


def _rows(corpus: Path) -> list[Mapping[str, str]]:
    with (corpus / "MANIFEST.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [row for row in rows if row["format"] == "saved_model"]


def _digests(tensors: TensorDict) -> dict[str, list[object]]:
    return {
        name: [tensor.spec.dtype.label, list(tensor.spec.shape), _sha256(tensor)]
        for name, tensor in tensors.items()
        if not tensor.spec.dtype.variable
    }


def _sha256(tensor: Any) -> str:
    state = hashlib.sha256()
    for chunk in tensor.chunks():
        state.update(chunk)
    return state.hexdigest()


def test_corpus_equals_its_oracle_and_so_does_what_is_written(corpus: Path, tmp_path: Path) -> None:
    rows = _rows(corpus)
    for row in rows:
        path = corpus / "files" / row["local_dir"] / row["main_arg"]
        oracle = json.loads((corpus / "oracle" / f"{row['id']}.json").read_text())
        expected = oracle["tensors"] or oracle["graph_consts"]
        texts = set(oracle["not_digested"]) - {GRAPH_KEY}
        target = tmp_path / f"{row['id']}.safetensors"
        with _open(path, names="key") as tensors:
            assert _digests(tensors) == expected, row["id"]
            assert set(tensors) == set(expected) | texts, row["id"]
            digests = digest_all(tensors, tensors, 1)
            assert SAFETENSORS.plan
            write_plan(SAFETENSORS.plan(tensors, target, WriteOptions()))
        with SAFETENSORS.open(Location(target), ReadOptions()) as written:
            assert digest_all(written, written, 1) == digests
    assert len(rows) == 15


def test_corpus_has_the_constants_that_its_oracle_lists(corpus: Path) -> None:
    compared = 0
    for row in _rows(corpus):
        path = corpus / "files" / row["local_dir"] / row["main_arg"]
        oracle = json.loads((corpus / "oracle" / f"{row['id']}.json").read_text())
        with _open(path, names="key", constants=True) as tensors:
            found = _digests(tensors)
        assert {name: found.get(name) for name in oracle["graph_consts"]} == oracle["graph_consts"]
        compared += len(oracle["graph_consts"])
    assert compared > 300


def test_corpus_weights_have_roles(corpus: Path) -> None:
    roles = {}
    for row in _rows(corpus):
        with _open(corpus / "files" / row["local_dir"] / row["main_arg"]) as tensors:
            roles[row["id"]] = [tensors.origin(name).role for name in tensors]
    assert Role.UNKNOWN not in {role for found in roles.values() for role in found}
    assert roles["sm-tiny-kws"].count(Role.SLOT) == 76
    assert roles["sm-tiny-kws"].count(Role.STATE) == 18


# Oracles


def _agrees_with_tensorflow(tf: Any, folder: Path) -> dict[str, np.ndarray]:
    """Compare all keys with TensorFlow's own reader, and return the tensors by readable name."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    keys = set(reader.get_variable_to_shape_map()) - {GRAPH_KEY}
    with _open(folder, names="key") as tensors:
        assert set(tensors) == keys
        for key in keys:
            np.testing.assert_array_equal(tensors[key].read(), reader.get_tensor(key))
    with _open(folder) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def keras_model(tensorflow: Any) -> Any:
    assert tensorflow  # imported quietly, before Keras does it
    keras = pytest.importorskip("keras")
    inputs = keras.Input((3,), name="x")
    h = keras.layers.Dense(4, name="d1")(inputs)
    h = keras.layers.BatchNormalization(name="bn")(h)
    h = keras.layers.Dropout(0.5, name="drop")(h)
    model = keras.Model(inputs, keras.layers.Dense(4, name="d2")(h), name="m")
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0)
    return model


@pytest.mark.oracle
def test_a_keras_3_export_has_each_weight_once(
    tensorflow: Any, keras_model: Any, tmp_path: Path
) -> None:
    keras_model.export(str(tmp_path / "model"), verbose=False)
    found = _agrees_with_tensorflow(tensorflow, tmp_path / "model")
    for weight in keras_model.weights:
        np.testing.assert_array_equal(found[weight.path], np.asarray(weight.value))
    assert len(found) == len(keras_model.weights) + 1  # and the state of the dropout
    with _open(tmp_path / "model") as tensors:
        roles = {name: tensors.origin(name) for name in tensors}
    for weight in keras_model.weights:
        assert roles[weight.path].trainable is weight.trainable
        expected = Role.STATE if "moving" in weight.path else Role.WEIGHT
        assert roles[weight.path].role is expected


@pytest.mark.oracle
def test_a_keras_3_model_saved_by_tensorflow_keeps_its_names(
    tensorflow: Any, keras_model: Any, tmp_path: Path
) -> None:
    tensorflow.saved_model.save(keras_model, str(tmp_path / "model"))
    found = _agrees_with_tensorflow(tensorflow, tmp_path / "model")
    for weight in keras_model.weights:
        np.testing.assert_array_equal(found[weight.path], np.asarray(weight.value))
    with _open(tmp_path / "model") as tensors:
        slots = [tensors.origin(name) for name in tensors if "momentum" in name]
    assert {slot.owner for slot in slots} == {w.path for w in keras_model.trainable_weights}


@pytest.mark.oracle
@pytest.mark.parametrize("functional", [False, True])
def test_a_tf_keras_model_keeps_names_slots_and_layers(
    tensorflow: Any, tmp_path: Path, functional: bool
) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    layers = [tf_keras.layers.Dense(4, name="d1"), tf_keras.layers.BatchNormalization(name="bn")]
    if functional:
        inputs = tf_keras.Input((3,))
        model = tf_keras.Model(inputs, layers[1](layers[0](inputs)))
    else:
        model = tf_keras.Sequential([tf_keras.layers.InputLayer((3,)), *layers])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.ones((4, 3)), np.ones((4, 4)), verbose=0)
    model.save(str(tmp_path / "model"), save_format="tf")
    found = _agrees_with_tensorflow(tensorflow, tmp_path / "model")
    for weight in model.weights:
        np.testing.assert_array_equal(found[weight.name.partition(":")[0]], weight.numpy())
    with _open(tmp_path / "model") as tensors:
        roles = [tensors.origin(name).role for name in tensors]
        assert roles.count(Role.SLOT) == 2 * len(model.trainable_weights)
        assert roles.count(Role.STATE) == 2
        # The optimizer's iterations, and total and count of the loss and of the metric.
        assert roles.count(Role.COUNTER) == 5
        keras = {each["name"]: each["class_name"] for each in _details(tensors)["keras"]}
    assert keras["d1"] == "Dense"
    assert keras["bn"] == "BatchNormalization"


@pytest.mark.oracle
def test_tables_assets_and_signatures_of_a_module(tensorflow: Any, tmp_path: Path) -> None:
    tf = tensorflow
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("a\nb\n")

    class Module(tf.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.v = tf.Variable(KERNEL, name="v")
            self.fixed = tf.Variable(2.0, trainable=False, name="fixed")
            self.mutable = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
            source = tf.lookup.TextFileInitializer(str(vocabulary), tf.string, -2, tf.int64, -1)
            self.static = tf.lookup.StaticHashTable(source, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return self.mutable.lookup(x) + self.static.lookup(x) + tf.cast(self.v[0, 0], tf.int64)

    module = Module()
    module.mutable.insert(tf.constant(["k"]), tf.constant([5], tf.int64))
    tf.saved_model.save(module, str(tmp_path / "model"))
    found = _agrees_with_tensorflow(tf, tmp_path / "model")
    np.testing.assert_array_equal(found["v"], KERNEL)
    with _open(tmp_path / "model") as tensors:
        assert not tensors.notes
        assert tensors.details["assets"] == ["vocab.txt"]
        assert tensors.origin("v").trainable is True
        assert tensors.origin("fixed").trainable is False
        tables = [name for name in tensors if tensors.origin(name).role is Role.TABLE]
        assert sorted(tensors[name].spec.dtype.label for name in tables) == ["int64", "string"]
        signature = _details(tensors)["signatures"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "string"
    assert signature["inputs"]["x"]["shape"] == [-1]


@pytest.mark.oracle
def test_a_module_of_constants_gives_its_weight(tensorflow: Any, tmp_path: Path) -> None:
    tf = tensorflow

    class Module(tf.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = tf.constant(KERNEL)

        @tf.function(input_signature=[tf.TensorSpec([None, 3])])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x @ self.w

    tf.saved_model.save(Module(), str(tmp_path / "model"))
    with _open(tmp_path / "model") as tensors:
        (name,) = tensors
        np.testing.assert_array_equal(tensors[name].read(), KERNEL)
        assert tensors.origin(name).role is Role.WEIGHT


@pytest.mark.oracle
@pytest.mark.parametrize("as_text", [False, True])
def test_a_builder_of_tensorflow_1_with_two_sets_of_tags(
    tensorflow: Any, tmp_path: Path, as_text: bool
) -> None:
    v1 = tensorflow.compat.v1
    folder = tmp_path / "model"
    builder = v1.saved_model.Builder(str(folder))
    vocabulary = tmp_path / "größe.txt"
    vocabulary.write_text("a\n")
    for tags in (["train", "gpu"], ["serve"]):
        with tensorflow.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder("float32", [None, 3], name="x")
            w = v1.get_variable("lin/w", [3, 4])
            y = x @ w
            if "train" in tags:
                v1.train.AdamOptimizer().minimize(tensorflow.reduce_sum(y))
                session.run(v1.global_variables_initializer())
                builder.add_meta_graph_and_variables(session, tags)
            else:
                asset = tensorflow.constant(str(vocabulary))
                v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, asset)
                signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
                builder.add_meta_graph(
                    tags, {"serving_default": signature}, assets_collection=[asset]
                )
    builder.save(as_text=as_text)
    found = _agrees_with_tensorflow(tensorflow, folder)
    assert set(found) == {"lin/w", "lin/w/Adam", "lin/w/Adam_1", "beta1_power", "beta2_power"}
    with _open(folder) as tensors:
        assert tensors.details["tag_sets"] == [["gpu", "train"], ["serve"]]
        assert list(_details(tensors)["assets"]) == ["größe.txt"]
        assert _details(tensors)["signatures"]["serving_default"]["outputs"]["y"]["shape"] == [
            -1,
            4,
        ]
    with _open(folder, tag_set=frozenset({"train", "gpu"})) as tensors:
        slot = tensors.origin("lin/w/Adam")
        assert (slot.role, slot.owner, slot.evidence) == (Role.SLOT, "lin/w", Evidence.GRAPH)
        assert tensors.origin("lin/w").trainable is True
    shutil.rmtree(folder)
