"""Opening HDF5 files, and the walk over one that refuses what no weight file needs.

HDF5 lets a file point at other files (external and soft links, external storage, virtual
datasets), contain itself (hard links to a parent), declare petabytes that nobody stored, and call
plug-ins (filters). libhdf5 follows all of that silently, so every link is looked at before it is
touched and every dataset before anything is read from it. What passes:

    hard links only                 a group under one path only, at most 64 deep
    layouts contiguous, compact     stored as many bytes as declared, within the file
    layout chunked                  declared no more than deflate could have packed into what is
                                    stored; filters deflate, shuffle, fletcher32, lzf
    element types of classes        integer, float, enum, compound, opaque, string; what exactly
                                    is for `hdf5_types.py` to say

All distinct datasets together store no more than the file has bytes.

Not caught here: damage that makes libhdf5 itself crash or loop (its heaps and chunk indices), and
a deflated chunk that unpacks to more than its chunk holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import ConvertError, CorruptFileError, UnsafeFileError
from ..names import decode
from ..sources import FileSource, Source
from .hdf5_types import stored_width
from .windows import SourceFile

if TYPE_CHECKING:
    import h5py

__all__ = ["MAX_DEPTH", "Found", "opened", "translated", "walk"]

MAX_DEPTH = 64
MAX_OBJECTS = 1_000_000  # a checkpoint of 100,000 tensors is a big one
# Deflate packs at best 1029:1 (measured); the rest is room for chunks that reach over the edge.
MAX_RATIO = 1100
SLACK_BYTES = 1 << 16
# H5Z_FILTER_DEFLATE, _SHUFFLE, _FLETCHER32 of H5Zpublic.h; lzf is h5py's own.
FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
# Chunks that are kept unpacked between two slices.
CACHE_BYTES = 64 << 20

# What h5py raises when libhdf5 reports an error; KeyError where a name is not found.
_FAILURES = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, SystemError)


class Found(NamedTuple):
    """A dataset that passed.

    Attributes:
        path: its path without the leading slash; bytes that are not UTF-8 as PEP 383 has them.
        dataset: open as long as the walk stands on it.
        kind: type of an element.
        shape: None where it has not even a shape (a null dataspace).
        place: byte offset of its elements in the file where they lie in one piece, else None.
    """

    path: str
    dataset: h5py.h5d.DatasetID
    kind: h5py.h5t.TypeID
    shape: tuple[int, ...] | None
    place: int | None


@contextmanager
def opened(source: Source, where: str | None = None) -> Iterator[h5py.File]:
    """Open a file for reading, and close it whatever happens; what h5py raises becomes ours.

    A file object that h5py still holds when the interpreter ends makes it crash.

    Args:
        source: the file; a member of an archive is read through a file object.
        where: the dataset that is going to be read, for messages.

    Raises:
        CorruptFileError: libhdf5 cannot make sense of the file.
    """
    import h5py  # 0.15 s of start-up, so only where a file is HDF5

    # No lock: read-only and network mounts refuse it, and sources are not written meanwhile.
    options = {"locking": False, "rdcc_nbytes": CACHE_BYTES}
    file = source.place if type(source) is FileSource and source.on_disk else SourceFile(source)
    with translated(source.path, where), h5py.File(file, "r", **options) as opened_file:
        yield opened_file


def walk(file: h5py.File, path: Path, size: int) -> Iterator[Found]:
    """Yield every dataset, depth first, names in the order of their bytes.

    Args:
        file: the open file.
        path: for messages.
        size: bytes of the file.

    Raises:
        UnsafeFileError: a link, a layout or a filter that no weight file needs, or a bomb.
        CorruptFileError: libhdf5 cannot make sense of something.
    """
    return _Walk(path, size).run(file.id)


@contextmanager
def translated(path: Path, where: str | None) -> Iterator[None]:
    """Give errors that know no path yet a path and a place, and those of h5py a class of ours."""
    try:
        yield
    except ConvertError as error:
        if error.path is None:
            error.path = str(path)
            raise (error.within(where) if where else error) from None
        raise
    except _FAILURES as error:
        text = str(error.args[0] if error.args else error).partition("\n")[0]
        raise CorruptFileError(
            f"libhdf5: {text[:1].lower()}{text[1:]}",
            path=path,
            where=where,
            hint="copy the file again; it may be cut short",
        ) from error


class _Level(NamedTuple):
    """A group on the way down, and what of it is still to be visited."""

    group: h5py.h5g.GroupID
    prefix: str
    links: Iterator[tuple[bytes, int, int]]


class _Walk:
    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._groups: set[int] = set()  # by object address, as links give it
        self._datasets: set[int] = set()
        self._objects = 0
        self._stored = 0

    def run(self, root: h5py.h5g.GroupID) -> Iterator[Found]:
        from h5py import h5d, h5g, h5o

        self._groups.add(int(h5o.get_info(root).addr))
        levels = [self._level(root, "")]
        while levels:
            group, prefix, links = levels[-1]
            link = next(links, None)
            if link is None:
                levels.pop()
                continue
            name = prefix + decode(link[0])
            with translated(self._path, f"`{name}`"):
                self._check_link(name, link[1])
                entry = h5o.open(group, link[0])
            if isinstance(entry, h5d.DatasetID):
                with translated(self._path, f"dataset `{name}`"):
                    found = self._check_dataset(name, entry, link[2])
                yield found
            elif isinstance(entry, h5g.GroupID):
                self._check_group(name, link[2], len(levels))
                levels.append(self._level(entry, name + "/"))
            else:
                raise self._unsafe(name, "is a committed type", "a group or a dataset")

    def _level(self, group: h5py.h5g.GroupID, prefix: str) -> _Level:
        links: list[tuple[bytes, int, int]] = []
        with translated(self._path, f"group `/{prefix}`"):
            # `append` returns None, which means: go on.
            group.links.iterate(
                lambda name, info: links.append((name, info.type, info.u)), info=True
            )
        return _Level(group, prefix, iter(links))

    def _check_link(self, name: str, kind: int) -> None:
        from h5py import h5l

        self._objects += 1
        if self._objects > MAX_OBJECTS:
            raise self._unsafe(name, "number of objects", f"at most {MAX_OBJECTS}")
        if kind != h5l.TYPE_HARD:
            soft = kind == h5l.TYPE_SOFT
            got = "a soft link" if soft else "an external or user-defined link"
            raise self._unsafe(name, "kind of link", "a hard link", got)

    def _check_group(self, name: str, address: int, depth: int) -> None:
        if address in self._groups:
            raise self._unsafe(
                name, "a group that was met under another path", "a tree", "a loop or a second link"
            )
        if depth >= MAX_DEPTH:
            raise self._unsafe(name, "depth of groups", f"at most {MAX_DEPTH}")
        self._groups.add(address)

    # Datasets

    def _check_dataset(self, name: str, dataset: h5py.h5d.DatasetID, address: int) -> Found:
        from h5py import h5d, h5s

        kind = dataset.get_type()
        self._check_type(name, kind)
        properties = dataset.get_create_plist()
        layout = properties.get_layout()
        if layout == h5d.VIRTUAL:
            raise self._unsafe(name, "a virtual dataset, which reads other files")
        if properties.get_external_count():
            raise self._unsafe(name, "external storage, which reads other files")
        null = dataset.get_space().get_simple_extent_type() == h5s.NULL
        shape = None if null else tuple(dataset.shape)
        width = stored_width(kind)
        # Multiplied here: libhdf5's own count of elements wraps around at 2^64.
        declared = 0 if shape is None else prod(shape) * width
        stored = dataset.get_storage_size()
        self._count(name, address, stored)
        place = None
        if layout == h5d.CHUNKED:
            self._check_chunks(name, properties, declared, stored, width)
        elif stored != declared and declared:
            raise self._unsafe(name, "stored size", f"{declared} bytes", f"{stored} bytes")
        elif layout == h5d.CONTIGUOUS and declared:
            place = self._place(name, dataset, declared)
        return Found(name, dataset, kind, shape, place)

    def _check_type(self, name: str, kind: h5py.h5t.TypeID) -> None:
        from h5py import h5t

        allowed = {
            h5t.INTEGER: "integer", h5t.FLOAT: "float", h5t.ENUM: "enum",
            h5t.COMPOUND: "compound", h5t.OPAQUE: "opaque", h5t.STRING: "string",
        }  # fmt: skip
        refused = {
            h5t.REFERENCE: "reference", h5t.VLEN: "sequence of variable length",
            h5t.ARRAY: "array", h5t.BITFIELD: "bit field", h5t.TIME: "time",
        }  # fmt: skip
        number = kind.get_class()
        if number not in allowed:
            expected = f"one of {', '.join(allowed.values())}"
            got = refused.get(number, f"class {number}")
            raise self._unsafe(name, "class of type", expected, got)
        if kind.committed():
            raise self._unsafe(name, "a committed type", "a type of its own")

    def _check_chunks(
        self, name: str, properties: Any, declared: int, stored: int, width: int
    ) -> None:
        for index in range(properties.get_nfilters()):
            number = properties.get_filter(index)[0]
            if number not in FILTERS:
                expected = f"one of {', '.join(FILTERS.values())}"
                raise self._unsafe(name, "filter", expected, f"number {number}")
        # A chunk is unpacked whole, so its size counts too and not only the dataset's.
        largest = max(declared, prod(properties.get_chunk()) * width if declared else 0)
        limit = MAX_RATIO * stored + SLACK_BYTES
        if largest > limit:
            raise self._unsafe(
                name, f"declared size for {stored} bytes stored", f"at most {limit} bytes",
                f"{largest} bytes",
            )  # fmt: skip

    def _place(self, name: str, dataset: h5py.h5d.DatasetID, declared: int) -> int:
        from h5py import h5d

        # The offset alone does not tell: behind a user block it is 511 where nothing was ever
        # allocated.
        allocated = dataset.get_space_status() == h5d.SPACE_STATUS_ALLOCATED
        offset = dataset.get_offset() if allocated else None
        if offset is None or offset + declared > self._size:
            raise self._unsafe(
                name, "place of its bytes", f"{declared} bytes before byte {self._size}",
                f"byte {offset}",
            )  # fmt: skip
        return int(offset)

    def _count(self, name: str, address: int, stored: int) -> None:
        """Add up what is stored: distinct datasets share no bytes, or a small file is a bomb."""
        if address not in self._datasets:
            self._datasets.add(address)
            self._stored += stored
        if self._stored > self._size:
            raise self._unsafe(
                name, "the datasets so far store", f"at most {self._size} bytes, the whole file",
                f"{self._stored} bytes",
            )  # fmt: skip

    def _unsafe(
        self, name: str, what: str, expected: str | None = None, got: str | None = None
    ) -> UnsafeFileError:
        return UnsafeFileError(
            what,
            path=self._path,
            where=f"`{name}`",
            expected=expected,
            got=got,
            hint="no weight file needs this; do not trust the file, or write it anew with h5py",
        )
