"""Signatures by OpenSSF model-signing: a Sigstore bundle over the SHA-256 of every file.

    model.sig    Sigstore bundle v0.3, JSON: the key's hint or certificates, and a DSSE envelope
                 whose payload is an in-toto statement with path and digest of every other file

Digests come from whoever wrote or hashed the files anyway, so that none is read for the signature.
The library's own command line verifies what is signed here, and the other way round.

The library takes a certificate for valid if it was so on its own first day; here it has to be
valid today. It takes keys from files alone: one that was decrypted is handed over by a pipe.
"""

from __future__ import annotations

import os
import warnings
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from ...converters.containers.strict_json import parse_json_object
from ...converters.errors import ConvertError, TargetError, UsageError, VerificationError
from ...converters.staging import target_error
from .keys import (
    check_certificate,
    check_dates,
    fingerprint,
    missing_extra,
    private_key,
    public_key,
    read_certificates,
    read_secret,
    secret_of,
)  # fmt: skip
from .records import SIGNATURE
from .signers import CertificateTrust, KeySigner, KeyTrust, Signer, SigstoreSigner, Trust

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import signing, verifying

__all__ = ["check_signer", "sign_package", "verify_signature"]

MAX_BYTES = 64 << 20  # a bundle has 200 bytes for each file


def check_signer(signer: Signer) -> None:
    """Check that one can sign so, as far as that shows beforehand.

    Raises:
        UsageError: a key or certificate does not fit, or the extra is missing.
        NotRecognisedError: a file cannot be read.
    """
    try:
        import model_signing  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    if isinstance(signer, KeySigner):
        _key_of(signer)
    else:
        _token_of(signer)


def sign_package(folder: Path, digests: Mapping[str, str], signer: Signer) -> None:
    """Write the signature of a package into its folder.

    Args:
        folder: of the package; its name is the subject's.
        digests: SHA-256 of every file by path, in lower-case hexadecimal, without the signature.
        signer: how to sign.

    Raises:
        UsageError: a key or certificate does not fit, or the extra is missing.
        NotRecognisedError: a file cannot be read.
        TargetError: the signature cannot be written, or Sigstore gave none.
    """
    check_signer(signer)
    target = folder / SIGNATURE
    try:
        if isinstance(signer, KeySigner):
            _sign_with_key(folder, digests, signer)
        else:
            _sign_with_identity(folder, digests, signer)
    except OSError as error:
        raise target_error(target, error) from error


def verify_signature(signature: bytes, digests: Mapping[str, str], trust: Trust) -> str:
    """Check that a signature is by whom one trusts, and over these very files; return by whom.

    Args:
        signature: what the file of the signature holds.
        digests: SHA-256 of every file there is by path, without the signature.
        trust: whom to trust.

    Raises:
        VerificationError: it is not; names the first file that differs, if it is about files.
        UsageError: a key or certificate does not fit, or the extra is missing.
        NotRecognisedError: a file cannot be read.
    """
    bundle = _bundle(signature)
    try:
        import model_signing  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd certificates
        config, who = _verifier(trust, bundle)
        _verify(config, signature, bundle, digests)
    return who


def _verify(
    config: verifying.Config,
    signature: bytes,
    bundle: Mapping[str, Any],
    digests: Mapping[str, str],
) -> None:
    hashes = _hashes(digests)
    config.set_hashing_config(hashes)
    with TemporaryDirectory(prefix="tensorferry-") as folder:
        path = Path(folder) / SIGNATURE
        path.write_bytes(signature)
        try:
            with redirect_stdout(StringIO()):  # it prints what it thinks of old signatures
                config.verify(folder, path)
        # The library lets through whatever its parsers raise.
        except Exception as error:
            _refuse(error, bundle, digests, asked=hashes.asked)


def _sign_with_key(folder: Path, digests: Mapping[str, str], signer: KeySigner) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )  # fmt: skip
    from model_signing import signing

    key = _key_of(signer)
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    config = signing.Config()
    with _handed(plain) as path:
        if signer.certificate is None:
            config.use_elliptic_key_signer(private_key=path)
        else:
            config.use_certificate_signer(
                private_key=path,
                signing_certificate=signer.certificate,
                # It takes no empty chain; a certificate that a root signed is its own.
                certificate_chain=signer.chain or (signer.certificate,),
            )
    _write(config, folder, digests)


def _sign_with_identity(folder: Path, digests: Mapping[str, str], signer: SigstoreSigner) -> None:
    from model_signing import signing

    token = _token_of(signer)
    try:
        _write(signing.Config().use_sigstore_signer(identity_token=token), folder, digests)
    except OSError:
        raise
    # Anything from the network to the token may be wrong, and every layer has errors of its own.
    except Exception as error:
        raise TargetError(
            f"Sigstore gave no signature: {_first_line(error).replace(token, '…')}",
            hint="offline, sign with a key: --sign KEY",
        ) from None


def _token_of(signer: SigstoreSigner) -> str:
    """Return an identity token; without one the library would open a browser and wait."""
    from sigstore.oidc import IdentityError, detect_credential

    if signer.token:
        token = read_secret(signer.token).decode("utf-8", "replace").strip()
    else:
        try:
            token = detect_credential() or ""
        except IdentityError as error:
            raise UsageError(f"no identity to sign with: {_first_line(error)}") from None
    if not token:
        raise UsageError(
            "no identity to sign with", path=signer.token, expected="an OpenID Connect token",
            hint="--identity-token FILE, or run where the CI system gives one",
        )  # fmt: skip
    return token


def _write(config: signing.Config, folder: Path, digests: Mapping[str, str]) -> None:
    config.set_hashing_config(_hashes(digests)).sign(folder, folder / SIGNATURE)


def _hashes(digests: Mapping[str, str]) -> Any:
    """Return what stands in for the library's hashing: it knows the digests, and reads nothing.

    Its attribute `asked` tells whether it was asked, which in verifying happens after the
    signature itself was found valid.
    """
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest

    class Known(hashing.Config):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.asked = False

        def hash(self, model_path: Any, **_options: Any) -> manifest.Manifest:
            self.asked = True
            kind = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
            serialization = manifest.SerializationType.from_args(
                kind | {"ignore_paths": [SIGNATURE]}
            )
            items = [
                serialization.new_item(path, Digest("sha256", bytes.fromhex(digest)))
                for path, digest in digests.items()
            ]
            return manifest.Manifest(Path(model_path).name, items, serialization)

    return Known()


def _key_of(signer: KeySigner) -> ec.EllipticCurvePrivateKey:
    passphrase = secret_of(signer.passphrase) if signer.passphrase else None
    key = private_key(signer.key, passphrase)
    if signer.certificate:
        check_certificate(signer.certificate, key)
    for path in signer.chain:
        read_certificates(path)
    return key


@contextmanager
def _handed(secret: bytes) -> Iterator[Path]:
    """Give a path from which some bytes can be read, once; they reach no disk."""
    reading, writing = os.pipe()
    try:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(secret)  # a key is far smaller than what a pipe holds
        yield Path(f"/dev/fd/{reading}")
    finally:
        os.close(reading)


def _verifier(trust: Trust, bundle: Mapping[str, Any]) -> tuple[verifying.Config, str]:
    """Return what verifies, and who has signed if it does."""
    from model_signing import verifying

    config = verifying.Config()
    if isinstance(trust, KeyTrust):
        key = public_key(trust.key)
        return config.use_elliptic_key_verifier(public_key=trust.key), f"key {fingerprint(key)}"
    if isinstance(trust, CertificateTrust):
        for path in trust.roots:
            read_certificates(path)
        who = _certified(bundle)
        config.use_certificate_verifier(certificate_chain=trust.roots)
        return config, f"certificate {who}"
    try:
        config.use_sigstore_verifier(identity=trust.identity, oidc_issuer=trust.issuer)
    except Exception as error:
        raise VerificationError(
            f"Sigstore's roots cannot be had: {_first_line(error)}", path=SIGNATURE
        ) from None
    return config, f"{trust.identity} ({trust.issuer})"


def _bundle(signature: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(signature, max_bytes=MAX_BYTES)
    except ConvertError as error:
        raise VerificationError(f"is no signature: {error.message}", path=SIGNATURE) from None


def _certified(bundle: Mapping[str, Any]) -> str:
    """Return whose certificate a signature carries; all of them have to be valid today."""
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    try:
        chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
        found = [load_der_x509_certificate(b64decode(each["rawBytes"])) for each in chain]
        check_dates(found)
        return found[0].subject.rfc4514_string()  # parsed only now, like the dates
    except (InvalidVersion, LookupError, TypeError, ValueError):
        raise VerificationError(
            "carries no certificate", path=SIGNATURE,
            hint="verify it with the public key of who signed: --key PUBLIC",
        ) from None  # fmt: skip


def _refuse(
    error: Exception, bundle: Mapping[str, Any], digests: Mapping[str, str], *, asked: bool
) -> NoReturn:
    """Raise what says best why a signature is not accepted."""
    if asked:
        _compare(_signed(bundle), digests)
    raise VerificationError(
        f"the signature is not by whom you trust: {_first_line(error)}", path=SIGNATURE,
        hint="give the key or the root of who signed; if they are right, do not use the package",
    ) from error  # fmt: skip


def _signed(bundle: Mapping[str, Any]) -> dict[str, str]:
    """Return digests by path of a signature that was found valid."""
    try:
        text = b64decode(bundle["dsseEnvelope"]["payload"])
        predicate = parse_json_object(text, max_bytes=MAX_BYTES)["predicate"]
        kind = (predicate["serialization"]["method"], predicate["serialization"]["hash_type"])
        signed = {each["name"]: each["digest"] for each in predicate["resources"]}
    except (ConvertError, KeyError, TypeError, ValueError):
        kind = ("files", "nothing known")
    if kind != ("files", "sha256"):
        raise VerificationError(
            "what is signed cannot be compared", path=SIGNATURE, expected="files by sha256",
            got=" by ".join(map(str, kind))[:80], hint="sign it again",
        )  # fmt: skip
    return signed


def _compare(signed: Mapping[str, str], there: Mapping[str, str]) -> None:
    """Raise an error that names a file if a valid signature is over other ones."""
    hint = "do not use the package: it is not what was signed"
    for path in sorted(signed.keys() | there.keys()):
        if path not in there:
            raise VerificationError("is signed and not there", path=path, hint=hint)
        if path not in signed:
            raise VerificationError("is there and not signed", path=path, hint=hint)
        if signed[path] != there[path]:
            raise VerificationError(
                "is not the file that was signed", path=path, expected=f"sha256:{signed[path]}",
                got=f"sha256:{there[path]}", hint=hint,
            )  # fmt: skip


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
