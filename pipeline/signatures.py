"""What a model can be called with: the signatures that its format found, as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..converters.errors import printable
from ..converters.tensors import TensorDict

__all__ = ["signature_lines"]


def signature_lines(tensors: TensorDict) -> Iterator[str]:
    """Yield a line for each signature: `signature serve: x float32[?,3] -> y float32[?,4]`."""
    signatures: Any = tensors.details.get("signatures")
    if not isinstance(signatures, Mapping):
        return
    for name, signature in signatures.items():
        inputs, outputs = _infos(signature["inputs"]), _infos(signature["outputs"])
        yield printable(f"signature {name}: {inputs or 'nothing'} -> {outputs or 'nothing'}")


def _infos(infos: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{name} {each['dtype']}{_shape(each['shape'])}" for name, each in infos.items()
    )


def _shape(shape: list[int] | None) -> str:
    """Return dimensions in brackets, `?` for any size; nothing for any shape."""
    if shape is None:
        return ""
    return f"[{','.join('?' if dim < 0 else str(dim) for dim in shape)}]"
