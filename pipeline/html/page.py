"""Pages made of templates, our own style and script, and a plotting library, all in one file.

Nothing is fetched: the policy in the page's head forbids every request, and every script that is
not one of the two in the page. The plotting library is 4.8 MB; it lies compressed in the page and
is unpacked by the browser when the first plot comes into view.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import UsageError, printable
from ...converters.findings import Finding
from ...converters.notes import Note
from ...converters.staging import Staging, target_error
from ...converters.tensors import Tensor, TensorDict
from ..console import human
from ..signatures import signature_lines
from .data import diff_data, facts, inspect_data

if TYPE_CHECKING:
    from ..diff import Difference
    from ..stats import Stats

__all__ = ["diff_page", "inspect_page", "render", "template_library", "write_page"]

# In this order: each uses what those before it define.
SCRIPTS = ("basics", "core", "table", "details", "plots", "main")
MAX_NOTES = 100
_HERE = Path(__file__).parent


def inspect_page(
    name: str,
    tensors: TensorDict,
    stats: Mapping[str, Stats],
    findings: Sequence[Finding],
) -> str:
    """Return the page of one model.

    Args:
        name: what to call the model, such as the path that was given.
        tensors: what is in it.
        stats: by name; empty where no values were read.
        findings: what to show as red flags.

    Raises:
        UsageError: the libraries of the extra `report` are not installed.
    """
    return _page(
        "inspect.html.j2",
        inspect_data(tensors, stats, findings),
        title=printable(name),
        model=_model(tensors),
        totals=_totals(tensors),
        signatures=[line.removeprefix("signature ") for line in signature_lines(tensors)],
        notes=_notes(tensors.notes),
        has_stats=bool(stats),
    )


def diff_page(
    first_name: str,
    second_name: str,
    first: TensorDict,
    second: TensorDict,
    differences: Sequence[Difference],
) -> str:
    """Return the page of two models, A and B.

    Args:
        first_name: what to call A.
        second_name: what to call B.
        first: A.
        second: B.
        differences: what became of every tensor.

    Raises:
        UsageError: the libraries of the extra `report` are not installed.
    """
    verdicts = Counter(each.verdict.value for each in differences)
    return _page(
        "diff.html.j2",
        diff_data(first, second, differences),
        title=f"{printable(first_name)} → {printable(second_name)}",
        sides=[
            ("A", printable(first_name), _model(first), _totals(first)),
            ("B", printable(second_name), _model(second), _totals(second)),
        ],
        verdicts=verdicts.most_common(),
        same=set(verdicts) <= {"same"},
        measured=any(each.relative is not None for each in differences),
    )


def write_page(path: Path, page: str) -> None:
    """Write a page; it appears whole or not at all, and a file that is there is replaced.

    Raises:
        UsageError: the folder does not exist.
        TargetError: no permission, or no space.
    """
    with Staging([path], overwrite=True, fsync=False) as staging:
        try:
            staging.path(0).write_text(page, encoding="utf-8")
        except OSError as error:
            raise target_error(path, error) from error
        staging.commit()


def _page(template: str, data: Mapping[str, Any], **words: Any) -> str:
    library = _plotting_library()
    return render(
        template,
        scripts=SCRIPTS,
        library=_packed(library),
        library_hash=_hash(library),
        data=_embedded(data),
        **words,
    )


def render(template: str, *, scripts: Sequence[str], **words: Any) -> str:
    """Return a page made of a template, our style, and scripts of ours in the order given.

    Raises:
        UsageError: the libraries of the extra `report` are not installed.
    """
    jinja2 = template_library()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["human"] = human
    script = _script(scripts)
    hashes = [_hash(script), *filter(None, [words.get("library_hash")])]
    page: str = environment.get_template(template).render(
        version=version("tensorferry"),
        hashes=hashes,
        style=(_HERE / "assets" / "report.css").read_text(encoding="utf-8"),
        script=script,
        **words,
    )
    return page


def template_library() -> Any:
    """Return what makes pages of templates.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return jinja2


def _plotting_library() -> str:
    """Return the script that draws.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import plotly.offline
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    script: str = plotly.offline.get_plotlyjs()
    return script


def _missing(error: ModuleNotFoundError) -> UsageError:
    return UsageError(
        f"an HTML report needs {error.name}, which is not installed",
        hint="install the extra: pip install 'tensorferry[report]'",
    )


def _script(names: Sequence[str]) -> str:
    parts = [(_HERE / "assets" / f"{name}.js").read_text(encoding="utf-8") for name in names]
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _hash(script: str) -> str:
    """Return the source by which a policy lets one script run (CSP level 3, section 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@cache
def _packed(library: str) -> str:
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()


def _embedded(data: Mapping[str, Any]) -> str:
    """Return JSON that may stand within a script element: it has no `<`, and is ASCII."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _model(tensors: TensorDict) -> dict[str, Any]:
    details = {name: each for name, each in tensors.details.items() if name != "signatures"}
    return {
        "format": tensors.format,
        "summary": printable(tensors.summary),
        "facts": facts(details),
        "metadata": facts(tensors.metadata),
    }


def _totals(tensors: TensorDict) -> dict[str, Any]:
    every = list(tensors.items())
    return {
        "tensors": len(every),
        "bytes": sum(each.nbytes for _, each in every),
        "elements": sum(each.spec.size for _, each in every),
        "roles": _shares((tensors.origin(name).role.value, each) for name, each in every),
        "dtypes": _shares((each.spec.dtype.label, each) for _, each in every),
    }


def _shares(tensors: Iterable[tuple[str, Tensor]]) -> list[dict[str, Any]]:
    """Return count and bytes by group, the largest first, and how much of all each has."""
    counts: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for group, tensor in tensors:
        counts[group] += 1
        nbytes[group] += tensor.nbytes
    total = sum(nbytes.values()) or 1
    return [
        {"name": group, "tensors": counts[group], "bytes": each, "share": each / total}
        for group, each in sorted(nbytes.items(), key=lambda item: -item[1])
    ]


def _notes(notes: Sequence[Note]) -> list[tuple[str, str]]:
    """Return kind and text of each note; those with the same text are one, with their number."""
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        groups.setdefault((note.kind.value, note.text), []).append(note)
    shown = [
        (kind, printable(str(same[0]) if len(same) == 1 else f"{len(same):,} tensors: {text}"))
        for (kind, text), same in groups.items()
    ]
    more = len(shown) - MAX_NOTES
    return [*shown[:MAX_NOTES], *([("…", f"and {more:,} more")] if more > 0 else [])]
