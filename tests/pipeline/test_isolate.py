from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tensorferry.converters.errors import CorruptFileError
from tensorferry.pipeline import isolate

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", START, *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_the_child_does_the_same(tmp_path: Path, samples: Path, ending: str) -> None:
    source = str(samples / "tf1_multi_shard")
    assert run(tmp_path, source, f"plain.{ending}").returncode == 0
    done = run(tmp_path, source, f"isolated.{ending}", "--isolate", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    plain, isolated = (tmp_path / f"{name}.{ending}" for name in ("plain", "isolated"))
    assert isolated.read_bytes() == plain.read_bytes()


def test_exit_codes_and_messages_come_through(tmp_path: Path) -> None:
    done = run(tmp_path, "inspect", "nothing.ckpt", "--isolate")
    assert done.returncode == 3
    assert "nothing.ckpt: does not exist" in done.stderr


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed the reader, got SIGSEGV"),
        ("import os; os.kill(os.getpid(), 24)", "takes too long, expected at most 60 s"),
    ],
)
def test_a_child_that_dies_means_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, text: str
) -> None:
    monkeypatch.setattr(isolate, "START", code)
    with pytest.raises(CorruptFileError, match=text):
        isolate.run_isolated([], str(tmp_path / "file"))


def test_the_child_may_not_take_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    greedy = "from tensorferry.pipeline.console import guarded; import sys;"
    monkeypatch.setattr(
        isolate, "START", greedy + "sys.exit(guarded(lambda: bytearray(1 << 40) and None))"
    )
    assert isolate.run_isolated([], str(tmp_path)) == 4
    assert "more memory" in capfd.readouterr().err
