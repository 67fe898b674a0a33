r"""The tensor bundle: TensorFlow's V2 checkpoint files, read as lazy tensors.

    <prefix>.index                 a table: "" -> header, tensor name -> entry,
                                   NUL + encoded slice -> entry of that slice
    <prefix>.data-00000-of-00002   a shard: tensors' bytes, dense, C order, no alignment

An entry names dtype, shape, shard, byte offset, size and the masked CRC-32C of those bytes. A
partitioned tensor's entry lists slices, each with an entry of its own, in any shard. Source:
tensorflow/core/util/tensor_bundle/tensor_bundle.{h,cc} (v2.21.0).

int4, uint4, int2, uint2 and float4 take a byte per element, value in the low bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ..checksums import Algorithm, Checksum
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError
from ..names import decode
from ..notes import Kind, Note
from ..sources import Extent, FileSource, Source
from ..tensors import (
    CHUNK_BYTES,
    ElementTensor,
    ExtentTensor,
    Tensor,
    TensorSpec,
    byte_swapped,
    translated,
)
from .bundle_messages import (
    Entry,
    Header,
    Range,
    check_spec,
    is_v1_header,
    parse_entry,
    parse_header,
    slice_key,
)
from .bundle_strings import decode_strings, decode_variants
from .slices import Part, stitch
from .sstable import Table, unmask

__all__ = [
    "LOW_BITS",
    "Bundle",
    "bundle_prefix",
    "count_shards",
    "index_path",
    "is_bundle_index",
    "shard_path",
]

_MEMBER = re.compile(r"^(?P<prefix>.+)\.(index|meta|data-\d{5}-of-\d{5})$", re.DOTALL)


def _table(bits: int, signed: bool) -> bytes:
    """Return what each stored byte stands for: the low bits, sign-extended."""
    low = (1 << bits) - 1
    sign = 1 << (bits - 1) if signed else 0
    return bytes(((byte & low) ^ sign) - sign & 0xFF for byte in range(256))


# Types stored in the low bits of a byte. TensorFlow writes the high ones as 0 and ignores them.
LOW_BITS = {
    DType.INT4: _table(4, signed=True),
    DType.UINT4: _table(4, signed=False),
    DType.INT2: _table(2, signed=True),
    DType.UINT2: _table(2, signed=False),
    DType.FLOAT4_E2M1FN: _table(4, signed=False),
}


def index_path(prefix: Path) -> Path:
    """Return the index file of a checkpoint prefix."""
    return prefix.with_name(f"{prefix.name}.index")


def shard_path(prefix: Path, shard: int, shards: int) -> Path:
    """Return a data shard of a checkpoint prefix."""
    return prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")


def bundle_prefix(member: Path) -> Path | None:
    """Return the prefix that a member file (index, data shard, meta graph) belongs to, or None."""
    match = _MEMBER.match(member.name)
    return member.with_name(match["prefix"]) if match else None


def is_bundle_index(path: Path) -> bool:
    """Tell whether a file is a table that begins with a bundle header, not a V1 checkpoint's."""
    source = FileSource(path)
    try:
        key, value = next(iter(Table(source, verify=False).entries()), (None, b""))
    except ConvertError:
        return False
    finally:
        source.close()
    return key == b"" and not is_v1_header(value)


class Bundle(NamedTuple):
    """An opened bundle.

    Attributes:
        header: shards and byte order.
        tensors: by name, in the order of the index; partitioned ones whole.
        broken: tensors that are listed but cannot be read, and why.
        notes: what was unusual.
        sources: the index and the shards, to be closed.
    """

    header: Header
    tensors: dict[str, Tensor]
    broken: dict[str, ConvertError]
    notes: tuple[Note, ...]
    sources: tuple[FileSource, ...]

    @classmethod
    def open(cls, prefix: Path, *, verify: bool = True) -> Bundle:
        """Read the index below `prefix`; reads no tensor data.

        Raises:
            NotRecognisedError: there is no index file.
            CorruptFileError: the index is damaged, or not one.
        """
        return _Reader(prefix, verify).open()


def count_shards(index: Path) -> int:
    """Return how many data shards an index file speaks of.

    Raises:
        ConvertError: it cannot be read, or is no index.
    """
    source = FileSource(index)
    try:
        key, value = next(Table(source).entries(), (None, b""))
    finally:
        source.close()
    if key != b"":
        raise CorruptFileError("is no index of a checkpoint", path=index)
    return parse_header(value).shards


class _Reader:
    """Opens one bundle."""

    def __init__(self, prefix: Path, verify: bool) -> None:
        self._prefix = prefix
        self._verify = verify
        self._path = index_path(prefix)
        self._entries: dict[bytes, Entry] = {}
        self._broken: dict[str, ConvertError] = {}
        self._notes: list[Note] = []

    def open(self) -> Bundle:
        index = FileSource(self._path)
        try:
            self._header = self._read_index(index)
        finally:
            index.close()
        count = self._header.shards
        self._shards = [FileSource(shard_path(self._prefix, n, count)) for n in range(count)]
        self._sizes = [self._shard_size(shard.place) for shard in self._shards]
        hidden = self._slice_keys()
        tensors: dict[str, Tensor] = {}
        for key, entry in self._entries.items():
            if key not in hidden:
                name = decode(key)
                tensors[name] = self._open_tensor(name, key, entry)
        return Bundle(self._header, tensors, self._broken, tuple(self._notes), tuple(self._shards))

    # The index

    def _read_index(self, index: FileSource) -> Header:
        table = Table(index, verify=self._verify)
        rows = table.entries()
        key, value = next(rows, (None, b""))
        if key != b"" or is_v1_header(value):
            raise CorruptFileError(
                "first entry of the index",
                path=self._path,
                expected="a bundle header under the empty key",
                got="none" if key is None else f"key {key[:40]!r}",
            )
        repeated = 0
        try:
            header = parse_header(value)
            for key, value in rows:
                if key in self._entries:
                    repeated += 1
                else:
                    self._entries[key] = parse_entry(value)
        except CorruptFileError as error:
            if error.path is None:
                error.path = str(self._path)
                error.within(f"entry `{decode(key or b'')}`")
            raise error from None
        if table.out_of_order:
            self._note("keys of the index are not sorted; TensorFlow may not find some of them")
        if repeated:
            self._note(f"{repeated} repeated keys in the index; the first of each was taken")
        return header

    def _note(self, text: str) -> None:
        self._notes.append(Note(Kind.SOURCE, text))

    def _slice_keys(self) -> set[bytes]:
        """Return the keys of all slices that some partitioned tensor lists."""
        return {
            slice_key(key, ranges)
            for key, entry in self._entries.items()
            for ranges in entry.slices
        }

    # Tensors

    def _open_tensor(self, name: str, key: bytes, entry: Entry) -> Tensor:
        try:
            spec = check_spec(entry.dtype, entry.shape)
        except CorruptFileError as error:
            error.path = str(self._path)
            raise error.within(f"tensor `{name}`") from None
        try:
            if entry.slices:
                return self._stitch(spec, key, entry)
            return self._stored(spec, entry)
        except CorruptFileError as error:
            if error.path is None:
                error.path = str(self._path)
            self._broken[name] = error.within(f"tensor `{name}`")
            return _Unreadable(spec, error)

    def _stored(self, spec: TensorSpec, entry: Entry) -> Tensor:
        """Return a tensor that lies in one piece."""
        if not self._is_in_place(spec, entry):
            self._check_place(spec, entry)
        shard = self._shards[entry.shard]
        if spec.dtype.variable:
            return ElementTensor(spec, partial(self._elements, spec, shard, entry), entry.size)
        tensor = _Stored(spec, shard, entry.offset, entry.crc if self._verify else None)
        if spec.dtype in LOW_BITS:
            return translated(tensor, LOW_BITS[spec.dtype])
        return byte_swapped(tensor) if self._header.big_endian else tensor

    def _stitch(self, spec: TensorSpec, key: bytes, entry: Entry) -> Tensor:
        return stitch(spec, [self._part(spec, key, ranges) for ranges in entry.slices])

    def _part(self, spec: TensorSpec, key: bytes, ranges: tuple[Range, ...]) -> Part:
        if len(ranges) != len(spec.shape):
            raise CorruptFileError("slice", expected=f"rank {len(spec.shape)}", got=len(ranges))
        starts = tuple(start for start, _ in ranges)
        lengths = tuple(
            dim if length is None else length
            for (_, length), dim in zip(ranges, spec.shape, strict=True)
        )
        place = f"slice {lengths} at {starts}"
        entry = self._entries.get(slice_key(key, ranges))
        if entry is None:
            raise CorruptFileError("has no entry of its own", where=place)
        part = TensorSpec(spec.dtype, lengths)
        try:
            return Part(starts, lengths, self._stored_part(part, entry))
        except CorruptFileError as error:
            raise error.within(place) from None

    def _stored_part(self, spec: TensorSpec, entry: Entry) -> Tensor:
        if check_spec(entry.dtype, entry.shape) != spec or entry.slices:
            got = f"dtype number {entry.dtype}, shape {entry.shape}"
            raise CorruptFileError(
                "entry of the slice", expected=f"{spec.dtype} {spec.shape}", got=got
            )
        return self._stored(spec, entry)

    def _is_in_place(self, spec: TensorSpec, entry: Entry) -> bool:
        """Tell in one go whether all is well, as it is 100,000 times in a row."""
        return (
            0 <= entry.shard < len(self._sizes)
            and entry.size == spec.nbytes
            and entry.offset >= 0
            and entry.offset + entry.size <= (self._sizes[entry.shard] or 0)
        )

    def _check_place(self, spec: TensorSpec, entry: Entry) -> None:
        if not 0 <= entry.shard < len(self._shards):
            raise CorruptFileError(
                "shard", expected=f"0 to {len(self._shards) - 1}", got=entry.shard
            )
        if not spec.dtype.variable and entry.size != spec.nbytes:
            raise CorruptFileError(
                f"size of {spec.dtype} {spec.shape}",
                expected=f"{spec.nbytes} bytes",
                got=f"{entry.size} bytes",
            )
        if entry.offset < 0 or entry.size < 0:
            raise CorruptFileError("offset and size", expected="0 or more", got=entry[3:5])
        available = self._sizes[entry.shard]
        if available is None:
            raise self._missing(entry.shard)
        if entry.offset + entry.size > available:
            raise CorruptFileError(
                "the shard ends early",
                path=self._shards[entry.shard].path,
                expected=f"{entry.offset + entry.size} bytes",
                got=f"{available} bytes",
                hint="copy the shard again; --allow-missing reads the other tensors",
            )

    def _missing(self, shard: int) -> CorruptFileError:
        path = self._shards[shard].path
        pattern = re.compile(re.escape(self._prefix.name) + rf"\.data-{shard:05d}-of-\d{{5}}")
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        others = [other.name for other in siblings if pattern.fullmatch(other.name)]
        hint = "copy the shard here; --allow-missing reads the other tensors"
        if len(others) == 1:
            hint = f"`{others[0]}` may be it: rename it if so"
        return CorruptFileError("data shard is missing", path=path, hint=hint)

    @staticmethod
    def _shard_size(path: Path) -> int | None:
        return path.stat().st_size if path.is_file() else None

    def _elements(self, spec: TensorSpec, shard: FileSource, entry: Entry) -> list[bytes]:
        data = shard.read(entry.offset, entry.size)
        crc = entry.crc if self._verify else None
        try:
            if spec.dtype is DType.VARIANT:
                return decode_variants(data, spec.size, crc)
            return decode_strings(data, spec.size, crc, big_endian=self._header.big_endian)
        except CorruptFileError as error:
            error.path = str(shard.path)
            raise error.within(f"byte {entry.offset} to {entry.offset + entry.size}") from None


class _Stored(ExtentTensor):
    """A tensor in one range of a shard; its extent is made when asked for, as few ever are."""

    __slots__ = ("_crc", "_offset", "_source")

    def __init__(self, spec: TensorSpec, source: Source, offset: int, crc: int | None) -> None:
        self.spec = spec
        self._source = source
        self._offset = offset
        self._crc = crc

    @property
    def extents(self) -> tuple[Extent, ...]:
        crc = self._crc
        checksum = None if crc is None else Checksum(Algorithm.CRC32C, unmask(crc))
        return (Extent(self._source, self._offset, self.spec.nbytes, checksum),)


class _Unreadable(Tensor):
    """A tensor that the index lists and nothing holds."""

    __slots__ = ("_error",)

    def __init__(self, spec: TensorSpec, error: ConvertError) -> None:
        self.spec = spec
        self._error = error

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:  # noqa: ARG002
        raise self._error

    def elements(self) -> list[bytes]:
        raise self._error
