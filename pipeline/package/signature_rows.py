"""What a model was called with, as rows of tables: for card and BOM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["signature_rows"]


def signature_rows(details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return rows with `name`, `inputs` and `outputs`, each of which has `name` and `type`.

    Args:
        details: of a source, as `inspect --json` names them.
    """
    signatures = details.get("signatures")
    if not isinstance(signatures, Mapping):
        return []
    return [
        {"name": name, "inputs": _infos(each["inputs"]), "outputs": _infos(each["outputs"])}
        for name, each in signatures.items()
    ]


def _infos(infos: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {"name": name, "type": f"{each['dtype']}{_shape(each['shape'])}"}
        for name, each in infos.items()
    ]


def _shape(shape: list[int] | None) -> str:
    """Return dimensions in brackets, `?` for any size; nothing for any shape."""
    if shape is None:
        return ""
    return f"[{','.join('?' if dim < 0 else str(dim) for dim in shape)}]"
