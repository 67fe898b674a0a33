from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters.digests import digest_all
from tensorferry.converters.errors import (
    CorruptFileError,
    NotRecognisedError,
    UsageError,
)
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import ReadOptions, WriteOptions, format_for_target
from tensorferry.converters.testing.contracts import Values, tensors_of
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert
from tensorferry.pipeline.digest_file import model_digest, read_digests, write_digests
from tensorferry.pipeline.proof import Fate, Proof, Row, counts, prove
from tensorferry.pipeline.recorded import read_report

VALUES: dict[str, Values] = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.arange(3, dtype=np.float32),
    "words": [b"a", b"bc"],
}


def stored(path: Path, values: Mapping[str, Values]) -> Path:
    plan = format_for_target(path).plan
    assert plan
    write_plan(plan(tensors_of(values), path, WriteOptions()))
    return path


def differences(proof: Proof) -> dict[str, Fate]:
    return {row.name: row.fate for row in proof.rows if row.fate is not Fate.SAME}


# Each difference


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        ({"bias": np.array([0, 1, 3], np.float32)}, Fate.CHANGED),
        ({"words": [b"a", b"bd"]}, Fate.CHANGED),
        ({"bias": np.arange(3, dtype=np.int32)}, Fate.DTYPE),
        ({"bias": np.arange(3, dtype=np.float32).reshape(3, 1)}, Fate.SHAPE),
        ({"bias": np.zeros(4, np.int8)}, Fate.SHAPE),
        ({"bias": None}, Fate.MISSING),
        ({"more": np.zeros(1)}, Fate.EXTRA),
    ],
)
@pytest.mark.parametrize("ending", ["npz", "ckpt", "safetensors", "h5"])
def test_each_difference_has_its_name(
    tmp_path: Path, ending: str, change: dict[str, Values | None], fate: Fate
) -> None:
    source = stored(tmp_path / "source.npz", VALUES)
    both = {**VALUES, **change}
    target = stored(tmp_path / f"m.{ending}", {k: v for k, v in both.items() if v is not None})
    proof = prove(source, target)
    name = next(iter(change))
    assert differences(proof) == {name: fate}
    assert counts(proof.rows) == {"same": len(VALUES) - (fate is not Fate.EXTRA), fate.value: 1}
    row = next(row for row in proof.rows if row.name == name)
    assert (row.expected is None, row.got is None) == (fate is Fate.EXTRA, fate is Fate.MISSING)


def test_a_zero_with_another_sign_and_another_nan_are_changes(tmp_path: Path) -> None:
    nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    source = stored(tmp_path / "a.npz", {"zero": np.float32([0.0]), "nan": nan[:1]})
    target = stored(tmp_path / "b.npz", {"zero": np.float32([-0.0]), "nan": nan[1:]})
    assert differences(prove(source, target)) == {"zero": Fate.CHANGED, "nan": Fate.CHANGED}


def test_a_damaged_target_is_an_error_and_no_difference(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npz", VALUES)
    target = stored(tmp_path / "m.ckpt", VALUES)
    data = tmp_path / "m.ckpt.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    with pytest.raises(CorruptFileError, match=r"data-00000.*tensor `\w+`"):
        prove(source, target)
    data.unlink()
    with pytest.raises(CorruptFileError, match="shard is missing"):
        prove(source, target)
    with pytest.raises(NotRecognisedError, match="does not exist"):
        prove(source, tmp_path / "nothing.npz")


# The flags of the conversion


@pytest.mark.parametrize(
    "options",
    [
        ConvertOptions(include=("dense/*",)),
        ConvertOptions(exclude=("re:Adam",), weights_only=True),
        ConvertOptions(ema="raw", dtypes=("bf16", "dense/kernel=f16")),
        ConvertOptions(ema="only", weights_only=True),
        ConvertOptions(ema="both", by="key", exclude=("*_power",)),
        ConvertOptions(write=WriteOptions(provenance=True, flat=True, compress=True)),
    ],
    ids=["include", "exclude", "cast", "ema-only", "by-key", "layout"],
)
def test_the_report_has_all_that_is_needed(
    tmp_path: Path, samples: Path, options: ConvertOptions
) -> None:
    source, target = samples / "tf1_adam_ema", tmp_path / "m.h5"
    done = convert(source, target, replace(options, report=tmp_path / "r.json", digests=True))
    proof = prove(source, target, recorded=read_report(tmp_path / "r.json"))
    assert proof.proved
    assert len(proof.rows) == len(done.kept)
    assert proof.digest == model_digest(done.digests)
    assert prove(source, target, options).digest == proof.digest
    changed = replace(options, write=WriteOptions()) != ConvertOptions()
    assert prove(source, target).proved is not changed


def test_keys_may_be_the_names(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(read=ReadOptions(names="key"))
    convert(samples / "keras3_object", tmp_path / "m.npz", options)
    assert prove(samples / "keras3_object", tmp_path / "m.npz", options).proved
    assert not prove(samples / "keras3_object", tmp_path / "m.npz").proved


def test_updates_are_part_of_it(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf1_multi_shard"
    patch = stored(tmp_path / "patch.npz", {"dense_0/bias": np.zeros(4, np.float32), "new": [b"x"]})
    options = ConvertOptions(updates=(patch,))
    convert(source, tmp_path / "m.npz", options)
    assert prove(source, tmp_path / "m.npz", options).proved
    found = differences(prove(source, tmp_path / "m.npz"))
    assert found == {"dense_0/bias": Fate.CHANGED, "new": Fate.EXTRA}


def test_tensors_whose_data_is_missing_may_be_left_out(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        if "00001-of" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    options = ConvertOptions(allow_missing=True, report=tmp_path / "r.json")
    convert(tmp_path / "model.ckpt-7", tmp_path / "out.npz", options)
    source = tmp_path / "model.ckpt-7"
    assert prove(source, tmp_path / "out.npz", recorded=read_report(tmp_path / "r.json")).proved
    with pytest.raises(CorruptFileError, match="shard is missing"):
        prove(source, tmp_path / "out.npz")


def test_names_under_which_a_tensor_is_stored_again_count(tmp_path: Path, samples: Path) -> None:
    source = samples / "saved_model_module"  # calls its kernel `alias` too
    for untie in (False, True):
        target = tmp_path / f"{untie}.safetensors"
        convert(source, target, ConvertOptions(write=WriteOptions(untie=untie)))
        assert prove(source, target).proved
    assert prove(tmp_path / "False.safetensors", tmp_path / "True.safetensors").proved


# What a template adds


def test_what_a_template_gave_is_compared_with_the_template(tmp_path: Path, samples: Path) -> None:
    source = samples / "npz_file" / "model.npz"
    write = WriteOptions(layout_of=samples / "keras3_object")
    target, report = tmp_path / "m.ckpt", tmp_path / "r.json"
    convert(source, target, ConvertOptions(write=write, report=report))
    proof = prove(source, target, recorded=read_report(report))
    added = [row for row in proof.rows if row.text == "of the template"]
    assert proof.proved
    assert [row.name for row in added] == ["save_counter/.ATTRIBUTES/VARIABLE_VALUE"]
    # Without the report nobody knows where it came from.
    guessed = prove(source, target)
    assert differences(guessed) == {"save_counter": Fate.EXTRA}
    # Another template has another counter.
    other = tmp_path / "other.ckpt"
    patch = stored(tmp_path / "patch.npz", {"save_counter": np.array(99, np.int64)})
    convert(samples / "keras3_object", other, ConvertOptions(updates=(patch,)))
    recorded = read_report(report)
    wrong = replace(recorded.options, write=WriteOptions(layout_of=other))
    found = prove(source, target, recorded=recorded._replace(options=wrong))
    assert differences(found) == {added[0].name: Fate.CHANGED}


def test_a_template_that_is_gone_is_told(tmp_path: Path, samples: Path) -> None:
    source = samples / "npz_file" / "model.npz"
    write = WriteOptions(layout_of=samples / "keras3_object")
    options = ConvertOptions(write=write, report=tmp_path / "r.json")
    convert(source, tmp_path / "m.ckpt", options)
    recorded = read_report(tmp_path / "r.json")
    gone = replace(recorded.options, write=WriteOptions(layout_of=tmp_path / "gone"))
    with pytest.raises(NotRecognisedError, match="gone: no object graph to take over"):
        prove(source, tmp_path / "m.ckpt", recorded=recorded._replace(options=gone))


def test_what_was_converted_further_is_compared_too(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf1_multi_shard"
    convert(source, tmp_path / "m.npz", ConvertOptions(report=tmp_path / "r.json"))
    convert(tmp_path / "m.npz", tmp_path / "m.h5")
    assert prove(source, tmp_path / "m.h5", recorded=read_report(tmp_path / "r.json")).proved


def test_a_source_that_fits_no_more_is_compared_by_name(tmp_path: Path, samples: Path) -> None:
    source = samples / "npz_file" / "model.npz"
    options = ConvertOptions(
        write=WriteOptions(layout_of=samples / "keras3_object"), report=tmp_path / "r.json"
    )
    convert(source, tmp_path / "m.ckpt", options)
    less = tmp_path / "less.npz"
    convert(source, less, ConvertOptions(exclude=("d1/kernel",)))
    proof = prove(less, tmp_path / "m.ckpt", recorded=read_report(tmp_path / "r.json"))
    assert differences(proof) == {"d1/kernel": Fate.EXTRA, "save_counter": Fate.EXTRA}
    assert "cannot be planned again: the tensors do not fit" in proof.notes[-1].text


# Digest files


def test_a_model_is_compared_with_a_digest_file(tmp_path: Path) -> None:
    tensors = tensors_of(VALUES)
    write_digests(tmp_path / "d.json", tensors, digest_all(tensors, tensors, 1))
    wanted = read_digests(tmp_path / "d.json")
    changes: list[tuple[dict[str, Values | None], dict[str, Fate]]] = [
        ({}, {}),
        ({"bias": np.zeros(3, np.float32)}, {"bias": Fate.CHANGED}),
        ({"bias": np.arange(3.0)}, {"bias": Fate.DTYPE}),
        ({"bias": np.zeros((), np.float32)}, {"bias": Fate.SHAPE}),
        ({"bias": None, "more": [b""]}, {"bias": Fate.MISSING, "more": Fate.EXTRA}),
    ]
    for number, (change, found) in enumerate(changes):
        values = {k: v for k, v in {**VALUES, **change}.items() if v is not None}
        source = stored(tmp_path / f"{number}.safetensors", values)
        proof = prove(source, None, digest_file=tmp_path / "d.json")
        assert {row.name: row.fate for row in proof.listed if row.fate is not Fate.SAME} == found
        assert proof.proved is not bool(found)
        assert (proof.digest == wanted.model) is proof.proved
        assert proof.rows == ()


def test_a_digest_file_is_about_the_target_where_there_is_one(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npz", VALUES)
    other = stored(tmp_path / "b.npz", {**VALUES, "bias": np.zeros(3, np.float32)})
    tensors = tensors_of(VALUES)
    write_digests(tmp_path / "d.json", tensors, digest_all(tensors, tensors, 1))
    proof = prove(source, other, digest_file=tmp_path / "d.json")
    assert counts(proof.rows) == counts(proof.listed) == {"same": 2, "changed": 1}


# The account


class Heard(Listener):
    def __init__(self) -> None:
        self.total, self.seen, self.ended = 0, 0, 0

    def reading(self, size: int) -> None:
        self.total = size

    def advanced(self, nbytes: int) -> None:
        self.seen += nbytes

    def finished(self) -> None:
        self.ended += 1


def test_progress_is_told_to_the_byte(tmp_path: Path) -> None:
    values = {name: each for name, each in VALUES.items() if name != "words"}
    source = stored(tmp_path / "a.npz", values)
    target = stored(tmp_path / "b.ckpt", values)
    heard = Heard()
    proof = prove(source, target, ConvertOptions(jobs=1), listener=heard)
    assert heard.total == heard.seen == proof.nbytes == 2 * 36
    assert heard.ended == 1


def test_threads_change_nothing(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf1_adam_ema"
    convert(source, tmp_path / "m.h5")
    accounts = []
    for jobs in (1, 3):
        account = prove(source, tmp_path / "m.h5", ConvertOptions(jobs=jobs)).json()
        assert account.pop("flags")["jobs"] == jobs
        accounts.append({**account, "seconds": 0})
    assert accounts[0] == accounts[1]


def test_the_account_is_json_and_names_all(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npz", VALUES)
    target = stored(tmp_path / "b.npz", {**VALUES, "bias": np.zeros(2, np.float32)})
    account = json.loads(json.dumps(prove(source, target).json()))
    assert (account["proved"], account["counts"]) == (False, {"same": 2, "other shape": 1})
    row = next(row for row in account["tensors"] if row["name"] == "bias")
    assert (row["expected"]["shape"], row["got"]["shape"]) == ([3], [2])
    assert row["fate"] == "other shape"
    assert account["source"] == account["target"] == "NumPy archive (npz)"


def test_losses_of_a_cast_are_told(tmp_path: Path) -> None:
    source = stored(tmp_path / "a.npz", {"w": np.array([1, 1e9], np.float32)})
    options = ConvertOptions(dtypes=("f16",))
    convert(source, tmp_path / "b.npz", options)
    proof = prove(source, tmp_path / "b.npz", options)
    assert proof.proved
    assert [note.kind for note in proof.notes if note.kind.lossy] == [Kind.OUT_OF_RANGE]


def test_something_to_compare_with_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to compare with"):
        prove(stored(tmp_path / "a.npz", VALUES), None)


def test_no_file_stays_open(tmp_path: Path, samples: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    convert(samples / "tf1_adam_ema", tmp_path / "m.ckpt", ConvertOptions())
    for _ in range(3):
        prove(samples / "tf1_adam_ema", tmp_path / "m.ckpt")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_row_shows_what_it_holds() -> None:
    assert Row("w", Fate.MISSING).json()["expected"] is None


# A variable that a format stores once though two layers have it


def spectral(tmp_path: Path, second: float) -> tuple[Path, ConvertOptions]:
    """Return a model whose outer layer has the kernel of the inner one too, and how to convert it.

    Args:
        tmp_path: where to.
        second: by how much the outer kernel is more than the inner one.
    """

    def layer(
        kind: str, name: str, config: dict[str, object], *inputs: object
    ) -> dict[str, object]:
        return {
            "module": "keras.layers", "class_name": kind, "name": name, "registered_name": None,
            "config": {"name": name, "trainable": True, **config}, "inbound_nodes": list(inputs),
        }  # fmt: skip

    dense = layer("Dense", "d", {"units": 2, "use_bias": True})
    layers = [
        layer("InputLayer", "x", {"batch_shape": [None, 3]}),
        layer("SpectralNormalization", "sn", {"power_iterations": 1, "layer": dense}),
    ]
    config = {"class_name": "Sequential", "config": {"name": "m", "layers": layers}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2)
    values: dict[str, Values] = {
        "sn/kernel": kernel + np.float32(second),
        "sn/vector_u": np.ones((1, 2), np.float32),
        "sn/d/kernel": kernel,
        "sn/d/bias": np.zeros(2, np.float32),
    }
    write = WriteOptions(config=tmp_path / "config.json")
    options = ConvertOptions(target_format="keras-h5", write=write, report=tmp_path / "r.json")
    return stored(tmp_path / "m.npz", values), options


@pytest.mark.parametrize(("second", "proved"), [(0, True), (1, False)])
def test_a_variable_of_two_layers_is_proved_where_it_is_stored(
    tmp_path: Path, second: float, proved: bool
) -> None:
    source, options = spectral(tmp_path, second)
    convert(source, tmp_path / "m.h5", options)
    proof = prove(source, tmp_path / "m.h5", recorded=read_report(tmp_path / "r.json"))
    assert differences(proof) == ({} if proved else {"sn/kernel": Fate.MISSING})
    row = next(row for row in proof.rows if row.name == "sn/kernel")
    assert row.text == "another layer's variable, which this format keeps with that layer alone"
