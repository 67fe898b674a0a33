"""Models in object stores: a URL becomes a mounted folder that formats read as any other.

The folder (`mounts.py`) has an empty file of the right name and size for each object that may
belong to the model, as a listing tells: what lies beside a file or a prefix, all of what lies below
a folder. The bytes come by ranges (`read_ahead.py`). A server without listings is asked for the
names that a checkpoint or an index of shards implies.

Nothing of this is loaded unless a path has a scheme.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

from .errors import ConvertError, NotRecognisedError, UsageError
from .mounts import RemotePath, mount, unmount
from .read_ahead import BlockCache, CachedFile
from .scratch import make_locked
from .sources import FileSource, Source
from .stores import NoListingError, Store, Stored, open_store
from .tensors import TensorDict

__all__ = [
    "Mirror", "Place", "dressed", "listed_bytes", "mirrored", "objects_at", "open_place",
    "seen_outside",
]  # fmt: skip

MOST_OBJECTS = 100_000
# What points at a model whose other files lie in folders beside it.
_WHOLE_FOLDER = ("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb")
_VARIABLES = "variables"
_URL = re.compile(r"([a-zA-Z][\w+.-]*)://([^/]*)/?(.*)", re.DOTALL)
# Of a server without listings: endings of what stands for several files.
_INDEX, _JSON_INDEX = ".index", ".json"
_MEMBER = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
MOST_INDEX_BYTES = 64 << 20


class Place(NamedTuple):
    """What a URL points at.

    Attributes:
        store: where it is.
        key: of the object, the prefix or the folder, without a slash at the end.
        folder: whether the URL ends with a slash.
    """

    store: Store
    key: str
    folder: bool

    @property
    def url(self) -> str:
        """The URL, as messages have it."""
        return self.store.url(self.key)


def open_place(url: str, endpoint: str | None = None) -> Place:
    """Return what a URL points at; asks no server.

    Raises:
        UsageError: it is no URL, or nothing that is installed knows its scheme.
    """
    match = _URL.fullmatch(url)
    if not match:
        raise UsageError("is no URL", path=url)
    scheme, bucket, key = match[1].lower(), match[2], match[3]
    if scheme in ("http", "https"):
        if "?" in key or "#" in key:
            raise UsageError(
                "a URL with a query cannot be read by ranges", path=url,
                hint="fetch the file and convert that",
            )  # fmt: skip
        key = unquote(key)
    if scheme == "file":
        raise UsageError("is a file of this machine", path=url, hint="leave out `file://`")
    return Place(open_store(scheme, bucket, endpoint), key.strip("/"), url.endswith("/"))


class Mirror(Source):
    """A mounted folder that stands for the objects around a place; closing removes it.

    Args:
        place: what was pointed at.
        objects: what to show; if not given, what a listing tells of the place.

    Attributes:
        path: the URL.
        local: what stands for the place in the folder.
        stored: the objects by their keys.

    Raises:
        ConvertError: the store cannot be reached, or access is denied.
    """

    def __init__(self, place: Place, objects: Iterable[Stored] | None = None) -> None:
        self.path = RemotePath(place.url)
        self.stored: dict[str, Stored] = {}
        self._place = place
        self._listed = objects is None
        self._cache = BlockCache()
        self._files: dict[str, CachedFile] = {}
        root, self._lock = make_locked(Path(tempfile.gettempdir()))
        self._root = root.resolve()
        self._process = os.getpid()
        atexit.register(self.close)
        try:
            self.local = self._root
            if place.key:
                self.local = self._inside(place.key) or _no_path(place)
            mount(self._root, self._files)
            empty: list[Stored] = []
            for stored in _objects(place, self) if objects is None else objects:
                # It may only mark a folder, whose name would then be taken.
                if stored.size:
                    self.add(stored)
                else:
                    empty.append(stored)
            for stored in empty:
                self.add(stored)
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """Bytes of all objects that were listed."""
        return sum(stored.size for stored in self.stored.values())

    def read_into(self, offset: int, target: memoryview) -> None:
        """Read the object that was pointed at."""
        self._files[str(self.local)].read_into(offset, target)

    def add(self, stored: Stored) -> None:
        """Show an object as a file; keys that no folder can hold are left out."""
        path = self._inside(stored.key)
        if path is None or stored.key in self.stored:
            return
        if len(self.stored) >= MOST_OBJECTS and self._listed:
            raise UsageError(
                f"more than {MOST_OBJECTS} objects lie there", path=self.path,
                hint="point at the model itself",
            )  # fmt: skip
        # A name too long, or a key that is the folder of another one.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.truncate(stored.size)
            store = self._place.store
            shown = RemotePath(store.url(stored.key))
            fetch = partial(store.get, stored)
            self._files[str(path)] = CachedFile(shown, stored.size, fetch, self._cache)
            self.stored[stored.key] = stored

    def read(self, key: str, most: int) -> bytes:  # type: ignore[override]
        """Return what an object holds, if that is not more than `most` bytes; else nothing."""
        source = FileSource(self._inside(key) or self._root)
        size = self.stored[key].size
        return source.read(0, size) if size <= most else b""

    def seen(self, text: str) -> str:
        """Return a text with URLs instead of paths in the folder."""
        root = self._place.store.root
        return text.replace(f"{self._root}/", root).replace(str(self._root), root.rstrip("/"))

    def key_of(self, path: Path) -> str:
        """Return the key of the object that a path in the folder stands for."""
        return path.relative_to(self._root).as_posix()

    def shown(self, path: Path) -> RemotePath:
        """Return what messages call a path in the folder."""
        return RemotePath(self._place.store.url(self.key_of(path)))

    def close(self) -> None:
        """Remove the folder and give the memory back; in a forked child they are the parent's."""
        if os.getpid() != self._process:
            return
        unmount(self._root)
        self._cache.close()
        shutil.rmtree(self._root, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        atexit.unregister(self.close)

    def path_of(self, key: str) -> Path:
        """Return where an object is shown, if it is."""
        return self._inside(key) or self._root

    def _inside(self, key: str) -> Path | None:
        """Return where an object is shown; None for a key that is no plain path."""
        parts = key.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in key:
            return None
        return self._root.joinpath(*parts)


def listed_bytes(url: str, endpoint: str | None = None) -> int:
    """Return how many bytes the objects around a URL have together.

    Raises:
        ConvertError: the store cannot be reached, or access is denied.
    """
    mirror = Mirror(open_place(url.partition("::")[0], endpoint))
    mirror.close()
    return mirror.size


def objects_at(url: str | os.PathLike[str], endpoint: str | None = None) -> list[Stored]:
    """Return the objects that a URL stands for by their names: of a file, a prefix or a folder.

    Raises:
        ConvertError: the store cannot be reached, or access is denied.
    """
    place = open_place(os.fspath(url).partition("::")[0], endpoint)
    mirror = Mirror(place)
    mirror.close()
    key = place.key
    own = [each for each in mirror.stored.values() if each.key == key]
    near = (each for each in mirror.stored.values() if each.key.startswith((f"{key}.", f"{key}/")))
    return own or sorted(near)


def _no_path(place: Place) -> NoReturn:
    raise UsageError("a key with empty parts, `.` or `..`", path=place.url)


def seen_outside(mirror: Mirror, error: ConvertError) -> ConvertError:
    """Return an error with URLs instead of paths in the mounted folder."""
    error.path = error.path and mirror.seen(error.path)
    error.hint = error.hint and mirror.seen(error.hint)
    error.what = mirror.seen(error.what)
    error.args = (error.message,)
    return error


def dressed(mirror: Mirror, tensors: TensorDict) -> TensorDict:
    """Return tensors that name URLs in all they tell, and close the mirror with them."""
    return replace(
        tensors,
        broken={name: seen_outside(mirror, error) for name, error in tensors.broken.items()},
        notes=tuple(replace(note, text=mirror.seen(note.text)) for note in tensors.notes),
        details={name: _seen_in(mirror, value) for name, value in tensors.details.items()},
        sources=(*tensors.sources, mirror),
    )


def mirrored(tensors: TensorDict, seen: Callable[[str], str]) -> tuple[Path, Callable[[str], str]]:
    """Return what stands for the place of tensors, and what gives a text URLs instead of paths.

    Args:
        tensors: as `dressed` returned them; not closed yet.
        seen: what a text passes through first.
    """
    mirror = next(source for source in tensors.sources if isinstance(source, Mirror))
    return mirror.local, lambda text: mirror.seen(seen(text))


def _seen_in(mirror: Mirror, value: object) -> object:
    if isinstance(value, list):
        return [_seen_in(mirror, each) for each in value]
    if isinstance(value, dict):
        return {name: _seen_in(mirror, each) for name, each in value.items()}
    return mirror.seen(value) if isinstance(value, str) else value


# Which objects may belong to the model


def _objects(place: Place, mirror: Mirror) -> Iterator[Stored]:
    store, key = place.store, place.key
    parent = str(PurePosixPath(key).parent) if "/" in key else ""
    try:
        is_folder = True
        if key and not place.folder:
            objects, folders = store.beside(parent)
            is_folder = key in folders
            yield from objects
        if mirror.local.is_file():
            yield from _around_file(store, PurePosixPath(key))
            return
        if is_folder:
            yield from store.list(key, below=True)
        # Of a SavedModel, the graph that says what its variables are.
        if PurePosixPath(key).name == _VARIABLES or PurePosixPath(parent).name == _VARIABLES:
            upper = key if PurePosixPath(key).name == _VARIABLES else parent
            yield from store.list(_parent(upper), below=False)
    except NoListingError:
        yield from _implied(place, mirror)


def _around_file(store: Store, key: PurePosixPath) -> Iterator[Stored]:
    """Yield what belongs to a file and lies neither beside it nor is it."""
    if key.name in _WHOLE_FOLDER:
        yield from store.list(_parent(str(key)), below=True)
    elif key.parent.name == _VARIABLES:
        yield from store.list(_parent(_parent(str(key))), below=False)


def _parent(key: str) -> str:
    return key.rpartition("/")[0]


# A server without listings


def _implied(place: Place, mirror: Mirror) -> Iterator[Stored]:
    """Yield the objects that a name, and the indexes found on the way, stand for."""
    store, key = place.store, place.key
    prefix = _MEMBER.sub("", key)
    found = store.head(key)
    if found:
        yield found
        if key.endswith(_JSON_INDEX):
            names = _named_in(mirror.read(key, MOST_INDEX_BYTES))
            yield from _heads(store, (f"{_parent(key)}/{name}".lstrip("/") for name in names))
    if not found or prefix != key:
        index = f"{prefix}{_INDEX}"
        yield from _heads(store, [index, f"{prefix}.meta"])
        if index in mirror.stored:
            yield from _heads(store, _shards(prefix, mirror, index))
    if not mirror.stored:
        raise NotRecognisedError(
            "does not exist, and the server has no listings",
            path=place.url,
            hint="name a file or a prefix, not its folder",
        )


def _heads(store: Store, keys: Iterable[str]) -> Iterator[Stored]:
    for key in keys:
        found = store.head(key)
        if found:
            yield found


def _shards(prefix: str, mirror: Mirror, index: str) -> list[str]:
    """Return the data shards that the header of a checkpoint's index counts."""
    from .containers.tensor_bundle import count_shards, shard_path

    local = mirror.local.with_name(PurePosixPath(index).name)
    with suppress(ConvertError):
        count = min(count_shards(local), MOST_OBJECTS)
        paths = (shard_path(Path(prefix), number, count) for number in range(count))
        return [str(path) for path in paths]
    return []


def _named_in(data: bytes) -> list[str]:
    """Return the names of files in an index of shards, of safetensors or TensorFlow.js."""
    try:
        content = json.loads(data)
        named = list(content.get("weight_map", {}).values())
        for group in content.get("weightsManifest", ()):
            named += group["paths"]
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return []
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))[:MOST_OBJECTS]
