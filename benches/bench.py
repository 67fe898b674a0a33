"""Time whole conversions against `cp`, `import numpy` and what people do today: `make bench`.

Models are made in a temporary folder. Ours runs from a wheel that is built and installed for
the occasion; the scripts of today (`today/*.py`) run with the interpreter of this process. How is
timed: `measure.py`. Which bars: `contestants.py`. Page cache warm, Linux only.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import report
from checkpoints import KINDS, ensure
from contestants import Bench
from installed import install, program_of, versions
from measure import run_group

SMALL_KINDS = ("1MB", "100k", "h5-5k")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the models here, for next time")
    parser.add_argument("--python", type=Path, help="an interpreter that has tensorferry already")
    parser.add_argument("--only", choices=KINDS, action="append", help="only this model")
    parser.add_argument("--rounds", type=int, help="instead of 9 (5 for 100MB, 100k)")
    parser.add_argument("--no-tensorflow", action="store_true", help="leave out today's scripts")
    parser.add_argument(
        "--small", action="store_true", help="1MB, 100k, h5-5k; 2 rounds, no scripts"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="store every measurement")
    parser.add_argument("--record", action="store_true", help="store the table in benches/runs/")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a bar is missed")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    # Not resolved: a venv's interpreter is a link, and what it links to has other packages.
    python = arguments.python.absolute() if arguments.python else install(folder / "installed")
    kinds = tuple(arguments.only or (SMALL_KINDS if arguments.small else KINDS))
    ensure(folder, kinds)
    bench = Bench(
        folder,
        python,
        program_of(python),
        rounds=arguments.rounds or (2 if arguments.small else None),
        tensorflow=not (arguments.no_tensorflow or arguments.small),
    )
    groups: report.Groups = []
    for kind in kinds:
        group = bench.group(kind)
        groups.append((group, run_group(group, folder)))
    table = report.table(groups)
    print(table)
    software = {"convert": versions(python)}
    if bench.tensorflow:
        software["scripts of today"] = versions(Path(sys.executable))
    if arguments.json:
        text = json.dumps(report.raw(groups, software), indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.record:
        report.record(table, software, "-".join(arguments.only or ()))
    return int(arguments.strict and report.is_short(groups))


def main() -> int:
    """Run the bench; return the exit code."""
    arguments = _arguments()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        return _run(arguments, arguments.folder.absolute())
    with tempfile.TemporaryDirectory(prefix="tensorferry-bench-") as folder:
        return _run(arguments, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
