"""Install Tensorferry as users get it: a wheel in a virtual environment of its own.

The editable install of a working copy starts slower, because its finder runs for every import.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("pyproject.toml", "README.md", "LICENSE", "converters", "pipeline")


def install(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, install it; return the interpreter.

    The copy keeps setuptools' `build/` out of the repository, where a later build would pick up
    what lies in it. What an earlier run left in `folder` is of other sources, and goes.
    """
    shutil.rmtree(folder, ignore_errors=True)
    python = folder / "venv" / "bin" / "python"
    copy, wheels = folder / "source", folder / "wheels"
    copy.mkdir(parents=True)
    for part in PARTS:
        _copy(ROOT / part, copy / part)
    _pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", wheels, copy)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    # Reports and packages are measured too; what they need is imported only where it is asked for.
    _pip(python, "install", *(f"{wheel}[report,package]" for wheel in wheels.glob("*.whl")))
    return python


def program_of(python: Path) -> Path:
    """Return the console script that belongs to an interpreter.

    Raises:
        SystemExit: there is none.
    """
    program = python.parent / "convert"
    if not os.access(program, os.X_OK):
        raise SystemExit(f"{python}: tensorferry is not installed there (no `convert` beside it)")
    return program


def versions(python: Path) -> dict[str, str]:
    """Return the versions of an interpreter and of the packages that matter here."""
    code = (
        "import platform\n"
        "from importlib.metadata import distributions\n"
        "print('Python', platform.python_version())\n"
        "for each in distributions():\n"
        "    print(each.metadata['Name'], each.version)\n"
    )
    printed = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.rsplit(" ", 1) for line in printed.splitlines())
    wanted = (
        "Python", "tensorferry", "numpy", "h5py", "fastcrc", "blake3", "safetensors", "tensorflow",
        "keras",
    )  # fmt: skip
    return {name: found[name] for name in wanted if name in found}


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _pip(python: str | Path, *words: str | Path) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", *words], check=True, stdout=sys.stderr)
