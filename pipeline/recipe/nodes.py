"""TOML values that know where they stand, so that what is wrong is said with line and rule.

`tomllib` tells no lines. Headers and keys at the start of lines are found by a look at the text;
what stands in the middle of a line has the line of the key before it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NoReturn

from ...converters.errors import UsageError
from ...converters.names import near
from .model import Place

__all__ = ["Node", "parse_toml", "shown"]

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?")
_FROM = re.compile(r"#\s*from ([^\"']+?)(?:, rule (\d+))?$")  # as `printing.py` writes it
_KEY = re.compile(r"""\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
_QUOTES = re.compile(r'"""|' + "'''")
SHOWN = 60
_TABLES = ("stage", "rule")  # what is written `[[…]]`
_KINDS = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text",
    list: "a list", dict: "a table",
}  # fmt: skip


class _Document:
    """A file, with the lines of what stands in it.

    Args:
        file: what to call it.
        text: what is in it.
        printed: whether comments tell where things stood before.
    """

    def __init__(self, file: str, text: str, *, printed: bool) -> None:
        self.file = file
        self.lines: dict[Path, int] = {(): 1}
        self.given: dict[Path, tuple[str, int]] = {}
        self._rules: dict[Path, int] = {}
        self._scan(text, printed=printed)

    def place(self, path: Path) -> Place:
        """Return where a value stands, as near as it is known."""
        rule = next(
            (path[:end] for end in range(len(path), 0, -1) if path[:end] in self._rules), ()
        )
        path = (*path, 0) if (*path, 0) in self.lines else path  # the first of several tables
        known = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.lines)
        plain = "", self._rules.get(rule, 0)
        given, number = self.given.get(rule or path, plain)
        return Place(self.file, self.lines[known], number, given)

    def number(self, path: Path) -> int:
        """Count a rule; return its number in the file."""
        return self._rules.setdefault(path, len(self._rules) + 1)

    def is_rule(self, path: Path) -> bool:
        """Tell whether a path is that of a rule."""
        return path in self._rules

    def _scan(self, text: str, *, printed: bool) -> None:
        counts: dict[Path, int] = {}
        below: Path = ()
        inside = False
        for number, line in enumerate(text.splitlines(), 1):
            if not inside:
                header = _HEADER.fullmatch(line)
                key = None if header else _KEY.match(line)
                if header:
                    below = _path(header[2], counts, repeated=header[1] == "[[")
                    self.lines.setdefault(below, number)
                elif key:
                    self.lines.setdefault((*below, key[1].strip("\"'")), number)
                stood = _FROM.search(line) if printed else None
                if stood:
                    place = below if header or not key else (*below, key[1].strip("\"'"))
                    self.given.setdefault(place, (stood[1], int(stood[2] or 0)))
            inside ^= len(_QUOTES.findall(line)) % 2 == 1


def _path(header: str, counts: dict[Path, int], *, repeated: bool) -> Path:
    """Return where a header leads: `stage.rule` to the last rule of the last stage."""
    path: Path = ()
    parts = [part.strip("\"'") for part in _PART.findall(header)]
    for number, part in enumerate(parts, 1):
        path = (*path, part)
        if repeated and number == len(parts):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


class Node:
    """A value of a TOML file.

    Attributes:
        value: what `tomllib` gave.
    """

    def __init__(self, value: Any, document: _Document, path: Path = ()) -> None:
        self.value = value
        self._document = document
        self._path = path

    @property
    def place(self) -> Place:
        """Where it stands."""
        return self._document.place(self._path)

    @property
    def key(self) -> str:
        """What the table calls it."""
        return str(self._path[-1])

    def numbered(self) -> Node:
        """Return the node as that of a rule, which has a number in its file."""
        self._document.number(self._path)
        return self

    def fail(
        self, what: str, *, expected: object = None, got: object = None, hint: str | None = None
    ) -> NoReturn:
        """Say what is wrong with it.

        Raises:
            UsageError: always, with file, line and rule.
        """
        raise UsageError(
            what,
            path=self.place.path,
            where=self._where(),
            expected=expected,
            got=got,
            hint=hint,
        )

    def _where(self) -> str | None:
        """Return its path in words: `rule 3: do: item 2: cast`."""
        words: list[str] = []
        for end, part in enumerate(self._path, 1):
            if self._document.is_rule(self._path[:end]):
                words = [f"rule {self._document.place(self._path[:end]).rule}"]
            elif isinstance(part, int):
                before = self._path[end - 2]
                words.append(f"{before if before in _TABLES else 'item'} {part + 1}")
            elif part not in _TABLES or end == len(self._path):
                words.append(part)
        return ": ".join(words) or None

    def wrong(self, expected: str) -> NoReturn:
        """Say that it should be something else.

        Raises:
            UsageError: always.
        """
        self.fail("value", expected=expected, got=shown(self.value))

    def typed(self, *kinds: type) -> Any:
        """Return the value, if it is of one of these types.

        Raises:
            UsageError: it is not.
        """
        if type(self.value) in kinds:
            return self.value
        names = [_KINDS[kind] for kind in kinds if kind is not float or int not in kinds]
        return self.wrong(" or ".join(names))

    def text(self) -> str:
        """Return the value as a text with something in it.

        Raises:
            UsageError: it is none.
        """
        found: str = self.typed(str)
        return found or self.wrong("a text with something in it")

    def true(self) -> bool:
        """Return True; anything else says nothing.

        Raises:
            UsageError: it is not `true`.
        """
        return self.value is True or self.wrong("true")

    def table(self, known: Collection[str] = ()) -> dict[str, Node]:
        """Return the values of a table by key.

        Args:
            known: all keys that there are; none for any.

        Raises:
            UsageError: it is none, or has other keys.
        """
        self.typed(dict)
        found = {key: self.at(key) for key in self.value}
        for key, node in found.items():
            if known and key not in known:
                node.fail("is unknown", hint=near(key, known) or f"there are {_listed(known)}")
        return found

    def at(self, key: str | int) -> Node:
        """Return the value below a key, or of a list by its number."""
        return Node(self.value[key], self._document, (*self._path, key))

    def items(self) -> list[Node]:
        """Return the values of a list with something in it.

        Raises:
            UsageError: it is none.
        """
        if not self.typed(list):
            self.wrong("a list with something in it")
        return [self.at(number) for number in range(len(self.value))]

    def one_or_more(self) -> list[Node]:
        """Return the values of a list, or the value that stands alone."""
        return self.items() if isinstance(self.value, list) else [self]

    def repeated(self) -> Iterator[Node]:
        """Yield the tables of what is written `[[key]]`.

        Raises:
            UsageError: it is written otherwise.
        """
        if not isinstance(self.value, list):
            self.fail("is one table", expected=f"[[{self.key}]]", got=f"[{self.key}]")
        for node in map(self.at, range(len(self.value))):
            node.typed(dict)
            yield node


def parse_toml(file: str, text: str, *, printed: bool = False) -> Node:
    """Parse a file.

    Args:
        file: what to call it.
        text: what is in it.
        printed: whether comments behind headers and keys tell where those stood before.

    Raises:
        UsageError: it is no TOML.
    """
    try:
        content: Mapping[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).rpartition(" (at ")
        line = re.match(r"line (\d+)", place)
        where = f"{file}:{line[1]}" if line else file
        reason = (what or place).replace("\n", " ")
        raise UsageError(f"is no TOML: {reason[:1].lower()}{reason[1:]}", path=where) from error
    except RecursionError as error:
        raise UsageError("is no TOML: nested too deep", path=file) from error
    return Node(content, _Document(file, text, printed=printed))


def shown(value: object) -> str:
    """Return a value as a message shows it, as it would stand in TOML."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
