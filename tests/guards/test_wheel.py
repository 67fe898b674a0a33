"""The wheel holds `tensorferry` and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("converters", "pipeline")
NEEDED_SETUPTOOLS = 77  # pyproject.toml, build-system
METADATA = {
    "METADATA",
    "RECORD",
    "WHEEL",
    "entry_points.txt",
    "licenses/LICENSE",
    "top_level.txt",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the tree, since building leaves folders behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tree)
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, tree / name, ignore=ignored)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", "dist", "."]
    if int(version("setuptools").split(".")[0]) >= NEEDED_SETUPTOOLS:
        command.append("--no-isolation")
    done = subprocess.run(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if "No matching distribution found for setuptools" in done.stdout:
        pytest.skip(f"setuptools {NEEDED_SETUPTOOLS} is neither installed nor to be had")
    assert done.returncode == 0, done.stdout
    (built,) = (tree / "dist").glob("*.whl")
    return built


def members(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_holds_exactly_our_modules(wheel: Path) -> None:
    files = {path for package in PACKAGES for path in (REPOSITORY / package).rglob("*")}
    expected = {
        f"tensorferry/{path.relative_to(REPOSITORY).as_posix()}"
        for path in files
        if path.suffix == ".py"
        or path.name == "py.typed"
        or path.parent.name in ("templates", "assets", "recipes")
        or path.name.endswith(".schema.json")
    }
    folder = f"tensorferry-{version('tensorferry')}.dist-info"
    expected |= {f"{folder}/{name}" for name in METADATA}
    assert set(members(wheel)) == expected


def test_takes_one_name_in_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in members(wheel)}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"tensorferry"}


def test_has_both_scripts_for_one_program(wheel: Path) -> None:
    content = members(wheel)
    (name,) = (name for name in content if name.endswith("entry_points.txt"))
    lines = content[name].decode().split("\n")
    assert {"convert", "tensorferry"} <= {line.split(" = ")[0] for line in lines}
    assert {line.split(" = ")[1] for line in lines if " = " in line} == {
        "tensorferry.pipeline.entry:script"
    }
