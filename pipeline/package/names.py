"""Names of files in a package: what the weights are called, and which names are refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...converters.containers.safetensors_index import WHOLE
from ...converters.containers.unpacking import MAX_DEPTH, NAME_BYTES
from ...converters.errors import UnsafeFileError
from ...converters.output import Plan

__all__ = ["check_paths", "renamed_index", "weights_name"]

INDEX = f"{WHOLE}.index.json"
PATH_CHARACTERS = 1024


def weights_name(variant: str) -> str:
    """Return what the one file of a variant is called: `model.bf16.safetensors`.

    As transformers and diffusers look for it; `_add_variant` in transformers/modeling_utils.py.
    """
    stem, _, ending = WHOLE.rpartition(".")
    return f"{stem}.{variant}.{ending}" if variant else WHOLE


def renamed_index(plan: Plan, variant: str) -> Plan:
    """Return a plan with the index called as the same libraries look for it.

    They put the variant before the last ending of a name: `model.safetensors.index.bf16.json`.
    """
    *shards, index = plan.files
    if not variant or index.path.suffix != ".json":
        return plan
    stem, _, ending = INDEX.rpartition(".")
    name = f"{stem}.{variant}.{ending}"
    return replace(plan, files=(*shards, replace(index, path=index.path.with_name(name))))


def check_paths(paths: Iterable[str]) -> None:
    """Refuse paths that are not plain relative ones, or that are in each other's way.

    Raises:
        UnsafeFileError: a path is absolute, leads out, is odd, occurs twice, or is a folder too.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        parts = path.split("/")
        odd = any(part in ("", ".", "..") for part in parts) or not path.isprintable()
        long = len(path) > PATH_CHARACTERS or any(len(each) > NAME_BYTES for each in parts)
        if odd or long or "\\" in path or ":" in path or len(parts) > MAX_DEPTH:
            raise UnsafeFileError(
                "path of a file", expected="a relative path", got=repr(path)[:100]
            )
        if path in files:
            raise UnsafeFileError("is listed twice", where=f"file `{path}`")
        files.add(path)
        folders.update("/".join(parts[:end]) for end in range(1, len(parts)))
    for path in files & folders:
        raise UnsafeFileError("is a file and a folder", where=f"file `{path}`")
