"""The files of a package, wherever it lies: in a folder, a tar archive or an OCI layout.

Nothing is unpacked: a file is a byte range of another. Where a reader wants files by their names,
it gets a folder of empty ones that stand for these ranges (`converters/mounts.py`).
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...converters.containers.archives import archive_kind
from ...converters.containers.tar_archive import FileStream, read_tar
from ...converters.containers.unpacking import Bounds
from ...converters.containers.windows import WindowSource
from ...converters.errors import CorruptFileError, NotRecognisedError
from ...converters.mounts import mount, unmount
from ...converters.registry import Location
from ...converters.sources import FileSource, Source
from .oci_read import is_oci, read_oci

__all__ = ["PackageView", "opened_view"]

MAX_FILES = 100_000


@dataclass
class PackageView:
    """What lies where.

    Attributes:
        path: what the user pointed at.
        files: by path inside of the package.
        odd: what is there and should not be, by path, with the reason.
        is_oci: whether it is an OCI layout, in which every file is listed already.
    """

    path: Path
    files: dict[str, Source] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    is_oci: bool = False

    def read(self, path: str, most: int) -> bytes:
        """Return a small file.

        Raises:
            CorruptFileError: it is larger than that.
        """
        source = self.files[path]
        if source.size > most:
            raise CorruptFileError("size", expected=f"at most {most} bytes", got=source.size)
        return source.read(0, source.size)

    @contextmanager
    def mounted(self, paths: set[str]) -> Iterator[Path]:
        """Give a folder in which some of the files seem to lie under their names."""
        folder = Path(tempfile.mkdtemp(prefix="tensorferry-")).resolve()
        shown: dict[str, _Shown] = {}
        try:
            for path in sorted(paths):
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.touch()
                shown[str(place)] = _Shown(self.path / path, self.files[path])
            mount(folder, shown)
            yield folder
        finally:
            unmount(folder)
            shutil.rmtree(folder, ignore_errors=True)


class _Shown:
    """A file that stands for a byte range."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path = path
        self.size = source.size
        self._source = source

    def read_into(self, offset: int, target: memoryview) -> None:
        self._source.read_into(offset, target)


@contextmanager
def opened_view(path: Path) -> Iterator[PackageView]:
    """Give the files of a package; all are closed at the end.

    Raises:
        NotRecognisedError: nothing is there, or it is no package.
        CorruptFileError: the archive or the layout is damaged; with its path.
    """
    view = PackageView(path)
    sources: list[Source] = []
    try:
        if path.is_dir():
            sources += _of_layout(view) if is_oci(path) else _of_folder(view)
        elif path.is_file() and archive_kind(Location(path)) == "tar":
            sources += _of_tar(view)
        else:
            what = "is no package" if path.exists() else "does not exist"
            raise NotRecognisedError(
                what, path=path, hint="a package is a folder, a .tar archive, or an OCI layout"
            )
        yield view
    finally:
        for source in sources:
            source.close()


def _of_folder(view: PackageView) -> Iterator[Source]:
    for name, entry in _entries(view.path, ""):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            view.odd[name] = "is a link"
        elif not stat.S_ISREG(mode):
            view.odd[name] = "is no regular file"
        elif mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
            view.odd[name] = f"has the mode {stat.S_IMODE(mode):04o}"
        source = FileSource(entry.path)
        if name not in view.odd or stat.S_ISREG(mode):
            view.files[name] = source
            yield source


def _entries(folder: Path, inside: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield everything below a folder but folders with something in them; links are not followed.

    Raises:
        NotRecognisedError: a folder cannot be listed, or there is more than any package has.
    """
    waiting, count = [(folder, inside)], 0
    while waiting:
        place, prefix = waiting.pop()
        try:
            entries = sorted(os.scandir(place), key=lambda each: each.name)
        except OSError as error:
            what = f"cannot be listed: {error.strerror}"
            raise NotRecognisedError(what, path=place) from error
        count += len(entries)
        if count > MAX_FILES:
            raise NotRecognisedError(
                "is no package", path=folder, expected=f"at most {MAX_FILES} files", got="more"
            )
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False) and any(Path(entry.path).iterdir()):
                waiting.append((Path(entry.path), f"{name}/"))
            else:
                yield name, entry


def _of_layout(view: PackageView) -> Iterator[Source]:
    view.is_oci = True
    for name, blob in read_oci(view.path).files.items():
        source = view.files[name] = FileSource(blob.path)
        yield source


def _of_tar(view: PackageView) -> Iterator[Source]:
    archive = FileSource(view.path)
    yield archive
    try:
        view.files.update(_members(archive))
    except CorruptFileError as error:
        if error.path is None:
            error.path = str(view.path)
            error.args = (error.message,)
        raise


def _members(archive: FileSource) -> Mapping[str, Source]:
    found: dict[str, Source] = {}
    stream, bounds = FileStream(archive), Bounds(archive.size)
    for entry, _ in read_tar(stream):
        parts = bounds.check(entry)
        if entry.folder:
            continue
        if stream.at + entry.size > archive.size:
            raise CorruptFileError(
                "ends early", where=f"member `{entry.name}`", expected=f"{entry.size} bytes",
                got=f"{archive.size - stream.at} bytes",
                hint="the archive is cut short; copy it again",
            )  # fmt: skip
        found["/".join(parts)] = WindowSource(archive, stream.at, entry.size)
    return found
