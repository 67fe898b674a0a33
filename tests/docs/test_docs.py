"""What the documentation says is what the program does.

Every `console` and `python` block of the README and of `docs/guide` and `docs/formats` is run, in
order, in a folder with the files that `docs/guide/README.md` puts there. In a `console` block,
lines after `$ command` are what a terminal shows; `...` stands for anything; `[exit 3]` for an
exit code other than 0. A `text` block right after a `python` block is what that prints. A `toml`
block that begins with `# NAME.toml` is put into a file of that name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from tensorferry.converters import errors
from tensorferry.pipeline import console
from tensorferry.pipeline.cli import DEFAULT, app
from tensorferry.pipeline.entry import VERBS

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
GUIDE = DOCS / "guide"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
RUN = [README, *sorted(GUIDE.glob("*.md")), *sorted((DOCS / "formats").glob("*.md"))]
ALL = [*PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TIMES = re.compile(r"in [\d.]+ s \([\d.]+ \w+/s\)")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def blocks(path: Path) -> list[tuple[str, str]]:
    """Return language and text of every fenced block of a page."""
    return FENCE.findall(path.read_text(encoding="utf-8"))


# Running what is shown


@pytest.fixture
def folder(tmp_path: Path, samples: Path) -> Path:
    """Return a folder with the files of the examples."""
    (tmp_path / "sample_models").symlink_to(samples)
    setup = next(text for language, text in blocks(GUIDE / "README.md") if language == "sh")
    assert shell(setup, tmp_path) == ("", 0)
    return tmp_path


def shell(command: str, folder: Path) -> tuple[str, int]:
    """Run a command as a terminal would; return what it shows, and the exit code."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env={"PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "100", "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout, done.returncode


@pytest.mark.parametrize("page", RUN, ids=named)
def test_examples_do_what_is_shown(page: Path, folder: Path) -> None:
    found = blocks(page)
    for number, (language, text) in enumerate(found):
        if language == "console":
            check_console(text, folder)
        elif language == "toml" and (name := re.match(r"# (\S+\.toml)\n", text)):
            (folder / name[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            following = found[number + 1] if number + 1 < len(found) else ("", "")
            check_python(text, following[1] if following[0] == "text" else "", folder)


def check_console(text: str, folder: Path) -> None:
    for command, expected, code in sessions(text):
        shown, got = shell(command, folder)
        assert got == code, f"$ {command}\n{shown}"
        if expected or code:
            assert matches(expected, shown), f"$ {command}\n{shown}"


def sessions(text: str) -> Iterator[tuple[str, str, int]]:
    """Yield each command of a block, what is shown after it, and its exit code."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        code = re.search(r"^\[exit (\d+)\]\n\Z", shown, re.MULTILINE)
        yield command, shown[: code.start()] if code else shown, int(code[1]) if code else 0


def check_python(text: str, expected: str, folder: Path) -> None:
    (folder / "example.py").write_text(text, encoding="utf-8")
    shown, code = shell("python -W error example.py", folder)
    assert code == 0, shown
    if expected:
        assert matches(expected, shown), shown


def matches(expected: str, shown: str) -> bool:
    """Tell whether something was shown as expected, times and what `...` stands for aside."""
    parts = TIMES.sub("in T", expected).rstrip().split("...")
    pattern = ".*".join(re.escape(part) for part in parts)
    return re.fullmatch(pattern, TIMES.sub("in T", shown).rstrip(), re.DOTALL) is not None


# What is generated, linked, listed


def test_generated_parts_are_up_to_date() -> None:
    tool = REPOSITORY / "tools" / "generate_docs.py"
    shown, code = shell(f"python '{tool}' --check", REPOSITORY)
    assert code == 0, f"run `make docs`\n{shown}"


@pytest.mark.parametrize("page", ALL, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def anchors(page: Path) -> set[str]:
    """Return the anchors that headings of a page get."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in ALL
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link
    }
    assert [named(page) for page in PAGES if page != README and page not in linked] == []


def test_make_targets_that_are_named_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in ALL:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets, page


def rows(page: Path, heading: str) -> list[str]:
    """Return the first cell of every row of the first table below a heading."""
    section = page.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [line.split("|")[1].strip() for line in table[2:]]


def test_all_commands_are_listed() -> None:
    words = [
        re.sub(r"[`\[\]]", "", row.split("](")[0]).split()[1] for row in rows(README, "Commands")
    ]
    assert sorted(words) == sorted(["SRC", *VERBS])


def test_all_exit_codes_are_listed() -> None:
    named = [getattr(errors, name) for name in errors.__all__ if name != "ConvertError"]
    classes = [each for each in named if isinstance(each, type)]
    codes = {0, console.FOUND, console.BUG, console.INTERRUPTED, console.TERMINATED}
    codes |= {each.exit_code for each in classes}
    listed = re.findall(r"\d+", " ".join(rows(README, "Exit codes")))
    assert sorted(map(int, listed)) == sorted(codes)


def flags() -> dict[str, set[str]]:
    """Return the flags of every command, by the name of its page."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    return {
        "convert" if name == DEFAULT else name: flags_of(command, context)
        for name, command in group.commands.items()
    }


def flags_of(command: Any, context: Any) -> set[str]:
    """Return the flags of a command, and of those below it."""
    below = getattr(command, "commands", {}).values()
    own = {
        flag
        for parameter in command.get_params(context)
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("-")
    }
    return own.union(*(flags_of(each, context) for each in below))


@pytest.mark.parametrize("verb", ["convert", *VERBS])
def test_all_flags_are_listed(verb: str) -> None:
    listed = set(re.findall(r"`(--?[a-z][\w-]*)", " ".join(rows(GUIDE / f"{verb}.md", "Flags"))))
    assert listed == flags()[verb]


@pytest.mark.parametrize("page", ALL, ids=named)
def test_only_flags_that_exist_are_named(page: Path) -> None:
    known = set().union(*flags().values()) | {"--version", "--check"}
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    named_flags = set(re.findall(r"`(--[a-z][\w-]*)", text))
    assert named_flags <= known


def test_decisions_are_complete_and_numbered() -> None:
    pages = sorted((DOCS / "adr").glob("[0-9]*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04}" for n in range(1, len(pages) + 1)]
    for page in pages:
        heads = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert heads == ["Context", "Options", "Decision", "Price"], page


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE)[0] == "[Unreleased]"
