"""CNCF ModelPack: how a model is an OCI artifact; types of its files, and what its config says.

Specified by the ModelPack model specification v1 (`docs/spec.md`, `docs/config.md`,
`schema/config-schema.json`, `specs-go/v1` of github.com/modelpack/model-spec) on top of the OCI
image specification v1.1. Every file is a layer of its own, raw: the digest of a layer is the
SHA-256 of the file, and what did not change is not uploaded again.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from .records import MANIFEST, FileKind, FileRecord, PackageFacts

__all__ = [
    "ARTIFACT_TYPE",
    "CONFIG_TYPE",
    "FILE_PATH",
    "INDEX_TYPE",
    "LAYER_TYPES",
    "MANIFEST_TYPE",
    "WEIGHT_TYPE",
    "file_annotations",
    "json_bytes",
    "layer_type",
    "model_config",
]  # fmt: skip

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
WEIGHT_TYPE = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_CONFIG_TYPE = "application/vnd.cncf.model.weight.config.v1.raw"
DOC_TYPE = "application/vnd.cncf.model.doc.v1.raw"
LAYER_TYPES = (WEIGHT_TYPE, WEIGHT_CONFIG_TYPE, DOC_TYPE)

FILE_PATH = "org.cncf.model.filepath"
FILE_METADATA = "org.cncf.model.file.metadata+json"
TITLE = "org.opencontainers.image.title"  # by which oras names what it pulls

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
_SCALES = ((10**15, "q"), (10**12, "t"), (10**9, "b"), (10**6, "m"), (10**3, "k"))
_FILE_TYPE = ord("0")  # of a regular file, as tar archives say it
_MODE = 0o644


def layer_type(record: FileRecord) -> str:
    """Return the media type of a file's layer."""
    if record.kind is FileKind.WEIGHTS:
        return WEIGHT_TYPE
    described = record.kind in (FileKind.INDEX, FileKind.CONFIG) or record.path == MANIFEST
    return WEIGHT_CONFIG_TYPE if described else DOC_TYPE


def file_annotations(record: FileRecord, created: int) -> dict[str, str]:
    """Return what a layer says about its file; owner and mode are the same everywhere.

    Args:
        record: of the file.
        created: seconds since 1970.
    """
    metadata = {
        "name": record.path, "mode": _MODE, "uid": 0, "gid": 0, "size": record.size,
        "mtime": _time(created), "typeflag": _FILE_TYPE,
    }  # fmt: skip
    return {
        FILE_PATH: record.path,
        FILE_METADATA: json.dumps(metadata, separators=(",", ":"), sort_keys=True),
        TITLE: record.path,
    }


def model_config(facts: PackageFacts, layers: list[FileRecord]) -> dict[str, Any]:
    """Return the config of a model; `layers` are its files in the order of the layers."""
    return {
        "descriptor": _descriptor(facts),
        "modelfs": {"type": "layers", "diffIds": [f"sha256:{each.sha256}" for each in layers]},
        "config": _config(facts),
    }


def json_bytes(value: Any) -> bytes:
    """Return JSON whose bytes depend on the value alone."""
    return json.dumps(value, indent=2, sort_keys=True).encode("ascii")


def _descriptor(facts: PackageFacts) -> dict[str, Any]:
    found: dict[str, Any] = {"createdAt": _time(facts.created), "name": facts.name}
    if facts.version:
        found["version"] = facts.version
    if facts.licence:
        found["licenses"] = [facts.licence]
    for key in ("title", "description", "family", "vendor"):
        if isinstance(facts.fields.get(key), str):
            found[key] = facts.fields[key]
    authors = facts.fields.get("authors")
    if isinstance(authors, list) and all(isinstance(each, str) for each in authors):
        found["authors"] = authors
    return found


def _config(facts: PackageFacts) -> dict[str, str]:
    architecture = facts.fields.get("architecture")
    found = {
        "format": "safetensors",
        "architecture": architecture if isinstance(architecture, str) else "",
        "precision": _precision(
            {t.spec.dtype.label for each in facts.variants for t in each.tensors.values()}
        ),
        "paramSize": _count(max((each.parameters for each in facts.variants), default=0)),
    }
    return {key: value for key, value in found.items() if value}


def _precision(labels: set[str]) -> str:
    """Return the type of the floating point weights, or of all where there are none of these."""
    labels = {each for each in labels if "float" in each} or labels
    if len(labels) != 1:
        return "mixed" if labels else ""
    label = labels.pop()
    return _PRECISIONS.get(label, label)


def _count(parameters: int) -> str:
    """Return `1.3b` for 1.3 billion; empty below a hundred, which it cannot tell from none."""
    for unit, letter in _SCALES:
        # 999,950 would be 1000.0 thousand.
        if round(parameters / unit, 1) >= (1 if unit > 1000 else 0.1):
            return f"{parameters / unit:.1f}{letter}"
    return ""


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
