from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import CorruptFileError, NotRecognisedError, UsageError
from tensorferry.converters.testing.contracts import listing
from tensorferry.pipeline import ConvertOptions
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.rebuild import rebuild


def options(**chosen: Any) -> PackageOptions:
    return PackageOptions(variants=("f32", "bf16"), kitfile=True, **chosen)


def test_the_same_input_gives_the_same_bytes(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another folder, at another time, with another number of threads."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = []
    for place, jobs, umask in (("one", 1, 0o022), ("another", 2, 0o077)):
        (tmp_path / place).mkdir()
        source = Path(shutil.copytree(samples / "tf1_adam_ema", tmp_path / place / "run"))
        for path in source.iterdir():
            os.utime(path, (jobs * 1e8, jobs * 1e8))
        before = os.umask(umask)
        try:
            chosen = options(convert=ConvertOptions(weights_only=True, jobs=jobs))
            for target in ("out", "out.tar"):
                build_package(source, tmp_path / place / target, chosen)
            build_package(
                source, tmp_path / place / "oci", options(convert=chosen.convert, oci=True)
            )
        finally:
            os.umask(before)
        shutil.rmtree(source)
        made.append(listing(tmp_path / place))
    assert made[0] == made[1]
    assert "out.tar" in made[0]


def test_a_package_is_built_again(samples: Path, tmp_path: Path) -> None:
    source = samples / "tf1_adam_ema"
    for target, chosen in (
        ("out", options()), ("out.tar", options()), ("oci", options(oci=True)),
        ("named", options(name="croco", version="2", licence="MIT")),
        ("chosen", PackageOptions(ConvertOptions(weights_only=True, ema="only", dtypes=("f16",)))),
    ):  # fmt: skip
        build_package(source, tmp_path / target, chosen)
        found = rebuild(tmp_path / target, str(source), PackageOptions())
        assert found.problems == ()
        assert found.files >= 5


def test_the_source_may_have_moved(samples: Path, tmp_path: Path) -> None:
    build_package(samples / "tf1_adam_ema", tmp_path / "out", options())
    moved = shutil.copytree(
        samples / "tf1_adam_ema", tmp_path / "moved", copy_function=shutil.copyfile
    )
    assert rebuild(tmp_path / "out", str(moved), PackageOptions()).problems == ()


def test_a_file_that_differs_is_named(samples: Path, tmp_path: Path) -> None:
    package = tmp_path / "out"
    build_package(samples / "tf1_adam_ema", package, options())
    (package / "README.md").write_text("trust me")
    (package / "more").write_text("")
    (package / "Kitfile").unlink()
    problems = rebuild(package, str(samples / "tf1_adam_ema"), PackageOptions()).problems
    assert {(each.what, each.path) for each in problems} == {
        ("changed", "README.md"), ("extra", "more"), ("missing", "Kitfile"),
    }  # fmt: skip


def test_another_source_is_told(samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(3, "f4"))
    np.savez(tmp_path / "b.npz", w=np.ones(3, "f4"))
    build_package(tmp_path / "a.npz", tmp_path / "out", options())
    problems = rebuild(tmp_path / "out", str(tmp_path / "b.npz"), PackageOptions()).problems
    assert {"model.f32.safetensors", "model.bf16.safetensors", "manifest.json"} <= {
        each.path for each in problems
    }
    with pytest.raises(NotRecognisedError, match="holds no package"):
        rebuild(samples / "tf1_adam_ema", str(samples / "tf1_adam_ema"), PackageOptions())


def test_files_that_flags_named_are_needed_again(samples: Path, tmp_path: Path) -> None:
    source = str(samples / "tf1_adam_ema")
    text, patch = tmp_path / "own.txt", tmp_path / "patch.npz"
    text.write_text("Ask us.")
    np.savez(patch, **{"dense/bias": np.ones(8, "f4")})
    convert = ConvertOptions(weights_only=True, updates=(patch,))
    build_package(source, tmp_path / "out", options(convert=convert, licence_file=text))
    with pytest.raises(UsageError, match=r"expected --update patch\.npz, got none"):
        rebuild(tmp_path / "out", source, PackageOptions())
    again = ConvertOptions(updates=(patch,))
    with pytest.raises(UsageError, match="with a file that it does not hold") as caught:
        rebuild(tmp_path / "out", source, PackageOptions(convert=again))
    assert caught.value.hint == "name it: --license-file own.txt"
    whole = PackageOptions(convert=again, licence_file=text)
    assert rebuild(tmp_path / "out", source, whole).problems == ()
    text.write_text("Ask somebody else.")
    with pytest.raises(UsageError, match="is not the file that the package was made with"):
        rebuild(tmp_path / "out", source, whole)


def test_fields_and_policy_are_in_the_manifest(samples: Path, tmp_path: Path) -> None:
    source = str(samples / "tf1_adam_ema")
    (tmp_path / "policy.toml").write_text("[forbid]\nnan = true\n")
    (tmp_path / "fields.toml").write_text('title = "Croco"\n')
    build_package(
        source, tmp_path / "out",
        options(policy=tmp_path / "policy.toml", fields=tmp_path / "fields.toml"),
    )  # fmt: skip
    again = PackageOptions(policy=tmp_path / "policy.toml", fields=tmp_path / "fields.toml")
    assert rebuild(tmp_path / "out", source, again).problems == ()
    assert rebuild(tmp_path / "out", source, PackageOptions()).problems == ()


def test_a_manifest_that_is_none(samples: Path, tmp_path: Path) -> None:
    build_package(samples / "tf1_adam_ema", tmp_path / "out", options())
    (tmp_path / "out/manifest.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"out/manifest\.json: "):
        rebuild(tmp_path / "out", str(samples / "tf1_adam_ema"), PackageOptions())
