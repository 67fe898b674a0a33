"""Archives that hold a model: tar, tar.gz and zip, unpacked to a folder that is then opened.

The folder is private, lies where temporary files do (TMPDIR), and is removed when the tensors are
closed, or at the latest when the process ends. Unpacking and not reading in place: most models
are several files that look for each other by name, and unpacking costs about what copying the
archive does (docs/formats/archives.md has the figures).

Bounds: no links, devices or sparse files, no name that leads out, no name twice, no archive in
an archive; so many members, so deep, so many bytes, and not more than what compression of weights
explains. What breaks a bound is refused as a whole.

Files that are zips but formats of their own (`.npz`, `.keras`, PyTorch's) are not archives here.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
    UsageError,
)
from ..names import near
from ..registry import Format, Location
from ..sources import FileSource, Source
from ..tensors import TensorDict
from .messages import MemorySource
from .tar_archive import (
    BLOCK,
    CHUNK_BYTES,
    GZIP_MAGIC,
    Entry,
    FileStream,
    GzipStream,
    is_tar_header,
    read_tar,
)
from .unpacking import TRUST_HINT, Bounds, Unpacker, parts_of
from .zip_archive import Member, MemberStream, read_members

__all__ = [
    "SEPARATOR",
    "Opener",
    "archive_kind",
    "open_archive",
    "split_inner",
    "unpacked",
]

SEPARATOR = "::"
ZIP_MAGIC = b"PK\x03\x04"
SHOWN = 20  # models in a message

# Members that make a zip another format: of Keras 3, and of PyTorch.
_KERAS = frozenset({"config.json", "metadata.json"})
_PYTORCH = "data.pkl"
_SYMLINK, _KINDS = 0o120000, 0o170000  # sys/stat.h, S_IFLNK and S_IFMT


class Opener(NamedTuple):
    """What of the registry is needed: who claims a location, and opening it."""

    claims: Callable[[Location], list[Format]]
    open: Callable[[Location], TensorDict]


def split_inner(path: str) -> tuple[str, str] | None:
    """Return archive and inner path of `archive.zip::inner/path`, None if it is no such path."""
    if SEPARATOR not in path or os.path.lexists(path):
        return None
    archive, _, inner = path.partition(SEPARATOR)
    return (archive, inner) if Path(archive).is_file() else None


def archive_kind(location: Location) -> str | None:
    """Return `zip`, `tar` or `tar.gz`, None for everything else."""
    head = location.head
    if head.startswith(ZIP_MAGIC):
        return "zip"
    if is_tar_header(head[:BLOCK]):
        return "tar"
    if head.startswith(GZIP_MAGIC):
        source = FileSource(location.path)
        try:
            return "tar.gz" if is_tar_header(GzipStream(source).read(BLOCK)) else None
        except ConvertError:
            return None
        finally:
            source.close()
    return None


def open_archive(location: Location, opener: Opener, inner: str = "") -> TensorDict | None:
    """Open the model in an archive; None if the location is no archive.

    Args:
        location: the file.
        opener: the registry's own.
        inner: path of the model inside; needed where there are several.

    Raises:
        UsageError: there are several models, or the inner path cannot be one.
        NotRecognisedError: there is no model, or not at the inner path.
        CorruptFileError: the archive, or the model in it, is damaged.
        UnsafeFileError: the archive breaks a bound.
        TargetError: the disk is full.
    """
    kind = archive_kind(location)
    if kind is None:
        return None
    archive = _Archive(location.path, kind)
    try:
        if archive.is_other_format():
            return None
        return archive.open(opener, inner.strip("/"))
    except ConvertError as error:
        archive.close()
        raise archive.seen_from_outside(error) from None
    except BaseException:
        archive.close()
        raise


def unpacked(tensors: TensorDict) -> tuple[Path, Callable[[str], str]] | None:
    """Return where the model lies that was opened out of an archive; None for all others.

    Returns:
        Its place, which is there until the tensors are closed, and what gives a text the paths
        inside the archive instead of those of that place.
    """
    for source in tensors.sources:
        if isinstance(source, _Archive) and source.place is not None:
            return source.place, source.seen
    return None


class _Archive(Source):
    """An archive and the folder it is unpacked to; closing removes the folder."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self._kind = kind
        self._source = FileSource(path)
        self._members = self._read_members() if kind == "zip" else []
        self._folder: Path | None = None
        self._unpacked_to = ""
        self.place: Path | None = None  # of the model, once it was opened
        self._process = os.getpid()

    @property
    def size(self) -> int:
        """Length of the archive in bytes."""
        return self._source.size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Read the archive itself."""
        self._source.read_into(offset, target)

    def close(self) -> None:
        """Remove the folder; in a forked child it is the parent's."""
        self._source.close()
        folder, self._folder = self._folder, None
        if folder and os.getpid() == self._process:
            shutil.rmtree(folder, ignore_errors=True)
            atexit.unregister(self.close)

    def _read_members(self) -> list[Member]:
        try:
            return read_members(self._source)
        except CorruptFileError as error:
            self._source.close()
            if error.path is None:
                error.path = str(self.path)
                error.args = (error.message,)
            raise

    def is_other_format(self) -> bool:
        """Tell whether it is a format that happens to be a zip."""
        names = {member.name for member in self._members}
        other = names >= _KERAS or any(name.rpartition("/")[2] == _PYTORCH for name in names)
        if other:
            self._source.close()
        return other

    # Opening what is inside

    def open(self, opener: Opener, inner: str) -> TensorDict:
        if inner != "/".join(parts_of(inner)):
            raise UsageError(
                "path inside the archive", expected="names and single slashes", got=f"`{inner}`"
            )
        wanted = self._wanted(inner) if inner else ""
        self._folder = Path(tempfile.mkdtemp(prefix="tensorferry-"))
        self._unpacked_to = str(self._folder)
        atexit.register(self.close)
        unpacker = Unpacker(self._folder, self.size, wanted)
        for entry, data in self._entries():
            unpacker.put(entry, data)
        self._source.close()
        place = self._folder / inner
        if place.is_dir() and not (inner and opener.claims(Location(place))):
            place = self._only_model(place, opener)
        tensors = self._open_at(place, opener)
        self.place = place
        for source in tensors.sources:  # so that what goes wrong in reading names it too
            if isinstance(source, FileSource | MemorySource):  # the others ask these
                source.path = Path(self.seen(str(source.path)))
        return replace(
            tensors,
            summary=f"{tensors.summary}, in a {self._kind} archive",
            broken={n: self.seen_from_outside(e) for n, e in tensors.broken.items()},
            notes=tuple(replace(note, text=self.seen(note.text)) for note in tensors.notes),
            details={
                **{name: self._seen_in(value) for name, value in tensors.details.items()},
                "archive": {"kind": self._kind, "inner": self._inner(place)},
            },
            sources=(*tensors.sources, self),
        )

    def _entries(self) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        if self._kind == "zip":
            for member in self._members:
                folder = member.name.endswith("/")
                yield Entry(member.name, member.size, folder), self._inflated(member)
            return
        plain = self._kind == "tar"
        yield from read_tar(FileStream(self._source) if plain else GzipStream(self._source))

    def _inflated(self, member: Member) -> Iterator[bytes]:
        if member.mode & _KINDS == _SYMLINK:
            raise UnsafeFileError(
                "is a symbolic link, which no model needs",
                where=f"member `{member.name}`", hint=TRUST_HINT,
            )  # fmt: skip
        stream = MemberStream(self._source, member, verify=True)
        for at in range(0, member.size, CHUNK_BYTES):
            yield stream.read(min(CHUNK_BYTES, member.size - at))
        stream.finish()

    def _wanted(self, inner: str) -> str:
        """Return the folder to unpack: the inner path itself, or the one that it lies in.

        What lies beside a file may belong to it: shards, an index, the folder `variables`.
        """
        if SEPARATOR in inner:
            raise _archive_inside(inner.partition(SEPARATOR)[0])
        bounds = Bounds(self.size)
        names = {"/".join(bounds.check(entry)) for entry, _ in self._entries()}
        if any(name.startswith(f"{inner}/") for name in names):
            return inner
        # A checkpoint prefix is no member, but its members begin with it.
        if not any(name.startswith(inner) for name in names):
            hint = near(inner, sorted(names))
            raise NotRecognisedError(f"holds nothing called `{inner}`", hint=hint)
        return inner.rpartition("/")[0]

    def _open_at(self, place: Path, opener: Opener) -> TensorDict:
        try:
            return opener.open(Location(place))
        except NotRecognisedError:
            if archive_kind(Location(place)):
                raise _archive_inside(self._inner(place)) from None
            raise

    def _only_model(self, folder: Path, opener: Opener) -> Path:
        found = _models(folder, opener)
        if len(found) == 1:
            return found[0]
        if found:
            names = [self._inner(path) for path in found]
            shown = [f"`{self.path.name}{SEPARATOR}{name}`" for name in names[:SHOWN]]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UsageError(
                f"holds {len(names)} models", hint=f"choose one: {', '.join(shown)}{more}"
            )
        inside = _archive_in(folder)
        if inside:
            raise _archive_inside(self._inner(inside))
        raise NotRecognisedError(
            f"a {self._kind} archive with no model in it", hint="unpack it to see what is in it"
        )

    def _inner(self, place: Path) -> str:
        return str(place.relative_to(self._unpacked_to))

    def seen(self, text: str) -> str:
        """Return a text with paths inside the archive instead of those in the folder."""
        folder = self._unpacked_to
        if not folder:
            return text
        return text.replace(f"{folder}/", f"{self.path}{SEPARATOR}").replace(folder, str(self.path))

    def _seen_in(self, value: object) -> object:
        if isinstance(value, list):
            return [self._seen_in(each) for each in value]
        return self.seen(value) if isinstance(value, str) else value

    def seen_from_outside(self, error: ConvertError) -> ConvertError:
        """Return the error with paths inside the archive instead of those in the folder."""
        error.path = str(self.path) if error.path is None else self.seen(error.path)
        error.hint = error.hint and self.seen(error.hint)
        error.args = (error.message,)
        return error


# What was unpacked


def _models(root: Path, opener: Opener) -> list[Path]:
    """Return the models below a folder: folders and files that a format claims.

    A folder stands for those of its files that are of the same format; what it reads when it is
    opened, such as `variables` of a SavedModel, is part of it.
    """
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        place = Path(folder)
        own = {each.name for each in opener.claims(Location(place))}
        if own:
            found.append(place)
        for name in sorted(files):
            claims = {each.name for each in opener.claims(Location(place / name))}
            if claims and not claims & own:
                found.append(place / name)
    for whole in [each for each in found if each.is_dir()] if len(found) > 1 else []:
        if whole in found:
            parts = _parts_of_model(whole, opener)
            found = [each for each in found if not parts & {each, *each.parents}]
    return sorted(found)


def _parts_of_model(whole: Path, opener: Opener) -> set[Path]:
    """Return the files that a model in a folder reads, and the folders below in which they lie."""
    try:
        with opener.open(Location(whole)) as tensors:
            files = [source.path for source in tensors.sources]
    except ConvertError:  # opening it says so, if it is the one
        return set()
    below = [path for file in files for path in (file, *file.parents) if whole in path.parents]
    return set(below)


def _archive_in(root: Path) -> Path | None:
    files = (Path(folder) / name for folder, _, names in os.walk(root) for name in sorted(names))
    return next((each for each in files if archive_kind(Location(each))), None)


def _archive_inside(name: str) -> NotRecognisedError:
    return NotRecognisedError(
        f"holds another archive, `{name}`, and archives in archives are not opened",
        hint="unpack the outer one and point at the inner one",
    )
