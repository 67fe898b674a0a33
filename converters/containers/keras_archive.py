"""Where Keras 3 keeps a model: the config and one or more weights files, in four arrangements.

    model.keras                zip: metadata.json, config.json, model.weights.h5, assets/…
    folder                     the same members unzipped; presets of KerasHub, too
    m.weights.json             index of shards m_00000.weights.h5, m_00001.weights.h5, …
    m.weights.h5               weights alone

Specified by keras/src/saving/saving_lib.py (v3.15.0: _save_model_to_fileobj, H5IOStore,
ShardedH5IOStore). Keras stores all members and deflates none; archives that were packed anew may
be deflated, and then the weights are unpacked into a temporary file. Nothing is extracted to a
name of the archive's, and no class, path or vocabulary that a config names is touched.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import ConvertError, CorruptFileError, NotRecognisedError, UnsafeFileError
from ..notes import Kind, Note
from ..registry import Group, Location
from ..sources import FileSource, Source
from .checked_member import CheckedMember
from .keras_attachments import CONFIG, METADATA, of_archive, of_folder
from .keras_store import SIGNATURE, is_keras_3
from .strict_json import JSON_BYTES, parse_json, read_json
from .windows import WindowSource, unpack
from .zip_archive import STORED, Member, MemberStream, read_members

__all__ = ["ARCHIVE", "TASK", "WEIGHTS", "Part", "Parts", "find", "is_keras_model", "keras_groups"]
WEIGHTS, WEIGHTS_INDEX = "model.weights.h5", "model.weights.json"
TASK = "task.weights.h5"  # KerasHub: the head of a task; `model.weights.h5` is the backbone
PICKLED = "model.weights.npz"
H5, INDEX = ".weights.h5", ".weights.json"
FIRST_MEMBERS = (CONFIG, METADATA, WEIGHTS, PICKLED)
MAX_SHARDS = 100_000
ARCHIVE = "archive"  # the arrangement in one file


class Part(NamedTuple):
    """A weights file.

    Attributes:
        label: what its keys begin with, empty for the main one.
        source: its bytes.
        groups: the groups that the index says it has; None where there is no index.
    """

    label: str
    source: Source
    groups: frozenset[str] | None = None


@dataclass
class Parts:
    """What was found.

    Attributes:
        kind: the arrangement, in a few words.
        parts: the weights files.
        shards: number of files that the weights were split into; 0 where they were not.
        config: the JSON of `config.json`, or None.
        version: of the Keras that wrote it, where that is noted.
        sources: what to close.
        notes: what was unusual.
        attachments: what lies beside the weights, by the name it has in an archive.
    """

    kind: str
    parts: list[Part] = field(default_factory=list)
    shards: int = 0
    config: Any = None
    version: str | None = None
    sources: list[Source] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    attachments: dict[str, Source] = field(default_factory=dict)

    def attach(self, found: dict[str, Source]) -> None:
        """Take over what lies beside the weights."""
        self.attachments |= found
        self.sources.extend(found.values())

    def close(self) -> None:
        """Close the sources."""
        for source in self.sources:
            source.close()


# Recognising


def keras_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield unzipped archives, and indexes with their shards, among the names in a folder."""
    if {WEIGHTS, WEIGHTS_INDEX} & set(names) and {CONFIG, METADATA} & set(names):
        yield Group("")
        return
    for name in names:
        if name.endswith(INDEX):
            stem = name.removesuffix(INDEX)
            shard = re.compile(rf"{re.escape(stem)}_\d{{5,}}{re.escape(H5)}")
            yield Group(name, frozenset({name, *filter(shard.fullmatch, names)}), stem)


def is_keras_model(location: Location) -> bool:
    """Tell whether a location is one of the four arrangements; reads a few kilobytes."""
    path = location.path
    if path.is_dir():
        return _folder_weights(path) is not None
    if not location.is_file:
        return False
    if location.head.startswith(b"PK\x03\x04"):
        return _is_archive(location)
    if path.name.endswith(INDEX):
        return location.head.lstrip().startswith(b"{") and b'"weight_map"' in location.head
    if path.name in (CONFIG, METADATA):
        return location.head.lstrip().startswith(b"{") and _folder_weights(path.parent) is not None
    if not any(location.head.startswith(SIGNATURE, at) for at in (0, 512, 1024, 2048)):
        return False
    source = FileSource(path)
    try:
        return is_keras_3(source)
    finally:
        source.close()


def _is_archive(location: Location) -> bool:
    head = location.head
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode("utf-8", "replace")
    if location.path.suffix == ".keras":
        return True
    if name not in FIRST_MEMBERS and not name.startswith("assets/"):
        return False
    source = FileSource(location.path)
    try:
        names = {member.name for member in read_members(source)}
    except ConvertError:
        return name in (WEIGHTS, PICKLED)
    finally:
        source.close()
    return bool(names & {WEIGHTS, PICKLED}) and CONFIG in names


def _folder_weights(folder: Path) -> str | None:
    for name in (WEIGHTS, WEIGHTS_INDEX, TASK):
        if (folder / name).is_file():
            return name
    return None


# Finding


def find(location: Location, *, verify: bool, config: bool) -> Parts:
    """Return the parts of a model.

    Args:
        location: an archive, a folder or a file of one, an index or a weights file.
        verify: whether the CRC-32 of what is unpacked is checked.
        config: whether `config.json` is wanted.

    Raises:
        NotRecognisedError: there is no model.
        CorruptFileError: it contradicts itself, or asks for something unsafe.
    """
    path = location.path
    if not path.is_dir() and not location.is_file:
        raise NotRecognisedError("is neither a file nor a folder", path=path)
    found = Parts("")
    try:
        if path.is_dir() or path.name in (CONFIG, METADATA):
            _find_in_folder(found, path if path.is_dir() else path.parent, config=config)
        elif location.head.startswith(b"PK"):
            _find_in_archive(found, path, verify=verify, config=config)
        elif path.name.endswith(INDEX):
            found.kind = "sharded weights"
            _add_shards(found, path, "")
        else:
            _find_file(found, path, config=config)
    except BaseException as error:
        found.close()
        if isinstance(error, ConvertError) and error.path is None:
            error.path = str(path)
        raise
    return found


def _find_file(found: Parts, path: Path, *, config: bool) -> None:
    found.kind = "weights file"
    source = FileSource(path)
    found.sources.append(source)
    found.parts.append(Part("", source))
    stem, _, number = path.name.removesuffix(H5).rpartition("_")
    if number.isdecimal() and (path.parent / f"{stem}{INDEX}").is_file():
        text = f"one of the shards of `{stem}{INDEX}`: the other tensors are not in it"
        found.notes.append(Note(Kind.SOURCE, text))
    if path.name == WEIGHTS and config and (path.parent / CONFIG).is_file():
        found.attach(of_folder(path.parent))
        try:
            _read_folder_json(found, path.parent)
        except CorruptFileError as error:
            text = f"the config beside it is not used: {error.message}"
            found.notes.append(Note(Kind.SOURCE, text))


def _find_in_folder(found: Parts, folder: Path, *, config: bool) -> None:
    found.kind = "unzipped model"
    found.attach(of_folder(folder))
    if config:
        _read_folder_json(found, folder)
    if (folder / WEIGHTS).is_file():
        source = FileSource(folder / WEIGHTS)
        found.sources.append(source)
        found.parts.append(Part("", source))
    elif (folder / WEIGHTS_INDEX).is_file():
        _add_shards(found, folder / WEIGHTS_INDEX, "")
    if (folder / TASK).is_file():
        source = FileSource(folder / TASK)
        found.sources.append(source)
        found.parts.append(Part(TASK if found.parts else "", source))
    if not found.parts:
        raise NotRecognisedError(f"no `{WEIGHTS}` and no `{WEIGHTS_INDEX}` in it", path=folder)


def _read_folder_json(found: Parts, folder: Path) -> None:
    with _for_names():
        if (folder / CONFIG).is_file():
            found.config = _read_file(folder / CONFIG)
        if (folder / METADATA).is_file():
            found.version = _version(_read_file(folder / METADATA))


@contextmanager
def _for_names() -> Iterator[None]:
    """Say of what only gives names how to do without it."""
    try:
        yield
    except CorruptFileError as error:
        error.hint = error.hint or "--names key reads the weights without it"
        raise


def _read_file(path: Path) -> Any:
    source = FileSource(path)
    try:
        return read_json(source)
    finally:
        source.close()


def _version(metadata: object) -> str | None:
    value = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return value if isinstance(value, str) else None


# Archives


def _find_in_archive(found: Parts, path: Path, *, verify: bool, config: bool) -> None:
    found.kind = ARCHIVE
    source = FileSource(path)
    found.sources.append(source)
    members = {member.name: member for member in read_members(source)}
    if WEIGHTS not in members:
        raise _no_weights(path, members)
    found.attach(of_archive(source, members.values(), verify=verify))
    with _for_names():
        if config and CONFIG in members:
            found.config = _read_member(source, members[CONFIG])
        if config and METADATA in members:
            found.version = _version(_read_member(source, members[METADATA]))
    weights = members[WEIGHTS]
    if weights.method == STORED:
        tensors = CheckedMember(source, weights) if verify else None
        window: Source = WindowSource(source, weights.data, weights.size, tensors)
    else:
        window = unpack(source, weights, verify=verify)
        found.sources.append(window)
        text = f"`{WEIGHTS}` is deflated, and was unpacked into a temporary file"
        found.notes.append(Note(Kind.SOURCE, text))
    found.parts.append(Part("", window))


def _no_weights(path: Path, members: dict[str, Member]) -> ConvertError:
    if PICKLED in members:
        return UnsafeFileError(
            f"`{PICKLED}` holds pickled objects, which could run code when they are read",
            path=path,
            hint="load the model with Keras, and save it anew as .keras or .weights.h5",
        )
    return CorruptFileError(
        "no weights in the archive",
        path=path,
        expected=f"a member `{WEIGHTS}`",
        got=", ".join(f"`{name}`" for name in list(members)[:5]) or "none",
    )


def _read_member(source: Source, member: Member) -> Any:
    where = f"member `{member.name}`"
    if member.size > JSON_BYTES:
        raise UnsafeFileError(
            "JSON", path=source.path, where=where, expected=f"at most {JSON_BYTES} bytes",
            got=member.size,
        )  # fmt: skip
    stream = MemberStream(source, member, verify=True)
    text = stream.read(member.size)
    stream.finish()
    try:
        return parse_json(text)
    except CorruptFileError as error:
        error.path = str(source.path)
        raise error.within(where) from None


# Shards


def _add_shards(found: Parts, path: Path, label: str) -> None:
    files = _shards(path)
    found.shards = len(files)
    for name, groups in files.items():
        shard = path.parent / name
        if not shard.is_file():
            raise CorruptFileError(
                "a shard is missing",
                path=path,
                expected=f"`{name}` beside the index",
                got="nothing" if not shard.exists() else "no file",
                hint="copy it to where the index is",
            )
        source = FileSource(shard)
        found.sources.append(source)
        found.parts.append(Part(label, source, frozenset(groups)))


def _shards(path: Path) -> dict[str, set[str]]:
    """Return the groups of each shard."""
    content = _read_file(path)
    index = content.get("weight_map") if isinstance(content, dict) else content
    if not isinstance(index, dict):
        raise CorruptFileError(
            "`weight_map`", path=path, expected="an object", got=type(index).__name__
        )
    files: dict[str, set[str]] = {}
    for group, names in index.items():
        for name in _names(group, names):
            files.setdefault(name, set()).add(group.strip("/"))
    if len(files) > MAX_SHARDS or not files:
        raise UnsafeFileError(
            "number of shards", path=path, expected=f"1 to {MAX_SHARDS}", got=len(files)
        )
    return files


def _names(group: str, value: object) -> Iterator[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str):
            raise CorruptFileError(
                "name of a shard", where=f"`{group}`", expected="text", got=type(name).__name__
            )
        plain = name == PurePosixPath(name).name and not set(name) & set("\\:\0")
        if not plain or not name.endswith(H5):
            raise UnsafeFileError(
                "name of a shard", where=f"`{group}`",
                expected=f"the name of a file `…{H5}` in the same folder", got=repr(name),
            )  # fmt: skip
        yield name
