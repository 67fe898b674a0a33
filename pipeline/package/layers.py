"""The layers of a model: its tensors in groups, by the beginning of their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .records import TensorRecord

__all__ = ["layers"]

MAX_LAYERS = 40
_PARTS = re.compile(r"[/.]")
_NUMBERS = re.compile(r"(\d+)")


def layers(tensors: Mapping[str, TensorRecord]) -> list[dict[str, Any]]:
    """Return rows of a table: `name`, `tensors`, `parameters`, `bytes`, `share`, `dtypes`.

    Names are cut as late as leaves at most 40 groups. Of a flat model with more than that, the
    smallest are one group, the last one, with no name.

    Args:
        tensors: of one variant.
    """
    paths = {name: _parent(name) for name in tensors}
    groups = _grouped(paths, 1)
    for depth in range(2, max((len(path) for path in paths.values()), default=0) + 1):
        deeper = _grouped(paths, depth)
        if len(deeper) > MAX_LAYERS:
            break
        if len(deeper) > len(groups):  # else the shorter names say as much
            groups = deeper
    total = sum(each.spec.nbytes for each in tensors.values()) or 1
    rows = [_row(name, [tensors[each] for each in names], total) for name, names in groups.items()]
    rows.sort(key=lambda row: _natural(row["name"]))
    return _cut(rows)


def _parent(name: str) -> tuple[str, ...]:
    """Return the parts of a name with what separates them, without the last; its own if alone."""
    ends = [match.end() for match in _PARTS.finditer(name)]
    starts = [0, *ends[:-1]]
    parts = tuple(name[start:end] for start, end in zip(starts, ends, strict=False))
    return parts or (name,)


def _grouped(paths: Mapping[str, tuple[str, ...]], depth: int) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, path in paths.items():
        groups.setdefault("".join(path[:depth]).rstrip("/."), []).append(name)
    return groups


def _row(name: str, records: list[TensorRecord], total: int) -> dict[str, Any]:
    nbytes = sum(each.spec.nbytes for each in records)
    return {
        "name": name,
        "tensors": len(records),
        "parameters": sum(each.spec.size for each in records),
        "bytes": nbytes,
        "share": nbytes / total,
        "dtypes": sorted({each.spec.dtype.label for each in records}),
    }


def _cut(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(rows) <= MAX_LAYERS:
        return rows
    by_size = sorted(rows, key=lambda row: -row["bytes"])
    kept, others = by_size[: MAX_LAYERS - 1], by_size[MAX_LAYERS - 1 :]
    sums = {
        key: sum(row[key] for row in others) for key in ("tensors", "parameters", "bytes", "share")
    }
    dtypes = sorted({dtype for row in others for dtype in row["dtypes"]})
    names = {row["name"] for row in kept}
    return [*(row for row in rows if row["name"] in names), {"name": "", **sums, "dtypes": dtypes}]


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts `layer_10` after `layer_9`."""
    return [
        (int(part), "") if part.isdecimal() and part.isascii() else (-1, part)
        for part in _NUMBERS.split(name)
    ]
