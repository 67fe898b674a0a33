"""What the verb `check` does once its words are parsed."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..converters.errors import CorruptFileError, UsageError
from ..converters.findings import Level
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions
from ..converters.staging import Staging, target_error
from ..converters.tensors import TensorDict
from .check import Checked, check, failed
from .console import FOUND, Console, human
from .finding_lines import finding_lines
from .options import default_jobs
from .tables import counted

__all__ = ["CheckOptions", "run_check", "write_text"]

STDOUT = "-"


@dataclass(frozen=True)
class CheckOptions:
    """What may be chosen about a check.

    Attributes:
        security: look for what is dangerous to load, too.
        sarif: write the findings as SARIF there; `-` is stdout.
        html: write a page there.
        digests: write the digests of all tensors there.
        as_json: print JSON.
        quiet: print findings only.
        verbose: print every note.
    """

    security: bool = False
    sarif: str | None = None
    html: Path | None = None
    digests: Path | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False

    def validate(self) -> None:
        """Refuse flags that contradict each other."""
        if self.as_json and self.sarif == STDOUT:
            what = "--json and --sarif - both print to stdout"
            raise UsageError(what, hint="name a file: --sarif findings.sarif")


def run_check(
    source: str, options: CheckOptions, reading: ReadOptions, source_format: str | None = None
) -> int:
    """Check a model, print what was found, and return the exit code: 0 clean, 1 findings.

    Args:
        source: a file, folder or prefix.
        options: what to look for, and where to put it.
        reading: how to open it.
        source_format: name of its format, where sniffing does not tell.

    Raises:
        ConvertError: it is not recognised, or the flags contradict each other; not damage, which
            is a finding.
    """
    options.validate()
    to_machines = options.as_json or options.sarif == STDOUT
    console = Console(source, quiet=options.quiet or to_machines, verbose=options.verbose)
    try:
        tensors = open_tensors(source, reading, format=source_format)
    except CorruptFileError as error:
        checked = failed(error, source)
        _tell(source, None, checked, options, console)
    else:
        with tensors:
            console.opened(tensors)
            checked = _checked(source, tensors, options, reading, console)
            _tell(source, tensors, checked, options, console)
    return 0 if checked.is_clean else FOUND


def _checked(
    source: str, tensors: TensorDict, options: CheckOptions, reading: ReadOptions, console: Console
) -> Checked:
    console.reading(sum(tensor.nbytes for tensor in tensors.values()))
    try:
        return check(
            source,
            tensors,
            reading,
            default_jobs(),
            console.advanced,
            security=options.security,
            brief=options.html is None,
            digests=options.digests is not None,
        )
    finally:
        console.finished()


def _tell(
    source: str,
    tensors: TensorDict | None,
    checked: Checked,
    options: CheckOptions,
    console: Console,
) -> None:
    _print(source, tensors, checked, options)
    _write(source, tensors, checked, options)
    console.say(_closing(source, tensors, checked))


# What is printed


def _print(
    source: str, tensors: TensorDict | None, checked: Checked, options: CheckOptions
) -> None:
    if options.as_json:
        _print_json(_json(source, tensors, checked))
    elif options.sarif == STDOUT:
        _print_json(_sarif(source, checked))
    else:
        sys.stdout.writelines(f"{line}\n" for line in finding_lines(checked.findings))


def _json(source: str, tensors: TensorDict | None, checked: Checked) -> dict[str, Any]:
    return {
        "source": source,
        "format": tensors.format if tensors is not None else None,
        "clean": checked.is_clean,
        "counts": _counts(checked),
        "findings": [finding.json() for finding in checked.findings],
    }


def _counts(checked: Checked) -> dict[str, int]:
    counts = Counter(finding.level for finding in checked.findings)
    return {level.value: counts[level] for level in Level}


def _sarif(source: str, checked: Checked) -> dict[str, Any]:
    from .sarif import sarif_log

    return sarif_log(checked.findings, source)


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")


def _closing(source: str, tensors: TensorDict | None, checked: Checked) -> str:
    counts = [
        f"{count} {level}{'' if count == 1 else 's'}"
        for level, count in _counts(checked).items()
        if count
    ]
    found = ", ".join(counts) or "nothing found"
    if tensors is None:
        return f"{source}: cannot be opened: {found}"
    size = human(sum(tensor.nbytes for tensor in tensors.values()))
    return f"{source}: {counted(len(tensors))} checked, {size}: {found}"


# What is written


def _write(
    source: str, tensors: TensorDict | None, checked: Checked, options: CheckOptions
) -> None:
    if options.sarif not in (None, STDOUT):
        write_text(Path(str(options.sarif)), json.dumps(_sarif(source, checked), indent=1))
    if options.html is not None:
        from .html import inspect_page, write_page

        shown = TensorDict("", "cannot be opened", {}) if tensors is None else tensors
        page = inspect_page(source, shown, checked.stats, checked.findings)
        write_page(options.html, page)
    if options.digests is not None and tensors is not None:
        from .digest_file import write_digests

        read = tensors.select(checked.digests)
        write_digests(options.digests, read, checked.digests)


def write_text(path: Path, text: str) -> None:
    """Write a text of ASCII and a newline; a file that is there is replaced.

    Raises:
        UsageError: the folder does not exist.
        TargetError: it cannot be written.
    """
    with Staging([path], overwrite=True, fsync=False) as staging:
        try:
            staging.path(0).write_text(f"{text}\n", encoding="ascii")
        except OSError as error:
            raise target_error(path, error) from error
        staging.commit()
