"""Build a package again from its source, and compare both byte by byte."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...converters.errors import CorruptFileError, NotRecognisedError
from ...converters.sources import Source
from ..convert import Listener
from .build import Given, build_package
from .flags import options_of
from .manifest_file import MAX_BYTES, Manifest, parse_manifest
from .options import PackageOptions
from .records import MANIFEST, SIGNATURE
from .verify import Problem
from .view import opened_view

__all__ = ["Rebuilt", "rebuild"]

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Rebuilt:
    """What came of building a package again.

    Attributes:
        problems: files that differ; empty where none does.
        files: number of files that were compared.
    """

    problems: tuple[Problem, ...]
    files: int

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "same": not self.problems,
            "files": self.files,
            "problems": [each._asdict() for each in self.problems],
        }


def rebuild(
    package: str | Path, source: str, again: PackageOptions, listener: Listener | None = None
) -> Rebuilt:
    """Build a package again, with the flags in its manifest, and compare all but the signature.

    Args:
        package: a folder, a tar archive or an OCI layout.
        source: what it is said to be made from.
        again: files that flags have named, which the manifest does not hold.
        listener: hears how building goes on.

    Raises:
        ConvertError: the package or the source cannot be read, or a file was not named again.
    """
    with (
        opened_view(Path(package)) as view,
        tempfile.TemporaryDirectory(prefix="tensorferry-") as folder,
    ):
        if MANIFEST not in view.files:
            raise NotRecognisedError("holds no package", path=package)
        manifest = _manifest(view.read(MANIFEST, MAX_BYTES), Path(package))
        facts = manifest.facts
        options = options_of(manifest.flags, again)
        names = facts.name, facts.source.name
        given = Given(facts.fields, facts.policy, facts.created, names, manifest.flags)
        made = Path(folder) / "package"
        build_package(source, made, options, listener, given)
        with opened_view(made) as other:
            mine = {path: each for path, each in view.files.items() if path != SIGNATURE}
            problems = tuple(_differing(mine, other.files))
            return Rebuilt(problems, len(mine))


def _manifest(text: bytes, package: Path) -> Manifest:
    try:
        return parse_manifest(text)
    except CorruptFileError as error:
        error.path = str(package / MANIFEST)
        error.args = (error.message,)
        raise


def _differing(mine: dict[str, Source], made: dict[str, Source]) -> Iterator[Problem]:
    for path in sorted(mine.keys() | made.keys()):
        if path not in made:
            yield Problem("extra", path, "the source gives no such file")
        elif path not in mine:
            yield Problem("missing", path, "the source gives it")
        else:
            got, expected = _sha256(mine[path]), _sha256(made[path])
            if got != expected:
                yield Problem("changed", path, f"sha256, expected {expected}, got {got}")


def _sha256(source: Source) -> str:
    state = hashlib.sha256()
    for at in range(0, source.size, READ_BYTES):
        state.update(source.read(at, min(READ_BYTES, source.size - at)))
    return state.hexdigest()
