"""Write the generated parts of the documentation: `python tools/generate_docs.py [--check]`.

A generated part lies between two markers, each on a line of its own:

    <!-- generated: NAME -->
    <!-- end -->

Nothing in the tables is typed by hand. Which formats there are is asked of the registry. What
a format holds is found out: a tensor of every dtype is written with every writer and read back.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tensorferry.converters.dtypes import DType
from tensorferry.converters.errors import TargetError
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.output import write_plan
from tensorferry.converters.registry import Format, WriteOptions, all_formats
from tensorferry.converters.tensors import ElementTensor, TensorDict, TensorSpec
from tensorferry.converters.testing.contracts import Values, canonical, contents, tensors_of

REPOSITORY = Path(__file__).resolve().parent.parent
PARTS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
REFUSED = "refused"
YES = "yes"

# Names that one container or another cannot hold as they are, by how the table shows them.
NAMES: dict[str, tuple[str, ...]] = {
    "`w` beside `w/Adam`": ("w", "w/Adam"),
    "the empty name": ("",),
    "`__metadata__`": ("__metadata__",),
    "`_CHECKPOINTABLE_OBJECT_GRAPH`": ("_CHECKPOINTABLE_OBJECT_GRAPH",),
    "`../x`": ("../x",),
    "`/x`": ("/x",),
    "`a//b`": ("a//b",),
    "`a.npy`": ("a.npy",),
    "the byte 0xFF, which is no UTF-8": ("\udcff",),
}


def formats() -> list[Format]:
    """Return the formats of this repository; plug-ins of the machine are none of its business."""
    return [each for each in all_formats() if ".converters.formats." in each.open.__module__]


def writable() -> list[Format]:
    """Return the formats that are written."""
    return [each for each in formats() if each.plan]


# What becomes of tensors


def written(format: Format, values: dict[str, Values]) -> tuple[dict[str, str], list[str]]:
    """Write tensors, read them back and compare.

    Returns:
        The names that are stored otherwise, and the notes on how types are encoded.

    Raises:
        TargetError: the format cannot hold them.
        RuntimeError: they came back different.
    """
    if not format.plan:
        raise ValueError(f"{format.name} is not written")
    source = tensors_of(values)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"out{format.extensions[0]}"
        plan = format.plan(source, target, WriteOptions())
        write_plan(plan)
        with open_tensors(target, format=format.name) as copy:
            _compare(source, copy, format)
    encoded = [note.text for note in plan.notes if note.kind is Kind.ENCODED]
    return dict(plan.stored_names), encoded


def _compare(source: TensorDict, copy: TensorDict, format: Format) -> None:
    if contents(source) != contents(copy):
        raise RuntimeError(f"{format.name}: {list(source)} came back different")


def dtype_cell(format: Format, dtype: DType) -> str:
    """Return what becomes of a dtype in a format."""
    try:
        _, encoded = written(format, {"x": example(dtype)})
    except TargetError:
        return REFUSED
    if not encoded:
        return YES
    text = encoded[0].removeprefix(f"{dtype}: ").removeprefix("kept ")
    text = re.sub(r"\|S\d+", "S<n>", text)  # the width is that of the longest example
    return re.sub(rf"\b{dtype.carrier}\b", "integers", text)


def name_cell(format: Format, names: Iterable[str]) -> str:
    """Return what becomes of names in a format."""
    number = (DType.INT8, (), b"\1")
    try:
        stored, _ = written(format, dict.fromkeys(names, number))
    except TargetError:
        return REFUSED
    return " and ".join(f"as `{other}`" for other in stored.values()) or "kept"


def example(dtype: DType) -> Values:
    """Return a tensor of every byte value, or of a few texts."""
    if dtype.variable:
        elements = [b"some", b"text"]
        return ElementTensor(TensorSpec(dtype, (2,)), lambda: elements, 8)
    raw = canonical(dtype, bytes(range(256)))
    return dtype, (256 // dtype.itemsize,), raw


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
        (_linked(each), YES, YES if each.plan else "no", _endings(each), _refusals(each))
        for each in formats()
    ]
    return table(("format", "read", "write", "endings", "cannot hold"), rows)


def _linked(format: Format) -> str:
    return f"[{format.title}](docs/formats/{format.name}.md)"


def _endings(format: Format) -> str:
    return " ".join(f"`{ending}`" for ending in format.extensions)


def _refusals(format: Format) -> str:
    if not format.plan:
        return ""
    refused = [f"`{each}`" for each in DType if dtype_cell(format, each) == REFUSED]
    refused += [shown for shown, names in NAMES.items() if name_cell(format, names) == REFUSED]
    return ", ".join(refused) or "nothing that we know of"


def dtypes_table() -> str:
    """Return what becomes of every dtype; those with the same fate share a row."""
    fates: dict[tuple[str, ...], list[str]] = {}
    for dtype in DType:
        cells = tuple(dtype_cell(each, dtype) for each in writable())
        fates.setdefault(cells, []).append(f"`{dtype}`")
    rows = [(", ".join(dtypes), *cells) for cells, dtypes in fates.items()]
    return table(("dtype", *(each.title for each in writable())), rows)


def names_table() -> str:
    """Return what becomes of names that not every container can hold."""
    rows = [
        (shown, *(name_cell(each, names) for each in writable())) for shown, names in NAMES.items()
    ]
    return table(("name", *(each.title for each in writable())), rows)


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
