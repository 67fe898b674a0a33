"""What is odd about the files of a checkpoint, beyond what reading its tensors shows.

Nothing writes gaps into a data shard: TensorFlow lays tensors out one behind the other
(tensorflow/core/util/tensor_bundle/tensor_bundle.cc, v2.21.0). What no entry lists was lost from
the index, or was added to the file. Of the state file `checkpoint` and of interrupted saves see
`checkpoint_files.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ConvertError
from ..findings import Finding, Level
from ..names import decode, encode
from ..sources import FileSource
from .bundle_messages import Entry, parse_entry, parse_header, slice_key
from .checkpoint_files import Found, is_state_file, leftovers, meant, read_state
from .coverage import coverage
from .sstable import Table
from .tensor_bundle import Bundle, index_path, shard_path

__all__ = ["audit_bundle", "audit_surroundings", "audit_table"]


def audit_table(path: Path) -> Iterator[Finding]:
    """Yield findings on the bytes of an index, or of a V1 checkpoint, outside of its blocks."""
    source = FileSource(path)
    try:
        yield from coverage(path, Table(source, verify=False).ranges(), source.size)
    finally:
        source.close()


def audit_bundle(prefix: Path, read: Iterable[str], *, verify: bool) -> Iterator[Finding]:
    """Yield findings on the files of a bundle that was opened: index and data shards.

    Args:
        prefix: of the bundle.
        read: keys of the tensors that somebody else reads; the others are read here, such as the
            object graph.
        verify: whether their checksums are checked.
    """
    yield from audit_table(index_path(prefix))
    shards, entries = _read(prefix)
    listed = {slice_key(key, each) for key, entry in entries.items() for each in entry.slices}
    unread = set(entries) - listed - {encode(key) for key in read}
    if unread:
        yield from _read_through(prefix, {decode(key) for key in unread}, verify=verify)
    orphans = [key for key in entries if key[:1] == b"\0" and key not in listed]
    if orphans:
        text = f"{_counted(len(orphans), 'slice')} that no tensor lists"
        yield _warning("integrity/orphan-slice", text, index_path(prefix))
    for shard in range(shards):
        stored = [each for each in entries.values() if not each.slices and each.shard == shard]
        yield from _audit_shard(shard_path(prefix, shard, shards), stored)
    yield from _stray(prefix, shards)


def _read(prefix: Path) -> tuple[int, dict[bytes, Entry]]:
    """Return the number of shards, and the entries by key."""
    index = FileSource(index_path(prefix))
    try:
        rows = Table(index, verify=False).entries()
        header = parse_header(next(rows)[1])
        entries: dict[bytes, Entry] = {}
        for key, value in rows:  # of a repeated key the first counts, as for reading
            entries.setdefault(key, parse_entry(value))
        return header.shards, entries
    finally:
        index.close()


def _read_through(prefix: Path, keys: set[str], *, verify: bool) -> Iterator[Finding]:
    bundle = Bundle.open(prefix, verify=verify)
    try:
        for key in sorted(keys):
            try:
                for _ in bundle.tensors[key].chunks():
                    pass
            except ConvertError as error:
                where = None if error.where is None else error.where.removeprefix(f"tensor `{key}`")
                place = ": ".join(filter(None, (f"entry `{key}`", (where or "").lstrip(": "))))
                rule = "integrity/missing-data" if key in bundle.broken else "integrity/damaged"
                yield Finding(rule, Level.ERROR, error.what, path=error.path, where=place)
    finally:
        for source in bundle.sources:
            source.close()


def _audit_shard(path: Path, entries: Iterable[Entry]) -> Iterator[Finding]:
    ranges = [(each.offset, each.offset + each.size) for each in entries]
    if path.is_file():
        size = path.stat().st_size
        inside = ((start, min(end, size)) for start, end in ranges if start >= 0)
        yield from coverage(path, inside, size)
    elif not any(start < end for start, end in ranges):
        yield _warning("integrity/missing-file", "data shard is missing; nothing is in it", path)


def _stray(prefix: Path, shards: int) -> Iterator[Finding]:
    """Yield the data files of this prefix that are no part of it, such as those of another save."""
    pattern = re.compile(re.escape(prefix.name) + r"\.data-\d{5}-of-\d{5}")
    own = {shard_path(prefix, shard, shards).name for shard in range(shards)}
    for path in sorted(prefix.parent.iterdir()):
        if pattern.fullmatch(path.name) and path.name not in own:
            text = "data shard that the index does not know; it may be of another save"
            yield _warning("integrity/stray-file", text, path)


# What lies beside


def audit_surroundings(found: Found, location: Path) -> Iterator[Finding]:
    """Yield findings on what interrupted saves left, and on the state file.

    Args:
        found: the checkpoint.
        location: what the user pointed at: of a folder all is looked at, else what belongs to it.
    """
    folder = found.prefix.parent
    whole = location.is_dir() or is_state_file(location)
    for path in leftovers(folder):
        if whole or path.name.startswith(found.base.name):
            text = "left by an interrupted save: what was to be saved may be lost"
            yield _warning("integrity/leftover", text, path)
    state = folder / "checkpoint"
    if state != found.prefix:  # a V1 checkpoint may have any name
        yield from _audit_state(location if is_state_file(location) else state)


def _audit_state(state: Path) -> Iterator[Finding]:
    named = read_state(state)
    gone = [path for path in named if not _is_there(state.parent / path)]
    beside = [path for path in gone if _is_there(state.parent / path.name)]
    if beside:
        text = f"names {_shown(beside)} in another folder; a checkpoint of that name lies here"
        yield _note("integrity/stale-state", text, state)
    lost = [path for path in gone if path not in beside]
    if lost and lost[0] == named[0]:
        text = f"names `{lost[0].name}` as the latest checkpoint, which is not there"
        yield _warning("integrity/stale-state", text, state)
        lost = lost[1:]
    if lost:
        text = f"names older checkpoints that are not there: {_shown(lost)}"
        yield _note("integrity/stale-state", text, state)


def _is_there(path: Path) -> bool:
    try:
        return meant(path) is not None
    except (ConvertError, OSError):  # a name may hold anything
        return False


def _shown(paths: list[Path]) -> str:
    names = ", ".join(f"`{path.name}`" for path in paths[:3])
    return names + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _warning(rule: str, text: str, path: Path) -> Finding:
    return Finding(rule, Level.WARNING, text, path=str(path))


def _note(rule: str, text: str, path: Path) -> Finding:
    return Finding(rule, Level.NOTE, text, path=str(path))
