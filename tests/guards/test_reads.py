"""Formats read files by `FileSource` alone, so that what stands for an object reads as it.

A file of a mounted folder holds nothing (`converters/mounts.py`): whoever opens it by its path
reads zeros, and nobody notices.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Those who write files, or are what reads them.
MAY = {"output", "sources", "staging", "stores", "remote", "scratch", "unpacking",
       "contracts"}  # fmt: skip
MODULES = [path for path in (REPOSITORY / "converters").rglob("*.py") if path.stem not in MAY]


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", sorted(MODULES), ids=named)
def test_no_format_opens_a_path(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    opened = [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if opens(call)]
    assert opened == []


def opens(call: ast.Call) -> bool:
    """Tell whether a call opens a file by its path."""
    text = ast.unparse(call.func)
    if text in ("open", "os.open") or text.endswith((".read_bytes", ".read_text")):
        return True
    first = call.args[0] if call.args else None
    mode = isinstance(first, ast.Constant) and str(first.value)[:1] in set("rwax")
    return text.endswith(".open") and mode


def test_opening_is_seen() -> None:
    for text in ("path.open('rb')", "p.read_bytes()", "os.open(p, 0)", "open(p)"):
        assert opens(ast.parse(text, mode="eval").body)  # type: ignore[arg-type]
    assert not opens(ast.parse("chosen.open(location, options)", mode="eval").body)  # type: ignore[arg-type]
