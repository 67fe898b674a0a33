"""Runs that are stopped, and disks that are full, with real processes: nothing is left half."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorferry.pipeline.package.verify import verify_package

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", START, "package"]
NBYTES = 256 << 20


def sparse_model(path: Path, nbytes: int = NBYTES) -> None:
    """Write a safetensors file of some tensors that are holes: large, and made at once."""
    part = nbytes // 4
    tensors = {
        f"w{n}": {"dtype": "F32", "shape": [part // 4], "data_offsets": [n * part, (n + 1) * part]}
        for n in range(4)
    }
    header = json.dumps(tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + nbytes)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Hear SIGINT, which a shell's background jobs, and so their children, are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(folder: Path, *flags: str, target: str = "out") -> subprocess.Popen[bytes]:
    """Start a package, and wait until it writes."""
    process = subprocess.Popen(
        [*COMMAND, "in.safetensors", target, "--jobs", "2", *flags],
        cwd=folder, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not list(folder.glob(".tensorferry-*/.made/*/.tensorferry-*/*")):
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.001)
    return process


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("target", ["out", "out.tar"])
def test_a_signal_leaves_nothing(tmp_path: Path, number: int, code: int, target: str) -> None:
    sparse_model(tmp_path / "in.safetensors")
    with started(tmp_path, "--variant", "f32", "--variant", "bf16", target=target) as process:
        time.sleep(random.Random(code).random() / 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    sparse_model(tmp_path / "in.safetensors", 64 << 20)
    small = [*COMMAND, "in.safetensors", "out", "--quiet"]
    first = subprocess.run(small, cwd=tmp_path, capture_output=True, check=True)
    for _ in range(2):
        with started(tmp_path, "--overwrite") as process:
            process.kill()
            process.communicate(timeout=30)
        # What was there before is there, whole.
        assert verify_package(tmp_path / "out", jobs=2).problems == ()
        assert list(tmp_path.glob(".tensorferry-*"))
    again = subprocess.run([*small, "--overwrite"], cwd=tmp_path, capture_output=True, check=True)
    assert again.stdout == first.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors", "out"]


@pytest.mark.parametrize(("limit", "named"), [(1000, "model.safetensors"), (70_000, "out.tar")])
def test_a_disk_that_takes_no_more(tmp_path: Path, limit: int, named: str) -> None:
    """A limit of the process stands for the disk; real full ones are where mounts are allowed."""
    sparse_model(tmp_path / "in.safetensors", 65_536)
    done = subprocess.run(
        ["prlimit", f"--fsize={limit}", *COMMAND, "in.safetensors", "out.tar"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert f"{named}: cannot be written: file too large" in done.stderr
    assert ".tensorferry" not in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], capture_output=True,
        check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("no file systems can be mounted here")
    try:
        sparse_model(tmp_path / "in.safetensors", 1 << 19)
        command = [*COMMAND, str(tmp_path / "in.safetensors")]
        for target, what in (("out.tar", "no space left on device"), ("two", "not enough space")):
            flags = ["--variant", "f32", "--variant", "f64"] if target == "two" else []
            done = subprocess.run(
                [*command, target, *flags], cwd=disk, capture_output=True, text=True, check=False
            )
            assert done.returncode == 5, done.stderr
            assert what in done.stderr
            assert target in done.stderr
            assert not os.listdir(disk)  # noqa: PTH208 - hidden ones too
    finally:
        subprocess.run(["umount", str(disk)], check=True)
