"""Make the samples of one old release, in the current folder: `python old_producers.py RELEASE`.

Runs in the environments that `old_releases.toml` lists, so it must suit Python 3.7. The functions
that are called as the releases are live in `old_keras_1.py` and its neighbours. Each returns what
the release itself says its variables hold. That goes into `witness.json`, one row a line, and tests
compare our readers with it:

    producer     versions of what ran
    files        file -> name -> row
    loaded       file of another release -> option of ours -> name -> row, as this release loads it

A row has dtype, shape, sha256 of the bytes (C order, little endian) and trainable; for slots of an
optimizer also slot and owner. Names are those of the live variables, without `:0`.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Rows = dict[str, dict[str, Any]]

MODULES = ("old_keras_1", "old_keras_2", "old_keras_3", "old_tf_1")


def truth(name: str, like: np.ndarray) -> np.ndarray:
    """Return values by the rule of `truth.py`, which needs newer packages than these."""
    seed = np.uint64(zlib.crc32(name.encode()))
    steps = np.arange(like.size, dtype=np.uint64) * np.uint64(2654435761)
    x = (seed + steps) & np.uint64(0xFFFFFFFF)
    if like.dtype.kind == "f":
        found = ((x % np.uint64(2001)).astype(np.float64) - 1000) / 8
    else:
        found = ((x << np.uint64(32)) | x).astype(f"u{like.dtype.itemsize}").view(like.dtype)
    return found.astype(like.dtype).reshape(like.shape)


def row(value: np.ndarray, **facts: object) -> dict[str, Any]:
    """Say what an array holds."""
    digest = hashlib.sha256(value.tobytes()).hexdigest()
    return {"dtype": value.dtype.name, "shape": list(value.shape), "sha256": digest, **facts}


def plain(name: str) -> str:
    """Return the name of a variable without the output that TensorFlow adds."""
    return name[:-2] if name.endswith(":0") else name


def must_equal(loaded: dict[str, np.ndarray], rows: Rows) -> None:
    """Check that a release reads from its own file what it meant to write.

    Raises:
        RuntimeError: it does not.
    """
    different = [
        name for name, value in loaded.items() if row(value)["sha256"] != rows[name]["sha256"]
    ]
    if different or not loaded:
        raise RuntimeError(f"loaded otherwise than saved: {different}")


def versions(packages: list[str]) -> str:
    """Return the versions of packages and of Python."""
    found = [f"{name} {import_module(name).__version__}" for name in packages]
    return ", ".join([*found, f"Python {platform.python_version()}"])


def to_json(witness: object, depth: int = 0) -> str:
    """Return JSON with one row a line."""
    if not isinstance(witness, dict) or "sha256" in witness:
        return json.dumps(witness)
    inner = ",\n".join(
        " " * (depth + 1) + json.dumps(key) + ": " + to_json(value, depth + 1)
        for key, value in witness.items()
    )
    return "{\n" + inner + "\n" + " " * depth + "}"


def main(release: str, packages: list[str]) -> None:
    """Make the samples of a release in the current folder, with the witness."""
    modules = (import_module(name) for name in MODULES)
    make = next(vars(module)[release] for module in modules if release in vars(module))
    witness = {"producer": "", **make()}
    witness["producer"] = versions(packages)
    Path("witness.json").write_text(to_json(witness) + "\n")
    print(sum(map(len, witness["files"].values())))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
