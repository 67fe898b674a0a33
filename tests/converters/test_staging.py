from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorferry.converters.errors import TargetError, UsageError
from tensorferry.converters.staging import Staging, remove_stale
from tensorferry.converters.testing.contracts import listing

OLD = b"what was there before"


def _stage(*finals: Path, overwrite: bool = False, fsync: bool = False) -> Staging:
    return Staging(finals, overwrite=overwrite, fsync=fsync)


def _fill(staging: Staging, *contents: bytes) -> None:
    for index, data in enumerate(contents):
        os.pwrite(staging.create(index, len(data)), data, 0)


def _failing_renames(
    monkeypatch: pytest.MonkeyPatch, fails: Callable[[Path, Path], bool]
) -> list[tuple[str, str]]:
    """Make renames fail where `fails` says so; return the names of those that were done."""
    done: list[tuple[str, str]] = []
    rename = Path.rename

    def patched(self: Path, target: Path) -> Path:
        if fails(self, target):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        done.append((self.name, target.name))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", patched)
    return done


def test_files_appear_when_committed_and_not_before(tmp_path: Path) -> None:
    with _stage(tmp_path / "a", tmp_path / "b") as staging:
        _fill(staging, b"one", b"two")
        assert not (tmp_path / "a").exists()
        assert (staging.folder / "a").read_bytes() == b"one"
        staging.commit()
    assert listing(tmp_path) == {"a": b"one", "b": b"two"}


def test_nothing_stays_of_what_is_not_committed(tmp_path: Path) -> None:
    with _stage(tmp_path / "a") as staging:
        _fill(staging, b"one")
    assert list(tmp_path.iterdir()) == []


def test_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    def interrupted() -> None:
        with _stage(tmp_path / "a") as staging:
            _fill(staging, b"one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    with _stage(tmp_path / "a") as staging:
        _fill(staging, b"one")
        staging.commit()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_files_have_their_size_at_once(tmp_path: Path) -> None:
    with _stage(tmp_path / "a", tmp_path / "b") as staging:
        assert os.fstat(staging.create(0, 12_345)).st_size == 12_345
        assert os.fstat(staging.create(1, 0)).st_size == 0


def test_file_systems_that_cannot_allocate_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with _stage(tmp_path / "a") as staging:
        assert os.fstat(staging.create(0, 99)).st_size == 99
    monkeypatch.delattr(os, "posix_fallocate")
    with _stage(tmp_path / "a") as staging:
        assert os.fstat(staging.create(0, 99)).st_size == 99


def test_a_full_disk_shows_when_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    staging = _stage(tmp_path / "a")
    with pytest.raises(TargetError, match="no space left") as caught, staging:
        staging.create(0, 99)
    assert caught.value.path == str(tmp_path / "a")
    assert "free some space" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


# What is there already


def test_what_is_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(OLD)
    with pytest.raises(UsageError, match="exists already") as caught:
        _stage(tmp_path / "a", tmp_path / "b")
    assert caught.value.path == str(tmp_path / "b")


@pytest.mark.parametrize("through_link", [False, True])
def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path, through_link: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(UsageError, match="is a device or a pipe, not a file"):
        _stage(tmp_path / ("link" if through_link else "pipe"), overwrite=True)
    assert (tmp_path / "pipe").is_fifo()


def test_what_appears_meanwhile_is_refused_too(tmp_path: Path) -> None:
    with _stage(tmp_path / "a", tmp_path / "b") as staging:
        _fill(staging, b"one", b"two")
        (tmp_path / "b").write_bytes(OLD)
        with pytest.raises(UsageError, match="exists already"):
            staging.commit()
    assert listing(tmp_path) == {"b": OLD}


def test_what_is_there_is_replaced_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    with _stage(tmp_path / "a", tmp_path / "b", overwrite=True) as staging:
        _fill(staging, b"one", b"two")
        assert (tmp_path / "a").read_bytes() == OLD
        staging.commit()
    assert listing(tmp_path) == {"a": b"one", "b": b"two"}


@pytest.mark.parametrize("name", ["0.old", "0", "old", "1.old"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(OLD)
    with _stage(tmp_path / name, overwrite=True) as staging:
        _fill(staging, b"new")
        staging.commit()
    assert listing(tmp_path) == {name: b"new"}


def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    name = "x" * 255
    (tmp_path / name).write_bytes(OLD)
    with _stage(tmp_path / name, overwrite=True) as staging:
        _fill(staging, b"new")
        staging.commit()
    assert listing(tmp_path) == {name: b"new"}


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="is a folder, not a file"):
        _stage(tmp_path / "a", overwrite=True)


def test_a_missing_folder_gets_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder does not exist") as caught:
        _stage(tmp_path / "sub" / "a")
    assert caught.value.hint == f"mkdir -p {tmp_path / 'sub'}"


def test_a_link_is_kept_and_what_it_stands_for_replaced(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    real, link = tmp_path / "sub" / "real", tmp_path / "link"
    real.write_bytes(OLD)
    link.symlink_to(real)
    with _stage(link, overwrite=True) as staging:
        _fill(staging, b"new")
        staging.commit()
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "real", "sub"]


def test_a_link_to_nothing_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with _stage(tmp_path / "link") as staging:
        _fill(staging, b"new")
        staging.commit()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


# Renames


def test_the_last_file_is_set_aside_first_and_renamed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(OLD)
    with _stage(*(tmp_path / name for name in "abc"), overwrite=True) as staging:
        _fill(staging, b"1", b"2", b"3")
        done = _failing_renames(monkeypatch, lambda *_: False)
        staging.commit()
    assert [old for old, _ in done] == ["c", "b", "a", "a", "b", "c"]
    assert listing(tmp_path) == {"a": b"1", "b": b"2", "c": b"3"}


@pytest.mark.parametrize(
    ("name", "setting_aside"), [("a", True), ("c", True), ("a", False), ("b", False), ("c", False)]
)
def test_all_is_as_it_was_when_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, setting_aside: bool
) -> None:
    for each in "ac":
        (tmp_path / each).write_bytes(OLD)
    with _stage(*(tmp_path / each for each in "abc"), overwrite=True) as staging:
        _fill(staging, b"1", b"2", b"3")
        rename = tmp_path / name, staging.folder / name
        place = 0 if setting_aside else 1
        _failing_renames(monkeypatch, lambda old, _: old == rename[place])
        with pytest.raises(TargetError, match="cannot be written: permission denied"):
            staging.commit()
    assert listing(tmp_path) == {"a": OLD, "c": OLD}


def test_what_cannot_be_put_back_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(OLD)
    with _stage(tmp_path / "a", overwrite=True) as staging:
        _fill(staging, b"new")
        _failing_renames(monkeypatch, lambda _, new: new == tmp_path / "a")
        with pytest.raises(TargetError) as caught:
            staging.commit()
    (kept,) = tmp_path.glob(".tensorferry-old-*")
    assert caught.value.hint == f"what was there before is kept in {kept}"
    assert listing(kept) == {"0/a": OLD}


# What a killed process left


KILLED = """
import os, signal, sys
from pathlib import Path
from tensorferry.converters.staging import Staging
final, kill_at = Path(sys.argv[1]), int(sys.argv[2])
rename = Path.rename
def killed(self, target):
    global kill_at
    if kill_at == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    kill_at -= 1
    return rename(self, target)
Path.rename = killed
with Staging([final], overwrite=True, fsync=False) as staging:
    os.pwrite(staging.create(0, 3), b"new", 0)
    staging.commit()
"""


def _killed(final: Path, at: int) -> None:
    """Stage a file in a process that is killed at its `at`th rename."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(final), str(at)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    _killed(tmp_path / "a", 0)
    assert [each.name for each in tmp_path.glob(".tensorferry-*/*")] == ["a"]
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_being_written_is_no_leftover(tmp_path: Path) -> None:
    with _stage(tmp_path / "a") as staging:
        _fill(staging, b"one")
        remove_stale(tmp_path)
        staging.commit()
    assert listing(tmp_path) == {"a": b"one"}


def test_the_last_copy_is_no_leftover(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    _killed(tmp_path / "a", 1)
    remove_stale(tmp_path)
    (kept,) = tmp_path.iterdir()
    assert listing(kept) == {"0/a": OLD}
    (tmp_path / "a").write_bytes(b"successor")
    remove_stale(tmp_path)
    assert listing(tmp_path) == {"a": b"successor"}


def test_links_and_other_folders_are_no_leftovers(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / ".tensorferry-link").symlink_to(theirs)
    (tmp_path / ".tensorferry-file").write_bytes(OLD)
    remove_stale(tmp_path)
    remove_stale(tmp_path / "nowhere")
    names = [".tensorferry-file", ".tensorferry-link", "theirs"]
    assert sorted(each.name for each in tmp_path.iterdir()) == names


# The disk


def test_fsync_covers_every_file_and_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, (tmp_path / "b").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    with _stage(tmp_path / "a", tmp_path / "b", fsync=True) as staging:
        _fill(staging, b"one", b"two")
        staging.commit()
    assert synced == [("a", False), ("b", False), (tmp_path.name, True)]


def test_without_fsync_nothing_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with _stage(tmp_path / "a") as staging:
        _fill(staging, b"one")
        staging.commit()
    assert synced == []


def test_a_disk_that_fails_at_fsync_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "io")

    monkeypatch.setattr(os, "fsync", refuse)
    with _stage(tmp_path / "a", fsync=True) as staging:
        _fill(staging, b"one")
        with pytest.raises(TargetError, match="input/output error"):
            staging.commit()
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    with _stage(tmp_path / "a") as staging:
        descriptor = staging.create(0, 3)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_folder_that_cannot_be_written_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    staging = _stage(tmp_path / "a")
    with pytest.raises(TargetError, match="read-only file system") as caught, staging:
        pass
    assert caught.value.path == str(tmp_path)
    assert caught.value.hint == "choose a folder that you may write to"


def test_an_interrupt_between_renames_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(OLD)

    def interrupted(old: Path, _: Path) -> bool:
        if old.name == "b":
            raise KeyboardInterrupt
        return False

    with _stage(tmp_path / "a", tmp_path / "b", overwrite=True) as staging:
        _fill(staging, b"1", b"2")
        _failing_renames(monkeypatch, interrupted)
        with pytest.raises(KeyboardInterrupt):
            staging.commit()
    assert listing(tmp_path) == {"a": OLD}


# Folders


def _stage_folder(root: Path, *names: str, overwrite: bool = False) -> Staging:
    return Staging([root / name for name in names], overwrite=overwrite, fsync=True, folder=root)


def test_a_folder_appears_at_once(tmp_path: Path) -> None:
    root = tmp_path / "model"
    with _stage_folder(root, "variables/data", "index") as staging:
        _fill(staging, b"one", b"two")
        assert (staging.folder / "model" / "variables" / "data").read_bytes() == b"one"
        assert not root.exists()
        staging.commit()
    assert listing(tmp_path) == {"model/index": b"two", "model/variables/data": b"one"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert root.stat().st_mode == plain.stat().st_mode


def test_files_join_a_folder_that_is_there(tmp_path: Path) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (root / "notes.txt").write_bytes(OLD)
    (root / "index").write_bytes(OLD)
    with pytest.raises(UsageError, match="exists already"):
        _stage_folder(root, "variables/data", "index")
    with _stage_folder(root, "variables/data", "index", overwrite=True) as staging:
        _fill(staging, b"one", b"two")
        staging.commit()
    assert listing(tmp_path) == {
        "model/index": b"two", "model/notes.txt": OLD, "model/variables/data": b"one"
    }  # fmt: skip


def test_a_failure_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (root / "index").write_bytes(OLD)
    with _stage_folder(root, "variables/data", "index", overwrite=True) as staging:
        _fill(staging, b"one", b"two")
        _failing_renames(
            monkeypatch,
            lambda path, target: target == root / "index" and path.is_relative_to(staging.folder),
        )
        with pytest.raises(TargetError):
            staging.commit()
    assert listing(tmp_path) == {"model/index": OLD}
    assert [path.name for path in root.iterdir()] == ["index"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(OLD)
    with pytest.raises(UsageError, match="is a file, not a folder"):
        _stage_folder(tmp_path / "model", "index", overwrite=True)


# Older files that have to go


def test_older_files_go_when_the_new_ones_appear(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    with Staging([tmp_path / "a"], overwrite=True, fsync=False, removed=[tmp_path / "old"]) as new:
        _fill(new, b"one")
        assert (tmp_path / "old").read_bytes() == OLD
        new.commit()
    assert listing(tmp_path) == {"a": b"one"}


def test_older_files_are_set_aside_before_new_ones_appear_and_the_index_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("shard", "index", "a"):
        (tmp_path / name).write_bytes(OLD)
    removed = [tmp_path / "shard", tmp_path / "index"]
    with Staging([tmp_path / "a"], overwrite=True, fsync=False, removed=removed) as new:
        _fill(new, b"one")
        renames = _failing_renames(monkeypatch, lambda _old, _new: False)
        new.commit()
    assert [old for old, _ in renames] == ["a", "index", "shard", "a"]


def test_older_files_are_put_back_where_a_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_bytes(OLD)
    with Staging([tmp_path / "a"], overwrite=True, fsync=False, removed=[tmp_path / "old"]) as new:
        _fill(new, b"one")
        _failing_renames(monkeypatch, lambda _old, final: final == tmp_path / "a")
        with pytest.raises(TargetError):
            new.commit()
    assert listing(tmp_path) == {"old": OLD}


def test_older_files_stay_unless_they_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    with pytest.raises(UsageError, match="old: exists already"):
        Staging([tmp_path / "a"], overwrite=False, fsync=False, removed=[tmp_path / "old"])
