"""Where a conversion writes to: the disk, or an object store (`uploads.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..converters.output import Plan

if TYPE_CHECKING:
    from ..converters.stores import Sent

__all__ = ["Target", "target_at"]


class Target:
    """A place on the disk.

    Attributes:
        path: what to plan for.
        is_folder: whether it was named as a folder, or is one.
        sent: the objects that were stored; on a disk there are none.
    """

    sent: tuple[Sent, ...] = ()

    def __init__(self, path: Path, *, is_folder: bool) -> None:
        self.path = path
        self.is_folder = is_folder or path.is_dir()

    @contextmanager
    def published(
        self, plan: Plan, staged: Path, *, overwrite: bool, advance: Callable[[int], None]
    ) -> Iterator[Callable[[], Path]]:
        """Bring written files to their place, and take them back if the block raises.

        Args:
            plan: what was written.
            staged: the folder in which the files lie under their final names.
            overwrite: whether they may replace others.
            advance: called with the number of bytes just sent.

        Yields:
            What gives the folder in which they can be read back; here they are not moved yet.
        """
        del plan, overwrite, advance
        yield lambda: staged

    def shown(self, plan: Plan) -> Plan:
        """Return a plan as people should see it."""
        return plan

    @property
    def name(self) -> Path:
        """What messages call it."""
        return self.path


@contextmanager
def target_at(
    target: str | os.PathLike[str], *, folder: bool, endpoint: str | None
) -> Iterator[Target]:
    """Give a target by its path or URL.

    Args:
        target: as the user named it.
        folder: whether it is going to be a folder in any case.
        endpoint: where the object store is, if not where its cloud is.

    Raises:
        ConvertError: the store cannot be reached, or is only read.
    """
    text = os.fspath(target)
    if "://" not in text:
        yield Target(Path(target), is_folder=folder or text.endswith("/"))
        return
    from .uploads import remote_target

    with remote_target(text, endpoint) as place:
        yield place
