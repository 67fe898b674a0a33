"""From whatever a user points at to the one checkpoint meant.

A checkpoint is a prefix, not a file. People give the prefix, one of its files, the folder, or the
text file `checkpoint` that names the latest (CheckpointState, tensorflow/python/training/
checkpoint_state.proto, in protobuf's text form). That file may hold absolute paths, which are
stale once the folder has moved; the same name beside the state file is taken then.

A V1 checkpoint is a file of any name, or `<name>-00000-of-00002` and so on; state files hold the
pattern `<name>-?????-of-00002` then, which stands for the prefix here too. Both kinds may lie in
one folder, and where both have the same name, V2 wins, as for TensorFlow.

Saves that were interrupted leave `<prefix>.…tempstate<number>` files or a folder
`<prefix>_temp/` whose `part-…` files are each a complete bundle.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..errors import ConvertError, NotRecognisedError, UsageError
from ..names import decode, near
from ..notes import Kind, Note
from ..sources import FileSource
from .saved_model_files import model_of_variables
from .tensor_bundle import bundle_prefix, index_path
from .tensor_slices import is_tensor_slices
from .text_proto import unquote

__all__ = [
    "Found",
    "build_state",
    "find",
    "is_state_file",
    "leftovers",
    "looks_like_checkpoint",
    "meant",
    "read_state",
    "steps_in",
]

STATE_BYTES = 1 << 20  # a state file is text with a line per checkpoint; none is longer
# A comment, which may stand behind a value, or a field and its value.
_STATE_LINE = re.compile(
    rb"""\#[^\n]*|(\w+)\s*:\s*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[-+.\w]+)""", re.DOTALL
)
_STEP = re.compile(r"-(\d+)$")
_V1_SHARD = re.compile(r"^(?P<name>.+)-(\d{5}|\?{5})-of-(?P<count>\d{5})$", re.DOTALL)
_LEFTOVER = re.compile(r"\.tempstate\d+$|_temp(_[0-9a-f]{32})?$")


@dataclass(frozen=True)
class Found:
    """A checkpoint, and what was seen on the way to it.

    Attributes:
        prefix: of the checkpoint that is meant; the file or the shards' pattern for V1.
        others: prefixes of the other checkpoints in the folder, where a folder was given.
        notes: why this one, leftovers, stale paths.
        files: of a V1 checkpoint, all shards, whether or not they are there; none for V2.
    """

    prefix: Path
    others: tuple[Path, ...] = ()
    notes: tuple[Note, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if self.files else 2

    @property
    def base(self) -> Path:
        """The prefix without the pattern of V1 shards; the graph beside is `<base>.meta`."""
        return self.prefix.with_name(_name(self.prefix))

    @property
    def step(self) -> int | None:
        """The step that the prefix names, if it does."""
        return _step(self.prefix)

    def choice(self) -> Iterator[Note]:
        """Say which checkpoint of several was taken."""
        if self.others:
            names = ", ".join(f"`{other.name}`" for other in self.others)
            yield _note(
                f"`{self.prefix.name}` was taken; the folder also holds {names} (--step, --latest)"
            )


def find(path: Path, *, step: int | None = None, latest: bool = False, version: int = 2) -> Found:
    """Return the checkpoint that `path` stands for.

    Args:
        path: a prefix, a member file, a folder or a state file.
        step: take the checkpoint of this step from the folder.
        latest: take the one of the highest step, whatever the state file says.
        version: what the caller reads.

    Raises:
        NotRecognisedError: there is none.
        UsageError: there are several and nothing says which, or it is of the other version.
    """
    found = _find(path, step, latest, version)
    if found.version != version:
        raise UsageError(
            f"`{found.prefix.name}` is a checkpoint of the other version",
            path=path,
            expected=f"V{version}",
            got=f"V{found.version}",
            hint=f"point at {found.prefix} itself, without --from",
        )
    return found


def _find(path: Path, step: int | None, latest: bool, version: int) -> Found:
    if path.is_dir():
        return _in_folder(path, step, latest)
    if is_state_file(path):
        if step is not None or latest:
            return _in_folder(path.parent, step, latest)
        return _named_by(path)
    found = meant(path, version)
    prefix = found.prefix if found else bundle_prefix(path) or path
    if step is not None and _step(prefix) != step:
        return _in_folder(prefix.parent, step, latest)
    if found is None and version == 1 and path.is_file():
        return Found(path, files=(path,))  # reading it says best what is wrong with it
    if found is None:
        raise _incomplete(path, prefix)
    return replace(found, notes=_notes_beside(found))


def looks_like_checkpoint(path: Path, *, version: int = 2) -> bool:
    """Tell whether `path` is a prefix, member, folder or state file of a checkpoint.

    Also true for what is left of a V2 one, so that the error can say what is missing.
    """
    return _version(path) == version


def _version(path: Path) -> int | None:
    if path.is_dir() or is_state_file(path):
        return _version_in(path)
    found = meant(path)
    if found:
        return found.version
    if bundle_prefix(path) or _LEFTOVER.search(path.name):
        return 2
    return 2 if not path.exists() and _members(path) else None


def _version_in(path: Path) -> int | None:
    """Return the version of the checkpoint that a folder or state file stands for."""
    if path.is_dir() and model_of_variables(path):
        return None  # part of a SavedModel, whose graph says what the variables are
    try:
        return _find(path, None, False, 2).version
    except ConvertError:
        folder = path if path.is_dir() else path.parent
        versions = [_found(prefix).version for prefix in _prefixes(folder)]
        if not versions and (_state_files(folder) or leftovers(folder)):
            return 2
        return max(versions, default=None)


# Both versions


def meant(path: Path, first: int = 2) -> Found | None:
    """Return the checkpoint that is named by itself or by one of its files.

    Args:
        path: a prefix or a member.
        first: the version to take where both have the same name.
    """
    candidates = [path, *filter(None, [bundle_prefix(path)])]
    for version in (first, 3 - first):
        for candidate in candidates:
            found = _bundle(candidate) if version == 2 else _v1(candidate)
            if found:
                return found
    return None


def _bundle(prefix: Path) -> Found | None:
    return Found(prefix) if index_path(prefix).is_file() else None


def _v1(path: Path) -> Found | None:
    """Return the V1 checkpoint that is this file, has it for a shard, or is called so."""
    pattern = _v1_pattern(path)
    if pattern is None and path.is_file():
        return Found(path, files=(path,)) if is_tensor_slices(path) else None
    if pattern is None and not path.exists():
        pattern = _v1_called(path)
    if pattern is None or not any(map(is_tensor_slices, _v1_shards(pattern))):
        return None
    start, count = pattern.name[: -len("?????-of-00000")], int(pattern.name[-5:])
    names = [f"{start}{shard:05d}-of-{count:05d}" for shard in range(count)]
    return Found(pattern, files=tuple(pattern.with_name(name) for name in names))


def _v1_pattern(path: Path) -> Path | None:
    """Return the pattern of a shard, as state files have it."""
    match = _V1_SHARD.match(path.name)
    return match and path.with_name(f"{match['name']}-?????-of-{match['count']}")


def _v1_called(path: Path) -> Path | None:
    """Return the pattern of the shards that have this name, if all have the same."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    patterns = {_v1_pattern(each) for each in beside if each.name.startswith(f"{path.name}-")}
    named = [each for each in patterns if each and _name(each) == path.name]
    return named[0] if len(named) == 1 else None


def _v1_shards(pattern: Path) -> list[Path]:
    """Return the shards of a pattern that are there."""
    beside = pattern.parent.iterdir() if pattern.parent.is_dir() else ()
    return sorted(path for path in beside if _v1_pattern(path) == pattern and path.is_file())


def _name(prefix: Path) -> str:
    """Return the name of a prefix, without the pattern of V1 shards."""
    match = _V1_SHARD.match(prefix.name)
    return match["name"] if match else prefix.name


def _found(prefix: Path, others: tuple[Path, ...] = (), notes: tuple[Note, ...] = ()) -> Found:
    """Return a checkpoint that is known to be there."""
    return replace(meant(prefix) or Found(prefix), others=others, notes=notes)


# The state file


def is_state_file(path: Path) -> bool:
    """Tell by its content whether a file is a CheckpointState in text form."""
    return bool(path.is_file() and read_state(path))


def build_state(name: str) -> bytes:
    """Return the state file for a checkpoint `name` in the same folder."""
    raw = name.encode("utf-8", "surrogateescape")
    quoted = b'"' + b"".join(_quote(byte) for byte in raw) + b'"\n'
    return b"model_checkpoint_path: " + quoted + b"all_model_checkpoint_paths: " + quoted


def _quote(byte: int) -> bytes:
    if byte in b'"\\':
        return b"\\" + bytes([byte])
    return bytes([byte]) if 0x20 <= byte < 0x7F else b"\\%03o" % byte


def read_state(path: Path) -> list[Path]:
    """Return the paths a state file names, the latest first; none if it is no state file."""
    source = FileSource(path)
    try:
        text = source.read(0, source.size) if source.size <= STATE_BYTES else b""
    except ConvertError:
        return []
    finally:
        source.close()
    if b"model_checkpoint_path" not in text or b"\0" in text:
        return []
    rows = _STATE_LINE.findall(text)
    latest = [value for key, value in rows if key == b"model_checkpoint_path"]
    others = [value for key, value in rows if key == b"all_model_checkpoint_paths"]
    if not latest:
        return []
    named = dict.fromkeys([latest[-1], *reversed(others)])
    return [_path(value) for value in named]


def _path(value: bytes) -> Path:
    return Path(decode(unquote(value) if value[:1] in (b'"', b"'") else value))


def _named_by(state: Path) -> Found:
    """Return the first checkpoint that a state file names and that is there."""
    named = read_state(state)
    for number, path in enumerate(named):
        for candidate in (state.parent / path, state.parent / path.name):
            found = meant(candidate)
            if found is None:
                continue
            notes = []
            if candidate != state.parent / path:
                notes.append(_note(f"`{state.name}` names {path}, which is gone; read beside it"))
            if number:
                notes.append(_note(f"the latest, `{named[0].name}`, is not there"))
            others = tuple(each for each in _prefixes(state.parent) if each != found.prefix)
            notes += _leftover_notes(state.parent)
            return replace(found, others=others, notes=tuple(notes))
    raise NotRecognisedError(
        "names a checkpoint that is not there",
        path=state,
        expected=f"`{named[0].name}.index` beside it",
        hint=_listing(state.parent) or "copy the checkpoint's files here too",
    )


# Folders


def _in_folder(folder: Path, step: int | None, latest: bool) -> Found:
    prefixes = _prefixes(folder)
    if step is not None:
        prefix = _of_step(folder, prefixes, step)
    elif latest and prefixes:
        prefix = max(prefixes, key=lambda each: (_step(each) or -1, each.name))
    else:
        return _default(folder, prefixes)
    return _with_others(prefix, prefixes, folder)


def _of_step(folder: Path, prefixes: Sequence[Path], step: int) -> Path:
    found = [prefix for prefix in prefixes if _step(prefix) == step]
    if len(found) == 1:
        return found[0]
    what = "no checkpoint" if not found else "several checkpoints"
    raise UsageError(f"{what} of step {step}", path=folder, hint=_listing(folder))


def _default(folder: Path, prefixes: Sequence[Path]) -> Found:
    """Return what is meant by a folder alone: what its state file names, or its only one."""
    states = _state_files(folder)
    named = [_named_by(state) for state in states] if prefixes else []
    if named and len({found.prefix for found in named}) == 1:
        return named[0]
    if len(prefixes) == 1:
        return _with_others(prefixes[0], prefixes, folder)
    if prefixes:
        why = "state files disagree" if named else "there is no state file"
        raise UsageError(
            f"holds {len(prefixes)} checkpoints and {why}",
            path=folder,
            hint=f"choose with --step or --latest; {_listing(folder)}",
        )
    parts = leftovers(folder)
    raise NotRecognisedError(
        "holds no checkpoint, only what an interrupted save left"
        if parts
        else "holds a state file and no checkpoint",
        path=folder,
        hint=_salvage(parts),
    )


def _prefixes(folder: Path) -> list[Path]:
    """Return the prefixes in a folder by step, then by name."""
    files = [path for path in folder.iterdir() if path.is_file()]
    names = [path.name[: -len(".index")] for path in files if path.name.endswith(".index")]
    prefixes = {folder / name for name in names if name}
    others = [path for path in files if path not in prefixes and not bundle_prefix(path)]
    # Once per pattern: data sets are named so too, and have thousands of shards.
    found = (_v1(path) for path in {_v1_pattern(path) or path for path in others})
    prefixes |= {each.prefix for each in found if each}
    return sorted(prefixes, key=lambda prefix: (_step(prefix) or -1, prefix.name))


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, lowest first; those without are left out."""
    if not folder.is_dir():
        return []
    return sorted({step for each in _prefixes(folder) if (step := _step(each)) is not None})


def _members(prefix: Path) -> list[Path]:
    """Return the files of a prefix, whether or not they make a checkpoint."""
    if not prefix.parent.is_dir():
        return []
    start = f"{prefix.name}."
    others = (path for path in prefix.parent.iterdir() if path.name.startswith(start))
    return [path for path in others if bundle_prefix(path) == prefix]


def _state_files(folder: Path) -> list[Path]:
    """Return the state files of a folder; `checkpoint` alone where it is there."""
    usual = folder / "checkpoint"
    if is_state_file(usual):
        return [usual]
    small = (path for path in sorted(folder.iterdir()) if path.is_file())
    return [path for path in small if path.stat().st_size <= STATE_BYTES and read_state(path)]


def leftovers(folder: Path) -> list[Path]:
    """Return what interrupted saves have left in a folder, by name."""
    return [folder / name for name in _leftover_names(folder, folder.stat().st_mtime_ns)]


@lru_cache(maxsize=16)  # a folder of 1,000 models is not listed 1,000 times
def _leftover_names(folder: Path, _changed_ns: int) -> tuple[str, ...]:
    names = (entry.name for entry in os.scandir(folder))
    return tuple(sorted(name for name in names if _LEFTOVER.search(name)))


def _leftover_notes(folder: Path) -> tuple[Note, ...]:
    return tuple(
        _note(f"`{path.name}` was left by an interrupted save; not read")
        for path in leftovers(folder)
    )


def _with_others(prefix: Path, prefixes: Sequence[Path], folder: Path) -> Found:
    others = tuple(other for other in prefixes if other != prefix)
    return _found(prefix, others, _leftover_notes(folder))


def _notes_beside(found: Found) -> tuple[Note, ...]:
    name = found.prefix.name
    notes = [note for note in _leftover_notes(found.prefix.parent) if f"`{name}" in note.text]
    if found.version == 2 and found.prefix.is_file():
        notes.append(_note(f"`{name}` beside it is not read: the index wins, as for Saver"))
    return tuple(notes)


def _step(prefix: Path) -> int | None:
    match = _STEP.search(_name(prefix))
    return int(match[1]) if match else None


def _note(text: str) -> Note:
    return Note(Kind.SOURCE, text)


# Errors


def _incomplete(path: Path, prefix: Path) -> NotRecognisedError:
    if _LEFTOVER.search(path.name):
        return NotRecognisedError(
            "was left by an interrupted save", path=path, hint=_salvage([path])
        )
    what = "the checkpoint has no index"
    if path.name.endswith(".meta"):
        what = "a graph without weights: the checkpoint has no index"
    folder = path.parent
    names = [other.name for other in _prefixes(folder)] if folder.is_dir() else []
    hint = near(prefix.name, names) or "copy the .index and .data files here too"
    return NotRecognisedError(what, path=path, expected=f"`{prefix.name}.index`", hint=hint)


def _listing(folder: Path) -> str | None:
    names = [f"`{prefix.name}`" for prefix in _prefixes(folder)]
    if not names:
        return None
    shown = names if len(names) <= 12 else [*names[:6], "…", *names[-5:]]
    return f"the folder holds {', '.join(shown)}"


def _salvage(parts: Sequence[Path]) -> str | None:
    """Return a hint on the parts of an interrupted save, each of which is a whole bundle."""
    for folder in parts:
        found = _prefixes(folder) if folder.is_dir() else []
        if found:
            return f"its parts can be read, such as {found[0]}"
    return None
