"""Who signs a package, and whom to trust; what flags say of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...converters.errors import UsageError

__all__ = [
    "CertificateTrust",
    "KeySigner",
    "KeyTrust",
    "Signer",
    "SigstoreSigner",
    "SigstoreTrust",
    "Trust",
    "signer_of",
    "trust_of",
]

SIGSTORE = "sigstore"


@dataclass(frozen=True)
class KeySigner:
    """Sign with a private key.

    Attributes:
        key: PEM file of an elliptic curve key.
        passphrase: of an encrypted key, as `env:NAME` or `file:PATH`; else empty.
        certificate: PEM file; with one, the signature carries it and is verified by its roots.
        chain: PEM files of the certificates between it and a root.
    """

    key: Path
    passphrase: str = ""
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SigstoreSigner:
    """Sign with an identity, by Sigstore's public servers.

    Attributes:
        token: file of an OpenID Connect token; None takes that of the CI system.
    """

    token: Path | None = None


@dataclass(frozen=True)
class KeyTrust:
    """Accept what one key signed.

    Attributes:
        key: PEM file of the public key.
    """

    key: Path


@dataclass(frozen=True)
class CertificateTrust:
    """Accept what a certificate signed that leads to a root.

    Attributes:
        roots: PEM files of root certificates, at least one.
    """

    roots: tuple[Path, ...]


@dataclass(frozen=True)
class SigstoreTrust:
    """Accept what an identity signed by Sigstore.

    Attributes:
        identity: mail address or URL in the certificate.
        issuer: URL of who vouched for it.
    """

    identity: str
    issuer: str


Signer = KeySigner | SigstoreSigner
Trust = KeyTrust | CertificateTrust | SigstoreTrust


def signer_of(
    sign: str,
    *,
    passphrase: str = "",
    certificate: Path | None = None,
    chain: tuple[Path, ...] = (),
    identity_token: Path | None = None,
) -> Signer | None:
    """Return the signer that flags ask for; None if they ask for none.

    Args:
        sign: path of a private key, or `sigstore`; empty for none.
        passphrase: `env:NAME` or `file:PATH`.
        certificate: of the key.
        chain: between the certificate and a root.
        identity_token: for Sigstore.

    Raises:
        UsageError: they contradict each other.
    """
    of_key = bool(passphrase or certificate or chain)
    if not sign:
        if of_key or identity_token:
            raise UsageError("flags of a signature without --sign", hint="--sign KEY")
        return None
    if sign == SIGSTORE:
        if of_key:
            raise UsageError("--sign sigstore takes no key", hint="a file of that name: ./sigstore")
        return SigstoreSigner(identity_token)
    if identity_token:
        raise UsageError("--identity-token goes with --sign sigstore, not with a key")
    if chain and not certificate:
        raise UsageError("--chain goes with --certificate")
    return KeySigner(Path(sign), passphrase, certificate, tuple(chain))


def trust_of(
    *, key: Path | None = None, roots: tuple[Path, ...] = (), identity: str = "", issuer: str = ""
) -> Trust | None:
    """Return what flags accept as a signature; None if they name nothing.

    Raises:
        UsageError: they contradict each other.
    """
    if (key is not None) + bool(roots) + bool(identity or issuer) > 1:
        raise UsageError("one of --key, --root and --identity", got="several of them")
    if bool(identity) != bool(issuer):
        raise UsageError("--identity and --issuer go together")
    if key is not None:
        return KeyTrust(key)
    if roots:
        return CertificateTrust(tuple(roots))
    return SigstoreTrust(identity, issuer) if identity else None
