"""`keras_metadata.pb`: what tf_keras notes about the layers of a SavedModel.

    SavedMetadata: 1 nodes, repeated
    SavedObject:   2 node id, 3 path (`root.layer_with_weights-0`), 4 identifier
                   (`_tf_keras_layer`), 5 metadata, a JSON text

Source: tf_keras/protobuf/saved_metadata.proto (v2.21.0). The JSON is read as data: class and name
are taken out of it, and no object is made. TensorFlow 2.0 to 2.4 kept the same text in the user
objects of the SavedModel itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

from .messages import Body

__all__ = [
    "NAME_CHARACTERS",
    "KerasObject",
    "describe_object",
    "metadata_texts",
    "read_keras_metadata",
]

METADATA_BYTES = 16 << 20  # of one layer's JSON; a vocabulary may stand in it
NAME_CHARACTERS = 200  # longer ones are cut off


class KerasObject(NamedTuple):
    """A layer, model or metric.

    Attributes:
        node: its number in the object graph.
        path: from the root, as Keras writes it.
        kind: `layer`, `sequential`, `metric`, …
        class_name: Python class, as the file says.
        name: the object's own.
    """

    node: int
    path: str
    kind: str
    class_name: str
    name: str


def read_keras_metadata(body: Body) -> Iterator[KerasObject]:
    """Yield the objects that a `keras_metadata.pb` describes.

    Raises:
        CorruptFileError: the bytes are no such message.
    """
    for number, each in body.bodies():
        if number == 1:
            fields = dict(each.fields())
            node = fields.get(2, 0)
            path, identifier, metadata = (_text(fields.get(n)) for n in (3, 4, 5))
            found = describe_object(node if isinstance(node, int) else 0, identifier, metadata)
            yield found._replace(path=path)


def metadata_texts(body: Body) -> Iterator[str]:
    """Yield the JSON text of each object in a `keras_metadata.pb`.

    Raises:
        CorruptFileError: the bytes are no such message.
    """
    for number, each in body.bodies():
        if number == 1:
            yield _text(dict(each.fields()).get(5))


def describe_object(node: int, identifier: str, metadata: str) -> KerasObject:
    """Return what an object's identifier and JSON say; what cannot be read is left empty."""
    content: object = None
    if len(metadata) <= METADATA_BYTES:
        try:
            content = json.loads(metadata or "null")
        except (ValueError, RecursionError):
            content = None
    found = content if isinstance(content, dict) else {}
    class_name, name = (
        str(found.get(key) or "")[:NAME_CHARACTERS] for key in ("class_name", "name")
    )
    return KerasObject(node, "", identifier.removeprefix("_tf_keras_"), class_name, name)


def _text(value: int | Body | None) -> str:
    return value.text() if isinstance(value, Body) and value.length <= METADATA_BYTES else ""
