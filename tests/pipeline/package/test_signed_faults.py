"""Whatever is done to a signed package: exit code 6 and the file's name; keys are never shown."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorferry.pipeline import entry
from tensorferry.pipeline.package.oci_read import read_oci

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")


class Done(NamedTuple):
    """What a run of the command line gave."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return the function that runs the command line."""

    def call(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, words)])
        with pytest.raises(SystemExit) as stop:  # typer's own way out
            entry.main()
        assert isinstance(stop.value.code, int)
        return Done(stop.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "croco.npz"
    np.savez(path, kernel=np.arange(12, dtype="f4"), bias=np.ones(3, "f4"))
    return path


@pytest.fixture
def package(tmp_path: Path, model: Path, keyring: Any, run: Run) -> Path:
    """Return a package that `release` signed with a key."""
    done = run("package", model, tmp_path / "package", "-q", "--sign", keyring["release.key"])
    assert done.code == 0, done.err
    return tmp_path / "package"


@pytest.fixture
def layout(tmp_path: Path, model: Path, keyring: Any, run: Run) -> Path:
    """Return one as an OCI layout."""
    flags = ("-q", "--oci", "--sign", keyring["release.key"])
    done = run("package", model, tmp_path / "layout", *flags)
    assert done.code == 0, done.err
    return tmp_path / "layout"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def test_a_signed_package_is_verified(package: Path, layout: Path, keyring: Any, run: Run) -> None:
    for place in (package, layout):
        done = run("package", "verify", place, "--key", keyring["release.pub"])
        assert done.code == 0
        assert done.out.startswith("verified: ")
        assert "signed by key sha256:" in done.err


def test_shards_and_variants_are_signed_in_every_form(
    tmp_path: Path, keyring: Any, run: Run
) -> None:
    model = tmp_path / "wide.npz"
    np.savez(model, **{f"w{number}": np.full(600, number, "f4") for number in range(4)})  # type: ignore[arg-type]
    flags = ("--variant", "f32", "--variant", "bf16", "--max-shard-size", "5kB")
    for target, more in (("folder", ()), ("archive.tar", ()), ("layout", ("--oci",))):
        place = tmp_path / target
        made = run("package", model, place, "-q", *flags, *more, "--sign", keyring["release.key"])
        assert made.code == 0, made.err
        done = run("package", "verify", place, "--key", keyring["release.pub"])
        assert done.code == 0, done.out + done.err
        assert "8 tensors in 2 variants" in done.err
        assert run("package", "verify", place, "--key", keyring["other.pub"]).code == 6
    layout = read_oci(tmp_path / "layout")
    assert sum(name.endswith(".safetensors") for name in layout.files) == 3
    assert "model.safetensors.index.f32.json" in layout.files


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "README.md",
        "manifest.json",
        "bom.cdx.json",
        "provenance.intoto.json",
        "model.sig",
    ],
)
def test_a_changed_byte_in_any_file_is_named(
    package: Path, keyring: Any, run: Run, name: str
) -> None:
    flip(package / name)
    done = run("package", "verify", package, "--key", keyring["release.pub"])
    assert done.code == 6
    assert str(package / name) in done.out


def test_a_removed_and_an_added_file_are_named(package: Path, keyring: Any, run: Run) -> None:
    (package / "run.py").write_text("print()")
    added = run("package", "verify", package, "--key", keyring["release.pub"])
    assert (added.code, "run.py" in added.out) == (6, True)
    (package / "run.py").unlink()
    (package / "README.md").unlink()
    removed = run("package", "verify", package, "--key", keyring["release.pub"])
    assert (removed.code, "README.md" in removed.out) == (6, True)


def test_files_of_another_signed_package_are_refused(
    package: Path, tmp_path: Path, keyring: Any, run: Run
) -> None:
    """All that the manifest lists is right, and signed by the right key, but not this package."""
    other_model, other = tmp_path / "other.npz", tmp_path / "other"
    np.savez(other_model, kernel=np.zeros(12, "f4"), bias=np.ones(3, "f4"))
    made = run("package", other_model, other, "-q", "--sign", keyring["release.key"])
    assert made.code == 0, made.err
    signature = (package / "model.sig").read_bytes()
    shutil.rmtree(package)
    shutil.copytree(other, package)
    assert run("package", "verify", package, "--key", keyring["release.pub"]).code == 0
    (package / "model.sig").write_bytes(signature)
    done = run("package", "verify", package, "--key", keyring["release.pub"])
    assert done.code == 6
    assert "is not the file that was signed" in done.out
    # Without the key it is whole; hence a package that is signed says so.
    unchecked = run("package", "verify", package)
    assert unchecked.code == 0
    assert "the signature was not checked" in unchecked.err


def test_the_manifest_of_another_package_is_refused(
    package: Path, tmp_path: Path, keyring: Any, run: Run
) -> None:
    other_model, other = tmp_path / "other.npz", tmp_path / "other"
    np.savez(other_model, kernel=np.zeros(12, "f4"), bias=np.ones(3, "f4"))
    run("package", other_model, other, "-q", "--sign", keyring["release.key"])
    for name in ("manifest.json", "model.sig"):
        shutil.copy(other / name, package / name)
    done = run("package", "verify", package, "--key", keyring["release.pub"])
    assert done.code == 6
    assert str(package / "model.safetensors") in done.out


def test_a_wrong_key_and_no_signature_are_refused(package: Path, keyring: Any, run: Run) -> None:
    wrong = run("package", "verify", package, "--key", keyring["other.pub"])
    assert wrong.code == 6
    assert "is not by whom you trust" in wrong.out
    (package / "model.sig").unlink()
    without = run("package", "verify", package, "--key", keyring["release.pub"])
    assert without.code == 6
    assert str(package / "model.sig") in without.out


def test_certificates_sign_and_verify(tmp_path: Path, model: Path, keyring: Any, run: Run) -> None:
    flags = (
        "--sign", keyring["locked.key"], "--passphrase", f"file:{keyring['passphrase']}",
        "--certificate", keyring["release.crt"], "--chain", keyring["ca.pem"],
    )  # fmt: skip
    assert run("package", model, tmp_path / "out", "-q", *flags).code == 0
    right = run("package", "verify", tmp_path / "out", "--root", keyring["root.pem"])
    assert (right.code, "signed by certificate CN=release" in right.err) == (0, True)
    wrong = run("package", "verify", tmp_path / "out", "--root", keyring["other-root.pem"])
    assert wrong.code == 6


def test_an_expired_certificate_signs_nothing(
    tmp_path: Path, model: Path, keyring: Any, run: Run
) -> None:
    flags = ("--sign", keyring["release.key"], "--certificate", keyring["expired.crt"])
    done = run("package", model, tmp_path / "out", *flags)
    assert done.code == 2
    assert str(keyring["expired.crt"]) in done.err
    assert "has expired" in done.err
    assert os.listdir(tmp_path) == ["croco.npz"]  # noqa: PTH208 - names are asked for


@pytest.mark.parametrize(
    ("key", "code"), [("none.key", 3), ("rsa.key", 2), ("locked.key", 2), ("release.pub", 2)]
)
def test_a_key_that_cannot_sign_is_told_before_anything_is_written(
    tmp_path: Path, model: Path, keyring: Any, run: Run, key: str, code: int
) -> None:
    done = run("package", model, tmp_path / "out", "--sign", keyring[key])
    assert done.code == code
    assert f"convert: {keyring[key]}: " in done.err
    assert done.out == ""
    assert os.listdir(tmp_path) == ["croco.npz"]  # noqa: PTH208


def test_a_truncated_blob_is_named(layout: Path, keyring: Any, run: Run) -> None:
    blobs = sorted((layout / "blobs" / "sha256").iterdir())
    for blob in blobs:
        size = blob.stat().st_size
        data = blob.read_bytes()
        os.truncate(blob, size // 2)
        done = run("package", "verify", layout, "--key", keyring["release.pub"])
        assert done.code == 6
        assert blob.name in done.out + done.err
        blob.write_bytes(data)
    assert run("package", "verify", layout, "--key", keyring["release.pub"]).code == 0


def test_a_changed_byte_in_any_blob_is_named(layout: Path, keyring: Any, run: Run) -> None:
    index = json.loads((layout / "index.json").read_bytes())
    manifest_blob = index["manifests"][0]["digest"].removeprefix("sha256:")
    manifest = json.loads((layout / "blobs" / "sha256" / manifest_blob).read_bytes())
    names = {
        each["digest"].removeprefix("sha256:"): each["annotations"]["org.cncf.model.filepath"]
        for each in manifest["layers"]
    }
    for blob in sorted((layout / "blobs" / "sha256").iterdir()):
        data = blob.read_bytes()
        flip(blob)
        done = run("package", "verify", layout, "--key", keyring["release.pub"])
        assert done.code == 6
        assert names.get(blob.name, blob.name) in done.out + done.err
        blob.write_bytes(data)


def test_a_blob_that_slipped_in_is_named(layout: Path, run: Run) -> None:
    (layout / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"#!/bin/sh")
    done = run("package", "verify", layout)
    assert (done.code, "0" * 64 in done.err) == (6, True)


def test_keys_are_neither_shown_nor_packaged(
    tmp_path: Path, model: Path, keyring: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEASE", keyring.passphrase)
    monkeypatch.setenv("WRONG", "not the passphrase")
    locked = ("--sign", keyring["locked.key"], "--passphrase")
    said = ""
    for number, flags in enumerate(
        (
            (*locked, "env:RELEASE"),
            (*locked, "env:WRONG"),
            (*locked, "env:NONE"),
            (*locked, keyring.passphrase),
            (*locked, f"file:{keyring['passphrase']}", "--certificate", keyring["ca.pem"]),
            ("--sign", keyring["release.key"], "--certificate", keyring["release.key"]),
        )
    ):
        for form in ((), ("--oci",), ("--json",)):
            target = tmp_path / f"out-{number}-{len(form)}{''.join(form)}"
            done = run("package", model, target, "--verbose", "--debug", *flags, *form)
            assert done.code == (0 if number == 0 else 2), done.err
            said += done.out + done.err
    assert "Traceback" in said
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    packaged = b"".join(each.read_bytes() for each in files)
    assert b"model_signing" in packaged or b"dsseEnvelope" in packaged
    for secret in keyring.secrets():
        assert secret not in packaged
        assert secret not in said.encode()
    for name in ("release.key", "locked.key"):
        assert keyring[name].name not in packaged.decode("latin-1")
