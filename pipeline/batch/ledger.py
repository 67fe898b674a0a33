"""What became of every model of a batch: one file beside the outputs, to which rows are added.

A row is one JSON object on one line, with an `event`:

| event | says | has |
| --- | --- | --- |
| `started` | a worker was given the model | `target`, `source`, `attempt` |
| `done` | the target is there, and on the disk if `fsync` is on | `files`, `digest`, `counts`, … |
| `failed` | it cannot be converted | `error`, `hint`, `exit_code` |
| `stopped` | the batch was ended before it was done | `target`, `source` |
| `skipped` | this is no model | `source`, `error` |

The last row of a target counts. A `done` row counts only as long as source and flags are the same
and the files are the ones that were written: by size and time, or else by digest. So a row that is
lost, or torn by a crash, costs a conversion and nothing else; lines that are no rows are passed
over. Targets are stored relative to the folder that the ledger is in, which may be moved.

A part of a batch has a ledger of its own (`tensorferry-ledger.2-of-8.jsonl`), so that parts may run
on machines that know nothing of each other; `merge` makes one of all.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ...converters.errors import NotRecognisedError, UsageError
from ...converters.staging import target_error
from ..convert import ConvertOptions
from .jobs import Job, Part, Skipped
from .places import is_url, place_of
from .work import Outcome, Output, file_digest

__all__ = [
    "LEDGER", "Ledger", "Row", "Standing", "all_rows", "in_time", "ledger_name", "merge", "now",
    "read_rows", "recipe_of",
]  # fmt: skip

LEDGER = "tensorferry-ledger.jsonl"
_PARTS = "tensorferry-ledger.*-of-*.jsonl"
# A worker of a batch that was killed may take this long to be gone.
PATIENCE_SECONDS = 2.0
OTHER_FILES = 256  # that may be open beside many ledgers
# What does not change the output.
NO_RECIPE = frozenset(
    {
        "digest_file", "digests", "dry_run", "endpoint_url", "fsync", "jobs", "like", "overwrite",
        "report", "strict_like", "verify", "verify_sample",
    }
)  # fmt: skip

# Fields that name other files.
FILES = frozenset({"config", "layout_of", "template", "updates"})

Row = dict[str, Any]


class Standing(NamedTuple):
    """How a job stands before a batch begins.

    Attributes:
        finished: the target is there and as it should be.
        failure: the row of its last failure, if nothing has changed since.
        ours: the target, if it is there, was or may have been written by a batch.
        interrupted: it was being worked on when a batch was killed.
    """

    finished: bool = False
    failure: Row | None = None
    ours: bool = False
    interrupted: bool = False


class _Last(NamedTuple):
    """What counts of the rows of a target.

    Attributes:
        ours: the target, if it is there, was or may have been written by a batch.
        before: the same before the last attempt began.
    """

    at: str
    event: str
    fingerprint: str
    recipe: str
    files: tuple[Output, ...]
    failure: Row | None
    ours: bool
    before: bool


class Ledger:
    """The ledger of a folder, open for adding rows; a context manager that holds its lock.

    Args:
        root: the folder of the targets, which is made if it is not there.
        part: which part of the batch it is for, and of how many. What the ledger of the whole says
            counts too, and for that one what those of all parts say.

    Raises:
        UsageError: another batch is at work there.
        TargetError: it cannot be written.
    """

    def __init__(self, root: Path, part: Part | None = None) -> None:
        self.path = root / ledger_name(part)
        self._root = root.absolute()
        self._usual = f"{root}{os.sep}"
        self._last: dict[str, _Last] = {}
        self._skipped: dict[str, str] = {}
        self._recipes: dict[ConvertOptions, str] = {}
        try:
            root.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise target_error(self.path, error) from error
        try:
            self._take()
            self._end_last_line()
            known = [path for path in (root / LEDGER, self.path) if path.exists()]
            for row in in_time(dict.fromkeys(known)) if part else all_rows(root):
                self._keep(row)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def standing(self, job: Job) -> Standing:
        """Return how a job stands; looks at the files of its target."""
        last = self._last.get(self._named(job.target))
        if last is None:
            return Standing()
        interrupted = last.event == "started"
        if (last.fingerprint, last.recipe) != (job.fingerprint, self._recipe(job)):
            return Standing(ours=last.ours, interrupted=interrupted)
        finished = last.event == "done" and self._has_files(last.files)
        return Standing(finished, last.failure, ours=last.ours, interrupted=interrupted)

    def claim(self, jobs: Iterable[Job]) -> None:
        """Hear which jobs may be started now; on a disk `started` rows are there in time."""

    def is_claimed(self, job: Job) -> bool:
        """Tell whether a target was put down by `claim`, and is for nobody else to write."""
        del job
        return False

    def is_open(self, job: Job) -> bool:
        """Tell whether a job was started, and no row says how that ended."""
        last = self._last.get(self._named(job.target))
        return last is not None and last.event == "started"

    def started(self, job: Job, attempt: int) -> Row:
        """Add that a worker was given a job; `attempt` counts from 1."""
        return self._add("started", job, {"attempt": attempt})

    def stopped(self, job: Job) -> Row:
        """Add that a job was ended before it was done."""
        return self._add("stopped", job, {})

    def ended(self, job: Job, outcome: Outcome) -> Row:
        """Add what became of a job."""
        seconds = {"seconds": round(outcome.seconds, 3)}
        if outcome.failure:
            return self._add("failed", job, {**outcome.failure.json(), **seconds})
        files = [each._replace(path=self._named(each.path)).json() for each in outcome.files]
        what = {
            "files": files,
            "digest": outcome.digest,
            "counts": outcome.counts,
            "lossy": outcome.lossy,
            "bytes": sum(each.size for each in outcome.files),
            "formats": outcome.formats,
        }
        return self._add("done", job, {**what, **seconds})

    def skipped(self, what: Skipped) -> Row | None:
        """Add that something is no model; None if that was said before."""
        if self._skipped.get(what.path) == what.reason:
            return None
        row = {"event": "skipped", "at": now(), "source": what.path, "error": what.reason}
        self._append(row)
        return row

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows of ledgers of the same folder, but for those that later ones have outdone."""
        for row in rows:
            last = self._last.get(row["target"]) if "target" in row else None
            if last is None or _time(row) >= last.at:
                self._append(row)

    def sync(self) -> None:
        """Wait until the disk has all rows."""
        os.fsync(self._descriptor)

    def _add(self, event: str, job: Job, what: Row) -> Row:
        row = {
            "event": event,
            "at": now(),
            "target": self._named(job.target),
            "source": job.source,
            "source_bytes": job.nbytes,
            "fingerprint": job.fingerprint,
            "recipe": self._recipe(job),
            "version": _version(),
            **what,
        }
        self._append(row)
        return row

    def _keep(self, row: Row) -> None:
        """Keep of a row what the next batch asks for; of a million models that is a lot."""
        if row["event"] == "skipped":
            self._skipped[row["source"]] = row["error"]
            return
        last = self._last.get(row["target"])
        before = last.ours if last else False
        if row["event"] == "failed" and last and last.event == "started":
            before = last.before
        # What a worker has refused to do has left nothing: what is there is somebody else's.
        refused = row["event"] == "failed" and row["exit_code"] == UsageError.exit_code
        self._last[row["target"]] = _Last(
            _time(row),
            row["event"],
            row["fingerprint"],
            sys.intern(row["recipe"]),
            tuple(Output(**each) for each in row.get("files", ())),
            row if row["event"] == "failed" else None,
            before if refused else True,
            before,
        )

    def _recipe(self, job: Job) -> str:
        recipe = self._recipes.get(job.flags)  # a batch has one, or a few
        if recipe is None:
            recipe = self._recipes[job.flags] = recipe_of(job.flags)
        return recipe

    def _append(self, row: Row) -> None:
        line = json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n"
        # An interrupt is heard after the write: by then it has to be known that the row is there.
        self._keep(row)
        self._write(line)

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except OSError as error:
                raise target_error(self.path, error) from error

    def _named(self, target: str) -> str:
        """Return what the ledger calls a target: relative to its own folder where it is below."""
        if target.startswith(self._usual):  # most are; `Path` takes its time
            return target[len(self._usual) :]
        return str(Path(target).absolute()).removeprefix(f"{self._root}{os.sep}")

    def _has_files(self, files: tuple[Output, ...]) -> bool:
        with suppress(OSError):
            return bool(files) and all(self._is_there(each) for each in files)
        return False

    def _is_there(self, output: Output) -> bool:
        """Tell whether a file is the one that was written; it is read only if its time differs."""
        path = self._root / output.path
        state = path.stat()
        if state.st_size != output.size:
            return False
        return state.st_mtime_ns == output.mtime_ns or file_digest(path) == output.digest

    def _take(self) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UsageError(
                        "another batch is at work here",
                        path=self.path,
                        hint="wait for it, or choose another folder",
                    ) from error
                time.sleep(0.02)
            except OSError as error:
                raise target_error(self.path, error) from error
            else:
                return

    def _end_last_line(self) -> None:
        """End a line that a crash has torn, so that the next row has one of its own."""
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            os.write(self._descriptor, b"\n")


def ledger_name(part: Part | None) -> str:
    """Return what the ledger of a part, or of the whole, is called."""
    return f"tensorferry-ledger.{part}.jsonl" if part else LEDGER


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a ledger; lines that are none, as a crash leaves them, are passed over.

    Raises:
        NotRecognisedError: there is no ledger.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotRecognisedError(
            f"no ledger of a batch: {os.strerror(error.errno or 0).lower()}", path=path
        ) from error
    with file:
        for line in file:
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict) and _is_row(row):
                    yield row


def all_rows(root: Path) -> Iterator[Row]:
    """Yield the rows of all ledgers of a folder in the order of their times.

    Raises:
        NotRecognisedError: there is none.
    """
    parts = sorted(root.glob(_PARTS))
    whole = root / LEDGER
    return in_time([*((whole,) if whole.exists() or not parts else ()), *parts])


def in_time(paths: Iterable[Path]) -> Iterator[Row]:
    """Yield the rows of several ledgers in the order of their times."""
    paths = list(paths)
    _allow_files(2 * len(paths))  # read, and by `merge` locked
    return heapq.merge(*map(read_rows, paths), key=_time)


def _allow_files(count: int) -> None:
    """Raise the limit of open files for so many more, as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OTHER_FILES + count
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _time(row: Row) -> str:
    return str(row.get("at", ""))


def merge(root: Path) -> int:
    """Add what all parts have come to to the ledger of the whole; return how many they were.

    Their own ledgers are removed.

    Raises:
        NotRecognisedError: there are none.
        UsageError: a part is at work.
        TargetError: the ledger cannot be written.
    """
    paths = sorted(root.glob(_PARTS))
    if not paths:
        raise NotRecognisedError(
            "no ledgers of parts of a batch", path=root, hint="`--shard 2/8` makes them"
        )
    with Ledger(root) as whole, ExitStack() as stack:
        for path in paths:
            stack.enter_context(Ledger(root, Part.of(path.name.split(".")[1])))
        whole.add(in_time(paths))
        whole.sync()  # before the only other copy goes
        for path in paths:
            path.unlink()
    return len(paths)


def _is_row(row: Row) -> bool:
    """Tell whether a row has what is asked of one; rows of later versions may have more."""
    event = row.get("event")
    if event == "skipped":
        return _has(row, str, "source", "error")
    if not _has(row, str, "event", "source", "target", "fingerprint", "recipe"):
        return False
    if event == "failed":
        return _has(row, str, "error") and _has(row, int, "exit_code")
    if event != "done":
        return True
    files = row.get("files")
    return isinstance(files, list) and all(
        isinstance(each, dict)
        and each.keys() - {"mark"} == {*Output._fields} - {"mark"}
        and _has(each, str, "path", "digest", *({"mark"} & each.keys()))
        and _has(each, int, "size", "mtime_ns")
        for each in files
    )


def _has(row: Row, kind: type, *names: str) -> bool:
    return all(isinstance(row.get(name), kind) for name in names)


def recipe_of(options: ConvertOptions) -> str:
    """Return a digest of all that makes the output what it is, but for the source.

    Of files that are named (updates, templates), sizes and times are in it.
    """
    from blake3 import blake3

    endpoint = options.read.endpoint_url
    text = json.dumps(_plain(options, ConvertOptions(), endpoint), sort_keys=True)
    return blake3(text.encode("ascii")).hexdigest(length=16)


@cache
def _version() -> str:
    from importlib.metadata import version

    return version("tensorferry")


def _plain(value: Any, usual: Any, endpoint: str | None) -> Any:
    """Return options as JSON values, without those that are as usual: there may be new ones."""
    if not is_dataclass(value):
        return sorted(value) if isinstance(value, frozenset) else value
    chosen: dict[str, Any] = {}
    for each in fields(value):
        given, default = getattr(value, each.name), getattr(usual, each.name)
        if given == default or each.name in NO_RECIPE:
            continue
        if each.name in FILES:
            chosen[each.name] = [_mark(path, endpoint) for path in _paths(given)]
        else:
            chosen[each.name] = _plain(given, default, endpoint)
    return {name: each for name, each in chosen.items() if each != {}}


def _paths(value: Any) -> list[Path]:
    given = value if isinstance(value, tuple) else (value,)
    return [place_of(each) for each in given if each is not None]


def _mark(path: Path, endpoint: str | None) -> list[Any]:
    """Return what changes when a file, a folder or the files of a prefix change."""
    if is_url(path):
        from ...converters.remote import objects_at

        return [
            str(path),
            *([each.key, each.size, each.mark] for each in objects_at(path, endpoint)),
        ]
    if path.is_dir():
        files = [each for each in path.rglob("*") if each.is_file()]
    else:
        files = [path] if path.is_file() else [*path.parent.glob(f"{path.name}.*")]
    states = [(str(each.relative_to(path.parent)), each.stat()) for each in sorted(files)]
    return [[name, state.st_size, state.st_mtime_ns] for name, state in states]


def now() -> str:
    """Return the time as rows have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
