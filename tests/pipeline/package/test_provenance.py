"""Provenance: the in-toto library reads it, and it says what the package was made from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorferry.pipeline.package.provenance import provenance_text
from tensorferry.pipeline.package.records import (
    FileKind,
    FileRecord,
    PackageFacts,
    SourceFacts,
)

MakePackage = Callable[..., PackageFacts]
SOURCE = SourceFacts(
    "m\udcff.keras", "keras-v3", "Keras 3 model", "keras 3", 7,
    (FileRecord("m\udcff.keras", 5, "a" * 64),),
)  # fmt: skip


@pytest.fixture
def facts(small_package: MakePackage, tmp_path: Path) -> PackageFacts:
    fields = {"title": "Croco", "metrics": {"accuracy": 0.9, "steps": 7}}
    policy = {"forbid": {"nan": True}}
    return small_package(tmp_path, source=SOURCE, fields=fields, policy=policy)


def parsed(facts: PackageFacts) -> Any:
    return json.loads(provenance_text(facts))


def test_the_library_of_in_toto_takes_it(facts: PackageFacts) -> None:
    pytest.importorskip("in_toto_attestation", reason="comes with the extra `sign`")
    from google.protobuf.json_format import MessageToDict, Parse, ParseDict
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    message = Parse(provenance_text(facts), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    digests = {each.name: each.digest["sha256"] for each in message.subject}
    assert digests == {each.path: each.sha256 for each in facts.files}
    predicate = MessageToDict(message.predicate)
    provenance = ParseDict(predicate, provenance_pb2.Provenance())  # refuses unknown fields
    assert provenance.run_details.metadata.finished_on.seconds == facts.created
    [source] = provenance.build_definition.resolved_dependencies
    assert (source.name, source.digest["sha256"]) == ("m\\xff.keras", "a" * 64)


def test_types_are_those_of_the_specifications(facts: PackageFacts) -> None:
    statement = parsed(facts)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["buildType"] == "urn:tensorferry:package:v1"
    builder = statement["predicate"]["runDetails"]["builder"]
    assert builder["version"] == {"tensorferry": "0.1.0"}


def test_parameters_are_what_was_chosen(facts: PackageFacts) -> None:
    flags = {"version": 1, "dtypes": ["bf16"]}
    variant = replace(facts.variants[0], name="bf16", casts=("bf16",), flags=flags)
    parameters = parsed(replace(facts, variants=(variant,)))["predicate"]["buildDefinition"]
    assert parameters["externalParameters"] == {
        "source": "m\\xff.keras",
        "name": "croco",
        "version": "1.0",
        "license": "Apache-2.0",
        "variants": [{"name": "bf16", "casts": ["bf16"], "flags": flags}],
        "fields": facts.fields,
        "policy": facts.policy,
    }


def test_the_same_facts_give_the_same_text(facts: PackageFacts) -> None:
    text = provenance_text(facts)
    assert provenance_text(replace(facts)) == text
    assert text.isascii()
    assert "2023-11-14T22:13:20Z" in text
    identity = parsed(facts)["predicate"]["runDetails"]["metadata"]["invocationId"]
    others = (*facts.files[1:], replace(facts.files[0], sha256="b" * 64))
    other = parsed(replace(facts, files=others))["predicate"]["runDetails"]["metadata"]
    assert other["invocationId"] != identity


def test_it_is_no_subject_of_itself(facts: PackageFacts) -> None:
    own = FileRecord("provenance.intoto.json", 9, "c" * 64, FileKind.PROVENANCE)
    text = provenance_text(replace(facts, files=(*facts.files, own)))
    assert text == provenance_text(facts)
