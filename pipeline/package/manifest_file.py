"""Reading a manifest, which may come from anybody: every field is known, of its type, and true.

What can be held against each other is: digests of variants against those of their tensors, names
of files against the list of files. Whether the files are as the manifest says is for `verify.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...converters.containers.strict_json import parse_json
from ...converters.errors import CorruptFileError, UnsafeFileError
from ..digest_file import checked_digest, model_digest, tensor_row, typed_fields
from .manifest import FORMAT, VERSION, seal_of
from .names import check_paths
from .records import (
    MANIFEST,
    SIGNATURE,
    FileKind,
    FileRecord,
    LeftOut,
    PackageFacts,
    SourceFacts,
    TensorRecord,
    Variant,
)  # fmt: skip

__all__ = ["MAX_BYTES", "Manifest", "parse_manifest"]

MAX_BYTES = 256 << 20  # a million tensors; more is an attack
MAX_SIZE = 1 << 62  # of a file, in bytes

_HEAD = {
    "format": str, "version": int, "tool": str, "name": str, "model_version": str, "license": str,
    "created": int, "source": dict, "flags": dict, "files": list, "variants": list,
    "accounting": dict, "fields": dict, "policy": dict, "sha256": str,
}  # fmt: skip
_SOURCE = {
    "name": str, "format": str, "summary": str, "producer": str, "files": list, "details": dict,
    "metadata": dict,
}  # fmt: skip
_SOURCE_FILE = {"path": str, "size": int, "sha256": str}
_FILE = {**_SOURCE_FILE, "kind": str}
_VARIANT = {
    "name": str, "casts": list, "files": list, "digest": str, "parameters": int, "bytes": int,
    "flags": dict, "tensors": dict,
}  # fmt: skip
_TENSOR = {"dtype": str, "shape": list, "digest": str, "file": str}
_ACCOUNTING = {"counts": dict, "changes": list}
_CHANGE = {"kind": str, "text": str}


class Manifest(NamedTuple):
    """What a manifest says.

    Attributes:
        facts: about the package.
        flags: how it was made, as JSON values; nothing is checked but that they are an object.
    """

    facts: PackageFacts
    flags: Mapping[str, Any]


def parse_manifest(text: bytes) -> Manifest:
    """Return what a manifest says.

    Raises:
        CorruptFileError: it is none, or contradicts itself; with the place.
        UnsafeFileError: it names files elsewhere.
    """
    content = parse_json(text, max_bytes=MAX_BYTES, bytes_in_names=True)
    if isinstance(content, dict):  # of another version other fields may be right
        _expect(content.get("format"), FORMAT, "format")
        _expect(content.get("version"), VERSION, "version")
    head = typed_fields(content, _HEAD, "a manifest")
    if head["sha256"] != seal_of(text):
        raise CorruptFileError(
            "is not the checksum of the manifest", where="sha256",
            expected=seal_of(text) or "the last field", got=head["sha256"][:80],
            hint="the manifest was changed after it was written",
        )  # fmt: skip
    files = tuple(_file(each) for each in head["files"])
    check_paths(each.path for each in files)
    paths = {each.path for each in files}
    for own in (MANIFEST, SIGNATURE):
        if own in paths:
            raise UnsafeFileError("lists itself or its signature", where=f"file `{own}`")
    variants = tuple(_variant(each, paths) for each in head["variants"])
    names = [each.name for each in variants]
    if not names or len(set(names)) != len(names):
        raise CorruptFileError("variants", expected="one or more, of different names", got=names)
    accounting = typed_fields(head["accounting"], _ACCOUNTING, "accounting")
    facts = PackageFacts(
        name=head["name"],
        version=head["model_version"],
        licence=head["license"],
        created=head["created"],
        tool=head["tool"],
        source=_source(head["source"]),
        variants=variants,
        accounting=tuple(_change(each) for each in accounting["changes"]),
        counts=_counts(accounting["counts"]),
        files=files,
        fields=head["fields"],
        policy=head["policy"],
    )
    return Manifest(facts, head["flags"])


def _file(content: object) -> FileRecord:
    row = typed_fields(content, _FILE, "files")
    where = f"file `{row['path']}`"
    kinds = {kind.value: kind for kind in FileKind}
    if row["kind"] not in kinds:
        raise CorruptFileError("kind", where=where, expected=" or ".join(kinds), got=row["kind"])
    sha256 = checked_digest(row["sha256"], where)
    return FileRecord(row["path"], _size(row["size"], where), sha256, kinds[row["kind"]])


def _source(content: dict[str, Any]) -> SourceFacts:
    step = content.get("step")
    if step is not None and type(step) is not int:
        raise CorruptFileError("`step`", where="source", expected="a number", got=repr(step)[:40])
    plain = {key: value for key, value in content.items() if key != "step"}
    row = typed_fields(plain, _SOURCE, "source")
    _all_texts(row["metadata"].values(), "source: metadata")
    files = []
    for each in row["files"]:
        file = typed_fields(each, _SOURCE_FILE, "source: files")
        where = f"source: file `{file['path']}`"
        sha256 = checked_digest(file["sha256"], where)
        files.append(FileRecord(file["path"], _size(file["size"], where), sha256))
    return SourceFacts(**{**row, "files": tuple(files)}, step=step)


def _variant(content: object, paths: set[str]) -> Variant:
    row = typed_fields(content, _VARIANT, "variants")
    where = f"variant `{row['name']}`" if row["name"] else "variant"
    _all_texts((*row["casts"], *row["files"]), where)
    for path in row["files"]:
        if path not in paths:
            raise CorruptFileError("is not in the list of files", where=f"{where}: file `{path}`")
    tensors = {name: _tensor(name, each, row["files"]) for name, each in row["tensors"].items()}
    variant = Variant(
        name=row["name"],
        casts=tuple(row["casts"]),
        files=tuple(row["files"]),
        tensors=tensors,
        digest=checked_digest(row["digest"], where),
        flags=row["flags"],
    )
    found = {
        "digest": model_digest({name: each.digest for name, each in tensors.items()}),
        "parameters": variant.parameters,
        "bytes": variant.nbytes,
    }
    for key, value in found.items():
        if row[key] != value:
            raise CorruptFileError(
                f"`{key}` is not that of the tensors listed",
                where=where, expected=value, got=row[key],
                hint="the manifest was changed, or cut short, after it was written",
            )  # fmt: skip
    return variant


def _tensor(name: str, content: object, files: list[str]) -> TensorRecord:
    where = f"tensor `{name}`"
    row = typed_fields(content, _TENSOR, where)
    spec, digest = tensor_row(name, {key: row[key] for key in row if key != "file"})
    if row["file"] not in files:
        raise CorruptFileError("lies in no file of its variant", where=where, got=row["file"][:80])
    return TensorRecord(spec, digest, row["file"])


def _change(content: object) -> LeftOut:
    tensor = content.get("tensor") if isinstance(content, dict) else None
    if tensor is not None and type(tensor) is not str:
        raise CorruptFileError("`tensor`", where="changes", expected="a text", got=str(tensor)[:40])
    plain = content
    if isinstance(content, dict):
        plain = {key: value for key, value in content.items() if key != "tensor"}
    row = typed_fields(plain, _CHANGE, "changes")
    return LeftOut(row["kind"], row["text"], tensor)


def _counts(content: dict[str, Any]) -> dict[str, dict[str, int]]:
    for name, counts in content.items():
        where = f"counts of variant `{name}`"
        values = counts.values() if isinstance(counts, dict) else [counts]
        if any(type(each) is not int for each in values):
            raise CorruptFileError("counts", where=where, expected="numbers", got=str(counts)[:40])
    return content


def _size(value: int, where: str) -> int:
    if not 0 <= value <= MAX_SIZE:
        raise CorruptFileError("`size`", where=where, expected="bytes", got=value)
    return value


def _all_texts(values: Iterable[object], where: str) -> None:
    for each in values:
        if type(each) is not str:
            raise CorruptFileError("JSON", where=where, expected="a text", got=type(each).__name__)


def _expect(got: object, expected: object, where: str) -> None:
    if got != expected or type(got) is not type(expected):
        shown = repr(got)[:60]
        raise CorruptFileError(
            "no manifest that is read here", where=where, expected=repr(expected), got=shown
        )
