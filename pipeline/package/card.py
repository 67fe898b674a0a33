"""The model card: README.md of a package, from a template and what the package says of itself.

Templates are Jinja's, in its sandbox. Whatever they show of a value is written so that it is text
and no markup (`markdown.py`); `| markdown` takes an owner's text for what it is. A template of
one's own may extend ours, `README.md.jinja`, and replace its blocks. What it is given is listed
in the user guide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import NotRecognisedError, UsageError
from ...converters.notes import Kind
from ..console import human
from .extra import require_extra
from .fields import LISTS, TEXTS
from .front_matter import front_matter
from .layers import layers
from .loading import snippets
from .markdown import code, escaped, phrase, yaml
from .records import BOM, MANIFEST, PROVENANCE, LeftOut, PackageFacts, Variant
from .signature_rows import signature_rows

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

__all__ = ["card_text", "check_template"]

TEMPLATE = "README.md.jinja"
SHOWN = 5  # tensors of one loss
MAX_LOSSES, MAX_FILES = 40, 20
# What a note is about says more to a reader of a card than that it is one.
_KINDS = {"source": "about the source", "target": "about the package"}
_LOSSES = frozenset(each.value for each in Kind if each.lossy)
_NO_FIELDS = {**dict.fromkeys(TEXTS, ""), **dict.fromkeys(LISTS, ()), "metrics": {}, "own": {}}
_FOLDER = Path(__file__).parent / "templates"


def card_text(facts: PackageFacts, template: Path | None = None) -> str:
    """Return the model card of a package as Markdown.

    Args:
        facts: what the package says of itself.
        template: of the owner; None takes ours.

    Raises:
        NotRecognisedError: the template is not there.
        UsageError: it is wrong, with the line; or the extra `package` is not installed.
    """
    from jinja2 import TemplateError

    loaded = _template(template)
    try:
        text: str = loaded.render(_context(facts))
    except TemplateError as error:
        raise _wrong(template, error) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        # What the owner's expressions do with our values.
        raise _wrong(template, error) from error
    return text.rstrip("\n") + "\n"


def check_template(path: Path) -> None:
    """Refuse a template that is none, before there is anything to fill it with.

    Raises:
        NotRecognisedError: it is not there.
        UsageError: it is no template, with the line; or the extra `package` is not installed.
    """
    _template(path)


def _template(path: Path | None) -> Template:
    require_extra()
    from jinja2 import FileSystemLoader, StrictUndefined, TemplateSyntaxError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,  # so that macros and blocks return what `finalize` leaves alone
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=code, count=_count, human=human, phrase=phrase, markdown=_markdown, percent=_percent
    )
    if path is None:
        return environment.get_template(TEMPLATE)
    try:
        return environment.from_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotRecognisedError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"is no UTF-8: {error.reason}", path=path) from error
    except TemplateSyntaxError as error:
        raise _wrong(path, error) from error


def _wrong(path: Path | None, error: Exception) -> UsageError:
    """Return an error that names the line of the template."""
    line = getattr(error, "lineno", None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return UsageError(
        f"the template cannot be filled in: {error}",
        path=path,
        where=None if line is None else f"line {line}",
    )


# Filters


def _count(value: float) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _markdown(text: str) -> Markup:
    """Take a text of the owner for Markdown."""
    from markupsafe import Markup

    return Markup(text)


# What a template is given


def _context(facts: PackageFacts) -> dict[str, Any]:
    from markupsafe import Markup

    source = facts.source
    losses = _losses(facts.accounting)
    return {
        "front_matter": Markup(f"---\n{yaml(front_matter(facts))}---"),
        "name": facts.name,
        "version": facts.version,
        "license": facts.licence,
        "created": datetime.fromtimestamp(facts.created, UTC).strftime("%Y-%m-%d"),
        "tool": facts.tool,
        "fields": {**_NO_FIELDS, **facts.fields},
        "policy": dict(facts.policy),
        "source": {
            "name": source.name,
            "format": source.format,
            "summary": source.summary,
            "producer": source.producer,
            "step": source.step,
            "files": [
                {"path": each.path, "bytes": each.size, "sha256": each.sha256}
                for each in source.files[:MAX_FILES]
            ],
            "more_files": max(len(source.files) - MAX_FILES, 0),
        },
        "variants": [_variant(each) for each in facts.variants],
        "layers": layers(facts.variants[0].tensors),
        "signatures": signature_rows(source.details),
        "losses": losses[:MAX_LOSSES],
        "more_losses": max(len(losses) - MAX_LOSSES, 0),
        "documents": {"manifest": MANIFEST, "bom": BOM, "provenance": PROVENANCE},
    }


def _variant(variant: Variant) -> dict[str, Any]:
    dtypes = Counter(each.spec.dtype.label for each in variant.tensors.values())
    return {
        "name": variant.name,
        "dtypes": [dtype for dtype, _ in dtypes.most_common()],
        "tensors": len(variant.tensors),
        "parameters": variant.parameters,
        "bytes": variant.nbytes,
        "digest": variant.digest,
        "files": list(variant.files),
        "snippets": snippets(variant),
    }


def _losses(accounting: Iterable[LeftOut]) -> list[dict[str, Any]]:
    """Return rows with `kind`, `text`, `count` and the first few `tensors`; losses come first."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in accounting:
        names = groups.setdefault((each.kind, each.text), [])
        if each.tensor is not None:
            names.append(each.tensor)
    rows = [
        {
            "kind": _KINDS.get(kind, kind),
            "text": text,
            "count": len(names),
            "tensors": names[:SHOWN],
        }
        for (kind, text), names in groups.items()
    ]
    return sorted(rows, key=lambda row: row["kind"] not in _LOSSES)  # stable
