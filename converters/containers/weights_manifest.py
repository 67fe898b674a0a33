r"""The weights of TensorFlow.js: a manifest in JSON, and files that are cut anywhere.

    [{"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"],
      "weights": [{"name": "dense/kernel", "shape": [2, 3], "dtype": "float32",
                   "quantization": {"dtype": "uint8", "scale": 0.1, "min": -1.5}}, …]}, …]

The files of a group joined are its weights one after the other, little endian, without padding; a
file may end within an element. A string is its length as uint32 and its bytes, so what follows
strings is found by walking them. Files are usually of 4 MiB.

Specified by tfjs-core/src/io/types.ts (WeightsManifestGroupConfig) and io_utils.ts
(decodeWeights), and by tensorflowjs/write_weights.py (TensorFlow.js 4.22.0).
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, NotRecognisedError, UnsafeFileError
from ..registry import Group
from ..sources import Extent, FileSource
from ..tensors import CHUNK_BYTES, ElementTensor, ExtentTensor, Tensor, TensorSpec

__all__ = [
    "MANIFESTS", "Quantization", "Stored", "Weights", "is_old_graph", "read_weights", "web_groups",
]  # fmt: skip

# Where a manifest is, the name of today first.
MANIFESTS = ("model.json", "weights_manifest.json")
# The graph before 1.0. Its constants have no values, so nobody means the file alone.
_OLD_GRAPH = "tensorflowjs_model.pb"
# What converters call the files; a manifest may name others.
_SHARD = re.compile(r"group\d+-shard\d+of\d+(\.bin)?|.+\.weights\.bin|weights\.bin")

# tfjs-core/src/io/types.ts, DTYPE_VALUE_SIZE_MAP, and `string`.
DTYPES = {
    dtype.label: dtype
    for dtype in (
        DType.FLOAT32, DType.FLOAT16, DType.INT32, DType.UINT16, DType.UINT8, DType.BOOL,
        DType.COMPLEX64, DType.STRING,
    )
}  # fmt: skip
# What quantisation makes of which types: io_utils.ts, decodeWeight.
QUANTIZED = {"uint8": DType.UINT8, "uint16": DType.UINT16, "float16": DType.FLOAT16}
_MADE_OF = {"uint8": ("float32", "int32"), "uint16": ("float32", "int32"), "float16": ("float32",)}
STRING_LENGTH_BYTES = 4
MAX_DIMENSIONS = 64


def web_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield a manifest with its files among the names in a folder."""
    for manifest in MANIFESTS:
        if manifest in names:
            files = {name for name in names if _SHARD.fullmatch(name)} | {_OLD_GRAPH} & set(names)
            yield Group(manifest, frozenset({manifest, *files}), "")
            return


def is_old_graph(path: Path) -> bool:
    """Tell whether a file is the graph of a model before 1.0, with its manifest beside it."""
    return path.name == _OLD_GRAPH and any((path.parent / name).is_file() for name in MANIFESTS)


class Quantization(NamedTuple):
    """How a weight was made smaller: value = scale * stored + min; float16 only has a type."""

    dtype: DType
    scale: float | None = None
    min: float | None = None


class _Weight(NamedTuple):
    name: str
    spec: TensorSpec  # of the real values
    quantization: Quantization | None
    optimizer: bool

    @property
    def stored(self) -> TensorSpec:
        """What lies in the files."""
        dtype = self.quantization.dtype if self.quantization else self.spec.dtype
        return TensorSpec(dtype, self.spec.shape)


class Stored(NamedTuple):
    """A weight as it lies in the files.

    Attributes:
        tensor: the stored values.
        spec: of the real values.
        quantization: how the real values follow from the stored ones.
        optimizer: whether it belongs to the optimizer.
        error: why the values cannot be reached.
    """

    tensor: Tensor
    spec: TensorSpec
    quantization: Quantization | None
    optimizer: bool
    error: ConvertError | None


@dataclass
class Weights:
    """All weights of a manifest by name, and the files they lie in."""

    stored: dict[str, Stored] = field(default_factory=dict)
    sources: list[FileSource] = field(default_factory=list)

    def close(self) -> None:
        """Close all files."""
        for source in self.sources:
            source.close()


def read_weights(manifest: object, folder: Path) -> Weights:
    """Return the weights of a manifest; reads no data but the lengths of strings.

    Args:
        manifest: the parsed list of groups.
        folder: where the files lie.

    Raises:
        CorruptFileError: the manifest contradicts itself, or the sizes of the files.
        UnsafeFileError: a file lies in another folder.
    """
    weights = Weights()
    try:
        for index, value in enumerate(_list(manifest, "weightsManifest")):
            try:
                _read_group(weights, value, folder)
            except CorruptFileError as error:
                raise error.within(f"group {index}") from None
    except BaseException:
        weights.close()
        raise
    return weights


def _read_group(weights: Weights, value: object, folder: Path) -> None:
    entry = _object(value, "group")
    rows = [_weight(each) for each in _list(entry.get("weights"), "weights")]
    names = [_file_name(each) for each in _list(entry.get("paths"), "paths")]
    group = _Group([FileSource(folder / name) for name in names])
    weights.sources += group.sources
    for name, stored in group.place(rows):
        if name in weights.stored:
            raise CorruptFileError("occurs twice", where=f"weight `{name}`")
        weights.stored[name] = stored


class _Group:
    """The files of one group, joined up to the first that is missing.

    A missing file is no error until somebody wants what lies in it or behind it: its length, and
    with it every place behind it, is not known.
    """

    def __init__(self, sources: Sequence[FileSource]) -> None:
        self.sources = sources
        self._starts: list[int] = []
        self._missing: NotRecognisedError | None = None
        self._end = 0
        for source in sources:
            if not source.place.is_file():
                self._missing = NotRecognisedError(
                    "is missing, or no file",
                    path=source.path,
                    hint="copy all files that the manifest lists into one folder",
                )
                break
            self._starts.append(self._end)
            self._end += source.size

    def place(self, rows: Sequence[_Weight]) -> Iterator[tuple[str, Stored]]:
        """Yield every weight with the place of its values."""
        at: int | None = 0
        for row in rows:
            try:
                at, stored = self._stored(row, at)
            except CorruptFileError as error:
                raise error.within(f"weight `{row.name}`") from None
            yield row.name, stored
        if at is not None and at != self._end and not self._missing:
            raise CorruptFileError(
                f"length of the {len(self.sources)} files together",
                expected=f"{at} bytes", got=f"{self._end} bytes",
                hint="a file is from another model, or was copied badly; copy all again",
            )  # fmt: skip

    def _stored(self, row: _Weight, at: int | None) -> tuple[int | None, Stored]:
        """Return where the next weight starts, if that is known, and this one."""
        spec = row.stored
        if at is not None and spec.dtype.variable:
            length = self._walk(at, spec.size)
        else:
            length = spec.nbytes
        if at is None or length is None or at + length > self._end:
            return None, self._unreachable(row, at, length)
        tensor = self._tensor(spec, at, length)
        return at + length, Stored(tensor, row.spec, row.quantization, row.optimizer, None)

    def _unreachable(self, row: _Weight, at: int | None, length: int | None) -> Stored:
        if self._missing is None:
            least = row.stored.size * STRING_LENGTH_BYTES if length is None else length
            raise CorruptFileError(
                "runs past the end of the files",
                expected=f"{(at or 0) + least} bytes in {len(self.sources)} files",
                got=f"{self._end} bytes",
                hint="a file is from another model, or was copied badly; copy all again",
            )
        tensor = MissingTensor(row.spec, self._missing)
        return Stored(tensor, row.spec, None, row.optimizer, self._missing)

    def _tensor(self, spec: TensorSpec, at: int, length: int) -> Tensor:
        if spec.dtype.variable:
            return ElementTensor(spec, lambda: list(self._strings(at, spec.size)), length)
        return SpannedTensor(spec, tuple(self._extents(at, length)))

    # Bytes of the joined files

    def _extents(self, at: int, length: int) -> Iterator[Extent]:
        number = max(bisect_right(self._starts, at) - 1, 0)
        while length:
            source, start = self.sources[number], self._starts[number]
            part = min(length, start + source.size - at)
            if part:
                yield Extent(source, at - start, part)
            at, length, number = at + part, length - part, number + 1

    def _read(self, at: int, length: int) -> bytes:
        parts = (each.source.read(each.offset, each.length) for each in self._extents(at, length))
        return b"".join(parts)

    def _walk(self, at: int, count: int) -> int | None:
        """Return the bytes that so many strings take, None where they run past the end."""
        if count * STRING_LENGTH_BYTES > self._end - at:
            return None
        window, base, start = b"", at, at
        for left in range(count, 0, -1):
            if at + STRING_LENGTH_BYTES > base + len(window):
                # So many bytes are of strings at least; what follows them is not touched.
                least = min(left * STRING_LENGTH_BYTES, CHUNK_BYTES)
                if at + least > self._end:
                    return None
                base, window = at, self._read(at, least)
            raw = window[at - base : at - base + STRING_LENGTH_BYTES]
            at += STRING_LENGTH_BYTES + int.from_bytes(raw, "little")
        return at - start if at <= self._end else None

    def _strings(self, at: int, count: int) -> Iterator[bytes]:
        for _ in range(count):
            length = int.from_bytes(self._read(at, STRING_LENGTH_BYTES), "little")
            at += STRING_LENGTH_BYTES
            if at + length > self._end:
                raise CorruptFileError("a string runs past the end of the files")
            yield self._read(at, length)
            at += length


class MissingTensor(Tensor):
    """A tensor whose values are not there."""

    __slots__ = ("_error",)

    def __init__(self, spec: TensorSpec, error: ConvertError) -> None:
        self.spec = spec
        self._error = error

    def elements(self) -> list[bytes]:
        """Raise why."""
        raise self._error

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:  # noqa: ARG002
        """Raise why."""
        raise self._error


class SpannedTensor(ExtentTensor):
    """A tensor in byte ranges that may end within an element."""

    __slots__ = ()

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes, whole elements each, across the ends of the ranges."""
        itemsize = self.spec.dtype.itemsize
        if all(extent.length % itemsize == 0 for extent in self.extents):
            yield from super().chunks(max_bytes)
            return
        step = max(max_bytes // itemsize, 1) * itemsize
        buffer = memoryview(bytearray(min(step, self.nbytes)))
        filled = 0
        for extent in self.extents:
            at = 0
            while at < extent.length:
                part = min(extent.length - at, len(buffer) - filled)
                extent.source.read_into(extent.offset + at, buffer[filled : filled + part])
                at, filled = at + part, filled + part
                if filled == len(buffer):
                    yield buffer
                    filled = 0
        if filled:
            yield buffer[:filled]


# What the manifest says


def _weight(value: object) -> _Weight:
    entry = _object(value, "weight")
    name = entry.get("name")
    if not isinstance(name, str):
        raise CorruptFileError("name of a weight", expected="a text", got=repr(name))
    try:
        label = _label(entry.get("dtype"), DTYPES)
        spec = _spec(DTYPES[label], entry.get("shape"))
        quantization = _quantization(entry.get("quantization"), label)
    except CorruptFileError as error:
        raise error.within(f"weight `{name}`") from None
    return _Weight(name, spec, quantization, entry.get("group") == "optimizer")


def _quantization(value: object, label: str) -> Quantization | None:
    if value is None:
        return None
    entry = _object(value, "quantization")
    stored = _label(entry.get("dtype"), QUANTIZED)
    if label not in _MADE_OF[stored]:
        made = " or ".join(_MADE_OF[stored])
        raise CorruptFileError(f"type that is quantised to {stored}", expected=made, got=label)
    if stored == "float16":
        return Quantization(QUANTIZED[stored])
    scale, least = (_number(entry.get(key), key) for key in ("scale", "min"))
    return Quantization(QUANTIZED[stored], scale, least)


def _label(value: object, known: Mapping[str, DType]) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise CorruptFileError("dtype", expected=f"one of {', '.join(known)}", got=repr(value))


def _spec(dtype: DType, value: object) -> TensorSpec:
    if isinstance(value, list) and len(value) <= MAX_DIMENSIONS:
        spec = TensorSpec(dtype, tuple(each for each in value if type(each) is int and each >= 0))
        if len(spec.shape) == len(value) and spec.addressable:
            return spec
    raise CorruptFileError(
        "shape",
        expected=f"a list of at most {MAX_DIMENSIONS} numbers, and less than 2^63 bytes",
        got=repr(value)[:100],
    )


def _number(value: object, what: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if isfinite(number):
            return number
    raise CorruptFileError(what, expected="a number", got=repr(value)[:100])


def _file_name(value: object) -> str:
    """Return the name of a file beside the manifest; anything else leads to other files."""
    if not isinstance(value, str):
        raise CorruptFileError("name of a file", expected="a text", got=repr(value)[:100])
    if not value or value in (os.curdir, os.pardir) or any(char in value for char in "/\\\0"):
        raise UnsafeFileError(
            "name of a file", expected="a bare name, without a folder", got=repr(value)[:100]
        )
    return value


def _list(value: object, what: str) -> list[Any]:
    if isinstance(value, list):
        return value
    raise CorruptFileError(what, expected="a list", got=type(value).__name__)


def _object(value: object, what: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise CorruptFileError(what, expected="an object", got=type(value).__name__)
