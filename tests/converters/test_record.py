from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.record import Record
from tensorferry.converters.tensors import Tensor
from tensorferry.converters.testing.contracts import contents, tensors_of
from tensorferry.converters.testing.strategies import dtypes, names, tensor_dicts

STORED = tensors_of({"a": (DType.UINT16, (2,), b"\1\2\3\4"), "b": (DType.INT8, (1,), b"\1")})


def _parse(**content: object) -> Record:
    return Record.parse(json.dumps({"version": 1, **content}))


def test_a_record_of_nothing_is_false() -> None:
    assert not Record()
    assert Record(dtypes={"a": DType.INT4})
    assert Record(names={"a": "b"})
    assert Record(elements=dict(STORED))
    assert Record(tied={"b": "a"})
    assert Record(aliases={"b": "a"})


@given(
    st.dictionaries(names(), dtypes()),
    st.lists(st.tuples(names(), names()), unique_by=(lambda p: p[0], lambda p: p[1])).map(dict),
    tensor_dicts([DType.STRING, DType.VARIANT]),
)
def test_records_round_trip(
    types: dict[str, DType], exact: dict[str, str], elements: dict[str, Tensor]
) -> None:
    text = Record(types, exact, dict(elements)).build()
    assert text.isascii()
    found = Record.parse(text)
    assert (found.dtypes, found.names) == (types, exact)
    assert contents(found.elements) == contents(elements)
    assert Record.parse(text.encode()).names == exact


def test_text_is_kept_readable() -> None:
    text = Record(elements=dict(tensors_of({"s": ["größe".encode()]}))).build()
    assert json.loads(text)["elements"]["s"]["text"] == ["größe"]


def test_types_are_put_back() -> None:
    tensors, origins = _parse(dtypes={"a": "bfloat16"}).apply(STORED, readable=True)
    assert tensors["a"].spec.dtype is DType.BFLOAT16
    assert contents(tensors)["a"][2] == b"\1\2\3\4"
    assert origins["a"].key == "a"


def test_names_are_put_back_or_kept() -> None:
    record = _parse(names={"a": "exact"})
    assert list(record.apply(STORED, readable=True)[0]) == ["exact", "b"]
    assert list(record.apply(STORED, readable=False)[0]) == ["a", "b"]
    assert record.apply(STORED, readable=True)[1]["exact"].key == "a"


@given(st.dictionaries(names(), names()), st.dictionaries(names(), names()))
def test_ties_and_aliases_round_trip(tied: dict[str, str], aliases: dict[str, str]) -> None:
    found = Record.parse(Record(tied=tied, aliases=aliases).build())
    assert (found.tied, found.aliases) == (tied, aliases)


def test_tied_tensors_are_there_under_both_names() -> None:
    record = _parse(dtypes={"a": "bfloat16"}, tied={"c": "a"}, names={"c": "exact"})
    tensors, origins = record.apply(STORED, readable=True)
    assert list(tensors) == ["a", "b", "exact"]
    assert contents(tensors)["exact"] == (DType.BFLOAT16, (2,), b"\1\2\3\4")
    assert origins["exact"].key == "c"
    assert list(record.apply(STORED, readable=False)[0]) == ["a", "b", "c"]


def test_aliases_are_of_names_in_the_dictionary() -> None:
    element = {"dtype": "string", "shape": [], "text": ["x"]}
    record = _parse(
        names={"a": "exact"},
        elements={"s": element},
        tied={"c": "b"},
        aliases={"one": "a", "two": "s", "three": "c", "\udcff": "b"},
    )
    others = {"two": "s", "three": "c", "\udcff": "b"}
    assert record.other_names(record.apply(STORED, readable=True)[1]) == {"one": "exact", **others}
    assert record.other_names(record.apply(STORED, readable=False)[1]) == {"one": "a", **others}


@pytest.mark.parametrize("aliases", [{"one": "c"}, {"a": "b"}, {"exact": "b"}, {"one": "exact"}])
def test_an_alias_of_nothing_or_that_is_a_tensor_is_refused(aliases: dict[str, str]) -> None:
    record = _parse(names={"a": "exact"}, aliases=aliases)
    origins = record.apply(STORED, readable="a" not in aliases)[1]
    with pytest.raises(CorruptFileError, match="alias `"):
        record.other_names(origins)


def test_a_record_is_split_among_files() -> None:
    whole = Record(
        dtypes={"a": DType.INT4, "b": DType.UINT4},
        names={"a": "A", "b": "B", "c": "C", "s": "S"},
        elements=dict(tensors_of({"s": [b"x"]})),
        tied={"c": "b"},
        aliases={"one": "a", "two": "b", "three": "c", "four": "s"},
    )
    first, second, third = whole.split({"a": 0, "b": 1, "d": 2}, 3)
    assert (first.dtypes, first.names) == ({"a": DType.INT4}, {"a": "A", "s": "S"})
    assert (list(first.elements), first.aliases) == (["s"], {"one": "a", "four": "s"})
    assert (second.dtypes, second.names) == ({"b": DType.UINT4}, {"b": "B", "c": "C"})
    assert (second.tied, second.aliases) == ({"c": "b"}, {"two": "b", "three": "c"})
    assert not third


@pytest.mark.parametrize(
    "content",
    [
        {"dtypes": {"a": "int4"}},
        {"names": {"a": "b"}},
        {"elements": {"a": {"dtype": "string", "shape": [], "text": ["x"]}}},
        {"tied": {"c": "d"}},
        {"tied": {"c": "c"}},
        {"tied": {"c": "b", "d": "c"}},
        {"tied": {"a": "b"}},
        {"tied": {"c": "a"}, "names": {"c": "b"}},
        {"tied": {"c": "s"}, "elements": {"s": {"dtype": "string", "shape": [], "text": ["x"]}}},
    ],
)
def test_a_record_that_contradicts_the_file_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(CorruptFileError, match="tensor `"):
        _parse(**content).apply(STORED, readable=True)


def _element(**changes: object) -> dict[str, object]:
    return {"elements": {"s": {"dtype": "string", "shape": [1], "text": ["x"], **changes}}}


@pytest.mark.parametrize(
    "content",
    [
        {"version": 2},
        {"version": None},
        {"dtypes": {"a": "no such"}},
        {"dtypes": {"a": 1}},
        {"dtypes": ["a"]},
        {"names": {"a": 1}},
        {"names": {"a": "same", "b": "same"}},
        {"names": {"a": "\ud800"}},
        _element(dtype="float32"),
        _element(dtype=None),
        _element(shape=[2]),
        _element(shape=[-1]),
        _element(shape=[1.0]),
        _element(shape="1"),
        _element(shape=[1 << 62, 1 << 62, 0], text=[]),
        _element(shape=[True]),
        _element(text=[1]),
        _element(text=["\ud800"]),
        {"elements": {"s": {"dtype": "string", "shape": [1], "base64": ["?"]}}},
        {"elements": {"s": {"dtype": "string", "shape": [1]}}},
        {"elements": {"s": 7}},
        {"elements": 7},
        {"tied": ["a"]},
        {"tied": {"c": 1}},
        {"tied": {"c": None}},
        {"aliases": {"c": ["a"]}},
        {"aliases": {"\ud800": "a"}},
    ],
)
def test_a_bad_record_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(CorruptFileError, match="the record of types and names"):
        _parse(**content)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"text"', b"\xff", "[" * 5000, '{"version":' + "9" * 5000 + "}"]
)
def test_what_is_no_json_object_is_refused(text: str | bytes) -> None:
    with pytest.raises(CorruptFileError, match="the record of types and names"):
        Record.parse(text)
