"""What a page shows, as JSON values.

Columns, not rows: the names of 20 fields in each of 10,000 rows would be most of the file.
Every text comes from a file that somebody else wrote. All pass `printable`, so that no control
or direction-changing character reaches a screen; tensors are referred to by number, not by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...converters.errors import printable
from ...converters.findings import Finding
from ...converters.tensors import Tensor, TensorDict

if TYPE_CHECKING:
    from ..diff import Difference
    from ..stats import Stats

__all__ = ["coded", "diff_data", "facts", "inspect_data", "sparse"]

DIGITS = 6  # of a number that is shown; nobody reads more in a report
MAX_FACTS = 200
MAX_TEXT = 2_000  # characters of a fact; a model's whole config is no fact to read here
MAX_DEPTH = 4
# Fields of `Stats` by the name that the page knows them by.
MEASURES = {
    "min": "minimum", "max": "maximum", "mean": "mean", "std": "std", "norm": "norm",
    "finite": "finite", "zeros": "zeros", "nans": "nans", "infinities": "infinities",
    "denormals": "denormals", "distinct": "distinct",
}  # fmt: skip

Columns = dict[str, Any]


def inspect_data(
    tensors: TensorDict, stats: Mapping[str, Stats], findings: Sequence[Finding]
) -> Columns:
    """Return what the page of one model shows."""
    names = list(tensors)
    numbers = {name: number for number, name in enumerate(names)}
    return {
        "kind": "inspect",
        "separator": _separator(names),
        "tensors": {
            **_identity(tensors, names),
            **_specs([tensors[name] for name in names]),
            "error": sparse(_broken(tensors, name) for name in names),
        },
        "stats": _stats([stats.get(name) for name in names]) if stats else None,
        "findings": [_finding(each, numbers) for each in findings],
    }


def diff_data(first: TensorDict, second: TensorDict, differences: Sequence[Difference]) -> Columns:
    """Return what the page of two models shows."""
    both = [(_left(each, first), _right(each, second)) for each in differences]
    shown = [left or right for left, right in both]
    names = [each.name for each in differences]
    measures = ("most", "relative", "cosine", "share")
    return {
        "kind": "diff",
        "separator": _separator(names),
        "tensors": {
            "name": list(map(printable, names)),
            "role": coded(
                (first if each.name in first else second).origin(each.name).role.value
                for each in differences
            ),
            **_specs(shown),
            "dtypeB": coded(right.spec.dtype.label if right else None for _, right in both),
            "shapeB": [list(right.spec.shape) if right else None for _, right in both],
            "other": sparse(each.other and printable(each.other) for each in differences),
            "axes": sparse(each.axes and list(each.axes) for each in differences),
            "text": sparse(printable(each.text) or None for each in differences),
            "verdict": coded(each.verdict.value for each in differences),
            **{one: [_number(getattr(each, one)) for each in differences] for one in measures},
        },
        "stats": None,
        "findings": [],
    }


def _left(difference: Difference, first: TensorDict) -> Tensor | None:
    return first.tensors.get(difference.name)


def _right(difference: Difference, second: TensorDict) -> Tensor | None:
    return second.tensors.get(difference.other or difference.name)


def facts(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return what is known about a model as names and texts, those within others by their path."""
    found: list[tuple[str, str]] = []
    for name, text in _facts(values, ()):
        if len(found) == MAX_FACTS:
            found.append(("…", f"only the first {MAX_FACTS} are shown"))
            break
        found.append((printable(name), _shortened(printable(text))))
    return found


def _facts(value: object, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield what a value says, texts as they are and all else by what is within."""
    if isinstance(value, Mapping) and len(path) < MAX_DEPTH:
        for name, inner in value.items():
            yield from _facts(inner, (*path, str(name)))
    elif isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value, 1):
            yield from _facts(inner, (*path, str(number)) if len(value) > 1 else path)
    elif value not in (None, "", [], (), {}):
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        yield " / ".join(path), text


def _shortened(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]}… ({len(text):,} characters in all)"


def _separator(names: Iterable[str]) -> str:
    """Return what stands between layers, as in `inspect --tree`."""
    return "/" if any("/" in name for name in names) else "."


def _identity(tensors: TensorDict, names: Sequence[str]) -> Columns:
    origins = [tensors.origin(name) for name in names]
    return {
        "name": list(map(printable, names)),
        "key": sparse(
            printable(origin.key) if origin.key != name else None
            for name, origin in zip(names, origins, strict=True)
        ),
        "role": coded(origin.role.value for origin in origins),
        "owner": sparse(origin.owner and printable(origin.owner) for origin in origins),
        "slot": sparse(origin.slot and printable(origin.slot) for origin in origins),
        "trainable": coded(
            None if origin.trainable is None else ("no", "yes")[origin.trainable]
            for origin in origins
        ),
    }


def _specs(tensors: Sequence[Tensor | None]) -> Columns:
    return {
        "dtype": coded(each.spec.dtype.label if each else None for each in tensors),
        "shape": [list(each.spec.shape) if each else None for each in tensors],
        "bytes": [each.nbytes if each else 0 for each in tensors],
        "size": [each.spec.size if each else 0 for each in tensors],
    }


def _broken(tensors: TensorDict, name: str) -> str | None:
    return tensors.broken[name].message if name in tensors.broken else None


def _stats(stats: Sequence[Stats | None]) -> Columns:
    percents = sorted({percent for each in stats if each for percent in each.percentiles})
    return {
        "size": [each.size if each else None for each in stats],
        **{
            name: [_number(getattr(each, field)) if each else None for each in stats]
            for name, field in MEASURES.items()
        },
        "percents": percents,
        "percentiles": [
            [_number(each.percentiles.get(percent)) for percent in percents]
            if each and each.percentiles
            else None
            for each in stats
        ],
        "counts": [list(each.counts) if each and each.counts else None for each in stats],
        # Bars are equally wide as a rule; then the ends, which are there already, tell the rest.
        "edges": sparse(_uneven(each) if each else None for each in stats),
    }


def _uneven(stats: Stats) -> list[Any] | None:
    """Return the edges of a histogram, or None where its bars are equally wide from end to end."""
    edges, bars = stats.edges, len(stats.counts)
    if not bars:
        return None
    low, width = stats.minimum, (stats.maximum - stats.minimum) / bars
    even = all(
        math.isclose(edge, low + at * width, abs_tol=max(abs(width), 1e-300) / 100)
        for at, edge in enumerate(edges)
    )
    return None if even else [_number(edge) for edge in edges]


def _finding(finding: Finding, numbers: Mapping[str, int]) -> Columns:
    known = finding.tensor is not None and finding.tensor in numbers
    return {
        "rule": printable(finding.rule),
        "level": finding.level.value,
        "text": printable(finding.text),
        "tensor": numbers[finding.tensor] if known and finding.tensor is not None else None,
        # A tensor that is not in the dictionary is still named.
        "name": None if known or finding.tensor is None else printable(finding.tensor),
        "path": finding.path and printable(finding.path),
        "where": finding.where and printable(finding.where),
    }


def _number(value: float | None) -> float | int | str | None:
    """Return a number as JSON can hold it: `nan`, `inf` and `-inf` are texts."""
    if value is None or isinstance(value, int):
        return value
    if not math.isfinite(value):
        return str(float(value))
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 10**DIGITS else short


def coded(values: Iterable[str | None]) -> Columns:
    """Return texts of which there are few: each once, and by number which it is; None is -1."""
    codes: dict[str, int] = {}
    listed = [-1 if each is None else codes.setdefault(each, len(codes)) for each in values]
    return {"texts": list(codes), "codes": listed}


def sparse(values: Iterable[object]) -> Columns:
    """Return those that are there, by their number."""
    return {str(number): value for number, value in enumerate(values) if value}
