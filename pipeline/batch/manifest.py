"""A list of models to convert, instead of a folder to look through: TOML, CSV or JSON lines.

    [[model]]                          source,target,flags
    source = "runs/a/model.ckpt-30"    runs/a/model.ckpt-30,a.safetensors,
    target = "a.safetensors"
    flags = { dtypes = ["bf16"] }      {"source": "b.h5", "flags": {"dtypes": ["bf16"]}}

Sources are relative to the list's folder, targets to that of the batch; both may be URLs, and so
may the list. Flags are called as in a conversion's report (`recorded.py`) and count before those of
the command line; recipes are named by their files, relative to the list's folder too.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ...converters.errors import CorruptFileError, NotRecognisedError, UsageError
from ..options import ConvertOptions
from ..recorded import with_flags
from .places import is_url, joined

__all__ = ["ENDINGS", "Entry", "read_manifest"]

ENDINGS = (".toml", ".csv", ".jsonl")
MAX_BYTES = 1 << 30
_FIELDS = {"source", "target", "flags"}
# What the batch itself decides, or what one model may not say of the others' files.
OF_THE_BATCH = {
    "digest_file", "digests", "dry_run", "fsync", "jobs", "like", "report", "strict_like",
    "verify", "verify_sample",
}  # fmt: skip


class Entry(NamedTuple):
    """One model of a list.

    Attributes:
        source: what to open.
        target: where it goes, relative to the batch's folder; None to name it by the template.
        flags: how to convert it.
    """

    source: Path
    target: str | None
    flags: ConvertOptions


def read_manifest(path: Path, options: ConvertOptions) -> Iterator[Entry]:
    """Yield the models of a list, in its order.

    Args:
        path: the list.
        options: how to convert those of which it says nothing else.

    Raises:
        UsageError: its ending is none of ours.
        NotRecognisedError: it cannot be read.
        CorruptFileError: it is no list of models; with the place.
    """
    readers = {".toml": _toml, ".csv": _csv, ".jsonl": _lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            "is no list of models", path=path, expected=f"a folder, or one of {', '.join(ENDINGS)}"
        )
    try:
        text = _content(path, options.read.endpoint_url).decode()
    except OSError as error:
        raise NotRecognisedError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"is no UTF-8: {error.reason}", path=path) from error
    try:
        for where, row in reader(text):
            yield _entry(row, where, path.parent, options)
    except CorruptFileError as error:
        error.path = str(path)
        error.args = (error.message,)
        raise


def _content(path: Path, endpoint: str | None) -> bytes:
    if not is_url(path):
        if path.stat().st_size > MAX_BYTES:
            raise CorruptFileError("longer than any list of models", path=path)
        return path.read_bytes()
    from ...converters.remote import open_place

    place = open_place(str(path), endpoint)
    listed = place.store.head(place.key)
    if listed is None:
        raise NotRecognisedError("does not exist", path=path)
    if listed.size > MAX_BYTES:
        raise CorruptFileError("longer than any list of models", path=path)
    return bytes(place.store.get(listed, 0, listed.size)) if listed.size else b""


def _toml(text: str) -> Iterator[tuple[str, Any]]:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CorruptFileError(f"TOML: {error}") from error
    models = content.pop("model", [])
    if content or not isinstance(models, list):
        raise CorruptFileError("a list of models has `[[model]]` alone", got=", ".join(content))
    yield from ((f"model {number}", row) for number, row in enumerate(models, 1))


def _csv(text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            given = {name: value for name, value in row.items() if value not in (None, "")}
            if "flags" in given:
                given["flags"] = _json(given["flags"], where)
            yield where, given
    except csv.Error as error:
        raise CorruptFileError(f"CSV: {error}", where=f"line {reader.line_num}") from error


def _lines(text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"line {number}", _json(line, f"line {number}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"JSON: {error}", where=where) from error


def _entry(row: Any, where: str, folder: Path, options: ConvertOptions) -> Entry:
    if not isinstance(row, dict) or not row.keys() <= _FIELDS:
        got = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise CorruptFileError("a model", where=where, expected=", ".join(sorted(_FIELDS)), got=got)
    source, target = row.get("source"), row.get("target")
    if not isinstance(source, str) or not source:
        raise CorruptFileError("a model", where=where, expected="a `source`", got=repr(source))
    if target is not None and not isinstance(target, str):
        raise CorruptFileError("`target`", where=where, expected="a path", got=repr(target))
    flags = row.get("flags", {})
    whole = flags.keys() & OF_THE_BATCH if isinstance(flags, dict) else ()
    if whole:
        raise CorruptFileError(f"`{min(whole)}` is for the whole batch", where=f"{where}: flags")
    found = with_flags(options, flags, f"{where}: flags")
    if isinstance(flags, dict) and "recipes" in flags:
        found = replace(found, recipes=tuple(_recipe(each, folder) for each in found.recipes))
    return Entry(joined(folder, source), target, found)


def _recipe(text: str, folder: Path) -> str:
    """Return a recipe that a list names by its file, relative to the list's folder, or holds."""
    from ..recipe.builtin import BUILTIN
    from ..recipe.printing import recipe_text
    from ..recipe.read import read_recipe

    if "\n" in text:
        return text
    return recipe_text(read_recipe(text if text.startswith(BUILTIN) else folder / text))
