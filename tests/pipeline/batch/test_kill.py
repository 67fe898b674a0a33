"""SIGKILL to a batch and to its workers at random moments: nothing recorded is lost.

`TENSORFERRY_KILL_ROUNDS=30 TENSORFERRY_KILL_MODELS=200 pytest tests/pipeline/batch/test_kill.py`
is the long form.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.digests import digest
from tensorferry.pipeline.batch.ledger import LEDGER, read_rows

ROUNDS = int(os.environ.get("TENSORFERRY_KILL_ROUNDS", "6"))
MODELS = int(os.environ.get("TENSORFERRY_KILL_MODELS", "60"))
START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
FLAGS = ["--to", "safetensors", "--quiet", "--jobs", "2", "--retry", "failed"]


def batch(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", START, "batch", "zoo", "out", *FLAGS],
        cwd=folder,
        stderr=subprocess.PIPE,
    )


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    texts = [text, *(path.read_text() for path in threads)]
    return sorted({int(word) for each in texts for word in each.split()})


def done_rows(folder: Path) -> Iterator[str]:
    path = folder / "out" / LEDGER
    if path.exists():
        yield from (row["target"] for row in read_rows(path) if row["event"] == "done")


def kill_somewhen(process: subprocess.Popen[bytes], chance: random.Random, folder: Path) -> None:
    """Kill workers, then the batch; it is let do a few models each time."""
    enough = len([*done_rows(folder)]) + chance.randint(0, max(1, MODELS // ROUNDS))
    while process.poll() is None and len([*done_rows(folder)]) < enough:
        time.sleep(0.002)
    for _ in range(chance.randint(0, 2)):
        workers = children(process.pid)
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
        time.sleep(chance.random() * 0.05)
    time.sleep(chance.random() * 0.02)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("seed", [1])
def test_nothing_that_was_recorded_is_lost(
    make_zoo: Callable[[int], Path], tmp_path: Path, seed: int
) -> None:
    make_zoo(MODELS)
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        kill_somewhen(batch(tmp_path), chance, tmp_path)
    with batch(tmp_path) as last:
        _, messages = last.communicate()
        assert last.returncode == 0, messages
    times = Counter(done_rows(tmp_path))
    assert len(times) == MODELS
    assert {*times.values()} == {1}, "converted again after it was recorded"
    assert [*tmp_path.rglob(".tensorferry-*")] == []
    check_outputs(tmp_path)


def check_outputs(folder: Path) -> None:
    rows = [row for row in read_rows(folder / "out" / LEDGER) if row["event"] == "done"]
    for row in rows:
        with (
            open_tensors(folder / row["source"]) as source,
            open_tensors(folder / "out" / row["target"]) as copy,
        ):
            assert {name: digest(copy[name]) for name in copy} == {
                name: digest(source[name]) for name in source
            }
