"""The bill of materials: CycloneDX 1.6 (ECMA-424) with the model, its files and its source.

The library writes all but the model card, for which it has no classes (docs/adr/0023); that is
added to the JSON it writes, and the tests validate the whole by the library's own schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...converters.errors import printable
from .extra import require_extra
from .records import FileKind, FileRecord, PackageFacts
from .signature_rows import signature_rows

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

__all__ = ["bom_text"]

# What a model is made of; the other files of a package are about it.
_MATERIALS = frozenset({FileKind.WEIGHTS, FileKind.INDEX, FileKind.CONFIG, FileKind.LICENCE})
MODEL = "model"  # reference of the model within the text


def bom_text(facts: PackageFacts) -> str:
    """Return the bill of materials as JSON; the same facts give the same text.

    Raises:
        UsageError: the extra `package` is not installed.
    """
    require_extra()
    from cyclonedx.output.json import JsonV1Dot6

    content = json.loads(JsonV1Dot6(_bom(facts)).output_as_string())
    content["metadata"]["component"]["modelCard"] = _model_card(facts)
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _bom(facts: PackageFacts) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    tool, _, version = facts.tool.partition(" ")
    made_by = Component(name=tool, version=version, type=ComponentType.APPLICATION, bom_ref="tool")
    files = [each for each in facts.files if each.kind in _MATERIALS]
    model = _model(facts, files)
    parts = [_file(each, "file") for each in files]
    bom = Bom(
        serial_number=_serial_number(facts, files),
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(facts.created, UTC),
            tools=ToolRepository(components=[made_by]),
            component=model,
        ),
        components=parts,
    )
    bom.register_dependency(model, parts)
    return bom


def _serial_number(facts: PackageFacts, files: Iterable[FileRecord]) -> uuid.UUID:
    held = [facts.name, facts.version, *(each.digest for each in facts.variants)]
    held += (f"{each.sha256}  {each.path}" for each in files)
    return uuid.uuid5(uuid.NAMESPACE_URL, "\n".join(["urn:tensorferry:bom", *held]))


# Components


def _model(facts: PackageFacts, files: Iterable[FileRecord]) -> Component:
    from cyclonedx.model.component import Component, ComponentType, Pedigree
    from cyclonedx.model.contact import OrganizationalContact
    from cyclonedx.model.license import LicenseExpression

    weights = [each for each in files if each.kind is FileKind.WEIGHTS]
    fields = facts.fields
    return Component(
        name=facts.name,
        version=facts.version or None,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=MODEL,
        description=fields.get("description"),
        authors=[OrganizationalContact(name=each) for each in fields.get("authors", ())],
        licenses=[LicenseExpression(facts.licence)] if facts.licence else None,
        # A model of several files has no SHA-256 of its own; each file has.
        hashes=_hashes(weights[0]) if len(weights) == 1 else None,
        pedigree=Pedigree(ancestors=[_source(facts)]),
        properties=_properties(_said_of_variants(facts)),
    )


def _source(facts: PackageFacts) -> Component:
    """Return what the package was made from, with its files."""
    from cyclonedx.model.component import Component, ComponentType

    source = facts.source
    said = {
        "format": source.format,
        "producer": source.producer,
        "step": "" if source.step is None else str(source.step),
    }
    return Component(
        name=printable(source.name),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="source",
        description=printable(source.summary),
        components=[_file(each, "source") for each in source.files],
        properties=_properties(said.items()),
    )


def _file(file: FileRecord, prefix: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    path = printable(file.path)
    return Component(
        name=path,
        type=ComponentType.FILE,
        bom_ref=f"{prefix}:{path}",
        hashes=_hashes(file),
        properties=_properties([("size", str(file.size))]),
    )


def _hashes(file: FileRecord) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)]


def _properties(said: Iterable[tuple[str, str]]) -> list[Property]:
    from cyclonedx.model import Property

    return [
        Property(name=f"tensorferry:{key}", value=printable(value)) for key, value in said if value
    ]


def _said_of_variants(facts: PackageFacts) -> Iterable[tuple[str, str]]:
    for each in facts.variants:
        prefix = f"variant:{each.name}:" if each.name else ""
        yield f"{prefix}digest", each.digest
        yield f"{prefix}parameters", str(each.parameters)
        yield (
            f"{prefix}dtypes",
            ", ".join(sorted({t.spec.dtype.label for t in each.tensors.values()})),
        )


# Model card, as section 5.4 of ECMA-424 names its parts


def _model_card(facts: PackageFacts) -> dict[str, Any]:
    fields = facts.fields
    parameters = {
        "task": fields.get("pipeline_tag"),
        "datasets": [{"type": "dataset", "name": each} for each in fields.get("datasets", ())],
        **_inputs_and_outputs(facts.source.details),
    }
    metrics = [
        {"type": name, "value": str(value)} for name, value in fields.get("metrics", {}).items()
    ]
    considerations = {
        "useCases": _one(fields.get("intended_use")),
        "technicalLimitations": _one(fields.get("limitations")),
    }
    card = {
        "modelParameters": _given(parameters),
        "quantitativeAnalysis": _given({"performanceMetrics": metrics}),
        "considerations": _given(considerations),
    }
    return {"bom-ref": f"{MODEL}-card", **_given(card)}


def _inputs_and_outputs(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all signatures take and give, each once."""
    found: dict[str, dict[str, None]] = {"inputs": {}, "outputs": {}}
    for row in signature_rows(details):
        for key, formats in found.items():
            formats.update(dict.fromkeys(f"{each['name']}: {each['type']}" for each in row[key]))
    return {
        key: [{"format": printable(each)} for each in formats] for key, formats in found.items()
    }


def _one(text: str | None) -> list[str]:
    return [text] if text else []


def _given(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if value}
