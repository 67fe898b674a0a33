from __future__ import annotations

import io
import random
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.containers.h5_blocks import UNDEFINED, OutsideSubset, lookup3
from tensorferry.converters.containers.h5_fallback import read_guarded
from tensorferry.converters.containers.h5_locator import glance, locate
from tensorferry.converters.containers.h5_messages import layout
from tensorferry.converters.containers.h5_tensors import tensor_of
from tensorferry.converters.containers.h5_tree import Stored, Tree
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import ConvertError, CorruptFileError, UnsafeFileError
from tensorferry.converters.sources import FileSource, Source
from tensorferry.converters.tensors import TensorSpec

LIBVERS: list[Any] = ["earliest", ("v108", "v108"), ("v110", "v110"), "latest"]


class Memory(Source):
    """A file in memory that refuses to be read outside of itself."""

    def __init__(self, data: bytes) -> None:
        self.path = Path("memory.h5")
        self.data = data

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, target: memoryview) -> None:
        assert 0 <= offset <= offset + len(target) <= len(self.data)
        target[:] = self.data[offset : offset + len(target)]

    def close(self) -> None:
        pass


def made(fill: Callable[[h5py.File], object], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", **options) as file:
        fill(file)
    return buffer.getvalue()


def spec_of(stored: Stored) -> TensorSpec:
    return TensorSpec(stored.element.dtype or DType.UINT16, stored.shape or ())


def arrays(data: bytes, tree: Tree) -> dict[str, np.ndarray]:
    source = Memory(data)
    return {
        path: tensor_of(path, stored, spec_of(stored), source).read()
        for path, stored in tree.datasets.items()
        if stored.shape is not None
    }


def keras_like(file: h5py.File) -> None:
    file.attrs["layer_names"] = ["a", "b", "a/b"]
    file.attrs["keras_version"] = "2.15.0"
    for name in ("a", "b", "a/b"):
        group = file.require_group(name)
        group.attrs["weight_names"] = np.array([f"{name}/kernel:0".encode(), b"bias:0"])
        group[f"{name}/kernel:0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        group["bias:0"] = np.arange(3, dtype=np.float64)


# What is read


TYPES: dict[str, np.ndarray] = {
    **{kind: np.array([[1, 2], [3, 4]], kind) for kind in ("f2", "<f4", ">f4", "f8", ">f8")},
    **{kind: np.array([1, 2, 3], kind) for kind in ("i1", "u1", "<i2", ">i2", "u4", "i8", ">u8")},
    "bool": np.array([True, False]),
    "complex64": np.array([1 + 2j], np.complex64),
    "complex128": np.array([1 + 2j, 3 - 4j], ">c16"),
    "scalar": np.array(5, np.int64),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("libver", LIBVERS)
@pytest.mark.parametrize("kind", TYPES)
def test_types_are_those_that_h5py_reads(kind: str, libver: Any) -> None:
    expected = TYPES[kind]
    data = made(lambda file: file.create_dataset("x", data=expected), libver=libver)
    found = arrays(data, locate(Memory(data)))["x"]
    assert found.shape == expected.shape
    assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("<")).tobytes()
    assert found.dtype == expected.dtype.newbyteorder("=")


def test_bfloat16_is_read_as_a_float_of_its_own_and_as_opaque_bytes() -> None:
    values = np.array([1, 2, 3], np.uint16)

    def fill(file: h5py.File) -> None:
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_ebias(127)
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(file.id, b"float", kind, space).write(
            h5py.h5s.ALL, h5py.h5s.ALL, values, kind
        )
        file["opaque"] = values.view("V2")

    data = made(fill)
    tree = locate(Memory(data))
    assert tree.datasets["float"].element.dtype is DType.BFLOAT16
    assert tree.datasets["opaque"].element.dtype is None
    assert tree.datasets["opaque"].element.width == 2
    assert arrays(data, tree)["opaque"].tobytes() == values.tobytes()


@pytest.mark.parametrize("libver", LIBVERS)
def test_strings_of_fixed_and_of_variable_length(libver: Any) -> None:
    def fill(file: h5py.File) -> None:
        file["fixed"] = np.array([b"ab", b"c"])
        file["variable"] = ["one", "", "drei\u00df"]
        file["alone"] = "text"

    data = made(fill, libver=libver)
    found = arrays(data, locate(Memory(data)))
    assert list(found["fixed"]) == [b"ab", b"c"]
    assert list(found["variable"]) == [b"one", b"", "drei\u00df".encode()]
    assert found["alone"].tolist() == b"text"


@pytest.mark.parametrize("libver", LIBVERS)
def test_attributes_in_every_encoding(libver: Any) -> None:
    long = "x" * 70_000  # lies in the global heap, so that it may be longer than a header

    def fill(file: h5py.File) -> None:
        file.attrs["fixed"] = np.array([b"ab", b"c"])
        file.attrs["variable"] = ["one", "", "zwei\u00df"]
        file.attrs["text"] = "scalar"
        file.attrs["bytes"] = np.bytes_(b"raw")
        file.attrs["empty"] = np.array([], np.float64)
        file.attrs["null"] = h5py.Empty("S1")
        file.attrs["number"] = np.int64(-7)
        file.attrs["long"] = long

    tree = locate(Memory(made(fill, libver=libver)))
    assert tree.texts("", "fixed") == [b"ab", b"c"]
    assert tree.texts("", "variable") == [b"one", b"", "zwei\u00df".encode()]
    assert tree.texts("", "text") == [b"scalar"]
    assert tree.texts("", "bytes") == [b"raw"]
    assert tree.texts("", "empty") == []
    assert tree.texts("", "null") == []
    assert tree.texts("", "long") == [long.encode()]
    assert tree.texts("", "none") is None
    assert tree.number("", "number") == -7
    assert tree.number("", "none") is None
    with pytest.raises(CorruptFileError, match=r"attribute `number`, expected text"):
        tree.texts("", "number")
    with pytest.raises(CorruptFileError, match="expected an integer"):
        tree.number("", "text")


@pytest.mark.parametrize("userblock", [0, 512, 1024, 4096])
def test_groups_and_places_behind_a_user_block(userblock: int) -> None:
    data = made(keras_like, userblock_size=userblock)
    tree = locate(Memory(data))
    assert sorted(tree.groups) == ["", "a", "a/a", "a/b", "a/b/a", "a/b/a/b", "b", "b/b"]
    found = arrays(data, tree)
    assert found["a/b/a/b/kernel:0"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["a/bias:0"].tolist() == [0, 1, 2]
    place = tree.datasets["a/bias:0"].place
    assert place is not None
    with h5py.File(io.BytesIO(data)) as file:
        assert place == file["a/bias:0"].id.get_offset()


def test_a_group_of_many_links_and_long_names() -> None:
    def fill(file: h5py.File) -> None:
        for number in range(700):
            file[f"{'n' * (number % 90)}{number}"] = np.float32(number)

    data = made(fill)
    found = arrays(data, locate(Memory(data)))
    assert len(found) == 700
    assert all(name.lstrip("n") == str(int(value)) for name, value in found.items())


def test_a_header_that_goes_on_elsewhere() -> None:
    def fill(file: h5py.File) -> None:
        group = file.create_group("g")
        for number in range(60):
            group.attrs[f"a{number}"] = f"value {number}"
            file[f"d{number}"] = number

    tree = locate(Memory(made(fill)))
    assert [tree.texts("g", f"a{number}") for number in range(60)] == [
        [f"value {number}".encode()] for number in range(60)
    ]


def test_two_links_to_one_dataset_are_two_paths() -> None:
    def fill(file: h5py.File) -> None:
        file["x"] = np.arange(3)
        file["y"] = file["x"]

    tree = locate(Memory(made(fill)))
    assert tree.datasets["x"] == tree.datasets["y"]


def test_a_compact_dataset_and_one_without_a_shape() -> None:
    def fill(file: h5py.File) -> None:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        dataset = h5py.h5d.create(file.id, b"c", h5py.h5t.STD_I16LE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 2, 3], np.int16))
        file["null"] = h5py.Empty("f4")

    data = made(fill)
    tree = locate(Memory(data))
    assert tree.datasets["null"].shape is None
    assert arrays(data, tree)["c"].tolist() == [1, 2, 3]


def test_a_superblock_of_version_1() -> None:
    # It has a K value and two reserved bytes more than version 0; blocks are found by address.
    data = bytearray(made(keras_like))
    assert data[8] == 0
    data[8] = 1
    data[24:76] = struct.pack("<HH", 32, 0) + data[24:72]
    assert sorted(locate(Memory(bytes(data))).groups)[:3] == ["", "a", "a/a"]


def test_a_glance_at_a_group() -> None:
    source = Memory(made(keras_like))
    root = glance(source)
    assert root.attributes == {"layer_names", "keras_version"}
    assert root.links == ["a", "b"]
    inner = root.group("a")
    assert inner is not None
    assert inner.attributes == {"weight_names"}
    assert "bias:0" in inner.links
    assert inner.group("bias:0") is None
    assert inner.group("c") is None


@pytest.mark.parametrize("version", [1, 2])
def test_layouts_of_the_oldest_writers(version: int) -> None:
    contiguous = struct.pack("<BBB5xQII", version, 2, 1, 800, 2, 3)
    compact = struct.pack("<BBB5xII", version, 1, 0, 2, 3) + b"abc"
    assert layout(contiguous) == (800, None, None)
    assert layout(compact) == (None, 3, b"abc")


def test_checksum_of_known_texts() -> None:
    # From the comments and the self-test of lookup3.c.
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


# What libhdf5 has to read


def chunked(file: h5py.File) -> None:
    file.create_dataset("x", data=np.arange(100), chunks=(10,), compression="gzip")


def many_links(file: h5py.File) -> None:
    for number in range(20):
        file[f"d{number}"] = number


def many_attributes(file: h5py.File) -> None:
    for number in range(20):
        file.attrs[f"a{number}"] = number


@pytest.mark.parametrize(
    ("fill", "libver"),
    [
        (chunked, "earliest"),
        (chunked, "latest"),
        (many_links, "latest"),
        (many_attributes, "latest"),
    ],
)
def test_what_lies_outside_the_subset_is_said_and_left_to_libhdf5(
    tmp_path: Path, fill: Callable[[h5py.File], object], libver: str
) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(made(fill, libver=libver))
    with pytest.raises(OutsideSubset):
        locate(FileSource(path))
    assert not issubclass(OutsideSubset, CorruptFileError)
    tree = read_guarded(FileSource(path), re.compile("a.*"))
    with h5py.File(path) as file:
        assert sorted(tree.datasets) == sorted(file)
        assert [tree.number("", name) for name in file.attrs] == list(file.attrs.values())


def test_both_ways_find_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(made(keras_like))
    source = FileSource(path)
    located, guarded = locate(source), read_guarded(source, re.compile(".*"))
    assert located.datasets == guarded.datasets
    assert sorted(located.groups) == sorted(guarded.groups)
    for group in located.groups:
        for name in ("layer_names", "weight_names", "keras_version"):
            assert located.texts(group, name) == guarded.texts(group, name)


# What is refused


def soft(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/elsewhere")


def external_link(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("other.h5", "/x")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("x", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    sheet = h5py.VirtualLayout((4,), "u1")
    sheet[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("x", sheet)


def loop(file: h5py.File) -> None:
    file.create_group("g")["up"] = file["/"]


def second_link(file: h5py.File) -> None:
    file["h"] = file.create_group("g")


def references(file: h5py.File) -> None:
    file["x"] = np.array([file.ref], h5py.ref_dtype)


def sequences(file: h5py.File) -> None:
    file.create_dataset("x", (2,), h5py.vlen_dtype(np.int32))


def committed(file: h5py.File) -> None:
    file["x"] = np.dtype("f4")


def never_stored(file: h5py.File) -> None:
    file.create_dataset("x", (1000, 1000), "f4")


def deep(file: h5py.File) -> None:
    file["/".join("g" * 70)] = 1


HOSTILE = [
    soft, external_link, external_storage, virtual, loop, second_link, references, sequences,
    committed, never_stored, deep,
]  # fmt: skip


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("fill", HOSTILE)
def test_what_no_weight_file_needs_is_refused(
    fill: Callable[[h5py.File], object], libver: str
) -> None:
    with pytest.raises(UnsafeFileError, match=r"memory\.h5: `"):
        locate(Memory(made(fill, libver=libver)))


@pytest.mark.parametrize("kind", ["f2,f2", "i4,i4,i4", "V1,f4", "g"])
def test_types_without_a_name_of_ours_are_refused(kind: str) -> None:
    data = made(lambda file: file.create_dataset("x", data=np.zeros(2, kind)))
    with pytest.raises(CorruptFileError, match="a type that is not read"):
        locate(Memory(data))


# Damage


def use(data: bytes) -> None:
    """Do all that a reader does with a file."""
    source = Memory(data)
    glance(source)
    tree = locate(source)
    for path in [*tree.groups, *tree.datasets]:
        for name in ("layer_names", "weight_names", "keras_version", "long"):
            try:
                tree.texts(path, name)
            except ConvertError:
                continue


def small(libver: Any, userblock: int = 0) -> bytes:
    def fill(file: h5py.File) -> None:
        keras_like(file)
        file.attrs["long"] = "x" * 5000
        file["text"] = ["a", "b"]
        file["complex"] = np.ones(2, np.complex64)
        file["bool"] = np.array([True])

    return made(fill, libver=libver, userblock_size=userblock)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_every_truncation_is_an_error_of_ours(libver: str) -> None:
    data = small(libver)
    for length in range(0, len(data) - 1, 41):
        with pytest.raises(ConvertError):
            use(data[:length])


@pytest.mark.parametrize(
    ("libver", "userblock"), [("earliest", 0), ("latest", 0), ("earliest", 512)]
)
def test_flipped_bytes_end_soon_and_in_errors_of_ours(libver: str, userblock: int) -> None:
    data = small(libver, userblock)
    choose = random.Random(7)
    failed, slowest = 0, 0.0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(choose.choice((1, 1, 2, 3, 8))):
            damaged[choose.randrange(len(data))] = choose.choice((0, 255, choose.randrange(256)))
        start = time.perf_counter()
        try:
            use(bytes(damaged))
        except ConvertError:
            failed += 1
        slowest = max(slowest, time.perf_counter() - start)
    assert failed > 300
    assert slowest < 1


def test_new_headers_are_checked_by_their_checksums() -> None:
    data = bytearray(small("latest"))
    at = data.find(b"keras_version")
    data[at] ^= 1
    with pytest.raises(CorruptFileError, match="checksum of an object header"):
        locate(Memory(bytes(data)))
    assert locate(Memory(bytes(data)), verify=False).texts("", "jeras_version") == [b"2.15.0"]


def test_no_file_at_all() -> None:
    for data in (b"", b"\x89HDF", b"x" * 3000):
        with pytest.raises(CorruptFileError, match=r"memory\.h5: no HDF5 file"):
            locate(Memory(data))


# Files made byte by byte


def message(kind: int, data: bytes, flags: int = 0) -> bytes:
    data = data.ljust(len(data) + -len(data) % 8, b"\0")
    return struct.pack("<HHB3x", kind, len(data), flags) + data


def old_header(*messages: bytes) -> bytes:
    body = b"".join(messages)
    return struct.pack("<BxHII4x", 1, len(messages), 1, len(body)) + body


def old_file(root: bytes, blocks: bytes = b"", size: int = 0) -> bytes:
    """Return a file whose root's header lies at byte 96, and blocks right behind it."""
    end = max(96 + len(root) + len(blocks), size)
    data = b"\x89HDF\r\n\x1a\n" + struct.pack("<5xBBxHHI", 8, 8, 4, 16, 0)
    data += struct.pack("<QQQQ", 0, UNDEFINED, end, UNDEFINED)
    data += struct.pack("<QQI20x", 0, 96, 0)
    return (data + root + blocks).ljust(end, b"\0")


def symbol_table(tree: int, heap: int) -> bytes:
    return message(0x11, struct.pack("<QQ", tree, heap))


def tree_node(level: int, *children: int, count: int | None = None) -> bytes:
    used = len(children) if count is None else count
    head = struct.pack("<4sBBHQQ", b"TREE", 0, level, used, UNDEFINED, UNDEFINED)
    return head + b"".join(struct.pack("<QQ", 0, child) for child in children) + bytes(8)


def local_heap(at: int, names: bytes) -> bytes:
    return struct.pack("<4sB3xQQQ", b"HEAP", 0, len(names), UNDEFINED, at + 32) + names


def symbols(*entries: tuple[int, int]) -> bytes:
    rows = (struct.pack("<QQI20x", name, address, 0) for name, address in entries)
    return struct.pack("<4sBxH", b"SNOD", 1, len(entries)) + b"".join(rows)


ROOT = 16 + 24  # bytes of a header with a symbol table alone
HEAP = 96 + ROOT  # where blocks begin


def group(names: bytes, *entries: tuple[int, int], node: bytes | None = None) -> bytes:
    """Return a file with a root group of these links."""
    heap = local_heap(HEAP, names)
    tree = HEAP + len(heap)
    leaf = symbols(*entries)
    node = node or tree_node(0, tree + len(tree_node(0, 0)))
    return old_file(old_header(symbol_table(tree, HEAP)), heap + node + leaf)


def test_a_group_made_byte_by_byte_is_read() -> None:
    data = group(b"\0abc\0\0\0\0")
    assert locate(Memory(data)).groups == [""]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (old_file(old_header(message(0x10, struct.pack("<QQ", 112, 24)))), "expected an end"),
        (old_file(old_header(message(0x10, struct.pack("<QQ", 112, 0)))), "at least 8 bytes"),
        (old_file(old_header(message(0x10, b"12345678"))), "continuation"),
        (old_file(old_header(message(0x10, struct.pack("<QQ", 1 << 62, 64)))), "within"),
        (old_file(struct.pack("<BxHII4x", 9, 1, 1, 0)), "no object header"),
        (old_file(struct.pack("<BxHII4xHHB3x", 1, 1, 1, 8, 3, 999, 0)), "message 0x03"),
        (old_file(old_header(symbol_table(UNDEFINED, UNDEFINED))), "a block of metadata"),
        (old_file(old_header(symbol_table(0, 0))), "names of a group"),
        (group(b"a/b\0\0\0\0\0", (0, 96)), "name of a link"),
        (group(b"abcdefgh", (0, 96)), "name of a link"),
        (group(b"abc\0abc\0", (0, 96), (4, 96)), "a group that was met"),
        (group(b"abc\0\0\0\0\0", (99, 96)), "name of a link"),
        (group(b"abc\0\0\0\0\0", (0, UNDEFINED)), "expected an address"),
        (group(b"abc\0\0\0\0\0", (0, 1 << 63)), "a block of metadata"),
        (group(bytes(8), node=tree_node(1, HEAP + 40)), "a loop"),
        (group(bytes(8), node=tree_node(0, HEAP + 40, HEAP + 40)), "a loop"),
        (group(bytes(8), node=tree_node(0, HEAP)), "links of a group"),
        (group(bytes(8), node=tree_node(3, HEAP)), "B-tree of a group"),
        (group(bytes(8), node=tree_node(0, 1, count=60000)), "a block of metadata"),
    ],
)
def test_contradictions_are_named(data: bytes, what: str) -> None:
    with pytest.raises(CorruptFileError, match=what):
        locate(Memory(data))


def test_a_shared_message_is_refused() -> None:
    with pytest.raises(UnsafeFileError, match="lies elsewhere"):
        locate(Memory(old_file(old_header(message(0x03, bytes(8), flags=2)))))


def heap_file(collection: bytes, *references: tuple[int, int]) -> bytes:
    """Return a file whose root has an attribute `t` of strings, and a collection behind it."""
    kind = struct.pack("<BBBBI", 0x19, 1, 0, 0, 16) + struct.pack(
        "<BBBBIHH", 0x10, 0, 0, 0, 1, 0, 8
    )
    space = struct.pack("<BBB5xQ", 1, 1, 0, len(references))
    name = b"t".ljust(8, b"\0")
    head = struct.pack("<BxHHH", 1, 2, len(kind), len(space))
    kind = kind.ljust(len(kind) + -len(kind) % 8, b"\0")
    at = 96 + 16 + 8 + 8 + len(name) + len(kind) + len(space) + 16 * len(references) + 24
    refs = b"".join(struct.pack("<IQI", length, at, index) for length, index in references)
    attribute = message(0x0C, head + name + kind + space + refs)
    root = old_header(attribute, message(0x02, struct.pack("<BBQ", 0, 0, UNDEFINED)[:16]))
    return old_file(root.ljust(at - 96, b"\0"), collection)


def collection(*objects: tuple[int, int, bytes], size: int | None = None) -> bytes:
    body = b"".join(
        struct.pack("<HH4xQ", index, 1, length) + data.ljust(-(-len(data) // 8) * 8, b"\0")
        for index, length, data in objects
    )
    total = 16 + len(body) if size is None else size
    return struct.pack("<4sB3xQ", b"GCOL", 1, total) + body


def test_a_collection_made_byte_by_byte_is_read() -> None:
    data = heap_file(collection((1, 3, b"abc"), (2, 2, b"de")), (3, 1), (1, 2), (0, 9))
    assert locate(Memory(data)).texts("", "t") == [b"abc", b"d", b""]


@pytest.mark.parametrize(
    "heap",
    [
        collection((1, 3, b"abc"), (1, 3, b"abc")),
        collection((1, 1 << 60, b"abc")),
        collection((2, 3, b"abc")),
        collection((1, 2, b"ab")),
        collection((1, 3, b"abc"), size=1 << 60),
        collection((1, 3, b"abc"), size=0),
        b"GCOX" + collection((1, 3, b"abc"))[4:],
        b"",
    ],
)
def test_damaged_collections_are_errors_with_a_place(heap: bytes) -> None:
    tree = locate(Memory(heap_file(heap, (3, 1))))
    with pytest.raises(CorruptFileError, match=r"memory\.h5: `/`: attribute `t`"):
        tree.texts("", "t")


def test_one_long_text_by_many_references_is_a_bomb() -> None:
    data = heap_file(collection((1, 4000, b"x" * 4000)), *[(4000, 1)] * 300)
    with pytest.raises(CorruptFileError):
        locate(Memory(data)).texts("", "t")
