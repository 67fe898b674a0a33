"""Findings as SARIF: what the standard requires is there, and everything that was found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.findings import Finding, Level
from tensorferry.pipeline.rules import RULES, about
from tensorferry.pipeline.sarif import sarif_log
from tensorferry.pipeline.value_flags import RULES as VALUES

REPOSITORY = Path(__file__).resolve().parents[2]
FOUND = [
    Finding("integrity/damaged", Level.ERROR, "differs", "a/kernel", "m/x y.data", "byte 0 to 8"),
    Finding("integrity/leftover", Level.WARNING, "left", None, "/tmp/ü"),
    Finding("integrity/damaged", Level.NOTE, "odd\n\udc80", "\udc80"),
]


@pytest.fixture
def run() -> Mapping[str, Any]:
    log = sarif_log(FOUND, "m/model.ckpt")
    # 3.13: exactly one version, and at least the list of runs.
    assert log["version"] == "2.1.0"
    assert log["$schema"].endswith("sarif-2.1.0.json")
    [run] = log["runs"]
    return dict(run)


def test_the_tool_names_itself_and_its_rules(run: Mapping[str, Any]) -> None:
    driver = run["tool"]["driver"]  # 3.19.8: a name is all that is required
    assert driver["name"] == "Tensorferry"
    assert [rule["id"] for rule in driver["rules"]] == ["integrity/damaged", "integrity/leftover"]
    assert all(rule["shortDescription"]["text"].endswith(".") for rule in driver["rules"])


def test_every_finding_is_a_result_with_its_level_and_rule(run: Mapping[str, Any]) -> None:
    assert [each["level"] for each in run["results"]] == ["error", "warning", "note"]
    for result, finding in zip(run["results"], FOUND, strict=True):
        rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert result["ruleId"] == rule["id"] == finding.rule
        assert result["message"]["text"].isprintable()


def test_a_result_says_what_and_where(run: Mapping[str, Any]) -> None:
    first, second, third = run["results"]
    assert first["message"]["text"] == "tensor `a/kernel`: byte 0 to 8: differs"
    assert first["locations"] == [
        {
            "physicalLocation": {"artifactLocation": {"uri": "m/x%20y.data"}},
            "logicalLocations": [{"fullyQualifiedName": "a/kernel", "kind": "object"}],
        }
    ]
    assert _uri(second) == "file:///tmp/%C3%BC"
    assert "logicalLocations" not in second["locations"][0]
    assert _uri(third) == "m/model.ckpt"  # of a finding without a file: what was pointed at


def _uri(result: Mapping[str, Any]) -> str:
    return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])


def test_nothing_found_is_a_run_without_results() -> None:
    [run] = sarif_log([], "m")["runs"]
    assert run["results"] == []
    assert run["tool"]["driver"]["rules"] == []


def test_every_rule_that_the_code_names_is_described() -> None:
    named = set()
    for folder in ("converters", "pipeline"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            named |= set(re.findall(r'"((?:integrity|security|value)/[\w-]+)"', text))
    assert named >= set(RULES)
    assert [rule for rule in sorted(named) if "plug-in" in about(rule)] == []


def test_every_rule_is_in_the_guide() -> None:
    page = (REPOSITORY / "docs" / "guide" / "check.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `((?:integrity|security|value)/[\w-]+)`", page, re.MULTILINE)
    assert sorted(listed) == sorted({*RULES, *VALUES})


def test_a_rule_of_a_plug_in_is_described_too() -> None:
    assert about("mine/odd") == "Found by a plug-in."
