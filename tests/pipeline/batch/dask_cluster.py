"""A Dask cluster in a process of its own, which can be killed: `python dask_cluster.py WORKERS`.

Prints the address of the scheduler, and ends when its input does.
"""

from __future__ import annotations

import sys

from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(
        processes=True,
        n_workers=int(sys.argv[1]),
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=50,
    ) as cluster:
        print(cluster.scheduler_address, flush=True)  # noqa: T201
        sys.stdin.read()
