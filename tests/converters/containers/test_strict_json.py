from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.containers import strict_json
from tensorferry.converters.containers.strict_json import (
    JSON_DEPTH,
    parse_json,
    parse_json_object,
    read_json,
)
from tensorferry.converters.errors import CorruptFileError, UnsafeFileError
from tensorferry.converters.sources import FileSource

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)  # fmt: skip


@given(_VALUES)
def test_whatever_python_writes_is_read(value: Any) -> None:
    try:
        text = json.dumps(value).encode("utf-8")
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:  # a key with half a surrogate pair; another test is about that
        return
    assert parse_json(text) == value


@given(st.binary())
def test_bytes_are_a_value_or_an_error(data: bytes) -> None:
    try:
        value = parse_json(data)
    except CorruptFileError:
        return
    assert value == json.loads(data)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b'{"a": 1, "a": 2}', "a key occurs twice"),
        (b'[{"a": {"b": 1, "b": 1}}]', "a key occurs twice"),
        (b"[NaN]", "NaN is no number"),
        (b"-Infinity", "-Infinity is no number"),
        (b"1e999", "larger than any float64"),
        (b'"\\ud800"', "half a surrogate pair"),
        (b'{"\\udcff": 1}', "half a surrogate pair"),
        (b"\xff", "no JSON"),
        (b"", "no JSON"),
        (b"{} {}", "no JSON"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b"1" * 5000, "no JSON"),
    ],
)
def test_what_json_does_not_allow_is_refused(text: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what):
        parse_json(text)


def test_surrogate_pairs_are_text() -> None:
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize("depth", [JSON_DEPTH + 1, 5000, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused(depth: int, opening: bytes, closing: bytes) -> None:
    with pytest.raises(UnsafeFileError, match=f"at most {JSON_DEPTH} levels"):
        parse_json(opening * depth + b"1" + closing * depth)


def test_nesting_up_to_the_limit_is_read() -> None:
    assert parse_json(b"[" * JSON_DEPTH + b"]" * JSON_DEPTH)
    with pytest.raises(UnsafeFileError, match="at most 2 levels"):
        parse_json(b"[[[]]]", max_depth=2)


def test_length_and_number_of_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsafeFileError, match="at most 3 bytes, got 4"):
        parse_json(b"1000", max_bytes=3)
    monkeypatch.setattr(strict_json, "JSON_VALUES", 10)
    with pytest.raises(UnsafeFileError, match="at most 10 values"):
        parse_json(b"[" + b"[]," * 10 + b"[]]")


def test_an_object_is_asked_for() -> None:
    assert parse_json_object(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(CorruptFileError, match="expected an object, got list"):
        parse_json_object(b"[]")


def test_a_file_is_read_within_its_bounds(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(b'{"a": 1}')
    source = FileSource(path)
    assert read_json(source) == {"a": 1}
    with pytest.raises(UnsafeFileError, match=r"m\.json: JSON, expected at most 3 bytes, got 8"):
        read_json(source, max_bytes=3)
    source.close()
    path.write_bytes(b"{")
    broken = FileSource(path)
    with pytest.raises(CorruptFileError, match=r"m\.json: no JSON"):
        read_json(broken)
    broken.close()
