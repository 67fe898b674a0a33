"""What a container cannot say by itself, as one small JSON object stored in it.

    {"version": 1,
     "dtypes": {"<stored name>": "bfloat16", …},          true types of carried ones
     "names": {"<stored name>": "<exact name>", …},       names the container cannot hold
     "elements": {"<stored name>": {"dtype": "string", "shape": [2],
                                    "text": ["…", "…"]  or  "base64": ["…", "…"]}, …}}

Written only where something needs saying. The text is ASCII; bytes of names that are not UTF-8
are escaped surrogates (PEP 383), as in our dictionary.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from .dtypes import DType
from .errors import CorruptFileError
from .tensors import ElementTensor, Origin, Tensor, TensorSpec, retyped

__all__ = ["RECORD_BYTES", "Record"]

VERSION = 1
RECORD_BYTES = 64 << 20  # a record of millions of names; more is an attack


@dataclass
class Record:
    """The record of one file, in the making or as read.

    Attributes:
        dtypes: true type by stored name, where the container holds its carrier.
        names: exact name by stored name, where they differ.
        elements: string and variant tensors by stored name, where the container has none.
    """

    dtypes: dict[str, DType] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dtypes or self.names or self.elements)

    def build(self) -> str:
        """Return the JSON text, ASCII only; reads the elements."""
        content: dict[str, Any] = {"version": VERSION}
        if self.dtypes:
            content["dtypes"] = {name: dtype.label for name, dtype in self.dtypes.items()}
        if self.names:
            content["names"] = self.names
        if self.elements:
            content["elements"] = {name: _pack(each) for name, each in self.elements.items()}
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | bytes) -> Record:
        """Decode a record.

        Raises:
            CorruptFileError: it is none, or of a later version.
        """
        try:
            return cls._from(_object(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CorruptFileError(f"the record of types and names: {error}") from error

    def apply(
        self, stored: Mapping[str, Tensor], *, readable: bool
    ) -> tuple[dict[str, Tensor], dict[str, Origin]]:
        """Return the tensors as the record says they are, and where each came from.

        Args:
            stored: what the container holds, by stored name.
            readable: whether names are the exact ones or those that are stored.

        Raises:
            CorruptFileError: record and container contradict each other.
        """
        tensors: dict[str, Tensor] = {}
        origins: dict[str, Origin] = {}
        for name, tensor in (*stored.items(), *self.elements.items()):
            exact = self.names.get(name, name) if readable else name
            if exact in tensors:
                raise CorruptFileError("two tensors have the same name", where=f"tensor `{exact}`")
            tensors[exact] = self._typed(name, tensor)
            origins[exact] = Origin(name)
        return tensors, origins

    def _typed(self, name: str, tensor: Tensor) -> Tensor:
        dtype = self.dtypes.get(name)
        if dtype in (None, tensor.spec.dtype) or name in self.elements:
            return tensor
        if dtype.carrier != tensor.spec.dtype.label:
            raise CorruptFileError(
                f"the record calls it {dtype}",
                where=f"tensor `{name}`",
                expected=dtype.carrier,
                got=tensor.spec.dtype,
            )
        return retyped(tensor, dtype)

    @classmethod
    def _from(cls, content: dict[str, Any]) -> Record:
        if content.get("version") != VERSION:
            raise ValueError(f"version {content.get('version')!r} is not {VERSION}")
        dtypes = {str(name): _dtype(label) for name, label in content.get("dtypes", {}).items()}
        names = {str(stored): _text(name) for stored, name in content.get("names", {}).items()}
        if len(set(names.values())) != len(names):
            raise ValueError("two stored names have the same exact name")
        packed = content.get("elements", {})
        return cls(dtypes, names, {str(name): _unpack(each) for name, each in packed.items()})


def _object(text: str | bytes) -> dict[str, Any]:
    if len(text) > RECORD_BYTES:
        raise ValueError(f"longer than {RECORD_BYTES} bytes")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError("not an object")
    return content


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    value.encode("utf-8", "surrogateescape")  # refuses surrogates that stand for no byte
    return value


def _dtype(label: object) -> DType:
    dtype = DType.named(label) if isinstance(label, str) else None
    if dtype is None:
        raise ValueError(f"{label!r} is no dtype")
    return dtype


def _pack(tensor: Tensor) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "dtype": tensor.spec.dtype.label,
        "shape": list(tensor.spec.shape),
    }
    elements = tensor.elements()
    try:
        packed["text"] = [element.decode("utf-8") for element in elements]
    except UnicodeDecodeError:
        packed["base64"] = [b64encode(element).decode("ascii") for element in elements]
    return packed


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    dtype, shape = _dtype(packed["dtype"]), tuple(packed["shape"])
    if not dtype.variable or any(type(dim) is not int or dim < 0 for dim in shape):
        raise ValueError(f"{dtype} {shape} is no string tensor")
    if "text" in packed:
        elements = [element.encode("utf-8") for element in packed["text"]]
    else:
        elements = [b64decode(element, validate=True) for element in packed["base64"]]
    if len(elements) != prod(shape):
        raise ValueError(f"{len(elements)} elements do not make {shape}")
    spec = TensorSpec(dtype, shape)
    if not spec.addressable:
        raise ValueError(f"no array has the shape {shape}")
    return ElementTensor(spec, lambda: elements, sum(map(len, elements)))
