from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorferry.converters import open_tensors
from tensorferry.converters.casting import CastTensor
from tensorferry.converters.digests import digest, digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import VerificationError
from tensorferry.converters.output import Placement, Plan, PlannedFile, write_plan
from tensorferry.converters.registry import WriteOptions, format_for_target
from tensorferry.converters.tensors import MemoryTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import Values, listing, tensors_of
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.verify import sample_of, source_digests, verify_copy

PROGRAM = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
VALUES: dict[str, Values] = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.arange(3, dtype=np.float32),
    "words": [b"a", b"bc"],
}


def stored(path: Path, values: Mapping[str, Values]) -> Path:
    """Write tensors in the format that the name stands for."""
    plan = format_for_target(path).plan
    assert plan
    write_plan(plan(tensors_of(values), path, WriteOptions()))
    return path


def check(path: Path, tensors: TensorDict, *names: str) -> None:
    """Verify a file; the bytes of `names` only, if there are any."""
    verify_copy(
        path, format_for_target(path).name, tensors, digest_all(tensors, names or tensors, 1), 2
    )


# Comparing


@pytest.mark.parametrize("ending", ["safetensors", "npz", "h5", "ckpt"])
def test_what_is_equal_passes(tmp_path: Path, ending: str) -> None:
    check(stored(tmp_path / f"m.{ending}", VALUES), tensors_of(VALUES))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kernel": np.zeros((2, 3), np.float32)}, "tensor `kernel`: reads back different"),
        ({"words": [b"a", b"bd"]}, "tensor `words`: reads back different"),
        (
            {"kernel": np.zeros((3, 2), np.float32)},
            r"shape \(2, 3\), got float32 of shape \(3, 2\)",
        ),
        ({"bias": np.arange(3, dtype=np.int32)}, "expected float32 .*, got int32"),
        ({"more": np.zeros(1)}, "tensor `more`: was written and is not in the source"),
        ({"bias": None}, "tensor `bias`: was not written"),
    ],
)
@pytest.mark.parametrize("names", [(), ("kernel", "words")])
def test_any_difference_is_found(
    tmp_path: Path, change: dict[str, Values | None], said: str, names: tuple[str, ...]
) -> None:
    changed = {**VALUES, **change}
    path = stored(tmp_path / "m.npz", {k: v for k, v in changed.items() if v is not None})
    with pytest.raises(VerificationError, match=said):
        check(path, tensors_of(VALUES), *names)


def test_only_the_named_tensors_are_read(tmp_path: Path) -> None:
    path = stored(tmp_path / "m.npz", {**VALUES, "bias": np.zeros(3, np.float32)})
    check(path, tensors_of(VALUES), "kernel", "words")
    with pytest.raises(VerificationError, match="`bias`"):
        check(path, tensors_of(VALUES), "bias")


def test_a_tied_tensor_may_be_there_under_all_its_names(tmp_path: Path) -> None:
    tied = replace(tensors_of(VALUES), aliases={"head": "kernel"})
    check(stored(tmp_path / "m.npz", VALUES), tied)
    check(stored(tmp_path / "n.npz", {**VALUES, "head": VALUES["kernel"]}), tied)
    path = stored(tmp_path / "o.npz", {**VALUES, "head": np.zeros((2, 3), np.float32)})
    with pytest.raises(VerificationError, match="`head`: reads back different"):
        check(path, tied)


# Digests of what was cast


def test_casts_are_made_once_more(tmp_path: Path) -> None:
    tensors = tensors_of({"x": np.ones(4, np.float32), "y": np.ones(4, np.float32)})
    cast = replace(
        tensors, tensors={"x": CastTensor(tensors["x"], DType.BFLOAT16), "y": tensors["y"]}
    )
    placements = (Placement("x", cast["x"], 0), Placement("y", cast["y"], 8))
    plan = Plan("test", (PlannedFile(tmp_path / "f", 24, placements=placements),))
    streamed = {"x": "as streamed", "y": "as streamed"}
    assert source_digests(streamed, plan, cast, 1, again=False) == streamed
    expected = {"x": digest(cast["x"]), "y": "as streamed"}
    assert source_digests(streamed, plan, cast, 1, again=True) == expected


def test_what_was_encoded_on_the_way_is_read_from_the_source(tmp_path: Path) -> None:
    tensors = tensors_of({"x": np.ones(4, np.float32)})
    other = tensors_of({"x": np.zeros(4, np.float32)})["x"]
    plan = Plan("test", (PlannedFile(tmp_path / "f", 16, placements=(Placement("x", other, 0),)),))
    got = source_digests({"x": "as streamed"}, plan, tensors, 1, again=False)
    assert got == {"x": digest(tensors["x"])}


# A sample


def sized(**sizes: int) -> TensorDict:
    """Return a dictionary of tensors with so many bytes that nobody reads."""
    tensors = {
        name: MemoryTensor(TensorSpec(DType.UINT8, (size,)), bytes) for name, size in sizes.items()
    }
    return replace(tensors_of({}), tensors=tensors)


def test_the_same_tensors_are_drawn_whatever_their_order() -> None:
    sizes = {f"t{number}": 100_000 + number for number in range(200)}
    drawn = sample_of(sized(**sizes))
    assert set(drawn) == set(sample_of(sized(**dict(reversed(sizes.items())))))
    assert drawn == [name for name in sizes if name in drawn]
    assert 0.05 <= sum(sizes[name] for name in drawn) / sum(sizes.values()) < 0.06


def test_small_tensors_are_drawn_up_to_a_limit() -> None:
    few = {f"t{number}": 64 << 10 for number in range(100)}
    assert sample_of(sized(**few, large=1 << 40)) == [*few, "large"]
    many = {f"t{number}": 64 << 10 for number in range(1000)}
    assert len(sample_of(sized(**many))) == 256
    assert sample_of(sized()) == []
    assert sample_of(sized(empty=0)) == ["empty"]


def lying(at: bytes) -> Callable[[int, memoryview, int], int]:
    """Return an `os.pwrite` of a disk that changes what it is given, where it holds `at`."""
    pwrite = os.pwrite

    def write(descriptor: int, data: memoryview, offset: int) -> int:
        return pwrite(descriptor, bytes(data).replace(at, at[::-1]), offset)

    return write


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a model of which a sample leaves tensors out; each holds a mark of its own."""
    folder = tmp_path / "source"
    folder.mkdir()
    values: dict[str, Values] = {
        f"t{number}": np.full(50_000, number + 0.1, np.float32) for number in range(60)
    }
    return stored(folder / "m.safetensors", values)


@pytest.mark.parametrize("dtypes", [(), ("f64",)])
@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_a_disk_that_lies_is_found_out(
    tmp_path: Path,
    large: Path,
    ending: str,
    dtypes: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / f"out.{ending}"
    with open_tensors(large) as tensors:
        drawn = sample_of(tensors)
    left_out = next(f"t{number}" for number in range(60) if f"t{number}" not in drawn)
    assert drawn
    for name, found in ((drawn[0], True), (left_out, False)):
        value = np.float32(int(name[1:]) + 0.1)
        mark = (np.float64(value) if dtypes else value).tobytes() * 2
        options = ConvertOptions(dtypes=dtypes, verify_sample=True)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", lying(mark))
            with pytest.raises(VerificationError, match=f"`{name}`"):
                convert(large, target, replace(options, verify=True))
            if found:
                with pytest.raises(VerificationError, match=f"`{name}`"):
                    convert(large, target, options)
    assert set(listing(tmp_path)) == {"source/m.safetensors"}
    convert(large, target, options)


@pytest.mark.parametrize(
    "words", [["--verify"], ["--verify=full"], ["--verify=sample"], ["--verify-sample"]]
)
def test_the_command_line_knows_both_kinds(tmp_path: Path, large: Path, words: list[str]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(large), "o.npz", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "60 written" in done.stderr


def test_other_kinds_are_refused(tmp_path: Path, large: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(large), "o.npz", "--verify=some"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--verify" in done.stderr
    assert not (tmp_path / "o.npz").exists()
