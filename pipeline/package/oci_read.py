"""The files of a package in an OCI image layout, as it was written or pulled from a registry.

Nothing in it is trusted: sizes are compared before anything is read, every small blob is hashed,
names may not lead out of a folder, and what belongs to nothing is refused. Blobs of weights are not
read here: their digests are returned for who reads them anyway.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from ...converters.containers.strict_json import parse_json_object
from ...converters.containers.tar_archive import Entry
from ...converters.containers.unpacking import Bounds
from ...converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
    VerificationError,
)  # fmt: skip
from .modelpack import (
    ARTIFACT_TYPE,
    CONFIG_TYPE,
    FILE_PATH,
    LAYER_TYPES,
    MANIFEST_TYPE,
    WEIGHT_TYPE,
)  # fmt: skip
from .oci import BLOBS, INDEX, LAYOUT, LAYOUT_VERSION

__all__ = ["Blob", "OciPackage", "is_oci", "read_oci"]

MAX_JSON = 4 << 20  # what registries take as a manifest
MAX_LAYERS = 10_000
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of a package, under the name of its digest.

    Attributes:
        path: where it lies.
        size: in bytes, which the file has.
        sha256: by its name; what is in the file has been compared unless it holds weights.
    """

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True)
class OciPackage:
    """A package in an OCI layout.

    Attributes:
        digest: of the image manifest, as `sha256:…`; what registries know it by.
        files: by path inside of the package, sorted.
    """

    digest: str
    files: Mapping[str, Blob]


def is_oci(folder: Path) -> bool:
    """Tell whether a folder is an OCI layout, by the file that marks one."""
    return (folder / LAYOUT).is_file()


def read_oci(layout: Path) -> OciPackage:
    """Find the files of the one package in an OCI layout.

    Raises:
        NotRecognisedError: there is none, or several.
        CorruptFileError: it is no model of ModelPack's, or contradicts itself.
        UnsafeFileError: a name leads out of the package, or something is no plain file.
        VerificationError: a blob is missing, cut short or changed, or belongs to nothing.
    """
    try:
        return _read(layout)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        path = error.filename or layout
        raise NotRecognisedError(f"cannot be read: {text}", path=path) from error


def _read(layout: Path) -> OciPackage:
    found = _json(layout / LAYOUT, _small(layout / LAYOUT))
    if found.get("imageLayoutVersion") != LAYOUT_VERSION:
        raise CorruptFileError(
            "version of the layout", path=layout / LAYOUT, expected=LAYOUT_VERSION,
            got=repr(found.get("imageLayoutVersion"))[:40],
        )  # fmt: skip
    top = _only_manifest(layout / INDEX)
    at = _blob(layout, top, "the image manifest", media=MANIFEST_TYPE)
    manifest = _json(at.path, _verified(at, "the image manifest"))
    if manifest.get("artifactType") != ARTIFACT_TYPE:
        raise CorruptFileError(
            "is no model", path=at.path, expected=f"artifactType {ARTIFACT_TYPE}",
            got=_shown(manifest.get("artifactType")),
        )  # fmt: skip
    config = _blob(layout, manifest.get("config"), "the config", media=CONFIG_TYPE)
    settings = _json(config.path, _verified(config, "the config"))
    files = _files(layout, at.path, manifest.get("layers"))
    _check_config(config.path, settings, files)
    _check_extra(layout, {at.path, config.path, *(each.path for each in files.values())})
    return OciPackage(f"sha256:{at.sha256}", dict(sorted(files.items())))


def _only_manifest(path: Path) -> Any:
    found = _json(path, _small(path)).get("manifests")
    if not isinstance(found, list) or len(found) != 1:
        raise NotRecognisedError(
            "images in the layout", path=path, expected="one",
            got=len(found) if isinstance(found, list) else "none",
            hint="pull the package into a folder of its own",
        )  # fmt: skip
    return found[0]


def _files(layout: Path, manifest: Path, layers: Any) -> dict[str, Blob]:
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise CorruptFileError("layers", path=manifest, expected=f"1 to {MAX_LAYERS}")
    files: dict[str, Blob] = {}
    claimed = [each.get("size") for each in layers if isinstance(each, dict)]
    bounds = Bounds(sum(each for each in claimed if type(each) is int and each > 0))
    for each in layers:
        try:
            name = _name(each, bounds)
        except CorruptFileError as error:
            error.path, error.hint = str(manifest), None
            error.args = (error.message,)
            raise
        files[name] = _layer(layout, each, name)
    return files


def _layer(layout: Path, layer: Any, name: str) -> Blob:
    where = f"`{name}`"
    blob = _blob(layout, layer, where)
    media = layer.get("mediaType")
    if media not in LAYER_TYPES:
        raise CorruptFileError(
            "media type of the layer", path=blob.path, where=where,
            expected="a raw weight, weight.config or doc of ModelPack", got=_shown(media),
        )  # fmt: skip
    if media != WEIGHT_TYPE:
        with blob.path.open("rb") as file:
            _compare(blob, where, file_digest(file, "sha256").hexdigest())
    return blob


def _name(layer: Any, bounds: Bounds) -> str:
    """Return the path of a layer's file in the package; nothing else may have it."""
    annotations = layer.get("annotations") if isinstance(layer, dict) else None
    name = annotations.get(FILE_PATH) if isinstance(annotations, dict) else None
    if not isinstance(name, str) or not name:
        raise CorruptFileError("a layer without a file", expected=f"the annotation {FILE_PATH}")
    size = layer.get("size")
    return "/".join(bounds.check(Entry(name, size if type(size) is int else 0, folder=False)))


def _blob(layout: Path, descriptor: Any, where: str, *, media: str = "") -> Blob:
    """Return the blob that a descriptor names, if a file of that size is there."""
    if not isinstance(descriptor, dict):
        raise CorruptFileError("no descriptor", path=layout / INDEX, where=where)
    match = _DIGEST.fullmatch(str(descriptor.get("digest")))
    size = descriptor.get("size")
    if match is None or type(size) is not int or size < 0:
        raise CorruptFileError(
            "descriptor", path=layout / INDEX, where=where, expected="a SHA-256 and a size",
            got=_shown(descriptor.get("digest")),
        )  # fmt: skip
    path = layout / BLOBS / match[1]
    if media and descriptor.get("mediaType") != media:
        raise CorruptFileError(
            "media type", path=path, where=where, expected=media,
            got=_shown(descriptor.get("mediaType")),
        )  # fmt: skip
    found = _size(path, where)
    if found != size:
        raise VerificationError(
            "size of the blob", path=path, where=where, expected=f"{size} bytes",
            got=f"{found} bytes", hint="pull it again",
        )  # fmt: skip
    return Blob(path, size, match[1])


def _size(path: Path, where: str) -> int:
    try:
        found = path.lstat()
    except OSError:
        raise VerificationError(
            "no such blob", path=path, where=where, hint="pull it again"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError("is no regular file", path=path, where=where)
    return found.st_size


def _verified(blob: Blob, where: str) -> bytes:
    """Return what is in a small blob."""
    _check_small(blob.path, blob.size)
    data = blob.path.read_bytes()
    _compare(blob, where, sha256(data).hexdigest())
    return data


def _compare(blob: Blob, where: str, digest: str) -> None:
    if digest != blob.sha256:
        raise VerificationError(
            "the blob was changed", path=blob.path, where=where, expected=f"sha256:{blob.sha256}",
            got=f"sha256:{digest}", hint="pull it again",
        )  # fmt: skip


def _check_config(path: Path, config: Mapping[str, Any], files: Mapping[str, Blob]) -> None:
    modelfs = config.get("modelfs")
    diffs = modelfs.get("diffIds") if isinstance(modelfs, dict) else None
    if diffs != [f"sha256:{each.sha256}" for each in files.values()]:
        raise CorruptFileError("modelfs.diffIds", path=path, expected="the layers of the manifest")


def _check_extra(layout: Path, known: set[Path]) -> None:
    """Refuse what belongs to nothing: nobody has vouched for it."""
    known = {*known, layout / LAYOUT, layout / INDEX}
    for path in sorted(layout.rglob("*")):
        if path not in known and (path.is_symlink() or not path.is_dir()):
            raise VerificationError(
                "belongs to nothing in the package", path=path,
                hint="remove it, or pull the package into a folder of its own",
            )  # fmt: skip


def _small(path: Path) -> bytes:
    """Return what is in a file of the layout itself."""
    try:
        _check_small(path, _size(path, ""))
    except VerificationError:
        raise NotRecognisedError("is no OCI layout", path=path.parent, expected=path.name) from None
    return path.read_bytes()


def _check_small(path: Path, size: int) -> None:
    if size > MAX_JSON:
        raise UnsafeFileError(
            "size", path=path, expected=f"at most {MAX_JSON} bytes", got=f"{size} bytes"
        )


def _json(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(data, max_bytes=MAX_JSON)
    except ConvertError as error:
        error.path = str(path)
        error.args = (error.message,)
        raise


def _shown(value: object) -> str:
    return repr(value)[:100]
