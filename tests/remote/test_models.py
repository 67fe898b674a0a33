"""Every model is read from a store as it is from the disk."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.inspect import inventory_text

MODELS = [
    "all_dtypes/bundle",
    "frozen_graph/frozen.pb",
    "hdf5_file/model.h5",
    "keras3_object",
    "keras_archive/model.keras",
    "keras_shards/model.weights.json",
    "keras_weights/model.weights.h5",
    "max_shard_slices/ckpt-1",
    "npz_file/model.npz",
    "old_releases/keras_1_2_2/nested.h5",
    "safetensors_file/model.safetensors",
    "saved_model_keras",
    "saved_model_module/saved_model.pb",
    "saved_model_module/variables",
    "several_steps",
    "several_steps/checkpoint",
    "tf1_adam_ema/model.ckpt-7.meta",
    "tf1_multi_shard/model.ckpt-7.index",
    "tf1_partitioned",
    "tf1_v1/model.ckpt-7",
    "tf_keras_h5/model.h5",
    "tf_keras_object/ckpt-1.data-00000-of-00001",
    "tf_keras_weights",
    "tf_module_object/ckpt-1",
    "tfjs_graph",
    "tfjs_layers/model.json",
    "tflite_dense/model.tflite",
]


def options(cloud: Any, **more: Any) -> ConvertOptions:
    return ConvertOptions(read=ReadOptions(endpoint_url=cloud.endpoint, **more))


@pytest.mark.parametrize("model", MODELS)
def test_conversion_from_a_store_gives_the_same_bytes(
    model: str, cloud: Any, samples: Path, tmp_path: Path
) -> None:
    folder = model.partition("/")[0] if not model.startswith("old") else str(Path(model).parent)
    cloud.put(samples / folder, folder)
    local, remote = tmp_path / "local.npz", tmp_path / "remote.npz"
    here = convert(samples / model, local)
    there = convert(cloud.url(model), remote, options(cloud))
    assert remote.read_bytes() == local.read_bytes()
    assert there.source.summary == here.source.summary
    shown = [note.text.replace(f"{samples}/", cloud.url()) for note in here.notes]
    assert [note.text for note in there.notes] == shown


def test_inventories_are_the_same_and_name_urls(cloud: Any, samples: Path) -> None:
    url = cloud.put(samples / "tf1_multi_shard", "deep/er/model")
    with (
        open_tensors(samples / "tf1_multi_shard") as here,
        open_tensors(url, ReadOptions(endpoint_url=cloud.endpoint)) as there,
    ):
        texts = ["".join(inventory_text(each)) for each in (here, there)]
        names = [str(source.path) for source in there.sources]
    assert texts[1].replace(url, str(samples / "tf1_multi_shard")) == texts[0]
    assert f"{url}/model.ckpt-7.data-00001-of-00003" in names


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "inner"])
def test_archives_are_opened(kind: str, cloud: Any, samples: Path, tmp_path: Path) -> None:
    model = samples / "tf1_adam_ema"
    archive = tmp_path / ("model.tar.gz" if kind == "tar.gz" else "model.zip")
    if kind == "tar.gz":
        with tarfile.open(archive, "w:gz") as file:
            file.add(model, "tf1")
    else:
        with zipfile.ZipFile(archive, "w") as packed:
            for each in sorted(model.iterdir()):
                packed.write(each, f"tf1/{each.name}")
                if kind == "inner":
                    packed.write(each, f"tf2/{each.name}")
    url = cloud.put(archive, "packed/" + archive.name) + ("::tf2" if kind == "inner" else "")
    convert(model, tmp_path / "local.npz")
    convert(url, tmp_path / "remote.npz", options(cloud))
    assert (tmp_path / "remote.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()


def test_names_that_urls_would_encode_are_taken_as_they_are(
    cloud: Any, samples: Path, tmp_path: Path
) -> None:
    source = samples / "safetensors_file" / "model.safetensors"
    for key in ("a b/m%20ö+&?#.safetensors", "x/mö.safetensors"):
        url = cloud.put(source, key)
        convert(url, tmp_path / "out.npz", options(cloud))
        (tmp_path / "out.npz").unlink()


def test_sharded_safetensors_are_found_by_their_index(
    cloud: Any, samples: Path, tmp_path: Path
) -> None:
    whole = samples / "safetensors_file" / "model.safetensors"
    (tmp_path / "set").mkdir()
    convert(
        whole,
        tmp_path / "set/model.safetensors",
        ConvertOptions(write=WriteOptions(max_shard_bytes=300)),
    )
    assert len(list((tmp_path / "set").iterdir())) > 2
    url = cloud.put(tmp_path / "set", "set")
    convert(whole, tmp_path / "local.npz")
    for source in (url, f"{url}/model.safetensors.index.json"):
        convert(source, tmp_path / "remote.npz", options(cloud))
        assert (tmp_path / "remote.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()
        (tmp_path / "remote.npz").unlink()
