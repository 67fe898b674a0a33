"""Targets in a store appear whole or not at all, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert


def options(cloud: Any, *, write: WriteOptions | None = None, **more: Any) -> ConvertOptions:
    read = ReadOptions(endpoint_url=cloud.endpoint)
    return ConvertOptions(read=read, write=write or WriteOptions(), **more)


def nth(wanted: int, fault: str, method: str = "PUT") -> Callable[[str, str], str | None]:
    """Return what fails the nth request of a kind, and no other."""
    seen = iter(range(1 << 30))
    return lambda verb, _: fault if verb == method and next(seen) == wanted else None


def from_nth(
    wanted: int, fault: str, verbs: tuple[str, ...] = ("PUT", "POST")
) -> Callable[[str, str], str | None]:
    """Return what fails all uploads from the nth on."""
    seen = iter(range(1 << 30))
    return lambda verb, _: fault if verb in verbs and next(seen) >= wanted else None


TARGETS = ["model.safetensors", "model.ckpt", "model.npz", "model.h5", "model.weights.json"]


@pytest.mark.parametrize("name", TARGETS)
def test_targets_hold_the_same_bytes_as_on_the_disk(
    name: str, cloud: Any, samples: Path, tmp_path: Path
) -> None:
    source = samples / "tf_keras_object" / "ckpt-1"
    config = samples / "keras_archive" / "model.keras" if name.endswith(".json") else None
    write = WriteOptions(config=config)
    (tmp_path / "local").mkdir()
    kept = {"weights_only": True, "write": write}
    convert(source, tmp_path / "local" / name, ConvertOptions(**kept))  # type: ignore[arg-type]
    report = convert(source, cloud.url(f"out/{name}"), options(cloud, verify=True, **kept))
    files = (tmp_path / "local").rglob("*")
    local = {f"out/{each.name}": each.read_bytes() for each in files if each.is_file()}
    assert cloud.objects() == local
    assert str(report.target) == cloud.url(f"out/{name}")
    assert {str(each.path) for each in report.plan.files} == {cloud.url(key) for key in local}
    assert cloud.unfinished() == []


def test_a_saved_model_goes_from_store_to_store(cloud: Any, samples: Path, tmp_path: Path) -> None:
    model = samples / "saved_model_module"
    url = cloud.put(model, "in")
    write = WriteOptions(template=model)
    target = ConvertOptions(target_format="saved-model", write=write)
    convert(model, tmp_path / "local", target)
    convert(url, cloud.url("out"), options(cloud, target_format="saved-model", write=write))
    local = {
        f"out/{path.relative_to(tmp_path / 'local').as_posix()}": path.read_bytes()
        for path in (tmp_path / "local").rglob("*")
        if path.is_file()
    }
    assert cloud.objects("out/") == local


def test_a_large_target_is_sent_in_parts(cloud: Any, large: Path, tmp_path: Path) -> None:
    convert(large, tmp_path / "local.safetensors")
    convert(large, cloud.url("large.safetensors"), options(cloud, verify=True))
    assert cloud.objects()["large.safetensors"] == (tmp_path / "local.safetensors").read_bytes()
    assert sum("partNumber=" in each.path for each in cloud.proxy.requests) == 5


def test_the_file_that_makes_a_set_valid_is_sent_last(cloud: Any, samples: Path) -> None:
    convert(samples / "tf1_adam_ema", cloud.url("out/model.ckpt"), options(cloud))
    sent = [each.path.rpartition("/")[2] for each in cloud.proxy.requests if each.method == "PUT"]
    assert sent[-1] == "model.ckpt.index"
    assert len(sent) == 3


def test_what_is_there_is_not_replaced_unasked(cloud: Any, samples: Path) -> None:
    cloud.client.put_object(Bucket=cloud.bucket, Key="out.npz", Body=b"mine")
    source = samples / "tf1_adam_ema"
    with pytest.raises(UsageError, match="exists already") as caught:
        convert(source, cloud.url("out.npz"), options(cloud))
    assert caught.value.path == cloud.url("out.npz")
    assert cloud.objects() == {"out.npz": b"mine"}
    convert(source, cloud.url("out.npz"), options(cloud, write=WriteOptions(overwrite=True)))
    assert cloud.objects()["out.npz"].startswith(b"PK")


def test_what_appears_meanwhile_is_not_replaced_either(cloud: Any, samples: Path) -> None:
    class Rival(Listener):
        def started(self, plan: Any) -> None:
            del plan
            cloud.client.put_object(Bucket=cloud.bucket, Key="out.npz", Body=b"theirs")

    with pytest.raises(UsageError, match="exists already"):
        convert(samples / "tf1_adam_ema", cloud.url("out.npz"), options(cloud), Rival())
    assert cloud.objects() == {"out.npz": b"theirs"}


def test_an_older_set_of_shards_goes_when_the_new_one_is_there(cloud: Any, samples: Path) -> None:
    source = samples / "safetensors_file" / "model.safetensors"
    target = cloud.url("out/model.safetensors")
    convert(source, target, options(cloud, write=WriteOptions(max_shard_bytes=300)))
    assert len(cloud.objects()) > 2
    convert(source, target, options(cloud, write=WriteOptions(overwrite=True)))
    assert set(cloud.objects()) == {"out/model.safetensors"}


def test_a_dry_run_sends_nothing(cloud: Any, samples: Path) -> None:
    report = convert(samples / "tf1_adam_ema", cloud.url("out.npz"), options(cloud, dry_run=True))
    assert str(report.plan.files[0].path) == cloud.url("out.npz")
    assert cloud.objects() == {}


def test_a_bucket_alone_is_no_target(cloud: Any, samples: Path) -> None:
    with pytest.raises(UsageError, match="is a bucket"):
        convert(samples / "tf1_adam_ema", cloud.url(), options(cloud, target_format="npz"))
