"""Protobuf's text form, made binary: `.pbtxt` files are then read like the others.

Only the messages below are known; what else a file holds is skipped. Field numbers and types are
those of tensorflow/core/protobuf and tensorflow/core/framework (v2.21.0). Strings have C escapes
and may stand in several parts; lists, `<…>` for `{…}`, comments and separators are understood.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple

from ..errors import CorruptFileError
from .bundle_messages import DTYPES
from .wire import BYTES, FIXED32, FIXED64, VARINT, varint

__all__ = ["MAX_TEXT_BYTES", "SCHEMA", "to_binary", "unquote"]

MAX_DEPTH = 100  # protobuf's own limit
MAX_TEXT_BYTES = 1 << 28

# Message: field number, name, type; `map` stands for a map from text to that message.
SCHEMA = """
SavedModel: 1 saved_model_schema_version int, 2 meta_graphs MetaGraphDef
MetaGraphDef: 1 meta_info_def MetaInfoDef, 2 graph_def GraphDef, 3 saver_def SaverDef,
  4 collection_def map CollectionDef, 5 signature_def map SignatureDef,
  6 asset_file_def AssetFileDef, 7 object_graph_def SavedObjectGraph
MetaInfoDef: 1 meta_graph_version bytes, 4 tags bytes, 5 tensorflow_version bytes,
  6 tensorflow_git_version bytes, 7 stripped_default_attrs bool
GraphDef: 1 node NodeDef, 2 library FunctionDefLibrary, 3 version int, 4 versions VersionDef
VersionDef: 1 producer int, 2 min_consumer int, 3 bad_consumers int
NodeDef: 1 name bytes, 2 op bytes, 3 input bytes, 4 device bytes, 5 attr map AttrValue
AttrValue: 1 list ListValue, 2 s bytes, 3 i int, 4 f float, 5 b bool, 6 type dtype,
  7 shape TensorShapeProto, 8 tensor TensorProto, 9 placeholder bytes, 10 func NameAttrList
ListValue: 2 s bytes, 3 i int, 4 f float, 5 b bool, 6 type dtype, 7 shape TensorShapeProto,
  8 tensor TensorProto, 9 func NameAttrList
NameAttrList: 1 name bytes, 2 attr map AttrValue
TensorShapeProto: 2 dim Dim, 3 unknown_rank bool
Dim: 1 size int, 2 name bytes
TensorProto: 1 dtype dtype, 2 tensor_shape TensorShapeProto, 3 version_number int,
  4 tensor_content bytes, 5 float_val float, 6 double_val double, 7 int_val int,
  8 string_val bytes, 9 scomplex_val float, 10 int64_val int, 11 bool_val bool,
  12 dcomplex_val double, 13 half_val int, 16 uint32_val int, 17 uint64_val int,
  18 float8_val bytes
FunctionDefLibrary: 1 function FunctionDef
FunctionDef: 1 signature OpDef, 3 node_def NodeDef, 4 ret map bytes, 5 attr map AttrValue
OpDef: 1 name bytes, 2 input_arg ArgDef, 3 output_arg ArgDef
ArgDef: 1 name bytes, 3 type dtype, 4 type_attr bytes
CollectionDef: 1 node_list Texts, 2 bytes_list Texts, 3 int64_list Ints, 4 float_list Floats,
  5 any_list Anys
Texts: 1 value bytes
Ints: 1 value int
Floats: 1 value float
Anys: 1 value Any
Any: 1 type_url bytes, 2 value bytes
SignatureDef: 1 inputs map TensorInfo, 2 outputs map TensorInfo, 3 method_name bytes
TensorInfo: 1 name bytes, 2 dtype dtype, 3 tensor_shape TensorShapeProto
AssetFileDef: 1 tensor_info TensorInfo, 2 filename bytes
SaverDef: 1 filename_tensor_name bytes, 2 save_tensor_name bytes, 3 restore_op_name bytes,
  4 max_to_keep int, 5 sharded bool
SavedObjectGraph: 1 nodes SavedObject, 2 concrete_functions map SavedConcreteFunction
SavedObject: 1 children ObjectReference, 3 slot_variables SlotVariableReference,
  4 user_object SavedUserObject, 7 variable SavedVariable, 9 constant SavedConstant
ObjectReference: 1 node_id int, 2 local_name bytes
SlotVariableReference: 1 original_variable_node_id int, 2 slot_name bytes,
  3 slot_variable_node_id int
SavedUserObject: 1 identifier bytes, 2 version VersionDef, 3 metadata bytes
SavedVariable: 1 dtype dtype, 2 shape TensorShapeProto, 3 trainable bool, 6 name bytes
SavedConstant: 1 operation bytes
SavedConcreteFunction: 2 bound_inputs int
"""


class _Field(NamedTuple):
    """A field: number, type or name of its message, and whether it is a map."""

    number: int
    type: str
    is_map: bool


@cache
def _messages() -> Mapping[str, Mapping[str, _Field]]:
    messages = {}
    for entry in re.split(r"\n(?=\w)", SCHEMA.strip()):
        name, rows = entry.split(":")
        fields = {}
        for row in rows.split(","):
            number, field, *types = row.split()
            fields[field] = _Field(int(number), types[-1], types[0] == "map")
        messages[name] = fields
    return messages


_TOKEN = re.compile(
    rb"""\s*(?:\#[^\n]*\s*)*(?:
        (?P<text>(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
      | (?P<word>\[[^\]\n]*/[^\]\n]*\]|[-+.\w]+)
      | (?P<mark>[{}<>:;,\[\]])
      | (?P<end>\Z))""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.DOTALL)
_PLAIN = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}
_OPEN = {b"{": b"}", b"<": b">"}


def unquote(quoted: bytes) -> bytes:
    """Return the bytes that a quoted string with C escapes stands for."""
    body = quoted[1:-1]
    return _ESCAPE.sub(_unescape, body) if b"\\" in body else body


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, plain = match.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    return _PLAIN.get(plain, plain)


def to_binary(text: bytes, message: str) -> bytes:
    """Return the binary form of a message in text form.

    Args:
        text: the whole file.
        message: name of the outermost message, one of `SCHEMA`.

    Raises:
        CorruptFileError: it is no such text; names the byte.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise CorruptFileError(
            "text too long", expected=f"at most {MAX_TEXT_BYTES} bytes", got=f"{len(text)} bytes"
        )
    return _Parser(text).message(message, b"", 0)


class _Parser:
    """One pass over the tokens of a text."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0
        self._next()

    def message(self, name: str | None, closing: bytes, depth: int) -> bytes:
        """Parse fields up to `closing`; a message without a name is skipped."""
        if depth > MAX_DEPTH:
            raise self._error(f"nested deeper than {MAX_DEPTH}")
        fields = _messages().get(name, {}) if name else {}
        out = bytearray()
        while self._token != closing:
            if self._kind != "word":
                raise self._error(f"`{self._token.decode(errors='replace')}` is no field")
            field = fields.get(self._token.decode(errors="replace"))
            self._next()
            for part in self._values(field, depth):
                out += part
        self._next()
        return bytes(out)

    def _values(self, field: _Field | None, depth: int) -> Iterator[bytes]:
        """Yield each value of a field with its tag; a list has several."""
        if self._token == b":":
            self._next()
        if self._token != b"[":
            yield self._value(field, depth)
        else:
            self._next()
            while self._token != b"]":
                yield self._value(field, depth)
            self._next()
        self._separator()

    def _value(self, field: _Field | None, depth: int) -> bytes:
        if self._token in _OPEN and self._kind == "mark":
            closing = _OPEN[self._token]
            self._next()
            body = self._body(field, closing, depth + 1)
            self._separator()
            if field is None:
                return b""
            return varint(field.number << 3 | BYTES) + varint(len(body)) + body
        if self._kind == "text":
            value: bytes = self._string()
        elif self._kind == "word":
            value = self._token
            self._next()
        else:
            raise self._error("a value is missing")
        self._separator()
        return b"" if field is None else self._scalar(field, value)

    def _body(self, field: _Field | None, closing: bytes, depth: int) -> bytes:
        if field is None:
            return self.message(None, closing, depth)
        if not field.is_map:
            return self.message(field.type, closing, depth)
        out = bytearray()
        entry = {b"key": _Field(1, "bytes", False), b"value": _Field(2, field.type, False)}
        while self._token != closing:
            part = entry.get(self._token)
            self._next()
            for value in self._values(part, depth):
                out += value
        self._next()
        return bytes(out)

    def _string(self) -> bytes:
        parts = []
        while self._kind == "text":
            parts.append(unquote(self._token))
            self._next()
        return b"".join(parts)

    def _scalar(self, field: _Field, value: bytes) -> bytes:
        try:
            return _encode(field, value)
        except (ValueError, OverflowError, struct.error) as error:
            shown = value[:40].decode(errors="replace")
            raise self._error(f"`{shown}` is no {field.type}") from error

    def _separator(self) -> None:
        if self._token in (b",", b";") and self._kind == "mark":
            self._next()

    def _next(self) -> None:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise self._error("no token of protobuf's text form")
        self._kind = match.lastgroup
        self._token: bytes = match[self._kind]
        self._at = match.end()

    def _error(self, what: str) -> CorruptFileError:
        return CorruptFileError(what, where=f"byte {self._at}")


def _encode(field: _Field, value: bytes) -> bytes:
    if field.type == "bytes":
        return varint(field.number << 3 | BYTES) + varint(len(value)) + value
    if field.type in ("float", "double"):
        kind, code = (FIXED32, "<f") if field.type == "float" else (FIXED64, "<d")
        number = float(value.rstrip(b"fF") if value[-3:].lower() not in (b"inf",) else value)
        return varint(field.number << 3 | kind) + struct.pack(code, number)
    if field.type == "bool":
        integer = int(value in (b"true", b"True", b"t", b"1"))
    elif field.type == "dtype":
        integer = _dtype_number(value)
    else:
        integer = _integer(value)
    return varint(field.number << 3 | VARINT) + varint(integer)


def _integer(value: bytes) -> int:
    text = value.decode()
    if re.fullmatch(r"[-+]?0[0-7]+", text):  # C's octal
        return int(text, 8)
    return int(text, 0)


@cache
def _dtype_names() -> Mapping[bytes, int]:
    """Return the enum's names: `DT_FLOAT`, and `DT_FLOAT_REF` a hundred above it."""
    named = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}
    names = {
        f"DT_{named.get(dtype.label, dtype.label.upper())}": number
        for number, dtype in DTYPES.items()
    }
    names |= {"DT_INVALID": 0, "DT_RESOURCE": 20}
    names |= {f"{name}_REF": number + 100 for name, number in names.items()}
    return {name.encode(): number for name, number in names.items()}


def _dtype_number(value: bytes) -> int:
    return _integer(value) if value[:1].isdigit() else _dtype_names()[value]
