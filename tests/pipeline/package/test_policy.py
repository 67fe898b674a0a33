"""Policies: every key is understood, and what is none of them is refused with file and key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.digests import digest_all
from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import CorruptFileError, NotRecognisedError, UsageError
from tensorferry.converters.testing.contracts import tensors_of
from tensorferry.pipeline.convert import Listener, chosen
from tensorferry.pipeline.digest_file import model_digest, write_digests
from tensorferry.pipeline.options import ConvertOptions
from tensorferry.pipeline.package.build import build_package
from tensorferry.pipeline.package.options import PackageOptions
from tensorferry.pipeline.package.policy import Bounds, Policy, WantedDigest, read_policy

REPOSITORY = Path(__file__).resolve().parents[3]
DIGEST = "0123456789abcdef" * 4


def read(folder: Path, text: str) -> Policy:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return read_policy(path)


def refused(folder: Path, text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read(folder, text)
    assert caught.value.path == str(folder / "policy.toml")
    assert caught.value.exit_code == 2
    return caught.value


def test_an_empty_policy_asks_for_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, "") == Policy()
    assert Policy().json() == {}


LIMITS: list[tuple[str, str, Any]] = [
    ("bytes = 1000", "max_bytes", 1000),
    ('bytes = "2 GB"', "max_bytes", 2_000_000_000),
    ('bytes = "1.5MiB"', "max_bytes", 3 << 19),
    ("parameters = 0", "max_parameters", 0),
    ('dtypes = ["float32", "bf16", "bool"]', "dtypes",
     (DType.FLOAT32, DType.BFLOAT16, DType.BOOL)),
]  # fmt: skip


@pytest.mark.parametrize(("line", "field", "value"), LIMITS)
def test_limits(tmp_path: Path, line: str, field: str, value: Any) -> None:
    assert read(tmp_path, f"[limit]\n{line}\n") == Policy(**{field: value})


@pytest.mark.parametrize("key", ["nan", "infinity", "optimizer_state", "risks"])
def test_what_is_forbidden(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, f"[forbid]\n{key} = true\n") == Policy(**{f"no_{key}": True})  # type: ignore[arg-type]
    assert read(tmp_path, f"[forbid]\n{key} = false\n") == Policy()


def test_names(tmp_path: Path) -> None:
    policy = read(tmp_path, '[forbid]\nnames = ["*debug*"]\n[require]\nnames = ["re:^d1/"]\n')
    assert (policy.forbidden, policy.required) == (("*debug*",), ("re:^d1/",))


def test_licences_are_compared_in_their_usual_spelling(tmp_path: Path) -> None:
    policy = read(tmp_path, '[require]\nlicense = ["apache-2.0", "mit OR gpl-2.0+"]\n')
    assert policy.licensed
    assert policy.licences == ("Apache-2.0", "MIT OR GPL-2.0-or-later")
    assert read(tmp_path, "[require]\nlicense = true\n") == Policy(licensed=True)
    assert read(tmp_path, "[require]\nlicense = false\n") == Policy()


def test_metrics(tmp_path: Path) -> None:
    text = "[require.metrics.accuracy]\nminimum = 0.9\n[require.metrics.loss]\n"
    metrics = {"accuracy": Bounds(minimum=0.9), "loss": Bounds()}
    assert read(tmp_path, text) == Policy(metrics=metrics)


def test_a_digest_is_given_as_such(tmp_path: Path) -> None:
    policy = read(tmp_path, f'[require]\ndigest = "{DIGEST}"\n')
    assert policy.digest == WantedDigest(DIGEST)


def test_a_digest_file_lies_beside_the_policy(tmp_path: Path) -> None:
    tensors = tensors_of({"w": np.arange(3.0), "v": np.arange(3)})
    digests = digest_all(tensors, tensors, 1)
    write_digests(tmp_path / "model.digests.json", tensors, digests)
    policy = read(tmp_path, '[require]\ndigest = "model.digests.json"\n')
    assert policy.digest == WantedDigest(model_digest(digests), digests)


def test_a_digest_file_that_is_none_is_the_one_named(tmp_path: Path) -> None:
    (tmp_path / "model.digests.json").write_text('{"format": "other"}')
    with pytest.raises(CorruptFileError) as caught:
        read(tmp_path, '[require]\ndigest = "model.digests.json"\n')
    assert caught.value.path == str(tmp_path / "model.digests.json")
    with pytest.raises(NotRecognisedError, match=r"absent\.json"):
        read(tmp_path, '[require]\ndigest = "absent.json"\n')


REFUSED = [
    ("[limits]\nbytes = 1\n", "`limits`", "is no known key", "did you mean `limit`?"),
    ("[limit]\nsize = 1\n", "`limit.size`", "is no known key", "bytes, parameters, dtypes"),
    ("[forbid]\nNaN = true\n", "`forbid.NaN`", "is no known key", "nan"),
    ("[require.metrics.f1]\nmin = 1\n", "`require.metrics.f1.min`", "is no known key", "minimum"),
    ("limit = 1\n", "`limit`", "expected a table", ""),
    ("[require]\nmetrics = 1\n", "`require.metrics`", "expected a table", ""),
    ("[require.metrics]\nf1 = 0.9\n", "`require.metrics.f1`", "expected a table", ""),
    ("[limit]\nbytes = -1\n", "`limit.bytes`", "expected a whole number, not negative", ""),
    ("[limit]\nbytes = 1.5\n", "`limit.bytes`", "expected a whole number", ""),
    ('[limit]\nbytes = "big"\n', "`limit.bytes`", "such as `5GB`", ""),
    ("[limit]\nparameters = true\n", "`limit.parameters`", "expected a whole number", ""),
    (f"[limit]\nparameters = {10**40}\n", "`limit.parameters`", "expected a whole number", ""),
    ('[limit]\ndtypes = "float32"\n', "`limit.dtypes`", "expected a list of texts", ""),
    ("[limit]\ndtypes = []\n", "`limit.dtypes`", "expected a list of texts", ""),
    ('[limit]\ndtypes = ["flaot32"]\n', "`limit.dtypes`", "`flaot32`", "float32"),
    ("[forbid]\nnan = 1\n", "`forbid.nan`", "expected true or false, got `1`", ""),
    ('[forbid]\nnames = ["re:("]\n', "`forbid.names`", "is no regular expression", ""),
    ('[require]\nnames = [""]\n', "`require.names`", "expected a list of texts", ""),
    ('[require]\nlicense = "MIT"\n', "`require.license`", "a list of SPDX expressions", ""),
    ("[require]\nlicense = []\n", "`require.license`", "a list of SPDX expressions", ""),
    ('[require]\nlicense = ["Foo-1"]\n', "`require.license`", "`Foo-1` is no SPDX", "LicenseRef-"),
    ("[require]\ndigest = 7\n", "`require.digest`", "64 hexadecimal digits", ""),
    ("[require.metrics.f1]\nminimum = nan\n", "`require.metrics.f1.minimum`", "a finite", ""),
    (f"[require.metrics.f1]\nminimum = {10**400}\n", "`require.metrics.f1.minimum`", "finite", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "where", "what", "hint"), REFUSED)
def test_what_is_refused_is_named(
    tmp_path: Path, text: str, where: str, what: str, hint: str
) -> None:
    error = refused(tmp_path, text)
    assert error.where == where
    assert what in error.message
    assert hint in (error.hint or "")


def test_numbers_that_python_does_not_print_are_refused(tmp_path: Path) -> None:
    assert "TOML: " in refused(tmp_path, f"[limit]\nbytes = {'9' * 5000}\n").message
    error = refused(tmp_path, f"[limit]\nbytes = 0x{'f' * 5000}\n")
    assert error.got == "a number beyond 2^63"


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    assert "line 1" in refused(tmp_path, "[limit\n").message
    (tmp_path / "policy.toml").write_bytes(b"# \xff\n")
    with pytest.raises(UsageError, match="is no UTF-8"):
        read_policy(tmp_path / "policy.toml")
    with (tmp_path / "policy.toml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UsageError, match="longer than"):
        read_policy(tmp_path / "policy.toml")


def test_a_policy_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match=r"absent\.toml: cannot be read"):
        read_policy(tmp_path / "absent.toml")


def test_the_package_records_what_was_asked_for(tmp_path: Path) -> None:
    policy = read(tmp_path, sample().replace('"approved.digests.json"', f'"{DIGEST}"'))
    recorded = json.loads(json.dumps(policy.json()))
    assert recorded == {
        "limit": {"bytes": 2_000_000_000, "parameters": 500_000_000,
                  "dtypes": ["float32", "bfloat16"]},
        "forbid": {"nan": True, "infinity": True, "optimizer_state": True, "risks": True,
                   "names": ["*debug*"]},
        "require": {"names": ["*/kernel"], "license": ["Apache-2.0", "MIT"], "digest": DIGEST,
                    "metrics": {"accuracy": {"minimum": 0.9}, "loss": {"maximum": 0.5}}},
    }  # fmt: skip


def guide() -> str:
    return (REPOSITORY / "docs" / "guide" / "package.md").read_text(encoding="utf-8")


def test_the_guide_lists_every_key() -> None:
    section = guide().split("\n## Policy\n")[1].split("\n## ")[0]
    table = "".join(line for line in section.splitlines() if line.startswith("| `"))
    listed = set(re.findall(r"`((?:limit|forbid|require)\.\w+)", table))
    everything = {
        "limit": ("bytes", "parameters", "dtypes"),
        "forbid": ("nan", "infinity", "optimizer_state", "risks", "names"),
        "require": ("names", "license", "digest", "metrics"),
    }
    assert listed == {f"{name}.{key}" for name, keys in everything.items() for key in keys}


def test_the_sample_of_the_guide_lets_a_package_pass(samples: Path, tmp_path: Path) -> None:
    source, folder = str(samples / "tf1_adam_ema"), tmp_path
    (folder / "policy.toml").write_text(sample(), encoding="utf-8")
    (folder / "fields.toml").write_text("[metrics]\naccuracy = 0.91\nloss = 0.5\n")
    options = PackageOptions(
        convert=ConvertOptions(weights_only=True, ema="only"),
        variants=("f32", "bf16"),
        licence="MIT",
        policy=folder / "policy.toml",
        fields=folder / "fields.toml",
    )
    with chosen(source, options.convert, Listener()) as (_, kept):
        digests = digest_all(kept, kept, 1)
        write_digests(folder / "approved.digests.json", kept, digests)
    report = build_package(source, folder / "release", options)
    assert not report.refused
    assert report.facts is not None
    assert report.facts.policy["require"]["digest"] == model_digest(digests)
    (folder / "fields.toml").write_text("[metrics]\naccuracy = 0.89\nloss = 0.5\n")
    report = build_package(source, folder / "again", options)
    assert [each.rule for each in report.findings] == ["policy/metric"]
    assert not (folder / "again").exists()


def sample() -> str:
    return re.findall(r"```toml\n(\[limit\].*?)```", guide(), re.DOTALL)[0]
