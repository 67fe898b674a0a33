"""From whatever a user points at to the one SavedModel meant.

    model/                    TensorFlow Serving's layout: one folder for each version
      00000123/               a SavedModel
        saved_model.pb        or saved_model.pbtxt; the binary one wins
        variables/            variables.index, variables.data-…; may be absent
        assets/  keras_metadata.pb  tfhub_module.pb  fingerprint.pb

People give the SavedModel, its graph file, its folder `variables`, or the folder of versions.
Names of files from tensorflow/python/saved_model/constants.py (v2.21.0).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotRecognisedError, UsageError
from ..notes import Kind, Note
from ..registry import Group

__all__ = [
    "FINGERPRINT",
    "GRAPH_FILES",
    "VARIABLES",
    "FoundModel",
    "find_model",
    "is_copied",
    "is_model_folder",
    "is_part",
    "model_groups",
    "model_of_variables",
    "variables_prefix",
    "versions_in",
]

GRAPH_FILES = ("saved_model.pb", "saved_model.pbtxt")
VARIABLES = "variables"
FINGERPRINT = "fingerprint.pb"
_FILES = frozenset({*GRAPH_FILES, FINGERPRINT, "keras_metadata.pb", "tfhub_module.pb"})
_FOLDERS = frozenset({VARIABLES, "assets", "assets.extra"})


@dataclass(frozen=True)
class FoundModel:
    """A SavedModel.

    Attributes:
        folder: where it lies.
        graph: the file with its graphs.
        others: the other versions beside it, where a folder of versions was given.
        notes: what was chosen, and of what.
    """

    folder: Path
    graph: Path
    others: tuple[Path, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def prefix(self) -> Path:
        """Checkpoint prefix of the variables, which need not be there."""
        return variables_prefix(self.folder)


def variables_prefix(folder: Path) -> Path:
    """Return the checkpoint prefix of a model's variables."""
    return folder / VARIABLES / VARIABLES


def is_part(path: Path) -> bool:
    """Tell whether a path inside of a folder is one that a SavedModel may have."""
    return str(path) in _FILES or path.parts[0] in _FOLDERS


def is_copied(path: Path) -> bool:
    """Tell whether a path inside of a model stays the same when it gets new weights.

    The fingerprint has a hash of the variables' index and a number for this very model. Nothing
    checks it: tensorflow/python/saved_model/load.py only logs it (v2.21.0).
    """
    fresh = path.parent == Path(VARIABLES) and path.name.startswith(f"{VARIABLES}.")
    return not fresh and path != Path(FINGERPRINT)


def model_groups(names: Collection[str]) -> Iterator[Group]:
    """Yield the folder itself, if the names in it are those of a SavedModel."""
    if any(name in names for name in GRAPH_FILES):
        yield Group("")


def is_model_folder(path: Path) -> bool:
    """Tell whether a folder is a SavedModel, its variables, or a folder of versions."""
    return bool(_graph_file(path) or model_of_variables(path) or versions_in(path))


def model_of_variables(path: Path) -> Path | None:
    """Return the SavedModel whose folder `variables` this is, or None."""
    folder = path.resolve()
    return folder.parent if folder.name == VARIABLES and _graph_file(folder.parent) else None


def versions_in(path: Path) -> list[Path]:
    """Return the SavedModels in a folder whose names are numbers, by number."""
    numbered = (each for each in path.glob("[0-9]*") if _version(each) is not None)
    found = [each for each in numbered if _graph_file(each)]
    return sorted(found, key=lambda each: (_version(each) or 0, each.name))


def find_model(path: Path, *, step: int | None = None, latest: bool = False) -> FoundModel:
    """Return the SavedModel that `path` stands for.

    Args:
        path: its folder, its graph file, its folder `variables`, or a folder of versions.
        step: take this version.
        latest: take the highest version.

    Raises:
        NotRecognisedError: there is none.
        UsageError: there are several and nothing says which, or not the one asked for.
    """
    if not path.is_dir():
        return _single(path.parent, path, step)
    graph = _graph_file(path)
    if graph:
        return _single(path, graph, step)
    folder = model_of_variables(path)
    graph = _graph_file(folder) if folder else None
    if folder and graph:
        return _single(folder, graph, step)
    return _version_of(path, versions_in(path), step, latest)


def _graph_file(folder: Path) -> Path | None:
    files = (folder / name for name in GRAPH_FILES)
    return next((file for file in files if file.is_file()), None)


def _version(folder: Path) -> int | None:
    name = folder.name
    return int(name) if name.isascii() and name.isdecimal() and len(name) < 20 else None


def _single(folder: Path, graph: Path, step: int | None) -> FoundModel:
    if step is not None and _version(folder.resolve()) != step:
        raise UsageError(
            f"is one SavedModel, not a folder with version {step}",
            path=folder,
            hint="point at the folder of versions, or leave out --step",
        )
    notes: tuple[Note, ...] = ()
    if graph.name == GRAPH_FILES[0] and (folder / GRAPH_FILES[1]).is_file():
        notes = (Note(Kind.SOURCE, f"`{graph.name}` is read; `{GRAPH_FILES[1]}` beside it is not"),)
    return FoundModel(folder, graph, (), notes)


def _version_of(
    folder: Path, versions: Sequence[Path], step: int | None, latest: bool
) -> FoundModel:
    if not versions:
        raise NotRecognisedError(
            "holds no SavedModel", path=folder, expected="`saved_model.pb` or `saved_model.pbtxt`"
        )
    if step is not None:
        chosen = [each for each in versions if _version(each) == step]
    else:
        chosen = list(versions[-1:] if latest else versions)
    if len(chosen) != 1:
        what = f"no version {step}" if not chosen else f"holds {len(chosen)} versions of a model"
        raise UsageError(what, path=folder, hint=_choices(versions))
    others = tuple(each for each in versions if each != chosen[0])
    notes: tuple[Note, ...] = ()
    if others:
        text = f"version `{chosen[0].name}` was taken; there are also {_names(others)}"
        notes = (Note(Kind.SOURCE, text),)
    graph = _graph_file(chosen[0]) or chosen[0] / GRAPH_FILES[0]
    return FoundModel(chosen[0], graph, others, notes)


def _choices(versions: Sequence[Path]) -> str:
    return f"choose with --step or --latest; there are {_names(versions)}"


def _names(versions: Sequence[Path]) -> str:
    names = [f"`{each.name}`" for each in versions]
    return ", ".join(names if len(names) <= 12 else [*names[:6], "…", *names[-5:]])
