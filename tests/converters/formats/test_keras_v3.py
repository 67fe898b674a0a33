from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    NotRecognisedError,
    UnsafeFileError,
)
from tensorferry.converters.formats.keras_v3 import FORMAT
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract, contents
from tensorferry.pipeline.convert import ConvertOptions, convert

Values = dict[str, np.ndarray]
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.array([7, 8, 9], np.float32)


# Files made by hand


def dense(name: str, units: int = 3, **extra: object) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": "Dense",
        "config": {"name": name, "trainable": True, "units": units, "use_bias": True, **extra},
        "registered_name": None,
    }


def sequential(*layers: dict[str, Any], name: str = "model", **extra: object) -> dict[str, Any]:
    config = {"name": name, "trainable": True, "layers": list(layers)}
    return {"module": "keras", "class_name": "Sequential", "config": config, **extra}


def weights_file(values: Values, labels: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    # Tensors lie in pages of their own: libhdf5 reads whole blocks of what describes them.
    with h5py.File(buffer, "w", alignment_threshold=1, alignment_interval=4096) as file:
        for path, value in values.items():
            file[path] = value
        for path, label in (labels or {}).items():
            file.require_group(path).attrs["name"] = label
    return buffer.getvalue()


def small_weights() -> bytes:
    values = {"layers/dense/vars/0": KERNEL, "layers/dense/vars/1": BIAS}
    return weights_file(values, {"layers/dense/vars": "first"})


def archive(path: Path, members: dict[str, bytes | object], method: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            text = data if isinstance(data, bytes) else json.dumps(data).encode()
            file.writestr(name, text)
    return path


def small_model(path: Path, method: int = 0) -> Path:
    return archive(
        path,
        {
            "metadata.json": {"keras_version": "3.15.0"},
            "config.json": sequential(dense("first")),
            "model.weights.h5": small_weights(),
        },
        method,
    )


def small_folder(path: Path) -> Path:
    path.mkdir()
    (path / "metadata.json").write_text('{"keras_version": "3.15.0"}')
    (path / "config.json").write_text(json.dumps(sequential(dense("first"))))
    (path / "model.weights.h5").write_bytes(small_weights())
    return path


def sharded(folder: Path, weight_map: object = None) -> Path:
    first = weights_file({"layers/dense/vars/0": KERNEL}, {"layers/dense/vars": "first"})
    second = weights_file({"layers/dense/vars/1": BIAS}, {"layers/dense/vars": "first"})
    (folder / "m_00000.weights.h5").write_bytes(first)
    (folder / "m_00001.weights.h5").write_bytes(second)
    if weight_map is None:
        weight_map = {"/layers/dense/vars": ["m_00000.weights.h5", "m_00001.weights.h5"]}
    index = folder / "m.weights.json"
    index.write_text(json.dumps({"metadata": {"total_size": 36.0}, "weight_map": weight_map}))
    return index


def read(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def arrays(path: Path, **options: Any) -> Values:
    with read(path, **options) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def roles(path: Path) -> dict[str, Role]:
    with read(path) as tensors:
        return {name: tensors.origin(name).role for name in tensors}


def assert_same(got: Values, expected: Values) -> None:
    assert sorted(got) == sorted(expected)
    for name, value in expected.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert got[name].tobytes() == value.tobytes(), name


SMALL = {"first/kernel": KERNEL, "first/bias": BIAS}


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["archive", "folder", "weights", "shards", "chunked"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        kind = request.param
        (tmp_path / "deep").mkdir()
        folder = tmp_path / "deep"
        if kind == "archive":
            return small_model(folder / "m.keras")
        if kind == "folder":
            return small_folder(folder / "m")
        if kind == "shards":
            return sharded(folder)
        path = folder / "m.weights.h5"
        path.write_bytes(small_weights())
        if kind == "chunked":
            with h5py.File(path, "r+") as file:
                chunked = np.arange(600, dtype=">f4").reshape(20, 30)
                file.create_dataset("layers/dense_1/vars/0", data=chunked, compression="gzip")
        return path

    @pytest.fixture
    def foreign(self, tmp_path: Path) -> list[Path]:
        np.savez(tmp_path / "a.npz", w=KERNEL)
        archive(tmp_path / "b.zip", {"config.json": {}, "tokens.txt": b"a"})
        with h5py.File(tmp_path / "plain.h5", "w") as file:
            file["dense/kernel"] = KERNEL
        with h5py.File(tmp_path / "legacy.weights.h5", "w") as file:
            file.attrs["layer_names"] = np.array([b"dense"])
            file["dense/vars/0"] = KERNEL
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "model.index.json").write_text('{"weight_map": {}}')
        return list(tmp_path.iterdir())


# The four arrangements


def test_an_archive_is_read_in_place(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.keras")
    data = path.read_bytes()
    with read(path) as tensors:
        for name, value in SMALL.items():
            (extent,) = tensors[name].extents or ()
            assert data[extent.offset : extent.offset + extent.length] == value.tobytes()
    assert_same(arrays(path), SMALL)


def test_a_deflated_archive_is_unpacked_with_a_note(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.keras", zipfile.ZIP_DEFLATED)
    with read(path) as tensors:
        assert "deflated" in tensors.notes[0].text
    assert_same(arrays(path), SMALL)


def test_an_unzipped_folder_and_each_of_its_files_are_one_model(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    for path in (folder, *folder.iterdir()):
        assert FORMAT.sniff(Location(path)), path
        assert_same(arrays(path), SMALL)


def test_shards_are_joined_also_within_an_object(tmp_path: Path) -> None:
    assert_same(arrays(sharded(tmp_path)), SMALL)


def test_a_shard_alone_says_so(tmp_path: Path) -> None:
    sharded(tmp_path)
    with read(tmp_path / "m_00001.weights.h5") as tensors:
        assert "one of the shards of `m.weights.json`" in tensors.notes[0].text


def test_an_index_may_name_one_shard_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.weights.h5").write_bytes(small_weights())
    index = tmp_path / "a.weights.json"
    index.write_text('{"weight_map": {"/layers/dense/vars": "a.weights.h5"}}')
    assert_same(arrays(index), SMALL)


def test_a_preset_keeps_backbone_and_head_apart(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"class_name": "XBackbone", "config": {}}')
    (tmp_path / "model.weights.h5").write_bytes(small_weights())
    (tmp_path / "task.weights.h5").write_bytes(small_weights())
    got = arrays(tmp_path, names="key")
    assert sorted(got)[-1] == "task.weights.h5/layers/dense/vars/1"
    assert len(arrays(tmp_path)) == 4


def test_a_config_that_is_damaged_beside_a_weights_file_is_noted(tmp_path: Path) -> None:
    folder = small_folder(tmp_path / "m")
    (folder / "config.json").write_text("{")
    with read(folder / "model.weights.h5") as tensors:
        assert "config beside it is not used" in tensors.notes[0].text
    with pytest.raises(CorruptFileError, match=r"config\.json"):
        read(folder)


def test_keys_need_no_config(tmp_path: Path) -> None:
    weights = small_weights()
    path = archive(tmp_path / "m.keras", {"config.json": b"{", "model.weights.h5": weights})
    assert sorted(arrays(path, names="key")) == ["layers/dense/vars/0", "layers/dense/vars/1"]
    with pytest.raises(CorruptFileError, match=r"member `config\.json`"):
        read(path)


# Names


def test_names_of_a_bare_file_come_from_labels_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    cell = {
        f"layers/lstm/cell/vars/{i}": np.zeros(s, "f4") for i, s in enumerate([(2, 8), (2, 8), 8])
    }
    values = {"layers/dense/vars/0": KERNEL, "layers/my_dense/vars/0": BIAS, "own/vars/0": BIAS}
    labels = {"layers/dense/vars": "a", "layers/my_dense/vars": "b", "own/vars": "c"}
    labels |= {"layers/lstm/vars": "l", "layers/lstm/cell/vars": "lstm_cell"}
    path.write_bytes(weights_file(values | cell, labels))
    assert sorted(arrays(path)) == [
        "a/kernel",
        "b/vars/0",
        "c/vars/0",
        "l/lstm_cell/bias",
        "l/lstm_cell/kernel",
        "l/lstm_cell/recurrent_kernel",
    ]


def test_what_may_be_gamma_or_beta_gets_neither_name(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    values = {f"layers/batch_normalization/vars/{i}": BIAS for i in range(3)}
    path.write_bytes(weights_file(values, {"layers/batch_normalization/vars": "bn"}))
    assert sorted(arrays(path)) == ["bn/vars/0", "bn/vars/1", "bn/vars/2"]


def test_a_file_without_labels_and_config_keeps_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    path.write_bytes(weights_file({"layers/dense/vars/0": KERNEL, "layers/dense/vars/10": BIAS}))
    assert sorted(arrays(path)) == ["layers/dense/vars/0", "layers/dense/vars/10"]


def test_a_name_that_two_tensors_would_have_is_given_to_none(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    values = {"layers/dense/vars/0": KERNEL, "layers/dense_1/vars/0": KERNEL}
    labels = {"layers/dense/vars": "same", "layers/dense_1/vars": "same"}
    path.write_bytes(weights_file(values, labels))
    assert sorted(arrays(path)) == sorted(values)


def test_groups_of_other_names_than_the_config_are_named_by_the_file(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "m.keras",
        {"config.json": sequential(dense("other")), "model.weights.h5": small_weights()},
    )
    with read(path) as tensors:
        assert sorted(tensors) == ["first/bias", "first/kernel"]
        assert tensors.origin("first/bias").evidence is Evidence.NAME
        assert "1 groups bear other names" in tensors.notes[0].text


@pytest.mark.parametrize("group", ["layers", "_layer_checkpoint_dependencies", "layers\\"])
def test_old_spellings_of_the_list_of_layers_are_known(tmp_path: Path, group: str) -> None:
    prefix = group if group.endswith("\\") else f"{group}/"
    values = {f"{prefix}dense/vars/0": KERNEL, f"{prefix}dense/vars/1": BIAS}
    path = archive(
        tmp_path / "m.keras",
        {
            "metadata.json": {"keras_version": "2.13.1"},
            "config.json": sequential(dense("first")),
            "model.weights.h5": weights_file(values),
        },
    )
    assert_same(arrays(path), SMALL)
    assert sorted(arrays(path, names="key")) == sorted(values)


@pytest.mark.parametrize(("version", "name"), [("2.15.0", "depthwise_kernel"), ("3.0.5", "kernel")])
def test_the_kernel_of_a_depthwise_layer_is_called_by_its_version(
    tmp_path: Path, version: str, name: str
) -> None:
    layer = dense("d") | {"class_name": "DepthwiseConv2D"}
    values = {"layers/depthwise_conv2d/vars/0": np.zeros((1, 1, 3, 1), "f4"),
              "layers/depthwise_conv2d/vars/1": BIAS}  # fmt: skip
    path = archive(
        tmp_path / "m.keras",
        {
            "metadata.json": {"keras_version": version},
            "config.json": sequential(layer),
            "model.weights.h5": weights_file(values),
        },
    )
    assert sorted(arrays(path)) == sorted(["d/bias", f"d/{name}"])


def test_a_class_of_the_users_own_is_not_taken_for_keras(tmp_path: Path) -> None:
    layer = dense("first") | {"module": "mine", "registered_name": "mine>Dense"}
    path = archive(
        tmp_path / "m.keras",
        {"config.json": sequential(layer), "model.weights.h5": small_weights()},
    )
    assert sorted(arrays(path)) == ["first/vars/0", "first/vars/1"]


def test_frozen_layers_are_not_trained(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "m.keras",
        {
            "config.json": sequential(dense("first", trainable=False)),
            "model.weights.h5": small_weights(),
        },
    )
    with read(path) as tensors:
        assert [tensors.origin(name).trainable for name in tensors] == [False, False]


def test_metrics_and_unknown_optimizers_have_roles(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    one = np.float32(1)
    values = {"metrics/mean/vars/0": one, "optimizer/vars/0": one, "d_optimizer/vars/0": one,
              "layers/dropout/seed_generator/vars/0": one, "vars/0": one}  # fmt: skip
    path.write_bytes(weights_file(values))
    assert roles(path) == {
        "metrics/mean/vars/0": Role.COUNTER,
        "optimizer/vars/0": Role.OPTIMIZER,
        "d_optimizer/vars/0": Role.OPTIMIZER,
        "layers/dropout/seed_generator/vars/0": Role.STATE,
        "vars/0": Role.WEIGHT,
    }


def test_bfloat16_is_known_by_its_attribute_and_without(tmp_path: Path) -> None:
    path = tmp_path / "m.weights.h5"
    opaque = np.array([b"\x80\x3f", b"\x00\x40"], "V2")
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = opaque
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
        file["layers/dense/vars/1"] = opaque
    for value in arrays(path).values():
        assert value.dtype.name == "bfloat16"
        assert value.astype(float).tolist() == [1, 2]


# What is refused


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", {"config.json": {}, "model.weights.npz": b"PK"})
    with pytest.raises(UnsafeFileError, match="pickled"):
        read(path)


def test_an_archive_without_weights_says_what_it_has(tmp_path: Path) -> None:
    path = archive(tmp_path / "m.keras", {"config.json": {}})
    with pytest.raises(CorruptFileError, match=r"`model\.weights\.h5`, got `config\.json`"):
        read(path)


def test_nothing_there_is_not_recognised(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError):
        read(tmp_path / "none.keras")
    with pytest.raises(NotRecognisedError, match=r"model\.weights\.h5"):
        read(tmp_path)


BOMBS = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "repeated": b'{"class_name": "A", "class_name": "B"}',
    "nan": b'{"class_name": NaN}',
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "cut": b'{"class_name"',
    "text": b"\xff\xfe",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_in_json_are_refused(tmp_path: Path, bomb: str) -> None:
    members = {"config.json": BOMBS[bomb], "model.weights.h5": small_weights()}
    with pytest.raises(CorruptFileError, match=r"m\.keras: member `config\.json`"):
        read(archive(tmp_path / "m.keras", members))


def _large_model(path: Path) -> Path:
    """Make an archive whose weights are too many to be checked when the first is read."""
    values = {f"layers/dense_{n}/vars/0": np.full((512, 512), n, np.float32) for n in range(4)}
    return archive(path, {"config.json": sequential(), "model.weights.h5": weights_file(values)})


def test_the_checksum_of_the_weights_is_compared_when_all_were_read(tmp_path: Path) -> None:
    path = _large_model(tmp_path / "m.keras")
    data = path.read_bytes()
    at = data.index(np.full(9, 2, np.float32).tobytes())
    path.write_bytes(data[: at + 3] + b"\x41" + data[at + 4 :])
    target = tmp_path / "m.safetensors"
    with pytest.raises(CorruptFileError, match=r"model\.weights\.h5`: crc32 of the contents"):
        convert(path, target)
    assert not target.exists()
    convert(path, target, ConvertOptions(read=ReadOptions(verify=False)))
    with read(path) as tensors:
        assert tensors["layers/dense_0/vars/0"].read().max() == 0


@pytest.mark.parametrize("member", ["config.json", "metadata.json"])
@pytest.mark.parametrize("unzipped", [False, True])
def test_without_names_a_damaged_config_is_not_needed(
    tmp_path: Path, member: str, unzipped: bool
) -> None:
    members = {"model.weights.h5": small_weights(), member: b'{"units": Infinity}'}
    path = archive(tmp_path / "m.keras", members)
    if unzipped:
        with zipfile.ZipFile(path) as file:
            file.extractall(tmp_path / "m")
        path = tmp_path / "m"
    with pytest.raises(CorruptFileError, match="Infinity is no number") as caught:
        read(path)
    assert caught.value.hint == "--names key reads the weights without it"
    keys = {"layers/dense/vars/0": KERNEL, "layers/dense/vars/1": BIAS}
    assert_same(arrays(path, names="key"), keys)


@pytest.mark.parametrize(
    "name", ["../m_00000.weights.h5", "/etc/passwd", "a\\b.weights.h5", "..", "", "C:x.weights.h5",
             "m_00000.weights.h5\0", 7, None, "m.txt"]
)  # fmt: skip
def test_shards_are_files_of_the_same_folder(tmp_path: Path, name: object) -> None:
    with pytest.raises(CorruptFileError, match="name of a shard"):
        read(sharded(tmp_path, {"/layers/dense/vars": [name]}))


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "m_00001.weights.h5").unlink()
    with pytest.raises(CorruptFileError, match=r"m_00001\.weights\.h5"):
        read(index)


def test_a_shard_of_another_model_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    other = weights_file({"layers/conv2d/vars/0": KERNEL})
    (tmp_path / "m_00001.weights.h5").write_bytes(other)
    with pytest.raises(CorruptFileError, match="expected a group `layers/dense/vars`"):
        read(index)


def test_a_dataset_in_two_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    (tmp_path / "m_00001.weights.h5").write_bytes((tmp_path / "m_00000.weights.h5").read_bytes())
    with pytest.raises(CorruptFileError, match="is in two shards"):
        read(index)


def external_link(file: h5py.File) -> None:
    file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "/x")


def soft_link(file: h5py.File) -> None:
    file["layers/dense/vars/0"] = h5py.SoftLink("/layers")


def external_storage(file: h5py.File) -> None:
    file.create_dataset("layers/dense/vars/0", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (4,))
    file.create_virtual_dataset("layers/dense/vars/0", layout)


def shape_bomb(file: h5py.File) -> None:
    file.create_dataset("layers/dense/vars/0", (1 << 40,), "f4", chunks=(1 << 20,))


def loop(file: h5py.File) -> None:
    file["layers/again"] = file["/"]


def plugin(file: h5py.File) -> None:
    file["layers/dense/vars/0"] = h5py.SoftLink("/vars")


ATTACKS: list[Callable[[h5py.File], None]] = [
    external_link, soft_link, external_storage, virtual, shape_bomb, loop, plugin,
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("zipped", [True, False], ids=["archive", "file"])
def test_what_no_weight_file_needs_is_refused(
    tmp_path: Path, attack: Callable[[h5py.File], None], zipped: bool
) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers/dense/vars")
        file.create_group("vars")
        attack(file)
    if zipped:
        members = {"config.json": b"{}", "model.weights.h5": path.read_bytes()}
        path = archive(tmp_path / "m.keras", members)
    with pytest.raises(UnsafeFileError):
        read(path)


def test_a_member_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("model.weights.h5", small_weights())
    with pytest.raises(CorruptFileError, match="occurs twice"):
        read(path)


def test_a_deflate_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.keras", zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"model.weights.h5") - 46
    struct.pack_into("<L", data, at + 24, 0xFFFFFF00)
    path.write_bytes(data)
    with pytest.raises(UnsafeFileError, match="once inflated"):
        read(path)


def outcome(path: Path) -> dict[str, Any] | ConvertError:
    try:
        with read(path, names="key") as tensors:
            return contents(tensors)
    except ConvertError as error:
        return error


def test_damage_gives_an_error_or_the_same_tensors(tmp_path: Path) -> None:
    path = small_model(tmp_path / "m.keras")
    data = path.read_bytes()
    whole = outcome(path)
    assert isinstance(whole, dict)
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        assert isinstance(outcome(path), ConvertError), length
    directory = data.rindex(b"PK\x01\x02")
    for at in [*range(30), *range(directory, len(data), 3)]:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        found = outcome(path)
        assert isinstance(found, ConvertError) or found == whole, at
