"""The action and the container recipe: what they run is run, as far as it goes here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.oracle

REPOSITORY = Path(__file__).resolve().parents[3]
ACTION = REPOSITORY / ".github" / "actions" / "package" / "action.yml"
RECIPE = REPOSITORY / "tools" / "Containerfile"
GIVEN = re.compile(r"\$\{\{ *([\w.]+) *\}\}")


@pytest.fixture(scope="module")
def action() -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load(ACTION.read_text())


@pytest.fixture(scope="module")
def project() -> Any:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "model.npz", kernel=np.arange(12, dtype="f4"))
    (tmp_path / "policy.toml").write_text("[limit]\nparameters = 12\n")
    (tmp_path / "strict.toml").write_text("[limit]\nparameters = 11\n")
    (tmp_path / "tmp").mkdir()
    return tmp_path


def run_step(action: Any, folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the script that makes the package, as the runner does: inputs are variables."""
    step = next(each for each in action["runs"]["steps"] if each.get("id") == "package")
    values = {name: each.get("default", "") for name, each in action["inputs"].items()} | inputs
    env = {
        name: GIVEN.sub(lambda found: values[found[1].removeprefix("inputs.")], text)
        for name, text in step["env"].items()
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env |= {"PATH": path, "GITHUB_OUTPUT": str(folder / "output"), "TMPDIR": str(folder / "tmp")}
    (folder / "script.sh").write_text(step["run"])
    call = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "script.sh"]
    return subprocess.run(call, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_action_makes_a_package_and_gives_its_digest(action: Any, folder: Path) -> None:
    done = run_step(
        action, folder, source="model.npz", target="out", policy="policy.toml",
        license="Apache-2.0", flags="--name croco --version 2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = (folder / "out" / "manifest.json").read_bytes()
    assert (folder / "output").read_text() == f"digest={sha256(manifest).hexdigest()}\n"
    assert json.loads(manifest)["name"] == "croco"
    assert json.loads(manifest)["license"] == "Apache-2.0"


def test_the_action_signs_and_leaves_no_key(action: Any, folder: Path, keyring: Any) -> None:
    done = run_step(
        action, folder, source="model.npz", target="out", oci="true",
        key=keyring["locked.key"].read_text(), passphrase=keyring.passphrase,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "oci-layout").is_file()
    assert list((folder / "tmp").iterdir()) == []
    said = done.stdout + done.stderr + (folder / "output").read_text()
    for secret in keyring.secrets():
        assert secret not in said.encode()


def test_a_gate_stops_the_job(action: Any, folder: Path, keyring: Any) -> None:
    done = run_step(
        action, folder, source="model.npz", target="out", policy="strict.toml",
        key=keyring["release.key"].read_text(),
    )  # fmt: skip
    assert done.returncode == 1
    assert "policy/parameters" in done.stdout
    assert not (folder / "out").exists()
    assert not (folder / "output").exists()
    assert list((folder / "tmp").iterdir()) == []


def test_inputs_are_text_and_never_commands(action: Any, folder: Path) -> None:
    hostile = '"; touch hit; $(touch hit) `touch hit`'
    done = run_step(action, folder, source=hostile, target="out", license=hostile)
    assert done.returncode in (2, 3)
    assert not (folder / "hit").exists()
    for step in action["runs"]["steps"]:
        assert "${{" not in step["run"]


def test_every_input_is_used_and_every_flag_exists(action: Any) -> None:
    steps = action["runs"]["steps"]
    texts = " ".join(text for step in steps for text in step["env"].values())
    assert {each.removeprefix("inputs.") for each in GIVEN.findall(texts)} == {
        *action["inputs"],
        "github.action_path",
    }
    script = steps[-1]["run"]
    for name in steps[-1]["env"]:
        assert f"${name}" in script
    words = ["tensorferry", "package", "SRC", "DIR", "--help"]
    program = Path(sys.executable).parent / words[0]
    shown = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=True).stdout
    flags = set(re.findall(r"(?<![\w-])--[a-z-]+", script))
    assert {"--policy", "--fields", "--license", "--oci", "--sign", "--passphrase"} <= flags
    assert all(re.search(rf"{flag}\b", shown) for flag in flags)


def test_the_action_installs_this_project(action: Any, project: Any) -> None:
    (step, _) = action["runs"]["steps"]
    match = re.search(r'"\$ACTION_PATH/([./]+)\[([\w,]+)\]"', step["run"])
    assert match
    assert (ACTION.parent / match[1]).resolve() == REPOSITORY
    assert set(match[2].split(",")) <= project["optional-dependencies"].keys()


def instructions() -> list[tuple[str, str]]:
    """Return word and rest of each line of the recipe."""
    lines = [line for line in RECIPE.read_text().splitlines() if line and line[0] != "#"]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_recipe_starts_a_command_of_ours_as_nobody_special(project: Any) -> None:
    last = dict(instructions())
    assert json.loads(last["ENTRYPOINT"])[0] in project["scripts"]
    assert last["USER"] not in ("root", "0")
    (install,) = (rest for word, rest in instructions() if "pip install" in rest)
    match = re.search(r'"/source\[([\w,]+)\]"', install)
    assert match
    assert set(match[1].split(",")) <= project["optional-dependencies"].keys()


def test_what_the_recipe_copies_is_enough_to_build(tmp_path: Path) -> None:
    """No engine runs here: the folder that it would see is made, and the wheel built in it."""
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                place = tmp_path / target.lstrip("/")
                if (REPOSITORY / source).is_dir():
                    shutil.copytree(REPOSITORY / source, place)
                else:
                    place.mkdir(exist_ok=True)
                    shutil.copy(REPOSITORY / source, place)
    call = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*call, "--wheel-dir", str(tmp_path), str(tmp_path / "source")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("tensorferry-*.whl"))) == 1
