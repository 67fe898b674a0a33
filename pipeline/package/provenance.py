"""Provenance: an in-toto statement of what a package was made from, and how.

    _type          https://in-toto.io/Statement/v1
    subject        every file with its SHA-256
    predicateType  https://slsa.dev/provenance/v1
    predicate      buildDefinition  what was asked for, and the files of the source
                   runDetails       who made it, and when

Specified by in-toto, Attestation Framework v1.0 (spec/v1/statement.md), and SLSA v1.0,
Provenance. The statement is in the package as it is; whoever wants an envelope puts it into one.
It is what the program says of itself, signed by whoever signs the package. No build platform
vouches for it, so by itself it reaches SLSA level 1.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ...converters.errors import printable
from .records import FileKind, FileRecord, PackageFacts, Variant

__all__ = ["BUILD_TYPE", "provenance_text"]

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:tensorferry:package:v1"  # the user guide says what its parameters are
BUILDER = "urn:tensorferry:command-line"


def provenance_text(facts: PackageFacts) -> str:
    """Return the statement as JSON; the same facts give the same text."""
    subjects = [each for each in facts.files if each.kind is not FileKind.PROVENANCE]
    statement = {
        "_type": STATEMENT,
        "subject": _resources(subjects),
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _parameters(facts),
                "resolvedDependencies": _resources(facts.source.files),
            },
            "runDetails": {"builder": _builder(facts), "metadata": _metadata(facts, subjects)},
        },
    }
    return json.dumps(statement, indent=1, allow_nan=False) + "\n"


def _resources(files: Iterable[FileRecord]) -> list[dict[str, Any]]:
    return [{"name": printable(each.path), "digest": {"sha256": each.sha256}} for each in files]


def _parameters(facts: PackageFacts) -> dict[str, Any]:
    """Return all that whoever called the program chose."""
    return {
        "source": printable(facts.source.name),
        "name": facts.name,
        "version": facts.version,
        "license": facts.licence,
        "variants": [_variant(each) for each in facts.variants],
        "fields": dict(facts.fields),
        "policy": dict(facts.policy),
    }


def _variant(variant: Variant) -> dict[str, Any]:
    return {"name": variant.name, "casts": list(variant.casts), "flags": dict(variant.flags)}


def _builder(facts: PackageFacts) -> dict[str, Any]:
    tool, _, version = facts.tool.partition(" ")
    return {"id": BUILDER, "version": {tool: version}}


def _metadata(facts: PackageFacts, subjects: Iterable[FileRecord]) -> dict[str, str]:
    """Return an identity of the run and its time, both of which are those of what was made."""
    made = "".join(f"{each.sha256}  {each.path}\n" for each in subjects)
    moment = datetime.fromtimestamp(facts.created, UTC)
    return {
        "invocationId": uuid.uuid5(uuid.NAMESPACE_URL, f"{BUILD_TYPE}\n{made}").urn,
        "finishedOn": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
