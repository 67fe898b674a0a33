"""Run the command lines in `cases/*.md` as a user would, and compare all that they print.

A case is a Markdown file with one or more `console` blocks, run in order in one empty folder in
which `samples` is a copy of the sample models:

    $ command
    what it prints to stdout
    ! what it prints to stderr
    [exit 3]

Times and rates read as `T s` and `R/s`. `TENSORFERRY_ACCEPT=1 pytest tests/cli` writes what was
seen into the files; read the difference before you keep it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted((Path(__file__).parent / "cases").glob("*.md"))
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
TIMES = re.compile(r"in [\d.]+ s \([\d.]+ \w+/s\)")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_case(case: Path, tmp_path: Path, samples: Path) -> None:
    shutil.copytree(samples, tmp_path / "samples")
    expected = case.read_text()
    seen = BLOCK.sub(lambda block: run_block(block[0], tmp_path), expected)
    if os.environ.get("TENSORFERRY_ACCEPT"):
        case.write_text(seen)
    assert seen == expected


def run_block(block: str, folder: Path) -> str:
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "".join(run(command, folder) for command in commands)


def run(command: str, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "LC_ALL": "C.UTF-8", "COLUMNS": "100", "HOME": str(folder)}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, check=False
    )
    out, err = (TIMES.sub("in T s (R/s)", each.decode()) for each in (done.stdout, done.stderr))
    shown = [f"$ {command}\n", out]
    shown += [f"! {line}".rstrip() + "\n" for line in err.splitlines()]
    if out and not out.endswith("\n"):
        shown.insert(2, "\n")
    if done.returncode:
        shown.append(f"[exit {done.returncode}]\n")
    return "".join(shown).replace(str(folder), "FOLDER")
