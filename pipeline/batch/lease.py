"""The right to write a ledger in an object store: a small object that one batch holds and renews.

It is made only if it is not there, and renewed only as it was left, where the store can do that in
one step. No clock is compared with another one: whoever finds the object looks whether it is
renewed. If it is not, its owner is dead, or cut off, and learns of its successor when it renews it.
On one machine a process that is gone is known to be gone at once.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError, UsageError
from ...converters.stores import Store

__all__ = ["BEAT_SECONDS", "Lease"]

# An owner renews it so often, and is taken for dead after so long.
BEAT_SECONDS, LEASE_SECONDS = 5.0, 20.0
LOOK_SECONDS = 1.0


class Lease:
    """The right to write one ledger.

    Args:
        store: where it is.
        key: of the object.
        run: what tells this batch from all others.
    """

    def __init__(self, store: Store, key: str, run: str) -> None:
        self._store = store
        self._key = key
        self._run = run
        self._beats = 0
        self._tag = ""

    def take(self, say: Callable[[str], None]) -> None:
        """Take it; from a dead owner after waiting for a sign of life.

        Args:
            say: hears why it takes long, and who is succeeded.

        Raises:
            UsageError: another batch has it.
            ConvertError: the store cannot be reached or written to.
        """
        while True:
            there = self._store.fetch(self._key)
            owner = _owner(there[0]) if there else {}
            if there and owner.get("run") == self._run:  # the answer to a request was lost
                self._tag = there[1]
                return
            if there and not self._is_dead(owner, there[1], say):
                raise UsageError(
                    "another batch is at work here",
                    path=self._store.url(self._key),
                    got=f"process {owner.get('pid')} of {owner.get('host')}",
                    hint="wait for it, or choose another folder",
                )
            tag = self._store.swap(self._key, self._text(), there[1] if there else None)
            if tag is not None:
                self._tag = tag
                if there:
                    say(f"the batch of {owner.get('host')} that was at work here has died")
                return

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            UsageError: another batch has taken it.
            TargetError: the store cannot be written to.
        """
        tag = self._store.swap(self._key, self._text(), self._tag)
        if tag is None:
            there = self._store.fetch(self._key)
            if not there or _owner(there[0]).get("run") != self._run:
                raise UsageError(
                    "another batch has taken over here",
                    path=self._store.url(self._key),
                    hint="the store could not be reached for long; run the same command later",
                )
            tag = there[1]  # the answer to a request was lost
        self._tag = tag

    def release(self) -> None:
        """Let others have it; if that does not work, they will find out."""
        with suppress(ConvertError):
            there = self._store.fetch(self._key)
            if there and _owner(there[0]).get("run") == self._run:
                self._store.delete(self._key)

    def _is_dead(self, owner: dict[str, Any], tag: str, say: Callable[[str], None]) -> bool:
        """Tell whether an owner gives no sign of life, or has let go meanwhile."""
        if owner.get("machine") == _machine():
            return owner.get("started") != _started(owner.get("pid"))
        say(f"waiting for a sign of life of the batch of {owner.get('host')}")
        until = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
            there = self._store.fetch(self._key)
            if there is None or there[1] != tag:
                return there is None
        return True

    def _text(self) -> bytes:
        self._beats += 1
        owner = {
            "run": self._run,
            "host": platform.node(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "beats": self._beats,  # so that no two are alike
        }
        return json.dumps(owner).encode("ascii")


def _owner(data: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        owner = json.loads(data)
        if isinstance(owner, dict):
            return owner
    return {}


def _machine() -> str:
    """Return what tells this machine since it was started; random where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return os.urandom(8).hex()


def _started(pid: object) -> str | None:
    """Return when a process was started; None if there is none."""
    with suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]  # field 22 of proc(5), after the name
    return None
