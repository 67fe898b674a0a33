"""What a target holds: a tensor of every type, and odd names, written, read back and compared.

The tables of types and names in the documentation and the tests in `tests/pipeline/test_matrix.py`
are both made by `dtype_held` and `names_held`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tensorferry.converters.containers.wire import message
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import TargetError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Format, WriteOptions, all_formats, format_named
from tensorferry.converters.tensors import ElementTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import Values, canonical, contents, tensors_of
from tensorferry.pipeline.casts import cast_tensors, parse_casts
from tensorferry.pipeline.selection import select

__all__ = [
    "IDENTICAL", "NAMES", "REFUSED", "Held", "dtype_held", "example", "formats", "holds_anything",
    "names_held", "writable",
]  # fmt: skip

IDENTICAL, ENCODED, REFUSED = "identical", "encoded", "refused"

# Names that one container or another cannot hold as they are, by how a table shows them.
NAMES: Mapping[str, tuple[str, ...]] = {
    "`w` beside `w/Adam`": ("w", "w/Adam"),
    "`a` beside `A`": ("a", "A"),
    "the empty name": ("",),
    "`__metadata__`": ("__metadata__",),
    "`_CHECKPOINTABLE_OBJECT_GRAPH`": ("_CHECKPOINTABLE_OBJECT_GRAPH",),
    "`../x`": ("../x",),
    "`/x`": ("/x",),
    "`x/`": ("x/",),
    "`a//b`": ("a//b",),
    "`a.npy`": ("a.npy",),
    "`größe:0`": ("größe:0",),
    "1,000 characters": ("x" * 1000,),
    "a newline": ("a\nb",),
    "the byte 0": ("a\0b",),
    "the byte 0xFF, which is no UTF-8": ("\udcff",),
}


class _Place(NamedTuple):
    """How to write tensors to a format that does not take any under any name.

    Attributes:
        target: the file or folder to write.
        names: two tensors that it has places for.
    """

    target: str
    names: tuple[str, str] = ("x", "y")


_PLACES: Mapping[str, _Place] = {
    "keras-h5": _Place("out.h5", ("dense/x", "dense/y")),
    "keras-v3": _Place("out.weights.h5", ("layers/dense/vars/0", "layers/dense/vars/1")),
    "saved-model": _Place("out"),
}

_NUMBER: Values = (DType.INT8, (), b"\1")

# What to cast to where a type is refused; the first that works.
_CASTS = ("f32", "i8", "u8", "c64")


class Held(NamedTuple):
    """What becomes of a tensor.

    Attributes:
        kind: identical, encoded or refused. What is encoded is another type in the file, and is
            identical when read.
        text: how it is encoded, or the name it is stored under.
        flags: those with which a type that is refused can be written after all, or left out.
        hint: what the refusal says.
    """

    kind: str
    text: str = ""
    flags: tuple[str, ...] = ()
    hint: str = ""


def formats() -> list[Format]:
    """Return the formats of this repository; plug-ins of the machine are none of its business."""
    return [each for each in all_formats() if ".converters.formats." in each.open.__module__]


def writable() -> list[Format]:
    """Return the formats that are written."""
    return [each for each in formats() if each.plan]


@cache
def holds_anything(format: Format) -> bool:
    """Tell whether any tensor can be written by any usual name: no config, no template."""
    if not format.plan:
        return False
    try:
        format.plan(tensors_of({"x": _NUMBER}), _target(format, Path()), WriteOptions())
    except UsageError:
        return False
    return True


def example(dtype: DType) -> Values:
    """Return a tensor of every byte value, or of a few texts."""
    if dtype.variable:
        elements = [b"some", b"text"]
        return ElementTensor(TensorSpec(dtype, (2,)), lambda: elements, 8)
    raw = canonical(dtype, bytes(range(256)))
    return dtype, (256 // dtype.itemsize,), raw


@cache
def dtype_held(format: Format, dtype: DType) -> Held:
    """Return what becomes of a tensor of every value of a type.

    Raises:
        RuntimeError: it came back different.
    """
    name, beside = _PLACES.get(format.name, _Place("")).names
    tensors = tensors_of({name: example(dtype), beside: _NUMBER})
    try:
        _, encoded = _written(format, tensors)
    except TargetError as error:
        casts = ("--dtype",) if any(_is_cast(format, tensors, name, to) for to in _CASTS) else ()
        return _refused(format, tensors, [name], error, casts)
    if not encoded:
        return Held(IDENTICAL)
    text = encoded[0].removeprefix(f"{dtype}: ").removeprefix("kept ")
    text = re.sub(r"\|S\d+", "S<n>", text)  # the width is that of the longest example
    return Held(ENCODED, re.sub(rf"\b{dtype.carrier}\b", "integers", text))


@cache
def names_held(format: Format, names: tuple[str, ...]) -> Held:
    """Return what becomes of names.

    Raises:
        RuntimeError: they came back different.
    """
    beside = _PLACES.get(format.name, _Place("")).names[1]
    tensors = tensors_of(dict.fromkeys((*names, beside), _NUMBER))
    try:
        stored, _ = _written(format, tensors)
    except TargetError as error:
        return _refused(format, tensors, names, error)
    if not stored:
        return Held(IDENTICAL)
    return Held(ENCODED, " and ".join(f"as `{other}`" for other in stored.values()))


def _refused(
    format: Format,
    tensors: TensorDict,
    names: Sequence[str],
    error: TargetError,
    flags: tuple[str, ...] = (),
) -> Held:
    """Return the refusal, once it was tried that the tensors can be left out."""
    _written(format, select(tensors, (), names))
    return Held(REFUSED, error.what, (*flags, "--exclude"), error.hint or "")


def _is_cast(format: Format, tensors: TensorDict, name: str, to: str) -> bool:
    try:
        _written(format, cast_tensors(tensors, parse_casts([f"{name}={to}"])))
    except (TargetError, UsageError):
        return False
    return True


def _written(format: Format, tensors: TensorDict) -> tuple[dict[str, str], list[str]]:
    """Write tensors, read them back and compare.

    Returns:
        The names that are stored otherwise, and the notes on how types are encoded.

    Raises:
        TargetError: the format cannot hold them.
        UsageError: it needs more than tensors.
        RuntimeError: they came back different.
    """
    if not format.plan:
        raise ValueError(f"{format.name} is not written")
    with tempfile.TemporaryDirectory() as folder:
        target = _target(format, Path(folder))
        template = _template(Path(folder), tensors) if "template" in format.options else None
        plan = format.plan(tensors, target, WriteOptions(template=template))
        write_plan(plan)
        with open_tensors(target, format=format.name) as copy:
            if contents(tensors) != contents(copy):
                raise RuntimeError(f"{format.name}: {list(tensors)} came back different")
    encoded = [note.text for note in plan.notes if note.kind is Kind.ENCODED]
    stored = {name: other for name, other in plan.stored_names.items() if other != name}
    return stored, encoded


def _target(format: Format, folder: Path) -> Path:
    place = _PLACES.get(format.name)
    return folder / (place.target if place else f"out{format.extensions[0]}")


def _template(folder: Path, tensors: TensorDict) -> Path:
    """Make a SavedModel of TensorFlow 1 with an empty graph and such variables."""
    template = folder / "template"
    (template / "variables").mkdir(parents=True)
    info = message((4, b"serve"), (5, b"1.15.0"))
    content = message((1, 1), (2, message((1, info), (2, message()))))
    (template / "saved_model.pb").write_bytes(content)
    plan = format_named("tf-checkpoint").plan
    if not plan:
        raise ValueError("tf-checkpoint is not written")
    write_plan(plan(tensors, template / "variables" / "variables", WriteOptions()))
    return template
