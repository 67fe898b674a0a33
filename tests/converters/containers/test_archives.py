from __future__ import annotations

import errno
import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.containers import archives, unpacking
from tensorferry.converters.containers.archives import archive_kind, split_inner
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    TargetError,
    UnsafeFileError,
    UsageError,
)
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Location, WriteOptions, format_named
from tensorferry.converters.testing.contracts import contents, tensors_of

VALUES = {"dense/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "step": np.int64([7])}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let archives be unpacked to a folder of this test, which is empty again at the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def _model(path: Path, name: str = "safetensors") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    plan = format_named(name).plan
    assert plan
    write_plan(plan(tensors_of(VALUES), path, WriteOptions()))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a checkpoint of three files in a folder of its own."""
    _model(tmp_path / "content" / "run" / "model.ckpt", "tf-checkpoint")
    return tmp_path / "content"


def _packed(source: Path, target: Path) -> Path:
    """Pack a folder; the ending says how."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(source.rglob("*")):
                archive.write(path, path.relative_to(source))
    else:
        mode = "w:gz" if target.name.endswith("gz") else "w"
        with tarfile.open(target, mode) as tar:  # type: ignore[call-overload]
            tar.add(source, arcname=".")
    return target


def _tar(target: Path, *members: tuple[str, bytes, bytes], **fields: str) -> Path:
    """Write a tar of (name, type, data); links point to `linkname`."""
    with tarfile.open(target, "w") as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), fields.get("linkname", "")
            tar.addfile(info, io.BytesIO(data))
    return target


def _zip(target: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


ENDINGS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "weights"]


@pytest.mark.parametrize("name", ENDINGS)
def test_an_archive_with_one_model_opens_directly(
    folder: Path, tmp_path: Path, temporary: Path, name: str
) -> None:
    path = _packed(folder, tmp_path / name)
    with open_tensors(path) as tensors:
        assert tensors.format == "tf-checkpoint"
        assert "archive" in tensors.summary
        assert tensors.details["archive"] == {
            "kind": archive_kind(Location(path)),
            "inner": "run",
        }
        assert contents(tensors) == contents(tensors_of(VALUES))
        assert len(list(temporary.iterdir())) == 1
    assert not list(temporary.iterdir())
    tensors.close()


@pytest.mark.parametrize("inner", ["run", "run/", "run/model.ckpt", "run/model.ckpt.index"])
@pytest.mark.parametrize("name", ENDINGS)
def test_a_path_inside_is_opened(folder: Path, tmp_path: Path, name: str, inner: str) -> None:
    path = _packed(folder, tmp_path / name)
    with open_tensors(f"{path}::{inner}") as tensors:
        assert contents(tensors) == contents(tensors_of(VALUES))


def test_several_models_are_listed_and_one_is_chosen(folder: Path, tmp_path: Path) -> None:
    _model(folder / "run" / "other.safetensors")
    _model(folder / "third.npz", "npz")
    (folder / "readme.txt").write_text("hello")
    path = _packed(folder, tmp_path / "zoo.tar")
    with pytest.raises(UsageError, match="holds 3 models") as caught:
        open_tensors(path)
    assert caught.value.path == str(path)
    assert "`zoo.tar::run`, `zoo.tar::run/other.safetensors`, `zoo.tar::third.npz`" in (
        caught.value.hint or ""
    )
    with open_tensors(f"{path}::run/other.safetensors") as tensors:
        assert tensors.format == "safetensors"
        assert contents(tensors) == contents(tensors_of(VALUES))


def test_only_the_folder_asked_for_is_unpacked(
    folder: Path, tmp_path: Path, temporary: Path
) -> None:
    _model(folder / "other" / "m.safetensors")
    for name in ("a.zip", "a.tar.gz"):
        with open_tensors(f"{_packed(folder, tmp_path / name)}::other") as tensors:
            assert [path.name for path in temporary.glob("*/*")] == ["other"]
            assert tensors.format == "safetensors"


def test_the_format_can_be_told(folder: Path, tmp_path: Path) -> None:
    _model(folder / "other.safetensors")
    path = _packed(folder, tmp_path / "zoo.zip")
    with open_tensors(path, format="safetensors") as tensors:
        assert tensors.format == "safetensors"
    with pytest.raises(NotRecognisedError, match="no model in it"):
        open_tensors(path, format="npz")


def test_options_reach_the_model_inside(folder: Path, tmp_path: Path) -> None:
    path = _packed(folder, tmp_path / "a.tar")
    with open_tensors(path, ReadOptions(names="key")) as tensors:
        assert [tensors.origin(name).key for name in tensors] == list(tensors)


def test_what_belongs_to_a_saved_model_is_no_other_model(corpus: Path, tmp_path: Path) -> None:
    source = corpus / "files/saved_model/tensorflow__serving/sm-serving-half-plus-two-cpu"
    with open_tensors(_packed(source, tmp_path / "hub.tar.gz")) as tensors:
        assert tensors.format == "saved-model"
        assert len(tensors) == 5


def test_misspelt_paths_inside_get_a_hint(folder: Path, tmp_path: Path) -> None:
    path = _packed(folder, tmp_path / "a.zip")
    with pytest.raises(NotRecognisedError, match="holds nothing called `rum/model`") as caught:
        open_tensors(f"{path}::rum/model")
    assert "run/model.ckpt" in (caught.value.hint or "")
    for inner in ("../run", "run//model.ckpt", "./run", "a/../run", "/../etc/passwd"):
        with pytest.raises((NotRecognisedError, UsageError)):
            open_tensors(f"{path}::{inner}")
    model = _model(tmp_path / "m.safetensors")
    with pytest.raises(UsageError, match="is no archive"):
        open_tensors(f"{model}::run")
    with pytest.raises(NotRecognisedError, match="does not exist"):
        open_tensors(f"{tmp_path / 'nothing.zip'}::run")


def test_a_file_with_two_colons_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = _model(tmp_path / "a.zip::b")
    assert split_inner(str(path)) is None
    with open_tensors(path) as tensors:
        assert tensors.format == "safetensors"


def test_messages_speak_of_the_path_inside(folder: Path, tmp_path: Path) -> None:
    data = next((folder / "run").glob("*.data-*"))
    data.unlink()
    with open_tensors(_packed(folder, tmp_path / "a.tar")) as tensors:
        errors = list(tensors.broken.values())
        assert errors
        assert str(errors[0].path) == f"{tmp_path / 'a.tar'}::run/{data.name}"
    (folder / "run" / "model.ckpt.index").write_bytes(b"x" * 100)
    with pytest.raises(ConvertError) as caught:
        open_tensors(f"{_packed(folder, tmp_path / 'b.tar')}::run/model.ckpt.index")
    assert "temporary" not in str(caught.value)


def test_so_do_notes_about_files_that_cannot_be_read(tmp_path: Path, temporary: Path) -> None:
    data = _hdf5(tmp_path / "m.h5").read_bytes()
    members = {"m/config.json": b"{", "m/model.weights.h5": data}
    path = _zip(tmp_path / "a.zip", members)
    with open_tensors(f"{path}::m/model.weights.h5") as tensors:
        (note,) = tensors.notes
    assert f"{path}::m/config.json: " in note.text
    assert str(temporary) not in note.text


def _hdf5(path: Path, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.arange(1000.0), **options)
    return path


def _zipped_weights(path: Path) -> Path:
    """Make a `.keras` archive whose weights are a member that is read in place."""
    data = _hdf5(path.with_suffix(".h5"), chunks=(100,)).read_bytes()
    path.with_suffix(".h5").unlink()
    return _zip(path, {"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": data})


def _deflated(path: Path) -> Path:
    np.savez_compressed(path, **VALUES)
    return path


MADE = {
    "safetensors": _model,
    "tf-checkpoint": lambda path: _model(path.with_suffix(".ckpt"), "tf-checkpoint"),
    "npz": lambda path: _model(path, "npz"),
    "npz, deflated": lambda path: _deflated(path.with_suffix(".npz")),
    "hdf5, in one piece": _hdf5,
    "hdf5, in chunks": lambda path: _hdf5(path, chunks=(100,), compression="gzip"),
    "keras-v3": lambda path: _hdf5(path.with_suffix(".weights.h5")),
    "keras-v3, in an archive": lambda path: _zipped_weights(path.with_suffix(".keras")),
}
SAMPLES = ["all_dtypes", "tf1_v1", "tf1_partitioned", "tf_keras_object", "tf_keras_weights"]


@pytest.mark.parametrize("what", [*MADE, *SAMPLES])
@pytest.mark.parametrize("damage", ["deleted", "emptied", "overwritten"])
def test_what_goes_wrong_in_reading_names_the_path_inside(
    tmp_path: Path, samples: Path, temporary: Path, what: str, damage: str
) -> None:
    content = tmp_path / "content"
    if what in MADE:
        content.mkdir()
        MADE[what](content / "m")
    else:
        shutil.copytree(samples / what, content / what)
    archive = _packed(content, tmp_path / "a.tar")
    told = [f"{archive}::{path.relative_to(content)}: " for path in content.rglob("*")]
    errors: list[str] = []
    with open_tensors(archive) as tensors:
        text = f"{tensors.summary} {tensors.details} {tensors.notes} {tensors.metadata}"
        assert str(temporary) not in text
        for path in [path for path in temporary.rglob("*") if path.is_file()]:
            _break(path, damage)
        for tensor in tensors.values():
            try:
                tensor.elements() if tensor.spec.dtype.variable else tensor.read()
            except ConvertError as error:
                errors.append(str(error))
    assert not [error for error in errors if str(temporary) in error]
    assert not [error for error in errors if not error.startswith(tuple(told))]
    assert errors or damage != "emptied"  # what is open already stays; some have no checksums


def _break(path: Path, damage: str) -> None:
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"\xff" * path.stat().st_size if damage == "overwritten" else b"")


# What is no archive of models


def test_archives_without_a_model_are_named(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"readme.txt": b"hello"})
    with pytest.raises(NotRecognisedError, match="a zip archive with no model in it"):
        open_tensors(path)


@pytest.mark.parametrize("member", ["archive/data.pkl", "model/data.pkl"])
def test_pytorch_files_are_not_unpacked(tmp_path: Path, member: str, temporary: Path) -> None:
    path = _zip(tmp_path / "m.ckpt", {member: b"\x80\x02}q\x00.", "archive/data/0": bytes(8)})
    with pytest.raises(NotRecognisedError, match="PyTorch"):
        open_tensors(path)
    assert not list(temporary.iterdir())


def test_formats_that_are_zips_are_themselves(tmp_path: Path, temporary: Path) -> None:
    with open_tensors(_model(tmp_path / "m.npz", "npz")) as tensors:
        assert tensors.format == "npz"
        assert not list(temporary.iterdir())


@pytest.mark.parametrize("inner", ["", "::inner.tar", "::inner.tar::run"])
def test_archives_in_archives_are_refused(folder: Path, tmp_path: Path, inner: str) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    _packed(folder, outer / "inner.tar")
    path = _packed(outer, tmp_path / "outer.zip")
    with pytest.raises(NotRecognisedError, match=r"another archive, `inner\.tar`") as caught:
        open_tensors(f"{path}{inner}")
    assert "unpack the outer one" in (caught.value.hint or "")


# Attacks


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("a/..", "leads out"),
        ("..\\evil", "leads out"),
        ("/etc/evil", "an absolute path"),
        ("C:\\evil", "an absolute path"),
        ("/".join("a" * 40), "depth"),
        ("x" * 300, "longer than file systems take"),
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str, what: str) -> None:
    path = _tar(tmp_path / "a.tar", ("ok", tarfile.REGTYPE, b"x"), (name, tarfile.REGTYPE, b"x"))
    with pytest.raises(UnsafeFileError, match=what):
        open_tensors(path)
    if not name.startswith("x" * 300):
        path = _zip(tmp_path / "a.zip", {"ok": b"x", name: b"x"})
        with pytest.raises(UnsafeFileError, match=f"{what}|leads out"):
            open_tensors(path)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "temporary" / "evil").exists()


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
    ],
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, what: str) -> None:
    members = ("m.safetensors", kind, b""), ("m.safetensors/x", tarfile.REGTYPE, b"evil")
    path = _tar(tmp_path / "a.tar", *members, linkname=str(tmp_path))
    with pytest.raises(UnsafeFileError, match=rf"m\.safetensors`: is {what}"):
        open_tensors(path)
    with pytest.raises(UnsafeFileError, match=what):
        open_tensors(f"{path}::m.safetensors")


def test_a_symbolic_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnsafeFileError, match="`link`: is a symbolic link"):
        open_tensors(tmp_path / "a.zip")


@pytest.mark.parametrize("names", [("a", "a"), ("a", "./a"), ("a/b", "a"), ("a", "a/b")])
def test_names_that_occur_twice_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = _tar(tmp_path / "a.tar", *((name, tarfile.REGTYPE, b"x") for name in names))
    with pytest.raises(UnsafeFileError, match=r"occurs twice|lies in a file"):
        open_tensors(path)


def test_folders_may_occur_twice(tmp_path: Path) -> None:
    members = [("./", tarfile.DIRTYPE, b""), ("a/", tarfile.DIRTYPE, b"")] * 2
    with pytest.raises(NotRecognisedError, match="no model"):
        open_tensors(_tar(tmp_path / "a.tar", *members))


def test_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "SMALL_BYTES", 1 << 20)
    zeros = bytes(40 << 20)
    plain = _tar(tmp_path / "plain.tar", ("zeros", tarfile.REGTYPE, zeros))
    bombs = [
        _zip(tmp_path / "a.zip", {"zeros": zeros}, zipfile.ZIP_DEFLATED),
        _zip(
            tmp_path / "b.zip", {f"{n}": zeros[: 1 << 20] for n in range(3)}, zipfile.ZIP_DEFLATED
        ),
        tmp_path / "a.tar.gz",
    ]
    bombs[2].write_bytes(gzip.compress(plain.read_bytes()))
    for bomb in bombs:
        for inner in ("", "::zeros"):
            with pytest.raises(UnsafeFileError, match="size of all members once unpacked"):
                open_tensors(f"{bomb}{inner}")


def test_a_size_that_is_a_lie_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge")
    info.size = 1 << 50
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(UnsafeFileError, match="size of all members"):
        open_tensors(tmp_path / "a.tar")
    info.size = 100_000
    (tmp_path / "b.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(CorruptFileError, match="`huge`: ends early"):
        open_tensors(tmp_path / "b.tar")


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unpacking.MAX_MEMBERS == 100_000
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 10)
    members = {f"{number}": b"" for number in range(11)}
    for path in (
        _zip(tmp_path / "a.zip", members),
        _tar(tmp_path / "a.tar", *((name, tarfile.REGTYPE, b"") for name in members)),
    ):
        with pytest.raises(UnsafeFileError, match="number of members, expected at most 10"):
            open_tensors(path)


def test_a_full_disk_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _packed(folder, tmp_path / "a.tar")
    monkeypatch.setattr(unpacking, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(TargetError, match="not enough space") as caught:
        open_tensors(path)
    assert "TMPDIR" in (caught.value.hint or "")


@pytest.mark.parametrize("call", ["fdopen", "mkdir"])
def test_a_disk_that_fails_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = _packed(folder, tmp_path / "a.tar")

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os if call == "fdopen" else Path, call, failing)
    with pytest.raises(TargetError, match="unpacking the archive failed: no space left"):
        open_tensors(path)
    monkeypatch.undo()


def test_a_folder_that_cannot_be_opened_is_still_a_model(folder: Path, tmp_path: Path) -> None:
    index = folder / "run" / "model.ckpt.index"
    index.write_bytes(index.read_bytes()[:-1])
    _model(folder / "run" / "other.safetensors")
    with pytest.raises(UsageError, match="holds 2 models"):
        open_tensors(_packed(folder, tmp_path / "a.tar"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_damaged_archive_is_an_error_or_the_same_tensors(tmp_path: Path, name: str) -> None:
    model = _model(tmp_path / "content" / "m.safetensors")
    data = _packed(model.parent, tmp_path / name).read_bytes()
    generator = random.Random(1)
    damaged = tmp_path / f"damaged-{name}"
    broken = [data[: generator.randrange(len(data))] for _ in range(60)]
    for _ in range(150):
        at = generator.randrange(min(len(data), 3000))
        broken.append(data[:at] + bytes([data[at] ^ 1 << generator.randrange(8)]) + data[at + 1 :])
    expected, outcomes = contents(tensors_of(VALUES)), set()
    for each in broken:
        damaged.write_bytes(each)
        try:
            with open_tensors(damaged) as tensors:
                found = contents(tensors)
            outcomes.add("equal" if found == expected else "differs")
        except ConvertError:
            outcomes.add("error")
    # A plain tar has no checksum over its data, nor has safetensors.
    assert outcomes <= ({"equal", "error", "differs"} if name == "a.tar" else {"equal", "error"})
    assert "error" in outcomes


# The folder it is unpacked to


_SCRIPT = """
import sys
from tensorferry.converters import open_tensors
tensors = open_tensors(sys.argv[1])
print(len(tensors), flush=True)
if sys.argv[2] == "raise":
    raise KeyboardInterrupt
if sys.argv[2] == "fork":
    import os
    if os.fork() == 0:
        sys.exit()
    os.wait()
    print(tensors["step"].read()[0])
"""


@pytest.mark.parametrize("end", ["forget", "raise", "fork"])
def test_a_process_that_ends_leaves_no_folder(
    folder: Path, tmp_path: Path, temporary: Path, end: str
) -> None:
    path = _packed(folder, tmp_path / "a.tar")
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(path), end],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == (["2", "7"] if end == "fork" else ["2"])
    assert not list(temporary.iterdir())


def test_an_error_leaves_no_folder(
    folder: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _packed(folder, tmp_path / "a.tar")

    def failing(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_models", failing)
    with pytest.raises(KeyboardInterrupt):
        open_tensors(path)
    assert not list(temporary.iterdir())


def test_the_folder_is_private(folder: Path, tmp_path: Path, temporary: Path) -> None:
    with open_tensors(_packed(folder, tmp_path / "a.zip")):
        [unpacked] = temporary.iterdir()
        assert unpacked.stat().st_mode & 0o077 == 0
        modes = {path.stat().st_mode & 0o177 for path in unpacked.rglob("*") if path.is_file()}
        assert modes == {0}


# Dialects of tar


@pytest.mark.parametrize("dialect", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["größe", "x" * 120 + "/" + "y" * 60, "m"])
def test_every_dialect_of_tar_is_read(tmp_path: Path, dialect: int, name: str) -> None:
    model = _model(tmp_path / "m.safetensors")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=dialect) as tar:
        tar.add(model, arcname=f"{name}/weights.safetensors")
    for inner in ("", f"::{name}/weights.safetensors"):
        with open_tensors(f"{path}{inner}") as tensors:
            assert tensors.details["archive"] == {
                "kind": "tar",
                "inner": f"{name}/weights.safetensors",
            }
            assert contents(tensors) == contents(tensors_of(VALUES))


def test_gzip_in_several_parts_is_read(folder: Path, tmp_path: Path) -> None:
    data = _packed(folder, tmp_path / "a.tar").read_bytes()
    parts = [gzip.compress(data[at : at + 700]) for at in range(0, len(data), 700)]
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"".join(parts) + bytes(512))
    with open_tensors(path) as tensors:
        assert contents(tensors) == contents(tensors_of(VALUES))
    path.write_bytes(b"".join(parts)[:-9])
    with pytest.raises(CorruptFileError, match="gzip"):
        open_tensors(path)


def test_gzip_of_something_else_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "m.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    assert archive_kind(Location(path)) is None
    with pytest.raises(NotRecognisedError, match="gzip-compressed file"):
        open_tensors(path)


def _pax(record: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        info = tarfile.TarInfo("pax")
        info.type, info.size = tarfile.XHDTYPE, len(record)
        plain = tarfile.TarInfo("m")
        padded = record + bytes(-len(record) % 512)
        path.write_bytes(info.tobuf() + padded + plain.tobuf() + bytes(1024))
        return path

    return make


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (b"999 path=x\n", "record of a pax header"),
        (b"x path=x\n", "record of a pax header"),
        (b"-3 path=x\n", "record of a pax header"),
        (b"0 path=x\n", "record of a pax header"),
        (b"10 path:x\n", "record of a pax header"),
        (b"11 size=-1\n", "size in a pax header"),
        (b"31 size=" + b"9" * 22 + b"\n", "size in a pax header"),
        (b"13 size=9000\n", "`m`: ends early"),
        (b"12 path=a\0b\n", "holds a NUL"),
        (b"8 path=\n", "has no name"),
        (b"14 path=../xx\n", "leads out"),
        (b"23 GNU.sparse.major=1\n\n", "sparse"),
        (b"x" * (2 << 20), "length of a tar extension"),
    ],
)
def test_damaged_pax_headers_are_refused(tmp_path: Path, record: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what):
        open_tensors(_pax(record)(tmp_path / "a.tar"))


def test_endless_extensions_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type = tarfile.XHDTYPE
    (tmp_path / "a.tar").write_bytes(info.tobuf() * 1000 + bytes(1024))
    with pytest.raises(UnsafeFileError, match="headers before one member"):
        open_tensors(tmp_path / "a.tar")


def _header(name: bytes, kind: bytes = b"0", size: bytes = b"0") -> bytes:
    """Return a header as tar wrote it before there were magic numbers."""
    block = bytearray(512)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    total = sum(block) + 8 * 32
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def test_tars_of_seventh_edition_unix_are_read(tmp_path: Path) -> None:
    data = _model(tmp_path / "m.safetensors").read_bytes()
    size = b"%o" % len(data)
    wide = b"\x80" + len(data).to_bytes(11, "big")
    for number in (size, b"  " + size + b" ", wide):
        tar = _header(b"run/") + _header(b"run/m", b"\0", number) + data + bytes(-len(data) % 512)
        (tmp_path / "a.tar").write_bytes(tar + bytes(512))
        with open_tensors(tmp_path / "a.tar") as tensors:
            assert tensors.details["archive"] == {"kind": "tar", "inner": "run/m"}
            assert contents(tensors) == contents(tensors_of(VALUES))


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (_header(b"m", b"V"), "kind of a tar member"),
        (_header(b"m", b"0", b"9"), "number in a tar header"),
        (_header(b"m", b"0", b"\xff" * 12), "number in a tar header"),
        (_header(b"m", b"K", b"1") + b"x" * 512 + _header(b"m", b"2"), "a symbolic link"),
        (_header(b"m").replace(b"m", b"n", 1), "checksum of a tar header"),
        (b"", "no end of a tar archive"),
    ],
)
def test_damaged_headers_are_refused(tmp_path: Path, header: bytes, what: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(_header(b"first") + header + (bytes(1024) if header else b""))
    with pytest.raises(CorruptFileError, match=what):
        open_tensors(path)


def test_data_behind_the_end_is_refused_where_it_is_much(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(_header(b"m") + bytes(512))
    os.truncate(path, 20 << 20)
    with pytest.raises(CorruptFileError, match="data behind the end"):
        open_tensors(path)


def test_padding_behind_gzip_is_no_part(folder: Path, tmp_path: Path) -> None:
    path = _packed(folder, tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes() + bytes(1 << 20))
    with open_tensors(path) as tensors:
        assert len(tensors) == 2
