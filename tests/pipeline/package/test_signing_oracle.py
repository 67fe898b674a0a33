"""OpenSSF's own command line verifies what is signed here, and is verified here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import VerificationError
from tensorferry.pipeline.package.records import SIGNATURE
from tensorferry.pipeline.package.signers import CertificateTrust, KeySigner, KeyTrust
from tensorferry.pipeline.package.signing import sign_package, verify_signature

pytestmark = pytest.mark.oracle


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "croco"
    (folder / "bf16").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "bf16" / "model.safetensors").write_bytes(b"fewer weights")
    (folder / "manifest.json").write_text("{}")
    return folder


def digests_of(folder: Path) -> dict[str, str]:
    files = [each for each in folder.rglob("*") if each.is_file() and each.name != SIGNATURE]
    return {
        each.relative_to(folder).as_posix(): sha256(each.read_bytes()).hexdigest() for each in files
    }


def witness(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the library's own command line in a process of its own."""
    call = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(
        call, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONWARNINGS": ""}
    )


def signed(package: Path, signer: KeySigner) -> Path:
    sign_package(package, digests_of(package), signer)
    return package / SIGNATURE


@pytest.mark.parametrize("name", ["release", "large"])
def test_the_witness_accepts_what_a_key_signed(package: Path, keyring: Any, name: str) -> None:
    signature = signed(package, KeySigner(keyring[f"{name}.key"]))
    flags = ("verify", "key", package, "--signature", signature)
    right = witness(*flags, "--public_key", keyring[f"{name}.pub"])
    assert right.returncode == 0, right.stderr
    assert witness(*flags, "--public_key", keyring["other.pub"]).returncode != 0
    (package / "manifest.json").write_text("{} ")
    changed = witness(*flags, "--public_key", keyring[f"{name}.pub"])
    assert changed.returncode != 0
    assert "manifest.json" in changed.stdout + changed.stderr


def test_the_witness_accepts_what_a_certificate_signed(package: Path, keyring: Any) -> None:
    chain = (keyring["ca.pem"],)
    signature = signed(
        package, KeySigner(keyring["release.key"], "", keyring["release.crt"], chain)
    )
    flags = ("verify", "certificate", package, "--signature", signature, "--certificate_chain")
    right = witness(*flags, keyring["root.pem"])
    assert right.returncode == 0, right.stderr
    assert witness(*flags, keyring["other-root.pem"]).returncode != 0


def made_by_witness(package: Path, *flags: object) -> bytes:
    signature = package / SIGNATURE
    done = witness("sign", *flags, "--signature", signature, package)
    assert done.returncode == 0, done.stderr
    return signature.read_bytes()


def test_what_the_witness_signed_with_a_key_is_accepted(package: Path, keyring: Any) -> None:
    signature = made_by_witness(package, "key", "--private_key", keyring["release.key"])
    verify_signature(signature, digests_of(package), KeyTrust(keyring["release.pub"]))
    with pytest.raises(VerificationError, match="is not by whom you trust"):
        verify_signature(signature, digests_of(package), KeyTrust(keyring["other.pub"]))
    (package / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(VerificationError, match=r"^model\.safetensors: is not the file"):
        verify_signature(signature, digests_of(package), KeyTrust(keyring["release.pub"]))


def certificate_flags(keyring: Any, certificate: str) -> Sequence[object]:
    return (
        "certificate", "--private_key", keyring["release.key"], "--signing_certificate",
        keyring[certificate], "--certificate_chain", keyring["ca.pem"],
    )  # fmt: skip


def test_what_the_witness_signed_with_a_certificate_is_accepted(
    package: Path, keyring: Any
) -> None:
    signature = made_by_witness(package, *certificate_flags(keyring, "release.crt"))
    trust = CertificateTrust((keyring["root.pem"],))
    assert verify_signature(signature, digests_of(package), trust) == "certificate CN=release"


def test_an_expired_certificate_that_the_witness_takes_is_refused(
    package: Path, keyring: Any
) -> None:
    signature = made_by_witness(package, *certificate_flags(keyring, "expired.crt"))
    flags = ("--signature", package / SIGNATURE, "--certificate_chain", keyring["root.pem"])
    # It only asks whether the certificate was valid on its own first day; hence our own check.
    taken = witness("verify", "certificate", package, *flags)
    assert taken.returncode == 0, taken.stderr
    with pytest.raises(VerificationError, match="has expired"):
        verify_signature(signature, digests_of(package), CertificateTrust((keyring["root.pem"],)))
