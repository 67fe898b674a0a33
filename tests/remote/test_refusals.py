"""What is not there or may not be read is named by its URL."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import ConvertError, NotRecognisedError, UsageError
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.convert import ConvertOptions, convert


def options(cloud: Any, **more: Any) -> ConvertOptions:
    return ConvertOptions(read=ReadOptions(endpoint_url=cloud.endpoint, **more))


def test_what_is_not_there_is_named(cloud: Any, samples: Path, tmp_path: Path) -> None:
    cloud.put(samples / "safetensors_file", "zoo")
    with pytest.raises(NotRecognisedError, match="does not exist") as caught:
        convert(cloud.url("zoo/modle.safetensors"), tmp_path / "out.npz", options(cloud))
    assert caught.value.path == cloud.url("zoo/modle.safetensors")
    assert "model.safetensors" in str(caught.value.hint)
    with pytest.raises(NotRecognisedError, match="does not exist") as caught:
        convert("s3://no-such-bucket-here/model", tmp_path / "out.npz", options(cloud))
    assert caught.value.exit_code == 3


def test_damage_is_told_with_the_url(cloud: Any, samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(samples / "tf1_adam_ema", folder)
    shard = folder / "model.ckpt-7.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    url = cloud.put(folder, "damaged")
    with pytest.raises(ConvertError, match="checksum") as caught:
        convert(url, tmp_path / "out.npz", options(cloud))
    assert caught.value.path == f"{url}/model.ckpt-7.data-00000-of-00001"
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out.npz").exists()


def test_a_missing_shard_is_told_with_the_url(cloud: Any, samples: Path, tmp_path: Path) -> None:
    for name in ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00003"):
        cloud.put(samples / "tf1_multi_shard" / name, f"half/{name}")
    with pytest.raises(ConvertError, match="data shard is missing") as caught:
        convert(cloud.url("half/model.ckpt-7"), tmp_path / "out.npz", options(cloud))
    assert str(caught.value.path).startswith(cloud.url("half/model.ckpt-7.data-0000"))


def test_an_object_that_changes_meanwhile_is_no_mixture(cloud: Any, tmp_path: Path) -> None:
    target = tmp_path / "big.safetensors"
    np.savez(tmp_path / "big.npz", w=np.ones((300, 300), "f4"))
    convert(tmp_path / "big.npz", target)
    url = cloud.put(target, "big.safetensors")
    with open_tensors(url, ReadOptions(endpoint_url=cloud.endpoint)) as tensors:
        data = target.read_bytes()
        cloud.client.put_object(Bucket=cloud.bucket, Key="big.safetensors", Body=data[:-9] + b"new")
        with pytest.raises(ConvertError, match="changed while it was read") as caught:
            tensors["w"].read()
    assert caught.value.exit_code == 4
    assert caught.value.path == url


def test_keys_that_no_folder_can_hold_are_left_out_or_named(
    cloud: Any, samples: Path, tmp_path: Path
) -> None:
    url = cloud.put(samples / "tf1_adam_ema", "odd")
    cloud.client.put_object(Bucket=cloud.bucket, Key="odd/", Body=b"")
    cloud.client.put_object(Bucket=cloud.bucket, Key="odd/" + "n" * 300, Body=b"x")
    convert(url, tmp_path / "out.npz", options(cloud))
    with pytest.raises(UsageError, match="empty parts"):
        convert(cloud.url("odd/../odd"), tmp_path / "out2.npz", options(cloud))
    cloud.client.put_object(Bucket=cloud.bucket, Key="odd/sub//x", Body=b"x")
    with pytest.raises(NotRecognisedError, match="a key that is no path"):
        convert(url, tmp_path / "out3.npz", options(cloud))


def test_nothing_stays_behind(
    cloud: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    url = cloud.put(samples / "tf1_adam_ema", "tf1")
    convert(url, tmp_path / "out.npz", options(cloud))
    with pytest.raises(UsageError):
        convert(url, tmp_path / "out2.npz", options(cloud, step=9))
    assert not list((tmp_path / "tmp").iterdir())
