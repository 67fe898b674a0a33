"""The small files of a package: licence, config, and the texts that are made of the facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from ...converters.containers.strict_json import JSON_BYTES
from ...converters.errors import NotRecognisedError
from ...converters.notes import Kind
from ...converters.sources import FileSource
from ...converters.staging import target_error
from ...converters.tensors import TensorDict
from .licence import FoundLicence, licence_beside, licence_of_text, spdx
from .options import PackageOptions
from .records import FileKind, FileRecord, LeftOut

__all__ = ["CONFIG", "LICENCE", "SideFiles", "attached", "licence_of"]

CONFIG, LICENCE = "config.json", "LICENSE"
MAX_LICENCE_BYTES = 1 << 20
# What formats call the config of a Keras model; the others that they attach are for writers, or
# say nothing about the weights.
_CONFIGS = ("config.json", "model_config")
_INTERNAL = ("tensorferry/", "_CHECKPOINTABLE_OBJECT_GRAPH")


class SideFiles:
    """Writes small files into the folder of a package, and keeps the account of all files.

    Attributes:
        records: of the files so far.
    """

    def __init__(self, folder: Path, records: Iterable[FileRecord] = ()) -> None:
        self._folder = folder
        self.records = list(records)

    def all(self) -> tuple[FileRecord, ...]:
        """Return the records, sorted by path."""
        return tuple(sorted(self.records, key=lambda each: each.path))

    def put(self, path: str, data: bytes, kind: FileKind) -> None:
        """Write a file and take it into the account."""
        self.write(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        self.records.append(FileRecord(path, len(data), sha256, kind))

    def write(self, path: str, data: bytes) -> None:
        """Write a file that no account lists.

        Raises:
            TargetError: the disk does not take it.
        """
        place = self._folder / path
        try:
            with place.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise target_error(place, error) from error

    def put_licence(self, licence: FoundLicence) -> None:
        """Take the text of a licence along, if there is one."""
        if licence.path:
            self.put(LICENCE, _read(licence.path), FileKind.LICENCE)


def licence_of(source: str, options: PackageOptions) -> FoundLicence:
    """Return the licence that flags name; what they do not say is looked for beside the source.

    Raises:
        UsageError: it is no SPDX expression.
        NotRecognisedError: the file is not there.
    """
    stated = spdx(options.licence) if options.licence else ""
    if options.licence_file:
        text = _read(options.licence_file).decode("utf-8", "replace")
        return FoundLicence(stated or licence_of_text(text), options.licence_file)
    found = licence_beside(source)
    if stated and found.expression not in ("", stated):
        return FoundLicence(stated, None)  # the text beside the source is of another licence
    return FoundLicence(stated or found.expression, found.path)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise NotRecognisedError("is no regular file", path=path)
    source = FileSource(path)
    try:
        if source.size > MAX_LICENCE_BYTES:
            limit = f"at most {MAX_LICENCE_BYTES} bytes"
            raise NotRecognisedError("no licence", path=path, expected=limit, got=source.size)
        return source.read(0, source.size)
    finally:
        source.close()


def attached(tensors: TensorDict, files: SideFiles) -> list[LeftOut]:
    """Write the config of a Keras model; return what else of the model is no weight and stays.

    Args:
        tensors: the source; open.
        files: gets the config.
    """
    texts = []
    for name, source in sorted(tensors.attachments.items()):
        if name in _CONFIGS and source.size <= JSON_BYTES:
            files.put(CONFIG, source.read(0, source.size), FileKind.CONFIG)
        elif not name.startswith(_INTERNAL):
            texts.append(f"`{name}` of the source holds no weights")
    assets = tensors.details.get("assets")
    if isinstance(assets, (list, tuple)):
        texts += [f"asset `{name}` of the source holds no weights" for name in assets]
    return [LeftOut(Kind.EXCLUDED.value, text) for text in texts]
