"""Measure what the digests are chosen by: `python benches/hashes.py [--record]`.

First the rates of hash functions over pieces of 1 MiB, as the copy engine feeds them, by one and by
two threads; a piece was just read there, so it is in the processor's cache here as well. Then what
the digests in use add to the conversion of the 1.3 GB checkpoint. A digest is affordable by default
if two threads take in more than `cp` copies.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median

import report
from blake3 import blake3
from checkpoints import ensure, files_of, source_of
from contestants import COPY, Bench
from fastcrc import crc32
from installed import install, program_of, versions
from measure import Contestant, Group, run_group

PIECE_BYTES = 1 << 20
GIBIBYTE = 1 << 30
KIND = "1.3GB"
ROUNDS = 5
SECONDS = 0.1  # of each measurement

Update = Callable[[memoryview], object]

# Each call returns a function that takes in the next piece.
HASHES: dict[str, Callable[[], Update]] = {
    "BLAKE3 (blake3)": lambda: blake3().update,
    "SHA-256 (hashlib)": lambda: hashlib.sha256().update,
    "BLAKE2b (hashlib)": lambda: hashlib.blake2b().update,
    "MD5 (hashlib)": lambda: hashlib.md5(usedforsecurity=False).update,
    "CRC-32C (fastcrc)": lambda: crc32.iscsi,
    "CRC-32 (fastcrc)": lambda: crc32.iso_hdlc,
    "CRC-32 (zlib)": lambda: zlib.crc32,
}


def rate(make: Callable[[], Update], threads: int) -> float:
    """Return the bytes per second that all threads take in together."""
    start = threading.Barrier(threads)
    rates: list[float] = []

    def work() -> None:
        update, piece, count = make(), memoryview(bytearray(os.urandom(PIECE_BYTES))), 0
        start.wait()
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < SECONDS:
            update(piece)
            count += 1
        rates.append(count * PIECE_BYTES / took)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)


def rates_table() -> str:
    """Return rates by hash and number of threads, medians of interleaved rounds."""
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for name, make in HASHES.items():
            for threads in (1, 2):
                rates.setdefault((name, threads), []).append(rate(make, threads) / GIBIBYTE)
    lines = ["| hash, 1 MiB pieces | 1 thread | 2 threads |", "|---|---|---|"]
    for name in HASHES:
        one, two = (median(rates[name, threads]) for threads in (1, 2))
        lines.append(f"| {name} | {one:.2f} GiB/s | {two:.2f} GiB/s |")
    return "\n".join(lines)


def conversion_table(folder: Path, python: Path, rounds: int) -> str:
    """Return the cost of digests within a conversion, against `cp`."""
    ensure(folder, (KIND,))
    program = program_of(python)
    convert = (str(program), str(source_of(folder, KIND)), "{out}/out.safetensors", "--quiet")
    copy = Bench(folder, python, program).group(KIND).contestants[0]
    contestants = (
        copy,
        Contestant("convert to safetensors", convert),
        Contestant("convert, with digests", (*convert, "--report", "{out}/report.json")),
        Contestant("convert, with digests, --verify", (*convert, "--verify")),
    )
    if copy.name != COPY:
        raise RuntimeError("the reference is not cp")
    group = Group(KIND, files_of(folder, KIND), contestants, rounds)
    return report.table([(group, run_group(group, folder))])


def main() -> int:
    """Run both measurements; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the checkpoint here, for next time")
    parser.add_argument("--python", type=Path, help="an interpreter that has tensorferry already")
    parser.add_argument("--rounds", type=int, default=9, help="of the conversion; 0 leaves it out")
    parser.add_argument("--record", action="store_true", help="store the tables in benches/runs/")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tensorferry-hashes-") as temporary:
        folder = (arguments.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        text, software = rates_table(), {"hashes": versions(Path(sys.executable))}
        if arguments.rounds:
            named = arguments.python
            python = named.absolute() if named else install(folder / "installed")
            software["convert"] = versions(python)
            text += "\n\n" + conversion_table(folder, python, arguments.rounds)
        print(text)
        if arguments.record:
            report.record(text, software, "hashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
