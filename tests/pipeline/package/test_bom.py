"""The bill of materials: the library's own schema takes it, and it lists what there is."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tensorferry.pipeline.package import extra
from tensorferry.pipeline.package.bom import bom_text
from tensorferry.pipeline.package.records import FileRecord, PackageFacts, SourceFacts

MakePackage = Callable[..., PackageFacts]
SIGNATURES = {
    "serve": {
        "inputs": {"x": {"tensor": "x:0", "dtype": "float32", "shape": [-1, 4]}},
        "outputs": {"y": {"tensor": "y:0", "dtype": "float32", "shape": None}},
    }
}
SOURCE = SourceFacts(
    "m\udcff.keras", "keras-v3", "Keras 3 model", "keras 3", 7,
    (FileRecord("m\udcff.keras", 5, "a" * 64), FileRecord("x", 6, "b" * 64)),
    {"signatures": SIGNATURES},
)  # fmt: skip
FIELDS = {
    "description": "Reads <b>digits</b>.", "authors": ["A. One", "B. Two"], "datasets": ["mnist"],
    "metrics": {"accuracy": 0.93, "loss": 1}, "pipeline_tag": "image-classification",
    "intended_use": "Digits.", "limitations": "No letters.",
}  # fmt: skip


@pytest.fixture
def facts(small_package: MakePackage, tmp_path: Path) -> PackageFacts:
    return small_package(tmp_path, source=SOURCE, fields=FIELDS)


def parsed(facts: PackageFacts) -> Any:
    """Return what the text holds, once the schema has taken it and the library has read it."""
    text = bom_text(facts)
    pytest.importorskip("jsonschema", reason="the validator of cyclonedx-python-lib needs it")
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert found is None, found
    content = json.loads(text)
    plain = json.loads(text)
    del plain["metadata"]["component"]["modelCard"]  # which the library does not know
    assert Bom.from_json(plain).metadata.component.name == facts.name  # type: ignore[attr-defined]
    return content


def test_the_model_is_a_machine_learning_model_with_its_card(facts: PackageFacts) -> None:
    model = parsed(facts)["metadata"]["component"]
    assert (model["type"], model["name"], model["version"]) == (
        "machine-learning-model", "croco", "1.0",
    )  # fmt: skip
    assert model["licenses"] == [{"expression": "Apache-2.0"}]
    assert [each["name"] for each in model["authors"]] == ["A. One", "B. Two"]
    assert model["modelCard"] == {
        "bom-ref": "model-card",
        "modelParameters": {
            "task": "image-classification",
            "datasets": [{"type": "dataset", "name": "mnist"}],
            "inputs": [{"format": "x: float32[?,4]"}],
            "outputs": [{"format": "y: float32"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": "accuracy", "value": "0.93"},
                {"type": "loss", "value": "1"},
            ]
        },
        "considerations": {"useCases": ["Digits."], "technicalLimitations": ["No letters."]},
    }


def test_what_the_model_is_made_of_is_listed_with_hashes(facts: PackageFacts) -> None:
    content = parsed(facts)
    hashes = {each["name"]: each["hashes"] for each in content["components"]}
    kinds = {"weights", "index", "config", "licence"}
    assert hashes == {
        each.path: [{"alg": "SHA-256", "content": each.sha256}]
        for each in facts.files
        if each.kind is not None and each.kind.value in kinds
    }
    [depends] = [each for each in content["dependencies"] if each["ref"] == "model"]
    assert depends["dependsOn"] == sorted(f"file:{name}" for name in hashes)


def test_a_model_of_one_file_has_its_hash(facts: PackageFacts) -> None:
    assert "hashes" not in parsed(facts)["metadata"]["component"]  # two files of weights
    one = replace(facts, files=facts.files[:1])
    [found] = parsed(one)["metadata"]["component"]["hashes"]
    assert found["content"] == facts.files[0].sha256


def test_the_source_is_its_ancestor(facts: PackageFacts) -> None:
    [source] = parsed(facts)["metadata"]["component"]["pedigree"]["ancestors"]
    assert source["name"] == "m\\xff.keras"
    assert {each["name"]: each["hashes"][0]["content"] for each in source["components"]} == {
        "m\\xff.keras": "a" * 64, "x": "b" * 64,
    }  # fmt: skip
    said = {each["name"]: each["value"] for each in source["properties"]}
    assert said == {
        "tensorferry:format": "keras-v3", "tensorferry:producer": "keras 3", "tensorferry:step": "7"
    }  # fmt: skip


def test_variants_are_told_by_digest_and_types(facts: PackageFacts) -> None:
    variants = tuple(replace(facts.variants[0], name=name) for name in ("f32", "bf16"))
    model = parsed(replace(facts, variants=variants))["metadata"]["component"]
    said = {each["name"]: each["value"] for each in model["properties"]}
    assert said["tensorferry:variant:bf16:digest"] == facts.variants[0].digest
    assert said["tensorferry:variant:f32:dtypes"] == "float32, int64"
    assert said["tensorferry:variant:f32:parameters"] == str(facts.variants[0].parameters)


@pytest.mark.parametrize("licence", ["", "MIT OR Apache-2.0", "LicenseRef-Acme"])
def test_every_licence_is_taken(facts: PackageFacts, licence: str) -> None:
    model = parsed(replace(facts, licence=licence))["metadata"]["component"]
    assert model.get("licenses", []) == ([{"expression": licence}] if licence else [])


def test_a_model_of_which_nothing_is_said_has_a_bill_too(facts: PackageFacts) -> None:
    bare = replace(SOURCE, details={}, producer="", step=None, files=())
    model = parsed(replace(facts, fields={}, version="", source=bare))["metadata"]["component"]
    assert "version" not in model
    assert model["modelCard"] == {"bom-ref": "model-card"}


def test_the_same_facts_give_the_same_text(facts: PackageFacts) -> None:
    text = bom_text(facts)
    assert bom_text(replace(facts)) == text
    content = json.loads(text)
    assert content["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    number = uuid.UUID(content["serialNumber"])
    assert number.version == 5
    other = replace(facts, variants=(replace(facts.variants[0], digest="3" * 64),))
    assert json.loads(bom_text(other))["serialNumber"] != str(number.urn)


def test_a_missing_extra_is_named(facts: PackageFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extra, "find_spec", lambda name: None if name == "cyclonedx" else name)
    with pytest.raises(extra.UsageError, match="a package needs cyclonedx"):
        bom_text(facts)
