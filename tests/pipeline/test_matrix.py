"""Every sample to every format, every type and odd names: as the tables in the documentation say.

The tables are made by `tools/matrix.py` and `tools/holding.py`, which raise where a copy is not
equal. Here each cell is a test of its own, compared with the page as it is committed; what must
never change is written down here too.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import Format

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "formats" / "matrix.md"
CELL = re.compile(r"(\w+)(?:: ([^(]+?))?(?: \(([\d, ]+)\))?")


def tool(name: str) -> ModuleType:
    """Return a module of `tools/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


matrix, holding = tool("matrix"), tool("holding")
PLAIN = [each for each in holding.writable() if holding.holds_anything(each)]

# Types that a target cannot hold in any form; whatever else is refused is a step back.
TENSORFLOW_REFUSES = {DType.FLOAT8_E8M0FNU}
KERAS_REFUSES = {each for each in DType if not each.native and each is not DType.BFLOAT16}
REFUSED = {
    "safetensors": {DType.COMPLEX128},
    "tf-checkpoint": TENSORFLOW_REFUSES,
    "saved-model": TENSORFLOW_REFUSES,
    "keras-h5": KERAS_REFUSES,
    "keras-v3": KERAS_REFUSES,
}


# The matrix


@pytest.fixture(scope="module")
def page() -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return the cells of the page by row and column, and the remarks below."""
    text = PAGE.read_text(encoding="utf-8").split("<!-- generated: matrix -->")[1]
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("|")]
    head, rows = lines[0], lines[2:]
    cells = {(row[0], shown): each for row in rows for shown, each in zip(head, row, strict=True)}
    return cells, re.findall(r"^\d+\. (.+)$", text, re.MULTILINE)


def pairs() -> list[Any]:
    return [
        pytest.param(sample, target, id=f"{sample.place} to {target.shown}")
        for sample in matrix.ROWS
        for target in matrix.columns()
    ]


@pytest.mark.parametrize(("sample", "target"), pairs())
def test_a_conversion_comes_to_what_the_page_says(
    sample: Any, target: Any, page: tuple[dict[tuple[str, str], str], list[str]], tmp_path: Path
) -> None:
    cells, remarks = page
    found = matrix.fate(sample, target, tmp_path)
    said = CELL.fullmatch(cells[matrix.label(sample), target.shown])
    assert said
    kind, flags, numbers = said.groups()
    told = tuple(remarks[int(number) - 1] for number in (numbers or "").split(", ") if number)
    assert (found.kind, " ".join(f"`{flag}`" for flag in found.flags)) == (kind, flags or "")
    assert found.remarks == told


def test_every_format_that_is_read_has_a_row() -> None:
    pytest.importorskip("tflite")
    found = set()
    for sample in matrix.ROWS:
        with open_tensors(sample.path) as tensors:
            found.add(tensors.format)
    assert found == {each.name for each in holding.formats()}


def test_every_format_that_is_written_has_a_column() -> None:
    assert {each.format for each in matrix.columns()} == {each.name for each in holding.writable()}


# Types and names


@pytest.mark.parametrize("dtype", DType, ids=str)
@pytest.mark.parametrize("format", holding.writable(), ids=lambda each: each.name)
def test_a_type_comes_back_identical_or_is_refused_with_flags_that_help(
    format: Format, dtype: DType
) -> None:
    held = holding.dtype_held(format, dtype)
    assert (held.kind == holding.REFUSED) == (dtype in REFUSED.get(format.name, ()))
    if held.kind == holding.REFUSED:
        assert dtype.label in held.text
        assert "--exclude" in held.hint
        assert "--exclude" in held.flags
        castable = dtype.label.startswith(("float", "int", "uint", "complex"))
        assert ("--dtype" in held.flags) == castable


@pytest.mark.parametrize("shown", holding.NAMES)
@pytest.mark.parametrize("format", PLAIN, ids=lambda each: each.name)
def test_names_come_back_exactly_or_are_refused(format: Format, shown: str) -> None:
    held = holding.names_held(format, holding.NAMES[shown])
    if held.kind == holding.REFUSED:
        assert "--exclude" in held.hint
        assert held.flags == ("--exclude",)


def test_plain_containers_refuse_no_name() -> None:
    refused = {
        (each.name, shown)
        for each in PLAIN
        for shown, names in holding.NAMES.items()
        if each.name in ("hdf5", "npz", "safetensors")
        and holding.names_held(each, names).kind == holding.REFUSED
    }
    assert not refused
