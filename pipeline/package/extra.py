"""The extra `package`: whether what cards, BOMs and licences need is installed."""

from __future__ import annotations

from importlib.util import find_spec

from ...converters.errors import UsageError

__all__ = ["require_extra"]

_LIBRARIES = ("jinja2", "cyclonedx", "license_expression")


def require_extra() -> None:
    """Refuse to go on without the libraries of the extra; imports none of them.

    Raises:
        UsageError: one is not installed.
    """
    missing = next((name for name in _LIBRARIES if find_spec(name) is None), None)
    if missing is not None:
        raise UsageError(
            f"a package needs {missing}, which is not installed",
            hint="install the extra: pip install 'tensorferry[package]'",
        )
