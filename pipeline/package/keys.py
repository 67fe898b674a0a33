"""Keys, certificates and passphrases: read from files that a person named, told apart, never shown.

Keys are PEM (RFC 7468), on one of the curves that OpenSSF model-signing takes. Messages name files
and say what is wrong with them; they hold nothing of what is in a private key or a passphrase.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...converters.errors import ConvertError, NotRecognisedError, UsageError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509 import Certificate

__all__ = [
    "check_certificate", "check_dates", "fingerprint", "missing_extra", "private_key", "public_key",
    "read_certificates", "read_secret", "secret_of",
]  # fmt: skip

MAX_BYTES = 1 << 20  # a file of root certificates has 300 kB
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
MAKE_HINT = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem"


def missing_extra(error: ModuleNotFoundError) -> UsageError:
    """Return the error that says which extra is missing."""
    return UsageError(
        f"signatures need model-signing: {error}",
        hint="install the extra: pip install 'tensorferry[sign]'",
    )


def read_secret(path: Path) -> bytes:
    """Return the bytes of a small file.

    Raises:
        NotRecognisedError: it cannot be read.
        UsageError: it is far too large for what it should be.
    """
    try:
        with path.open("rb") as file:  # no size beforehand: it may be a pipe
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise NotRecognisedError(f"cannot be read: {text}", path=path) from error
    if len(data) > MAX_BYTES:
        raise UsageError("is no key or certificate", path=path, got=f"more than {MAX_BYTES} bytes")
    return data


def secret_of(given: str) -> bytes:
    """Return the passphrase that `env:NAME` or `file:PATH` stands for, without its line end.

    Raises:
        UsageError: it is written otherwise, or the variable is not set.
        NotRecognisedError: the file cannot be read.
    """
    kind, colon, name = given.partition(":")
    if colon and kind == "file":
        return read_secret(Path(name)).removesuffix(b"\n").removesuffix(b"\r")
    if colon and kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise UsageError(f"the variable {name} of the passphrase is not set")
        return os.fsencode(value)
    # What was given is not shown: it may be the passphrase itself.
    raise UsageError("--passphrase", expected="env:NAME or file:PATH", got="something else")


def private_key(path: Path, passphrase: bytes | None) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Args:
        path: PEM file.
        passphrase: of an encrypted key.

    Raises:
        NotRecognisedError: the file cannot be read.
        UsageError: it is no such key, or the passphrase does not open it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = read_secret(path)
    encrypted = b"ENCRYPTED" in pem
    if encrypted and passphrase is None:
        raise UsageError(
            "the key is encrypted", path=path, hint="--passphrase env:NAME or file:PATH"
        )
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _no_private_key(path, pem, encrypted=encrypted) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _no_curve(path, type(key).__name__.removesuffix("PrivateKey"))
    _check_curve(path, key.curve.name)
    return key


def public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Read a public key.

    Raises:
        NotRecognisedError: the file cannot be read.
        UsageError: it is no such key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = read_secret(path)
    if b"PRIVATE KEY-----" in pem:
        raise UsageError(
            "is a private key, which only who signs should have", path=path,
            expected="a public key", hint="openssl pkey -in KEY -pubout -out PUBLIC",
        )  # fmt: skip
    if b"BEGIN CERTIFICATE-----" in pem:
        raise UsageError("is a certificate, not a public key", path=path, hint="use --root for it")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("is no public key in PEM", path=path) from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _no_curve(path, type(key).__name__.removesuffix("PublicKey"))
    _check_curve(path, key.curve.name)
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a public key in its usual encoding (SubjectPublicKeyInfo)."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    form = PublicFormat.SubjectPublicKeyInfo
    return f"sha256:{sha256(key.public_bytes(Encoding.DER, form)).hexdigest()}"


def read_certificates(path: Path) -> list[Certificate]:
    """Read all certificates of a PEM file, at least one.

    Raises:
        NotRecognisedError: the file cannot be read.
        UsageError: there is none in it.
    """
    from cryptography.x509 import load_pem_x509_certificates

    pem = read_secret(path)
    try:
        return load_pem_x509_certificates(pem)
    except ValueError:
        raise UsageError("holds no certificate in PEM", path=path) from None


def check_certificate(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Check that a certificate is one of this key, and is valid today.

    Raises:
        NotRecognisedError: the file cannot be read.
        UsageError: it is of another key, has expired, or is not valid yet.
    """
    certificate = read_certificates(path)[0]
    if certificate.public_key() != key.public_key():
        raise UsageError("is the certificate of another key", path=path)
    try:
        check_dates([certificate])
    except ConvertError as error:
        raise UsageError(
            error.what, path=path, expected=error.expected, got=error.got,
            hint="sign with a certificate that is valid",
        ) from None  # fmt: skip


def check_dates(certificates: Iterable[Certificate]) -> None:
    """Check that certificates are valid today.

    Raises:
        VerificationError: one has expired, or is not valid yet.
    """
    now = datetime.now(UTC)
    for each in certificates:
        who = each.subject.rfc4514_string() or "without a name"
        first, last = each.not_valid_before_utc, each.not_valid_after_utc
        if now > last:
            raise VerificationError(
                f"the certificate {who} has expired", expected=f"valid on {now:%Y-%m-%d}",
                got=f"valid until {last:%Y-%m-%d}", hint="sign again with one that is valid",
            )  # fmt: skip
        if now < first:
            raise VerificationError(
                f"the certificate {who} is not valid yet", expected=f"valid on {now:%Y-%m-%d}",
                got=f"valid from {first:%Y-%m-%d}", hint="look at the clock of this machine",
            )  # fmt: skip


def _no_private_key(path: Path, pem: bytes, *, encrypted: bool) -> UsageError:
    if encrypted:
        return UsageError("the passphrase does not open the key", path=path)
    if b"BEGIN PUBLIC KEY-----" in pem or b"BEGIN CERTIFICATE-----" in pem:
        return UsageError("is public: signing takes the private key", path=path)
    return UsageError("is no private key in PEM", path=path, hint=MAKE_HINT)


def _no_curve(path: Path, kind: str) -> UsageError:
    return UsageError(
        f"is a key of another kind ({kind})", path=path, expected="an elliptic curve key",
        hint=MAKE_HINT,
    )  # fmt: skip


def _check_curve(path: Path, curve: str) -> None:
    if curve not in CURVES:
        raise UsageError(
            "curve of the key", path=path, expected=" or ".join(CURVES.values()), got=curve,
            hint=MAKE_HINT,
        )  # fmt: skip
