"""Files of old releases, which told in `witness.json` what their variables held."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import ReadOptions
from tensorferry.converters.tensors import Role, Tensor, TensorDict
from tensorferry.pipeline.convert import ConvertOptions, convert

FOLDER = Path(__file__).resolve().parents[3] / "sample_models" / "old_releases"

Row = dict[str, Any]
Rows = dict[str, Row]
Facts = tuple[str, tuple[int, ...], str]

# Keras 1 numbers the slots. Keras 3.0 calls them by paths, which its `.h5` does not have otherwise.
NAMELESS_SLOTS = ("keras_1_2_2", "keras_3_0_5/plain.h5")
# What differs from Keras 2.3.1 where there is no config. A transposed convolution looks like any
# other, Conv1D of Keras 1 like Conv2D, an embedding like a matrix; that of Keras 2 may be no
# convolution; and a kernel without a bias does not tell the order of its axes.
NEED_A_CONFIG = {
    "keras_1_2_2/conv_th_weights.h5": {"deconv/kernel", "no_bias/kernel"},
    "keras_1_2_2/conv_tf_weights.h5": {"deconv/kernel", "no_bias/kernel"},
    "keras_1_2_2/sequence_weights.h5": {"conv1d/kernel", "embed/embeddings"},
    "keras_2_3_1_theano/sequence_weights.h5": {"conv1d/kernel"},
}
KERAS_3_SLOTS = {"momentum": "m", "velocity": "v"}


class Case(NamedTuple):
    """A file, and what its release says."""

    path: Path
    rows: Rows

    @property
    def name(self) -> str:
        """Release and file."""
        return self.path.relative_to(FOLDER).as_posix()

    @property
    def whole(self) -> bool:
        """Whether there is a config or a graph beside the weights."""
        parts = ("weights", "V1", "frozen")
        return not any(part in self.path.as_posix() for part in parts)


def witness(release: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / release / "witness.json").read_text())
    return found


def cases() -> list[Any]:
    releases = sorted(path.parent.name for path in FOLDER.glob("*/witness.json"))
    found = [
        Case(FOLDER / release / file, rows)
        for release in releases
        for file, rows in witness(release)["files"].items()
    ]
    return [pytest.param(case, id=case.name) for case in found]


def loaded() -> list[Any]:
    """Return path, options and rows of each file that Keras 2.3.1 brought up to date."""
    return [
        pytest.param(FOLDER / file, options, rows, id=f"{file} {options}")
        for file, conversions in witness("keras_2_3_1")["loaded"].items()
        for options, rows in conversions.items()
    ]


def said(row: Row) -> Facts:
    return row["dtype"], tuple(row["shape"]), row["sha256"]


def read(tensor: Tensor) -> Facts:
    digest = sha256(b"".join(map(bytes, tensor.chunks()))).hexdigest()
    return tensor.spec.dtype.label, tensor.spec.shape, digest


def is_extra(tensors: TensorDict, name: str) -> bool:
    """Whether a tensor is none of the variables: a constant, or what a metric of Keras counted."""
    origin = tensors.origins[name]
    return origin.role is Role.CONSTANT or origin.key.startswith("metrics/")


def variables(tensors: TensorDict) -> dict[str, Facts]:
    return {name: read(each) for name, each in tensors.items() if not is_extra(tensors, name)}


def expected_name(case: Case, live: str) -> str:
    """Return what we call a variable that the release calls `live`."""
    row = case.rows[live]
    if case.name == "keras_2_13/many.keras" and "slot" in row:  # it holds no names of slots
        return f"Adam/{row['slot']}/{row['owner']}"
    if case.name == "keras_3_0_5/plain.h5":  # has the last part only, below the layer
        parts = live.split("/")
        return "/".join([parts[1], parts[-1]]) if len(parts) > 2 else parts[-1]
    return live.replace("adam/", "Adam/") if "keras_3" in case.name else live


@pytest.mark.parametrize("case", cases())
def test_every_variable_is_there_and_holds_what_the_release_says(case: Case) -> None:
    with open_tensors(case.path, ReadOptions(names="key")) as tensors:
        found = variables(tensors)
    assert Counter(found.values()) == Counter(map(said, case.rows.values()))


@pytest.mark.parametrize("case", cases())
def test_names_are_those_of_the_live_variables(case: Case) -> None:
    with open_tensors(case.path) as tensors:
        if tensors.format == "keras-v3" and not case.whole:
            assert all("/vars/" in name for name in tensors)  # the file knows no others
            return
        found = variables(tensors)
    assert found == {expected_name(case, live): said(row) for live, row in case.rows.items()}


@pytest.mark.parametrize("case", cases())
def test_values_follow_the_rule_of_the_samples(case: Case, truth: ModuleType) -> None:
    for name, row in case.rows.items():
        value = truth.expected(name, row["dtype"], tuple(row["shape"]))
        assert sha256(value.tobytes()).hexdigest() == row["sha256"], name


@pytest.mark.parametrize("case", cases())
def test_roles_are_as_the_release_has_them(case: Case) -> None:
    rows = {said(row): row for row in case.rows.values()}
    compared = 0
    with open_tensors(case.path) as tensors:
        found = variables(tensors)
        for name, facts in found.items():
            origin, row = tensors.origins[name], rows[facts]
            if origin.trainable is not None:
                assert origin.trainable == row["trainable"], name
            if row["trainable"]:
                assert origin.role is Role.WEIGHT, name
            if origin.slot:
                assert KERAS_3_SLOTS.get(origin.slot, origin.slot) == row["slot"], name
                assert origin.owner
                assert found[origin.owner] == said(case.rows[row["owner"]]), name
            elif "slot" in row:
                assert case.name.startswith(NAMELESS_SLOTS), name
                assert origin.role is Role.OPTIMIZER
            compared += 1
    assert compared == len(case.rows)


@pytest.mark.parametrize("case", [each for each in cases() if each.values[0].whole])
def test_a_file_with_a_config_or_a_graph_tells_what_is_trained(case: Case) -> None:
    keras_1 = "keras_1" in case.name  # whose own names say what they are only when modernised
    with open_tensors(case.path, ReadOptions(keras1="modern" if keras_1 else "keep")) as tensors:
        unknown = [
            name
            for name, origin in tensors.origins.items()
            if origin.role is Role.WEIGHT and origin.trainable is None
        ]
    # Keras 1 calls convolutions otherwise, and some layers are gone.
    kinds = ("conv", "atrous", "deconv", "no_bias", "local", "highway", "maxout")
    assert [name for name in unknown if not (keras_1 and name.startswith(kinds))] == []


@pytest.mark.parametrize("case", cases())
def test_a_copy_as_safetensors_is_equal(case: Case, tmp_path: Path) -> None:
    target = tmp_path / "copy.safetensors"
    convert(case.path, target, ConvertOptions())
    with open_tensors(case.path) as tensors, open_tensors(target) as copied:
        assert {name: read(each) for name, each in copied.items()} == {
            name: read(each) for name, each in tensors.items()
        }


# Conversions of the era, witnessed by Keras 2.3.1, which had them


def options_of(text: str) -> ReadOptions:
    return ReadOptions(
        keras1="modern" if "modern" in text else "keep", unflip_theano="unflip" in text
    )


def model_of(path: Path, options: str) -> dict[str, Facts]:
    with open_tensors(path, options_of(options)) as tensors:
        # Keras 2 has no name for what TimeDistributed holds, Keras 1 and 3 have.
        return {
            name.replace("each/d/", "each/"): read(each)
            for name, each in tensors.items()
            if tensors.origins[name].role in (Role.WEIGHT, Role.STATE)
        }


@pytest.mark.parametrize(("path", "options", "rows"), loaded())
def test_conversions_give_what_keras_2_has_after_loading(
    path: Path, options: str, rows: Rows
) -> None:
    found = model_of(path, options)
    if path.name == "gone.h5":  # Keras 2 knows the first layer only
        found = {name: facts for name, facts in found.items() if name.startswith("conv_lstm/")}
    assert found == {name: said(row) for name, row in rows.items()}


@pytest.mark.parametrize(("path", "options", "rows"), loaded())
def test_weights_alone_convert_likewise_where_their_shapes_tell(
    path: Path, options: str, rows: Rows
) -> None:
    alone = path.with_name(path.name.replace("_weights", "").replace(".h5", "_weights.h5"))
    found = model_of(alone, options)
    truth = {name: said(row) for name, row in rows.items()}
    different = {name for name, facts in truth.items() if found.get(name) != facts}
    assert different == NEED_A_CONFIG.get(alone.relative_to(FOLDER).as_posix(), set())


def test_what_today_does_not_know_is_kept() -> None:
    path = FOLDER / "keras_1_2_2" / "gone.h5"
    rows = witness("keras_1_2_2")["files"]["gone.h5"]
    with open_tensors(path, ReadOptions(keras1="modern")) as tensors:
        for name in ("highway/highway_W_carry", "highway/highway_b_carry"):
            assert read(tensors[name]) == said(rows[name])
