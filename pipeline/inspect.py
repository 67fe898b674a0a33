"""What is in a model: its inventory, from the index alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..converters.errors import ConvertError, UsageError, printable
from ..converters.names import near
from ..converters.tensors import Role, Tensor, TensorDict

__all__ = ["inventory", "role_counts", "table", "values"]


def role_counts(tensors: TensorDict) -> dict[str, int]:
    """Return the number of tensors by role."""
    if not tensors.origins:
        return {Role.UNKNOWN.value: len(tensors)} if tensors else {}
    return dict(Counter(tensors.origin(name).role.value for name in tensors))


def inventory(tensors: TensorDict) -> dict[str, Any]:
    """Return everything that is known without reading tensor data, as JSON values."""
    rows = [_row(tensors, name, tensor) for name, tensor in tensors.tensors.items()]
    total = sum(row["bytes"] for row in rows)
    roles = Counter(row["role"] for row in rows)
    return {
        "format": tensors.format,
        "summary": tensors.summary,
        "details": dict(tensors.details),
        "metadata": dict(tensors.metadata),
        "totals": {"tensors": len(rows), "bytes": total, "roles": dict(roles)},
        "notes": [
            {"kind": note.kind.value, "tensor": note.tensor, "text": note.text}
            for note in tensors.notes
        ],
        "tensors": rows,
    }


def _row(tensors: TensorDict, name: str, tensor: Tensor) -> dict[str, Any]:
    spec, origin = tensor.spec, tensors.origin(name)
    row = {
        "name": name,
        "key": origin.key,
        "role": origin.role.value,
        "dtype": spec.dtype.label,
        "shape": spec.shape,
        "bytes": tensor.nbytes,
    }
    if origin.owner is not None:
        row["owner"] = origin.owner
    if name in tensors.broken:
        row["error"] = tensors.broken[name].message
    return row


def table(tensors: TensorDict) -> Iterator[str]:
    """Yield the lines of a table of all tensors, columns aligned, with totals at the end."""
    rows = [("name", "role", "dtype", "shape", "bytes")]
    total = 0
    for name, tensor in tensors.items():
        dtype, shape = tensor.spec.dtype, tensor.spec.shape
        origin = tensors.origin(name)
        role = origin.role.value + ("" if name not in tensors.broken else ", not readable")
        text = "x".join(map(str, shape)) if shape else "scalar"
        rows.append((printable(name), role, dtype.label, text, f"{tensor.nbytes:,}"))
        total += tensor.nbytes
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    rows.append((f"{len(tensors)} tensors", "", "", "", f"{total:,}"))
    widths[4] = max(widths[4], len(rows[-1][4]))
    for row in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False))
        yield f"{left}  {row[4].rjust(widths[4])}"


def values(tensors: TensorDict, name: str) -> Iterator[str]:
    """Yield lines that show a tensor's dtype, shape and values.

    Raises:
        UsageError: there is no such tensor.
    """
    if name not in tensors:
        raise UsageError(
            f"no tensor is called `{name}`",
            hint=near(name, tensors) or "list the names with `convert inspect`",
        )
    tensor = tensors[name]
    shape = "x".join(map(str, tensor.spec.shape)) or "scalar"
    try:
        array = tensor.read()
    except ConvertError as error:
        raise error.within(f"tensor `{name}`") from error
    yield f"{printable(name)}  {tensor.spec.dtype.label}  {shape}"
    yield from str(array).splitlines()
