"""Make Keras files without Keras: a chain of dense layers, with numbers drawn at random.

The legacy `.h5` is laid out as tf_keras 2.21 does it, the archive as Keras 3.15. What is not needed
to measure is as a model has it that was built and never trained: no optimizer, no compilation.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# None of these is imported by the process that measures.
import h5py
import numpy as np

Config = dict[str, Any]

EPOCH = "2026-01-01@00:00:00"


def write_legacy(path: Path, layers: int, width: int) -> None:
    """Write a full model as `model.save("m.h5")` of tf_keras does: hdf5_format.py there."""
    config = {"name": "sequential", "layers": list(_legacy_configs(layers, width))}
    with h5py.File(path, "w") as file:
        _versions(file)
        text = json.dumps({"class_name": "Sequential", "config": config})
        file.attrs["model_config"] = text.encode()
        weights = file.create_group("model_weights")
        # 16 bytes each in the header of the group, so at most some 4,000 names.
        weights.attrs["layer_names"] = [name.encode() for name in _names(layers)]
        _versions(weights)
        # Sorted, as tf_keras does it.
        for name, (kernel, bias) in zip(sorted(_names(layers)), _arrays(width), strict=False):
            group = weights.create_group(name)
            arrays = {f"{name}/kernel:0": kernel, f"{name}/bias:0": bias}
            group.attrs["weight_names"] = [each.encode() for each in arrays]
            for each, array in arrays.items():
                group.create_dataset(each, array.shape, dtype=array.dtype)[:] = array
        weights.create_group("top_level_model_weights").attrs["weight_names"] = []


def write_archive(path: Path, layers: int, width: int) -> None:
    """Write what `model.save("m.keras")` of Keras 3 writes: saving_lib.py there.

    It puts the weights into a file of their own first where memory is short. So does this.
    """
    with (
        tempfile.NamedTemporaryFile(dir=path.parent) as weights,
        zipfile.ZipFile(path, "w") as archive,
    ):
        metadata = {"keras_version": "3.15.1", "date_saved": EPOCH}
        for name, value in (
            ("metadata.json", metadata),
            ("config.json", _archive_config(layers, width)),
        ):
            with archive.open(name, "w") as member:
                member.write(json.dumps(value).encode())
        with h5py.File(weights, "w") as file:
            file.create_group("vars").attrs["name"] = "sequential"
            for name, (kernel, bias) in zip(_names(layers), _arrays(width), strict=False):
                group = file.create_group(f"layers/{name}").create_group("vars")
                group.attrs["name"] = name
                group["0"] = kernel
                group["1"] = bias
        archive.write(weights.name, "model.weights.h5")


def _versions(group: h5py.Group) -> None:
    group.attrs["backend"] = b"tensorflow"
    group.attrs["keras_version"] = b"2.21.0"


def _names(layers: int) -> list[str]:
    return [f"dense_{at}" if at else "dense" for at in range(layers)]


def _arrays(width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield kernel and bias of one layer after the other, without end."""
    random = np.random.default_rng(0)
    while True:
        kernel, bias = (random.random(shape, np.float32) for shape in ((width, width), width))
        yield kernel - np.float32(0.5), bias


def _legacy_configs(layers: int, width: int) -> Iterator[Config]:
    placeholder = {
        "batch_input_shape": [None, width],
        "dtype": "float32",
        "sparse": False,
        "ragged": False,
        "name": "input_1",
        "optional": False,
    }
    yield {"class_name": "InputLayer", "config": placeholder}
    for name in _names(layers):
        settings = _dense(name, "float32", width, {"seed": None})
        settings["activity_regularizer"] = None
        yield {"class_name": "Dense", "config": settings}


def _archive_config(layers: int, width: int) -> Config:
    policy = _object("keras", "DTypePolicy", {"name": "float32"})
    placeholder = {
        "batch_shape": [None, width],
        "dtype": "float32",
        "sparse": False,
        "ragged": False,
        "name": "input_1",
        "optional": False,
    }
    seeds = {"seed": None, "input_axes": None, "output_axes": None}
    inner = [_object("keras.layers", "InputLayer", placeholder)]
    for name in _names(layers):
        settings = _dense(name, policy, width, seeds)
        settings["quantization_config"] = None
        built = {"build_config": {"input_shape": [None, width]}}
        inner.append(_object("keras.layers", "Dense", settings) | built)
    whole = {
        "name": "sequential",
        "trainable": True,
        "dtype": policy,
        "layers": inner,
        "build_input_shape": [None, width],
    }
    return _object("keras", "Sequential", whole) | {
        "build_config": {"input_shape": [None, width]},
        "compile_config": {},
    }


def _dense(name: str, dtype: str | Config, width: int, seeds: Config) -> Config:
    return {
        "name": name,
        "trainable": True,
        "dtype": dtype,
        "units": width,
        "activation": "linear",
        "use_bias": True,
        "kernel_initializer": _object("keras.initializers", "GlorotUniform", seeds),
        "bias_initializer": _object("keras.initializers", "Zeros", {}),
        "kernel_regularizer": None,
        "bias_regularizer": None,
        "kernel_constraint": None,
        "bias_constraint": None,
    }


def _object(module: str, name: str, config: Config) -> Config:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}
