"""What a person sees: messages on stderr, a bar on terminals, errors with their exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from ..converters.errors import ConvertError, CorruptFileError, printable
from ..converters.notes import Kind, Note
from .convert import Listener
from .inspect import role_counts
from .report import Report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..converters.output import Plan
    from ..converters.tensors import TensorDict
    from .like import Likeness

__all__ = ["FOUND", "INTERRUPTED", "Console", "guarded", "human"]

SHOWN = 20  # tensors that are not as they should be, of each kind
SHOWN_NOTES = 5
FOUND = 1  # differences or findings, docs/adr/0009
INTERRUPTED, TERMINATED, BUG = 130, 143, 70  # 128 + signal, as shells count; EX_SOFTWARE
# A bar that is gone before one has seen it only flickers.
BAR_FLOOR_BYTES = 64 << 20
# What was asked for, tensor by tensor; the counts tell it, and `-v`.
_ASKED_FOR = frozenset(
    {Kind.EXCLUDED, Kind.CAST, Kind.UPDATED, Kind.ADDED, Kind.TRANSFORMED, Kind.MOVED}
)


def human(nbytes: float) -> str:
    """Return a size in bytes with a decimal unit: `1.34 GB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if unit == "TB" or float(f"{nbytes:.3g}") < 1000:  # which 999,600 is not
            break
        nbytes /= 1000
    return f"{nbytes:.0f} {unit}" if unit == "bytes" else f"{nbytes:.3g} {unit}"


class Console(Listener):
    """Prints how a conversion goes.

    Args:
        name: what to call the source.
        quiet: print only errors.
        verbose: print every note.
    """

    def __init__(self, name: str, *, quiet: bool = False, verbose: bool = False) -> None:
        self._name = printable(name)
        self._quiet = quiet
        self._verbose = verbose
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._told = 0  # number of notes that were printed on opening

    def say(self, text: str) -> None:
        """Print a message, unless only errors are wanted."""
        if not self._quiet:
            print(printable(text), file=sys.stderr)  # noqa: T201

    def opened(self, tensors: TensorDict) -> None:
        """Say what was recognised."""
        roles = role_counts(tensors)
        parts = ", ".join(_counted(count, role) for role, count in roles.items())
        total = sum(tensor.nbytes for tensor in tensors.values())
        self.say(f"{self._name}: {tensors.summary}: {parts or 'no tensors'}, {human(total)}")
        self.notes(tensors.notes)
        self._told = len(tensors.notes)

    def notes(self, notes: Iterable[Note]) -> None:
        """Print notes, losses first; the first few of many."""
        notes = [note for note in notes if self._verbose or note.kind not in _ASKED_FOR]
        notes.sort(key=lambda note: not note.kind.lossy)  # what is lost is shown
        shown = notes if self._verbose else notes[:SHOWN_NOTES]
        for note in shown:
            plain = note.kind in (Kind.SOURCE, Kind.TARGET)
            self.say(f"note: {note}" if plain else f"note: {note.kind.value}: {note}")
        if len(shown) < len(notes):
            self.say(f"note: {len(notes) - len(shown)} more (-v shows all)")

    def further_notes(self, notes: Sequence[Note]) -> None:
        """Print those of all notes that came up after the source was opened."""
        self.notes(notes[self._told :])

    def compared(self, likeness: Likeness) -> None:
        """Print how the result differs from what it should be like."""
        for line in likeness.lines(None if self._verbose else SHOWN):
            self.say(line)

    def started(self, plan: Plan) -> None:
        """Show how writing goes on."""
        self.reading(plan.size)

    def reading(self, size: int) -> None:
        """Show a bar for so many bytes, where somebody is looking and it takes long enough."""
        if self._quiet or size < BAR_FLOOR_BYTES or not sys.stderr.isatty():
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=Terminal(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=size)
        self._bar.start()

    def advanced(self, nbytes: int) -> None:
        """Move the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, nbytes)

    def finished(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def closing(self, report: Report) -> None:
        """Say what became of the tensors."""
        self.further_notes(report.notes)
        counts = ", ".join(f"{count} {what}" for what, count in report.counts.items() if count)
        size = human(report.plan.size)
        if report.dry_run:
            self.say(
                f"{report.target}: would hold {counts or 'no tensors'}, {size}; nothing written"
            )
            self.left_out(report.left_out)
            return
        rate = human(report.plan.size / max(report.seconds, 1e-9))
        took = f"{report.seconds:.2f} s ({rate}/s)"
        self.say(f"{report.target}: {counts or 'no tensors'}, {size} in {took}")
        self.left_out(report.left_out)

    def left_out(self, totals: Mapping[str, tuple[int, int]]) -> None:
        """Say what was left out: number and bytes of the tensors by role."""
        if totals:
            parts = ", ".join(_counted(count, role) for role, (count, _) in totals.items())
            total = sum(nbytes for _, nbytes in totals.values())
            self.say(f"left out: {parts}, {human(total)}")


def _counted(count: int, role: str) -> str:
    plural = "" if count == 1 or role.endswith("state") else "s"
    return f"{count} {role}{plural}"


def guarded(run: Callable[[], int | None], *, debug: bool = False) -> int:
    """Run a command; turn whatever ends it into a message and an exit code.

    Args:
        run: returns the exit code where it ends well; None is 0.
        debug: whether an error keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = run()
        sys.stdout.flush()
    except ConvertError as error:
        _fail(str(error), debug)
        return error.exit_code
    except KeyboardInterrupt:
        _fail("interrupted; the target is as it was", debug)
        return INTERRUPTED
    except MemoryError:
        _fail("more memory is needed than there is or than --isolate allows", debug)
        return CorruptFileError.exit_code
    except BrokenPipeError:
        # The reader of our output has seen enough; nothing may complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _fail(f"{type(error).__name__}: {error}\n\nhint: a bug; report it with --debug", debug)
        return BUG
    return code or 0


def _fail(text: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    first, *rest = text.split("\n")
    print(f"convert: {printable(first)}", *rest, sep="\n", file=sys.stderr)  # noqa: T201


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
