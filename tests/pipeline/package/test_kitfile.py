"""Kitfiles: what KitOps reads, whatever the owner wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorferry.pipeline.package.kitfile import kitfile_text
from tensorferry.pipeline.package.records import PackageFacts

# pkg/artifact/kitfile.go of KitOps; it refuses other keys.
KEYS = {
    "": {"manifestVersion", "package", "model", "code", "datasets", "docs"},
    "package": {"name", "version", "description", "license", "authors"},
    "model": {
        "name", "path", "license", "framework", "format", "version", "description", "parts",
        "parameters",
    },
}  # fmt: skip


def parsed(facts: PackageFacts) -> Any:
    """Return a Kitfile as another parser sees it."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load(kitfile_text(facts))


def test_a_kitfile_lists_the_package(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    kitfile = parsed(small_package(tmp_path))
    assert kitfile == {
        "manifestVersion": "1.0.0",
        "package": {"name": "croco", "version": "1.0", "license": "Apache-2.0"},
        "model": {
            "name": "croco",
            "path": "bf16/model.safetensors",
            "license": "Apache-2.0",
            "format": "safetensors",
            "version": "1.0",
            "parts": [{"path": "model.safetensors"}, {"path": "config.json"}],
        },
        "docs": [
            {"path": "LICENSE", "description": "licence"},
            {"path": "README.md", "description": "model card"},
            {"path": "bom.cdx.json", "description": "bill of materials (CycloneDX)"},
            {"path": "manifest.json", "description": "files, tensors and their digests"},
            {"path": "provenance.intoto.json", "description": "provenance (in-toto statement)"},
        ],
    }
    assert kitfile.keys() <= KEYS[""]
    assert kitfile["package"].keys() <= KEYS["package"]
    assert kitfile["model"].keys() <= KEYS["model"]


@pytest.mark.parametrize(
    "text",
    [
        "two\nlines: #and more",
        "\"quoted\" 'and' \\ not",
        "é \u2028 \x85 \ufeff \U0001f40a \x7f \x1b[31m",
        "- {a: b}\n---\n!!python/object:os.system",
        "yes",
        "1.0",
        " ",
    ],
)
def test_what_the_owner_writes_stays_text(
    tmp_path: Path, small_package: Callable[..., PackageFacts], text: str
) -> None:
    facts = small_package(tmp_path, fields={"description": text}, version=text)
    kitfile = parsed(facts)
    assert kitfile["package"]["description"] == text
    assert kitfile["model"]["version"] == text
    assert kitfile_text(facts).isascii()


def test_a_name_that_is_not_utf_8_does_not_break_it(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    assert parsed(small_package(tmp_path, name="a\udcff"))["package"]["name"] == "a\ufffd"


def test_only_texts_are_taken_as_texts(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    kitfile = parsed(small_package(tmp_path, fields={"description": ["a"]}, files=()))
    assert "description" not in kitfile["package"]
    assert "model" not in kitfile
