"""Rows of a ledger on their way to an object store, and the signs of life of who writes them.

Objects cannot be added to. So what was written lately is one object, which is stored again, longer,
every second in which something was written; when it is long enough the next one begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ...converters.errors import ConvertError
from ...converters.stores import Store
from . import lease as leases
from .lease import Lease

__all__ = ["Journal"]

PUT_SECONDS = 1.0
SEGMENT_BYTES = 1 << 20


class Journal:
    """Stores rows in the background.

    Args:
        store: where to.
        name: gives the key of the n-th object, from 1.
        held: what is to be renewed as long as it goes on.

    Attributes:
        keys: of the objects that were stored.
    """

    def __init__(self, store: Store, name: Callable[[int], str], held: Sequence[Lease]) -> None:
        self.keys: list[str] = []
        self._store = store
        self._name = name
        self._held = held
        self._lines = bytearray()
        self._number = 1
        self._is_new = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add(self, line: bytes) -> None:
        """Add a row, which is stored within a second or so.

        Raises:
            ConvertError: as `check`.
        """
        self.check()
        with self._lock:
            self._lines += line
            self._is_new = True

    def check(self) -> None:
        """Tell whether all is well.

        Raises:
            ConvertError: the store cannot be written to, or another batch has taken over.
        """
        if isinstance(self._failure, ConvertError):
            raise self._failure
        if self._failure:  # a bug
            raise RuntimeError("rows cannot be stored") from self._failure

    def close(self) -> None:
        """Stop; rows that were not stored yet are not any more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        beat = time.monotonic()
        try:
            while not self._ended.wait(PUT_SECONDS):
                self.flush()
                if time.monotonic() - beat >= leases.BEAT_SECONDS:
                    beat = time.monotonic()
                    for each in self._held:
                        each.renew()
        except BaseException as error:  # heard by whoever adds the next row
            self._failure = error

    def flush(self) -> None:
        """Store what was not stored yet; in the background, or after that was closed.

        Raises:
            TargetError: the store cannot be written to.
        """
        with self._lock:
            if not self._is_new:
                return
            data, key = bytes(self._lines), self._name(self._number)
            self._is_new = False
            if len(data) >= SEGMENT_BYTES:
                self._lines.clear()
                self._number += 1
        if key not in self.keys[-1:]:
            self.keys.append(key)
        self._store.store(key, data)
