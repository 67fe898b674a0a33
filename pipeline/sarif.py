"""Findings as SARIF 2.1.0, which code scanning of several hosts takes.

Specified by OASIS, Static Analysis Results Interchange Format, version 2.1.0 (section numbers
below). Written is the least that tells everything: one run, the rules that have findings, and for
each finding its level, its text, its file, and the tensor as a logical location.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..converters.errors import printable
from ..converters.findings import Finding
from ..converters.names import encode
from .rules import about

__all__ = ["sarif_log"]

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"  # 3.13.3: says what the text is


def sarif_log(findings: Sequence[Finding], source: str) -> dict[str, Any]:
    """Return the log of one check as JSON values.

    Args:
        findings: what was found.
        source: what the user pointed at; the file of findings that name none.
    """
    rules = list(dict.fromkeys(finding.rule for finding in findings))
    numbers = {rule: number for number, rule in enumerate(rules)}
    driver = {
        "name": "Tensorferry",
        "semanticVersion": version("tensorferry"),
        "rules": [_rule(rule) for rule in rules],
    }
    run = {
        "tool": {"driver": driver},
        "results": [_result(finding, numbers[finding.rule], source) for finding in findings],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: str) -> dict[str, Any]:
    # 3.49.3: an id is stable and opaque; ours says what it is.
    return {"id": rule, "shortDescription": {"text": about(rule)}}


def _result(finding: Finding, number: int, source: str) -> dict[str, Any]:
    text = finding.text
    if finding.where:
        text = f"{finding.where}: {text}"
    if finding.tensor is not None:
        text = f"tensor `{finding.tensor}`: {text}"
    location: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(finding.path or source)}}
    }
    if finding.tensor is not None:
        name = printable(finding.tensor)
        location["logicalLocations"] = [{"fullyQualifiedName": name, "kind": "object"}]
    return {
        "ruleId": finding.rule,
        "ruleIndex": number,
        "level": finding.level.value,
        "message": {"text": printable(text)},
        "locations": [location],
    }


def _uri(path: str) -> str:
    """Return a path as a URI reference: relative ones stay so (3.4.3)."""
    if Path(path).is_absolute():
        return f"file://{quote(encode(path))}"
    return quote(encode(path))
