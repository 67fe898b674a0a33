"""Models below a folder: what to open, which files they are, and what is no model.

Files that belong together are told by their names (`Format.group`), all others are looked at one by
one. Nothing is opened: whether a model is whole shows when it is converted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

from ...converters.containers.archives import archive_kind
from ...converters.errors import ConvertError, NotRecognisedError
from ...converters.foreign import name_foreign
from ...converters.names import encode
from ...converters.registry import Group, Location, all_formats, claims
from .jobs import Skipped

__all__ = ["Found", "discover", "found_at"]

STAGING = ".tensorferry-"  # folders of conversions that run, or that were killed
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")

# Size in bytes and time of change in nanoseconds, by path inside a folder.
_Files: TypeAlias = Mapping[str, tuple[int, int]]
_Groups: TypeAlias = list[tuple[Callable[[Location], bool], Group]]


@dataclass(frozen=True)
class Found:
    """A model.

    Attributes:
        path: what to open.
        stem: what to call what is made of it.
        nbytes: bytes of its files.
        fingerprint: hash of its files' names, sizes and times.
        step: of the training, where a name tells it.
        series: what is the same for all steps of a training.
    """

    path: Path
    stem: str
    nbytes: int
    fingerprint: str
    step: int | None = None
    series: str = ""


def discover(
    root: Path, *, without: Collection[Path] = (), latest: bool = False
) -> tuple[list[Found], list[Skipped]]:
    """Return the models below a folder, and what is none; in the order of their paths.

    Args:
        root: the folder; links are followed, and each folder is looked at once.
        without: resolved folders to leave out.
        latest: of models that differ in the step alone, take the one of the highest.

    Raises:
        NotRecognisedError: there is no such folder.
    """
    if not root.is_dir():
        what = "is no folder" if root.exists() else "does not exist"
        raise NotRecognisedError(what, path=root, hint="a batch converts what is below a folder")
    found: list[Found] = []
    skipped: list[Skipped] = []
    seen, waiting, linked = set(without), [root], list[Path]()
    while waiting or linked:
        # What has a name of its own is called by that, and not by a link to it.
        folder = waiting.pop() if waiting else linked.pop()
        place = folder.resolve()
        if place in seen:
            continue
        seen.add(place)
        try:
            files, folders = _listing(folder)
        except OSError as error:
            skipped.append(Skipped(str(folder), f"cannot be read: {error.strerror}"))
            continue
        groups = _groups(files)
        whole = _whole(folder, groups)
        if whole:
            found.append(whole)
            continue
        for each in _in_folder(folder, files, groups):
            (found if isinstance(each, Found) else skipped).append(each)  # type: ignore[arg-type]
        for name in folders:
            (linked if (folder / name).is_symlink() else waiting).append(folder / name)
    found.sort(key=lambda each: each.path)
    skipped.sort(key=lambda each: each.path)
    return list(_latest(found)) if latest else found, skipped


def found_at(path: Path) -> Found:
    """Return the one model that a path stands for: a file, a folder or a prefix.

    Raises:
        NotRecognisedError: there is none.
    """
    folder = path if path.is_dir() else path.parent
    files = _listing(folder)[0] if folder.is_dir() else {}
    groups = _groups(files)
    if path.is_dir():
        return _whole(path, groups) or _of_files(path, path.name, _below(path))
    for _, group in groups:
        if group.name and path.name in (group.name, group.stem, *group.members):
            return _of_group(folder, group, files)
    if path.name not in files:
        raise NotRecognisedError("does not exist", path=path)
    return _of_files(path, _stem(path.name), {path.name: files[path.name]})


# Folders


def _listing(folder: Path) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Return the files of a folder, and the names of its folders; both sorted."""
    files: dict[str, tuple[int, int]] = {}
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda each: each.name):
            if entry.name.startswith(STAGING):
                continue
            if entry.is_dir():
                folders.append(entry.name)
                continue
            try:
                stat = entry.stat()
            except OSError:  # a link to nothing
                stat = entry.stat(follow_symlinks=False)
            files[entry.name] = stat.st_size, stat.st_mtime_ns
    return files, folders


def _below(folder: Path) -> dict[str, tuple[int, int]]:
    """Return all files below a folder, by path inside it; links to folders are not followed."""
    found: dict[str, tuple[int, int]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = f"{place}{os.sep}{name}"
            stat = os.lstat(path)
            found[os.path.relpath(path, folder)] = stat.st_size, stat.st_mtime_ns
    return found


def _whole(folder: Path, groups: _Groups) -> Found | None:
    """Return the model that a folder is with all that is below it."""
    for sniff, group in groups:
        if not group.name and sniff(Location(folder)):
            step = int(folder.name) if folder.name.isdecimal() else None  # as Serving has them
            return _of_files(folder, folder.name, _below(folder), step, str(folder.parent))
    return None


def _in_folder(folder: Path, files: _Files, groups: _Groups) -> Iterator[Found | Skipped]:
    left = dict(files)
    for sniff, group in groups:
        if (
            not group.name
            or not group.members <= left.keys()
            or not sniff(Location(folder / group.name))
        ):
            continue
        if group.members:
            yield _of_group(folder, group, files)
        for name in (*group.members, *group.companions):
            left.pop(name, None)
    for name, stat in left.items():
        yield _of_file(folder / name, stat)


def _groups(names: Collection[str]) -> _Groups:
    """Return what names tell, each with what tells whether it is true."""
    return [
        (format.sniff, group)
        for format in all_formats()
        if format.group
        for group in format.group(names)
    ]


# Models


def _of_group(folder: Path, group: Group, files: _Files) -> Found:
    members = {name: files[name] for name in group.members}
    stem = group.stem or folder.name
    series = str(folder / stem.removesuffix(str(group.step or "")))
    return _of_files(folder / group.name, stem, members, group.step, series)


def _of_file(path: Path, stat: tuple[int, int]) -> Found | Skipped:
    """Return what a file is that belongs to no other."""
    location = Location(path)
    if not location.is_file:
        return Skipped(str(path), "is no file, or a link to nothing")
    try:
        if _is_model(location) or _should_be(path.name):
            return _of_files(path, _stem(path.name), {path.name: stat})
    except ConvertError as error:
        return Skipped(str(path), error.message)
    foreign = name_foreign(location)
    return Skipped(str(path), foreign[0] if foreign else "no format that is read here")


def _of_files(
    path: Path, stem: str, files: _Files, step: int | None = None, series: str = ""
) -> Found:
    state = blake3()
    for name in sorted(files):
        size, time = files[name]
        state.update(encode(name) + f"\0{size} {time}\n".encode())
    nbytes = sum(size for size, _ in files.values())
    return Found(path, stem, nbytes, state.hexdigest(16), step, series)


def _is_model(location: Location) -> bool:
    if not location.head:
        return False
    archive = location.path.name.lower().endswith(ARCHIVES)  # many a zip is something else
    return bool(claims(location)) or (archive and archive_kind(location) is not None)


def _should_be(name: str) -> bool:
    """Tell whether a name promises a model, so that a damaged one is told and not passed over."""
    return name.lower().endswith(_endings())


@cache  # every file is asked
def _endings() -> tuple[str, ...]:
    return tuple(
        ending for each in all_formats() for ending in each.extensions if ending != ".json"
    )


def _stem(name: str) -> str:
    """Return a file's name without the ending of its format; the longest that fits."""
    fitting = [each for each in (*_endings(), ".json", *ARCHIVES) if name.lower().endswith(each)]
    return name[: -max(map(len, fitting))] or name if fitting else name


def _latest(found: Iterable[Found]) -> Iterator[Found]:
    """Yield of each series only the model of the highest step."""
    found = list(found)
    highest: dict[str, int] = {}
    for each in found:
        if each.step is not None:
            highest[each.series] = max(each.step, highest.get(each.series, -1))
    for each in found:
        if each.step is None or each.step == highest[each.series]:
            yield each
