"""Object stores behind one small interface: obstore for the great clouds, fsspec for the rest.

Credentials come from where each cloud's own tools take them: environment, profile, metadata of the
machine. What fails for the moment (throttling, 5xx, a reset, a time-out) is tried again with
back-off by obstore itself; what breaks in the middle of a range is, here.
"""

from __future__ import annotations

import json
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from .errors import ConvertError, CorruptFileError, NotRecognisedError, TargetError, UsageError
from .profiles import s3_settings

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = [
    "NoListingError", "Sent", "Store", "Stored", "checked", "open_store", "retried", "writing",
]  # fmt: skip

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
# What credentials are called in the environment.
_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "GCP_")
NOT_DONE = "501 Not Implemented"
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
        time: of the last change, as the store tells it; empty where it does not.
    """

    key: str
    size: int
    tag: str | None
    time: str = ""

    @property
    def mark(self) -> str:
        """What changes when the object does, alike in listings and answers; empty if unknown."""
        return self.tag.removeprefix("W/").strip('"') if self.tag else self.time


class Sent(NamedTuple):
    """What was stored.

    Attributes:
        stored: the object.
        digest: BLAKE3 of its bytes.
    """

    stored: Stored
    digest: str


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
    def beside(self, folder: str) -> tuple[Sequence[Stored], set[str]]:
        """Return the objects of a folder, and the keys of the folders in it.

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
    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> Sent:
        """Store a file; it appears whole or not at all.

        Args:
            key: its name in the bucket.
            path: the file.
            advance: called with the number of bytes just sent.
        """

    @abstractmethod
    def fetch(self, key: str) -> tuple[bytes, str] | None:
        """Return a small object as a whole and its tag for `swap`, None where there is none."""

    @abstractmethod
    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        """Store a small object if what is there is what was there before.

        Args:
            key: its name in the bucket.
            data: the bytes.
            tag: of what has to be there; None if there has to be nothing.

        Returns:
            The tag of the new object; None if something else is there, and stays.
        """

    @abstractmethod
    def store(self, key: str, data: bytes) -> None:
        """Store a small object, whatever is there."""

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
        # Connections are kept from one model to the next, but for a forked child.
        named = ((name, each) for name, each in os.environ.items() if name.startswith(_CLOUDS))
        return _opened(scheme, bucket, endpoint, os.getpid(), frozenset(named))
    from .other_stores import open_other

    return open_other(scheme, bucket, endpoint)


@lru_cache(maxsize=16)
def _opened(
    scheme: str, bucket: str, endpoint: str | None, process: int, environ: frozenset[Any]
) -> Store:
    del process, environ
    return _Obstore(scheme, bucket, endpoint)


def retried(url: str, run: Callable[[], Result]) -> Result:
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
        """Whether trying again at once is of no use."""
        tired = " retries, max_retries: " in self._text  # obstore has tried it again already
        return not self.passing or tired

    @property
    def passing(self) -> bool:
        """Whether it may pass, if not at once."""
        return self._name not in self._FINAL and not self.changed

    def reading(self, url: str) -> ConvertError:
        if self.changed:
            return CorruptFileError(
                "changed while it was read", path=url, hint="convert it again when it is complete"
            )
        if self._name in self._FINAL:
            what, hint = self._FINAL[self._name]
            return NotRecognisedError(what, path=url, hint=hint or self._ACCESS)
        error = CorruptFileError(
            f"reading failed: {self.short()}", path=url, hint="try again; the store may be busy"
        )
        error.transient = True
        return error

    def writing(self, url: str) -> ConvertError:
        what, hint = self._FINAL.get(self._name, (self.short(), "try again"))
        error = TargetError(f"cannot be written: {what}", path=url, hint=hint or self._ACCESS)
        error.transient = self.passing
        return error

    def short(self) -> str:
        """Return what the library said, without the request that it repeats."""
        text = self._text.rpartition(" - ")[2] or self._name
        return text if len(text) <= 200 else f"{text[:199]}…"


@contextmanager
def writing(url: str) -> Iterator[None]:
    """Raise what a library says when it cannot write as an error of ours."""
    try:
        yield
    except (ConvertError, KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:
        raise _Failure(error).writing(url) from error


def checked(data: memoryview, stored: Stored, url: str, offset: int, length: int) -> memoryview:
    """Return what was read if it is as long as was asked for.

    Raises:
        CorruptFileError: it is not.
    """
    if len(data) == length:
        return data
    raise CorruptFileError(
        "the object ends early",
        path=url,
        where=f"byte {offset + len(data)}",
        expected=f"{stored.size} bytes",
        hint="it was changed while it was read; convert it again when it is complete",
    )


def _pieces(
    path: Path, size: int, advance: Callable[[int], None], seen: Callable[[bytes], object]
) -> Iterator[bytes]:
    """Yield a file part by part; in between an interrupt is heard."""
    part = _part_bytes(size)
    with path.open("rb") as file:
        while data := file.read(part):
            seen(data)
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
        self._conditional = True
        self._open = partial(self._opened, scheme, bucket, endpoint)
        self._store = self._open(patient=False)

    @cached_property
    def _patient(self) -> ObjectStore:
        """For uploads: the time a reply takes has that of sending in it."""
        return self._open(patient=True)

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
                return stores.S3Store(bucket, **s3_settings(endpoint), **shared)
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
            return _stored(found)

        return retried(self.url(key), run)

    def list(self, folder: str, *, below: bool) -> Iterator[Stored]:
        if not below:
            yield from self.beside(folder)[0]
            return
        if not self._listed:
            raise NoListingError
        pages = iter(self._obstore.list(self._store, folder or None))
        while page := retried(self.url(folder), lambda: next(pages, None)):
            yield from map(_stored, page)

    def beside(self, folder: str) -> tuple[Sequence[Stored], set[str]]:
        if not self._listed:
            raise NoListingError
        prefix = folder or None
        found = retried(
            self.url(folder), lambda: self._obstore.list_with_delimiter(self._store, prefix)
        )
        return [*map(_stored, found["objects"])], {*found["common_prefixes"]}

    def get(self, stored: Stored, offset: int, length: int) -> memoryview:
        options: Any = {"range": (offset, offset + length)}
        if stored.tag:
            options["if_match"] = stored.tag

        def run() -> memoryview:
            return memoryview(self._obstore.get(self._store, stored.key, options=options).bytes())

        url = self.url(stored.key)
        return checked(retried(url, run), stored, url, offset, length)

    def put(self, key: str, path: Path, advance: Callable[[int], None]) -> Sent:
        from blake3 import blake3

        size, state = path.stat().st_size, blake3()
        with writing(self.url(key)):
            if size <= PART_BYTES:
                data = path.read_bytes()
                state.update(data)
                result = self._obstore.put(self._patient, key, data, use_multipart=False)
                advance(size)
            else:
                # What the pieces raise, or an interrupt, aborts the upload.
                result = self._obstore.put(
                    self._patient,
                    key,
                    _pieces(path, size, advance, state.update),
                    chunk_size=_part_bytes(size),
                    max_concurrency=PARTS_AT_ONCE,
                )
        return Sent(Stored(key, size, result["e_tag"]), state.hexdigest())

    def fetch(self, key: str) -> tuple[bytes, str] | None:
        def run() -> tuple[bytes, str] | None:
            try:
                found = self._obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            return bytes(found.bytes()), _ticket(found.meta["e_tag"], found.meta["version"])

        return retried(self.url(key), run)

    def swap(self, key: str, data: bytes, tag: str | None) -> str | None:
        from obstore import exceptions as raised

        mode: Any = "create" if tag is None else json.loads(tag)
        if not self._conditional:
            there = self.fetch(key)
            if (there and there[1]) != tag:
                return None
            mode = "overwrite"
        with writing(self.url(key)):
            try:
                done = self._obstore.put(self._store, key, data, mode=mode, use_multipart=False)
            except (raised.AlreadyExistsError, raised.NotFoundError, raised.PreconditionError):
                return None
            except Exception as error:
                # What imitates S3 may not do this: then not in one step.
                lacking = isinstance(error, NotImplementedError) or NOT_DONE in str(error)
                if not lacking or not self._conditional:
                    raise
                self._conditional = False
                return self.swap(key, data, tag)
        return _ticket(done["e_tag"], done["version"])

    def store(self, key: str, data: bytes) -> None:
        with writing(self.url(key)):
            self._obstore.put(self._store, key, data, use_multipart=False)

    def delete(self, key: str) -> None:
        with writing(self.url(key)):
            self._obstore.delete(self._store, key)


def _ticket(tag: str | None, version: str | None) -> str:
    """Return what names an object that is to be replaced; stores ask for one or the other."""
    known = {"e_tag": tag, "version": version}
    return json.dumps({name: each for name, each in known.items() if each})


def _stored(found: ObjectMeta) -> Stored:
    time = found["last_modified"].isoformat()
    return Stored(found["path"], found["size"], found["e_tag"], time)
