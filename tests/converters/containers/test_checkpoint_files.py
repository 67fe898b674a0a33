from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tensorferry.converters.containers.bundle_messages import build_header
from tensorferry.converters.containers.checkpoint_files import (
    Found,
    build_state,
    find,
    is_state_file,
    looks_like_checkpoint,
)
from tensorferry.converters.containers.sstable import build_table
from tensorferry.converters.containers.wire import message
from tensorferry.converters.errors import ConvertError, NotRecognisedError, UsageError

INDEX = build_table([(b"", build_header(1))])


def _bundle(folder: Path, name: str = "m", *, meta: bool = False) -> Path:
    """Write an empty bundle and return its prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.index").write_bytes(INDEX)
    (folder / f"{name}.data-00000-of-00001").write_bytes(b"")
    if meta:
        (folder / f"{name}.meta").write_bytes(b"\x0a\x00")
    return folder / name


def _state(folder: Path, text: str | bytes, name: str = "checkpoint") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def _notes(found: Found) -> str:
    return "\n".join(note.text for note in found.notes)


# A prefix and its files


@pytest.mark.parametrize("member", ["", ".index", ".data-00000-of-00001", ".meta"])
def test_prefix_and_members_mean_the_checkpoint(tmp_path: Path, member: str) -> None:
    prefix = _bundle(tmp_path, "model.ckpt-7", meta=True)
    pointed = tmp_path / f"model.ckpt-7{member}"
    assert looks_like_checkpoint(pointed)
    assert find(pointed).prefix == prefix


def test_a_shard_that_is_not_there_still_means_the_checkpoint(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    assert find(tmp_path / "m.data-00001-of-00002").prefix == prefix


def test_a_prefix_may_end_as_members_do(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path, "a.index")
    assert find(tmp_path / "a.index").prefix == prefix


@pytest.mark.parametrize("name", ["m", "m.index", "m.data-00000-of-00001"])
def test_without_an_index_the_message_says_so(tmp_path: Path, name: str) -> None:
    _bundle(tmp_path)
    (tmp_path / "m.index").unlink()
    with pytest.raises(NotRecognisedError, match="the checkpoint has no index") as caught:
        find(tmp_path / name)
    assert caught.value.expected == "`m.index`"
    assert caught.value.hint


def test_a_graph_alone_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.meta").write_bytes(b"")
    with pytest.raises(NotRecognisedError, match="a graph without weights"):
        find(tmp_path / "m.meta")


def test_a_misspelt_prefix_gets_a_hint(tmp_path: Path) -> None:
    _bundle(tmp_path, "model.ckpt-1000")
    with pytest.raises(NotRecognisedError) as caught:
        find(tmp_path / "model.ckpt-100")
    assert caught.value.hint == "did you mean `model.ckpt-1000`?"


def test_other_paths_do_not_look_like_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no model_checkpoint_path here")
    (tmp_path / "sub").mkdir()
    assert not looks_like_checkpoint(tmp_path / "text.txt")
    assert not looks_like_checkpoint(tmp_path / "sub")
    assert not looks_like_checkpoint(tmp_path)
    assert not looks_like_checkpoint(tmp_path / "nothing")


# A folder


def test_a_folder_with_one_checkpoint(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    assert find(tmp_path) == Found(prefix)


def test_a_folder_with_a_state_file(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        _bundle(tmp_path, f"m-{step}")
    _state(tmp_path, 'model_checkpoint_path: "m-2"\n')
    found = find(tmp_path)
    assert found.prefix == tmp_path / "m-2"
    assert found.others == (tmp_path / "m-1", tmp_path / "m-10")


def test_a_folder_with_several_and_no_state_file_asks(tmp_path: Path) -> None:
    for step in (9, 10):
        _bundle(tmp_path, f"m-{step}")
    with pytest.raises(UsageError, match="holds 2 checkpoints and there is no state file") as got:
        find(tmp_path)
    assert "--step or --latest; the folder holds `m-9`, `m-10`" in (got.value.hint or "")


def test_a_long_list_is_shortened(tmp_path: Path) -> None:
    for step in range(20):
        _bundle(tmp_path, f"m-{step}")
    with pytest.raises(UsageError) as caught:
        find(tmp_path)
    assert "`m-5`, …, `m-15`" in (caught.value.hint or "")


def test_an_empty_folder_holds_none(tmp_path: Path) -> None:
    assert not looks_like_checkpoint(tmp_path)


# Steps


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    for name in ("m-9", "m-10", "m-100", "best"):
        _bundle(tmp_path, name)
    _state(tmp_path, 'model_checkpoint_path: "m-9"')
    return tmp_path


def test_latest_is_the_highest_step_whatever_the_state_file_says(steps: Path) -> None:
    assert find(steps, latest=True).prefix == steps / "m-100"
    assert find(steps / "checkpoint", latest=True).prefix == steps / "m-100"


def test_step_chooses_by_number(steps: Path) -> None:
    assert find(steps, step=10).prefix == steps / "m-10"
    assert find(steps / "checkpoint", step=10).prefix == steps / "m-10"


def test_step_of_another_prefix_chooses_beside_it(steps: Path) -> None:
    assert find(steps / "m-9", step=10).prefix == steps / "m-10"
    assert find(steps / "m-9.index", step=9).prefix == steps / "m-9"


def test_a_step_that_is_not_there_lists_what_is(steps: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint of step 11") as caught:
        find(steps, step=11)
    assert "`m-10`" in (caught.value.hint or "")


def test_a_step_of_two_models_is_ambiguous(steps: Path) -> None:
    _bundle(steps, "other-10")
    with pytest.raises(UsageError, match="several checkpoints of step 10"):
        find(steps, step=10)


# The state file

SYNTAX = {
    "double quotes": 'model_checkpoint_path: "m-2"',
    "single quotes": "model_checkpoint_path: 'm-2'",
    "no quotes": "model_checkpoint_path: m-2",
    "no blank": 'model_checkpoint_path:"m-2"',
    "comment": '# model_checkpoint_path: "m-1"\nmodel_checkpoint_path: "m-2" # "m-1"\n',
    "comment behind": 'model_checkpoint_path: "m-2" # model_checkpoint_path: "m-1"\n',
    "octal": r'model_checkpoint_path: "\155-\062"',
    "hexadecimal": r'model_checkpoint_path: "\x6d-2"',
    "unknown field": 'no_such_field: 7\nmodel_checkpoint_path: "m-2"\n',
    "timestamps": 'model_checkpoint_path: "m-2"\nall_model_checkpoint_timestamps: 1.5e9\n',
    "blanks": '  model_checkpoint_path :\n  "m-2"  ',
    "windows": 'model_checkpoint_path: "m-2"\r\nall_model_checkpoint_paths: "m-2"\r\n',
    "a later value wins": 'model_checkpoint_path: "m-1"\nmodel_checkpoint_path: "m-2"\n',
    "all on one line": 'all_model_checkpoint_paths: "m-1" model_checkpoint_path: "m-2"',
}


@pytest.mark.parametrize("text", SYNTAX.values(), ids=SYNTAX)
def test_state_files_are_read_leniently(tmp_path: Path, text: str) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
    state = _state(tmp_path, text)
    assert is_state_file(state)
    assert find(state).prefix == tmp_path / "m-2"
    assert find(tmp_path).prefix == tmp_path / "m-2"


def test_a_hash_inside_quotes_is_no_comment(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path, "run #2")
    assert find(_state(tmp_path, 'model_checkpoint_path: "run #2"')).prefix == prefix


def test_octal_escapes_are_bytes_of_utf8(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path, "é")
    assert find(_state(tmp_path, r'model_checkpoint_path: "\303\251"')).prefix == prefix


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1))
@example("quotes \" and ' and \\ and \n")
def test_what_we_write_names_the_same_checkpoint(name: str) -> None:
    name = f"m{name[:40]}"
    with TemporaryDirectory() as folder:
        prefix = _bundle(Path(folder), name)
        assert find(_state(Path(folder), build_state(name))).prefix == prefix


def test_what_we_write_is_what_tensorflow_writes() -> None:
    expected = b'model_checkpoint_path: "m\\303\\251"\nall_model_checkpoint_paths: "m\\303\\251"\n'
    assert build_state("mé") == expected


def test_relative_paths_start_at_the_state_file(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path / "sub")
    assert find(_state(tmp_path, 'model_checkpoint_path: "sub/m"')).prefix == prefix


def test_absolute_paths_are_taken(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path / "elsewhere")
    _bundle(tmp_path / "here")
    state = _state(tmp_path / "here", f'model_checkpoint_path: "{prefix}"')
    found = find(state)
    assert found.prefix == prefix
    assert not found.notes


def test_stale_absolute_paths_are_looked_for_beside_the_file(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    found = find(_state(tmp_path, 'model_checkpoint_path: "/long/gone/m"'))
    assert found.prefix == prefix
    assert "names /long/gone/m, which is gone; read beside it" in _notes(found)


def test_the_next_one_is_taken_where_the_latest_is_gone(tmp_path: Path) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
    state = _state(
        tmp_path,
        'model_checkpoint_path: "m-3"\n'
        'all_model_checkpoint_paths: "m-1"\nall_model_checkpoint_paths: "m-2"\n'
        'all_model_checkpoint_paths: "m-3"\n',
    )
    found = find(state)
    assert found.prefix == tmp_path / "m-2"
    assert "the latest, `m-3`, is not there" in _notes(found)


def test_a_state_file_alone_says_what_is_missing(tmp_path: Path) -> None:
    state = _state(tmp_path, 'model_checkpoint_path: "m-3"')
    with pytest.raises(NotRecognisedError, match="names a checkpoint that is not there") as caught:
        find(state)
    assert caught.value.expected == "`m-3.index` beside it"
    assert looks_like_checkpoint(tmp_path)
    with pytest.raises(NotRecognisedError, match="a state file and no checkpoint"):
        find(tmp_path)


def test_another_latest_filename_is_found(tmp_path: Path) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
    state = _state(tmp_path, 'model_checkpoint_path: "m-1"', "my_latest")
    assert find(state).prefix == tmp_path / "m-1"
    assert find(tmp_path).prefix == tmp_path / "m-1"


def test_the_usual_state_file_goes_before_others(tmp_path: Path) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
    _state(tmp_path, 'model_checkpoint_path: "m-1"', "a_latest")
    _state(tmp_path, 'model_checkpoint_path: "m-2"')
    assert find(tmp_path).prefix == tmp_path / "m-2"


def test_state_files_that_disagree_ask(tmp_path: Path) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
        _state(tmp_path, f'model_checkpoint_path: "m-{step}"', f"latest_{step}")
    with pytest.raises(UsageError, match="holds 2 checkpoints and state files disagree"):
        find(tmp_path)


def test_state_files_that_agree_do_not_ask(tmp_path: Path) -> None:
    for step in (1, 2):
        _bundle(tmp_path, f"m-{step}")
        _state(tmp_path, 'model_checkpoint_path: "m-1"', f"latest_{step}")
    assert find(tmp_path).prefix == tmp_path / "m-1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"model_checkpoint_path",
        b'# model_checkpoint_path: "m"\n',
        b'all_model_checkpoint_paths: "m" # model_checkpoint_path\n',
        b'model_checkpoint_path: "m"' + b"\n" * (1 << 20),
        b"\x00model_checkpoint_path\x00",
    ],
)
def test_other_files_are_no_state_files(tmp_path: Path, data: bytes) -> None:
    assert not is_state_file(_state(tmp_path, data))


# What interrupted saves leave, and V1 files


def test_unfinished_files_are_noted_and_not_read(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    for name in ("m.data-00000-of-00001.tempstate123", "m.index.tempstate123"):
        (tmp_path / name).write_bytes(b"")
    for pointed in (tmp_path, prefix):
        found = find(pointed)
        assert found.prefix == prefix
        assert _notes(found).count("was left by an interrupted save") == 2


def test_leftovers_of_another_checkpoint_are_not_noted(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    (tmp_path / "other.index.tempstate1").write_bytes(b"")
    assert not find(prefix).notes


@pytest.mark.parametrize("name", ["m-5_temp", "m-5_temp_0123456789abcdef0123456789abcdef"])
def test_parts_of_an_interrupted_save_are_offered(tmp_path: Path, name: str) -> None:
    part = _bundle(tmp_path / name, "part-00000-of-00001")
    assert looks_like_checkpoint(tmp_path)
    with pytest.raises(NotRecognisedError, match="only what an interrupted save left") as caught:
        find(tmp_path)
    assert caught.value.hint == f"its parts can be read, such as {part}"
    assert find(part).prefix == part


def test_the_part_folder_itself_is_read(tmp_path: Path) -> None:
    part = _bundle(tmp_path / "m-5_temp", "part-00000-of-00001")
    assert find(tmp_path / "m-5_temp").prefix == part


def test_an_unfinished_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.data-00000-of-00001.tempstate99"
    path.write_bytes(b"")
    assert looks_like_checkpoint(path)
    with pytest.raises(NotRecognisedError, match="was left by an interrupted save"):
        find(path)


def test_the_index_wins_over_a_v1_file_of_the_same_name(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path)
    prefix.write_bytes(build_table([(b"", b"\x0a\x00")]))
    found = find(prefix)
    assert found.prefix == prefix
    assert "`m` beside it is not read: the index wins" in _notes(found)


@pytest.mark.parametrize("name", ["", ".index", "m", "checkpoint"])
def test_nothing_but_convert_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConvertError) as caught:
        find(tmp_path / name)
    assert caught.value.path


# V1 checkpoints


def _v1(folder: Path, *names: str) -> Path:
    """Write V1 checkpoints without tensors and return the path of the last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(build_table([(b"", message((1, message((2, b"")))))]))
    return folder / names[-1]


SHARDS = ("m-7-00000-of-00002", "m-7-00001-of-00002")


@pytest.mark.parametrize("pointed", ["m-7", "m-7.meta", "checkpoint", "."])
def test_a_v1_file_is_found(tmp_path: Path, pointed: str) -> None:
    path = _v1(tmp_path, "m-7")
    (tmp_path / "m-7.meta").write_bytes(b"\x0a\x00")
    _state(tmp_path, 'model_checkpoint_path: "m-7"')
    found = find(tmp_path / pointed, version=1)
    assert found == Found(path, files=(path,))
    assert (found.version, found.base) == (1, path)
    assert looks_like_checkpoint(tmp_path / pointed, version=1)
    assert not looks_like_checkpoint(tmp_path / pointed)


@pytest.mark.parametrize(
    "pointed", [*SHARDS, "m-7-?????-of-00002", "m-7", "m-7.meta", "checkpoint", "."]
)
def test_v1_shards_are_found(tmp_path: Path, pointed: str) -> None:
    _v1(tmp_path, *SHARDS)
    (tmp_path / "m-7.meta").write_bytes(b"\x0a\x00")
    _state(tmp_path, r'model_checkpoint_path: "m-7-\?\?\?\?\?-of-00002"')
    found = find(tmp_path / pointed, version=1)
    assert found.prefix == tmp_path / "m-7-?????-of-00002"
    assert found.files == tuple(tmp_path / name for name in SHARDS)
    assert found.base == tmp_path / "m-7"
    assert looks_like_checkpoint(tmp_path / pointed, version=1)


def test_v1_shards_that_are_missing_are_listed(tmp_path: Path) -> None:
    _v1(tmp_path, SHARDS[1])
    assert find(tmp_path, version=1).files == tuple(tmp_path / name for name in SHARDS)


def test_a_name_of_two_sets_of_v1_shards_is_none(tmp_path: Path) -> None:
    _v1(tmp_path, *SHARDS, "m-7-00000-of-00001")
    assert not looks_like_checkpoint(tmp_path / "m-7", version=1)
    assert find(tmp_path / SHARDS[0], version=1).prefix.name == "m-7-?????-of-00002"


def test_stale_paths_of_v1_files_are_looked_for_beside_the_state_file(tmp_path: Path) -> None:
    _v1(tmp_path, *SHARDS)
    state = _state(tmp_path, 'model_checkpoint_path: "/gone/m-7-?????-of-00002"')
    found = find(state, version=1)
    assert found.prefix == tmp_path / "m-7-?????-of-00002"
    assert "read beside it" in _notes(found)


def test_steps_of_both_versions(tmp_path: Path) -> None:
    _v1(tmp_path, "m-5", *SHARDS)
    prefix = _bundle(tmp_path, "m-6")
    assert find(tmp_path, step=7, version=1).files == tuple(tmp_path / name for name in SHARDS)
    assert find(tmp_path, step=6).prefix == prefix
    assert find(tmp_path / "m-6", step=5, version=1).prefix == tmp_path / "m-5"
    with pytest.raises(UsageError, match="`m-5` is a checkpoint of the other version") as caught:
        find(tmp_path, step=5)
    assert str(tmp_path / "m-5") in (caught.value.hint or "")


def test_folders_of_both_versions_are_what_their_state_file_says(tmp_path: Path) -> None:
    _v1(tmp_path, "m-5")
    _bundle(tmp_path, "m-6")
    assert looks_like_checkpoint(tmp_path)  # so that the question comes from one reader
    assert not looks_like_checkpoint(tmp_path, version=1)
    _state(tmp_path, 'model_checkpoint_path: "m-5"')
    assert looks_like_checkpoint(tmp_path, version=1)
    found = find(tmp_path, version=1)
    assert (found.prefix.name, [other.name for other in found.others]) == ("m-5", ["m-6"])


def test_the_caller_may_want_the_v1_file_beside_an_index(tmp_path: Path) -> None:
    _bundle(tmp_path)
    path = _v1(tmp_path, "m")
    assert find(path).version == 2
    assert find(path, version=1).files == (path,)


def test_shards_of_other_things_are_no_checkpoint(tmp_path: Path) -> None:
    for shard in range(3):
        (tmp_path / f"train-{shard:05d}-of-00003").write_bytes(b"records")
    for pointed in (tmp_path, tmp_path / "train", tmp_path / "train-00000-of-00003"):
        assert not looks_like_checkpoint(pointed, version=1)
        assert not looks_like_checkpoint(pointed)


def test_a_file_that_is_no_v1_checkpoint_is_left_to_its_reader(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"something else")
    assert find(path, version=1).files == (path,)


def test_the_variables_of_a_saved_model_are_left_to_its_reader(tmp_path: Path) -> None:
    prefix = _bundle(tmp_path / "variables", "variables")
    assert looks_like_checkpoint(prefix.parent)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert not looks_like_checkpoint(prefix.parent)
    assert looks_like_checkpoint(prefix)
