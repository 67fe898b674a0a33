r"""npz: a zip archive of arrays, each a member `<name>.npy`; what numpy.savez writes.

    93 'NUMPY' 01 00    magic and version of the npy format; 2.0 and 3.0 have a uint32 length
    n                   uint16, little endian: length of the header, at most 10,000 here
    header              {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, padded with
                        blanks and a newline so that the data starts at a multiple of 64
    data                the elements

Specified by numpy/lib/_format_impl.py (v2.4.6, module docstring); zip: `containers/zip_archive.py`.
We write the same npy headers as numpy, members stored and not deflated (which saves 7 % of float
weights at 35 MB/s), sorted by name, and all data at multiples of 64 bytes of the archive, so that
arrays can be mapped into memory from where they lie.

Not read: arrays of objects (a pickle, which could run code), structures, dates, long doubles, and
bfloat16 or float8 as ml_dtypes lets numpy write them (`|V2`, `<f1`: which type is not said).

Types that numpy lacks are stored as integers of the same bytes, and said in a member
`__tensorferry__.json` (`converters/record.py`). Strings are `|S<n>`, padded with NUL; those that
end in NUL or are of very unlike lengths, and variants, are kept in that member.

Producers and their quirks: numpy gives every local header a zip64 extra field; Python 2 wrote
shapes as `(3L, 4L)`; savez stores names verbatim, `../x` too, which is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from blake3 import blake3

from ..checksums import Algorithm, Checksum
from ..containers.npy_header import (
    LENGTH_BYTES,
    MAGIC,
    NpyHeader,
    build_header,
    carrier_dtype,
    parse_header,
    read_header_text,
)
from ..containers.zip_archive import DEFLATED, Member, MemberStream, read_members
from ..containers.zip_builder import (
    PERMISSIONS,
    NewMember,
    build_directory,
    build_local_header,
)
from ..dtypes import DType
from ..errors import CorruptFileError, TargetError
from ..names import assign, encode, escape
from ..notes import Kind, Note
from ..output import Advance, Placement, Plan, PlannedFile
from ..record import RECORD_BYTES, Record
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import Extent, FileSource, Source
from ..tensors import (
    CHUNK_BYTES,
    ElementTensor,
    ExtentTensor,
    MemoryTensor,
    Tensor,
    TensorDict,
    TensorSpec,
    byte_swapped,
)
from ..ties import untied

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]

RECORD = "__tensorferry__.json"
SUFFIX = ".npy"


# Reading


def _sniff(location: Location) -> bool:
    head = location.head
    if head.startswith(b"PK\x05\x06"):
        return len(head) == 22  # an archive of no arrays
    if not head.startswith(b"PK\x03\x04"):
        return False
    end = 30 + int.from_bytes(head[26:28], "little")
    if end > len(head):  # a very long name
        head = location.start(end)
    name = head[30:end]
    return name.endswith(SUFFIX.encode()) or name == RECORD.encode()


def _open(location: Location, options: ReadOptions) -> TensorDict:
    source = FileSource(location.path)
    try:
        return _read(source, options)
    except BaseException as error:
        source.close()
        if isinstance(error, CorruptFileError) and error.path is None:
            error.path = str(location.path)
        raise


def _read(source: Source, options: ReadOptions) -> TensorDict:
    members = {member.name: member for member in read_members(source)}
    own = members.pop(RECORD, None)
    record = _read_record(source, own, verify=options.verify) if own else Record()
    arrays: dict[str, Tensor] = {}
    notes: list[Note] = []
    for member, stored in _by_stored_name(members).items():
        try:
            found = _array(source, members[member], record.dtypes.get(stored), options.verify)
        except CorruptFileError as error:
            raise error if error.path else error.within(f"member `{member}`") from None
        if found is None:
            notes.append(Note(Kind.SOURCE, f"member `{member}` is no array and is left out"))
        else:
            arrays[stored] = found
    tensors, origins = record.apply(arrays, readable=options.names == "readable")
    deflated = sum(member.method == DEFLATED for member in members.values())
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title}, compressed" if deflated else FORMAT.title,
        tensors=tensors,
        origins=origins,
        notes=tuple(notes),
        details={"compressed_members": deflated} if deflated else {},
        sources=(source,),
    )


def _by_stored_name(members: Mapping[str, Member]) -> dict[str, str]:
    """Return by member its stored name; numpy takes `a` and `a.npy` for the same array."""
    stored = {name: name.removesuffix(SUFFIX) for name in members if not name.endswith("/")}
    for name, short in stored.items():
        if name != short and short in stored:
            raise CorruptFileError(f"`{name}` and `{short}` have the same name as arrays")
    return stored


def _read_record(source: Source, member: Member, *, verify: bool) -> Record:
    where = f"member `{member.name}`"
    if member.size > RECORD_BYTES:
        raise CorruptFileError(
            "size", where=where, expected=f"at most {RECORD_BYTES} bytes", got=f"{member.size}"
        )
    stream = MemberStream(source, member, verify=verify)
    text = stream.read(member.size)
    stream.finish()
    try:
        return Record.parse(text)
    except CorruptFileError as error:
        raise error.within(where) from None


def _array(source: Source, member: Member, recorded: DType | None, verify: bool) -> Tensor | None:
    """Return the tensor of a member, or None if it is no array; `recorded` is its true type."""
    stream = MemberStream(source, member, verify=False)
    head = stream.read(min(len(MAGIC) + 2, member.size))
    if not head.startswith(MAGIC):
        if member.name.endswith(SUFFIX):
            raise CorruptFileError("signature of npy", expected=MAGIC, got=head[: len(MAGIC)])
        return None
    text = read_header_text(stream, head[len(MAGIC) :])
    header = parse_header(text)
    dtype = carrier_dtype(header, recorded)
    head += len(text).to_bytes(LENGTH_BYTES[head[-2:]], "little") + text
    nbytes = prod(header.shape) * header.itemsize
    if len(head) + nbytes != member.size:
        raise CorruptFileError(
            f"size for {header.descr} {header.shape}",
            expected=f"{len(head) + nbytes} bytes", got=f"{member.size} bytes",
        )  # fmt: skip
    spec = TensorSpec(dtype, header.shape)
    # Elements of fixed width in which strings lie are bytes as far as reading goes.
    held = TensorSpec(DType.UINT8, (nbytes,)) if dtype.variable else spec
    return _arranged(_stored(source, member, head, held, verify), spec, header, source)


def _stored(source: Source, member: Member, head: bytes, spec: TensorSpec, verify: bool) -> Tensor:
    """Return the bytes after the npy header `head` of a member."""
    if member.method == DEFLATED:
        return _InflatedTensor(spec, source, member, len(head), verify)
    checksum = None
    if verify:
        first = Algorithm.CRC32.update(head)
        value = Algorithm.CRC32.split_off(member.crc, first, spec.nbytes)
        checksum = Checksum(Algorithm.CRC32, value)
    extent = Extent(source, member.data + len(head), spec.nbytes, checksum)
    return ExtentTensor(spec, (extent,))


def _arranged(tensor: Tensor, spec: TensorSpec, header: NpyHeader, source: Source) -> Tensor:
    """Return the tensor in C order and little endian, text as elements."""
    if header.big_endian:
        tensor = byte_swapped(tensor)
    if header.fortran and len(header.shape) > 1 and tensor.nbytes:
        load = partial(_transposed, tensor, header.itemsize, header.shape)
        tensor = MemoryTensor(tensor.spec, load)
    if not spec.dtype.variable:
        return tensor
    return ElementTensor(spec, partial(_elements, tensor, header, source), tensor.nbytes)


class _InflatedTensor(Tensor):
    """The bytes of a deflated member after its npy header, which takes `skipped` bytes."""

    __slots__ = ("_member", "_skipped", "_source", "_verify")

    def __init__(
        self, spec: TensorSpec, source: Source, member: Member, skipped: int, verify: bool
    ) -> None:
        self.spec = spec
        self._source = source
        self._member = member
        self._skipped = skipped
        self._verify = verify

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes as they are inflated; the CRC-32 is checked at the end."""
        step = max(max_bytes // self.spec.dtype.itemsize, 1) * self.spec.dtype.itemsize
        stream = MemberStream(self._source, self._member, verify=self._verify)
        stream.read(self._skipped)
        for at in range(0, self.nbytes, step):
            yield memoryview(stream.read(min(step, self.nbytes - at)))
        stream.finish()


def _transposed(tensor: Tensor, itemsize: int, shape: tuple[int, ...]) -> bytes:
    """Return the bytes of a tensor in Fortran order in C order; holds both at once."""
    import numpy as np  # needed by nothing else here

    kind = f"u{itemsize}" if itemsize in (1, 2, 4, 8) else f"V{itemsize}"
    return np.frombuffer(_joined(tensor), kind).reshape(shape, order="F").tobytes("C")


def _joined(tensor: Tensor) -> bytes:
    return b"".join(bytes(chunk) for chunk in tensor.chunks())


def _elements(tensor: Tensor, header: NpyHeader, source: Source) -> list[bytes]:
    """Return text without the NULs it is padded with, as numpy does; `U` as UTF-8."""
    data, step = _joined(tensor), header.itemsize
    items = (data[at : at + step] for at in range(0, len(data), step))
    if header.kind == "S":
        return [item.rstrip(b"\0") for item in items]
    codec = "utf-32-be" if header.big_endian else "utf-32-le"
    try:
        return [item.decode(codec).rstrip("\0").encode("utf-8") for item in items]
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"text: {error.reason}", path=source.path) from error


# Writing

# Padding may multiply strings by so much, and add this.
MAX_PADDING, MAX_PADDING_BYTES = 4, 1 << 20

MAX_NAME_BYTES = 65_000  # a record of the central directory stays below 65,535
CONTROLS = "".join(map(chr, (*range(32), *range(127, 160))))
_DRIVE = re.compile(r"[A-Za-z]:/")


class _Item(NamedTuple):
    """A member to write: known bytes, then those of a tensor of the dictionary, if any."""

    member: str
    head: bytes
    tensor: str | None = None
    nbytes: int = 0


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    source = tensors
    tensors, said = untied(source)
    names = assign(tensors, _stored_name, target)
    record, notes = Record(), [*said]
    items: list[_Item] = []
    for name, stored in names.items():
        if stored != name:
            record.names[stored] = name
            notes.append(Note(Kind.RENAMED, f"stored as `{stored}`", name))
        item, how = _item(name, stored, tensors[name], record)
        if item:
            items.append(item)
        if how:
            notes.append(Note(Kind.ENCODED, f"kept as {how}", name))
    items.sort(key=lambda item: item.member)
    if record:
        items.append(_Item(RECORD, _build_record(record, target)))
    if options.compress:
        make = partial(_write_deflated, tensors, items)
        file = PlannedFile(target, sum(_most_bytes(item) for item in items), make=make)
    else:
        file = _file(tensors, items, target)
    changed = {name: names[name] for name in source if names[name] != name}
    notes = [note for note in notes if note.tensor is None or note.tensor in source]
    return Plan(FORMAT.name, (file,), changed, tuple(notes))


def _item(
    name: str, stored: str, tensor: Tensor, record: Record
) -> tuple[_Item | None, str | None]:
    """Return the member of a tensor, if it gets one, and how it is encoded, if it is."""
    dtype, shape = tensor.spec.dtype, tensor.spec.shape
    member = f"{stored}{SUFFIX}"
    if dtype.variable:
        padded = _padded(tensor.elements()) if dtype is DType.STRING else None
        if padded is None:
            record.elements[stored] = tensor
            return None, f"text in `{RECORD}`"
        width, data = padded
        return _Item(member, build_header(f"|S{width}", shape) + data), f"`|S{width}`"
    order = "<" if dtype.itemsize > 1 else "|"
    head = build_header(f"{order}{dtype.carrier[0]}{dtype.itemsize}", shape)
    item = _Item(member, head, name, tensor.nbytes)
    if dtype.native:
        return item, None
    record.dtypes[stored] = dtype
    return item, f"{dtype.carrier} with a record"


def _padded(elements: list[bytes]) -> tuple[int, bytes] | None:
    """Return the width and the bytes of strings of equal width; None if that loses or wastes."""
    width = max(map(len, elements), default=0) or 1  # numpy has no strings of width 0
    total = sum(map(len, elements))
    if width * len(elements) > MAX_PADDING * total + MAX_PADDING_BYTES:
        return None
    if any(element.endswith(b"\0") for element in elements):
        return None
    return width, b"".join(element.ljust(width, b"\0") for element in elements)


def _build_record(record: Record, target: Path) -> bytes:
    text = record.build().encode("ascii")
    if len(text) > RECORD_BYTES:
        raise TargetError(
            f"member `{RECORD}` is too long", path=target,
            expected=f"at most {RECORD_BYTES} bytes", got=f"{len(text)} bytes",
            hint="leave some strings out with --exclude",
        )  # fmt: skip
    return text


def _file(tensors: TensorDict, items: list[_Item], target: Path) -> PlannedFile:
    members: list[NewMember] = []
    placements: list[Placement] = []
    at = 0
    for item in items:
        crc = Algorithm.CRC32.update(item.head)
        member = NewMember(item.member, len(item.head) + item.nbytes, at, crc)
        members.append(member)
        at += len(build_local_header(member)) + len(item.head)
        if item.tensor is not None:
            placements.append(Placement(item.tensor, tensors[item.tensor], at))
        at += item.nbytes
    return PlannedFile(
        target,
        at + len(build_directory(members, at)),
        placements=tuple(placements),
        algorithm=Algorithm.CRC32,
        finish=partial(_finish, items, members, at),
    )


def _finish(
    items: list[_Item], members: list[NewMember], end: int, checksums: Mapping[str, int]
) -> Iterator[tuple[int, bytes]]:
    """Yield all headers, now that the tensors' checksums are known, and what follows the data."""
    done = []
    for item, member in zip(items, members, strict=True):
        crc = member.crc
        if item.tensor is not None:
            crc = Algorithm.CRC32.combine(crc, checksums[item.tensor], item.nbytes)
        done.append(member._replace(crc=crc))
        yield member.start, build_local_header(done[-1]) + item.head
    yield end, build_directory(done, end)


# What deflate, headers and directory may add to a member, and to the archive: zlib, deflateBound.
_MEMBER_BYTES, _EXCESS = 4096, 1 / 1024


def _most_bytes(item: _Item) -> int:
    size = len(item.head) + item.nbytes
    return _MEMBER_BYTES + 2 * len(encode(item.member)) + size + int(size * _EXCESS)


def _write_deflated(
    tensors: TensorDict, items: Iterable[_Item], path: Path, advance: Advance
) -> None:
    """Write the archive with its members deflated, one after the other."""
    from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo  # only where it is asked for

    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for item in items:
            info = ZipInfo(item.member)  # of the first date that zip can express
            info.compress_type = ZIP_DEFLATED
            info.create_system, info.external_attr = 3, PERMISSIONS
            info.file_size = len(item.head) + item.nbytes  # tells whether zip64 is needed
            with archive.open(info, "w") as member:
                member.write(item.head)
                if item.tensor is not None:
                    _write_chunks(tensors, item.tensor, member, advance)


def _write_chunks(tensors: TensorDict, name: str, member: IO[bytes], advance: Advance) -> None:
    try:
        for chunk in tensors[name].chunks():
            member.write(chunk)
            advance(len(chunk))
    except CorruptFileError as error:
        raise error.within(f"tensor `{name}`") from error


def _stored_name(name: str) -> str:
    """Return a name that is safe to unpack, and that numpy finds under itself."""
    stored = escape(name, CONTROLS + "\\") or "%"
    if stored.endswith(SUFFIX):  # numpy would take the member `a.npy` for it
        stored = f"{stored.removesuffix(SUFFIX)}%2E{SUFFIX[1:]}"
    if stored == RECORD:
        stored = f"%5F{stored[1:]}"
    if stored.startswith("/"):
        stored = f"%2F{stored[1:]}"
    if _DRIVE.match(stored):
        stored = f"{stored[0]}%3A{stored[2:]}"
    stored = "/".join("%2E%2E" if part == ".." else part for part in stored.split("/"))
    if len(encode(stored)) > MAX_NAME_BYTES:
        stored = f"{stored[:200]}%{blake3(encode(name)).hexdigest(length=8)}"
    return stored


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.zip_audit import audit_zip

    del location
    members = (f"{tensors.origin(name).key}{SUFFIX}" for name in tensors)
    yield from audit_zip(tensors.sources[0], {*members, RECORD}, verify=options.verify)


FORMAT = Format(
    name="npz",
    title="NumPy archive (npz)",
    extensions=(".npz",),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    options=frozenset({"compress"}),
    limits="arrays of objects, structures and dates",
    audit=_audit,
)
