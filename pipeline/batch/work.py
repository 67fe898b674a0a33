"""What a worker does with one job, and what it says about it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...converters.errors import ConvertError, CorruptFileError, UsageError
from ...converters.staging import target_error
from ..convert import Listener, convert
from ..digest_file import model_digest
from .jobs import Job
from .places import is_url
from .worker import tell

if TYPE_CHECKING:
    from ...converters.output import Plan
    from ..report import Report

__all__ = ["BUG", "Failure", "Outcome", "Output", "file_digest", "out_of_memory", "work"]

BUG = 70  # EX_SOFTWARE, as for a single conversion
# What a network or a disk may get over; a full disk, say, is not.
TRANSIENT = frozenset(
    {
        errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN,
        errno.EHOSTUNREACH, errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
        errno.ENOTCONN, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip
READ_BYTES = 1 << 20


class Output(NamedTuple):
    """A file that was written.

    Attributes:
        path: where it is.
        size: in bytes.
        mtime_ns: when it was written; 0 in a store.
        digest: BLAKE3 of its bytes.
        mark: of an object in a store: what changes when it does; empty if unknown.
    """

    path: str
    size: int
    mtime_ns: int
    digest: str
    mark: str = ""

    def json(self) -> dict[str, Any]:
        """Return it as JSON values; only what is in a store has a mark."""
        return {name: each for name, each in self._asdict().items() if name != "mark" or each}


@dataclass(frozen=True)
class Failure:
    """Why a model could not be converted.

    Attributes:
        error: the message.
        hint: one action that may help.
        exit_code: what converting it alone would have ended with.
        transient: another attempt may do.
    """

    error: str
    hint: str | None
    exit_code: int
    transient: bool = False

    def json(self) -> dict[str, Any]:
        """Return it as JSON values, without what is of no use afterwards."""
        return {name: each for name, each in asdict(self).items() if name != "transient"}


@dataclass(frozen=True)
class Outcome:
    """What became of a job; it is pickled on its way back.

    Attributes:
        seconds: wall time.
        failure: why there is no target; None if there is one.
        files: what was written.
        digest: of the whole model, where every tensor was verified.
        counts: number of tensors by what became of them.
        lossy: whether the target holds less than the source.
        formats: names of those that were read and written.
    """

    seconds: float
    failure: Failure | None = None
    files: tuple[Output, ...] = ()
    digest: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    lossy: bool = False
    formats: tuple[str, str] = ("", "")


class _Teller(Listener):
    """Tells how far a conversion is: bytes written, and read back if they are verified."""

    def __init__(self, *, verify: bool) -> None:
        self._passes = 1 + verify
        self._total = self._done = 0

    def started(self, plan: Plan) -> None:
        self._total = plan.size * self._passes
        self._done = 0

    def advanced(self, nbytes: int) -> None:
        self._done += nbytes
        tell(self._done, self._total)


def work(job: Job) -> Outcome:
    """Convert a model and say what became of it; a bad model is no exception here.

    The folder of the target is made. Nothing else appears before it is whole, and on the disk if
    the job's flags say so.
    """
    began = time.perf_counter()
    try:
        if not is_url(job.target):
            _make_folder(Path(job.target).parent, fsync=job.flags.fsync)
        report = convert(job.source, job.target, job.flags, _Teller(verify=job.flags.verify))
        files = tuple(_outputs(report))
    except ConvertError as error:
        code = error.exit_code
        failure = Failure(error.message, error.hint, code, _is_transient(error))
    except MemoryError:
        failure = out_of_memory(job)
    except Exception as error:
        what = f"{job.source}: {type(error).__name__}: {error}"
        failure = Failure(what, "a bug; convert it alone with --debug", BUG, _is_transient(error))
    else:
        digest = model_digest(report.digests) if job.flags.verify else None
        seconds = time.perf_counter() - began
        formats = (report.source.format, report.plan.format)
        return Outcome(seconds, None, files, digest, report.counts, report.lossy, formats)
    return Outcome(time.perf_counter() - began, failure)


def out_of_memory(job: Job) -> Failure:
    """Return what to say of a model that needs more memory than there is."""
    error = CorruptFileError("more memory is needed than a worker may have", path=job.source)
    return Failure(error.message, "give each worker more with --memory", error.exit_code)


def file_digest(path: Path) -> str:
    """Return the BLAKE3 of a file's bytes in hexadecimal, as `b3sum` prints it."""
    from blake3 import blake3

    state, buffer = blake3(), bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(memoryview(buffer)[:count])
    return state.hexdigest()


def _outputs(report: Report) -> Iterator[Output]:
    if is_url(report.target):
        for (stored, digest), file in zip(report.sent, report.plan.files, strict=True):
            yield Output(str(file.path), stored.size, 0, digest, stored.mark)
        return
    for file in report.plan.files:
        try:
            state = file.path.stat()
            digest = file_digest(file.path)
        except OSError as error:
            raise target_error(file.path, error) from error
        yield Output(str(file.path), state.st_size, state.st_mtime_ns, digest)


def _make_folder(folder: Path, *, fsync: bool) -> None:
    """Make a folder and those above it.

    Raises:
        UsageError: a file has the name of one of them.
        TargetError: it cannot be made.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in missing if fsync else ():
            descriptor = os.open(each.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError("is a file, and a folder is needed", path=folder) from error
    except OSError as error:
        raise target_error(folder, error) from error


def _is_transient(error: BaseException) -> bool:
    """Tell whether the system's reason for an error is one that may pass."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError) and reason.errno in TRANSIENT:
            return True
        if isinstance(reason, ConvertError) and reason.transient:
            return True
        reason = reason.__cause__
    return False
