from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import ConvertError, CorruptFileError, NotRecognisedError
from tensorferry.converters.registry import WriteOptions
from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.digest_file import model_digest
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.manifest import manifest_text, package_digest
from tensorferry.pipeline.package.manifest_file import parse_manifest
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.verify import Problem, Verified, verify_package

FILES = [
    "Kitfile", "README.md", "bom.cdx.json", "config.json", "manifest.json",
    "model.bf16.safetensors", "model.f32-00001-of-00003.safetensors",
    "model.f32-00002-of-00003.safetensors", "model.f32-00003-of-00003.safetensors",
    "model.safetensors.index.f32.json", "provenance.intoto.json",
]  # fmt: skip


def options(**chosen: Any) -> PackageOptions:
    convert = ConvertOptions(weights_only=True, write=WriteOptions(max_shard_bytes=200))
    return PackageOptions(convert=convert, variants=("f32", "bf16"), kitfile=True, **chosen)


@pytest.fixture(scope="session")
def made(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one package as a folder, as an archive and as an OCI layout."""
    folder = tmp_path_factory.mktemp("made")
    source = samples / "keras_archive/model.keras"
    build_package(source, folder / "plain", options())
    build_package(source, folder / "model.tar", options())
    build_package(source, folder / "oci", options(oci=True))
    return folder


@pytest.fixture
def package(made: Path, tmp_path: Path) -> Path:
    """Return a package that a test may damage."""
    return Path(shutil.copytree(made / "plain", tmp_path / "package"))


def verified(path: Path, **chosen: Any) -> Verified:
    return verify_package(path, jobs=2, **chosen)


def named(problems: tuple[Problem, ...]) -> set[tuple[str, str]]:
    return {(each.what, each.path) for each in problems}


def test_all_three_forms_are_one_package(made: Path) -> None:
    found = [verified(made / name) for name in ("plain", "model.tar", "oci")]
    assert {each.problems for each in found} == {()}
    assert len({each.digest for each in found}) == 1
    assert {each.files for each in found} == {len(FILES)}
    assert found[0].digest == package_digest((made / "plain/manifest.json").read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_in_any_file_is_told(name: str, package: Path) -> None:
    path = package / name
    before = path.read_bytes()
    for at in range(0, len(before), max(len(before) // 12, 1)):
        data = bytearray(before)
        data[at] ^= 1
        path.write_bytes(data)
        problems = verified(package).problems
        assert name in {each.path for each in problems}, at
        assert all(each.what in ("changed", "missing", "extra") for each in problems)
    path.write_bytes(before)
    assert verified(package).problems == ()


@pytest.mark.parametrize("name", FILES)
def test_a_removed_file_is_told(name: str, package: Path) -> None:
    (package / name).unlink()
    assert named(verified(package).problems) == {("missing", name)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_or_longer_is_told(name: str, package: Path) -> None:
    path = package / name
    data = path.read_bytes()
    for changed in (b"", data[:-1], data + b"\n"):
        path.write_bytes(changed)
        assert ("changed", name) in named(verified(package).problems)


@pytest.mark.parametrize("name", ["run.sh", ".hidden", "sub/folder/x.bin", "model.sig2"])
def test_an_added_file_is_told(name: str, package: Path) -> None:
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_bytes(b"")
    assert named(verified(package).problems) == {("extra", name)}


def test_an_added_folder_is_told(package: Path) -> None:
    (package / "empty").mkdir()
    assert named(verified(package).problems) == {("unsafe", "empty")}


def test_a_swapped_manifest_is_told(samples: Path, package: Path, tmp_path: Path) -> None:
    build_package(samples / "tf1_adam_ema", tmp_path / "other", options())
    shutil.copy(tmp_path / "other/manifest.json", package / "manifest.json")
    problems = named(verified(package).problems)
    assert ("extra", "model.bf16.safetensors") in problems  # the other is in shards
    assert ("changed", "model.safetensors.index.f32.json") in problems
    assert ("changed", "README.md") in problems
    assert ("extra", "config.json") in problems


def test_a_manifest_that_was_made_to_fit_has_another_digest(package: Path) -> None:
    before = verified(package).digest
    manifest = parse_manifest((package / "manifest.json").read_bytes())
    text = manifest_text(manifest.facts, {**manifest.flags, "licence": "MIT"})
    (package / "manifest.json").write_text(text)
    found = verified(package, digest=before)
    assert named(found.problems) == {("changed", "manifest.json")}
    assert before in found.problems[0].text
    assert found.digest in found.problems[0].text
    assert verified(package).problems == ()


def test_a_link_is_told_and_not_followed(package: Path, tmp_path: Path) -> None:
    (package / "README.md").rename(tmp_path / "elsewhere")
    (package / "README.md").symlink_to(tmp_path / "elsewhere")
    assert ("unsafe", "README.md") in named(verified(package).problems)
    (package / "loop").symlink_to(package)
    assert ("unsafe", "loop") in named(verified(package).problems)


def test_what_is_no_plain_file_is_told(package: Path) -> None:
    os.mkfifo(package / "pipe")
    (package / "bom.cdx.json").chmod(0o4755)
    problems = {each.path: each.text for each in verified(package).problems}
    assert problems == {"pipe": "is no regular file", "bom.cdx.json": "has the mode 4755"}


def test_weights_of_other_values_name_the_tensor(package: Path) -> None:
    path = package / "model.bf16.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    texts = [each.text for each in verified(package).problems]
    assert any(text.startswith("sha256, expected ") for text in texts)
    assert any(text.startswith("tensor `") and "digest, expected" in text for text in texts)


def test_files_are_right_and_tensors_are_others(package: Path) -> None:
    manifest = parse_manifest((package / "manifest.json").read_bytes())
    variants = []
    for each in manifest.facts.variants:
        name, record = next(iter(each.tensors.items()))
        wrong = {**each.tensors, name: replace(record, digest="0" * 64)}
        digest = model_digest({key: row.digest for key, row in wrong.items()})
        variants.append(replace(each, tensors=wrong, digest=digest))
    facts = replace(manifest.facts, variants=tuple(variants))
    (package / "manifest.json").write_text(manifest_text(facts, manifest.flags))
    problems = verified(package).problems
    assert len(problems) == 2
    assert all("digest, expected 0000" in each.text for each in problems)


# Archives


@pytest.fixture
def archive(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made / "model.tar", tmp_path / "model.tar"))


def test_an_archive_is_plain_for_others(archive: Path, made: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        assert [each.name for each in members] == FILES
        assert {(each.uid, each.gid, each.uname, each.gname, each.mode) for each in members} == {
            (0, 0, "", "", 0o644)
        }
        created = json.loads((made / "plain/manifest.json").read_bytes())["created"]
        assert {each.mtime for each in members} == {created}
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert verified(tmp_path / "unpacked").problems == ()


def test_a_truncated_archive_is_named(archive: Path) -> None:
    data = archive.read_bytes()
    for end in range(0, len(data) - 10240, 700):
        archive.write_bytes(data[:end])
        with pytest.raises((CorruptFileError, NotRecognisedError), match=r"model\.tar"):
            verified(archive)


def test_a_changed_byte_in_an_archive_is_told(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        places = {each.name: (each.offset_data, each.size) for each in tar.getmembers()}
    for name, (offset, size) in places.items():
        data[offset + size // 2] ^= 1
        archive.write_bytes(data)
        assert name in {each.path for each in verified(archive).problems}
        data[offset + size // 2] ^= 1


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda info: setattr(info, "name", "../out"), "leads out"),
        (lambda info: setattr(info, "name", "/out"), "absolute path"),
        (lambda info: setattr(info, "name", "README.md"), "occurs twice"),
        (lambda info: setattr(info, "type", tarfile.SYMTYPE), "symbolic link"),
        (lambda info: setattr(info, "type", tarfile.FIFOTYPE), "a pipe"),
    ],
)
def test_an_archive_that_is_not_safe(
    edit: Callable[[tarfile.TarInfo], None], match: str, archive: Path
) -> None:
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("more")
        edit(info)
        tar.addfile(info)
    with pytest.raises(ConvertError, match=match):
        verified(archive)


def test_a_member_too_many(archive: Path) -> None:
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo("more"))
    assert named(verified(archive).problems) == {("extra", "more")}


def test_what_is_no_package(tmp_path: Path, samples: Path) -> None:
    with pytest.raises(NotRecognisedError, match="does not exist"):
        verified(tmp_path / "nothing")
    with pytest.raises(NotRecognisedError, match="is no package"):
        verified(samples / "npz_file/model.npz")
    assert named(verified(samples / "tf1_adam_ema").problems) == {("missing", "manifest.json")}
