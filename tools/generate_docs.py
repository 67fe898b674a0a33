"""Write the generated parts of the documentation: `python tools/generate_docs.py [--check]`.

A generated part lies between two markers, each on a line of its own:

    <!-- generated: NAME -->
    <!-- end -->

Nothing in the tables is typed by hand. Which formats there are is asked of the registry. What
a format holds is found out: a tensor of every dtype is written with every writer and read back
(`holding.py`), and every sample is converted to every format (`matrix.py`).
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from holding import (
    IDENTICAL,
    NAMES,
    REFUSED,
    Held,
    dtype_held,
    formats,
    holds_anything,
    names_held,
    writable,
)
from matrix import ROWS, cell, columns, fate, label
from tensorferry.converters.dtypes import DType
from tensorferry.converters.registry import Format

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
YES = "yes"
MANY = 6  # refused types beyond which a list of formats names none


# Tables


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; a bar inside a cell is escaped."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def formats_table() -> str:
    """Return which formats are read and written, and what each refuses."""
    rows = [
        (_linked(each), YES, _writes(each), _endings(each), _refusals(each)) for each in formats()
    ]
    return table(("format", "read", "write", "endings", "cannot hold"), rows)


def _linked(format: Format) -> str:
    return f"[{format.title}](docs/formats/{format.name}.md)"


def _writes(format: Format) -> str:
    if not format.plan:
        return "no"
    needed = ", ".join(f"`--{each.replace('_', '-')}`" for each in sorted(format.needs))
    return f"with {needed}" if needed else YES


def _endings(format: Format) -> str:
    return " ".join(f"`{ending}`" for ending in format.extensions)


def _refusals(format: Format) -> str:
    if not format.plan:
        return ""
    if format.needs:
        return "what its template does not have"
    refused = [f"`{each}`" for each in DType if dtype_held(format, each).kind == REFUSED]
    if len(refused) > MANY:
        refused = [f"[{len(refused)} types](docs/formats/dtypes.md)"]
    if not holds_anything(format):
        return ", ".join((*refused, "what has no place in its config"))
    refused += [
        shown for shown, names in NAMES.items() if names_held(format, names).kind == REFUSED
    ]
    return ", ".join(refused) or "nothing that we know of"


def dtypes_table() -> str:
    """Return what becomes of every dtype; those with the same fate share a row."""
    fates: dict[tuple[str, ...], list[str]] = {}
    for dtype in DType:
        cells = tuple(_type(dtype_held(each, dtype)) for each in writable())
        fates.setdefault(cells, []).append(f"`{dtype}`")
    rows = [(", ".join(dtypes), *cells) for cells, dtypes in fates.items()]
    return table(("dtype", *(each.title for each in writable())), rows)


def _type(held: Held) -> str:
    if held.kind == REFUSED:
        return f"{REFUSED}: {', '.join(f'`{flag}`' for flag in held.flags)}"
    return held.text or held.kind


def names_table() -> str:
    """Return what becomes of odd names, where names do not follow from a config or a template."""
    plain = [each for each in writable() if holds_anything(each)]
    rows = [(shown, *(_name(each, names) for each in plain)) for shown, names in NAMES.items()]
    return table(("name", *(each.title for each in plain)), rows)


def _name(format: Format, names: tuple[str, ...]) -> str:
    held = names_held(format, names)
    return {IDENTICAL: "kept", REFUSED: REFUSED}.get(held.kind, held.text)


def matrix_table() -> str:
    """Return what becomes of every sample in every format, and below it all remarks."""
    targets = columns()
    remarks: dict[str, int] = {}
    rows = []
    for sample in ROWS:
        cells = []
        for target in targets:
            with tempfile.TemporaryDirectory() as folder:
                cells.append(cell(fate(sample, target, Path(folder)), remarks))
        rows.append((label(sample), *cells))
    listed = "".join(f"{number}. {text}\n" for text, number in remarks.items())
    return f"{table(('source', *(each.shown for each in targets)), rows)}\n{listed}"


def index_table() -> str:
    """Return a line about every format, from the head of its module."""
    rows = [
        (f"[{each.title}]({each.name}.md)", f"`{each.name}`", _about(each)) for each in formats()
    ]
    return table(("format", "`--from`, `--to`", "what it is"), rows)


def _about(format: Format) -> str:
    head = (sys.modules[format.open.__module__].__doc__ or "").split("\n\n")[0]
    return " ".join(head.split()).partition(": ")[2]


PART_MAKERS: dict[str, Callable[[], str]] = {
    "formats": formats_table,
    "dtypes": dtypes_table,
    "names": names_table,
    "matrix": matrix_table,
    "format-index": index_table,
}


# Documents


def documents() -> list[Path]:
    """Return every Markdown file that may have a generated part."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def regenerated(text: str) -> str:
    """Return a document with its generated parts as they should be."""
    return PARTS.sub(lambda part: f"{part[1]}\n{PART_MAKERS[part[2]]()}\n{part[3]}", text)


def main(arguments: list[str]) -> int:
    """Write the generated parts, or with `--check` tell whether all are up to date."""
    check = arguments == ["--check"]
    if arguments and not check:
        sys.stderr.write("usage: generate_docs.py [--check]\n")
        return 2
    stale = 0
    for path in documents():
        text = path.read_text(encoding="utf-8")
        fresh = regenerated(text)
        if fresh == text:
            continue
        stale += 1
        sys.stdout.write(f"{path.relative_to(REPOSITORY)}: {'stale' if check else 'written'}\n")
        if not check:
            path.write_text(fresh, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
