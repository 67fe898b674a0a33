"""What is in a model: its inventory, from the index alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from ..converters.tensors import Role, Tensor, TensorDict

if TYPE_CHECKING:
    from ..converters.findings import Finding
    from .stats import Stats

__all__ = ["inventory", "inventory_text", "role_counts"]


def role_counts(tensors: TensorDict) -> dict[str, int]:
    """Return the number of tensors by role."""
    if not tensors.origins:
        return {Role.UNKNOWN.value: len(tensors)} if tensors else {}
    counts = Counter(tensors.origin(name).role for name in tensors)
    return {role.value: counts[role] for role in Role if counts[role]}


def inventory(
    tensors: TensorDict,
    stats: Mapping[str, Stats] | None = None,
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Return everything that is known, as JSON values; without `stats` no tensor data is read.

    Args:
        tensors: what there is.
        stats: what the values are like, by name.
        findings: what is odd about them.
    """
    rows = [_row(tensors, name, tensor) for name, tensor in tensors.tensors.items()]
    found = _summary(tensors)
    if stats is None:
        return {**found, "tensors": rows}
    for row in rows:
        if row["name"] in stats:
            row["stats"] = stats[row["name"]].json()
    return {**found, "findings": [each.json() for each in findings], "tensors": rows}


def inventory_text(tensors: TensorDict) -> Iterator[str]:
    """Yield the same, without statistics, as parts of a JSON text.

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
