"""What the verb `map` does once its words are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..converters.errors import NotRecognisedError
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions
from ..converters.staging import Staging, target_error
from ..converters.tensors import TensorDict
from .console import FOUND, SHOWN, Console
from .like import Likeness
from .map.proposed import Mapped, mapped
from .options import default_jobs

__all__ = ["MapOptions", "run_map"]

STDOUT = "-"


@dataclass(frozen=True)
class MapOptions:
    """What to map to, and where to put it.

    Attributes:
        like: the target.
        output: file of the recipe; `-` is stdout.
        jobs: number of threads; 0 chooses.
        as_json: print JSON, and nothing to stderr.
        quiet: print errors only.
        verbose: print every note.
    """

    like: str
    output: str = STDOUT
    jobs: int = 0
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False


def run_map(
    source: str, options: MapOptions, reading: ReadOptions, source_format: str | None = None
) -> int:
    """Propose a recipe, check it, and return the exit code: 0 complete, 1 something is open.

    Args:
        source: a file, folder or prefix.
        options: what to map it to.
        reading: how to open it.
        source_format: name of its format, where sniffing does not tell.

    Raises:
        ConvertError: a model is not recognised or cannot be read; nothing is written then.
    """
    quiet = options.quiet or options.as_json
    console = Console(source, quiet=quiet, verbose=options.verbose)
    with open_tensors(source, reading, format=source_format) as tensors:
        console.opened(tensors)
        with _target(options.like) as target:
            console.reading(sum(each.nbytes for each in tensors.values()) if target else 0)
            try:
                jobs = options.jobs or default_jobs()
                done = mapped(tensors, options.like, target, jobs, console.advanced)
            finally:
                console.finished()
    _print(source, done, options, console)
    return 0 if done.complete else FOUND


@contextmanager
def _target(path: str) -> Iterator[TensorDict | None]:
    """Open a target that holds values; None where it has names and shapes alone."""
    try:
        opened = open_tensors(path)
    except NotRecognisedError:
        if not Path(path).is_file():
            raise
        yield None  # a `.meta`, a config, a JSON: `wanted_by` says if it is none of them
        return
    with opened:
        yield opened


def _print(source: str, done: Mapped, options: MapOptions, console: Console) -> None:
    if options.output != STDOUT:
        _write(Path(options.output), done.text)
    if options.as_json:
        content = {"source": source, "target": options.like} | _json(done)
        sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")
    elif options.output == STDOUT:
        sys.stdout.write(done.text)
    _tell(done, options, console)


def _json(done: Mapped) -> dict[str, Any]:
    return {
        "complete": done.complete,
        "counts": done.proposal.counts,
        "rules": done.rules,
        "open": [
            {"target": each.target, "candidates": [*each.candidates], "why": each.why}
            for each in done.proposal.open
        ],
        "missing": [*done.proposal.missing],
        "left_out": [*done.proposal.left, *done.proposal.beside],
        "like": done.likeness.json() if done.likeness else None,
        "recipe": done.text,
    }


def _tell(done: Mapped, options: MapOptions, console: Console) -> None:
    counts = done.proposal.counts
    shares = ", ".join(
        f"{number} {what} ({number / max(done.wanted, 1):.0%})" for what, number in counts.items()
    )
    console.say(f"{options.like}: {done.wanted} tensors: {shares}")
    left = {
        "that only training needs": len(done.proposal.beside),
        "that the target has no place for": len(done.proposal.left),
        "that may be what is open": len(done.proposal.undecided),
    }
    rest = ", ".join(f"{number} {what}" for what, number in left.items() if number)
    if rest:
        console.say(f"left out: {rest}")
    place = "the recipe" if options.output == STDOUT else options.output
    if done.complete:
        rules = "1 rule gives" if done.rules == 1 else f"{done.rules} rules give"
        console.say(f"{place}: {rules} all names, types and shapes of {options.like}")
    else:
        _incomplete(done, place, options, console)


def _incomplete(done: Mapped, place: str, options: MapOptions, console: Console) -> None:
    if done.failure:
        console.say(f"{place}: it cannot be applied: {done.failure}")
    elif done.likeness is not None and not done.likeness.same:
        for line in _lines(done.likeness, options):
            console.say(line)
    console.say(f"{place}: to be completed by hand where it says `open`")


def _lines(likeness: Likeness, options: MapOptions) -> Iterator[str]:
    return likeness.lines(None if options.verbose else SHOWN)


def _write(path: Path, text: str) -> None:
    with Staging([path], overwrite=True, fsync=False) as staging:
        try:
            staging.path(0).write_text(text, encoding="utf-8")
        except OSError as error:
            raise target_error(path, error) from error
        staging.commit()
