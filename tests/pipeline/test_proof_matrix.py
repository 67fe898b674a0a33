"""Every source in every format that is written: `verify` proves it, and finds a single bit."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import TargetError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_named
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.proof import Fate, Proof, prove
from tensorferry.pipeline.recorded import read_report

REPOSITORY = Path(__file__).resolve().parents[2]


def matrix_tool() -> ModuleType:
    """Return `tools/matrix.py`, which knows every source and every target."""
    path = REPOSITORY / "tools" / "matrix.py"
    spec = importlib.util.spec_from_file_location("matrix_of_proofs", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


matrix = matrix_tool()


def differences(proof: Proof) -> dict[str, Fate]:
    return {row.name: row.fate for row in proof.rows if row.fate is not Fate.SAME}


def converted(
    sample: Any, target: Any, folder: Path, **others: Any
) -> tuple[ConvertOptions, bool] | None:
    """Convert with a report, as the table in the documentation is made.

    Returns:
        How, and whether tensors were dropped; None where it is refused.
    """
    for flags in target.tries:
        if not matrix._can_have(sample, flags):
            continue
        options = replace(
            matrix._options(sample, target, flags),
            report=folder / "report.json",
            digest_file=folder / "digests.json",
            **others,
        )
        try:
            report = convert(sample.path, folder / target.name, options)
        except (TargetError, UsageError):
            continue
        return options, any(note.kind is Kind.DROPPED for note in report.plan.notes)
    return None


def cells() -> list[Any]:
    return [
        pytest.param(sample, target, id=f"{sample.place} to {target.shown}")
        for sample in matrix.ROWS
        for target in matrix.columns()
    ]


@pytest.mark.parametrize(("sample", "target"), cells())
def test_what_was_written_is_proved(sample: Any, target: Any, tmp_path: Path) -> None:
    done = converted(sample, target, tmp_path)
    if done is None:
        return  # the test of the table tells whether it is refused rightly
    options, dropped = done
    path, digests = tmp_path / target.name, tmp_path / "digests.json"
    recorded = read_report(tmp_path / "report.json")
    proof = prove(sample.path, path, recorded=recorded, digest_file=digests)
    assert proof.proved is not dropped
    assert set(differences(proof).values()) == ({Fate.DROPPED} if dropped else set())
    # The same without a report: what is in the target tells how it was made.
    guessed = prove(sample.path, path, replace(options, write=WriteOptions(), target_format=None))
    assert guessed.proved is proof.proved
    assert prove(path, None, digest_file=digests).proved


def first_of_each_target() -> list[Any]:
    network = next(row for row in matrix.ROWS if row.place == "npz_file/model.npz")
    return [pytest.param(network, target, id=target.shown) for target in matrix.columns()]


@pytest.mark.parametrize(("sample", "target"), first_of_each_target())
def test_one_bit_of_one_value_is_found_in_every_format(
    sample: Any, target: Any, tmp_path: Path
) -> None:
    with np.load(sample.path) as arrays:
        value = arrays["d1/kernel"].copy()
    value.view(np.uint8).reshape(-1)[5] ^= 1
    patch, plan = tmp_path / "patch.npz", format_named("npz").plan
    assert plan
    write_plan(plan(tensors_of({"d1/kernel": value}), patch, WriteOptions()))
    assert converted(sample, target, tmp_path, updates=(patch,)) is not None
    path = tmp_path / target.name
    recorded = read_report(tmp_path / "report.json")
    assert prove(sample.path, path, recorded=recorded).proved
    without = recorded._replace(options=replace(recorded.options, updates=()))
    for proof in (prove(sample.path, path, recorded=without), prove(sample.path, path)):
        changed = {name for name, fate in differences(proof).items() if fate is Fate.CHANGED}
        assert changed == {"d1/kernel"}
        assert not proof.proved
