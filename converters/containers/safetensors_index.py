"""A safetensors model in several files: the names of the shards, and the index that joins them.

    model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors
    model.safetensors.index.json      {"metadata": {"total_size": <bytes of all tensors>},
                                       "weight_map": {"<tensor>": "<name of a shard>", …}}

A convention of the Hugging Face libraries, whose loaders agree on no more than this:
huggingface_hub/serialization/_base.py and _torch.py (v2.4.0), transformers/modeling_utils.py and
utils/hub.py (v5.23.0), accelerate/utils/modeling.py (v1.15.0). All of them read every tensor of
every file that the index names; transformers and accelerate take a `model.safetensors` that lies
beside an index, huggingface_hub takes the index. Further values in `metadata` are texts, if any:
the index of the safetensors library itself takes no others.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CorruptFileError, NotRecognisedError, UnsafeFileError, UsageError
from ..registry import Group, Location
from ..sources import FileSource
from .safetensors_header import looks_like_file
from .strict_json import JSON_BYTES, read_json

__all__ = [
    "WHOLE", "Index", "build_index", "cut", "find", "holds_model", "index_beside", "is_index",
    "leftovers", "others_beside", "read_index", "set_names", "shard_groups", "stray_shards",
]  # fmt: skip

EXTENSION = ".safetensors"
# What loaders look for in a folder: transformers, diffusers, peft. The first is what we write.
WHOLE = "model.safetensors"
WHOLE_NAMES = (WHOLE, "diffusion_pytorch_model.safetensors", "adapter_model.safetensors")
# A variant's name stands before or behind: `m.fp16.safetensors.index.json`, `….index.fp16.json`.
_INDEX = re.compile(r".+\.safetensors\.index(\.[\w-]+)?\.json")
_INDEX_MARK = ".safetensors.index"
_INDEX_STEM = re.compile(r"\.safetensors\.index.*")
_SHARD = re.compile(r"(.+)-\d{5,}-of-\d{5,}\.safetensors")
# What writers compute from the tensors; a text of that name would not stay true.
COMPUTED = ("total_size", "total_parameters")

_Item = TypeVar("_Item")


# Recognising


def is_index(location: Location) -> bool:
    """Tell whether a file is an index; reads all of it only where its name says so."""
    head = location.head
    if not head.lstrip().startswith(b"{"):
        return False
    if b'"weight_map"' not in head and _INDEX_MARK in location.path.name:
        head = _whole(location.path)
    return b'"weight_map"' in head and b'.safetensors"' in head


def _whole(path: Path) -> bytes:
    source = FileSource(path)
    try:
        return source.read(0, source.size) if source.size <= JSON_BYTES else b""
    finally:
        source.close()


def holds_model(location: Location) -> bool:
    """Tell whether a file, or the files of a folder, are a model of this format or several."""
    if location.is_file:
        return looks_like_file(location.head) or is_index(location)
    return location.path.is_dir() and bool(_in_folder(location.path))


def find(location: Location) -> Location:
    """Return the index or the single file to read.

    Args:
        location: a file, or a folder with a model under one of the usual names.

    Raises:
        NotRecognisedError: a folder holds none.
        UsageError: it holds several.
    """
    folder = location.path
    if not folder.is_dir():
        return location
    found = _in_folder(folder)
    if not found:
        raise NotRecognisedError("holds no safetensors model", path=folder)
    if len(found) > 1:
        names = " and ".join(f"`{each.path.name}`" for each in found)
        raise UsageError(f"holds {names}", path=folder, hint="name the one that is meant")
    return found[0]


def _in_folder(folder: Path) -> list[Location]:
    try:
        names = sorted(each.name for each in os.scandir(folder) if EXTENSION in each.name)
    except OSError:
        return []
    indexes = [Location(folder / name) for name in names if _INDEX.fullmatch(name)]
    whole = [Location(folder / name) for name in WHOLE_NAMES if name in names]
    return [
        *(each for each in indexes if is_index(each)),
        *(each for each in whole if looks_like_file(each.head)),
    ]


def shard_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield the models of several files among the names in a folder: an index and its shards."""
    shards: dict[str, set[str]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match:
            shards.setdefault(match[1], set()).add(name)
    for name in names:
        if _INDEX.fullmatch(name):
            stem = name.partition(EXTENSION)[0]
            yield Group(name, frozenset({name, *shards.get(stem, ())}), stem)


def others_beside(path: Path, own: Iterable[str]) -> list[str]:
    """Return the names of the other files of this format in the folder of an index or a file."""
    with os.scandir(path.parent) as entries:
        names = {each.name for each in entries if each.name.endswith(EXTENSION)}
    return sorted(names - {path.name, *own})


def stray_shards(path: Path, own: Iterable[str]) -> list[Path]:
    """Return shards of the same set as an index, by their names, that it does not list."""
    stem = _INDEX_STEM.sub("", path.name)
    matches = ((name, _SHARD.fullmatch(name)) for name in others_beside(path, own))
    return [path.with_name(name) for name, match in matches if match and match[1] == stem]


def index_beside(path: Path) -> str | None:
    """Return the name of the index to which a file belongs, judged by its name."""
    match = _SHARD.fullmatch(path.name)
    index = f"{match[1]}{EXTENSION}.index.json" if match else ""
    return index if index and path.with_name(index).is_file() else None


# Reading


@dataclass(frozen=True)
class Index:
    """What an index says.

    Attributes:
        files: names of the tensors by name of the shard, sorted by the latter.
        texts: what else it says about the model.
        values: the same of what is no text, and what it says of sizes.
    """

    files: Mapping[str, frozenset[str]]
    texts: Mapping[str, str]
    values: Mapping[str, Any]


def read_index(path: Path) -> Index:
    """Return what an index says; touches no shard.

    Raises:
        CorruptFileError: it is none.
        UnsafeFileError: it names files elsewhere, or is larger than any honest one.
    """
    source = FileSource(path)
    try:
        content = read_json(source)
    finally:
        source.close()
    try:
        return _index(content)
    except CorruptFileError as error:
        error.path = str(path)
        error.args = (error.message,)
        raise


def _index(content: object) -> Index:
    entry = _object(content, "JSON")
    files: dict[str, set[str]] = {}
    for tensor, name in _object(entry.get("weight_map"), "`weight_map`").items():
        try:
            files.setdefault(_shard_name(name), set()).add(tensor)
        except CorruptFileError as error:
            raise error.within(f"tensor `{tensor}`") from None
    if not files:
        raise CorruptFileError("`weight_map`", expected="the names of tensors", got="none")
    metadata = _object(entry.get("metadata", {}), "`metadata`")
    texts = {
        key: text for key, text in metadata.items() if isinstance(text, str) and key not in COMPUTED
    }
    values = {key: value for key, value in metadata.items() if key not in texts}
    return Index({name: frozenset(files[name]) for name in sorted(files)}, texts, values)


def _object(value: object, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise CorruptFileError(what, expected="an object", got=type(value).__name__)


def _shard_name(value: object) -> str:
    """Return the name of a file beside the index; anything else leads to other files."""
    if not isinstance(value, str):
        raise CorruptFileError("name of a shard", expected="a text", got=type(value).__name__)
    bare = not set(value) & set("/\\:\0")
    if not bare or not value.endswith(EXTENSION):
        raise UnsafeFileError(
            "name of a shard", expected=f"a bare file name `…{EXTENSION}`", got=repr(value)[:100]
        )
    return value


# Writing


def cut(sizes: Iterable[tuple[_Item, int]], limit: int) -> list[list[_Item]]:
    """Put items into shards in their order, each shard at most `limit` bytes.

    An item larger than that gets a shard of its own, and does not end the shard that is being
    filled: `split_state_dict_into_shards_factory` of huggingface_hub.
    """
    shards: list[list[_Item]] = []
    current: list[_Item] = []
    filled = 0
    for item, nbytes in sizes:
        if nbytes > limit:
            shards.append([item])
            continue
        if filled + nbytes > limit:
            shards.append(current)
            current, filled = [], 0
        current.append(item)
        filled += nbytes
    if current or not shards:
        shards.append(current)
    return shards


def set_names(path: Path, count: int) -> tuple[list[Path], Path]:
    """Return the paths of `count` shards and of their index.

    Args:
        path: what a single file would be called.
        count: number of shards.
    """
    stem = _stem(path)
    shards = [f"{stem}-{n:05}-of-{count:05}{EXTENSION}" for n in range(1, count + 1)]
    return [path.with_name(name) for name in shards], path.with_name(_index_name(stem))


def build_index(weight_map: Mapping[str, str], total_size: int) -> bytes:
    """Return the index as JSON, with keys in order, laid out as huggingface_hub does.

    Args:
        weight_map: name of the shard by stored name of the tensor.
        total_size: bytes of all tensors.
    """
    # `json.dumps` with an indent is not in C: 20 times slower.
    quoted = json.dumps
    rows = ",\n".join(
        f"    {quoted(name)}: {quoted(weight_map[name])}" for name in sorted(weight_map)
    )
    text = f'{{\n  "metadata": {{\n    "total_size": {total_size}\n  }},\n'
    return f'{text}  "weight_map": {{\n{rows}\n  }}\n}}\n'.encode("ascii")


def leftovers(path: Path, planned: Sequence[Path]) -> list[Path]:
    """Return files of an older set of the same name that are not going to be replaced.

    Beside the new ones they would make a mixture: which of a whole file and an index counts
    differs between loaders, and some load every file of a folder.

    Args:
        path: what a single file would be called.
        planned: the files to write.
    """
    stem = _stem(path)
    index = path.with_name(_index_name(stem))
    if len(planned) == 1 and not index.exists():  # the usual case: one look, and no listing
        return []
    pattern = re.compile(rf"{re.escape(stem)}(-\d{{5,}}-of-\d{{5,}})?\.safetensors")
    try:
        names = sorted(
            each.name for each in os.scandir(path.parent) if pattern.fullmatch(each.name)
        )
    except OSError:  # no folder: the engine says so
        return []
    own = {each.name for each in planned}
    names += [index.name] if index.exists() else []
    return [path.with_name(name) for name in names if name not in own]


def _stem(path: Path) -> str:
    name = path.name
    return name[: -len(EXTENSION)] if name.lower().endswith(EXTENSION) else name


def _index_name(stem: str) -> str:
    return f"{stem}{EXTENSION}.index.json"
