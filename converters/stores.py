"""Object stores behind one small interface: obstore for the great clouds, fsspec for the rest.

Credentials come from where each cloud's own tools take them: environment, profile, metadata of the
machine. What fails for the moment (throttling, 5xx, a reset, a time-out) is tried again with
back-off by obstore itself; what breaks in the middle of a range is, here.
"""

from __future__ import annotations

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from .errors import ConvertError, CorruptFileError, NotRecognisedError, TargetError, UsageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["NoListingError", "Store", "Stored", "open_store"]

# A part of an upload; of S3's limits, 10,000 parts is the one that counts.
PART_BYTES, MOST_PARTS = 8 << 20, 9_000
PARTS_AT_ONCE = 6
ATTEMPTS = 5
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0  # seconds
RETRIES, RETRY_SECONDS = 6, 60
# A reply that stands still, and a part of an upload over a slow line.
READ_SECONDS, PART_SECONDS = 30, 600

_OBSTORE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az",
            "abfs": "az", "abfss": "az", "adl": "az", "http": "http", "https": "http"}  # fmt: skip
# What says all by itself, so that no profile is looked for.
_PROFILELESS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"})
_UNFINISHED = ".tensorferry-part"
_EXTRA = "pip install 'tensorferry[remote]'"

Result = TypeVar("Result")


class NoListingError(Exception):
    """The store cannot say what is in it, as plain HTTP."""


class Stored(NamedTuple):
    """An object of a store.

    Attributes:
        key: its name in the bucket.
        size: in bytes.
        tag: changes when the object does; None where the store has none.
    """

    key: str
    size: int
    tag: str | None


class Store(ABC):
    """A bucket, a container or a server.

    Attributes:
        root: the beginning of its URLs, up to the slash before a key.
    """

    root: str

    @abstractmethod
    def head(self, key: str) -> Stored | None:
        """Return what is known of an object, None where there is none."""

    @abstractmethod
    def list(self, folder: str, *, below: bool) -> Iterator[Stored]:
        """Yield the objects of a folder, and with `below` those of all folders in it.

        Raises:
            NoListingError: the store has no listings.
        """

    @abstractmethod
    def get(self, stored: Stored, offset: int, length: int) -> memoryview:
        """Return exactly a range; thread-safe.

        Raises:
            CorruptFileError: the object is shorter now, or another one.
        """

    @abstractmethod
    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> None:
        """Store a file; it appears whole or not at all.

        Args:
            key: its name in the bucket.
            path: the file.
            advance: called with the number of bytes just sent.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove an object."""

    def url(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self.root}{key}"


def open_store(scheme: str, bucket: str, endpoint: str | None) -> Store:
    """Return the store that URLs of a scheme are about.

    Args:
        scheme: of the URL.
        bucket: what is between the slashes.
        endpoint: where the store is, if not where its cloud is.

    Raises:
        UsageError: nothing here knows the scheme, or what does is not installed.
    """
    if scheme in _OBSTORE:
        return _Obstore(scheme, bucket, endpoint)
    return _Fsspec(scheme, bucket, endpoint)


def _retried(url: str, run: Callable[[], Result]) -> Result:
    """Do something that may fail for the moment, such as a range that breaks in the middle."""
    for attempt in range(ATTEMPTS):
        try:
            return run()
        except ConvertError:
            raise
        except Exception as error:
            failure = _Failure(error)
            if attempt == ATTEMPTS - 1 or failure.final:
                raise failure.reading(url) from error
        wait = min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)
        time.sleep(wait * random.uniform(0.5, 1.0))
    raise AssertionError("every attempt returns or raises")


class _Failure:
    """What went wrong at a store, and how to say it."""

    _FINAL: ClassVar[dict[str, tuple[str, str]]] = {
        "NotFoundError": ("does not exist", "look at the bucket's name and the key"),
        "FileNotFoundError": ("does not exist", "look at the bucket's name and the key"),
        "PermissionDeniedError": ("access is denied", ""),
        "PermissionError": ("access is denied", ""),
        "UnauthenticatedError": ("access is denied: no valid credentials", ""),
        "InvalidPathError": ("a key that is no path", "rename it, or point at a folder without it"),
        "NotSupportedError": ("the server gives no byte ranges", "fetch the file and convert that"),
    }
    _ACCESS = "give credentials as the cloud's own tools take them (docs/guide/remote.md)"

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._text = str(error).partition("\n")[0]
        self._name = type(error).__name__
        # Listings do not tell these apart themselves.
        if "NoSuchBucket" in str(error):
            self._name = "NotFoundError"
        elif "403 Forbidden" in self._text:
            self._name = "PermissionDeniedError"

    @property
    def changed(self) -> bool:
        return self._name == "PreconditionError" or "416 Range Not" in self._text

    @property
    def final(self) -> bool:
        """Whether trying again is of no use."""
        tired = " retries, max_retries: " in self._text  # obstore has tried it again already
        return self._name in self._FINAL or self.changed or tired

    def reading(self, url: str) -> ConvertError:
        if self.changed:
            return CorruptFileError(
                "changed while it was read", path=url, hint="convert it again when it is complete"
            )
        if self._name in self._FINAL:
            what, hint = self._FINAL[self._name]
            return NotRecognisedError(what, path=url, hint=hint or self._ACCESS)
        return CorruptFileError(
            f"reading failed: {self.short()}", path=url, hint="try again; the store may be busy"
        )

    def writing(self, url: str) -> ConvertError:
        what, hint = self._FINAL.get(self._name, (self.short(), "try again"))
        return TargetError(f"cannot be written: {what}", path=url, hint=hint or self._ACCESS)

    def short(self) -> str:
        """Return what the library said, without the request that it repeats."""
        text = self._text.rpartition(" - ")[2] or self._name
        return text if len(text) <= 200 else f"{text[:199]}…"


@contextmanager
def _writing(url: str) -> Iterator[None]:
    try:
        yield
    except (ConvertError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        raise _Failure(error).writing(url) from error


def _checked(data: memoryview, stored: Stored, url: str, offset: int, length: int) -> memoryview:
    if len(data) == length:
        return data
    raise CorruptFileError(
        "the object ends early",
        path=url,
        where=f"byte {offset + len(data)}",
        expected=f"{stored.size} bytes",
        hint="it was changed while it was read; convert it again when it is complete",
    )


def _pieces(path: Path, size: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Yield a file part by part; in between an interrupt is heard."""
    part = _part_bytes(size)
    with path.open("rb") as file:
        while data := file.read(part):
            yield data
            advance(len(data))


def _part_bytes(size: int) -> int:
    return max(PART_BYTES, -(-size // MOST_PARTS))


class _Obstore(Store):
    def __init__(self, scheme: str, bucket: str, endpoint: str | None) -> None:
        try:
            import obstore
        except ImportError as error:
            raise UsageError(f"{scheme}:// needs obstore", hint=_EXTRA) from error
        self.root = f"{scheme}://{bucket}/"
        self._obstore = obstore
        self._listed = _OBSTORE[scheme] != "http"
        self._open = partial(self._opened, scheme, bucket, endpoint)
        self._store = self._open(patient=False)

    def _opened(
        self, scheme: str, bucket: str, endpoint: str | None, *, patient: bool
    ) -> ObjectStore:
        from obstore import store as stores

        plain = (endpoint or self.root).startswith("http://") or scheme == "http"
        shared: Any = {
            "client_options": {
                "allow_http": plain or os.environ.get("AWS_ALLOW_HTTP") == "true",
                "timeout": timedelta(seconds=PART_SECONDS),
                **({} if patient else {"read_timeout": timedelta(seconds=READ_SECONDS)}),
            },
            "retry_config": {
                "max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            },
        }  # fmt: skip
        kind = _OBSTORE[scheme]
        try:
            if kind == "s3":
                return stores.S3Store(bucket, **_s3(endpoint), **shared)
            if kind == "gs":
                own: Any = {"base_url": endpoint} if endpoint else {}
                return stores.GCSStore(bucket, **own, **shared)
            if kind == "az":
                own = {"endpoint": endpoint} if endpoint else {}
                return stores.AzureStore.from_url(self.root, **own, **shared)
            return stores.HTTPStore.from_url(self.root, **shared)
        except ConvertError:
            raise
        except Exception as error:
            text = _Failure(error).short()
            raise UsageError(f"no store can be opened: {text}", path=self.root) from error

    def head(self, key: str) -> Stored | None:
        def run() -> Stored | None:
            try:
                found = self._obstore.head(self._store, key)
            except FileNotFoundError:
                return None
            return Stored(key, found["size"], found["e_tag"])

        return _retried(self.url(key), run)

    def list(self, folder: str, *, below: bool) -> Iterator[Stored]:
        if not self._listed:
            raise NoListingError
        prefix = folder or None
        if not below:
            found = _retried(
                self.url(folder), lambda: self._obstore.list_with_delimiter(self._store, prefix)
            )
            yield from (
                Stored(each["path"], each["size"], each["e_tag"]) for each in found["objects"]
            )
            return
        pages = iter(self._obstore.list(self._store, prefix))
        while page := _retried(self.url(folder), lambda: next(pages, None)):
            yield from (Stored(each["path"], each["size"], each["e_tag"]) for each in page)

    def get(self, stored: Stored, offset: int, length: int) -> memoryview:
        options: Any = {"range": (offset, offset + length)}
        if stored.tag:
            options["if_match"] = stored.tag

        def run() -> memoryview:
            return memoryview(self._obstore.get(self._store, stored.key, options=options).bytes())

        url = self.url(stored.key)
        return _checked(_retried(url, run), stored, url, offset, length)

    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> None:
        size = path.stat().st_size
        store = self._open(patient=True)  # the time a reply takes has that of sending in it
        with _writing(self.url(key)):
            if size <= PART_BYTES:
                self._obstore.put(store, key, path.read_bytes(), use_multipart=False)
                advance(size)
                return
            # What the pieces raise, or an interrupt, aborts the upload.
            self._obstore.put(
                store,
                key,
                _pieces(path, size, advance),
                chunk_size=_part_bytes(size),
                max_concurrency=PARTS_AT_ONCE,
            )

    def delete(self, key: str) -> None:
        with _writing(self.url(key)):
            self._obstore.delete(self._store, key)


def _s3(endpoint: str | None) -> dict[str, Any]:
    """Return what S3 needs beside the environment: the endpoint, and what a profile says."""
    own: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    environ = os.environ
    named = "AWS_PROFILE" in environ
    if not named and not _PROFILELESS.isdisjoint(environ):
        return own
    stored = _is_file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    if not (named or stored or _is_file("AWS_CONFIG_FILE", "~/.aws/config")):
        return own
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if named or stored:
            hint = "pip install boto3"
            raise UsageError("reading an AWS profile needs boto3", hint=hint) from error
        return own
    return {**own, "credential_provider": Boto3CredentialProvider()}


def _is_file(variable: str, usual: str) -> bool:
    return Path(os.environ.get(variable, usual)).expanduser().is_file()


class _Fsspec(Store):
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

        return _retried(self.url(key), run)

    def list(self, folder: str, *, below: bool) -> Iterator[Stored]:
        def run() -> list[dict[str, Any]]:
            found = self._system.find(
                self._path(folder), maxdepth=None if below else 1, detail=True
            )
            return list(found.values())

        for info in _retried(self.url(folder), run):
            stored = self._stored(info)
            if stored:
                yield stored

    def get(self, stored: Stored, offset: int, length: int) -> memoryview:
        def run() -> memoryview:
            path = self._path(stored.key)
            return memoryview(self._system.cat_file(path, start=offset, end=offset + length))

        url = self.url(stored.key)
        return _checked(_retried(url, run), stored, url, offset, length)

    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> None:
        with _writing(self.url(key)):
            folder = self._path(key).rpartition("/")[0]
            if folder:
                self._system.makedirs(folder, exist_ok=True)
            # Some of these are no object stores, and show a file while it grows.
            unfinished = f"{self._path(key)}{_UNFINISHED}"
            try:
                self._system.put_file(str(path), unfinished)
                self._system.mv(unfinished, self._path(key))
            except BaseException:
                with suppress(Exception):
                    self._system.rm_file(unfinished)
                raise
        advance(path.stat().st_size)

    def delete(self, key: str) -> None:
        with _writing(self.url(key)):
            self._system.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._base}/{key}" if key else self._base

    def _stored(self, info: dict[str, Any]) -> Stored | None:
        if info["type"] != "file" or info["size"] is None:
            return None
        key = str(info["name"])[len(self._base) :].lstrip("/")
        return Stored(key, info["size"], None)
