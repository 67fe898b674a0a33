"""OCI layouts that are written: as the specifications say, and the same bytes every time."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import TargetError
from tensorferry.converters.tensors import TensorSpec
from tensorferry.pipeline.package.oci import write_oci
from tensorferry.pipeline.package.oci_read import is_oci, read_oci
from tensorferry.pipeline.package.records import PackageFacts, TensorRecord, Variant

# schema/config-schema.json of the ModelPack specification; other keys are errors there.
DESCRIPTOR = {
    "createdAt", "authors", "family", "name", "docURL", "sourceURL", "datasetsURL", "version",
    "revision", "vendor", "licenses", "title", "description",
}  # fmt: skip
CONFIG = {"architecture", "format", "paramSize", "precision", "quantization", "capabilities"}
FILES = [
    "LICENSE", "README.md", "bf16/model.safetensors", "bom.cdx.json", "config.json",
    "manifest.json", "model.safetensors", "model.sig",
]  # fmt: skip


def test_a_layout_is_as_the_image_specification_says(layout: Any) -> None:
    assert is_oci(layout.path)
    assert layout.json(layout.path / "oci-layout") == {"imageLayoutVersion": "1.0.0"}
    assert layout.index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    (entry,) = layout.index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "1.0"}
    for blob in (layout.path / "blobs" / "sha256").iterdir():
        assert blob.name == sha256(blob.read_bytes()).hexdigest()
    manifest = layout.manifest
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == entry["mediaType"]
    assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    for each in (entry, manifest["config"], *manifest["layers"]):
        assert layout.blob(each["digest"]).stat().st_size == each["size"]


def test_a_layout_is_as_modelpack_says(layout: Any) -> None:
    manifest = layout.manifest
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    kinds = {
        each["annotations"]["org.cncf.model.filepath"]: each["mediaType"].removeprefix(
            "application/vnd.cncf.model."
        )
        for each in manifest["layers"]
    }
    assert kinds == {
        "model.safetensors": "weight.v1.raw",
        "bf16/model.safetensors": "weight.v1.raw",
        "config.json": "weight.config.v1.raw",
        "manifest.json": "weight.config.v1.raw",
        "README.md": "doc.v1.raw",
        "LICENSE": "doc.v1.raw",
        "bom.cdx.json": "doc.v1.raw",
        "model.sig": "doc.v1.raw",
    }
    metadata = json.loads(
        layout.layer(manifest, "README.md")["annotations"]["org.cncf.model.file.metadata+json"]
    )
    assert metadata == {
        "name": "README.md", "mode": 0o644, "uid": 0, "gid": 0, "size": 8,
        "mtime": "2023-11-14T22:13:20Z", "typeflag": 48,
    }  # fmt: skip


def test_the_config_has_what_modelpack_asks_for(layout: Any) -> None:
    config = layout.json(layout.blob(layout.manifest["config"]["digest"]))
    assert config.keys() == {"descriptor", "modelfs", "config"}
    assert config["descriptor"].keys() <= DESCRIPTOR
    assert config["config"].keys() <= CONFIG
    assert config["descriptor"] == {
        "name": "croco", "version": "1.0", "licenses": ["Apache-2.0"],
        "createdAt": "2023-11-14T22:13:20Z",
    }  # fmt: skip
    assert config["config"] == {"format": "safetensors", "precision": "fp32", "paramSize": "1.3m"}
    digests = [each["digest"] for each in layout.manifest["layers"]]
    assert config["modelfs"] == {"type": "layers", "diffIds": digests}


def test_what_the_owner_says_is_in_the_config(write_layout: Callable[..., Any]) -> None:
    fields = {
        "title": "Croco", "description": "Finds crocodiles.", "authors": ["A. Person"],
        "architecture": "cnn", "vendor": 7, "metrics": {"accuracy": 0.9},
    }  # fmt: skip
    layout = write_layout(fields=fields, version="not a tag", licence="")
    config = layout.json(layout.blob(layout.manifest["config"]["digest"]))
    assert config["descriptor"].keys() == {
        "createdAt", "name", "version", "title", "description", "authors",
    }  # fmt: skip
    assert config["config"]["architecture"] == "cnn"
    assert layout.index["manifests"][0]["annotations"] == {
        "org.opencontainers.image.ref.name": "latest"
    }


@pytest.mark.parametrize(
    ("labels", "precision"),
    [
        (["FLOAT32", "INT64"], "fp32"),
        (["BFLOAT16"], "bf16"),
        (["FLOAT16", "FLOAT32"], "mixed"),
        (["INT8"], "int8"),
        ([], None),
    ],
)
def test_the_precision_is_that_of_the_weights(
    write_layout: Callable[..., Any], labels: list[str], precision: str | None
) -> None:
    tensors = {
        name: TensorRecord(TensorSpec(DType[name], (2, 3)), "0" * 64, "m") for name in labels
    }
    layout = write_layout(variants=(Variant("", (), ("m",), tensors, "2" * 64, {}),))
    config = layout.json(layout.blob(layout.manifest["config"]["digest"]))["config"]
    assert config.get("precision") == precision
    assert "paramSize" not in config  # below a hundred it would read 0.0k


def test_the_same_package_gives_the_same_layout(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    made = []
    for number in range(2):
        facts = small_package(tmp_path / f"package-{number}")
        facts = replace(facts, files=facts.files[:: -1 if number else 1])
        target = tmp_path / f"layout-{number}"
        write_oci(tmp_path / f"package-{number}", target, facts)
        files = [each for each in target.rglob("*") if each.is_file()]
        made.append({str(each.relative_to(target)): each.read_bytes() for each in files})
    assert made[0] == made[1]


def test_weights_are_moved_and_not_copied(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    facts = small_package(tmp_path / "package")
    before = (tmp_path / "package" / "model.safetensors").stat().st_ino
    digest = next(each.sha256 for each in facts.files if each.path == "model.safetensors")
    write_oci(tmp_path / "package", tmp_path / "layout", facts)
    assert (tmp_path / "layout" / "blobs" / "sha256" / digest).stat().st_ino == before


def test_equal_files_are_one_blob(write_layout: Callable[..., Any]) -> None:
    files = read_oci(write_layout(weights=b"\0").path).files
    assert files["model.safetensors"].path == files["bf16/model.safetensors"].path


def test_the_files_are_found_again(
    tmp_path: Path, small_package: Callable[..., PackageFacts]
) -> None:
    facts = small_package(tmp_path / "package")
    held = {
        each.relative_to(tmp_path / "package").as_posix(): each.read_bytes()
        for each in (tmp_path / "package").rglob("*")
        if each.is_file()
    }
    digest = write_oci(tmp_path / "package", tmp_path / "layout", facts)
    found = read_oci(tmp_path / "layout")
    assert found.digest == digest
    assert list(found.files) == FILES
    assert {name: blob.path.read_bytes() for name, blob in found.files.items()} == held
    assert all(sha256(held[name]).hexdigest() == each.sha256 for name, each in found.files.items())


def test_a_full_disk_is_an_error_with_the_target(
    tmp_path: Path, small_package: Callable[..., PackageFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = small_package(tmp_path / "package")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TargetError, match="layout: cannot be written: no space"):
        write_oci(tmp_path / "package", tmp_path / "layout", facts, fsync=True)
