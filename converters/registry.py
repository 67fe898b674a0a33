"""Formats: one record each, found by looking into `formats/`, and the choice among them.

A format is sniffed by content; a file extension decides only for outputs. Third parties register
a `Format` through the entry-point group `tensorferry.formats`; those are looked up only when no
built-in format claims the input or the name, since looking costs more than converting a small
file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from .errors import UsageError
from .names import near
from .output import Plan
from .sources import FileSource
from .tensors import TensorDict

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from .findings import Finding

__all__ = [
    "HEAD_BYTES",
    "Format",
    "Group",
    "Location",
    "ReadOptions",
    "WriteOptions",
    "all_formats",
    "claims",
    "format_for_target",
    "format_named",
]

ENTRY_POINT_GROUP = "tensorferry.formats"
HEAD_BYTES = 4096


@dataclass(frozen=True)
class Location:
    """What a user pointed at: a file, a folder, or the prefix of several files."""

    path: Path

    @cached_property
    def is_file(self) -> bool:
        """Whether it is a regular file; devices and pipes have no byte ranges."""
        return self.path.is_file()

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file, empty for anything else."""
        if not self.is_file:
            return b""
        return self.start(HEAD_BYTES)

    def start(self, most: int) -> bytes:
        """Return the first bytes of a file, at most so many.

        Raises:
            NotRecognisedError: it cannot be opened.
        """
        source = FileSource(self.path)
        try:
            return source.read(0, min(most, source.size))
        finally:
            source.close()


@dataclass(frozen=True)
class ReadOptions:
    """How to open a source.

    Attributes:
        names: what a person would call a tensor, or the container's own key.
        verify: whether checksums are checked.
        step: the checkpoint of this step, where a folder holds several.
        latest: the checkpoint of the highest step.
        tag_set: the meta graph with exactly these tags, where a SavedModel holds several.
        constants: whether Const nodes count as tensors; None for graphs without variables only.
        keras1: keep Keras 1 weights as they are, or bring them into today's layout.
        unflip_theano: turn the kernels that Theano stored mirrored.
        dequantize: compute the real values of quantised weights.
        endpoint_url: where the object store is, if not where its cloud is.
    """

    names: Literal["readable", "key"] = "readable"
    verify: bool = True
    step: int | None = None
    latest: bool = False
    tag_set: frozenset[str] | None = None
    constants: bool | None = None
    keras1: Literal["keep", "modern"] = "keep"
    unflip_theano: bool = False
    dequantize: bool = False
    endpoint_url: str | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How to lay a target out.

    Attributes:
        overwrite: whether existing files may be replaced.
        folder: whether the target is a folder, which the format fills with files of its own names.
        max_shard_bytes: a data file is at most this long, unless one tensor alone is longer.
        untie: store a tensor that has several names under each of them.
        object_based: write an object graph, made of the names.
        layout_of: a checkpoint or a SavedModel whose object graph and keys are taken over.
        template: a model whose other parts (graph, signatures, assets) are taken over.
        config: a Keras `config.json`, or a model that holds one.
        flat: make no groups of the slashes in names.
        compress: deflate the bytes.
        provenance: note beside each tensor where it came from and what it is for.
    """

    overwrite: bool = False
    folder: bool = False
    max_shard_bytes: int | None = None
    untie: bool = False
    object_based: bool = False
    layout_of: Path | None = None
    template: Path | None = None
    config: Path | None = None
    flat: bool = False
    compress: bool = False
    provenance: bool = False

    def given(self) -> list[str]:
        """Return the names of what was chosen and is for certain formats only."""
        plain = WriteOptions(overwrite=self.overwrite)
        return [
            each.name
            for each in fields(self)
            if getattr(self, each.name) != getattr(plain, each.name)
        ]


class Group(NamedTuple):
    """Files of one folder that are one model, as far as their names tell.

    Attributes:
        name: of what to open in the folder; empty for the folder itself with all below it.
        members: names of its files; the model changes where one of them does. None where the name
            is that of a file which tells about models and is none.
        stem: what to call what is made of it.
        step: of the training.
        companions: names of files that belong to several models.
    """

    name: str
    members: frozenset[str] = frozenset()
    stem: str = ""
    step: int | None = None
    companions: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Format:
    """All there is to know about a format.

    Attributes:
        name: what `--from` and `--to` take.
        title: what people call it.
        extensions: endings of target names that mean this format, with the dot.
        sniff: tells from content whether a location is this format; must be cheap.
        open: returns the lazy tensors of a location.
        plan: plans writing tensors to a path, or None where the format is only read. Touches
            no disk beyond looking at what is there.
        options: names of the `WriteOptions` that it understands, beside `overwrite`.
        needs: those of them without which nothing can be written.
        generic: yields to every other format that claims the same location, as plain HDF5 does
            to Keras files.
        limits: what is not read or written, in a few words.
        metadata: whether texts about the whole model are kept (`TensorDict.metadata`).
        audit: finds damage that reading every tensor does not show, such as bytes that nothing
            lists, files that are missing, or left over. Gets a location that was opened, how, and
            what came of it.
        scan: finds parts that are dangerous to load elsewhere, such as operations on files; runs
            and loads nothing. Called as `audit` is.
        group: finds models of several files among the names of the files in a folder; None where
            every file is a model of its own. Touches no disk.
    """

    name: str
    title: str
    extensions: tuple[str, ...]
    sniff: Callable[[Location], bool]
    open: Callable[[Location, ReadOptions], TensorDict]
    plan: Callable[[TensorDict, Path, WriteOptions], Plan] | None = None
    options: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    generic: bool = False
    limits: str = ""
    metadata: bool = False
    audit: Callable[[Location, ReadOptions, TensorDict], Iterator[Finding]] | None = None
    scan: Callable[[Location, ReadOptions, TensorDict], Iterator[Finding]] | None = None
    group: Callable[[Collection[str]], Iterable[Group]] | None = None


@cache
def _built_in() -> tuple[Format, ...]:
    """Return the `FORMAT` of every module in `formats/`, by name."""
    folder = Path(__file__).parent / "formats"
    stems = sorted(path.stem for path in folder.glob("[a-z]*.py"))
    modules = [import_module(f".formats.{stem}", __package__) for stem in stems]
    return tuple(module.FORMAT for module in modules)


@cache
def _plugged_in() -> tuple[Format, ...]:
    from importlib.metadata import entry_points  # 50 ms that most runs need not spend

    return tuple(_load(point) for point in entry_points(group=ENTRY_POINT_GROUP))


def _load(point: EntryPoint) -> Format:
    try:
        loaded = point.load()
    except Exception as error:
        raise UsageError(
            f"the plug-in `{point.name}` cannot be loaded: {error}",
            hint="update it, or remove it with pip",
        ) from error
    if not isinstance(loaded, Format):
        raise UsageError(f"the plug-in `{point.name}` gives no Format", got=type(loaded).__name__)
    return loaded


def all_formats() -> tuple[Format, ...]:
    """Return every format, those of plug-ins last."""
    return _built_in() + _plugged_in()


def format_named(name: str) -> Format:
    """Return the format called `name`.

    Raises:
        UsageError: there is none.
    """
    for formats in (_built_in, _plugged_in):
        for each in formats():
            if each.name == name:
                return each
    known = [each.name for each in all_formats()]
    raise UsageError(
        f"no format is called `{name}`", hint=near(name, known) or f"there are {', '.join(known)}"
    )


def format_for_target(path: Path) -> Format:
    """Return the format that the ending of a target's name stands for; the longest ending wins.

    Raises:
        UsageError: no format has such an ending.
    """
    for formats in (_built_in, _plugged_in):
        fitting = [
            (len(extension), each)
            for each in formats()
            for extension in each.extensions
            if each.plan and path.name.lower().endswith(extension)
        ]
        if fitting:
            return max(fitting, key=lambda pair: pair[0])[1]
    endings = ", ".join(ending for each in _built_in() if each.plan for ending in each.extensions)
    raise UsageError(
        "no format has this ending",
        path=path,
        expected=f"one of {endings}",
        got=f"`{path.suffix or path.name}`",
        hint="name the format with --to",
    )


def claims(location: Location) -> list[Format]:
    """Return the formats that claim a location; plug-ins only where no built-in one does."""
    for formats in (_built_in, _plugged_in):
        claims = [each for each in formats() if each.sniff(location)]
        if claims:
            return [each for each in claims if not each.generic] or claims
    return []
