"""Does a result fit another model? Its names, dtypes and shapes against those of a target.

A target is whatever can be opened: a checkpoint, a safetensors file or set, a SavedModel, a Keras
file. Further a `.meta` without its checkpoint, a Keras `config.json`, and a JSON of names and
shapes:

    {"dense/kernel": [4, 8], "dense/bias": {"shape": [8], "dtype": "float32"}}

A length may be null: any. What training alone needs (optimizer slots and state, counters, moving
averages, tables) may be missing; so may what a Keras config does not insist on, and PyTorch's
`num_batches_tracked`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..converters.containers.strict_json import read_json
from ..converters.dtypes import DType
from ..converters.errors import CorruptFileError, NotRecognisedError, TargetError
from ..converters.opening import open_tensors
from ..converters.registry import Location, claims
from ..converters.sources import FileSource
from ..converters.tensors import Role, TensorDict, TensorSpec
from ..converters.ties import other_names

__all__ = ["Likeness", "Wanted", "like", "wanted_by"]

JSON_BYTES = 256 << 20
META = ".meta"
_OF_TRAINING = frozenset(
    {Role.SLOT, Role.AVERAGE, Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE}
)


class Wanted(NamedTuple):
    """What a target has under a name.

    Attributes:
        shape: None for any; so is a length that is None.
        dtype: None for any.
        needed: whether it may not be missing.
    """

    shape: tuple[int | None, ...] | None
    dtype: DType | None = None
    needed: bool = True

    def fits(self, spec: TensorSpec) -> bool:
        """Tell whether a tensor is what is wanted."""
        return self.dtype in (None, spec.dtype) and (
            self.shape is None
            or (
                len(self.shape) == len(spec.shape)
                and all(
                    wanted in (None, got)
                    for wanted, got in zip(self.shape, spec.shape, strict=True)
                )
            )
        )

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        shape = None if self.shape is None else [*self.shape]
        return {"dtype": self.dtype.label if self.dtype else None, "shape": shape}

    def __str__(self) -> str:
        shape = "any shape" if self.shape is None else _shape(self.shape)
        return f"{self.dtype or 'any dtype'} {shape}"


def _shape(shape: tuple[int | None, ...]) -> str:
    return "x".join("?" if each is None else str(each) for each in shape) or "scalar"


@dataclass(frozen=True)
class Likeness:
    """How a result and a target differ.

    Attributes:
        target: what the user named.
        matched: number of tensors that are the same in name, dtype and shape.
        missing: what the target has and the result lacks.
        unexpected: what the result has and the target lacks.
        differs: what both have, with what is wanted and what there is.
    """

    target: str
    matched: int
    missing: Mapping[str, Wanted]
    unexpected: Mapping[str, TensorSpec]
    differs: Mapping[str, tuple[Wanted, TensorSpec]]

    @property
    def same(self) -> bool:
        """Whether nothing is missing, too much or different."""
        return not (self.missing or self.unexpected or self.differs)

    @property
    def counts(self) -> str:
        """All numbers in a line."""
        numbers = {
            "matched": self.matched, "missing": len(self.missing),
            "unexpected": len(self.unexpected), "different": len(self.differs),
        }  # fmt: skip
        return (
            ", ".join(f"{number} {what}" for what, number in numbers.items() if number) or "empty"
        )

    def lines(self, most: int | None) -> Iterator[str]:
        """Yield what differs as a table, at most so many lines of each kind, then the counts."""
        rows = {
            "missing": [(name, str(each)) for name, each in self.missing.items()],
            "unexpected": [
                (name, f"{each.dtype} {_shape(each.shape)}")
                for name, each in self.unexpected.items()
            ],
            "different": [
                (name, f"expected {wanted}, got {got.dtype} {_shape(got.shape)}")
                for name, (wanted, got) in self.differs.items()
            ],
        }
        width = max((len(name) for each in rows.values() for name, _ in each[:most]), default=0)
        for what, each in rows.items():
            yield from (f"{what:<10}  {name:<{width}}  {text}" for name, text in each[:most])
            if most is not None and len(each) > most:
                yield f"{what:<10}  {len(each) - most} more (-v shows all)"
        yield f"like {self.target}: {self.counts}"

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "target": self.target,
            "matched": self.matched,
            "missing": {name: each.json() for name, each in self.missing.items()},
            "unexpected": {name: _json(each) for name, each in self.unexpected.items()},
            "different": {
                name: {"expected": wanted.json(), "got": _json(got)}
                for name, (wanted, got) in self.differs.items()
            },
        }

    def refuse(self) -> None:
        """Stop where they differ.

        Raises:
            TargetError: they do.
        """
        if not self.same:
            raise TargetError(
                f"the result is not like it: {self.counts}", path=self.target,
                hint="leave --strict-like out to write it all the same",
            )  # fmt: skip


def _json(spec: TensorSpec) -> dict[str, Any]:
    return {"dtype": spec.dtype.label, "shape": [*spec.shape]}


def like(tensors: TensorDict, target: str | os.PathLike[str]) -> Likeness:
    """Compare tensors with what a target wants; reads no values.

    Raises:
        ConvertError: the target cannot be read, or is none.
    """
    wanted = wanted_by(target, tensors)
    there = {name: tensor.spec for name, tensor in tensors.items()}
    others = {name: there[owner] for name, owner in other_names(tensors).items()}
    both = {name: {**others, **there}[name] for name in wanted if name in there or name in others}
    matched = {name for name, spec in both.items() if wanted[name].fits(spec)}
    return Likeness(
        os.fspath(target),
        len(matched),
        {name: each for name, each in wanted.items() if name not in both and each.needed},
        {name: spec for name, spec in there.items() if name not in wanted},
        {name: (wanted[name], spec) for name, spec in both.items() if name not in matched},
    )


def wanted_by(
    target: str | os.PathLike[str], tensors: TensorDict | None = None
) -> dict[str, Wanted]:
    """Return what a target wants, by name.

    Args:
        target: see above.
        tensors: what is compared with it; their names may tell how a Keras layer is quantised.

    Raises:
        ConvertError: it cannot be read, or is none.
    """
    path = Path(target)
    if path.suffix == META and path.is_file() and not path.with_suffix(".index").exists():
        return dict(_variables(path))
    location = Location(path)
    if path.is_file() and location.head.lstrip().startswith(b"{") and not claims(location):
        return _listed(path, tensors)
    with open_tensors(target) as opened:
        return {
            name: Wanted(
                each.spec.shape,
                each.spec.dtype,
                opened.origin(name).role not in _OF_TRAINING and not _is_counter(name),
            )
            for name, each in opened.items()
        }


def _is_counter(name: str) -> bool:
    """Tell whether PyTorch begins to count by itself (`_NormBase._load_from_state_dict`)."""
    return name.rpartition(".")[2] == "num_batches_tracked"


# What is no model


def _variables(path: Path) -> Iterator[tuple[str, Wanted]]:
    """Yield the variables of a meta graph; what only training needs may be missing."""
    from ..converters.containers.bundle_messages import check_spec, parse_shape
    from ..converters.containers.graph_proto import nodes
    from ..converters.containers.messages import Body
    from ..converters.graphs.graph_nodes import VARIABLES
    from ..converters.graphs.meta_graph import graph_facts, read_meta

    meta = read_meta(path)
    found = (
        [each for each in nodes(meta.graph) if each.op.encode() in VARIABLES] if meta.graph else []
    )
    facts = graph_facts(meta, [each.name for each in found])
    beside = {*facts.slots, *facts.averages, *facts.hyper, *facts.steps, *facts.tables}
    for each in found:
        shape, number = each.attr("shape", 7), each.attr("dtype", 6)
        if isinstance(shape, Body) and isinstance(number, int):
            spec = check_spec(number % 100, parse_shape(shape.load()))  # 100 more: a reference
            yield each.name, Wanted(spec.shape, spec.dtype, each.name not in beside)


def _listed(path: Path, tensors: TensorDict | None) -> dict[str, Wanted]:
    source = FileSource(path)
    try:
        content = read_json(source, max_bytes=JSON_BYTES)
    except CorruptFileError as error:
        raise NotRecognisedError(f"is no model, and no JSON: {error.what}", path=path) from error
    finally:
        source.close()
    if isinstance(content, dict) and isinstance(content.get("class_name"), str):
        return _of_config(path, tensors)
    if not isinstance(content, dict):
        raise NotRecognisedError("is no JSON of names and shapes", path=path)
    return {name: _entry(name, each, path) for name, each in content.items()}


def _of_config(path: Path, tensors: TensorDict | None) -> dict[str, Wanted]:
    from ..converters.graphs.keras_given import given

    nothing = TensorDict("", "", {}) if tensors is None else tensors
    config = given(nothing, path)
    places = config.layout(nothing).places if config else []
    return {each.name: Wanted(each.shape, None, each.needed) for each in places if not each.alias}


def _entry(name: str, value: object, path: Path) -> Wanted:
    given: Mapping[str, Any] = value if isinstance(value, dict) else {"shape": value}
    shape, label = given.get("shape"), given.get("dtype")
    lengths = isinstance(shape, list) and all(
        each is None or (type(each) is int and each >= 0) for each in shape
    )
    dtype = DType.named(label.lower()) if isinstance(label, str) else None
    if not (lengths or shape is None) or (label is not None and dtype is None):
        raise NotRecognisedError(
            "is no JSON of names and shapes", path=path, where=f"tensor `{name}`",
            hint='as in {"dense/kernel": [4, 8], "dense/bias": {"shape": [8], "dtype": "float32"}}',
        )  # fmt: skip
    return Wanted(tuple(shape) if shape is not None else None, dtype, needed=not _is_counter(name))
