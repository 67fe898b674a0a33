"""The one tensor dictionary: lazy tensors by name, immutable, with where each came from.

A tensor knows its dtype and shape and reads its bytes when asked. Bytes are always C order and
little endian. Elements of variable length (strings, variants) are read with `elements`; their
byte form is, for each element, its length as 8 bytes little endian and then its bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property, partial
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from .dtypes import DType
from .errors import ConvertError, CorruptFileError
from .notes import Kind, Note
from .sources import Extent, Source
from .uses import Evidence, Uses

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CHUNK_BYTES",
    "ChunkTensor",
    "ElementTensor",
    "Evidence",
    "ExtentTensor",
    "MemoryTensor",
    "Origin",
    "Role",
    "Tensor",
    "TensorDict",
    "TensorSpec",
    "byte_swapped",
    "check_extent",
    "retyped",
    "translated",
    "variant_notes",
    "with_texts",
]

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, without its values."""

    dtype: DType
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the values; 0 for elements of variable length, whose size is not in a spec."""
        return self.size * self.dtype.itemsize

    @property
    def addressable(self) -> bool:
        """Whether such a tensor can be: below 2^63 bytes, even with dimensions of 0 left out.

        numpy and TensorFlow take no others, and a file that holds one is no honest one.
        """
        return prod(filter(None, self.shape)) * max(self.dtype.itemsize, 1) < 1 << 63


class Tensor(ABC):
    """A tensor that reads when asked; `chunks` is all that a subclass must provide."""

    __slots__ = ("spec",)

    spec: TensorSpec

    @abstractmethod
    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes in order, at most `max_bytes` at a time and whole elements each.

        A view is valid until the next step; the buffer below it is used again.

        Raises:
            CorruptFileError: the source is shorter than it says, or a checksum differs.
        """

    @property
    def extents(self) -> tuple[Extent, ...] | None:
        """Byte ranges that joined are exactly the tensor's bytes, or None if there are none."""
        return None

    @property
    def nbytes(self) -> int:
        """Length in bytes; for variable elements, of what the container holds."""
        return self.spec.nbytes

    def elements(self) -> list[bytes]:
        """Return the elements of a string or variant tensor in C order.

        Raises:
            TypeError: elements are of fixed size; use `chunks` or `read`.
        """
        raise TypeError(f"{self.spec.dtype} has no variable elements")

    def read(self) -> np.ndarray:
        """Return the whole tensor as an array of its own; strings as an array of `bytes`.

        Raises:
            ConvertError: it cannot be read, or has more dimensions than numpy can count.
        """
        import numpy as np

        if self.spec.dtype.variable:
            array = np.empty(self.spec.size, dtype=object)
            array[:] = self.elements()
            return _shaped(array, self.spec.shape)
        raw = bytearray(self.nbytes)
        at = 0
        for chunk in self.chunks():
            raw[at : at + len(chunk)] = chunk
            at += len(chunk)
        return _shaped(np.frombuffer(raw, self.spec.dtype.numpy()), self.spec.shape)


def _shaped(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return array.reshape(shape)
    except ValueError as error:  # more dimensions than numpy has
        raise ConvertError(f"no array can have this shape: {error}", got=shape) from error


class ExtentTensor(Tensor):
    """A tensor whose bytes lie in one or more byte ranges, checked against their checksums."""

    __slots__ = ("_extents",)

    def __init__(self, spec: TensorSpec, extents: tuple[Extent, ...]) -> None:
        self.spec = spec
        self._extents = extents

    @property
    def extents(self) -> tuple[Extent, ...]:
        """Byte ranges that joined are exactly the tensor's bytes."""
        return self._extents

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes of each range in order; a range's checksum is checked at its end."""
        step = max(max_bytes // self.spec.dtype.itemsize, 1) * self.spec.dtype.itemsize
        buffer = memoryview(bytearray(min(step, self.nbytes)))
        for extent in self.extents:
            value = 0
            for at in range(0, extent.length, step):
                view = buffer[: min(step, extent.length - at)]
                extent.source.read_into(extent.offset + at, view)
                if extent.checksum:
                    value = extent.checksum.algorithm.update(view, value)
                yield view
            check_extent(extent, value)


class ChunkTensor(Tensor):
    """A tensor whose bytes are those of another, each chunk passed through a function.

    Args:
        spec: what comes out.
        inner: what goes in; as many bytes.
        change: gets a chunk of whole elements, returns as many bytes.
    """

    __slots__ = ("_change", "_inner")

    def __init__(
        self, spec: TensorSpec, inner: Tensor, change: Callable[[memoryview], bytes]
    ) -> None:
        self.spec = spec
        self._inner = inner
        self._change = change

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the changed bytes."""
        for chunk in self._inner.chunks(max_bytes):
            yield memoryview(self._change(chunk))


class MemoryTensor(Tensor):
    """A tensor that something holds in memory, or makes there when asked.

    Args:
        spec: dtype and shape.
        load: returns the bytes, C order and little endian.
    """

    __slots__ = ("_load",)

    def __init__(self, spec: TensorSpec, load: Callable[[], bytes | bytearray]) -> None:
        self.spec = spec
        self._load = load

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield views of the bytes."""
        step = max(max_bytes // self.spec.dtype.itemsize, 1) * self.spec.dtype.itemsize
        data = memoryview(self._load())
        for at in range(0, len(data), step):
            yield data[at : at + step]


class ElementTensor(Tensor):
    """A string or variant tensor.

    Args:
        spec: dtype and shape.
        load: returns the elements in C order.
        nbytes: bytes they take where they are stored.
    """

    __slots__ = ("_load", "_nbytes")

    def __init__(self, spec: TensorSpec, load: Callable[[], list[bytes]], nbytes: int) -> None:
        self.spec = spec
        self._load = load
        self._nbytes = nbytes

    @property
    def nbytes(self) -> int:
        """Bytes the elements take where they are stored."""
        return self._nbytes

    def elements(self) -> list[bytes]:
        """Return the elements in C order."""
        return self._load()

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield length and bytes of each element in turn."""
        for element in self._load():
            yield memoryview(len(element).to_bytes(8, "little"))
            for at in range(0, len(element), max_bytes):
                yield memoryview(element)[at : at + max_bytes]


def retyped(tensor: Tensor, dtype: DType) -> Tensor:
    """Return the same bytes as another type of the same width."""
    spec = TensorSpec(dtype, tensor.spec.shape)
    if tensor.extents is not None:
        return ExtentTensor(spec, tensor.extents)
    return ChunkTensor(spec, tensor, bytes)


def byte_swapped(tensor: Tensor) -> Tensor:
    """Return a tensor of which the source holds the bytes in big-endian order."""
    unit = tensor.spec.dtype.swap_unit
    if unit < 2:
        return tensor
    return ChunkTensor(tensor.spec, tensor, partial(_swap, unit))


def _swap(unit: int, chunk: memoryview) -> bytes:
    values = array({2: "H", 4: "I", 8: "Q"}[unit], bytes(chunk))
    values.byteswap()
    return values.tobytes()


def translated(tensor: Tensor, table: bytes) -> Tensor:
    """Return a tensor of one-byte elements with each byte replaced by `table[byte]`."""
    return ChunkTensor(tensor.spec, tensor, partial(_translate, table))


def _translate(table: bytes, chunk: memoryview) -> bytes:
    return bytes(chunk).translate(table)


def check_extent(extent: Extent, value: int) -> None:
    """Compare the checksum of what was read with the one the source keeps.

    Raises:
        CorruptFileError: they differ.
    """
    checksum = extent.checksum
    if checksum is None or checksum.value == value:
        return
    raise CorruptFileError(
        f"{checksum.algorithm.label} of the bytes differs",
        path=extent.source.path,
        where=f"byte {extent.offset} to {extent.offset + extent.length}",
        expected=f"0x{checksum.value:08x}",
        got=f"0x{value:08x}",
        hint="copy the file again, or read what is there with --no-checksum",
    )


class Role(Enum):
    """What a tensor is for, as far as the file itself says."""

    UNKNOWN = "tensor"
    WEIGHT = "weight"
    STATE = "state"  # not trained and part of the model: moving mean and variance
    SLOT = "optimizer slot"
    AVERAGE = "moving average"  # of a variable, kept beside it
    OPTIMIZER = "optimizer state"
    COUNTER = "counter"
    CONSTANT = "constant"
    TEXT = "text"
    TABLE = "table"

    __hash__ = object.__hash__  # as for DType: members are singletons, and it is thrice as fast


class Origin(NamedTuple):
    """Where a tensor came from.

    Attributes:
        key: what the file calls it, verbatim; bytes that are not UTF-8 as PEP 383 carries them.
        role: what it is for.
        owner: name of the variable that an optimizer slot or a moving average belongs to.
        trainable: whether training changes it; None where the file does not say.
        evidence: how the role is known.
        slot: what its optimizer calls an optimizer slot, such as `m`.
    """

    key: str
    role: Role = Role.UNKNOWN
    owner: str | None = None
    trainable: bool | None = None
    evidence: Evidence = Evidence.NONE
    slot: str | None = None


def with_texts(
    origins: Mapping[str, Origin], tensors: Mapping[str, Tensor]
) -> Mapping[str, Origin]:
    """Call variables that hold strings text: no graph does, and they are no weights.

    Args:
        origins: by name.
        tensors: all of them, by the same names.
    """
    strings = [name for name, each in tensors.items() if each.spec.dtype is DType.STRING]
    changed = {
        name: origins[name]._replace(role=Role.TEXT)
        for name in strings
        if origins[name].role is not Role.TABLE
    }
    return {**origins, **changed} if changed else origins


def variant_notes(tensors: Mapping[str, Tensor]) -> Iterator[Note]:
    """Say of each variant that nobody looks into it."""
    for name, tensor in tensors.items():
        if tensor.spec.dtype is DType.VARIANT:
            yield Note(Kind.SOURCE, "a variant: its bytes are kept and not interpreted", name)


@dataclass(frozen=True, eq=False)
class TensorDict(Mapping[str, Tensor]):
    """Tensors by name, in a stable order, with what is known about them.

    Closing it closes the sources below the tensors; it is a context manager.

    Attributes:
        format: name of the format that was read.
        summary: one phrase on what was recognised, for people.
        tensors: the tensors by name.
        origins: by name, where it differs from `Origin(key=name)`.
        notes: what was unusual about the source.
        broken: tensors that are listed but cannot be read, and why; by file name also files that
            are missing, where nobody can list what is in them.
        metadata: texts by name about the whole model, which the container keeps for its users.
        aliases: other names that a tensor has in the model, with the one it has here.
        attachments: other parts of the model by name, such as `config.json`; bytes that a target
            of the same kind takes over.
        uses: tells what each tensor is used for, as graph or config say; reads them when it is
            asked. None where there is neither.
        details: further facts for `inspect`; docs/guide/inspect.md lists the keys, which mean the
            same in every format.
        sources: what to close.
    """

    format: str
    summary: str
    tensors: Mapping[str, Tensor]
    origins: Mapping[str, Origin] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    broken: Mapping[str, ConvertError] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    attachments: Mapping[str, Source] = field(default_factory=dict)
    uses: Callable[[], Uses] | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def origin(self, name: str) -> Origin:
        """Return where `name` came from."""
        return self.origins.get(name) or Origin(name)

    def select(self, names: Iterable[str], *notes: Note) -> TensorDict:
        """Return the dictionary with only `names`, in the order given, and further notes."""
        kept = {name: self.tensors[name] for name in names}
        gone = set(self.tensors) - set(kept)
        broken = {name: error for name, error in self.broken.items() if name not in gone}
        aliases = {alias: name for alias, name in self.aliases.items() if name in kept}
        return replace(self, tensors=kept, broken=broken, aliases=aliases, notes=self.notes + notes)

    def close(self) -> None:
        """Close the sources; may be called again."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> TensorDict:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
