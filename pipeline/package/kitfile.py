"""The Kitfile of a package: what KitOps needs to pack, show and unpack it.

YAML, as `pkg/artifact/kitfile.go` of github.com/kitops-ml/kitops reads it; unknown keys are errors
there. Strings are written as JSON strings, which YAML takes for the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from .records import MANIFEST, PROVENANCE, FileKind, FileRecord, PackageFacts

__all__ = ["kitfile_text"]

VERSION = "1.0.0"
_MODEL = (FileKind.WEIGHTS, FileKind.INDEX, FileKind.CONFIG)
_DESCRIPTIONS = {
    FileKind.CARD: "model card",
    FileKind.BOM: "bill of materials (CycloneDX)",
    FileKind.LICENCE: "licence",
}
# Every package has them, and they are made after the Kitfile.
_ALWAYS = {
    MANIFEST: "files, tensors and their digests",
    PROVENANCE: "provenance (in-toto statement)",
}


def kitfile_text(facts: PackageFacts) -> str:
    """Return the Kitfile; `facts.files` has the files made so far, weights at least."""
    return "".join(f"{line}\n" for line in _lines(facts))


def _lines(facts: PackageFacts) -> Iterator[str]:
    yield f"manifestVersion: {_quoted(VERSION)}"
    yield "package:"
    yield from _mapping(_package(facts), "  ")
    model = [each for each in facts.files if each.kind in _MODEL]
    model.sort(key=lambda each: (_MODEL.index(each.kind or FileKind.CONFIG), each.path))
    if model:
        yield from _model(facts, model)
    yield "docs:"
    docs = [each for each in facts.files if each.kind in _DESCRIPTIONS]
    for each in sorted(docs, key=lambda each: each.path):
        text = _DESCRIPTIONS[each.kind] if each.kind else ""
        yield from _item({"path": each.path, "description": text}, "  ")
    for path, text in _ALWAYS.items():
        yield from _item({"path": path, "description": text}, "  ")


def _package(facts: PackageFacts) -> dict[str, str]:
    description = facts.fields.get("description")
    return {
        "name": facts.name,
        "version": facts.version,
        "description": description if isinstance(description, str) else "",
        "license": facts.licence,
    }


def _model(facts: PackageFacts, files: Sequence[FileRecord]) -> Iterator[str]:
    yield "model:"
    first, *parts = files
    yield from _mapping(
        {
            "name": facts.name, "path": first.path, "license": facts.licence,
            "format": "safetensors", "version": facts.version,
        },
        "  ",
    )  # fmt: skip
    if parts:
        yield "  parts:"
    for each in parts:
        yield from _item({"path": each.path}, "    ")


def _mapping(values: Mapping[str, str], indent: str) -> Iterator[str]:
    """Yield the entries that say something."""
    for key, value in values.items():
        if value:
            yield f"{indent}{key}: {_quoted(value)}"


def _item(values: Mapping[str, str], indent: str) -> Iterator[str]:
    lines = [line.lstrip() for line in _mapping(values, "")]
    for number, line in enumerate(lines):
        yield f"{indent}{'  ' if number else '- '}{line}"


def _quoted(text: str) -> str:
    """Return a double-quoted scalar, ASCII only; YAML knows no pairs of surrogates."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    code = ord(char)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    if 0xD800 <= code <= 0xDFFF:  # a byte of a name that is not UTF-8, which YAML cannot hold
        return "\\ufffd"
    return json.dumps(char)[1:-1] if code != 0x7F else "\\x7f"
