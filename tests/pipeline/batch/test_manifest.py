from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tensorferry.converters.errors import ConvertError, CorruptFileError, UsageError
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.batch.manifest import MAX_BYTES, read_manifest
from tensorferry.pipeline.batch.plan import plan_list
from tensorferry.pipeline.convert import ConvertOptions

TO = ConvertOptions(target_format="npz", weights_only=True)
TOML = """
[[model]]
source = "run/model.ckpt-30"
target = "a.safetensors"
flags = { dtypes = ["bf16"], read = { names = "key" } }

[[model]]
source = "model.npz"
"""
CSV = (
    "source,target,flags\n"
    'run/model.ckpt-30,a.safetensors,"{""dtypes"": [""bf16""], ""read"": {""names"": ""key""}}"\n'
    "model.npz,,\n"
)
LINES = (
    '{"source": "run/model.ckpt-30", "target": "a.safetensors",'
    ' "flags": {"dtypes": ["bf16"], "read": {"names": "key"}}}\n\n{"source": "model.npz"}\n'
)


@pytest.fixture
def zoo(samples: Path, tmp_path: Path) -> Path:
    shutil.copytree(samples / "several_steps", tmp_path / "zoo" / "run")
    shutil.copy(samples / "npz_file" / "model.npz", tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.mark.parametrize(("ending", "text"), [("toml", TOML), ("csv", CSV), ("jsonl", LINES)])
def test_a_list_says_what_becomes_of_each_model(zoo: Path, ending: str, text: str) -> None:
    path = zoo / f"list.{ending}"
    path.write_text(text)
    first, second = plan_list(path, zoo / "out", TO).jobs
    assert first.source == str(zoo / "run" / "model.ckpt-30")
    assert first.target == str(zoo / "out" / "a.safetensors")
    assert first.flags == ConvertOptions(
        target_format="safetensors", weights_only=True, dtypes=("bf16",), read=ReadOptions("key")
    )
    assert (first.nbytes, bool(first.fingerprint)) == (5673, True)
    assert second.target == str(zoo / "out" / "model.npz")
    assert second.flags == TO


def test_a_model_that_is_not_there_is_a_job_that_fails(zoo: Path) -> None:
    path = zoo / "list.jsonl"
    path.write_text('{"source": "gone.h5"}')
    (job,) = plan_list(path, zoo / "out", TO).jobs
    assert (job.target, job.nbytes) == (str(zoo / "out" / "gone.h5.npz"), 0)


def test_an_own_format_counts_before_an_ending(zoo: Path) -> None:
    path = zoo / "list.jsonl"
    row = {"source": "model.npz", "target": "m.bin", "flags": {"target_format": "safetensors"}}
    path.write_text(json.dumps(row))
    assert plan_list(path, zoo / "out", TO).jobs[0].flags.target_format == "safetensors"
    path.write_text('{"source": "model.npz", "target": "m.bin"}')
    assert plan_list(path, zoo / "out", TO).jobs[0].flags.target_format == "npz"
    with pytest.raises(UsageError, match="no format has this ending"):
        plan_list(path, zoo / "out", ConvertOptions())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("l.toml", "model = 3", "`[[model]]` alone"),
        ("l.toml", "[[models]]\nsource='a'", "`[[model]]` alone"),
        ("l.toml", "[[model]", "TOML"),
        ("l.toml", "model = [1]", "model 1: a model, expected flags, source, target"),
        ("l.csv", "source,flags\na,{", "line 2: JSON"),
        ("l.csv", "path\na", "line 2: a model"),
        ("l.csv", 'source\n"a', "CSV"),
        ("l.jsonl", "[]", "line 1: a model"),
        ("l.jsonl", "{", "line 1: JSON"),
        ("l.jsonl", "[" * 100_000, "line 1: JSON"),
        ("l.jsonl", '{"target": "a"}', "expected a `source`"),
        ("l.jsonl", '{"source": "a", "target": 3}', "line 1: `target`"),
        ("l.jsonl", '{"source": "a", "flags": []}', "line 1: flags"),
        ("l.jsonl", '{"source": "a", "flags": {"dtype": "x"}}', "`dtype` is unknown"),
        ("l.jsonl", '{"source": "a", "flags": {"strict": 1}}', "strict: JSON, expected bool"),
        ("l.jsonl", '{"source": "a", "flags": {"report": "x"}}', "`report` is for the whole batch"),
    ],
)
def test_what_is_no_list_is_refused_with_its_place(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(CorruptFileError) as caught:
        plan_list(path, tmp_path / "out", TO)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_other_files_and_what_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("")
    (tmp_path / "bad.csv").write_bytes(b"source\n\xff")
    with (tmp_path / "huge.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name in ("list.yaml", "bad.csv", "huge.csv", "gone.csv"):
        with pytest.raises(ConvertError):
            list(read_manifest(tmp_path / name, TO))


def test_targets_stay_inside_and_apart(zoo: Path) -> None:
    path = zoo / "list.jsonl"
    path.write_text('{"source": "model.npz", "target": "../out.npz"}')
    with pytest.raises(UsageError, match="is no path inside"):
        plan_list(path, zoo / "out", TO)
    path.write_text('{"source": "model.npz"}\n{"source": "run", "target": "model.npz"}')
    with pytest.raises(UsageError, match="two models would become one file"):
        plan_list(path, zoo / "out", TO)
