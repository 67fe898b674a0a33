"""Time the ledger of a large batch: `python ledger_rows.py FOLDER MODELS`.

Rows are made as a batch makes them, two for each model; then the ledger is opened as the next batch
opens it, and `status` reads it. Each step is a process of its own, for its peak of memory.
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time
from pathlib import Path

from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.batch.history import history_of
from tensorferry.pipeline.batch.jobs import Job
from tensorferry.pipeline.batch.ledger import LEDGER, Ledger
from tensorferry.pipeline.batch.status import status_of
from tensorferry.pipeline.batch.work import Outcome, Output

FLAGS = ConvertOptions(target_format="safetensors")
KIBIBYTE = 1024  # Linux: unit of ru_maxrss
IN_FOLDER = 1000


def _job(root: Path, number: int) -> Job:
    name = f"team_{number // IN_FOLDER:04}/run_{number:07}/model.ckpt-{number}"
    return Job(f"zoo/{name}", f"{root / name}.safetensors", 2_000_000, f"{number:032x}", FLAGS)


def _write(root: Path, models: int) -> None:
    with Ledger(root) as ledger:
        for number in range(models):
            job = _job(root, number)
            ledger.started(job, 1)
            output = Output(job.target, job.nbytes, time.time_ns(), f"{number:064x}")
            formats = ("tf-checkpoint", "safetensors")
            what = Outcome(
                0.01, None, (output,), f"{number:064x}", {"written": 90}, formats=formats
            )
            ledger.ended(job, what)


def _open(root: Path, _: int) -> None:
    Ledger(root).__exit__(None, None, None)


def _status(root: Path, _: int) -> None:
    status_of(root)


def _history(root: Path, _: int) -> None:
    history_of(root)


STEPS = {"write": _write, "open": _open, "status": _status, "history": _history}


def main() -> None:
    """Run one step, or all of them."""
    root, models = Path(sys.argv[1]), int(sys.argv[2])
    if len(sys.argv) == 3:
        for step in STEPS:
            subprocess.run([sys.executable, __file__, *sys.argv[1:], step], check=True)
        print(f"{(root / LEDGER).stat().st_size / models:.0f} bytes for each model")
        return
    gc.disable()  # as the console script does
    STEPS[sys.argv[3]](root, models)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIBIBYTE
    print(f"{sys.argv[3]}: {cpu:.1f} s of a core, {peak / 1e6:.0f} MB at most")


main()
