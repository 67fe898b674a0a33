from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters import errors
from tensorferry.converters.errors import ConvertError, CorruptFileError, TargetError, printable
from tensorferry.converters.notes import Kind, Note


def test_a_message_has_all_its_parts_in_order() -> None:
    error = CorruptFileError(
        "checksum", path=Path("m.ckpt"), where="tensor `w`", expected=1, got=2, hint="copy it again"
    )
    assert error.message == "m.ckpt: tensor `w`: checksum, expected 1, got 2"
    assert str(error) == f"{error.message}\n\nhint: copy it again"


def test_a_message_may_be_short() -> None:
    assert str(ConvertError("what")) == "what"
    assert ConvertError("what", got=0).message == "what, got 0"
    assert ConvertError("what", expected="").message == "what, expected "


def test_an_outer_place_goes_before_the_inner() -> None:
    error = CorruptFileError("checksum", path="m", where="byte 3")
    assert error.within("tensor `w`") is error
    assert str(error) == "m: tensor `w`: byte 3: checksum"
    assert error.args == (error.message,)
    assert CorruptFileError("checksum").within("header").message == "header: checksum"


def test_a_place_is_named_once() -> None:
    error = CorruptFileError("checksum", where="tensor `w`: byte 3")
    assert error.within("tensor `w`").where == "tensor `w`: byte 3"
    assert error.within("tensor `w").where == "tensor `w: tensor `w`: byte 3"
    assert CorruptFileError("checksum", where="header").within("header").where == "header"


def test_a_path_may_be_given_later() -> None:
    error = CorruptFileError("checksum")
    error.path = "m"
    assert str(error) == "m: checksum"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConvertError", 1),
        ("UsageError", 2),
        ("NotRecognisedError", 3),
        ("CorruptFileError", 4),
        ("UnsafeFileError", 4),
        ("TargetError", 5),
        ("LossError", 5),
        ("VerificationError", 6),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    assert getattr(errors, name)("what").exit_code == code
    assert name in errors.__all__


def test_kinds_of_errors_are_kinds_of_each_other() -> None:
    assert issubclass(errors.UnsafeFileError, CorruptFileError)
    assert issubclass(errors.LossError, TargetError)
    named = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(named) == 10
    assert all(issubclass(each, ConvertError) for each in named)


@given(st.text(st.characters()))
def test_messages_are_one_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown.encode("utf-8") is not None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("\udcff", "\\xff"),
        ("größe", "größe"),
        ("\0", "\\x00"),
        ("\x1b", "\\x1b"),
    ],
)
def test_what_cannot_be_printed_is_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_messages_of_errors_are_printable() -> None:
    assert ConvertError("what", where="tensor `\n\udc80`").message == "tensor `\\n\\x80`: what"


@pytest.mark.parametrize("kind", Kind)
def test_only_lost_things_are_losses(kind: Kind) -> None:
    losses = (Kind.DROPPED, Kind.OUT_OF_RANGE, Kind.METADATA_LOST, Kind.UNDECIDED)
    assert kind.lossy == (kind in losses)


def test_notes_name_their_tensor() -> None:
    assert str(Note(Kind.SOURCE, "odd", "w")) == "tensor `w`: odd"
    assert str(Note(Kind.SOURCE, "odd")) == "odd"
