"""Where the values of a table lie: for tables that hold weights and are larger than memory.

`Table.entries` reads every block whole. A V1 checkpoint keeps its weights in the blocks, and
TensorFlow gives an entry of 512 KiB or more a block of its own (xla/tsl/lib/io/table_builder.cc,
TableBuilder::Add, v2.21.0). Here small blocks are read and verified at once, and of those that are
large, or hold one value alone, only what stands before each value. A block's checksum covers keys
and values together, so what was not read at once is verified when it is:

    block of one value   the value's own CRC-32C follows from the block's and those of the bytes
                         before and behind it
    block of several     the whole block is checked before any of its values is read
    compressed block     is unpacked again for each value; only keys are kept
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING

from ..checksums import Algorithm, Checksum
from ..errors import CorruptFileError
from ..sources import Extent, Source
from ..tensors import CHUNK_BYTES, ExtentTensor, Tensor, TensorSpec
from .messages import Body, MemorySource
from .sstable import Handle, Table, block_entries, entries_end
from .wire import read_varint

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LOADED_BLOCK_BYTES", "DeferredTensor", "Value", "table_values"]

# Blocks up to this long are read whole. TensorFlow ends a block at 256 KiB and the entry that
# fills it has less than 512 KiB.
LOADED_BLOCK_BYTES = 1 << 20
# Read of a large block before each value: lengths, a key of usual length, tags of the message.
HEAD_BYTES = 512
# Of values in blocks that are read whole; larger ones are read again from the file. Blocks up to
# this long are not worth the look whether they hold one value alone.
KEPT_BYTES = 1 << 16

Parse = Callable[[Body], Tensor]
_Place = tuple[bytes, int, int]  # key; byte offset and length of its value


class DeferredTensor(Tensor):
    """A tensor that something must happen to before anything of it is read.

    Args:
        spec: dtype and shape.
        nbytes: length in bytes where it is stored.
        make: does it, and returns the tensor that is read; or raises a ConvertError.
    """

    __slots__ = ("_make", "_nbytes")

    def __init__(self, spec: TensorSpec, nbytes: int, make: Callable[[], Tensor]) -> None:
        self.spec = spec
        self._nbytes = nbytes
        self._make = make

    @property
    def nbytes(self) -> int:
        """Length in bytes; for variable elements, of what the container holds."""
        return self._nbytes

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        """Yield the bytes of the tensor that was made."""
        yield from self._make().chunks(max_bytes)

    def elements(self) -> list[bytes]:
        """Return the elements of the tensor that was made."""
        return self._make().elements()

    def read(self) -> np.ndarray:
        """Return the tensor that was made as an array; nothing is allocated before."""
        return self._make().read()


class Value(ABC):
    """An entry of a table: its key, and where its value lies.

    Attributes:
        key: the whole key.
        body: the value, as a message; not verified yet.
    """

    __slots__ = ("body", "key")

    def __init__(self, key: bytes, body: Body) -> None:
        self.key = key
        self.body = body

    @abstractmethod
    def load(self) -> bytes:
        """Return the value, verified.

        Raises:
            CorruptFileError: the checksum of its block differs.
        """

    @abstractmethod
    def tensor(self, parse: Parse) -> Tensor:
        """Return the tensor that `parse` finds in the value, verified when it is read.

        Args:
            parse: makes a tensor of a value; called again where the value has to be unpacked.

        Raises:
            CorruptFileError: as `parse` does.
        """


def table_values(source: Source, *, verify: bool = True) -> Iterator[Value]:
    """Yield the entries of a table in the order of the file; reads no large value.

    A value that is not read at once is verified when it is read.

    Raises:
        CorruptFileError: the table is damaged; the error names file and block.
    """
    table = Table(source, verify=verify)
    end = 0
    for block in table.blocks():
        if block.offset < end:
            raise CorruptFileError(
                "blocks overlap",
                path=source.path,
                where=f"block at byte {block.offset}",
                expected=f"byte {end} or later",
                got=f"byte {block.offset}",
            )
        end = block.offset + block.length
        if table.trailer(block).compression:
            yield from _unpacked(source, table, block)
        elif block.length > LOADED_BLOCK_BYTES or _has_one_value(source, block):
            yield from _headed(source, table, block, verify=verify)
        else:
            yield from _loaded(source, table, block, verify=verify)


# Blocks that are read whole


def _loaded(source: Source, table: Table, block: Handle, *, verify: bool) -> Iterator[Value]:
    data = table.body(block)
    with table.naming(block):
        for key, value, at in block_entries(data):
            kept = value if len(value) <= KEPT_BYTES else None
            body = Body(source, block.offset + at, len(value), kept)
            yield _Loaded(key, body, value, verify=verify)


class _Loaded(Value):
    """A value that was read and verified with its block; large parts of it are read again."""

    __slots__ = ("_data", "_verify")

    def __init__(self, key: bytes, body: Body, data: bytes, *, verify: bool) -> None:
        super().__init__(key, body)
        self._data = data
        self._verify = verify

    def load(self) -> bytes:
        return self._data

    def tensor(self, parse: Parse) -> Tensor:
        tensor = parse(self.body)
        if not self._verify or not tensor.extents:
            return tensor
        return ExtentTensor(tensor.spec, tuple(map(self._checked, tensor.extents)))

    def _checked(self, extent: Extent) -> Extent:
        at = extent.offset - self.body.start
        crc = Algorithm.CRC32C.update(memoryview(self._data)[at : at + extent.length])
        return extent._replace(checksum=Checksum(Algorithm.CRC32C, crc))


def _unpacked(source: Source, table: Table, block: Handle) -> Iterator[Value]:
    data = table.body(block)
    with table.naming(block):
        for key, value, at in block_entries(data):
            body = Body(MemorySource(source.path, value), 0, len(value), value)
            yield _Unpacked(key, body, source, table, block, at)


class _Unpacked(Value):
    """A value in a compressed block, which is unpacked again when the value is read."""

    __slots__ = ("_at", "_block", "_source", "_table")

    def __init__(
        self, key: bytes, body: Body, source: Source, table: Table, block: Handle, at: int
    ) -> None:
        super().__init__(key, body)
        self._source = source
        self._table = table
        self._block = block
        self._at = at

    def load(self) -> bytes:
        return self.body.load()

    def tensor(self, parse: Parse) -> Tensor:
        tensor = parse(self.body)
        length = self.body.length

        def again() -> Tensor:
            value = self._table.body(self._block)[self._at : self._at + length]
            return parse(Body(MemorySource(self._source.path, value), 0, length, value))

        return DeferredTensor(tensor.spec, tensor.nbytes, again)


# Blocks of which only the heads are read


def _headed(source: Source, table: Table, block: Handle, *, verify: bool) -> Iterator[Value]:
    with table.naming(block):
        places = list(_places(source, block))
    check = cache(partial(table.check, block))
    for key, at, length in places:
        body = Body(source, at, length)
        if not verify:
            yield _Headed(key, body, None)
        elif len(places) > 1:
            yield _Headed(key, body, check)
        else:
            yield _Alone(key, body, check, table, block)


def _has_one_value(source: Source, block: Handle) -> bool:
    """Tell whether a block holds one value that is worth not being read."""
    try:
        return block.length > KEPT_BYTES and len(list(islice(_places(source, block), 2))) == 1
    except CorruptFileError:
        return False  # reading all of it tells whether it is damaged


def _places(source: Source, block: Handle) -> Iterator[_Place]:
    """Yield where the values of a block lie, reading what stands before each."""
    stop = block.offset + block.length
    end = block.offset + entries_end(block.length, source.read(stop - 4, 4))
    at, key = block.offset, b""
    while at < end:
        head = source.read(at, min(HEAD_BYTES, end - at))
        shared, used = read_varint(head, 0)
        unshared, used = read_varint(head, used)
        size, used = read_varint(head, used)
        at += used
        if shared > len(key) or unshared + size > end - at:
            raise CorruptFileError(
                "entry runs past the end of its block",
                where=f"entry before byte {at}",
                expected=f"at most {end - at} bytes",
                got=f"{unshared + size} bytes, {shared} shared of {len(key)}",
            )
        suffix = head[used : used + unshared]
        if len(suffix) < unshared:
            suffix = source.read(at, unshared)
        key = key[:shared] + suffix
        yield key, at + unshared, size
        at += unshared + size


class _Headed(Value):
    """A value in a large block, which is checked, once, before anything of it is read."""

    __slots__ = ("_check",)

    def __init__(self, key: bytes, body: Body, check: Callable[[], None] | None) -> None:
        super().__init__(key, body)
        self._check = check

    def load(self) -> bytes:
        if self._check:
            self._check()
        return self.body.load()

    def tensor(self, parse: Parse) -> Tensor:
        tensor, check = parse(self.body), self._check
        if check is None:
            return tensor

        def checked() -> Tensor:
            check()
            return tensor

        return DeferredTensor(tensor.spec, tensor.nbytes, checked)


class _Alone(_Headed):
    """The only value of a large block, whose bytes can be verified on their own."""

    __slots__ = ("_block", "_table")

    def __init__(
        self, key: bytes, body: Body, check: Callable[[], None], table: Table, block: Handle
    ) -> None:
        super().__init__(key, body, check)
        self._table = table
        self._block = block

    def tensor(self, parse: Parse) -> Tensor:
        tensor = parse(self.body)
        if tensor.extents is None or len(tensor.extents) != 1:
            return super().tensor(parse)
        return _AloneTensor(tensor.spec, tensor.extents[0], self._table, self._block)


class _AloneTensor(ExtentTensor):
    """The tensor of such a value; its checksum is derived when it is asked for."""

    __slots__ = ("_block", "_table")

    def __init__(self, spec: TensorSpec, extent: Extent, table: Table, block: Handle) -> None:
        super().__init__(spec, (extent,))
        self._table = table
        self._block = block

    @property
    def extents(self) -> tuple[Extent, ...]:
        """The one byte range, with its checksum."""
        (extent,) = self._extents
        if extent.checksum is None:
            extent = extent._replace(checksum=Checksum(Algorithm.CRC32C, self._crc_of(extent)))
            self._extents = (extent,)
        return self._extents

    def _crc_of(self, extent: Extent) -> int:
        """Derive the checksum of a part of the block from that of the block and of the rest."""
        source, start = extent.source, self._block.offset
        behind = extent.offset + extent.length
        before = source.read(start, extent.offset - start)
        after = source.read(behind, start + self._block.length + 1 - behind)
        update = Algorithm.CRC32C.update
        whole = self._table.trailer(self._block).crc
        with_before = Algorithm.CRC32C.cut_off(whole, update(after), len(after))
        return Algorithm.CRC32C.split_off(with_before, update(before), extent.length)
