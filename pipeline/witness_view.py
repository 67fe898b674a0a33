"""What all witnesses share: how they say what they see, and how they are kept quiet."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..converters.digests import hasher
from ..converters.dtypes import DType
from ..converters.errors import ConvertError, UsageError
from ..converters.tensors import TensorDict, TensorSpec

__all__ = [
    "Statement", "UnseenError", "View", "absent", "first_line", "importing", "quiet", "refused",
    "single_file", "statement",
]  # fmt: skip

EXTRA = "pip install 'tensorferry[tensorflow]'"
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "KERAS_BACKEND": "tensorflow"}


class Statement(NamedTuple):
    """What a witness has under a key, by dtype, shape and digest."""

    spec: TensorSpec
    digest: str


class UnseenError(Exception):
    """The witness cannot give a tensor; the text says why. No reader calls that an error."""


@dataclass(frozen=True)
class View:
    """A source as a witness sees it.

    Attributes:
        title: the witness and its version.
        keys: of all that it sees.
        read: returns what it sees under a key; raises `UnseenError` where it cannot.
    """

    title: str
    keys: frozenset[str]
    read: Callable[[str], Statement]


def statement(dtype: DType, array: Any) -> Statement:
    """Return what an array is, with the digest that our tensor of the same values has."""
    import numpy as np

    if dtype.variable:
        values = np.asarray(array, dtype=object)
        spec = TensorSpec(dtype, values.shape)
        state = hasher(spec)
        for element in values.reshape(-1):
            state.update(len(element).to_bytes(8, "little"))
            state.update(element)
        return Statement(spec, state.hexdigest())
    values = np.asarray(array)
    spec = TensorSpec(dtype, values.shape)
    if dtype.label in ("int2", "int4", "uint2", "uint4"):  # numpy's have the upper bits undefined
        values = values.astype(dtype.carrier)
    state = hasher(spec)
    state.update(values.tobytes())
    return Statement(spec, state.hexdigest())


def single_file(opened: TensorDict) -> Path:
    """Return the one file of a source.

    Raises:
        UsageError: it is no file by itself.
    """
    places = {getattr(source, "place", None) or source.path for source in opened.sources}
    files = [place for place in places if place.is_file()]
    if len(files) != 1:
        raise UsageError("no single file that the witness could open", hint="unpack it first")
    return files[0]


@contextmanager
def refused(path: Path, title: str, kind: type[ConvertError]) -> Iterator[None]:
    """Turn whatever a framework raises on opening a file into an error of ours."""
    with quiet():
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            raise kind(
                f"{title} does not read it: {first_line(error)}", path=path,
                hint="leave --against out",
            ) from error  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what frameworks say of themselves; warnings are not about the file."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def importing() -> Iterator[None]:
    """Import a framework quietly: TensorFlow writes to stderr before it asks how much it may."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        with quiet():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def absent(what: str, error: ModuleNotFoundError) -> UsageError:
    """Return the error that says which extra is missing."""
    return UsageError(f"--against needs {what}: {error}", hint=EXTRA)


def first_line(error: Exception) -> str:
    """Return the beginning of what a framework says of an error; some print whole configs."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
