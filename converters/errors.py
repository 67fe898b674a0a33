"""What can fail, as one small tree; each class carries its exit code.

ConvertError
├── UsageError           2  the call cannot be carried out as written
├── NotRecognisedError   3  the input is missing, or nothing here reads it
├── CorruptFileError     4  the input contradicts itself, or its checksums
│   └── UnsafeFileError  4  the input asks for something no weight file needs
├── TargetError          5  the target cannot hold it: dtype, name, space, permission
│   └── LossError        5  something would be lost, and `--strict` was given
├── VerificationError    6  what was written does not read back equal
└── BatchError           7  some models of a batch failed
    └── ClusterError     7  the cluster that was at it was lost
"""

from __future__ import annotations

import os
from typing import ClassVar, Self

__all__ = [
    "BatchError",
    "ClusterError",
    "ConvertError",
    "CorruptFileError",
    "LossError",
    "NotRecognisedError",
    "TargetError",
    "UnsafeFileError",
    "UsageError",
    "VerificationError",
    "printable",
]


class ConvertError(Exception):
    """A failure a user can act on; rendered as `path: where: what, expected x, got y`.

    Args:
        what: what is wrong, lower case, no final period.
        path: the very file (for a set of shards, the shard).
        where: the place in it: a tensor, a block, a byte offset.
        expected: what should have been there.
        got: what was there.
        hint: one action that may help.

    Attributes:
        transient: the same call may do when it is tried again later.
    """

    exit_code: ClassVar[int] = 1
    transient = False

    def __init__(
        self,
        what: str,
        *,
        path: str | os.PathLike[str] | None = None,
        where: str | None = None,
        expected: object = None,
        got: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else os.fspath(path)
        self.where = where
        self.expected = expected
        self.got = got
        self.hint = hint
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The first line, without the hint."""
        text = ": ".join(part for part in (self.path, self.where, self.what) if part)
        if self.expected is not None:
            text += f", expected {self.expected}"
        if self.got is not None:
            text += f", got {self.got}"
        return printable(text)

    def within(self, where: str) -> Self:
        """Return the error with an outer place put before its own, such as a tensor's name.

        One that has this place already stays as it is: readers and what calls them both know it.
        """
        if self.where is None:
            self.where = where
        elif self.where != where and not self.where.startswith(f"{where}: "):
            self.where = f"{where}: {self.where}"
        self.args = (self.message,)
        return self

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class UsageError(ConvertError):
    """The call cannot be carried out as it was written."""

    exit_code = 2


class NotRecognisedError(ConvertError):
    """The input does not exist, or is not a file that any reader knows."""

    exit_code = 3


class CorruptFileError(ConvertError):
    """The input contradicts itself, its checksums or its format."""

    exit_code = 4


class UnsafeFileError(CorruptFileError):
    """The input asks for something that no weight file needs: a link out, a bomb."""


class TargetError(ConvertError):
    """The target cannot hold what it was given."""

    exit_code = 5


class LossError(TargetError):
    """Something would be lost although `--strict` was given."""


class VerificationError(ConvertError):
    """What was written does not read back equal to what was streamed."""

    exit_code = 6


class BatchError(ConvertError):
    """Some models of a batch could not be converted; all others were."""

    exit_code = 7


class ClusterError(BatchError):
    """The cluster that was at work was lost; what is done stays done."""


def printable(text: str) -> str:
    """Return `text` with control characters and undecodable bytes shown as escapes.

    Names come from files and may hold anything; a message must stay one line and encodable.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as PEP 383 carries it
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
