r"""SavedTensorSlices: the V1 checkpoint, one table that holds names, shapes and values.

    ""                           -> a list of all tensors: name, shape, dtype, slices, no values
    NUL + name + encoded slice   -> name, slice and values of one slice, in a naked TensorProto

Every tensor has at least one slice, which is all of it where the variable is not partitioned. The
values' message says neither dtype nor shape; those are in the list. Of a sharded checkpoint each
file is such a table and lists what it holds itself; slices of one tensor may be in several.

Specified by tensorflow/core/util/saved_tensor_slice.proto, saved_tensor_slice_util.cc and
tensorflow/core/lib/strings/ordered_code.cc (v2.21.0). No build writes bfloat16, uint32 or uint64.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..errors import ConvertError, CorruptFileError
from ..names import decode
from ..notes import Kind, Note
from ..sources import FileSource
from ..tensors import Tensor, TensorSpec
from .bundle_messages import Range, check_spec, is_v1_header, parse_shape, parse_slice
from .messages import Body
from .slices import Part, stitch
from .table_values import DeferredTensor, Value, table_values
from .tensor_proto import parse_values
from .wire import fields, read_varint

__all__ = [
    "Listed",
    "TensorSlices",
    "decode_slice_key",
    "is_tensor_slices",
    "parse_listing",
]

_LISTING, _SLICE = 1, 2  # fields of SavedTensorSlices
_VALUES = 3  # field of SavedSlice; 1 and 2 repeat name and slice, which the key has said
_MAX_CONSUMER = 1  # tensorflow/core/public/version.h, TF_CHECKPOINT_VERSION
_HEAD_BYTES = 32  # more than two lengths and a tag

# First element and number of elements per dimension, both known.
_Place = tuple[tuple[int, ...], tuple[int, ...]]


class Listed(NamedTuple):
    """A tensor as the list of a file has it; `dtype` is the number in the file."""

    name: bytes
    dtype: int
    shape: tuple[int, ...]
    slices: tuple[tuple[Range, ...], ...]


def is_tensor_slices(path: Path) -> bool:
    """Tell whether a file is a V1 checkpoint or a shard of one, perhaps cut short."""
    source = FileSource(path)
    try:
        if _starts_with_listing(source.read(0, min(source.size, _HEAD_BYTES))):
            return True
        first = next(table_values(source, verify=False), None)  # its blocks may be compressed
        return first is not None and _is_listing(first)
    except ConvertError:
        return False
    finally:
        source.close()


def _starts_with_listing(head: bytes) -> bool:
    """Tell whether an entry comes first whose key is empty and whose value is one message."""
    try:
        length, at = read_varint(head, 2)
        field, after = read_varint(head, at + 1)
    except CorruptFileError:
        return False
    return head[:2] == b"\0\0" and is_v1_header(head[at:]) and length == after - at + field


def _is_listing(value: Value) -> bool:
    body = value.body
    return not value.key and body.length > 0 and is_v1_header(body.source.read(body.start, 1))


# The list


def parse_listing(data: bytes) -> list[Listed]:
    """Decode the SavedTensorSlices under the empty key.

    Raises:
        CorruptFileError: the bytes are no such message, or made for newer readers.
    """
    listed = []
    for number, _, meta in fields(data):
        if number != _LISTING or not isinstance(meta, bytes):
            continue
        for part, _, value in fields(meta):
            if part == 1 and isinstance(value, bytes):
                listed.append(_parse_listed(value))
            elif part == 2 and isinstance(value, bytes):
                _check_version(value)
    return listed


def _parse_listed(data: bytes) -> Listed:
    """Decode a SavedSliceMeta."""
    name, dtype = b"", 0
    shape: tuple[int, ...] = ()
    slices = []
    for number, _, value in fields(data):
        if number == 3 and isinstance(value, int):
            dtype = value
        elif not isinstance(value, bytes):
            continue
        elif number == 1:
            name = value
        elif number == 2:
            shape = parse_shape(value)
        elif number == 4:
            slices.append(parse_slice(value))
    return Listed(name, dtype, shape, tuple(slices))


def _check_version(data: bytes) -> None:
    """Refuse what a VersionDef says is not for us: field 2, min_consumer."""
    wanted = {number: value for number, _, value in fields(data)}.get(2, 0)
    if not isinstance(wanted, int) or wanted > _MAX_CONSUMER:
        raise CorruptFileError(
            "needs a newer reader", expected=f"version {_MAX_CONSUMER}", got=wanted
        )


# Keys


def decode_slice_key(key: bytes) -> tuple[bytes, tuple[Range, ...]]:
    """Return tensor name and slice of a key, as `bundle_messages.slice_key` makes them.

    Raises:
        CorruptFileError: the bytes are no such key.
    """
    number, at = _ordered_number(key, 0)
    if number != 0:
        raise CorruptFileError("key of a slice", expected="a leading 0", got=number)
    name, at = _ordered_string(key, at)
    rank, at = _ordered_number(key, at)
    ranges: list[Range] = []
    while at < len(key):
        start, at = _ordered_signed(key, at)
        length, at = _ordered_signed(key, at)
        ranges.append((start, None if length == -1 else length))
    if rank != len(ranges):
        raise CorruptFileError("dimensions in a key", expected=rank, got=len(ranges))
    return name, tuple(ranges)


def _ordered_number(key: bytes, at: int) -> tuple[int, int]:
    """Decode a length of one byte and a big-endian number of that length."""
    end = at + 1 + (key[at] if at < len(key) else 8)
    if at >= len(key) or end > len(key):
        raise _cut(key, at)
    return int.from_bytes(key[at + 1 : end], "big"), end


def _ordered_string(key: bytes, at: int) -> tuple[bytes, int]:
    """Decode a text in which 00 FF is 00, FF 00 is FF, and 00 01 the end."""
    text = bytearray()
    while at < len(key):
        pair = key[at : at + 2]
        if pair == b"\0\1":
            return bytes(text), at + 2
        if pair in (b"\0\xff", b"\xff\0"):
            text.append(pair[0])
            at += 2
        elif pair[0] in (0x00, 0xFF):
            break
        else:
            text.append(pair[0])
            at += 1
    raise _cut(key, at)


def _ordered_signed(key: bytes, at: int) -> tuple[int, int]:
    """Decode a number of n bytes, whose first n bits are all the opposite of the sign."""
    head = int.from_bytes(key[at : at + 2].ljust(2, b"\0"), "big")
    if at < len(key) and not key[at] & 0x80:
        head ^= 0xFFFF
    size = 16 - (head ^ 0xFFFF).bit_length()
    end = at + size
    if not 1 <= size <= 10 or end > len(key):
        raise _cut(key, at)
    bits = 8 * size
    value = int.from_bytes(key[at:end], "big") ^ ((1 << size) - 1) << (bits - size)
    return value - (1 << bits) if value >> (bits - 1) else value, end


def _cut(key: bytes, at: int) -> CorruptFileError:
    return CorruptFileError(
        "key of a slice",
        where=f"byte {at} of the key",
        expected="name, rank and slice",
        got=repr(key[:40]),
    )


# The files


class TensorSlices(NamedTuple):
    """An opened checkpoint.

    Attributes:
        tensors: by name, in the order of the names' bytes; partitioned ones whole.
        broken: tensors that are listed but cannot be read, and why; first, by their file name,
            shards that are missing.
        notes: what was unusual.
        sources: the files, to be closed.
    """

    tensors: dict[str, Tensor]
    broken: dict[str, ConvertError]
    notes: tuple[Note, ...]
    sources: tuple[FileSource, ...]

    @classmethod
    def open(cls, files: Iterable[Path], *, verify: bool = True) -> TensorSlices:
        """Read the lists of one file, or of all shards; reads no large values.

        Args:
            files: the file, or all shards, those too that are not there.
            verify: whether checksums are checked.

        Raises:
            CorruptFileError: a file is damaged, or no V1 checkpoint.
        """
        reader = _Reader(verify)
        try:
            return reader.open(files)
        except ConvertError:
            for source in reader.sources:
                source.close()
            raise


class _Reader:
    """Opens one checkpoint."""

    def __init__(self, verify: bool) -> None:
        self._verify = verify
        self._specs: dict[bytes, TensorSpec] = {}
        self._parts: dict[bytes, list[Part]] = {}
        self._errors: dict[bytes, CorruptFileError] = {}
        self._broken: dict[str, ConvertError] = {}
        self._notes: list[Note] = []
        self.sources: list[FileSource] = []

    def open(self, files: Iterable[Path]) -> TensorSlices:
        files = tuple(files)
        for path in files:
            if path.is_file() or len(files) == 1:
                self._read(path)
            else:
                self._broken[path.name] = CorruptFileError(
                    "shard is missing",
                    path=path,
                    hint="copy the shard here; --allow-missing reads the other tensors",
                )
        gone = list(self._broken)
        tensors = {decode(name): self._assemble(name, gone) for name in sorted(self._specs)}
        return TensorSlices(tensors, self._broken, tuple(self._notes), tuple(self.sources))

    # One file

    def _read(self, path: Path) -> None:
        source = FileSource(path)
        self.sources.append(source)
        values = table_values(source, verify=self._verify)
        first = next(values, None)
        if first is None or not _is_listing(first):
            raise CorruptFileError(
                "first entry of the table",
                path=path,
                expected="a list of tensors under the empty key",
                got="none" if first is None else f"key {first.key[:40]!r}",
            )
        try:
            self._read_values(path, self._read_listing(first), values)
        except CorruptFileError as error:
            error.path = error.path or str(path)
            raise error from None

    def _read_listing(self, first: Value) -> set[tuple[bytes, _Place]]:
        """Take the list of a file in, and return the slices that it has to hold."""
        wanted = set()
        for name, dtype, shape, slices in parse_listing(first.load()):
            try:
                spec = self._spec(name, check_spec(dtype, shape))
                wanted |= {(name, _place(ranges, spec.shape)) for ranges in slices}
            except CorruptFileError as error:
                raise error.within(f"tensor `{decode(name)}`") from None
            self._parts.setdefault(name, [])
        return wanted

    def _spec(self, name: bytes, spec: TensorSpec) -> TensorSpec:
        """Return what all shards have to agree on."""
        known = self._specs.setdefault(name, spec)
        if known != spec:
            expected, got = f"{known.dtype} {known.shape}", f"{spec.dtype} {spec.shape}"
            raise CorruptFileError("shards disagree", expected=expected, got=got)
        return known

    def _read_values(
        self, path: Path, wanted: set[tuple[bytes, _Place]], values: Iterable[Value]
    ) -> None:
        taken: set[tuple[bytes, _Place]] = set()
        unlisted = repeated = 0
        for value in values:
            name, ranges = decode_slice_key(value.key)
            place = _place(ranges, self._specs[name].shape) if name in self._specs else None
            if place is None or (name, place) not in wanted:
                unlisted += 1
            elif (name, place) in taken:
                repeated += 1
            else:
                taken.add((name, place))
                self._take(name, place, value)
        for name, (starts, lengths) in sorted(wanted - taken):
            where = f"slice {lengths} at {starts}"
            self._break(name, CorruptFileError("has no entry of its own", path=path, where=where))
        if unlisted:
            self._note(f"{unlisted} entries of `{path.name}` are not in its list; not read")
        if repeated:
            self._note(f"{repeated} repeated keys in `{path.name}`; the first of each was taken")

    def _take(self, name: bytes, place: _Place, value: Value) -> None:
        starts, lengths = place
        spec = TensorSpec(self._specs[name].dtype, lengths)
        try:
            tensor = value.tensor(partial(_parse_values, spec=spec))
        except CorruptFileError as error:
            error.path = error.path or str(value.body.source.path)
            self._break(name, error)
        else:
            self._parts[name].append(Part(starts, lengths, tensor))

    def _break(self, name: bytes, error: CorruptFileError) -> None:
        self._errors.setdefault(name, error.within(f"tensor `{decode(name)}`"))

    def _note(self, text: str) -> None:
        self._notes.append(Note(Kind.SOURCE, text))

    # All files

    def _assemble(self, name: bytes, gone: list[str]) -> Tensor:
        spec, parts = self._specs[name], self._parts[name]
        if name not in self._errors:
            if len(parts) == 1 and parts[0][:2] == ((0,) * len(spec.shape), spec.shape):
                return parts[0].tensor
            try:
                return stitch(spec, parts)
            except CorruptFileError as error:
                error.path = str(self.sources[0].path)
                if gone:
                    error.hint = f"the missing {gone[0]} may hold the rest"
                self._break(name, error)
        reason = self._errors[name]
        self._broken[decode(name)] = reason
        return DeferredTensor(spec, spec.nbytes, partial(_fail, reason))


def _place(ranges: tuple[Range, ...], shape: tuple[int, ...]) -> _Place:
    """Return where a slice lies in a tensor; a length that is not told is the whole dimension."""
    if len(ranges) != len(shape):
        raise CorruptFileError("slice", expected=f"rank {len(shape)}", got=len(ranges))
    starts = tuple(start for start, _ in ranges)
    lengths = (
        dim if length is None else length for (_, length), dim in zip(ranges, shape, strict=True)
    )
    return starts, tuple(lengths)


def _parse_values(body: Body, spec: TensorSpec) -> Tensor:
    """Return the tensor of a SavedTensorSlices that holds one slice."""
    found = body
    for field in (_SLICE, _VALUES):
        found = next(
            (value for number, value in found.bodies() if number == field),
            Body(body.source, body.start, 0, b""),
        )
    return parse_values(found, spec)


def _fail(error: ConvertError) -> Tensor:
    raise error
