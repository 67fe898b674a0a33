"""Credentials of S3 that lie in profiles, which obstore leaves to boto3."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .errors import UsageError

__all__ = ["s3_settings"]

# What says all by itself, so that no profile is looked for.
_PROFILELESS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE"})


def s3_settings(endpoint: str | None) -> dict[str, Any]:
    """Return what S3 needs beside the environment: the endpoint, and what a profile says.

    Raises:
        UsageError: a profile is there, and what reads it is not installed.
    """
    own: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    environ = os.environ
    named = "AWS_PROFILE" in environ
    if not named and not _PROFILELESS.isdisjoint(environ):
        return own
    stored = _is_file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    if not (named or stored or _is_file("AWS_CONFIG_FILE", "~/.aws/config")):
        return own
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        if named or stored:
            hint = "pip install boto3"
            raise UsageError("reading an AWS profile needs boto3", hint=hint) from error
        return own
    return {**own, "credential_provider": Boto3CredentialProvider()}


def _is_file(variable: str, usual: str) -> bool:
    return Path(os.environ.get(variable, usual)).expanduser().is_file()
