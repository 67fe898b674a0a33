from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.digests import digest
from tensorferry.converters.errors import (
    CorruptFileError,
    NotRecognisedError,
    TargetError,
    UsageError,
)
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_for_target
from tensorferry.converters.testing.contracts import Values, contents, listing, tensors_of
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert
from tensorferry.pipeline.update import updated

KERNEL = np.arange(32, dtype=np.float32).reshape(4, 8)
EXTRA = np.array([1, 2], np.int16)
ENDINGS = ["safetensors", "npz", "h5", "ckpt"]


def stored(path: Path, values: Mapping[str, Values]) -> Path:
    """Write tensors in the format that the name stands for."""
    plan = format_for_target(path).plan
    assert plan
    write_plan(plan(tensors_of(values), path, WriteOptions()))
    return path


@pytest.fixture
def base(samples: Path) -> Path:
    return samples / "tf1_adam_ema"


@pytest.mark.parametrize("target", ENDINGS)
@pytest.mark.parametrize("ending", ENDINGS)
def test_tensors_are_replaced_and_added(
    tmp_path: Path, base: Path, ending: str, target: str
) -> None:
    patch = stored(tmp_path / f"patch.{ending}", {"dense/kernel": KERNEL, "new/extra": EXTRA})
    path = tmp_path / f"out.{target}"
    report = convert(base, path, ConvertOptions(updates=(patch,), verify=True))
    assert report.counts["updated"] == report.counts["added"] == 1
    assert sum(report.counts.values()) == len(report.source) == 30
    with open_tensors(base) as before, open_tensors(path) as after:
        expected = {**contents(before), **contents(tensors_of({
            "dense/kernel": KERNEL, "new/extra": EXTRA,
        }))}  # fmt: skip
        got = contents(after)
        assert got == expected
        assert {name: digest(after[name]) for name in after} == dict(report.digests)


def test_a_replaced_tensor_keeps_its_origin(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf_keras_object" / "ckpt-1"
    with open_tensors(source) as before:
        name = next(name for name in before if before.origin(name).owner)
        shape, origin = before[name].spec.shape, before.origin(name)
        patch = stored(tmp_path / "p.npz", {name: np.zeros(shape, np.float32), "more": EXTRA})
        with updated(before, [patch], ReadOptions()) as after:
            assert after.origin(name) == origin
            assert after.origin(name).key != name
            assert after.origin("more").key == "more"
            assert after[name].read().tolist() == np.zeros(shape).tolist()
            assert list(after) == [*before, "more"]
            assert (after.format, after.summary) == (before.format, before.summary)
            assert after.details == before.details


def test_keys_stay_apart(tmp_path: Path, samples: Path) -> None:
    with open_tensors(samples / "tf_keras_object" / "ckpt-1") as before:
        key = next(before.origin(name).key for name in before if before.origin(name).key != name)
        patch = stored(tmp_path / "p.npz", {key: EXTRA})
        with updated(before, [patch], ReadOptions()) as after:
            assert after.origin(key).key == f"update::{key}"


def test_names_may_be_keys(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf_keras_object" / "ckpt-1"
    read = ReadOptions(names="key")
    with open_tensors(source, read) as before:
        key = next(name for name in before if "/.ATTRIBUTES/" in name)
        patch = stored(tmp_path / "p.npz", {key: before[key].read() + 1})
    report = convert(source, tmp_path / "o.npz", ConvertOptions(read=read, updates=(patch,)))
    assert report.counts["updated"] == 1
    assert "added" not in report.counts


def test_later_updates_are_over_earlier_ones(tmp_path: Path, base: Path) -> None:
    one = stored(tmp_path / "one.npz", {"a": EXTRA, "dense/kernel": KERNEL})
    two = stored(tmp_path / "two.h5", {"a": EXTRA * 2, "b": EXTRA})
    report = convert(base, tmp_path / "o.npz", ConvertOptions(updates=(str(one), two)))
    assert (report.counts["updated"], report.counts["added"]) == (1, 2)
    with open_tensors(tmp_path / "o.npz") as after:
        assert after["a"].read().tolist() == [2, 4]
        assert after["dense/kernel"].read().tolist() == KERNEL.tolist()
    said = [str(note) for note in report.notes if note.kind is Kind.SOURCE and not note.tensor]
    assert [text for text in said if text.startswith("update")] == [
        "update by `one.npz`, NumPy archive (npz): 1 updated, 1 added",
        "update by `two.h5`, HDF5 file: 1 updated, 1 added",
    ]
    rows = {row["name"]: row for row in report.rows()}
    assert rows["a"]["notes"] == ["from `one.npz`", "from `two.h5`"]


def test_what_is_updated_is_selected_and_cast_as_the_rest(tmp_path: Path, base: Path) -> None:
    patch = stored(tmp_path / "p.npz", {"dense/kernel": KERNEL, "new": KERNEL})
    options = ConvertOptions(updates=(patch,), include=("dense/kernel", "new"), dtypes=("bf16",))
    report = convert(base, tmp_path / "o.npz", options)
    assert report.counts == {"written": 0, "excluded": 28, "added": 1, "updated": 1}
    with open_tensors(tmp_path / "o.npz") as after:
        assert {name: after[name].spec.dtype.label for name in after} == {
            "dense/kernel": "bfloat16", "new": "bfloat16",
        }  # fmt: skip


def test_the_base_may_be_the_target(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.safetensors", {"a": KERNEL, "b": EXTRA})
    patch = stored(tmp_path / "p.safetensors", {"b": EXTRA + 1})
    with pytest.raises(UsageError, match="exists"):
        convert(path, path, ConvertOptions(updates=(patch,)))
    options = ConvertOptions(updates=(patch,), write=WriteOptions(overwrite=True), verify=True)
    convert(path, path, options)
    with open_tensors(path) as after:
        assert contents(after) == contents(tensors_of({"a": KERNEL, "b": EXTRA + 1}))


def test_another_name_of_a_tied_tensor_is_that_tensor(tmp_path: Path) -> None:
    both = {"head": EXTRA + 1, "embed": EXTRA + 2}
    one = stored(tmp_path / "one.npz", {"head": both["head"]})
    two = stored(tmp_path / "two.npz", dict(both))
    tied = tensors_of({"embed": EXTRA})
    object.__setattr__(tied, "aliases", {"head": "embed"})
    with updated(tied, [one], ReadOptions()) as after:
        assert contents(after) == contents(tensors_of({"embed": EXTRA + 1}))
        assert after.aliases == {"head": "embed"}
    with (
        pytest.raises(UsageError, match="`embed` and `head` are one tensor in the base"),
        updated(tied, [two], ReadOptions()),
    ):
        pass


def test_what_is_missing_in_the_base_may_be_in_the_update(tmp_path: Path, samples: Path) -> None:
    for path in (samples / "tf1_multi_shard").iterdir():
        if not path.name.endswith("data-00001-of-00003"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with open_tensors(samples / "tf1_multi_shard") as whole, open_tensors(tmp_path) as part:
        patch = stored(tmp_path / "p.npz", {name: whole[name].read() for name in part.broken})
    options = ConvertOptions(updates=(patch,))
    assert convert(tmp_path, tmp_path / "o.npz", options).counts["updated"] == 2


def test_listeners_hear_of_the_base(tmp_path: Path, base: Path) -> None:
    heard: list[int] = []

    class Counter(Listener):
        def opened(self, tensors: object) -> None:
            heard.append(len(tensors))  # type: ignore[arg-type]

    patch = stored(tmp_path / "p.npz", {"new": EXTRA})
    convert(base, tmp_path / "o.npz", ConvertOptions(updates=(patch,)), Counter())
    assert heard == [29]


# Refusals


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"dense/kernel": KERNEL.T},
            "tensor `dense/kernel`: does not fit the tensor of that name in the base, "
            "expected float32 of shape (4, 8), got float32 of shape (8, 4)",
        ),
        (
            {"dense/kernel": KERNEL.astype(np.float16), "dense/bias": EXTRA, "new": EXTRA},
            "expected float32 of shape (8,), got int16 of shape (2,), and 1 more do not fit",
        ),
        ({"global_step": np.int32(1)[None][0]}, "expected int64 of shape (), got int32"),
    ],
)
def test_other_shapes_and_types_are_refused(
    tmp_path: Path, base: Path, values: dict[str, Values], said: str
) -> None:
    patch = stored(tmp_path / "patch.npz", {k: np.asarray(v) for k, v in values.items()})
    before = listing(tmp_path)
    with pytest.raises(UsageError) as raised:
        convert(base, tmp_path / "o.npz", ConvertOptions(updates=(patch,)))
    assert said in str(raised.value)
    assert str(patch) in str(raised.value)
    assert listing(tmp_path) == before


def test_an_update_that_cannot_be_read_leaves_nothing(tmp_path: Path, base: Path) -> None:
    with pytest.raises(NotRecognisedError, match="does not exist"):
        convert(base, tmp_path / "o.npz", ConvertOptions(updates=(tmp_path / "p.npz",)))
    for name in ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00003"):
        source = base.parent / "tf1_multi_shard" / name
        (tmp_path / name).write_bytes(source.read_bytes())
    patch = tmp_path / "model.ckpt-7"
    before = listing(tmp_path)
    with pytest.raises(CorruptFileError, match="data shard is missing"):
        convert(base, tmp_path / "o.npz", ConvertOptions(updates=(patch,), allow_missing=True))
    assert listing(tmp_path) == before


def test_an_added_name_may_not_hide_another(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.npz", {"__metadata__": EXTRA})
    patch = stored(tmp_path / "p.npz", {"%5F_metadata__": EXTRA})
    before = listing(tmp_path)
    with pytest.raises(TargetError, match="two names become"):
        convert(path, tmp_path / "o.safetensors", ConvertOptions(updates=(patch,)))
    assert listing(tmp_path) == before


def test_the_command_line_shows_the_account(tmp_path: Path, base: Path) -> None:
    stored(tmp_path / "p.safetensors", {"dense/kernel": KERNEL, "new": EXTRA})
    stored(tmp_path / "q.h5", {"new": EXTRA})
    program = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
    words = [str(base), "o.ckpt", "--update", "p.safetensors", "--update", "q.h5", "--strict"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert "29" not in lines[0]
    assert "note: update by `p.safetensors`, safetensors file: 1 updated, 1 added" in lines
    assert "note: update by `q.h5`, HDF5 file: 1 updated, 0 added" in lines
    assert "28 written, 1 updated, 1 added, " in lines[-1]
    assert not any("from `" in line for line in lines)


def test_notes_are_printed_once(tmp_path: Path, samples: Path) -> None:
    stored(tmp_path / "p.npz", {"new": EXTRA})
    program = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
    words = [str(samples / "all_dtypes" / "bundle"), "o.npz", "--update", "p.npz", "-v"]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    notes = [line for line in done.stderr.splitlines() if line.startswith("note")]
    assert sum("a variant" in note for note in notes) == 1
    assert "note: added: tensor `new`: from `p.npz`" in notes
    assert len(set(notes)) == len(notes)
