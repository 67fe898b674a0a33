"""Object stores, and other places, that fsspec knows and obstore does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blake3 import blake3

from .errors import UsageError
from .stores import Sent, Store, Stored, checked, retried, writing

__all__ = ["open_other"]

_UNFINISHED = ".tensorferry-part"
# What some of them tell of the last change of a file, the surest first.
_MARKS = (
    "ETag",
    "etag",
    "md5Hash",
    "mtime",
    "LastModified",
    "last_modified",
    "modified",
    "created",
)


def open_other(scheme: str, bucket: str, endpoint: str | None) -> Store:
    """Return the store that URLs of a scheme are about, by way of fsspec.

    Args:
        scheme: of the URL.
        bucket: what is between the slashes.
        endpoint: where the store is, if not where its usual place is.

    Raises:
        UsageError: nothing here knows the scheme, or what does is not installed.
    """
    return _OtherStore(scheme, bucket, endpoint)


class _OtherStore(Store):
    def __init__(self, scheme: str, bucket: str, endpoint: str | None) -> None:
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise UsageError(f"{scheme}:// needs fsspec", hint="pip install fsspec") from error
        self.root = f"{scheme}://{bucket}/"
        options: dict[str, Any] = {"endpoint_url": endpoint} if endpoint else {}
        try:
            self._system, base = url_to_fs(self.root, **options)
        except (ImportError, ValueError, TypeError) as error:
            text = str(error).partition("\n")[0]
            raise UsageError(f"{scheme}:// cannot be opened: {text}") from error
        self._base = str(base).rstrip("/")

    def head(self, key: str) -> Stored | None:
        def run() -> Stored | None:
            try:
                return self._stored(self._system.info(self._path(key)))
            except FileNotFoundError:
                return None

        return retried(self.url(key), run)

    def list(self, folder: str, *, below: bool) -> Iterator[Stored]:
        def run() -> list[dict[str, Any]]:
            found = self._system.find(
                self._path(folder), maxdepth=None if below else 1, detail=True
            )
            return list(found.values())

        for info in retried(self.url(folder), run):
            stored = self._stored(info)
            if stored:
                yield stored

    def beside(self, folder: str) -> tuple[Sequence[Stored], set[str]]:
        def run() -> dict[str, dict[str, Any]]:
            path = self._path(folder)
            found = self._system.find(path, maxdepth=1, withdirs=True, detail=True)
            return dict(found)

        infos = retried(self.url(folder), run).values()
        objects = (self._stored(info) for info in infos)
        folders = {self._key(info) for info in infos if info["type"] == "directory"}
        return [each for each in objects if each], folders - {folder}

    def get(self, stored: Stored, offset: int, length: int) -> memoryview:
        def run() -> memoryview:
            path = self._path(stored.key)
            return memoryview(self._system.cat_file(path, start=offset, end=offset + length))

        url = self.url(stored.key)
        return checked(retried(url, run), stored, url, offset, length)

    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> Sent:
        with writing(self.url(key)):
            with self._unfinished(key) as unfinished:
                self._system.put_file(str(path), unfinished)
            info = self._system.info(self._path(key))
            digest = _digest(path)
        size = path.stat().st_size
        advance(size)
        return Sent(self._stored(info) or Stored(key, size, None), digest)

    def fetch(self, key: str) -> tuple[bytes, str] | None:
        def run() -> tuple[bytes, str] | None:
            try:
                data = bytes(self._system.cat_file(self._path(key)))
            except FileNotFoundError:
                return None
            return data, _tag(data)

        return retried(self.url(key), run)

    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        # Not in one step, as few of these can.
        there = self.fetch(key)
        if (there and there[1]) != tag:
            return None
        self.store(key, data)
        return _tag(data)

    def store(self, key: str, data: bytes) -> None:
        with writing(self.url(key)), self._unfinished(key) as unfinished:
            self._system.pipe_file(unfinished, data)

    @contextmanager
    def _unfinished(self, key: str) -> Iterator[str]:
        """Give what to call an object until it is whole: some of these show a file as it grows."""
        path = self._path(key)
        folder = path.rpartition("/")[0]
        if folder:
            self._system.makedirs(folder, exist_ok=True)
        unfinished = f"{path}{_UNFINISHED}"
        try:
            yield unfinished
            self._system.mv(unfinished, path)
        except BaseException:
            with suppress(Exception):
                self._system.rm_file(unfinished)
            raise

    def delete(self, key: str) -> None:
        with writing(self.url(key)):
            self._system.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def _key(self, info: dict[str, Any]) -> str:
        return str(info["name"])[len(self._base) :].lstrip("/")

    def _stored(self, info: dict[str, Any]) -> Stored | None:
        if info["type"] != "file" or info["size"] is None:
            return None
        return Stored(self._key(info), info["size"], None, _mark(info))


def _mark(info: dict[str, Any]) -> str:
    return next((f"{name} {info[name]}" for name in _MARKS if info.get(name)), "")


def _tag(data: bytes) -> str:
    return blake3(data).hexdigest()


def _digest(path: Path) -> str:
    return blake3(max_threads=1).update_mmap(path).hexdigest()
