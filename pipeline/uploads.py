"""Targets in object stores, written by way of the disk.

A target in a store is written to a temporary folder first, in which the objects that are there show
as files (`converters/remote.py`), so that plans see what they see on a disk. When all is written it
is sent, each object by a multipart upload that shows it whole or not at all, the one that makes the
set valid last. If anything goes wrong until then, or in reading it back, what was sent is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

from ..converters.errors import ConvertError, TargetError, UsageError
from ..converters.output import Plan
from ..converters.remote import Mirror, Place, open_place, seen_outside
from .targets import Target

__all__ = ["RemoteTarget", "remote_target"]


class RemoteTarget(Target):
    """A place in an object store.

    Args:
        place: the place.
        mirror: what is there.
    """

    def __init__(self, place: Place, mirror: Mirror) -> None:
        mirror.local.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(mirror.local, is_folder=place.folder)
        self._place = place
        self._mirror = mirror

    @property
    def name(self) -> Path:
        """The URL."""
        return self._mirror.path

    @contextmanager
    def published(
        self, plan: Plan, staged: Path, *, overwrite: bool, advance: Callable[[int], None]
    ) -> Iterator[Callable[[], Path]]:
        """Send written files, and remove them from the store if the block raises."""
        store = self._place.store
        if not overwrite:
            self._refuse_what_is_there(plan)
        sent: list[str] = []
        copies: list[Mirror] = []

        def copy() -> Path:
            whole = plan.folder or plan.files[-1].path
            place = Place(store, self._mirror.key_of(whole), folder=False)
            copies.append(Mirror(place, [each.stored for each in self.sent]))
            return copies[0].local.parent

        try:
            for file in plan.files:
                sent.append(self._mirror.key_of(file.path))
                done = store.put(sent[-1], staged / _staged_name(plan, file.path), advance)
                self.sent = (*self.sent, done)
            yield copy
        except BaseException as error:
            self._take_back(sent, error)
            raise
        finally:
            for mirror in copies:
                mirror.close()
        for path in plan.removed:
            store.delete(self._mirror.key_of(path))

    def shown(self, plan: Plan) -> Plan:
        """Return the plan with URLs instead of paths."""
        seen = self._mirror.seen
        return replace(
            plan,
            files=tuple(replace(file, path=self._mirror.shown(file.path)) for file in plan.files),
            notes=tuple(replace(note, text=seen(note.text)) for note in plan.notes),
        )

    def _refuse_what_is_there(self, plan: Plan) -> None:
        """Look again: while it was written, others may have been."""
        for file in plan.files:
            if self._place.store.head(self._mirror.key_of(file.path)):
                raise UsageError(
                    "exists already", path=file.path, hint="replace it with --overwrite"
                )

    def _take_back(self, sent: list[str], error: BaseException) -> None:
        """Remove what was sent; what cannot be removed is named in the error."""
        store = self._place.store
        left: list[str] = []
        for key in reversed(sent):
            try:
                if store.head(key):
                    store.delete(key)
            except ConvertError:
                left.append(store.url(key))
        if left and isinstance(error, ConvertError):
            error.hint = f"remove what could not be taken back: {', '.join(left)}"


def _staged_name(plan: Plan, path: Path) -> Path:
    """Return what a file is called in the staging folder (see `converters/staging.py`)."""
    folder = plan.folder
    return folder.resolve().name / path.relative_to(folder) if folder else Path(path.name)


@contextmanager
def remote_target(url: str, endpoint: str | None) -> Iterator[RemoteTarget]:
    """Give the target of a URL.

    Raises:
        ConvertError: the store cannot be reached, or is only read.
    """
    place = open_place(url, endpoint)
    if url.startswith(("http:", "https:")):
        raise UsageError("is only read from, not written to", path=url)
    if not place.key:
        raise UsageError("is a bucket", path=url, hint="name the file to write in it")
    mirror = Mirror(place)
    try:
        yield RemoteTarget(place, mirror)
    except ConvertError as error:
        if isinstance(error, TargetError) and error.what == "not enough space":
            error.path = gettempdir()
            error.hint = "outputs lie there until they are sent; name another folder with TMPDIR"
        raise seen_outside(mirror, error) from error.__cause__
    finally:
        mirror.close()
