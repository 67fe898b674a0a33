"""What lies beside the weights of a Keras model: config, metadata and assets, for its writers.

Nothing is read before it is asked for. What is deflated goes into a temporary file then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import UnsafeFileError
from ..sources import FileSource, Source
from .windows import WindowSource, unpack
from .zip_archive import STORED, Member

__all__ = ["ASSETS", "CONFIG", "METADATA", "of_archive", "of_folder"]

CONFIG, METADATA, ASSETS = "config.json", "metadata.json", "assets/"
MAX_ASSETS = 10_000  # a vocabulary or two for each layer that has one


class MemberSource(Source):
    """A member of a zip archive; one that is deflated is unpacked when it is first read."""

    def __init__(self, archive: Source, member: Member, *, verify: bool) -> None:
        self._archive = archive
        self._member = member
        self._verify = verify
        self._inner: Source | None = None
        if member.method == STORED:
            self._inner = WindowSource(archive, member.data, member.size)

    @property
    def path(self) -> Path:  # type: ignore[override]
        """What messages call the archive."""
        return self._archive.path

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._member.size

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from byte `offset` on."""
        if self._inner is None:
            self._inner = unpack(self._archive, self._member, verify=self._verify)
        self._inner.read_into(offset, target)

    def close(self) -> None:
        """Let go of what was unpacked."""
        if self._inner is not None:
            self._inner.close()


def of_archive(archive: Source, members: Iterable[Member], *, verify: bool) -> dict[str, Source]:
    """Return the members beside the weights by name.

    Raises:
        UnsafeFileError: there are more assets than any model has.
    """
    return _checked(
        {
            member.name: MemberSource(archive, member, verify=verify)
            for member in members
            if member.name in (CONFIG, METADATA) or _is_asset(member.name)
        },
        archive.path,
    )


def of_folder(folder: Path) -> dict[str, Source]:
    """Return the files beside the weights by their paths in the folder.

    Raises:
        UnsafeFileError: there are more assets than any model has.
    """
    paths = [folder / CONFIG, folder / METADATA]
    for above, _, names in os.walk(folder / ASSETS):
        paths += [Path(above) / name for name in names]
        if len(paths) > MAX_ASSETS + 2:
            break
    found: dict[str, Source] = {
        path.relative_to(folder).as_posix(): FileSource(path)
        for path in sorted(paths)
        if path.is_file()
    }
    return _checked(found, folder)


def _is_asset(name: str) -> bool:
    return name.startswith(ASSETS) and not name.endswith("/")


def _checked(found: dict[str, Source], path: Path) -> dict[str, Source]:
    if len(found) > MAX_ASSETS:
        raise UnsafeFileError(
            "number of assets", path=path, expected=f"at most {MAX_ASSETS}", got=len(found)
        )
    return found
