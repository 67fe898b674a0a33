"""The flags of a conversion as JSON: written into its report, and taken from there by `verify`.

    "flags": {"version": 1, "exclude": ["*/Adam*"], "read": {"step": 20}, …}

Only what differs from the defaults is there, under the names of `ConvertOptions`. A report that is
read may come from anybody, so every field has to be known, and of its type.
"""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from ..converters.errors import CorruptFileError
from .options import ConvertOptions
from .own_json import own_json

__all__ = ["Recorded", "read_report", "recorded_flags", "with_flags"]

Options = TypeVar("Options")

VERSION = 1
MAX_BYTES = 1 << 30  # a report has some hundred bytes for each tensor


class Recorded(NamedTuple):
    """What `verify` takes from a report.

    Attributes:
        options: how it was converted.
        format: name of the format that was written.
    """

    options: ConvertOptions
    format: str


def recorded_flags(options: ConvertOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults as JSON values."""
    return {"version": VERSION, **_given(options)}


def _given(options: Any) -> dict[str, Any]:
    plain = type(options)()
    both = ((each.name, getattr(options, each.name)) for each in fields(options))
    return {name: _json(value) for name, value in both if value != getattr(plain, name)}


def _json(value: Any) -> Any:
    if is_dataclass(value):
        return _given(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, frozenset):
        return sorted(value)
    return [_json(each) for each in value] if isinstance(value, tuple) else value


def read_report(path: Path) -> Recorded:
    """Read what a report says of how it was converted.

    Raises:
        NotRecognisedError: there is no such file.
        CorruptFileError: it is no report, or one without flags; with the place.
    """
    with own_json(path, MAX_BYTES) as content:
        return _recorded(content)


def _recorded(content: object) -> Recorded:
    report = _typed(dict[str, object], content, "the report")
    target = _typed(dict[str, object], report.get("target"), "target")
    format = _typed(str, target.get("format"), "target: format")
    if "flags" not in report:
        raise CorruptFileError(
            "has no flags", where="the report",
            hint="an older version wrote it: give the flags of the conversion instead",
        )  # fmt: skip
    flags = {**_typed(dict[str, object], report["flags"], "flags")}
    version = flags.pop("version", None)
    if version != VERSION:
        raise CorruptFileError("flags", where="version", expected=VERSION, got=repr(version)[:40])
    return Recorded(_typed(ConvertOptions, flags, "flags"), format)


def with_flags(options: Options, content: object, where: str) -> Options:
    """Return options with those replaced that JSON values name.

    Args:
        options: of any kind, such as `ConvertOptions`.
        content: what was read; names and types are checked.
        where: the place to name in an error.

    Raises:
        CorruptFileError: a name is unknown, or a value is not of its type.
    """
    hints = get_type_hints(type(options))
    given: dict[str, Any] = {}
    for name, value in _typed(dict[str, object], content, where).items():
        if name not in hints:
            raise CorruptFileError(f"`{name[:40]}` is unknown", where=where)
        before, place = getattr(options, name), f"{where}: {name}"
        is_record = is_dataclass(before) and not isinstance(before, type)
        if is_record:
            given[name] = with_flags(before, value, place)
        else:
            given[name] = _typed(hints[name], value, place)
    return replace(options, **given)  # type: ignore[type-var]


def _typed(wanted: Any, value: Any, where: str) -> Any:
    """Return a JSON value as what an annotation says it is.

    Raises:
        CorruptFileError: it is something else.
    """
    kind, inner = get_origin(wanted) or wanted, get_args(wanted)
    if kind in (Union, UnionType):
        if value is None and type(None) in inner:
            return None
        return _typed(Path if Path in inner else inner[0], value, where)
    if is_dataclass(kind):
        return with_flags(wanted(), value, where)
    if kind is Literal:
        return value if type(value) is str and value in inner else _wrong(inner, value, where)
    if kind in (tuple, frozenset):
        return kind(_typed(inner[0], each, where) for each in _typed(list, value, where))
    if kind is Path:
        return Path(_typed(str, value, where))
    return value if type(value) is kind else _wrong(kind.__name__, value, where)


def _wrong(expected: object, value: object, where: str) -> Any:
    raise CorruptFileError("JSON", where=where, expected=expected, got=repr(value)[:60])
