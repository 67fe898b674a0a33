r"""HDF5: groups and datasets, one dataset a tensor, at the path that is its name.

    signature  "\x89HDF\r\n\x1a\n" at byte 0, 512, 1024, 2048, …  (before it: a user block)
    metadata   superblock, groups, one header a dataset: type, shape, where its bytes are
    data       contiguous datasets in one piece each

Specified by the HDF5 File Format Specification 3.0 (HDF5 1.14.6). What is read and
refused: `containers/h5_locator.py`, and `containers/hdf5_guard.py` for what libhdf5 has to read;
how types are described: `containers/hdf5_types.py`; strings: `containers/hdf5_strings.py`.

A slash in a name makes a group. What is no path is escaped: a component that is empty becomes
`%`; `%`, NUL and bytes that are not UTF-8 become `%XX`, as does the dot of a component `.` or
`.data`; the slashes beyond the 60th become `%2F`. A tensor whose name is also a group (`w` beside
`w/Adam`) is stored as `w/.data`. Wherever path and name differ, the dataset has the exact name in
the attribute `tensorferry_name`.

Attributes that are ours, all of fixed length: `tensorferry_name`; `dtype`, the true type where
HDF5 cannot say it; `tensorferry_shape`, where the dataset is flat (packed strings and variants,
more than 32 dimensions); for people, on request, `tensorferry_key`, `_role`, `_trainable` and
`_owner`.

Read are all datasets by path, also those of Keras files, which hold bfloat16 as opaque bytes with
our attribute `dtype`. Not read: other attributes, strings of variable length in chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from ..containers import hdf5_strings as strings
from ..containers.h5_reading import read_tree
from ..containers.h5_tensors import tensor_of
from ..containers.h5_tree import Stored, Tree
from ..containers.hdf5_attributes import Attribute
from ..containers.hdf5_deflated import write_deflated
from ..containers.hdf5_guard import MAX_DEPTH
from ..containers.hdf5_skeleton import Member, Skeleton, build
from ..containers.hdf5_types import Element, describes
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError, NotRecognisedError, TargetError
from ..names import assign, decode, encode, escape
from ..notes import Kind, Note
from ..output import Literal, Placement, Plan, PlannedFile
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import FileSource
from ..tensors import (
    ElementTensor,
    Origin,
    Tensor,
    TensorDict,
    TensorSpec,
)
from ..ties import untied

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NAME = "tensorferry_name"
SHAPE = "tensorferry_shape"
DTYPE = "dtype"
KEY, ROLE, TRAINABLE, OWNER = (
    "tensorferry_key", "tensorferry_role", "tensorferry_trainable", "tensorferry_owner",
)  # fmt: skip
READ = (NAME, SHAPE, DTYPE)
OURS = frozenset({*READ, KEY, ROLE, TRAINABLE, OWNER})
ATTRIBUTES = re.compile("|".join(READ))
SELF = ".data"
MAX_RANK = 32  # H5S_MAX_RANK


# Reading


def _sniff(location: Location) -> bool:
    return any(location.head.startswith(SIGNATURE, at) for at in (0, 512, 1024, 2048))


def _open(location: Location, options: ReadOptions) -> TensorDict:
    path = location.path
    if not location.is_file:
        raise NotRecognisedError("is not a file", path=path)
    source = FileSource(path)
    try:
        tree = read_tree(source, ATTRIBUTES, verify=options.verify)
        return _tensors(tree, source, options)
    except BaseException as error:
        source.close()
        if isinstance(error, ConvertError) and error.path is None:
            error.path = str(path)
        raise


def _tensors(tree: Tree, source: FileSource, options: ReadOptions) -> TensorDict:
    tensors: dict[str, Tensor] = {}
    origins: dict[str, Origin] = {}
    notes: list[Note] = []
    foreign = len(tree.names(""))
    # The order of names, whatever order the file has them in.
    for path in sorted(tree.datasets, key=lambda path: encode(path).split(b"/")):
        stored = tree.datasets[path]
        try:
            exact = _text(tree, path, NAME) if options.names == "readable" else None
            name = path if exact is None else exact
            if name in tensors:
                raise CorruptFileError(f"a second tensor with the name `{name}`")
            if stored.shape is None:
                text = f"dataset `{path}` holds nothing, not even a shape: left out"
                notes.append(Note(Kind.SOURCE, text))
                continue
            tensors[name] = _tensor(tree, path, stored, source)
        except ConvertError as error:
            raise error.within(f"dataset `{path}`") from None
        origins[name] = Origin(path)
        foreign += sum(other not in OURS for other in tree.names(path))
    if foreign:
        text = f"{foreign} attributes of the file and its datasets are not read"
        notes.append(Note(Kind.METADATA_LOST, text))
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} file",
        tensors=tensors,
        origins=origins,
        notes=tuple(notes),
        sources=(source,),
    )


def _tensor(tree: Tree, path: str, stored: Stored, source: FileSource) -> Tensor:
    dims = stored.shape or ()
    if stored.element.dtype is DType.STRING:
        return tensor_of(path, stored, TensorSpec(DType.STRING, dims), source)
    dtype = _dtype(tree, path, stored.element)
    shape = _shape(tree, path)
    if dtype.variable:
        raw = tensor_of(path, stored, TensorSpec(DType.UINT8, dims), source)
        spec = TensorSpec(dtype, shape or ())
        load = partial(strings.unpack, raw, spec.size)
        return ElementTensor(spec, partial(_load, path, source, load), raw.nbytes)
    spec = TensorSpec(dtype, dims if shape is None else shape)
    if spec.size != prod(dims) or any(dim < 0 for dim in spec.shape):
        expected = f"{prod(dims)} elements"
        raise CorruptFileError(f"attribute `{SHAPE}`", expected=expected, got=shape)
    return tensor_of(path, stored, spec, source)


def _dtype(tree: Tree, path: str, element: Element) -> DType:
    """Return the type that the attribute `dtype` names, if the dataset can be that."""
    label = _text(tree, path, DTYPE)
    named = None if label is None else DType.named(label.rstrip("\0"))
    if element.dtype is None:
        if named is None or named.native or named.itemsize != element.width:
            raise CorruptFileError(
                "a type that is not read: opaque",
                expected=f"an attribute `{DTYPE}` that names a type of {element.width} bytes",
                got="none" if label is None else repr(label),
            )
        return named
    if named is None or named.native:  # an attribute of somebody else's
        return element.dtype
    if named.variable:
        packed = element.dtype is DType.UINT8 and SHAPE in tree.names(path)
        return named if packed else element.dtype
    return named if named.carrier == element.dtype.label else element.dtype


def _text(tree: Tree, path: str, name: str) -> str | None:
    """Return an attribute if it is one text; another kind is somebody else's."""
    value = tree.value(path, name)
    if value == ():
        return ""
    return decode(value[0]) if isinstance(value, list) and len(value) == 1 else None


def _shape(tree: Tree, path: str) -> tuple[int, ...] | None:
    value = tree.value(path, SHAPE)
    return value if isinstance(value, tuple) else None


def _load(key: str, source: FileSource, load: Callable[[], list[bytes]]) -> list[bytes]:
    try:
        return load()
    except ConvertError as error:
        if error.path is None:
            error.path = str(source.path)
        raise error.within(f"dataset `{key}`") from None


# Writing


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    source = tensors
    tensors, said = untied(source)
    paths = _flat_paths(tensors) if options.flat else _paths(tensors)
    hint = "leave --flat out, or one of them with --exclude" if options.flat else None
    names = assign(tensors, paths.__getitem__, target, hint)
    # In the order in which they will be read, so that a file written anew is the same file.
    names = dict(sorted(names.items(), key=lambda item: encode(item[1]).split(b"/")))
    notes: list[Note] = [*said]
    members: list[Member] = []
    payloads: dict[str, bytes] = {}
    for name, stored in names.items():
        tensor = tensors[name]
        if stored != name:
            notes.append(Note(Kind.RENAMED, f"stored as `{stored}`", name))
        if tensor.spec.dtype.variable:
            member, payload = _string_member(stored, tensor)
            if payload is not None:
                payloads[name] = payload
        else:
            member = _member(stored, tensor.spec)
        if DTYPE in member.attributes:
            text = f"kept as {member.dtype} with an attribute"
            notes.append(Note(Kind.ENCODED, text, name))
        if stored != name:
            member = member._replace(attributes={**member.attributes, NAME: encode(name)})
        if options.provenance:
            member = member._replace(
                attributes={**member.attributes, **_provenance(tensors.origin(name))}
            )
        members.append(member)
    tensors = tensors.select(names)
    if options.compress:
        contents = [None if each.strings is not None else payloads.get(name, tensors[name])
                    for name, each in zip(names, members, strict=True)]  # fmt: skip
        rows = list(zip(names, members, contents, strict=True))
        size = sum(_most_bytes(member) for member in members)
        file = PlannedFile(
            target, size, make=lambda path, advance: write_deflated(path, rows, advance)
        )
    else:
        file = _file(target, _build(members, target), tensors, payloads)
    changed = {name: names[name] for name in source if names[name] != name}
    notes = [note for note in notes if note.tensor is None or note.tensor in source]
    return Plan(FORMAT.name, (file,), changed, tuple(notes))


def _member(path: str, spec: TensorSpec) -> Member:
    extra: dict[str, Attribute] = {}
    dtype, shape = spec.dtype, spec.shape
    if not describes(dtype):
        extra[DTYPE] = dtype.label.encode("ascii")
        dtype = DType.named(dtype.carrier) or dtype
    if len(shape) > MAX_RANK:
        extra[SHAPE] = shape
        shape = (spec.size,)
    return Member(path, dtype, shape, extra)


def _provenance(origin: Origin) -> dict[str, Attribute]:
    """Return what is known of where a tensor came from."""
    known: dict[str, Attribute] = {KEY: encode(origin.key), ROLE: origin.role.value.encode("ascii")}
    if origin.trainable is not None:
        known[TRAINABLE] = (int(origin.trainable),)
    if origin.owner:
        known[OWNER] = encode(origin.owner)
    return known


# What libhdf5 may add to a dataset (header, chunk index), and deflate to its bytes.
_DATASET_BYTES, _EXCESS = 8192, 1 / 512


def _most_bytes(member: Member) -> int:
    size = prod(member.shape) * member.dtype.itemsize + sum(map(len, member.strings or ()))
    return _DATASET_BYTES + 2 * len(encode(member.path)) + size + int(size * _EXCESS)


def _string_member(path: str, tensor: Tensor) -> tuple[Member, bytes | None]:
    """Return the dataset of a string or variant tensor, and its bytes where they are packed."""
    dtype, shape, elements = tensor.spec.dtype, tensor.spec.shape, tensor.elements()
    fits = dtype is DType.STRING and len(shape) <= MAX_RANK
    if fits and all(map(strings.is_text, elements)):
        return Member(path, dtype, shape, {}, elements), None
    payload = strings.pack(elements)
    extra: dict[str, Attribute] = {DTYPE: dtype.label.encode("ascii"), SHAPE: shape}
    return Member(path, DType.UINT8, (len(payload),), extra), payload


def _build(members: Iterable[Member], target: Path) -> Skeleton:
    try:
        return build(members)
    except (OSError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise TargetError(
            f"HDF5 cannot hold these tensors: {error}", path=target, hint="choose .safetensors"
        ) from error


def _file(
    target: Path, skeleton: Skeleton, tensors: TensorDict, payloads: Mapping[str, bytes]
) -> PlannedFile:
    """Return the file: tensors at their offsets, and everything between them."""
    literals: list[Literal] = []
    placements: list[Placement] = []
    for (name, tensor), offset in zip(tensors.items(), skeleton.offsets, strict=True):
        if name in payloads:
            literals.append((offset or 0, payloads[name]))
        elif not tensor.spec.dtype.variable:
            placements.append(Placement(name, tensor, offset or 0))  # 0: it has no bytes
    placements.sort(key=lambda placement: placement.offset)
    places = [(offset, len(data)) for offset, data in literals]
    places += [(placement.offset, placement.tensor.nbytes) for placement in placements]
    literals += skeleton.gaps(places)
    return PlannedFile(target, skeleton.size, tuple(literals), tuple(placements))


# Names

_ESCAPED = re.compile("[%\0\udc80-\udcff]")
_MAX_PARTS = MAX_DEPTH - 4  # our own guard lets through what we write


def _paths(names: Iterable[str]) -> dict[str, str]:
    """Return a path for each name; different names get different paths."""
    paths = {name: _path(name) for name in names}
    groups: set[str] = set()
    for path in paths.values():
        at = path.rfind("/")
        while at >= 0 and path[:at] not in groups:
            groups.add(path[:at])
            at = path.rfind("/", 0, at)
    return {name: f"{path}/{SELF}" if path in groups else path for name, path in paths.items()}


def _flat_paths(names: Iterable[str]) -> dict[str, str]:
    """Return a name without groups for each name; dots stand for slashes."""
    return {name: _component(name.replace("/", ".")) for name in names}


def _path(name: str) -> str:
    parts = name.split("/")
    kept = [_component(part) for part in parts[:_MAX_PARTS]]
    rest = [_component(part) for part in parts[_MAX_PARTS:]]
    return "%2F".join(["/".join(kept), *rest])


def _component(part: str) -> str:
    """Return a component that HDF5 can hold; different ones for different parts.

    Every `%` that stands for itself is escaped, so none that is not stands for itself.
    """
    if not part:
        return "%"
    if part in (".", SELF):
        return f"%2E{part[1:]}"
    return escape(part, "%\0") if _ESCAPED.search(part) else part


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.h5_audit import audit_h5

    del location, options
    yield from audit_h5(tensors.sources[0])


FORMAT = Format(
    name="hdf5",
    title="HDF5",
    extensions=(".h5", ".hdf5"),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    options=frozenset({"flat", "compress", "provenance"}),
    generic=True,
    limits="links out, virtual datasets, compound types",
    audit=_audit,
)
