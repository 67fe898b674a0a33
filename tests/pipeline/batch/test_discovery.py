from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tensorferry.converters.errors import NotRecognisedError
from tensorferry.pipeline.batch.discovery import Found, discover, found_at
from tensorferry.pipeline.batch.jobs import Skipped


def paths(root: Path, found: list[Found] | list[Skipped]) -> list[str]:
    return [os.path.relpath(each.path, root) for each in found]


def copy(samples: Path, name: str, to: Path) -> None:
    shutil.copytree(samples / name, to, dirs_exist_ok=True)


def test_a_state_file_is_neither_a_model_nor_worth_a_word(samples: Path) -> None:
    assert discover(samples / "several_steps")[1] == []


def test_every_sample_is_one_model(samples: Path) -> None:
    with_steps = {"several_steps": 3, "old_releases": 36}
    for folder in sorted(each for each in samples.iterdir() if each.is_dir()):
        if folder.name.startswith("_"):
            continue
        found, _ = discover(folder)
        assert len(found) == with_steps.get(folder.name, 1), folder.name


@pytest.mark.parametrize(
    ("sample", "path", "stem", "step"),
    [
        ("several_steps", "model.ckpt-20", "model.ckpt-20", 20),
        ("tf1_v1", "model.ckpt-7", "model.ckpt-7", 7),
        ("tf1_multi_shard", "model.ckpt-7", "model.ckpt-7", 7),
        ("saved_model_module", ".", "m", None),
        ("keras_shards", "model.weights.json", "model", None),
        ("keras_weights", "model.weights.h5", "model", None),
        ("tfjs_layers", "model.json", "m", None),
        ("npz_file", "model.npz", "model", None),
    ],
)
def test_what_to_open_and_what_to_call_it(
    samples: Path, tmp_path: Path, sample: str, path: str, stem: str, step: int | None
) -> None:
    copy(samples, sample, tmp_path / "m")
    found = [each for each in discover(tmp_path)[0] if each.path == tmp_path / "m" / path]
    assert [(each.stem, each.step) for each in found] == [(stem, step)]
    files = [each for each in (tmp_path / "m").rglob("*") if each.is_file()]
    own = sum(each.stat().st_size for each in files if each.name != "checkpoint")
    assert found[0].nbytes == (5673 if sample == "several_steps" else own)


def test_steps_are_models_of_their_own_unless_the_latest_is_wanted(
    samples: Path, tmp_path: Path
) -> None:
    copy(samples, "several_steps", tmp_path / "run")
    for version in ("00000123", "00000124"):
        copy(samples, "saved_model_module", tmp_path / "served" / version)
    everything = ["run/model.ckpt-10", "run/model.ckpt-20", "run/model.ckpt-30",
                  "served/00000123", "served/00000124"]  # fmt: skip
    assert paths(tmp_path, discover(tmp_path)[0]) == everything
    latest = discover(tmp_path, latest=True)[0]
    assert paths(tmp_path, latest) == ["run/model.ckpt-30", "served/00000124"]


def test_what_is_no_model_says_why(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "empty").touch()
    (tmp_path / "model.pt").write_bytes(b"PK\3\4" + bytes(30) + b"archive/data.pkl")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / ".tensorferry-x1").mkdir()
    copy(samples, "npz_file", tmp_path / ".tensorferry-x1")
    found, skipped = discover(tmp_path)
    assert found == []
    assert [(Path(each.path).name, each.reason) for each in skipped] == [
        ("empty", "an empty file"),
        ("gone", "is no file, or a link to nothing"),
        ("model.pt", "a PyTorch pickle: reading it could run code, so it is not read here"),
        ("notes.txt", "no format that is read here"),
    ]


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"junk"])
def test_what_should_be_a_model_is_tried(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.h5").write_bytes(data)
    (tmp_path / "model.ckpt-1.data-00000-of-00001").write_bytes(data)
    found, _ = discover(tmp_path)
    assert paths(tmp_path, found) == ["model.ckpt-1", "model.h5"]


def test_an_archive_is_a_model(samples: Path, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "m"), "gztar", samples / "tf_module_object")
    (found,) = discover(tmp_path)[0]
    assert (found.path, found.stem) == (tmp_path / "m.tar.gz", "m")


def test_a_folder_is_looked_at_once(samples: Path, tmp_path: Path) -> None:
    copy(samples, "npz_file", tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "0").symlink_to(tmp_path / "a")
    assert paths(tmp_path, discover(tmp_path)[0]) == ["a/model.npz"]
    assert discover(tmp_path, without=[(tmp_path / "a").resolve()]) == ([], [])


def test_very_deep_folders_are_no_trouble(samples: Path, tmp_path: Path) -> None:
    place = tmp_path
    for _ in range(300):
        place /= "d"
    place.mkdir(parents=True)
    shutil.copy(samples / "npz_file" / "model.npz", place)
    assert len(discover(tmp_path)[0]) == 1


@pytest.mark.parametrize("name", ["gone", "file"])
def test_a_batch_is_below_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotRecognisedError):
        discover(tmp_path / name)


# Fingerprints


def test_a_fingerprint_changes_with_every_file(samples: Path, tmp_path: Path) -> None:
    copy(samples, "several_steps", tmp_path)
    before = {each.path: each.fingerprint for each in discover(tmp_path)[0]}
    assert len(set(before.values())) == 3
    (tmp_path / "checkpoint").write_text("another")  # which is nobody's own
    os.utime(tmp_path / "model.ckpt-20.index", ns=(1, 1))
    after = {each.path: each.fingerprint for each in discover(tmp_path)[0]}
    changed = [path.name for path, value in before.items() if after[path] != value]
    assert changed == ["model.ckpt-20"]


@pytest.mark.parametrize("name", ["tf1_v1", "saved_model_module", "tfjs_graph", "several_steps"])
def test_one_model_is_found_as_among_others(samples: Path, name: str) -> None:
    for each in discover(samples / name)[0]:
        assert found_at(each.path).fingerprint == each.fingerprint
    with pytest.raises(NotRecognisedError):
        found_at(samples / name / "nothing")
