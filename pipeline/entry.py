"""The console script. `convert SRC DST` alone is run at once, as are plain `inspect` and `check`.

Everything else is parsed. Importing the parser takes longer than converting a small model, and
plain words need none (docs/adr/0011). Imports stand in functions so that nothing is loaded before
it is known to be needed.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["VERBS", "main", "script"]

VERBS = (
    "average", "batch", "check", "diff", "formats", "inspect", "map", "package", "recipes",
    "verify",
)  # fmt: skip


def script() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Everything was closed and flushed by then; tearing down the interpreter would take as long as
    converting a small model.
    """
    # One short run makes no cycles worth collecting; with 100,000 tensors that is a third of it.
    gc.disable()
    try:
        code = main()
    except SystemExit as stop:  # typer's own way out, and that of a signal
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:]
    if any(name.endswith("_COMPLETE") for name in os.environ):
        return _parsed()
    if len(words) == 2 and words[0] not in VERBS and _are_names(words):
        return _convert(*words)
    plain = len(words) > 1 and _are_names(words[:2])
    if plain and words[0] == "inspect" and words[2:] in ([], ["--json"]):
        return _inspect(*words[1:])
    if plain and words[0] == "check" and words[2:] in ([], ["--json"]):
        return _check(*words[1:])
    return _parsed()


def _are_names(words: list[str]) -> bool:
    return not any(word.startswith("-") for word in words)


def _parsed() -> int:
    from .cli import run

    return run()


def _convert(source: str, target: str) -> int:
    from .commands import run_convert
    from .console import guarded
    from .convert import ConvertOptions

    return guarded(lambda: run_convert(source, target, ConvertOptions()))


def _inspect(source: str, *flags: str) -> int:
    from ..converters.registry import ReadOptions
    from .console import guarded
    from .run_inspect import InspectOptions, run_inspect

    options = InspectOptions(as_json=bool(flags))
    return guarded(lambda: run_inspect(source, ReadOptions(), options))


def _check(source: str, *flags: str) -> int:
    from ..converters.registry import ReadOptions
    from .console import guarded
    from .run_check import CheckOptions, run_check

    options = CheckOptions(as_json=bool(flags))
    return guarded(lambda: run_check(source, options, ReadOptions()))
