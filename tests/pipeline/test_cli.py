from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tensorferry.pipeline import console, entry
from tensorferry.pipeline.cli import DEFAULT, app
from tensorferry.pipeline.flags import parse_size

START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
COMMAND = [sys.executable, "-c", START]


def test_the_plain_entry_knows_all_verbs() -> None:
    commands = (*app.registered_commands, *app.registered_groups)
    names = {command.name for command in commands}
    assert names == {*entry.VERBS, DEFAULT}


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("300", 300),
        ("300B", 300),
        ("5GB", 5 * 10**9),
        ("1.5kB", 1500),
        ("2MiB", 2 << 20),
        ("1 TiB", 1 << 40),
    ],
)
def test_sizes_are_parsed(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "big", "0GB", "-1", "5XB", "1e3"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


def test_plain_and_parsed_words_do_the_same(tmp_path: Path, samples: Path) -> None:
    source = str(samples / "tf1_multi_shard")
    for words in ([source, "a.safetensors"], [source, "b.safetensors", "--jobs", "1"]):
        subprocess.run([*COMMAND, *words], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_options_may_come_first(tmp_path: Path, samples: Path) -> None:
    words = ["-q", "--to", "npz", str(samples / "tf1_multi_shard"), "out"]
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, check=True, capture_output=True)
    assert done.stderr == b""
    assert (tmp_path / "out").read_bytes()[:2] == b"PK"


def test_the_report_is_stored_and_printed(tmp_path: Path, samples: Path) -> None:
    words = [str(samples / "tf1_multi_shard"), "out.npz", "--report", "r.json", "--json", "-q"]
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, check=True, capture_output=True)
    printed, stored = json.loads(done.stdout), json.loads((tmp_path / "r.json").read_text())
    assert printed == stored
    assert len(stored["tensors"]) == 6
    assert all(len(row["digest"]) == 64 for row in stored["tensors"])


def test_debug_keeps_the_traceback(tmp_path: Path) -> None:
    words = ["nothing.ckpt", "out.npz", "--debug"]
    done = subprocess.run([*COMMAND, *words], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 3
    assert b"Traceback" in done.stderr
    assert b"does not exist" in done.stderr


def test_an_unforeseen_error_is_called_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError("two moons")

    assert console.guarded(fail) == 70
    assert "RuntimeError: two moons\n\nhint: a bug" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "code"), [("model.npz", 3), ("folder/model", 2)])
def test_a_mistyped_verb_is_guessed(tmp_path: Path, target: str, code: int) -> None:
    done = subprocess.run(
        [*COMMAND, "inspct", target], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "hint: did you mean `inspect`?" in done.stderr
