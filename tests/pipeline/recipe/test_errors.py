"""Every error of a recipe's schema, with the very message that is in `errors.md`.

`TENSORFERRY_ACCEPT=1 pytest tests/pipeline/recipe/test_errors.py` writes what was seen into it.
"""

from __future__ import annotations

import ast
import os
import re
import traceback
from pathlib import Path
from typing import NamedTuple

import pytest
from tensorferry.converters.errors import NotRecognisedError, UsageError
from tensorferry.pipeline.recipe import read
from tensorferry.pipeline.recipe.read import parse_recipe, read_recipe

GOLDEN = Path(__file__).with_name("errors.md")
FILE = re.compile(r"```toml (\S+)\n(.*?)```", re.DOTALL)
MESSAGE = re.compile(r"```text\n(.*?)\n```", re.DOTALL)
SETTING = re.compile(r"^set: (\w+)=(.*)$", re.MULTILINE)
# What checks a recipe before anything is read.
SCHEMA = ("builtin", "expressions", "nodes", "parameters", "patterns", "read", "rules", "steps",
          "templates")  # fmt: skip


class Case(NamedTuple):
    """A recipe that is none, and why."""

    title: str
    text: str

    @property
    def message(self) -> str:
        found = MESSAGE.search(self.text)
        return found[1] if found else ""


def cases() -> list[Case]:
    parts = re.split(r"^## ", GOLDEN.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [Case(part.partition("\n")[0], part.partition("\n# ")[0]) for part in parts]


def error_of(case: Case, folder: Path) -> Exception:
    """Return the error of a recipe."""
    (folder / "sub").mkdir(exist_ok=True)
    files = FILE.findall(case.text.replace("LONG", "n" * 5000))
    for name, text in files:
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises((UsageError, NotRecognisedError)) as caught:
        read_recipe("r.toml", dict(SETTING.findall(case.text)))
    return caught.value


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.title)
def test_message(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = str(error_of(case, tmp_path)).replace("n" * 5000, "LONG").replace("n" * 40, "LONG")
    if os.environ.get("TENSORFERRY_ACCEPT"):
        accept(case, seen)
    else:
        assert seen == case.message


def accept(case: Case, seen: str) -> None:
    block = f"```text\n{seen}\n```"
    plain = MESSAGE.sub("", case.text).rstrip()
    text = GOLDEN.read_text(encoding="utf-8")
    old = case.text.rstrip()
    GOLDEN.write_text(text.replace(f"## {old}\n", f"## {plain}\n\n{block}\n"), encoding="utf-8")


def complaints() -> set[tuple[str, int]]:
    """Return file and line of every place in the schema that refuses something."""
    found = set()
    for name in SCHEMA:
        path = Path(read.__file__).with_name(f"{name}.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            refuses = isinstance(called, ast.Attribute) and called.attr in ("fail", "wrong")
            if refuses or (isinstance(node, ast.Raise) and node.exc is not None):
                found.add((path.name, node.lineno))
    return found


# Raised when a recipe is applied, or by what has tests of its own below.
ELSEWHERE = {
    "expressions": {"value", "_number", "whole"},
    "parameters": {"__call__", "_value", "_length"},
    "read": {"read_recipes", "_content"},
    "nodes": {"parse_toml"},  # nested too deep
}


def test_every_complaint_has_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    raised = set()
    for number, case in enumerate(cases()):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        error: BaseException | None = error_of(case, folder)
        while error is not None:
            frames = traceback.extract_tb(error.__traceback__)
            raised |= {(Path(each.filename).name, each.lineno) for each in frames}
            error = error.__context__
    assert sorted(complaints() - raised - elsewhere()) == []


def elsewhere() -> set[tuple[str, int]]:
    lines = set()
    for module, names in ELSEWHERE.items():
        path = Path(read.__file__).with_name(f"{module}.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in names:
                lines |= {(path.name, line) for line in range(node.lineno, node.end_lineno + 1)}
    return lines | LATER


def line_of(module: str, text: str) -> tuple[str, int]:
    path = Path(read.__file__).with_name(f"{module}.py")
    lines = path.read_text(encoding="utf-8").splitlines()
    return path.name, next(number for number, line in enumerate(lines, 1) if text in line)


# Those with a test of their own below.
LATER = {
    line_of("read", '"too many files are included"'),
    line_of("read", '"included too deep"'),
    line_of("read", '"has too many rules"'),
    line_of("read", "and no link out of it"),
}


# What needs many files, or files that are none


def test_too_many_files_are_included(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.toml" for number in range(64)]
    for name in names:
        Path(name).write_text("version = 1\n")
    Path("r.toml").write_text(f"version = 1\ninclude = {names}\n")
    with pytest.raises(UsageError, match="too many files are included, expected at most 64"):
        read_recipe("r.toml")


def test_files_are_included_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(9):
        text = f'version = 1\ninclude = ["{number + 1}.toml"]\n'
        Path(f"{number}.toml").write_text(text)
    with pytest.raises(UsageError, match=r"^7\.toml:2: .*included too deep, expected at most 8"):
        read_recipe("0.toml")


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "out.toml").write_text("version = 1\n")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.toml").symlink_to(tmp_path / "out.toml")
    (folder / "r.toml").write_text('version = 1\ninclude = ["link.toml"]\n')
    with pytest.raises(UsageError, match="and no link out of it"):
        read_recipe(folder / "r.toml")


def test_too_many_rules() -> None:
    rules = "".join(f'[[rule]]\nmatch = "a{n}"\ndrop = true\n' for n in range(10_001))
    with pytest.raises(UsageError, match="has too many rules, expected at most 10000"):
        parse_recipe(f"version = 1\n{rules}")


def test_a_text_includes_no_files() -> None:
    with pytest.raises(UsageError, match="expected builtin:NAME"):
        parse_recipe('version = 1\ninclude = ["r.toml"]\n')


def test_too_long(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(UsageError, match="longer than any recipe, expected at most 1048576 bytes"):
        read_recipe(tmp_path / "r.toml")


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="is no UTF-8"):
        read_recipe(tmp_path / "r.toml")


def test_nested_too_deep(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f"version = {'[' * 50_000}")
    with pytest.raises(UsageError, match="nested too deep"):
        read_recipe(tmp_path / "r.toml")


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="does not exist"):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(NotRecognisedError, match="is no file"):
        read_recipe(tmp_path)


def test_a_built_in_recipe_without_its_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotRecognisedError) as caught:
        read_recipe("pytorch-names")
    assert caught.value.hint == "the built-in one is called builtin:pytorch-names"
