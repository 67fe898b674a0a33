"""What is in a model: its inventory, from the index alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from ..converters.errors import ConvertError, UsageError, printable
from ..converters.names import near
from ..converters.tensors import Role, Tensor, TensorDict

__all__ = ["inventory", "inventory_text", "role_counts", "table", "tree", "values"]


Row = tuple[str, str, str, str, str]

MAX_DEPTH = 64  # layers of a tree; what is deeper stays in one piece


def role_counts(tensors: TensorDict) -> dict[str, int]:
    """Return the number of tensors by role."""
    if not tensors.origins:
        return {Role.UNKNOWN.value: len(tensors)} if tensors else {}
    counts = Counter(tensors.origin(name).role for name in tensors)
    return {role.value: counts[role] for role in Role if counts[role]}


def inventory(tensors: TensorDict) -> dict[str, Any]:
    """Return everything that is known without reading tensor data, as JSON values."""
    rows = [_row(tensors, name, tensor) for name, tensor in tensors.tensors.items()]
    return {**_summary(tensors), "tensors": rows}


def inventory_text(tensors: TensorDict) -> Iterator[str]:
    """Yield the same as parts of a JSON text.

    Names apart, rows are the same for most tensors of a shape and a role, and are made once:
    listing 100,000 tensors takes a third of the time.
    """
    yield json.dumps(_summary(tensors), separators=(",", ":"))[:-1] + ',"tensors":['
    tails: dict[tuple[object, ...], tuple[str, str]] = {}
    separator = ""
    for name, tensor in tensors.tensors.items():
        key, role, owner, *others = tensors.origin(name)
        like = (tensor.spec, tensor.nbytes, role, *others, name in tensors.broken and name)
        tail = tails.get(like)
        if tail is None:
            tail = tails[like] = _tail(_row(tensors, name, tensor))
        shown = quoted(name)
        known = shown if key == name else quoted(key)
        held = "" if owner is None else f',"owner":{quoted(owner)}'
        yield f'{separator}{{"name":{shown},"key":{known},{tail[0]}{held}{tail[1]}'
        separator = ","
    yield "]}\n"


def _tail(row: dict[str, Any]) -> tuple[str, str]:
    """Return a row as text without its names: what stands before the owner, and behind it."""
    behind = {name: row[name] for name in ("slot", "error") if name in row}
    names = ("name", "key", "owner", *behind)
    before = {name: value for name, value in row.items() if name not in names}
    texts = [json.dumps(each, separators=(",", ":"))[1:-1] for each in (before, behind)]
    return texts[0], f",{texts[1]}}}" if behind else "}"


def _summary(tensors: TensorDict) -> dict[str, Any]:
    roles: Counter[Role] = Counter()
    role_bytes: Counter[Role] = Counter()
    for name, tensor in tensors.tensors.items():
        role = tensors.origin(name).role
        roles[role] += 1
        role_bytes[role] += tensor.nbytes
    return {
        "format": tensors.format,
        "summary": tensors.summary,
        "details": dict(tensors.details),
        "metadata": dict(tensors.metadata),
        "totals": {
            "tensors": len(tensors),
            "bytes": sum(role_bytes.values()),
            "roles": {role.value: count for role, count in roles.items()},
            "role_bytes": {role.value: nbytes for role, nbytes in role_bytes.items()},
        },
        "notes": [
            {"kind": note.kind.value, "tensor": note.tensor, "text": note.text}
            for note in tensors.notes
        ],
    }


def _row(tensors: TensorDict, name: str, tensor: Tensor) -> dict[str, Any]:
    spec, origin = tensor.spec, tensors.origin(name)
    row = {
        "name": name,
        "key": origin.key,
        "role": origin.role.value,
        "trainable": origin.trainable,
        "evidence": origin.evidence.value,
        "dtype": spec.dtype.label,
        "shape": spec.shape,
        "bytes": tensor.nbytes,
    }
    if origin.owner is not None:
        row["owner"] = origin.owner
    if origin.slot is not None:
        row["slot"] = origin.slot
    if name in tensors.broken:
        row["error"] = tensors.broken[name].message
    return row


def table(tensors: TensorDict) -> Iterator[str]:
    """Yield the lines of a table of all tensors, columns aligned, with totals at the end."""
    rows = [("name", "role", "dtype", "shape", "bytes")]
    rows += [(printable(name), *_cells(tensors, name, each)) for name, each in tensors.items()]
    yield from _aligned(rows, _totals(tensors))


def tree(tensors: TensorDict) -> Iterator[str]:
    """Yield the lines of the same table grouped by layer, with the bytes of each layer.

    A layer is what stands before a slash; where no name has one, before a dot.
    """
    separator = "/" if any("/" in name for name in tensors) else "."
    root = _Layer()
    for name in tensors:
        *path, leaf = name.split(separator, MAX_DEPTH)
        layer = root
        for step in path:
            layer = layer.layers.setdefault(step, _Layer())
        layer.tensors.append((leaf, name))
    rows = [("name", "role", "dtype", "shape", "bytes")]
    rows += _branch(root, tensors, separator, 0)
    yield from _aligned(rows, _totals(tensors))


@dataclass
class _Layer:
    layers: dict[str, _Layer] = field(default_factory=dict)
    tensors: list[tuple[str, str]] = field(default_factory=list)


def _branch(layer: _Layer, tensors: TensorDict, separator: str, depth: int) -> list[Row]:
    """Return the rows below a layer; one that holds nothing but another is one with it."""
    margin = "  " * depth
    rows = [
        (margin + printable(leaf), *_cells(tensors, name, tensors[name]))
        for leaf, name in layer.tensors
    ]
    for step, below in layer.layers.items():
        label, inner = step, below
        while not inner.tensors and len(inner.layers) == 1:
            [(more, inner)] = inner.layers.items()
            label += separator + more
        names = list(_names(inner))
        nbytes = sum(tensors[name].nbytes for name in names)
        title = f"{margin}{printable(label)}{separator}"
        rows.append((title, _count(len(names)), "", "", f"{nbytes:,}"))
        rows += _branch(inner, tensors, separator, depth + 1)
    return rows


def _count(number: int) -> str:
    return f"{number} tensor{'' if number == 1 else 's'}"


def _names(layer: _Layer) -> Iterator[str]:
    yield from (name for _, name in layer.tensors)
    for below in layer.layers.values():
        yield from _names(below)


def _cells(tensors: TensorDict, name: str, tensor: Tensor) -> tuple[str, str, str, str]:
    origin, shape = tensors.origin(name), tensor.spec.shape
    role = origin.role.value
    if origin.slot:
        role += f" {printable(origin.slot)}"
    elif origin.role is Role.WEIGHT and origin.trainable is False:
        role += ", not trained"
    if name in tensors.broken:
        role += ", not readable"
    text = "x".join(map(str, shape)) if shape else "scalar"
    return role, tensor.spec.dtype.label, text, f"{tensor.nbytes:,}"


def _totals(tensors: TensorDict) -> list[Row]:
    """Return the closing rows: one for each role, where there are several, and one for all."""
    roles: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        roles.setdefault(tensors.origin(name).role.value, []).append(tensor.nbytes)
    rows = [
        (f"{len(each)} tensors", role, "", "", f"{sum(each):,}") for role, each in roles.items()
    ]
    total = sum(tensor.nbytes for tensor in tensors.values())
    every = (f"{len(tensors)} tensors", "", "", "", f"{total:,}")
    return [*(rows if len(rows) > 1 else ()), every]


def _aligned(rows: list[Row], totals: list[Row]) -> Iterator[str]:
    rows = [*rows, *totals]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
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
