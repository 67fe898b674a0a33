from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tensorferry.converters.errors import CorruptFileError, UsageError
from tensorferry.converters.testing.contracts import listing
from tensorferry.pipeline.package import staged as module
from tensorferry.pipeline.package.staged import made_in, planned_only, staged


def put(target: Path, text: str, *, overwrite: bool = True, fsync: bool = False) -> None:
    with staged(target, overwrite=overwrite, fsync=fsync) as staging:
        folder = made_in(staging)
        (folder / "manifest.json").write_text(text)
        (folder / text).write_text("")
        folder.rename(staging.path(0))
        staging.commit()


@pytest.mark.parametrize("fsync", [False, True])
def test_a_folder_appears_and_is_replaced_whole(tmp_path: Path, fsync: bool) -> None:
    for text in ("one", "two"):
        put(tmp_path / "out", text, fsync=fsync)
        assert listing(tmp_path) == {"out/manifest.json": text.encode(), f"out/{text}": b""}
        assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_it_is_replaced_where_the_system_cannot_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_exchanged", lambda _one, _other: False)
    for text in ("one", "two"):
        put(tmp_path / "out", text)
        assert listing(tmp_path) == {"out/manifest.json": text.encode(), f"out/{text}": b""}


def test_there_is_a_package_at_every_moment(tmp_path: Path) -> None:
    target = tmp_path / "out"
    put(target, "0")
    ended = threading.Event()
    missing: list[int] = []

    def look() -> None:
        while not ended.is_set():
            if not (target / "manifest.json").exists():
                missing.append(1)

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(100):
        put(target, str(number))
    ended.set()
    watcher.join()
    assert not missing


def test_errors_name_the_place_that_was_meant(tmp_path: Path) -> None:
    with (
        pytest.raises(CorruptFileError, match=f"^{tmp_path}/out/weights: is torn$"),
        staged(tmp_path / "out", overwrite=False, fsync=False) as staging,
    ):
        raise CorruptFileError("is torn", path=made_in(staging) / "weights")
    assert not list(tmp_path.iterdir())


def test_a_dry_run_looks_and_makes_nothing(tmp_path: Path) -> None:
    planned_only(tmp_path / "out", overwrite=False)
    put(tmp_path / "out", "one")
    with pytest.raises(UsageError, match="exists already"):
        planned_only(tmp_path / "out", overwrite=False)
    planned_only(tmp_path / "out", overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
