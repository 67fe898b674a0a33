"""Keras targets without Keras: configs written by hand, files read with h5py and zipfile."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import (
    ConvertError,
    CorruptFileError,
    TargetError,
    UsageError,
)
from tensorferry.converters.formats import keras_h5, keras_v3
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import Plan, write_plan
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.converters.tensors import ExtentTensor, MemoryTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import (
    Values,
    WriterContract,
    contents,
    listing,
    tensors_of,
)
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.report import Report


def layer(kind: str, name: str, shape: list[int | None] | None = None, **config: Any) -> Any:
    found: dict[str, Any] = {
        "module": "keras.layers", "class_name": kind, "config": {"name": name, **config},
        "registered_name": None,
    }  # fmt: skip
    return found if shape is None else {**found, "build_config": {"input_shape": shape}}


def model(*layers: Any, kind: str = "Functional", name: str = "top", **more: Any) -> dict[str, Any]:
    return {
        "module": "keras.src.models.functional", "class_name": kind,
        "config": {"name": name, "layers": list(layers)}, "registered_name": kind, **more,
    }  # fmt: skip


INNER = model(layer("Dense", "d", [None, 4], units=3, use_bias=False), name="inner")
CONFIG = model(
    layer("InputLayer", "x", batch_shape=[None, 4]),
    layer("Dense", "out", [None, 4], units=2),
    INNER,
    layer("Dropout", "drop"),
)
ADAM = {"class_name": "Adam", "config": {"name": "adam", "learning_rate": 0.1}, "module": "keras"}


def floats(*shape: int, start: float = 0) -> np.ndarray:
    return (np.arange(np.prod(shape, dtype=int), dtype="f4") + start).reshape(shape)


def weights() -> dict[str, Values]:
    return {"out/kernel": floats(4, 2), "out/bias": floats(2), "inner/d/kernel": floats(4, 3)}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return stored(CONFIG, tmp_path / "config.json")


def stored(value: Any, path: Path) -> Path:
    path.write_text(json.dumps(value))
    return path


def planned(tensors: TensorDict, target: Path, **options: Any) -> Plan:
    plan = keras_v3.FORMAT.plan
    assert plan
    return plan(tensors, target, WriteOptions(**options))


def written(values: Mapping[str, Values], target: Path, **options: Any) -> Path:
    write_plan(planned(tensors_of(values), target, **options), overwrite=True)
    return target


def converted(source: Path, target: Path, to: str | None = None, **options: Any) -> Report:
    write = WriteOptions(overwrite=True, **options)
    return convert(source, target, ConvertOptions(target_format=to, verify=True, write=write))


def refused(call: Callable[[], object], kind: type[ConvertError] = UsageError) -> ConvertError:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.hint
    return caught.value


def read(path: Path, **options: Any) -> dict[str, np.ndarray]:
    with open_tensors(path, ReadOptions(**options)) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


def attributes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the attributes of all objects of an HDF5 file."""
    found: dict[str, dict[str, Any]] = {}

    def add(name: str, item: Any) -> None:
        found[name] = dict(item.attrs)

    with h5py.File(path) as file:
        add("", file)
        file.visititems(add)
    return found


# Weights by a config


def test_tensors_go_where_the_config_says(config: Path, tmp_path: Path) -> None:
    path = written(weights(), tmp_path / "m.weights.h5", config=config)
    assert attributes(path) == {
        "": {},
        "vars": {"name": "top"},
        "layers": {},
        "layers/dense": {},
        "layers/dense/vars": {"name": "out"},
        "layers/dense/vars/0": {},
        "layers/dense/vars/1": {},
        "layers/dropout": {},
        "layers/dropout/vars": {"name": "drop"},
        "layers/functional": {},
        "layers/functional/layers": {},
        "layers/functional/layers/dense": {},
        "layers/functional/layers/dense/vars": {"name": "d"},
        "layers/functional/layers/dense/vars/0": {},
        "layers/functional/vars": {"name": "inner"},
        "layers/input_layer": {},
        "layers/input_layer/vars": {"name": "x"},
    }
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["layers/dense/vars/0"], floats(4, 2))
    assert list(read(path)) == ["out/kernel", "out/bias", "inner/d/kernel"]


def test_an_archive_is_stored_with_a_right_crc(config: Path, tmp_path: Path) -> None:
    path = written(weights(), tmp_path / "m.keras", config=config)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        assert archive.testzip() is None
        assert archive.read("config.json") == config.read_bytes()
        assert json.loads(archive.read("metadata.json")) == {"keras_version": "3"}
    assert [each.filename for each in members] == [
        "metadata.json", "config.json", "model.weights.h5",
    ]  # fmt: skip
    assert {each.compress_type for each in members} == {zipfile.ZIP_STORED}
    assert {each.date_time for each in members} == {(1980, 1, 1, 0, 0, 0)}
    assert sorted(read(path)) == sorted(weights())


@pytest.mark.parametrize("name", ["m.keras", "m.weights.h5", "m.weights.json"])
def test_the_same_tensors_give_the_same_bytes(config: Path, tmp_path: Path, name: str) -> None:
    found = []
    for order in (weights(), dict(reversed(weights().items()))):
        for jobs in (1, 3):
            folder = tmp_path / f"{jobs}{len(found)}"
            folder.mkdir()
            plan = planned(tensors_of(order), folder / name, config=config)
            write_plan(plan, jobs=jobs)
            found.append(listing(folder))
    assert all(each == found[0] for each in found)


def test_every_byte_of_an_archive_is_planned_once(config: Path, tmp_path: Path) -> None:
    (file,) = planned(tensors_of(weights()), tmp_path / "m.keras", config=config).files
    ranges = [(at, at + len(data)) for at, data in file.literals]
    ranges += [(each.offset, each.offset + each.tensor.nbytes) for each in file.placements]
    assert file.finish
    checksums = {each.name: 0 for each in file.placements}
    ranges += [(at, at + len(data)) for at, data in file.finish(checksums)]
    ranges.sort()
    assert ranges[0][0] == 0
    assert ranges[-1][1] == file.size
    assert all(one[1] == other[0] for one, other in pairwise(ranges))
    assert not list(tmp_path.glob("m.*"))


def test_all_that_does_not_fit_is_in_one_error(config: Path, tmp_path: Path) -> None:
    values: dict[str, Values] = {
        "out/kernel": floats(4, 3), "inner/d/kernel": floats(3), "other/kernel": floats(1),
    }  # fmt: skip
    error = refused(lambda: written(values, tmp_path / "m.keras", config=config), TargetError)
    assert error.message.endswith(
        "config.json: `out/bias` (2,) is missing; `out/kernel` should be (4, 2); "
        "`inner/d/kernel` should be (4, 3); `other/kernel` is not in it"
    )
    assert not list(tmp_path.glob("m.*"))


def test_nothing_is_left_behind_where_writing_fails(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def failing(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 3:
            raise OSError(28, "no space left on device")
        return pwrite(descriptor, data, offset)

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", failing)
    for name in ("m.keras", "m.weights.json"):
        calls.clear()
        with pytest.raises(TargetError, match="no space"):
            written(weights(), tmp_path / name, config=config)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


# Other spellings


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("out/kernel:0", "out/kernel"),
        ("top/out/kernel", "out/kernel"),
        ("d/kernel", "inner/d/kernel"),
        ("top/d/kernel:0", "inner/d/kernel"),
        ("layers/dense/vars/0", "out/kernel"),
    ],
)
def test_other_spellings_of_a_name_are_known(
    config: Path, tmp_path: Path, given: str, place: str
) -> None:
    values = {given if name == place else name: each for name, each in weights().items()}
    plan = planned(tensors_of(values), tmp_path / "m.keras", config=config)
    is_key = given.startswith("layers/")
    assert plan.stored_names == ({} if is_key else {given: place})
    write_plan(plan)
    found = read(tmp_path / "m.keras")
    assert {name: each.shape for name, each in found.items()} == {
        "out/kernel": (4, 2), "out/bias": (2,), "inner/d/kernel": (4, 3),
    }  # fmt: skip


def test_a_spelling_that_fits_two_places_is_not_guessed(tmp_path: Path) -> None:
    other = model(layer("Dense", "d", [None, 4], units=3, use_bias=False), name="other")
    config = stored(model(INNER, other), tmp_path / "config.json")
    values = {"d/kernel": floats(4, 3), "inner/d/kernel:0": floats(4, 3)}
    path = written(values, tmp_path / "m.keras", config=config)  # one is left for it
    assert sorted(read(path)) == ["inner/d/kernel", "other/d/kernel"]
    values = {"d/kernel": floats(4, 3)}
    error = refused(lambda: written(values, path, config=config), TargetError)
    assert "`d/kernel` is not in it" in error.message


def test_two_names_that_differ_in_the_number_of_the_output_stay_two(
    config: Path, tmp_path: Path
) -> None:
    values = {**weights(), "out/bias:0": floats(2)}
    error = refused(lambda: written(values, tmp_path / "m.keras", config=config), TargetError)
    assert "`out/bias:0` is not in it" in error.message


def test_a_depthwise_kernel_has_another_name_in_keras_2(tmp_path: Path) -> None:
    convolution = layer(
        "DepthwiseConv2D", "c", [None, 9, 9, 3],
        kernel_size=[2, 2], depth_multiplier=2, use_bias=False,
    )  # fmt: skip
    config = stored(model(convolution), tmp_path / "config.json")
    values = {"c/depthwise_kernel": floats(2, 2, 3, 2)}
    assert list(read(written(values, tmp_path / "m.keras", config=config))) == ["c/kernel"]


SHAPES: list[tuple[Any, dict[str, tuple[int, ...]]]] = [
    (
        layer("Conv2D", "a", [None, 9, 9, 4], kernel_size=[2, 3], filters=6, groups=2),
        {"kernel": (2, 3, 2, 6), "bias": (6,)},
    ),
    (
        layer("Conv1DTranspose", "a", [None, 9, 4], kernel_size=[2], filters=6),
        {"kernel": (2, 6, 4), "bias": (6,)},
    ),
    (
        layer("Conv2D", "a", [None, 4, 9, 9], kernel_size=2, filters=6,
              data_format="channels_first", use_bias=False),
        {"kernel": (2, 2, 4, 6)},
    ),
    (
        layer("SeparableConv1D", "a", [None, 9, 4], kernel_size=[2], filters=6,
              depth_multiplier=3),
        {"depthwise_kernel": (2, 4, 3), "pointwise_kernel": (1, 12, 6), "bias": (6,)},
    ),
    (layer("Embedding", "a", input_dim=7, output_dim=3), {"embeddings": (7, 3)}),
    (
        layer("BatchNormalization", "a", [None, 5, 4], axis=-1, scale=False),
        {"beta": (4,), "moving_mean": (4,), "moving_variance": (4,)},
    ),
    (
        layer("LayerNormalization", "a", [None, 5, 4], axis=[1, 2]),
        {"gamma": (5, 4), "beta": (5, 4)},
    ),
    (
        layer("GRU", "a", [None, 5, 4], units=3),
        {"gru_cell/kernel": (4, 9), "gru_cell/recurrent_kernel": (3, 9), "gru_cell/bias": (2, 9)},
    ),
    (
        layer("ConvLSTM2D", "a", [None, 5, 8, 8, 4], kernel_size=[1, 2], filters=3),
        {"conv_lstm_cell/kernel": (1, 2, 4, 12), "conv_lstm_cell/recurrent_kernel": (1, 2, 3, 12),
         "conv_lstm_cell/bias": (12,)},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("each", "shapes"),
    SHAPES,
    ids=[f"{n}-{each['class_name']}" for n, (each, _) in enumerate(SHAPES)],
)
def test_shapes_follow_from_the_config(
    tmp_path: Path, each: Any, shapes: dict[str, tuple[int, ...]]
) -> None:
    config = stored(model(each), tmp_path / "config.json")
    values: dict[str, Values] = {f"a/{name}": floats(*shape) for name, shape in shapes.items()}
    path = written(values, tmp_path / "m.keras", config=config)
    assert {name: value.shape for name, value in read(path).items()} == {
        f"a/{name}": shape for name, shape in shapes.items()
    }
    for name, shape in shapes.items():
        wrong = {**values, f"a/{name}": floats(*shape[:-1], shape[-1] + 1)}
        error = refused(lambda wrong=wrong: written(wrong, path, config=config), TargetError)  # type: ignore[misc]
        assert f"`a/{name}` should be {shape}" in error.message


# Configs


def test_without_a_config_there_is_no_model(tmp_path: Path) -> None:
    error = refused(lambda: written(weights(), tmp_path / "m.keras"))
    assert "there is no config" in error.message
    assert "--config" in str(error.hint)
    error = refused(lambda: written(weights(), tmp_path / "m.weights.h5"))
    assert "names alone do not tell" in error.message


def test_names_that_are_keys_need_no_config(tmp_path: Path) -> None:
    values = {"layers/dense/vars/0": floats(2), "optimizer/vars/0": floats(1)}
    path = written(values, tmp_path / "m.weights.h5")
    assert sorted(read(path, names="key")) == sorted(values)
    assert "vars" in attributes(path)  # which tf_keras asks for


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no JSON"),
        ('{"weight_map": {}}', "none of a model"),
        ("[]", "no Keras config in it"),
        ('{"class_name": 1, "config": {}}', "none of a model"),
    ],
)
def test_a_config_that_is_none_is_refused(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConvertError, match=what) as caught:
        written(weights(), tmp_path / "m.weights.h5", config=path)
    assert "config.json" in caught.value.message


def test_a_config_that_is_not_there_is_named(config: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "confg.json"
    error = refused(lambda: written(weights(), tmp_path / "m.keras", config=wrong))
    assert "config.json" in str(error.hint)
    assert config.exists()


def test_metadata_beside_a_config_go_along(config: Path, tmp_path: Path) -> None:
    metadata = stored({"keras_version": "3.4.1", "date_saved": "x"}, tmp_path / "metadata.json")
    path = written(weights(), tmp_path / "m.keras", config=config)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("metadata.json") == metadata.read_bytes()
    metadata.write_text("{")
    with pytest.raises(CorruptFileError, match=r"metadata\.json"):
        written(weights(), path, config=config)


def test_a_legacy_config_makes_no_archive(config: Path, tmp_path: Path) -> None:
    legacy = tmp_path / "m.h5"
    plan = keras_h5.FORMAT.plan
    assert plan
    write_plan(plan(tensors_of(weights()), legacy, WriteOptions(config=config)))
    error = refused(lambda: converted(legacy, tmp_path / "m.keras"))
    assert "legacy" in error.message
    converted(legacy, tmp_path / "m.weights.h5")
    assert sorted(read(tmp_path / "m.weights.h5")) == sorted(weights())


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("m.h5", {}, "ending"),
        ("m.keras", {"max_shard_bytes": 8}, "one file"),
        ("m.weights.h5", {"max_shard_bytes": 8}, "one file"),
    ],
)
def test_other_targets_are_refused(
    config: Path, tmp_path: Path, name: str, options: Any, what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        written(weights(), tmp_path / name, config=config, **options)


# What is no weight


def adam(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "compile_config": {"optimizer": ADAM}}


def adam_state() -> dict[str, Values]:
    state: dict[str, Values] = {
        "adam/iteration": np.array(7, "i8"), "adam/learning_rate": np.array(0.5, "f4"),
    }  # fmt: skip
    for name, value in weights().items():
        assert isinstance(value, np.ndarray)
        for slot in ("momentum", "velocity"):
            state[f"adam/{name.replace('/', '_')}_{slot}"] = value + 1
    return state


def test_an_optimizer_that_the_config_knows_is_written(tmp_path: Path) -> None:
    config = stored(adam(CONFIG), tmp_path / "config.json")
    path = written({**weights(), **adam_state()}, tmp_path / "m.keras", config=config)
    found = read(path)
    assert sorted(found) == sorted({**weights(), **adam_state()})
    keyed = read(path, names="key")
    assert keyed["optimizer/vars/0"] == 7
    assert keyed["optimizer/vars/3"].shape == (4, 2)


def test_a_part_of_an_optimizer_is_left_out_and_said(tmp_path: Path) -> None:
    config = stored(adam(CONFIG), tmp_path / "config.json")
    state = adam_state()
    del state["adam/iteration"]
    plan = planned(tensors_of({**weights(), **state}), tmp_path / "m.keras", config=config)
    dropped = {note.tensor for note in plan.notes if note.kind is Kind.DROPPED}
    assert dropped == set(state)
    write_plan(plan)
    assert sorted(read(tmp_path / "m.keras")) == sorted(weights())


def test_a_seed_is_left_out_and_said(config: Path, tmp_path: Path) -> None:
    values = {**weights(), "drop/seed_generator/seed_generator_state": np.zeros(2, "u4")}
    plan = planned(tensors_of(values), tmp_path / "m.keras", config=config)
    assert [note.kind for note in plan.notes] == [Kind.DROPPED]


def test_averages_take_the_places_of_their_variables(tmp_path: Path) -> None:
    compiled = adam(CONFIG)
    compiled["compile_config"]["optimizer"]["config"]["use_ema"] = True
    try:
        config = stored(compiled, tmp_path / "config.json")
    finally:
        del compiled["compile_config"]["optimizer"]["config"]["use_ema"]
    state = adam_state()
    for name, value in weights().items():
        assert isinstance(value, np.ndarray)
        state[f"adam/{name.replace('/', '_')}_average"] = value + 50
    source = written({**weights(), **state}, tmp_path / "m.keras", config=config)
    options = ConvertOptions(ema="only", weights_only=True, verify=True)
    convert(source, tmp_path / "ema.keras", options)
    np.testing.assert_array_equal(read(tmp_path / "ema.keras")["out/bias"], floats(2) + 50)


# A source that is Keras 3 itself


def test_shards_are_joined_and_split_with_their_names(config: Path, tmp_path: Path) -> None:
    one = written(weights(), tmp_path / "m.weights.h5", config=config)
    report = converted(one, tmp_path / "s.weights.json", max_shard_bytes=36)
    names = [file.path.name for file in report.plan.files]
    assert names == [
        "s_00000.weights.h5", "s_00001.weights.h5", "s_00002.weights.h5", "s.weights.json",
    ]  # fmt: skip
    index = json.loads((tmp_path / "s.weights.json").read_text())
    assert index == {
        "metadata": {"total_size": 88.0},
        "weight_map": {
            "/layers/dense/vars": ["s_00000.weights.h5", "s_00001.weights.h5"],
            "/layers/functional/layers/dense/vars": "s_00002.weights.h5",
        },
    }  # fmt: skip
    assert any(note.tensor == "inner/d/kernel" for note in report.plan.notes)
    converted(tmp_path / "s.weights.json", tmp_path / "joined.weights.h5")
    assert attributes(tmp_path / "joined.weights.h5") == attributes(one)
    assert list(read(tmp_path / "joined.weights.h5")) == list(read(one))


def test_a_folder_is_a_model_unzipped(config: Path, tmp_path: Path) -> None:
    archive = written(weights(), tmp_path / "m.keras", config=config)
    converted(archive, tmp_path / "model", to="keras-v3", folder=True)
    assert sorted(listing(tmp_path / "model")) == [
        "config.json", "metadata.json", "model.weights.h5",
    ]  # fmt: skip
    report = converted(
        tmp_path / "model", tmp_path / "split", to="keras-v3", folder=True, max_shard_bytes=40
    )
    assert any("`load_weights` alone" in note.text for note in report.plan.notes)
    converted(tmp_path / "split", tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == archive.read_bytes()


def test_what_an_older_model_left_there_goes(config: Path, tmp_path: Path) -> None:
    archive = written(weights(), tmp_path / "m.keras", config=config)
    index, folder = tmp_path / "s.weights.json", tmp_path / "model"
    for size, count in ((10, 3), (1000, 1)):
        converted(archive, index, max_shard_bytes=size)
        assert len(list(tmp_path.glob("s_*"))) == count
    for size, names in (
        (10, ["model.weights.json", "model_00000.weights.h5", "model_00001.weights.h5",
              "model_00002.weights.h5"]),
        (None, ["model.weights.h5"]),
    ):  # fmt: skip
        converted(archive, folder, to="keras-v3", folder=True, max_shard_bytes=size)
        (folder / "README.md").write_text("mine")
        assert sorted(path.name for path in folder.glob("model*")) == names
    assert (folder / "README.md").exists()
    options = ConvertOptions(write=WriteOptions(max_shard_bytes=10))
    assert "--overwrite" in str(refused(lambda: convert(archive, index, options)).hint)


def test_a_part_of_a_model_is_no_model(config: Path, tmp_path: Path) -> None:
    archive = written(weights(), tmp_path / "m.keras", config=config)
    options = ConvertOptions(exclude=("out/bias",))
    with pytest.raises(TargetError, match="`out/bias`"):
        convert(archive, tmp_path / "part.weights.h5", options)
    source = written(weights(), tmp_path / "m.weights.h5", config=config)
    convert(source, tmp_path / "part.weights.h5", options)  # nothing says that it is one
    assert sorted(read(tmp_path / "part.weights.h5")) == ["inner/d/kernel", "out/kernel"]


@pytest.mark.parametrize("old", ["_layer_checkpoint_dependencies/dense", r"layers\dense"])
def test_old_keys_become_those_of_today(tmp_path: Path, old: str) -> None:
    with h5py.File(tmp_path / "old.weights.h5", "w") as file:
        file[f"{old}/vars/0"] = floats(2, 2)
        file.create_group("vars")
    converted(tmp_path / "old.weights.h5", tmp_path / "new.weights.h5")
    assert list(read(tmp_path / "new.weights.h5", names="key")) == ["layers/dense/vars/0"]


def test_what_has_no_place_is_not_put_beside_the_model(config: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", **{"new/kernel": floats(2)})  # type: ignore[arg-type]
    options = ConvertOptions(updates=(tmp_path / "more.npz",))
    for source in ("m.weights.h5", "m.keras"):
        written(weights(), tmp_path / source, config=config)
        error = refused(
            lambda source=source: convert(  # type: ignore[misc]
                tmp_path / source, tmp_path / "out.weights.h5", options
            ),
            TargetError,
        )
        assert "`new/kernel`" in error.message


def test_two_spellings_of_a_key_are_two_tensors(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        for group in ("layers", "_layer_checkpoint_dependencies"):
            file[f"{group}/dense/vars/0"] = floats(2)
    refused(lambda: converted(tmp_path / "m.weights.h5", tmp_path / "n.weights.h5"), TargetError)


def test_a_kernel_that_two_layers_have(tmp_path: Path) -> None:
    wrapper = layer("SpectralNormalization", "sn", layer=layer("Dense", "d", [None, 4], units=2))
    config = stored(model(wrapper), tmp_path / "config.json")
    values: dict[str, Values] = {
        "sn/vector_u": floats(1, 2), "sn/d/kernel": floats(4, 2), "sn/d/bias": floats(2),
    }  # fmt: skip
    path = written(values, tmp_path / "m.keras", config=config)
    found = read(path)
    assert sorted(found) == ["sn/d/bias", "sn/d/kernel", "sn/kernel", "sn/vector_u"]
    assert found["sn/kernel"].tobytes() == found["sn/d/kernel"].tobytes()
    report = converted(path, tmp_path / "m.h5", to="keras-h5")
    assert [note.tensor for note in report.plan.notes] == ["sn/kernel"]
    assert sorted(read(tmp_path / "m.h5")) == sorted(values)


def test_assets_and_deflated_members_go_along(config: Path, tmp_path: Path) -> None:
    archive = written(weights(), tmp_path / "m.keras", config=config)
    packed = tmp_path / "packed.keras"
    words = b"\n".join(b"word%d" % number for number in range(5000))
    with (
        zipfile.ZipFile(archive) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
        target.writestr("assets/layers/string_lookup/vocabulary.txt", words)
    converted(packed, tmp_path / "copy.keras")
    converted(packed, tmp_path / "folder", to="keras-v3", folder=True)
    converted(tmp_path / "folder", tmp_path / "again.keras")
    assert (tmp_path / "again.keras").read_bytes() == (tmp_path / "copy.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "copy.keras") as file:
        assert file.testzip() is None
        assert file.read("assets/layers/string_lookup/vocabulary.txt") == words
    np.savez(tmp_path / "w.npz", **weights())  # type: ignore[arg-type]
    converted(tmp_path / "w.npz", tmp_path / "other.keras", config=packed)
    assert (tmp_path / "other.keras").read_bytes() == (tmp_path / "copy.keras").read_bytes()


def test_a_preset_of_two_files_is_no_model(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "preset"
    folder.mkdir()
    for name in ("model.weights.h5", "task.weights.h5"):
        written(weights(), folder / name, config=config)
    error = refused(lambda: converted(folder, tmp_path / "m.weights.h5"))
    assert "two weights files" in error.message


# Types and sizes


def test_bfloat16_is_stored_as_each_keras_reads_it(config: Path, tmp_path: Path) -> None:
    half = (DType.BFLOAT16, (2,), b"\x80\x3f\x00\x40")
    values: dict[str, Values] = {**weights(), "out/bias": half}
    path = written(values, tmp_path / "m.weights.h5", config=config)
    with h5py.File(path) as file:
        dataset = file["layers/dense/vars/1"]
        assert (dataset.dtype, dataset.attrs["dtype"]) == (np.dtype("V2"), "bfloat16")
    stored({"keras_version": "2.15.0"}, tmp_path / "metadata.json")
    written(values, path, config=config)
    with h5py.File(path) as file:
        dataset = file["layers/dense/vars/1"]
        assert (dataset.dtype, list(dataset[()])) == (np.dtype("f4"), [1, 2])
        assert not dataset.attrs
    with open_tensors(path) as tensors:
        assert tensors["out/bias"].spec.dtype is DType.BFLOAT16


@pytest.mark.parametrize("dtype", [DType.FLOAT8_E4M3FN, DType.INT4])
def test_types_that_keras_files_do_not_hold_are_refused(
    config: Path, tmp_path: Path, dtype: DType
) -> None:
    values: dict[str, Values] = {**weights(), "out/bias": (dtype, (2,), bytes(2))}
    error = refused(lambda: written(values, tmp_path / "m.keras", config=config), TargetError)
    assert f"tensor `out/bias`: Keras files hold no {dtype}" in error.message


def test_an_archive_may_be_larger_than_4_gib(tmp_path: Path) -> None:
    """Nothing of the tensor is written: the file has a hole in its place."""
    rows = 1 << 29
    config = stored(
        model(layer("Embedding", "e", input_dim=rows, output_dim=3)), tmp_path / "config.json"
    )
    tensor = MemoryTensor(TensorSpec(DType.FLOAT32, (rows, 3)), bytes)
    plan = planned(tensors_of({"e/embeddings": tensor}), tmp_path / "m.keras", config=config)
    (file,) = plan.files
    assert file.finish
    with (tmp_path / "m.keras").open("wb") as target:
        target.truncate(file.size)
        for at, data in (*file.literals, *file.finish({"e/embeddings": 0})):
            target.seek(at)
            target.write(data)
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert archive.getinfo("model.weights.h5").file_size > 6 << 30
    with open_tensors(tmp_path / "m.keras") as tensors:
        found = tensors["e/embeddings"]
        assert found.spec.shape == (rows, 3)
        assert isinstance(found, ExtentTensor)
        assert found.extents[0].length == 12 * rows


# Legacy


class TestLegacyWriter(WriterContract):
    FORMAT = keras_h5.FORMAT

    def target(self, folder: Path) -> Path:
        return folder / "out.h5"


def legacy(values: Mapping[str, Values], target: Path, **options: Any) -> Plan:
    plan = keras_h5.FORMAT.plan
    assert plan
    made = plan(tensors_of(values), target, WriteOptions(**options))
    write_plan(made, overwrite=True)
    return made


def test_layers_are_the_first_parts_of_names(tmp_path: Path) -> None:
    values: dict[str, Values] = {
        "b/bias": floats(2), "b/kernel": floats(1, 2), "step": floats(1),
        "a/moving_mean": floats(2), "a/gamma": floats(2), "a/beta": floats(2),
        "m/value/kernel": floats(1), "m/query/kernel": floats(1),
        "s/backward_x/kernel": floats(1), "s/forward_x/kernel": floats(1),
    }  # fmt: skip
    plan = legacy(values, tmp_path / "w.h5")
    found = attributes(tmp_path / "w.h5")
    assert list(found[""]["layer_names"]) == [b"b", b"a", b"m", b"s"]
    assert (found[""]["keras_version"], found[""]["backend"]) == ("2.15.0", "tensorflow")
    assert list(found["b"]["weight_names"]) == [b"b/kernel:0", b"b/bias:0"]
    assert list(found["a"]["weight_names"]) == [b"a/gamma:0", b"a/beta:0", b"a/moving_mean:0"]
    assert list(found["m"]["weight_names"]) == [b"m/query/kernel:0", b"m/value/kernel:0"]
    assert list(found["s"]["weight_names"]) == [b"s/forward_x/kernel:0", b"s/backward_x/kernel:0"]
    assert list(found["top_level_model_weights"]["weight_names"]) == [b"step:0"]
    assert [note.text for note in plan.notes] == [
        "the order of layers is the source's: where the model's is another, load with by_name"
    ]
    assert {name: each.tobytes() for name, each in read(tmp_path / "w.h5").items()} == {
        name: np.asarray(each).tobytes() for name, each in values.items()
    }


@pytest.mark.parametrize(
    "names", [("n/b/kernel", "n/a/kernel"), ("n/theirs", "n/ours"), ("n/b/kernel", "n/bias")]
)
def test_an_order_that_nobody_knows_is_said(tmp_path: Path, names: tuple[str, str]) -> None:
    plan = legacy({name: floats(1) for name in names}, tmp_path / "w.h5")
    assert "the order inside of `n`" in plan.notes[-1].text
    assert tuple(read(tmp_path / "w.h5")) == names


def test_long_lists_are_cut_into_pieces(tmp_path: Path) -> None:
    count = 3500
    values: dict[str, Values] = {f"layer_{n:017}/kernel": floats(1, start=n) for n in range(count)}
    legacy(values, tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5") as file:
        pieces = [file.attrs[f"layer_names{number}"] for number in range(2)]
        assert "layer_names2" not in file.attrs
    assert all(piece.nbytes <= 64512 for piece in pieces)
    found = read(tmp_path / "w.h5")
    assert list(found) == list(values)
    assert found[f"layer_{count - 1:017}/kernel"] == count - 1


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a//kernel", "empty part"),
        ("a/./kernel", "empty part"),
        ("optimizer_weights/kernel", "no layer can have the name"),
        ("x" * 65000, "length of a name"),
    ],
)
def test_names_that_the_layout_cannot_hold_are_refused(
    tmp_path: Path, name: str, what: str
) -> None:
    error = refused(lambda: legacy({name: floats(1)}, tmp_path / "w.h5"), TargetError)
    assert what in error.message
    assert not list(tmp_path.iterdir())


def test_keys_are_no_names_of_layers(tmp_path: Path) -> None:
    source = written({"layers/dense/vars/0": floats(2)}, tmp_path / "m.weights.h5")
    error = refused(lambda: converted(source, tmp_path / "w.h5", to="keras-h5"))
    assert "no layer is known" in error.message


def test_a_config_makes_a_whole_model(config: Path, tmp_path: Path) -> None:
    values = dict(reversed(weights().items()))
    legacy(values, tmp_path / "m.h5", config=config)
    found = attributes(tmp_path / "m.h5")
    assert json.loads(found[""]["model_config"]) == CONFIG
    assert found[""]["keras_version"] == found["model_weights"]["keras_version"]
    assert list(found["model_weights"]["layer_names"]) == [b"x", b"out", b"inner", b"drop"]
    assert list(found["model_weights/inner"]["weight_names"]) == [b"d/kernel:0"]
    assert found["model_weights/drop"]["weight_names"].shape == (0,)
    assert list(read(tmp_path / "m.h5")) == ["out/kernel", "out/bias", "inner/d/kernel"]
    error = refused(
        lambda: legacy({"out/bias": floats(2)}, tmp_path / "m.h5", config=config), TargetError
    )
    assert "`out/kernel` (4, 2) is missing; `inner/d/kernel` (4, 3) is missing" in error.message


def test_statistics_and_frozen_weights_come_last(tmp_path: Path) -> None:
    frozen = layer("Dense", "f", [None, 4], units=4, use_bias=False, trainable=False)
    norm = layer("BatchNormalization", "n", [None, 4])
    last = layer("Dense", "l", [None, 4], units=4)
    inner = model(frozen, norm, last, name="inner")
    config = stored(model(inner), tmp_path / "config.json")
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    values: dict[str, Values] = {f"inner/n/{leaf}": floats(4) for leaf in leaves}
    values |= {"inner/l/bias": floats(4), "inner/l/kernel": floats(4, 4)}
    legacy({**values, "inner/f/kernel": floats(4, 4)}, tmp_path / "m.h5", config=config)
    names = attributes(tmp_path / "m.h5")["model_weights/inner"]["weight_names"]
    assert [name.decode().removesuffix(":0") for name in names] == [
        "n/gamma", "n/beta", "l/kernel", "l/bias", "f/kernel", "n/moving_mean",
        "n/moving_variance",
    ]  # fmt: skip


def test_a_legacy_file_keeps_layers_and_optimizer(tmp_path: Path) -> None:
    source = tmp_path / "m.h5"
    training = {"optimizer_config": {"class_name": "SGD", "config": {"name": "SGD"}}}
    with h5py.File(source, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG)
        file.attrs["training_config"] = json.dumps(training)
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = ["x", "out", "inner", "drop"]
        group.attrs["keras_version"] = "2.9.0"
        for name, value in weights().items():
            text = f"{name.removeprefix('inner/')}:0"
            group[f"{name.partition('/')[0]}/{text}"] = value
        for name, listed in {
            "x": [], "out": ["out/kernel:0", "out/bias:0"], "inner": ["d/kernel:0"], "drop": [],
        }.items():  # fmt: skip
            group.require_group(name).attrs["weight_names"] = listed
        state = file.create_group("optimizer_weights")
        state.attrs["weight_names"] = ["SGD/iter:0"]
        state["SGD/iter:0"] = 5
    report = converted(source, tmp_path / "copy.h5", to="keras-h5")
    assert not report.lossy
    found = attributes(tmp_path / "copy.h5")
    assert json.loads(found[""]["training_config"]) == training
    assert found["model_weights"]["keras_version"] == "2.9.0"
    assert list(found["model_weights"]["layer_names"]) == [b"x", b"out", b"inner", b"drop"]
    assert list(found["optimizer_weights"]["weight_names"]) == [b"SGD/iter:0"]
    one, other = read(source), read(tmp_path / "copy.h5")
    assert {name: each.tobytes() for name, each in one.items()} == {
        name: each.tobytes() for name, each in other.items()
    }


def test_a_legacy_model_tells_what_is_its_optimizers(config: Path, tmp_path: Path) -> None:
    """A file between them has the names alone."""
    plan = keras_h5.FORMAT.plan
    assert plan
    legacy({**weights()}, tmp_path / "m.h5", config=config)
    with h5py.File(tmp_path / "m.h5", "a") as file:
        state = file.create_group("optimizer_weights")
        state.attrs["weight_names"] = ["Variable:0"]
        state["Variable:0"] = 5
    convert(tmp_path / "m.h5", tmp_path / "w.npz")
    report = converted(tmp_path / "w.npz", tmp_path / "m.weights.h5", config=tmp_path / "m.h5")
    assert report.counts == {"written": 3, "dropped": 1}
    report = converted(
        tmp_path / "w.npz", tmp_path / "copy.h5", to="keras-h5", config=tmp_path / "m.h5"
    )
    assert report.counts == {"written": 4}
    assert list(attributes(tmp_path / "copy.h5")["optimizer_weights"]["weight_names"]) == [
        b"Variable:0"
    ]


def test_metrics_are_no_part_of_a_legacy_model(config: Path, tmp_path: Path) -> None:
    values = {**weights(), "metrics/mean/vars/0": floats(1)}
    archive = written(values, tmp_path / "m.keras", config=config)
    assert "metrics/mean/vars/0" in read(archive)
    for source in (archive, tmp_path / "w.npz"):
        if source.suffix == ".npz":
            convert(archive, source)
        report = converted(source, tmp_path / "m.h5", to="keras-h5", config=config)
        assert report.counts == {"written": 3, "dropped": 1}
    (note,) = (note for note in report.plan.notes if note.kind is Kind.DROPPED)
    assert note.tensor == "metrics/mean/vars/0"


def test_a_legacy_file_holds_no_model_of_a_class_of_ones_own(tmp_path: Path) -> None:
    mine = {"class_name": "Mine", "config": {"name": "m"}, "registered_name": "My>Mine"}
    config = stored(mine, tmp_path / "config.json")
    error = refused(lambda: legacy(weights(), tmp_path / "m.h5", config=config), TargetError)
    assert ".weights.h5" in str(error.hint)
    error = refused(lambda: written(weights(), tmp_path / "m.keras", config=config), TargetError)
    assert "--config model.keras" in str(error.hint)
    keyed = written({"first/vars/0": floats(2)}, tmp_path / "m.keras", config=config)
    error = refused(lambda: converted(keyed, tmp_path / "m.h5", to="keras-h5"), TargetError)
    assert ".weights.h5" in str(error.hint)


def test_weights_of_a_legacy_file_keep_their_layers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["layer_names"] = ["z", "a/b", "a", "none"]
        for name in ("z", "a/b", "a", "none"):
            group = file.require_group(name)
            group.attrs["weight_names"] = [] if name == "none" else [f"{name}/u:0", f"{name}/t:0"]
        for name in ("z", "a/b", "a"):
            for leaf in "ut":
                file[f"{name}/{name}/{leaf}:0"] = floats(1)
    converted(tmp_path / "w.h5", tmp_path / "copy.h5", to="keras-h5")
    found = attributes(tmp_path / "copy.h5")
    assert list(found[""]["layer_names"]) == [b"z", b"a/b", b"a", b"none"]
    assert list(found["a/b"]["weight_names"]) == [b"a/b/u:0", b"a/b/t:0"]
    assert list(found["none"]["weight_names"]) == []


def test_contents_of_both_layouts_are_the_same(config: Path, tmp_path: Path) -> None:
    legacy(weights(), tmp_path / "m.h5", config=config)
    converted(tmp_path / "m.h5", tmp_path / "m.weights.h5")
    with open_tensors(tmp_path / "m.h5") as one, open_tensors(tmp_path / "m.weights.h5") as other:
        assert contents(one) == contents(other)
