from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters import open_tensors, registry
from tensorferry.converters.errors import NotRecognisedError, UsageError
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import (
    Location,
    WriteOptions,
    all_formats,
    format_for_target,
    format_named,
)
from tensorferry.converters.testing.contracts import contents, tensors_of

# The built-in formats


def test_formats_are_found_by_looking_into_the_folder() -> None:
    names = [each.name for each in all_formats()]
    assert {"tf-checkpoint", "safetensors"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("each", all_formats(), ids=lambda each: each.name)
def test_every_format_says_what_it_is(each: registry.Format) -> None:
    assert format_named(each.name) is each
    assert each.title
    assert all(extension.startswith(".") for extension in each.extensions)
    assert all(extension == extension.lower() for extension in each.extensions)


def test_no_two_writers_take_the_same_ending() -> None:
    endings = [ending for each in all_formats() if each.plan for ending in each.extensions]
    assert len(set(endings)) == len(endings)


def test_a_misspelt_format_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="no format is called `safetensor`") as caught:
        format_named("safetensor")
    assert caught.value.hint == "did you mean `safetensors`?"
    with pytest.raises(UsageError) as caught:
        format_named("???")
    assert "tf-checkpoint" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("m.safetensors", "safetensors"),
        ("M.SafeTensors", "safetensors"),
        ("m.ckpt", "tf-checkpoint"),
        ("m.tar.ckpt", "tf-checkpoint"),
        ("m.index", "tf-checkpoint"),
    ],
)
def test_the_ending_decides_on_the_target(name: str, found: str) -> None:
    assert format_for_target(Path("folder") / name).name == found


@pytest.mark.parametrize("name", ["m", "m.xyz", "ckpt", "safetensors"])
def test_an_unknown_ending_lists_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="no format has this ending") as caught:
        format_for_target(Path(name))
    assert ".safetensors" in str(caught.value.expected)
    assert caught.value.hint == "name the format with --to"


def test_what_was_written_is_recognised(tmp_path: Path) -> None:
    tensors = tensors_of({"a": np.arange(3, dtype=np.float32)})
    for each in all_formats():
        if each.plan is None or each.needs or "config" in each.options:
            continue
        folder = tmp_path / each.name
        folder.mkdir()
        target = folder / f"m{each.extensions[0]}"
        write_plan(each.plan(tensors, target, WriteOptions()))
        with open_tensors(target) as found:
            assert found.format == each.name
            assert contents(found) == contents(tensors)


def test_a_format_can_be_told(samples: Path) -> None:
    with open_tensors(samples / "all_dtypes" / "bundle", format="tf-checkpoint") as tensors:
        assert tensors.format == "tf-checkpoint"
    with pytest.raises(UsageError, match="no format is called"):
        open_tensors(samples, format="nothing")


def test_a_location_reads_its_head_once_and_only_of_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    location = Location(path)
    assert location.head == b"x" * registry.HEAD_BYTES
    path.unlink()
    assert location.head == b"x" * registry.HEAD_BYTES
    assert Location(tmp_path).head == b""
    assert Location(path).head == b""
    assert not Location(Path("/dev/null")).is_file


# What is not read here


def _pytorch_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/data/0", bytes(8))


def _made(path: Path, kind: str) -> Path:
    heads = {
        "git lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "gguf": b"GGUF\3\0\0\0" + bytes(16),
        "pickle": pickle.dumps({"state_dict": {}}, protocol=2),
        "gzip": gzip.compress(b"text"),
        "empty": b"",
        "text": b"hello",
        "onnx": b"\x08\x07\x12\x07pytorch",
    }
    if kind == "pytorch":
        _pytorch_zip(path)
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, np.arange(3))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    else:
        path.write_bytes(heads[kind])
    return path


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model"])
@pytest.mark.parametrize(
    ("kind", "what", "hint"),
    [
        ("pytorch", "a PyTorch pickle", "safetensors.torch"),
        ("pickle", "a PyTorch pickle", "weights_only=True"),
        ("gguf", "a GGUF file", "convert from"),
        ("git lfs", "a Git LFS pointer", "git lfs pull"),
        ("gzip", "a gzip-compressed file", "unpack it"),
        ("npy", "a single array", "numpy.savez"),
        ("zip", "a zip archive", "unpack it"),
        ("empty", "an empty file", ""),
        ("onnx", "a protobuf message", ""),
        ("text", "no format that is read here", "what is read: "),
    ],
)
def test_foreign_files_are_named(
    tmp_path: Path, kind: str, what: str, hint: str, name: str
) -> None:
    path = _made(tmp_path / name, kind)
    with pytest.raises(NotRecognisedError, match=what) as caught:
        open_tensors(path)
    assert caught.value.path == str(path)
    assert hint in (caught.value.hint or "")


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NotRecognisedError, match="cannot be opened: Permission denied") as caught:
        _ = Location(path).head
    assert caught.value.path == str(path)


def test_a_chunked_saved_model_is_named_and_its_weights_are_offered(tmp_path: Path) -> None:
    (tmp_path / "saved_model.cpb").write_bytes(b"")
    with pytest.raises(NotRecognisedError, match="a SavedModel in chunks") as caught:
        open_tensors(tmp_path)
    assert caught.value.hint is None
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(NotRecognisedError, match="a SavedModel") as caught:
        open_tensors(tmp_path)
    assert str(tmp_path / "variables" / "variables") in (caught.value.hint or "")


def test_a_folder_with_nothing_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="a folder with no model in it"):
        open_tensors(tmp_path)


def test_a_device_is_no_file() -> None:
    with pytest.raises(NotRecognisedError, match="not a regular file"):
        open_tensors("/dev/null")


def test_a_misspelt_path_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(NotRecognisedError, match="does not exist") as caught:
        open_tensors(tmp_path / "weigths.bin")
    assert caught.value.hint == "did you mean `weights.bin`?"
    with pytest.raises(NotRecognisedError, match="does not exist"):
        open_tensors(tmp_path / "no" / "such" / "folder")


# Plug-ins

_PLUG_IN = """
from tensorferry.converters.registry import Format
from tensorferry.converters.tensors import TensorDict


def _sniff(location):
    return location.head.startswith(b"FAKE")


def _open(location, options):
    return TensorDict(format="{name}", summary="fake", tensors={{}})


def _plan(tensors, target, options):
    raise NotImplementedError


FORMAT = Format("{name}", "Fake", (".fake", ".{name}"), _sniff, _open, _plan)
"""


def _install(site: Path, *names: str) -> None:
    """Install a distribution with a format for each name, as a wheel would lie on the disk."""
    for name in names:
        (site / f"{name}_plug_in.py").write_text(_PLUG_IN.format(name=name))
    info = site / "fake_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-plug-in\nVersion: 1.0\n")
    points = "".join(f"{name} = {name}_plug_in:FORMAT\n" for name in names)
    (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINT_GROUP}]\n{points}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder that is on the import path for this test, and forget it afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    registry._plugged_in.cache_clear()
    yield folder
    registry._plugged_in.cache_clear()


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"FAKE model")
    return path


def test_a_plug_in_reads_what_no_built_in_claims(site: Path, fake: Path) -> None:
    _install(site, "fake")
    with open_tensors(fake) as tensors:
        assert tensors.format == "fake"
    assert [each.name for each in all_formats()][-1] == "fake"


def test_a_plug_in_is_found_by_name_and_by_ending(site: Path) -> None:
    _install(site, "fake")
    assert format_named("fake").title == "Fake"
    assert format_for_target(Path("m.fake")).name == "fake"
    assert format_for_target(Path("m.safetensors")).name == "safetensors"


def test_without_the_plug_in_it_is_no_format(site: Path, fake: Path) -> None:
    assert site.is_dir()
    with pytest.raises(NotRecognisedError, match="no format that is read here"):
        open_tensors(fake)


def test_two_claims_ask_for_the_format(site: Path, fake: Path) -> None:
    _install(site, "one", "other")
    with pytest.raises(UsageError, match="may be `one` or `other`") as caught:
        open_tensors(fake)
    assert caught.value.hint == "name the format with --from"
    with open_tensors(fake, format="other") as tensors:
        assert tensors.format == "other"


def test_plug_ins_are_not_looked_for_when_a_built_in_fits(site: Path, samples: Path) -> None:
    _install(site, "broken")
    (site / "broken_plug_in.py").write_text("raise RuntimeError('imported')")
    with open_tensors(samples / "all_dtypes" / "bundle") as tensors:
        assert tensors.format == "tf-checkpoint"
    assert format_named("safetensors").name == "safetensors"
    assert format_for_target(Path("m.safetensors")).name == "safetensors"


@pytest.mark.parametrize(
    ("code", "text"),
    [("raise RuntimeError('two moons')", "loaded: two moons"), ("FORMAT = 1", "gives no Format")],
)
def test_a_plug_in_that_is_broken_is_named(site: Path, fake: Path, code: str, text: str) -> None:
    _install(site, "broken")
    (site / "broken_plug_in.py").write_text(code)
    with pytest.raises(UsageError, match=f"the plug-in `broken`.*{text}"):
        open_tensors(fake)
