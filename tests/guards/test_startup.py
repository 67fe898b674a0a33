"""Nothing heavy is imported until it is needed, and TensorFlow never."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tensorferry.converters.registry import all_formats

JUDGES = {"tensorflow", "tf_keras", "keras"}
HEAVY = JUDGES | {"h5py", "numpy", "ml_dtypes", "typer", "click", "rich"}

PROGRAM = """
import sys
from tensorferry.pipeline.entry import main
try:
    sys.exit(main() if len(sys.argv) > 1 else 0)
finally:
    print("\\n" + " ".join(name for name in sys.modules if "." not in name))
"""


def imported(folder: Path, *words: str, code: int = 0) -> set[str]:
    """Return the top-level modules that a command line imports, which ends with this code."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_starting_imports_nothing_heavy(tmp_path: Path) -> None:
    assert not imported(tmp_path) & HEAVY


def test_a_conversion_to_safetensors_imports_nothing_heavy(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf_keras_object" / "ckpt-1"
    assert not imported(tmp_path, str(source), "model.safetensors") & HEAVY
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("model", ["tf_keras_h5", "keras_archive", "keras_weights"])
def test_keras_files_are_read_without_libhdf5(tmp_path: Path, samples: Path, model: str) -> None:
    source = next(each for each in (samples / model).iterdir() if each.suffix in (".h5", ".keras"))
    assert not imported(tmp_path, str(source), "model.safetensors") & HEAVY
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "ending",
    [
        each.extensions[0]
        for each in all_formats()
        if each.plan and each.extensions and not each.needs
    ],
)
def test_no_conversion_imports_tensorflow(tmp_path: Path, samples: Path, ending: str) -> None:
    # A Keras model is written from a config, which this source has.
    is_model = ending == ".keras"
    source = samples / ("keras_archive/model.keras" if is_model else "tf1_adam_ema")
    there = imported(tmp_path, str(source), f"model{ending}", "--verify")
    back = imported(tmp_path, f"model{ending}", "back.ckpt", "--verify")
    assert not (there | back) & JUDGES


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_inventory_imports_nothing_heavy(
    tmp_path: Path, samples: Path, flags: tuple[str, ...]
) -> None:
    for model in ("tf1_adam_ema", "tf_keras_object", "saved_model_keras", "keras_archive"):
        source = str(samples / model / ("model.keras" if model == "keras_archive" else ""))
        assert not imported(tmp_path, "inspect", source, *flags) & HEAVY


def test_a_plain_check_needs_no_parser(tmp_path: Path, samples: Path) -> None:
    source = str(samples / "tf1_adam_ema")
    parsers = {"typer", "click", "rich", "h5py"}
    clean = str(samples / "several_steps" / "model.ckpt-10")
    assert not imported(tmp_path, "check", clean) & parsers
    assert not imported(tmp_path, "check", source, "--json", code=1) & (parsers | JUDGES)


def test_inspecting_imports_no_tensorflow(tmp_path: Path, samples: Path) -> None:
    source = str(samples / "all_dtypes" / "bundle")
    assert not imported(tmp_path, "inspect", source) & JUDGES
    assert not imported(tmp_path, "inspect", source, "dtype/bfloat16") & JUDGES
