"""A package as an OCI image layout, which skopeo, oras and their like push to any registry.

    oci-layout              {"imageLayoutVersion": "1.0.0"}
    index.json              one manifest, and its tag
    blobs/sha256/<digest>   the manifest, the config, and every file of the package

Specified by `image-layout.md` and `manifest.md` of the OCI image specification v1.1; what is in
the manifest of a model is said by ModelPack (`modelpack.py`). Files become blobs by a rename: no
byte of them is read or copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from ...converters.staging import target_error
from .modelpack import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    file_annotations,
    json_bytes,
    layer_type,
    model_config,
)  # fmt: skip
from .records import MANIFEST, SIGNATURE, FileKind, FileRecord, PackageFacts

__all__ = ["BLOBS", "INDEX", "LAYOUT", "LAYOUT_VERSION", "TAG", "write_oci"]

LAYOUT, INDEX, BLOBS = "oci-layout", "index.json", "blobs/sha256"
LAYOUT_VERSION = "1.0.0"
TAG = "org.opencontainers.image.ref.name"
_TAGS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")  # distribution specification
_ORDER = list(FileKind)


def write_oci(folder: Path, target: Path, facts: PackageFacts, *, fsync: bool = False) -> str:
    """Make an OCI layout of a package; return the digest of its manifest, as `sha256:…`.

    Args:
        folder: of the package, whole, with manifest and signature; its files are moved away.
        target: a new folder on the same file system.
        facts: of the package; `files` has the digest of every file but manifest and signature.
        fsync: whether to wait until the disk has what is written here.

    Raises:
        TargetError: something cannot be written.
    """
    blobs = target / BLOBS

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = sha256(data).hexdigest()
        _write(blobs / digest, data, fsync=fsync)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    try:
        blobs.mkdir(parents=True)
        layers = _layers(folder, facts.files)
        for each in layers:
            (folder / each.path).rename(blobs / each.sha256)
        config = put(json_bytes(model_config(facts, layers)), CONFIG_TYPE)
        manifest = put(json_bytes(_manifest(facts, layers, config)), MANIFEST_TYPE)
        _write(target / INDEX, json_bytes(_index(facts, manifest)), fsync=fsync)
        version = {"imageLayoutVersion": LAYOUT_VERSION}
        _write(target / LAYOUT, json_bytes(version), fsync=fsync)
    except OSError as error:
        raise target_error(target, error) from error
    return str(manifest["digest"])


def _layers(folder: Path, files: Iterable[FileRecord]) -> list[FileRecord]:
    """Return all files of a package, weights first: who pulls begins with what takes longest."""
    own = [folder / name for name in (MANIFEST, SIGNATURE)]
    small = [_record(each) for each in own if each.exists()]
    return sorted((*files, *small), key=lambda each: (_rank(each), each.path))


def _rank(record: FileRecord) -> int:
    return _ORDER.index(record.kind) if record.kind else len(_ORDER)


def _record(path: Path) -> FileRecord:
    data = path.read_bytes()
    return FileRecord(path.name, len(data), sha256(data).hexdigest())


def _manifest(
    facts: PackageFacts, layers: Iterable[FileRecord], config: dict[str, Any]
) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": config,
        "layers": [
            {
                "mediaType": layer_type(each),
                "digest": f"sha256:{each.sha256}",
                "size": each.size,
                "annotations": file_annotations(each, facts.created),
            }
            for each in layers
        ],
    }


def _index(facts: PackageFacts, manifest: dict[str, Any]) -> dict[str, Any]:
    tagged = manifest | {"artifactType": ARTIFACT_TYPE, "annotations": {TAG: _tag(facts)}}
    return {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [tagged]}


def _write(path: Path, data: bytes, *, fsync: bool) -> None:
    with path.open("wb") as file:
        file.write(data)
        if fsync:
            file.flush()
            os.fsync(file.fileno())


def _tag(facts: PackageFacts) -> str:
    return facts.version if _TAGS.fullmatch(facts.version) else "latest"
