"""Packages go to a real registry and come back as they were; what is there is not sent again."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.oracle


def convert(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    call = [sys.executable, "-c", "from tensorferry.pipeline.entry import script; script()"]
    return subprocess.run([*call, *map(str, words)], capture_output=True, text=True, check=False)


def package(source: Path, target: Path, *flags: object) -> str:
    """Make a package; return its digest."""
    done = convert("package", source, target, "--oci", "--quiet", *flags)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def held(layout: Path) -> dict[str, bytes]:
    blobs = layout / "blobs" / "sha256"
    return {each.name: each.read_bytes() for each in blobs.iterdir()}


def layers(layout: Path) -> dict[str, str]:
    """Return the digest of every file."""
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(held(layout)[entry["digest"].removeprefix("sha256:")])
    return {
        each["annotations"]["org.cncf.model.filepath"]: each["digest"]
        for each in manifest["layers"]
    }


def weights(layout: Path) -> str:
    return layers(layout)["model.safetensors"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model of 800 kB that no other test has sent to the registry."""
    path = tmp_path / "model.npz"
    first = zlib.crc32(str(tmp_path).encode()) % 1000
    np.savez(path, kernel=np.arange(first, first + 200_000, dtype="f4"), bias=np.ones(7, "f4"))
    return path


def test_a_package_goes_to_a_registry_and_comes_back(
    tmp_path: Path, model: Path, registry: Any, keyring: Any
) -> None:
    digest = package(model, tmp_path / "out", "--sign", keyring["release.key"])
    registry.push(tmp_path / "out", "zoo/there-and-back:1.0")
    registry.pull("zoo/there-and-back:1.0", tmp_path / "pulled")
    assert held(tmp_path / "pulled") == held(tmp_path / "out")
    verified = convert("package", "verify", tmp_path / "pulled", "--key", keyring["release.pub"])
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout == f"verified: {digest}\n"
    wrong = convert("package", "verify", tmp_path / "pulled", "--key", keyring["other.pub"])
    assert wrong.returncode == 6


def test_no_blob_is_sent_twice(tmp_path: Path, model: Path, registry: Any) -> None:
    package(model, tmp_path / "first")
    before = len(registry.uploads())
    registry.push(tmp_path / "first", "zoo/twice:1")
    sent = registry.uploads()[before:]
    # All but the image manifest, and what any package of the other tests has in common.
    assert len(sent) == len(set(sent))
    assert weights(tmp_path / "first") in sent
    registry.push(tmp_path / "first", "zoo/twice:1")
    registry.push(tmp_path / "first", "zoo/twice:again")
    assert registry.uploads()[before:] == sent


def test_unchanged_weights_are_not_sent_again(tmp_path: Path, model: Path, registry: Any) -> None:
    package(model, tmp_path / "first", "--version", "1")
    registry.push(tmp_path / "first", "zoo/next:1")
    before = len(registry.uploads())
    package(model, tmp_path / "second", "--version", "2", "--license", "MIT")
    registry.push(tmp_path / "second", "zoo/next:2")
    sent = {each.removeprefix("sha256:") for each in registry.uploads()[before:]}
    new = held(tmp_path / "second").keys() - held(tmp_path / "first").keys()
    assert sent
    assert sent < new  # all but the image manifest, which is no upload
    assert weights(tmp_path / "second") == weights(tmp_path / "first")


def test_a_blob_damaged_in_the_registry_is_noticed(
    tmp_path: Path, model: Path, registry: Any
) -> None:
    package(model, tmp_path / "out", "--name", "damaged")
    registry.push(tmp_path / "out", "zoo/damaged:1")
    registry.damage(layers(tmp_path / "out")["README.md"])
    with pytest.raises(AssertionError, match=r"(?i)digest"):  # skopeo looks, too
        registry.pull("zoo/damaged:1", tmp_path / "pulled")
