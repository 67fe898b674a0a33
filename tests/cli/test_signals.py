"""Interrupts, limits and terminals, with real processes."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", START]


def sparse_model(path: Path, nbytes: int) -> None:
    """Write a safetensors file whose one tensor is a hole: large, and made at once."""
    header = f'{{"w":{{"dtype":"U8","shape":[{nbytes}],"data_offsets":[0,{nbytes}]}}}}'
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + nbytes)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Hear SIGINT, which a shell's background jobs, and so their children, are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number: int, code: int) -> None:
    sparse_model(tmp_path / "in.safetensors", 1 << 30)
    with subprocess.Popen(
        [*COMMAND, "in.safetensors", "out.ckpt"], cwd=tmp_path, stderr=subprocess.PIPE
    ) as process:
        while not list(tmp_path.glob(".tensorferry-*/*")):
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.001)
        process.send_signal(number)
        process.communicate(timeout=30)
    assert process.returncode == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.safetensors"]


def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    sparse_model(tmp_path / "in.safetensors", 10)
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o555)
    # Root may write anywhere; without these capabilities it is held to the folder's mode.
    drop = "-dac_override,-dac_read_search"
    held = ["setpriv", "--bounding-set", drop, "--inh-caps", drop] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*held, *COMMAND, "in.safetensors", "theirs/out.npz"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert "theirs: cannot be written: permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(folder.iterdir())


def test_a_bar_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    sparse_model(tmp_path / "in.safetensors", 100 << 20)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "in.safetensors", "out.safetensors"], cwd=tmp_path, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal is gone with its last writer
                break
    os.close(ours)
    assert process.returncode == 0
    assert "━".encode() in shown
    quiet = subprocess.run(
        [*COMMAND, "in.safetensors", "plain.safetensors"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert "━".encode() not in quiet.stderr
    assert quiet.stdout == b""


def test_a_reader_that_has_seen_enough_is_no_error(samples: Path) -> None:
    command = " ".join(f"'{word}'" for word in COMMAND)
    done = subprocess.run(
        f"{command} inspect {samples}/all_dtypes/bundle --quiet | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "0"
    assert done.stderr == ""
