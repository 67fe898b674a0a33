"""The ledger of a folder in an object store.

It is a ledger on this machine for as long as a batch runs, made of what lies in the store. Its new
rows are put into the store every second (`journal.py`); at the end the whole is stored as one
object, as it would lie on a disk, and what was put down until then is removed.

Rows of the last second may be lost with the machine. So before work begins the batch puts down what
it may write: targets that are not there, and those that a batch has written. What of these
is there later is its own, also without a row.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType
from typing import Any

from blake3 import blake3

from ...converters.errors import ConvertError, NotRecognisedError
from ...converters.scratch import make_locked
from ...converters.staging import remove_stale, target_error
from ...converters.stores import Stored
from .jobs import Job, Part
from .journal import Journal
from .lease import Lease
from .ledger import Ledger, Standing, in_time, ledger_name, now
from .shelf import READ_BYTES, Shelf, new_run
from .work import Output

__all__ = ["StoreLedger", "merge_in_store"]


def _silent(_: str) -> None:
    """Say nothing."""


class StoreLedger(Ledger):
    """A ledger in a store, open for adding rows; a context manager that holds its lease.

    Args:
        root: the URL of the folder of the targets.
        part: as for `Ledger`.
        endpoint: where the store is, if not where its cloud is.
        say: hears what takes long.
        also: other parts that are kept from being written meanwhile.

    Raises:
        UsageError: another batch is at work there.
        ConvertError: the store cannot be reached or written to.
    """

    def __init__(
        self,
        root: Path,
        part: Part | None = None,
        *,
        endpoint: str | None = None,
        say: Callable[[str], None] = _silent,
        also: Iterable[Part] = (),
    ) -> None:
        self._shelf = Shelf(root, endpoint)
        self._part = part
        self._run = new_run()
        self._inherited: dict[str, str] = {}
        self._claimed: set[str] = set()
        self._claims: str | None = None
        self._has_news = False
        self._stack = ExitStack()
        with self._stack:
            self._held = self._take_leases([part, *also], say)
            self._journal = Journal(self._shelf.store, self._segment, self._held)
            self._stack.callback(self._journal.close)
            folder = self._make_folder()
            self._shelf.look(targets=True)
            self._leftovers = [each.key for each in self._shelf.leftovers(part)]
            self._open_claims = self._shelf.claimed(part)
            for each in dict.fromkeys([None, part] if part else self._shelf.parts()):
                self._shelf.take_down(each, folder)
                self._inherited |= self._shelf.claimed(each)
            super().__init__(folder, part)
            self._usual = f"{root}/"
            self._stack = self._stack.pop_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the rows together, and let others have the ledger."""
        with self._stack:
            try:
                self._journal.close()
                self._put_together()
            except ConvertError:
                with suppress(ConvertError):
                    self._journal.flush()
                if error is None:
                    raise
            finally:
                super().__exit__(kind, error, trace)

    def standing(self, job: Job) -> Standing:
        """Return how a job stands; looks at the listing, and reads what has changed there."""
        standing = super().standing(job)
        name = self._named(job.target)
        last = self._last.get(name)
        if standing.finished and last:
            self._note_marks(job, last.files)
        elif not standing.ours and name in self._inherited:
            return standing._replace(ours=self._is_unsaid(name, self._inherited[name]))
        return standing

    def claim(self, jobs: Iterable[Job]) -> None:
        """Put down which targets may be written from now on.

        Raises:
            ConvertError: the store cannot be written to.
        """
        self._claimed = {*self._not_foreign(self._named(job.target) for job in jobs)}
        if self._claimed:
            self._store_claims({**self._open_claims, **dict.fromkeys(self._claimed, now())})

    def is_claimed(self, job: Job) -> bool:
        """Tell whether a target was put down by `claim`, and is for nobody else to write."""
        return self._named(job.target) in self._claimed

    def sync(self) -> None:
        """Tell whether rows reach the store; that takes a second or so.

        Raises:
            ConvertError: they do not.
        """
        self._journal.check()

    def parts(self) -> list[Part]:
        """Return the parts that have ledgers of their own."""
        return [each for each in self._shelf.parts() if each]

    def take_over(self, parts: Iterable[Part]) -> None:
        """Add the rows of parts, store all, and remove their own ledgers.

        Raises:
            ConvertError: the store cannot be written to.
        """
        parts = list(parts)
        self.add(in_time([self._folder / ledger_name(each) for each in parts]))
        self._put_together()  # before the only other copies go
        for part in parts:
            whole = self._shelf.objects.get(ledger_name(part))
            for stored in (*([whole] if whole else ()), *self._shelf.leftovers(part)):
                self._shelf.store.delete(stored.key)

    def _take_leases(self, parts: Iterable[Part | None], say: Callable[[str], None]) -> list[Lease]:
        held = []
        for part in parts:
            lease = Lease(self._shelf.store, self._shelf.lock(part), self._run)
            lease.take(say)
            self._stack.callback(lease.release)
            held.append(lease)
        return held

    def _make_folder(self) -> Path:
        """Make the folder of the ledger on this machine, and remove those of killed processes."""
        parent = Path(gettempdir())
        remove_stale(parent)
        try:
            self._folder, lock = make_locked(parent)
        except OSError as error:
            raise target_error(parent, error) from error
        if lock is not None:
            self._stack.callback(os.close, lock)
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _segment(self, number: int) -> str:
        return self._shelf.rows(self._part, self._run, number)

    def _write(self, line: bytes) -> None:
        super()._write(line)
        self._has_news = True
        self._journal.add(line)

    def _put_together(self) -> None:
        """Store the whole ledger, and remove what was put down for the case of a crash."""
        if not (self._has_news or self._leftovers or self._claims):
            return
        for each in self._held:
            each.renew()  # after a long sleep it may be somebody else's
        store = self._shelf.store
        store.put(self._shelf.key(ledger_name(self._part)), self.path, lambda _: None)
        gone = [*self._leftovers, *self._journal.keys, *([self._claims] if self._claims else ())]
        claims = {name: at for name, at in self._open_claims.items() if self._is_unsaid(name, at)}
        kept = self._store_claims(claims) if claims else None
        for key in dict.fromkeys(gone):
            if key != kept:
                store.delete(key)
        self._has_news = False
        self._leftovers.clear()
        self._journal.keys.clear()

    def _is_unsaid(self, name: str, at: str) -> bool:
        """Tell whether no row says what became of a claim."""
        last = self._last.get(name)
        return last is None or last.at < at

    def _store_claims(self, claims: dict[str, str]) -> str:
        path = self._folder / "claims"
        with path.open("w", encoding="ascii") as file:
            for name, at in claims.items():
                file.write(json.dumps({"target": name, "at": at}) + "\n")
        self._claims = self._shelf.claims(self._part, self._run)
        self._shelf.store.put(self._claims, path, lambda _: None)
        return self._claims

    def _not_foreign(self, names: Iterable[str]) -> list[str]:
        """Return the targets of which nothing is there that nobody here has written."""
        ours = {each.path for last in self._last.values() for each in last.files}
        foreign = {stem for path in self._shelf.objects.keys() - ours for stem in _stems(path)}
        return [
            name
            for name in names
            if name in self._inherited
            or ((last := self._last.get(name)) and last.ours)
            or _stem(name) not in foreign
        ]

    def _is_there(self, output: Output) -> bool:
        """Tell whether an object is the one that was written; it is read if its mark differs."""
        stored = self._shelf.objects.get(output.path)
        if stored is None or stored.size != output.size:
            return False
        return bool(output.mark and output.mark == stored.mark) or (
            self._digest(stored) == output.digest
        )

    def _digest(self, stored: Stored) -> str:
        state = blake3()
        for at in range(0, stored.size, READ_BYTES):
            length = min(READ_BYTES, stored.size - at)
            state.update(self._shelf.store.get(stored, at, length))
        return state.hexdigest()

    def _note_marks(self, job: Job, files: tuple[Output, ...]) -> None:
        """Write down that files have other marks now, so that they are not read again."""
        marked = [each._replace(mark=self._shelf.objects[each.path].mark) for each in files]
        if all(each.mark == old.mark for each, old in zip(marked, files, strict=True)):
            return
        what: dict[str, Any] = {
            "files": [each.json() for each in marked],
            "bytes": sum(each.size for each in files),
            "checked": True,
        }
        self._add("done", job, what)


def merge_in_store(root: Path, endpoint: str | None) -> int:
    """Do in a store what `merge` does on a disk; return how many parts there were.

    Raises:
        NotRecognisedError: there are none.
        UsageError: a part is at work.
        ConvertError: the store cannot be reached or written to.
    """
    shelf = Shelf(root, endpoint)
    shelf.look(targets=False)
    parts = [each for each in shelf.parts() if each]
    if not parts:
        raise NotRecognisedError(
            "no ledgers of parts of a batch", path=root, hint="`--shard 2/8` makes them"
        )
    with StoreLedger(root, endpoint=endpoint, also=parts) as whole:
        whole.take_over(parts)
    return len(parts)


def _stem(path: str) -> str:
    """Return what all files of a target have in common, and perhaps those of others."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _stems(path: str) -> Iterator[str]:
    """Yield the same of a file and of the folders that it is in."""
    while path:
        yield _stem(path)
        path = path.rpartition("/")[0]
