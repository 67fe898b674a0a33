from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import CorruptFileError, NotRecognisedError
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.recorded import read_report, recorded_flags

# Every field with a value that is not its default.
ALL = ConvertOptions(
    source_format="npz",
    target_format="hdf5",
    read=ReadOptions(
        "key", False, 3, True, frozenset({"serve", "gpu"}), False, "modern", True, True, "http://s"
    ),
    write=WriteOptions(
        True, True, 5, True, True, Path("l"), Path("t"), Path("c"), True, True, True
    ),
    include=("a*", "b"),
    exclude=("re:c",),
    by="key",
    weights_only=True,
    ema="only",
    updates=("u.npz", "v.npz"),
    layout="jax",
    recipes=('version = 1\n[[rule]]\nmatch = "**"\nkeep = true\n',),
    dtypes=("bf16", "x=f32"),
    allow_missing=True,
    strict=True,
    dry_run=True,
    verify=True,
    verify_sample=True,
    digests=True,
    like="m.npz",
    strict_like=True,
    report=Path("r.json"),
    digest_file=Path("d.json"),
    fsync=True,
    jobs=2,
)


def stored(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def report(flags: object) -> dict[str, Any]:
    return {"target": {"format": "npz"}, "flags": flags}


def test_every_flag_is_recorded_and_read(tmp_path: Path) -> None:
    for part in (ALL, ALL.read, ALL.write):
        plain = type(part)()
        same = [
            each.name
            for each in fields(part)
            if getattr(part, each.name) == getattr(plain, each.name)
        ]
        assert same == []  # a new field has to be told of above
    path = stored(tmp_path / "r.json", report(recorded_flags(ALL)))
    assert read_report(path).options == ALL


def test_only_what_differs_is_recorded() -> None:
    assert recorded_flags(ConvertOptions()) == {"version": 1}
    options = ConvertOptions(
        read=ReadOptions(step=3), dtypes=("bf16",), write=WriteOptions(flat=True)
    )
    assert recorded_flags(options) == {
        "version": 1, "read": {"step": 3}, "write": {"flat": True}, "dtypes": ["bf16"],
    }  # fmt: skip


def test_a_conversion_records_its_flags(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(exclude=("*/Adam*",), ema="raw", report=tmp_path / "r.json")
    done = convert(samples / "tf1_adam_ema", tmp_path / "m.npz", options)
    recorded = read_report(tmp_path / "r.json")
    assert recorded.options == options
    assert recorded.format == "npz"
    assert done.json()["flags"]["exclude"] == ["*/Adam*"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "the report: JSON, expected dict, got"),
        ({}, "target: JSON, expected dict, got None"),
        ({"target": {}}, "target: format: JSON, expected str, got None"),
        ({"target": {"format": "npz"}}, "the report: has no flags"),
        (report([]), "flags: JSON, expected dict"),
        (report({}), "version: flags, expected 1, got None"),
        (report({"version": 2}), "version: flags, expected 1, got 2"),
        (report({"version": 1, "nothing": 1}), "flags: `nothing` is unknown"),
        (report({"version": 1, "include": "a"}), "flags: include: JSON, expected list, got 'a'"),
        (report({"version": 1, "include": [1]}), "flags: include: JSON, expected str, got 1"),
        (report({"version": 1, "by": "value"}), r"flags: by: JSON, expected \('name', 'key'\)"),
        (report({"version": 1, "by": ["name"]}), "flags: by: JSON"),
        (report({"version": 1, "strict": 1}), "flags: strict: JSON, expected bool, got 1"),
        (report({"version": 1, "jobs": True}), "flags: jobs: JSON, expected int, got True"),
        (report({"version": 1, "report": 5}), "flags: report: JSON, expected str, got 5"),
        (report({"version": 1, "read": None}), "flags: read: JSON, expected dict, got None"),
        (report({"version": 1, "read": {"to": 1}}), "flags: read: `to` is unknown"),
        (report({"version": 1, "read": {"step": "3"}}), "flags: read: step: JSON, expected int"),
        (report({"version": 1, "read": {"tag_set": "a"}}), "flags: read: tag_set: JSON"),
        (report({"version": 1, "write": {"template": {}}}), "flags: write: template: JSON"),
    ],
)
def test_other_reports_are_refused_with_the_place(tmp_path: Path, content: Any, said: str) -> None:
    path = stored(tmp_path / "r.json", content)
    with pytest.raises(CorruptFileError, match=said) as caught:
        read_report(path)
    assert caught.value.path == str(path)


def test_what_is_no_json_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(CorruptFileError, match="'a'"):
        read_report(tmp_path / "r.json")
    with pytest.raises(NotRecognisedError, match="does not exist"):
        read_report(tmp_path / "none.json")
    with pytest.raises(NotRecognisedError, match="no regular file"):
        read_report(tmp_path)
