"""OCI layouts that are read: every fault is named, and nothing hostile gets anywhere."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
    VerificationError,
)
from tensorferry.pipeline.package.oci_read import is_oci, read_oci

FILES = [
    "LICENSE", "README.md", "bf16/model.safetensors", "bom.cdx.json", "config.json",
    "manifest.json", "model.safetensors", "model.sig",
]  # fmt: skip


def cut(layout: Any, name: str) -> None:
    os.truncate(layout.file(name), layout.file(name).stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_blob_is_named(layout: Any, name: str) -> None:
    cut(layout, name)
    with pytest.raises(VerificationError, match="size of the blob, expected") as caught:
        read_oci(layout.path)
    assert caught.value.where == f"`{name}`"
    assert caught.value.path == str(layout.file(name))
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", [each for each in FILES if "safetensors" not in each])
def test_a_changed_blob_is_named(layout: Any, name: str) -> None:
    flip(layout.file(name))
    with pytest.raises(VerificationError, match="the blob was changed") as caught:
        read_oci(layout.path)
    assert caught.value.where == f"`{name}`"


def test_a_changed_manifest_or_config_is_refused(layout: Any) -> None:
    config = layout.blob(layout.manifest["config"]["digest"])
    flip(config)
    with pytest.raises(VerificationError, match="the config: the blob was changed"):
        read_oci(layout.path)
    flip(config)
    flip(layout.blob(layout.index["manifests"][0]["digest"]))
    with pytest.raises(VerificationError, match="the image manifest: the blob was changed"):
        read_oci(layout.path)


def test_a_missing_and_a_surplus_blob_are_named(layout: Any) -> None:
    surplus = layout.blob("a" * 64)
    surplus.write_bytes(b"run me")
    with pytest.raises(VerificationError, match="belongs to nothing") as caught:
        read_oci(layout.path)
    assert caught.value.path == str(surplus)
    surplus.unlink()
    blob = layout.file("model.safetensors")
    blob.unlink()
    with pytest.raises(VerificationError, match="no such blob") as caught:
        read_oci(layout.path)
    assert (caught.value.path, caught.value.where) == (str(blob), "`model.safetensors`")


@pytest.mark.parametrize("where", ["run.sh", "blobs/run.sh", "blobs/sha512/a"])
def test_what_lies_beside_the_blobs_is_refused(layout: Any, where: str) -> None:
    (layout.path / where).parent.mkdir(exist_ok=True)
    (layout.path / where).write_text("echo")
    with pytest.raises(VerificationError, match="belongs to nothing"):
        read_oci(layout.path)


def test_a_blob_that_is_a_link_is_refused(layout: Any, tmp_path: Path) -> None:
    blob = layout.file("model.safetensors")
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFileError, match="is no regular file"):
        read_oci(layout.path)
    blob.unlink()
    os.mkfifo(blob)
    with pytest.raises(UnsafeFileError, match="is no regular file"):
        read_oci(layout.path)


PATH = "org.cncf.model.filepath"


def rename(name: str, new: object) -> Callable[[Any], object]:
    def change(manifest: Any) -> None:
        for each in manifest["layers"]:
            if each["annotations"][PATH] == name:
                each["annotations"][PATH] = new

    return change


def each_layer(**values: object) -> Callable[[Any], object]:
    return lambda manifest: [each.update(values) for each in manifest["layers"]]


HOSTILE: dict[str, tuple[Callable[[Any], object], type[ConvertError], str]] = {
    "a name that leads up": (rename("README.md", "../README.md"), UnsafeFileError, "leads out"),
    "an absolute name": (rename("README.md", "/etc/passwd"), UnsafeFileError, "an absolute path"),
    "a name for Windows": (rename("README.md", "a\\..\\..\\b"), UnsafeFileError, "leads out"),
    "a name twice": (rename("README.md", "LICENSE"), UnsafeFileError, "occurs twice"),
    "a file in a file": (rename("README.md", "LICENSE/x"), UnsafeFileError, "occurs twice"),
    "an empty name": (rename("README.md", ""), CorruptFileError, "a layer without a file"),
    "a number as name": (rename("README.md", 7), CorruptFileError, "a layer without a file"),
    "a long name": (rename("README.md", "x" * 9000), UnsafeFileError, "longer than file systems"),
    "no annotations": (each_layer(annotations=None), CorruptFileError, "a layer without a file"),
    "an unknown media type": (
        each_layer(mediaType="application/vnd.oci.image.layer.v1.tar"),
        CorruptFileError,
        r"media type of the layer.*image\.layer\.v1\.tar",
    ),
    "a negative size": (each_layer(size=-1), CorruptFileError, "descriptor"),
    "a truth as size": (each_layer(size=True), CorruptFileError, "descriptor"),
    "a size beyond all disks": (each_layer(size=1 << 70), UnsafeFileError, "size of all members"),
    "a path as digest": (each_layer(digest="sha256:../../x"), CorruptFileError, "descriptor"),
    "another digest": (each_layer(digest="sha512:" + "0" * 128), CorruptFileError, "descriptor"),
    "no layers": (lambda m: m.update(layers=[]), CorruptFileError, "layers, expected 1 to"),
    "layers as object": (lambda m: m.update(layers={"a": 1}), CorruptFileError, "layers, expected"),
    "a number as layer": (lambda m: m.update(layers=[7]), CorruptFileError, "a layer without"),
    "no config": (lambda m: m.update(config=None), CorruptFileError, "no descriptor"),
    "another config": (
        lambda m: m["config"].update(mediaType="application/json"),
        CorruptFileError,
        "the config: media type",
    ),
    "another artifact": (
        lambda m: m.update(artifactType="application/vnd.other"),
        CorruptFileError,
        "is no model, expected artifactType",
    ),
    "another order": (lambda m: m["layers"].reverse(), CorruptFileError, r"modelfs\.diffIds"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_is_refused(layout: Any, case: str) -> None:
    change, kind, what = HOSTILE[case]
    layout.with_manifest(change)
    with pytest.raises(kind, match=what) as caught:
        read_oci(layout.path)
    assert caught.value.path
    assert caught.value.exit_code == 4


INDEXES: dict[str, tuple[Callable[[Any], object], type[ConvertError], str]] = {
    "no image": (lambda i: i.update(manifests=[]), NotRecognisedError, "images in the layout"),
    "two": (lambda i: i["manifests"].append(i["manifests"][0]), NotRecognisedError, "got 2"),
    "no list": (lambda i: i.update(manifests=7), NotRecognisedError, "got none"),
    "another type": (
        lambda i: i["manifests"][0].update(mediaType="x"), CorruptFileError, "media type",
    ),
    "another size": (
        lambda i: i["manifests"][0].update(size=1 << 50), VerificationError, "size of the blob",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_a_hostile_index_is_refused(layout: Any, case: str) -> None:
    change, kind, what = INDEXES[case]
    layout.with_index(change)
    with pytest.raises(kind, match=what):
        read_oci(layout.path)


ODD: list[Any] = [
    None, True, -1, 0, 1 << 70, 1.5, "", "x", "../a", "\udcff", "\0", [], {}, [[]], {"a": 1},
    "sha256:" + "0" * 64,
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every object and list with the key or index of what is in it; of lists the first."""
    keys = (
        list(value) if isinstance(value, dict) else [0] if isinstance(value, list) and value else []
    )
    for key in keys:
        yield value, key
        yield from places(value[key])


def refused(layout: Any) -> bool:
    """Tell whether a layout is refused; anything but an error of ours goes on."""
    found: ConvertError | None = None
    try:
        read_oci(layout.path)
    except ConvertError as error:
        found = error
    assert found is None or (found.path and "\n" not in found.message)
    return found is not None


@pytest.mark.parametrize("part", ["index", "manifest"])
def test_odd_values_in_any_place_are_refused_or_mean_nothing(layout: Any, part: str) -> None:
    index, manifest = layout.index, layout.manifest
    changed = index if part == "index" else manifest
    count = 0
    for holder, key in places(changed):
        kept = holder[key]
        for odd in ODD:
            holder[key] = odd
            if part == "manifest":
                layout.with_manifest(lambda found: (found.clear(), found.update(manifest)))
            else:
                layout.with_index(lambda found: (found.clear(), found.update(index)))
            count += refused(layout)
        holder[key] = kept
    assert count > 5 * len(ODD)


def test_sizes_come_before_reading(layout: Any) -> None:
    """A terabyte of nothing where a manifest should be, and one where the index should be."""
    manifest = layout.blob(layout.index["manifests"][0]["digest"])
    os.truncate(manifest, 1 << 40)
    layout.with_index(lambda index: index["manifests"][0].update(size=1 << 40))
    with pytest.raises(UnsafeFileError, match="expected at most"):
        read_oci(layout.path)
    os.truncate(layout.path / "index.json", 1 << 40)
    with pytest.raises(UnsafeFileError, match="expected at most"):
        read_oci(layout.path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"imageLayoutVersion": "2.0.0"}', "{}"])
def test_a_layout_of_another_kind_is_refused(layout: Any, text: str) -> None:
    (layout.path / "oci-layout").write_text(text)
    with pytest.raises(CorruptFileError) as caught:
        read_oci(layout.path)
    assert caught.value.path == str(layout.path / "oci-layout")


def test_what_is_no_layout_is_not_recognised(tmp_path: Path, layout: Any) -> None:
    assert not is_oci(tmp_path)
    with pytest.raises(NotRecognisedError, match="is no OCI layout, expected oci-layout"):
        read_oci(tmp_path)
    (layout.path / "index.json").unlink()
    with pytest.raises(NotRecognisedError, match=r"is no OCI layout, expected index\.json"):
        read_oci(layout.path)


def test_a_blob_that_cannot_be_read_is_named(layout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(NotRecognisedError, match="oci-layout: cannot be read: permission denied"):
        read_oci(layout.path)
