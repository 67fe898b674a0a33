"""Run a batch whose models cost nothing: `python overhead.py SRC_ROOT DST_ROOT`.

What is left is discovery, the ledger, and calls that go to worker processes and come back.
"""

from __future__ import annotations

import sys
from concurrent.futures import Future
from operator import itemgetter
from pathlib import Path
from typing import Any

from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.batch.ledger import Ledger
from tensorferry.pipeline.batch.plan import plan_jobs
from tensorferry.pipeline.batch.pool import LocalExecutor
from tensorferry.pipeline.batch.run import BatchOptions, default_workers, run_batch
from tensorferry.pipeline.batch.work import Outcome, Output

OUTCOME = Outcome(0.0, None, (Output("none", 0, 0, "0" * 64),), None, {"written": 1})


class Idle(LocalExecutor):
    """Sends jobs to workers, which send back that all is well."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a worker return an outcome instead of calling the function."""
        del fn, kwargs
        return super().submit(itemgetter(0), (OUTCOME, *args))


def main() -> None:
    """Run the batch."""
    source, target = map(Path, sys.argv[1:3])
    options = ConvertOptions(target_format="safetensors")
    plan = plan_jobs(source, target, options)
    workers = default_workers()
    with Ledger(target) as ledger, Idle(workers) as executor:
        totals = run_batch(plan, ledger, executor, BatchOptions(workers))
    if totals.done != len(plan.jobs):
        raise SystemExit(f"{totals.failed} failed")


main()
