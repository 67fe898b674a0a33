from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    UnsafeFileError,
    UsageError,
)
from tensorferry.converters.formats import hdf5, keras_v3
from tensorferry.converters.formats.keras_h5 import FORMAT
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import Location, ReadOptions
from tensorferry.converters.tensors import Evidence, Role, TensorDict
from tensorferry.converters.testing.contracts import ReaderContract

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.array([7, 8, 9], np.float32)
# Tensors lie in pages of their own, so that no page of metadata holds any of their bytes.
PAGES: dict[str, Any] = {"alignment_threshold": 1, "alignment_interval": 4096}
Layers = Mapping[str, Mapping[str, np.ndarray]]


# Files made by hand


def weights(group: h5py.Group, layers: Layers, version: str | None = "2.15.0") -> None:
    group.attrs["layer_names"] = np.array([name.encode() for name in layers])
    if version:
        group.attrs["keras_version"] = version
        group.attrs["backend"] = "tensorflow"
    for name, values in layers.items():
        layer = group.require_group(name)
        layer.attrs["weight_names"] = [entry.encode() for entry in values]
        for entry, value in values.items():
            layer[entry] = value


def dense(name: str) -> dict[str, np.ndarray]:
    return {f"{name}/kernel:0": KERNEL, f"{name}/bias:0": BIAS}


def weights_file(path: Path, layers: Layers, version: str | None = "2.15.0") -> Path:
    with h5py.File(path, "w", **PAGES) as file:
        weights(file, layers, version)
    return path


def config(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Functional", "config": {"name": "model", "layers": list(layers)}}


def layer(kind: str, name: str, **extra: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, "trainable": True, **extra}}


def full_file(
    path: Path,
    layers: Layers,
    model: object,
    optimizer: object = None,
    slots: Mapping[str, np.ndarray] | None = None,
    version: str | None = "2.15.0",
) -> Path:
    with h5py.File(path, "w", **PAGES) as file:
        file.attrs["model_config"] = model if isinstance(model, str) else json.dumps(model)
        file.attrs["keras_version"] = version or "1.2.2"
        weights(file.create_group("model_weights"), layers, version)
        if slots:
            file.attrs["training_config"] = json.dumps({"optimizer_config": optimizer})
            group = file.create_group("optimizer_weights")
            group.attrs["weight_names"] = [name.encode() for name in slots]
            for name, value in slots.items():
                group[name] = value
    return path


def old_file(path: Path) -> Path:
    with h5py.File(path, "w", **PAGES) as file:
        file.attrs["nb_layers"] = 2
        for number, values in enumerate(([KERNEL, BIAS], [])):
            group = file.create_group(f"layer_{number}")
            group.attrs["nb_params"] = len(values)
            for index, value in enumerate(values):
                group[f"param_{index}"] = value
    return path


def read(path: Path, **options: Any) -> TensorDict:
    return FORMAT.open(Location(path), ReadOptions(**options))


def arrays(path: Path, **options: Any) -> dict[str, np.ndarray]:
    with read(path, **options) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def notes(path: Path, **options: Any) -> list[str]:
    with read(path, **options) as tensors:
        return [str(note) for note in tensors.notes]


class TestReader(ReaderContract):
    FORMAT = FORMAT

    @pytest.fixture(params=["weights", "full", "before 1.0", "outside the subset"])
    def sample(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        path = tmp_path / "m.h5"
        if request.param == "full":
            slots = {"iteration:0": np.int64(3)}
            model = config(layer("Dense", "d"))
            return full_file(path, {"d": dense("d")}, model, layer("Adam", "Adam"), slots)
        if request.param == "before 1.0":
            return old_file(path)
        with h5py.File(path, "w", **PAGES) as file:
            weights(file, {"d": dense("d"), "flatten": {}, "e": dense("e")})
            if request.param == "outside the subset":
                file.create_dataset("x", data=np.zeros((20, 30), ">f4"), compression="gzip")
        return path

    @pytest.fixture
    def foreign(self, tmp_path: Path, samples: Path) -> list[Path]:
        plain, keras3, empty = (tmp_path / name for name in ("p.h5", "k.weights.h5", "e.h5"))
        with h5py.File(plain, "w") as file:
            file["model_weights"] = KERNEL
        with h5py.File(keras3, "w") as file:
            file["layers/dense/vars/0"] = KERNEL
        h5py.File(empty, "w").close()
        short = tmp_path / "short.h5"
        short.write_bytes(plain.read_bytes()[:200])
        ours = {"old_releases", "tf_keras_h5"}
        others = (path for path in samples.rglob("*.*") if not ours & set(path.parts))
        return [plain, keras3, empty, short, *others]


# Recognising


def test_it_is_chosen_over_plain_hdf5_and_keras_3_says_no(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    assert hdf5.FORMAT.sniff(Location(path))
    assert not keras_v3.FORMAT.sniff(Location(path))
    with open_tensors(path) as tensors:
        assert tensors.format == "keras-h5"


def test_behind_a_user_block(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=1024) as file:
        weights(file, {"d": dense("d")})
    with open_tensors(path) as tensors:
        assert tensors.format == "keras-h5"
        assert tensors["d/kernel"].read().tolist() == KERNEL.tolist()


@pytest.mark.parametrize("name", ["layer_names", "layer_names0"])
def test_files_that_libhdf5_has_to_read_are_recognised(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(20):  # more links than fit into a header
            file[f"l{number}/kernel:0"] = KERNEL
            file[f"l{number}"].attrs["weight_names"] = [b"kernel:0"]
        file.attrs[name] = [f"l{number}".encode() for number in range(20)]
    with open_tensors(path) as tensors:
        assert tensors.format == "keras-h5"
        assert list(tensors) == [f"l{number}/kernel" for number in range(20)]
        assert all(tensors[name].extents for name in tensors)


def test_pieces_that_are_chunked_are_read_through_libhdf5(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with h5py.File(path, "r+") as file:
        del file["d/d/kernel:0"]
        file.create_dataset("d/d/kernel:0", data=KERNEL.astype(">f4"), compression="gzip")
    found = arrays(path)
    assert found["d/kernel"].tolist() == KERNEL.tolist()
    assert found["d/bias"].tolist() == BIAS.tolist()


# Lists


def encodings(names: list[str]) -> dict[str, Any]:
    return {
        "fixed": np.array([name.encode() for name in names]),
        "variable": names,
        "bytes of variable length": np.array([n.encode() for n in names], h5py.string_dtype()),
    }


@pytest.mark.parametrize("encoding", ["fixed", "variable", "bytes of variable length"])
def test_lists_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = encodings(["dense", "d\u00e9j\u00e0"])[encoding]
        for name in ("dense", "d\u00e9j\u00e0"):
            file[f"{name}/{name}/kernel:0"] = KERNEL
            file[name].attrs["weight_names"] = encodings([f"{name}/kernel:0"])[encoding]
    assert list(arrays(path)) == ["dense/kernel", "d\u00e9j\u00e0/kernel"]


def test_lists_in_pieces_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    names = [f"layer_with_a_long_name_{number}" for number in range(30)]
    with h5py.File(path, "w") as file:
        for piece in range(3):
            part = names[10 * piece : 10 * piece + 10]
            file.attrs[f"layer_names{piece}"] = [name.encode() for name in part]
        for name in names:
            file[f"{name}/k:0"], file[f"{name}/b:0"] = KERNEL, BIAS
            file[name].attrs["weight_names0"] = [b"k:0"]
            file[name].attrs["weight_names1"] = [b"b:0"]
    assert list(arrays(path)) == [f"{name}/{leaf}" for name in names for leaf in "kb"]


def test_a_layer_without_weights_has_an_empty_list_of_numbers(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"flatten": {}, "d": dense("d")})
    with h5py.File(path) as file:
        assert file["flatten"].attrs["weight_names"].dtype == np.float64
    assert list(arrays(path)) == ["d/kernel", "d/bias"]


def test_layers_whose_groups_lie_in_one_another(tmp_path: Path) -> None:
    layers = {"a": dense("a"), "a/b": dense("a/b")}
    path = weights_file(tmp_path / "m.h5", layers)
    assert list(arrays(path)) == ["a/kernel", "a/bias", "a/b/kernel", "a/b/bias"]
    keys = list(arrays(path, names="key"))
    assert keys == ["a/a/kernel:0", "a/a/bias:0", "a/b/a/b/kernel:0", "a/b/a/b/bias:0"]


def test_the_order_is_that_of_the_lists(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"z": dense("z"), "a": dense("a")})
    assert list(arrays(path)) == ["z/kernel", "z/bias", "a/kernel", "a/bias"]


def test_variables_of_the_model_itself(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with h5py.File(path, "r+") as file:
        file["top_level_model_weights/scale:0"] = np.float32(2)
        file["top_level_model_weights"].attrs["weight_names"] = [b"scale:0"]
    assert list(arrays(path)) == ["d/kernel", "d/bias", "scale"]


def test_what_no_list_names_is_kept_under_its_key(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with h5py.File(path, "r+") as file:
        file["extra/x"] = KERNEL
        file["extra/text"] = "hello"
        file["extra/nothing"] = h5py.Empty("f4")
    with read(path) as tensors:
        assert tensors.origin("extra/x").role is Role.UNKNOWN
        assert tensors.origin("extra/text").role is Role.TEXT
        assert tensors["extra/text"].elements() == [b"hello"]
        assert "extra/nothing" not in tensors
        assert "not even a shape" in str(tensors.notes)


def test_layout_before_keras_1(tmp_path: Path) -> None:
    found = arrays(old_file(tmp_path / "m.h5"))
    assert list(found) == ["layer_0/param_0", "layer_0/param_1"]
    assert found["layer_0/param_0"].tolist() == KERNEL.tolist()


def test_names_that_would_be_the_same_stay_keys(tmp_path: Path) -> None:
    layers = {"a": {"a/b/k:0": KERNEL}, "a/b": {"k": KERNEL}}
    path = weights_file(tmp_path / "m.h5", layers)
    assert list(arrays(path)) == ["a/a/b/k:0", "a/b/k"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda file: file.__delitem__("d/d/bias:0"), "`d/bias:0` is listed in `/d`"),
        (lambda file: file.__delitem__("d"), "layer `d` is listed"),
        (lambda file: file["d"].attrs.__delitem__("weight_names"), "layer `d` is listed"),
        (lambda file: file["d"].attrs.__setitem__("weight_names", [1.5]), "expected text"),
        (lambda file: file.attrs.__setitem__("layer_names", 7), "expected text"),
        (lambda file: file.create_dataset("x", data=np.zeros(2, "V3")), "opaque"),
    ],
    ids=["dataset", "group", "list of weights", "numbers", "a number", "opaque"],
)
def test_lists_that_name_nothing_are_corrupt(tmp_path: Path, change: Any, what: str) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(CorruptFileError, match=what) as caught:
        read(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("layers", "parameters"), [(-1, 1), (1 << 40, 1), (1, 99), (1, -5), (9, 1)]
)
def test_counts_of_the_oldest_layout_are_bounded(
    tmp_path: Path, layers: int, parameters: int
) -> None:
    path = old_file(tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["nb_layers"] = layers
        file["layer_0"].attrs["nb_params"] = parameters
    try:
        found = list(arrays(path))
    except CorruptFileError:
        return
    assert set(found) == {"layer_0/param_0", "layer_0/param_1"}


def test_a_link_out_is_refused(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with h5py.File(path, "r+") as file:
        file["out"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(UnsafeFileError, match="external"):
        read(path)


def test_truncations_are_errors_of_ours(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    data = path.read_bytes()
    for length in range(0, len(data) - 1, 301):
        path.write_bytes(data[:length])
        with pytest.raises(ConvertError):
            read(path)


# Types


def test_opaque_bytes_are_bfloat16_unless_they_say_more(tmp_path: Path) -> None:
    values = np.array([0x3F80, 0x4000, 0x4040], np.uint16)
    path = weights_file(tmp_path / "m.h5", {"d": {"kernel:0": values.view("V2")}})
    assert arrays(path)["d/kernel"].astype(np.float32).tolist() == [1, 2, 3]
    assert "taken for bfloat16" in notes(path)[0]
    with h5py.File(path, "r+") as file:
        file["e"] = np.array([1, 2], np.uint8).view("V1")
        file["e"].attrs["dtype"] = "float8_e4m3fn"
    with read(path) as tensors:
        assert tensors["e"].spec.dtype is DType.FLOAT8_E4M3FN
        assert tensors["d/kernel"].extents


# Roles


def batch_norm(name: str) -> dict[str, np.ndarray]:
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    return {f"{name}/{leaf}:0": BIAS for leaf in leaves}


def test_roles_by_config(tmp_path: Path) -> None:
    frozen = layer("Dense", "f") | {"config": {"name": "f", "trainable": False}}
    inner = layer("Functional", "inner", layers=[layer("Dense", "d_in")])
    model = config(layer("BatchNormalization", "bn"), frozen, inner, layer("LSTM", "lstm"))
    lstm = {f"lstm/lstm_cell/{leaf}:0": KERNEL for leaf in ("kernel", "recurrent_kernel")}
    layers = {
        "bn": batch_norm("bn"),
        "f": dense("f"),
        "inner": dense("d_in"),
        "lstm": lstm | {"lstm/lstm_cell/bias:0": BIAS},
    }
    with read(full_file(tmp_path / "m.h5", layers, model)) as tensors:
        found = {
            name: (tensors.origin(name).role, tensors.origin(name).trainable) for name in tensors
        }
        assert {tensors.origin(name).evidence for name in tensors} == {Evidence.CONFIG}
        assert tensors.details["model"] == "Functional"
        assert tensors.details["producer"] == "Keras"
        assert tensors.details["producer_version"] == "2.15.0"
    assert found["bn/gamma"] == (Role.WEIGHT, True)
    assert found["bn/moving_variance"] == (Role.STATE, False)
    assert found["f/kernel"] == (Role.WEIGHT, False)
    assert found["inner/d_in/kernel"] == (Role.WEIGHT, True)
    assert found["lstm/lstm_cell/bias"] == (Role.WEIGHT, True)


def test_roles_by_name_where_there_is_no_config(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"bn": batch_norm("bn"), "x": {"x/thing:0": BIAS}})
    with read(path) as tensors:
        origins = {name: tensors.origin(name) for name in tensors}
    assert origins["bn/moving_mean"].role is Role.STATE
    assert origins["bn/gamma"].role is Role.WEIGHT
    assert origins["bn/gamma"].trainable is None
    assert origins["x/thing"].evidence is Evidence.NAME


def test_a_number_that_tensorflow_1_gave_a_scope_goes_where_the_config_allows(
    tmp_path: Path,
) -> None:
    layers = {"conv": dense("conv_1"), "model_2": dense("model_2_1")}
    inner = layer("Functional", "model_2", layers=[layer("Dense", "model_2_1")])
    path = full_file(tmp_path / "m.h5", layers, config(layer("Dense", "conv"), inner))
    assert list(arrays(path)) == [
        "conv/kernel", "conv/bias", "model_2/model_2_1/kernel", "model_2/model_2_1/bias",
    ]  # fmt: skip
    alone = weights_file(tmp_path / "w.h5", layers)
    assert next(iter(arrays(alone))) == "conv/conv_1/kernel"


def test_models_in_models_are_named_where_the_config_knows_one_place(tmp_path: Path) -> None:
    def inner(*also: dict[str, Any]) -> dict[str, Any]:
        deep = layer("Functional", "deep", layers=[layer("Dense", "d")])
        return config(layer("Functional", "inner", layers=[deep, *also]))

    layers = {"inner": dense("d")}
    assert list(arrays(full_file(tmp_path / "m.h5", layers, inner()))) == [
        "inner/deep/d/kernel", "inner/deep/d/bias",
    ]  # fmt: skip
    twice = full_file(tmp_path / "m.h5", layers, inner(layer("Dense", "d")))
    assert list(arrays(twice)) == ["inner/d/kernel", "inner/d/bias"]
    unknown = full_file(tmp_path / "m.h5", {"inner": dense("else")}, inner())
    assert list(arrays(unknown)) == ["inner/else/kernel", "inner/else/bias"]


def test_what_stands_before_several_layers_is_the_models_name(tmp_path: Path) -> None:
    def scoped(*names: str) -> dict[str, dict[str, np.ndarray]]:
        return {name: dense(f"mine/{name}") for name in names}

    path = weights_file(tmp_path / "m.h5", scoped("a", "b"))
    with h5py.File(path, "r+") as file:
        file["top_level_model_weights/mine/scale:0"] = np.float32(2)
        file["top_level_model_weights"].attrs["weight_names"] = [b"mine/scale:0"]
    assert list(arrays(path)) == ["a/kernel", "a/bias", "b/kernel", "b/bias", "scale"]
    # Of one layer nobody knows: `mine` may be what the layer holds.
    alone = weights_file(tmp_path / "m.h5", scoped("a"))
    assert list(arrays(alone)) == ["a/mine/a/kernel", "a/mine/a/bias"]
    layers = scoped("a", "b") | {"mine": dense("mine")}
    assert "a/mine/a/kernel" in arrays(weights_file(tmp_path / "m.h5", layers))


def test_a_custom_layer_keeps_the_number_of_what_it_holds(tmp_path: Path) -> None:
    path = full_file(
        tmp_path / "m.h5",
        {"block": {"block/scale:0": BIAS, **dense("block_1")}},
        config(layer("Block", "block")),
    )
    assert list(arrays(path)) == ["block/scale", "block/block_1/kernel", "block/block_1/bias"]


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"class_name": 1, "class_name": 2}', '{"a": NaN}', "null"]
)
def test_a_config_that_is_none_is_not_used_and_said(tmp_path: Path, text: str) -> None:
    path = full_file(tmp_path / "m.h5", {"d": dense("d")}, text)
    assert list(arrays(path)) == ["d/kernel", "d/bias"]
    assert "`model_config` is not used" in notes(path)[0]


def test_a_config_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    text = '{"a":' * 5000 + "1" + "}" * 5000
    with pytest.raises(UnsafeFileError, match="attribute `model_config`"):
        read(full_file(tmp_path / "m.h5", {"d": dense("d")}, text))


ADAM = layer("Custom>Adam", "Adam", learning_rate=0.1)
MODEL = config(layer("Dense", "d"))
SLOTS: dict[str, tuple[object, dict[str, np.ndarray]]] = {
    "tf_keras": (
        ADAM,
        {
            "iteration:0": np.array(3),
            **{
                f"Adam/{s}/d/{v}:0": a
                for v, a in (("kernel", KERNEL), ("bias", BIAS))
                for s in "mv"
            },
        },
    ),
    "OptimizerV2": (
        layer("Adam", "Adam"),
        {
            "training/Adam/iter:0": np.array(3),
            **{
                f"training/Adam/d/{v}/{s}:0": a
                for s in "mv"
                for v, a in (("kernel", KERNEL), ("bias", BIAS))
            },
        },
    ),
    "Keras 2.3": (
        {"class_name": "Adam", "config": {}},
        {
            "Adam/iterations:0": np.array(3),
            "training/Adam/m_0_1:0": KERNEL,
            "training/Adam/m_1_1:0": BIAS,
            "training/Adam/v_0_1:0": KERNEL,
            "training/Adam/v_1_1:0": BIAS,
            "training/Adam/vhat_0_1:0": np.zeros(1, np.float32),
            "training/Adam/vhat_1_1:0": np.zeros(1, np.float32),
        },
    ),
    # h5py takes a name that begins with a slash for a path from the root.
    "Keras 2.3 on Theano": (
        {"class_name": "Adam", "config": {"amsgrad": True}},
        {
            "Adam/iterations": np.array(3),
            **{f"/{s}_{n}": a for s in ("m", "v", "vhat") for n, a in enumerate((KERNEL, BIAS))},
        },
    ),
    "Keras 1": (
        {"class_name": "Adam", "config": {}},
        {
            "param_0": np.array(3),
            **{f"param_{n}": a for n, a in enumerate((KERNEL, BIAS, KERNEL, BIAS), 1)},
        },
    ),
    # A variable is `kernel` there, and its slot has the names of model and cell as well.
    "Keras 3.0": (
        layer("Adam", "adam"),
        {
            "iteration": np.array(3),
            "learning_rate": np.float32(1),
            **{
                f"top_d_cell_{v}_{s}": a
                for v, a in (("kernel", KERNEL), ("bias", BIAS))
                for s in ("momentum", "velocity")
            },
        },
    ),
}


@pytest.mark.parametrize("writer", SLOTS)
def test_slots_belong_to_their_variables(tmp_path: Path, writer: str) -> None:
    optimizer, slots = SLOTS[writer]
    entries, version, names = dense("d"), "2.15.0", ["m", "v"]
    if writer == "Keras 3.0":
        entries, version = {"kernel": KERNEL, "bias": BIAS}, "3.0.5"
        names = ["momentum", "velocity"]
    elif writer == "Keras 2.3 on Theano":
        names = ["m", "v", "vhat"]
    path = full_file(tmp_path / "m.h5", {"d": entries}, MODEL, optimizer, slots, version)
    with read(path) as tensors:
        origins = [tensors.origin(name) for name in tensors]
    owned = {(o.owner, o.slot) for o in origins if o.role is Role.SLOT}
    assert owned == {(f"d/{leaf}", slot) for leaf in ("kernel", "bias") for slot in names}
    assert [o.role for o in origins if "iter" in o.key or "param_0" in o.key] == [Role.COUNTER]
    assert all(o.trainable for o in origins if o.role is Role.WEIGHT)


def test_slots_that_may_be_two_variables_are_nobodys(tmp_path: Path) -> None:
    layers = {"a": {"a/b_c:0": BIAS}, "a_b": {"a_b/c:0": BIAS}}
    slots = {"adam/iteration": np.array(1), "adam/a_b_c_momentum": BIAS}
    optimizer = layer("Mine", "adam")
    path = full_file(tmp_path / "m.h5", layers, MODEL, optimizer, slots, "3.15.0")
    with read(path) as tensors:
        assert tensors.origin("adam/a_b_c_momentum").owner is None


def test_slots_by_keys_name_their_owners_by_key(tmp_path: Path) -> None:
    path = full_file(tmp_path / "m.h5", {"d": dense("d")}, MODEL, *SLOTS["tf_keras"])
    with read(path, names="key") as tensors:
        slot = tensors.origin("optimizer_weights/Adam/m/d/kernel:0")
        assert slot.owner == "model_weights/d/d/kernel:0"
        assert slot.owner in tensors


def test_slots_in_another_order_are_nobodys(tmp_path: Path) -> None:
    slots = {"iterations:0": np.array(3), "Variable:0": BIAS, "Variable_1:0": KERNEL}
    optimizer = {"class_name": "SGD", "config": {}}
    path = full_file(tmp_path / "m.h5", {"d": dense("d")}, MODEL, optimizer, slots)
    with read(path) as tensors:
        assert tensors.origin("Variable").role is Role.OPTIMIZER
        assert tensors.origin("Variable_1").owner is None


# Keras 1 and Theano


def test_a_theano_file_is_turned_only_when_asked(tmp_path: Path) -> None:
    kernel = np.arange(18, dtype=np.float32).reshape(3, 3, 1, 2)
    path = weights_file(tmp_path / "m.h5", {"c": {"c/kernel:0": kernel, "c/bias:0": BIAS[:2]}})
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = "theano"
    assert arrays(path)["c/kernel"].tolist() == kernel.tolist()
    turned = arrays(path, unflip_theano=True)
    assert turned["c/kernel"].tolist() == kernel[::-1, ::-1].tolist()
    assert turned["c/bias"].tolist() == BIAS[:2].tolist()
    assert "1 kernels of convolutions turned" in notes(path, unflip_theano=True)[0]


def test_a_file_of_tensorflow_is_not_turned(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    with pytest.raises(UsageError, match=r"expected a file of Theano's, got one of tensorflow's"):
        read(path, unflip_theano=True)


def test_keras_1_is_brought_up_to_date_only_when_asked(tmp_path: Path) -> None:
    layers = {
        "dense_1": {"dense_1_W": KERNEL, "dense_1_b": BIAS},
        "bn": {f"bn_{leaf}": BIAS for leaf in ("gamma", "beta", "running_mean", "running_std")},
    }
    path = weights_file(tmp_path / "m.h5", layers, version=None)
    assert next(iter(arrays(path))) == "dense_1/dense_1_W"
    with read(path, keras1="modern") as tensors:
        assert list(tensors) == [
            "dense_1/kernel", "dense_1/bias",
            "bn/gamma", "bn/beta", "bn/moving_mean", "bn/moving_variance",
        ]  # fmt: skip
        assert tensors.origin("bn/moving_variance").role is Role.STATE
        assert tensors.origin("dense_1/kernel").key == "dense_1/dense_1_W"


@pytest.mark.parametrize("kind", [None, "Convolution1D", "Convolution2D", "ConvLSTM2D", "LSTM"])
def test_arrays_that_no_layer_has_are_kept(tmp_path: Path, kind: str | None) -> None:
    shapes = {"scalar": (), "vector": (3,), "kernel": (3, 2, 2, 3)}
    groups = (["U"], ["W"], ["U", "b"], ["W", "b"], ["W_i", "b_i"], ["W_z", "U_z", "b_z"])
    layers = {
        f"{shape}_{number}": {
            f"x_{leaf}": np.zeros(shapes[shape if leaf[0] != "b" else "vector"], np.float32)
            for leaf in leaves
        }
        for shape in shapes
        for number, leaves in enumerate(groups)
    }
    if kind is None:
        path = weights_file(tmp_path / "m.h5", layers, None)
    else:
        model = config(*(layer(kind, name, nb_filter=3) for name in layers))
        path = full_file(tmp_path / "m.h5", layers, model, version=None)
    count = sum(len(values) for values in layers.values())
    assert len(arrays(path, keras1="modern", unflip_theano=True)) == count


def test_a_newer_file_has_nothing_to_bring_up_to_date(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "m.h5", {"d": dense("d")})
    assert arrays(path, keras1="modern").keys() == arrays(path).keys()
    assert "nothing to bring up to date" in notes(path, keras1="modern")[0]
