"""Policies: what a package has to fulfil before anything of it is written.

    [limit]                              [require]
    bytes = "2 GB"                       names = ["*/kernel"]
    parameters = 500_000_000             license = ["Apache-2.0", "MIT"]
    dtypes = ["float32", "bf16"]         digest = "model.digests.json"

    [forbid]                             [require.metrics.accuracy]
    nan = true                           minimum = 0.9
    infinity = true                      maximum = 1.0
    optimizer_state = true
    risks = true
    names = ["*debug*"]

All keys may be left out. Nothing of a policy is a default: what it does not say is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...converters.dtypes import DType
from ...converters.errors import UsageError
from ..casts import type_named
from ..digest_file import Digests, read_digests
from ..selection import REGEX
from .licence import spdx
from .strict_toml import checked, flag, number, quantity, read_toml, texts

__all__ = ["Bounds", "Policy", "WantedDigest", "read_policy"]

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Bounds(NamedTuple):
    """Which values a metric may have; None is no bound."""

    minimum: float | None = None
    maximum: float | None = None

    def json(self) -> dict[str, float]:
        """Return JSON values."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class WantedDigest(NamedTuple):
    """What the weights have to be.

    Attributes:
        model: digest of all tensors together.
        digests: of every tensor, where a digest file was given.
    """

    model: str
    digests: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Policy:
    """What a package has to fulfil; None and empty is: whatever.

    Attributes:
        max_bytes: of all tensors of a variant.
        max_parameters: elements of all tensors of a variant.
        dtypes: those that tensors may have.
        no_nan: no value that is not a number.
        no_infinity: no infinite value.
        no_optimizer_state: nothing that only training needs.
        no_risks: nothing that `check --security` finds worse than worth a look.
        forbidden: patterns that no name may match.
        required: patterns each of which some name has to match.
        licensed: there has to be a licence.
        licences: those that it may be; empty for any.
        digest: what the weights have to be, in the types of the source.
        metrics: by name, which have to be among the fields, and within which bounds.
    """

    max_bytes: int | None = None
    max_parameters: int | None = None
    dtypes: tuple[DType, ...] | None = None
    no_nan: bool = False
    no_infinity: bool = False
    no_optimizer_state: bool = False
    no_risks: bool = False
    forbidden: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    licensed: bool = False
    licences: tuple[str, ...] = ()
    digest: WantedDigest | None = None
    metrics: Mapping[str, Bounds] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Return what the policy asks for as JSON values, without what it leaves open."""
        limit: dict[str, Any] = {
            "bytes": self.max_bytes,
            "parameters": self.max_parameters,
            "dtypes": self.dtypes and [each.label for each in self.dtypes],
        }
        forbid: dict[str, Any] = {
            "nan": self.no_nan or None,
            "infinity": self.no_infinity or None,
            "optimizer_state": self.no_optimizer_state or None,
            "risks": self.no_risks or None,
            "names": list(self.forbidden) or None,
        }
        require: dict[str, Any] = {
            "names": list(self.required) or None,
            "license": list(self.licences) or self.licensed or None,
            "digest": self.digest and self.digest.model,
            "metrics": {name: each.json() for name, each in self.metrics.items()} or None,
        }
        tables = {"limit": limit, "forbid": forbid, "require": require}
        told = {
            name: {key: value for key, value in table.items() if value is not None}
            for name, table in tables.items()
        }
        return {name: table for name, table in told.items() if table}


def read_policy(path: Path) -> Policy:
    """Read a policy, and the digest file that it may name; nothing of a model.

    Raises:
        NotRecognisedError: it is not there.
        UsageError: it is no TOML, a key is unknown, or a value is not of its type.
        CorruptFileError: the digest file is none.
    """
    tables = {name: lambda value: value for name in ("limit", "forbid", "require")}
    content = checked(read_toml(path), tables, path)
    limit = checked(content.get("limit", {}), _LIMIT, path, "limit")
    forbid = checked(content.get("forbid", {}), _FORBID, path, "forbid")
    require = checked(content.get("require", {}), _REQUIRE, path, "require")
    licence = require.get("license", False)
    return Policy(
        max_bytes=limit.get("bytes"),
        max_parameters=limit.get("parameters"),
        dtypes=limit.get("dtypes"),
        no_nan=forbid.get("nan", False),
        no_infinity=forbid.get("infinity", False),
        no_optimizer_state=forbid.get("optimizer_state", False),
        no_risks=forbid.get("risks", False),
        forbidden=forbid.get("names", ()),
        required=require.get("names", ()),
        licensed=bool(licence),
        licences=licence if isinstance(licence, tuple) else (),
        digest=_wanted(require.get("digest"), path.parent),
        metrics={
            name: Bounds(**checked(bounds, _BOUNDS, path, f"require.metrics.{name}"))
            for name, bounds in require.get("metrics", {}).items()
        },
    )


def _wanted(text: str | None, folder: Path) -> WantedDigest | None:
    if text is None:
        return None
    if _DIGEST.fullmatch(text):
        return WantedDigest(text)
    found: Digests = read_digests(folder / text)
    return WantedDigest(found.model, found.digests)


# Checks of values


def _size(value: Any) -> int:
    """Take a number of bytes, or a text such as `2 GB`."""
    if not isinstance(value, str):
        return quantity(value)
    from typer import BadParameter

    from ..flags import parse_size

    try:
        return parse_size(value)
    except BadParameter as error:
        raise ValueError("a number of bytes, or a size such as `5GB` or `512MiB`") from error


def _dtypes(value: Any) -> tuple[DType, ...]:
    if not value:
        raise ValueError("a list of texts, one at least")
    return tuple(DType.named(each) or type_named(each) for each in texts(value))


def _patterns(value: Any) -> tuple[str, ...]:
    for each in texts(value):
        if not each.startswith(REGEX):
            continue
        try:
            re.compile(each.removeprefix(REGEX))
        except re.error as error:
            raise UsageError(f"`{each}` is no regular expression: {error}") from error
    return tuple(value)


def _licences(value: Any) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("true, or a list of SPDX expressions")
    return tuple(spdx(each) for each in texts(value))


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("64 hexadecimal digits, or the path of a digest file")
    return value


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a table")  # noqa: TRY004 - one error for all checks
    return value


_LIMIT = {"bytes": _size, "parameters": quantity, "dtypes": _dtypes}
_FORBID = {
    "nan": flag, "infinity": flag, "optimizer_state": flag, "risks": flag, "names": _patterns,
}  # fmt: skip
_REQUIRE = {"names": _patterns, "license": _licences, "digest": _digest, "metrics": _table}
_BOUNDS = {"minimum": number, "maximum": number}
