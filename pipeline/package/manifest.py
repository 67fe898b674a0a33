"""The manifest: what a package holds and how it came about, in one JSON text.

Its schema is `manifest.schema.json` beside this module, its guide docs/guide/package.md. The text
is ASCII, in a fixed order, with a line for each file, tensor and change. It covers every file but
itself and the signature; its own SHA-256 is the package's digest. The last field is a checksum of
the text with zeros in that place, so that a changed byte shows without a signature too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ...converters.names import encode
from .records import FileRecord, LeftOut, PackageFacts, TensorRecord, Variant

__all__ = ["FORMAT", "VERSION", "manifest_text", "package_digest", "plain", "seal_of", "sealed"]

FORMAT, VERSION = "tensorferry package", 1
ZEROS = "0" * 64
# Against accidents alone: who changes the rest can change this, and signatures are against that.
_SEAL = ',\n "sha256": "{}"\n}}\n'
_SEALED = re.compile(rb',\n "sha256": "[0-9a-f]{64}"\n}\n\Z')


def package_digest(manifest: bytes) -> str:
    """Return the digest of a package, given the bytes of its manifest."""
    return hashlib.sha256(manifest).hexdigest()


def manifest_text(facts: PackageFacts, flags: Mapping[str, Any]) -> str:
    """Return the text of a manifest.

    Args:
        facts: everything about the package; `files` complete.
        flags: how it was made, as `package_flags` gives it.
    """
    parts = {
        "format": json.dumps(FORMAT),
        "version": str(VERSION),
        "tool": json.dumps(facts.tool),
        "name": json.dumps(facts.name),
        "model_version": json.dumps(facts.version),
        "license": json.dumps(facts.licence),
        "created": str(facts.created),
        "source": _source(facts),
        "flags": _line(flags),
        "files": _list(_file(each) for each in facts.files),
        "variants": _list(_variant(each) for each in facts.variants),
        "accounting": _accounting(facts),
        "fields": _line(facts.fields),
        "policy": _line(facts.policy),
    }
    body = ",\n".join(f" {json.dumps(key)}: {text}" for key, text in parts.items())
    return sealed(f"{{\n{body}")


def sealed(body: str) -> str:
    """Return a manifest with its own checksum as the last field.

    Args:
        body: the text up to the end of the last other field.
    """
    checksum = hashlib.sha256(f"{body}{_SEAL.format(ZEROS)}".encode("ascii")).hexdigest()
    return f"{body}{_SEAL.format(checksum)}"


def seal_of(text: bytes) -> str:
    """Return the checksum that a manifest should have; empty if it does not end as one."""
    match = _SEALED.search(text)
    if not match:
        return ""
    zeros = _SEAL.format(ZEROS).encode("ascii")
    return hashlib.sha256(text[: match.start()] + zeros).hexdigest()


def plain(value: Any) -> Any:
    """Return what a format says about a model as values that JSON has.

    Tuples become lists; numbers that are not finite, and whatever else, their texts.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _source(facts: PackageFacts) -> str:
    source = facts.source
    return _line(
        {
            "name": source.name,
            "format": source.format,
            "summary": source.summary,
            "producer": source.producer,
            "step": source.step,
            "files": [
                {"path": each.path, "size": each.size, "sha256": each.sha256}
                for each in source.files
            ],
            "details": source.details,
            "metadata": source.metadata,
        }
    )


def _file(file: FileRecord) -> str:
    kind = file.kind.value if file.kind else None
    return _line({"path": file.path, "size": file.size, "sha256": file.sha256, "kind": kind})


def _variant(variant: Variant) -> str:
    head = _line(
        {
            "name": variant.name,
            "casts": variant.casts,
            "files": variant.files,
            "digest": variant.digest,
            "parameters": variant.parameters,
            "bytes": variant.nbytes,
            "flags": variant.flags,
        }
    )
    names = sorted(variant.tensors, key=encode)
    rows = ",\n".join(f"   {json.dumps(name)}: {_tensor(variant.tensors[name])}" for name in names)
    return f'{head[:-1]}, "tensors": {{\n{rows}\n  }}}}'


def _tensor(tensor: TensorRecord) -> str:
    spec = tensor.spec
    return _line(
        {
            "dtype": spec.dtype.label,
            "shape": spec.shape,
            "digest": tensor.digest,
            "file": tensor.file,
        }
    )


def _accounting(facts: PackageFacts) -> str:
    changes = _list(_change(each) for each in facts.accounting)
    return f'{{"counts": {_line(facts.counts)}, "changes": {changes}}}'


def _change(change: LeftOut) -> str:
    return _line({"kind": change.kind, "tensor": change.tensor, "text": change.text})


def _list(rows: Iterable[str]) -> str:
    lines = ",\n".join(f"  {row}" for row in rows)
    return f"[\n{lines}\n ]" if lines else "[]"


def _line(value: object) -> str:
    return json.dumps(value, separators=(", ", ": "), sort_keys=False, allow_nan=False)
