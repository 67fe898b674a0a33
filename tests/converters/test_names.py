from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.errors import TargetError
from tensorferry.converters.names import assign, decode, encode, escape, near
from tensorferry.converters.testing.strategies import names

TARGET = Path("m.out")


@given(st.binary())
def test_any_bytes_are_a_name(raw: bytes) -> None:
    assert encode(decode(raw)) == raw


@given(names())
def test_any_name_is_bytes(name: str) -> None:
    assert decode(encode(name)) == name


@given(names(), st.sampled_from(["", "/", "/.\0", "%"]))
def test_escaped_names_are_text_without_what_is_unsafe(name: str, unsafe: str) -> None:
    escaped = escape(name, unsafe)
    assert escaped.encode("utf-8")
    assert not set(escaped) & (set(unsafe) - {"%"})


@pytest.mark.parametrize(
    ("name", "unsafe", "escaped"),
    [
        ("plain/name:0", "", "plain/name:0"),
        ("a/b", "/", "a%2Fb"),
        ("größe", "", "größe"),
        ("größe", "ö", "gr%C3%B6ße"),
        ("\udcff", "", "%FF"),
        ("a\0", "\0", "a%00"),
    ],
)
def test_escape(name: str, unsafe: str, escaped: str) -> None:
    assert escape(name, unsafe) == escaped


@given(st.lists(names(), unique=True))
def test_assigned_names_are_all_different(given_names: list[str]) -> None:
    try:
        stored = assign(given_names, str.strip, TARGET)
    except TargetError:
        stored = {}
        assert len({name.strip() for name in given_names}) < len(given_names)
    assert len(set(stored.values())) == len(stored)


def test_a_collision_names_both_and_the_way_out() -> None:
    with pytest.raises(TargetError, match="two names become `A` in the target") as caught:
        assign(["a", "b", "A"], str.upper, TARGET)
    assert caught.value.where == "tensors `a` and `A`"
    assert caught.value.path == "m.out"
    assert caught.value.hint == "leave one out with --exclude"


def test_a_collision_may_have_a_hint_of_its_own() -> None:
    with pytest.raises(TargetError) as caught:
        assign(["a", "A"], str.upper, TARGET, hint="rename one")
    assert caught.value.hint == "rename one"


def test_near_names_are_offered() -> None:
    assert near("kernal", ["bias", "kernel"]) == "did you mean `kernel`?"
    assert near("m-1", ["m-2", "m-3"]) == "did you mean `m-3` or `m-2`?"
    assert near("kernel", ["xyz"]) is None
    assert near("kernel", []) is None
