"""Signatures: what is signed is accepted, and nothing else; keys are never shown."""

from __future__ import annotations

import json
import os
import sys
import traceback
from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import (
    ConvertError,
    NotRecognisedError,
    UsageError,
    VerificationError,
)
from tensorferry.pipeline.package import signing
from tensorferry.pipeline.package.records import SIGNATURE
from tensorferry.pipeline.package.signers import (
    CertificateTrust,
    KeySigner,
    KeyTrust,
    Signer,
    SigstoreSigner,
    SigstoreTrust,
    Trust,
    signer_of,
    trust_of,
)
from tensorferry.pipeline.package.signing import sign_package, verify_signature

pytest.importorskip("model_signing", reason="the extra `sign` is not installed")


def digests_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the signature."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != SIGNATURE
    }


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder of files, as a package has."""
    folder = tmp_path / "croco"
    (folder / "bf16").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "bf16" / "model.safetensors").write_bytes(b"fewer weights")
    (folder / "manifest.json").write_text("{}")
    return folder


def sign(folder: Path, signer: Signer) -> bytes:
    """Sign a folder; return the signature."""
    sign_package(folder, digests_of(folder), signer)
    return (folder / SIGNATURE).read_bytes()


@pytest.mark.parametrize("name", ["release", "large"])
def test_what_a_key_signs_is_accepted(package: Path, keyring: Any, name: str) -> None:
    signature = sign(package, KeySigner(keyring[f"{name}.key"]))
    who = verify_signature(signature, digests_of(package), KeyTrust(keyring[f"{name}.pub"]))
    assert who.startswith("key sha256:")


def test_an_encrypted_key_is_opened(
    package: Path, keyring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RELEASE_PASSPHRASE", keyring.passphrase)
    for given in ("env:RELEASE_PASSPHRASE", f"file:{keyring['passphrase']}"):
        signature = sign(package, KeySigner(keyring["locked.key"], given))
        verify_signature(signature, digests_of(package), KeyTrust(keyring["release.pub"]))


def test_what_a_certificate_signs_is_accepted(package: Path, keyring: Any) -> None:
    signer = KeySigner(keyring["release.key"], "", keyring["release.crt"], (keyring["ca.pem"],))
    who = verify_signature(
        sign(package, signer), digests_of(package), CertificateTrust((keyring["root.pem"],))
    )
    assert who == "certificate CN=release"


def test_a_certificate_of_a_root_needs_no_chain(package: Path, keyring: Any) -> None:
    locked = f"file:{keyring['passphrase']}"
    signer = KeySigner(keyring["locked.key"], locked, keyring["direct.crt"])
    signature = sign(package, signer)
    verify_signature(signature, digests_of(package), CertificateTrust((keyring["root.pem"],)))


def test_the_statement_lists_every_file_and_no_temporary_name(package: Path, keyring: Any) -> None:
    bundle = json.loads(sign(package, KeySigner(keyring["release.key"])))
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    assert statement["subject"][0]["name"] == "croco"
    listed = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    assert listed == digests_of(package)


def changed(package: Path) -> None:
    data = bytearray((package / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (package / "model.safetensors").write_bytes(data)


def removed(package: Path) -> None:
    (package / "bf16" / "model.safetensors").unlink()


def added(package: Path) -> None:
    (package / "run.py").write_text("print()")


def hidden(package: Path) -> None:
    (package / ".gitattributes").write_text("*")  # the library's own command line ignores it


@pytest.mark.parametrize(
    ("spoil", "file", "what"),
    [
        (changed, "model.safetensors", "is not the file that was signed"),
        (removed, "bf16/model.safetensors", "is signed and not there"),
        (added, "run.py", "is there and not signed"),
        (hidden, ".gitattributes", "is there and not signed"),
    ],
)
def test_other_files_than_the_signed_are_refused(
    package: Path, keyring: Any, spoil: Any, file: str, what: str
) -> None:
    signature = sign(package, KeySigner(keyring["release.key"]))
    spoil(package)
    with pytest.raises(VerificationError) as caught:
        verify_signature(signature, digests_of(package), KeyTrust(keyring["release.pub"]))
    assert (caught.value.path, caught.value.what, caught.value.exit_code) == (file, what, 6)


def test_the_signature_of_another_package_is_refused(
    package: Path, keyring: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"of": "another"}')
    signature = sign(other, KeySigner(keyring["release.key"]))
    with pytest.raises(VerificationError, match=r"bf16/model\.safetensors: is there and not"):
        verify_signature(signature, digests_of(package), KeyTrust(keyring["release.pub"]))


@pytest.mark.parametrize(
    ("hashing", "what"), [("blake3", "files by blake3"), ("shards", "shards by sha256")]
)
def test_other_digests_than_ours_are_told(
    package: Path, keyring: Any, hashing: str, what: str
) -> None:
    """The library can sign so from Python; nothing here has such digests of the files."""
    import model_signing

    hashes = model_signing.hashing.Config()
    if hashing == "shards":
        hashes.use_shard_serialization()
    else:
        hashes.use_file_serialization(hashing_algorithm="blake3")
    config = model_signing.signing.Config().set_hashing_config(hashes)
    config.use_elliptic_key_signer(private_key=keyring["release.key"])
    config.sign(package, package / SIGNATURE)
    with pytest.raises(VerificationError, match=f"expected files by sha256, got {what}"):
        verify_signature(
            (package / SIGNATURE).read_bytes(),
            digests_of(package),
            KeyTrust(keyring["release.pub"]),
        )


def test_files_that_the_signer_left_out_are_refused(package: Path, keyring: Any) -> None:
    import model_signing

    hashes = model_signing.hashing.Config().set_ignored_paths(paths=["manifest.json"])
    config = model_signing.signing.Config().set_hashing_config(hashes)
    config.use_elliptic_key_signer(private_key=keyring["release.key"])
    config.sign(package, package / SIGNATURE)
    with pytest.raises(VerificationError, match=r"^manifest\.json: is there and not signed"):
        verify_signature(
            (package / SIGNATURE).read_bytes(),
            digests_of(package),
            KeyTrust(keyring["release.pub"]),
        )


def with_payload(signature: bytes, change: Any) -> bytes:
    """Return a signature whose statement was changed after signing."""
    bundle = json.loads(signature)
    statement = json.loads(b64decode(bundle["dsseEnvelope"]["payload"]))
    change(statement)
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(bundle).encode()


def test_a_statement_changed_to_fit_is_refused(package: Path, keyring: Any) -> None:
    signature = sign(package, KeySigner(keyring["release.key"]))
    changed(package)
    digest = digests_of(package)["model.safetensors"]

    def fit(statement: Any) -> None:
        for each in statement["predicate"]["resources"]:
            if each["name"] == "model.safetensors":
                each["digest"] = digest

    with pytest.raises(VerificationError, match="is not by whom you trust"):
        verify_signature(
            with_payload(signature, fit), digests_of(package), KeyTrust(keyring["release.pub"])
        )


def cases(keyring: Any) -> Mapping[str, tuple[Signer, Trust, str]]:
    key, root = keyring["release.key"], CertificateTrust((keyring["root.pem"],))
    chain = (keyring["ca.pem"],)
    with_certificate = KeySigner(key, "", keyring["release.crt"], chain)
    return {
        "wrong key": (KeySigner(key), KeyTrust(keyring["other.pub"]), "not by whom you trust"),
        "wrong root": (
            with_certificate,
            CertificateTrust((keyring["other-root.pem"],)),
            "not by whom you trust",
        ),
        "chain cut": (
            KeySigner(key, "", keyring["release.crt"]),
            root,
            "not by whom you trust",
        ),
        "key where certificates are asked for": (KeySigner(key), root, "carries no certificate"),
        "certificate where a key is asked for": (
            with_certificate,
            KeyTrust(keyring["release.pub"]),
            "not by whom you trust",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        "wrong key",
        "wrong root",
        "chain cut",
        "key where certificates are asked for",
        "certificate where a key is asked for",
    ],
)
def test_who_is_not_trusted_is_refused(package: Path, keyring: Any, case: str) -> None:
    signer, trust, what = cases(keyring)[case]
    signature = sign(package, signer)
    with pytest.raises(VerificationError, match=what) as caught:
        verify_signature(signature, digests_of(package), trust)
    assert caught.value.path == SIGNATURE
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("certificate", "what"), [("expired.crt", "has expired"), ("early.crt", "is not valid yet")]
)
def test_a_certificate_out_of_its_time_neither_signs_nor_verifies(
    package: Path, keyring: Any, certificate: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = KeySigner(keyring["release.key"], "", keyring[certificate], (keyring["ca.pem"],))
    with pytest.raises(UsageError, match=what) as refused:
        sign(package, signer)
    assert refused.value.path == str(keyring[certificate])
    assert not (package / SIGNATURE).exists()
    monkeypatch.setattr(signing, "check_certificate", lambda *_: None)  # an older signer
    signature = sign(package, signer)
    with pytest.raises(VerificationError, match=f"certificate CN=release {what}") as caught:
        verify_signature(signature, digests_of(package), CertificateTrust((keyring["root.pem"],)))
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    "signature",
    [
        b"",
        b"no JSON",
        b"[]",
        b"{}",
        b'{"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}',
        b'{"verificationMaterial": {"publicKey": {}}, "dsseEnvelope": 7}',
        b'{"verificationMaterial": 7, "verificationMaterial": 8}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_signature_is_refused(keyring: Any, signature: bytes) -> None:
    for trust in (KeyTrust(keyring["release.pub"]), CertificateTrust((keyring["root.pem"],))):
        with pytest.raises(VerificationError) as caught:
            verify_signature(signature, {"manifest.json": "0" * 64}, trust)
        assert caught.value.path == SIGNATURE


def test_the_library_prints_nothing(
    package: Path, keyring: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = json.loads(sign(package, KeySigner(keyring["release.key"])))
    bundle["verificationMaterial"]["publicKey"] = {}  # as its first releases wrote it
    trust = KeyTrust(keyring["release.pub"])
    verify_signature(json.dumps(bundle).encode(), digests_of(package), trust)
    assert capfd.readouterr() == ("", "")


def test_every_cut_and_flipped_signature_is_refused(package: Path, keyring: Any) -> None:
    signature = sign(package, KeySigner(keyring["release.key"]))
    files, trust = digests_of(package), KeyTrust(keyring["release.pub"])
    bundle = json.loads(signature)["dsseEnvelope"]
    start = signature.index(bundle["signatures"][0]["sig"].encode())
    for at in range(start, start + 60, 7):
        spoiled = bytearray(signature)
        spoiled[at] = ord("A") if spoiled[at] != ord("A") else ord("B")
        with pytest.raises(VerificationError):
            verify_signature(bytes(spoiled), files, trust)
    for length in range(0, len(signature), 97):
        with pytest.raises(VerificationError):
            verify_signature(signature[:length], files, trust)


@pytest.mark.parametrize(
    ("key", "passphrase", "kind", "what"),
    [
        ("none.key", "", NotRecognisedError, "cannot be read: no such file"),
        ("", "", NotRecognisedError, "cannot be read: is a directory"),
        ("rsa.key", "", UsageError, r"another kind \(RSA\)"),
        ("edwards.key", "", UsageError, r"another kind \(Ed25519\)"),
        ("koblitz.key", "", UsageError, "curve of the key"),
        ("release.pub", "", UsageError, "is public"),
        ("release.crt", "", UsageError, "is public"),
        ("passphrase", "", UsageError, "is no private key in PEM"),
        ("locked.key", "", UsageError, "the key is encrypted"),
        ("locked.key", "env:PATH", UsageError, "the passphrase does not open the key"),
        ("locked.key", "env:NOT_SET_ANYWHERE", UsageError, "NOT_SET_ANYWHERE"),
        ("locked.key", "file:/none/at/all", NotRecognisedError, "cannot be read"),
        ("locked.key", "correct horse", UsageError, "expected env:NAME or file:PATH"),
    ],
)
def test_a_key_that_cannot_sign_is_refused(
    package: Path, keyring: Any, key: str, passphrase: str, kind: type[ConvertError], what: str
) -> None:
    with pytest.raises(kind, match=what) as caught:
        sign(package, KeySigner(keyring[key], passphrase))
    assert "correct horse" not in str(caught.value)
    assert not (package / SIGNATURE).exists()


def test_a_certificate_of_another_key_does_not_sign(package: Path, keyring: Any) -> None:
    with pytest.raises(UsageError, match="the certificate of another key"):
        sign(package, KeySigner(keyring["release.key"], "", keyring["ca.pem"]))
    with pytest.raises(UsageError, match="holds no certificate"):
        sign(package, KeySigner(keyring["release.key"], "", keyring["release.pub"]))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("release.key", "is a private key"),
        ("root.pem", "is a certificate"),
        ("passphrase", "is no public key"),
        ("rsa.pub", "another kind"),
        ("koblitz.pub", "curve of the key"),
    ],
)
def test_a_key_that_cannot_verify_is_refused(
    package: Path, keyring: Any, key: str, what: str
) -> None:
    signature = sign(package, KeySigner(keyring["release.key"]))
    with pytest.raises(UsageError, match=what):
        verify_signature(signature, digests_of(package), KeyTrust(keyring[key]))


def test_a_file_far_too_large_is_not_read_as_a_key(tmp_path: Path, package: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="is no key or certificate"):
        sign(package, KeySigner(tmp_path / "large"))


def test_nothing_of_the_key_is_in_what_is_written_or_said(package: Path, keyring: Any) -> None:
    locked = f"file:{keyring['passphrase']}"
    signer = KeySigner(keyring["locked.key"], locked, keyring["release.crt"], (keyring["ca.pem"],))
    sign(package, signer)
    said = repr(signer).encode()
    for key, passphrase in (("locked.key", ""), ("rsa.key", ""), ("locked.key", "env:HOME")):
        try:
            sign(package, KeySigner(keyring[key], passphrase))
        except ConvertError as error:
            said += "".join(traceback.format_exception(error)).encode()
    held = b"".join(path.read_bytes() for path in package.rglob("*") if path.is_file())
    for secret in keyring.secrets():
        assert secret not in held
        assert secret not in said


def test_no_descriptor_is_left_open(package: Path, keyring: Any) -> None:
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - descriptors are no paths
    for _ in range(3):
        sign(package, KeySigner(keyring["release.key"]))
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208


def test_flags_name_a_signer(tmp_path: Path) -> None:
    key, crt, chain = tmp_path / "key.pem", tmp_path / "crt.pem", (tmp_path / "ca.pem",)
    assert signer_of("") is None
    assert signer_of(str(key)) == KeySigner(key)
    assert signer_of(
        str(key), passphrase="env:P", certificate=crt, chain=chain
    ) == KeySigner(key, "env:P", crt, chain)  # fmt: skip
    assert signer_of("sigstore") == SigstoreSigner()
    assert signer_of("sigstore", identity_token=key) == SigstoreSigner(key)
    assert signer_of("./sigstore") == KeySigner(Path("./sigstore"))


@pytest.mark.parametrize(
    ("sign_with", "flags", "what"),
    [
        ("", {"passphrase": "env:P"}, "without --sign"),
        ("", {"identity_token": Path("t")}, "without --sign"),
        ("sigstore", {"certificate": Path("c")}, "takes no key"),
        ("key.pem", {"identity_token": Path("t")}, "goes with --sign sigstore"),
        ("key.pem", {"chain": (Path("c"),)}, "goes with --certificate"),
    ],
)
def test_flags_that_contradict_each_other_sign_nothing(
    sign_with: str, flags: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        signer_of(sign_with, **flags)


def test_flags_name_whom_to_trust() -> None:
    key, roots = Path("key.pub"), (Path("root.pem"),)
    assert trust_of() is None
    assert trust_of(key=key) == KeyTrust(key)
    assert trust_of(roots=roots) == CertificateTrust(roots)
    assert trust_of(identity="a@b", issuer="https://c") == SigstoreTrust("a@b", "https://c")
    with pytest.raises(UsageError, match="got several"):
        trust_of(key=key, roots=roots)
    with pytest.raises(UsageError, match="go together"):
        trust_of(identity="a@b")


def test_without_an_identity_nobody_waits_for_a_browser(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [each for each in os.environ if each.startswith(("ACTIONS_", "GITHUB_", "CI"))]:
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    with pytest.raises(NotRecognisedError, match="cannot be read"):
        sign(package, SigstoreSigner(token))
    token.write_text("\n")
    for signer in (SigstoreSigner(token), SigstoreSigner()):
        with pytest.raises(UsageError, match="no identity to sign with"):
            sign(package, signer)


def test_a_missing_extra_is_named(
    package: Path, keyring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = sign(package, KeySigner(keyring["release.key"]))
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for call in (
        lambda: sign(package, KeySigner(keyring["release.key"])),
        lambda: verify_signature(signature, {}, KeyTrust(keyring["release.pub"])),
    ):
        with pytest.raises(UsageError, match="signatures need model-signing") as caught:
            call()
        assert caught.value.hint == "install the extra: pip install 'tensorferry[sign]'"
