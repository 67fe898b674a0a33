"""What tests of packages share: keys and certificates, made once, and a small package."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import TensorSpec
from tensorferry.pipeline.package.oci import write_oci
from tensorferry.pipeline.package.records import (
    FileKind,
    FileRecord,
    PackageFacts,
    SourceFacts,
    TensorRecord,
    Variant,
)

PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Keyring:
    """A folder of keys and certificates.

    `release` is who signs, `other` somebody else; `locked` is `release`, encrypted with
    `passphrase`. `root.pem` certifies `ca.pem`, that certifies `release.crt`; `expired.crt` and
    `early.crt` are of the same key.
    """

    folder: Path
    passphrase: str = PASSPHRASE

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def secrets(self) -> list[bytes]:
        """Return every form in which the private key might be seen somewhere."""
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            load_pem_private_key,
        )

        key: Any = load_pem_private_key(self["release.key"].read_bytes(), None)
        number = key.private_numbers().private_value
        pkcs8, sec1 = (
            key.private_bytes(Encoding.PEM, form, NoEncryption()).splitlines()
            for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
        )
        lines = [*pkcs8[1:3], sec1[1]]  # the public key, which anybody may see, comes behind
        raw = number.to_bytes(32, "big")
        texts = (raw.hex(), raw.hex().upper(), str(number), self.passphrase)
        return [raw, *lines, *(text.encode() for text in texts)]


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Return keys and certificates of every kind that matters."""
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    folder = tmp_path_factory.mktemp("keys")
    keys = _write_keys(folder)
    _write_certificates(folder, keys)
    return Keyring(folder)


def _write_keys(folder: Path) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    keys: dict[str, Any] = {
        name: ec.generate_private_key(ec.SECP256R1()) for name in ("release", "other", "ca", "root")
    }
    keys["large"] = ec.generate_private_key(ec.SECP521R1())
    keys["rsa"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    keys["edwards"] = ed25519.Ed25519PrivateKey.generate()
    keys["koblitz"] = ec.generate_private_key(ec.SECP256K1())
    public = PublicFormat.SubjectPublicKeyInfo
    for name, key in keys.items():
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.key").write_bytes(pem)
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, public))
    lock = BestAvailableEncryption(PASSPHRASE.encode())
    locked = keys["release"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)
    (folder / "locked.key").write_bytes(locked)
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n")
    return keys


def _write_certificates(folder: Path, keys: dict[str, Any]) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    now = datetime.now(UTC)
    days = (now - timedelta(days=2), now + timedelta(days=300))
    years = (now - timedelta(days=400), now + timedelta(days=300))
    past = (now - timedelta(days=40), now - timedelta(days=10))
    later = (now + timedelta(days=10), now + timedelta(days=40))
    made = {
        "root.pem": _certificate("root", "root", keys, years, authority=True),
        "ca.pem": _certificate("ca", "root", keys, years, authority=True),
        "release.crt": _certificate("release", "ca", keys, days),
        "direct.crt": _certificate("release", "root", keys, days),
        "expired.crt": _certificate("release", "ca", keys, past),
        "early.crt": _certificate("release", "ca", keys, later),
        "other-root.pem": _certificate("other", "other", keys, days, authority=True),
    }
    for name, certificate in made.items():
        (folder / name).write_bytes(certificate.public_bytes(Encoding.PEM))


def _certificate(
    subject: str,
    issuer: str,
    keys: dict[str, Any],
    days: tuple[datetime, datetime],
    *,
    authority: bool = False,
) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        **dict.fromkeys(
            (
                "content_commitment",
                "key_encipherment",
                "data_encipherment",
                "key_agreement",
                "encipher_only",
                "decipher_only",
            ),
            False,
        ),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(keys[subject].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(days[0])
        .not_valid_after(days[1])
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    return builder.sign(keys[issuer], hashes.SHA256())


def write_package(folder: Path, weights: bytes = b"weights" * 1000, **changes: Any) -> PackageFacts:
    """Write the files of a small package; return its facts."""
    files = {
        "model.safetensors": (weights, FileKind.WEIGHTS),
        "bf16/model.safetensors": (weights[::2], FileKind.WEIGHTS),
        "README.md": (b"# Croco\n", FileKind.CARD),
        "LICENSE": (b"Do what you like.\n", FileKind.LICENCE),
        "bom.cdx.json": (b"{}\n", FileKind.BOM),
        "config.json": (b"{}", FileKind.CONFIG),
    }
    for path, (data, _) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / "manifest.json").write_text('{"name": "croco"}')
    (folder / "model.sig").write_text('{"no": "signature"}')
    tensors = {
        "dense/kernel": TensorRecord(TensorSpec(DType.FLOAT32, (999, 1333)), "0" * 64, "m"),
        "steps": TensorRecord(TensorSpec(DType.INT64, ()), "1" * 64, "m"),
    }
    facts = PackageFacts(
        name="croco",
        version="1.0",
        licence="Apache-2.0",
        created=1_700_000_000,
        tool="tensorferry 0.1.0",
        source=SourceFacts("croco.keras", "keras-v3", "Keras 3 model", "keras 3", None, ()),
        variants=(Variant("", (), ("model.safetensors",), tensors, "2" * 64, {}),),
        accounting=(),
        counts={},
        files=tuple(
            FileRecord(path, len(data), sha256(data).hexdigest(), kind)
            for path, (data, kind) in files.items()
        ),
    )
    return replace(facts, **changes)


@pytest.fixture
def small_package() -> Callable[..., PackageFacts]:
    """Return the function that writes the files of a small package."""
    return write_package


class Layout:
    """A layout to look into, and to spoil."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def json(self, path: Path) -> Any:
        return json.loads(path.read_bytes())

    @property
    def index(self) -> Any:
        return self.json(self.path / "index.json")

    @property
    def manifest(self) -> Any:
        return self.json(self.blob(self.index["manifests"][0]["digest"]))

    def file(self, name: str) -> Path:
        """Return the blob of a file of the package."""
        return self.blob(self.layer(self.manifest, name)["digest"])

    def layer(self, manifest: Any, name: str) -> Any:
        return next(
            each
            for each in manifest["layers"]
            if each["annotations"]["org.cncf.model.filepath"] == name
        )

    def put(self, value: Any) -> dict[str, Any]:
        data = json.dumps(value).encode()
        digest = sha256(data).hexdigest()
        self.blob(digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def with_index(self, change: Callable[[Any], object]) -> None:
        index = self.index
        change(index)
        (self.path / "index.json").write_text(json.dumps(index))

    def with_manifest(self, change: Callable[[Any], object]) -> None:
        """Change the image manifest, as somebody would who knows what a digest is."""
        manifest, old = self.manifest, self.blob(self.index["manifests"][0]["digest"])
        change(manifest)
        old.unlink()
        self.with_index(lambda index: index["manifests"][0].update(self.put(manifest)))


@pytest.fixture
def write_layout(tmp_path: Path) -> Callable[..., Layout]:
    """Return the function that writes a small package as a layout."""

    def write(**changes: Any) -> Layout:
        facts = write_package(tmp_path / "package", **changes)
        write_oci(tmp_path / "package", tmp_path / "layout", facts)
        return Layout(tmp_path / "layout")

    return write


@pytest.fixture
def layout(write_layout: Callable[..., Layout]) -> Layout:
    """Return a layout of a small package."""
    return write_layout()


class Registry:
    """Debian's `docker-registry` on loopback, and `skopeo` to talk to it."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self._log = log

    def image(self, name: str) -> str:
        return f"docker://127.0.0.1:{self.port}/{name}"

    def push(self, layout: Path, name: str) -> str:
        """Push the one image of a layout; return what skopeo says."""
        return skopeo("--dest-tls-verify=false", f"oci:{layout}", self.image(name))

    def pull(self, name: str, layout: Path) -> str:
        """Pull an image into a new layout; return what skopeo says."""
        return skopeo("--src-tls-verify=false", self.image(name), f"oci:{layout}")

    def uploads(self) -> list[str]:
        """Return the digests of the blobs that were uploaded so far, in order."""
        puts = [line for line in self._log.read_text().splitlines() if '"PUT ' in line]
        blobs = [line.split("digest=")[1].split(" ")[0] for line in puts if "/blobs/" in line]
        return [unquote(each) for each in blobs]

    def damage(self, digest: str) -> None:
        """Flip a bit of a blob where the registry keeps it."""
        name = digest.removeprefix("sha256:")
        path = self._log.parent / "docker/registry/v2/blobs/sha256" / name[:2] / name / "data"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def skopeo(*words: str) -> str:
    call = ["skopeo", "--insecure-policy", "copy", "--preserve-digests", *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Start a registry; where CI runs it has to be there."""
    missing = [each for each in ("docker-registry", "skopeo") if shutil.which(each) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
            f"not installed: {' and '.join(missing)}; `make registry` installs them"
        )
    folder = tmp_path_factory.mktemp("registry")
    port, log = _free_port(), folder / "log"
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        "log: {accesslog: {disabled: false}, level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: of-the-tests}}\n"
    )
    words = ["docker-registry", "serve", str(folder / "config.yml")]
    with (
        log.open("wb") as out,
        subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT) as process,
    ):
        try:
            _wait_for(f"http://127.0.0.1:{port}/v2/", process, log)
            yield Registry(port, log)
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"the registry does not start: {log.read_text()[-500:]}")
