"""The front matter of a card: what the Hub reads of it.

Keys and names of licences are those of the Hub's documentation of model cards. A licence that is
not on its list is `other`, with its SPDX expression as `license_name`.
"""

from __future__ import annotations

from typing import Any

from .records import FileKind, PackageFacts

__all__ = ["front_matter"]

_LICENCES = frozenset({
    "apache-2.0", "mit", "bsl-1.0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "agpl-3.0",
    "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "isc", "mpl-2.0", "ms-pl", "ncsa", "ofl-1.1",
    "osl-3.0", "postgresql", "unlicense", "wtfpl", "zlib", "epl-1.0", "epl-2.0", "eupl-1.1",
    "eupl-1.2", "afl-3.0", "artistic-2.0", "ecl-2.0",
})  # fmt: skip
_AS_THEY_ARE = ("library_name", "pipeline_tag", "language", "base_model", "datasets")


def front_matter(facts: PackageFacts) -> dict[str, Any]:
    """Return keys and values of the front matter, in order."""
    fields = facts.fields
    content = _licence(facts)
    content.update({key: fields[key] for key in _AS_THEY_ARE if key in fields})
    content["tags"] = list(dict.fromkeys(["safetensors", *fields.get("tags", ())]))
    if fields.get("metrics"):
        content["metrics"] = list(fields["metrics"])
    return content


def _licence(facts: PackageFacts) -> dict[str, Any]:
    if not facts.licence:
        return {}
    # The Hub's names do not say whether later versions count.
    name = facts.licence.lower().removesuffix("-only").removesuffix("-or-later")
    if name in _LICENCES:
        return {"license": name}
    link = next((each.path for each in facts.files if each.kind is FileKind.LICENCE), None)
    other = {"license": "other", "license_name": facts.licence}
    return {**other, "license_link": link} if link else other
