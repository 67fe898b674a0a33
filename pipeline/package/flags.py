"""The flags of a package as its manifest records them, and taken from there for a rebuild.

    "flags": {"version": 1, "convert": {"version": 1, "weights_only": true}, "variants": ["bf16"]}

Only what differs from the defaults is there. Of files that flags name, the manifest keeps name and
hash: where they lay is nobody's business. What they said, as fields and policy do, stands elsewhere
in the manifest; the template, the licence's text and updates have to be given again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...converters.errors import CorruptFileError, NotRecognisedError, UsageError
from ..options import ConvertOptions
from ..recorded import recorded_flags, with_flags
from .options import PackageOptions
from .weights import portable

__all__ = ["options_of", "package_flags"]

VERSION = 1
_TEXTS = ("name", "version", "licence")
_FILES = {"template": "--template", "licence_file": "--license-file"}
_READ = ("fields", "policy")  # their content is in the manifest


def package_flags(options: PackageOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults as JSON values."""
    flags: dict[str, Any] = {
        "version": VERSION,
        "convert": recorded_flags(portable(options.convert)),
    }
    if options.variants:
        flags["variants"] = list(options.variants)
    for name in _TEXTS:
        if getattr(options, name):
            flags["model_version" if name == "version" else name] = getattr(options, name)
    for name in (*_FILES, *_READ):
        path = getattr(options, name)
        if path is not None:
            flags[name] = {"name": path.name, "sha256": _sha256(path)}
    if options.kitfile:
        flags["kitfile"] = True
    return flags


def options_of(flags: Mapping[str, Any], again: PackageOptions) -> PackageOptions:
    """Return the options that a manifest records.

    Args:
        flags: as the manifest has them.
        again: has the files that were named once more.

    Raises:
        CorruptFileError: a flag is unknown, or not of its type.
        UsageError: a file is needed and was not named, or is another one.
    """
    left = dict(flags)
    if left.pop("version", None) != VERSION:
        raise CorruptFileError("flags", where="version", expected=VERSION, got=flags.get("version"))
    convert = left.pop("convert", {"version": VERSION})
    if not isinstance(convert, dict) or convert.get("version") != VERSION:
        raise CorruptFileError("flags", where="convert: version", expected=VERSION)
    plain = {key: value for key, value in convert.items() if key != "version"}
    options = PackageOptions(
        convert=_with_updates(with_flags(ConvertOptions(), plain, "flags: convert"), again),
        variants=tuple(_texts(left.pop("variants", []), "variants")),
        kitfile=left.pop("kitfile", False) is True,
    )
    texts = {name: left.pop("model_version" if name == "version" else name, "") for name in _TEXTS}
    _texts(list(texts.values()), "texts")
    files: dict[str, Any] = {
        name: _same_file(left.pop(name), getattr(again, name), flag)
        for name, flag in _FILES.items()
        if name in left
    }
    for name in _READ:
        left.pop(name, None)
    if left:
        raise CorruptFileError(f"`{next(iter(left))[:40]}` is unknown", where="flags")
    return replace(options, **texts, **files)


def _with_updates(options: ConvertOptions, again: PackageOptions) -> ConvertOptions:
    wanted = [str(each) for each in options.updates]
    got = [Path(each).name for each in again.convert.updates]
    if wanted != got:
        raise UsageError(
            "the package was made with updates of its weights",
            expected=", ".join(f"--update {each}" for each in wanted) or "none",
            got=", ".join(got) or "none",
        )
    write = replace(options.write, overwrite=False)
    return replace(
        options, updates=again.convert.updates, read=replace(
            options.read, endpoint_url=again.convert.read.endpoint_url
        ), write=write, jobs=again.convert.jobs, dry_run=False, report=None, digest_file=None,
    )  # fmt: skip


def _same_file(recorded: Any, path: Path | None, flag: str) -> Path:
    """Return the file that a flag names again; it has to be the very one."""
    if not isinstance(recorded, dict) or not isinstance(recorded.get("sha256"), str):
        raise CorruptFileError("flags", where=flag, expected="name and hash of a file")
    if path is None:
        raise UsageError(
            "the package was made with a file that it does not hold",
            hint=f"name it: {flag} {str(recorded.get('name'))[:80]}",
        )
    found = _sha256(path)
    if found != recorded["sha256"]:
        raise UsageError(
            "is not the file that the package was made with",
            path=path, expected=recorded["sha256"], got=found,
        )  # fmt: skip
    return path


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise NotRecognisedError(f"cannot be opened: {error.strerror}", path=path) from error


def _texts(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or any(type(each) is not str for each in values):
        raise CorruptFileError("flags", where=where, expected="texts", got=str(values)[:40])
    return values
