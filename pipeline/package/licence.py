"""Licences: SPDX expressions, and the texts that lie beside a model.

A text is recognised by its title or by phrases that no other licence has; the list is that of the
licences that models come with. One that is not on it, or a file with several, is no guess: the
file is taken along, and the expression has to be given.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from ...converters.errors import UsageError
from .extra import require_extra

__all__ = ["FoundLicence", "licence_beside", "licence_of_text", "spdx"]

MAX_BYTES = 1 << 20
_NAMES = re.compile(r"(licen[cs]e|copying|unlicense)([-_.][\w.-]+)?", re.IGNORECASE)
_ENDINGS = {"", ".txt", ".md", ".rst"}
_TAG = re.compile(r"spdx-license-identifier: *([\w.+() -]+)", re.IGNORECASE)
_OWN = re.compile(r"(DocumentRef-[\w.-]+:)?LicenseRef-[\w.-]+")
HEAD = 600  # characters in which a licence says its title

# Titles, in the texts' own words. The text of a GNU licence alone grants no later version.
_TITLES = (
    (r"apache license,? version 2\.0", "Apache-2.0"),
    (r"mozilla public license,? version 2\.0", "MPL-2.0"),
    (r"gnu affero general public license,? version 3", "AGPL-3.0-only"),
    (r"gnu lesser general public license,? version 3", "LGPL-3.0-only"),
    (r"gnu lesser general public license,? version 2\.1", "LGPL-2.1-only"),
    (r"gnu library general public license,? version 2", "LGPL-2.0-only"),
    (r"gnu general public license,? version 3", "GPL-3.0-only"),
    (r"gnu general public license,? version 2", "GPL-2.0-only"),
    (r"attribution-noncommercial-sharealike 4\.0", "CC-BY-NC-SA-4.0"),
    (r"attribution-noncommercial-noderivatives 4\.0", "CC-BY-NC-ND-4.0"),
    (r"attribution-noncommercial 4\.0", "CC-BY-NC-4.0"),
    (r"attribution-sharealike 4\.0", "CC-BY-SA-4.0"),
    (r"attribution-noderivatives 4\.0", "CC-BY-ND-4.0"),
    (r"attribution 4\.0 international", "CC-BY-4.0"),
    (r"cc0 1\.0 universal", "CC0-1.0"),
)
# All of the first, and none of the second.
_PHRASES = (
    (
        ("permission is hereby granted, free of charge, to any person obtaining a copy",
         "permission notice shall be included in all copies"),
        (),
        "MIT",
    ),
    (
        ("redistributions of source code must retain", "redistributions in binary form must",
         "neither the name"),
        ("all advertising materials",),
        "BSD-3-Clause",
    ),
    (
        ("redistributions of source code must retain", "redistributions in binary form must"),
        ("neither the name", "all advertising materials", "may not be used to endorse"),
        "BSD-2-Clause",
    ),
    (("this is free and unencumbered software released into the public domain",), (), "Unlicense"),
)  # fmt: skip


class FoundLicence(NamedTuple):
    """What lies beside a model.

    Attributes:
        expression: SPDX identifier, empty where the text is not recognised.
        path: the file, None where there is none.
    """

    expression: str
    path: Path | None


def licence_beside(source: str) -> FoundLicence:
    """Look for the licence of a model in its folder.

    Args:
        source: what the user pointed at; beside a URL nothing is looked for.
    """
    if "://" in source:
        return FoundLicence("", None)
    path = Path(source.split("::")[0])
    folder = path if path.is_dir() else path.parent
    found = sorted(each for each in _entries(folder) if _is_licence(each))
    if not found:
        return FoundLicence("", None)
    known = [FoundLicence(licence_of_text(_text(each)), each) for each in found]
    return next((each for each in known if each.expression), known[0])


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a folder that may not be listed has no licence to show
        return []


def _is_licence(path: Path) -> bool:
    """Tell whether a file is called as licences are: `LICENSE`, `COPYING.md`, `LICENSE-MIT`."""
    match = _NAMES.fullmatch(path.name)
    if not match or not path.is_file():
        return False
    return path.suffix.lower() in _ENDINGS or (match[2] or "").startswith("-")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def licence_of_text(text: str) -> str:
    """Return the SPDX identifier of a licence's text, empty if it is not known."""
    tags = {match.strip() for match in _TAG.findall(text)}
    if len(tags) == 1 and len(text) < HEAD:  # a file that says nothing else
        return _quiet(tags.pop())
    plain = " ".join(re.sub(r"[#*=_>\"'`]+", " ", text.lower()).split())
    titles = {_title(plain[:HEAD])} - {""}
    phrases = {
        name
        for wanted, unwanted, name in _PHRASES
        if all(each in plain for each in wanted) and not any(each in plain for each in unwanted)
    }
    found = titles | phrases
    return found.pop() if len(found) == 1 else ""


def _title(head: str) -> str:
    """Return what the first title in a text stands for; others are licences that it mentions."""
    places = [
        (match.start(), order, name)
        for order, (pattern, name) in enumerate(_TITLES)
        if (match := re.search(pattern, head))
    ]
    return min(places)[2] if places else ""


def _quiet(text: str) -> str:
    try:
        return spdx(text)
    except UsageError:
        return ""


def spdx(text: str) -> str:
    """Return an SPDX expression in its usual spelling.

    Args:
        text: such as `mit`, `MIT OR Apache-2.0`, `LicenseRef-Acme`.

    Raises:
        UsageError: it is none, or the extra `package` is not installed.
    """
    require_extra()
    from license_expression import ExpressionError, get_spdx_licensing

    try:
        licensing = get_spdx_licensing()
        expression = licensing.parse(text)
        unknown = [each for each in licensing.unknown_license_keys(expression) if not _own(each)]
    except ExpressionError as error:
        raise _no_expression(text) from error
    if expression is None or unknown:
        raise _no_expression(text, *unknown)
    return str(expression.render())


def _own(key: Any) -> bool:
    return _OWN.fullmatch(str(key)) is not None


def _no_expression(text: str, *unknown: Any) -> UsageError:
    about = f": SPDX knows no `{unknown[0]}`" if unknown and str(unknown[0]) != text else ""
    return UsageError(
        f"`{text}` is no SPDX licence expression{about}",
        hint="say it as in `Apache-2.0` or `MIT OR Apache-2.0`; a licence of your own is called "
        "`LicenseRef-NAME`",
    )
