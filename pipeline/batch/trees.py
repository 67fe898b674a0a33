"""What lies below a root, on a disk or in an object store, for those who look for models.

A store is listed as a whole, a thousand objects with each request. Names are believed there where
several of them agree, or an ending promises a model; only what is left is looked into, which takes
a request for each file. On a disk everything is looked into.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from ...converters.errors import ConvertError, NotRecognisedError
from ...converters.registry import HEAD_BYTES, Group, Location
from .places import is_url

if TYPE_CHECKING:
    from ...converters.remote import Mirror
    from ...converters.stores import Stored

__all__ = ["REQUESTS_AT_ONCE", "Files", "Sniff", "StoreTree", "Tree", "tree_at"]

STAGING = ".tensorferry-"  # folders of conversions that run, or that were killed
REQUESTS_AT_ONCE = 16

# Size in bytes, and what changes when a file does (on a disk its time in nanoseconds), by path
# inside a folder.
Files: TypeAlias = Mapping[str, tuple[int, int | str]]
Sniff: TypeAlias = Callable[[Location], bool]


class Tree:
    """The disk; a context manager, as that of a store is."""

    believes = False  # whether a name that promises a model is enough

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what was taken for looking."""

    def listing(self, folder: Path) -> tuple[Files, list[str]]:
        """Return the files of a folder, and the names of its folders; both sorted.

        Raises:
            OSError: it cannot be read.
        """
        files: dict[str, tuple[int, int | str]] = {}
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

    def below(self, folder: Path) -> Files:
        """Return all files below a folder, by path inside it; no links to folders are followed."""
        found: dict[str, tuple[int, int | str]] = {}
        for place, _, names in os.walk(folder):
            for name in names:
                path = f"{place}{os.sep}{name}"
                stat = os.lstat(path)
                found[os.path.relpath(path, folder)] = stat.st_size, stat.st_mtime_ns
        return found

    def is_folder(self, path: Path) -> bool:
        """Tell whether a path is a folder, or a link to one."""
        return path.is_dir()

    def place(self, path: Path) -> Path:
        """Return the one path that all links to a folder have in common."""
        return path.resolve()

    def location(self, path: Path) -> Location:
        """Return what to sniff."""
        return Location(path)

    def confirms(self, sniff: Sniff, folder: Path, group: Group, *, company: bool) -> bool:
        """Tell whether files are the model that their names tell, in company of models or not."""
        del company
        return sniff(Location(folder / group.name))

    def expect(self, paths: Iterable[Path]) -> None:
        """Hear which files are going to be looked into."""

    def seen(self, text: str) -> str:
        """Return a message with the names that people know."""
        return text


class StoreTree(Tree):
    """A part of an object store.

    Args:
        root: its URL, of anything in the same bucket.
        endpoint: where the store is, if not where its cloud is.
    """

    believes = True

    def __init__(self, root: Path, endpoint: str | None) -> None:
        from ...converters.remote import open_place

        self._place = open_place(str(root), endpoint)
        self._files: dict[str, dict[str, Stored]] = {}
        self._folders: dict[str, set[str]] = {}
        self._mirror: Mirror | None = None
        self._ahead: ThreadPoolExecutor | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading ahead, and remove what was shown."""
        if self._ahead:
            self._ahead.shutdown(cancel_futures=True)
        if self._mirror:
            self._mirror.close()

    def load(self, folder: Path, *, below: bool = True) -> bool:
        """List a folder, also all below it, or not; return whether anything is there.

        Raises:
            NoListingError: the store has no listings.
            ConvertError: it cannot be reached, or access is denied.
        """
        key = self.key(folder)
        self._files.setdefault(key, {})
        found = False
        for stored in self._place.store.list(key, below=below):
            parent, _, name = stored.key.rpartition("/")
            if name.startswith(STAGING):
                continue
            found = True
            self._files.setdefault(parent, {})[name] = stored
            self._note_folders(parent)
        return found

    def _note_folders(self, key: str) -> None:
        while key:
            parent, _, name = key.rpartition("/")
            known = self._folders.setdefault(parent, set())
            if name in known:
                return
            known.add(name)
            key = parent

    def listing(self, folder: Path) -> tuple[Files, list[str]]:
        """Return the files of a folder, and the names of its folders; both sorted."""
        key = self.key(folder)
        if key not in self._files and key not in self._folders:
            self.load(folder, below=False)
        folders = {name for name in self._folders.get(key, ()) if not name.startswith(STAGING)}
        # An empty object with the name of a folder marks it, as some tools do.
        files = {
            name: _state(each)
            for name, each in sorted(self._files.get(key, {}).items())
            if each.size or name not in folders
        }
        return files, sorted(folders)

    def below(self, folder: Path) -> Files:
        """Return all files below a folder, by path inside it."""
        found: dict[str, tuple[int, int | str]] = {}
        waiting = [(self.key(folder), "")]
        while waiting:
            key, inside = waiting.pop()
            found |= {f"{inside}{n}": _state(each) for n, each in self._files.get(key, {}).items()}
            waiting += [
                (f"{key}/{n}".lstrip("/"), f"{inside}{n}/") for n in self._folders.get(key, ())
            ]
        return found

    def is_folder(self, path: Path) -> bool:
        """Tell whether a URL is that of a folder; it is listed then."""
        beside = self.listing(path.parent)[0] if self.key(path) else {}
        if any(name.startswith(path.name) for name in beside):
            return False
        return self.load(path)

    def place(self, path: Path) -> Path:
        """Return the path: a store has no links."""
        return path

    def location(self, path: Path) -> Location:
        """Return what stands for an object, to be sniffed."""
        return Location(self._shown().path_of(self.key(path)))

    def confirms(self, sniff: Sniff, folder: Path, group: Group, *, company: bool) -> bool:
        """Believe several names that agree, or a file that tells about models if there are any."""
        if len(group.members) > 1 or not group.name or (not group.members and company):
            return True
        self.expect(folder / name for name in self._files[self.key(folder)])
        return sniff(self.location(folder / group.name))

    def expect(self, paths: Iterable[Path]) -> None:
        """Show files, and fetch their beginnings by several connections."""
        mirror = self._shown()
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(REQUESTS_AT_ONCE, "heads")
        for path in paths:
            parent, _, name = self.key(path).rpartition("/")
            stored = self._files[parent][name]
            if stored.key not in mirror.stored:
                mirror.add(stored)
                self._ahead.submit(_start, self.location(path))

    def seen(self, text: str) -> str:
        """Return a message with URLs."""
        return self._mirror.seen(text) if self._mirror else text

    def key(self, path: Path) -> str:
        """Return the key that a URL stands for."""
        return str(path).partition("://")[2].partition("/")[2].strip("/")

    def _shown(self) -> Mirror:
        if self._mirror is None:
            from ...converters.remote import Mirror

            self._mirror = Mirror(self._place, ())
        return self._mirror


def tree_at(root: Path, endpoint: str | None) -> Tree:
    """Return what lies below a root that is to be looked through.

    Raises:
        NotRecognisedError: there is no such folder.
    """
    if not is_url(root):
        if not root.is_dir():
            what = "is no folder" if root.exists() else "does not exist"
            hint = "a batch converts what is below a folder"
            raise NotRecognisedError(what, path=root, hint=hint)
        return Tree()
    from ...converters.stores import NoListingError

    tree = StoreTree(root, endpoint)
    try:
        if not tree.load(root):
            raise NotRecognisedError(
                "nothing lies there", path=root, hint="a batch converts what is below a folder"
            )
    except NoListingError as error:
        hint = "name the models in a list (TOML, CSV, JSON lines)"
        raise NotRecognisedError("the server has no listings", path=root, hint=hint) from error
    return tree


def _state(stored: Stored) -> tuple[int, str]:
    return stored.size, stored.mark


def _start(location: Location) -> None:
    try:
        location.start(HEAD_BYTES)
    except ConvertError:
        return  # it comes up again when the file is sniffed
