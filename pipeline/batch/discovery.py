"""Models below a folder: what to open, which files they are, and what is no model.

Files that belong together are told by their names (`Format.group`), all others are looked at one by
one. Nothing is opened: whether a model is whole shows when it is converted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
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
from .trees import Files, Sniff, Tree, tree_at

__all__ = ["Found", "discover", "found_at", "found_of"]

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")

_Groups: TypeAlias = list[tuple[Sniff, Group]]


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
    root: Path,
    *,
    without: Collection[Path] = (),
    latest: bool = False,
    endpoint: str | None = None,
) -> tuple[list[Found], list[Skipped]]:
    """Return the models below a folder, and what is none; in the order of their paths.

    Args:
        root: the folder; links are followed, and each folder is looked at once. Or the URL of one.
        without: resolved folders to leave out.
        latest: of models that differ in the step alone, take the one of the highest.
        endpoint: where the object store is, if not where its cloud is.

    Raises:
        NotRecognisedError: there is no such folder.
        ConvertError: the store cannot be reached, or access is denied.
    """
    with tree_at(root, endpoint) as tree:
        found, skipped = _Search(tree, without).below(root)
    found.sort(key=lambda each: each.path)
    skipped.sort(key=lambda each: each.path)
    return list(_latest(found)) if latest else found, skipped


class _Search:
    """Goes through a tree; the folders first, then what is in them."""

    def __init__(self, tree: Tree, without: Collection[Path]) -> None:
        self._tree = tree
        self._seen = set(without)
        self._found: list[Found] = []
        self._skipped: list[Skipped] = []

    def below(self, root: Path) -> tuple[list[Found], list[Skipped]]:
        for folder in [*self._folders(root)] if self._tree.believes else self._folders(root):
            for each in folder.models():
                (self._found if isinstance(each, Found) else self._skipped).append(each)  # type: ignore[arg-type]
        return self._found, self._skipped

    def _folders(self, root: Path) -> Iterator[_Folder]:
        waiting, linked = [root], list[Path]()
        while waiting or linked:
            # What has a name of its own is called by that, and not by a link to it.
            path = waiting.pop() if waiting else linked.pop()
            place = self._tree.place(path)
            if place in self._seen:
                continue
            self._seen.add(place)
            try:
                files, folders = self._tree.listing(path)
            except OSError as error:
                self._skipped.append(Skipped(str(path), f"cannot be read: {error.strerror}"))
                continue
            folder = _Folder(self._tree, path, files)
            whole = folder.whole()
            if whole:
                self._found.append(whole)
                continue
            folder.expect()
            yield folder
            for name in folders:
                (linked if (path / name).is_symlink() else waiting).append(path / name)


def found_at(path: Path, tree: Tree | None = None) -> Found:
    """Return the one model that a path stands for: a file, a folder or a prefix.

    Args:
        path: the path, or the URL.
        tree: where it is, if not on a disk.

    Raises:
        NotRecognisedError: there is none.
    """
    tree = tree or Tree()
    if tree.is_folder(path):
        folder = _Folder(tree, path, tree.listing(path)[0])
        return folder.whole() or _of_files(path, path.name, tree.below(path))
    try:
        folder = _Folder(tree, path.parent, tree.listing(path.parent)[0])
    except OSError as error:
        raise NotRecognisedError("does not exist", path=path) from error
    for _, group in folder.groups:
        if group.name and path.name in (group.name, group.stem, *group.members):
            return folder.of_group(group)
    if path.name not in folder.files:
        raise NotRecognisedError("does not exist", path=path)
    return _of_files(path, _stem(path.name), {path.name: folder.files[path.name]})


class _Folder:
    """A folder and what its names tell."""

    def __init__(self, tree: Tree, path: Path, files: Files) -> None:
        self.path = path
        self.files = files
        self.groups = _groups(files)
        self._tree = tree

    def whole(self) -> Found | None:
        """Return the model that the folder is with all that is below it."""
        path = self.path
        for sniff, group in self.groups:
            if not group.name and self._confirms(sniff, group):
                step = int(path.name) if path.name.isdecimal() else None  # as Serving has them
                return _of_files(path, path.name, self._tree.below(path), step, str(path.parent))
        return None

    def expect(self) -> None:
        """Say which files are going to be looked into, where names are believed."""
        if not self._tree.believes:
            return
        known = {
            name
            for _, group in self.groups
            if len(group.members) > 1
            for name in (*group.members, *group.companions)
        }
        unsure = [name for name in self.files if name not in known and not _should_be(name)]
        self._tree.expect(self.path / name for name in unsure)

    def models(self) -> Iterator[Found | Skipped]:
        """Yield the models of several files, then what each other file is."""
        left = dict(self.files)
        for sniff, group in self.groups:
            if (
                not group.name
                or not group.members <= left.keys()
                or not self._confirms(sniff, group)
            ):
                continue
            if group.members:
                yield self.of_group(group)
            for name in (*group.members, *group.companions):
                left.pop(name, None)
        for name, state in left.items():
            yield self._of_file(name, state)

    def _confirms(self, sniff: Sniff, group: Group) -> bool:
        company = any(each.members for _, each in self.groups)
        return self._tree.confirms(sniff, self.path, group, company=company)

    def of_group(self, group: Group) -> Found:
        members = {name: self.files[name] for name in group.members}
        stem = group.stem or self.path.name
        series = str(self.path / stem.removesuffix(str(group.step or "")))
        return _of_files(self.path / group.name, stem, members, group.step, series)

    def _of_file(self, name: str, state: tuple[int, int | str]) -> Found | Skipped:
        """Return what a file is that belongs to no other."""
        path = self.path / name
        if self._tree.believes and _should_be(name):
            return _of_files(path, _stem(name), {name: state})
        location = self._tree.location(path)
        if not location.is_file:
            return Skipped(str(path), "is no file, or a link to nothing")
        try:
            if _is_model(location) or _should_be(name):
                return _of_files(path, _stem(name), {name: state})
        except ConvertError as error:
            return Skipped(str(path), self._tree.seen(error.message))
        foreign = name_foreign(location)
        return Skipped(str(path), foreign[0] if foreign else "no format that is read here")


def _groups(names: Collection[str]) -> _Groups:
    """Return what names tell, each with what tells whether it is true."""
    return [
        (format.sniff, group)
        for format in all_formats()
        if format.group
        for group in format.group(names)
    ]


def found_of(path: Path, files: Files) -> Found:
    """Return what files are that are one model for sure."""
    return _of_files(path, _stem(path.name), files)


def _of_files(
    path: Path, stem: str, files: Files, step: int | None = None, series: str = ""
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
