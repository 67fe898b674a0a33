"""Packages are made from models in a store as from those on the disk."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.registry import ReadOptions
from tensorferry.converters.testing.contracts import listing
from tensorferry.pipeline.convert import ConvertOptions
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.rebuild import rebuild
from tensorferry.pipeline.package.verify import verify_package

pytestmark = pytest.mark.usefixtures("hurried")


def options(cloud: Any) -> PackageOptions:
    read = ReadOptions(endpoint_url=cloud.endpoint)
    return PackageOptions(ConvertOptions(read=read, weights_only=True))


@pytest.mark.parametrize(
    "model", ["tf1_adam_ema", "keras_archive/model.keras", "saved_model_module"]
)
def test_a_model_in_a_store(
    model: str, cloud: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    url = cloud.put(samples / model, model)
    build_package(url, tmp_path / "remote", options(cloud))
    build_package(samples / model, tmp_path / "local", options(cloud))
    assert verify_package(tmp_path / "remote", jobs=1).problems == ()
    found, expected = (
        json.loads((tmp_path / place / "manifest.json").read_text())
        for place in ("remote", "local")
    )
    assert found["source"]["files"] == expected["source"]["files"]
    assert found["variants"] == expected["variants"]
    for data in listing(tmp_path / "remote").values():
        assert cloud.url().encode() not in data
    assert rebuild(tmp_path / "remote", url, options(cloud)).problems == ()


def test_an_archive_in_a_store(cloud: Any, samples: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "run.tar", "w") as archive:
        archive.add(samples / "tf1_adam_ema", "run")
    url = cloud.put(tmp_path / "run.tar", "run.tar")
    build_package(url, tmp_path / "out", options(cloud))
    found = json.loads((tmp_path / "out/manifest.json").read_text())
    assert [each["path"] for each in found["source"]["files"]] == ["run.tar"]
    assert found["source"]["files"][0]["size"] == (tmp_path / "run.tar").stat().st_size
