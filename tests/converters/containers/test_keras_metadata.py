from __future__ import annotations

from pathlib import Path

import pytest
from tensorferry.converters.containers import keras_metadata
from tensorferry.converters.containers.keras_metadata import (
    KerasObject,
    describe_object,
    read_keras_metadata,
)
from tensorferry.converters.containers.messages import Body, MemorySource
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import CorruptFileError

DENSE = '{"class_name": "Dense", "name": "d1", "config": {"units": 4}}'


def _read(data: bytes) -> list[KerasObject]:
    return list(read_keras_metadata(Body.whole(MemorySource(Path("keras_metadata.pb"), data))))


def test_layers_come_with_their_classes_and_names() -> None:
    layer = message((2, 3), (3, b"root.layer-0"), (4, b"_tf_keras_layer"), (5, DENSE.encode()))
    root = message((3, b"root"), (4, b"_tf_keras_sequential"))
    assert _read(message((1, root), (9, b"unknown"), (1, layer))) == [
        KerasObject(0, "root", "sequential", "", ""),
        KerasObject(3, "root.layer-0", "layer", "Dense", "d1"),
    ]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"Dense"', '{"name": null}'])
def test_what_is_no_layers_json_tells_nothing(text: str) -> None:
    assert describe_object(1, "_tf_keras_layer", text) == KerasObject(1, "", "layer", "", "")


def test_text_longer_than_a_layers_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_metadata, "METADATA_BYTES", 20)
    assert describe_object(1, "_tf_keras_layer", DENSE).name == ""
    (found,) = _read(message((1, message((5, DENSE.encode())))))
    assert found == KerasObject(0, "", "", "", "")


def test_a_name_is_cut_to_a_length_that_can_be_shown() -> None:
    assert len(describe_object(1, "", '{"name": "%s"}' % ("x" * 1000)).name) == 200


def test_a_damaged_file_is_named() -> None:
    with pytest.raises(CorruptFileError, match=r"keras_metadata\.pb"):
        _read(b"\x0a\xff")
