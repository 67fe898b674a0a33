from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file
from tensorferry.converters import open_tensors
from tensorferry.converters.errors import (
    ConvertError,
    LossError,
    NotRecognisedError,
    TargetError,
    UsageError,
)
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.converters.testing.contracts import listing
from tensorferry.pipeline import ConvertOptions, convert
from tensorferry.pipeline.package.build import PackageReport, build_package
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.verify import verify_package

TEXTS = {"README.md", "bom.cdx.json", "manifest.json", "provenance.intoto.json"}
MODELS = [
    "keras_archive/model.keras", "keras_weights/model.weights.h5", "keras_shards",
    "keras3_object", "tf1_adam_ema", "tf1_multi_shard", "tf1_partitioned", "tf1_v1",
    "tf_keras_h5/model.h5", "tf_keras_object", "saved_model_keras", "saved_model_module",
    "safetensors_file/model.safetensors", "npz_file/model.npz", "hdf5_file/model.h5",
    "tfjs_layers", "frozen_graph/frozen.pb",
]  # fmt: skip


def build(source: Path, target: Path, **chosen: Any) -> PackageReport:
    """Build a package; options of the conversion and of the package are told by their names."""
    own = {name: chosen.pop(name) for name in list(chosen) if hasattr(PackageOptions(), name)}
    convert = ConvertOptions(**{"weights_only": True, **chosen})
    return build_package(source, target, PackageOptions(convert=convert, **own))


def manifest(package: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((package / "manifest.json").read_text("ascii"))
    return found


@pytest.mark.parametrize("model", MODELS)
def test_every_kind_of_model_is_packaged_and_verified(
    model: str, samples: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out"
    report = build(samples / model, target)
    found = verify_package(target, digest=report.digest, jobs=2)
    assert found.problems == ()
    assert listing(target).keys() >= TEXTS | {"model.safetensors"}
    with open_tensors(samples / model) as source:
        kept = load_file(target / "model.safetensors")
        for name, array in kept.items():
            expected = source[name].read()
            assert array.tobytes() == expected.tobytes()
        counts = manifest(target)["accounting"]["counts"][""]
        assert sum(counts.values()) == len(source)
    assert not list(tmp_path.glob(".tensorferry*"))


def test_the_manifest_says_what_is_there(samples: Path, tmp_path: Path) -> None:
    build(samples / "tf1_adam_ema", tmp_path / "out", ema="only", name="croco", version="1.2")
    found = manifest(tmp_path / "out")
    assert (found["name"], found["model_version"], found["created"] > 0) == ("croco", "1.2", True)
    files = listing(tmp_path / "out")
    del files["manifest.json"]
    assert {each["path"]: each["sha256"] for each in found["files"]} == {
        path: hashlib.sha256(data).hexdigest() for path, data in files.items()
    }
    assert {each["path"]: each["size"] for each in found["files"]} == {
        path: len(data) for path, data in files.items()
    }
    [variant] = found["variants"]
    report = tmp_path / "report.json"
    options = ConvertOptions(weights_only=True, ema="only", digest_file=report)
    convert(samples / "tf1_adam_ema", tmp_path / "same.safetensors", options)
    digests = json.loads(report.read_text())
    assert variant["digest"] == digests["model"]
    assert {name: each["digest"] for name, each in variant["tensors"].items()} == {
        name: each["digest"] for name, each in digests["tensors"].items()
    }
    assert files["model.safetensors"] == (tmp_path / "same.safetensors").read_bytes()
    with safetensors.safe_open(tmp_path / "out/model.safetensors", "np") as weights:
        assert set(weights.keys()) == set(variant["tensors"])
    assert found["source"]["step"] == 7
    excluded = [each for each in found["accounting"]["changes"] if each["kind"] == "excluded"]
    assert {"kind": "excluded", "tensor": "global_step", "text": "counter"} in excluded


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("tf1_adam_ema", ["model.ckpt-7.data-00000-of-00001", "model.ckpt-7.index",
                          "model.ckpt-7.meta"]),
        ("several_steps/model.ckpt-20", ["model.ckpt-20.data-00000-of-00001",
                                         "model.ckpt-20.index", "model.ckpt-20.meta"]),
        ("tf1_v1", ["model.ckpt-7", "model.ckpt-7.meta"]),
        ("saved_model_module", ["assets/vocabulary.txt", "fingerprint.pb", "saved_model.pb",
                                "variables/variables.data-00000-of-00001",
                                "variables/variables.index"]),
        ("keras_archive/model.keras", ["model.keras"]),
        ("keras_shards", ["model.weights.json", "model_00000.weights.h5",
                          "model_00001.weights.h5", "model_00002.weights.h5"]),
        ("npz_file/model.npz", ["model.npz"]),
    ],
)  # fmt: skip
def test_the_files_of_the_source_are_listed(
    model: str, expected: list[str], samples: Path, tmp_path: Path
) -> None:
    build(samples / model, tmp_path / "out")
    files = manifest(tmp_path / "out")["source"]["files"]
    there = [each for each in expected if each != "fingerprint.pb" or _has_fingerprint(samples)]
    assert [each["path"] for each in files] == there
    folder = samples / model if (samples / model).is_dir() else (samples / model).parent
    for each in files:
        data = (folder / each["path"]).read_bytes()
        assert (each["size"], each["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def _has_fingerprint(samples: Path) -> bool:
    return (samples / "saved_model_module/fingerprint.pb").exists()


def test_an_archive_is_one_file_of_the_source(samples: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "run"), "zip", samples / "tf1_adam_ema")
    build(Path(archive), tmp_path / "out")
    found = manifest(tmp_path / "out")
    data = Path(archive).read_bytes()
    assert found["source"]["files"] == [
        {"path": "run.zip", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    ]
    assert found["name"] == "run"


def test_nothing_tells_where_the_source_lay(samples: Path, tmp_path: Path) -> None:
    for model in ("tf1_adam_ema", "several_steps/model.ckpt-20", "saved_model_keras", "tf1_v1"):
        place = tmp_path / "kept to ourselves"
        shutil.copytree(samples / model.split("/", maxsplit=1)[0], place / model.split("/")[0])
        build(place / model, tmp_path / "out")
        for path, data in listing(tmp_path / "out").items():
            assert b"kept to ourselves" not in data, path
            assert os.fsencode(tmp_path) not in data, path
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(place)


# Weights


def test_variants_are_called_as_loaders_look_for_them(samples: Path, tmp_path: Path) -> None:
    build(
        samples / "tf1_adam_ema", tmp_path / "out", ema="only", variants=("f32", "bf16", "f16"),
        write=WriteOptions(max_shard_bytes=250),
    )  # fmt: skip
    names = {path for path in listing(tmp_path / "out") if "safetensors" in path}
    assert names == {
        "model.f32-00001-of-00002.safetensors",
        "model.f32-00002-of-00002.safetensors",
        "model.safetensors.index.f32.json",
        "model.bf16.safetensors",
        "model.f16.safetensors",
    }
    index = json.loads((tmp_path / "out/model.safetensors.index.f32.json").read_text())
    assert set(index["weight_map"].values()) <= names
    f16 = load_file(tmp_path / "out/model.f16.safetensors")
    shards = [load_file(tmp_path / "out" / name) for name in sorted(names) if "f32-" in name]
    f32 = {name: array for shard in shards for name, array in shard.items()}
    assert {name: array.astype(np.float16).tobytes() for name, array in f32.items()} == {
        name: array.tobytes() for name, array in f16.items()
    }
    variants = manifest(tmp_path / "out")["variants"]
    assert [(each["name"], each["casts"]) for each in variants] == [
        ("f32", ["f32"]), ("bf16", ["bf16"]), ("f16", ["f16"]),
    ]  # fmt: skip
    assert variants[0]["files"][-1] == "model.safetensors.index.f32.json"
    assert verify_package(tmp_path / "out", jobs=1).problems == ()


def test_casts_go_before_variants(samples: Path, tmp_path: Path) -> None:
    build(samples / "tf_keras_object", tmp_path / "out", dtypes=("bn/*=keep",), variants=("bf16",))
    tensors = manifest(tmp_path / "out")["variants"][0]["tensors"]
    assert {tensors[name]["dtype"] for name in tensors if name.startswith("bn/")} == {"float32"}
    assert {tensors[name]["dtype"] for name in tensors if not name.startswith("bn/")} == {
        "bfloat16"
    }


def test_everything_is_kept_on_demand(samples: Path, tmp_path: Path) -> None:
    build(samples / "saved_model_module", tmp_path / "out", weights_only=False)
    with open_tensors(samples / "saved_model_module") as source:
        tensors = manifest(tmp_path / "out")["variants"][0]["tensors"]
        assert set(tensors) == set(source)
    assert "string" in {each["dtype"] for each in tensors.values()}
    assert verify_package(tmp_path / "out", jobs=1).problems == ()


def test_types_that_are_kept_as_others_are_verified(samples: Path, tmp_path: Path) -> None:
    build(
        samples / "all_dtypes/bundle", tmp_path / "out", weights_only=False,
        exclude=("re:complex128",),
    )  # fmt: skip
    assert verify_package(tmp_path / "out", jobs=1).problems == ()


def test_tied_tensors_are_stored_once_and_verified(tmp_path: Path) -> None:
    record = json.dumps({"version": 1, "tied": {"b": "a"}})
    array = np.arange(12, dtype="f4")
    save_file({"a": array}, tmp_path / "tied.safetensors", {"tensorferry": record})
    for untie in (False, True):
        package = tmp_path / f"out-{untie}"
        build(tmp_path / "tied.safetensors", package, write=WriteOptions(untie=untie))
        assert verify_package(package, jobs=2).problems == ()
        assert len(load_file(package / "model.safetensors")) == 1 + untie
        tensors = manifest(package)["variants"][0]["tensors"]
        assert tensors["a"] == tensors["b"]


def test_updates_are_part_of_the_source(samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "patch.npz", **{"dense/bias": np.ones(8, "f4")})
    build(samples / "tf1_adam_ema", tmp_path / "out", updates=(tmp_path / "patch.npz",))
    found = manifest(tmp_path / "out")
    assert "update-1/patch.npz" in [each["path"] for each in found["source"]["files"]]
    assert found["flags"]["convert"]["updates"] == ["patch.npz"]
    weights = load_file(tmp_path / "out/model.safetensors")
    assert weights["dense/bias"].tolist() == [1.0] * 8


def test_a_config_comes_along(samples: Path, tmp_path: Path) -> None:
    for number, model in enumerate(("keras_archive/model.keras", "tf_keras_h5/model.h5")):
        package = tmp_path / str(number)
        build(samples / model, package)
        assert json.loads((package / "config.json").read_text())["class_name"]
        assert {"config"} == {
            each["kind"] for each in manifest(package)["files"] if each["path"] == "config.json"
        }


def test_what_else_is_no_weight_is_listed(samples: Path, tmp_path: Path) -> None:
    build(samples / "saved_model_module", tmp_path / "out")
    changes = manifest(tmp_path / "out")["accounting"]["changes"]
    text = "asset `vocabulary.txt` of the source holds no weights"
    assert {"kind": "excluded", "tensor": None, "text": text} in changes


def test_a_loss_is_an_error_where_none_is_allowed(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", w=np.full(3, 1e30, "f4"))
    with pytest.raises(LossError, match="3 overflow as float16"):
        build(tmp_path / "big.npz", tmp_path / "out", variants=("f16",), strict=True)
    assert [each.name for each in tmp_path.iterdir()] == ["big.npz"]
    build(tmp_path / "big.npz", tmp_path / "out", variants=("f16",))
    kinds = [each["kind"] for each in manifest(tmp_path / "out")["accounting"]["changes"]]
    assert "out of range" in kinds


@pytest.mark.parametrize(
    ("variants", "what"),
    [(("f32", "f32"), "given twice"), (("f33",), "no type is called"), (("i8",), "floats stay")],
)
def test_variants_that_cannot_be(
    variants: tuple[str, ...], what: str, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=what):
        build(samples / "tf1_adam_ema", tmp_path / "out", variants=variants)
    assert not list(tmp_path.iterdir())


# The target


def test_what_exists_is_refused_before_anything_is_read(samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    build(samples / "tf1_adam_ema", target)
    before = listing(target)
    with pytest.raises(UsageError, match="out: exists already"):
        build(tmp_path / "is not there", target)
    assert listing(target) == before


def test_a_package_is_replaced_as_a_whole(samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    build(samples / "tf1_adam_ema", target, variants=("f32", "bf16"))
    (target / "left from before").write_text("x")
    build(samples / "keras_archive/model.keras", target, write=WriteOptions(overwrite=True))
    assert listing(target).keys() == TEXTS | {"model.safetensors", "config.json"}
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_package_that_fails_leaves_the_one_before(samples: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    build(samples / "tf1_adam_ema", target)
    before = listing(target)
    torn = tmp_path / "torn.npz"
    torn.write_bytes((samples / "npz_file/model.npz").read_bytes()[:-30])
    with pytest.raises(ConvertError):
        build(torn, target, write=WriteOptions(overwrite=True))
    assert listing(target) == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "torn.npz"]


def test_no_folder_but_a_package_is_ever_replaced(samples: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="holds no package"):
        build(samples / "tf1_adam_ema", home, write=WriteOptions(overwrite=True))
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UsageError, match="file: exists already"):
        build(samples / "tf1_adam_ema", tmp_path / "file")
    assert listing(tmp_path) == {"home/thesis.tex": b"precious", "file": b"precious"}


def test_a_folder_with_nothing_in_it_may_be_filled(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build(samples / "tf1_adam_ema", tmp_path / "out")
    assert verify_package(tmp_path / "out", jobs=1).problems == ()


def test_targets_that_cannot_be(samples: Path, tmp_path: Path) -> None:
    source = samples / "tf1_adam_ema"
    with pytest.raises(UsageError, match="the folder does not exist"):
        build(source, tmp_path / "no" / "out")
    with pytest.raises(UsageError, match="written to a disk"):
        build_package(source, "s3://bucket/out")
    with pytest.raises(UsageError, match="an OCI layout is a folder"):
        build(source, tmp_path / "out.tar", oci=True)
    with pytest.raises(NotRecognisedError, match="does not exist"):
        build(tmp_path / "nothing", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(samples: Path, tmp_path: Path) -> None:
    report = build(samples / "tf1_adam_ema", tmp_path / "out", dry_run=True)
    assert report.facts is None
    assert [each.plan.size for each in report.planned] == [1936]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_leaves_nothing(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    opened = Path.open
    for name in (*sorted(TEXTS), "config.json"):

        def full(self: Path, mode: str = "r", **others: Any) -> Any:
            if self.name == name and "x" in mode:  # noqa: B023
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return opened(self, mode, **others)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", full)
            with pytest.raises(TargetError, match=f"out.{name}: cannot be written: no space"):
                build(samples / "keras_archive/model.keras", tmp_path / "out")
        assert not list(tmp_path.iterdir())


# What is said of it


def test_the_licence_is_taken_from_beside_the_source(samples: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    shutil.copytree(samples / "tf1_adam_ema", source)
    text = Path(__file__).parents[3].joinpath("LICENSE").read_bytes()
    (source / "LICENSE.txt").write_bytes(text)
    build(source, tmp_path / "out")
    found = manifest(tmp_path / "out")
    assert found["license"] == "Apache-2.0"
    assert (tmp_path / "out/LICENSE").read_bytes() == text
    build(source, tmp_path / "other", licence="mit")
    assert manifest(tmp_path / "other")["license"] == "MIT"
    assert not (tmp_path / "other/LICENSE").exists()  # it is the text of another
    (tmp_path / "own.txt").write_text("Ask us.")
    build(source, tmp_path / "own", licence="LicenseRef-Own", licence_file=tmp_path / "own.txt")
    assert manifest(tmp_path / "own")["license"] == "LicenseRef-Own"
    assert (tmp_path / "own/LICENSE").read_text() == "Ask us."


def test_a_licence_that_is_none(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no SPDX licence"):
        build(samples / "tf1_adam_ema", tmp_path / "out", licence="do what you like")
    with pytest.raises(NotRecognisedError, match="is no regular file"):
        build(samples / "tf1_adam_ema", tmp_path / "out", licence_file=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_date_is_the_one_that_is_given(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    build(samples / "tf1_adam_ema", tmp_path / "out")
    assert manifest(tmp_path / "out")["created"] == 1_700_000_000
    for wrong in ("yesterday", "-1", "1.5", "", "9" * 30):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH, expected seconds"):
            build(samples / "tf1_adam_ema", tmp_path / "other")


def test_a_gate_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", w=np.array([1, np.nan], "f4"))
    (tmp_path / "policy.toml").write_text("[forbid]\nnan = true\n")
    report = build(tmp_path / "bad.npz", tmp_path / "out", policy=tmp_path / "policy.toml")
    assert report.refused
    assert [each.tensor for each in report.findings] == ["w"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.npz", "policy.toml"]


def test_a_policy_that_was_passed_is_recorded(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[forbid]\nnan = true\n")
    build(samples / "tf1_adam_ema", tmp_path / "out", policy=tmp_path / "policy.toml")
    found = manifest(tmp_path / "out")
    assert found["policy"]["forbid"]["nan"] is True
    assert found["flags"]["policy"]["name"] == "policy.toml"


def test_names_may_be_keys(samples: Path, tmp_path: Path) -> None:
    build(samples / "keras3_object", tmp_path / "out", read=ReadOptions(names="key"))
    names = manifest(tmp_path / "out")["variants"][0]["tensors"]
    assert all(name.endswith("VARIABLE_VALUE") for name in names)


def test_values_are_those_that_the_samples_compute(
    samples: Path, tmp_path: Path, truth: ModuleType
) -> None:
    build(samples / "tf1_adam_ema", tmp_path / "out", ema="raw")
    for name, array in load_file(tmp_path / "out/model.safetensors").items():
        expected = truth.expected(name, array.dtype.name, array.shape)
        assert array.tobytes() == expected.tobytes()
