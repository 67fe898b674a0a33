"""Tables of `inspect`: their order, what is left out, and what a terminal gets."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import (
    MemoryTensor,
    Origin,
    Role,
    TensorDict,
    TensorSpec,
)
from tensorferry.converters.testing.contracts import Values
from tensorferry.pipeline import terminal
from tensorferry.pipeline.console import human
from tensorferry.pipeline.stats import stats_all
from tensorferry.pipeline.tables import Line, Table, plain, sort, stats_table, table, tree

Make = Callable[[Mapping[str, Values]], TensorDict]
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def sized(**sizes: int) -> TensorDict:
    """Return a model of tensors of so many bytes; `__` stands for a slash."""
    tensors = {
        name.replace("__", "/"): MemoryTensor(TensorSpec(DType.UINT8, (size,)), bytes)
        for name, size in sizes.items()
    }
    return TensorDict("made", "made", tensors)


def first_cells(shown: Table) -> list[str]:
    return [name for line, name, _ in shown.rows if line is not Line.TOTAL]


def test_tensors_are_sorted_by_size_or_name() -> None:
    tensors = sized(b10=1, b9=3, a=2, c=3)
    assert list(sort(tensors, None)) == ["b10", "b9", "a", "c"]
    assert list(sort(tensors, "size")) == ["b9", "c", "a", "b10"]
    assert list(sort(tensors, "name")) == ["a", "b9", "b10", "c"]


def test_a_tree_is_sorted_by_the_sizes_of_layers() -> None:
    tensors = sized(a__w=1, b__w=5, b__x=6, c=4, d=9)
    assert first_cells(tree(tensors)) == ["c", "d", "a/", "  w", "b/", "  w", "  x"]
    by_size = tree(sort(tensors, "size"), by="size")
    assert first_cells(by_size) == ["d", "c", "b/", "  x", "  w", "a/", "  w"]
    assert by_size.rows[2] == (Line.LAYER, "b/", ("2 tensors", "", "", "11"))
    by_name = tree(sort(sized(b__w=1, a__x=1, a__b=1), "name"), by="name")
    assert first_cells(by_name) == ["a/", "  b", "  x", "b/", "  w"]


def test_totals_are_by_role_and_of_all() -> None:
    tensors = replace(
        sized(a=1, b=20, c=300), origins={"a": Origin("a", Role.WEIGHT), "c": Origin("c")}
    )
    totals = [(name, *cells) for line, name, cells in table(tensors).rows if line is Line.TOTAL]
    assert totals == [
        ("1 tensor", "weight", "", "", "1"),
        ("2 tensors", "tensor", "", "", "320"),
        ("3 tensors", "", "", "", "321"),
    ]


def test_plain_columns_are_aligned_and_nothing_is_cut_off(make_tensors: Make) -> None:
    tensors = make_tensors({"n" * 300: [b"x"], "m": [b"x" * 5000]})
    header, long, short, total = plain(table(tensors))
    assert long.startswith("n" * 300 + "  tensor  string  1")
    assert {len(header), len(long), len(short), len(total)} == {len(header)}
    assert header.endswith(" bytes")
    assert short.endswith(" 5,000")


def test_statistics_of_a_tensor_are_a_row(samples: Path) -> None:
    with open_tensors(samples / "all_dtypes" / "bundle") as tensors:
        shown = stats_table(tensors, stats_all(tensors, 1))
    assert [column.title for column in shown.columns[:5]] == [
        "name",
        "dtype",
        "shape",
        "min",
        "max",
    ]
    rows = [cells for _, _, cells in shown.rows]
    strings = [cells for cells in rows if cells[0] == "string"]
    assert strings
    assert all(set(cells[2:]) == {""} for cells in strings)
    assert all(cells[2] for cells in rows if cells[0] == "int8")


# On a terminal


def on_terminal(folder: Path, *words: str, **environment: str) -> str:
    """Return what a command prints where stdout is a terminal."""
    ours, theirs = pty.openpty()
    done = subprocess.Popen(
        [str(Path(sys.executable).parent / "convert"), *words],
        cwd=folder, stdout=theirs, stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "100",
             "LC_ALL": "C.UTF-8", **environment},
    )  # fmt: skip
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert done.wait(30) == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_a_terminal_gets_colours_and_human_sizes(samples: Path) -> None:
    shown = on_terminal(samples, "inspect", "tf_keras_object", "--quiet")
    assert "\x1b[1;36mname" in shown
    lines = ANSI.sub("", shown).splitlines()
    assert lines[0].split() == ["name", "role", "dtype", "shape", "size"]
    assert lines[-1].split() == ["26", "tensors", "1.09", "kB"]
    ends = {len(line.rstrip()) for line in lines}
    assert len(ends) == 1  # sizes stand at the right


def test_no_color_is_respected(samples: Path) -> None:
    shown = on_terminal(samples, "inspect", "tf_keras_object", NO_COLOR="1")
    codes = set(re.findall(r"\x1b\[([0-9;]*)m", shown))
    assert codes <= {"0", "1"}  # bold is no colour


def test_long_names_are_folded_and_not_cut_off(samples: Path) -> None:
    shown = ANSI.sub("", on_terminal(samples, "inspect", "tf1_adam_ema", "-q", COLUMNS="70"))
    assert max(map(len, shown.splitlines())) <= 70
    names = "".join(line.split()[0] for line in shown.splitlines())
    assert "batch_normalization/gamma/ExponentialMovingAverage" in names


def test_a_terminal_too_narrow_for_a_table_gets_whole_lines(samples: Path) -> None:
    shown = on_terminal(samples, "inspect", "tf1_adam_ema", "-q", COLUMNS="30")
    assert "batch_normalization/gamma/ExponentialMovingAverage  moving average" in shown


def test_statistics_are_a_table_too(samples: Path) -> None:
    words = ("inspect", "several_steps", "--stats", "-q")
    shown = on_terminal(samples, *words, COLUMNS="140")
    assert "\x1b[1;36mname" in shown
    row = ANSI.sub("", shown).splitlines()[3].split()
    assert row[:4] == ["global_step", "int64", "scalar", "4823019095076032080"]


def test_brackets_in_names_are_no_markup(
    make_tensors: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.print_table(table(make_tensors({"[red]w[/red]": [b"x"]}), human))
    assert "[red]w[/red]" in capsys.readouterr().out


def test_very_long_tables_are_plain(
    make_tensors: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "MOST_ROWS", 2)
    shown = table(make_tensors({"a": [b"x"], "b": [b"y"]}))
    terminal.print_table(shown)
    assert capsys.readouterr().out.splitlines() == list(plain(shown))
