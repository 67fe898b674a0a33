"""Where the ledgers of a folder in an object store lie, and how they come to this machine.

    out/tensorferry-ledger.jsonl                        as on a disk, when no batch is at work
    out/tensorferry-ledger.2-of-8.jsonl
    out/tensorferry-ledger.d/all/lock.json              who is at work (`lease.py`)
    out/tensorferry-ledger.d/all/<run>-000001.jsonl     the rows of a run that is at work, or died
    out/tensorferry-ledger.d/all/<run>-claims.jsonl     targets that it may have written
    out/tensorferry-ledger.d/2-of-8/…                   the same of a part

The name of a run begins with the time at which it began, so that names are in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ...converters.errors import CorruptFileError, NotRecognisedError, UsageError
from ...converters.remote import open_place
from ...converters.stores import NoListingError, Stored
from .jobs import Part
from .ledger import ledger_name

__all__ = ["Shelf", "fetched", "new_run"]

OWN = "tensorferry-ledger"
_FOLDER = f"{OWN}.d"
_ALL, _LOCK = "all", "lock.json"
_CLAIMS, _ROWS = "-claims.jsonl", ".jsonl"
READ_BYTES = 8 << 20
REQUESTS_AT_ONCE = 16
ATTEMPTS = 5


class Shelf:
    """The ledgers of one folder.

    Args:
        root: its URL.
        endpoint: where the store is, if not where its cloud is.

    Attributes:
        store: where they are.
        objects: of the folder, by path inside it; as they were when it was looked.
    """

    def __init__(self, root: Path, endpoint: str | None) -> None:
        place = open_place(str(root), endpoint)
        self.root = root
        self.store = place.store
        self._key = place.key
        self.objects: dict[str, Stored] = {}

    def look(self, *, targets: bool) -> None:
        """List the ledgers, and with `targets` all that lies in the folder.

        Raises:
            ConvertError: the store cannot be reached, or access is denied.
        """
        try:
            listed = [*self.store.list(self._key, below=targets)]
            if not targets:
                listed += self.store.list(self.key(_FOLDER), below=True)
        except NoListingError as error:
            raise NotRecognisedError("the server has no listings", path=self.root) from error
        cut = len(self._key) + 1 if self._key else 0
        self.objects = {each.key[cut:]: each for each in listed}

    def key(self, path: str) -> str:
        """Return the key of a path in the folder."""
        return f"{self._key}/{path}" if self._key else path

    def lock(self, part: Part | None) -> str:
        """Return the key of the object that says who is at work."""
        return self.key(f"{_FOLDER}/{part or _ALL}/{_LOCK}")

    def rows(self, part: Part | None, run: str, number: int) -> str:
        """Return the key of the rows of a run, of which there are several objects."""
        return self.key(f"{_FOLDER}/{part or _ALL}/{run}-{number:06}{_ROWS}")

    def claims(self, part: Part | None, run: str) -> str:
        """Return the key of what a run says that it may write."""
        return self.key(f"{_FOLDER}/{part or _ALL}/{run}{_CLAIMS}")

    def parts(self) -> list[Part | None]:
        """Return of which parts, or of the whole, there are ledgers."""
        names = {path.split("/")[1] for path in self.objects if path.startswith(f"{_FOLDER}/")}
        for path in self.objects:
            if path.startswith(f"{OWN}.") and "/" not in path and path.endswith(_ROWS):
                names.add(path[len(OWN) : -len(_ROWS)].lstrip(".") or _ALL)
        if ledger_name(None) in self.objects:
            names.add(_ALL)
        found: list[Part | None] = [None] if _ALL in names else []
        for name in sorted(names - {_ALL}):
            with suppress(UsageError):  # somebody else's
                found.append(Part.of(name))
        return found

    def leftovers(self, part: Part | None) -> list[Stored]:
        """Return what runs at work, or dead ones, have put down, without the lock; in order."""
        folder = f"{_FOLDER}/{part or _ALL}/"
        names = sorted(path for path in self.objects if path.startswith(folder))
        return [self.objects[name] for name in names if name != f"{folder}{_LOCK}"]

    def take_down(self, part: Part | None, folder: Path) -> bool:
        """Write the ledger of a part, with all that was put down, into a folder of this machine.

        Returns:
            Whether there is one.
        """
        name = ledger_name(part)
        whole = self.objects.get(name)
        rows = [each for each in self.leftovers(part) if not each.key.endswith(_CLAIMS)]
        with (folder / name).open("wb") as file:
            for data in self._pieces(whole) if whole else ():
                file.write(data)
            for lines in self._all(rows):
                file.write(b"\n" + lines)  # an empty line is none, and the last may be torn
        return bool(whole or rows)

    def claimed(self, part: Part | None) -> dict[str, str]:
        """Return the targets that dead runs may have written, and since when."""
        claims = [each for each in self.leftovers(part) if each.key.endswith(_CLAIMS)]
        found: dict[str, str] = {}
        for data in self._all(claims):
            for line in data.splitlines():
                with suppress(ValueError, RecursionError, TypeError, KeyError):
                    claim = json.loads(line)
                    found[str(claim["target"])] = str(claim["at"])
        return found

    def _all(self, objects: Iterable[Stored]) -> Iterator[bytes]:
        """Yield what several objects hold, in their order."""
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, "rows") as threads:
            yield from threads.map(lambda each: b"".join(self._pieces(each)), objects)

    def _pieces(self, stored: Stored) -> Iterator[memoryview]:
        for at in range(0, stored.size, READ_BYTES):
            yield self.store.get(stored, at, min(READ_BYTES, stored.size - at))


@contextmanager
def fetched(root: Path, endpoint: str | None) -> Iterator[Path]:
    """Give a folder of this machine with copies of the ledgers of a folder in a store.

    Raises:
        NotRecognisedError: there is none.
        ConvertError: the store cannot be reached, or access is denied.
    """
    with TemporaryDirectory(prefix="tensorferry-") as name:
        for attempt in range(ATTEMPTS):
            shelf = Shelf(root, endpoint)
            shelf.look(targets=False)
            try:
                found = [shelf.take_down(part, Path(name)) for part in shelf.parts()]
            except (CorruptFileError, NotRecognisedError):  # a batch is at work, or has just ended
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            if not any(found):
                raise NotRecognisedError("no ledger of a batch", path=root)
            yield Path(name)
            return


def new_run() -> str:
    """Return a name for a run; later runs have later names."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
