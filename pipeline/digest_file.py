"""The digest file: what a model holds in one small JSON text, without its values.

    {"format": "tensorferry digests",
     "version": 1,
     "tool": "tensorferry 0.1.0",                  what wrote it; nobody acts upon it
     "model": "<64 hexadecimal digits>",           of all tensors together, see `model_digest`
     "tensors": {"<name>": {"dtype": "float32", "shape": [3, 4], "digest": "<64 digits>"}, …}}

The text is ASCII and sorted by name, so that the same model gives the same file. Bytes of names
that are not UTF-8 are lone surrogates, as Python carries them (PEP 383). A file that is read may
come from anybody: everything in it is checked, the digest of the whole too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blake3 import blake3

from ..converters.dtypes import DType
from ..converters.errors import CorruptFileError
from ..converters.names import encode
from ..converters.staging import Staging, target_error
from ..converters.tensors import Tensor, TensorSpec
from .own_json import own_json

__all__ = [
    "Digests", "checked_digest", "digests_text", "model_digest", "parse_digests", "read_digests",
    "tensor_row", "typed_fields", "write_digests",
]  # fmt: skip

FORMAT, VERSION = "tensorferry digests", 1
MAX_BYTES = 256 << 20  # a million tensors; more is an attack
MAX_RANK = 255  # TensorFlow's own limit is 254
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = {"format": str, "version": int, "tool": str, "model": str, "tensors": dict}
_ROW = {"dtype": str, "shape": list, "digest": str}


@dataclass(frozen=True)
class Digests:
    """What a digest file says.

    Attributes:
        model: the digest of all tensors together.
        specs: dtype and shape by name.
        digests: by the same names.
    """

    model: str
    specs: Mapping[str, TensorSpec]
    digests: Mapping[str, str]


def model_digest(digests: Mapping[str, str]) -> str:
    """Return one digest for a whole model, the same in every container and order.

    BLAKE3 over, for each tensor in the order of the names' bytes: the length of the name as 8
    bytes little endian, the name in UTF-8, and the 32 bytes of the tensor's digest. Lengths are
    there because a name may hold any byte.

    Args:
        digests: the tensors' digests in hexadecimal, by name.
    """
    state = blake3()
    for name, digest in sorted((encode(name), digest) for name, digest in digests.items()):
        state.update(len(name).to_bytes(8, "little") + name + bytes.fromhex(digest))
    return state.hexdigest()


def digests_text(tensors: Mapping[str, Tensor], digests: Mapping[str, str]) -> str:
    """Return the text of a digest file.

    Args:
        tensors: all tensors of the model.
        digests: of each of them, by name; what else is in there does not count.
    """
    own = {name: digests[name] for name in sorted(tensors, key=encode)}
    rows = {
        name: {
            "dtype": tensors[name].spec.dtype.label,
            "shape": tensors[name].spec.shape,
            "digest": digest,
        }
        for name, digest in own.items()
    }
    head = {
        "format": FORMAT,
        "version": VERSION,
        "tool": f"tensorferry {version('tensorferry')}",
        "model": model_digest(own),
    }
    # A line for each tensor, so that `diff` and version control show what has changed.
    lines = [f"{_json(name)}: {_json(row)}" for name, row in rows.items()]
    start = ",\n".join(f" {_json(key)}: {_json(value)}" for key, value in head.items())
    return f'{{\n{start},\n "tensors": {{\n  ' + ",\n  ".join(lines) + "\n }\n}\n"


def write_digests(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], digests: Mapping[str, str]
) -> None:
    """Write a digest file; one that is there is replaced, and only when all is well.

    Args:
        path: where.
        tensors: all tensors of the model.
        digests: of each of them, by name.

    Raises:
        UsageError: the folder does not exist.
        TargetError: it cannot be written.
    """
    path = Path(path)
    with Staging([path], overwrite=True, fsync=False) as staging:
        try:
            staging.path(0).write_text(digests_text(tensors, digests), encoding="ascii")
        except OSError as error:
            raise target_error(path, error) from error
        staging.commit()


def read_digests(path: str | os.PathLike[str]) -> Digests:
    """Read a digest file.

    Raises:
        NotRecognisedError: there is none.
        CorruptFileError: it is no digest file, or contradicts itself; with the place.
    """
    with own_json(Path(path), MAX_BYTES) as content:
        return parse_digests(content)


def parse_digests(content: object) -> Digests:
    """Return what the JSON value of a digest file says.

    Raises:
        CorruptFileError: it is none, or contradicts itself; with the place.
    """
    head = typed_fields(content, _FILE, "a digest file")
    _expect(head["format"], FORMAT, "format")
    _expect(head["version"], VERSION, "version")
    rows = {name: tensor_row(name, row) for name, row in head["tensors"].items()}
    digests = {name: digest for name, (_, digest) in rows.items()}
    model = checked_digest(head["model"], "model")
    found = model_digest(digests)
    if found != model:
        raise CorruptFileError(
            "is not the digest of the tensors listed", where="model", expected=found, got=model,
            hint="the file was changed, or cut short, after it was written",
        )  # fmt: skip
    return Digests(model, {name: spec for name, (spec, _) in rows.items()}, digests)


def tensor_row(name: str, content: object) -> tuple[TensorSpec, str]:
    """Return what a tensor is and its digest, as the JSON value beside its name says.

    Raises:
        CorruptFileError: it is something else; with the place.
    """
    where = f"tensor `{name}`"
    row = typed_fields(content, _ROW, where)
    dtype = DType.named(row["dtype"])
    if dtype is None:
        raise CorruptFileError("unknown dtype", where=where, got=repr(row["dtype"][:40]))
    shape = row["shape"]
    if len(shape) > MAX_RANK or any(type(dim) is not int or dim < 0 for dim in shape):
        raise CorruptFileError(
            "shape", where=where, expected="a list of lengths", got=str(shape)[:40]
        )
    spec = TensorSpec(dtype, tuple(shape))
    if not spec.addressable:
        raise CorruptFileError("no array has this shape", where=where, got=str(shape)[:80])
    return spec, checked_digest(row["digest"], where)


def checked_digest(text: str, where: str) -> str:
    """Return a digest in hexadecimal.

    Raises:
        CorruptFileError: it is none.
    """
    if not _DIGEST.fullmatch(text):
        raise CorruptFileError(
            "digest", where=where, expected="64 hexadecimal digits", got=repr(text[:80])
        )
    return text


def typed_fields(content: object, wanted: Mapping[str, type], where: str) -> dict[str, Any]:
    """Return an object that has exactly these fields, of these types.

    Raises:
        CorruptFileError: it is something else; with the place.
    """
    if not isinstance(content, dict):
        raise CorruptFileError(
            "JSON", where=where, expected="an object", got=type(content).__name__
        )
    unlike = [key for key in wanted if type(content.get(key)) is not wanted[key]]
    others = [key for key in content if key not in wanted]
    if unlike:
        key = unlike[0]
        got = type(content[key]).__name__ if key in content else "nothing"
        raise CorruptFileError(f"`{key}`", where=where, expected=wanted[key].__name__, got=got)
    if others:
        raise CorruptFileError(f"`{others[0]}` is unknown", where=where)
    return content


def _expect(got: object, expected: object, where: str) -> None:
    if got != expected:
        shown = repr(got)[:60]
        raise CorruptFileError("no digest file", where=where, expected=repr(expected), got=shown)


def _json(value: object) -> str:
    return json.dumps(value, separators=(", ", ": "))
