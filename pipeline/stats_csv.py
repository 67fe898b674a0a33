"""Statistics as CSV: a row for each tensor, a column for each number; no histograms."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from ..converters.errors import printable
from ..converters.staging import Staging, target_error
from ..converters.tensors import TensorDict
from .stats import Stats

__all__ = ["csv_text", "write_csv"]

_ABOUT = ("name", "role", "dtype", "shape", "bytes")


def csv_text(tensors: TensorDict, stats: Mapping[str, Stats]) -> str:
    """Return the statistics; empty cells where there are none, as of strings."""
    measured = {name: _numbers(found) for name, found in stats.items()}
    columns = list(dict.fromkeys(column for row in measured.values() for column in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_ABOUT, *columns])
    for name, tensor in tensors.items():
        row = measured.get(name, {})
        shape = "x".join(map(str, tensor.spec.shape))
        about = (printable(name), tensors.origin(name).role.value, tensor.spec.dtype.label, shape)
        writer.writerow([*about, tensor.nbytes, *(row.get(column) for column in columns)])
    return text.getvalue()


def _numbers(stats: Stats) -> dict[str, object]:
    return {name: value for name, value in stats.json().items() if name != "histogram"}


def write_csv(path: Path, tensors: TensorDict, stats: Mapping[str, Stats]) -> None:
    """Write the statistics; the file appears whole or not at all, and replaces what is there.

    Raises:
        UsageError: the folder does not exist.
        TargetError: no permission, or no space.
    """
    with Staging([path], overwrite=True, fsync=False) as staging:
        try:
            staging.path(0).write_text(csv_text(tensors, stats), encoding="utf-8")
        except OSError as error:
            raise target_error(path, error) from error
        staging.commit()
