"""SavedModels as targets: everything of a template but its weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.containers import template_files
from tensorferry.converters.containers.bundle_messages import TYPE_NUMBERS
from tensorferry.converters.containers.tensor_bundle import Bundle, shard_path
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import (
    CorruptFileError,
    NotRecognisedError,
    TargetError,
    UnsafeFileError,
    UsageError,
    VerificationError,
)
from tensorferry.converters.formats.saved_model import FORMAT
from tensorferry.converters.formats.tf_checkpoint import FORMAT as CHECKPOINT
from tensorferry.converters.graphs.trackables import GRAPH_KEY, VALUE
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import Location, ReadOptions, WriteOptions
from tensorferry.converters.tensors import ElementTensor, MemoryTensor, Tensor, TensorDict
from tensorferry.converters.testing.contracts import (
    Values,
    WriterContract,
    contents,
    listing,
    tensors_of,
)
from tensorferry.pipeline.convert import ConvertOptions, convert

KERNEL, BIAS = np.full((2, 3), 7, "<f4"), np.full(3, 8, "<f4")
WEIGHTS: dict[str, Values] = {"net/d/kernel": KERNEL, "net/d/bias": BIAS}


def planned(tensors: TensorDict, target: Path, template: Path | None, **options: Any) -> Plan:
    assert FORMAT.plan
    return FORMAT.plan(tensors, target, WriteOptions(template=template, **options))


def tf1_template(folder: Path, tensors: Mapping[str, Tensor], *tags: bytes) -> Path:
    """Make a model of TensorFlow 1 with these variables, and other files of all kinds."""
    (folder / "variables").mkdir(parents=True)
    assert CHECKPOINT.plan
    given = TensorDict("memory", "tensors", dict(tensors))
    write_plan(CHECKPOINT.plan(given, folder / "variables" / "variables", WriteOptions()))
    (folder / "variables" / "checkpoint").unlink()
    metas = (message((1, message((4, tag)))) for tag in tags or (b"serve",))
    (folder / "saved_model.pb").write_bytes(message((1, 1), *((2, meta) for meta in metas)))
    for name in ("assets/vocab.txt", "assets.extra/deep/er/file", "tfhub_module.pb", "empty"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "empty" else f"in {name}\n".encode() * 9)
    (folder / "fingerprint.pb").write_bytes(b"of the old weights")
    return folder


@pytest.fixture
def template(tmp_path: Path) -> Path:
    values = {"lin/w": np.zeros((3, 4), "f4"), "lin/b": np.zeros(4, "f4")}
    values["lin/w/Adam"], values["lin/w/Adam_1"] = values["lin/w"] + 1, values["lin/w"] + 2
    values["global_step"] = np.zeros((), "i8") + 5
    return tf1_template(tmp_path / "template", tensors_of(values))


def weights() -> TensorDict:
    return tensors_of({"lin/w": np.arange(12, dtype="f4").reshape(3, 4), "lin/b": np.ones(4, "f4")})


class TestWriter(WriterContract):
    """Each dictionary gets a template with zeros under its names."""

    FORMAT = FORMAT

    @pytest.fixture(autouse=True)
    def templates(self) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as folder:
            self._folder = Path(folder)
            yield

    def target(self, folder: Path) -> Path:
        return folder / "model"

    def _plan(self, tensors: TensorDict, target: Path, *, overwrite: bool = False) -> Plan:
        place = Path(tempfile.mkdtemp(dir=self._folder)) / "old"
        fitting = {
            name: _zeros(tensor)
            for name, tensor in tensors.items()
            if tensor.spec.dtype in TYPE_NUMBERS
        }
        tf1_template(place, fitting)
        return planned(tensors, target, place, overwrite=overwrite)

    def test_plan_is_what_is_written(self, tmp_path: Path) -> None:
        plan = self._plan(tensors_of(self.values()), self.target(tmp_path))
        write_plan(plan)
        sizes = {file.path: file.size for file in plan.files}
        there = (path for path in tmp_path.rglob("*") if path.is_file())
        assert {path: path.stat().st_size for path in there} == sizes

    def test_every_dtype_comes_back_or_is_refused(self, tmp_path: Path) -> None:
        """Say less than the contract: what a bundle cannot hold, no template has."""
        for dtype in TYPE_NUMBERS:
            spec = tensors_of({"x": [b""]})["x"].spec
            tensor = _zeros(MemoryTensor(replace(spec, dtype=dtype, shape=(2, 2)), bytes))
            (tmp_path / dtype.label).mkdir()
            given = tensors_of({"a/tensor": tensor})
            self._write(given, self.target(tmp_path / dtype.label))
            with self._reopened(self.target(tmp_path / dtype.label)) as found:
                assert contents(found) == contents(given), dtype


def _zeros(tensor: Tensor) -> Tensor:
    spec = tensor.spec
    if spec.dtype.variable:
        return ElementTensor(spec, lambda: [b""] * spec.size, 0)
    return MemoryTensor(spec, lambda: bytes(spec.nbytes))


# What is taken over


def test_all_but_weights_and_fingerprint_is_copied_byte_for_byte(
    template: Path, tmp_path: Path
) -> None:
    plan = planned(weights(), tmp_path / "model", template)
    write_plan(plan)
    old, new = listing(template), listing(tmp_path / "model")
    fresh = {"variables/variables.index", "variables/variables.data-00000-of-00001"}
    assert new.keys() == old.keys() - {"fingerprint.pb"}
    assert {name for name in new if new[name] != old[name]} == fresh
    assert [note.text for note in plan.notes if "fingerprint.pb" in note.text]
    assert plan.files[-1].path.name == "saved_model.pb"
    with open_tensors(tmp_path / "model") as found:
        assert found.format == "saved-model"
        assert contents(found.select(weights())) == contents(weights())


def test_training_state_that_is_missing_is_the_template_s(template: Path, tmp_path: Path) -> None:
    plan = planned(weights(), tmp_path / "model", template)
    assert any(
        "taken from the template" in note.text and "`lin/w/Adam_1`" in note.text
        for note in plan.notes
    )
    write_plan(plan)
    with open_tensors(tmp_path / "model") as found, open_tensors(template) as old:
        kept = set(old) - set(weights())
        assert len(kept) == 3
        assert contents(found.select(kept)) == contents(old.select(kept))


def test_a_weight_that_is_missing_or_too_much_is_refused(template: Path, tmp_path: Path) -> None:
    given = tensors_of({"lin/w": np.zeros((4, 3), "f4"), "more": BIAS, "other": BIAS})
    with pytest.raises(TargetError) as caught:
        planned(given, tmp_path / "model", template)
    text = caught.value.message
    assert "1 missing: `lin/b`; 2 that it does not have: `more`, `other`" in text
    assert "`lin/w` (expected float32 (3, 4), got float32 (4, 3))" in text
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("scoped", [True, False])
@pytest.mark.parametrize("limit", [None, 20])
def test_graph_and_keys_of_objects_are_the_template_s(
    tmp_path: Path, exported_model: Callable[[Path], Path], scoped: bool, limit: int | None
) -> None:
    template = exported_model(tmp_path / "template")
    names = {name if scoped else name.removeprefix("net/"): v for name, v in WEIGHTS.items()}
    np.savez(tmp_path / "w.npz", **names)  # type: ignore[arg-type]
    write = WriteOptions(template=template, max_shard_bytes=limit)
    options = ConvertOptions(target_format="saved-model", write=write, verify=True, strict=True)
    report = convert(tmp_path / "w.npz", f"{tmp_path / 'model'}/", options)
    assert report.counts == {"written": 2}
    rows = {row["name"]: row["stored_name"] for row in report.rows()}
    assert set(rows.values()) == {f"variables/{n}/.ATTRIBUTES/{VALUE}" for n in range(2)}
    bundles = [Bundle.open(each / "variables" / "variables") for each in (template, report.target)]
    old, new = (bundle.tensors for bundle in bundles)
    assert list(old) == list(new)
    assert old[GRAPH_KEY].elements() == new[GRAPH_KEY].elements()
    assert (bundles[1].header.shards > 1) == bool(limit)
    with open_tensors(report.target) as found:
        assert contents(found) == contents(tensors_of(WEIGHTS))
        assert found.details["stored_twice"]


def test_a_template_may_be_its_own_successor(
    tmp_path: Path, exported_model: Callable[[Path], Path]
) -> None:
    template = exported_model(tmp_path / "a")
    options = ConvertOptions(
        target_format="saved-model", write=WriteOptions(template=template), verify=True
    )
    convert(template, tmp_path / "b", options)
    again = replace(options, write=WriteOptions(template=tmp_path / "b"))
    convert(tmp_path / "b", tmp_path / "c", again)
    assert listing(tmp_path / "b") == listing(tmp_path / "c")


def test_a_template_is_named_as_any_model(template: Path, tmp_path: Path) -> None:
    shutil.move(template, tmp_path / "served" / "123")
    places = [tmp_path / "served", tmp_path / "served" / "123" / "saved_model.pb"]
    for number, place in enumerate(places):
        write_plan(planned(weights(), tmp_path / str(number), place))
        with open_tensors(tmp_path / str(number)) as found:
            assert set(weights()) < set(found)


def test_a_model_as_text_stays_one(tmp_path: Path) -> None:
    template = tf1_template(tmp_path / "template", weights())
    (template / "saved_model.pb").unlink()
    text = b'saved_model_schema_version: 1\nmeta_graphs { meta_info_def { tags: "serve" } }\n'
    (template / "saved_model.pbtxt").write_bytes(text)
    plan = planned(weights(), tmp_path / "model", template)
    write_plan(plan)
    assert plan.files[-1].path.read_bytes() == text


def test_any_graph_of_several_will_do(tmp_path: Path) -> None:
    template = tf1_template(tmp_path / "template", weights(), b"train", b"gpu")
    options = ConvertOptions(
        target_format="saved-model", write=WriteOptions(template=template), verify=True
    )
    np.savez(tmp_path / "w.npz", **{name: each.read() for name, each in weights().items()})
    convert(tmp_path / "w.npz", tmp_path / "model", options)
    assert (tmp_path / "model" / "saved_model.pb").is_file()


def test_a_dry_run_writes_nothing(template: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name: each.read() for name, each in weights().items()})
    options = ConvertOptions(
        target_format="saved-model", write=WriteOptions(template=template), dry_run=True
    )
    before = listing(tmp_path)
    report = convert(tmp_path / "w.npz", tmp_path / "model", options)
    assert listing(tmp_path) == before
    convert(tmp_path / "w.npz", tmp_path / "model", replace(options, dry_run=False))
    sizes = {file.path: file.size for file in report.plan.files}
    there = (path for path in (tmp_path / "model").rglob("*") if path.is_file())
    assert {path: path.stat().st_size for path in there} == sizes


def test_verifying_finds_what_differs(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {name: each.read() for name, each in weights().items()}
    np.savez(tmp_path / "w.npz", **values)
    pwrite = os.pwrite

    def faulty(descriptor: int, data: memoryview, offset: int) -> int:
        changed = bytearray(data)
        at = changed.find(values["lin/w"].tobytes())
        if at >= 0:
            changed[at] ^= 1
        return pwrite(descriptor, changed, offset)

    options = ConvertOptions(
        target_format="saved-model", write=WriteOptions(template=template), verify=True
    )
    monkeypatch.setattr(os, "pwrite", faulty)
    with pytest.raises(VerificationError, match=r"tensor `lin/w`: .*does not read back"):
        convert(tmp_path / "w.npz", tmp_path / "model", options)
    assert not (tmp_path / "model").exists()


# What is refused


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="weights alone make no SavedModel") as caught:
        planned(weights(), tmp_path / "model", None)
    assert "--template" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["saved_model.pb", "model.pbtxt"])
def test_a_file_is_no_model(template: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is a folder, not a file"):
        planned(weights(), tmp_path / name, template)


def test_a_template_has_to_be_one(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="holds no SavedModel"):
        planned(weights(), tmp_path / "model", samples / "tf_keras_object")
    template = tf1_template(tmp_path / "template", weights())
    shutil.rmtree(template / "variables")
    with pytest.raises(UsageError, match="no variables that could be replaced"):
        planned(weights(), tmp_path / "model", template)


def test_a_template_whose_objects_are_damaged_is_refused(
    tmp_path: Path, exported_model: Callable[[Path], Path]
) -> None:
    template = exported_model(tmp_path / "template")
    shard = shard_path(template / "variables" / "variables", 0, 1)
    data = bytearray(shard.read_bytes())
    data[data.index(b"_all_variables")] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptFileError, match="object graph of the variables cannot be read"):
        planned(tensors_of(WEIGHTS), tmp_path / "model", template)


@pytest.mark.parametrize("target", [".", "inside", "..", "variables/x", "link"])
def test_template_and_target_lie_apart(template: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "to").symlink_to(template)
    place = tmp_path / "to" / "new" if target == "link" else template / target
    before = listing(template)
    with pytest.raises(UsageError, match="lie in each other"):
        planned(weights(), place, template)
    assert listing(template) == before


def test_the_source_does_not_lie_in_the_target(template: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    np.savez(tmp_path / "model" / "w.npz", **{n: each.read() for n, each in weights().items()})
    with (
        open_tensors(tmp_path / "model" / "w.npz") as source,
        pytest.raises(UsageError, match="the source lies in the target"),
    ):
        planned(source, tmp_path / "model", template)


def test_files_that_belong_to_no_model_are_in_the_way(template: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for number in range(8):
        (tmp_path / "model" / f"mine{number}").write_text("x")
    with pytest.raises(UsageError, match=r"no part of a model: `mine0`, .*`mine5` and 2 more"):
        planned(weights(), tmp_path / "model", template, overwrite=True)


def test_an_older_model_is_replaced_as_a_whole(
    template: Path, tmp_path: Path, exported_model: Callable[[Path], Path]
) -> None:
    old = exported_model(tmp_path / "model")
    for name in ("keras_metadata.pb", "fingerprint.pb", "assets/old", "saved_model.pbtxt"):
        (old / name).parent.mkdir(exist_ok=True)
        (old / name).write_text("of the old model")
    shutil.copy(
        shard_path(old / "variables" / "variables", 0, 1),
        shard_path(old / "variables" / "variables", 1, 2),
    )
    before = listing(old)
    with pytest.raises(UsageError, match="exists already") as caught:
        write_plan(planned(weights(), old, template))
    assert "--overwrite" in (caught.value.hint or "")
    assert listing(old) == before
    write_plan(planned(weights(), old, template, overwrite=True), overwrite=True)
    assert listing(old).keys() == listing(template).keys() - {"fingerprint.pb"}


# What a template may hold


def test_a_link_inside_of_the_template_becomes_a_file(template: Path, tmp_path: Path) -> None:
    (template / "assets" / "same").symlink_to("vocab.txt")
    write_plan(planned(weights(), tmp_path / "model", template))
    copy = tmp_path / "model" / "assets" / "same"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (template / "assets" / "vocab.txt").read_bytes()


def _outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "assets" / "link").symlink_to(folder.parent / "secret")


def _folder_outside(folder: Path) -> None:
    (folder / "assets" / "link").symlink_to(folder.parent)


def _folder_inside(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)


def _dangling(folder: Path) -> None:
    (folder / "assets" / "link").symlink_to("nothing")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "assets" / "pipe")


@pytest.mark.parametrize("make", [_outside, _folder_outside, _folder_inside, _dangling, _pipe])
def test_what_a_model_never_has_is_refused(
    template: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(template)
    with pytest.raises(UnsafeFileError, match=r"is a link to something else|is no regular file"):
        planned(weights(), tmp_path / "model", template)
    assert not (tmp_path / "model").exists()


def test_very_many_files_are_refused(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_files, "MAX_FILES", 4)
    with pytest.raises(UnsafeFileError, match="too many files for a model, expected at most 4"):
        planned(weights(), tmp_path / "model", template)


def test_a_file_that_shrinks_stops_the_writing(template: Path, tmp_path: Path) -> None:
    plan = planned(weights(), tmp_path / "model", template)
    (template / "assets" / "vocab.txt").write_bytes(b"short")
    with pytest.raises(CorruptFileError, match="the file ends early"):
        write_plan(plan)
    assert not (tmp_path / "model").exists()


def test_what_was_opened_is_closed(template: Path, tmp_path: Path) -> None:
    plan = planned(weights(), tmp_path / "model", template)
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    write_plan(plan)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    with FORMAT.open(Location(tmp_path / "model"), ReadOptions()) as found:
        assert len(found) == 5
