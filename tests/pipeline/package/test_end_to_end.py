"""The way of the guide, word by word: three models to a registry and back, and as they were.

The blocks of the section are run as they stand, with samples and with models of the corpus in their
places. What comes back is compared with what TensorFlow and h5py read from the source.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters import open_tensors

pytestmark = pytest.mark.oracle

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "package.md"
HEAD = "## From a model to a registry and back\n"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SOURCES = {
    "keras": "sample_models/keras_archive/model.keras",
    "tf1": "sample_models/tf1_adam_ema",
    "saved-model": "sample_models/saved_model_keras",
}
AVERAGE = "/ExponentialMovingAverage"


def walk(folder: Path, registry: Any, change: Callable[[str], str]) -> None:
    """Run the section's blocks in order; `change` puts other models in their places."""
    section = GUIDE.read_text(encoding="utf-8").split(HEAD)[1].split("\n## ")[0]
    found = BLOCK.findall(section)
    assert [language for language, _ in found] == ["toml", "sh", "sh", "sh", "sh", "py", "sh"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = os.environ | {"PATH": path, "REGISTRY": f"127.0.0.1:{registry.port}"}
    for language, text in found:
        if language == "toml":
            (folder / "policy.toml").write_text(text)
            continue
        call = ["sh", "-eu", "-c"] if language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*call, change(text)], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


def pulled(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Return the weights that came back, read by safetensors."""
    from safetensors.numpy import load_file
    from tensorferry.pipeline.package.oci_read import read_oci

    files = read_oci(folder / "pulled" / name).files
    assert "model.sig" in files
    return load_file(files["model.safetensors"].path)


def keys_of(source: Path, names: list[str]) -> Mapping[str, str]:
    """Return what the container calls these tensors."""
    with open_tensors(source) as tensors:
        return {name: tensors.origin(name).key for name in names}


def compare(found: Mapping[str, np.ndarray], truth: Callable[[str], np.ndarray]) -> None:
    assert found
    for name, array in found.items():
        expected = truth(name)
        assert array.dtype == expected.dtype, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


def compare_keras(folder: Path, source: Path) -> None:
    found = pulled(folder, "keras")
    keys = keys_of(source, list(found))
    with zipfile.ZipFile(source) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        compare(found, lambda name: file[keys[name]][()])
        assert not any("optimizer" in key for key in keys.values())


def compare_checkpoint(
    tensorflow: Any, folder: Path, name: str, source: Path, variables: Path
) -> None:
    found = pulled(folder, name)
    reader = tensorflow.train.load_checkpoint(str(variables))
    held = reader.get_variable_to_shape_map()
    keys = keys_of(source, list(found))
    averages = {each for each in found if f"{keys[each]}{AVERAGE}" in held}
    assert bool(averages) == any(each.endswith(AVERAGE) for each in held)
    compare(
        found,
        lambda each: np.asarray(
            reader.get_tensor(keys[each] + (AVERAGE if each in averages else ""))
        ),
    )
    assert not any("Adam" in each for each in found)


def test_samples_go_to_a_registry_and_come_back(
    tmp_path: Path, samples: Path, registry: Any, tensorflow: Any
) -> None:
    (tmp_path / "sample_models").symlink_to(samples)
    walk(tmp_path, registry, lambda text: text)
    compare_keras(tmp_path, tmp_path / SOURCES["keras"])
    source = tmp_path / SOURCES["tf1"]
    compare_checkpoint(tensorflow, tmp_path, "tf1", source, source / "model.ckpt-7")
    source = tmp_path / SOURCES["saved-model"]
    compare_checkpoint(
        tensorflow, tmp_path, "saved-model", source, source / "variables" / "variables"
    )


def test_models_of_the_corpus_go_to_a_registry_and_come_back(
    tmp_path: Path, corpus: Path, registry: Any, tensorflow: Any
) -> None:
    """No checkpoint of TensorFlow 1 in the corpus has moving averages, so none are asked for."""
    files = corpus / "files"
    places = {
        "keras": files / "keras_v3/57cell__nlf-classifier/k3-57cell-nlf/model.keras",
        "tf1": files / "ckpt_v2/cmusphinx__g2p-seq2seq/v2-g2p-ckpt10-2shards/model.ckpt-10",
        "saved-model": files / "saved_model/mlcommons__tiny/sm-tiny-kws",
    }

    def change(text: str) -> str:
        for name, source in SOURCES.items():
            text = text.replace(source, str(places[name]))
        return text.replace(" --ema only", "").replace("/zoo/", "/corpus/")

    walk(tmp_path, registry, change)
    compare_keras(tmp_path, places["keras"])
    compare_checkpoint(tensorflow, tmp_path, "tf1", places["tf1"], places["tf1"])
    source = places["saved-model"]
    compare_checkpoint(
        tensorflow, tmp_path, "saved-model", source, source / "variables" / "variables"
    )
