"""What the guard refuses: files that plain h5py opens, follows or allocates without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from tensorferry.converters.containers.h5_fallback import read_guarded
from tensorferry.converters.containers.hdf5_guard import MAX_DEPTH, opened, walk
from tensorferry.converters.containers.hdf5_types import recognise
from tensorferry.converters.errors import ConvertError, CorruptFileError, UnsafeFileError
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions
from tensorferry.converters.sources import FileSource

FLOATS = np.arange(6, dtype=np.float32)


def never_stored(file: h5py.File, shape: tuple[int, ...], **options: object) -> None:
    file.create_dataset("bomb", shape, "f4", **options)


def external_link(file: h5py.File) -> None:
    file["out"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(file: h5py.File) -> None:
    file["x"] = FLOATS
    file["soft"] = h5py.SoftLink("/x")


def dangling_link(file: h5py.File) -> None:
    file["nowhere"] = h5py.SoftLink("/nothing")


def self_link(file: h5py.File) -> None:
    file["me"] = h5py.SoftLink("/me")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("out", (4,), "u1", external=[("secret.txt", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("out", layout)


def chunked_bomb(file: h5py.File) -> None:
    never_stored(file, (1 << 45,), chunks=(1 << 16,))


def contiguous_bomb(file: h5py.File) -> None:
    never_stored(file, (1 << 20,))


def gzip_bomb(file: h5py.File) -> None:
    dataset = file.create_dataset("bomb", (1 << 34,), "f4", chunks=(1 << 20,), compression="gzip")
    dataset[: 1 << 20] = 0


def large_chunk_bomb(file: h5py.File) -> None:
    file.create_dataset("bomb", (10,), "f4", chunks=(1 << 26,), maxshape=(None,))


def wrapping_shape(file: h5py.File) -> None:
    # 2^64 elements: libhdf5's own count is 0.
    never_stored(file, (1 << 32, 1 << 32), chunks=(16, 16))


def loop(file: h5py.File) -> None:
    group = file.create_group("g")
    group["loop"] = group


def loop_to_root(file: h5py.File) -> None:
    file.create_group("g")["up"] = file["/"]


def second_group_link(file: h5py.File) -> None:
    file.create_group("g")
    file["h"] = file["g"]


def references(file: h5py.File) -> None:
    file["x"] = FLOATS
    file.create_dataset("refs", data=[file["x"].ref], dtype=h5py.ref_dtype)


def region_references(file: h5py.File) -> None:
    file["x"] = FLOATS
    file.create_dataset("refs", data=[file["x"].regionref[:2]], dtype=h5py.regionref_dtype)


def sequences(file: h5py.File) -> None:
    dataset = file.create_dataset("vlen", (2,), h5py.vlen_dtype(np.int32))
    dataset[0] = [1, 2]


def committed_type(file: h5py.File) -> None:
    file["type"] = np.dtype("f4")


def type_of_its_own_name(file: h5py.File) -> None:
    file["z_type"] = np.dtype("f4")
    file.create_dataset("a", (4,), dtype=file["z_type"])


def filter_not_known(file: h5py.File) -> None:
    file.create_dataset("packed", data=np.arange(100), chunks=(10,), scaleoffset=0)


def deep(file: h5py.File) -> None:
    file["/".join("g" * (MAX_DEPTH + 5))] = FLOATS


UNSAFE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "external link": (external_link, "`out`: kind of link"),
    "soft link": (soft_link, "`soft`: kind of link"),
    "dangling link": (dangling_link, "`nowhere`: kind of link"),
    "link to itself": (self_link, "`me`: kind of link"),
    "external storage": (external_storage, "`out`: external storage"),
    "virtual dataset": (virtual, "`out`: a virtual dataset"),
    "chunked, nothing stored": (chunked_bomb, "`bomb`: declared size"),
    "contiguous, nothing stored": (contiguous_bomb, "`bomb`: stored size"),
    "deflated": (gzip_bomb, "`bomb`: declared size"),
    "chunk larger than the dataset": (large_chunk_bomb, "`bomb`: declared size"),
    "2^64 elements": (wrapping_shape, "`bomb`: declared size"),
    "group in itself": (loop, "`g/loop`: a group that was met"),
    "root in a group": (loop_to_root, "`g/up`: a group that was met"),
    "group under two names": (second_group_link, "`h`: a group that was met"),
    "references": (references, "`refs`: class of type"),
    "region references": (region_references, "`refs`: class of type"),
    "sequences": (sequences, "`vlen`: class of type"),
    "committed type": (committed_type, "`type`: is a committed type"),
    "dataset of a committed type": (type_of_its_own_name, "`a`: a committed type"),
    "filter": (filter_not_known, "`packed`: filter"),
    "depth": (deep, "depth of groups"),
}


def _read_by_libhdf5(path: Path) -> None:
    read_guarded(FileSource(path), re.compile("x"))


@pytest.mark.parametrize("attack", UNSAFE)
@pytest.mark.parametrize("user_block", [0, 512])
@pytest.mark.parametrize("read", [open_tensors, _read_by_libhdf5])
def test_refuses(
    attack: str, user_block: int, read: Callable[[Path], object], tmp_path: Path
) -> None:
    make, place = UNSAFE[attack]
    path = tmp_path / "attack.h5"
    (tmp_path / "secret.txt").write_bytes(b"text")
    with h5py.File(path, "w", userblock_size=user_block) as file:
        make(file)

    with pytest.raises(UnsafeFileError) as caught:
        read(path)

    assert place in caught.value.message
    assert caught.value.path == str(path)
    assert caught.value.exit_code == 4


def odd_float(file: h5py.File) -> None:
    file["x"] = np.zeros(3, np.longdouble)


def odd_enum(file: h5py.File) -> None:
    kind = h5py.enum_dtype({"NO": 0, "YES": 1}, "i1")
    file.create_dataset("x", (3,), kind, data=np.zeros(3, "i1"))


def odd_compound(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("r", "f4"), ("j", "f4")])


def uneven_compound(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("r", "f4"), ("i", "i4")])


def padded_compound(file: h5py.File) -> None:
    kind = np.dtype({"names": ["r", "i"], "formats": ["f4", "f4"], "itemsize": 16})
    file["x"] = np.zeros(3, kind)


def twisted_compound(file: h5py.File) -> None:
    kind = np.dtype({"names": ["r", "i"], "formats": ["f4", "f4"], "offsets": [4, 0]})
    file["x"] = np.zeros(3, kind)


def other_compound(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("r", "f2"), ("i", "f2")])


def nested_compound(file: h5py.File) -> None:
    file["x"] = np.zeros(3, [("r", "f4", (2,)), ("i", "f4", (2,))])


def opaque(file: h5py.File) -> None:
    file["x"] = np.zeros(3, "V2")


def opaque_with_wrong_name(file: h5py.File) -> None:
    file["x"] = np.zeros(3, "V2")
    file["x"].attrs["dtype"] = "float8_e5m2"


def odd_integer(file: h5py.File) -> None:
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(24)
    space = h5py.h5s.create_simple((3,))
    dataset = h5py.h5d.create(file.id, b"x", kind, space)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros(3, "i4"))


def chunked_strings(file: h5py.File) -> None:
    file.create_dataset("x", data=["a", "b"], chunks=(1,))


UNREAD = (
    odd_float, odd_enum, odd_compound, uneven_compound, padded_compound, twisted_compound,
    other_compound, nested_compound, opaque,
    opaque_with_wrong_name, odd_integer,
    chunked_strings,
)  # fmt: skip


@pytest.mark.parametrize("make", UNREAD, ids=lambda make: make.__name__)
def test_names_the_dataset_that_is_of_no_type_of_ours(
    make: Callable[[h5py.File], None], tmp_path: Path
) -> None:
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        make(file)

    with pytest.raises(CorruptFileError, match="`x`: ") as caught:
        open_tensors(path)

    assert caught.value.path == str(path)


def test_the_byte_order_of_the_vax_is_not_read() -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_order(h5py.h5t.ORDER_VAX)

    with pytest.raises(CorruptFileError, match="byte order"):
        recognise(kind)


def test_a_dataset_may_have_two_names(tmp_path: Path) -> None:
    path = tmp_path / "alias.h5"
    with h5py.File(path, "w") as file:
        file["a/x"] = FLOATS
        file["b"] = file["a/x"]

    with open_tensors(path) as tensors:
        assert list(tensors) == ["a/x", "b"]
        assert tensors["b"].read().tolist() == FLOATS.tolist()


def test_stores_no_more_than_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "shared.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.arange(1000), chunks=(100,))

    source = FileSource(path)
    with opened(source) as file, pytest.raises(UnsafeFileError, match="the datasets so far"):
        list(walk(file, path, 4000))


def test_no_dataset_reaches_past_the_end(tmp_path: Path) -> None:
    path = tmp_path / "long.h5"
    with h5py.File(path, "w") as file:
        file["x"] = np.arange(1000)

    source = FileSource(path)
    with opened(source) as file, pytest.raises(UnsafeFileError, match="place of its bytes"):
        list(walk(file, path, 8500))


def test_counts_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("hdf5_guard", "h5_locator"):
        monkeypatch.setattr(f"tensorferry.converters.containers.{module}.MAX_OBJECTS", 3)
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        for number in range(4):
            file.create_group(f"g{number}")

    with pytest.raises(UnsafeFileError, match="number of objects"):
        open_tensors(path)


def test_empty_groups_and_attributes_are_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "empty.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a/b").attrs["text"] = "x" * 100
        file.attrs["n"] = 3

    with open_tensors(path, ReadOptions()) as tensors:
        assert not tensors


@pytest.mark.parametrize("every", [13])
def test_a_file_that_is_cut_short_is_an_error(every: int, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.h5", tmp_path / "cut.h5"
    with h5py.File(whole, "w") as file:
        file["a/b"] = FLOATS
        file.create_dataset("c", data=FLOATS, compression="gzip")
        file["text"] = ["some", "strings"]
    data = whole.read_bytes()

    for length in [*range(0, len(data), every), *range(len(data) - 20, len(data))]:
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError) as caught:
            open_tensors(path, format="hdf5")
        assert caught.value.path == str(path)
