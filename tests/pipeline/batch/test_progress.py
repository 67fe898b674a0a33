"""What a person and a machine see of a batch."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console as Terminal
from tensorferry.pipeline.batch import progress
from tensorferry.pipeline.batch.ledger import LEDGER, read_rows
from tensorferry.pipeline.batch.progress import BatchConsole, EventStream, summary_lines
from tensorferry.pipeline.batch.run import Totals
from tensorferry.pipeline.batch.screen import MOST_LINES, BatchScreen
from tensorferry.pipeline.console import Console

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", START, "batch", "zoo", "out", "--to", "safetensors"]
DONE = {
    "event": "done", "target": "a.npz", "bytes": 2000, "seconds": 0.5, "source_bytes": 3000,
    "formats": ["npz", "npz"],
}  # fmt: skip
FAILED = {"event": "failed", "error": "a: is torn", "hint": "copy it again", "exit_code": 4}


def halfway() -> Totals:
    return Totals(
        models=1200, done=500, unchanged=100, failed=2, skipped=7,
        nbytes=5_000_000, source_bytes=6_000_000, source_total=12_000_000, seconds=2.5,
    )  # fmt: skip


# Lines


def test_lines_come_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = BatchConsole(Console("out"))
    console.began(Totals(models=1200, unchanged=100))
    for _ in range(100):
        console.waited(halfway())
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    console.waited(halfway())
    shown = capsys.readouterr()
    assert shown.out == ""
    first, second = shown.err.splitlines()
    assert first == "1200 models found, 100 are there already"
    assert second.startswith("602 of 1200 models, 2 failed, ")
    assert "models/s" in second
    assert second.endswith(" left")


def test_a_failure_is_told_at_once_though_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console = BatchConsole(Console("out"), quiet=True)
    console.began(Totals(models=2))
    console.changed(DONE, Totals(models=2))
    console.changed(FAILED, Totals(models=2))
    console.ended(Totals(models=2))
    assert capsys.readouterr().err.splitlines() == [
        "failed: a: is torn (exit 4)",
        "        hint: copy it again",
    ]


def test_every_model_is_told_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    console = BatchConsole(Console("out"), verbose=True)
    console.changed(DONE, halfway())
    console.changed({"event": "skipped", "source": "zoo/x", "error": "is empty"}, halfway())
    console.changed({"event": "started", "target": "a.npz"}, halfway())
    assert capsys.readouterr().err.splitlines() == [
        "done: a.npz: 2 kB in 0.50 s (4 kB/s)",
        "skipped: zoo/x: is empty",
    ]


def test_the_table_at_the_end() -> None:
    assert [*summary_lines(halfway())] == [
        "done                 500",
        "there already        100",
        "failed                 2",
        "left to do           598",
        "no models              7",
        "5 MB written in 2.50 s (2 MB/s)",
    ]


def test_formats_and_what_took_longest_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    console = BatchConsole(Console("out"))
    for number in range(5):
        target = f"{number}.npz"
        console.changed({**DONE, "target": target, "seconds": number / 2}, halfway())
    console.changed({**DONE, "formats": ["keras-h5", "npz"]}, halfway())
    console.ended(halfway())
    shown = capsys.readouterr().err.splitlines()
    assert shown[-6:-1] == [
        "  keras-h5 → npz: 1, 3 kB to 2 kB",
        "  npz → npz: 5, 15 kB to 10 kB",
        "  slowest: 4.npz: 2.0 s",
        "  slowest: 3.npz: 1.5 s",
        "  slowest: 2.npz: 1.0 s",
    ]


def picture(screen: BatchScreen, width: int = 100) -> list[str]:
    """Return the lines that a terminal of a width shows."""
    terminal = Terminal(width=width, file=io.StringIO(), force_terminal=False)
    terminal.print(screen.picture())
    return terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]


def begun(source: str, nbytes: int = 2_000_000) -> dict[str, object]:
    return {"event": "started", "target": f"{source}.npz", "source": source, "source_bytes": nbytes}


def test_each_worker_has_a_line_with_its_model() -> None:
    screen = BatchScreen(lambda: {"zoo/b": 0.43})
    totals = halfway()
    for name in ("zoo/a", "zoo/b", "zoo/c"):
        screen.changed(begun(name), totals)
    first, second, *lines = picture(screen)
    assert "602 of 1200 models" in first
    assert "2 failed" in first
    assert "6 MB of 12 MB" in second
    assert "models/s" in second
    assert [line.split()[:3] for line in lines] == [[f"zoo/{each}", "2", "MB"] for each in "abc"]
    assert lines[1].rstrip().endswith("43%")
    assert "%" not in lines[0]


def test_a_model_keeps_its_line_until_it_ends() -> None:
    screen = BatchScreen(dict)
    for name in ("zoo/a", "zoo/b"):
        screen.changed(begun(name), halfway())
    screen.changed({**begun("zoo/a"), "event": "done"}, halfway())
    assert [line.split()[0] for line in picture(screen)[2:]] == ["zoo/b"]
    screen.changed(begun("zoo/c"), halfway())
    assert [line.split()[0] for line in picture(screen)[2:]] == ["zoo/c", "zoo/b"]


def test_a_cluster_does_not_fill_the_screen() -> None:
    screen = BatchScreen(dict)
    for number in range(500):
        screen.changed(begun(f"zoo/{number}"), halfway())
    lines = picture(screen)
    assert len(lines) == 2 + MOST_LINES + 1
    assert lines[-1].strip() == f"and {500 - MOST_LINES} more"


def test_names_of_others_cannot_paint_the_screen() -> None:
    screen = BatchScreen(dict)
    screen.changed(begun("zoo/[red]x[/red]\x1b[31m"), halfway())
    assert "zoo/[red]x[/red]" in picture(screen)[2]
    assert "\x1b" not in "".join(picture(screen))


def test_events_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    stream = EventStream()
    stream.changed(DONE, halfway())
    stream.ended(halfway())
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {**DONE, "ended": 602, "models": 1200}
    assert (last["event"], last["done"], last["failed"], last["bytes"]) == (
        "ended",
        500,
        2,
        5_000_000,
    )


# Processes


def test_a_terminal_gets_a_bar(make_zoo: Callable[[int], Path], tmp_path: Path) -> None:
    make_zoo(6)
    (tmp_path / "zoo" / "torn.npz").write_bytes(b"PK\x03\x04torn")
    ours, theirs = pty.openpty()
    with subprocess.Popen(COMMAND, cwd=tmp_path, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the terminal is gone with its last writer
                break
    os.close(ours)
    assert process.returncode == 7
    assert "━".encode() in shown
    assert b"torn.npz" in shown
    assert b"of 7 models" in shown


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Hear SIGINT, which a shell's background jobs, and so their children, are started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_it_cleanly(
    make_zoo: Callable[[int], Path], tmp_path: Path, number: int, code: int
) -> None:
    make_zoo(40)
    ledger = tmp_path / "out" / LEDGER
    with subprocess.Popen(
        [*COMMAND, "--json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not ledger.exists() or b'"done"' not in ledger.read_bytes():
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.001)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert b"Traceback" not in err
    assert (b"the same command goes on" in err) == (number == signal.SIGINT)
    rows = [row for row in read_rows(ledger) if row["event"] != "skipped"]
    events = [row["event"] for row in rows]
    assert events.count("started") == events.count("done") + events.count("stopped")
    assert [json.loads(line)["event"] for line in out.splitlines()][-1] == "ended"
    assert [*tmp_path.rglob(".tensorferry-*")] == []


def test_workers_stay_small(make_zoo: Callable[[int], Path], tmp_path: Path) -> None:
    make_zoo(10)
    program = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *COMMAND, "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 150_000  # kilobytes, of the largest process
