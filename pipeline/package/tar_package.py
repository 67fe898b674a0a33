"""A package as a tar archive of which every byte follows from its files and one time.

Members lie at the top, sorted by path, without folders, owners or names of users, with the mode
0644 and the time of the manifest's `created`. Names that ustar cannot hold, and sizes from 8 GiB
on, get a pax header (POSIX.1-2001), which holds nothing else.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from ...converters.staging import target_error

__all__ = ["write_tar"]

MODE = 0o644


def write_tar(folder: Path, target: Path, created: int) -> None:
    """Write all files of a folder into an archive, one at a time.

    Args:
        folder: of the package.
        target: the archive to make.
        created: time of all members, in seconds since 1970.

    Raises:
        TargetError: the disk does not take it.
    """
    try:
        with tarfile.open(target, "x", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                _add(archive, path, path.relative_to(folder).as_posix(), created)
    except OSError as error:
        raise target_error(target, error) from error


def _add(archive: tarfile.TarFile, path: Path, name: str, created: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = path.stat().st_size, created, MODE
    with path.open("rb") as file:
        archive.addfile(entry, file)
