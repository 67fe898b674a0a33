"""What the frameworks themselves read of each kind of source, and what they contradict."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import ReadOptions, open_tensors
from tensorferry.converters.digests import digest_all
from tensorferry.converters.errors import CorruptFileError, UsageError
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.proof import Fate, prove
from tensorferry.pipeline.witness import Hearing, hear

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

CHECKPOINTS = [
    "tf1_adam_ema", "tf1_partitioned", "tf1_multi_shard", "tf1_v1/model.ckpt-7", "several_steps",
    "tf_module_object", "max_shard_slices", "tf_keras_object", "tf_keras_weights",
    "keras3_object", "saved_model_module", "saved_model_keras", "frozen_graph/frozen.pb",
]  # fmt: skip
# By model of Keras, how many of its tensors are seen: all but those of the optimizer.
MODELS = {
    "keras_archive/model.keras": (8, 22),
    "tf_keras_h5/model.h5": (8, 21),
    "old_releases/keras_2_13/many.h5": (31, 86),
    "old_releases/keras_2_3_1/nested.h5": (8, 27),
    "old_releases/keras_3_0_5/many.keras": (30, 84),
}


@pytest.fixture(autouse=True)
def quiet(tensorflow: Any) -> None:
    """Import TensorFlow as all tests do."""
    assert tensorflow


def heard(against: str, place: Path, *given: Mapping[str, str]) -> Hearing:
    with open_tensors(place) as tensors:
        digests = given[0] if given else digest_all(tensors, tensors, 1)
        return hear(against, tensors, tensors, digests, ReadOptions())


# What agrees


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_tensorflow_reads_all_that_we_read(tensorflow: Any, samples: Path, place: str) -> None:
    proof = prove(samples / place, None, against="tensorflow")
    assert proof.witness
    assert proof.witness.witness == f"TensorFlow {tensorflow.__version__}"
    with open_tensors(samples / place) as tensors:
        assert proof.witness.agreed == tuple(tensors)
    assert not proof.witness.unseen
    assert proof.proved


def test_every_type_but_variants_is_seen(samples: Path) -> None:
    said = heard("tensorflow", samples / "all_dtypes" / "bundle")
    assert said.agrees
    assert len(said.agreed) == 41
    assert set(said.unseen) == {"variant/tensor_list"}


@pytest.mark.parametrize("place", MODELS)
def test_keras_reads_the_model(samples: Path, place: str) -> None:
    said = heard("keras", samples / place)
    assert said.agrees
    assert (len(said.agreed), len(said.agreed) + len(said.unseen)) == MODELS[place]
    library = "Keras 3" if place.endswith(".keras") else "tf_keras 2"
    assert said.witness.startswith(library)


def test_what_keras_does_not_load_is_told(samples: Path) -> None:
    with pytest.raises(UsageError, match=r"tf_keras 2.* does not read it"):
        heard("keras", samples / "old_releases" / "keras_2_13" / "many.keras")


def test_what_is_cast_is_compared_as_it_was(tmp_path: Path, samples: Path) -> None:
    options = ConvertOptions(dtypes=("bf16",), ema="raw")
    convert(samples / "tf1_adam_ema", tmp_path / "m.npz", options)
    proof = prove(samples / "tf1_adam_ema", tmp_path / "m.npz", options, against="tensorflow")
    assert proof.proved
    assert proof.witness
    assert len(proof.witness.agreed) == 23


def test_updates_are_none_of_its_business(tmp_path: Path, samples: Path) -> None:
    np.savez(tmp_path / "patch.npz", **{"dense_0/bias": np.zeros(4, np.float32)})
    options = ConvertOptions(updates=(tmp_path / "patch.npz",))
    proof = prove(samples / "tf1_multi_shard", None, options, against="tensorflow")
    assert proof.witness
    assert proof.witness.unseen == {"dense_0/bias": "from `patch.npz`"}
    assert len(proof.witness.agreed) == 5


# What disagrees


def changed(source: Path, target: Path, tmp_path: Path, name: str, **others: Any) -> None:
    """Convert a model with one value of one tensor changed."""
    with open_tensors(source) as tensors:
        value = tensors[name].read()
    value.reshape(-1)[0] += 1
    np.savez(tmp_path / "patch.npz", **{name: value})
    convert(source, target, ConvertOptions(updates=(tmp_path / "patch.npz",), **others))


def test_a_reading_that_is_wrong_is_contradicted(tmp_path: Path, samples: Path) -> None:
    # What we say of the one model, and what TensorFlow reads in the other.
    source = samples / "tf1_multi_shard"
    changed(source, tmp_path / "m.ckpt", tmp_path, "dense_1/kernel")
    with open_tensors(source) as tensors:
        ours = digest_all(tensors, tensors, 1)
    said = heard("tensorflow", tmp_path / "m.ckpt", ours)
    assert not said.agrees
    assert list(said.contradicted) == ["dense_1/kernel"]
    assert "reads other values" in said.contradicted["dense_1/kernel"]
    assert len(said.agreed) == 5


def test_keras_contradicts_too(tmp_path: Path, samples: Path) -> None:
    source = samples / "keras_archive" / "model.keras"
    changed(source, tmp_path / "m.keras", tmp_path, "d1/bias")
    with open_tensors(source) as tensors:
        ours = digest_all(tensors, tensors, 1)
    said = heard("keras", tmp_path / "m.keras", ours)
    assert list(said.contradicted) == ["d1/bias"]


def test_a_tensor_that_we_do_not_have_is_told(samples: Path) -> None:
    with open_tensors(samples / "tf1_multi_shard") as tensors:
        less = tensors.select(name for name in tensors if name != "dense_0/bias")
        said = hear("tensorflow", less, less, digest_all(less, less, 1), ReadOptions())
    assert said.contradicted == {"dense_0/bias": "is there, and we have no such tensor"}


def test_another_shape_is_told(samples: Path) -> None:
    with open_tensors(samples / "tf1_multi_shard") as tensors:
        turned = replace(
            tensors, tensors={**tensors.tensors, "dense_0/bias": tensors["dense_0/kernel"]}
        )
        digests = digest_all(turned, turned, 1)
        said = hear("tensorflow", turned, turned, digests, ReadOptions())
    expected = "reads float32 (4,), and we read float32 (4, 4)"
    assert said.contradicted == {"dense_0/bias": expected}


def test_the_witness_tells_which_side_is_wrong(tmp_path: Path, samples: Path) -> None:
    source = samples / "tf1_multi_shard"
    changed(source, tmp_path / "m.npz", tmp_path, "dense_1/kernel")
    proof = prove(source, tmp_path / "m.npz", against="tensorflow")
    assert [row.name for row in proof.rows if row.fate is not Fate.SAME] == ["dense_1/kernel"]
    assert proof.witness
    assert "dense_1/kernel" in proof.witness.agreed  # so it is the target
    assert not proof.proved


def test_what_tensorflow_finds_damaged_is_contradicted(tmp_path: Path, samples: Path) -> None:
    shutil.copytree(samples / "tf1_multi_shard", tmp_path / "m")
    data = tmp_path / "m" / "model.ckpt-7.data-00000-of-00003"
    raw = bytearray(data.read_bytes())
    raw[0] ^= 1
    data.write_bytes(raw)
    # We do not look at checksums, as we are told; it does.
    options = ConvertOptions(read=ReadOptions(verify=False))
    proof = prove(tmp_path / "m", None, options, against="tensorflow")
    assert proof.witness
    assert len(proof.witness.contradicted) == 1
    assert "cannot read it" in next(iter(proof.witness.contradicted.values()))
    assert not proof.proved


def test_an_index_that_tensorflow_refuses_is_an_error(tmp_path: Path, samples: Path) -> None:
    with open_tensors(samples / "tf1_multi_shard") as tensors:
        details = {**tensors.details, "prefix": str(tmp_path / "m.ckpt")}
        (tmp_path / "m.ckpt.index").write_bytes(b"no table" * 10)
        other = replace(tensors, details=details)
        with pytest.raises(CorruptFileError, match="TensorFlow does not read it"):
            hear("tensorflow", other, other, {}, ReadOptions())
