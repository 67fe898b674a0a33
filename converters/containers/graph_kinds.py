"""Which kind of graph a file holds, told by its first messages; none of them has a magic number.

    GraphDef     field 1, repeated: NodeDef {1 name, 2 op, 3 input, 4 device, 5 attr}
    SavedModel   field 1 = 1 (schema version), field 2: MetaGraphDef {1 MetaInfoDef, …}
    MMdnn's IR   like a GraphDef, but a node's field 4 is the map of attributes
    ONNX         field 1 = version of the format, then texts

Source: tensorflow/core/framework/{graph,node_def}.proto, tensorflow/core/protobuf/
saved_model.proto (v2.21.0); mmdnn/conversion/common/IR/graph.proto.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source
from .graph_proto import map_entries
from .messages import Body, MemorySource
from .text_proto import MAX_TEXT_BYTES, to_binary

__all__ = [
    "binary_source",
    "is_foreign_graph",
    "is_graph",
    "is_graph_text",
    "is_saved_model",
    "is_saved_model_text",
]

# tensorflow/core/framework/node_def_util.cc: names; ops may be functions, which have any name.
_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
_OP = re.compile(r"[A-Za-z_][A-Za-z0-9_.>-]*")
_LOOKED_AT = 16  # nodes
_NAME_BYTES = 1 << 14
_NODE_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7})
_VALUE_FIELDS = frozenset(range(1, 11))
_COMMENTS = rb"\s*(?:\#[^\n]*\s*)*"
_GRAPH_TEXT = re.compile(_COMMENTS + rb"node\s*:?\s*[{<].*?\bop\s*:\s*[\"']", re.DOTALL)
_MODEL_TEXT = re.compile(_COMMENTS + rb"(?:saved_model_schema_version\s*:|meta_graphs\s*:?\s*[{<])")


def is_graph(source: Source) -> bool:
    """Tell whether a file begins with nodes of a TensorFlow graph."""
    return _likeness(source, _is_node, seen=5)


def is_foreign_graph(source: Source) -> bool:
    """Tell whether a file begins with nodes that have names and ops, and are not TensorFlow's."""
    return _likeness(source, _is_named, seen=4) and not is_graph(source)


def is_saved_model(source: Source) -> bool:
    """Tell whether a file begins as a SavedModel message does."""
    try:
        fields = Body.whole(source).fields()
        if next(fields, None) != (1, 1):
            return False
        number, meta_graph = next(fields, (0, 0))
        if number != 2 or not isinstance(meta_graph, Body):
            return False
        number, info = next(meta_graph.fields(), (0, 0))
        return number == 1 and isinstance(info, Body) and all(n <= 8 for n, _ in info.fields())
    except CorruptFileError:
        return False


def is_graph_text(head: bytes) -> bool:
    """Tell whether a file's first bytes are those of a GraphDef in text form."""
    return _GRAPH_TEXT.match(head) is not None


def binary_source(text: Source, message: str) -> Source:
    """Return the binary form of a whole text file, in memory; closes the file.

    Args:
        text: the file.
        message: name of the message, see `text_proto.SCHEMA`.

    Raises:
        CorruptFileError: it is no such text, or too long.
    """
    if text.size > MAX_TEXT_BYTES:
        raise UnsafeFileError(
            "text too long",
            path=text.path,
            expected=f"at most {MAX_TEXT_BYTES} bytes",
            got=f"{text.size} bytes",
        )
    try:
        data = text.read(0, text.size)
    finally:
        text.close()
    try:
        return MemorySource(text.path, to_binary(data, message))
    except CorruptFileError as error:
        error.path = str(text.path)
        raise


def is_saved_model_text(head: bytes) -> bool:
    """Tell whether a file's first bytes are those of a SavedModel in text form."""
    return _MODEL_TEXT.match(head) is not None


_Node = dict[int, list[int | Body]]


def _likeness(source: Source, fits: Callable[[_Node], bool], *, seen: int) -> bool:
    """Tell whether the first nodes all fit, and at least one has field `seen`."""
    found = False
    try:
        for node in _first_nodes(source):
            if not fits(node):
                return False
            found = found or seen in node
    except CorruptFileError:  # a file cut short is still what its beginning says
        return found
    return found


def _first_nodes(source: Source) -> Iterator[_Node]:
    """Yield the fields of the first nodes; ends where something else follows them."""
    for count, (number, body) in enumerate(Body.whole(source).fields()):
        if number != 1 or not isinstance(body, Body) or count == _LOOKED_AT:
            return
        node: _Node = {}
        for n, value in body.fields():
            node.setdefault(n, []).append(value)
        yield node


def _is_named(node: _Node) -> bool:
    names, ops = _texts(node, 1), _texts(node, 2)
    return (
        len(names) == len(ops) == 1
        and _NAME.fullmatch(names[0]) is not None
        and _OP.fullmatch(ops[0]) is not None
    )


def _is_node(node: _Node) -> bool:
    if not _is_named(node) or not set(node) <= _NODE_FIELDS:
        return False
    if not all(text.isprintable() for text in (*_texts(node, 3), *_texts(node, 4))):
        return False
    return all(isinstance(each, Body) and _is_attribute(each) for each in node.get(5, []))


def _is_attribute(body: Body) -> bool:
    entries = list(map_entries(body))
    return len(entries) == 1 and all(
        key.isprintable() and all(n in _VALUE_FIELDS for n, _ in value.fields())
        for key, value in entries
    )


def _texts(node: _Node, number: int) -> list[str]:
    """Return the texts of a field; one too long for a name is as good as none that is printable."""
    bodies = [each for each in node.get(number, []) if isinstance(each, Body)]
    return [each.text() if each.length <= _NAME_BYTES else "\0" for each in bodies]
