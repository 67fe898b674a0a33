"""The command line over a store: words, flags and exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env=os.environ | {"COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("more", [(), ("--isolate",)])
def test_a_model_in_a_store_is_inspected(more: tuple[str, ...], cloud: Any, samples: Path) -> None:
    url = cloud.put(samples / "tf1_adam_ema", "tf1") + "/model.ckpt-7"
    there = run("inspect", url, "--endpoint-url", cloud.endpoint, *more)
    here = run("inspect", str(samples / "tf1_adam_ema" / "model.ckpt-7"))
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout
    assert there.stderr.startswith(f"{url}: TensorFlow checkpoint V2 `model.ckpt-7`")


@pytest.mark.parametrize("model", ["several_steps", "saved_model_keras"])
def test_every_verb_reads_a_store(model: str, cloud: Any, samples: Path, tmp_path: Path) -> None:
    url, endpoint = cloud.put(samples / model, model), ("--endpoint-url", cloud.endpoint)
    here, copy = str(samples / model), str(tmp_path / "copy.safetensors")
    checked = run("check", url, "--security", "--json", *endpoint)
    there, local = json.loads(checked.stdout), json.loads(run("check", here, "--json").stdout)
    assert [each["rule"] for each in there["findings"]] == [
        each["rule"] for each in local["findings"]
    ]
    assert not any("/tmp" in str(each) for each in there["findings"])
    assert run(url, copy, *endpoint).returncode == 0
    assert run("diff", url, copy, *endpoint).returncode == 0
    assert run("verify", url, copy, *endpoint).returncode == 0


def test_a_finding_names_the_object(cloud: Any, samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples / "several_steps", tmp_path / "run")
    with (tmp_path / "run" / "model.ckpt-30.data-00000-of-00001").open("ab") as file:
        file.write(b"more")
    url = cloud.put(tmp_path / "run", "run")
    done = run("check", url, "--endpoint-url", cloud.endpoint, "-q")
    assert done.returncode == 1
    assert f"{url}/model.ckpt-30.data-00000-of-00001: byte 44" in done.stdout


def test_two_plain_words_convert_from_store_to_store(
    cloud: Any, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = cloud.put(samples / "tf1_adam_ema", "tf1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    done = run(url, cloud.url("out/model.safetensors"))
    assert done.returncode == 0, done.stderr
    assert f"\n{cloud.url('out/model.safetensors')}: 29 written" in done.stderr
    assert set(cloud.objects("out/")) == {"out/model.safetensors"}


def test_errors_name_the_url_and_have_their_codes(cloud: Any, tmp_path: Path) -> None:
    endpoint = ("--endpoint-url", cloud.endpoint)
    missing = run(cloud.url("nothing.npz"), str(tmp_path / "out.npz"), *endpoint)
    assert missing.returncode == 3
    assert missing.stderr == f"convert: {cloud.url('nothing.npz')}: does not exist\n"
    usage = run("nothing://there", str(tmp_path / "out.npz"))
    assert usage.returncode == 2
    assert "Traceback" not in usage.stderr


def test_nothing_of_this_is_imported_for_the_disk(samples: Path, tmp_path: Path) -> None:
    program = f"{PROGRAM[:-17]}main(); print(*sys.modules)"
    words = [str(samples / "tf1_adam_ema"), str(tmp_path / "out.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "tensorferry.pipeline.targets" in loaded
    parts = ("converters.remote", "converters.stores", "converters.read_ahead", "pipeline.uploads")
    assert not loaded & {"obstore", "fsspec", *(f"tensorferry.{part}" for part in parts)}
