"""Run contestants as whole processes, interleaved, and keep what each run took.

In every round each contestant runs once, in an order that is drawn anew, so that what else happens
on the machine hits all of them alike. Ratios are taken within a round and only then the median.

Where a virtual machine gives free memory back to its host (free page reporting), pages that lay
idle for seconds cost ten times a warm one: the same `cp` of 1.3 GB takes 0.4 to 4 seconds, all of
it system time, and in a fixed order the same contestants always pay. What the run before wrote is
therefore removed right before the clock starts, which leaves some warm pages, and the fastest runs
are compared as well, since such noise only ever adds. Warming by a `cp` before each run was tried:
it favours `cp`, whose pages come in the same sizes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

LAUNCHER = Path(__file__).with_name("launch.py")
READ_BYTES = 1 << 20
# What would make children start otherwise than a user's do.
HIDDEN_VARIABLES = ("PYTHONPATH", "PYTHONSTARTUP", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Bar:
    """What a figure is held against.

    Attributes:
        kind: `ratio` (wall time over that of `against`, at most), `faster` (wall time of `against`
            over ours, at least), `memory` (peak in bytes, at most), `seconds` (at most), `each`
            (seconds more than `against`, for each of `count`, at most), `busy` (share of the
            cores' time that was used, at least).
        limit: where it is short.
        against: name of another contestant.
        aim: a ratio to stay below, where more is wanted than the limit.
    """

    kind: str
    limit: float
    against: str = ""
    aim: float | None = None
    count: int = 1


@dataclass(frozen=True)
class Contestant:
    """A command that is timed.

    Attributes:
        name: what it does; unique in its group.
        command: the program with its full path, and its arguments; `{out}` in an argument becomes
            the folder to write to, which is empty and on the same disk.
        rounds: run only in the first so many rounds.
        bars: what it is held against.
    """

    name: str
    command: tuple[str, ...]
    rounds: int | None = None
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True)
class Group:
    """Contestants that are compared with each other, the reference first."""

    title: str
    sources: tuple[Path, ...]
    contestants: tuple[Contestant, ...]
    rounds: int


@dataclass(frozen=True)
class Sample:
    """One run: seconds, peak resident bytes, and below what the peak cannot be told."""

    seconds: float
    cpu_seconds: float
    peak: int
    floor: int


@dataclass
class Result:
    """All runs of a contestant, by round; `error` says why there are no more of them."""

    contestant: Contestant
    samples: dict[int, Sample] = field(default_factory=dict)
    error: str = ""

    @property
    def seconds(self) -> float:
        """Median of the wall times."""
        return median(sample.seconds for sample in self.samples.values())

    @property
    def best(self) -> float:
        """Shortest of the wall times."""
        return min(sample.seconds for sample in self.samples.values())

    @property
    def busy(self) -> float:
        """Median share of the time of all cores that it used, its children's included."""
        cores = len(os.sched_getaffinity(0))
        shares = [each.cpu_seconds / each.seconds / cores for each in self.samples.values()]
        return median(shares)

    @property
    def peak(self) -> int:
        """Highest peak of all runs, in bytes."""
        return max(sample.peak for sample in self.samples.values())

    @property
    def peak_is_floor(self) -> bool:
        """Tell whether the peak is the launcher's and the contestant's own may be lower."""
        return any(sample.peak <= sample.floor * 1.05 for sample in self.samples.values())

    def ratios(self, reference: Result) -> list[float]:
        """Return this one's wall time over the reference's, of each round that both ran in."""
        return [
            sample.seconds / reference.samples[at].seconds
            for at, sample in self.samples.items()
            if at in reference.samples
        ]


class FailedError(Exception):
    """A contestant ended with an error; the text is what it said."""


def run_group(group: Group, folder: Path) -> list[Result]:
    """Run all rounds of a group, after one that is not measured and warms the caches.

    Args:
        group: what to run.
        folder: where contestants write; on the disk of the sources.

    Raises:
        FailedError: the reference cannot be run; other contestants only end up without figures.
    """
    for source in group.sources:
        _read(source)
    results = [Result(contestant) for contestant in group.contestants]
    for result in results:
        _run_into(result, None, folder)
    if results[0].error:
        raise FailedError(results[0].error)
    order = random.Random(0)
    for at in range(group.rounds):
        for result in order.sample(results, len(results)):
            limit = result.contestant.rounds
            if not result.error and (limit is None or at < limit):
                _run_into(result, at, folder)
        print(f"{group.title}: round {at + 1} of {group.rounds}", file=sys.stderr)
    for name in ("out", "stale"):
        shutil.rmtree(folder / name)
    return results


def _run_into(result: Result, at: int | None, folder: Path) -> None:
    try:
        sample = _run(result.contestant.command, folder)
    except FailedError as error:
        result.error = str(error)
        print(f"{result.contestant.name}: failed: {error}", file=sys.stderr)
        return
    if at is not None:
        result.samples[at] = sample


def _run(command: tuple[str, ...], folder: Path) -> Sample:
    """Run a command once with an empty folder to write to; what it wrote stays until the next run.

    Raises:
        FailedError: its exit code is not 0.
    """
    out, stale, errors = folder / "out", folder / "stale", folder / "errors.txt"
    shutil.rmtree(stale, ignore_errors=True)
    out.mkdir(exist_ok=True)
    out.rename(stale)
    out.mkdir()
    words = [word.replace("{out}", str(out)) for word in command]
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(stale), str(errors), *words]
    printed = subprocess.run(
        launch, env=_environment(), capture_output=True, text=True, check=False
    )
    if printed.returncode:
        raise FailedError(printed.stderr.strip())
    seconds, cpu, peak, code, floor = printed.stdout.split()
    if code != "0":
        said = errors.read_text(encoding="utf-8", errors="replace").strip()
        raise FailedError(f"exit code {code}: {said[-2000:]}")
    return Sample(float(seconds), float(cpu), int(peak), int(floor))


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name not in HIDDEN_VARIABLES}
    return kept | {"TF_CPP_MIN_LOG_LEVEL": "3"}


def _read(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
