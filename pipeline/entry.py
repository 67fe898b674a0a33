"""The console script. `convert SRC DST` alone is run at once; everything else is parsed.

Importing the parser takes longer than converting a small model, and two plain words need none.
"""

from __future__ import annotations

import gc
import os
import sys

from .commands import run_convert
from .console import guarded
from .convert import ConvertOptions

__all__ = ["VERBS", "main"]

VERBS = ("formats", "inspect")


def main() -> int:
    """Run the command line; return the exit code."""
    # One short run makes no cycles worth collecting; with 100,000 tensors that is a third of it.
    gc.disable()
    words = sys.argv[1:]
    if _is_plain(words):
        return guarded(lambda: run_convert(words[0], words[1], ConvertOptions()))
    from .cli import run

    return run()


def _is_plain(words: list[str]) -> bool:
    if len(words) != 2 or words[0] in VERBS or any(word.startswith("-") for word in words):
        return False
    return not any(name.endswith("_COMPLETE") for name in os.environ)
