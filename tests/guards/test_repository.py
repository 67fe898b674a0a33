"""What is committed: small files, true manifests, nothing of the machine it was made on."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = REPOSITORY / "sample_models"
MAX_SAMPLE_BYTES = 200_000
MAX_MODULE_LINES = 500

MACHINE_PATHS = re.compile(rb"/(?:home|Users)/[a-z]\w*/|/root/|\b[A-Z]:\\Users\\")
REGISTRIES = re.compile(rb"\bpypi\.|\bpythonhosted\.|--index-url|--extra-index")


def tracked() -> list[Path]:
    """Return the files that are, or are about to be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a clone: git cannot say what is committed")
    paths = (REPOSITORY / name for name in done.stdout.decode().split("\0") if name)
    return [path for path in paths if path.is_file()]


def manifest() -> list[dict[str, Any]]:
    """Return the rows of the manifest, one a model."""
    content: dict[str, list[dict[str, Any]]] = tomllib.loads(
        (SAMPLES / "MANIFEST.toml").read_text(encoding="utf-8")
    )
    return content["model"]


def sample_files() -> dict[Path, dict[str, Any]]:
    """Return what the manifest says about every file of a sample."""
    return {
        SAMPLES / model["folder"] / row["path"]: row
        for model in manifest()
        for row in model["files"]
    }


def test_no_file_mentions_this_machine_or_a_registry() -> None:
    here = [str(REPOSITORY).encode() + b"/", str(Path(sys.prefix)).encode() + b"/"]
    found = []
    for path in tracked():
        content = path.read_bytes()
        if path != Path(__file__).resolve() and (
            MACHINE_PATHS.search(content)
            or REGISTRIES.search(content)
            or any(place in content for place in here)
        ):
            found.append(str(path.relative_to(REPOSITORY)))
    assert not found


def test_samples_are_small_and_as_the_manifest_says() -> None:
    for path, row in sample_files().items():
        content = path.read_bytes()
        assert len(content) == row["bytes"] < MAX_SAMPLE_BYTES, path
        assert hashlib.sha256(content).hexdigest() == row["sha256"], path


def test_every_sample_is_in_the_manifest() -> None:
    folders = [path for path in SAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"]
    present = {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert present == set(sample_files())


def test_every_sample_is_in_the_readme() -> None:
    text = (SAMPLES / "README.md").read_text(encoding="utf-8")
    assert [model["id"] for model in manifest() if f"| `{model['id']}` |" not in text] == []


def test_modules_are_short() -> None:
    tops = ("converters", "pipeline", "tools", "benches", "sample_models")
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for top in tops
        for path in (REPOSITORY / top).rglob("*.py")
    }
    too_long = {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES}
    assert not too_long
