"""TensorFlow frozen graph: a bare GraphDef whose weights are Const nodes. Read only.

    0a <length>  NodeDef {1 name, 2 op, 3 inputs, 5 attr: map}       repeated, no magic number
                   attr["value"] = AttrValue {8: TensorProto {1 dtype, 2 shape, 4 content}}
    12 <length>  FunctionDefLibrary
    22 <length>  VersionDef

Specified by tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto (v2.21.0); the same
message in protobuf's text form is a `.pbtxt`. Recognised by its first nodes, see
`containers/graph_kinds.py`.

A Const without any value is zeros, as for TensorFlow. A graph without variables is refused where
constants of several elements are so and none stores several values: it is the graph of a
TensorFlow.js model, of whose constants the converter took the content, and later typed values too.

Not read: what a graph computes. A graph that is not frozen holds variables without values; they
are counted in a note.

Producers and their quirks: tf.compat.v1.graph_util.convert_variables_to_constants leaves
`<name>/read` behind each weight, convert_variables_to_constants_v2 names weights
`<op>/ReadVariableOp/resource`; graphs of TensorFlow 0.x have no versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..containers.graph_kinds import binary_source, is_graph, is_graph_text
from ..containers.messages import Body
from ..containers.weights_manifest import is_old_graph
from ..errors import ConvertError, NotRecognisedError
from ..graphs.constants import Constants, read_constants
from ..graphs.told_uses import uses_of_variables
from ..notes import Kind, Note
from ..registry import Format, Location, ReadOptions
from ..sources import FileSource, Source
from ..tensors import Role, TensorDict

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]


def _sniff(location: Location) -> bool:
    if is_old_graph(location.path):  # its weights are in the files beside it
        return False
    if location.head[:1] != b"\x0a":
        return is_graph_text(location.head)
    source = FileSource(location.path)
    try:
        return is_graph(source)
    finally:
        source.close()


def _open(location: Location, options: ReadOptions) -> TensorDict:
    del options  # a node has one name
    source: Source = FileSource(location.path)
    try:
        text = is_graph_text(location.head)
        if text:
            source = binary_source(source, "GraphDef")
        found = _constants(source)
    except BaseException as error:
        source.close()
        if isinstance(error, ConvertError):
            error.path = error.path or str(location.path)
            error.within("graph")
        raise
    return TensorDict(
        format=FORMAT.name,
        summary=FORMAT.title + (", text" if text else ""),
        tensors=found.tensors,
        origins=found.origins,
        notes=tuple(_notes(found)),
        uses=uses_of_variables(lambda: Body.whole(source), found.origins, found.tensors),
        details={"kind": "text" if text else "binary", "variables": found.variables},
        sources=(source,),
    )


def _constants(source: Source) -> Constants:
    found = read_constants(Body.whole(source))
    if found.hollow and not found.variables:
        raise NotRecognisedError(
            "its constants have no values, as in the graph of a TensorFlow.js model",
            hint="point at model.json or weights_manifest.json, which list the files of weights",
        )
    return found


def _notes(found: Constants) -> Iterator[Note]:
    if found.variables:
        text = (
            f"not frozen: the graph has {found.variables} variables, whose values are in a "
            "checkpoint; read are the constants of the graph"
        )
        yield Note(Kind.SOURCE, text)
    if not any(origin.role is Role.WEIGHT for origin in found.origins.values()):
        yield Note(Kind.SOURCE, "nothing in the graph proves that a constant is a weight")


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.risky_ops import risky_nodes

    del options
    [source] = tensors.sources  # binary, also where the file is text
    yield from risky_nodes(Body.whole(source), str(location.path))


FORMAT = Format(
    name="frozen-graph",
    title="TensorFlow frozen graph",
    extensions=(".pb", ".pbtxt"),
    sniff=_sniff,
    open=_open,
    scan=_scan,
)
