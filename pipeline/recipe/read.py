"""Recipes read from TOML, with what they include; checked whole before any model is opened.

version = 1
about = "…"
unmatched = "keep"
include = ["common.toml", "builtin:pytorch-names"]

[parameters]
…
[[rule]]                     or [[stage]] with [[stage.rule]] below it
…
[metadata]
…
[files."config.json"]
…
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

from ...converters.errors import NotRecognisedError, UsageError
from .builtin import BUILTIN, FOLDER, builtin_path
from .model import Recipe, Stage, Unmatched
from .nodes import Node, parse_toml, shown
from .parameters import check_circles, parameter_of, with_settings
from .rules import check_reachable, rule_of
from .steps import template_of

__all__ = ["VERSION", "parse_recipe", "read_recipe", "read_recipes"]

VERSION = 1
MAX_BYTES = 1 << 20
MAX_RULES = 10_000
MAX_FILES, MAX_DEPTH = 64, 8  # of what is included
_KEYS = (
    "version", "about", "unmatched", "include", "parameters", "rule", "stage", "metadata", "files",
)  # fmt: skip
_OF_STAGE = ("name", "unmatched", "rule")


class _Part(NamedTuple):
    """A file: what is in it, and by key."""

    node: Node
    found: dict[str, Node]


class _Draft(NamedTuple):
    """A stage in the making: rules of all files, and the first `unmatched` that is said."""

    rules: list[Node]
    unmatched: list[Node]


def read_recipe(
    source: str | os.PathLike[str], settings: Mapping[str, str] | None = None
) -> Recipe:
    """Read a recipe and what it includes.

    Args:
        source: a file, or `builtin:` and the name of one that comes with Tensorferry.
        settings: texts of parameters by name.

    Raises:
        NotRecognisedError: there is no such file.
        UsageError: it is no recipe; with file, line and rule.
    """
    path = _path_of(os.fspath(source))
    reader = _Reader()
    return reader.recipe(reader.file(path, str(source)), os.fspath(source), settings or {})


def read_recipes(
    sources: Iterable[str | os.PathLike[str]], settings: Mapping[str, str]
) -> list[Recipe]:
    """Read several recipes; each takes the settings that it has parameters for.

    Raises:
        NotRecognisedError: a file is not there.
        UsageError: one is no recipe, or a setting is for none of them.
    """
    names = [os.fspath(source) for source in sources]
    known = {name: read_recipe(name).parameters.keys() for name in names} if settings else {}
    unknown = settings.keys() - set().union(*known.values())
    if unknown and len(names) == 1:
        read_recipe(names[0], settings)  # says which parameters there are
    if unknown:
        raise UsageError(f"no recipe has a parameter called `{min(unknown)}`", where="--set")
    return [
        read_recipe(
            name, {key: text for key, text in settings.items() if key in known.get(name, ())}
        )
        for name in names
    ]


def parse_recipe(
    text: str, name: str = "recipe", settings: Mapping[str, str] | None = None
) -> Recipe:
    """Check a recipe that is given as a text; it includes built-in ones alone.

    Args:
        text: TOML.
        name: what messages call it.
        settings: texts of parameters by name.

    Raises:
        UsageError: it is no recipe; with line and rule.
    """
    reader = _Reader()
    return reader.recipe(reader.text(text, name), name, settings or {})


def _path_of(source: str) -> Path:
    name = source.removeprefix(BUILTIN)
    return Path(source) if name == source else builtin_path(name)


class _Reader:
    """Reads a recipe and what it includes, each file once."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._seen: set[Path] = set()

    def file(self, path: Path, name: str, above: tuple[Path, ...] = ()) -> list[_Part]:
        """Return a file and all that it includes, itself first."""
        place = path.resolve()
        self._seen.add(place)
        return self._part(parse_toml(name, _content(path, name)), (*above, place))

    def text(self, text: str, name: str) -> list[_Part]:
        """Return a text and all that it includes, itself first."""
        return self._part(parse_toml(name, text, printed=True), ())

    def _part(self, node: Node, above: tuple[Path, ...]) -> list[_Part]:
        found = node.table(_KEYS)
        if "version" not in found:
            node.fail("has no `version`", expected=f"version = {VERSION}")
        if found["version"].value != VERSION or isinstance(found["version"].value, bool):
            found["version"].fail(
                "is none that is known", expected=VERSION, got=shown(found["version"].value)
            )
        if len(self._parts) >= MAX_FILES:
            node.fail("too many files are included", expected=f"at most {MAX_FILES}")
        self._parts.append(_Part(node, found))
        for each in found["include"].items() if "include" in found else ():
            self._include(each, above)
        return self._parts

    def _include(self, node: Node, above: tuple[Path, ...]) -> None:
        name = node.text()
        path = _included(node, above[-1].parent if above else None)
        place = path.resolve()
        if place in above:
            shown = " -> ".join(each.name for each in (*above[above.index(place) :], place))
            node.fail(f"files include one another: {shown}")
        if len(above) >= MAX_DEPTH:
            node.fail("included too deep", expected=f"at most {MAX_DEPTH} levels")
        if place not in self._seen:
            inside = name if name.startswith(BUILTIN) else os.path.relpath(path)
            try:
                self.file(path, inside, above)
            except NotRecognisedError as error:
                node.fail(f"`{name}` {error.what}")

    def recipe(self, parts: list[_Part], name: str, settings: Mapping[str, str]) -> Recipe:
        """Return the recipe that files come to."""
        own = parts[0].found
        nodes = _first(parts, "parameters")
        parameters = {key: parameter_of(node, nodes) for key, node in nodes.items()}
        check_circles(parameters)
        stages = tuple(_stages(parts, nodes))
        if not stages:
            parts[0].node.fail("has no rules", hint="a rule begins with [[rule]]")
        if sum(len(stage.rules) for stage in stages) > MAX_RULES:
            parts[0].node.fail("has too many rules", expected=f"at most {MAX_RULES}")
        said = [part.found["unmatched"] for part in parts if "unmatched" in part.found]
        return Recipe(
            name=own["version"].place.given or name,
            about=own["about"].text() if "about" in own else "",
            stages=stages,
            unmatched=_unmatched(said),
            parameters=with_settings(parameters, settings, name),
            metadata={key: _text(node, nodes) for key, node in _first(parts, "metadata").items()},
            files=_files(parts, nodes),
        )


def _included(node: Node, folder: Path | None) -> Path:
    """Return the file that an `include` names: built-in, or below the folder of its own file."""
    name = node.text()
    if name.startswith(BUILTIN):
        try:
            return builtin_path(name.removeprefix(BUILTIN))
        except UsageError as error:
            node.fail(error.what, hint=error.hint)
    inside = PurePosixPath(name)
    if folder is None or inside.is_absolute() or ".." in inside.parts or "\\" in name:
        node.wrong("builtin:NAME, or a path below the folder of this file")
    path = folder / inside
    if not path.resolve().is_relative_to(folder.resolve()):
        node.wrong("a path below the folder of this file, and no link out of it")
    return path


def _content(path: Path, name: str) -> str:
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "does not exist"
            raise NotRecognisedError(what, path=name, hint=_hint(path))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(
                "longer than any recipe", path=name, expected=f"at most {MAX_BYTES} bytes"
            )
        return data.decode("utf-8").replace("\r\n", "\n")
    except OSError as error:
        raise NotRecognisedError(f"cannot be read: {error.strerror}", path=name) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"is no UTF-8: {error.reason}", path=name) from error


def _hint(path: Path) -> str | None:
    """Return that there is a built-in recipe of this name, if so."""
    there = (FOLDER / f"{path.name.removesuffix('.toml')}.toml").is_file()
    return (
        f"the built-in one is called {BUILTIN}{path.name.removesuffix('.toml')}" if there else None
    )


# What files come to together


def _first(parts: list[_Part], key: str) -> dict[str, Node]:
    """Return the values of a table of all files; the first that says one counts."""
    found: dict[str, Node] = {}
    for part in parts:
        table = part.found[key].table() if key in part.found else {}
        found |= {name: node for name, node in table.items() if name not in found}
    return found


def _unmatched(said: list[Node]) -> Unmatched:
    for word in get_args(Unmatched) if said else ():
        if said[0].value == word:
            found: Unmatched = word
            return found
    return said[0].wrong('"keep", "note", "drop" or "error"') if said else "keep"


def _stages(parts: list[_Part], parameters: Mapping[str, Node]) -> Iterator[Stage]:
    drafts: dict[str, _Draft] = {}
    for part in parts:
        own: list[Node] = []
        for name, rules, unmatched in _written(part):
            draft = drafts.setdefault(name, _Draft([], []))
            draft.rules.extend(rules)
            draft.unmatched.extend(unmatched)
            own += rules
    for name, draft in drafts.items():
        pairs = [(node, rule_of(node, parameters)) for node in draft.rules]
        for file in dict.fromkeys(node.place.file for node, _ in pairs):
            check_reachable(pair for pair in pairs if pair[0].place.file == file)
        yield Stage(name, tuple(rule for _, rule in pairs), _unmatched(draft.unmatched))


def _written(part: _Part) -> Iterator[tuple[str, list[Node], list[Node]]]:
    """Yield name, rules and `unmatched` of each stage of a file; rules get their numbers."""
    found = part.found
    if "rule" in found and "stage" in found:
        found["rule"].fail("stands beside [[stage]]", hint="put it into a stage, as [[stage.rule]]")
    if "rule" in found:
        yield "", [node.numbered() for node in found["rule"].repeated()], []
    for number, node in enumerate(found["stage"].repeated() if "stage" in found else (), 1):
        inside = node.table(_OF_STAGE)
        if "rule" not in inside:
            node.fail("has no rules", hint="a rule of a stage begins with [[stage.rule]]")
        name = inside["name"].typed(str) if "name" in inside else f"stage {number}"
        rules = [each.numbered() for each in inside["rule"].repeated()]
        yield name, rules, [inside["unmatched"]] if "unmatched" in inside else []


def _files(parts: list[_Part], parameters: Mapping[str, Node]) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, node in (part.found["files"].table() if "files" in part.found else {}).items():
            if "/" in name or name.startswith(".") or not name.isprintable() or not name:
                node.fail("no name of a file", expected="one without folders", got=shown(name))
            for each in node.table().values():
                _check_texts(each, parameters)
            files[name] = {**node.value, **files.get(name, {})}
    return files


def _check_texts(node: Node, parameters: Mapping[str, Node]) -> None:
    """Check the texts in a value of any depth, and that JSON can hold it."""
    if isinstance(node.value, str):
        _text(node, parameters)
    elif isinstance(node.value, dict):
        for each in node.table().values():
            _check_texts(each, parameters)
    elif isinstance(node.value, list):
        for number in range(len(node.value)):
            _check_texts(node.at(number), parameters)
    else:
        node.typed(int, float, bool)


def _text(node: Node, parameters: Mapping[str, Node]) -> str:
    text: str = node.typed(str)
    for name in template_of(node).names if text else ():
        if name not in parameters:
            node.fail(f"`{{{name}}}` is no parameter")
    return text
