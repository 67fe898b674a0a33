"""Verdicts on pairs of models: every verdict, from every format, and what belongs to what."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from tensorferry.converters.casting import CastTensor
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import WriteOptions, format_for_target
from tensorferry.converters.tensors import MemoryTensor, Tensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import Values, tensors_of
from tensorferry.pipeline.convert import convert
from tensorferry.pipeline.diff import Difference, Tolerance, Verdict, compare
from tensorferry.pipeline.options import ConvertOptions

REPOSITORY = Path(__file__).resolve().parents[2]


def tool(name: str) -> ModuleType:
    """Return a module of `tools/`, which is no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "tools" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


matrix = tool("matrix")

KERNEL = np.random.default_rng(7).normal(size=(4, 6)).astype("f4")
EXACT = Tolerance()


def diff(
    first: Mapping[str, Values], second: Mapping[str, Values], tolerance: Tolerance = EXACT
) -> dict[str, Difference]:
    found = compare(tensors_of(first), tensors_of(second), tolerance, 2)
    return {each.name: each for each in found}


def verdicts(first: Mapping[str, Values], second: Mapping[str, Values]) -> dict[str, str]:
    return {name: each.verdict.value for name, each in diff(first, second).items()}


# Every verdict, from every format

Change = Callable[[dict[str, Tensor], str], None]


def float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.astype("f4"))


def changed(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = one(float32(tensors[name].read() * 2 + 1))


def close(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = one(float32(tensors[name].read() * np.float32(1.0001)))


def renamed(tensors: dict[str, Tensor], name: str) -> None:
    tensors["somewhere/else"] = tensors.pop(name)


def transposed(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = one(float32(tensors[name].read().swapaxes(-1, -2)))


def renamed_and_transposed(tensors: dict[str, Tensor], name: str) -> None:
    transposed(tensors, name)
    renamed(tensors, name)


def cast(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = CastTensor(tensors[name], DType.BFLOAT16)


def renamed_and_cast(tensors: dict[str, Tensor], name: str) -> None:
    cast(tensors, name)
    renamed(tensors, name)


def other_dtype(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = one(tensors[name].read().astype("f8") * 2 + 1)


def other_shape(tensors: dict[str, Tensor], name: str) -> None:
    tensors[name] = one(float32(tensors[name].read()[:, :1]))


def missing(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]


def nothing(_tensors: dict[str, Tensor], _name: str) -> None:
    pass


def one(array: np.ndarray) -> Tensor:
    return tensors_of({"x": array})["x"]


CHANGES: dict[Change, Verdict] = {
    nothing: Verdict.SAME,
    close: Verdict.CLOSE,
    changed: Verdict.CHANGED,
    renamed: Verdict.RENAMED,
    transposed: Verdict.TRANSPOSED,
    renamed_and_transposed: Verdict.TRANSPOSED,
    cast: Verdict.CAST,
    renamed_and_cast: Verdict.CAST,
    other_dtype: Verdict.DTYPE,
    other_shape: Verdict.SHAPE,
    missing: Verdict.MISSING,
}


def a_kernel(tensors: TensorDict) -> str:
    """Return the name of a float32 tensor that is another one when its last axes are turned."""
    for name, tensor in tensors.items():
        if tensor.spec.dtype is DType.FLOAT32 and len(tensor.spec.shape) >= 2:
            array = tensor.read()
            turned = array.swapaxes(-1, -2)
            if min(array.shape) > 1 and not np.array_equal(array, turned.reshape(array.shape)):
                return name
    raise AssertionError("a sample without a kernel")


@pytest.fixture(scope="module", params=matrix.ROWS, ids=lambda sample: sample.place)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a model of each format; a sample without a matrix has one in its place."""
    path = request.param.path
    if request.param.place.startswith("all_dtypes"):
        folder = tmp_path_factory.mktemp("model")
        path = written({"dense/kernel": KERNEL, "text": [b"a", b"b"]}, folder / "model.ckpt")
    with open_tensors(path) as tensors:
        yield tensors


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_verdict_from_every_format(model: TensorDict, change: Change) -> None:
    name = a_kernel(model)
    other = dict(model.tensors)
    change(other, name)
    tolerance = Tolerance(relative=1e-3) if change is close else EXACT
    found = compare(model, tensors_of(other), tolerance, 2)
    seen = {each.name: each.verdict for each in found}
    assert seen.pop(name) is CHANGES[change]
    assert set(seen.values()) <= {Verdict.SAME}
    back = compare(tensors_of(other), model, tolerance, 2)
    assert any(each.verdict is Verdict.ADDED for each in back) == (change is missing)


def written(values: Mapping[str, Values], path: Path) -> Path:
    plan = format_for_target(path).plan
    assert plan
    write_plan(plan(tensors_of(values), path, WriteOptions()))
    return path


ENDINGS = ("ckpt", "safetensors", "npz", "h5")


@pytest.mark.parametrize("ours", ENDINGS)
@pytest.mark.parametrize("theirs", ENDINGS)
def test_every_verdict_across_formats(tmp_path: Path, ours: str, theirs: str) -> None:
    turned = np.ascontiguousarray(KERNEL.T)
    first = written(
        {
            "same": KERNEL, "zero": np.zeros(3), "old": KERNEL * 2, "turned": KERNEL,
            "cast": KERNEL, "changed": KERNEL, "shape": KERNEL, "dtype": KERNEL, "gone": KERNEL * 9,
            "text": [b"a"], "said": [b"a", b"b"],
        },
        tmp_path / f"first.{ours}",
    )  # fmt: skip
    second = written(
        {
            "same": KERNEL, "zero": -np.zeros(3), "new": KERNEL * 2, "turned": turned,
            "cast": KERNEL.astype(ml_dtypes.bfloat16), "changed": KERNEL + 1, "shape": KERNEL[:2],
            "dtype": KERNEL.astype("f8") + 1, "text": [b"a"], "said": [b"a", b"c"],
            "extra": KERNEL * 11,
        },
        tmp_path / f"second.{theirs}",
    )  # fmt: skip
    with open_tensors(first) as a, open_tensors(second) as b:
        found = {each.name: each for each in compare(a, b, EXACT, 2)}
    assert {name: each.verdict.value for name, each in found.items()} == {
        "same": "same", "zero": "close", "old": "renamed", "turned": "transposed", "cast": "cast",
        "changed": "changed", "shape": "other shape", "dtype": "other dtype", "gone": "missing",
        "text": "same", "said": "changed", "extra": "added",
    }  # fmt: skip
    assert (found["old"].other, found["turned"].axes) == ("new", (1, 0))
    assert found["changed"].most == pytest.approx(1)
    assert found["said"].share == 0.5


@pytest.mark.parametrize("sample", matrix.ROWS, ids=lambda sample: sample.place)
def test_a_converted_model_is_the_same(sample: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    exclude = ("dtype/complex128",) if sample.place.startswith("all_dtypes") else ()
    convert(sample.path, copy, ConvertOptions(exclude=exclude, jobs=1))
    with open_tensors(sample.path) as a, open_tensors(copy) as b:
        found = compare(a, b, EXACT, 2)
    assert {each.name for each in found if each.verdict is not Verdict.SAME} == set(exclude)


# What belongs to what


ZEROS, ONES = np.zeros(5, "f4"), np.ones(5, "f4")


def counterparts(
    first: Mapping[str, Values], second: Mapping[str, Values]
) -> dict[str, str | None]:
    return {name: each.other for name, each in diff(first, second).items()}


@pytest.mark.parametrize(
    ("name", "other"),
    [("a/kernel", "a.kernel"), ("a/kernel:0", "a/kernel"), ("a/kernel:0", "a.kernel")],
)
def test_names_of_two_conventions_are_the_same_name(name: str, other: str) -> None:
    for first, second in ((name, other), (other, name)):
        [same] = diff({first: KERNEL}, {second: KERNEL}).values()
        assert (same.verdict, same.other) == (Verdict.RENAMED, second)
        [moved] = diff({first: KERNEL}, {second: KERNEL + 1}).values()
        assert (moved.verdict, moved.other) == (Verdict.CHANGED, second)


def test_names_that_are_the_same_twice_are_matched_by_values() -> None:
    found = counterparts({"a/b": KERNEL, "a.b:0": KERNEL + 1}, {"a/b:0": KERNEL + 1})
    assert found == {"a/b": None, "a.b:0": "a/b:0"}


def test_the_name_goes_before_the_values() -> None:
    found = diff({"a": KERNEL, "b": KERNEL + 1}, {"a": KERNEL + 1, "b": KERNEL})
    assert [each.verdict for each in found.values()] == [Verdict.CHANGED] * 2


def test_equal_tensors_are_told_apart_by_the_path_of_their_kernels() -> None:
    first = {
        "enc/0/kernel": KERNEL, "enc/0/bias": ZEROS, "enc/1/kernel": KERNEL + 1,
        "enc/1/bias": ZEROS, "enc/1/norm/scale": ONES, "enc/0/norm/scale": ONES,
    }  # fmt: skip
    second = {name.replace("enc/", "model.layer"): each for name, each in first.items()}
    found = diff(first, dict(reversed(second.items())))
    assert {name: each.other for name, each in found.items()} == dict(
        zip(first, second, strict=True)
    )
    assert found["enc/0/kernel"].text == ""
    assert found["enc/0/bias"].text == "one of 2 equal tensors, by its path"


def test_equal_tensors_of_one_path_are_matched_by_the_ends_of_names_then_in_order() -> None:
    first = {"a/k": KERNEL, "a/beta": ZEROS, "a/mean": ZEROS, "a/var": ZEROS}
    second = {"b/k": KERNEL, "b/shift": ZEROS, "b/var": ZEROS, "b/average": ZEROS}
    found = diff(first, second)
    others = {name: each.other for name, each in found.items()}
    assert others == {"a/k": "b/k", "a/beta": "b/shift", "a/mean": "b/average", "a/var": "b/var"}
    assert found["a/var"].text == "one of 3 equal tensors, by its path"
    assert found["a/mean"].text == "one of 3 equal tensors, in the order of its path"


def test_what_is_not_clear_is_left_with_a_remark() -> None:
    found = diff({"x/a": ZEROS, "x/b": ZEROS}, {"y/c": ZEROS})
    assert {name: (each.verdict.value, each.text) for name, each in found.items()} == {
        "x/a": ("missing", "equal to a tensor of B; which belongs to which is not clear"),
        "x/b": ("missing", "equal to a tensor of B; which belongs to which is not clear"),
        "y/c": ("added", "equal to 2 tensors of A; which belongs to which is not clear"),
    }


def test_paths_that_became_two_say_nothing() -> None:
    first = {"a/k": KERNEL, "a/l": KERNEL + 1, "a/b": ZEROS, "c/b": ZEROS}
    second = {"x/k": KERNEL, "y/l": KERNEL + 1, "x/b": ZEROS, "y/b": ZEROS}
    found = counterparts(first, second)
    assert found["a/k"] == "x/k"
    assert found["a/l"] == "y/l"
    assert found["a/b"] is found["c/b"] is None


def test_a_counter_of_zero_is_no_cast_of_a_rate_of_zero() -> None:
    found = verdicts({"step": np.array(0)}, {"rate": np.array(0.0, "f4")})
    assert found == {"step": "missing", "rate": "added"}


def test_a_tied_tensor_is_compared_with_what_another_container_holds_apart() -> None:
    tied = tensors_of({"embed": KERNEL})
    tied = replace(tied, aliases={"head": "embed", "tail": "embed"})
    apart = tensors_of({"embed": KERNEL, "head": KERNEL + 1})
    for first, second in ((tied, apart), (apart, tied)):
        found = compare(first, second, EXACT, 1)
        assert {each.name: each.verdict.value for each in found} == {
            "embed": "same",
            "head": "changed",
        }


# Single verdicts


def test_shapes_and_values_say_what_became_of_them() -> None:
    volume = np.arange(24, dtype="f4").reshape(2, 3, 4)
    found = diff(
        {"flat": KERNEL, "both": KERNEL, "turned": volume, "more": KERNEL},
        {
            "flat": KERNEL.ravel(), "both": KERNEL.astype("f2").T.copy(),
            "turned": np.ascontiguousarray(volume.transpose(2, 0, 1)), "more": KERNEL[:, :2],
        },
    )  # fmt: skip
    assert {name: (each.text, each.axes) for name, each in found.items()} == {
        "flat": ("4x6 became 24, values in the same order", None),
        "both": ("4x6 became 6x4, float32 became float16", None),
        "turned": ("2x3x4 became 4x2x3", (2, 0, 1)),
        "more": ("4x6 became 4x2", None),
    }


def test_a_square_kernel_that_was_turned_is_no_change() -> None:
    square = np.arange(9.0).reshape(3, 3)
    square[0, 0] = np.nan  # equal to itself, where its bits are
    [found] = diff({"k": square}, {"k": square.T.copy()}).values()
    assert (found.verdict, found.axes, found.text) == (Verdict.TRANSPOSED, (1, 0), "")


def test_a_tolerance_is_over_each_value() -> None:
    a, b = {"x": np.array([1.0, 100.0])}, {"x": np.array([1.001, 100.1])}
    cases = {
        Tolerance(): Verdict.CHANGED,
        Tolerance(absolute=0.05): Verdict.CHANGED,
        Tolerance(absolute=0.2): Verdict.CLOSE,
        Tolerance(relative=1e-3): Verdict.CLOSE,
        Tolerance(relative=9e-4): Verdict.CHANGED,
        Tolerance(absolute=1e-4, relative=9.995e-4): Verdict.CLOSE,
    }
    assert {tolerance: diff(a, b, tolerance)["x"].verdict for tolerance in cases} == cases


def test_what_is_close_under_another_name_is_renamed() -> None:
    [found] = diff({"a/b": KERNEL}, {"a.b": KERNEL + 1e-4}, Tolerance(absolute=1e-3)).values()
    assert (found.verdict, found.text) == (Verdict.RENAMED, "close")
    assert found.most == pytest.approx(1e-4, rel=0.01)


def test_empty_tensors_and_scalars_have_verdicts_too() -> None:
    empty = np.zeros((0, 3), "f4")
    first = {"none": empty, "turned": empty, "one": np.array(1.0), "two": np.array(2.0)}
    second = {"none": empty, "turned": empty.T, "one": np.array(1.0), "two": np.array(3.0)}
    assert verdicts(first, second) == {
        "none": "same", "turned": "transposed", "one": "same", "two": "changed",
    }  # fmt: skip
    assert diff(first, second)["two"].share == 1


def test_of_the_structure_no_values_are_read() -> None:
    def unreadable() -> bytes:
        raise AssertionError("was read")

    def model(names: Mapping[str, tuple[DType, tuple[int, ...]]]) -> TensorDict:
        return tensors_of(
            {name: MemoryTensor(TensorSpec(*each), unreadable) for name, each in names.items()}
        )

    like, turned = (DType.FLOAT32, (2, 3)), (DType.FLOAT32, (3, 2))
    first = model({"a": like, "b": like, "c": like, "d/e": like, "f": like})
    second = model({"a": like, "b": turned, "c": (DType.INT8, (2, 3)), "d.e": like, "g": like})
    found = compare(first, second, EXACT, 1, structure_only=True)
    assert [(each.name, each.verdict.value) for each in found] == [
        ("a", "same"), ("b", "other shape"), ("c", "other dtype"), ("d/e", "renamed"),
        ("f", "missing"), ("g", "added"),
    ]  # fmt: skip


def test_the_order_is_that_of_the_first_then_of_the_second() -> None:
    names = [f"t{number}" for number in range(50)]
    first = {name: np.full(at + 1, at) for at, name in enumerate(names)}
    second = {f"u{at}": np.full(at + 1, -1 - at) for at in range(5)}
    found = list(diff(first, {**second, **dict(reversed(first.items()))}))
    assert found == [*names, *second]


def test_progress_counts_what_is_read_of_the_first() -> None:
    told: list[int] = []
    first = {"same": KERNEL, "changed": KERNEL, "cast": KERNEL, "flat": KERNEL, "old": KERNEL * 2}
    second = {
        "same": KERNEL, "changed": KERNEL + 1, "cast": KERNEL.astype("f2"), "flat": KERNEL.ravel(),
        "new": KERNEL * 2,
    }  # fmt: skip
    compare(tensors_of(first), tensors_of(second), EXACT, 1, advance=told.append)
    assert sum(told) == sum(each.nbytes for each in first.values())


# Errors


@pytest.mark.parametrize("damaged", [0, 1])
def test_an_error_names_side_file_and_tensor(tmp_path: Path, damaged: int) -> None:
    paths = [written({"a/k": KERNEL, "b/k": KERNEL}, tmp_path / f"{each}.ckpt") for each in "ab"]
    data = tmp_path / f"{'ab'[damaged]}.ckpt.data-00000-of-00001"
    raw = bytearray(data.read_bytes())
    raw[-1] ^= 1
    data.write_bytes(raw)
    with (
        open_tensors(paths[0]) as first,
        open_tensors(paths[1]) as second,
        pytest.raises(CorruptFileError) as caught,
    ):
        compare(first, second, EXACT, 2)
    assert caught.value.message.startswith(f"{data}: {'AB'[damaged]}: tensor `b/k`: ")
    assert "crc32c" in caught.value.message


def test_an_error_where_names_differ_names_the_tensor_too(tmp_path: Path) -> None:
    path = written({"a/k": KERNEL}, tmp_path / "a.ckpt")
    data = tmp_path / "a.ckpt.data-00000-of-00001"
    data.write_bytes(bytes(len(data.read_bytes())))
    with open_tensors(path) as first, pytest.raises(CorruptFileError, match="A: tensor `a/k`"):
        compare(first, tensors_of({"other": KERNEL}), EXACT, 2)
