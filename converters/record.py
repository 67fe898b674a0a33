"""What a container cannot say by itself, as one small JSON object stored in it.

    {"version": 1,
     "dtypes": {"<stored name>": "bfloat16", …},          true types of carried ones
     "names": {"<stored name>": "<exact name>", …},       names the container cannot hold
     "elements": {"<stored name>": {"dtype": "string", "shape": [2],
                                    "text": ["…", "…"]  or  "base64": ["…", "…"]}, …},
     "tied": {"<stored name>": "<stored name>", …},       tensors that are another one once more
     "aliases": {"<other name>": "<stored name>", …}}     what the model calls a tensor, too

Written only where something needs saying. The text is ASCII; bytes of names that are not UTF-8
are escaped surrogates (PEP 383), as in our dictionary.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
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
        tied: by the name that it would be stored as, the stored name of the tensor that it is.
        aliases: stored name by other name, where the model has more names than the dictionary.
    """

    dtypes: dict[str, DType] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    elements: dict[str, Tensor] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.dtypes or self.names or self.elements or self.tied or self.aliases)

    def split(self, homes: Mapping[str, int], count: int) -> list[Record]:
        """Return a record for each of `count` files.

        Args:
            homes: number of the file by stored name; what lies in none goes with the first.
            count: number of files, at least 1.
        """
        files = [Record() for _ in range(count)]
        for stored, dtype in self.dtypes.items():
            files[homes.get(stored, 0)].dtypes[stored] = dtype
        for stored, name in self.names.items():
            files[homes.get(self.tied.get(stored, stored), 0)].names[stored] = name
        for stored, kept in self.tied.items():
            files[homes.get(kept, 0)].tied[stored] = kept
        for alias, stored in self.aliases.items():
            files[homes.get(self.tied.get(stored, stored), 0)].aliases[alias] = stored
        files[0].elements = self.elements
        return files

    def build(self) -> str:
        """Return the JSON text, ASCII only; reads the elements."""
        content: dict[str, Any] = {"version": VERSION}
        if self.dtypes:
            content["dtypes"] = {name: dtype.label for name, dtype in self.dtypes.items()}
        if self.names:
            content["names"] = self.names
        if self.elements:
            content["elements"] = {name: _pack(each) for name, each in self.elements.items()}
        if self.tied:
            content["tied"] = self.tied
        if self.aliases:
            content["aliases"] = self.aliases
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
        for name, tensor in (*stored.items(), *self.elements.items(), *self._tied(stored)):
            exact = self.names.get(name, name) if readable else name
            if exact in tensors:
                raise CorruptFileError("two tensors have the same name", where=f"tensor `{exact}`")
            tensors[exact] = self._typed(name, tensor)
            origins[exact] = Origin(name)
        return tensors, origins

    def other_names(self, origins: Mapping[str, Origin]) -> dict[str, str]:
        """Return the aliases, each with the name that its tensor has in the dictionary.

        Args:
            origins: where the tensors came from, as `apply` returned it.

        Raises:
            CorruptFileError: an alias is of no tensor, or is the name of one.
        """
        if not self.aliases:
            return {}
        exact = {origin.key: name for name, origin in origins.items()}
        for alias, stored in self.aliases.items():
            if alias in origins or stored not in exact:
                raise CorruptFileError(
                    "the record gives a tensor another name",
                    where=f"alias `{alias}`",
                    expected="a new name of a tensor that is there",
                    got=f"`{alias}` of `{stored}`",
                )
        return {alias: exact[stored] for alias, stored in self.aliases.items()}

    def _tied(self, stored: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, kept in self.tied.items():
            if kept not in stored:
                raise CorruptFileError(
                    f"the record ties it to `{kept}`, which is not there", where=f"tensor `{name}`"
                )
            yield name, self._typed(kept, stored[kept])

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
        elements = {str(name): _unpack(each) for name, each in packed.items()}
        tied = {str(name): _text(kept) for name, kept in content.get("tied", {}).items()}
        others = content.get("aliases", {})
        aliases = {_text(alias): _text(stored) for alias, stored in others.items()}
        return cls(dtypes, names, elements, tied, aliases)


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
