"""Witnesses that are refused; what they say when called is in `test_witness_oracle.py`."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.digests import digest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import UnsafeFileError, UsageError
from tensorferry.converters.registry import ReadOptions
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.convert import ConvertOptions
from tensorferry.pipeline.proof import prove
from tensorferry.pipeline.witness import Hearing
from tensorferry.pipeline.witness_view import statement


@pytest.mark.parametrize(
    ("place", "against", "said", "hint"),
    [
        ("npz_file/model.npz", "tensorflow", "tensorflow reads no npz", "there is no witness"),
        ("saved_model_keras", "keras", "keras reads no saved-model", "--against tensorflow"),
        ("keras_archive/model.keras", "tensorflow", "reads no keras-v3", "--against keras"),
        ("keras_archive/model.keras", "torch", "no witness is called `torch`", "keras, tensorflow"),
        ("keras_weights/model.weights.h5", "keras", "weights alone", "the whole model"),
    ],
)
def test_who_is_no_witness_is_told(
    samples: Path, place: str, against: str, said: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        prove(samples / place, None, against=against)
    assert hint in (caught.value.hint or "")


def test_a_witness_does_not_compute(samples: Path) -> None:
    for read in (ReadOptions(dequantize=True), ReadOptions(keras1="modern")):
        with pytest.raises(UsageError, match="reads what is stored"):
            prove(samples / "tf1_adam_ema", None, ConvertOptions(read=read), against="tensorflow")


def test_an_archive_is_to_be_unpacked(tmp_path: Path, samples: Path) -> None:
    pytest.importorskip("tensorflow")
    archive = shutil.make_archive(str(tmp_path / "m"), "zip", samples / "tf1_multi_shard")
    with pytest.raises(UsageError, match="no files that TensorFlow could open") as caught:
        prove(archive, None, against="tensorflow")
    assert "unpack" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("place", "against", "module", "said"),
    [
        ("tf1_adam_ema", "tensorflow", "tensorflow", "needs TensorFlow"),
        ("keras_archive/model.keras", "keras", "keras", "needs Keras"),
        ("tf_keras_h5/model.h5", "keras", "tf_keras", "needs tf_keras"),
    ],
)
def test_a_missing_extra_is_named(
    samples: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    against: str,
    module: str,
    said: str,
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **words: Any) -> Any:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest, **words)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UsageError, match=said) as caught:
        prove(samples / place, None, against=against)
    assert "tensorferry[tensorflow]" in (caught.value.hint or "")


# Models that Keras would run something of

Change = Callable[[dict[str, Any]], object]


def layer(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of the first dense layer."""
    found = next(each for each in config["config"]["layers"] if each["class_name"] == "Dense")
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda each: each.update(class_name="Lambda"), "Lambda"),
        (lambda each: each.update(module="os", class_name="system"), "system"),
        (lambda each: each.update(module="my.layers"), "my.layers"),
        (lambda each: each.update(registered_name="mine>Dense"), "mine>Dense"),
        (
            lambda each: each["config"].update(
                activation={"module": "builtins", "class_name": "function", "config": "relu"}
            ),
            "`relu` is none of Keras's own",
        ),
        (
            lambda each: each.update(
                module="keras.layers", class_name="StringLookup", config={"vocabulary": "/etc/x"}
            ),
            "/etc/x",
        ),
        (
            lambda each: each.update(module="keras.ops", class_name="relu"),
            "`keras.ops.relu` is a function",
        ),
        (lambda each: each.update(class_name="TFOpLambda"), "TFOpLambda"),
        (lambda each: each.update(class_name="TFSMLayer"), "TFSMLayer"),
    ],
    ids=[
        "lambda", "python", "custom-module", "registered", "function", "vocabulary",
        "keras-function", "op-lambda", "saved-model",
    ],
)  # fmt: skip
def test_code_of_a_model_is_never_run(
    tmp_path: Path, samples: Path, change: Change, said: str
) -> None:
    path = tmp_path / "m.keras"
    with (
        zipfile.ZipFile(samples / "keras_archive" / "model.keras") as source,
        zipfile.ZipFile(path, "w") as target,
    ):
        for member in source.infolist():
            data = source.read(member)
            if member.filename == "config.json":
                config = json.loads(data)
                change(layer(config))
                data = json.dumps(config).encode()
            target.writestr(member.filename, data)
    before = set(sys.modules)
    with pytest.raises(UnsafeFileError, match="would run code of the model") as caught:
        prove(path, None, against="keras")
    assert said in str(caught.value)
    assert not {"keras", "tf_keras", "tensorflow"} & (set(sys.modules) - before)


# What is compared


def test_a_statement_has_the_digest_of_our_tensor() -> None:
    arrays = {
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "t": np.arange(6, dtype=np.float32).reshape(3, 2).T,
        "s": np.array(7, np.int64),
        "e": np.zeros((0, 3), np.complex64),
        "b": np.array([True, False]),
    }
    tensors = tensors_of(arrays)
    for name, array in arrays.items():
        said = statement(tensors[name].spec.dtype, array)
        assert said.spec == tensors[name].spec
        assert said.digest == digest(tensors[name])
    words = tensors_of({"words": [b"a", b"", b"bcd"]})["words"]
    assert statement(DType.STRING, np.array([b"a", b"", b"bcd"], object)).digest == digest(words)


def test_a_witness_that_saw_nothing_agrees_with_nothing() -> None:
    assert not Hearing("somebody", (), {}, {"w": "it has no such tensor"}).agrees
    assert not Hearing("somebody", ("v",), {"w": "other values"}, {}).agrees
    assert Hearing("somebody", ("v",), {}, {"w": "a variant"}).agrees
