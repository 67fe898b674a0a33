from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from tensorferry.converters.errors import ConvertError, CorruptFileError, UnsafeFileError
from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.package import manifest as module
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.flags import options_of
from tensorferry.pipeline.package.manifest import manifest_text, plain, sealed
from tensorferry.pipeline.package.manifest_file import parse_manifest
from tensorferry.pipeline.package.options import PackageOptions

SCHEMA = Path(module.__file__).with_name("manifest.schema.json")
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="session")
def validator() -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text("ascii"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="session")
def text(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the manifest of a package with two variants."""
    target = tmp_path_factory.mktemp("manifest") / "out"
    options = PackageOptions(
        convert=ConvertOptions(weights_only=True, exclude=("dense_1/*",)),
        variants=("f32", "bf16"), name="croco", version="2", licence="MIT", kitfile=True,
    )  # fmt: skip
    build_package(samples / "tf1_adam_ema", target, options)
    return (target / "manifest.json").read_bytes()


def edited(text: bytes, edit: Edit) -> bytes:
    """Return a manifest with a change, and the right checksum for it."""
    content = json.loads(text)
    edit(content)
    del content["sha256"]
    body = json.dumps(content)[:-1]
    return sealed(body).encode("ascii")


MODELS = [
    "keras_archive/model.keras", "keras3_object", "tf1_adam_ema", "tf1_v1", "tf_keras_h5/model.h5",
    "saved_model_keras", "saved_model_module", "npz_file/model.npz", "tfjs_layers",
    "tflite_dense/model.tflite", "frozen_graph/frozen.pb",
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_real_manifests_are_valid_and_read_back(
    model: str, samples: Path, tmp_path: Path, validator: Draft202012Validator
) -> None:
    options = PackageOptions(ConvertOptions(weights_only=model.startswith("tf1")))
    report = build_package(samples / model, tmp_path / "out", options)
    data = (tmp_path / "out/manifest.json").read_bytes()
    validator.validate(json.loads(data))
    manifest = parse_manifest(data)
    assert manifest_text(manifest.facts, manifest.flags).encode() == data
    assert report.facts is not None
    assert manifest.facts.files == report.facts.files
    assert options_of(manifest.flags, PackageOptions()) == options


def test_flags_are_recorded_exactly(text: bytes) -> None:
    manifest = parse_manifest(text)
    options = options_of(manifest.flags, PackageOptions())
    assert options == PackageOptions(
        convert=ConvertOptions(weights_only=True, exclude=("dense_1/*",)),
        variants=("f32", "bf16"), name="croco", version="2", licence="MIT", kitfile=True,
    )  # fmt: skip


def _row(content: dict[str, Any]) -> Any:
    return next(iter(content["variants"][0]["tensors"].values()))


DAMAGE: dict[str, tuple[Edit, str]] = {
    "another format": (lambda c: c.update(format="bagit"), "no manifest that is read here"),
    "a later version": (lambda c: c.update(version=2), "version: no manifest .* expected 1, got 2"),
    "version as a bool": (lambda c: c.update(version=True), "no manifest that is read here"),
    "a field too many": (lambda c: c.update(extra=1), "`extra` is unknown"),
    "a field too few": (lambda c: c.pop("policy"), "`policy`, expected dict, got nothing"),
    "a date that is a text": (lambda c: c.update(created="now"), "`created`, expected int"),
    "no variant": (lambda c: c["variants"].clear(), "variants, expected one or more"),
    "a variant twice": (lambda c: c["variants"].append(c["variants"][0]), "of different names"),
    "another digest": (
        lambda c: c["variants"][0].update(digest="0" * 64), "`digest` is not that of the tensors",
    ),
    "fewer parameters": (
        lambda c: c["variants"][0].update(parameters=3), "`parameters` is not that of the tensors",
    ),
    "fewer bytes": (lambda c: c["variants"][0].update(bytes=3), "`bytes` is not that"),
    "a tensor in no file": (lambda c: _row(c).update(file="x"), "lies in no file of its variant"),
    "a dtype of its own": (lambda c: _row(c).update(dtype="float33"), "unknown dtype"),
    "a negative length": (lambda c: _row(c).update(shape=[-1]), "shape"),
    "an endless shape": (lambda c: _row(c).update(shape=[2**40, 2**40]), "no array has this shape"),
    "a digest that is none": (lambda c: _row(c).update(digest="abc"), "64 hexadecimal digits"),
    "an upper-case hash": (
        lambda c: c["files"][0].update(sha256="A" * 64), "64 hexadecimal digits",
    ),
    "a negative size": (lambda c: c["files"][0].update(size=-1), "`size`, expected bytes"),
    "a size that is a bool": (lambda c: c["files"][0].update(size=True), "`size`, expected int"),
    "a kind of its own": (lambda c: c["files"][0].update(kind="virus"), "kind, expected weights"),
    "a file of a variant that is not listed": (
        lambda c: c["variants"][0]["files"].append("other"), "is not in the list of files",
    ),
    "counts that are texts": (
        lambda c: c["accounting"]["counts"].update(x={"y": "z"}), "counts, expected numbers",
    ),
    "a change about a number": (
        lambda c: c["accounting"]["changes"][0].update(tensor=1), "`tensor`, expected a text",
    ),
    "a step that is a text": (lambda c: c["source"].update(step="7"), "`step`, expected a number"),
    "metadata that is no text": (
        lambda c: c["source"]["metadata"].update(a=1), "expected a text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_manifest_that_is_wrong_is_refused(name: str, text: bytes) -> None:
    edit, message = DAMAGE[name]
    with pytest.raises(CorruptFileError, match=message):
        parse_manifest(edited(text, edit))


PATHS = [
    "/etc/passwd", "../out", "a/../../b", "a//b", "a/", "./a", "", ".", "..", "a\\b", "c:a",
    "a\nb", "a\0b", "x" * 256, "/".join("x" * 200 for _ in range(6)),
    "/".join("x" for _ in range(40)),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_paths_stay_inside(path: str, text: bytes) -> None:
    data = edited(text, lambda content: content["files"][0].update(path=path))
    with pytest.raises(UnsafeFileError, match="path of a file, expected a relative path"):
        parse_manifest(data)


def test_files_are_listed_once_and_are_no_folders(text: bytes) -> None:
    twice = edited(text, lambda content: content["files"].append(content["files"][0]))
    with pytest.raises(UnsafeFileError, match=r"file `.*`: is listed twice"):
        parse_manifest(twice)
    both = edited(text, lambda content: content["files"][0].update(path="bom.cdx.json/x"))
    with pytest.raises(UnsafeFileError, match="is a file and a folder"):
        parse_manifest(both)
    for own in ("manifest.json", "model.sig"):

        def lists_itself(content: dict[str, Any]) -> None:
            content["files"][0]["path"] = own  # noqa: B023

        with pytest.raises(UnsafeFileError, match="lists itself or its signature"):
            parse_manifest(edited(text, lists_itself))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b'{"format": 1}', b"\xff\xfe",
     b'{"format": "tensorferry package"}'],
)  # fmt: skip
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        parse_manifest(data)


def test_every_changed_byte_shows(text: bytes) -> None:
    for at in range(0, len(text), 23):
        data = bytearray(text)
        data[at] ^= 0x04
        with pytest.raises(ConvertError):
            parse_manifest(bytes(data))
    for end in range(0, len(text), 997):
        with pytest.raises(ConvertError):
            parse_manifest(text[:end])


@pytest.mark.parametrize(
    "name",
    ["a field too many", "a field too few", "a kind of its own", "an upper-case hash",
     "a negative size", "a later version", "no variant", "a change about a number"],
)  # fmt: skip
def test_the_schema_refuses_it_too(name: str, text: bytes, validator: Draft202012Validator) -> None:
    content = json.loads(text)
    validator.validate(content)
    DAMAGE[name][0](content)
    with pytest.raises(ValidationError):
        validator.validate(content)


@pytest.mark.parametrize("path", ["/etc/passwd", "../out", "a/../../b", "a//b", "", "."])
def test_the_schema_keeps_paths_inside(
    path: str, text: bytes, validator: Draft202012Validator
) -> None:
    content = json.loads(text)
    content["files"][0]["path"] = path
    with pytest.raises(ValidationError):
        validator.validate(content)


FLAGS: dict[str, Edit] = {
    "another version": lambda flags: flags.update(version=2),
    "a flag of its own": lambda flags: flags.update(execute="rm -rf /"),
    "a conversion of another version": lambda flags: flags["convert"].update(version=9),
    "an unknown option": lambda flags: flags["convert"].update(shell="sh"),
    "an option of another type": lambda flags: flags["convert"].update(include="all"),
    "variants that are no texts": lambda flags: flags.update(variants=[1]),
    "a name that is a number": lambda flags: flags.update(name=1),
    "a template without a hash": lambda flags: flags.update(template={"name": "x"}),
    "a conversion that is a list": lambda flags: flags.update(convert=[]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_are_wrong_are_refused(name: str, text: bytes) -> None:
    flags = dict(parse_manifest(text).flags)
    FLAGS[name](flags)
    with pytest.raises(CorruptFileError):
        options_of(flags, PackageOptions())


def test_what_json_has_no_word_for_becomes_text() -> None:
    found = plain({"a": (1, float("nan")), 2: {3}, "c": [float("inf"), True, None], "d": 0.5})
    assert found == {"a": [1, "nan"], "2": "{3}", "c": ["inf", True, None], "d": 0.5}
